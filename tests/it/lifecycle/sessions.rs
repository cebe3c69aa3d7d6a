//! Clients with a session come back to their seat and miss nothing.
//!
//! The first lobby of a test has the epoch 1000000000000, the time of its start in microseconds.

use std::time::Duration;

use lobbyd::config::{ByteSize, DuplicateLogin, Limit};
use lobbyd::operator::{KickTarget, OperatorCommand, Payload};
use lobbyd::{Authorization, CloseReason, Config};

use crate::common::scenario::{World, check};
use crate::common::witness::Witness;

const GRACE: Duration = Duration::from_secs(30);

fn three_seats() -> Config {
    Config { max_per_lobby: Limit::at_most(3), ..Config::default() }
}

// ---- seats ----

#[test]
fn a_seat_is_kept_when_its_connection_is_lost_and_freed_after_the_grace() {
    check(
        Config::default(),
        r#"
        bob joins chess
        ann > connect chess session=page-of-ann-0001
        ann < upgrade, welcome away_ms=30000 done=0 refused="0" replay=0 n=0 resumed=false recovered=false conn=s2
        ann < presence_state seq=1 users=bob,ann away=
        bob < presence_diff +ann
        ann > hangup
        bob < nothing
        advance 999ms
        bob < nothing
        advance 1ms
        bob < presence_diff seq=2 away=ann
        cid > connect chess
        cid < upgrade, welcome !away_ms !done, presence_state users=bob,ann,cid away=ann
        bob < presence_diff +cid
        advance 28999ms
        bob < ping
        bob > pong
        cid < ping
        cid > pong
        bob < nothing
        advance 1ms
        bob < presence_diff -ann:dropped !away
        cid < presence_diff -ann:dropped
        "#,
    );
}

#[test]
fn a_client_that_comes_back_gets_its_seat_and_what_it_missed() {
    check(
        Config::default(),
        r#"
        bob joins chess
        ann > connect chess session=page-of-ann-0001
        ann < upgrade, welcome conn=s2, presence_state seq=1
        bob < presence_diff +ann
        bob > {"type":"broadcast","data":1}
        ann < message from=bob seq=2 data=1
        ann > hangup
        bob > {"type":"broadcast","data":2}
        bob > {"type":"direct","to":"ann","data":3,"ref":"x"}
        bob < ack ref=x
        bob > {"type":"move"}
        advance 1s
        bob < presence_diff seq=5 away=ann
        ann > connect chess session=page-of-ann-0001 epoch=1000000000000 seq=2 n=0
        ann < upgrade, welcome conn=s2 resumed=true recovered=true replay=5 n=0 done=0
        ann < message seq=3 data=2, direct from=bob n=1 data=3, message seq=4 data={"type":"move"}
        ann < presence_diff seq=5 away=ann, presence_diff seq=6 back=ann, presence_state seq=6 users=bob,ann away=
        bob < presence_diff seq=6 back=ann
        ann > hangup
        ann > connect chess session=page-of-ann-0001 epoch=1000000000000 seq=6 n=1
        ann < upgrade, welcome conn=s2 resumed=true recovered=true replay=0 n=1, presence_state seq=6
        bob < nothing
        "#,
    );
}

#[test]
fn the_socket_of_a_session_that_comes_back_is_closed_even_if_it_looks_alive() {
    check(
        Config::default(),
        r#"
        bob joins chess
        ann > connect chess session=page-of-ann-0001
        ann < upgrade, welcome, presence_state
        bob < presence_diff +ann
        ann:2 > connect chess session=page-of-ann-0001 epoch=1000000000000 seq=1 n=0
        ann < goodbye code=4004, close 4004 replaced
        ann:2 < upgrade, welcome resumed=true recovered=true conn=s2, presence_state
        ann > close 4004
        ann < eof
        advance 20s
        bob < ping
        bob > pong
        ann:2 < ping
        ann:2 > pong
        advance 15s
        bob > {"type":"broadcast","data":1}
        ann:2 < message data=1
        bob < nothing
        "#,
    );
}

