//! Lobby scenarios as scripts that read like the protocol's documentation.
//!
//! ```text
//! ann > connect chess          connects to /ws/chess?token=ann
//! ann < welcome, presence_state
//! bob > connect chess
//! bob < welcome user=bob, presence_state users=ann,bob
//! ann < presence_diff +bob
//! bob > {"type":"move","to":"e4"}
//! ann < message from=bob seq=2 data={"type":"move","to":"e4"}
//! advance 31s
//! ann < ping, goodbye, close 4201 stale, eof
//! ```
//!
//! Every message that a client receives must be matched by a line, in order; an unmatched one fails the script. Each action
//! is a turn of its own, unless it stands between `turn begins` and `turn ends`. The engine's invariants are checked after
//! every line.
//!
//! `turn after 250ms` advances the time in one step and then runs one turn. `clock pause`, `resume`, `step 3` and `slow 4`
//! are operator commands.
//!
//! `ann, bob join chess` connects both, one after the other, and expects what they hear of it:
//!
//! ```text
//! ann > connect chess
//! ann < upgrade, welcome, presence_state
//! bob > connect chess
//! bob < upgrade, welcome, presence_state
//! ann < presence_diff +bob
//! ```
//!
//! `from 10.0.0.1` sets the address of the connections that are opened after it; `from unix` lets them come from a socket
//! file.
//!
//! A line that ends in `\` continues on the next line. In an expectation, `key=value` must match, `!key` must be absent, and
//! a `presence_diff` lists every member that joined (`+user`) and every one that left (`-user:reason`). `away=ann,bob` and
//! `back=ann` name the members that a `presence_diff` or a `presence_state` says this of.
//!
//! `ann > connect chess session=page-1 seq=3` appends to the query. `ann < *` matches all that ann has received.

use std::collections::{BTreeMap, VecDeque};
use std::io::ErrorKind;
use std::net::IpAddr;
use std::time::Duration;

use lobbyd::admission::Peer;
use lobbyd::apps::Relay;
use lobbyd::config::{ByteSize, Limit};
use lobbyd::driver::{Flow, Start};
use lobbyd::journal;
use lobbyd::operator::{OperatorAnswer, OperatorCommand};
use lobbyd::sim::MemorySockets;
use lobbyd::sim::wire::{self, Opcode, Reader, Received};
use lobbyd::ticks::ClockCommand;
use lobbyd::{App, Authorization, Config, ConnId, Context, Engine, Time};
use serde_json::Value;

/// Drives one engine with named clients.
pub struct World<A> {
    pub engine: Engine<A>,
    pub now: Time,
    /// Address of the next connection.
    pub peer: Peer,
    clients: BTreeMap<String, Client>,
    pub sockets: MemorySockets,
    /// A turn is open: frames are not written before its end.
    in_turn: bool,
}

#[derive(Default)]
pub struct Client {
    conn: Option<ConnId>,
    pub reader: Reader,
    got: VecDeque<String>,
    /// The server has shut down its side or dropped the socket.
    ended: bool,
    /// Writes to the socket fail.
    is_broken: bool,
}

/// Runs a script against the [`Relay`](lobbyd::apps::Relay) application. Runs it again and records it; a replay must send
/// the same bytes.
#[track_caller]
pub fn check(config: Config, script: &str) {
    World::new(config.clone(), Relay::default()).run(script);
    let mut world = World::new(config, Relay::default());
    journal::record(&mut world.engine, START, Vec::new()).expect("it can be recorded");
    world.run(script);
    let recorded: Vec<u8> = journal::finish(&mut world.engine).expect("it was recorded in memory");
    journal::replay(&*recorded, Relay::default()).expect("a replay sends the same bytes");
}

/// The start of every test: wall time 1 000 000 s, seed 1.
pub const START: Start = Start { unix_micros: 1_000_000_000_000, seed: 1 };

/// An outbox with room for one frame of the largest size, but not for two.
pub fn small_outbox() -> Config {
    Config {
        max_message_bytes: ByteSize(3000),
        max_outbound_bytes: ByteSize(5100),
        max_per_lobby: Limit::at_most(4),
        history_bytes: ByteSize(500),
        direct_bytes: ByteSize(100),
        ..Config::default()
    }
}

