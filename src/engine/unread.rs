//! Connections that may have received bytes which the driver has not read yet, and their timers that are due.
//!
//! A timer ends a connection because nothing was heard from it. After a pause of the whole process (a debugger, a
//! suspended machine), or when a turn's budget ends early, the answer may already lie in the kernel. So the timer of a
//! connection with unread input waits until that input has been read, for a bounded number of turns.

use std::collections::BTreeMap;

use crate::id::ConnId;
use crate::time::Time;

#[derive(Debug, Default)]
pub(super) struct Unread {
    /// Sorted.
    conns: Vec<ConnId>,
    /// Connections whose timer is due and waits, with the number of turns for which it has.
    waiting: BTreeMap<ConnId, u32>,
    /// The time of the turn in which the last timer was made to wait.
    since: Time,
}

impl Unread {
    pub(super) fn is_empty(&self) -> bool {
        self.conns.is_empty()
    }

    pub(super) fn set(&mut self, conns: &[ConnId]) {
        self.conns.clear();
        self.conns.extend_from_slice(conns);
        self.conns.sort_unstable();
        self.conns.shrink_to(1024.max(conns.len()));
    }

    pub(super) fn contains(&self, conn: ConnId) -> bool {
        self.conns.binary_search(&conn).is_ok()
    }

    pub(super) fn is_waiting(&self, conn: ConnId) -> bool {
        self.waiting.contains_key(&conn)
    }

    /// When the timers that wait are to be looked at again: in the next turn.
    pub(super) fn next(&self) -> Option<Time> {
        (!self.waiting.is_empty()).then(|| Time::from_micros(self.since.as_micros().saturating_add(1)))
    }

    /// The timers that have waited since an earlier turn, with the number of turns.
    pub(super) fn take_waiting(&mut self, now: Time) -> BTreeMap<ConnId, u32> {
        if now > self.since { std::mem::take(&mut self.waiting) } else { BTreeMap::new() }
    }

    /// Lets a timer that is due wait for one more turn.
    pub(super) fn wait(&mut self, now: Time, conn: ConnId, turns: u32) {
        self.since = now;
        self.waiting.insert(conn, turns);
    }
}
