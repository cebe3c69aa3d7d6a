//! What operators have published to each lobby under an idempotency key, so that a repeated command sends nothing again.
//!
//! A lobby keeps its last keys, and they vanish with it. Knows no payload, only its checksum.

use std::collections::VecDeque;

use crate::base::arena::SideTable;
use crate::base::id::LobbyKey;
use crate::base::snapshot::{SnapshotError, SnapshotReader, SnapshotWriter, ensure_setting};
use crate::config::Config;

/// The first publish under a key: a checksum of its content, and its outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Published {
    pub(crate) content: u64,
    pub(crate) seq: Option<u64>,
    /// Numbers of receivers: queued, dropped, excluded.
    pub(crate) receivers: [u32; 3],
}

/// The keys of a lobby, oldest first.
type Keys = VecDeque<(Box<str>, Published)>;

/// The keys of all lobbies. A lobby without a key has no entry.
#[derive(Debug)]
pub(super) struct PublishedKeys {
    max_keys: usize,
    of_lobbies: SideTable<LobbyKey, Box<Keys>>,
}

impl PublishedKeys {
    pub(super) fn new(config: &Config) -> PublishedKeys {
        PublishedKeys { max_keys: config.max_idempotency_keys as usize, of_lobbies: SideTable::default() }
    }

    pub(super) fn max_keys(&self) -> usize {
        self.max_keys
    }

    pub(super) fn get(&self, lobby: LobbyKey, key: &str) -> Option<&Published> {
        let keys = self.of_lobbies.get(lobby)?;
        keys.iter().find(|(known, _)| **known == *key).map(|(_, published)| published)
    }

    /// Keeps a key that the lobby does not have. The oldest key is forgotten if there are too many.
    pub(super) fn insert(&mut self, lobby: LobbyKey, key: String, published: Published) {
        if self.of_lobbies.get(lobby).is_none() {
            self.of_lobbies.insert(lobby, Box::default());
        }
        let keys = self.of_lobbies.get_mut(lobby).expect("it was just inserted");
        while keys.len() >= self.max_keys {
            keys.pop_front();
        }
        keys.push_back((key.into(), published));
    }

    /// Forgets the keys of all lobbies.
    pub(super) fn clear(&mut self) {
        self.of_lobbies = SideTable::default();
    }

    /// Writes the keys of a lobby to a snapshot.
    pub(super) fn write(&self, lobby: LobbyKey, to: &mut SnapshotWriter) {
        let keys = self.of_lobbies.get(lobby);
        to.len(keys.map_or(0, |keys| keys.len()));
        for (key, published) in keys.into_iter().flat_map(|keys| keys.iter()) {
            let &Published { content, seq, receivers } = published;
            to.text(key);
            to.raw(&content.to_le_bytes());
            to.option(seq);
            receivers.into_iter().for_each(|count| to.number(count.into()));
        }
    }

    /// Reads the keys of a lobby that has none.
    pub(super) fn read(&mut self, lobby: LobbyKey, from: &mut SnapshotReader<'_>) -> Result<(), SnapshotError> {
        let len = from.len()?;
        ensure_setting(len <= self.max_keys, "max_idempotency_keys")?;
        for _ in 0..len {
            let key = from.text()?.to_owned();
            let content = u64::from_le_bytes(from.raw(8)?.try_into().expect("8 bytes"));
            let (seq, receivers) = (from.option()?, [from.u32()?, from.u32()?, from.u32()?]);
            self.insert(lobby, key, Published { content, seq, receivers });
        }
        Ok(())
    }

    /// Forgets the keys of a lobby that is removed.
    pub(super) fn remove(&mut self, lobby: LobbyKey) {
        self.of_lobbies.remove(lobby);
    }

    /// The lobbies that have keys, each with their number.
    pub(super) fn counts(&self) -> impl Iterator<Item = (LobbyKey, usize)> {
        self.of_lobbies.keys().filter_map(|lobby| Some((lobby, self.of_lobbies.get(lobby)?.len())))
    }
}
