//! The outcome of a session does not depend on how its bytes are split.
//!
//! All pieces of a session arrive within one turn. With several turns the outcome may differ, because presence is announced
//! at the end of each turn.

use lobbyd::config::{ByteSize, Limit};
use lobbyd::driver::Flow;
use lobbyd::sim::MemorySockets;
use lobbyd::sim::wire::{self, Opcode};
use lobbyd::{App, Config, Engine, Frame, Message, Random, Time};

use crate::common::scenario::START;
use crate::common::witness::Witness;

const CLIENTS: usize = 3;

fn config() -> Config {
    Config {
        // No rates: each piece is charged when it arrives, so a rate would give different outcomes.
        messages_per_second: lobbyd::config::Limit::UNLIMITED,
        bytes_per_second: lobbyd::config::Limit::UNLIMITED,
        control_per_second: lobbyd::config::Limit::UNLIMITED,
        max_message_bytes: ByteSize(400),
        max_strikes: 3,
        max_per_lobby: Limit::at_most(CLIENTS as u32),
        ..Config::default()
    }
}

/// A random session: the messages that clients send, in order, each with the index of its client.
fn session(random: &mut Random) -> Vec<(usize, Vec<u8>)> {
    let mut steps: Vec<(usize, Vec<u8>)> = Vec::new();
    for n in 0..CLIENTS {
        // The lobby is nearly always the same one, and the user sometimes is.
        let user = if random.percent(15) { 0 } else { n };
        let auth = if random.percent(10) { "&auth=banned" } else { "" };
        let head = wire::upgrade_request(&format!("/ws/chess?token=user{user}{auth}"), &[]);
        steps.push((n, if random.percent(5) { head[1..].to_vec() } else { head }));
    }
    for _ in 0..random.below(25) {
        let n = random.below(CLIENTS as u64) as usize;
        steps.push((n, random_input(random)));
    }
    // Some sessions end in the middle of a message.
    if random.percent(30) {
        let (_, last) = steps.last_mut().expect("every client connects");
        last.truncate(random.below(last.len() as u64 + 1) as usize);
    }
    steps
}

fn random_input(random: &mut Random) -> Vec<u8> {
    let mask = (random.next_u64() as u32).to_be_bytes();
    let payload = |random: &mut Random, most: u64| -> Vec<u8> {
        (0..random.below(most)).map(|_| b' ' + random.below(95) as u8).collect()
    };
    match random.below(100) {
        0..25 => {
            let texts = [
                r#"{"type":"broadcast","data":{"x":[1,2,3]},"ref":1}"#,
                r#"{"type":"broadcast","data":"€🎲"}"#,
                r#"{"type":"direct","to":"user1","data":1,"ref":"r"}"#,
                r#"{"type":"presence"}"#,
                r#"{"type":"ping","ref":2}"#,
                r#"{"type":"move","to":"e4","ref":3}"#,
                r#"{"type":"health_pong","timestamp":1}"#,
            ];
            let text = texts[random.below(texts.len() as u64) as usize];
            wire::frame(Opcode::TEXT, true, text.as_bytes(), mask)
        }
        25..40 => {
            // In fragments, with a ping between them. The cut may be inside a UTF-8 character.
            let text = r#"{"type":"broadcast","data":"€🎲€🎲€🎲"}"#.as_bytes();
            let cut = random.below(text.len() as u64) as usize;
            let mut bytes = wire::frame(Opcode::TEXT, false, &text[..cut], mask);
            if random.percent(50) {
                bytes.extend(wire::frame(Opcode::PING, true, b"between", mask));
            }
            bytes.extend(wire::frame(Opcode::CONTINUATION, true, &text[cut..], mask));
            bytes
        }
        40..60 => wire::frame(Opcode::BINARY, true, &payload(random, 400), mask),
        60..70 => wire::frame(Opcode::PING, true, &payload(random, 126), mask),
        70..76 => wire::frame(Opcode::PONG, true, &payload(random, 126), mask),
        76..82 => wire::frame(Opcode::TEXT, true, &payload(random, 50), mask),
        82..85 => wire::text(r#"{"type":"leave","ref":4}"#),
        85..88 => wire::close(1000 + random.below(12) as u16, "bye"),
        88..90 => wire::frame(Opcode::CLOSE, true, b"", mask),
        90..92 => wire::frame(Opcode::TEXT, true, b"{\"type\":\"\xff\"}", mask),
        92..94 => wire::frame(Opcode::BINARY, true, &[0; 401], mask),
        94..95 => wire::frame(Opcode::CONTINUATION, true, b"", mask),
        95..96 => b"\x81\x02hi".to_vec(),
        96..98 => wire::frame(Opcode::PING, false, b"", mask),
        _ => payload(random, 20),
    }
}

/// The outcome of a session: the bytes each client received, whether the server has finished with it, and the events the
/// application saw.
#[derive(Debug, PartialEq)]
struct Outcome {
    received: Vec<Vec<u8>>,
    finished: Vec<bool>,
    events: Vec<String>,
    bytes_in: u64,
}

fn play<const JSON: bool>(steps: &[(usize, Vec<u8>)], max_work: usize, mut cut: impl FnMut(usize) -> usize) -> Outcome
where
    Witness<JSON>: App,
{
    // Every message is relayed, so that the received bytes show the order among the connections.
    let app = Witness::<JSON>::reacting(|cx, member, event| {
        if event.starts_with("json") || event.starts_with("text") || event.starts_with("binary") {
            let frame = Frame::binary(event.as_bytes());
            cx.broadcast_from(member.expect("a message has a sender"), &frame);
        }
    });
    let mut engine = Engine::new(config().check().expect("the configuration is valid"), START, app);
    let now = Time::ZERO;
    let conns: Vec<_> = (0..CLIENTS)
        .map(|_| engine.handle_accept(now, ([127, 0, 0, 1], 4000).into()).expect("there is room"))
        .collect();
    for (n, bytes) in steps {
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let (piece, _) = rest.split_at(cut(rest.len()));
            let consumed = engine.handle_bytes_up_to(now, conns[*n], piece, max_work);
            assert!(consumed.bytes > 0 && (consumed.bytes == piece.len() || consumed.work >= max_work));
            rest = &rest[consumed.bytes..];
        }
    }
    engine.check();
    let mut sockets = MemorySockets::default();
    engine.flush(&mut sockets).expect("the session is not recorded");
    engine.check();
    let (mut received, mut finished) = (vec![Vec::new(); CLIENTS], vec![false; CLIENTS]);
    for write in sockets.take_writes() {
        let n = conns.iter().position(|&known| known == write.conn).expect("a connection of this test");
        received[n].extend(write.bytes);
        finished[n] |= matches!(write.outcome, Ok(Flow::Finished | Flow::Closed));
    }
    let bytes_in = engine.stats().counters.bytes_in;
    Outcome { received, finished, events: engine.app_mut().take(), bytes_in }
}

