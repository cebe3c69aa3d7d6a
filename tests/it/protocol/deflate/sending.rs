//! Broadcasts to clients that take compressed messages.

use lobbyd::apps::{Echo, Relay, Verbatim};
use lobbyd::config::{ByteSize, Flush, Limit};
use lobbyd::operator::{OperatorCommand, Payload};
use lobbyd::sim::wire;
use lobbyd::{Config, Exclude, Frame};

use super::{join, long, on};
use crate::common::scenario::World;
use crate::common::witness::Witness;

/// Number of broadcasts that were compressed.
fn compressed<A: lobbyd::App>(world: &World<A>) -> u64 {
    world.engine.stats().counters.compressed_frames
}

fn broadcast(data: &str) -> Vec<u8> {
    wire::text(&format!(r#"{{"type":"broadcast","data":{data}}}"#))
}

#[test]
fn a_broadcast_is_compressed_once_for_all_that_take_it() {
    let mut world = World::new(on(), Relay::default());
    join(&mut world, "chess", &["ann", "bob", "plain", "cid", "plain2"]);
    ["ann", "bob", "plain", "cid"].iter().for_each(|name| drop(world.take(name)));
    let data = long(1000);
    world.send("ann", &broadcast(&data));
    world.flush();
    for name in ["bob", "plain", "cid", "plain2"] {
        world.steps(&format!("{name} < message from=ann data={data}"));
        assert_eq!(world.client(name).reader.decompressed(), u64::from(!name.starts_with("plain")), "{name}");
    }
    world.steps("ann < nothing");
    let counters = world.engine.stats().counters;
    assert_eq!(counters.compressed_frames, 1);
    assert!(counters.compressed_bytes * 3 < counters.uncompressed_bytes && counters.uncompressed_bytes > 900);
}

#[test]
fn what_does_not_become_shorter_is_sent_as_it_is() {
    let mut world = World::new(on(), Verbatim::default());
    join(&mut world, "chess", &["ann", "bob"]);
    let mut random = lobbyd::Random::new(1);
    let noise: String = (0..100).map(|_| char::from(b' ' + random.below(94) as u8)).collect();
    let bytes: Vec<u8> = (0..2000).map(|_| random.next_u64() as u8).collect();
    world.send("ann", &wire::text(&"x".repeat(255)));
    world.send("ann", &wire::text(&noise));
    world.send("ann", &wire::frame(wire::Opcode::BINARY, true, &bytes, [1; 4]));
    world.flush();
    assert_eq!((world.take("bob").len(), world.client("bob").reader.decompressed()), (3, 0));
    world.send("ann", &wire::text(&"x".repeat(256)));
    world.flush();
    assert_eq!((world.take("bob"), world.client("bob").reader.decompressed()), (vec!["x".repeat(256)], 1));
}

#[test]
fn nothing_for_a_single_receiver_is_compressed() {
    let mut world = World::new(on(), Relay::default());
    join(&mut world, "chess", &["ann", "bob"]);
    let data = long(3000);
    world.send("ann", &wire::text(&format!(r#"{{"type":"direct","to":"bob","data":{data}}}"#)));
    let send = OperatorCommand::Send { user: "bob".into(), payload: Payload::Json(data.clone()) };
    world.engine.handle_operator(world.now, send).expect("bob is there");
    world.flush();
    assert_eq!((world.take("bob").len(), world.client("bob").reader.decompressed(), compressed(&world)), (2, 0, 0));
}

/// Its length could tell an excluded member, who has chosen a part of it, what the rest is.
#[test]
fn what_some_members_do_not_receive_is_not_compressed() {
    let mut world = World::new(on(), Witness::<true>::default());
    join(&mut world, "chess", &["ann", "bob", "cid"]);
    ["ann", "bob"].iter().for_each(|name| drop(world.take(name)));
    let frame = Frame::text(&format!(r#"{{"type":"secret","data":{}}}"#, long(1000)));
    let ann = world.conn("ann");
    world.app(|_, cx| {
        cx.broadcast_to_lobby("chess", Exclude::User("ann"), &frame);
        cx.broadcast_to_lobby("chess", Exclude::Users(&["ann", "cid"]), &frame);
        cx.broadcast_latest("chess", Exclude::User("ann"), 1, &frame);
    });
    assert_eq!((world.take("bob").len(), world.client("bob").reader.decompressed(), compressed(&world)), (3, 0, 0));
    world.app(|_, cx| {
        cx.broadcast_to_lobby("chess", Exclude::None, &frame);
        cx.broadcast_to_lobby("chess", Exclude::Conn(ann), &frame);
        cx.broadcast_latest("chess", Exclude::Conn(ann), 1, &frame);
        cx.broadcast_latest("chess", Exclude::None, 2, &frame);
    });
    assert_eq!((world.take("bob").len(), world.client("bob").reader.decompressed(), compressed(&world)), (4, 4, 4));
    assert_eq!((world.take("ann").len(), world.client("ann").reader.decompressed()), (2, 2));
}

/// A frame of more than 16 KiB is not in the buffer of the lobby, and neither is one beyond half of the bound.
#[test]
fn long_frames_are_compressed_once_too() {
    for length in [20_000, 60_000] {
        let mut world = World::new(on(), Relay::default());
        join(&mut world, "chess", &["ann", "bob", "plain", "cid"]);
        let data = long(length);
        world.send("ann", &broadcast(&data));
        world.send("ann", &broadcast(&data));
        world.flush();
        for name in ["bob", "plain", "cid"] {
            assert!(world.take(name).iter().rev().take(2).all(|text| text.contains(&data)), "{name}");
            assert_eq!(world.client(name).reader.decompressed(), if name == "plain" { 0 } else { 2 });
        }
        assert_eq!(compressed(&world), 2);
    }
}

/// A member that lags gets the same frames, in order, from its queue.
#[test]
fn lagging_members_get_compressed_frames() {
    let unlimited = Limit::UNLIMITED;
    let config = Config {
        max_outbound_bytes: ByteSize::kib(512),
        messages_per_second: unlimited,
        bytes_per_second: unlimited,
        ..on()
    };
    let mut world = World::new(config, Verbatim::default());
    join(&mut world, "chess", &["ann", "bob", "cid", "plain"]);
    let messages: Vec<String> =
        (0..300).map(|n| format!("{n} {}", "x".repeat(if n % 3 == 0 { 900 } else { 9 }))).collect();
    world.steps("bob > window 700\nplain > window 700");
    for (n, message) in messages.iter().enumerate() {
        world.send("ann", &wire::text(message));
        if n % 7 == 0 {
            world.flush();
        }
        world.engine.check();
    }
    world.flush();
    // What is queued is compressed, too.
    let queued = |world: &mut World<Verbatim>, name| {
        let conn = world.conn(name);
        world.app(|_, cx| cx.queued_bytes(conn))
    };
    assert!(queued(&mut world, "bob") * 3 < queued(&mut world, "plain"));
    world.steps("bob > read\nplain > read");
    for name in ["bob", "cid", "plain"] {
        assert_eq!(world.take(name), messages, "{name}");
    }
    assert_eq!(
        [world.client("bob").reader.decompressed(), world.client("cid").reader.decompressed(), compressed(&world)],
        [100; 3]
    );
}

#[test]
fn output_that_waits_for_a_tick_is_compressed() {
    let config = Config { tick_hz: Some(10), flush: Flush::Tick, ..on() };
    let mut world = World::new(config, Relay::default());
    join(&mut world, "chess", &["ann", "bob", "plain"]);
    world.steps("advance 1s");
    ["ann", "bob", "plain"].iter().for_each(|name| drop(world.take(name)));
    let data = long(1000);
    for _ in 0..3 {
        world.send("ann", &broadcast(&data));
        world.send("ann", &wire::text(&format!(r#"{{"type":"direct","to":"bob","data":{data}}}"#)));
    }
    world.steps("advance 1s");
    for name in ["bob", "plain"] {
        let texts = world.take(name);
        assert_eq!(texts.iter().filter(|text| text.contains("\"message\"")).count(), 3, "{texts:?}");
    }
    assert_eq!(
        (world.client("bob").reader.decompressed(), world.client("plain").reader.decompressed(), compressed(&world)),
        (3, 0, 3)
    );
}

/// The messages of many members wait for one tick. Compressing all of them would take a third of a second.
#[test]
fn a_tick_compresses_no_more_than_takes_a_few_milliseconds() {
    let rates = Config { bytes_per_second: Limit::UNLIMITED, messages_per_second: Limit::UNLIMITED, ..on() };
    let limits = Config { max_inbox_bytes: ByteSize(64 << 20), ..rates };
    let config = Config { tick_hz: Some(10), max_outbound_bytes: ByteSize(64 << 20), ..limits };
    let mut world = World::new(config, Relay::default());
    join(&mut world, "chess", &["ann", "bob"]);
    world.steps("advance 1s");
    ["ann", "bob"].iter().for_each(|name| drop(world.take(name)));
    let data = long(60_000);
    for round in 1..=2 {
        (0..100).for_each(|_| world.send("ann", &broadcast(&data)));
        world.steps("advance 1s");
        let texts = world.take("bob");
        assert_eq!(texts.iter().filter(|text| text.contains(&data)).count(), 100, "each one arrives");
        let decompressed = world.client("bob").reader.decompressed();
        assert!((75 * round..85 * round).contains(&decompressed), "{decompressed} of {round} ticks");
    }
}

/// The server's compressor needs a window of 4 KiB.
#[test]
fn clients_with_a_small_window_get_plain_messages() {
    for (bits, is_compressed) in [(8, false), (9, false), (11, false), (12, true), (15, true)] {
        let mut world = World::new(on(), Verbatim::default());
        join(&mut world, "chess", &["ann"]);
        let offer = format!("Sec-WebSocket-Extensions: permessage-deflate; server_max_window_bits={bits}");
        world.steps(&format!("bob > get /ws/chess?token=bob {offer}\nbob < upgrade"));
        world.send("ann", &wire::text(&"x".repeat(600)));
        world.send("bob", &super::text("from bob"));
        world.flush();
        assert!(world.client("bob").reader.has_deflate());
        assert_eq!(
            (world.take("bob").len(), world.client("bob").reader.decompressed()),
            (1, is_compressed.into()),
            "{bits}"
        );
        assert_eq!(world.take("ann"), ["from bob"]);
    }
}

/// What a session missed is sent again as it is: it is for one receiver.
#[test]
fn a_replay_is_not_compressed() {
    let mut world = World::new(on(), Relay::default());
    join(&mut world, "chess", &["ann"]);
    let offer = super::OFFER;
    let connect = |more: &str| format!("bob > get /ws/chess?token=bob&session=0123456789abcdef{more} {offer}");
    world.steps(&connect(""));
    let epoch = world.take("bob")[1].split("\"epoch\":").nth(1).expect("an epoch").split(',').next().map(str::to_owned);
    world.steps("bob > hangup");
    let data = long(2000);
    world.send("ann", &broadcast(&data));
    world.flush();
    world.steps(&connect(&format!("&epoch={}&seq=1&n=0", epoch.expect("an epoch"))));
    let got = world.take("bob");
    assert!(got.iter().any(|text| text.contains(&data)), "{got:?}");
    assert_eq!((world.client("bob").reader.decompressed(), compressed(&world)), (0, 0));
    world.send("ann", &broadcast(&data));
    world.flush();
    assert_eq!((world.client("bob").reader.decompressed(), compressed(&world)), (1, 1));
}

/// It contains only what its receiver has sent.
#[test]
fn an_echo_is_compressed() {
    let mut world = World::new(on(), Echo);
    join(&mut world, "any", &["ann", "plain"]);
    for name in ["ann", "plain"] {
        world.send(name, &wire::text(&"x".repeat(1000)));
        world.flush();
        assert_eq!(world.take(name), ["x".repeat(1000)]);
    }
    assert_eq!((world.client("ann").reader.decompressed(), world.client("plain").reader.decompressed()), (1, 0));
}

#[test]
fn nothing_is_negotiated_if_the_configuration_does_not_say_so() {
    let mut world = World::new(Config::default(), Verbatim::default());
    join(&mut world, "chess", &["ann", "bob"]);
    assert!(!world.client("ann").reader.has_deflate());
    world.send("ann", &wire::text(&"x".repeat(1000)));
    world.flush();
    assert_eq!((world.take("bob").len(), compressed(&world)), (1, 0));
}

/// The work of one receive counts the compression of the broadcasts that it causes, so that other connections have their turn. A
/// broadcast that nobody takes compressed costs no more than without compression.
#[test]
fn work_counts_the_compression_of_broadcasts() {
    let work = |length: usize, names: &[&str], max_work: usize| {
        let mut world = World::new(on(), Verbatim::default());
        join(&mut world, "chess", names);
        let conn = world.conn(names[0]);
        let message = wire::text(&"x".repeat(length));
        let consumed = world.engine.handle_bytes_up_to(world.now, conn, &message.repeat(4), max_work);
        world.flush();
        (consumed.work, consumed.bytes / message.len(), compressed(&world))
    };
    for length in [1000, 20_000] {
        let (plain, ..) = work(length, &["ann", "plain", "plain2"], usize::MAX);
        let (with_one, _, count) = work(length, &["ann", "plain", "bob"], usize::MAX);
        assert_eq!(count, 4);
        assert!(
            (plain + 4 * 16 * length..plain + 4 * (17 * length + 10_000)).contains(&with_one),
            "{plain} {with_one}"
        );
        assert_eq!(work(length, &["ann", "bob", "cid"], usize::MAX).0, with_one, "once for all receivers");
        assert_eq!(work(length, &["ann", "bob", "plain"], with_one / 2).1, 2);
    }
    let plain = work(200, &["ann", "plain"], usize::MAX).0;
    assert_eq!(work(200, &["ann", "bob"], usize::MAX).0, plain, "it is too short");
    // The sender's own frames are not compressed for it.
    let plain = work(1000, &["plain", "plain2"], usize::MAX).0;
    assert_eq!(work(1000, &["ann", "plain"], usize::MAX), (plain, 4, 0));
}
