//! The messages of the server, as documented: welcome, presence, numbers, leaves and goodbye.

use lobbyd::apps::Relay;
use lobbyd::config::ByteSize;
use lobbyd::{CloseReason, Config};
use serde_json::Value;

use super::three::check_three;
use crate::common::scenario::{World, check, set};
use crate::common::witness::Witness;

#[test]
fn welcome_contains_the_limits_and_the_time() {
    let config = Config { max_message_bytes: ByteSize(1000), ..Config::default() };
    check(
        config,
        r#"
        advance 2s
        ann > connect chess
        ann < upgrade, welcome protocol=1 conn=s1 user=ann lobby=chess epoch=1000002000000 seq=0 \
            resumed=false recovered=false server_time=1000002000 \
            limits={"max_message_bytes":1000,"messages_per_second":60} \
            ping={"interval_ms":20000,"timeout_ms":10000} !tick !session !resume_token, \
            presence_state seq=0 users=ann
        "#,
    );
}

/// At a seat takeover, presence that is not announced yet is sent to the older connection. The newer one is sent its welcome
/// first.
#[test]
fn welcome_comes_first_also_after_a_seat_takeover() {
    check(
        Config::default(),
        r#"
        ann > connect chess
        ann < upgrade, welcome, presence_state
        turn begins
        bob > connect chess
        ann:2 > connect chess
        turn ends
        bob < upgrade, welcome seq=0, presence_state seq=1 users=ann,bob
        ann < presence_diff seq=1 +bob, goodbye, close 4004 replaced
        ann:2 < upgrade, welcome seq=1, presence_state seq=1 users=ann,bob
        # The same if the seat has not been announced yet.
        turn begins
        cid > connect chess
        cid:2 > connect chess
        cid:2 > {"type":"ping"}
        turn ends
        cid < upgrade, welcome conn=s3, goodbye code=4004, close 4004 replaced
        cid:2 < upgrade, welcome conn=s3, pong, presence_state seq=2 users=ann,bob,cid
        ann:2 < presence_diff seq=2 +cid
        bob < presence_diff seq=2 +cid
        "#,
    );
}

#[test]
fn presence_is_merged_within_a_turn() {
    check_three(
        r#"
        turn begins
        dan > connect chess
        bob > hangup
        eve > connect chess
        cid > {"type":"leave"}
        turn ends
        ann < presence_diff seq=1 +dan +eve -bob:dropped -cid:left
        cid < goodbye, close 1000 left
        dan < upgrade, welcome, presence_state seq=1 users=ann,dan,eve
        eve < upgrade, welcome, presence_state seq=1 users=ann,dan,eve
        "#,
    );
}

/// A presence_diff announces a member before its messages. Messages sent earlier come before that presence_diff.
#[test]
fn a_member_is_announced_before_its_messages() {
    check(
        Config::default(),
        r#"
        ann > connect chess
        ann < upgrade, welcome, presence_state
        turn begins
        ann > {"type":"broadcast","data":"before","ref":1}
        bob > connect chess
        bob > {"type":"broadcast","data":"hello","ref":2}
        cid > connect chess
        bob > {"type":"leave"}
        turn ends
        ann < ack ref=1 seq=1 delivered=0, presence_diff seq=2 +bob, message from=bob seq=3, \
            presence_diff seq=4 +cid -bob:left
        bob < upgrade, welcome, presence_state seq=2 users=ann,bob, ack ref=2 seq=3, goodbye, close 1000 left
        cid < upgrade, welcome, presence_state seq=4 users=ann,cid
        "#,
    );
}

#[test]
fn a_member_that_joins_and_leaves_in_one_turn_is_not_announced() {
    let mut world = World::new(Config::default(), Witness::<true>::default());
    world.run(
        r#"
        ann > connect chess
        ann < upgrade, welcome, presence_state
        turn begins
        bob > connect chess
        bob > {"type":"leave"}
        cid > connect chess
        cid > hangup
        dan > connect chess
        turn ends
        bob < upgrade, welcome, goodbye, close 1000 left
        # The client may have closed only its own direction.
        cid < upgrade, welcome, eof
        dan < upgrade, welcome, presence_state seq=1 users=ann,dan
        ann < presence_diff seq=1 +dan
        "#,
    );
    // The application's events are complete: each join has its leave.
    let log = world.engine.app_mut().take();
    assert_eq!(log, ["join ann", "join bob", "leave bob left", "join cid", "leave cid dropped", "join dan"]);
}

