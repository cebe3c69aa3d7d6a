//! The number of sockets without a seat: pending and closing.

use std::time::Duration;

use lobbyd::apps::Relay;
use lobbyd::config::ByteSize;
use lobbyd::driver::Full;
use lobbyd::sim::{MemorySockets, wire};
use lobbyd::{Authorization, CloseReason, Config, Engine, Time};

use super::seats::seats;
use crate::common::scenario::{START, World};
use crate::common::witness::Witness;

#[test]
fn sockets_without_a_seat_are_bounded() {
    let config = Config { max_pending: 2, ..seats(1) };
    let mut world = World::new(config, Witness::<true>::default());
    world.run(
        r#"
        # One connection without a request, and one that waits for its authorization.
        a > open
        b > get /ws/chess?token=b&auth=later
        c > connect chess
        c < http 503, body the server is busy; try again in a moment, eof
        c > hangup
        # A connection with a seat is no longer pending.
        "#,
    );
    world.authorize("b", Authorization::allow("b"));
    world.run(
        r#"
        b < upgrade, welcome, presence_state
        d > connect chess
        # A connection that is upgraded only to read its refusal is still pending.
        d < upgrade, goodbye code=4002, close 4002 server_full
        e > connect chess
        e < http 503, body, eof
        d > close 4002
        d < eof
        d > hangup
        f > connect chess
        f < upgrade, goodbye, close 4002 server_full
        "#,
    );
}

#[test]
fn closing_sockets_are_bounded_and_the_oldest_is_dropped() {
    let config = Config { max_pending: 1, max_overflow: 0, max_closing: 2, ..seats(1) };
    let mut world = World::new(config, Relay::default());
    world.run(
        r#"
        ann > connect chess
        ann < upgrade, welcome, presence_state
        p > open
        # Each of these is refused, and stays closing until it is dropped.
        c1 > open
        c1 < http 503, body, eof
        c2 > open
        c2 < http 503, body, eof
        c3 > open
        c3 < http 503, body, eof
        c4 > open
        c4 < http 503, body, eof
        ann < nothing
        p < nothing
        "#,
    );
    assert_eq!(world.engine.stats().closing, 2);
    assert!(!world.is_open("c1") && !world.is_open("c2"), "the oldest are dropped, after their answers");
    assert!(world.is_open("c3") && world.is_open("c4"));
    // A seat that is freed leaves one more closing connection.
    world.run("ann > {\"type\":\"leave\"}\nann < goodbye, close 1000 left");
    assert_eq!(world.engine.stats().closing, 3, "there is room while seats are free");
    world.run("p > hangup\nbob > connect chess\nbob < upgrade, welcome, presence_state");
    assert_eq!((world.engine.stats().closing, world.is_open("c3")), (3, true));
    world.run("q > open");
    assert_eq!((world.engine.stats().closing, world.is_open("c3")), (2, false));
}

#[test]
fn no_socket_is_accepted_beyond_all_bounds() {
    let config = Config { max_pending: 1, max_overflow: 0, max_closing: 1, ..seats(0) };
    let mut engine = Engine::new(config.check().expect("the configuration is valid"), START, Relay::default());
    let peer = ([127, 0, 0, 1], 4000).into();
    assert!(engine.handle_accept(Time::ZERO, peer).is_ok());
    assert!(engine.handle_accept(Time::ZERO, peer).is_ok(), "it is answered with HTTP status 503");
    // During a drain no closing socket is dropped for a new one.
    engine.handle_drain(Time::ZERO);
    assert_eq!(engine.handle_accept(Time::ZERO, peer), Err(Full));
    assert_eq!((engine.stats().counters.shed, engine.stats().counters.accepted), (1, 2));
    engine.check();
}

