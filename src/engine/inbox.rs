//! What members have said since the last tick: kept for the next, and handed over in an order that no kernel decides.
//!
//! ```text
//! put() --> waiting --begin_tick()--> due --take_due()--> the application
//!              +------take_of(), the connection ends--------^
//! ```
//!
//! By connection, and for each in the order in which it came. Who says nothing owns nothing here.

use std::collections::{BTreeMap, VecDeque};

use super::core::{AppEvent, Core};
use super::member::Member;
use crate::close::Reject;
use crate::config::Config;
use crate::id::ConnId;
use crate::lobby::protocol;

/// What a message counts beside its own bytes: its place here and the allocator's share.
const OVERHEAD: usize = 64;
/// How long a member is told to wait while the clock is paused: nobody knows.
const PAUSED_RETRY_MS: u64 = 1000;

/// What a member said, in memory of its own.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum QueuedMessage {
    Text(Box<str>),
    Binary(Box<[u8]>),
}

impl QueuedMessage {
    fn cost(&self) -> usize {
        OVERHEAD
            + match self {
                QueuedMessage::Text(text) => text.len(),
                QueuedMessage::Binary(bytes) => bytes.len(),
            }
    }
}

/// One connection's messages.
#[derive(Debug, Default)]
struct Inbox {
    messages: VecDeque<QueuedMessage>,
    bytes: usize,
}

#[derive(Debug)]
pub(super) struct Inboxes {
    max_bytes: usize,
    /// For the next tick.
    waiting: BTreeMap<ConnId, Inbox>,
    /// For the tick that has begun.
    due: BTreeMap<ConnId, Inbox>,
    bytes: usize,
}

impl Inboxes {
    pub(super) fn new(config: &Config) -> Inboxes {
        Inboxes { max_bytes: config.max_inbox_bytes.0, waiting: BTreeMap::new(), due: BTreeMap::new(), bytes: 0 }
    }

    /// Bytes of all of them.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether a message fits. One always does, or the largest that is allowed could never be sent.
    fn has_room(&self, conn: ConnId, cost: usize) -> bool {
        let held = |inboxes: &BTreeMap<ConnId, Inbox>| inboxes.get(&conn).map_or(0, |inbox| inbox.bytes);
        let held = held(&self.waiting) + held(&self.due);
        held == 0 || held + cost <= self.max_bytes
    }

    fn put(&mut self, conn: ConnId, said: QueuedMessage) {
        let inbox = self.waiting.entry(conn).or_default();
        inbox.bytes += said.cost();
        self.bytes += said.cost();
        inbox.messages.push_back(said);
    }

    /// What waits is handed over from now on; what comes from now on waits for the next tick.
    fn begin_tick(&mut self) {
        assert!(self.due.is_empty(), "a tick has been handed its messages before the next begins");
        std::mem::swap(&mut self.waiting, &mut self.due);
    }

    /// The next message of the tick that has begun.
    pub(super) fn take_due(&mut self) -> Option<(ConnId, QueuedMessage)> {
        let (&conn, _) = self.due.first_key_value()?;
        self.take_of(conn).map(|said| (conn, said))
    }

    /// The first message of a connection.
    pub(super) fn take_of(&mut self, conn: ConnId) -> Option<QueuedMessage> {
        let inboxes = if self.due.contains_key(&conn) { &mut self.due } else { &mut self.waiting };
        let inbox = inboxes.get_mut(&conn)?;
        let said = inbox.messages.pop_front().expect("an inbox without messages is forgotten");
        inbox.bytes -= said.cost();
        self.bytes -= said.cost();
        if inbox.messages.is_empty() {
            inboxes.remove(&conn);
        }
        Some(said)
    }

    pub(super) fn has_messages_of(&self, conn: ConnId) -> bool {
        self.due.contains_key(&conn) || self.waiting.contains_key(&conn)
    }

    /// Asserts that bytes are counted and bounded. `is_member` tells whether a connection holds a seat.
    pub(super) fn check(&self, max_message_bytes: usize, is_member: impl Fn(ConnId) -> bool) {
        let mut held: BTreeMap<ConnId, usize> = BTreeMap::new();
        for (&conn, inbox) in self.waiting.iter().chain(&self.due) {
            assert!(!inbox.messages.is_empty() && is_member(conn), "an inbox is a member's and not empty: {conn}");
            assert_eq!(
                inbox.bytes,
                inbox.messages.iter().map(QueuedMessage::cost).sum::<usize>(),
                "an inbox counts its bytes"
            );
            *held.entry(conn).or_default() += inbox.bytes;
        }
        assert_eq!(self.bytes, held.values().sum::<usize>(), "all inboxes count their bytes");
        let bound = self.max_bytes.max(max_message_bytes + OVERHEAD);
        assert!(held.values().all(|&bytes| bytes <= bound), "max_inbox_bytes: {held:?}");
    }
}

impl Core {
    /// Takes in a message for the application: charges it, and with ticks on keeps it for the next. Whether it is to be
    /// served now.
    ///
    /// Whoever says more than its inbox holds is refused, and nothing is charged for that: not the sender's rate but the
    /// tick's lets it wait. It is no strike either, or who goes on talking while an operator pauses the clock would be closed.
    pub(super) fn admit_message(
        &mut self,
        key: usize,
        reference: Option<&str>,
        said: impl FnOnce() -> QueuedMessage,
    ) -> bool {
        let before = self.ticks.is_some().then(|| self.message_buckets(key));
        if let Err(denied) = self.charge_message(key) {
            self.rate_limited(key, reference, denied);
            return false;
        }
        let Some(before) = before else { return true };
        let (conn, said) = (self.slots[key].id, said());
        if self.inboxes.has_room(conn, said.cost()) {
            self.inboxes.put(conn, said);
        } else {
            self.restore_message_buckets(key, before);
            self.inbox_full(key, reference);
        }
        false
    }

    fn inbox_full(&mut self, key: usize, reference: Option<&str>) {
        self.counters.count_reject(Reject::RateLimited);
        let ticks = self.ticks.as_mut().expect("without ticks nothing waits");
        ticks.refused += 1;
        let wait = ticks.wait(self.now);
        if self.may_tell_refusal(key, reference) {
            let millis = wait.map_or(PAUSED_RETRY_MS, |wait| (wait.as_micros().div_ceil(1000) as u64).max(1));
            let why = "messages that wait for the next tick exceed max_inbox_bytes";
            protocol::write_rate_limited(&mut self.text, reference, why, millis);
            self.reply(key);
        }
    }

    /// What a connection has said and nobody has heard is told before it is gone, although its seat is free already.
    pub(super) fn note_undelivered(&mut self, member: &Member) {
        if self.inboxes.has_messages_of(member.conn) {
            self.app_events.push_back(AppEvent::Undelivered(member.clone()));
        }
    }

    /// Begins the next tick, if one is due.
    pub(super) fn begin_tick(&mut self) -> bool {
        let begun = self.ticks.as_mut().is_some_and(|ticks| ticks.begin(self.now));
        if begun {
            self.inboxes.begin_tick();
        }
        begun
    }
}