#[test]
fn a_large_lobby_is_counted_and_a_small_one_listed() {
    let config = Config { presence_max: 2, ..Config::default() };
    check(
        config,
        r#"
        ann > connect chess
        ann < upgrade, welcome, presence_state seq=0 users=ann !count
        bob > connect chess
        bob < upgrade, welcome, presence_state seq=1 users=ann,bob !count
        ann < presence_diff seq=1 +bob
        # Above the bound: all members are sent the count.
        cid > connect chess
        ann < presence_state seq=1 count=3 !users
        bob < presence_state seq=1 count=3 !users
        cid < upgrade, welcome, presence_state seq=1 count=3 !users
        # There are no diffs above the bound.
        dan > connect chess
        dan < upgrade, welcome, presence_state seq=1 count=4 !users
        ann < nothing
        dan > hangup
        ann > {"type":"presence"}
        ann < presence_state seq=1 count=3 !users
        # Below the bound again: all members are sent the list.
        advance 1s
        ann < presence_state count=3
        bob < presence_state count=3
        cid < presence_state count=3
        advance 1s
        bob > {"type":"leave"}
        bob < goodbye, close 1000 left
        ann < presence_state seq=1 users=ann,cid !count
        cid < presence_state seq=1 users=ann,cid !count
        cid > hangup
        ann < presence_diff seq=2 -cid:dropped
        "#,
    );
    check(
        Config { presence_max: 0, ..Config::default() },
        r#"
        ann > connect chess
        ann < upgrade, welcome, presence_state count=1 !users
        bob > connect chess
        bob < upgrade, welcome, presence_state count=2 !users
        "#,
    );
}

#[test]
fn above_presence_max_a_changed_count_is_told_at_most_once_a_second() {
    let config = Config { presence_max: 2, ..Config::default() };
    check(
        config,
        r#"
        ann, bob join chess
        advance 5s
        cid > connect chess
        cid < upgrade, welcome, presence_state seq=1 count=3 !users
        ann < presence_state seq=1 count=3 !users
        bob < presence_state seq=1 count=3 !users
        # Within a second of that, only a member that joins is told.
        dan > connect chess
        dan < upgrade, welcome, presence_state seq=1 count=4
        advance 900ms
        eve > connect chess
        eve < upgrade, welcome, presence_state seq=1 count=5
        advance 99ms
        ann < nothing
        advance 1ms
        ann < presence_state seq=1 count=5 !users
        bob < presence_state seq=1 count=5
        cid < presence_state seq=1 count=5
        dan < presence_state seq=1 count=5
        eve < presence_state seq=1 count=5
        # Nothing has changed.
        advance 10s
        ann < nothing
        # After a quiet second it is told at once, in the turn of the change.
        turn begins
        eve > hangup
        dan > hangup
        turn ends
        ann < presence_state seq=1 count=3
        bob < presence_state seq=1 count=3
        cid < presence_state seq=1 count=3
        # A member that joined and was told another number hears of the next change, even if the others know that number.
        dan > connect chess
        dan < upgrade, welcome, presence_state count=4
        cid > hangup
        advance 999ms
        dan < nothing
        advance 1ms
        ann < presence_state count=3
        bob < presence_state count=3
        dan < presence_state count=3
        # Binary messages and broadcasts keep their order with it, and a drain ends it.
        cid > connect chess
        cid < upgrade, welcome, presence_state count=4
        ann > {"type":"broadcast","data":1}
        bob < message seq=2
        cid < message seq=2
        dan < message seq=2
        drain
        advance 2s
        ann < goodbye, close 1001 server_shutdown
        bob < goodbye, close 1001 server_shutdown
        cid < goodbye, close 1001 server_shutdown
        dan < goodbye, close 1001 server_shutdown
        advance 20s
        ann < eof
        bob < eof
        cid < eof
        dan < eof
        "#,
    );
}

