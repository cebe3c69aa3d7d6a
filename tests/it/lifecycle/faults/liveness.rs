//! Timeouts, pings and latency.

use std::time::Duration;

use lobbyd::apps::Relay;
use lobbyd::sending::Sent;
use lobbyd::{CloseReason, Config, Frame, Time};

use super::several_logins;
use crate::common::scenario::{World, check};
use crate::common::witness::Witness;

/// The reference implementation counted a socket only once it was admitted, and waited for it without a timeout.
#[test]
fn silent_sockets_are_counted_and_timed_out() {
    let mut world = World::new(Config { max_pending: 2, ..Config::default() }, Relay::default());
    world.run(
        r#"
        a > open
        b > open
        b > raw GET /ws/chess HTTP/1.1\r\n
        c > connect chess
        c < http 503, body, eof
        c > hangup
        "#,
    );
    assert_eq!(world.engine.stats().pending, 2);
    world.run(
        r#"
        advance 4990ms
        b > raw Host: a\r\n
        a < nothing
        advance 10ms
        a < http 408, body, eof
        # A request that trickles in does not extend the deadline.
        b < http 408, body, eof
        advance 2s
        "#,
    );
    let stats = world.engine.stats();
    assert_eq!((stats.pending, stats.closing), (0, 0));
    assert_eq!(stats.counters.closed(CloseReason::HandshakeTimeout), 2);
}

/// In the reference implementation a late pong added the removed user to its maps again.
#[test]
fn late_pongs_for_a_closed_connection_change_nothing() {
    let mut world = World::new(Config::default(), Witness::<true>::default());
    world.run("ann joins chess");
    let ann = world.conn("ann");
    world.app(|_, cx| cx.ping_user("ann", Duration::from_secs(2)));
    world.run("ann < health_ping timestamp=1000000000\nann > hangup");
    // The slot is used again, under another id.
    world.run("bob > connect chess\nbob < upgrade, welcome, presence_state");
    assert_eq!(world.conn("bob").index(), ann.index());
    assert_ne!(world.conn("bob"), ann);
    let before = world.engine.stats();
    world.app(|app, cx| {
        app.take();
        assert_eq!(cx.record_pong(ann, 1_000_000_000), None);
        cx.update_last_message(ann);
        assert!(!cx.send_to_conn(ann, &Frame::text("{}")));
        assert_eq!(cx.queued_bytes(ann), 0);
        cx.close(ann, CloseReason::Kicked);
        assert_eq!(cx.send_to_user("ann", &Frame::text("{}")), Sent::default());
        assert_eq!(cx.ping_user("ann", Duration::from_secs(2)), 0);
        assert!(!cx.is_user_connected("ann"));
    });
    assert_eq!(world.engine.stats(), before);
    assert_eq!(world.engine.app_mut().take(), [""; 0]);
    world.run("bob < nothing");
}

/// In the reference implementation a second ping of the same user made the first one fail, and the reverse.
#[test]
fn several_pings_of_one_user_are_each_answered() {
    let mut world = World::new(Config::default(), Witness::<true>::default());
    world.run("ann joins chess");
    world.app(|_, cx| cx.ping_user("ann", Duration::from_secs(2)));
    world.run("ann < health_ping timestamp=1000000000\nadvance 1s");
    world.app(|_, cx| cx.ping_user("ann", Duration::from_secs(2)));
    world.app(|_, cx| cx.ping_user("ann", Duration::from_secs(2)));
    world.run(
        r#"
        ann < health_ping timestamp=1000001000, health_ping timestamp=1000001001
        advance 250ms
        ann > {"type":"health_pong","timestamp":1000001001}
        ann > {"type":"health_pong","timestamp":1000000000}
        advance 10ms
        ann > {"type":"health_pong","timestamp":1000001000}
        advance 10s
        "#,
    );
    let log = world.engine.app_mut().take();
    assert_eq!(log, ["join ann", "health ann 250000us", "health ann 1250000us", "health ann 260000us"]);
    assert_eq!(world.engine.stats().counters.health_checks_failed, 0);
}

