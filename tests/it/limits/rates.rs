//! Rates of messages, bytes, control frames and connection attempts: their measured values, and the effects of exceeding them.

use std::time::Duration;

use lobbyd::apps::{Relay, Verbatim};
use lobbyd::sim::MemorySockets;
use lobbyd::sim::wire::{self, Opcode, Reader, Received};
use lobbyd::{App, ByteSize, CloseReason, Config, DuplicateLogin, Limit, Reject};
use serde_json::Value;

use crate::scenario::{World, check};
use crate::witness::Witness;

const MINUTE: Duration = Duration::from_secs(60);

/// No rates, so that a test sets only the one it tests. The number of refused messages is not limited either.
fn no_rates() -> Config {
    Config {
        messages_per_second: Limit::UNLIMITED,
        user_messages_per_second: Limit::UNLIMITED.into(),
        bytes_per_second: Limit::UNLIMITED,
        user_bytes_per_second: Limit::UNLIMITED.into(),
        control_per_second: Limit::UNLIMITED,
        attempts_per_minute: Limit::UNLIMITED,
        max_rate_strikes: 1 << 30,
        duplicate_login: DuplicateLogin::Allow,
        max_per_user: Limit::at_most(2),
        ..Config::default()
    }
}

/// Calls `act` `at_once` times, and then for a minute once in every `step`, far more often than is allowed. Returns `count`
/// after the first calls, and its increase over the minute.
fn measure<A: App>(
    world: &mut World<A>,
    at_once: u32,
    step: Duration,
    mut act: impl FnMut(&mut World<A>),
    mut count: impl FnMut(&mut World<A>) -> u64,
) -> (u64, u64) {
    (0..at_once).for_each(|_| act(world));
    let burst = count(world);
    let end = world.now + MINUTE;
    while world.now < end {
        world.advance(step);
        act(world);
    }
    (burst, count(world) - burst)
}

#[track_caller]
fn assert_within_a_percent(measured: u64, expected: u64, case: &str) {
    assert!(measured.abs_diff(expected) * 100 <= expected, "{case}: {measured} instead of {expected}");
}

// ---- messages ----

fn delivered(world: &mut World<Witness<true>>) -> u64 {
    world.engine.app().log.iter().filter(|event| event.starts_with("json")).count() as u64
}

