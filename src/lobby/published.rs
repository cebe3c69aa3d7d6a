//! What operators have published to each lobby under an idempotency key, so that a repeated command sends nothing again.
//!
//! A lobby keeps its last keys, and they vanish with it. Knows no payload, only its checksum.

use std::collections::VecDeque;

use crate::base::arena::SideTable;
use crate::base::id::LobbyKey;
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

    /// Forgets the keys of a lobby that is removed.
    pub(super) fn remove(&mut self, lobby: LobbyKey) {
        self.of_lobbies.remove(lobby);
    }

    /// The lobbies that have keys, each with their number.
    pub(super) fn counts(&self) -> impl Iterator<Item = (LobbyKey, usize)> {
        self.of_lobbies.keys().filter_map(|lobby| Some((lobby, self.of_lobbies.get(lobby)?.len())))
    }
}
