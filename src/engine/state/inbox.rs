//! Members' messages that wait for the next tick.
//!
//! They are delivered by connection id, and in the order of arrival for each connection: the order in which the kernel
//! reports sockets has no influence. A connection without messages has no inbox. Does not know when ticks are due: see
//! [`ticks`](super::ticks).
//!
//! ```text
//! put() --> waiting --begin_tick()--> due --take_due()--> the application
//!              +------take_of(), the connection closes------^
//! ```

use std::collections::{BTreeMap, VecDeque};

use crate::base::id::ConnId;
use crate::config::Config;

/// Cost of a message beside its bytes: its entry in the queue and the allocator's overhead.
const OVERHEAD: usize = 64;

/// A member's message, copied from the receive buffer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum QueuedMessage {
    Text(Box<str>),
    /// A request of lobby control.
    Control(Box<str>),
    Binary(Box<[u8]>),
}

impl QueuedMessage {
    pub(crate) fn cost(&self) -> usize {
        OVERHEAD
            + match self {
                QueuedMessage::Text(text) | QueuedMessage::Control(text) => text.len(),
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
pub(crate) struct Inboxes {
    max_bytes: usize,
    /// Messages for the next tick.
    waiting: BTreeMap<ConnId, Inbox>,
    /// Messages for the tick that has begun.
    due: BTreeMap<ConnId, Inbox>,
    bytes: usize,
}

impl Inboxes {
    pub(crate) fn new(config: &Config) -> Inboxes {
        Inboxes { max_bytes: config.max_inbox_bytes.0, waiting: BTreeMap::new(), due: BTreeMap::new(), bytes: 0 }
    }

    /// Cost of all messages in all inboxes.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether a message fits. An empty inbox has room for any message, so that the longest allowed one can be sent.
    pub(crate) fn has_room(&self, conn: ConnId, cost: usize) -> bool {
        let bytes_in = |inboxes: &BTreeMap<ConnId, Inbox>| inboxes.get(&conn).map_or(0, |inbox| inbox.bytes);
        let queued = bytes_in(&self.waiting) + bytes_in(&self.due);
        queued == 0 || queued + cost <= self.max_bytes
    }

    pub(crate) fn put(&mut self, conn: ConnId, message: QueuedMessage) {
        let inbox = self.waiting.entry(conn).or_default();
        inbox.bytes += message.cost();
        self.bytes += message.cost();
        inbox.messages.push_back(message);
    }

    /// Makes the waiting messages due. Messages that arrive from now on wait for the next tick.
    pub(crate) fn begin_tick(&mut self) {
        assert!(self.due.is_empty(), "all due messages are delivered before the next tick begins");
        std::mem::swap(&mut self.waiting, &mut self.due);
    }

    /// Takes the next message of the tick that has begun.
    pub(crate) fn take_due(&mut self) -> Option<(ConnId, QueuedMessage)> {
        let (&conn, _) = self.due.first_key_value()?;
        self.take_of(conn).map(|message| (conn, message))
    }

    /// Takes the first message of a connection.
    pub(crate) fn take_of(&mut self, conn: ConnId) -> Option<QueuedMessage> {
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

    pub(crate) fn has_messages_of(&self, conn: ConnId) -> bool {
        self.due.contains_key(&conn) || self.waiting.contains_key(&conn)
    }

    /// Asserts that bytes are counted and bounded. `is_member` returns whether a connection has a seat.
    pub(crate) fn check(&self, max_message_bytes: usize, is_member: impl Fn(ConnId) -> bool) {
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
