//! Health checks, which test the page, and the latency they measure. In virtual time.

use std::time::Duration;

use lobbyd::config::{DuplicateLogin, Limit};
use lobbyd::sim::wire::{self, Opcode};
use lobbyd::{App, Authorization, Config, Context, Member, Message, Protocol, Request, Time};

use crate::common::scenario::World;
use crate::common::witness::Witness;

const SECOND: Duration = Duration::from_secs(1);

/// A world with a witness and one member, ann. The log is empty.
fn with_ann<const JSON: bool>(config: Config) -> World<Witness<JSON>> {
    let mut world = World::new(config, Witness::default());
    world.run(if JSON { "ann joins chess" } else { "ann > connect chess\nann < upgrade" });
    world.engine.app_mut().take();
    world
}

#[test]
fn latency_is_exact_to_the_microsecond() {
    for micros in [0, 1, 999, 1000, 123_457, 1_999_999, 2_000_000] {
        let mut world = with_ann::<true>(Config::default());
        world.advance(Duration::from_micros(7_777_777));
        assert_eq!(world.app(|_, cx| cx.ping_user("ann", 2 * SECOND)), 1);
        world.run("ann < health_ping timestamp=1000007777");
        let conn = world.conn("ann");
        world.now = world.now + Duration::from_micros(micros);
        let pong = wire::text(r#"{"type":"health_pong","timestamp":1000007777}"#);
        world.engine.handle_bytes(world.now, conn, &pong);
        assert_eq!(world.engine.app_mut().take(), [format!("health ann {micros}us")]);
    }
}

/// Godot and Gson write every number as a double.
#[test]
fn a_timestamp_written_as_a_double_is_accepted() {
    let spellings = ["1000000000", "1000000000.0", "1e9", "1E+9", "1.0e9", "10000000000e-1", "0.0000000001e19"];
    for spelling in spellings {
        let mut world = with_ann::<true>(Config::default());
        world.app(|_, cx| cx.ping_user("ann", 2 * SECOND));
        world.run("ann < health_ping timestamp=1000000000");
        world.run(&format!("advance 1ms\nann > {{\"type\":\"health_pong\",\"timestamp\":{spelling}}}\nann < nothing"));
        assert_eq!(world.engine.app_mut().take(), ["health ann 1000us"], "{spelling}");
    }
    // A number that only rounds to the same double is a different number.
    for other in ["1000000000.0000000000000000001", "999999999.9999999999999999999", "-1000000000", "1000000000e-1"] {
        let mut world = with_ann::<true>(Config::default());
        world.app(|_, cx| cx.ping_user("ann", 2 * SECOND));
        world.run("ann < health_ping timestamp=1000000000");
        world.steps(&format!("ann > {{\"type\":\"health_pong\",\"timestamp\":{other}}}"));
        assert_eq!(world.engine.app_mut().take(), [""; 0], "{other}");
    }
}

#[test]
fn a_malformed_health_pong_is_no_strike() {
    let config = Config { max_strikes: 0, control_burst: 5, ..Config::default() };
    let mut world = with_ann::<true>(config);
    for bad in [r#""timestamp":null"#, r#""timestamp":"x""#, r#""timestamp":0.5"#, r#""stamp":1"#] {
        world.run(&format!("ann > {{\"type\":\"health_pong\",{bad}}}\nann < error !ref code=bad_message"));
    }
    world.run(
        r#"
        ann > {"ref":[],"type":"health_pong","timestamp":1}
        ann < error !ref code=bad_message
        # It is charged as a control message.
        ann > {"type":"health_pong","ref":1}
        ann < error ref=1 code=rate_limited
        ann > {"type":"ping"}
        ann < pong
        # Any other malformed message is a strike.
        ann > {"type":"ping","ref":[]}
        ann < goodbye, close 4005 bad_message
        "#,
    );
}

#[test]
fn an_unanswered_check_fails_once() {
    let mut world = with_ann::<true>(Config::default());
    world.app(|_, cx| cx.ping_user("ann", Duration::from_millis(50)));
    world.run("ann < health_ping timestamp=1000000000\nadvance 49ms");
    assert_eq!(world.engine.app_mut().take(), [""; 0]);
    world.run("advance 1ms");
    assert_eq!(world.engine.app_mut().take(), ["health ann unhealthy"]);
    world.run("ann > {\"type\":\"health_pong\",\"timestamp\":1000000000}\nadvance 5s");
    assert_eq!(world.engine.app_mut().take(), [""; 0]);
    let counters = world.engine.stats().counters;
    assert_eq!((counters.health_checks, counters.health_checks_failed), (1, 1));
    // A failed check does not close the connection.
    assert_eq!(world.engine.stats().total_connections, 1);
}

/// It does not count even if the timer wheel, with its coarse granule, has not fired yet.
#[test]
fn an_answer_after_the_deadline_does_not_count() {
    let mut world = with_ann::<true>(Config::default());
    world.app(|_, cx| cx.ping_user("ann", 2 * SECOND));
    world.run("ann < health_ping timestamp=1000000000");
    let conn = world.conn("ann");
    world.now = Time::from_micros(2_000_001);
    world.end_turn();
    world.engine.handle_bytes(world.now, conn, &wire::text(r#"{"type":"health_pong","timestamp":1000000000}"#));
    world.run("advance 10ms");
    assert_eq!(world.engine.app_mut().take(), ["health ann unhealthy"]);
}

/// After a pause of the whole process the arrival time is unknown: the answer may have been in time.
#[test]
fn an_answer_delayed_by_a_server_pause_counts() {
    for is_named in [false, true] {
        let mut world = with_ann::<true>(Config::default());
        world.app(|_, cx| cx.ping_user("ann", 2 * SECOND));
        world.run("ann < health_ping timestamp=1000000000");
        let conn = world.conn("ann");
        world.now = Time::from_micros(3_600_000_000);
        if is_named {
            // The budget of the first turn ended before this input was read.
            world.engine.handle_unread(world.now, &[conn]);
            world.end_turn();
            world.now = Time::from_micros(3_600_000_500);
        }
        world.engine.handle_bytes(world.now, conn, &wire::text(r#"{"type":"health_pong","timestamp":1000000000}"#));
        world.engine.handle_unread(world.now, &[]);
        world.end_turn();
        let latency = world.now - Time::ZERO;
        assert_eq!(world.engine.app_mut().take(), [format!("health ann {}us", latency.as_micros())]);
    }
}

#[test]
fn answers_are_matched_by_their_nonce_alone() {
    let mut world = with_ann::<true>(Config::default());
    let mut ping = |timeout: Duration| {
        world.app(|_, cx| cx.ping_user("ann", timeout));
    };
    ping(3 * SECOND);
    ping(SECOND);
    ping(2 * SECOND);
    world.run(
        r#"
        ann < health_ping timestamp=1000000000, health_ping timestamp=1000000001, health_ping timestamp=1000000002
        advance 500ms
        # An unknown nonce, one that is off by one, and the right one.
        ann > {"type":"health_pong","timestamp":0}
        ann > {"type":"health_pong","timestamp":1000000003}
        ann > {"type":"health_pong","timestamp":1000000002}
        ann > {"type":"health_pong","timestamp":1000000002}
        advance 500ms
        advance 1s
        ann > {"type":"health_pong","timestamp":1000000001}
        ann > {"type":"health_pong","timestamp":1000000000}
        advance 10s
        "#,
    );
    let log = world.engine.app_mut().take();
    assert_eq!(log, ["health ann 500000us", "health ann unhealthy", "health ann 2000000us"]);
}

#[test]
fn another_connection_cannot_answer() {
    let config =
        Config { duplicate_login: DuplicateLogin::Allow, max_per_user: Limit::at_most(2), ..Config::default() };
    let mut world = with_ann::<true>(config);
    world.run("ann:2 > connect go\nann:2 < upgrade, welcome, presence_state\nadvance 1s");
    world.engine.app_mut().take();
    assert_eq!(world.app(|_, cx| cx.ping_user("ann", 2 * SECOND)), 2, "each connection is checked");
    world.run(
        r#"
        ann < health_ping timestamp=1000001000
        ann:2 < health_ping timestamp=1000001000
        advance 100ms
        ann:2 > {"type":"health_pong","timestamp":1000001000}
        advance 2s
        "#,
    );
    assert_eq!(world.engine.app_mut().take(), ["health ann 100000us", "health ann unhealthy"]);
}

#[test]
fn nonces_grow_and_can_be_read_by_javascript() {
    let mut world = with_ann::<true>(Config { max_health_pings: 100, ..Config::default() });
    let mut last = 0;
    for step in 0..60 {
        world.app(|_, cx| cx.ping_user("ann", SECOND));
        let got = world.take("ann");
        let ping: serde_json::Value = serde_json::from_str(&got[0]).expect("JSON");
        let nonce = ping["timestamp"].as_u64().expect("an integer");
        assert!(nonce > last && nonce < 1 << 53, "{nonce} after {last}");
        last = nonce;
        if step % 7 == 0 {
            world.advance(Duration::from_millis(3));
        }
    }
}

#[test]
fn open_checks_are_bounded_and_the_oldest_fails() {
    let mut world = with_ann::<true>(Config { max_health_pings: 2, ..Config::default() });
    for _ in 0..3 {
        world.app(|_, cx| cx.ping_user("ann", 2 * SECOND));
    }
    world.run(
        r#"
        ann < health_ping timestamp=1000000000, health_ping timestamp=1000000001, health_ping timestamp=1000000002
        advance 1ms
        ann > {"type":"health_pong","timestamp":1000000000}
        ann > {"type":"health_pong","timestamp":1000000001}
        ann > {"type":"health_pong","timestamp":1000000002}
        "#,
    );
    assert_eq!(world.engine.app_mut().take(), ["health ann 1000us", "health ann 1000us"]);
    world.run("advance 9ms");
    assert_eq!(world.engine.app_mut().take(), ["health ann unhealthy"]);
    assert_eq!(world.engine.stats().counters.health_checks_failed, 1);
}

#[test]
fn an_application_can_record_a_pong_itself() {
    let mut world = with_ann::<true>(Config::default());
    let conn = world.conn("ann");
    world.app(|_, cx| cx.ping_user("ann", 2 * SECOND));
    world.run("ann < health_ping timestamp=1000000000\nadvance 30ms");
    world.app(|_, cx| {
        assert_eq!(cx.record_pong(conn, 7), None);
        assert_eq!(cx.record_pong(conn, 1_000_000_000), Some(Duration::from_millis(30)));
        assert_eq!(cx.record_pong(conn, 1_000_000_000), None);
    });
    assert_eq!(world.engine.app_mut().take(), ["health ann 30000us"]);
}

/// Members of an application without JSON are checked with a ping of RFC 6455, which every client answers by itself.
#[test]
fn raw_members_are_checked_by_websocket_pings() {
    let mut world = with_ann::<false>(Config::default());
    assert_eq!(world.app(|_, cx| cx.ping_user("ann", 2 * SECOND)), 1);
    let nonce = 1_000_000_000_u64.to_be_bytes();
    assert_eq!(world.take("ann"), [format!("ping {}", String::from_utf8_lossy(&nonce))]);
    world.advance(Duration::from_micros(1234));
    for payload in [&b""[..], &nonce[..7], &1_000_000_001_u64.to_be_bytes(), &nonce, &nonce] {
        world.send("ann", &wire::frame(Opcode::PONG, true, payload, [1; 4]));
    }
    // A text that looks like a health_pong is a message like any other.
    world.run(r#"ann > {"type":"health_pong","timestamp":1000000000}"#);
    let log = world.engine.app_mut().take();
    assert_eq!(log, ["health ann 1234us", r#"text ann {"type":"health_pong","timestamp":1000000000}"#]);
}

#[test]
fn a_websocket_pong_does_not_answer_a_health_ping() {
    let mut world = with_ann::<true>(Config::default());
    world.app(|_, cx| cx.ping_user("ann", SECOND));
    world.run("ann < health_ping timestamp=1000000000");
    world.send("ann", &wire::frame(Opcode::PONG, true, &1_000_000_000_u64.to_be_bytes(), [1; 4]));
    world.run("advance 2s");
    assert_eq!(world.engine.app_mut().take(), ["health ann unhealthy"]);
}

#[test]
fn clients_are_checked_periodically_if_configured() {
    let config = Config { health_interval: Some(5 * SECOND), health_timeout: SECOND, ..Config::default() };
    let mut world = with_ann::<true>(config);
    world.run(
        r#"
        advance 4999ms
        ann < nothing
        advance 1ms
        ann < health_ping timestamp=1000005000
        advance 20ms
        ann > {"type":"health_pong","timestamp":1000005000}
        # The interval counts from the time the check was due, not from the answer.
        advance 4970ms
        ann < nothing
        advance 10ms
        ann < health_ping timestamp=1000010000
        advance 1s
        advance 4s
        ann < health_ping timestamp=1000015000
        ann > {"type":"leave"}
        ann < goodbye, close 1000 left
        advance 60s
        ann < eof
        "#,
    );
    let log = world.engine.app_mut().take();
    assert_eq!(log, ["health ann 20000us", "health ann unhealthy", "health ann unhealthy", "leave ann left"]);
}

/// Each check is due one interval after the previous one was due, rounded up to a granule. Rounding does not add up.
#[test]
fn periodic_checks_do_not_drift_and_do_not_bunch() {
    let interval = Duration::from_millis(1005);
    let config = Config { health_interval: Some(interval), health_timeout: SECOND, ..Config::default() };
    let mut world = with_ann::<true>(config);
    for due in [1010, 2010, 3020, 4020, 5030] {
        let before = Duration::from_millis(due - 1) - (world.now - Time::ZERO);
        world.advance(before);
        world.run(&format!("ann < nothing\nadvance 1ms\nann < health_ping timestamp={}", 1_000_000_000 + due));
        world.run("ann > pong x");
    }
    // Several checks became due while the process was stopped. A single check replaces them.
    world.now = Time::from_micros(15_000_000);
    world.end_turn();
    world.run(
        r#"
        ann < health_ping timestamp=1000015000
        advance 1s
        ann < nothing
        advance 10ms
        ann < health_ping timestamp=1000016010
        "#,
    );
}

#[test]
fn periodic_health_checks_are_off_by_default() {
    let mut world = with_ann::<true>(Config::default());
    world.run("advance 15s\nann < nothing");
    assert_eq!(world.engine.stats().counters.health_checks, 0);
}

/// Health checks of the page and pings of the path do not affect each other.
#[test]
fn a_health_check_is_not_activity_but_its_answer_is() {
    let mut world = with_ann::<true>(Config::default());
    world.run("advance 19s");
    world.app(|_, cx| cx.ping_user("ann", 5 * SECOND));
    world.run(
        r#"
        ann < health_ping timestamp=1000019000
        advance 1s
        ann < ping
        advance 2s
        ann > {"type":"health_pong","timestamp":1000019000}
        advance 19990ms
        ann < nothing
        advance 10ms
        ann < ping
        advance 10s
        ann < goodbye, close 4201 stale
        "#,
    );
    assert_eq!(world.engine.app_mut().take(), ["health ann 3000000us", "leave ann timeout"]);
}

/// An application that starts a check whenever one ends would never finish its turn, if the check that gives way were
/// reported in the same turn.
#[test]
fn a_check_that_gives_way_is_reported_in_a_later_turn() {
    for max in [1, 2] {
        let config = Config { max_health_pings: max, ..Config::default() };
        let mut world = World::new(config.clone(), PingsAgain::default());
        world.run("ann joins chess");
        for _ in 0..=max {
            world.app(|_, cx| cx.ping_user("ann", SECOND));
        }
        assert_eq!(world.engine.app_mut().results, [None; 0], "not in the call that displaces it");
        let turn = world.engine.poll_timeout().expect("the report is due");
        assert!(turn > world.now && turn <= world.now + config.wheel_granule);
        for turns in 1..=50 {
            world.now = world.engine.poll_timeout().expect("the report is due");
            world.end_turn();
            world.engine.check();
            assert_eq!(world.engine.app_mut().results, vec![None; turns], "one result in each turn");
        }
        let counters = world.engine.stats().counters;
        assert_eq!((counters.health_checks, counters.health_checks_failed), (51 + u64::from(max), 50));
        // Each of the others has its result when the connection ends.
        world.engine.app_mut().stops = true;
        world.steps("ann > hangup");
        assert_eq!(world.engine.app_mut().results.len(), 51 + max as usize);
    }
}

/// Starts a check whenever one ends.
#[derive(Default)]
struct PingsAgain {
    results: Vec<Option<Duration>>,
    stops: bool,
}

impl App for PingsAgain {
    const PROTOCOL: Protocol = Protocol::Json;

    fn authorize(&mut self, _: &mut Context<'_>, request: &Request<'_>) -> Authorization {
        Authorization::token_is_user(request)
    }

    fn on_message(&mut self, _: &mut Context<'_>, _: &Member, _: Message<'_>) {}

    fn on_health(&mut self, cx: &mut Context<'_>, member: &Member, latency: Option<Duration>) {
        self.results.push(latency);
        assert!(self.results.len() < 1000, "the turn does not end");
        if !self.stops {
            cx.ping_user(member.user(), SECOND);
        }
    }
}
