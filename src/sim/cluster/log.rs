//! A model of the log: what Redis and its scripts do for the nodes of a cluster.

use std::collections::{BTreeMap, BTreeSet};

use crate::cluster::log::{EntryBody, Incarnation, LogEntry};

/// Whether a node that attaches gets the state from another one. Otherwise it executes all entries since the log was founded.
pub(super) const HAS_STATES: bool = true;
/// How long a node keeps its place without a sign of life, in microseconds.
pub(super) const LEASE: u64 = 6_000_000;
/// The log's clock at the start of a run, in microseconds since the Unix epoch.
pub(super) const UNIX: u64 = 1_700_000_000_000_000;

#[derive(Debug)]
enum Body {
    Founded,
    Attached(Incarnation, String),
    Ended(Incarnation),
    Operations(Incarnation, Vec<u8>),
}

/// The entries, and the leases of the nodes. Times are microseconds since the start of the run.
#[derive(Debug, Default)]
pub(super) struct Log {
    entries: Vec<(u64, Body)>,
    /// When the lease of each node expires.
    leases: BTreeMap<Incarnation, u64>,
    last: u64,
    /// Index of the last entry that founded the log.
    founded: u64,
    names: BTreeMap<Incarnation, String>,
    /// Nodes that have a state.
    with_state: BTreeSet<Incarnation>,
    /// States that nodes have provided for others.
    states: BTreeMap<Incarnation, (u64, Vec<u8>)>,
}

impl Log {
    /// Index of the last entry.
    pub(super) fn last_index(&self) -> u64 {
        self.entries.len() as u64
    }

    pub(super) fn founded(&self) -> u64 {
        self.founded
    }

    /// When the log was founded last.
    pub(super) fn founded_at(&self) -> u64 {
        self.founded.checked_sub(1).map_or(0, |at| self.entries[at as usize].0)
    }

    /// Gives a node a place. Returns whether the log begins anew: no other node has a state. Nodes that wait for one do not count:
    /// otherwise two of them would wait for each other. They end, since nobody will provide them with a state.
    pub(super) fn attach(&mut self, now: u64, name: &str) -> (Incarnation, bool) {
        self.expire(now);
        let is_same = |node: &Incarnation| self.names.get(node).is_some_and(|known| known == name);
        let is_first = !self.leases.keys().any(|node| !is_same(node) && self.with_state.contains(node));
        let ending: Vec<Incarnation> = self.leases.keys().copied().filter(|node| is_first || is_same(node)).collect();
        ending.into_iter().for_each(|node| self.end(now, node));
        if is_first {
            self.entries.push((now, Body::Founded));
            self.founded = self.last_index();
        }
        self.last += 1;
        let node = Incarnation(self.last);
        self.entries.push((now, Body::Attached(node, name.to_owned())));
        self.leases.insert(node, now + LEASE);
        self.names.insert(node, name.to_owned());
        (node, is_first)
    }

    /// Ends the nodes whose leases have expired.
    fn expire(&mut self, now: u64) {
        let expired: Vec<Incarnation> =
            self.leases.iter().filter(|&(_, &until)| until <= now).map(|(&node, _)| node).collect();
        expired.into_iter().for_each(|node| self.end(now, node));
    }

    fn end(&mut self, now: u64, node: Incarnation) {
        self.leases.remove(&node);
        self.entries.push((now, Body::Ended(node)));
    }

    /// A sign of life of a node. Returns false if it has no place any more.
    pub(super) fn renew(&mut self, now: u64, node: Incarnation) -> bool {
        self.expire(now);
        match self.leases.get_mut(&node) {
            Some(until) => *until = now + LEASE,
            None => return false,
        }
        true
    }

    /// Appends operations. Returns false if the node has no place any more.
    pub(super) fn append(&mut self, now: u64, node: Incarnation, bytes: Vec<u8>) -> bool {
        let has_place = self.renew(now, node);
        if has_place {
            self.entries.push((now, Body::Operations(node, bytes)));
        }
        has_place
    }

    /// A node has a state, and executes entries from now on.
    pub(super) fn note_state(&mut self, node: Incarnation) {
        self.with_state.insert(node);
    }

    pub(super) fn has_place(&self, node: Incarnation) -> bool {
        self.leases.contains_key(&node)
    }

    pub(super) fn put_state(&mut self, node: Incarnation, index: u64, bytes: Vec<u8>) {
        self.states.insert(node, (index, bytes));
    }

    pub(super) fn take_state(&mut self, node: Incarnation) -> Option<(u64, Vec<u8>)> {
        self.states.remove(&node)
    }

    /// Returns the entry with this index.
    pub(super) fn entry(&self, index: u64) -> Option<LogEntry<'_>> {
        let (at, body) = self.entries.get(usize::try_from(index.checked_sub(1)?).ok()?)?;
        let body = match body {
            Body::Founded => EntryBody::Founded,
            Body::Attached(node, name) => EntryBody::Attached { node: *node, name },
            Body::Ended(node) => EntryBody::Ended { node: *node },
            Body::Operations(node, bytes) => EntryBody::Operations { node: *node, bytes },
        };
        Some(LogEntry { index, unix_micros: UNIX + at, body })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_that_waits_for_a_state_ends_when_the_log_begins_anew() {
        let mut log = Log::default();
        let (first, is_first) = log.attach(0, "first");
        assert!(is_first);
        log.note_state(first);
        let (waiting, is_first) = log.attach(1, "waiting");
        assert!(!is_first);
        // The only node with a state ends, before the other one has got it.
        let (third, is_first) = log.attach(LEASE + 1, "first");
        assert!(is_first && log.has_place(third));
        assert!(!log.has_place(waiting) && !log.renew(LEASE + 1, waiting));
    }
}
