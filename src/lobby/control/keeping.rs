//! Seats of a lobby that are kept for users by name, as for the players of a match, until a time.
//!
//! ```text
//! kept --the user takes a seat, or is being authorized--> taken --the user has no seat--> kept
//!   +--------------------------the time is over, the user is banned---------------------------> forgotten
//! ```
//!
//! A seat that is kept counts among the [reserved](crate::lobby::records::Lobby::reserved) ones of its lobby, so every limit
//! sees it. The users, and the lobby, count one connection that is being authorized as long as seats are kept: neither of them
//! is removed.

use super::named::NamedSeats;
use crate::base::entry::Role;
use crate::base::id::{LobbyKey, UserKey};
use crate::base::time::Time;
use crate::lobby::directory::Directory;

/// A lobby that is to be created with seats for these users, who have been checked: they differ, and the lobby has room.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LobbyWithSeats<'a> {
    pub(crate) code: &'a str,
    pub(crate) pool: Option<&'a str>,
    /// Most members, if that is set.
    pub(crate) max: Option<u32>,
    pub(crate) users: &'a [String],
    pub(crate) until: Time,
}

impl Directory {
    /// Whether there is room for one more lobby.
    pub(crate) fn has_lobby_room(&self) -> bool {
        self.max_lobbies.has_room(self.used_lobbies())
    }

    /// Returns whether lobbies with this setting may have so many members.
    pub(crate) fn fits_seats(&self, max: Option<u32>, seats: usize) -> bool {
        let has_room = |bound: Option<u32>| bound.is_none_or(|bound| seats <= bound as usize);
        has_room(self.max_per_lobby.bound()) && has_room(max)
    }

    /// Creates a lobby that keeps seats for users. There is no lobby of this code, and [room](Self::has_lobby_room) for one.
    pub(crate) fn create_with_seats(&mut self, new: &LobbyWithSeats<'_>, unix: u64) -> LobbyKey {
        let lobby = self.lobby(new.code, unix, new.pool, new.max);
        let users: Vec<(UserKey, u32)> = new.users.iter().map(|user| (self.user(user), 0)).collect();
        users.iter().for_each(|&(user, _)| self.users[user].authorizing += 1);
        let state = &mut self.lobbies[lobby];
        state.authorizing += 1;
        state.reserved += users.len() as u32;
        let controls = self.control.as_mut().expect("lobby control is on");
        controls.get_mut(lobby).expect("it was just created").named =
            Some(Box::new(NamedSeats { users, until: new.until }));
        controls.rearm(lobby);
        self.update_listing(lobby);
        lobby
    }

    /// Whether a lobby keeps a seat for a user that it has not taken.
    pub(in crate::lobby) fn keeps_seat_for(&self, lobby: LobbyKey, user: UserKey) -> bool {
        let named = self.control(lobby).and_then(|control| control.named.as_deref());
        named.is_some_and(|named| named.users.contains(&(user, 0)))
    }

    /// A user has got a seat or a reservation in a lobby: it is the one that is kept for it, if there is one.
    #[inline]
    pub(in crate::lobby) fn note_seat_taken(&mut self, lobby: LobbyKey, user: UserKey, role: Role) {
        if let Some(count) = self.named_count(lobby, user, role) {
            *count += 1;
            if *count == 1 {
                self.lobbies[lobby].reserved -= 1;
            }
        }
    }

    /// A user has lost a seat or a reservation in a lobby.
    #[inline]
    pub(in crate::lobby) fn note_seat_given_back(&mut self, lobby: LobbyKey, user: UserKey, role: Role) {
        if let Some(count) = self.named_count(lobby, user, role) {
            *count -= 1;
            if *count == 0 {
                self.lobbies[lobby].reserved += 1;
            }
        }
    }

    fn named_count(&mut self, lobby: LobbyKey, user: UserKey, role: Role) -> Option<&mut u32> {
        let named = self.control.as_mut()?.get_mut(lobby)?.named.as_mut().filter(|_| role == Role::Play)?;
        named.users.iter_mut().find(|(known, _)| *known == user).map(|(_, count)| count)
    }

    /// Keeps no seat for a user any more.
    pub(crate) fn forget_named_seat(&mut self, lobby: LobbyKey, user: &str, now: Time) {
        let Some(&user) = self.user_keys.get(user) else { return };
        let Some(named) = self.control_mut(lobby).and_then(|control| control.named.as_mut()) else { return };
        if let Some(at) = named.users.iter().position(|&(known, _)| known == user) {
            let (_, count) = named.users.remove(at);
            self.lobbies[lobby].reserved -= u32::from(count == 0);
            self.users[user].authorizing -= 1;
            self.update_listing(lobby);
            self.remove_if_empty(lobby, user, now);
        }
    }

    /// Keeps no seats in a lobby any more. A lobby without members is removed, unless its settings keep it.
    pub(crate) fn end_named_seats(&mut self, lobby: LobbyKey, now: Time) {
        let Some(named) = self.control_mut(lobby).and_then(|control| control.named.take()) else { return };
        let kept = named.users.iter().filter(|&&(_, count)| count == 0).count();
        let state = &mut self.lobbies[lobby];
        state.reserved -= kept as u32;
        state.authorizing -= 1;
        let controls = self.control.as_mut().expect("lobby control is on");
        controls.rearm(lobby);
        self.update_listing(lobby);
        for (user, _) in named.users {
            self.users[user].authorizing -= 1;
            self.remove_user_if_unused(user, now);
        }
        self.remove_lobby_if_empty(lobby, now);
    }

    /// The users for which a lobby keeps seats that they have not taken, and until when.
    pub(crate) fn named_seats(&self, lobby: LobbyKey) -> Option<(impl Iterator<Item = &str>, Time)> {
        let named = self.control(lobby)?.named.as_deref()?;
        let kept = named.users.iter().filter(|&&(_, count)| count == 0);
        Some((kept.map(|&(user, _)| &**self.name_of(user)), named.until))
    }

    /// Asserts that the seats that a lobby keeps are counted. Returns their number.
    pub(in crate::lobby) fn check_named(&self, lobby: LobbyKey) -> usize {
        let Some(named) = self.control(lobby).and_then(|control| control.named.as_deref()) else { return 0 };
        for &(user, count) in &named.users {
            let seats = self.users[user].seats.as_slice().iter();
            let seats = seats.filter(|&&seat| self.seats[seat].lobby == lobby && !self.seats[seat].is_watcher);
            assert!(self.users[user].authorizing > 0 && seats.count() <= count as usize, "a named user is counted");
        }
        assert!(self.lobbies[lobby].authorizing > 0, "a lobby with named seats is kept");
        named.users.iter().filter(|&&(_, count)| count == 0).count()
    }
}