#[track_caller]
fn check<const JSON: bool>(seed: u64) -> Outcome
where
    Witness<JSON>: App,
{
    let steps = session(&mut Random::new(seed));
    let whole = play::<JSON>(&steps, usize::MAX, |rest| rest);
    let mut random = Random::new(seed);
    assert_eq!(play::<JSON>(&steps, usize::MAX, |_| 1), whole, "seed {seed}, byte by byte");
    for round in 0..3 {
        let pieces = play::<JSON>(&steps, usize::MAX, |rest| 1 + random.below(rest as u64) as usize);
        assert_eq!(pieces, whole, "seed {seed}, in random pieces, round {round}");
    }
    // The messages of one client that follow each other, joined into one input.
    let mut joined: Vec<(usize, Vec<u8>)> = Vec::new();
    for (n, bytes) in steps {
        match joined.last_mut() {
            Some((last, before)) if *last == n => before.extend(bytes),
            _ => joined.push((n, bytes)),
        }
    }
    assert_eq!(play::<JSON>(&joined, usize::MAX, |rest| rest), whole, "seed {seed}, several messages at once");
    // With a work limit, the engine consumes a part of the input. The rest is passed in again, whole or in pieces.
    for max_work in [0, 300, 2000] {
        assert_eq!(play::<JSON>(&joined, max_work, |rest| rest), whole, "seed {seed}, {max_work} at a time");
        let pieces = play::<JSON>(&joined, max_work, |rest| 1 + random.below(rest as u64) as usize);
        assert_eq!(pieces, whole, "seed {seed}, {max_work} at a time and in pieces");
    }
    whole
}

#[test]
fn the_outcome_does_not_depend_on_how_bytes_are_split() {
    let (mut messages, mut ends) = (0, 0);
    for seed in 0..150 {
        for outcome in [check::<true>(seed), check::<false>(seed)] {
            messages += outcome.events.iter().filter(|event| event.starts_with("binary")).count();
            ends += outcome.finished.iter().filter(|&&finished| finished).count();
        }
    }
    assert!(messages > 250 && ends > 50, "the sessions are worth comparing: {messages} messages, {ends} ends");
}

/// The application receives exactly the bytes that the client sent.
#[test]
fn messages_arrive_as_they_were_sent() {
    struct Last(Vec<u8>);
    impl App for Last {
        const PROTOCOL: lobbyd::Protocol = lobbyd::Protocol::Raw;

        fn authorize(&mut self, _: &mut lobbyd::Context<'_>, request: &lobbyd::Request<'_>) -> lobbyd::Authorization {
            lobbyd::Authorization::token_is_user(request)
        }

        fn on_message(&mut self, _: &mut lobbyd::Context<'_>, _: &lobbyd::Member, message: Message<'_>) {
            match message {
                Message::Binary(bytes) => self.0 = bytes.to_vec(),
                other => panic!("it was binary: {other:?}"),
            }
        }
    }
    let config = Config { bytes_per_second: Limit::UNLIMITED, ..Config::default() };
    let mut engine = Engine::new(config.check().expect("the configuration is valid"), START, Last(Vec::new()));
    let conn = engine.handle_accept(Time::ZERO, ([127, 0, 0, 1], 4000).into()).expect("there is room");
    engine.handle_bytes(Time::ZERO, conn, &wire::upgrade_request("/ws/chess?token=ann", &[]));
    let mut random = Random::new(3);
    for length in [0, 1, 2, 3, 4, 5, 125, 126, 127, 500, 511, 512, 513, 5000, 65_535, 65_536] {
        let payload: Vec<u8> = (0..length).map(|_| random.next_u64() as u8).collect();
        let mask = (random.next_u64() as u32).to_be_bytes();
        let (front, back) = payload.split_at(random.below(length as u64 + 1) as usize);
        engine.handle_bytes(Time::ZERO, conn, &wire::frame(Opcode::BINARY, true, &payload, mask));
        assert!(engine.app().0 == payload, "{length} bytes whole");
        engine.app_mut().0.clear();
        engine.handle_bytes(Time::ZERO, conn, &wire::frame(Opcode::BINARY, false, front, mask));
        engine.handle_bytes(Time::ZERO, conn, &wire::frame(Opcode::CONTINUATION, true, back, mask));
        assert!(engine.app().0 == payload, "{length} bytes in fragments");
    }
}
