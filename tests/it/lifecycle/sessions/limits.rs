//! Sessions beside limits, locks, and orders of operators.

use std::time::Duration;

use lobbyd::Config;
use lobbyd::apps::Relay;
use lobbyd::config::{DuplicateLogin, Limit};
use lobbyd::operator::{KickTarget, OperatorCommand};

use crate::common::scenario::{World, check};

#[test]
fn a_session_comes_back_regardless_of_limits_and_locks() {
    let config = Config {
        max_connections: Limit::at_most(2),
        max_per_lobby: Limit::at_most(2),
        max_per_ip: Limit::at_most(1),
        ..Config::default()
    };
    let mut world = World::new(config, Relay::default());
    world.steps(
        "
        from 10.0.0.1
        ann > connect chess session=page-of-ann-0001
        ann < upgrade, welcome conn=s1, presence_state
        from 10.0.0.2
        bob > connect chess
        bob < upgrade, welcome, presence_state
        ann < presence_diff +bob
        ann > hangup
        ",
    );
    let lock = OperatorCommand::Lock { lobby: "chess".into(), locked: true };
    world.engine.handle_operator(world.now, lock).expect("the lobby exists");
    // From the address of bob, which has its only seat.
    world.steps(
        "
        ann > connect chess session=page-of-ann-0001 epoch=1000000000000 seq=1 n=0
        ann < upgrade, welcome resumed=true conn=s1, presence_state
        from 10.0.0.1
        cid > connect go
        cid < upgrade, goodbye code=4002 reason=ip_limit reconnect=false, close 4002 ip_limit
        ann > hangup
        advance 1s
        bob < presence_diff away=ann
        ann > connect chess session=page-of-ann-0001
        ann < upgrade, welcome resumed=true conn=s1
        ",
    );
    world.take("ann");
    world.steps(
        "
        bob < presence_diff back=ann
        ann > hangup
        advance 19s
        bob < presence_diff away=ann, ping
        bob > pong
        advance 12s
        bob < presence_diff -ann:dropped
        cid:2 > connect go
        cid:2 < upgrade, welcome, presence_state
        ",
    );
}

#[test]
fn a_client_that_only_away_seats_keep_out_is_told_when_to_come_back() {
    for (name, reason) in [
        ("max_connections", "server_full"),
        ("max_per_lobby", "lobby_full"),
        ("max_lobbies", "lobby_limit"),
        ("max_per_ip", "ip_limit"),
    ] {
        for (is_away, reconnect) in [(true, "true retry_after_ms=30010"), (false, "false !retry_after_ms")] {
            let mut config = Config::default();
            crate::common::scenario::set(&mut config, name, "1").expect("a limit");
            let lobby = if name == "max_lobbies" { "go" } else { "chess" };
            let end = if is_away { "ann > hangup" } else { "" };
            check(
                config,
                &format!(
                    "
                    ann > connect chess session=page-of-ann-0001
                    ann < upgrade, welcome, presence_state
                    {end}
                    bob > connect {lobby}
                    bob < upgrade, goodbye code=4002 reason={reason} reconnect={reconnect}, close 4002 {reason}
                    "
                ),
            );
        }
    }
}

#[test]
fn a_login_elsewhere_frees_an_away_seat() {
    for policy in [DuplicateLogin::Replace, DuplicateLogin::Reject, DuplicateLogin::Allow] {
        check(
            Config { duplicate_login: policy, ..Config::default() },
            "
            bob joins chess
            ann > connect chess session=page-of-ann-0001
            ann < upgrade, welcome, presence_state
            bob < presence_diff +ann
            ann > hangup
            advance 1s
            bob < presence_diff away=ann
            ann > connect go
            bob < presence_diff -ann:replaced
            ann < upgrade, welcome conn=s3 !away_ms, presence_state users=ann
            ",
        );
    }
}

