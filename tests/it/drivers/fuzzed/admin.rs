//! Operators' requests. The first byte selects how the input is cut, the rest is sent on one operator connection.

use lobbyd::admin::AdminConns;
use lobbyd::apps::Relay;
use lobbyd::config::ByteSize;
use lobbyd::sim::{MemorySockets, wire};
use lobbyd::{Config, Engine, Time};
use serde_json::Value;

use super::{START, pieces, without_rates};

pub fn run(data: &[u8]) {
    let Some((&seed, bytes)) = data.split_first() else { return };
    let whole = answer(bytes, 0);
    check_answers(&whole);
    // Whether `100 Continue` is sent depends on how much has arrived.
    if !bytes.to_ascii_lowercase().windows(6).any(|window| window == b"expect") {
        assert_eq!(text(&answer(bytes, 1)), text(&whole), "byte by byte");
        assert_eq!(text(&answer(bytes, seed)), text(&whole), "in pieces");
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn answer(bytes: &[u8], seed: u8) -> Vec<u8> {
    let config = Config {
        admin: Some("127.0.0.1:9002".parse().expect("an address")),
        max_message_bytes: ByteSize(300),
        max_header_bytes: ByteSize(512),
        max_headers: 16,
        ..without_rates()
    };
    let mut conns = AdminConns::new(&config, None);
    let mut engine = Engine::new(config.check().expect("the configuration is valid"), START, Relay::default());
    for user in ["ann", "bob"] {
        let conn = engine.handle_accept(Time::ZERO, ([127, 0, 0, 1], 4000).into()).expect("there is room");
        engine.handle_bytes(Time::ZERO, conn, &wire::upgrade_request(&format!("/ws/chess?token={user}"), &[]));
    }
    write(&mut engine);
    let client = conns.handle_accept(Time::ZERO, ([127, 0, 0, 1], 4001).into()).expect("there is room");
    let mut answered = Vec::new();
    let mut now = Time::ZERO;
    for piece in pieces(bytes, seed) {
        conns.handle_bytes(client, piece);
        work(now, &mut conns, &mut engine, client, &mut answered);
    }
    engine.check();
    // Runs until all timers have fired.
    for _ in 0..10_000 {
        let Some(next) = [engine.poll_timeout(), conns.poll_timeout()].into_iter().flatten().min() else { break };
        now = now.max(next);
        if now > Time::from_micros(600_000_000) {
            break;
        }
        engine.end_turn(now, &mut MemorySockets::default()).expect("the session is not recorded");
        work(now, &mut conns, &mut engine, client, &mut answered);
    }
    engine.check();
    answered
}

/// Performs the driver's work until nothing is left to do.
fn work(now: Time, conns: &mut AdminConns, engine: &mut Engine<Relay>, client: usize, answered: &mut Vec<u8>) {
    for _ in 0..10_000 {
        conns.work(now, engine);
        write(engine);
        let pending = conns.pending(client).to_vec();
        answered.extend_from_slice(&pending);
        if !pending.is_empty() {
            conns.handle_written(now, client, pending.len());
        }
        while conns.poll_closed().is_some() {}
        if pending.is_empty() && conns.poll_timeout() != Some(Time::ZERO) {
            return;
        }
    }
    panic!("the operators' connections still have work after 10,000 rounds");
}

fn write(engine: &mut Engine<Relay>) {
    engine.flush(&mut MemorySockets::default()).expect("the session is not recorded");
}

/// Every answer has a status, and a body of JSON or of metrics.
fn check_answers(mut bytes: &[u8]) {
    while !bytes.is_empty() {
        let end = bytes.windows(4).position(|window| window == b"\r\n\r\n").expect("a head has an end") + 4;
        let (head, rest) = bytes.split_at(end);
        let head = str::from_utf8(head).expect("heads are ASCII");
        let status: u16 = head.strip_prefix("HTTP/1.1 ").expect("HTTP/1.1")[..3].parse().expect("a status");
        if status == 100 {
            bytes = rest;
            continue;
        }
        let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: ")).expect("a length");
        let length: usize = length.parse().expect("a number");
        // The answer to a HEAD request has no body.
        let is_metrics = head.contains("\r\nContent-Type: text/plain;");
        let start: &[u8] = if is_metrics { b"# HELP " } else { b"{" };
        let body = rest.get(..length).filter(|body| body.starts_with(start));
        if let Some(body) = body.filter(|_| is_metrics) {
            assert!(status == 200 && body.ends_with(b"\n"), "{status}");
        } else if let Some(body) = body {
            let value: Value = serde_json::from_slice(body).expect("bodies are JSON");
            assert_eq!(status >= 400, value.get("error").is_some(), "{status} {value}");
        }
        bytes = &rest[body.map_or(0, <[u8]>::len)..];
    }
}
