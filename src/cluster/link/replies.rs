//! What Redis says: replies in the order of the requests, and published messages.

use std::time::Duration;

use bytes::Bytes;

use crate::base::time::Time;
use crate::cluster::entry::{self, LinkInput};
use crate::cluster::kept_log::{KeptLog, KeptNode};
use crate::cluster::link::attachment::{Attachment, Batches, Fetch};
use crate::cluster::link::config::{REFUSED_DELAY, SINCE_INTERVAL, STATE_TIMEOUT};
use crate::cluster::link::core::{InFlight, Leave, Link, Phase, Probe};
use crate::cluster::link::requests::Request;
use crate::cluster::log::{EntryBody, Incarnation};
use crate::cluster::resp::{Value, decimal};
use crate::cluster::scripts::Hash;

/// A reply that is not as its script returns it: the connection is closed.
struct Malformed;

impl Link {
    pub(super) fn handle_value(&mut self, now: Time, value: Value) {
        match value {
            Value::Push(items) => self.handle_push(now, &items),
            reply => self.handle_reply(now, &reply),
        }
    }

    fn handle_push(&mut self, now: Time, items: &[Value]) {
        let texts: Vec<&[u8]> = items.iter().map_while(Value::text).collect();
        match texts[..] {
            [b"subscribe", channel] if channel == self.requests.channel() => {
                if matches!(self.phase, Phase::Subscribing { .. }) {
                    self.begin_requests(now);
                }
            }
            [b"message", channel, message] if channel == self.requests.channel() => self.handle_message(now, message),
            _ => {}
        }
    }

    /// The subscription works: loads the scripts and says hello to Redis.
    fn begin_requests(&mut self, now: Time) {
        self.phase = Phase::Ready;
        self.load_scripts(now);
        self.say_hello(now);
        self.probe = Probe { number: self.probe.number, head: Some(0), was_published: true, deadline: Time::NEVER };
        self.heartbeat_at = now;
    }

    fn load_scripts(&mut self, now: Time) {
        for _ in 0..self.requests.load(&mut self.output) {
            self.expect_reply(now, Request::Load);
        }
    }

    fn say_hello(&mut self, now: Time) {
        self.requests.hello(&mut self.output, &self.config);
        self.expect_reply(now, Request::Hello);
    }

    /// A published entry or probe. What is not the next entry of the chain leads to `since`.
    fn handle_message(&mut self, now: Time, message: &[u8]) {
        let Some(attachment) = &self.attachment else { return };
        let mut words = message.splitn(3, |byte| *byte == b' ');
        let (first, second, third) = (words.next(), words.next(), words.next());
        if first == Some(b"P") {
            let is_own = second.and_then(decimal) == Some(attachment.node.0);
            if is_own && third.and_then(decimal) == Some(self.probe.number) {
                self.probe.was_published = true;
                self.compare_with_probe();
            }
            return;
        }
        // Until the state is there, `since` will bring the entries.
        if !attachment.is_live() {
            return;
        }
        let index = first.and_then(decimal);
        let hash = second.and_then(Hash::parse);
        let (Some(index), Some(hash), Some(text)) = (index, hash, third) else {
            self.since_wanted = true;
            return;
        };
        let (last, _) = attachment.kept.last();
        if index > last && !(index == last + 1 && self.apply(now, hash, text)) {
            self.since_wanted = true;
        }
    }

    /// Once the reply of a heartbeat and its probe have arrived, all entries before the probe have, too, unless one was lost.
    fn compare_with_probe(&mut self) {
        let Some(attachment) = self.attachment.as_ref().filter(|attachment| attachment.is_live()) else { return };
        let head = self.probe.head.filter(|_| self.probe.was_published);
        if head.is_some_and(|head| head > attachment.kept.last().0) {
            self.since_wanted = true;
        }
    }

    /// Applies the next entry. Returns false if its hash does not continue the chain or it cannot be understood.
    fn apply(&mut self, now: Time, hash: Hash, text: &[u8]) -> bool {
        let Some(attachment) = &mut self.attachment else { return false };
        let (last, last_hash) = attachment.kept.last();
        if last_hash.chained(text) != hash {
            return false;
        }
        let index = last + 1;
        let Some((entry, batch)) = entry::parse(index, text) else { return false };
        if entry.body == (EntryBody::Ended { node: attachment.node }) {
            self.detach(now, "its lease has expired, or another process has attached under its name");
            return false;
        }
        // A node that has founded the log knows nothing before its own entry. In a log that another one has founded since a failover, its
        // incarnation is that of the other one.
        if let EntryBody::Attached { node, name } = entry.body
            && node == attachment.node
            && name != self.config.node
        {
            self.detach(now, "Redis has another log since a failover");
            return false;
        }
        if let EntryBody::Operations { node, .. } = entry.body
            && node == attachment.node
            && !attachment.batches.apply(batch)
        {
            self.detach(now, &format!("entry {index} has batch {batch} of this node, which is not the next one"));
            return false;
        }
        let text = Bytes::copy_from_slice(text);
        attachment.kept.push(hash, text.clone());
        if index > attachment.deliver_after {
            self.inputs.push_back(LinkInput::Entry { index, text });
        }
        true
    }

