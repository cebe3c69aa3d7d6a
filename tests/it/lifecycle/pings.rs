//! Pings of RFC 6455, which test the network path. In virtual time.

use std::time::Duration;

use lobbyd::apps::Relay;
use lobbyd::sim::wire::{self, Opcode};
use lobbyd::{CloseReason, Config, Time};

use crate::common::scenario::{World, check};
use crate::common::witness::Witness;

#[test]
fn silence_leads_to_a_ping_and_then_to_a_close() {
    let mut world = World::new(Config::default(), Relay::default());
    world.run("ann joins chess");
    world.run(
        r#"
        advance 19999ms
        ann < nothing
        advance 1ms
        ann < ping
        advance 9999ms
        ann < nothing
        # Stale after ping_interval and pong_timeout. Then close_timeout passes, then linger_timeout.
        advance 1ms
        ann < goodbye code=4201 reason=stale reconnect=true, close 4201 stale
        advance 1999ms
        ann < nothing
        advance 1ms
        ann < eof
        advance 999ms
        "#,
    );
    assert!(world.is_open("ann"));
    world.run("advance 1ms");
    assert!(!world.is_open("ann"));
    assert_eq!(world.engine.poll_timeout(), None);
    let counters = world.engine.stats().counters;
    assert_eq!((counters.pings, counters.closed(CloseReason::Stale)), (1, 1));
}

/// Wherever in a granule the last activity was, a ping is never early and at most one granule late.
#[test]
fn deadlines_are_kept_to_within_a_granule() {
    let granule = Duration::from_millis(7);
    let config = Config {
        wheel_granule: granule,
        ping_interval: Duration::from_millis(200),
        pong_timeout: Duration::from_millis(100),
        ..Config::default()
    };
    for offset in [0, 1, 3500, 6999, 7000, 7001, 123_456] {
        let mut world = World::new(config.clone(), Relay::default());
        world.advance(Duration::from_micros(offset));
        world.run("ann joins chess");
        let active_at = world.now;
        let mut wait_for = |at_least: Duration, event: &str| {
            let due = world.now + at_least;
            while world.take("ann").is_empty() {
                let next = world.engine.poll_timeout().expect("a member has a timer");
                world.advance(next - world.now);
            }
            assert!(world.now >= due && world.now <= due + granule, "{event} at {}, due {due}", world.now);
            world.now
        };
        let pinged = wait_for(config.ping_interval, "ping");
        let stale = wait_for(config.pong_timeout, "close");
        assert!(stale - active_at <= config.ping_interval + config.pong_timeout + 2 * granule);
        assert!(pinged < stale);
    }
}

