//! Scenarios with two nodes of a cluster, without sockets and without Redis.

use std::collections::VecDeque;
use std::time::Duration;

use super::memory::MemorySockets;
use super::wire::{self, Reader, Received};
use crate::apps::Relay;
use crate::base::id::ConnId;
use crate::base::time::Time;
use crate::cluster::log::{ClusterInput, ClusterOutput, EntryBody, Incarnation, LogEntry};
use crate::config::Config;
use crate::engine::Engine;
use crate::engine::driver::Start;

/// What an entry contains.
enum Body {
    Founded,
    Attached(Incarnation, String),
    Ended(Incarnation),
    Operations(Incarnation, Vec<u8>),
}

struct Node {
    engine: Engine<Relay>,
    incarnation: Incarnation,
    sockets: MemorySockets,
    /// Number of entries that it was given.
    given: usize,
    is_attached: bool,
}

/// Nodes with a log in memory. A turn of all nodes appends what they ask for, and gives every node all entries.
struct Nodes {
    nodes: Vec<Node>,
    log: Vec<Body>,
    states: Vec<(Incarnation, u64, Vec<u8>)>,
    now: Time,
    clients: Vec<Client>,
}

struct Client {
    name: &'static str,
    node: usize,
    conn: ConnId,
    reader: Reader,
    got: VecDeque<String>,
}

const UNIX: u64 = 1_000_000_000_000;

impl Nodes {
    fn new(count: usize, config: &Config) -> Nodes {
        let mut nodes = Nodes {
            nodes: Vec::new(),
            log: vec![Body::Founded],
            states: Vec::new(),
            now: Time::ZERO,
            clients: Vec::new(),
        };
        for number in 1..=count {
            nodes.attach(number as u64, config);
        }
        nodes
    }

    fn attach(&mut self, number: u64, config: &Config) {
        let mut engine = Engine::new(
            config.clone().check().expect("valid"),
            Start { unix_micros: UNIX, seed: number },
            Relay::default(),
        );
        engine.join_cluster();
        let incarnation = Incarnation(number);
        self.log.push(Body::Attached(incarnation, format!("node{number}")));
        self.nodes.push(Node { engine, incarnation, sockets: MemorySockets::default(), given: 0, is_attached: false });
        if number == 1 {
            let node = &mut self.nodes[0];
            node.engine.handle_cluster(self.now, ClusterInput::Attached { node: incarnation, index: 0, state: None });
            node.is_attached = true;
        }
        self.turn();
    }

    fn turn(&mut self) {
        loop {
            let mut is_quiet = true;
            for at in 0..self.nodes.len() {
                self.turn_of(at);
                while let Some(output) = self.nodes[at].engine.poll_cluster() {
                    is_quiet = false;
                    let node = self.nodes[at].incarnation;
                    match output {
                        ClusterOutput::Append(bytes) => self.log.push(Body::Operations(node, bytes)),
                        ClusterOutput::State { node, index, bytes } => self.states.push((node, index, bytes)),
                    }
                }
            }
            if is_quiet && self.nodes.iter().all(|node| node.is_attached && node.given == self.log.len()) {
                break;
            }
        }
        self.read();
        self.nodes.iter().for_each(|node| node.engine.check());
    }

    fn turn_of(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        if !node.is_attached {
            let Some(found) = self.states.iter().position(|(for_node, ..)| *for_node == node.incarnation) else {
                return;
            };
            let (incarnation, index, bytes) = self.states.remove(found);
            node.engine
                .handle_cluster(self.now, ClusterInput::Attached { node: incarnation, index, state: Some(&bytes) });
            (node.is_attached, node.given) = (true, index as usize);
        }
        while node.given < self.log.len() {
            let body = match &self.log[node.given] {
                Body::Founded => EntryBody::Founded,
                Body::Attached(node, name) => EntryBody::Attached { node: *node, name },
                Body::Ended(node) => EntryBody::Ended { node: *node },
                Body::Operations(node, bytes) => EntryBody::Operations { node: *node, bytes },
            };
            node.given += 1;
            let unix_micros = UNIX + 5_000_000 + self.now.as_micros();
            let entry = LogEntry { index: node.given as u64, unix_micros, body };
            node.engine.handle_cluster(self.now, ClusterInput::Entry(entry));
        }
        node.engine.end_turn(self.now, &mut node.sockets).expect("nothing is recorded");
    }