/// A list goes to every member, so a lobby that moves around the bound must not cause one for every join.
#[test]
fn a_lobby_that_shrinks_is_listed_again_at_most_once_a_second() {
    let config = Config { presence_max: 2, ..Config::default() };
    check(
        config,
        r#"
        ann, bob join chess
        cid > connect chess
        cid < upgrade, welcome, presence_state count=3
        ann < presence_state count=3
        bob < presence_state count=3
        cid > hangup
        ann < nothing
        ann > {"type":"presence"}
        ann < presence_state seq=1 count=2 !users
        cid > connect chess
        cid < upgrade, welcome, presence_state count=3
        cid > hangup
        advance 999ms
        ann < nothing
        advance 1ms
        ann < presence_state seq=1 users=ann,bob !count
        bob < presence_state seq=1 users=ann,bob !count
        # From here on there are diffs.
        bob > hangup
        ann < presence_diff seq=2 -bob:dropped
        dan > connect chess
        dan < upgrade, welcome, presence_state seq=3 users=ann,dan
        ann < presence_diff seq=3 +dan
        # A lobby that disappears has nobody to tell.
        bob > connect chess
        bob < upgrade, welcome, presence_state count=3
        ann < presence_state count=3
        dan < presence_state count=3
        turn begins
        ann > hangup
        bob > hangup
        dan > hangup
        turn ends
        ann > connect chess
        ann < upgrade, welcome, presence_state seq=0 users=ann
        advance 5s
        ann < nothing
        "#,
    );
}

#[test]
fn without_an_interval_only_members_that_join_or_ask_are_told_the_count() {
    let mut config = Config { presence_max: 2, ..Config::default() };
    set(&mut config, "presence_count_interval", "off").expect("it may be off");
    check(
        config,
        r#"
        ann, bob join chess
        cid > connect chess
        cid < upgrade, welcome, presence_state count=3
        ann < presence_state count=3
        bob < presence_state count=3
        dan > connect chess
        dan < upgrade, welcome, presence_state count=4
        advance 5s
        ann < nothing
        dan > hangup
        cid > hangup
        ann < presence_state users=ann,bob
        bob < presence_state users=ann,bob
        "#,
    );
}

