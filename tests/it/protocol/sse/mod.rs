//! Server-sent events, and POST for what their readers say.

mod entering;
mod hostile;
mod lists;
mod posts;
mod streams;

use std::collections::BTreeMap;
use std::time::Duration;

use lobbyd::journal;
use lobbyd::sim::MemorySockets;
use lobbyd::sim::wire;
use lobbyd::{CloseReason, Config, ConnId, Engine, Time};
use serde_json::Value;

use crate::common::scenario::START;
use crate::common::witness::{React, Witness};

/// Names of sessions, which no journal may contain.
pub const ANN: &str = "session-of-ann-1234";
pub const BOB: &str = "session-of-bob-1234";

/// An engine whose session is recorded. At its end it is replayed, and must send the same bytes.
pub struct Site {
    pub engine: Engine<Witness<true>>,
    pub sockets: MemorySockets,
    pub now: Time,
    pub conns: BTreeMap<String, ConnId>,
    pub closed: Vec<(ConnId, CloseReason)>,
    react: React,
    /// Length of the pieces in which requests arrive.
    pub step: usize,
    taken: BTreeMap<ConnId, usize>,
}

/// An event as an `EventSource` dispatches it.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    pub id: Option<String>,
    pub retry: Option<u64>,
    pub data: Value,
}

impl Event {
    /// Its type, and its id behind a space if it has one.
    pub fn name(&self) -> String {
        let kind = self.data["type"].as_str().expect("a message has a type");
        self.id.as_ref().map_or(kind.to_owned(), |id| format!("{kind} {id}"))
    }
}

impl Site {
    pub fn new() -> Site {
        Site::with(Config::default(), |_, _, _| {})
    }

    pub fn with(config: Config, react: React) -> Site {
        let mut engine =
            Engine::new(config.check().expect("the configuration is valid"), START, Witness::reacting(react));
        journal::record(&mut engine, START, Vec::new()).expect("it can be recorded");
        Site {
            engine,
            sockets: MemorySockets::default(),
            now: Time::ZERO,
            conns: BTreeMap::new(),
            closed: Vec::new(),
            react,
            step: usize::MAX,
            taken: BTreeMap::new(),
        }
    }

    pub fn open(&mut self, name: &str) -> ConnId {
        let conn = self.engine.handle_accept(self.now, ([127, 0, 0, 1], 4000).into()).expect("there is room");
        self.conns.insert(name.to_owned(), conn);
        conn
    }

    /// Sends bytes and ends the turn. Opens a connection if the name has none.
    pub fn send(&mut self, name: &str, bytes: &[u8]) {
        let is_open = self.conns.contains_key(name) && !self.has_ended(name);
        let conn = if is_open { self.conns[name] } else { self.open(name) };
        for piece in bytes.chunks(self.step) {
            self.engine.handle_bytes(self.now, conn, piece);
            self.engine.check();
        }
        self.turn();
    }

    /// Asks for an event stream.
    pub fn get(&mut self, name: &str, target: &str, lines: &[&str]) {
        let lines: String = lines.iter().map(|line| format!("{line}\r\n")).collect();
        self.send(
            name,
            format!("GET {target} HTTP/1.1\r\nHost: a.example\r\nAccept: text/event-stream\r\n{lines}\r\n").as_bytes(),
        );
    }

    /// Joins the lobby `chess` with an event stream in a session.
    pub fn join(&mut self, name: &str, session: &str) {
        self.get(name, &format!("/sse/chess?token={name}&session={session}"), &[]);
    }

    pub fn post(&mut self, name: &str, target: &str, lines: &[&str], body: &str) {
        self.send(name, post(target, lines, body).as_bytes());
    }

    /// Sends messages of ann's session on the connection `name`. Returns the status of the answer.
    pub fn say(&mut self, name: &str, body: &str) -> u16 {
        self.post(name, &format!("/sse/chess?token=ann&session={ANN}"), &[], body);
        self.status(name)
    }

    /// Joins the lobby `chess` with a WebSocket.
    pub fn websocket(&mut self, name: &str) {
        self.send(name, &wire::upgrade_request(&format!("/ws/chess?token={name}"), &[]));
    }

