//! Indexes of lobbies that can be joined: those of each pool that are open, oldest first.
//!
//! [`joinable`](super::joinable) has the rules and keeps the indexes exact.

use std::collections::BTreeSet;

use smol_str::SmolStr;

use crate::base::arena::Key;
use crate::base::id::LobbyKey;

/// A pool of lobbies that clients join without a code.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Pool {
    name: SmolStr,
    /// Most members of each lobby, when it is created; 0 is `max_per_lobby`.
    seats: u32,
}

impl Pool {
    pub(crate) fn new(name: &str, seats: Option<u32>) -> Pool {
        Pool { name: name.into(), seats: seats.unwrap_or(0) }
    }

    pub(super) fn name(&self) -> &SmolStr {
        &self.name
    }

    /// Returns the number of members with which its lobbies are created.
    pub(super) fn seats(&self) -> Option<u32> {
        Some(self.seats).filter(|&seats| seats > 0)
    }
}

/// Indexes of lobbies that can be joined.
#[derive(Debug, Default)]
pub(super) struct Listing {
    /// Open lobbies of pools. Epochs increase, so the oldest lobby of a pool comes first.
    open: BTreeSet<(Pool, u64, LobbyKey)>,
}

impl Listing {
    /// Adds a lobby to the open ones of its pool, or removes it.
    pub(super) fn set_open(&mut self, pool: Option<&Pool>, epoch: u64, lobby: LobbyKey, is_open: bool) {
        let Some(pool) = pool else { return };
        let entry = (pool.clone(), epoch, lobby);
        if is_open {
            self.open.insert(entry);
        } else {
            self.open.remove(&entry);
        }
    }
    /// The open lobbies of a pool, oldest first.
    pub(super) fn open_lobbies(&self, pool: Pool) -> impl Iterator<Item = LobbyKey> {
        let first = (pool, 0, LobbyKey::new(0));
        let name = first.0.clone();
        self.open.range(first..).take_while(move |(pool, ..)| *pool == name).map(|&(_, _, lobby)| lobby)
    }

    /// Asserts that these are the open lobbies of pools.
    pub(super) fn check_open(&self, open: BTreeSet<(Pool, u64, LobbyKey)>) {
        assert_eq!(self.open, open, "the open lobbies of pools are known");
    }
}
