//! An engine whose session is recorded, and the replay of its journal.

use std::time::Duration;

use lobbyd::apps::Relay;
use lobbyd::driver::Start;
use lobbyd::journal::{self, Replay, ReplayFailure, Sink, Step, Summary};
use lobbyd::sim::MemorySockets;
use lobbyd::sim::wire;
use lobbyd::{App, Config, ConnId, Engine, Time};

pub const START: Start = Start { unix_micros: 1_700_000_000_000_000, seed: 7 };

/// An engine with a driver that has no sockets.
pub struct Site<A: App> {
    pub engine: Engine<A>,
    pub now: Time,
    pub conns: Vec<ConnId>,
}

impl<A: App> Site<A> {
    pub fn new(config: Config, app: A) -> Site<A> {
        Site::with(config, app, Vec::new())
    }

    pub fn with(config: Config, app: A, sink: impl Sink) -> Site<A> {
        let mut engine = Engine::new(config.check().expect("the configuration is valid"), START, app);
        journal::record(&mut engine, START, sink).expect("it can be recorded");
        Site { engine, now: Time::ZERO, conns: Vec::new() }
    }

    pub fn accept(&mut self) -> ConnId {
        let conn = self.engine.handle_accept(self.now, "127.0.0.1:4000".parse().expect("an address")).expect("room");
        self.conns.push(conn);
        conn
    }

    pub fn connect(&mut self, target: &str, lines: &[&str]) -> ConnId {
        let conn = self.accept();
        self.bytes(conn, &wire::upgrade_request(target, lines));
        conn
    }

    pub fn connect_raw(&mut self, head: &[u8]) -> ConnId {
        let conn = self.accept();
        self.bytes(conn, head);
        conn
    }

    pub fn bytes(&mut self, conn: ConnId, bytes: &[u8]) {
        self.engine.handle_bytes(self.now, conn, bytes);
    }

    pub fn turn(&mut self) {
        self.now = self.now + Duration::from_millis(10);
        let _ = self.engine.end_turn(self.now, &mut MemorySockets::default());
    }

    pub fn journal(&mut self) -> Vec<u8> {
        journal::finish(&mut self.engine).expect("it was recorded in memory")
    }
}

/// A session with most kinds of recordable input.
pub fn session() -> Vec<u8> {
    let mut site = Site::new(Config::default(), Relay::default());
    let ann = site.connect("/ws/chess?token=ann", &[]);
    let bob = site.connect("/ws/chess?token=bob", &[]);
    site.turn();
    site.bytes(ann, &wire::text(r#"{"type":"broadcast","data":"hello","ref":1}"#));
    site.engine.handle_command(site.now, b"anything");
    site.engine.handle_reload(site.now, b"very-secret list");
    site.turn();
    site.connect("/ws/chess?token=eve", &["Origin: https://evil.example"]);
    let half = site.accept();
    site.bytes(half, b"GET /ws/chess?tok");
    site.turn();
    site.bytes(half, b"en=cid HTTP/1.1\nSo: wrong\n\n");
    site.engine.handle_hangup(site.now, bob);
    site.turn();
    site.engine.handle_drain(site.now);
    site.turn();
    site.journal()
}

pub fn replay(journal: &[u8]) -> Result<Summary, ReplayFailure> {
    journal::replay(journal, Relay::default())
}

/// The events of a journal as `lobbyd replay --print` prints them, and the state at its end.
pub fn timeline<A: App>(journal: &[u8], app: A) -> String {
    let mut replay = Replay::open(journal, app, false).expect("the first block is complete");
    replay.trace_events();
    let mut text = String::new();
    loop {
        let step = replay.step().expect("nothing differs");
        replay.events().iter().for_each(|event| text.push_str(&format!("{event}\n")));
        if step == Step::End {
            return text + &replay.state();
        }
    }
}