    fn read(&mut self) {
        for client in &mut self.clients {
            let node = &self.nodes[client.node];
            client.reader.push(&node.sockets.written(client.conn));
            while let Some(received) = client.reader.next().expect("the protocol") {
                match received {
                    Received::Text(text) => client.got.push_back(text),
                    Received::Close(code, reason) => client.got.push_back(format!("close {code} {reason}")),
                    Received::Answer(101, _) => {}
                    other => client.got.push_back(format!("{other:?}")),
                }
            }
        }
        self.nodes.iter_mut().for_each(|node| drop(node.sockets.take_writes()));
    }

    fn connect(&mut self, name: &'static str, node: usize, query: &str) -> usize {
        let engine = &mut self.nodes[node].engine;
        let conn = engine.handle_accept(self.now, "10.0.0.1:4000".parse().expect("an address")).expect("room");
        engine.handle_bytes(self.now, conn, &wire::upgrade_request(&format!("/ws/{query}"), &[]));
        self.clients.push(Client { name, node, conn, reader: Reader::default(), got: VecDeque::new() });
        self.turn();
        self.clients.len() - 1
    }

    fn say(&mut self, client: usize, text: &str) {
        let Client { node, conn, .. } = self.clients[client];
        self.nodes[node].engine.handle_bytes(self.now, conn, &wire::text(text));
        self.turn();
    }

    fn hang_up(&mut self, client: usize) {
        let Client { node, conn, .. } = self.clients[client];
        self.nodes[node].engine.handle_hangup(self.now, conn);
        self.turn();
    }

    fn advance(&mut self, span: Duration) {
        let end = self.now + span;
        while self.now < end {
            self.now = self.now + Duration::from_millis(50);
            self.turn();
        }
    }

    fn got(&mut self, client: usize) -> Vec<String> {
        let client = &mut self.clients[client];
        let _ = client.name;
        client.got.drain(..).collect()
    }
}

fn config() -> Config {
    Config { lobby_control: true, seat_grace: Duration::from_secs(30), ..Config::default() }
}

#[test]
fn members_on_two_nodes_are_in_one_lobby() {
    let mut nodes = Nodes::new(2, &config());
    let session = "session=0123456789abcdef";
    let ann = nodes.connect("ann", 0, &format!("chess?token=ann&{session}"));
    println!("{:#?}", nodes.got(ann));
    nodes.say(ann, r#"{"type":"broadcast","data":1,"ref":1}"#);
    println!("{:#?}", nodes.got(ann));
    let bob = nodes.connect("bob", 1, &format!("chess?token=bob&{session}"));
    println!("bob {:#?}", nodes.got(bob));
    println!("ann {:#?}", nodes.got(ann));
    nodes.say(bob, r#"{"type":"broadcast","data":2,"ref":1}"#);
    nodes.say(ann, r#"{"type":"direct","to":"bob","data":3,"ref":2}"#);
    nodes.say(ann, r#"{"type":"set","data":{"round":1},"ref":3}"#);
    println!("bob {:#?}", nodes.got(bob));
    println!("ann {:#?}", nodes.got(ann));
    nodes.hang_up(ann);
    nodes.advance(Duration::from_secs(2));
    println!("bob {:#?}", nodes.got(bob));
    let ann = nodes.connect("ann", 1, &format!("chess?token=ann&{session}&epoch=1000005000000&seq=4&n=0"));
    println!("ann {:#?}", nodes.got(ann));
    println!("bob {:#?}", nodes.got(bob));
    nodes.say(ann, r#"{"type":"kick","user":"bob","ref":9}"#);
    println!("ann {:#?}", nodes.got(ann));
    println!("bob {:#?}", nodes.got(bob));
    nodes.log.push(Body::Ended(Incarnation(2)));
    nodes.nodes[0].engine.check();
}
