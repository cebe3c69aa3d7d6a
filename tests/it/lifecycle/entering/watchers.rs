//! Watchers: they receive what the members receive, and no member is told of them.

use lobbyd::Config;
use lobbyd::apps::Relay;
use lobbyd::config::{DuplicateLogin, Limit};

use super::{check, finish, on, recorded, recorded_with};
use crate::common::scenario::World;
use crate::common::witness::Witness;

const IN: &str = "upgrade, welcome, presence_state, lobby_state";
/// Ann and bob are members, and eve watches.
const WATCHED: &str = r#"
    ann > connect chess session=page-of-ann-0001
    ann < upgrade, welcome, presence_state, lobby_state
    bob > connect chess
    bob < upgrade, welcome, presence_state, lobby_state
    ann < presence_diff +bob
    eve > connect chess role=watch session=page-of-eve-0001
    eve < upgrade, welcome user=eve, presence_state seq=1 users=ann,bob, lobby_state host=s1 watchers=1
"#;

fn watched(config: Config) -> World<Relay> {
    let mut world = recorded(config);
    world.run(WATCHED);
    world
}

#[test]
fn a_watcher_is_told_to_nobody_and_receives_what_is_said() {
    let mut world = watched(on());
    world.run(
        r#"
        ann > {"type":"broadcast","data":1,"ref":1}
        ann < ack seq=2 delivered=2
        bob < message seq=2
        eve < message seq=2 from=ann
        ann > {"type":"set","data":{"round":1}}
        ann < state seq=3
        bob < state seq=3
        eve < state seq=3
        bob > leave
        bob < goodbye, close 1000 left
        ann < presence_diff seq=4 -bob
        eve < presence_diff seq=4 -bob
        cid > connect chess
        cid < upgrade, welcome, presence_state seq=5 users=ann,cid, lobby_state watchers=1
        ann < presence_diff +cid
        eve < presence_diff +cid
        eve > leave
        eve < goodbye, close 1000 left
        ann > {"type":"presence"}
        ann < presence_state users=ann,cid, lobby_state watchers=0
        "#,
    );
    finish(world);
}