    fn handle_reply(&mut self, now: Time, reply: &Value) {
        let Some(InFlight { request, attachment_number, .. }) = self.in_flight.pop_front() else {
            let text = if let Value::Error(error) = reply { error } else { &b"a reply without a request"[..] };
            return self.close(format!("Redis refuses: {}", String::from_utf8_lossy(text)));
        };
        if let Value::Error(error) = reply {
            return self.handle_error(now, request, error);
        }
        let is_outdated = attachment_number != self.attachment_number;
        let result = match request {
            Request::Greet => {
                self.handle_greeting(now);
                Ok(())
            }
            Request::Select | Request::Load => Ok(()),
            Request::Hello => self.handle_hello(now, reply),
            _ if is_outdated => Ok(()),
            Request::Attach => self.handle_attach(now, reply),
            _ => self.handle_reply_while_attached(now, request, reply),
        };
        if result.is_err() {
            self.close(format!("Redis answers {request:?} with something else than its script returns"));
        }
    }

    fn handle_greeting(&mut self, now: Time) {
        self.phase = Phase::Subscribing { deadline: now + self.config.timeout() };
        self.requests.subscribe(&mut self.output);
    }

    fn handle_error(&mut self, now: Time, request: Request, error: &[u8]) {
        if !error.starts_with(b"NOSCRIPT") {
            return self.close(format!("Redis refuses {request:?}: {}", String::from_utf8_lossy(error)));
        }
        // Redis has forgotten the scripts (SCRIPT FLUSH). Several requests may find that out: one loads them.
        if !self.is_in_flight(Request::Load) {
            self.load_scripts(now);
        }
        match request {
            Request::Hello => self.say_hello(now),
            Request::Attach => self.attach_at = now,
            Request::Append { .. } => self.must_send_again = true,
            Request::Heartbeat => {
                self.probe = Probe { head: Some(0), was_published: true, ..self.probe };
                self.heartbeat_at = now;
            }
            Request::Leave => self.leave = Leave::Wanted,
            Request::StatePut { .. } => {
                if let Some(transfer) = self.states.front_mut() {
                    transfer.part = 0;
                }
            }
            // `restore` follows from the answer of `since`. A state is polled anyway.
            _ => self.since_wanted = true,
        }
    }

    fn handle_hello(&mut self, now: Time, reply: &Value) -> Result<(), Malformed> {
        let [_, frozen, index] = items(reply)? else { return Err(Malformed) };
        let micros = frozen.unsigned().ok_or(Malformed)?;
        self.log_index = index.unsigned().ok_or(Malformed)?;
        self.frozen_until = now + Duration::from_micros(micros);
        self.since_wanted = self.attachment.is_some();
        self.since_at = now + SINCE_INTERVAL;
        if let Some(attachment) = &mut self.attachment
            && let Some(fetch) = &mut attachment.fetch
        {
            fetch.poll_at = now;
            fetch.deadline = now + STATE_TIMEOUT;
        }
        self.backoff.reset();
        Ok(())
    }

    fn handle_attach(&mut self, now: Time, reply: &Value) -> Result<(), Malformed> {
        let reply = items(reply)?;
        match (word(reply)?, reply) {
            (b"OK", [_, node, index, hash, is_first, nodes @ ..]) => {
                let hash = hash.text().and_then(Hash::parse).ok_or(Malformed)?;
                let begin = (index.unsigned().ok_or(Malformed)?, hash);
                let node = Incarnation(node.unsigned().ok_or(Malformed)?);
                let mut known = std::collections::BTreeMap::new();
                for stored in nodes.chunks(3) {
                    let [incarnation, batch, name] = stored else { return Err(Malformed) };
                    let name = String::from_utf8_lossy(name.text().ok_or(Malformed)?).into_owned();
                    let batch = batch.unsigned().ok_or(Malformed)?;
                    known.insert(incarnation.unsigned().ok_or(Malformed)?, KeptNode { batch, name });
                }
                self.has_seen_log = true;
                let kept = KeptLog::new(self.config.log_entries as usize, self.config.log_bytes, begin, known);
                self.begin_attachment(now, node, kept, is_first.text() == Some(b"1"));
            }
            // The log has a later life of this node than `hello` has seen: that of a lost log, given back by another node.
            (b"STALE", _) => self.say_hello(now),
            (b"GUARDED", [_, micros]) => {
                self.has_seen_log = true;
                self.attach_at = now + Duration::from_micros(micros.unsigned().ok_or(Malformed)?);
            }
            (b"FROZEN", [_, micros]) => {
                self.frozen_until = now + Duration::from_micros(micros.unsigned().ok_or(Malformed)?);
                self.attach_at = self.frozen_until;
            }
            (b"FINGERPRINT", [_, theirs]) => {
                let theirs = String::from_utf8_lossy(theirs.text().ok_or(Malformed)?);
                let differences = differences(&self.config.fingerprint, &theirs);
                self.report(format!("the configuration differs from that of the cluster: {differences}"));
                self.attach_at = now + REFUSED_DELAY;
            }
            _ => return Err(Malformed),
        }
        Ok(())
    }

