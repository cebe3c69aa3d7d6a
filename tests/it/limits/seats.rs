//! The number of seats, with tiny values, and the answer when all are taken.

use lobbyd::apps::Relay;
use lobbyd::config::{DuplicateLogin, Limit};
use lobbyd::{Authorization, CloseReason, Config};

use crate::common::scenario::{World, check};
use crate::common::witness::Witness;

pub fn seats(max_connections: u32) -> Config {
    Config { max_connections: Limit::at_most(max_connections), ..Config::default() }
}

/// Admits `users` (`user lobby`) to their lobbies. Then the next user is refused with `reason`, which affects no member.
#[track_caller]
fn check_refused(config: &Config, users: &[&str], next: &str, reason: CloseReason) {
    let mut world = World::new(config.clone(), Relay::default());
    for user in users {
        let (name, lobby) = user.split_once(' ').expect("a user and a lobby");
        world.steps(&format!("{name} > connect {lobby}\n{name} < upgrade, welcome, presence_state"));
    }
    let (name, lobby) = next.split_once(' ').expect("a user and a lobby");
    for user in users {
        world.take(user.split_once(' ').expect("a user and a lobby").0);
    }
    let (code, word) = (reason.code(), reason.word());
    world.steps(&format!(
        "{name} > connect {lobby}\n{name} < upgrade, goodbye code={code} reason={word}, close {code} {word}"
    ));
    // The seat that is in the way is pinged.
    let pings: Vec<String> = users.iter().flat_map(|user| world.take(user.split(' ').next().unwrap_or(user))).collect();
    assert_eq!(pings, if reason == CloseReason::UserLimit && !users.is_empty() { vec!["ping"] } else { vec![] });
    assert_eq!(world.engine.stats().total_connections, users.len());
    assert_eq!(world.engine.stats().counters.closed(reason), 1);
    // The refused connection counts as pending until it is closed.
    assert_eq!(world.engine.stats().pending, 1);
    world.run(&format!("advance 3100ms\n{name} < eof"));
    assert_eq!((world.engine.stats().pending, world.engine.stats().closing), (0, 0));
}

#[test]
fn seats_are_bounded_for_the_server_each_lobby_and_each_user() {
    use CloseReason::{LobbyFull, LobbyLimit, ServerFull, UserLimit};
    let two = Limit::at_most(2);
    check_refused(&seats(2), &["ann a", "bob b"], "cid a", ServerFull);
    check_refused(
        &Config { max_per_lobby: two, ..Config::default() },
        &["ann a", "bob a", "cid b"],
        "dan a",
        LobbyFull,
    );
    check_refused(&Config { max_lobbies: two, ..Config::default() }, &["ann a", "bob b", "cid b"], "dan c", LobbyLimit);
    let reject = Config { duplicate_login: DuplicateLogin::Reject, ..Config::default() };
    check_refused(&reject, &["ann a"], "ann:2 a", UserLimit);
    check_refused(&reject, &["ann a"], "ann:2 b", UserLimit);
    let allow = Config { duplicate_login: DuplicateLogin::Allow, max_per_user: two, ..Config::default() };
    check_refused(&allow, &["ann a", "bob a", "ann:2 b"], "ann:3 a", UserLimit);
    // The widest limit is reported first: waiting for room in the lobby would not help.
    check_refused(&Config { max_per_lobby: two, ..seats(2) }, &["ann a", "bob a"], "cid a", ServerFull);
    // A user that moves needs room in the new lobby, and keeps its seat if there is none.
    check_refused(&Config { max_per_lobby: Limit::at_most(1), ..seats(2) }, &["ann a", "bob b"], "ann:2 b", LobbyFull);
}

