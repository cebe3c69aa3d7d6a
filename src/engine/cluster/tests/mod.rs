//! Several nodes in one process, with a log in memory that never fails.

mod bounds;
mod drain;
mod feed;
mod operators;
mod replays;

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value as Json;

use crate::apps::Relay;
use crate::base::id::ConnId;
use crate::base::time::Time;
use crate::cluster::log::{ClusterInput, ClusterOutput, EntryBody, Incarnation, LogEntry};
use crate::config::Config;
use crate::engine::Engine;
use crate::engine::driver::Start;
use crate::journal;
use crate::sim::MemorySockets;
use crate::sim::wire::{self, Reader, Received, text};

const NAMES: [&str; 3] = ["first", "second", "third"];

/// An entry of the log; `node` has appended its operations, is attached, or has ended.
struct Entry {
    unix_micros: u64,
    node: Option<Incarnation>,
    bytes: Option<Vec<u8>>,
    is_end: bool,
}

impl Entry {
    fn body(&self) -> EntryBody<'_> {
        match (self.node, &self.bytes) {
            (None, _) => EntryBody::Founded,
            (Some(node), None) if self.is_end => EntryBody::Ended { node },
            (Some(node), None) => EntryBody::Attached { node, name: NAMES[node.0 as usize - 1] },
            (Some(node), Some(bytes)) => EntryBody::Operations { node, bytes },
        }
    }
}

struct Node {
    incarnation: Incarnation,
    engine: Engine<Relay>,
    sockets: MemorySockets,
    readers: BTreeMap<ConnId, Reader>,
    heard: BTreeMap<ConnId, Vec<Json>>,
    /// Entries that it was passed.
    passed: usize,
    /// Whether the log reaches it, and it the log.
    is_linked: bool,
}

/// A connection of a node, by its number from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Page {
    node: usize,
    conn: ConnId,
}

struct World {
    now: Time,
    log: Vec<Entry>,
    nodes: Vec<Node>,
}

impl World {
    /// Two recorded nodes, attached to a new log.
    fn new(config: Config) -> World {
        let mut world = World::of_one(config.clone());
        world.attach(config);
        world
    }

    /// One recorded node, attached to a new log.
    fn of_one(config: Config) -> World {
        let mut world = World { now: Time::ZERO, log: Vec::new(), nodes: Vec::new() };
        world.append(None, None);
        world.append(Some(Incarnation(1)), None);
        world.add(config);
        let attached = ClusterInput::Attached { node: Incarnation(1), index: 0, state: None };
        world.nodes[0].engine.handle_cluster(Time::ZERO, attached);
        world.settle();
        world
    }

    /// Attaches one more recorded node, which gets the state from the first one.
    fn attach(&mut self, config: Config) {
        let number = self.add(config);
        self.append(Some(Incarnation(number)), None);
        self.nodes[0].engine.commit_journal().expect("memory takes everything");
        self.settle();
        assert_eq!(self.nodes.last().expect("it was added").passed, self.log.len(), "it got the state");
    }

    /// Adds a recorded node that is not attached. Returns its number.
    fn add(&mut self, config: Config) -> u64 {
        let number = self.nodes.len() as u64 + 1;
        // The clocks of the nodes differ.
        let start = Start { unix_micros: 1_700_000_000_000_000 + number * 77_000_000, seed: number };
        let mut engine = Engine::new(config.check().expect("the configuration is valid"), start, Relay::default());
        journal::record(&mut engine, start, Vec::new()).expect("memory takes everything");
        engine.join_cluster();
        self.nodes.push(Node {
            incarnation: Incarnation(number),
            engine,
            sockets: MemorySockets::default(),
            readers: BTreeMap::new(),
            heard: BTreeMap::new(),
            passed: 0,
            is_linked: number == 1,
        });
        number
    }

    fn append(&mut self, node: Option<Incarnation>, bytes: Option<Vec<u8>>) {
        let unix_micros = 1_600_000_000_000_000 + self.now.as_micros();
        self.log.push(Entry { unix_micros, node, bytes, is_end: false });
    }

    /// Ends a node: it hears of nothing any more, and the others hear of its end.
    fn end(&mut self, node: usize) {
        let unix_micros = 1_600_000_000_000_000 + self.now.as_micros();
        let incarnation = self.nodes[node].incarnation;
        self.log.push(Entry { unix_micros, node: Some(incarnation), bytes: None, is_end: true });
        self.nodes[node].is_linked = false;
        self.settle();
    }