#[test]
fn seq_has_no_gaps_for_a_member_that_stays() {
    let mut world = World::new(Config::default(), Relay::default());
    world.run("ann > connect chess\nann < upgrade, welcome seq=0, presence_state seq=0");
    let mut random = lobbyd::Random::new(5);
    for n in 0..200 {
        let name = ["bob", "cid", "dan"][random.below(3) as usize];
        match (world.is_open(name), random.below(5)) {
            (false, _) => world.act(name, "connect chess"),
            (true, 0) => world.hangup(name),
            (true, 1) => world.act(name, &format!(r#"{{"type":"direct","to":"ann","data":{n}}}"#)),
            (true, 2) => world.act(name, "binary x"),
            (true, _) => world.act(name, &format!(r#"{{"type":"broadcast","data":{n}}}"#)),
        }
        if random.percent(50) {
            world.flush();
        }
    }
    world.flush();
    let mut seq = 0;
    for text in world.take("ann") {
        let value: Value = serde_json::from_str(&text).unwrap_or_default();
        if let Some(next) = value["seq"].as_u64() {
            assert_eq!(next, seq + 1, "{text}");
            seq = next;
        } else {
            assert!(text == "binary x" || value["type"] == "direct", "{text}");
        }
    }
    assert!(seq > 50);
}

#[test]
fn epoch_is_new_when_a_lobby_is_created_again() {
    let mut world = World::new(Config::default(), Relay::default());
    let mut epochs = Vec::new();
    for _ in 0..3 {
        // No time passes in between.
        world.steps("ann > connect chess");
        let welcome: Value = serde_json::from_str(&world.take("ann")[1]).expect("JSON");
        assert_eq!(welcome["seq"], 0);
        epochs.push(welcome["epoch"].as_u64().expect("a number"));
        world.run("ann > hangup");
    }
    assert!(epochs.is_sorted_by(|a, b| a < b), "{epochs:?}");
    assert!(epochs[2] < 1 << 53, "JavaScript can read it");

    // While the lobby has members, the epoch does not change.
    let mut world = World::new(Config::default(), Relay::default());
    world.run(
        r#"
        ann > connect chess
        ann < upgrade, welcome epoch=1000000000000, presence_state
        bob > connect chess
        bob < upgrade, welcome epoch=1000000000000, presence_state
        ann < presence_diff +bob
        advance 1s
        ann > hangup
        bob < presence_diff -ann:dropped
        ann > connect chess
        ann < upgrade, welcome epoch=1000000000000 seq=2, presence_state
        bob < presence_diff +ann
        "#,
    );
}

#[test]
fn conn_names_the_seat() {
    check(
        Config::default(),
        r#"
        ann > connect chess
        ann < upgrade, welcome conn=s1, presence_state
        ann:2 > connect chess
        ann < goodbye, close 4004 replaced
        ann:2 < upgrade, welcome conn=s1, presence_state
        ann:2 > hangup
        ann:3 > connect chess
        ann:3 < upgrade, welcome conn=s2, presence_state
        "#,
    );
}

#[test]
fn every_leave_has_its_reason() {
    #[track_caller]
    fn check_leave(end: impl FnOnce(&mut World<Relay>), why: &str) {
        let mut world = World::new(Config::default(), Relay::default());
        world.run(
            r#"
            bob, ann join chess
            "#,
        );
        end(&mut world);
        world.flush();
        world.steps(&format!("bob < presence_diff seq=2 -ann:{why}"));
    }
    check_leave(|world| world.act("ann", r#"{"type":"leave"}"#), "left");
    check_leave(|world| world.act("ann", "close 1000"), "left");
    check_leave(|world| world.act("ann", "hangup"), "dropped");
    check_leave(|world| world.send("ann", b"\x81\x01x"), "dropped");
    check_leave(|world| world.act("ann:2", "connect go"), "replaced");
    for (reason, why) in [
        (CloseReason::Kicked, "kicked"),
        (CloseReason::Banned, "kicked"),
        (CloseReason::RateLimited, "kicked"),
        (CloseReason::InternalError, "dropped"),
        (CloseReason::UnsupportedData, "dropped"),
        (CloseReason::TokenExpired, "kicked"),
        (CloseReason::MaxLifetime, "kicked"),
    ] {
        let end = |world: &mut World<Relay>| assert_eq!(world.app(|_, cx| cx.close_user("ann", reason)), 1);
        check_leave(end, why);
    }
}

#[test]
fn goodbye_precedes_every_close_and_says_whether_to_reconnect() {
    for &reason in CloseReason::ALL {
        if reason.code() < 1000 || reason.code() == 1006 {
            continue;
        }
        let mut world = World::new(Config::default(), Relay::default());
        world.run("ann joins chess");
        world.app(|_, cx| cx.close_user("ann", reason));
        let (code, word) = (reason.code(), reason.word());
        let reconnect = matches!(code, 1001 | 1011 | 4100..=4299);
        let goodbye = format!("goodbye code={code} reason={word} reconnect={reconnect}");
        let retry = if code == 1001 { "" } else { " !retry_after_ms" };
        world.steps(&format!("ann < {goodbye}{retry}, close {code} {word}"));
        // The connection still waits for the peer's answer to the close, whatever reason the application named.
        assert!(world.take("ann").is_empty(), "{reason}");
    }
}

#[test]
fn queued_frames_are_delivered_before_the_goodbye() {
    check_three(
        r#"
        bob > window 0
        ann > {"type":"broadcast","data":1}
        cid < message
        ann > {"type":"direct","to":"bob","data":2}
        bob > {"type":"leave"}
        ann < presence_diff -bob:left
        cid < presence_diff -bob:left
        bob > read
        bob < message data=1, direct data=2, goodbye, close 1000 left
        "#,
    );
}
