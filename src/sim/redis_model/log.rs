//! What the scripts store for one cluster. See `cluster/scripts/prelude.lua`.

use std::collections::{BTreeMap, VecDeque};

use crate::cluster::scripts::Hash;

#[derive(Clone)]
pub(super) struct Log {
    pub(super) index: u64,
    pub(super) hash: Hash,
    pub(super) fingerprint: Option<Vec<u8>>,
    pub(super) run: Option<Vec<u8>>,
    pub(super) frozen: u64,
    pub(super) guarded: u64,
    pub(super) seen: u64,
    pub(super) nodes: BTreeMap<u64, StoredNode>,
    /// The last entries, the last one with `index`.
    pub(super) items: VecDeque<(Hash, Vec<u8>)>,
    /// By the whole key.
    pub(super) states: BTreeMap<Vec<u8>, StoredState>,
}

#[derive(Clone)]
pub(super) struct StoredNode {
    pub(super) lease: u64,
    pub(super) batch: u64,
    /// Has the state of the cluster.
    pub(super) is_ready: bool,
    pub(super) name: Vec<u8>,
}

#[derive(Clone)]
pub(super) struct StoredState {
    pub(super) from: Vec<u8>,
    pub(super) index: Vec<u8>,
    pub(super) parts: Vec<u8>,
    pub(super) fields: BTreeMap<Vec<u8>, Vec<u8>>,
    /// By the clock of Redis, not by the time that a call passes.
    pub(super) expires: u64,
}

impl Default for Log {
    fn default() -> Log {
        Log {
            index: 0,
            hash: Hash::BLANK,
            fingerprint: None,
            run: None,
            frozen: 0,
            guarded: 0,
            seen: 0,
            nodes: BTreeMap::new(),
            items: VecDeque::new(),
            states: BTreeMap::new(),
        }
    }
}

impl Log {
    /// Returns the item with this index, if the stream still has it.
    pub(super) fn item(&self, index: u64) -> Option<&(Hash, Vec<u8>)> {
        let first = self.index + 1 - self.items.len() as u64;
        self.items.get(usize::try_from(index.checked_sub(first)?).ok()?)
    }
}