/// A peer that goes on sending after the goodbye is read for max_linger_bytes only.
#[test]
fn a_peer_that_keeps_sending_after_the_close_is_dropped() {
    let config = Config { max_linger_bytes: ByteSize(1000), ..Config::default() };
    let mut world = World::new(config, Relay::default());
    world.run("ann joins chess");
    world.app(|_, cx| assert_eq!(cx.close_user("ann", CloseReason::Kicked), 1));
    world.run("ann < goodbye, close 4003 kicked");
    world.send("ann", &wire::text(&"x".repeat(900)));
    world.flush();
    world.run("ann < nothing");
    world.send("ann", &wire::text(&"x".repeat(100)));
    world.flush();
    world.run("ann < cut");
    assert_eq!(world.engine.stats().counters.closed(CloseReason::Kicked), 1);
}

/// Sockets without a request block only sockets of their own address.
#[test]
fn silent_sockets_of_one_address_do_not_block_others() {
    let config = Config { max_pending: 3, max_overflow: 0, ..Config::default() };
    let mut engine = Engine::new(config.check().expect("the configuration is valid"), START, Relay::default());
    let attacker = ([127, 0, 0, 2], 4000).into();
    for _ in 0..20 {
        engine.handle_accept(Time::ZERO, attacker).expect("there is room for it, or an answer");
        engine.check();
    }
    assert_eq!(engine.stats().pending, 3);
    for user in 0..5 {
        let conn = engine.handle_accept(Time::ZERO, ([127, 0, 0, 1], 4000).into()).expect("another socket makes room");
        let request = wire::upgrade_request(&format!("/ws/chess?token=user{user}"), &[]);
        engine.handle_bytes(Time::ZERO, conn, &request);
        engine.check();
        assert_eq!(engine.stats().total_connections, user + 1);
    }
    // The attacker has two of the three pending sockets, and another address has one that may still send a request. No socket
    // is displaced for one more.
    engine.handle_accept(Time::ZERO, ([127, 0, 0, 1], 4000).into()).expect("another socket makes room");
    engine.handle_accept(Time::ZERO, attacker).expect("there is room");
    let before = engine.stats().counters.closed(CloseReason::HttpRefused);
    engine.handle_accept(Time::ZERO, ([127, 0, 0, 1], 4001).into()).expect("an answer");
    assert_eq!(engine.stats().counters.closed(CloseReason::HttpRefused), before + 1, "with 503");
    engine.check();
}

/// All sockets come from the proxy, so the addresses that it names are compared when the request is read.
#[test]
fn behind_a_proxy_the_address_with_most_waiting_clients_gives_way() {
    let config = Config { max_pending: 4, max_overflow: 1, trusted_proxies: 1, ..Config::default() };
    let mut engine =
        Engine::new(config.check().expect("the configuration is valid"), START, Witness::<true>::default());
    let mut sockets = MemorySockets::default();
    let mut request = |client: &str, target: &str| {
        let conn = engine.handle_accept(Time::ZERO, ([127, 0, 0, 1], 4000).into()).expect("there is room");
        let forwarded = format!("X-Forwarded-For: {client}");
        engine.handle_bytes(Time::ZERO, conn, &wire::upgrade_request(target, &[&forwarded]));
        engine.end_turn(Time::ZERO, &mut sockets).expect("nothing is recorded");
        engine.check();
        (conn, engine.stats().pending, engine.stats().total_connections)
    };
    let waits = "/ws/chess?token=eve&auth=later";
    let flood: Vec<_> = (0..4).map(|_| request("192.0.2.9", waits).0).collect();
    let (_, pending, seated) = request("192.0.2.1", "/ws/chess?token=ann");
    assert_eq!((pending, seated), (3, 1), "the oldest of the flood made room");
    assert_eq!(request("192.0.2.9", waits).1, 4);
    let (last, _, _) = request("192.0.2.9", waits);
    request("192.0.2.2", waits);
    let (bob, _, _) = request("192.0.2.2", waits);
    let (third, _, _) = request("192.0.2.2", waits);
    let mut status = |conn| String::from_utf8_lossy(&sockets.written(conn)).chars().skip(9).take(3).collect::<String>();
    assert_eq!([flood[0], flood[1], flood[2], flood[3]].map(&mut status), ["503", "503", "503", ""]);
    assert_eq!(
        [last, bob, third].map(status),
        ["503", "", "503"],
        "it displaces none of its own; then both addresses have two"
    );
}

