//! Lobbies that can be joined: those of each pool that are open, oldest first.
//!
//! The index is updated with every change of what [`Directory::is_joinable`] depends on, so it is always exact.

use std::collections::BTreeSet;

use smol_str::SmolStr;

use crate::base::arena::Key;
use crate::base::entry::Role;
use crate::base::id::LobbyKey;
use crate::base::time::Time;
use crate::lobby::directory::Directory;

/// Most lobbies that are looked at for a user that is kept out of them.
const MAX_SEARCHED: usize = 100;

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
}

impl Directory {
    /// Whether a lobby has members, or is about to have one, and takes a further one that knows its password.
    pub(crate) fn is_joinable(&self, key: LobbyKey) -> bool {
        let lobby = &self.lobbies[key];
        let taken = lobby.taken(Role::Play);
        taken > 0
            && !lobby.locked
            && !self.is_counting_down(key)
            && self.seats_limit(Some(key), Role::Play).has_room(taken)
    }

    /// Whether the pool of a lobby lets clients join it.
    fn is_open(&self, lobby: LobbyKey) -> bool {
        self.is_joinable(lobby) && self.control(lobby).is_some_and(|control| control.settings.password.is_none())
    }

    /// Updates the indexes after a change of a lobby.
    #[inline]
    pub(in crate::lobby) fn update_listing(&mut self, lobby: LobbyKey) {
        if self.control.is_some() {
            self.update_indexes(lobby);
        }
    }

    fn update_indexes(&mut self, lobby: LobbyKey) {
        let (is_open, epoch) = (self.is_open(lobby), self.lobbies[lobby].epoch);
        let controls = self.control.as_mut().expect("lobby control is on");
        let pool = controls.lobbies.get(lobby).and_then(|control| control.pool.as_ref());
        controls.listing.set_open(pool, epoch, lobby, is_open);
        self.update_list(lobby);
    }

    /// Returns the oldest open lobby of a pool that the user is not kept out of.
    pub(in crate::lobby) fn open_lobby_of(&self, pool: Pool, user: &str, now: Time) -> Option<LobbyKey> {
        let first = (pool, 0, LobbyKey::new(0));
        let lobbies = self.control.as_ref()?.listing.open.range(&first..).take_while(|(pool, ..)| *pool == first.0);
        let mut lobbies = lobbies.take(MAX_SEARCHED).map(|&(_, _, lobby)| lobby);
        lobbies.find(|&lobby| self.kept_out(lobby, user, now).is_none())
    }

    /// Whether the pool lets this user join a lobby.
    pub(in crate::lobby) fn is_open_for(&self, lobby: LobbyKey, pool: &Pool, user: &str, now: Time) -> bool {
        let is_of_pool = self.control(lobby).is_some_and(|control| control.pool.as_ref() == Some(pool));
        is_of_pool && self.is_open(lobby) && self.kept_out(lobby, user, now).is_none()
    }

    /// Asserts that the indexes contain the lobbies that they should.
    pub(super) fn check_listing(&self) {
        let Some(controls) = &self.control else { return };
        let pooled = self.lobbies.iter().filter_map(|(key, lobby)| {
            let pool = self.control(key)?.pool.clone()?;
            self.is_open(key).then_some((pool, lobby.epoch, key))
        });
        assert_eq!(controls.listing.open, pooled.collect(), "the open lobbies of pools are known");
    }
}