#[test]
fn any_byte_counts_as_activity() {
    #[track_caller]
    fn check_saves(bytes: &[u8]) {
        let mut world = World::new(Config::default(), Relay::default());
        world.run("ann joins chess");
        world.run("advance 29s\nann < ping");
        world.send("ann", bytes);
        world.flush();
        world.take("ann");
        // The next ping comes after the full interval again.
        world.run("advance 19990ms\nann < nothing\nadvance 10ms\nann < ping");
        world.run("advance 10s\nann < goodbye, close 4201 stale");
    }
    let pong = wire::frame(Opcode::PONG, true, b"", [1; 4]);
    check_saves(&pong);
    check_saves(&wire::frame(Opcode::PONG, true, b"unasked", [1; 4]));
    check_saves(&wire::text(r#"{"type":"ping"}"#));
    check_saves(&wire::frame(Opcode::PING, true, b"", [1; 4]));
    check_saves(&wire::text("nonsense"));
    // A part of a frame is enough.
    check_saves(&pong[..1]);
}

/// The driver reads before it expires timers, so input that has arrived by then is in time.
#[test]
fn a_pong_at_the_deadline_is_in_time() {
    let mut world = World::new(Config::default(), Relay::default());
    world.run("ann joins chess");
    world.run("advance 20s\nann < ping\nadvance 9999ms");
    let deadline = world.engine.poll_timeout().expect("a member has a timer");
    let conn = world.conn("ann");
    world.engine.handle_bytes(deadline, conn, &wire::frame(Opcode::PONG, true, b"", [1; 4]));
    world.end_turn_at(deadline);
    world.run("ann < nothing\nadvance 5s\nann < nothing");
    assert_eq!(world.engine.stats().total_connections, 1);
}

#[test]
fn a_busy_connection_is_never_pinged() {
    let mut world = World::new(Config::default(), Relay::default());
    world.run("ann joins chess");
    for _ in 0..50 {
        world.run("advance 19900ms\nann > {\"type\":\"ping\"}\nann < pong");
    }
    assert_eq!(world.engine.stats().counters.pings, 0);
}

/// A successful send proves nothing: the bytes may stay in a buffer of the operating system.
#[test]
fn sending_to_a_connection_is_not_activity() {
    check(
        Config::default(),
        r#"
        ann, bob join chess
        advance 15s
        bob > {"type":"broadcast","data":1}
        ann < message
        advance 10s
        ann < ping
        bob > {"type":"broadcast","data":2}
        ann < message
        advance 5s
        ann < goodbye, close 4201 stale
        bob < presence_diff -ann:timeout
        "#,
    );
}

#[test]
fn a_peer_that_answers_the_close_is_finished_at_once() {
    let mut world = World::new(Config::default(), Relay::default());
    world.run("ann joins chess");
    world.run(
        r#"
        advance 30s
        ann < ping, goodbye, close 4201 stale
        # The peer is alive, but the connection is closing: its messages are ignored.
        ann > {"type":"ping"}
        ann > ping x
        ann < nothing
        ann > close 4201
        ann < eof
        ann > hangup
        "#,
    );
    assert_eq!(world.engine.stats().closing, 0);
    assert_eq!(world.engine.poll_timeout(), None);
    assert_eq!(world.engine.stats().counters.closed(CloseReason::Stale), 1);
}

#[test]
fn a_peer_that_never_reads_is_dropped_too() {
    let mut world = World::new(Config::default(), Relay::default());
    world.run("ann joins chess");
    world.run("ann > window 0\nadvance 33s\nann < cut");
    assert_eq!(world.engine.stats().counters.closed(CloseReason::Stale), 1);
    assert_eq!(world.engine.poll_timeout(), None);
}

#[test]
fn an_application_can_report_activity() {
    let mut world = World::new(Config::default(), Relay::default());
    world.run("ann joins chess");
    let conn = world.conn("ann");
    for _ in 0..5 {
        world.run("advance 15s");
        world.app(|_, cx| cx.update_last_message(conn));
    }
    world.run("ann < nothing\nadvance 20s\nann < ping");
}

#[test]
fn time_never_goes_back() {
    let mut world = World::new(Config::default(), Witness::<true>::default());
    world.run("ann joins chess");
    world.run("advance 19s");
    let conn = world.conn("ann");
    let earlier = Time::from_micros(1);
    // If the clock goes back, the engine keeps the latest time it has seen.
    world.end_turn_at(earlier);
    world.engine.handle_command(earlier, b"x");
    world.engine.handle_bytes(earlier, conn, &wire::text(r#"{"type":"ping"}"#));
    assert_eq!(world.engine.act(earlier, |_, cx| cx.now()), world.now);
    world.flush();
    world.run("ann < pong server_time=1000019000\nadvance 19990ms\nann < nothing\nadvance 10ms\nann < ping");
}

#[test]
fn a_long_sleep_loses_no_timer() {
    let mut world = World::new(Config::default(), Relay::default());
    world.run("ann joins chess");
    world.run("bob > open");
    // As if the process had been stopped for a day: all due timers fire at once, in order.
    world.now = Time::from_micros(86_400_000_000);
    world.end_turn();
    world.run("bob < http 408, body, eof\nann < ping\nann > pong x\nadvance 19s\nann < nothing");
}