/// `connections` of one user, with the given `query`, send as many messages as they can.
#[track_caller]
fn check_messages(config: Config, connections: usize, query: &str, burst: u64, per_minute: u64) {
    let mut world = World::new(config, Witness::<true>::default());
    let names: Vec<String> = (0..connections).map(|n| format!("ann:{n}")).collect();
    for name in &names {
        world.steps(&format!("{name} > get /ws/{}?token=ann{query}", name.replace(':', "-")));
    }
    let message = wire::text(r#"{"type":"move"}"#);
    let say = |world: &mut World<Witness<true>>| {
        for name in &names {
            world.send(name, &message);
            world.flush();
        }
    };
    let (at_once, later) = measure(&mut world, 1200, Duration::from_millis(3), say, delivered);
    let case = format!("{connections} connections, {query}");
    assert_eq!(at_once, burst, "{case}: the burst is exact");
    assert_within_a_percent(later, per_minute, &case);
    assert_eq!(world.engine.stats().total_connections, connections);
}

#[test]
fn messages_of_a_connection_are_rate_limited() {
    let default = Config { messages_per_second: Limit::at_most(60), ..no_rates() };
    check_messages(default, 1, "", 120, 60 * 60);
    let odd = Config { messages_per_second: Limit::at_most(7), message_burst: 3, ..no_rates() };
    check_messages(odd, 1, "", 3, 7 * 60);
}

#[test]
fn each_tier_has_its_rate() {
    // The tier replaces the configured rate, whether it is higher or lower.
    for rate in [Limit::UNLIMITED, Limit::at_most(60)] {
        let config = Config { messages_per_second: rate, ..no_rates() };
        check_messages(config.clone(), 1, "&tier=free", 10, 60);
        check_messages(config.clone(), 1, "&tier=pro", 100, 600);
        check_messages(config, 1, "&tier=enterprise", 1000, 6000);
    }
}

#[test]
fn messages_of_a_user_share_one_rate_over_all_its_connections() {
    let config =
        Config { user_messages_per_second: Limit::at_most(20).into(), user_message_burst: 30.into(), ..no_rates() };
    check_messages(config.clone(), 1, "", 30, 20 * 60);
    check_messages(config, 2, "", 30, 20 * 60);
    for connections in [1, 2] {
        check_messages(no_rates(), connections, "&tier=pro", 100, 600);
    }
}

#[test]
fn an_unlimited_rate_refuses_nothing() {
    let mut world = World::new(no_rates(), Witness::<true>::default());
    world.steps("ann > connect chess");
    let many = wire::text(r#"{"type":"move"}"#).repeat(5000);
    world.send("ann", &many);
    assert_eq!(delivered(&mut world), 5000);
}

// ---- bytes ----

/// Bytes of the delivered messages, frame headers included.
fn bytes_delivered(world: &mut World<Witness<false>>) -> u64 {
    let bytes = |event: &String| event.strip_prefix("text ann ").map_or(0, |text| wire::text(text).len() as u64);
    world.engine.app().log.iter().map(bytes).sum()
}

#[track_caller]
fn check_bytes(config: Config, connections: usize, per_second: u64) {
    for length in [10, 100, 1000] {
        let config = Config { max_message_bytes: ByteSize(1000), ..config.clone() };
        let mut world = World::new(config, Witness::<false>::default());
        let names: Vec<String> = (0..connections).map(|n| format!("ann:{n}")).collect();
        for name in &names {
            world.steps(&format!("{name} > connect {}", name.replace(':', "-")));
        }
        // Each step sends more than twice the allowed bytes.
        let message = wire::text(&"x".repeat(length)).repeat(1 + 100 / length);
        let say = |world: &mut World<Witness<false>>| {
            for name in &names {
                world.send(name, &message);
            }
        };
        let (at_once, later) = measure(&mut world, 300, Duration::from_millis(10), say, bytes_delivered);
        let case = format!("{length} bytes over {connections} connections");
        // The request heads use a part of the burst, and less than one packet of it remains.
        let whole = 10_000 - message.len() as u64 - 200..10_000;
        assert!(whole.contains(&at_once), "{case}: {at_once} at once");
        assert_within_a_percent(later, per_second * 60, &case);
    }
}

#[test]
fn bytes_of_a_connection_are_rate_limited() {
    let config = Config { bytes_per_second: Limit::at_most(5000), byte_burst: 10_000, ..no_rates() };
    check_bytes(config, 1, 5000);
}

#[test]
fn bytes_of_a_user_share_one_rate_over_all_its_connections() {
    let config =
        Config { user_bytes_per_second: Limit::at_most(4000).into(), user_byte_burst: 10_000.into(), ..no_rates() };
    check_bytes(config.clone(), 1, 4000);
    check_bytes(config, 2, 4000);
}

/// A message that arrives in pieces is charged in full, even if its last piece arrives when the bucket has filled again.
#[test]
fn a_message_in_pieces_is_charged_in_full() {
    let config = Config {
        max_message_bytes: ByteSize(6100),
        bytes_per_second: Limit::at_most(2000),
        byte_burst: 7000,
        ..no_rates()
    };
    let mut world = World::new(config, Witness::<false>::default());
    world.run("ann > connect chess\nann < upgrade");
    let message = wire::text(&"x".repeat(6000));
    let (most, rest) = message.split_at(5900);
    let end = world.now + MINUTE;
    while world.now < end {
        world.send("ann", most);
        world.advance(Duration::from_millis(100));
        world.send("ann", rest);
    }
    let delivered = bytes_delivered(&mut world);
    let allowed = 7000 + 2000 * 60;
    assert!(delivered <= allowed, "{delivered} bytes, where {allowed} may be sent");
    assert!(delivered + 2 * 6000 > allowed, "{delivered} bytes are too few");
}

/// The bytes of a message count even if it never becomes complete.
#[test]
fn a_message_without_end_closes_the_connection() {
    let limits = Config { max_rate_strikes: 3, max_fragments: u32::MAX, ..no_rates() };
    let config = Config { bytes_per_second: Limit::at_most(65_536), ..limits };
    let mut world = World::new(config, Relay::default());
    world.run("ann > connect chess\nann < upgrade, welcome, presence_state");
    world.send("ann", &wire::frame(Opcode::TEXT, false, b"", [1; 4]));
    let empty = wire::frame(Opcode::CONTINUATION, false, b"", [1; 4]).repeat(10_000);
    let mut sent = 0;
    while world.engine.stats().total_connections == 1 {
        world.send("ann", &empty);
        world.flush();
        sent += empty.len();
        assert!(sent < 10 << 20, "the input is accepted without a bound");
    }
    world.run("ann < error !ref code=rate_limited, goodbye, close 4009 rate_limited");
}

// ---- retry_after_ms ----

/// Returns the `retry_after_ms` of an `error rate_limited`, or `None` for another answer.
#[track_caller]
fn denied(world: &mut World<impl App>, name: &str) -> Option<u64> {
    let got = world.take(name);
    let [answer] = &got[..] else { panic!("one answer: {got:?}") };
    let answer: Value = serde_json::from_str(answer).expect("JSON");
    (answer["type"] == "error").then(|| {
        assert_eq!(answer["code"], "rate_limited", "{answer}");
        assert_eq!(answer["ref"], 1, "{answer}");
        answer["retry_after_ms"].as_u64().expect("a number")
    })
}

/// A message sent after `retry_after_ms` is allowed, and one sent a millisecond earlier is refused. `ann` sends `messages`,
/// which have a `ref`, in rotation. The check is repeated for every refusal.
#[track_caller]
fn check_retry_after(config: Config, messages: &[&str]) {
    let config = Config { max_message_bytes: ByteSize(1000), ..config };
    let mut world = World::new(config, Relay::default());
    world.steps("ann > connect a\nann:2 > connect b");
    let (mut let_through, mut waits) = (0, 0);
    'clients: for turn in 0..200 {
        let message = messages[turn % messages.len()];
        world.take("ann");
        // Another connection of the same user sends too.
        world.act("ann:2", messages[0]);
        world.flush();
        world.take("ann:2");
        let ask = |world: &mut World<Relay>| {
            world.act("ann", message);
            world.flush();
            denied(world, "ann")
        };
        let Some(wait) = ask(&mut world) else {
            let_through += 1;
            continue 'clients;
        };
        waits += 1;
        assert!(wait > 0);
        world.advance(Duration::from_millis(wait - 1));
        world.take("ann");
        assert_eq!(ask(&mut world), Some(1), "{turn}: one more millisecond");
        world.advance(Duration::from_millis(1));
        assert_eq!(ask(&mut world), None, "{turn}: allowed after the stated wait");
    }
    assert!(waits > 50 && let_through > 3, "{waits} {let_through}");
}

#[test]
fn retry_after_is_exact() {
    let short = r#"{"type":"broadcast","data":1,"ref":1}"#;
    let long = format!(r#"{{"type":"broadcast","data":"{}","ref":1}}"#, "x".repeat(300));
    let at_most = Limit::at_most;
    let messages = Config { messages_per_second: at_most(7), message_burst: 5, ..no_rates() };
    check_retry_after(messages.clone(), &[short]);
    let user = Config { user_messages_per_second: at_most(3).into(), user_message_burst: 8.into(), ..no_rates() };
    check_retry_after(user.clone(), &[short]);
    let bytes = Config { bytes_per_second: at_most(700), byte_burst: 1500, ..no_rates() };
    check_retry_after(bytes.clone(), &[short, &long]);
    let user_bytes = Config { user_bytes_per_second: at_most(900).into(), user_byte_burst: 1800.into(), ..no_rates() };
    check_retry_after(user_bytes.clone(), &[short, &long]);
    // If two buckets refuse, the longer wait is returned. A message that one bucket refuses takes no tokens from the other.
    let both = Config { user_messages_per_second: at_most(3).into(), user_message_burst: 8.into(), ..messages };
    check_retry_after(both, &[short]);
    let slow_connection = Config { messages_per_second: at_most(2), message_burst: 4, ..user };
    check_retry_after(slow_connection, &[short]);
    let both = Config { user_bytes_per_second: at_most(900).into(), user_byte_burst: 1800.into(), ..bytes };
    check_retry_after(both, &[short, &long]);
}

#[test]
fn a_rate_of_zero_gives_the_longest_retry_after() {
    let config = Config { messages_per_second: Limit::at_most(0), ..no_rates() };
    check(
        config,
        r#"
        ann > connect chess
        ann < upgrade, welcome limits={"max_message_bytes":65536,"messages_per_second":0}, presence_state
        ann > {"type":"broadcast","data":1,"ref":1}
        ann < error ref=1 code=rate_limited retry_after_ms=4294967295
        "#,
    );
}

// ---- refused messages ----

/// A rate of one message a second, with a burst of one.
fn one_a_second() -> Config {
    Config { messages_per_second: Limit::at_most(1), message_burst: 1, max_rate_strikes: 32, ..no_rates() }
}

#[test]
fn a_refused_message_with_a_ref_gets_one_error() {
    check(
        one_a_second(),
        r#"
        turn begins
        ann > connect chess
        bob > connect chess
        turn ends
        ann < upgrade, welcome, presence_state
        bob < upgrade, welcome, presence_state
        ann > {"type":"broadcast","data":1,"ref":1}
        ann < ack ref=1 delivered=1
        bob < message
        ann > {"type":"broadcast","data":1,"ref":2}
        ann < error ref=2 code=rate_limited retry_after_ms=1000
        ann > {"type":"direct","to":"bob","data":1,"ref":"three"}
        ann < error ref="three" code=rate_limited retry_after_ms=1000
        ann > {"type":"move","ref":4}
        ann < error ref=4 code=rate_limited
        ann > {"type":"presence","ref":5}
        ann < error ref=5 code=rate_limited
        ann > {"type":"ping","ref":6}
        ann < error ref=6 code=rate_limited
        ann > {"type":"direct","ref":7}
        ann < error ref=7 code=rate_limited
        advance 300ms
        ann > {"type":"broadcast","data":1,"ref":8}
        ann < error ref=8 code=rate_limited retry_after_ms=700
        bob < nothing
        # The refused messages took no numbers.
        advance 700ms
        ann > {"type":"broadcast","data":1,"ref":9}
        ann < ack ref=9 seq=2
        bob < message seq=2
        # Leaving needs no token.
        "#,
    );
}

#[test]
fn messages_without_a_ref_get_at_most_one_error_a_second() {
    let mut world = World::new(one_a_second(), Relay::default());
    world.run(
        r#"
        ann > connect chess
        ann < upgrade, welcome, presence_state
        ann > {"type":"move"}
        ann < nothing
        ann > {"type":"move"}
        ann < error !ref code=rate_limited retry_after_ms=1000
        ann > {"type":"move"}
        ann > binary x
        ann > {
        advance 990ms
        ann > {"type":"move"}
        ann < nothing
        advance 10ms
        # One token is available.
        ann > {"type":"move"}
        ann > {"type":"move"}
        ann < error !ref code=rate_limited retry_after_ms=1000
        "#,
    );
    assert_eq!(world.engine.stats().counters.rejected(Reject::RateLimited), 6);
    assert_eq!(world.engine.stats().counters.rejected(Reject::BadMessage), 0, "a refused message is not parsed");
}

#[test]
fn too_many_refused_messages_close_the_connection() {
    let mut world = World::new(one_a_second(), Relay::default());
    world.run(
        r#"
        bob > connect chess
        bob < upgrade, welcome, presence_state
        ann > connect chess
        ann < upgrade, welcome, presence_state
        bob < presence_diff +ann
        ann > {"type":"broadcast","data":1}
        bob < message
        "#,
    );
    for n in 0..32 {
        world.run(&format!("ann > {{\"type\":\"move\",\"ref\":{n}}}\nann < error ref={n} code=rate_limited"));
    }
    world.run(
        r#"
        # One strike is forgiven per second.
        advance 1s
        ann > {"type":"broadcast","data":1}
        bob < message
        ann > {"type":"move","ref":32}
        ann < error ref=32 code=rate_limited
        ann > {"type":"move","ref":33}
        ann < goodbye code=4009 reason=rate_limited reconnect=false, close 4009 rate_limited
        bob < presence_diff -ann:kicked
        "#,
    );
    assert_eq!(world.engine.stats().counters.closed(CloseReason::RateLimited), 1);
    // With no strikes allowed, the first refused message closes the connection.
    check(
        Config { max_rate_strikes: 0, ..one_a_second() },
        r#"
        ann > connect chess
        ann < upgrade, welcome, presence_state
        ann > {"type":"ping"}
        ann < pong
        ann > {"type":"ping","ref":1}
        ann < goodbye, close 4009 rate_limited
        "#,
    );
}

#[test]
fn a_raw_application_sends_no_error() {
    let config = Config { max_rate_strikes: 2, ..one_a_second() };
    World::new(config, Verbatim::default()).run(
        r#"
        bob > connect chess
        bob < upgrade
        ann > connect chess
        ann < upgrade
        ann > text one
        bob < one
        ann > text two
        ann > binary three
        ann < nothing
        bob < nothing
        ann > text four
        ann < close 4009 rate_limited
        "#,
    );
}

/// Control frames are cheap and have a bucket of their own.
#[test]
fn control_frames_and_health_pongs_take_no_message_tokens() {
    let config = Config { control_per_second: Limit::at_most(1), control_burst: 4, ..one_a_second() };
    let mut world = World::new(config, Relay::default());
    world.run(
        r#"
        ann > connect chess
        ann < upgrade, welcome, presence_state
        ann > ping a
        ann < pong a
        ann > pong b
        ann > {"type":"health_pong","timestamp":1,"ref":1}
        ann < ack ref=1
        ann > {"type":"move","ref":2}
        ann < ack ref=2
        # A message takes no token of the control bucket.
        ann > {"type":"move","ref":3}
        ann < error ref=3 code=rate_limited retry_after_ms=1000
        ann > ping c
        ann < pong c
        # The pong is sent even above the rate: it may be the peer's only proof that the server is alive.
        ann > ping d
        ann < pong d
        ann > {"type":"health_pong","timestamp":1,"ref":4}
        ann < error ref=4 code=rate_limited retry_after_ms=1000
        ann > pong e
        ann < nothing
        advance 1s
        ann > {"type":"health_pong","timestamp":1,"ref":5}
        ann < ack ref=5
        "#,
    );
    assert_eq!(world.engine.stats().counters.rejected(Reject::RateLimited), 4);
}

#[test]
fn control_frames_are_rate_limited() {
    let config = Config { control_per_second: Limit::at_most(20), ..no_rates() };
    let mut world = World::new(config, Verbatim::default());
    world.run("ann > connect chess\nann < upgrade");
    let mut sent = 0;
    let pong = wire::frame(Opcode::PONG, true, b"", [1; 4]);
    // Control frames that were not counted as refused were within the rate.
    let (mut allowed, mut before) = ([0; 2], 0);
    for phase in [0, 1] {
        let rounds = [1000, 60_000][phase];
        for _ in 0..rounds {
            if phase == 1 {
                world.advance(Duration::from_millis(1));
            }
            world.send("ann", &pong);
            sent += 1;
        }
        let within = sent - world.engine.stats().counters.rejected(Reject::RateLimited);
        allowed[phase] = within - before;
        before = within;
    }
    assert_eq!(allowed[0], 60, "the burst");
    assert_within_a_percent(allowed[1], 20 * 60, "signs of life");
    // Too many of them close the connection.
    let config = Config { control_per_second: Limit::at_most(20), max_rate_strikes: 5, ..no_rates() };
    let mut world = World::new(config, Verbatim::default());
    world.run("ann > connect chess\nann < upgrade");
    world.send("ann", &pong.repeat(60 + 5));
    world.run("ann < nothing");
    world.send("ann", &pong);
    world.flush();
    world.run("ann < close 4009 rate_limited");
}

// ---- reconnecting ----

#[test]
fn reconnecting_does_not_refill_a_users_bucket() {
    check(
        Config { user_messages_per_second: Limit::at_most(1).into(), user_message_burst: 2.into(), ..no_rates() },
        r#"
        ann > connect chess
        ann < upgrade, welcome, presence_state
        ann > {"type":"ping","ref":1}
        ann > {"type":"ping","ref":2}
        ann > {"type":"ping","ref":3}
        ann < pong ref=1, pong ref=2, error ref=3 code=rate_limited retry_after_ms=1000
        ann > hangup
        advance 500ms
        ann > connect go
        ann < upgrade, welcome, presence_state
        ann > {"type":"ping","ref":4}
        ann < error ref=4 code=rate_limited retry_after_ms=500
        # A second connection does not refill the bucket either. Other users have their own.
        ann:2 > connect go
        ann < presence_diff +ann
        ann:2 < upgrade, welcome, presence_state
        ann:2 > {"type":"ping","ref":5}
        ann:2 < error ref=5 code=rate_limited retry_after_ms=500
        bob > connect chess
        bob < upgrade, welcome, presence_state
        bob > {"type":"ping","ref":6}
        bob < pong ref=6
        "#,
    );
}

/// Lets one user connect `visits` times in sequence. In each visit, `seats` connections send `message` `times` times. Returns
/// the number of delivered messages.
fn delivered_in_visits(config: Config, visits: usize, seats: usize, message: &str, times: usize) -> u64 {
    let config = Config { max_rate_strikes: 1 << 30, duplicate_login: DuplicateLogin::Allow, ..config };
    let config = Config { max_per_user: Limit::UNLIMITED, ..config };
    let mut world = World::new(config, Witness::<true>::default());
    for _ in 0..visits {
        let names: Vec<String> = (0..seats).map(|n| format!("ann:{n}")).collect();
        names.iter().for_each(|name| world.steps(&format!("{name} > connect chess")));
        for name in &names {
            (0..times).for_each(|_| world.send(name, &wire::text(message)));
            world.flush();
        }
        names.iter().for_each(|name| world.steps(&format!("{name} > hangup")));
    }
    world.engine.check();
    delivered(&mut world)
}

/// By default neither reconnecting nor several seats raise a user's rates.
#[test]
fn by_default_a_user_has_the_rates_of_one_connection() {
    let message = r#"{"type":"move"}"#;
    for (visits, seats) in [(1, 1), (10, 1), (1, 10), (5, 2)] {
        let case = format!("{visits} visits on {seats} seats");
        assert_eq!(delivered_in_visits(Config::default(), visits, seats, message, 130), 120, "{case}: messages");
        // The burst of 128 KiB has room for two of these messages, but not for three.
        let long = format!(r#"{{"type":"move","data":"{}"}}"#, "x".repeat(50_000));
        assert_eq!(delivered_in_visits(Config::default(), visits, seats, &long, 3), 2, "{case}: bytes");
    }
    // The rate of a user follows that of a connection, unless it is set itself.
    let faster = Config { messages_per_second: Limit::at_most(500), message_burst: 500, ..Config::default() };
    assert_eq!(delivered_in_visits(faster.clone(), 2, 2, message, 400), 500);
    let several = Config { user_messages_per_second: Limit::UNLIMITED.into(), ..faster.clone() };
    assert_eq!(delivered_in_visits(several, 2, 2, message, 400), 1600);
    let slower = Config { user_message_burst: 100.into(), ..faster };
    assert_eq!(delivered_in_visits(slower, 2, 2, message, 400), 100);
}

/// The rate in the welcome is the one that applies.
#[test]
fn the_welcome_names_the_lower_rate_of_a_connection_and_its_user() {
    #[track_caller]
    fn check_named(config: Config, query: &str, named: &str) {
        let config = Config { duplicate_login: DuplicateLogin::Replace, ..config };
        let mut world = World::new(config, Witness::<true>::default());
        world.run(&format!(
            "ann > get /ws/chess?token=ann{query}\n\
             ann < upgrade, welcome limits={{\"max_message_bytes\":65536,\"messages_per_second\":{named}}}, presence_state"
        ));
    }
    let user = |limit: u32| Config { user_messages_per_second: Limit::at_most(limit).into(), ..Config::default() };
    check_named(Config::default(), "", "60");
    check_named(user(7), "", "7");
    check_named(user(700), "", "60");
    check_named(Config { messages_per_second: Limit::UNLIMITED, ..user(7) }, "", "7");
    check_named(no_rates(), "", "null");
    // A tier sets both rates, whether it is higher or lower.
    check_named(user(7), "&tier=enterprise", "100");
    check_named(Config { messages_per_second: Limit::at_most(7), ..Config::default() }, "&tier=pro", "10");
}

/// A high tier is not limited by the configured rate of the user. With a low tier, more connections do not give more.
#[test]
fn a_tier_is_the_rate_of_its_user_too() {
    check_messages(Config { max_rate_strikes: 1 << 30, ..Config::default() }, 1, "&tier=pro", 100, 600);
    let seats = Config { duplicate_login: DuplicateLogin::Allow, max_per_user: Limit::at_most(2), ..Config::default() };
    check_messages(Config { max_rate_strikes: 1 << 30, ..seats }, 2, "&tier=free", 10, 60);
}

/// The server remembers one entry per user, even if the user connects many times. The user that left first is forgotten first,
/// because its bucket is full first.
#[test]
fn the_user_whose_buckets_are_full_first_is_forgotten() {
    let config = Config {
        user_messages_per_second: Limit::at_most(1).into(),
        user_message_burst: 1.into(),
        max_remembered_rates: 2,
        ..no_rates()
    };
    let mut world = World::new(config, Relay::default());
    let mut visit = |name: &str, is_known: bool| {
        world.run(&format!("{name} > connect {name}\n{name} < upgrade, welcome, presence_state"));
        let answer = if is_known { "error ref=1 code=rate_limited" } else { "pong ref=1" };
        world.run(&format!("{name} > {{\"type\":\"ping\",\"ref\":1}}\n{name} < {answer}\n{name} > hangup"));
    };
    visit("ann", false);
    (0..10).for_each(|_| visit("ann", true));
    visit("bob", false);
    visit("ann", true);
    visit("bob", true);
    // There is room for two users: cid displaces ann, which left before bob.
    visit("cid", false);
    visit("bob", true);
    visit("cid", true);
    visit("ann", false);
}

// ---- attempts ----

/// Sends a request from the world's address. Returns the status and the head of the answer.
fn attempt(world: &mut World<Relay>) -> (u16, String) {
    let conn = world.engine.handle_accept(world.now, (world.address, 4000).into()).expect("there is room");
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
    world.address = [10, 0, 0, 1].into();
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
        a < http 404, body, eof
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

// ---- configuration ----

#[test]
fn bursts_that_are_too_small_are_refused() {
    #[track_caller]
    fn check_problem(config: Config, field: &str, rule: &str) {
        let problems = config.check().expect_err("the configuration is invalid");
        let [problem] = &problems[..] else { panic!("one problem: {problems:?}") };
        assert_eq!(problem.field, field);
        assert!(problem.rule.contains(rule), "{problem}");
    }
    let limited = Limit::at_most(100);
    check_problem(Config { message_burst: 0, ..Config::default() }, "message_burst", "messages_per_second");
    check_problem(
        Config { user_messages_per_second: limited.into(), user_message_burst: 0.into(), ..Config::default() },
        "user_message_burst",
        "user_messages_per_second",
    );
    check_problem(Config { control_burst: 0, ..Config::default() }, "control_burst", "control_per_second");
    check_problem(
        Config { attempts_per_minute: limited, attempt_burst: 0, ..Config::default() },
        "attempt_burst",
        "attempts_per_minute",
    );
    let longest = 65_536 + 14;
    check_problem(Config { byte_burst: longest - 1, ..Config::default() }, "byte_burst", "65550");
    check_problem(
        Config { user_bytes_per_second: limited.into(), user_byte_burst: (longest - 1).into(), ..Config::default() },
        "user_byte_burst",
        "max_message_bytes (64KiB)",
    );
    // The burst of a rate that is not used can have any value.
    let unused = Config { message_burst: 0, control_burst: 0, byte_burst: 0, attempt_burst: 0, ..no_rates() };
    assert_eq!(unused.check(), Ok(()));
    // The longest message fits into the smallest bucket.
    let tight = Config { byte_burst: longest, bytes_per_second: Limit::at_most(1000), ..no_rates() };
    let mut world = World::new(tight, Witness::<false>::default());
    world.run("ann > connect chess\nann < upgrade\nadvance 1s");
    world.send("ann", &wire::text(&"x".repeat(65_536)));
    assert_eq!(bytes_delivered(&mut world), u64::from(longest));
}

#[test]
fn remembered_rates_count_in_the_worst_case_memory() {
    let with = |max_remembered_rates| Config { max_remembered_rates, ..Config::default() }.worst_case_memory();
    assert!(with(1 << 20) > with(0).map(|bytes| bytes + (256 << 20)), "some hundred bytes for each");
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

/// The bytes of a request are charged to its connection, and to its user too if both have the same rate.
#[test]
fn the_bytes_of_a_request_are_charged_to_its_user_too() {
    for (padding, is_served) in [(0, true), (800, false)] {
        let config = Config {
            max_message_bytes: ByteSize(125),
            bytes_per_second: Limit::at_most(1),
            byte_burst: 1000,
            ..Config::default()
        };
        let mut world = World::new(config, Relay::default());
        world.steps(&format!("ann > get /ws/chess?token=ann X: {}", "x".repeat(padding)));
        world.take("ann");
        for _ in 0..9 {
            world.act("ann", &format!(r#"{{"type":"ping","ref":"{}"}}"#, "x".repeat(60)));
        }
        world.flush();
        let got = world.take("ann");
        let pongs = got.iter().filter(|got| got.contains("\"pong\"")).count();
        assert_eq!(pongs > 4, is_served, "{padding}: {got:?}");
        assert!(is_served || pongs == 0, "{padding}: {got:?}");
    }
}
