//! Rates of bytes.

use std::time::Duration;

use lobbyd::Config;
use lobbyd::apps::Relay;
use lobbyd::config::{ByteSize, Limit};
use lobbyd::sim::wire::{self, Opcode};

use super::{MINUTE, assert_within_a_percent, bytes_delivered, measure, no_rates};
use crate::common::scenario::World;
use crate::common::witness::Witness;

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
    let config = Config { bytes_per_second: Limit::at_most(5000), byte_burst: ByteSize(10_000), ..no_rates() };
    check_bytes(config, 1, 5000);
}

#[test]
fn bytes_of_a_user_share_one_rate_over_all_its_connections() {
    let config = Config {
        user_bytes_per_second: Limit::at_most(4000).into(),
        user_byte_burst: ByteSize(10_000).into(),
        ..no_rates()
    };
    check_bytes(config.clone(), 1, 4000);
    check_bytes(config, 2, 4000);
}

/// A client that sends rarely and much at once gets no more than one that sends often and little.
#[test]
fn a_long_read_is_charged_in_full() {
    let (unlimited, most) = (Limit::UNLIMITED, Limit::at_most);
    for (own, user, per_second) in
        [(most(5000), unlimited, 5000), (most(9000), most(4000), 4000), (unlimited, most(3000), 3000)]
    {
        let config = Config {
            max_message_bytes: ByteSize(1000),
            bytes_per_second: own,
            byte_burst: ByteSize(10_000),
            user_bytes_per_second: user.into(),
            user_byte_burst: ByteSize(9000).into(),
            ..no_rates()
        };
        for length in [100, 1000] {
            let mut world = World::new(config.clone(), Witness::<false>::default());
            world.run("ann > connect chess\nann < upgrade");
            let message = wire::text(&"x".repeat(length));
            let read = message.repeat(40_000 / message.len());
            let say = |world: &mut World<Witness<false>>| world.send("ann", &read);
            let (_, later) = measure(&mut world, 2, Duration::from_millis(250), say, bytes_delivered);
            let allowed = 60 * per_second;
            let case = format!("{length} bytes at {per_second} per second: {later} of {allowed}");
            // The bytes of a message that is not paid as a whole are lost.
            assert!(later <= allowed + allowed / 100 && later >= allowed * 8 / 10, "{case}");
        }
    }
}

/// At least one frame is consumed, also of a read that is longer than the burst.
#[test]
fn a_long_read_makes_progress_without_work_left() {
    let config = Config {
        max_message_bytes: ByteSize(1000),
        bytes_per_second: Limit::at_most(5000),
        byte_burst: ByteSize(10_000),
        ..no_rates()
    };
    let mut world = World::new(config, Witness::<false>::default());
    world.run("ann > connect chess\nann < upgrade");
    let message = wire::text(&"x".repeat(1000));
    let read = message.repeat(20);
    let conn = world.conn("ann");
    let consumed = world.engine.handle_bytes_up_to(world.now, conn, &read, 0);
    assert_eq!(consumed.bytes, message.len());
}

/// A message that arrives in pieces is charged in full, even if its last piece arrives when the bucket has filled again.
#[test]
fn a_message_in_pieces_is_charged_in_full() {
    let config = Config {
        max_message_bytes: ByteSize(6100),
        bytes_per_second: Limit::at_most(2000),
        byte_burst: ByteSize(7000),
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
    world.run("ann joins chess");
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

/// The bytes of a request are charged to its connection, and to its user too if both have the same rate.
#[test]
fn the_bytes_of_a_request_are_charged_to_its_user_too() {
    for (padding, is_served) in [(0, true), (800, false)] {
        let config = Config {
            max_message_bytes: ByteSize(125),
            bytes_per_second: Limit::at_most(1),
            byte_burst: ByteSize(1000),
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