    /// Takes turns until nothing is left to append or to execute.
    fn settle(&mut self) {
        loop {
            let mut is_settled = true;
            for number in 0..self.nodes.len() {
                let now = self.now;
                let node = &mut self.nodes[number];
                while let Some(entry) = self.log.get(node.passed).filter(|_| node.is_linked) {
                    node.passed += 1;
                    let (index, unix_micros) = (node.passed as u64, entry.unix_micros);
                    let entry = LogEntry { index, unix_micros, body: entry.body() };
                    node.engine.handle_cluster(now, ClusterInput::Entry(entry));
                    is_settled = false;
                }
                node.engine.end_turn(now, &mut node.sockets).expect("memory takes everything");
                node.read();
                let own = node.incarnation;
                while self.nodes[number].is_linked
                    && let Some(output) = self.nodes[number].engine.poll_cluster()
                {
                    is_settled = false;
                    match output {
                        ClusterOutput::Append(bytes) => self.append(Some(own), Some(bytes)),
                        ClusterOutput::State { node, index, bytes } => self.pass_state(node, index, &bytes),
                    }
                }
            }
            if is_settled {
                return;
            }
        }
    }

    fn pass_state(&mut self, node: Incarnation, index: u64, state: &[u8]) {
        let to = self.nodes.iter_mut().find(|other| other.incarnation == node).expect("it waits");
        (to.passed, to.is_linked) = (index as usize, true);
        to.engine.handle_cluster(self.now, ClusterInput::Attached { node, index, state: Some(state) });
    }

    /// Lets time pass.
    fn advance(&mut self, millis: u64) {
        self.now = self.now + Duration::from_millis(millis);
        self.settle();
    }

    fn connect(&mut self, node: usize, target: &str) -> Page {
        let now = self.now;
        let engine = &mut self.nodes[node].engine;
        let conn = engine.handle_accept(now, ([127, 0, 0, 1], 4000).into()).expect("there is room");
        engine.handle_bytes(now, conn, &wire::upgrade_request(target, &[]));
        self.settle();
        Page { node, conn }
    }

    fn say(&mut self, page: Page, message: &str) {
        let now = self.now;
        self.nodes[page.node].engine.handle_bytes(now, page.conn, &text(message));
        self.settle();
    }

    fn hang_up(&mut self, page: Page) {
        let now = self.now;
        self.nodes[page.node].engine.handle_hangup(now, page.conn);
        self.settle();
    }

    /// Takes what a page was sent, without the answers to its upgrade. A close frame is `{"close": code}`.
    fn heard(&mut self, page: Page) -> Vec<Json> {
        self.nodes[page.node].heard.remove(&page.conn).unwrap_or_default()
    }

    /// The same: the types of the messages.
    fn types(&mut self, page: Page) -> Vec<String> {
        let type_of = |message: Json| match message["type"].as_str() {
            Some(kind) => kind.to_owned(),
            None => message["close"].to_string(),
        };
        self.heard(page).into_iter().map(type_of).collect()
    }

    /// Both nodes have the same members.
    #[track_caller]
    fn check_agreement(&self) {
        let views = self.nodes.iter().map(|node| {
            let mut lobbies = Vec::new();
            for lobby in node.engine.lobbies(None, 1000).items {
                let seats = node.engine.lobby_members(&lobby.code, None, 1000).items;
                let seats = seats.into_iter().map(|seat| (seat.user, seat.seat, seat.away, seat.node));
                lobbies.push((lobby.code, lobby.epoch, lobby.seq, lobby.locked, seats.collect::<Vec<_>>()));
            }
            lobbies.sort();
            lobbies
        });
        let views: Vec<_> = views.collect();
        assert_eq!(views[0], views[1]);
        self.nodes.iter().for_each(|node| node.engine.check());
    }

    /// Ends the recordings, and replays each of them alone.
    #[track_caller]
    fn check_replays(&mut self) {
        for node in &mut self.nodes {
            let recorded: Vec<u8> = journal::finish(&mut node.engine).expect("it was recorded");
            let summary = journal::replay(&*recorded, Relay::default()).unwrap_or_else(|failure| panic!("{failure}"));
            assert_eq!(summary.stats, node.engine.stats());
            assert!(summary.turn > 0 && !summary.is_open_ended, "{summary:?}");
        }
    }
}

impl Node {
    fn read(&mut self) {
        for write in self.sockets.take_writes() {
            let reader = self.readers.entry(write.conn).or_default();
            reader.push(&write.bytes);
            while let Some(received) = reader.next().expect("the server speaks WebSocket") {
                let message = match received {
                    Received::Text(text) => serde_json::from_str(&text).expect("JSON"),
                    Received::Close(code, _) => serde_json::json!({ "close": code }),
                    Received::Answer(status, _) if status != 101 => serde_json::json!({ "close": status }),
                    _ => continue,
                };
                self.heard.entry(write.conn).or_default().push(message);
            }
        }
    }
}
