//! A Redis with the scripts of a cluster, and the simulator's model of it.

use std::collections::BTreeMap;

use lobbyd::sim::{RedisCopy, RedisModel};

use super::redis::{Connection, Redis, messages, request, words};

pub(super) const PRELUDE: &str = include_str!("../../../src/cluster/scripts/prelude.lua");
pub(super) const SCRIPTS: [(&str, &str); 9] = [
    ("hello", include_str!("../../../src/cluster/scripts/hello.lua")),
    ("attach", include_str!("../../../src/cluster/scripts/attach.lua")),
    ("append", include_str!("../../../src/cluster/scripts/append.lua")),
    ("heartbeat", include_str!("../../../src/cluster/scripts/heartbeat.lua")),
    ("leave", include_str!("../../../src/cluster/scripts/leave.lua")),
    ("since", include_str!("../../../src/cluster/scripts/since.lua")),
    ("restore", include_str!("../../../src/cluster/scripts/restore.lua")),
    ("state_put", include_str!("../../../src/cluster/scripts/state_put.lua")),
    ("state_get", include_str!("../../../src/cluster/scripts/state_get.lua")),
];
pub(super) const HEAD: &[u8] = b"{t}:head";
pub(super) const LOG: &[u8] = b"{t}:log";
pub(super) const NODES: &[u8] = b"{t}:nodes";
pub(super) const STATE: &str = "{t}:state:";
/// In microseconds. Longer than the test, since Redis counts the time to live of a state itself.
pub(super) const LEASE: u64 = 60_000_000;
/// Entries, and bytes of them, that are kept.
pub(super) const KEPT: &str = "20 1000";
pub(super) const BLANK: &str = "0000000000000000";

/// A Redis and the model, which get the same calls.
pub(super) struct Pair {
    /// The server that `real` and `subscriber` are connected to.
    _server: Redis,
    pub(super) real: Connection,
    pub(super) subscriber: Connection,
    pub(super) model: RedisModel,
    pub(super) clients: [usize; 2],
    pub(super) shas: BTreeMap<&'static str, Vec<u8>>,
    pub(super) now: u64,
    /// All messages that were published.
    pub(super) published: Vec<Vec<u8>>,
}

/// The keys of the real Redis with their dumps, and a copy of the model.
pub(super) type Copies = (Vec<(Vec<u8>, Vec<u8>)>, RedisCopy);

impl Pair {
    pub(super) fn start(name: &str) -> Pair {
        // With one entry a node of the stream, approximate trimming is exact, as the model's.
        let server = Redis::start(name, &["--stream-node-max-entries", "1"]);
        let (real, mut subscriber) = (server.connect(), server.connect());
        subscriber.call(&[b"SUBSCRIBE", LOG]);
        let mut pair = Pair {
            _server: server,
            real,
            subscriber,
            model: RedisModel::new("unused"),
            clients: [0, 0],
            shas: BTreeMap::new(),
            now: 1_700_000_000_000_000,
            published: Vec::new(),
        };
        pair.connect_model();
        pair.load();
        pair
    }

    pub(super) fn connect_model(&mut self) {
        self.clients = [self.model.connect(), self.model.connect()];
        self.model.receive(self.clients[1], &request(&[b"SUBSCRIBE", LOG]));
        self.model.take_output(self.clients[1]);
    }

    /// Loads the scripts into both.
    pub(super) fn load(&mut self) {
        for (name, text) in SCRIPTS {
            let text = format!("{PRELUDE}\n{text}");
            let reply = self.both(&[b"SCRIPT", b"LOAD", text.as_bytes()]);
            self.shas.insert(name, words(&reply).remove(0));
        }
    }

    /// Sends a request to both. Both must answer and publish the same.
    #[track_caller]
    pub(super) fn both(&mut self, request_words: &[&[u8]]) -> Vec<u8> {
        let reply = self.real.call(request_words);
        self.model.receive(self.clients[0], &request(request_words));
        let model_reply = self.model.take_output(self.clients[0]);
        let published = self.subscriber.published();
        let model_published = self.model.take_output(self.clients[1]);
        let lossy = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let asked: Vec<String> = request_words.iter().map(|word| lossy(word)).collect();
        assert_eq!(lossy(&model_reply), lossy(&reply), "the model's reply to {asked:?}");
        assert_eq!(lossy(&model_published), lossy(&published), "what the model publishes for {asked:?}");
        self.published.extend(messages(&published));
        reply
    }