#[test]
fn closes_that_are_no_drops_give_the_seat_up_at_once() {
    for (action, reason) in [
        ("close 1000", "left"),
        ("close 4000", "left"),
        ("text {\"type\":\"leave\"}", "left"),
        ("raw \u{8f}0123456789abcdef", "dropped"),
    ] {
        let script = format!(
            "
            bob joins chess
            ann > connect chess session=page-of-ann-0001
            ann < upgrade, welcome, presence_state
            bob < presence_diff +ann
            ann > {action}
            bob < presence_diff -ann:{reason}
            "
        );
        World::new(Config::default(), lobbyd::apps::Relay::default()).steps(&script);
    }
}

#[test]
fn away_seats_count_toward_every_limit_but_not_against_their_user() {
    let config = Config { duplicate_login: DuplicateLogin::Reject, ..three_seats() };
    check(
        config,
        "
        bob, cid join chess
        ann > connect chess session=page-of-ann-0001
        ann < upgrade, welcome conn=s3, presence_state
        bob < presence_diff +ann
        cid < presence_diff +ann
        ann > hangup
        dan > connect chess
        dan < upgrade, goodbye code=4002 reason=lobby_full reconnect=true retry_after_ms=30010, close 4002 lobby_full
        ann:2 > connect chess session=another-page-of-ann
        ann:2 < upgrade, welcome conn=s3 resumed=false, presence_state users=bob,cid,ann
        bob < nothing
        ann:3 > connect chess session=third-page-of-ann1
        ann:3 < upgrade, goodbye code=4002 reason=lobby_full reconnect=false, close 4002 lobby_full
        ",
    );
}

#[test]
fn a_return_never_displaces_a_newer_login() {
    check(
        Config::default(),
        "
        ann > connect chess session=page-of-ann-0001
        ann < upgrade, welcome, presence_state
        ann:2 > connect chess session=another-page-of-ann
        ann < goodbye code=4004, close 4004 replaced
        ann:2 < upgrade, welcome resumed=false conn=s1, presence_state
        ann > close 4004
        ann < eof
        ann > connect chess session=page-of-ann-0001 epoch=1000000000000 seq=0 n=0
        ann < upgrade, goodbye code=4004 reconnect=false, close 4004 replaced
        ann:3 > connect chess session=page-of-ann-0001
        ann:2 < goodbye code=4004, close 4004 replaced
        ann:3 < upgrade, welcome resumed=false, presence_state
        ",
    );
}

#[test]
fn a_reloaded_page_continues_the_session_that_it_was() {
    check(
        Config::default(),
        r#"
        bob joins chess
        ann > connect chess session=page-of-ann-0001
        ann < upgrade, welcome, presence_state
        bob < presence_diff +ann
        ann > {"type":"broadcast","data":0,"ref":1}
        ann < ack ref=1 seq=2
        bob < message
        ann > close 1001
        ann < close 1001 , eof
        bob > {"type":"direct","to":"ann","data":1}
        ann > connect chess session=page-of-ann-0002 was=page-of-ann-0001
        ann < upgrade, welcome conn=s2 resumed=true recovered=false done=0 replay=1 n=0
        ann < direct n=1 data=1, presence_state users=bob,ann
        ann > {"type":"broadcast","data":0,"ref":1}
        ann < ack ref=1 seq=3
        bob < message
        ann > hangup
        ann > connect chess session=page-of-ann-0001
        ann < upgrade, welcome conn=s2 resumed=false, presence_state
        "#,
    );
}

#[test]
fn the_session_of_another_user_or_lobby_is_an_ordinary_join() {
    check(
        Config::default(),
        "
        ann > connect chess session=page-of-ann-0001
        ann < upgrade, welcome, presence_state
        bob > connect chess session=page-of-ann-0001
        bob < upgrade, welcome resumed=false conn=s2, presence_state
        ann < presence_diff +bob
        ann > hangup
        bob:2 > connect go session=page-of-bob-0001 was=page-of-ann-0001
        bob < goodbye code=4004, close 4004 replaced
        bob:2 < upgrade, welcome resumed=false conn=s3, presence_state
        ",
    );
}

