//! Rates of messages.

use std::time::Duration;

use lobbyd::apps::{Relay, Verbatim};
use lobbyd::config::Limit;
use lobbyd::sim::wire::{self, Opcode};
use lobbyd::{Config, Reject};

use super::{assert_within_a_percent, check_messages, delivered, no_rates, one_a_second};
use crate::common::scenario::World;
use crate::common::witness::Witness;

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
    // The first one beyond the burst is no strike.
    world.send("ann", &pong.repeat(60 + 1 + 5));
    world.run("ann < nothing");
    world.send("ann", &pong);
    world.flush();
    world.run("ann < close 4009 rate_limited");
}