/// A load balancer must not take the server out of service because strangers hold all sockets without a seat.
#[test]
fn health_checks_are_answered_beyond_max_pending() {
    let config = Config { max_pending: 2, max_overflow: 2, trusted_proxies: 1, ..seats(1) };
    let mut world = World::new(config, Relay::default());
    world.run("a > open\nb > open");
    for round in 0..10 {
        world.run(&format!(
            r#"
            # The probe's request may arrive later than one more stranger.
            p{round} > open
            s{round} > open
            s{round} > raw GET
            p{round} > raw GET /health/ready HTTP/1.1\r\n
            p{round} > raw Host: a\r\n\r\n
            p{round} < http 200, body ready, eof
            live{round} > open
            live{round} > raw GET /health/live HTTP/1.1\r\nHost: a\r\n\r\n
            live{round} < http 200, body live, eof
            ann{round} > connect chess
            ann{round} < http 503, body the server is busy; try again in a moment, eof
            # The stranger was displaced.
            s{round} < http 503, body, eof
            "#
        ));
        assert!(world.engine.stats().pending <= 4);
    }
    world.run("a < nothing\nb < nothing");
}

/// A stranger that keeps its socket without a request does not hold it for longer than others.
#[test]
fn sockets_beyond_max_pending_time_out_too() {
    let config = Config { max_pending: 1, handshake_timeout: Duration::from_secs(1), ..Config::default() };
    let mut world = World::new(config, Relay::default());
    world.run(
        r#"
        a > open
        advance 500ms
        b > open
        advance 500ms
        a < http 408, body, eof
        b < nothing
        # There is room when its request arrives.
        a > hangup
        b > raw GET /ws/chess?token=bob HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n
        b > raw Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n
        b < upgrade, welcome, presence_state users=bob
        c > open
        d > open
        advance 1s
        c < http 408, body, eof
        d < http 408, body, eof
        advance 2s
        "#,
    );
    assert_eq!((world.engine.stats().pending, world.engine.stats().total_connections), (0, 1));
}

/// A drain answers health checks until its end, however many sockets are closing.
#[test]
fn health_checks_are_answered_during_a_drain_of_a_crowd() {
    let config = Config { max_pending: 1, max_closing: 1, max_overflow: 1, ..seats(1) };
    let mut world = World::new(config, Relay::default());
    world.run("ann joins chess\nann > window 0\na > open\nb > connect chess\nb < http 503, body, eof");
    let now = world.now;
    world.engine.handle_drain(now);
    world.flush();
    world.run("a < http 503, body, eof");
    for round in 0..3 {
        world.run(&format!(
            r#"
            p{round} > open
            p{round} > raw GET /health/ready HTTP/1.1\r\nHost: a\r\n\r\n
            p{round} < http 503, body draining, eof
            q{round} > open
            q{round} > raw GET /health/live HTTP/1.1\r\nHost: a\r\n\r\n
            q{round} < http 200, body live, eof
            c{round} > connect chess
            c{round} < http 503, body the server is shutting down; try again in a moment, eof
            "#
        ));
    }
    assert!(!world.engine.is_drained());
}

/// Strangers beyond all bounds are answered; what they cost is bounded.
#[test]
fn sockets_beyond_max_overflow_displace_the_oldest() {
    let config = Config { max_pending: 1, max_closing: 1, max_overflow: 3, ..seats(0) };
    let mut engine = Engine::new(config.check().expect("the configuration is valid"), START, Relay::default());
    let mut sockets = MemorySockets::default();
    for _ in 0..50 {
        engine.handle_accept(Time::ZERO, ([127, 0, 0, 1], 4000).into()).expect("the oldest gives way");
        engine.check();
        engine.end_turn(Time::ZERO, &mut sockets).expect("the session is not recorded");
        let stats = engine.stats();
        assert!(stats.pending <= 4 && stats.closing <= 1, "{stats:?}");
    }
    let refused = sockets.take_writes().len();
    assert_eq!(refused, 46, "each displaced socket is answered");
    engine.handle_drain(Time::ZERO);
    engine.handle_accept(Time::ZERO, ([127, 0, 0, 1], 4000).into()).expect("health checks are answered in a drain");
    engine.check();
}
