//! Rates of messages, bytes, control frames and connection attempts: their measured values, and the effects of exceeding them.

mod attempts;
mod bytes;
mod configuration;
mod messages;
mod refusals;
mod users;

use std::time::Duration;

use lobbyd::config::{DuplicateLogin, Limit};
use lobbyd::sim::wire;
use lobbyd::{App, Config};

use crate::common::scenario::World;
use crate::common::witness::Witness;

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

/// A rate of one message a second, with a burst of one.
fn one_a_second() -> Config {
    Config { messages_per_second: Limit::at_most(1), message_burst: 1, max_rate_strikes: 32, ..no_rates() }
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

/// Bytes of the delivered messages, frame headers included.
fn bytes_delivered(world: &mut World<Witness<false>>) -> u64 {
    let bytes = |event: &String| event.strip_prefix("text ann ").map_or(0, |text| wire::text(text).len() as u64);
    world.engine.app().log.iter().map(bytes).sum()
}
