//! The attachment of a node to the cluster: how far it has got in the log, and what it has still to send.

use std::collections::VecDeque;

use crate::base::time::Time;
use crate::cluster::kept_log::KeptLog;
use crate::cluster::link::config::CALL_BYTES;
use crate::cluster::log::Incarnation;

/// An attached node.
pub(super) struct Attachment {
    pub(super) node: Incarnation,
    /// The entries that this node has applied. The last one is what the node knows.
    pub(super) kept: KeptLog,
    pub(super) fetch: Option<Fetch>,
    /// The engine gets entries after this index only: the state that it has loaded contains the others.
    pub(super) deliver_after: u64,
    pub(super) batches: Batches,
}

impl Attachment {
    /// Whether the engine knows that the node is attached.
    pub(super) fn is_live(&self) -> bool {
        self.fetch.is_none()
    }
}

/// The state of another node, as far as it has arrived.
pub(super) struct Fetch {
    /// Provider and index of the state, once a part has arrived.
    pub(super) from: Option<(u64, u64)>,
    pub(super) part: usize,
    pub(super) bytes: Vec<u8>,
    pub(super) poll_at: Time,
    pub(super) deadline: Time,
}

/// Batches of operations whose entries are not applied yet.
#[derive(Default)]
pub(super) struct Batches {
    /// Number of the last batch that was applied.
    applied: u64,
    waiting: VecDeque<Vec<u8>>,
    bytes: usize,
    /// How many of `waiting`, from the front, were sent on this connection.
    sent: usize,
}

impl Batches {
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn push(&mut self, bytes: Vec<u8>) {
        self.bytes += bytes.len() + BATCH_OVERHEAD;
        self.waiting.push_back(bytes);
    }

    /// Returns the next batch to send, with its number.
    pub(super) fn unsent(&self) -> Option<(u64, &[u8])> {
        self.waiting.get(self.sent).map(|bytes| (self.applied + 1 + self.sent as u64, &bytes[..]))
    }

    pub(super) fn mark_sent(&mut self) {
        self.sent += 1;
    }

    /// Sends all batches again that are not applied.
    pub(super) fn send_again(&mut self) {
        self.sent = 0;
    }

    pub(super) fn is_waiting(&self, batch: u64) -> bool {
        batch > self.applied && batch <= self.applied + self.waiting.len() as u64
    }

    /// The entry of a batch was applied. Batches are applied in order, each once; another number is a fault of Redis.
    pub(super) fn apply(&mut self, batch: u64) -> bool {
        if batch != self.applied + 1 || self.waiting.is_empty() {
            return false;
        }
        let bytes = self.waiting.pop_front().expect("a batch waits");
        self.bytes -= bytes.len() + BATCH_OVERHEAD;
        self.applied += 1;
        self.sent = self.sent.saturating_sub(1);
        true
    }
}

/// What a batch counts besides its bytes.
const BATCH_OVERHEAD: usize = 64;

/// A state for a node that is attaching.
pub(super) struct StateTransfer {
    pub(super) node: Incarnation,
    pub(super) index: u64,
    pub(super) bytes: Vec<u8>,
    /// The next part to send.
    pub(super) part: usize,
}

impl StateTransfer {
    /// An empty state has one part, too.
    pub(super) fn parts(&self) -> usize {
        self.bytes.len().div_ceil(CALL_BYTES).max(1)
    }

    pub(super) fn part_bytes(&self) -> &[u8] {
        let first = self.part * CALL_BYTES;
        &self.bytes[first..self.bytes.len().min(first + CALL_BYTES)]
    }
}
