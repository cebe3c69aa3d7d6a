//! The last entries that a node has applied. They give back what Redis has lost in a failover.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;

use super::entry;
use super::log::EntryBody;
use super::scripts::Hash;

/// The last entries, with the nodes that were attached before them.
pub(crate) struct KeptLog {
    max_entries: usize,
    max_bytes: usize,
    /// Index and hash of the entry before the first kept one.
    base: (u64, Hash),
    /// The nodes that are attached after the entry `base`.
    nodes: BTreeMap<u64, KeptNode>,
    entries: VecDeque<(Hash, Bytes)>,
    bytes: usize,
}

/// What the scripts store of a node, apart from its lease.
pub(crate) struct KeptNode {
    pub(crate) batch: u64,
    pub(crate) name: String,
}

impl KeptLog {
    pub(crate) fn new(
        max_entries: usize,
        max_bytes: usize,
        base: (u64, Hash),
        nodes: BTreeMap<u64, KeptNode>,
    ) -> KeptLog {
        KeptLog { max_entries, max_bytes, base, nodes, entries: VecDeque::new(), bytes: 0 }
    }

    /// Returns index and hash of the last entry.
    pub(crate) fn last(&self) -> (u64, Hash) {
        let hash = self.entries.back().map_or(self.base.1, |(hash, _)| *hash);
        (self.base.0 + self.entries.len() as u64, hash)
    }

    /// Returns index and hash of the entry before the first kept one.
    pub(crate) fn base(&self) -> (u64, Hash) {
        self.base
    }

    /// Returns the nodes that are attached after the entry [`base`](KeptLog::base).
    pub(crate) fn nodes(&self) -> impl ExactSizeIterator<Item = (u64, &KeptNode)> {
        self.nodes.iter().map(|(incarnation, node)| (*incarnation, node))
    }

    /// Appends an entry that was parsed before. Beyond the bounds, the first entries are forgotten: an older copy of the log than the
    /// kept ones cannot be continued any more.
    pub(crate) fn push(&mut self, hash: Hash, text: Bytes) {
        self.bytes += text.len();
        self.entries.push_back((hash, text));
        while self.entries.len() > self.max_entries || self.bytes > self.max_bytes && self.entries.len() > 1 {
            let (hash, text) = self.entries.pop_front().expect("there are entries");
            self.bytes -= text.len();
            self.base = (self.base.0 + 1, hash);
            self.fold(&text);
        }
    }

    /// Changes the table of nodes as the scripts do it for an entry.
    fn fold(&mut self, text: &[u8]) {
        let (entry, batch) = entry::parse(self.base.0, text).expect("entries are parsed before they are kept");
        match entry.body {
            EntryBody::Founded => self.nodes.clear(),
            EntryBody::Attached { node, name } => {
                self.nodes.insert(node.0, KeptNode { batch: 0, name: name.to_owned() });
            }
            EntryBody::Ended { node } => {
                self.nodes.remove(&node.0);
            }
            EntryBody::Operations { node, .. } => {
                if let Some(node) = self.nodes.get_mut(&node.0) {
                    node.batch = batch;
                }
            }
        }
    }

    /// Whether the entry `index` is known and has this hash.
    pub(crate) fn has(&self, index: u64, hash: Hash) -> bool {
        self.hash_of(index) == Some(hash)
    }

    /// Returns the hash of the entry `index`, if it is known.
    pub(crate) fn hash_of(&self, index: u64) -> Option<Hash> {
        match index.checked_sub(self.base.0)? {
            0 => Some(self.base.1),
            at => self.entries.get(at as usize - 1).map(|(hash, _)| *hash),
        }
    }

    /// Returns the entries after `index`, at least one if there is any, and no further one once `max_bytes` are reached.
    pub(crate) fn after(&self, index: u64, max_bytes: usize) -> Vec<Bytes> {
        let first = index.saturating_sub(self.base.0) as usize;
        let mut bytes = 0;
        let fits = |(_, text): &&(Hash, Bytes)| {
            let fits = bytes < max_bytes;
            bytes += text.len();
            fits
        };
        self.entries.iter().skip(first).take_while(fits).map(|(_, text)| text.clone()).collect()
    }
}
