//! Which limit or lock refuses a seat.

use super::directory::Directory;
use crate::base::close::CloseReason;
use crate::base::id::{AddressKey, LobbyKey, SeatKey, UserKey};

impl Directory {
    /// Checks whether the lobby `code` would take a new user.
    ///
    /// # Errors
    ///
    /// The close reason of the limit or lock that refuses the seat.
    pub(crate) fn admits(&self, code: &str) -> Result<(), CloseReason> {
        self.fits(self.lobby_keys.get(code).copied(), None, None, None)
    }

    /// Checks whether `user`, with a connection from `address`, would get a seat in a lobby. `replaced` is the seat of
    /// the user that it takes over, if that is in this lobby, or that is freed.
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
    ) -> Result<(), CloseReason> {
        if address.is_some_and(|address| !self.has_address_room(address, replaced)) {
            return Err(CloseReason::IpLimit);
        }
        match replaced {
            Some(seat) if Some(self.seats[seat].lobby) == lobby => Ok(()),
            replaced => self.has_room(lobby, user, replaced),
        }
    }

    /// Returns whether `address` may have one more seat. The seat `replaced` will get another connection, or will be
    /// freed, and is not counted.
    fn has_address_room(&self, address: AddressKey, replaced: Option<SeatKey>) -> bool {
        let replaces_own = replaced.is_some_and(|seat| self.seats[seat].address == address);
        self.max_per_ip.has_room(self.seats_of_addresses.count(address) - usize::from(replaces_own))
    }

    /// Checks whether there is room for one more seat. The seat `replaced` will be freed for it and is not counted.
    fn has_room(
        &self,
        lobby: Option<LobbyKey>,
        user: Option<UserKey>,
        replaced: Option<SeatKey>,
    ) -> Result<(), CloseReason> {
        if !self.max_connections.has_room(self.taken() - usize::from(replaced.is_some())) {
            return Err(CloseReason::ServerFull);
        }
        match lobby {
            Some(lobby) => {
                if self.lobbies[lobby].locked || self.is_counting_down(lobby) {
                    return Err(CloseReason::LobbyLocked);
                }
                if !self.max_per_lobby.has_room(self.lobbies[lobby].taken()) {
                    return Err(CloseReason::LobbyFull);
                }
            }
            None => {
                if !self.max_per_lobby.has_room(0) {
                    return Err(CloseReason::LobbyFull);
                }
                let removes_lobby = replaced.is_some_and(|seat| self.lobbies[self.seats[seat].lobby].has_one_member());
                if !self.max_lobbies.has_room(self.used_lobbies() - usize::from(removes_lobby)) {
                    return Err(CloseReason::LobbyLimit);
                }
            }
        }
        self.allows_login(user, replaced)
    }
}