#[test]
fn zero_means_none() {
    let none = Limit::at_most(0);
    check_refused(&seats(0), &[], "ann a", CloseReason::ServerFull);
    check_refused(&Config { max_per_lobby: none, ..Config::default() }, &[], "ann a", CloseReason::LobbyFull);
    check_refused(&Config { max_lobbies: none, ..Config::default() }, &[], "ann a", CloseReason::LobbyLimit);
    let allow = Config { duplicate_login: DuplicateLogin::Allow, max_per_user: none, ..Config::default() };
    check_refused(&allow, &[], "ann a", CloseReason::UserLimit);
    check(
        Config { max_strikes: 0, ..Config::default() },
        "ann > connect a\nann < upgrade, welcome, presence_state\nann > {\nann < goodbye, close 4005 bad_message",
    );
}

#[test]
fn unlimited_means_unlimited() {
    let config = Config {
        max_connections: Limit::UNLIMITED,
        max_per_lobby: Limit::UNLIMITED,
        max_lobbies: Limit::UNLIMITED,
        max_per_user: Limit::UNLIMITED,
        duplicate_login: DuplicateLogin::Allow,
        presence_max: 10,
        ..Config::default()
    };
    let mut world = World::new(config, Relay::default());
    for n in 0..600 {
        let lobby = if n % 2 == 0 { "one".into() } else { format!("lobby{n}") };
        world.act(&format!("ann:{n}"), &format!("connect {lobby}"));
    }
    world.flush();
    let stats = world.engine.stats();
    assert_eq!((stats.total_connections, stats.active_lobbies, stats.max_connections), (600, 301, None));
    world.app(|_, cx| assert_eq!(cx.can_accept_connection("one"), Ok(())));
}

#[test]
fn an_application_can_ask_whether_there_is_room() {
    let config = Config { max_lobbies: Limit::at_most(2), max_per_lobby: Limit::at_most(2), ..seats(3) };
    let mut world = World::new(config, Witness::<true>::default());
    let mut check_room = |script: &str, expected: [Result<(), CloseReason>; 3]| {
        world.steps(script);
        let room = world.app(|_, cx| ["a", "b", "c"].map(|lobby| cx.can_accept_connection(lobby)));
        assert_eq!(room, expected, "{script}");
    };
    let (full, limit) = (Err(CloseReason::LobbyFull), Err(CloseReason::LobbyLimit));
    check_room("", [Ok(()); 3]);
    check_room("ann > connect a", [Ok(()); 3]);
    // A reserved seat counts.
    check_room("bob > get /ws/a?token=bob&auth=later", [full, Ok(()), Ok(())]);
    check_room("cid > get /ws/b?token=cid&auth=later", [Err(CloseReason::ServerFull); 3]);
    check_room("bob > hangup", [Ok(()), Ok(()), limit]);
    check_room("cid > hangup", [Ok(()); 3]);
}

/// A connection whose authorization for a new lobby is pending reserves that lobby in addition to the user's current one.
#[test]
fn a_lobby_pending_authorization_counts_against_max_lobbies() {
    let config = Config { max_lobbies: Limit::at_most(1), ..Config::default() };
    let mut world = World::new(config, Witness::<true>::default());
    world.run(
        r#"
        ann > connect chess
        ann < upgrade, welcome, presence_state
        ann:2 > get /ws/go?token=ann&auth=later
        ann:2 < upgrade, goodbye code=4002, close 4002 lobby_limit
        # Without a reservation, the new lobby replaces the one that becomes empty.
        ann:3 > get /ws/go?token=ann&auth=unnamed
        "#,
    );
    world.authorize("ann:3", Authorization::allow("ann"));
    world.run(
        r#"
        ann < goodbye code=4004, close 4004 replaced
        ann:3 < upgrade, welcome lobby=go, presence_state users=ann
        "#,
    );
}

#[test]
fn a_user_can_move_to_another_lobby_of_a_full_server() {
    let config = Config { max_lobbies: Limit::at_most(2), ..seats(2) };
    check(
        config,
        r#"
        ann > connect chess
        ann < upgrade, welcome conn=s1, presence_state
        bob > connect chess
        bob < upgrade, welcome, presence_state
        ann < presence_diff +bob
        # The server is full, and ann is one of its members.
        ann:2 > connect go
        ann < goodbye code=4004, close 4004 replaced
        bob < presence_diff -ann:replaced
        ann:2 < upgrade, welcome conn=s3 lobby=go, presence_state users=ann
        # There are two lobbies. The one that bob leaves is removed.
        bob:2 > connect hearts
        bob < goodbye code=4004, close 4004 replaced
        bob:2 < upgrade, welcome lobby=hearts, presence_state users=bob
        "#,
    );
}

