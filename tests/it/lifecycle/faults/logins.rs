//! Logins and seats.

use std::time::Duration;

use lobbyd::apps::Relay;
use lobbyd::config::Limit;
use lobbyd::{CloseReason, Config, Frame};

use super::{lobby_of, several_logins};
use crate::common::scenario::{World, check};
use crate::common::witness::Witness;

/// The reference implementation closed before it accepted: pages saw code 1006 and no reason.
#[test]
fn a_refusal_reaches_the_page_as_a_close_code() {
    check(
        lobby_of(1),
        r#"
        ann > connect chess
        ann < upgrade, welcome, presence_state
        bob > connect chess
        bob < upgrade, goodbye code=4002 reason=lobby_full reconnect=false, close 4002 lobby_full
        bob > close 4002
        bob < eof
        cid > get /ws/chess
        cid < upgrade, goodbye code=4001 reason=unauthorized reconnect=false, close 4001 unauthorized
        "#,
    );
}

/// The reference implementation had one entry per user, which the first login to end deleted.
#[test]
fn ending_the_older_login_keeps_the_newer_one_reachable() {
    let mut world = World::new(several_logins(2), Relay::default());
    world.run(
        r#"
        bob, ann:1 join chess
        ann:2 > connect chess
        ann:2 < upgrade, welcome, presence_state users=bob,ann,ann
        bob < presence_diff +ann
        ann:1 < presence_diff +ann
        ann:1 > hangup
        bob < presence_diff -ann:dropped
        ann:2 < presence_diff -ann:dropped
        bob > {"type":"direct","to":"ann","data":1,"ref":1}
        bob < ack ref=1
        ann:2 < direct from=bob data=1
        "#,
    );
    assert!(world.app(|_, cx| cx.is_user_connected("ann")));
    assert_eq!(world.app(|_, cx| cx.ping_user("ann", Duration::from_secs(2))), 1);
    world.run("ann:2 < health_ping");

    // The same if the newer login replaces the older one.
    check(
        Config::default(),
        r#"
        bob, ann:1 join chess
        ann:2 > connect chess
        ann:1 < goodbye code=4004 reason=replaced, close 4004 replaced
        ann:2 < upgrade, welcome, presence_state
        ann:1 > hangup
        bob > {"type":"direct","to":"ann","data":1,"ref":1}
        bob < ack ref=1
        ann:2 < direct from=bob data=1
        "#,
    );
}

/// The reference implementation left the older socket in the lobby: it kept its seat and received every message.
#[test]
fn a_replaced_login_receives_nothing_more_and_keeps_no_seat() {
    let mut world = World::new(lobby_of(2), Witness::<true>::default());
    world.run(
        r#"
        bob > connect chess
        bob < upgrade, welcome, presence_state
        ann:1 > connect chess
        ann:1 < upgrade, welcome conn=s2, presence_state
        bob < presence_diff +ann
        ann:2 > connect chess
        ann:2 < upgrade, welcome conn=s2 seq=1, presence_state users=bob,ann
        ann:1 < goodbye code=4004 reason=replaced reconnect=false, close 4004 replaced
        # There was no join and no leave. Messages from the older socket are ignored.
        bob < nothing
        ann:1 > {"type":"broadcast","data":"old"}
        ann:1 > {"type":"move"}
        bob > {"type":"broadcast","data":"new","ref":1}
        bob < ack ref=1 delivered=1
        ann:2 < message data=new
        "#,
    );
    assert_eq!(world.engine.stats().total_connections, 2);
    assert_eq!(world.engine.app_mut().take(), ["join bob", "join ann", "rejoin ann", "may bob broadcast \"new\""]);
}

/// The reference implementation refused a user whose own stale connection occupied the last seat.
#[test]
fn a_user_returning_to_a_full_lobby_takes_over_its_seat() {
    let full = Config { max_connections: Limit::at_most(2), max_lobbies: Limit::at_most(1), ..lobby_of(2) };
    check(
        full,
        r#"
        ann:1, bob join chess
        ann:2 > connect chess
        ann:2 < upgrade, welcome, presence_state users=ann,bob
        ann:1 < goodbye code=4004, close 4004 replaced
        "#,
    );
}

/// The reference implementation created a lobby for any path, with no bound on its name or on the number of lobbies.
#[test]
fn a_lobby_needs_a_valid_code_and_room() {
    let mut world = World::new(Config { max_lobbies: Limit::at_most(1), ..Config::default() }, Relay::default());
    let long = format!("/ws/{}", "x".repeat(65));
    for (n, path) in
        ["/ws/", "/ws/a.b", "/ws/a%2Fb", "/ws/a/b", "/ws/sch%C3%B6n", "/ws/a%20b", &long].iter().enumerate()
    {
        world.run(&format!(
            "x{n} > get {path}?token=x{n}\nx{n} < upgrade, goodbye code=4007, close 4007 bad_lobby_code"
        ));
    }
    assert_eq!(world.engine.stats().active_lobbies, 0);
    world.run(&format!("ann > connect {}\nann < upgrade, welcome, presence_state", "x".repeat(64)));
    world.run(
        r#"
        bob > connect chess
        bob < upgrade, goodbye code=4002, close 4002 lobby_limit
        ann > hangup
        bob > close 4002
        bob < eof
        bob > hangup
        # An empty lobby is removed, which makes room for another.
        bob > connect chess
        bob < upgrade, welcome, presence_state
        "#,
    );
}

/// The reference implementation sent no presence, no joins, no leaves and no close reasons.
#[test]
fn a_client_learns_the_members_and_its_close_reason() {
    let mut world = World::new(Config::default(), Relay::default());
    world.run(
        r#"
        ann > connect chess
        ann < upgrade, welcome protocol=1 user=ann lobby=chess conn=s1, presence_state users=ann
        bob > connect chess
        bob < upgrade, welcome protocol=1 user=bob lobby=chess conn=s2, presence_state users=ann,bob
        ann < presence_diff +bob
        "#,
    );
    world.app(|_, cx| cx.close_user("bob", CloseReason::Banned));
    world.run(
        r#"
        bob < goodbye code=4003 reason=banned reconnect=false, close 4003 banned
        ann < presence_diff -bob:kicked
        "#,
    );
}

/// In the reference implementation a user that entered a second lobby could not be reached in the first. After leaving the
/// second it could not be reached at all.
#[test]
fn a_user_is_reached_in_every_lobby() {
    let mut world = World::new(several_logins(2), Relay::default());
    world.run(
        r#"
        ann:1 > connect chess
        ann:1 < upgrade, welcome, presence_state
        ann:2 > connect go
        ann:2 < upgrade, welcome, presence_state
        "#,
    );
    let hello = Frame::text(r#"{"type":"hello"}"#);
    assert_eq!(world.app(|_, cx| cx.send_to_user("ann", &hello)).queued, 2);
    world.run("ann:1 < hello\nann:2 < hello\nann:2 > hangup");
    assert_eq!(world.app(|_, cx| cx.send_to_user("ann", &hello)).queued, 1);
    world.run("ann:1 < hello");
    assert!(world.app(|_, cx| cx.is_user_connected("ann")));

    // With one seat per user, the user leaves one lobby when it enters the other.
    check(
        Config::default(),
        r#"
        bob, ann join chess
        ann:2 > connect go
        bob < presence_diff -ann:replaced
        ann < goodbye code=4004, close 4004 replaced
        ann:2 < upgrade, welcome lobby=go, presence_state users=ann
        "#,
    );
}
