//! Connections with unread input, and their due timers, which wait for that input to be read.
//!
//! A timer closes a connection from which no bytes arrived in time. But after a pause of the whole process (a debugger,
//! a suspended machine), or when a turn's read budget ends early, the bytes may already be in the kernel. So the timer
//! of a connection that may have unread input waits until that input has been read, for a bounded number of turns.

use std::collections::BTreeMap;

use crate::base::id::ConnId;
use crate::base::time::Time;

#[derive(Debug, Default)]
pub(crate) struct UnreadInput {
    /// Sorted.
    conns: Vec<ConnId>,
    /// Connections whose due timer waits, with the number of turns that it has waited.
    waiting: BTreeMap<ConnId, u32>,
    /// Time of the last turn in which a timer was made to wait.
    since: Time,
}

impl UnreadInput {
    pub(crate) fn is_empty(&self) -> bool {
        self.conns.is_empty()
    }

    pub(crate) fn set(&mut self, conns: &[ConnId]) {
        self.conns.clear();
        self.conns.extend_from_slice(conns);
        self.conns.sort_unstable();
        self.conns.shrink_to(1024.max(conns.len()));
    }

    pub(crate) fn contains(&self, conn: ConnId) -> bool {
        self.conns.binary_search(&conn).is_ok()
    }

    pub(crate) fn is_waiting(&self, conn: ConnId) -> bool {
        self.waiting.contains_key(&conn)
    }

    /// Time at which the waiting timers are to be checked again: in the next turn. `None` if no timer waits.
    pub(crate) fn next(&self) -> Option<Time> {
        (!self.waiting.is_empty()).then(|| Time::from_micros(self.since.as_micros().saturating_add(1)))
    }

    /// Takes the timers that have waited since an earlier turn, with the number of turns. Called when [`next`](Self::next)
    /// has come.
    pub(crate) fn take_waiting(&mut self) -> BTreeMap<ConnId, u32> {
        std::mem::take(&mut self.waiting)
    }

    /// Makes a due timer wait until the next turn. `turns` counts the turns that it has waited, including this one.
    pub(crate) fn wait(&mut self, now: Time, conn: ConnId, turns: u32) {
        self.since = now;
        self.waiting.insert(conn, turns);
    }
}