/// Sets the field `name` to the value that `text` names.
pub fn set(config: &mut Config, name: &str, text: &str) -> Result<(), String> {
    let field = Config::FIELDS.iter().find(|field| field.name == name).expect("a field of the table");
    (field.set)(config, text)
}

impl<A: App> World<A> {
    pub fn new(config: Config, app: A) -> World<A> {
        World {
            engine: Engine::new(config.check().expect("the configuration is valid"), START, app),
            now: Time::ZERO,
            peer: ([127, 0, 0, 1], 4000).into(),
            clients: BTreeMap::new(),
            sockets: MemorySockets::default(),
            in_turn: false,
        }
    }

    /// Runs a script and checks that every received message was matched by a line.
    #[track_caller]
    pub fn run(&mut self, script: &str) {
        self.steps(script);
        for (name, client) in &self.clients {
            assert!(client.got.is_empty(), "{name} got messages that no line matches: {:?}", client.got);
        }
    }

    /// Runs a script. Messages that no line has matched stay available to later scripts.
    #[track_caller]
    pub fn steps(&mut self, script: &str) {
        let mut whole = String::new();
        for line in script.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
            if let Some(begun) = line.strip_suffix('\\') {
                whole.push_str(begun);
                continue;
            }
            whole.push_str(line);
            self.line(&std::mem::take(&mut whole));
            self.engine.check();
        }
        assert!(!self.in_turn, "a turn that begins must end");
    }

    #[track_caller]
    fn line(&mut self, line: &str) {
        if let Some(span) = line.strip_prefix("advance ") {
            return self.advance(duration(span));
        }
        if let Some(span) = line.strip_prefix("turn after ") {
            self.now = self.now + duration(span);
            self.end_turn();
            return self.advance(Duration::ZERO);
        }
        if let Some(command) = line.strip_prefix("clock ") {
            return self.clock(command);
        }
        if let Some(address) = line.strip_prefix("from ") {
            let ip = |text: &str| text.parse::<IpAddr>().expect("an address or `unix`");
            self.peer = if address == "unix" { Peer::Unix } else { (ip(address), 4000).into() };
            return;
        }
        match line {
            "turn begins" => self.in_turn = true,
            "turn ends" => self.in_turn = false,
            "drain" => self.engine.handle_drain(self.now),
            _ => match line.split_once(" > ") {
                Some((name, action)) => self.act(name, action),
                None if line.contains(" < ") => return self.expect(line),
                None => match line.split_once(" joins ").or_else(|| line.split_once(" join ")) {
                    Some((names, lobby)) => return self.join(names, lobby),
                    None => panic!("not a line of a script: {line}"),
                },
            },
        }
        if !self.in_turn {
            self.flush();
        }
    }

    /// Connects clients of a JSON application to a lobby without other members.
    #[track_caller]
    fn join(&mut self, names: &str, lobby: &str) {
        let names: Vec<&str> = names.split(", ").collect();
        for (at, name) in names.iter().enumerate() {
            self.line(&format!("{name} > connect {lobby}"));
            self.line(&format!("{name} < upgrade, welcome, presence_state"));
            names[..at].iter().for_each(|other| self.line(&format!("{other} < presence_diff +{}", user_of(name))));
        }
    }

    #[track_caller]
    fn clock(&mut self, command: &str) {
        let (verb, number) = command.split_once(' ').unwrap_or((command, ""));
        let number = || number.parse().expect("a number");
        let command = match verb {
            "pause" => ClockCommand::Pause,
            "resume" => ClockCommand::Resume,
            "step" => ClockCommand::Step(number()),
            "slow" => ClockCommand::Slow(number()),
            _ => panic!("no such command: {command}"),
        };
        let answer = self.engine.handle_operator(self.now, OperatorCommand::Clock(command));
        assert!(matches!(answer, Ok(OperatorAnswer::Clock(_))), "{answer:?}");
        // Lets timers run that are due now.
        self.advance(Duration::ZERO);
    }

    #[track_caller]
    fn expect(&mut self, line: &str) {
        let (name, expected) = line.split_once(" < ").expect("line() has found it");
        let client = self.clients.get_mut(name).unwrap_or_else(|| panic!("there is no client {name}"));
        if expected == "nothing" {
            assert!(client.got.is_empty(), "{name} got {:?}", client.got);
            return;
        }
        for item in split_outside_strings(expected, ", ") {
            if item == "*" {
                client.got.clear();
                continue;
            }
            let got = client.got.pop_front().unwrap_or_else(|| panic!("{line}\n  {name} got nothing, expected {item}"));
            assert!(matches(&got, item), "{line}\n  {name} got      {got}\n  expected {item}");
        }
    }

    /// Performs the action of a line `name > action` without ending the turn.
    #[track_caller]
    pub fn act(&mut self, name: &str, action: &str) {
        let (verb, rest) = action.split_once(' ').unwrap_or((action, ""));
        match verb {
            "connect" => {
                let (lobby, query) = rest.split_once(' ').unwrap_or((rest, ""));
                let query: String = query.split(' ').map(|pair| format!("&{pair}")).collect();
                let bytes = wire::upgrade_request(&format!("/ws/{lobby}?token={}{query}", user_of(name)), &[]);
                self.open(name);
                self.send(name, &bytes);
            }
            "leave" => self.send(name, &wire::text(r#"{"type":"leave"}"#)),
            "open" => self.open(name),
            "get" => {
                let (target, lines) = rest.split_once(' ').unwrap_or((rest, ""));
                let lines: Vec<&str> = lines.split(" | ").filter(|line| !line.is_empty()).collect();
                let bytes = wire::upgrade_request(target, &lines);
                self.open(name);
                self.send(name, &bytes);
            }
            "raw" => self.send(name, rest.replace("\\r", "\r").replace("\\n", "\n").as_bytes()),
            "binary" => self.send(name, &wire::frame(Opcode::BINARY, true, rest.as_bytes(), [9, 8, 7, 6])),
            "text" => self.send(name, &wire::text(rest)),
            "ping" => self.send(name, &wire::frame(Opcode::PING, true, rest.as_bytes(), [1; 4])),
            "pong" => self.send(name, &wire::frame(Opcode::PONG, true, rest.as_bytes(), [1; 4])),
            "close" => self.send(name, &wire::close(rest.parse().unwrap_or(1000), "")),
            "hangup" => self.hangup(name),
            // Every later write to the socket fails.
            "break" => {
                self.client(name).is_broken = true;
                self.sockets.fail(self.conn(name), ErrorKind::ConnectionReset);
            }
            // The socket takes this many more bytes and then blocks.
            "window" => self.sockets.limit(self.conn(name), rest.parse().expect("a number of bytes")),
            "read" => {
                let conn = self.conn(name);
                self.sockets.limit(conn, usize::MAX);
                self.engine.handle_writable(self.now, conn);
            }
            _ => {
                assert!(action.starts_with('{') || action.starts_with('['), "no such action: {action}");
                self.send(name, &wire::text(action));
            }
        }
    }

    /// Runs a closure with the application and its context, as `Server::act` does.
    pub fn app<R>(&mut self, act: impl FnOnce(&mut A, &mut Context<'_>) -> R) -> R {
        let result = self.engine.act(self.now, act);
        if !self.in_turn {
            self.flush();
        }
        self.engine.check();
        result
    }

    /// Answers a client's pending authorization.
    #[track_caller]
    pub fn authorize(&mut self, name: &str, answer: Authorization) {
        let conn = self.conn(name);
        self.engine.handle_authorized(self.now, conn, answer);
        self.flush();
        self.engine.check();
    }

    /// Takes all messages that the client received and no line has matched.
    pub fn take(&mut self, name: &str) -> Vec<String> {
        self.client(name).got.drain(..).collect()
    }

    pub fn client(&mut self, name: &str) -> &mut Client {
        self.clients.get_mut(name).unwrap_or_else(|| panic!("there is no client {name}"))
    }

    #[track_caller]
    pub fn conn(&self, name: &str) -> ConnId {
        self.clients[name].conn.unwrap_or_else(|| panic!("{name} is not connected"))
    }

    pub fn knows(&self, name: &str) -> bool {
        self.clients.contains_key(name)
    }

    pub fn is_open(&self, name: &str) -> bool {
        self.clients.get(name).is_some_and(|client| client.conn.is_some())
    }

    /// Opens a connection without sending anything. A name can be reused once its connection is closed.
    #[track_caller]
    pub fn open(&mut self, name: &str) {
        let conn = self.engine.handle_accept(self.now, self.peer);
        let client = Client { conn: conn.ok(), ended: conn.is_err(), ..Client::default() };
        let client = Client { got: if conn.is_err() { ["full".into()].into() } else { VecDeque::new() }, ..client };
        let before = self.clients.insert(name.to_owned(), client);
        assert!(before.is_none_or(|client| client.conn.is_none()), "{name} is connected already");
    }

    #[track_caller]
    pub fn send(&mut self, name: &str, bytes: &[u8]) {
        if let Some(conn) = self.clients[name].conn {
            self.engine.handle_bytes(self.now, conn, bytes);
        }
    }

    /// The client hangs up. Has no effect if the server has closed the connection already.
    pub fn hangup(&mut self, name: &str) {
        let client = self.client(name);
        assert!(client.conn.is_some() || client.ended, "{name} is not connected");
        client.ended = true;
        if let Some(conn) = client.conn {
            self.engine.handle_hangup(self.now, conn);
        }
    }

    /// Advances the time and stops at every timer on the way.
    pub fn advance(&mut self, span: Duration) {
        let end = self.now + span;
        while let Some(next) = self.engine.poll_timeout().filter(|&next| next <= end) {
            self.now = next;
            self.end_turn();
            self.engine.check();
        }
        self.now = end;
        self.end_turn();
    }

    /// Ends a turn as a driver does: expires timers, writes the output and drops closed connections.
    pub fn end_turn(&mut self) {
        self.end_turn_at(self.now);
    }

    /// The same at any time, which may be one before `now`.
    pub fn end_turn_at(&mut self, now: Time) {
        self.engine.end_turn(now, &mut self.sockets).expect("the session is not recorded");
        self.receive();
    }

    /// Writes the output and drops closed connections, without expiring timers.
    pub fn flush(&mut self) {
        self.engine.flush(&mut self.sockets).expect("the session is not recorded");
        self.receive();
    }

    /// Lets the clients receive what the engine has written.
    fn receive(&mut self) {
        for write in self.sockets.take_writes() {
            let client = self.client_of(write.conn);
            client.reader.push(&write.bytes);
            while let Some(received) = client.reader.next().expect("the server keeps to the protocol") {
                client.got.push_back(describe(received));
            }
            assert!(write.outcome.is_ok() || client.is_broken, "only a broken socket fails: {:?}", write.outcome);
            if matches!(write.outcome, Ok(Flow::Finished | Flow::Closed)) {
                client.got.push_back("eof".into());
                client.ended = true;
            }
        }
        for (conn, _) in self.sockets.take_closed() {
            let client = self.client_of(conn);
            client.conn = None;
            if !std::mem::replace(&mut client.ended, true) {
                client.got.push_back("cut".into());
            }
        }
    }

    fn client_of(&mut self, conn: ConnId) -> &mut Client {
        self.clients.values_mut().find(|client| client.conn == Some(conn)).expect("every conn has a client")
    }
}

/// Formats a received item as scripts write it. JSON is kept as it is, and an upgrade appears without its head.
/// The name up to a `:` is the user, so that `ann:2` is ann's second connection.
fn user_of(name: &str) -> &str {
    name.split(':').next().expect("split returns at least one part")
}

fn describe(received: Received) -> String {
    match received {
        Received::Answer(101, head) => match head.split_once("Sec-WebSocket-Protocol: ") {
            Some((_, rest)) => format!("upgrade {}", rest.lines().next().expect("split returns at least one part")),
            None => "upgrade".into(),
        },
        Received::Answer(status, _) => format!("http {status}"),
        Received::Body(body) => format!("body {}", body.trim_end()),
        Received::Text(text) => text,
        Received::Binary(bytes) => format!("binary {}", String::from_utf8_lossy(&bytes)),
        Received::Ping(payload) => format!("ping {}", String::from_utf8_lossy(&payload)).trim_end().into(),
        Received::Pong(payload) => format!("pong {}", String::from_utf8_lossy(&payload)).trim_end().into(),
        Received::Close(code, reason) => format!("close {code} {reason}"),
    }
}

/// Returns whether a received item matches an item of a script: `type key=value …`, where keys may be omitted.
fn matches(got: &str, item: &str) -> bool {
    if got == item {
        return true;
    }
    let Ok(Value::Object(ref object)) = serde_json::from_str::<Value>(got) else {
        return item == "body" && got.starts_with("body ");
    };
    let mut words = split_outside_strings(item, " ").into_iter();
    let count = |sign| item.split(' ').filter(|word| word.starts_with(sign)).count();
    let length = |key| object.get(key).and_then(Value::as_array).map_or(0, Vec::len);
    let is_diff = object["type"] == "presence_diff";
    (!is_diff || (count('+'), count('-')) == (length("joins"), length("leaves")))
        && object.get("type").and_then(Value::as_str) == words.next()
        && words.all(|word| match (word.split_at(1), word.split_once('=')) {
            (("!", key), _) => !object.contains_key(key),
            (("+", user), _) => lists(&object["joins"], user),
            (("-", user), _) => {
                let (user, reason) = user.split_once(':').unwrap_or((user, ""));
                let leaves = object["leaves"].as_array().expect("an array");
                leaves.iter().any(|left| left["user"] == user && (reason.is_empty() || left["reason"] == reason))
            }
            (_, Some(("users", names))) if !names.starts_with('[') => {
                let users: Vec<&str> = object["users"]
                    .as_array()
                    .map_or(Vec::new(), |users| users.iter().filter_map(|user| user["user"].as_str()).collect());
                users.join(",") == names
            }
            (_, Some((key @ ("away" | "back"), names))) => said_of(object, key).join(",") == names,
            (_, Some((key, value))) => {
                let value = serde_json::from_str(value).unwrap_or_else(|_| Value::String(value.into()));
                object.get(key) == Some(&value)
            }
            (_, None) => false,
        })
}

/// Splits a text at a separator outside JSON strings.
fn split_outside_strings<'a>(text: &'a str, separator: &str) -> Vec<&'a str> {
    let (mut parts, mut start, mut is_string) = (Vec::new(), 0, false);
    for (at, c) in text.char_indices() {
        if c == '"' && !text[..at].ends_with('\\') {
            is_string = !is_string;
        } else if !is_string && at >= start && text[at..].starts_with(separator) {
            parts.push(&text[start..at]);
            start = at + separator.len();
        }
    }
    parts.push(&text[start..]);
    parts
}

/// The users of whom a `presence_diff` says that they are away or back, or a `presence_state` that they are away.
fn said_of<'a>(object: &'a serde_json::Map<String, Value>, key: &str) -> Vec<&'a str> {
    let list = |key| object.get(key).and_then(Value::as_array).into_iter().flatten();
    let is_named = |user: &&Value| !object.contains_key("users") || user["away"] == true;
    let users = list(if object.contains_key("users") { "users" } else { key });
    users.filter(is_named).filter_map(|user| user["user"].as_str()).collect()
}

fn lists(joins: &Value, user: &str) -> bool {
    joins.as_array().expect("an array").iter().any(|join| join["user"] == user)
}

fn duration(text: &str) -> Duration {
    let (digits, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).expect("a unit"));
    let count = digits.parse().expect("a number");
    match unit {
        "us" => Duration::from_micros(count),
        "ms" => Duration::from_millis(count),
        "s" => Duration::from_secs(count),
        _ => panic!("no such unit: {unit}"),
    }
}
