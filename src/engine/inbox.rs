//! Members' messages that wait for the next tick.
//!
//! They are delivered by connection id, and in the order of arrival for each connection: the order in which the kernel
//! reports sockets has no influence. A connection without messages has no inbox. Does not know when ticks are due: see
//! [`tick`](super::tick).
//!
//! ```text
//! put() --> waiting --begin_tick()--> due --take_due()--> the application
//!              +------take_of(), the connection closes------^
//! ```

use std::collections::{BTreeMap, VecDeque};

use super::core::{AppEvent, Core};
use super::member::Member;
use crate::base::close::Reject;
use crate::base::id::ConnId;
use crate::config::Config;
use crate::protocol;

/// Cost of a message beside its bytes: its entry in the queue and the allocator's overhead.
const OVERHEAD: usize = 64;
/// The `retry_after_ms` of a refusal while the clock is paused, when the time of the next tick is unknown.
const PAUSED_RETRY_MS: u64 = 1000;

/// A member's message, copied from the receive buffer.
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

/// The messages of one connection.
#[derive(Debug, Default)]
struct Inbox {
    messages: VecDeque<QueuedMessage>,
    bytes: usize,
}

#[derive(Debug)]
pub(super) struct Inboxes {
    max_bytes: usize,
    /// Messages for the next tick.
    waiting: BTreeMap<ConnId, Inbox>,
    /// Messages for the tick that has begun.
    due: BTreeMap<ConnId, Inbox>,
    bytes: usize,
}

impl Inboxes {
    pub(super) fn new(config: &Config) -> Inboxes {
        Inboxes { max_bytes: config.max_inbox_bytes.0, waiting: BTreeMap::new(), due: BTreeMap::new(), bytes: 0 }
    }

    /// Cost of all messages in all inboxes.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether a message fits. An empty inbox has room for any message, so that the longest allowed one can be sent.
    fn has_room(&self, conn: ConnId, cost: usize) -> bool {
        let bytes_in = |inboxes: &BTreeMap<ConnId, Inbox>| inboxes.get(&conn).map_or(0, |inbox| inbox.bytes);
        let queued = bytes_in(&self.waiting) + bytes_in(&self.due);
        queued == 0 || queued + cost <= self.max_bytes
    }

    fn put(&mut self, conn: ConnId, message: QueuedMessage) {
        let inbox = self.waiting.entry(conn).or_default();
        inbox.bytes += message.cost();
        self.bytes += message.cost();
        inbox.messages.push_back(message);
    }

    /// Makes the waiting messages due. Messages that arrive from now on wait for the next tick.
    fn begin_tick(&mut self) {
        assert!(self.due.is_empty(), "all due messages are delivered before the next tick begins");
        std::mem::swap(&mut self.waiting, &mut self.due);
    }

    /// Takes the next message of the tick that has begun.
    pub(super) fn take_due(&mut self) -> Option<(ConnId, QueuedMessage)> {
        let (&conn, _) = self.due.first_key_value()?;
        self.take_of(conn).map(|message| (conn, message))
    }

    /// Takes the first message of a connection.
    pub(super) fn take_of(&mut self, conn: ConnId) -> Option<QueuedMessage> {
        let inboxes = if self.due.contains_key(&conn) { &mut self.due } else { &mut self.waiting };
        let inbox = inboxes.get_mut(&conn)?;
        let message = inbox.messages.pop_front().expect("an empty inbox is removed");
        inbox.bytes -= message.cost();
        self.bytes -= message.cost();
        if inbox.messages.is_empty() {
            inboxes.remove(&conn);
        }
        Some(message)
    }

    pub(super) fn has_messages_of(&self, conn: ConnId) -> bool {
        self.due.contains_key(&conn) || self.waiting.contains_key(&conn)
    }

    /// Asserts that bytes are counted and bounded. `is_member` returns whether a connection has a seat.
    pub(super) fn check(&self, max_message_bytes: usize, is_member: impl Fn(ConnId) -> bool) {
        let mut bytes_of: BTreeMap<ConnId, usize> = BTreeMap::new();
        for (&conn, inbox) in self.waiting.iter().chain(&self.due) {
            assert!(
                !inbox.messages.is_empty() && is_member(conn),
                "an inbox belongs to a member and is not empty: {conn}"
            );
            assert_eq!(
                inbox.bytes,
                inbox.messages.iter().map(QueuedMessage::cost).sum::<usize>(),
                "an inbox counts its bytes"
            );
            *bytes_of.entry(conn).or_default() += inbox.bytes;
        }
        assert_eq!(self.bytes, bytes_of.values().sum::<usize>(), "the total is the sum over all inboxes");
        let bound = self.max_bytes.max(max_message_bytes + OVERHEAD);
        assert!(bytes_of.values().all(|&bytes| bytes <= bound), "max_inbox_bytes: {bytes_of:?}");
    }
}

impl Core {
    /// Charges a message for the application and, with ticks on, puts it into the connection's inbox. Returns whether
    /// the message is to be delivered now.
    ///
    /// A message that does not fit into the inbox is refused. It takes no tokens and counts as no strike, because the
    /// reason is the tick, not the sender's rate. Otherwise a member that continues to send while an operator pauses
    /// the clock would be closed.
    pub(super) fn admit_message(
        &mut self,
        key: usize,
        reference: Option<&str>,
        to_queued: impl FnOnce() -> QueuedMessage,
    ) -> bool {
        let before = self.ticks.is_some().then(|| self.message_buckets(key));
        if let Err(denied) = self.charge_message(key) {
            self.rate_limited(key, reference, denied);
            return false;
        }
        let Some(before) = before else { return true };
        let (conn, message) = (self.slots[key].id, to_queued());
        if self.inboxes.has_room(conn, message.cost()) {
            self.inboxes.put(conn, message);
        } else {
            self.restore_message_buckets(key, before);
            self.inbox_full(key, reference);
        }
        false
    }

    /// Refuses a message that does not fit into the inbox, with the time until the next tick as `retry_after_ms`.
    fn inbox_full(&mut self, key: usize, reference: Option<&str>) {
        self.counters.count_reject(Reject::RateLimited);
        let ticks = self.ticks.as_mut().expect("messages wait only with ticks on");
        ticks.refused += 1;
        let wait = ticks.wait(self.now);
        if self.should_report_refusal(key, reference) {
            let millis = wait.map_or(PAUSED_RETRY_MS, |wait| (wait.as_micros().div_ceil(1000) as u64).max(1));
            let why = "messages that wait for the next tick exceed max_inbox_bytes";
            protocol::write_rate_limited(&mut self.text, reference, why, millis);
            self.reply(key);
        }
    }

    /// Queues the event that delivers the messages in a member's inbox. Its seat is free or taken over already; the
    /// event precedes the member's leave, if there is one.
    pub(super) fn note_undelivered(&mut self, member: &Member) {
        if self.inboxes.has_messages_of(member.conn) {
            self.app_events.push_back(AppEvent::Undelivered(member.clone()));
        }
    }

    /// Begins the next tick, if one is due. Returns whether one has begun.
    pub(super) fn begin_tick(&mut self) -> bool {
        let begun = self.ticks.as_mut().is_some_and(|ticks| ticks.begin(self.now));
        if begun {
            self.inboxes.begin_tick();
        }
        begun
    }
}
