//! What the nodes have executed, by index and hash of the entries.

use std::collections::BTreeMap;

#[derive(Debug, Default)]
pub(super) struct History {
    /// By index and hash of an entry: the first node that has executed it, and its state then.
    pub(super) states: BTreeMap<(u64, [u8; 16]), (usize, String)>,
    /// Hashes of the last entries that were executed. Another one under the same index is a fork.
    pub(super) tips: BTreeMap<u64, [u8; 16]>,
    pub(super) founded_at: u64,
    pub(super) forked_at: u64,
}

impl History {
    /// When sessions were last lost with their log.
    pub(super) fn lost_at(&self) -> u64 {
        self.founded_at.max(self.forked_at)
    }
}