    fn begin_attachment(&mut self, now: Time, node: Incarnation, kept: KeptLog, is_first: bool) {
        let index = kept.last().0;
        (self.heard_at, self.restore_at) = (now, Time::NEVER);
        let fetch = Fetch { from: None, part: 0, bytes: Vec::new(), poll_at: now, deadline: now + STATE_TIMEOUT };
        let fetch = (!is_first).then_some(fetch);
        if is_first {
            self.inputs.push_back(LinkInput::Attached { node, index, state: None });
            self.is_reachable = true;
            self.attach_backoff.reset();
        }
        self.log_index = self.log_index.max(node.0);
        self.attachment = Some(Attachment { node, kept, fetch, deliver_after: index, batches: Batches::default() });
        self.attachment_number += 1;
        self.is_caught_up = false;
        self.since_wanted = true;
        self.since_at = now + SINCE_INTERVAL;
        self.heartbeat_at = now;
        self.probe = Probe { number: self.probe.number, head: Some(0), was_published: true, deadline: Time::NEVER };
    }

    /// Replies of scripts that only an attached node calls.
    fn handle_reply_while_attached(&mut self, now: Time, request: Request, reply: &Value) -> Result<(), Malformed> {
        let reply = items(reply)?;
        if word(reply)? == b"OK" && request != Request::Restore {
            (self.heard_at, self.restore_at) = (now, Time::NEVER);
        }
        match (request, word(reply)?, reply) {
            (Request::StateGet, b"OK", [_, from, index, parts, bytes]) => {
                let [from, index, parts] = [from, index, parts].map(Value::unsigned);
                let bytes = bytes.text().ok_or(Malformed)?;
                self.handle_state(now, from.zip(index).ok_or(Malformed)?, parts.ok_or(Malformed)?, bytes);
            }
            (Request::StateGet, b"NONE", _) => {}
            (Request::StatePut { node, is_last }, word, _) => {
                // Refused: the other node is not attached any more.
                let is_over = is_last || word != b"OK";
                if is_over && self.states.front().is_some_and(|transfer| transfer.node == node) {
                    self.states.pop_front();
                }
            }
            (_, b"AHEAD", [_, index, hash]) => {
                let hash = hash.text().and_then(Hash::parse).ok_or(Malformed)?;
                self.handle_ahead(now, request, index.unsigned().ok_or(Malformed)?, hash);
            }
            (_, b"FORK", _) => self.detach(now, "Redis has another log since a failover"),
            (_, b"TRIMMED", _) => self.detach(now, "it was away for too long, Redis has no longer what it has missed"),
            (_, b"GONE", _) => {
                self.detach(now, "its lease has expired, or another process has attached under its name")
            }
            (Request::Append { .. } | Request::Leave, b"FROZEN", [_, micros]) => {
                self.frozen_until = now + Duration::from_micros(micros.unsigned().ok_or(Malformed)?);
                self.must_send_again = true;
                if request == Request::Leave {
                    self.leave = Leave::Done;
                }
            }
            (Request::Append { .. }, b"OK", _) => {}
            (Request::Append { batch }, b"DUPLICATE", _) => {
                // Its entry was missed, if the batch still waits.
                self.since_wanted |=
                    self.attachment.as_ref().is_some_and(|attachment| attachment.batches.is_waiting(batch));
            }
            (Request::Append { .. }, b"MISSING", _) => self.must_send_again = true,
            (Request::Heartbeat, b"OK", [_, index]) => {
                self.probe.head = Some(index.unsigned().ok_or(Malformed)?);
                self.compare_with_probe();
            }
            (Request::Leave, b"OK", _) => {
                self.leave = Leave::Done;
                self.phase = Phase::Closing;
            }
            (Request::Since, b"OK", [_, index, entries @ ..]) => {
                self.handle_since(now, index.unsigned().ok_or(Malformed)?, entries)?;
            }
            (Request::Restore, b"OK" | b"AGAIN", _) => self.since_wanted = true,
            _ => return Err(Malformed),
        }
        Ok(())
    }