    pub fn turn(&mut self) {
        self.engine.end_turn(self.now, &mut self.sockets).expect("the journal is in memory");
        self.engine.check();
        self.closed.extend(self.sockets.take_closed());
    }

    pub fn advance(&mut self, span: Duration) {
        let end = self.now + span;
        while let Some(next) = self.engine.poll_timeout().filter(|&next| next <= end) {
            self.now = next;
            self.turn();
        }
        self.now = end;
        self.turn();
    }

    /// The bytes that the connection received since the last call.
    pub fn bytes(&mut self, name: &str) -> String {
        let conn = self.conns[name];
        let all = self.sockets.written(conn);
        let taken = self.taken.entry(conn).or_default();
        let new = all[*taken..].to_vec();
        *taken = all.len();
        String::from_utf8(new).expect("text")
    }

    /// The head of an answer, without the rest that follows.
    pub fn head(&mut self, name: &str) -> String {
        let text = self.bytes(name);
        text.split_once("\r\n\r\n").map_or(text.clone(), |(head, _)| head.to_owned())
    }

    pub fn status(&mut self, name: &str) -> u16 {
        let head = self.head(name);
        head.strip_prefix("HTTP/1.1 ").unwrap_or_else(|| panic!("no answer: {head:?}"))[..3].parse().expect("a status")
    }

    /// The statuses of all answers that arrived.
    pub fn statuses(&mut self, name: &str) -> Vec<u16> {
        let text = self.bytes(name);
        text.split("HTTP/1.1 ").skip(1).map(|answer| answer[..3].parse().expect("a status")).collect()
    }

    /// The events that arrived since the last call; the head is skipped.
    pub fn events(&mut self, name: &str) -> Vec<Event> {
        let text = self.bytes(name);
        let body = match text.split_once("\r\n\r\n") {
            Some((head, body)) => {
                assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
                body
            }
            None => &text,
        };
        assert!(body.is_empty() || body.ends_with("\n\n"), "events are whole: {body:?}");
        let parse = |block: &str| {
            let (mut id, mut retry, mut data) = (None, None, None);
            for line in block.lines() {
                match line.split_once(": ") {
                    Some(("id", value)) => id = Some(value.to_owned()),
                    Some(("retry", value)) => retry = Some(value.parse().expect("a number")),
                    Some(("data", value)) => data = Some(serde_json::from_str(value).expect("JSON")),
                    _ => assert_eq!(line, ":", "a field or a comment"),
                }
            }
            data.map(|data| Event { id, retry, data })
        };
        body.split("\n\n").filter_map(parse).collect()
    }

    pub fn names(&mut self, name: &str) -> Vec<String> {
        self.events(name).iter().map(Event::name).collect()
    }

    /// Whether the server has ended the connection.
    pub fn has_ended(&self, name: &str) -> bool {
        let conn = self.conns[name];
        self.sockets.is_shut_down(conn) || self.closed.iter().any(|(closed, _)| *closed == conn)
    }

    pub fn hangup(&mut self, name: &str) {
        self.engine.handle_hangup(self.now, self.conns[name]);
        self.turn();
        self.conns.remove(name);
    }
}

impl Drop for Site {
    /// Replays the session.
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        let journal: Vec<u8> = journal::finish(&mut self.engine).expect("it was recorded in memory");
        let text = journal.escape_ascii().to_string();
        for secret in [ANN, BOB, "session=", "Last-Event-ID", "hush"] {
            assert!(!text.contains(secret), "{secret} is in the journal");
        }
        let summary = journal::replay(&*journal, Witness::<true>::reacting(self.react)).expect("nothing differs");
        assert_eq!(summary.stats.counters.joined, self.engine.stats().counters.joined);
        assert_eq!(summary.stats.counters.frames_out, self.engine.stats().counters.frames_out);
    }
}

/// A POST with its body.
pub fn post(target: &str, lines: &[&str], body: &str) -> String {
    let lines: String = lines.iter().map(|line| format!("{line}\r\n")).collect();
    let length = body.len();
    format!("POST {target} HTTP/1.1\r\nHost: a.example\r\nContent-Length: {length}\r\n{lines}\r\n{body}")
}