/// Settings under which no idle member is pinged for a minute.
fn one_seat_each(duplicate_login: DuplicateLogin) -> Config {
    let ping_interval = std::time::Duration::from_secs(60);
    Config { duplicate_login, ping_interval, ..Config::default() }
}

#[test]
fn a_refused_login_pings_the_old_seat_and_says_when_the_outcome_is_known() {
    for duplicate_login in [DuplicateLogin::Reject, DuplicateLogin::Allow] {
        check(
            one_seat_each(duplicate_login),
            r#"
            ann, bob join chess
            advance 5s
            ann:2 > connect chess
            ann < ping
            ann:2 < upgrade, goodbye code=4002 reason=user_limit reconnect=true retry_after_ms=10020, close 4002 user_limit
            # One ping is enough.
            advance 4s
            ann:3 > connect go
            ann:3 < upgrade, goodbye reconnect=true retry_after_ms=6020, close 4002 user_limit
            ann < nothing
            advance 6s
            ann < goodbye, close 4201 stale
            bob < presence_diff -ann:timeout
            ann:4 > connect chess
            ann:4 < upgrade, welcome, presence_state
            bob < presence_diff +ann
            advance 5s
            ann < eof
            ann:2 < eof
            ann:3 < eof
            "#,
        );
    }
}

#[test]
fn refused_logins_cannot_multiply_pings() {
    let mut world = World::new(one_seat_each(DuplicateLogin::Reject), lobbyd::apps::Relay::default());
    world.run("ann joins chess");
    let login = |world: &mut World<_>, name: &str, goodbye: &str| {
        world.act(name, "connect chess");
        world.flush();
        world.steps(&format!("{name} < upgrade, goodbye reason=user_limit {goodbye}, close 4002 user_limit"));
        world.steps(&format!("{name} > close 1000\n{name} < eof"));
    };
    login(&mut world, "ann:2", "reconnect=true retry_after_ms=10020");
    world.run("ann < ping\nadvance 20ms\nann > pong");
    // It has answered: the user is there.
    for _ in 0..100 {
        login(&mut world, "ann:2", "reconnect=false !retry_after_ms");
        world.run("ann < nothing");
    }
    world.run("advance 19s");
    login(&mut world, "ann:2", "reconnect=false !retry_after_ms");
    world.run("ann < nothing\nadvance 1s");
    // By now it may have failed.
    login(&mut world, "ann:2", "reconnect=true retry_after_ms=10020");
    world.run("ann < ping\nann > pong");
    assert_eq!(world.engine.stats().counters.pings, 2);
}

#[test]
fn a_refused_login_to_a_raw_application_pings_too() {
    let mut world = World::new(one_seat_each(DuplicateLogin::Reject), lobbyd::apps::Verbatim::default());
    world.run(
        r#"
        ann > connect chess
        ann < upgrade
        ann:2 > connect chess
        ann:2 < upgrade, close 4002 user_limit
        ann < ping
        advance 10s
        ann < close 4201 stale
        ann:2 < eof
        ann:3 > connect chess
        ann:3 < upgrade
        "#,
    );
}

#[test]
fn of_several_seats_the_one_that_was_silent_longest_is_pinged() {
    let config = Config { max_per_user: Limit::at_most(2), ..one_seat_each(DuplicateLogin::Allow) };
    let mut world = World::new(config, lobbyd::apps::Verbatim::default());
    world.run(
        r#"
        ann > connect chess
        ann < upgrade
        ann:2 > connect chess
        ann:2 < upgrade
        advance 1s
        ann > pong
        ann:3 > connect chess
        ann:3 < upgrade, close 4002 user_limit
        ann:2 < ping
        ann < nothing
        # A member of another user is of no concern.
        bob > connect chess
        bob < upgrade
        "#,
    );
}
