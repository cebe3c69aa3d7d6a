//! Rates of a user over all its connections, at the same time or in sequence.

use lobbyd::Config;
use lobbyd::apps::Relay;
use lobbyd::config::{DuplicateLogin, Limit};
use lobbyd::sim::wire;

use super::{check_messages, delivered, no_rates};
use crate::common::scenario::{World, check};
use crate::common::witness::Witness;

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