#[test]
fn a_watcher_may_only_leave_ping_and_ask_who_is_there() {
    let mut world = watched(on());
    for (request, code) in [
        (r#"{"type":"broadcast","data":1,"ref":1}"#, "not_allowed"),
        (r#"{"type":"direct","to":"ann","data":1,"ref":2}"#, "not_allowed"),
        (r#"{"type":"move","ref":3}"#, "not_allowed"),
        (r#"{"type":"set","data":{"a":1},"ref":4}"#, "not_allowed"),
        (r#"{"type":"set","of":"s3","data":{"a":1},"ref":5}"#, "not_allowed"),
        (r#"{"type":"kick","user":"bob","ref":6}"#, "not_allowed"),
        (r#"{"type":"host","conn":"s3","ref":7}"#, "not_allowed"),
        (r#"{"type":"settings","settings":{},"ref":8}"#, "not_allowed"),
        (r#"{"type":"direct","ref":9}"#, "bad_message"),
    ] {
        world.run(&format!(
            "eve > {request}\neve < error ref={} code={code}",
            request.matches(|c: char| c.is_ascii_digit()).next_back().expect("a ref")
        ));
    }
    world.run(
        r#"
        eve > binary bytes
        eve < error !ref code=not_allowed
        eve > {"type":"ping","ref":"a"}
        eve < pong ref=a
        eve > {"type":"presence","ref":"b"}
        eve < presence_state users=ann,bob, lobby_state, ack ref=b
        eve > {"type":"health_pong","timestamp":1,"ref":"c"}
        eve < ack ref=c
        ann > {"type":"direct","to":"eve","data":1,"ref":1}
        ann < error ref=1 code=user_not_found
        ann > {"type":"set","of":"s3","data":{"a":1},"ref":2}
        ann < error ref=2 code=user_not_found
        ann > {"type":"host","conn":"s3","ref":3}
        ann < error ref=3 code=user_not_found
        "#,
    );
    finish(world);
}

#[test]
fn the_messages_of_watchers_reach_no_application() {
    let mut world = recorded_with(on(), Witness::<true>::default());
    world.run(
        r#"
        eve > connect chess role=watch
        eve < upgrade, welcome, presence_state !users, lobby_state host=null watchers=1
        eve > {"type":"move"}
        eve < error code=not_allowed
        eve > binary x
        eve < error code=not_allowed
        "#
        .replace("presence_state !users", "presence_state")
        .as_str(),
    );
    assert_eq!(world.app(|app, _| app.take()), ["join eve"]);
}

#[test]
fn a_watcher_comes_back_and_misses_nothing() {
    let mut world = watched(on());
    world.run(
        r#"
        eve > close 1001
        eve < *
        advance 5s
        ann > {"type":"broadcast","data":1,"ref":1}
        ann < ack seq=2 delivered=1
        bob < message
        eve > connect chess session=page-of-eve-0001 epoch=1000000000000 seq=1 n=0
        eve < upgrade, welcome resumed=true recovered=true, message seq=2, presence_state users=ann,bob, lobby_state watchers=1
        eve > close 1001
        eve < *
        advance 22s
        ann < ping
        bob < ping
        ann > pong
        bob > pong
        advance 9s
        ann > {"type":"presence"}
        ann < presence_state users=ann,bob, lobby_state watchers=0
        "#,
    );
    finish(world);
}

#[test]
fn watchers_have_seats_of_their_own_kind() {
    check(
        Config { max_per_lobby: Limit::at_most(1), max_watchers: 2, ..on() },
        &format!(
            r#"
            ann > connect chess session=page-of-ann-0001
            ann < {IN}
            bob > connect chess
            bob < upgrade, goodbye, close 4002 lobby_full
            eve > connect chess role=watch
            eve < {IN}
            fay > connect chess role=watch
            fay < {IN}
            gus > connect chess role=watch
            gus < upgrade, goodbye, close 4002 lobby_full
            ann > {{"type":"settings","settings":{{"watchers":1}}}}
            ann < settings
            eve < settings
            fay < settings
            fay > leave
            fay < goodbye, close 1000 left
            gus:2 > connect chess role=watch
            gus:2 < upgrade, goodbye, close 4002 lobby_full
            eve > leave
            eve < goodbye, close 1000 left
            gus:3 > connect chess role=watch
            gus:3 < {IN}
            "#
        ),
    );
}

/// A lobby that has started is locked: it can still be watched.
#[test]
fn a_locked_lobby_can_be_watched() {
    check(
        on(),
        &format!(
            r#"
            ann > connect chess session=page-of-ann-0001
            ann < {IN}
            ann > {{"type":"settings","settings":{{"start":{{"min":1,"ready":false,"countdown_ms":3000}}}}}}
            ann < settings, countdown
            eve > connect chess role=watch
            eve < {IN} seq=2
            advance 3s
            ann < start seats=[{{"user":"ann","conn":"s1"}}], settings settings={{"locked":true,"start":null}}
            eve < start, settings
            bob > connect chess
            bob < upgrade, goodbye, close 4002 lobby_locked
            fay > connect chess role=watch
            fay < {IN}
            "#
        ),
    );
}

#[test]
fn a_lobby_exists_while_it_is_watched_and_has_no_host_then() {
    check(
        on(),
        r#"
            eve > connect chess role=watch session=page-of-eve-0001
            eve < upgrade, welcome, presence_state users=, lobby_state host=null
            ann > connect chess session=page-of-ann-0001 create=0
            ann < upgrade, welcome, presence_state users=ann, lobby_state host=s2
            eve < presence_diff +ann, host conn=s2
            ann > leave
            ann < goodbye, close 1000 left
            eve < presence_diff -ann
            bob > connect chess session=page-of-bob-0001 create=0
            bob < upgrade, welcome, presence_state users=bob, lobby_state host=s3
            eve < presence_diff +bob, host conn=s3
            "#,
    );
}

/// The user leaves in one role and joins in the other, in the same lobby.
#[test]
fn a_user_takes_the_other_role_in_the_same_lobby() {
    check(
        on(),
        &format!(
            r#"
            ann > connect chess session=page-of-ann-0001
            ann < upgrade, welcome epoch=1000000000000, presence_state, lobby_state
            ann:2 > connect chess role=watch session=page-of-ann-0002
            ann < goodbye, close 4004 replaced
            ann:2 < upgrade, welcome epoch=1000000000000 conn=s2, presence_state users=, lobby_state watchers=1
            bob > connect chess
            bob < {IN}
            ann:2 < presence_diff +bob
            ann:3 > connect chess session=page-of-ann-0003
            ann:2 < goodbye, close 4004 replaced
            ann:3 < upgrade, welcome epoch=1000000000000 conn=s4, presence_state users=bob,ann, lobby_state watchers=0
            bob < presence_diff +ann, host conn=s4
            ann:4 > connect chess role=watch
            ann:3 < goodbye, close 4004 replaced
            ann:4 < {IN}
            bob < presence_diff -ann:replaced
            "#
        ),
    );
}

#[test]
fn a_user_may_play_and_watch_if_it_may_have_two_seats() {
    check(
        Config { duplicate_login: DuplicateLogin::Allow, max_per_user: Limit::at_most(2), ..on() },
        &format!(
            r#"
            ann > connect chess
            ann < {IN}
            ann:2 > connect chess role=watch
            ann:2 < {IN}
            ann:3 > connect chess role=watch
            ann:3 < upgrade, goodbye, close 4002 user_limit
            ann < ping
            "#
        ),
    );
}

#[test]
fn watchers_count_toward_the_limits_of_server_and_address() {
    for config in
        [Config { max_connections: Limit::at_most(2), ..on() }, Config { max_per_ip: Limit::at_most(2), ..on() }]
    {
        check(
            config,
            &format!(
                r#"
                ann > connect chess
                ann < {IN}
                eve > connect chess role=watch
                eve < {IN}
                fay > connect chess role=watch
                fay < upgrade, goodbye code=4002, close 4002
                "#
            )
            .replace("close 4002\n", "*\n"),
        );
    }
}

/// Watchers that join and leave take no number, and nobody hears of it.
#[test]
fn watchers_come_and_go_without_a_presence_diff() {
    let mut world = watched(on());
    for watcher in 0..20 {
        world.steps(&format!(
            "x{watcher} > connect chess role=watch\nx{watcher} < upgrade, welcome, presence_state seq=1, lobby_state"
        ));
    }
    for watcher in 0..10 {
        world.steps(&format!("x{watcher} > leave\nx{watcher} < goodbye, close 1000 left"));
    }
    world.run("ann < nothing\nbob < nothing\neve < nothing");
    finish(world);
}

/// Members that join after watchers, in the same turn, are announced.
#[test]
fn members_and_watchers_join_in_one_turn() {
    check(
        on(),
        r#"
        ann > connect chess
        ann < upgrade, welcome, presence_state, lobby_state
        turn begins
        bob > connect chess
        eve > connect chess role=watch
        cid > connect chess
        fay > connect chess role=watch
        turn ends
        gus > connect chess role=watch
        ann < presence_diff seq=1 +bob +cid
        bob < upgrade, welcome, presence_state seq=1 users=ann,bob,cid, lobby_state watchers=2
        eve < upgrade, welcome, presence_state seq=1 users=ann,bob,cid, lobby_state watchers=2
        cid < upgrade, welcome, presence_state seq=1 users=ann,bob,cid, lobby_state watchers=2
        fay < upgrade, welcome, presence_state seq=1 users=ann,bob,cid, lobby_state watchers=2
        gus < upgrade, welcome, presence_state seq=1 users=ann,bob,cid, lobby_state watchers=3
        "#,
    );
}

/// In a lobby with many members, whose number is told, watchers change no number.
#[test]
fn watchers_are_not_counted_in_a_large_lobby() {
    check(
        Config { presence_max: 1, ..on() },
        r#"
        ann > connect chess
        ann < upgrade, welcome, presence_state, lobby_state
        bob > connect chess
        bob < upgrade, welcome, presence_state count=2, lobby_state
        ann < presence_state count=2
        advance 10s
        eve > connect chess role=watch
        eve < upgrade, welcome, presence_state count=2, lobby_state watchers=1
        eve > leave
        eve < goodbye, close 1000 left
        advance 1s
        ann < nothing
        bob < nothing
        "#,
    );
}

#[test]
fn a_kick_ends_the_seats_in_both_roles_and_a_ban_keeps_watchers_out() {
    let mut world = watched(on());
    world.run(
        r#"
        ann > {"type":"kick","user":"eve","ban":true,"ref":1}
        ann < ack ref=1
        eve < goodbye, close 4003 banned
        eve:2 > connect chess role=watch
        eve:2 < upgrade, goodbye, close 4003 banned
        "#,
    );
    finish(world);
}
