//! Which lobbies can be joined. The indexes are updated with every change that the answer depends on, so they are always
//! exact.

use super::listed::{ListedLobbies, ListedLobby};
use super::listing::Pool;
use crate::base::entry::Role;
use crate::base::id::LobbyKey;
use crate::base::time::Time;
use crate::lobby::directory::Directory;

/// Most lobbies that are looked at for a user that is kept out of them.
const MAX_SEARCHED: usize = 100;

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
        let mut lobbies = self.control.as_ref()?.listing.open_lobbies(pool).take(MAX_SEARCHED);
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
        controls.listing.check_open(pooled.collect());
    }

    // ---- the list ----

    /// Returns the list of lobbies; `None` with `lobby_control` off.
    pub(crate) fn listed(&self) -> Option<&ListedLobbies> {
        self.control.as_ref().map(|controls| &controls.listed)
    }

    /// Updates the list after a change of a lobby.
    pub(super) fn update_list(&mut self, lobby: LobbyKey) {
        let (epoch, entry) = (self.lobbies[lobby].epoch, self.list_entry(lobby));
        self.control.as_mut().expect("lobby control is on").listed.set(epoch, entry);
    }

    /// Returns what the list shows of a lobby; `None` if it is not in the list.
    fn list_entry(&self, key: LobbyKey) -> Option<ListedLobby> {
        let (lobby, control) = (&self.lobbies[key], self.control(key)?);
        let settings = &control.settings;
        if !settings.listed || !self.is_joinable(key) {
            return None;
        }
        Some(ListedLobby {
            code: lobby.code.clone(),
            name: settings.name.clone(),
            tags: settings.tags.clone(),
            members: lobby.seats_count(),
            max: self.seats_limit(Some(key), Role::Play).bound(),
            has_password: settings.password.is_some(),
            pool: control.pool.as_ref().map(|pool| pool.name().clone()),
        })
    }

    /// Asserts that the list of lobbies is exact.
    pub(super) fn check_list(&self) {
        let Some(listed) = self.listed() else { return };
        listed.check(self.lobbies.iter().filter_map(|(key, lobby)| Some((lobby.epoch, self.list_entry(key)?))));
    }
}
