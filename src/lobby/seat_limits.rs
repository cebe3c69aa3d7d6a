//! Which limit or lock refuses a seat.

use super::directory::Directory;
use crate::base::close::CloseReason;
use crate::base::entry::Role;
use crate::base::id::{AddressKey, LobbyKey, SeatKey, UserKey};
use crate::config::Limit;

impl Directory {
    /// Checks whether the lobby `code` would take a new user.
    ///
    /// # Errors
    ///
    /// The close reason of the limit or lock that refuses the seat.
    pub(crate) fn admits(&self, code: &str) -> Result<(), CloseReason> {
        self.fits(self.lobby_keys.get(code).copied(), None, None, None, Role::Play)
    }

    /// Checks whether `user`, with a connection from `address`, would get a seat in a lobby. `replaced` is the seat of
    /// the user that it takes over, if that is in this lobby and this role, or that is freed.
    ///
    /// # Errors
    ///
    /// The close reason of the limit or lock that refuses the seat.
    pub(super) fn fits(
        &self,
        lobby: Option<LobbyKey>,
        user: Option<UserKey>,
        address: Option<AddressKey>,
        replaced: Option<SeatKey>,
        role: Role,
    ) -> Result<(), CloseReason> {
        if address.is_some_and(|address| !self.has_address_room(address, replaced)) {
            return Err(CloseReason::IpLimit);
        }
        match replaced {
            Some(seat) if self.is_of(seat, lobby, role) => Ok(()),
            replaced => self.has_room(lobby, user, replaced, role),
        }
    }

    /// Returns whether `address` may have one more seat. The seat `replaced` will get another connection, or will be
    /// freed, and is not counted.
    fn has_address_room(&self, address: AddressKey, replaced: Option<SeatKey>) -> bool {
        // The members of a cluster have no address that all nodes know.
        if address == AddressKey::NONE {
            return true;
        }
        let replaces_own = replaced.is_some_and(|seat| self.seats[seat].address == address);
        self.max_per_ip.has_room(self.seats_of_addresses.count(address) - usize::from(replaces_own))
    }

    /// Checks whether there is room for one more seat. The seat `replaced` will be freed for it and is not counted.
    fn has_room(
        &self,
        lobby: Option<LobbyKey>,
        user: Option<UserKey>,
        replaced: Option<SeatKey>,
        role: Role,
    ) -> Result<(), CloseReason> {
        if !self.max_connections.has_room(self.taken() - usize::from(replaced.is_some())) {
            return Err(CloseReason::ServerFull);
        }
        // A lobby that has started is locked, and can still be watched.
        let is_locked = |lobby| self.lobbies[lobby].locked || self.is_counting_down(lobby);
        if role == Role::Play && lobby.is_some_and(is_locked) {
            return Err(CloseReason::LobbyLocked);
        }
        let own = lobby.zip(user).is_some_and(|(lobby, user)| role == Role::Play && self.keeps_seat_for(lobby, user));
        let taken = lobby.map_or(0, |lobby| self.lobbies[lobby].taken(role)) - usize::from(own);
        if !self.seats_limit(lobby, role).has_room(taken) {
            return Err(CloseReason::LobbyFull);
        }
        if lobby.is_none() {
            let removes_lobby = replaced.is_some_and(|seat| self.lobbies[self.seats[seat].lobby].has_one_member());
            if !self.max_lobbies.has_room(self.used_lobbies() - usize::from(removes_lobby)) {
                return Err(CloseReason::LobbyLimit);
            }
        }
        self.allows_login(user, replaced)
    }

    /// Returns the largest number of members or watchers of a lobby. `None`: a lobby that does not exist.
    pub(super) fn seats_limit(&self, lobby: Option<LobbyKey>, role: Role) -> Limit {
        let settings = lobby.and_then(|lobby| self.control(lobby)).map(|control| &control.settings);
        let (most, own) = match role {
            Role::Play => (self.max_per_lobby, settings.and_then(|settings| settings.max)),
            Role::Watch => (self.max_watchers(), settings.and_then(|settings| settings.watchers)),
        };
        own.map_or(most, |own| most.min(Limit::at_most(own)))
    }

    /// Nobody watches without lobby control.
    pub(super) fn max_watchers(&self) -> Limit {
        Limit::at_most(self.control_bounds().map_or(0, |bounds| bounds.settings.watchers))
    }
}
