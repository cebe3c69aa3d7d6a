//! Rates of connection attempts.

use std::time::Duration;

use lobbyd::apps::Relay;
use lobbyd::config::Limit;
use lobbyd::sim::MemorySockets;
use lobbyd::sim::wire::{self, Reader, Received};
use lobbyd::{CloseReason, Config};

use super::{assert_within_a_percent, measure, no_rates};
use crate::common::scenario::{World, check};

/// Sends a request from the world's address. Returns the status and the head of the answer.
fn attempt(world: &mut World<Relay>) -> (u16, String) {
    let conn = world.engine.handle_accept(world.now, world.peer).expect("there is room");
    world.engine.handle_bytes(world.now, conn, &wire::upgrade_request("/ws/chess?token=ann", &[]));
    let mut sockets = MemorySockets::default();
    world.engine.flush(&mut sockets).expect("the session is not recorded");
    world.engine.handle_hangup(world.now, conn);
    world.engine.flush(&mut sockets).expect("the session is not recorded");
    let mut reader = Reader::default();
    reader.push(&sockets.written(conn));
    match reader.next() {
        Ok(Some(Received::Answer(status, head))) => (status, head),
        other => panic!("no answer: {other:?}"),
    }
}

#[test]
fn attempts_of_an_address_are_rate_limited() {
    let config = Config { attempts_per_minute: Limit::at_most(300), attempt_burst: 20, ..no_rates() };
    let mut world = World::new(config, Relay::default());
    let mut granted = 0;
    let connect = |world: &mut World<Relay>| {
        let (status, _) = attempt(world);
        assert!(status == 101 || status == 429, "{status}");
        granted += u64::from(status == 101);
    };
    let (burst, later) =
        measure(&mut world, 50, Duration::from_millis(10), connect, |world| world.engine.stats().counters.joined);
    assert_eq!(burst, 20);
    assert_within_a_percent(later, 300, "attempts in a minute");
    assert_eq!(granted, burst + later);
    // The rate does not apply to another address.
    world.peer = ([10, 0, 0, 1], 4000).into();
    assert_eq!(attempt(&mut world).0, 101);
    world.engine.check();
}

#[test]
fn too_many_attempts_get_429_with_retry_after() {
    let config = Config { attempts_per_minute: Limit::at_most(20), attempt_burst: 4, ..no_rates() };
    let mut world = World::new(config, Relay::default());
    (0..4).for_each(|_| assert_eq!(attempt(&mut world).0, 101));
    #[track_caller]
    fn check_refused(world: &mut World<Relay>, retry_after: u32, remaining: u32, reset: u32) {
        let (status, head) = attempt(world);
        assert_eq!(status, 429, "{head}");
        for line in [
            format!("Retry-After: {retry_after}"),
            "X-RateLimit-Limit: 4".into(),
            format!("X-RateLimit-Remaining: {remaining}"),
            format!("X-RateLimit-Reset: {reset}"),
        ] {
            assert!(head.contains(&format!("\r\n{line}\r\n")), "{line} is missing in {head}");
        }
    }
    // One attempt every three seconds.
    check_refused(&mut world, 3, 0, 12);
    world.advance(Duration::from_millis(500));
    check_refused(&mut world, 3, 0, 12);
    world.advance(Duration::from_millis(500));
    check_refused(&mut world, 2, 0, 11);
    // Refused attempts took no tokens.
    world.advance(Duration::from_secs(2));
    assert_eq!(attempt(&mut world).0, 101);
    check_refused(&mut world, 3, 0, 12);
    world.advance(Duration::from_secs(12));
    (0..4).for_each(|_| assert_eq!(attempt(&mut world).0, 101));
    check_refused(&mut world, 3, 0, 12);
    assert_eq!(world.engine.stats().counters.closed(CloseReason::HttpRefused), 5);
}

/// Every request is an attempt. A socket without a request is not.
#[test]
fn every_request_is_an_attempt() {
    let config = Config { attempts_per_minute: Limit::at_most(1), attempt_burst: 3, ..no_rates() };
    check(
        config,
        r#"
        quiet > open
        a > get /nothing
        a < upgrade, goodbye, close 4007 bad_lobby_code
        b > get /ws/chess
        b < upgrade, goodbye, close 4001 unauthorized
        c > get /ws/chess?token=c
        c < upgrade, welcome, presence_state
        d > get /ws/chess?token=d
        d < http 429, body too many connections from your address; wait a little, eof
        e > get /nothing
        e < http 429, body, eof
        # Health requests are always answered and do not count.
        f > open
        f > raw GET /health/live HTTP/1.1\r\nHost: a\r\n\r\n
        f < http 200, body live, eof
        g > open
        g > raw GET /health/ready HTTP/1.1\r\nHost: a\r\n\r\n
        g < http 200, body ready, eof
        "#,
    );
}

/// With a rate of zero, `Retry-After` is the largest number that every client can parse.
#[test]
fn a_rate_of_zero_attempts_refuses_every_connection() {
    let config = Config { attempts_per_minute: Limit::at_most(0), ..Config::default() };
    let mut world = World::new(config, Relay::default());
    world.open("ann");
    world.send("ann", &wire::upgrade_request("/ws/chess?token=ann", &[]));
    let mut sockets = MemorySockets::default();
    world.engine.flush(&mut sockets).expect("the session is not recorded");
    let answer = String::from_utf8(sockets.written(world.conn("ann"))).expect("ASCII");
    assert!(answer.starts_with("HTTP/1.1 429 ") && answer.contains("\r\nRetry-After: 2147483648\r\n"), "{answer}");
}
