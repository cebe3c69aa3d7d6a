//! Scenarios with two nodes of a cluster, without sockets and without Redis.

mod contexts;
mod faults;
mod new_codes;
mod pings;

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
use crate::engine::app::{App, Authorization, Context, Member, Message, Protocol};
use crate::engine::driver::Start;
use crate::ws::handshake::Request;

/// What an entry contains.
enum Body {
    Founded,
    Attached(Incarnation, String),
    Ended(Incarnation),
    Operations(Incarnation, Vec<u8>),
}

struct Node<A> {
    engine: Engine<A>,
    incarnation: Incarnation,
    sockets: MemorySockets,
    /// Number of entries that it was given.
    given: usize,
    is_attached: bool,
}

/// Nodes with a log in memory. A turn of all nodes appends what they ask for, and gives every node all entries.
struct Nodes<A> {
    nodes: Vec<Node<A>>,
    log: Vec<Body>,
    states: Vec<(Incarnation, u64, Vec<u8>)>,
    now: Time,
    /// How far the clock of the log is ahead, in microseconds.
    skew: i64,
    clients: Vec<Client>,
}

struct Client {
    node: usize,
    conn: ConnId,
    reader: Reader,
    got: VecDeque<String>,
}

const UNIX: u64 = 1_000_000_000_000;

