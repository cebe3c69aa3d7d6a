//! State of a drain.
//!
//! ```text
//! serving --begin--> draining: no new seats; members are closed in batches; queues are flushed
//!                       |--all connections are freed------------------> drained
//!                       +--the deadline, or a second request: cut off--> drained
//! ```

use std::fmt;
use std::time::Duration;

use crate::base::id::ConnId;
use crate::base::time::Time;

/// Totals of a drain, since it began.
///
/// [`Stats`](super::stats::Stats) has an example.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct DrainTotals {
    /// Connections that are freed and were not cut off: closed by the server or the peer, or broken by an error.
    pub closed: u64,
    /// Bytes written, since the drain began, to the connections that it waits for.
    pub flushed_bytes: u64,
    /// Queued bytes that were dropped, because their connection was cut off, broken or too slow.
    pub dropped_bytes: u64,
    /// Connections that were cut off, because the deadline passed or because of a second request to stop.
    pub forced: u64,
    /// Time since the drain began, or from its beginning to its end.
    pub elapsed: Duration,
}

/// Shows the counts.
impl fmt::Display for DrainTotals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let DrainTotals { closed, flushed_bytes, dropped_bytes, forced, .. } = self;
        write!(f, "closed={closed} flushed_bytes={flushed_bytes} dropped_bytes={dropped_bytes} forced={forced}")
    }
}

/// State of a drain.
pub(crate) struct Drain {
    began: Time,
    /// Time at which the last connection was freed.
    ended: Option<Time>,
    pub(crate) deadline: Time,
    /// Generation of the newest connection that the drain waits for. Later connections are refused with HTTP 503.
    newest: u64,
    /// Number of connections when the drain began.
    pub(crate) initial: usize,
    /// Number of those that are not freed yet.
    left: usize,
    flushed_bytes: u64,
    dropped_bytes: u64,
    forced: u64,
    /// Whether the server was asked to stop at once.
    pub(crate) is_cut_off: bool,
}

impl Drain {
    /// Begins to wait for all connections. `newest` is the generation of the last one.
    pub(crate) fn new(began: Time, within: Duration, newest: u64, initial: usize) -> Drain {
        Drain {
            began,
            ended: (initial == 0).then_some(began),
            deadline: began + within,
            newest,
            initial,
            left: initial,
            flushed_bytes: 0,
            dropped_bytes: 0,
            forced: 0,
            is_cut_off: false,
        }
    }

    /// Whether the drain waits for a connection, and not only refuses it.
    pub(crate) fn waits_for(&self, id: ConnId) -> bool {
        id.generation() <= self.newest
    }

    pub(crate) fn is_over(&self) -> bool {
        self.left == 0
    }

    pub(crate) fn note_forced(&mut self, conns: &[ConnId]) {
        self.forced += conns.iter().filter(|&&conn| self.waits_for(conn)).count() as u64;
    }

    pub(crate) fn note_flushed(&mut self, conn: ConnId, bytes: usize) {
        if self.waits_for(conn) {
            self.flushed_bytes += bytes as u64;
        }
    }

    pub(crate) fn note_dropped(&mut self, conn: ConnId, bytes: usize) {
        if self.waits_for(conn) {
            self.dropped_bytes += bytes as u64;
        }
    }

    /// Counts a connection whose slot was freed. Returns whether the drain is over now.
    pub(crate) fn note_freed(&mut self, now: Time, conn: ConnId) -> bool {
        if !self.waits_for(conn) {
            return false;
        }
        self.left -= 1;
        self.ended = self.is_over().then_some(now);
        self.is_over()
    }

    pub(crate) fn totals(&self, now: Time) -> DrainTotals {
        let freed = (self.initial - self.left) as u64;
        DrainTotals {
            closed: freed.saturating_sub(self.forced),
            flushed_bytes: self.flushed_bytes,
            dropped_bytes: self.dropped_bytes,
            forced: self.forced,
            elapsed: self.ended.unwrap_or(now) - self.began,
        }
    }
}