#[test]
fn a_session_may_come_back_three_times_in_a_row_and_before_anything_was_said() {
    World::new(Config::default(), lobbyd::apps::Relay::default()).steps(
        r#"
        turn begins
        ann > connect chess session=page-of-ann-0001
        ann > hangup
        ann:2 > connect chess session=page-of-ann-0001
        ann:2 > hangup
        ann:3 > connect chess session=page-of-ann-0001
        ann:3 > {"type":"broadcast","data":1,"ref":1}
        ann:3 > hangup
        ann:4 > connect chess session=page-of-ann-0001
        turn ends
        ann:4 < upgrade, welcome conn=s1 resumed=true recovered=true done=1 refused="0", ack ref=1 seq=1, presence_state seq=1
        "#,
    );
}

// ---- upstream ----

#[test]
fn a_number_is_executed_once_and_repeated_answers_say_so() {
    check(
        Config::default(),
        r#"
        bob joins chess
        ann > connect chess session=page-of-ann-0001
        ann < upgrade, welcome, presence_state
        bob < presence_diff +ann
        ann > {"type":"broadcast","data":1,"ref":1}
        ann < ack ref=1 seq=2
        ann > {"type":"broadcast","data":1,"ref":1}
        ann < ack ref=1 repeated=true !seq
        ann > {"type":"direct","to":"zoe","data":1,"ref":3}
        ann < error ref=3 code=user_not_found
        ann > {"type":"move","ref":3.0}
        ann < error ref=3.0 code=refused repeated=true
        ann > {"type":"move","ref":2}
        ann < error ref=2 code=refused repeated=true
        ann > {"type":"move","ref":0}
        ann < error ref=0 code=refused repeated=true
        ann > {"type":"move","ref":"1"}
        ann < ack ref="1" seq=3
        ann > {"type":"ping","ref":1}
        ann < pong ref=1
        ann > {"type":"move","to":"\ud800","ref":4}
        ann < error ref=4 code=bad_message
        bob < message seq=2, message seq=3
        ann > hangup
        ann > connect chess session=page-of-ann-0001 epoch=1000000000000 seq=3 n=0
        ann < upgrade, welcome resumed=true done=4 refused="7" replay=0, presence_state
        "#,
    );
}

#[test]
fn messages_that_wait_for_a_tick_are_delivered_when_their_connection_is_lost() {
    check(
        Config { tick_hz: Some(10), ..Config::default() },
        r#"
        bob joins chess
        ann > connect chess session=page-of-ann-0001
        ann < upgrade, welcome, presence_state
        bob < presence_diff +ann
        turn begins
        ann > {"type":"broadcast","data":1,"ref":1}
        ann > {"type":"direct","to":"bob","data":2,"ref":2}
        ann > {"type":"direct","to":"zoe","data":2,"ref":3}
        ann:2 > connect chess session=page-of-ann-0001 epoch=1000000000000 seq=1 n=0
        turn ends
        bob < message seq=2 data=1, direct data=2
        ann:2 < upgrade, welcome done=3 refused="1" replay=1, ack ref=1 seq=2, presence_state seq=2
        ann < ack ref=1 seq=2, ack ref=2, error ref=3, goodbye code=4004, close 4004 replaced
        "#,
    );
}