impl<A: App + Default> Nodes<A> {
    fn new(count: usize, config: &Config) -> Nodes<A> {
        let mut nodes = Nodes {
            nodes: Vec::new(),
            log: vec![Body::Founded],
            states: Vec::new(),
            now: Time::ZERO,
            skew: 0,
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
            A::default(),
        );
        engine.join_cluster();
        let incarnation = Incarnation(number);
        self.log.push(Body::Attached(incarnation, format!("node{number} ws://node{number}")));
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
            let unix_micros = (UNIX + 5_000_000 + self.now.as_micros()).saturating_add_signed(self.skew);
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

    fn connect(&mut self, _user: &str, node: usize, query: &str) -> usize {
        let engine = &mut self.nodes[node].engine;
        let conn = engine.handle_accept(self.now, "10.0.0.1:4000".parse().expect("an address")).expect("room");
        engine.handle_bytes(self.now, conn, &wire::upgrade_request(&format!("/ws/{query}"), &[]));
        self.clients.push(Client { node, conn, reader: Reader::default(), got: VecDeque::new() });
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

    /// Ends a node without a word. The others are told when its lease has expired.
    fn kill(&mut self, at: usize) {
        let node = self.nodes.remove(at);
        self.clients.retain(|client| client.node != at);
        self.log.push(Body::Ended(node.incarnation));
        self.turn();
    }

    /// Takes what a client has received, and returns the epoch in its welcome.
    fn epoch(&mut self, client: usize) -> String {
        let welcome = &self.got(client)[0];
        let from = welcome.find("\"epoch\":").expect("a welcome") + 8;
        welcome[from..].chars().take_while(char::is_ascii_digit).collect()
    }

    fn got(&mut self, client: usize) -> Vec<String> {
        let client = &mut self.clients[client];
        client.got.drain(..).collect()
    }
}

fn config() -> Config {
    Config { lobby_control: true, seat_grace: Duration::from_secs(30), ..Config::default() }
}

/// Asserts that a client has received texts that contain these parts, in this order, and nothing else.
#[track_caller]
fn expect<A: App + Default>(nodes: &mut Nodes<A>, client: usize, parts: &[&str]) {
    let got = nodes.got(client);
    let fits = got.len() == parts.len() && got.iter().zip(parts).all(|(text, part)| text.contains(part));
    assert!(fits, "client {client} got {got:#?}, not {parts:#?}");
}

const PAGE: &str = "session=0123456789abcdef";

#[test]
fn members_on_two_nodes_are_in_one_lobby() {
    let mut nodes = Nodes::<Relay>::new(2, &config());
    let ann = nodes.connect("ann", 0, &format!("chess?token=ann&{PAGE}"));
    expect(&mut nodes, ann, &[r#""type":"welcome""#, r#""users":[{"user":"ann","conn":"s1"}]"#, r#""host":"s1""#]);
    let bob = nodes.connect("bob", 1, &format!("chess?token=bob&{PAGE}"));
    let both = r#""users":[{"user":"ann","conn":"s1"},{"user":"bob","conn":"s2"}]"#;
    expect(&mut nodes, bob, &[r#""conn":"s2""#, both, r#""host":"s1""#]);
    expect(&mut nodes, ann, &[r#"presence_diff","seq":1,"joins":[{"user":"bob","conn":"s2"}]"#]);
    nodes.say(bob, r#"{"type":"broadcast","data":2,"ref":1}"#);
    nodes.say(ann, r#"{"type":"direct","to":"bob","data":3,"ref":1}"#);
    nodes.say(ann, r#"{"type":"set","data":{"round":1},"ref":2}"#);
    let state = r#""state","seq":3,"by":"ann","data":{"round":1}"#;
    expect(&mut nodes, bob, &[r#""ref":1,"seq":2,"delivered":1"#, r#""from":"ann","n":1,"data":3"#, state]);
    expect(&mut nodes, ann, &[r#""from":"bob","seq":2,"data":2"#, r#"ack","ref":1"#, state, r#"ack","ref":2,"seq":3"#]);
}

#[test]
fn a_session_comes_back_to_another_node() {
    let mut nodes = Nodes::<Relay>::new(2, &config());
    let ann = nodes.connect("ann", 0, &format!("chess?token=ann&{PAGE}"));
    let bob = nodes.connect("bob", 1, &format!("chess?token=bob&{PAGE}"));
    let epoch = nodes.epoch(ann);
    nodes.say(ann, r#"{"type":"broadcast","data":1,"ref":1}"#);
    nodes.hang_up(ann);
    nodes.say(bob, r#"{"type":"broadcast","data":2,"ref":1}"#);
    nodes.say(bob, r#"{"type":"direct","to":"ann","data":3,"ref":2}"#);
    nodes.got(bob);
    let ann = nodes.connect("ann", 1, &format!("chess?token=ann&{PAGE}&epoch={epoch}&seq=1&n=0"));
    let got = nodes.got(ann);
    assert!(got[0].contains(r#""resumed":true,"recovered":true"#) && got[0].contains(r#""done":1"#), "{got:#?}");
    assert!(got[1].contains(r#""ack","ref":1,"seq":2"#) && got[2].contains(r#""from":"bob","seq":3"#), "{got:#?}");
    assert!(got[3].contains(r#""from":"bob","n":1,"data":3"#) && got[4].contains("presence_state"), "{got:#?}");
    expect(&mut nodes, bob, &[]);
    // It was done, and is not executed again.
    nodes.say(ann, r#"{"type":"broadcast","data":1,"ref":1}"#);
    expect(&mut nodes, ann, &[r#""ref":1,"repeated":true"#]);
    expect(&mut nodes, bob, &[]);
}

#[test]
fn a_node_that_attaches_later_goes_on_as_the_others() {
    let mut nodes = Nodes::<Relay>::new(1, &config());
    let ann = nodes.connect("ann", 0, &format!("chess?token=ann&{PAGE}"));
    let epoch = nodes.epoch(ann);
    let bob = nodes.connect("bob", 0, &format!("chess?token=bob&{PAGE}"));
    nodes.say(ann, r#"{"type":"set","data":{"round":1},"ref":1}"#);
    nodes.hang_up(bob);
    nodes.say(ann, r#"{"type":"direct","to":"bob","data":1,"ref":2}"#);
    nodes.advance(Duration::from_secs(2));
    nodes.got(ann);
    nodes.attach(2, &config());
    let bob = nodes.connect("bob", 1, &format!("chess?token=bob&{PAGE}&epoch={epoch}&seq=1&n=0"));
    let got = nodes.got(bob);
    assert!(got[0].contains(r#""resumed":true,"recovered":true"#) && got[0].contains(r#""replay":4"#), "{got:#?}");
    assert!(got[2].contains(r#""direct","from":"ann","n":1"#) && got[6].contains(r#""round":1"#), "{got:#?}");
    nodes.say(bob, r#"{"type":"broadcast","data":2,"ref":1}"#);
    expect(&mut nodes, ann, &[r#""back":[{"user":"bob""#, r#""from":"bob","seq":5"#]);
}

#[test]
fn a_live_connection_on_another_node_is_replaced() {
    let mut nodes = Nodes::<Relay>::new(2, &config());
    let old = nodes.connect("ann", 0, &format!("chess?token=ann&{PAGE}"));
    nodes.got(old);
    let new = nodes.connect("ann", 1, "chess?token=ann&session=another-page-of-ann");
    expect(&mut nodes, old, &["goodbye", "close 4004 replaced"]);
    expect(&mut nodes, new, &["welcome", r#""users":[{"user":"ann","conn":"s1"}]"#, "lobby_state"]);
    let go = nodes.connect("ann", 0, "go?token=ann&session=another-page-of-ann");
    expect(&mut nodes, new, &["goodbye", "close 4004 replaced"]);
    expect(&mut nodes, go, &["welcome", r#""users":[{"user":"ann","conn":"s2"}]"#, "lobby_state"]);
}

#[test]
fn a_limit_is_that_of_the_whole_cluster() {
    let config = Config { max_per_lobby: crate::config::Limit::at_most(2), ..config() };
    let mut nodes = Nodes::<Relay>::new(2, &config);
    nodes.connect("ann", 0, "chess?token=ann");
    nodes.connect("bob", 1, "chess?token=bob");
    let eve = nodes.connect("eve", 0, "chess?token=eve");
    expect(&mut nodes, eve, &["goodbye", "close 4002 lobby_full"]);
}

#[test]
fn the_members_of_a_node_that_died_are_away_and_then_leave() {
    let config = Config { seat_grace: Duration::from_secs(5), ..config() };
    let mut nodes = Nodes::<Relay>::new(2, &config);
    let ann = nodes.connect("ann", 0, &format!("chess?token=ann&{PAGE}"));
    nodes.connect("bob", 1, &format!("chess?token=bob&{PAGE}"));
    nodes.connect("eve", 1, "chess?token=eve");
    nodes.got(ann);
    nodes.kill(1);
    expect(&mut nodes, ann, &[r#""leaves":[{"user":"eve","conn":"s3","reason":"dropped"}]"#]);
    nodes.advance(Duration::from_secs(2));
    expect(&mut nodes, ann, &[r#""away":[{"user":"bob","conn":"s2"}]"#]);
    nodes.advance(Duration::from_secs(5));
    expect(&mut nodes, ann, &[r#""leaves":[{"user":"bob","conn":"s2","reason":"dropped"}]"#]);
}

#[test]
fn the_host_kicks_a_member_of_another_node() {
    let mut nodes = Nodes::<Relay>::new(2, &config());
    let ann = nodes.connect("ann", 0, &format!("chess?token=ann&{PAGE}"));
    let bob = nodes.connect("bob", 1, &format!("chess?token=bob&{PAGE}"));
    [ann, bob].into_iter().for_each(|client| drop(nodes.got(client)));
    nodes.say(ann, r#"{"type":"kick","user":"bob","ref":1}"#);
    expect(&mut nodes, ann, &[r#"ack","ref":1"#, r#""user":"bob","conn":"s2","reason":"kicked""#]);
    expect(&mut nodes, bob, &["goodbye", "close 4003 kicked"]);
    let bob = nodes.connect("bob", 0, &format!("chess?token=bob&{PAGE}"));
    expect(&mut nodes, bob, &["goodbye", "close 4003 kicked"]);
}

#[test]
fn without_redis_messages_are_refused_and_members_stay() {
    let mut nodes = Nodes::<Relay>::new(1, &config());
    let ann = nodes.connect("ann", 0, &format!("chess?token=ann&{PAGE}"));
    nodes.got(ann);
    nodes.nodes[0].engine.handle_cluster(nodes.now, ClusterInput::Reachable(false));
    nodes.say(ann, r#"{"type":"broadcast","data":1,"ref":1}"#);
    nodes.say(ann, r#"{"type":"ping","ref":"p"}"#);
    expect(&mut nodes, ann, &[r#""ref":1,"code":"unavailable""#, r#"pong","ref":"p""#]);
    nodes.nodes[0].engine.handle_cluster(nodes.now, ClusterInput::Reachable(true));
    nodes.say(ann, r#"{"type":"broadcast","data":1,"ref":2}"#);
    expect(&mut nodes, ann, &[r#""ref":2,"seq":1"#]);
    nodes.nodes[0].engine.handle_cluster(nodes.now, ClusterInput::Reachable(false));
    nodes.advance(Duration::from_millis(5900));
    expect(&mut nodes, ann, &[]);
    nodes.advance(Duration::from_millis(200));
    expect(&mut nodes, ann, &[r#""reason":"reconnect","reconnect":true"#, "close 4103 reconnect"]);
    nodes.nodes[0].engine.handle_cluster(nodes.now, ClusterInput::Reachable(true));
    nodes.turn();
    let ann = nodes.connect("ann", 0, &format!("chess?token=ann&{PAGE}&epoch=1&seq=1&n=0"));
    expect(&mut nodes, ann, &[r#""resumed":false"#, "presence_state", "lobby_state"]);
    nodes.nodes[0].engine.handle_cluster(nodes.now, ClusterInput::Detached);
    nodes.turn();
    expect(&mut nodes, ann, &[r#""reason":"reconnect","reconnect":true"#, "close 4103 reconnect"]);
}

/// Keeps state of its own.
#[derive(Default)]
struct Game {
    messages: u64,
}

impl App for Game {
    const PROTOCOL: Protocol = Protocol::Json;

    fn authorize(&mut self, _: &mut Context<'_>, request: &Request<'_>) -> Authorization {
        Authorization::token_is_user(request)
    }

    fn on_message(&mut self, cx: &mut Context<'_>, from: &Member, _: Message<'_>) {
        self.messages += 1;
        cx.broadcast_message(from, &self.messages.to_string());
    }
}

#[test]
fn a_lobby_of_a_game_with_state_has_one_home() {
    let mut nodes = Nodes::<Game>::new(2, &Config::default());
    let ann = nodes.connect("ann", 0, "chess?token=ann");
    expect(&mut nodes, ann, &["welcome", "presence_state"]);
    let bob = nodes.connect("bob", 1, "chess?token=bob");
    let goodbye = r#""reason":"reconnect","reconnect":true,"url":"ws://node1""#;
    expect(&mut nodes, bob, &[goodbye, "close 4103 reconnect"]);
    let bob = nodes.connect("bob", 0, "chess?token=bob");
    expect(&mut nodes, bob, &["welcome", r#"{"user":"bob","conn":"s2"}"#]);
    let eve = nodes.connect("eve", 1, "go?token=eve");
    expect(&mut nodes, eve, &["welcome", r#"{"user":"eve","conn":"s1"}"#]);
    // Once it is empty, the lobby may be anywhere.
    nodes.hang_up(ann);
    nodes.hang_up(bob);
    let ann = nodes.connect("ann", 1, "chess?token=ann");
    expect(&mut nodes, ann, &["welcome", "presence_state"]);
    let bob = nodes.connect("bob", 0, "chess?token=bob");
    expect(&mut nodes, bob, &[r#""url":"ws://node2""#, "close 4103 reconnect"]);
    nodes.kill(1);
    let bob = nodes.connect("bob", 0, "chess?token=bob");
    expect(&mut nodes, bob, &["welcome", r#""users":[{"user":"bob""#]);
}
