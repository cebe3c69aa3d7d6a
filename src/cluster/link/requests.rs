//! Requests as bytes.

use crate::cluster::kept_log::KeptLog;
use crate::cluster::link::attachment::{Attachment, StateTransfer};
use crate::cluster::link::config::{CALL_BYTES, KEPT_BY_REDIS, LinkConfig};
use crate::cluster::log::Incarnation;
use crate::cluster::resp::write_request;
use crate::cluster::scripts::{Keys, Script, Scripts};

/// A request whose reply has not arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Request {
    /// `HELLO 3`.
    Greet,
    Select,
    Load,
    Hello,
    Attach,
    Append {
        batch: u64,
    },
    Heartbeat,
    Leave,
    Since,
    Restore,
    /// A part of the state for another node.
    StatePut {
        node: Incarnation,
        is_last: bool,
    },
    StateGet,
}

/// Writes the requests of one node.
pub(super) struct Requests {
    scripts: Scripts,
    keys: Keys,
    lease: String,
    kept: String,
}

impl Requests {
    pub(super) fn new(config: &LinkConfig) -> Requests {
        Requests {
            scripts: Scripts::new(),
            keys: Keys::new(&config.namespace, config.database),
            lease: config.lease.as_micros().to_string(),
            kept: format!("{} {}", config.log_entries, config.log_bytes.saturating_mul(KEPT_BY_REDIS)),
        }
    }

    /// Name of the channel on which entries are published.
    pub(super) fn channel(&self) -> &[u8] {
        self.keys.log.as_bytes()
    }

    pub(super) fn greet(&self, output: &mut Vec<u8>, config: &LinkConfig) {
        let name = format!("lobbyd-{}", config.node);
        let mut words: Vec<&[u8]> = vec![b"HELLO", b"3"];
        if let Some(password) = &config.password {
            let user = config.user.as_deref().unwrap_or("default");
            words.extend([&b"AUTH"[..], user.as_bytes(), password.as_bytes()]);
        }
        words.extend([&b"SETNAME"[..], name.as_bytes()]);
        write_request(output, &words);
    }

    pub(super) fn select(&self, output: &mut Vec<u8>, database: u32) {
        write_request(output, &[b"SELECT", database.to_string().as_bytes()]);
    }

    pub(super) fn subscribe(&self, output: &mut Vec<u8>) {
        write_request(output, &[b"SUBSCRIBE", self.channel()]);
    }

    /// Writes a `SCRIPT LOAD` for each script. Returns how many.
    pub(super) fn load(&self, output: &mut Vec<u8>) -> usize {
        self.scripts.texts().map(|text| write_request(output, &[b"SCRIPT", b"LOAD", text.as_bytes()])).count()
    }

    /// Calls a script. All but three know no key of a state.
    fn call(&self, output: &mut Vec<u8>, script: Script, state: Option<&str>, arguments: &[&[u8]]) {
        let keys = [&self.keys.head, &self.keys.log, &self.keys.nodes];
        let count = if state.is_some() { "4" } else { "3" };
        let mut words: Vec<&[u8]> = vec![b"EVALSHA", self.scripts.sha(script).as_bytes(), count.as_bytes()];
        words.extend(keys.map(|key| key.as_bytes()));
        words.extend(state.map(str::as_bytes));
        words.extend([&b""[..], self.lease.as_bytes(), self.kept.as_bytes()]);
        words.extend(arguments);
        write_request(output, &words);
    }

    pub(super) fn hello(&self, output: &mut Vec<u8>, config: &LinkConfig) {
        self.call(output, Script::Hello, None, &[config.freeze().as_micros().to_string().as_bytes(), b""]);
    }

    pub(super) fn attach(&self, output: &mut Vec<u8>, config: &LinkConfig, has_seen_log: bool, log_index: u64) {
        let has_seen_log: &[u8] = if has_seen_log { b"1" } else { b"0" };
        let log_index = log_index.to_string();
        let arguments = [config.node.as_bytes(), config.fingerprint.as_bytes(), has_seen_log, log_index.as_bytes()];
        self.call(output, Script::Attach, Some(&self.keys.state(None)), &arguments);
    }

    /// Calls a script whose first arguments are the incarnation and what the node knows.
    fn call_at(&self, output: &mut Vec<u8>, script: Script, attachment: &Attachment, arguments: &[&[u8]]) {
        let (index, hash) = attachment.kept.last();
        let (node, index) = (attachment.node.to_string(), index.to_string());
        let mut all = vec![node.as_bytes(), index.as_bytes(), &hash.0];
        all.extend(arguments);
        self.call(output, script, None, &all);
    }

    pub(super) fn append(&self, output: &mut Vec<u8>, attachment: &Attachment, batch: u64, bytes: &[u8]) {
        self.call_at(output, Script::Append, attachment, &[batch.to_string().as_bytes(), bytes]);
    }

    pub(super) fn heartbeat(&self, output: &mut Vec<u8>, attachment: &Attachment, probe: u64) {
        let is_ready: &[u8] = if attachment.is_live() { b"1" } else { b"0" };
        self.call_at(output, Script::Heartbeat, attachment, &[probe.to_string().as_bytes(), is_ready]);
    }

    pub(super) fn leave(&self, output: &mut Vec<u8>, attachment: &Attachment) {
        self.call_at(output, Script::Leave, attachment, &[]);
    }

    pub(super) fn since(&self, output: &mut Vec<u8>, attachment: &Attachment) {
        self.call_at(output, Script::Since, attachment, &[CALL_BYTES.to_string().as_bytes()]);
    }

    /// Gives the entries after `index` back, which must be the base of the kept log or later. The nodes are those of the base, for a
    /// log that is blank.
    pub(super) fn restore(&self, output: &mut Vec<u8>, kept: &KeptLog, from: (u64, &[u8]), fingerprint: &str) {
        let entries = kept.after(from.0, CALL_BYTES);
        let nodes: Vec<[String; 3]> = kept
            .nodes()
            .map(|(node, stored)| [node.to_string(), stored.batch.to_string(), stored.name.clone()])
            .collect();
        let (index, count) = (from.0.to_string(), nodes.len().to_string());
        let mut arguments: Vec<&[u8]> = vec![index.as_bytes(), from.1, count.as_bytes()];
        arguments.extend(nodes.iter().flatten().map(String::as_bytes));
        arguments.push(fingerprint.as_bytes());
        arguments.extend(entries.iter().map(|text| &text[..]));
        self.call(output, Script::Restore, None, &arguments);
    }

    pub(super) fn state_put(&self, output: &mut Vec<u8>, from: u64, transfer: &StateTransfer) {
        let [node, from, index] = [transfer.node.0, from, transfer.index].map(|number| number.to_string());
        let [part, parts] = [transfer.part, transfer.parts()].map(|number| number.to_string());
        let key = self.keys.state(Some(transfer.node.0));
        let arguments = [&node, &from, &index, &part, &parts].map(|text| text.as_bytes());
        let arguments = [&arguments[..], &[transfer.part_bytes()]].concat();
        self.call(output, Script::StatePut, Some(&key), &arguments);
    }

    pub(super) fn state_get(&self, output: &mut Vec<u8>, node: u64, part: usize) {
        let (key, part) = (self.keys.state(Some(node)), part.to_string());
        self.call(output, Script::StateGet, Some(&key), &[node.to_string().as_bytes(), part.as_bytes()]);
    }
}