/// In the reference implementation a late answer to one ping was taken for an answer to the next, with a latency far too low.
#[test]
fn late_pong_answers_no_later_ping() {
    let mut world = World::new(Config::default(), Witness::<true>::default());
    world.run("ann joins chess");
    world.app(|_, cx| cx.ping_user("ann", Duration::from_secs(2)));
    world.run("ann < health_ping timestamp=1000000000\nadvance 2010ms");
    world.app(|_, cx| cx.ping_user("ann", Duration::from_secs(2)));
    world.run(
        r#"
        ann < health_ping timestamp=1000002010
        advance 1ms
        ann > {"type":"health_pong","timestamp":1000000000}
        advance 499ms
        ann > {"type":"health_pong","timestamp":1000002010}
        ann > {"type":"health_pong","timestamp":1000002010}
        "#,
    );
    assert_eq!(world.engine.app_mut().take(), ["join ann", "health ann unhealthy", "health ann 500000us"]);
}

/// The reference implementation's ping raised an exception if the connection was closed.
#[test]
fn a_ping_always_has_a_result() {
    let mut world = World::new(Config::default(), Witness::<true>::default());
    assert_eq!(world.app(|_, cx| cx.ping_user("ann", Duration::from_secs(2))), 0, "no user of that name");
    for end in ["hangup", "close 1000", r#"{"type":"leave"}"#, "break", "connect", "connect elsewhere"] {
        world.run("ann joins chess");
        world.engine.app_mut().take();
        assert_eq!(world.app(|_, cx| cx.ping_user("ann", Duration::from_secs(2))), 1);
        match end {
            "break" => world.steps("ann > break\nann > ping x"),
            "connect" => world.steps("ann:2 > connect chess"),
            "connect elsewhere" => world.steps("ann:3 > connect go"),
            end => world.steps(&format!("ann < health_ping\nann > {end}")),
        }
        world.flush();
        let log = world.engine.app_mut().take();
        assert_eq!(log[0], "health ann unhealthy", "{end}: the result comes before the leave, {log:?}");
        assert_eq!(log.iter().filter(|event| event.starts_with("health")).count(), 1);
        world.app(|_, cx| cx.close_user("ann", CloseReason::Kicked));
        world.steps("advance 10s");
        assert!(!world.engine.app_mut().take().iter().any(|event| event.starts_with("health")), "{end}: once");
        for name in ["ann", "ann:2", "ann:3"] {
            if world.knows(name) {
                world.take(name);
            }
        }
    }
}

/// The reference implementation measured with wall time: a clock step gave negative or huge latencies.
#[test]
fn latency_is_never_negative_when_the_clock_steps() {
    let mut world = World::new(Config::default(), Witness::<true>::default());
    world.run("advance 10s\nann > connect chess\nann < upgrade, welcome, presence_state");
    world.app(|_, cx| cx.ping_user("ann", Duration::from_secs(2)));
    world.run("ann < health_ping timestamp=1000010000");
    let conn = world.conn("ann");
    let pong = lobbyd::sim::wire::text(r#"{"type":"health_pong","timestamp":1000010000}"#);
    world.engine.handle_bytes(Time::from_micros(3), conn, &pong);
    world.end_turn_at(Time::ZERO);
    world.app(|_, cx| assert_eq!(cx.now(), Time::from_micros(10_000_000)));
    assert_eq!(world.engine.app_mut().take(), ["join ann", "health ann 0us"]);
}

/// The reference implementation stored the time of the last activity and never checked it.
#[test]
fn silent_connections_are_found_and_closed() {
    check(
        Config::default(),
        r#"
        ann, bob join chess
        advance 19s
        bob > {"type":"ping"}
        bob < pong
        advance 10980ms
        ann < ping
        advance 20ms
        ann < goodbye code=4201 reason=stale reconnect=true, close 4201 stale
        bob < presence_diff -ann:timeout
        "#,
    );
}

/// In the reference implementation activity in one tab kept the user's dead tab alive.
#[test]
fn activity_counts_for_one_connection_only() {
    check(
        several_logins(2),
        r#"
        ann:1 > connect chess
        ann:1 < upgrade, welcome, presence_state
        ann:2 > connect go
        ann:2 < upgrade, welcome, presence_state
        advance 10s
        ann:1 > {"type":"presence"}
        ann:1 < presence_state
        advance 15s
        ann:2 < ping
        ann:1 > {"type":"presence"}
        ann:1 < presence_state
        advance 6s
        ann:2 < goodbye code=4201, close 4201 stale
        ann:1 < nothing
        "#,
    );
}
