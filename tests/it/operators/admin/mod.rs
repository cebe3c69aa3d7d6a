//! Operators' requests and answers as bytes, with the engine behind them. In virtual time.

mod access;
mod commands;
mod connections;
mod control;
mod http;
mod page;
mod publishing;
mod queries;
mod reserved;
mod slots;

use lobbyd::admin::AdminConns;
use lobbyd::apps::Relay;
use lobbyd::{App, Config, Time};
use serde_json::{Value, json};

use crate::common::scenario::World;

/// An operator with one connection.
struct Operator {
    conns: AdminConns,
    client: usize,
}

/// A parsed answer.
#[derive(Debug)]
struct Answer {
    status: u16,
    head: String,
    body: Value,
}

fn config() -> Config {
    Config { admin: Some("127.0.0.1:9002".parse().expect("an address")), ..Config::default() }
}

fn operator(config: &Config) -> Operator {
    let mut conns = AdminConns::new(config, None);
    let client = conns.handle_accept(Time::ZERO, ([127, 0, 0, 1], 5000).into()).expect("room");
    Operator { conns, client }
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: localhost:9002\r\n\r\n")
}

fn post(path: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "POST {path} HTTP/1.1\r\nHost: localhost:9002\r\nContent-Type: application/json\r\n\
         Content-Length: {length}\r\n\r\n{body}"
    )
}

impl Operator {
    /// Performs the driver's work of a turn and takes the bytes to be written.
    fn turn<A: App>(&mut self, world: &mut World<A>) -> String {
        self.conns.work(world.now, &mut world.engine);
        world.flush();
        world.engine.check();
        let bytes = self.conns.pending(self.client).to_vec();
        self.conns.handle_written(world.now, self.client, bytes.len());
        String::from_utf8(bytes).expect("UTF-8")
    }

    #[track_caller]
    fn ask<A: App>(&mut self, world: &mut World<A>, request: &str) -> Answer {
        self.conns.handle_bytes(self.client, request.as_bytes());
        read(&self.turn(world))
    }

    /// Sends a request and expects a status and a body.
    #[track_caller]
    fn check<A: App>(&mut self, world: &mut World<A>, request: &str, status: u16, body: Value) {
        let answer = self.ask(world, request);
        assert_eq!((answer.status, answer.body), (status, body), "{request}");
    }

    /// Sends a request and expects an error.
    #[track_caller]
    fn refused<A: App>(&mut self, world: &mut World<A>, request: &str, status: u16, word: &str) -> Answer {
        let answer = self.ask(world, request);
        assert_eq!((answer.status, &answer.body["error"]), (status, &json!(word)), "{request}\n{answer:?}");
        assert!(answer.body["message"].is_string());
        answer
    }

    fn is_closed(&mut self) -> bool {
        self.conns.poll_closed() == Some(self.client)
    }
}

#[track_caller]
fn read(text: &str) -> Answer {
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {text:?}"));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
    let length = format!("\r\nContent-Length: {}\r\n", body.len());
    assert!(head.contains(&length), "{head}\n{} bytes", body.len());
    assert!(head.contains("\r\nContent-Type: application/json\r\n") && body.ends_with("}\n"), "{text}");
    Answer { status, head: head.to_owned(), body: serde_json::from_str(body).expect("JSON") }
}

/// Ann and bob in chess, cid in go.
const THREE: &str = r#"
    ann, bob join chess
    cid > connect go
    cid < upgrade, welcome, presence_state
"#;

fn three() -> (World<Relay>, Operator) {
    let mut world = World::new(config(), Relay::default());
    world.run(THREE);
    (world, operator(&config()))
}