    #[track_caller]
    pub(super) fn call(&mut self, script: &str, state: Option<&str>, arguments: &[&[u8]]) -> Vec<String> {
        let (now, lease) = (self.now.to_string(), LEASE.to_string());
        let sha = self.shas[script].clone();
        let count: &[u8] = if state.is_some() { b"4" } else { b"3" };
        let mut all: Vec<&[u8]> = vec![b"EVALSHA", &sha, count, HEAD, LOG, NODES];
        all.extend(state.map(str::as_bytes));
        all.extend([now.as_bytes(), lease.as_bytes(), KEPT.as_bytes()]);
        all.extend(arguments);
        let reply = self.both(&all);
        words(&reply).into_iter().map(|word| String::from_utf8_lossy(&word).into_owned()).collect()
    }

    /// As [`call`](Self::call), with the arguments and the words of the reply separated by spaces.
    #[track_caller]
    pub(super) fn run(&mut self, line: &str) -> String {
        let (script, arguments) = line.split_once(' ').unwrap_or((line, ""));
        let arguments: Vec<&[u8]> =
            arguments.split(' ').map(|word| if word == "''" { b"" } else { word.as_bytes() }).collect();
        let (state, arguments) = match script {
            "attach" => (Some(STATE.to_owned()), &arguments[..]),
            "state_put" => (Some(format!("{STATE}{}", String::from_utf8_lossy(arguments[0]))), &arguments[..]),
            "state_get" => (Some(format!("{STATE}{}", String::from_utf8_lossy(arguments[0]))), &arguments[..]),
            _ => (None, &arguments[..]),
        };
        self.call(script, state.as_deref(), arguments).join(" ")
    }

    #[track_caller]
    pub(super) fn check(&mut self, line: &str, reply: &str) {
        assert_eq!(self.run(line), reply, "{line}");
    }

    pub(super) fn advance(&mut self, seconds: u64) {
        self.now += seconds * 1_000_000;
    }

    /// Copies what both have stored.
    pub(super) fn copy(&mut self) -> Copies {
        let mut keys = words(&self.real.call(&[b"KEYS", b"*"]));
        keys.sort();
        let dump = |key: Vec<u8>| {
            let payload = words(&self.real.call(&[b"DUMP", &key])).remove(0);
            (key, payload)
        };
        (keys.into_iter().map(dump).collect(), self.model.copy())
    }

    /// Continues with a copy, as after a failover: all else is lost, the scripts, too.
    pub(super) fn fail_over(&mut self, (dump, copy): &Copies) {
        self.real.call(&[b"FLUSHALL"]);
        self.real.call(&[b"SCRIPT", b"FLUSH"]);
        for (key, payload) in dump {
            self.real.call(&[b"RESTORE", key, b"0", payload]);
        }
        self.model.restart("unused", Some(copy.clone()));
        self.connect_model();
        self.load();
    }

    /// Returns index and hash of the last published entry.
    pub(super) fn position(&self) -> String {
        let entry = self.published.iter().rev().find(|message| !message.starts_with(b"P "));
        let entry = entry.map(|message| String::from_utf8_lossy(message).into_owned());
        entry.map_or(format!("0 {BLANK}"), |entry| entry.split(' ').take(2).collect::<Vec<_>>().join(" "))
    }

    /// Returns the last published message without its hash.
    pub(super) fn last_entry(&self) -> String {
        let message = String::from_utf8_lossy(self.published.last().expect("a message"));
        let mut words: Vec<&str> = message.split(' ').collect();
        words.remove(1);
        words.join(" ")
    }
}

/// A pair whose log has one node, `a`, with the incarnation 2.
pub(super) fn founded(name: &str) -> Pair {
    let mut pair = Pair::start(name);
    pair.check("hello 1000000 run1", "OK 1000000 0");
    pair.advance(2);
    pair.check("attach a print", &format!("OK 2 0 {BLANK} 1"));
    pair
}