#[test]
fn at_most_max_unanswered_requests_of_a_session_wait_for_a_tick() {
    let mut world = World::new(Config { tick_hz: Some(10), ..Config::default() }, lobbyd::apps::Relay::default());
    world.steps(
        "
        ann > connect chess session=page-of-ann-0001
        ann < upgrade, welcome, presence_state
        ",
    );
    for number in 1..=17 {
        world.steps(&format!(r#"ann > {{"type":"move","ref":{number}}}"#));
    }
    world.steps("ann < error ref=17 code=rate_limited");
    world.steps("advance 100ms");
    assert_eq!(world.take("ann").len(), 16);
}

// ---- recovered ----

#[test]
fn recovered_is_false_when_anything_is_missing() {
    let config = Config { history_frames: 2, direct_frames: 1, ..Config::default() };
    for (position, sent, recovered) in [
        ("epoch=1000000000000 seq=2 n=0", 2, true),
        ("epoch=1000000000000 seq=2 n=0", 3, false),
        ("epoch=1000000000000 seq=1 n=0", 2, false),
        ("epoch=1000000000001 seq=2 n=0", 0, false),
        ("epoch=1000000000000 seq=3 n=0", 0, false),
        ("epoch=1000000000000 seq=0 n=0", 0, false),
        ("epoch=1000000000000 seq=2 n=1", 0, false),
    ] {
        let mut world = World::new(config.clone(), lobbyd::apps::Relay::default());
        world.steps(
            r#"
            bob joins chess
            ann > connect chess session=page-of-ann-0001
            bob < presence_diff +ann
            bob > {"type":"broadcast","data":1}
            ann < upgrade, welcome, presence_state seq=1, message seq=2
            ann > hangup
            "#,
        );
        (0..sent).for_each(|_| world.steps(r#"bob > {"type":"broadcast","data":1}"#));
        world.steps(&format!(
            "
            ann > connect chess session=page-of-ann-0001 {position}
            ann < upgrade, welcome resumed=true recovered={recovered} replay={}
            ",
            if recovered { sent } else { 0 }
        ));
    }
    let script = r#"
        bob joins chess
        ann > connect chess session=page-of-ann-0001
        ann < upgrade, welcome, presence_state
        bob < presence_diff +ann
        ann > hangup
        bob > {"type":"direct","to":"ann","data":1}
        bob > {"type":"direct","to":"ann","data":2}
        ann > connect chess session=page-of-ann-0001 epoch=1000000000000 seq=1 n=0
        ann < upgrade, welcome recovered=false replay=1 n=1, direct n=2 data=2, presence_state
        ann > hangup
        ann > connect chess session=page-of-ann-0001 epoch=1000000000000 seq=1 n=2
        ann < upgrade, welcome recovered=true replay=0 n=2, presence_state
        "#;
    check(config, script);
}

#[test]
fn a_direct_message_is_forgotten_when_a_ping_after_it_is_answered() {
    let mut world = World::new(Config::default(), lobbyd::apps::Relay::default());
    world.steps(
        r#"
        bob joins chess
        ann > connect chess session=page-of-ann-0001
        ann < upgrade, welcome, presence_state
        bob < presence_diff +ann
        bob > {"type":"direct","to":"ann","data":1}
        ann < direct n=1
        advance 20s
        bob < ping
        bob > pong
        "#,
    );
    let ping = world.take("ann").pop().expect("a ping");
    world.steps(&format!(
        "
        ann > {}
        ann > hangup
        ann > connect chess session=page-of-ann-0001 epoch=1000000000000 seq=1 n=0
        ann < upgrade, welcome recovered=false replay=0 n=1, presence_state
        ",
        ping.replacen("ping", "pong", 1)
    ));
}

// ---- operators and the application ----

#[test]
fn a_kicked_member_cannot_come_back_during_the_grace() {
    for is_away in [false, true] {
        let mut world = World::new(Config::default(), lobbyd::apps::Relay::default());
        world.steps(
            "
            bob joins chess
            ann > connect chess session=page-of-ann-0001
            ann < upgrade, welcome, presence_state
            bob < presence_diff +ann
            ",
        );
        if is_away {
            world.steps("ann > hangup");
        }
        let kick = OperatorCommand::Kick { target: KickTarget::User("ann".into()), reconnect: false };
        world.engine.handle_operator(world.now, kick).expect("ann is there");
        world.steps(
            "
            advance 0ms
            bob < presence_diff -ann:kicked
            ",
        );
        world.take("ann");
        world.steps(
            "
            ann:2 > connect chess session=page-of-ann-0001 epoch=1000000000000 seq=1 n=0
            ann:2 < upgrade, goodbye code=4003, close 4003 kicked
            ann:3 > connect chess
            ann:3 < upgrade, goodbye code=4003, close 4003 kicked
            ann:4 > connect go
            ann:4 < upgrade, welcome, presence_state
            ",
        );
        world.advance(GRACE);
        world.steps(
            "
            ann:5 > connect chess session=page-of-ann-0001
            ann:5 < upgrade, welcome resumed=false, presence_state
            ",
        );
    }
}

#[test]
fn the_application_is_told_of_away_and_back_and_every_join_has_one_leave() {
    let mut world = World::new(Config::default(), Witness::<true>::default());
    world.steps(
        "
        ann > connect chess session=page-of-ann-0001
        ann > hangup
        ann > connect chess session=page-of-ann-0001
        ann:2 > connect chess session=page-of-ann-0001
        ann:2 > hangup
        advance 30s
        ",
    );
    assert_eq!(
        world.engine.app().log,
        ["join ann", "away ann dropped", "back ann", "back ann", "away ann dropped", "leave ann dropped"]
    );
}

#[test]
fn operators_see_away_members_and_write_to_them() {
    let mut world = World::new(Config::default(), lobbyd::apps::Relay::default());
    world.steps(
        "
        bob joins chess
        ann > connect chess session=page-of-ann-0001
        ann < upgrade, welcome, presence_state
        bob < presence_diff +ann
        ann > hangup
        ",
    );
    let lobby = world.engine.lobby("chess").expect("it exists");
    assert_eq!((lobby.members, lobby.away), (2, 1));
    let members = world.engine.lobby_members("chess", None, 10).items;
    assert_eq!(
        members.iter().map(|member| (member.user.as_str(), member.away)).collect::<Vec<_>>(),
        [("bob", false), ("ann", true)]
    );
    let stats = world.engine.stats();
    assert_eq!((stats.total_connections, stats.away, stats.capacity_percent), (1, 1, 0.4));
    let send = OperatorCommand::Send { user: "ann".into(), payload: Payload::Json("7".into()) };
    world.engine.handle_operator(world.now, send).expect("ann has a seat");
    world.steps(
        "
        ann > connect chess session=page-of-ann-0001 epoch=1000000000000 seq=1 n=0
        ann < upgrade, welcome recovered=true replay=1, direct from=null n=1 data=7, presence_state
        ",
    );
}

#[test]
fn a_seat_is_kept_while_a_claim_is_being_authorized() {
    for auth in ["later", "unnamed"] {
        let config = Config { auth_timeout: Duration::from_secs(60), ..Config::default() };
        let mut world = World::new(config, Witness::<true>::default());
        world.steps(&format!(
            "
            bob > connect chess session=page-of-bob-0001
            ann > connect chess session=page-of-ann-0001
            ann < upgrade, welcome, presence_state
            ann > hangup
            advance 29s
            ann > connect chess session=page-of-ann-0001 auth={auth}
            advance 10s
            "
        ));
        world.authorize("ann", Authorization::allow("ann"));
        world.steps("ann < upgrade, welcome resumed=true conn=s2");
    }
}

#[test]
fn a_drain_does_not_wait_for_away_seats() {
    let mut world = World::new(Config::default(), Witness::<true>::default());
    world.steps(
        "
        ann > connect chess session=page-of-ann-0001
        bob > connect chess session=page-of-bob-0001
        ann > hangup
        drain
        bob > close 1001
        advance 1s
        ",
    );
    assert!(world.engine.is_drained());
    let left: Vec<&String> = world.engine.app().log.iter().filter(|event| event.starts_with("leave")).collect();
    assert_eq!(left, ["leave ann dropped", "leave bob shutdown"]);
}

#[test]
fn a_slow_consumer_comes_back_to_what_it_could_not_read() {
    let config = Config {
        max_message_bytes: ByteSize(3000),
        max_outbound_bytes: ByteSize::kib(32),
        history_bytes: ByteSize::kib(16),
        history_frames: 100,
        direct_bytes: ByteSize(1000),
        direct_frames: 4,
        ..Config::default()
    };
    let mut world = World::new(config, lobbyd::apps::Relay::default());
    world.steps(
        "
        bob joins chess
        ann > connect chess session=page-of-ann-0001
        ann < upgrade, welcome, presence_state
        bob < presence_diff +ann
        ann > window 0
        ",
    );
    let data = "x".repeat(2000);
    let mut sent = 0;
    while world.engine.stats().counters.closed(CloseReason::SlowConsumer) == 0 {
        world.steps(&format!(r#"bob > {{"type":"broadcast","data":"{data}"}}"#));
        sent += 1;
        assert!(sent < 40);
    }
    world.steps(
        "
        ann:2 > connect chess session=page-of-ann-0001 epoch=1000000000000 seq=10 n=0
        ann:2 < upgrade, welcome resumed=true recovered=true
        ",
    );
    assert_eq!(world.take("ann:2").len(), sent - 8, "messages 11 and later, and a presence_state");
}