#[test]
fn a_lobby_never_replays_what_a_removed_one_has_said() {
    // The login elsewhere ends the last seat of chess, and go is kept in its place.
    check(
        Config { duplicate_login: DuplicateLogin::Replace, ..Config::default() },
        "
        ann > connect chess session=page-of-ann-0001
        ann < upgrade, welcome, presence_state seq=0
        ann > hangup
        advance 1s
        ann:2 > connect go session=page-of-ann-0002
        ann:2 < upgrade, welcome seq=0, presence_state seq=0
        ann:2 > hangup
        ann:3 > connect go session=page-of-ann-0002
        ann:3 < upgrade, welcome resumed=true recovered=true replay=0, presence_state seq=0
        ",
    );
}

#[test]
fn an_away_seat_is_taken_over_only_at_the_limit_of_its_user() {
    let config =
        Config { duplicate_login: DuplicateLogin::Allow, max_per_user: Limit::at_most(2), ..Config::default() };
    check(
        config,
        "
        ann > connect chess session=page-of-ann-0001
        ann < upgrade, welcome conn=s1, presence_state
        ann > hangup
        ann:2 > connect chess session=page-of-ann-0002
        ann:2 < upgrade, welcome conn=s2 resumed=false, presence_state users=ann,ann
        ann:3 > connect chess session=page-of-ann-0003
        ann:3 < upgrade, welcome conn=s1 resumed=false, presence_state users=ann,ann
        ann:4 > connect chess session=page-of-ann-0004
        ann:4 < upgrade, goodbye code=4002 reason=user_limit, close 4002 user_limit
        ann:3 < ping
        ",
    );
}

#[test]
fn members_of_a_counted_lobby_are_not_told_who_is_away() {
    check(
        Config { presence_max: 1, ..Config::default() },
        "
        bob > connect chess
        bob < upgrade, welcome, presence_state users=bob
        ann > connect chess session=page-of-ann-0001
        bob < presence_state count=2
        ann < upgrade, welcome, presence_state count=2
        ann > hangup
        advance 2s
        bob < nothing
        ann > connect chess session=page-of-ann-0001 epoch=1000000000000 seq=0 n=0
        ann < upgrade, welcome resumed=true recovered=true, presence_state count=2
        bob < nothing
        ",
    );
}

#[test]
fn nobody_notices_a_member_that_is_asked_to_reconnect() {
    let mut world =
        World::new(Config { max_lifetime: Some(Duration::from_secs(5)), ..Config::default() }, Relay::default());
    world.steps(
        "
        bob > connect chess session=page-of-bob-0001
        ann > connect chess session=page-of-ann-0001
        ann < upgrade, welcome conn=s2, presence_state
        bob < upgrade, welcome, presence_state, presence_diff +ann
        ",
    );
    let order = OperatorCommand::Kick { target: KickTarget::User("ann".into()), reconnect: true };
    world.engine.handle_operator(world.now, order).expect("ann is there");
    world.run(
        "
        advance 0ms
        ann < goodbye code=4103 reconnect=true, close 4103 reconnect
        ann > close 4103
        ann < eof
        ann > connect chess session=page-of-ann-0001 epoch=1000000000000 seq=1 n=0
        ann < upgrade, welcome conn=s2 resumed=true recovered=true, presence_state
        advance 5s
        bob < goodbye code=4202, close 4202 max_lifetime
        ann < goodbye code=4202, close 4202 max_lifetime
        ann > close 4202
        ann < eof
        ann > connect chess session=page-of-ann-0001 epoch=1000000000000 seq=1 n=0
        ann < upgrade, welcome conn=s2 resumed=true recovered=true, presence_state users=bob,ann away=
        bob > close 4202
        bob < eof
        bob > connect chess session=page-of-bob-0001 epoch=1000000000000 seq=1 n=0
        bob < upgrade, welcome conn=s1 resumed=true recovered=true, presence_state users=bob,ann away=
        ann < nothing
        ",
    );
}

#[test]
fn without_a_grace_there_are_no_sessions() {
    check(
        Config { seat_grace: Duration::ZERO, ..Config::default() },
        r#"
        bob joins chess
        ann > connect chess session=page-of-ann-0001
        ann < upgrade, welcome !away_ms !done, presence_state
        bob < presence_diff +ann
        ann > {"type":"move","ref":2}
        ann > {"type":"move","ref":1}
        ann < ack ref=2 seq=2, ack ref=1 seq=3
        bob < message, message
        ann > hangup
        bob < presence_diff -ann:dropped
        "#,
    );
}
