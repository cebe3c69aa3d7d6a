//! The exact bytes of each kind of answer to an operator, compared with `admin_answers.txt`.
//!
//! `LOBBYD_BLESS=1 cargo test answers_to_operators` writes that file.

use std::time::Duration;

use lobbyd::admin::{AdminConns, Token};
use lobbyd::apps::{Relay, Verbatim};
use lobbyd::config::{DuplicateLogin, Limit};
use lobbyd::sim::wire::{self, Opcode};
use lobbyd::{App, Config, Time, journal};

use crate::common::scenario::{START, World};

/// A dialogue of an operator with a server, as text.
struct Dialogue<A> {
    world: World<A>,
    conns: AdminConns,
    text: String,
}

impl<A: App> Dialogue<A> {
    fn new(config: Config, app: A, token: Option<&str>) -> Dialogue<A> {
        let config = Config { admin: Some("127.0.0.1:9002".parse().expect("an address")), ..config };
        let token = token.map(|token| Token::read(token).expect("a token"));
        let conns = AdminConns::new(&config, token);
        Dialogue { world: World::new(config, app), conns, text: String::new() }
    }

    /// Notes `shown` and the whole answer to `request`, which is sent on a new connection. Before the answer is read,
    /// `wait` runs.
    fn ask_and_wait(&mut self, shown: &str, request: &[u8], wait: impl FnOnce(&mut World<A>)) {
        let client = self.conns.handle_accept(self.world.now, ([127, 0, 0, 1], 5000).into()).expect("room");
        self.conns.handle_bytes(client, request);
        self.conns.work(self.world.now, &mut self.world.engine);
        self.world.flush();
        wait(&mut self.world);
        self.conns.work(self.world.now, &mut self.world.engine);
        let answer = String::from_utf8(self.conns.pending(client).to_vec()).expect("UTF-8");
        let head = answer.split("\r\n\r\n").next().expect("split returns at least one part");
        assert_eq!(head.matches('\n').count(), head.matches("\r\n").count(), "lines of a head end in CR LF");
        self.text += &format!("> {shown}\n{}\n", answer.replace("\r\n", "\n"));
        self.conns.handle_hangup(client);
        assert_eq!(self.conns.poll_closed(), Some(client));
    }

    fn ask(&mut self, shown: &str, request: &[u8]) {
        self.ask_and_wait(shown, request, |_| ());
    }

    fn get(&mut self, path: &str) {
        self.with_lines(&format!("GET {path}"), &[]);
    }

    /// Sends a request without a body: a method and a path, and additional header lines.
    fn with_lines(&mut self, request: &str, lines: &[&str]) {
        let head = [&[&*format!("{request} HTTP/1.1"), "Host: localhost"], lines].concat().join("\r\n");
        let shown = [&[request], lines].concat().join(" | ");
        self.ask(&shown, (head + "\r\n\r\n").as_bytes());
    }

    fn post(&mut self, path: &str, body: &str) {
        self.post_and_wait(path, body, |_| ());
    }

    fn post_and_wait(&mut self, path: &str, body: &str, wait: impl FnOnce(&mut World<A>)) {
        let length = body.len();
        let request = format!(
            "POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
        );
        self.ask_and_wait(&format!("POST {path} {body}"), request.as_bytes(), wait);
    }
}

fn queries() -> String {
    let config = Config { tick_hz: Some(100), max_connections: Limit::at_most(3), ..Config::default() };
    let mut dialogue = Dialogue::new(config, Relay::default(), None);
    journal::record(&mut dialogue.world.engine, START, Vec::new()).expect("a Vec takes everything");
    for path in ["/health/live", "/health/ready", "/stats", "/lobbies"] {
        dialogue.get(path);
    }
    dialogue.world.steps("ann > connect chess\nbob > connect chess\ncid > connect go\nadvance 1234ms");
    dialogue.world.steps("dan > connect chess\ncid > {\"type\":\"direct\",\"to\":\"x\",\"data\":1}\ncid > hangup");
    dialogue.world.steps("q\"\\ü > open\nq\"\\ü > raw GET /ws/go?token=q%22%5c%c3%bc HTTP/1.1\\r\\nHost: a\\r\\nUpgrade: websocket\\r\\nConnection: Upgrade\\r\\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\\r\\nSec-WebSocket-Version: 13\\r\\n\\r\\n");
    dialogue.world.steps("turn after 1ms\nadvance 9ms");
    for path in [
        "/stats",
        "/lobbies",
        "/lobbies?limit=1",
        "/lobbies?limit=1&after=9",
        "/lobbies/chess",
        "/lobbies/chess?limit=1",
        "/lobbies/go",
        "/users/ann",
        "/users/q%22%5C%C3%BC",
        "/users/ann?after=99",
    ] {
        dialogue.get(path);
    }
    dialogue.with_lines("HEAD /lobbies", &[]);
    dialogue.with_lines("GET /health/live", &["Connection: close"]);
    dialogue.text
}