    /// Applies the entries that follow the last one. Those that were published in the meantime are known already.
    fn handle_since(&mut self, now: Time, head: u64, entries: &[Value]) -> Result<(), Malformed> {
        for (index, pair) in (self.since_from + 1..).zip(entries.chunks(2)) {
            let [hash, text] = pair else { return Err(Malformed) };
            let hash = hash.text().and_then(Hash::parse).ok_or(Malformed)?;
            let text = text.text().ok_or(Malformed)?;
            let is_new = self.attachment.as_ref().is_some_and(|attachment| index > attachment.kept.last().0);
            if is_new && !self.apply(now, hash, text) {
                return if self.attachment.is_some() { Err(Malformed) } else { Ok(()) };
            }
        }
        if self.attachment.as_ref().is_some_and(|attachment| attachment.kept.last().0 < head) {
            self.since_wanted = true;
            return Ok(());
        }
        self.is_caught_up = true;
        if !self.is_reachable {
            self.is_reachable = true;
            self.inputs.push_back(LinkInput::Reachable(true));
        }
        Ok(())
    }

    /// Redis has lost the entries after `index`. They are restored if this node has them. A call restores a part of them; `since`, which
    /// follows each, says `AHEAD` again until none is missing.
    fn handle_ahead(&mut self, now: Time, request: Request, index: u64, hash: Hash) {
        self.is_caught_up = false;
        self.must_send_again = true;
        match request {
            Request::Since => {}
            Request::Leave => self.leave = Leave::Done,
            _ => {
                // The reply may be outdated. Only that of `since` begins to restore, since one call of it is in flight at most.
                self.since_wanted = true;
                if request == Request::Heartbeat {
                    self.probe = Probe { head: Some(0), was_published: true, ..self.probe };
                }
            }
        }
        let Some(attachment) = self.attachment.as_ref().filter(|_| request == Request::Since) else { return };
        if index == 0 && now > self.heard_at + self.config.lease {
            // It may have missed so much that nobody else keeps all of it: nodes that have heard of Redis later come first.
            if self.restore_at == Time::NEVER {
                self.restore_at = now + self.config.freeze() / 2;
            }
            if now < self.restore_at {
                self.since_at = self.restore_at;
                return;
            }
        }
        let from = if index == 0 { attachment.kept.base() } else { (index, hash) };
        if !attachment.kept.has(from.0, from.1) {
            return self.detach(now, "Redis has another log since a failover");
        }
        self.requests.restore(&mut self.output, &attachment.kept, (from.0, &from.1.0), &self.config.fingerprint);
        self.expect_reply(now, Request::Restore);
    }

    fn handle_state(&mut self, now: Time, from: (u64, u64), parts: u64, bytes: &[u8]) {
        let Some(attachment) = &mut self.attachment else { return };
        let Some(fetch) = &mut attachment.fetch else { return };
        fetch.poll_at = now;
        fetch.deadline = now + STATE_TIMEOUT;
        if fetch.from.is_some_and(|known| known != from) {
            // Another node provides the state now: begin anew.
            (fetch.from, fetch.part) = (None, 0);
            fetch.bytes.clear();
            return;
        }
        fetch.from = Some(from);
        fetch.bytes.extend_from_slice(bytes);
        fetch.part += 1;
        if fetch.bytes.len() > self.config.state_bytes {
            return self.detach(now, "the state of the cluster exceeds cluster_state_bytes");
        }
        if fetch.part as u64 == parts {
            let state = Some(std::mem::take(&mut fetch.bytes));
            let (_, index) = from;
            if index < attachment.kept.last().0 {
                return self.detach(now, "the state of another node is older than this node's log");
            }
            attachment.fetch = None;
            attachment.deliver_after = index;
            self.inputs.push_back(LinkInput::Attached { node: attachment.node, index, state });
            self.is_reachable = true;
            self.since_wanted = true;
            self.attach_backoff.reset();
        }
    }
}

fn items(reply: &Value) -> Result<&[Value], Malformed> {
    if let Value::Array(items) = reply { Ok(items) } else { Err(Malformed) }
}

fn word(reply: &[Value]) -> Result<&[u8], Malformed> {
    reply.first().and_then(Value::text).ok_or(Malformed)
}

/// Names the lines that differ.
fn differences(own: &str, theirs: &str) -> String {
    let missing = |from: &str, of: &str| -> Vec<String> {
        of.lines().filter(|line| !from.lines().any(|other| other == *line)).map(str::to_owned).collect()
    };
    format!("here {}; there {}", missing(theirs, own).join(", "), missing(own, theirs).join(", "))
}
