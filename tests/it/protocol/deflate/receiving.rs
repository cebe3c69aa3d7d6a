//! Compressed messages from clients.

use std::time::Duration;

use flate2::{Compress, Compression, FlushCompress};
use lobbyd::config::{ByteSize, Limit, PerUser};
use lobbyd::sim::wire::{self, Opcode};
use lobbyd::{CloseReason, Config};

use super::{MASK, OFFER, codes, join, long, marked, on, payload, text};
use crate::common::scenario::World;
use crate::common::witness::Witness;

/// `frames` of ann reach the application as these events, whole or byte by byte.
#[track_caller]
fn check(frames: &[Vec<u8>], expected: &[&str]) {
    for step in [usize::MAX, 1] {
        let mut world = World::new(on(), Witness::<false>::default());
        join(&mut world, "chess", &["ann"]);
        for piece in frames.concat().chunks(step) {
            world.send("ann", piece);
        }
        world.flush();
        let log = world.engine.app_mut().take();
        assert_eq!(log[1..], *expected, "in steps of {step}");
        world.engine.check();
    }
}

/// `frames` of ann close her connection with `reason`. Nothing of them reaches the application.
#[track_caller]
fn check_fault(config: Config, frames: &[Vec<u8>], reason: CloseReason) {
    for step in [usize::MAX, 1] {
        let mut world = World::new(config.clone(), Witness::<true>::default());
        join(&mut world, "chess", &["ann"]);
        for piece in frames.concat().chunks(step) {
            world.send("ann", piece);
        }
        world.send("ann", &wire::text(r#"{"type":"broadcast","data":"after"}"#));
        world.flush();
        let (code, word) = (reason.code(), reason.word());
        world.steps(&format!("ann < goodbye code={code} reason={word}, close {code} {word}, eof\nann < nothing"));
        assert_eq!(world.engine.stats().counters.closed(reason), 1);
        assert_eq!(world.engine.app_mut().take(), ["join ann", "leave ann dropped"]);
    }
}

#[test]
fn messages_reach_the_application_decompressed() {
    let hello = payload(b"Hello");
    check(&[text("Hello"), text("")], &["text ann Hello", "text ann "]);
    check(&[marked(Opcode::BINARY, true, &hello)], &["binary ann [72, 101, 108, 108, 111]"]);
    // Plain ones may stand between them (RFC 7692 section 6).
    check(&[wire::text("one"), text("two"), wire::text("three")], &["text ann one", "text ann two", "text ann three"]);
}

#[test]
fn only_the_first_frame_of_a_compressed_message_is_marked() {
    let hello = payload(b"Hello");
    let (begin, rest) = hello.split_at(2);
    let (middle, end) = rest.split_at(1);
    let ping = wire::frame(Opcode::PING, true, b"", MASK);
    let frame = |is_final, part| wire::frame(Opcode::CONTINUATION, is_final, part, MASK);
    let frames = [
        marked(Opcode::TEXT, false, begin),
        ping,
        frame(false, middle),
        frame(false, b""),
        frame(true, end),
        wire::text("x"),
    ];
    check(&frames, &["text ann Hello", "text ann x"]);
    for bad in [marked(Opcode::CONTINUATION, true, rest), marked(Opcode::PING, true, b"")] {
        check_fault(on(), &[marked(Opcode::TEXT, false, begin), bad], CloseReason::ProtocolError);
    }
}

#[test]
fn the_bit_is_an_error_where_it_was_not_agreed_on() {
    for opcode in [Opcode::PING, Opcode::PONG, Opcode::CLOSE, Opcode::CONTINUATION, Opcode(3)] {
        check_fault(on(), &[marked(opcode, true, b"")], CloseReason::ProtocolError);
    }
    for bits in [0x20, 0x10, 0x60, 0x50] {
        let mut frame = text("Hello");
        frame[0] = 0x81 | bits;
        check_fault(on(), &[frame], CloseReason::ProtocolError);
    }
    // The client offers it, and the server does not compress.
    check_fault(Config::default(), &[text("Hello")], CloseReason::ProtocolError);
    // The server compresses, and the client has not offered it.
    let mut world = World::new(on(), Witness::<true>::default());
    join(&mut world, "chess", &["plain"]);
    world.send("plain", &text("Hello"));
    world.flush();
    world.steps("plain < goodbye code=1002, close 1002 protocol_error, eof");
}

#[test]
fn data_that_cannot_be_decompressed_closes_with_1007() {
    for bad in [&b"\x07"[..], b"\xf2\x48\xcd", b"\x00\x05\x00\xfa\xfe\x48", b"\xf2\x00\x11\x00\x00"] {
        check_fault(on(), &[marked(Opcode::BINARY, true, bad)], CloseReason::BadCompression);
    }
    check_fault(on(), &[marked(Opcode::TEXT, true, &payload(b"a\xff"))], CloseReason::BadUtf8);
    check(&[marked(Opcode::BINARY, true, &payload(b"a\xff"))], &["binary ann [97, 255]"]);
}

/// A message may have `max_message_bytes` after it was decompressed, however short it was before.
#[test]
fn bombs_close_with_1009() {
    let config = Config { max_message_bytes: ByteSize(1000), ..on() };
    check_fault(config.clone(), &[text(&"x".repeat(1001))], CloseReason::MessageTooBig);
    check_fault(config.clone(), &[text(&"x".repeat(1 << 20))], CloseReason::MessageTooBig);
    check_fault(config.clone(), &[marked(Opcode::BINARY, true, &[0; 2000])], CloseReason::MessageTooBig);
    let parts = [marked(Opcode::BINARY, false, &[0; 600]), wire::frame(Opcode::CONTINUATION, true, &[0; 600], MASK)];
    check_fault(config.clone(), &parts, CloseReason::MessageTooBig);
    let mut world = World::new(config, Witness::<false>::default());
    join(&mut world, "chess", &["ann"]);
    world.send("ann", &text(&"x".repeat(1000)));
    assert_eq!(world.engine.app_mut().take()[1].len(), "text ann ".len() + 1000);
    let counters = world.engine.stats().counters;
    assert_eq!((counters.decompressed_messages, counters.decompressed_bytes), (1, 1000));
}

/// A client may make the server read as many bytes as without compression.
#[test]
fn a_burst_has_room_for_the_longest_compressed_message() {
    let config = Config { byte_burst: ByteSize(70_000), ..on() };
    let refused = config.clone().check().expect_err("the burst is too small").to_string();
    assert!(refused.contains("must be at least 73806"), "{refused}");
    assert_eq!(Config { byte_burst: ByteSize(73_806), ..on() }.check().err(), None);
    assert_eq!(Config { deflate: false, ..config }.check().err(), None);
}

#[test]
fn rates_count_the_bytes_of_long_answers_to_health_checks() {
    let config =
        Config { bytes_per_second: Limit::at_most(10_000), byte_burst: ByteSize(75_000), max_rate_strikes: 2, ..on() };
    // The second one is none, and gets an `error`.
    for timestamp in ["1", "{}"] {
        let mut world = World::new(config.clone(), Witness::<true>::default());
        join(&mut world, "chess", &["ann"]);
        let answer = format!(r#"{{"type":"health_pong","timestamp":{timestamp},"x":"{}"}}"#, "x".repeat(40_000));
        for _ in 0..20 {
            world.send("ann", &text(&answer));
            world.flush();
        }
        let counters = &world.engine.stats().counters;
        assert_eq!(counters.closed(CloseReason::RateLimited), 1);
        assert!(counters.decompressed_messages <= 5, "{}", counters.decompressed_messages);
    }
}

#[test]
fn rates_count_decompressed_bytes() {
    let config =
        Config { bytes_per_second: Limit::at_most(10_000), byte_burst: ByteSize(75_000), max_rate_strikes: 2, ..on() };
    let mut world = World::new(config, Witness::<true>::default());
    join(&mut world, "chess", &["ann"]);
    let message = format!(r#"{{"type":"move","to":"{}"}}"#, "x".repeat(40_000));
    assert!(text(&message).len() < 200);
    world.send("ann", &text(&message));
    world.flush();
    world.steps("ann < nothing");
    assert_eq!(world.engine.app_mut().take().len(), 2, "the burst has room for one");
    world.send("ann", &text(&message));
    world.flush();
    world.steps("ann < error code=rate_limited");
    assert_eq!(world.engine.app_mut().take(), [""; 0]);
    world.advance(Duration::from_secs(15));
    world.take("ann");
    world.send("ann", &wire::text(r#"{"type":"move","ref":1}"#));
    world.flush();
    world.steps("ann < ack ref=1");
    for _ in 0..5 {
        world.send("ann", &text(&message));
    }
    world.flush();
    assert_eq!(world.engine.stats().counters.closed(CloseReason::RateLimited), 1);
}

/// The wait after a refusal is long enough for all bytes of the message, also for those that were charged before it was
/// decompressed.
#[test]
fn a_refused_compressed_message_is_served_after_the_wait() {
    for user_limit in [PerUser::Same, PerUser::Own(Limit::at_most(9000)), PerUser::Own(Limit::UNLIMITED)] {
        let config = Config {
            bytes_per_second: Limit::at_most(10_000),
            user_bytes_per_second: user_limit,
            byte_burst: ByteSize(75_000),
            ..on()
        };
        let mut world = World::new(config, Witness::<true>::default());
        join(&mut world, "chess", &["ann"]);
        // Digits become half as long, so half of the message is charged before it is decompressed.
        let mut random = lobbyd::Random::new(1);
        let noise: String = (0..40_000).map(|_| char::from(b'0' + random.below(10) as u8)).collect();
        let message = |n| text(&format!(r#"{{"type":"move","to":"{noise}","ref":{n}}}"#));
        world.send("ann", &message(1));
        world.flush();
        world.steps("ann < ack ref=1");
        world.send("ann", &message(2));
        world.flush();
        let refusal: serde_json::Value = serde_json::from_str(&world.take("ann")[0]).expect("JSON");
        assert_eq!((refusal["code"].as_str(), refusal["ref"].as_u64()), (Some("rate_limited"), Some(2)), "{refusal}");
        let wait = Duration::from_millis(refusal["retry_after_ms"].as_u64().expect("a number"));
        assert!(wait < Duration::from_secs(3), "{wait:?} is longer than needed");
        world.advance(wait);
        world.take("ann");
        world.send("ann", &message(3));
        world.flush();
        world.steps("ann < ack ref=3");
    }
}

/// The bytes that follow a compressed message were charged when they arrived, so they are not charged again when the contents of
/// the message exceed the rate.
#[test]
fn bytes_behind_a_refused_compressed_message_are_charged_once() {
    let config = Config { bytes_per_second: Limit::at_most(1), byte_burst: ByteSize(150_000), ..on() };
    let mut world = World::new(config, Witness::<true>::default());
    join(&mut world, "chess", &["ann"]);
    let compressed = text(&format!(r#"{{"type":"move","to":"{}"}}"#, "x".repeat(60_000)));
    let short = wire::text(r#"{"type":"move","to":"e4","ref":1}"#);
    let plain = wire::text(&format!(r#"{{"type":"move","to":"{}","ref":2}}"#, "x".repeat(60_000)));
    let (begin, rest) = plain.split_at(40_000);
    world.send("ann", &[&compressed[..], &compressed, &short, begin].concat());
    world.flush();
    world.steps("ann < error code=rate_limited, ack ref=1");
    assert_eq!(world.engine.app_mut().take().len(), 3, "joined, and two messages");
    // The bucket has 49,000 bytes left.
    world.send("ann", rest);
    world.flush();
    world.steps("ann < ack ref=2");
    assert_eq!(world.engine.app_mut().take().len(), 1);
}

/// A message of many blocks is charged for the time that their codes take.
#[test]
fn rates_count_blocks() {
    let config =
        Config { bytes_per_second: Limit::at_most(10_000), byte_burst: ByteSize(75_000), max_rate_strikes: 2, ..on() };
    let mut world = World::new(config, Witness::<true>::default());
    join(&mut world, "chess", &["ann"]);
    let message = marked(Opcode::TEXT, true, &[&codes(240)[..], &payload(br#"{"type":"move","to":"e4"}"#)].concat());
    assert!(message.len() < 6100);
    world.send("ann", &message);
    world.flush();
    world.steps("ann < nothing");
    assert_eq!(world.engine.app_mut().take().len(), 2, "the burst has room for one");
    world.send("ann", &message);
    world.flush();
    world.steps("ann < error code=rate_limited");
    for _ in 0..3 {
        world.send("ann", &message);
    }
    world.flush();
    assert_eq!(world.engine.stats().counters.closed(CloseReason::RateLimited), 1);
}

/// Some clients flush their compressor at the end of each frame.
#[test]
fn each_fragment_may_be_flushed() {
    const COUNT: usize = 1000;
    let mut stream = Compress::new(Compression::default(), false);
    let (mut frames, mut whole) = (Vec::new(), String::new());
    for n in 0..COUNT {
        let (text, mut part) = (format!("{n:05}"), Vec::with_capacity(100));
        stream.compress_vec(text.as_bytes(), &mut part, FlushCompress::Sync).expect("there is room");
        let is_final = n == COUNT - 1;
        part.truncate(part.len() - if is_final { 4 } else { 0 });
        frames.push(match n {
            0 => marked(Opcode::TEXT, is_final, &part),
            _ => wire::frame(Opcode::CONTINUATION, is_final, &part, MASK),
        });
        whole += &text;
    }
    check(&frames, &[&format!("text ann {whole}")]);
}

/// Others may end the stream after the flush, with an empty block that says that it is the last one.
#[test]
fn a_stream_may_end_with_its_message() {
    let ended = [&payload(b"Hello")[..], b"\x00\x00\xff\xff\x01"].concat();
    check(&[marked(Opcode::TEXT, true, &ended), marked(Opcode::TEXT, true, &[1])], &["text ann Hello", "text ann "]);
}

/// The work of one receive counts the decompressed bytes, so that other connections have their turn.
#[test]
fn work_counts_decompressed_bytes() {
    let mut world = World::new(on(), Witness::<false>::default());
    join(&mut world, "chess", &["ann"]);
    let message = text(&"x".repeat(10_000));
    let conn = world.conn("ann");
    let consumed = world.engine.handle_bytes_up_to(world.now, conn, &message.repeat(5), 15_000);
    assert_eq!(consumed.bytes, 2 * message.len());
    assert!(consumed.work > 20_000, "{}", consumed.work);
    // What compression does not make much shorter takes longer to decompress.
    let mut random = lobbyd::Random::new(1);
    let digits: String = (0..10_000).map(|_| char::from(b'0' + random.below(10) as u8)).collect();
    let work = |message: Vec<u8>| {
        let mut world = World::new(on(), Witness::<false>::default());
        join(&mut world, "chess", &["ann"]);
        let conn = world.conn("ann");
        world.engine.handle_bytes_up_to(world.now, conn, &message, usize::MAX).work
    };
    assert!(work(text(&digits)) > 3 * work(wire::text(&digits)) && work(text(&digits)) > 2 * work(message));
}

#[test]
fn a_malformed_header_is_refused_only_if_it_is_read() {
    let bad = "Sec-WebSocket-Extensions: permessage-deflate; =";
    let mut world = World::new(on(), Witness::<true>::default());
    world.steps(&format!("ann > get /ws/chess?token=ann {bad}"));
    assert_eq!(world.take("ann")[0], "http 400");
    let mut world = World::new(Config::default(), Witness::<true>::default());
    world.steps(&format!("ann > get /ws/chess?token=ann {bad}\nann < upgrade, welcome, presence_state"));
}

/// The request waits for the application's decision, and compressed messages arrive before it.
#[test]
fn a_deferred_request_is_answered_with_its_offer() {
    let mut world = World::new(on(), Witness::<false>::default());
    world.steps(&format!("ann > get /ws/chess?token=ann&auth=later {OFFER}"));
    world.send("ann", &text(&long(600)));
    world.authorize("ann", lobbyd::Authorization::allow("ann"));
    assert_eq!(world.engine.app_mut().take().len(), 2, "joined, and the message has arrived");
    assert!(world.client("ann").reader.has_deflate());
}