fn commands() -> String {
    let config = Config {
        tick_hz: Some(100),
        duplicate_login: DuplicateLogin::Allow,
        max_per_user: Limit::at_most(2),
        max_connections: Limit::UNLIMITED,
        ..Config::default()
    };
    let mut dialogue = Dialogue::new(config, Verbatim::default(), None);
    dialogue.world.steps("ann > connect chess\nann:2 > connect go\nbob > connect chess\ncid > connect go");
    dialogue.post("/lobbies/chess/publish", r#"{"text":"hello"}"#);
    dialogue.post("/users/ann/send", r#"{"data":{"a":1}}"#);
    // The nonce of a check is the wall time in milliseconds at its start.
    let pong = |world: &mut World<Verbatim>, nonce: u64| {
        world.send("ann:2", &wire::frame(Opcode::PONG, true, &nonce.to_be_bytes(), [1; 4]));
        world.flush();
    };
    dialogue.post_and_wait("/users/ann/ping", r#"{"timeout_ms":300}"#, |world| {
        world.advance(Duration::from_micros(12_340));
        pong(world, 1_000_000_000);
        world.advance(Duration::from_millis(300));
    });
    let now = dialogue.world.now.as_micros() / 1000;
    dialogue.post_and_wait("/users/ann/ping", r#"{"timeout_ms":30}"#, |world| {
        pong(world, 1_000_000_000 + now);
        world.advance(Duration::from_millis(30));
    });
    dialogue.post_and_wait("/users/bob/ping", r#"{"timeout_ms":1}"#, |world| world.advance(Duration::from_millis(1)));
    dialogue.post("/lobbies/chess/lock", "");
    dialogue.post("/lobbies/chess/lock", r#"{"locked":false}"#);
    dialogue.post("/clock/pause", "");
    dialogue.post("/clock/slow", r#"{"factor":2e1}"#);
    dialogue.post("/clock/step", r#"{"ticks":3}"#);
    dialogue.post("/clock/resume", "{}");
    dialogue.post("/users/bob/kick", r#"{"reconnect":true}"#);
    dialogue.post("/lobbies/chess/kick", "");
    dialogue.post("/lobbies/go/close", "");
    dialogue.world.steps("dan > connect chess\neve > connect go\nfay > connect go");
    dialogue.post("/kick", r#"{"reconnect":false}"#);
    dialogue.world.steps("gus > connect chess");
    dialogue.get("/stats");
    dialogue.post("/drain", "");
    dialogue.post("/drain", "");
    dialogue.get("/health/ready");
    dialogue.get("/stats");
    dialogue.text
}

fn errors() -> String {
    let config = Config { max_headers: 8, max_header_bytes: lobbyd::config::ByteSize(256), ..Config::default() };
    let config = Config { max_message_bytes: lobbyd::config::ByteSize(125), tick_hz: Some(10), ..config };
    let mut dialogue = Dialogue::new(config, Relay::default(), None);
    dialogue.world.steps("ann > connect chess");
    for path in [
        "/else",
        "/nothing",
        "/lobbies/%zz",
        "/lobbies?limit=0",
        "/lobbies?after=x",
        "/lobbies?x=1",
        "/lobbies/bridge",
        "/users/dan",
        "/kick",
    ] {
        dialogue.get(path);
    }
    dialogue.with_lines("POST /stats", &[]);
    dialogue.with_lines("POST /kick", &[]);
    dialogue.with_lines("POST /kick", &["Content-Type: text/plain"]);
    for (path, body) in [
        ("/lobbies/chess/publish", "[1]"),
        ("/lobbies/chess/publish", "{"),
        ("/lobbies/chess/publish", "{}"),
        ("/lobbies/chess/publish", r#"{"text":1}"#),
        ("/lobbies/chess/publish", r#"{"text":null}"#),
        ("/lobbies/chess/publish", r#"{"data":null,"text":null}"#),
        ("/lobbies/chess/publish", r#"{"data":1,"text":"x"}"#),
        ("/lobbies/chess/publish", r#"{"data":1,"to\u0022":2,"a":3}"#),
        ("/lobbies/chess/publish", r#"{"text":"x"}"#),
        ("/lobbies/bridge/publish", r#"{"data":1}"#),
        ("/users/dan/send", r#"{"data":1}"#),
        ("/lobbies/chess/lock", r#"{"locked":1}"#),
        ("/lobbies/chess/lock", r#"{"locked":1,"locked":true,"x":1}"#),
        ("/lobbies/chess/kick", r#"{"reconnect":"yes"}"#),
        ("/users/ann/ping", r#"{"timeout_ms":0}"#),
        ("/users/ann/ping", r#"{"timeout_ms":"1"}"#),
        ("/users/ann/ping", r#"{"timeout_ms":-1}"#),
        ("/clock/step", r#"{"ticks":1}"#),
        ("/clock/step", r#"{"ticks":1.5}"#),
        ("/clock/step", r#"{"ticks":0}"#),
        ("/clock/slow", "{}"),
        ("/clock/slow", r#"{"factor":null}"#),
        ("/clock/slow", r#"{"factor":true}"#),
        ("/clock/slow", r#"{"factor":5000}"#),
        ("/drain", r#"{"now":true}"#),
    ] {
        dialogue.post(path, body);
    }
    dialogue.post("/lobbies/chess/publish", &format!(r#"{{"data":"{}"}}"#, "x".repeat(130)));
    dialogue.with_lines("GET /stats", &["Host: b"]);
    dialogue.with_lines("GET /stats", &["Origin: http://a", "Origin: http://b"]);
    dialogue.with_lines("GET /stats", &["Origin: https://evil.example"]);
    dialogue.with_lines("GET /stats", &["Transfer-Encoding: chunked"]);
    dialogue.with_lines("GET /stats", &["Content-Length: x"]);
    dialogue.with_lines("GET /stats", &["Content-Length: 99999"]);
    dialogue.with_lines("GET /stats", &["A: b"; 8]);
    dialogue.with_lines("GET /stats", &[&*format!("A: {}", "b".repeat(300))]);
    dialogue.with_lines("GET http://localhost/stats", &[]);
    dialogue.with_lines("GET /stats", &["no colon"]);
    dialogue.with_lines("HEAD /nothing", &[]);
    dialogue.with_lines("HEAD /stats", &["no colon"]);
    dialogue.ask("a foreign host", b"GET /stats HTTP/1.1\r\nHost: evil.example\r\n\r\n");
    dialogue.ask("no host", b"GET /stats HTTP/1.1\r\n\r\n");
    dialogue.ask("HTTP/1.0", b"GET /health/live HTTP/1.0\r\nHost: localhost\r\n\r\n");
    dialogue.ask("HTTP/2.0", b"GET /health/live HTTP/2.0\r\nHost: localhost\r\n\r\n");
    dialogue.ask("a header that is not UTF-8", b"GET /stats HTTP/1.1\r\nHost: localhost\r\nOrigin: \xff\r\n\r\n");
    dialogue.ask("a bare line feed", b"GET /stats HTTP/1.1\nHost: localhost\n\n");
    dialogue.ask("TLS", b"\x16\x03\x01");
    dialogue.ask_and_wait("an incomplete request", b"GET /sta", |world| world.advance(Duration::from_secs(30)));
    dialogue.post("/clock/pause", "");
    dialogue.post("/clock/step", r#"{"ticks":101}"#);
    dialogue.text
}

fn other_errors() -> String {
    let config = Config { max_admin_connections: 100, ..Config::default() };
    let mut dialogue = Dialogue::new(config, Relay::default(), Some("correct-horse-battery"));
    dialogue.get("/health/live");
    dialogue.get("/stats");
    dialogue.with_lines("GET /stats", &["Authorization: Bearer wrong-horse-battery"]);
    dialogue.with_lines("POST /clock/pause", &["Authorization: Bearer correct-horse-battery"]);
    let authorized = ["Authorization: Bearer correct-horse-battery", "Content-Type: application/json"];
    dialogue.with_lines("POST /clock/pause", &authorized);
    dialogue.world.steps("ann > connect chess");
    for _ in 0..64 {
        let request =
            format!("POST /users/ann/ping HTTP/1.1\r\nHost: localhost\r\n{}\r\n\r\n", authorized.join("\r\n"));
        let client = dialogue.conns.handle_accept(Time::ZERO, ([127, 0, 0, 1], 6000).into()).expect("room");
        dialogue.conns.handle_bytes(client, request.as_bytes());
    }
    dialogue.conns.work(dialogue.world.now, &mut dialogue.world.engine);
    dialogue.with_lines("POST /users/ann/ping", &authorized);
    dialogue.text
}

#[test]
fn answers_to_operators_have_exact_bytes() {
    let parts = [queries(), commands(), errors(), other_errors()];
    let whole = parts.join("==========\n\n");
    if std::env::var_os("LOBBYD_BLESS").is_some() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/operators/admin_answers.txt");
        return std::fs::write(path, whole).expect("the file can be written");
    }
    let expected = include_str!("admin_answers.txt");
    let differs = whole.lines().zip(expected.lines()).find(|(answered, expected)| answered != expected);
    assert_eq!(differs, None);
    assert_eq!(whole.len(), expected.len());
}
