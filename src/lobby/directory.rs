//! Directory of users, lobbies and the seats that connect them, with all seat limits.
//!
//! A seat is reserved, joined and freed only here:
//!
//! ```text
//! free --reserve()--> reserved --join_reserved()--> joined --leave()--> free
//!  |                      +------cancel()-------> free
//!  +------------------join()------------------------^
//! ```
//!
//! `reserved + joined <= limit` is true at all times, per lobby, per user and for the server. Connections are known
//! only by their ids. Hash maps are looked up, never iterated, so that no behaviour depends on hash order. Members are
//! iterated in the order in which they joined.

use std::collections::HashMap;
use std::slice;

use smol_str::SmolStr;

use super::presence::{Departure, Presence};
use crate::base::arena::{Arena, Key};
use crate::base::close::{CloseReason, LeaveReason};
use crate::base::id::{ConnId, ConnKey, LobbyKey, SeatId, SeatKey, UserKey};
use crate::base::rate::{Bucket, Remembered};
use crate::base::time::Time;
use crate::config::{Config, DuplicateLogin, Limit};

#[derive(Debug)]
pub(crate) struct Lobby {
    pub(crate) code: SmolStr,
    /// New for each lobby that is created, even if a lobby with the same code existed before.
    pub(crate) epoch: u64,
    /// Number of the lobby's last `message` or `presence_diff`; counts up by one.
    pub(crate) seq: u64,
    pub(crate) presence: Presence,
    /// Whether new members are refused.
    pub(crate) locked: bool,
    /// In join order.
    members: Vec<LobbyMember>,
    /// Seats reserved for connections that are being authorized.
    reserved: usize,
    /// Connections that are being authorized, including those that will take over a seat and reserve none.
    authorizing: usize,
}

/// A joined seat, as its lobby lists it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LobbyMember {
    pub(crate) seat: SeatKey,
    /// The seat's connection, so that a broadcast reads only this list and does not look up the seats.
    pub(crate) conn: ConnKey,
}

#[derive(Debug)]
struct User {
    name: SmolStr,
    seats: UserSeats,
    reserved: u32,
    authorizing: u32,
    meter: UserMeter,
}

/// A user's joined seats, oldest first. A single seat, which is the common case, needs no heap memory.
#[derive(Debug)]
enum UserSeats {
    None,
    One(SeatKey),
    Many(Vec<SeatKey>),
}

impl UserSeats {
    fn as_slice(&self) -> &[SeatKey] {
        match self {
            UserSeats::None => &[],
            UserSeats::One(seat) => slice::from_ref(seat),
            UserSeats::Many(seats) => seats,
        }
    }

    fn push(&mut self, seat: SeatKey) {
        match self {
            UserSeats::None => *self = UserSeats::One(seat),
            UserSeats::One(first) => *self = UserSeats::Many(vec![*first, seat]),
            UserSeats::Many(seats) => seats.push(seat),
        }
    }

    fn remove(&mut self, seat: SeatKey) {
        match self {
            UserSeats::Many(seats) if seats.len() > 1 => seats.retain(|&other| other != seat),
            UserSeats::None | UserSeats::One(_) | UserSeats::Many(_) => *self = UserSeats::None,
        }
    }
}

/// Rate buckets of a user, shared by all its connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct UserMeter {
    pub(crate) messages: Bucket,
    pub(crate) bytes: Bucket,
}

impl UserMeter {
    /// Returns the time at which both buckets are full again.
    fn full_at(&self) -> Time {
        self.messages.full_at().max(self.bytes.full_at())
    }
}

#[derive(Debug)]
pub(crate) struct Seat {
    pub(crate) id: SeatId,
    pub(crate) conn: ConnId,
    pub(crate) lobby: LobbyKey,
    /// Whether the join has been sent to the other members.
    pub(crate) is_announced: bool,
    user: UserKey,
}

/// A seat reserved for a connection that is being authorized. Must be passed back to [`Directory::cancel`] or
/// [`Directory::join_reserved`].
#[must_use]
#[derive(Debug)]
pub(crate) struct Reservation {
    lobby: LobbyKey,
    user: UserKey,
    /// Whether it counts toward the limits of the lobby and the user. False if it takes over the user's seat in this
    /// lobby.
    in_lobby: bool,
    /// Whether it counts toward the limit of the server. False if it replaces a seat that the user has, in this lobby
    /// or in another.
    in_server: bool,
}

/// Result of a join: the seat of the connection, and the seat or connection that it replaces.
#[derive(Debug)]
pub(crate) struct Joined {
    pub(crate) seat: SeatKey,
    /// The connection that had this seat before.
    pub(crate) previous_conn: Option<ConnId>,
    /// The connection of the user's seat in another lobby, which was freed for this join.
    pub(crate) replaced_conn: Option<ConnId>,
}

#[derive(Debug)]
pub(crate) struct Directory {
    max_connections: Limit,
    max_per_lobby: Limit,
    max_lobbies: Limit,
    max_per_user: Limit,
    duplicate_login: DuplicateLogin,
    users: Arena<UserKey, User>,
    user_keys: HashMap<SmolStr, UserKey>,
    lobbies: Arena<LobbyKey, Lobby>,
    lobby_keys: HashMap<SmolStr, LobbyKey>,
    seats: Arena<SeatKey, Seat>,
    /// Rate buckets of users without a seat, kept until they are full again.
    remembered: Remembered<SmolStr, UserMeter>,
    reserved: usize,
    seats_created: u64,
    last_epoch: u64,
}

impl Directory {
    pub(crate) fn new(config: &Config) -> Directory {
        Directory {
            max_connections: config.max_connections,
            max_per_lobby: config.max_per_lobby,
            max_lobbies: config.max_lobbies,
            max_per_user: config.max_per_user,
            duplicate_login: config.duplicate_login,
            users: Arena::default(),
            user_keys: HashMap::new(),
            lobbies: Arena::default(),
            lobby_keys: HashMap::new(),
            seats: Arena::default(),
            remembered: Remembered::new(config.max_remembered_rates),
            reserved: 0,
            seats_created: 0,
            last_epoch: 0,
        }
    }

    /// Checks whether `user` would get a seat in the lobby `code`.
    ///
    /// # Errors
    ///
    /// The close reason of the limit or lock that refuses the seat.
    pub(crate) fn admits(&self, code: &str, user: Option<&str>) -> Result<(), CloseReason> {
        let lobby = self.lobby_keys.get(code).copied();
        let user = user.and_then(|user| self.user_keys.get(user).copied());
        match self.replaceable_seat(user) {
            Some(seat) if Some(self.seats[seat].lobby) == lobby => Ok(()),
            replaced => self.has_room(lobby, user, replaced),
        }
    }

    /// Returns the seat that a new connection of `user` would take over or replace. `None` unless `duplicate_login` is
    /// `replace`.
    fn replaceable_seat(&self, user: Option<UserKey>) -> Option<SeatKey> {
        match self.duplicate_login {
            DuplicateLogin::Replace => self.users[user?].seats.as_slice().first().copied(),
            DuplicateLogin::Reject | DuplicateLogin::Allow => None,
        }
    }

    /// Returns the seat that a new connection of `user` would take over or replace.
    pub(crate) fn seat_to_replace(&self, user: &str) -> Option<SeatKey> {
        self.replaceable_seat(self.user_keys.get(user).copied())
    }

    /// Returns the seat in the lobby `code` that a new connection of `user` would take over.
    pub(crate) fn seat_to_take_over(&self, code: &str, user: &str) -> Option<SeatKey> {
        let seat = self.replaceable_seat(self.user_keys.get(user).copied())?;
        (*self.lobbies[self.seats[seat].lobby].code == *code).then_some(seat)
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
                if self.lobbies[lobby].locked {
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
                if !self.max_lobbies.has_room(self.lobbies.len() - usize::from(removes_lobby)) {
                    return Err(CloseReason::LobbyLimit);
                }
            }
        }
        let taken = user.map_or(0, |user| self.users[user].taken());
        let allowed = match self.duplicate_login {
            DuplicateLogin::Replace => true,
            DuplicateLogin::Reject => taken == 0,
            DuplicateLogin::Allow => self.max_per_user.has_room(taken),
        };
        if allowed { Ok(()) } else { Err(CloseReason::UserLimit) }
    }

    /// Returns whether there are no users, lobbies or seats, and no connection is being authorized.
    pub(crate) fn is_blank(&self) -> bool {
        self.users.is_empty() && self.lobbies.is_empty() && self.seats.is_empty()
    }

    /// Returns the message and byte buckets of the users without a seat, ordered by the time at which they are full.
    pub(crate) fn remembered(&self, now: Time) -> Vec<(SmolStr, [Bucket; 2])> {
        let entries = self.remembered.entries(now);
        entries.map(|(user, &UserMeter { messages, bytes })| (user.clone(), [messages, bytes])).collect()
    }

    /// Restores the message and byte buckets of a user without a seat.
    pub(crate) fn remember(&mut self, user: SmolStr, [messages, bytes]: [Bucket; 2], now: Time) {
        let meter = UserMeter { messages, bytes };
        self.remembered.put(now, user, meter, meter.full_at());
    }

    /// Returns the number of seats ever created and the last epoch, for a checkpoint.
    pub(crate) fn numbers(&self) -> (u64, u64) {
        (self.seats_created, self.last_epoch)
    }

    /// Restores the counters from a checkpoint.
    pub(crate) fn set_numbers(&mut self, seats_created: u64, last_epoch: u64) {
        (self.seats_created, self.last_epoch) = (seats_created, last_epoch);
    }

    /// Reserves a seat for a connection that is being authorized as `user`. `now` is in microseconds since the Unix
    /// epoch.
    ///
    /// # Errors
    ///
    /// As [`admits`](Self::admits); nothing has changed then.
    pub(crate) fn reserve(&mut self, code: &str, user: &str, now: u64) -> Result<Reservation, CloseReason> {
        self.admits(code, Some(user))?;
        // admits() does not count a lobby that the user would leave empty. But that lobby exists until the join, so
        // until then both lobbies count.
        if !self.lobby_keys.contains_key(code) && !self.max_lobbies.has_room(self.lobbies.len()) {
            return Err(CloseReason::LobbyLimit);
        }
        let user = self.user(user);
        let lobby = self.lobby(code, now);
        let replaced = self.replaceable_seat(Some(user));
        let in_lobby = replaced.is_none_or(|seat| self.seats[seat].lobby != lobby);
        let in_server = replaced.is_none();
        self.users[user].authorizing += 1;
        self.lobbies[lobby].authorizing += 1;
        self.users[user].reserved += u32::from(in_lobby);
        self.lobbies[lobby].reserved += usize::from(in_lobby);
        self.reserved += usize::from(in_server);
        Ok(Reservation { lobby, user, in_lobby, in_server })
    }

    /// Cancels a reservation.
    pub(crate) fn cancel(&mut self, reservation: Reservation, now: Time) {
        let Reservation { lobby, user, .. } = reservation;
        self.release(reservation);
        self.remove_if_empty(lobby, user, now);
    }

    /// Subtracts a reservation from all counters.
    fn release(&mut self, Reservation { lobby, user, in_lobby, in_server }: Reservation) {
        self.users[user].authorizing -= 1;
        self.lobbies[lobby].authorizing -= 1;
        self.users[user].reserved -= u32::from(in_lobby);
        self.lobbies[lobby].reserved -= usize::from(in_lobby);
        self.reserved -= usize::from(in_server);
    }

    /// Gives `conn` a seat in the lobby `code` for `user`. `unix` is `now` in microseconds since the Unix epoch.
    ///
    /// # Errors
    ///
    /// As [`admits`](Self::admits); nothing has changed then.
    pub(crate) fn join(
        &mut self,
        code: &str,
        user: &str,
        conn: ConnId,
        now: Time,
        unix: u64,
    ) -> Result<Joined, CloseReason> {
        self.admits(code, Some(user))?;
        let to_take_over = self.seat_to_take_over(code, user);
        let user = self.user(user);
        let replaced = self.replaceable_seat(Some(user));
        if let Some(seat) = to_take_over {
            let previous_conn = std::mem::replace(&mut self.seats[seat].conn, conn);
            let lobby = &mut self.lobbies[self.seats[seat].lobby];
            let position = lobby.position_of(seat);
            lobby.members[position].conn = conn.key();
            return Ok(Joined { seat, previous_conn: Some(previous_conn), replaced_conn: None });
        }
        // leave() removes a user without seats, so this count keeps the user while its old seat is freed.
        self.users[user].authorizing += 1;
        let replaced_conn = replaced.map(|seat| {
            let conn = self.seats[seat].conn;
            self.leave(seat, LeaveReason::Replaced, now);
            conn
        });
        self.users[user].authorizing -= 1;
        let lobby = self.lobby(code, unix);
        self.seats_created += 1;
        let id = SeatId(self.seats_created);
        let seat = self.seats.insert(Seat { id, conn, lobby, is_announced: false, user });
        self.users[user].seats.push(seat);
        let lobby = &mut self.lobbies[lobby];
        lobby.members.push(LobbyMember { seat, conn: conn.key() });
        lobby.presence.joined();
        Ok(Joined { seat, previous_conn: None, replaced_conn })
    }

    /// Turns a reservation into a seat. The user and the lobby may differ from those of the reservation.
    pub(crate) fn join_reserved(
        &mut self,
        reservation: Reservation,
        code: &str,
        user: &str,
        conn: ConnId,
        now: Time,
        unix: u64,
    ) -> Result<Joined, CloseReason> {
        let Reservation { lobby, user: reserved_user, .. } = reservation;
        self.release(reservation);
        let joined = self.join(code, user, conn, now, unix);
        self.remove_if_empty(lobby, reserved_user, now);
        joined
    }

    /// Frees a seat. The departure is queued in the lobby's [`Presence`] and has still to be sent to the other members.
    pub(crate) fn leave(&mut self, seat: SeatKey, reason: LeaveReason, now: Time) {
        let Seat { id, lobby, user, is_announced, .. } = self.seats.remove(seat);
        let name = self.users[user].name.clone();
        self.users[user].seats.remove(seat);
        let entry = &mut self.lobbies[lobby];
        let position = entry.position_of(seat);
        entry.members.remove(position);
        entry.presence.left(is_announced, Departure { user: name, seat: id, reason });
        self.remove_if_empty(lobby, user, now);
    }

    /// Returns the key of the user `name`, and creates the user if there is none.
    fn user(&mut self, name: &str) -> UserKey {
        if let Some(&user) = self.user_keys.get(name) {
            return user;
        }
        let name: SmolStr = name.into();
        let meter = self.remembered.take(&name).unwrap_or_default();
        let user =
            self.users.insert(User { name: name.clone(), seats: UserSeats::None, reserved: 0, authorizing: 0, meter });
        self.user_keys.insert(name, user);
        user
    }

    /// Returns the key of the lobby `code`, and creates the lobby if there is none.
    fn lobby(&mut self, code: &str, now: u64) -> LobbyKey {
        if let Some(&lobby) = self.lobby_keys.get(code) {
            return lobby;
        }
        let code: SmolStr = code.into();
        // The time makes the epoch new after a restart; the maximum makes it new within one microsecond.
        self.last_epoch = now.max(self.last_epoch + 1);
        let lobby = self.lobbies.insert(Lobby {
            code: code.clone(),
            epoch: self.last_epoch,
            seq: 0,
            presence: Presence::default(),
            locked: false,
            members: Vec::new(),
            reserved: 0,
            authorizing: 0,
        });
        self.lobby_keys.insert(code, lobby);
        lobby
    }

    /// Removes the lobby and the user if they have neither seats nor connections that are being authorized.
    fn remove_if_empty(&mut self, lobby: LobbyKey, user: UserKey, now: Time) {
        if self.lobbies.get(lobby).is_some_and(|lobby| lobby.members.is_empty() && lobby.authorizing == 0) {
            let lobby = self.lobbies.remove(lobby);
            self.lobby_keys.remove(&lobby.code);
        }
        if self.users.get(user).is_some_and(|user| user.seats.as_slice().is_empty() && user.authorizing == 0) {
            let user = self.users.remove(user);
            self.user_keys.remove(&user.name);
            self.remembered.put(now, user.name, user.meter, user.meter.full_at());
        }
    }

    /// Returns the number of joined and reserved seats.
    pub(crate) fn taken(&self) -> usize {
        self.seats.len() + self.reserved
    }

    /// Returns the number of members of all lobbies.
    pub(crate) fn members_count(&self) -> usize {
        self.seats.len()
    }

    /// Returns whether no lobby has presence changes that are still to be sent.
    pub(crate) fn is_presence_flushed(&self) -> bool {
        self.lobbies.iter().all(|(_, lobby)| lobby.presence.is_flushed())
    }

    pub(crate) fn lobbies_count(&self) -> usize {
        self.lobbies.len()
    }

    pub(crate) fn seat(&self, seat: SeatKey) -> &Seat {
        &self.seats[seat]
    }

    /// Returns whether `seat` is still the key of the seat `id`. Keys are reused; ids are not.
    pub(crate) fn is_current_seat(&self, seat: SeatKey, id: SeatId) -> bool {
        self.seats.get(seat).is_some_and(|seat| seat.id == id)
    }

    pub(crate) fn seat_mut(&mut self, seat: SeatKey) -> &mut Seat {
        &mut self.seats[seat]
    }

    pub(crate) fn meter_of(&mut self, seat: SeatKey) -> &mut UserMeter {
        &mut self.users[self.seats[seat].user].meter
    }

    pub(crate) fn user_of(&self, seat: SeatKey) -> &SmolStr {
        &self.users[self.seats[seat].user].name
    }

    pub(crate) fn find_lobby(&self, code: &str) -> Option<LobbyKey> {
        self.lobby_keys.get(code).copied()
    }

    /// Returns at most `limit` lobbies with keys above `after`, and the key after which to continue if there may be
    /// more.
    ///
    /// Looks at no more than `MAX_KEYS` keys, used or unused, so that the time for a page is bounded.
    pub(crate) fn lobbies_after(&self, after: Option<LobbyKey>, limit: usize) -> (Vec<LobbyKey>, Option<LobbyKey>) {
        const MAX_KEYS: usize = 100_000;
        let from = after.map_or(0, |after| after.index() + 1);
        // All keys are below the slab's capacity.
        let end = self.lobbies.capacity();
        let mut found = Vec::new();
        for index in from..end.min(from.saturating_add(MAX_KEYS)) {
            let key = LobbyKey::new(index);
            if self.lobbies.contains(key) {
                if found.len() == limit {
                    return (found, Some(LobbyKey::new(index - 1)));
                }
                found.push(key);
            }
        }
        let next = from.saturating_add(MAX_KEYS);
        (found, (next < end).then(|| LobbyKey::new(next - 1)))
    }

    pub(crate) fn get_lobby(&self, lobby: LobbyKey) -> Option<&Lobby> {
        self.lobbies.get(lobby)
    }

    pub(crate) fn lobby_ref(&self, lobby: LobbyKey) -> &Lobby {
        &self.lobbies[lobby]
    }

    pub(crate) fn lobby_mut(&mut self, lobby: LobbyKey) -> &mut Lobby {
        &mut self.lobbies[lobby]
    }

    /// Returns a lobby's members in join order.
    pub(crate) fn members(&self, lobby: LobbyKey) -> &[LobbyMember] {
        &self.lobbies[lobby].members
    }

    /// Returns a user's seats, oldest first.
    pub(crate) fn seats_of(&self, user: &str) -> &[SeatKey] {
        self.user_keys.get(user).map_or(&[], |&user| self.users[user].seats.as_slice())
    }

    /// Asserts all invariants. Recomputes every counter.
    pub(crate) fn check(&self) {
        assert!(self.max_connections.bound().is_none_or(|bound| self.taken() <= bound as usize), "server limit");
        assert!(self.max_lobbies.bound().is_none_or(|bound| self.lobbies.len() <= bound as usize), "lobbies limit");
        assert_eq!(self.users.len(), self.user_keys.len());
        assert_eq!(self.lobbies.len(), self.lobby_keys.len());
        for (key, lobby) in self.lobbies.iter() {
            assert_eq!(self.lobby_keys.get(&lobby.code), Some(&key), "a lobby is found under its code");
            assert!(self.max_per_lobby.bound().is_none_or(|bound| lobby.taken() <= bound as usize), "lobby limit");
            assert!(!lobby.members.is_empty() || lobby.authorizing > 0, "an empty lobby is removed");
            assert!(
                lobby.members.iter().all(|member| self.seats[member.seat].lobby == key),
                "members have seats of their lobby"
            );
            let has_its_conn = |member: &LobbyMember| self.seats[member.seat].conn.key() == member.conn;
            assert!(lobby.members.iter().all(has_its_conn), "a lobby's connections are those of its members");
            let unannounced = lobby.members.iter().filter(|member| !self.seats[member.seat].is_announced).count();
            assert_eq!(lobby.presence.unannounced(), unannounced, "presence counts the unannounced members");
        }
        for (key, user) in self.users.iter() {
            assert_eq!(self.user_keys.get(&user.name), Some(&key), "a user is found under its name");
            let seats = user.seats.as_slice();
            assert!(!seats.is_empty() || user.authorizing > 0, "a user without a seat is removed");
            assert!(seats.iter().all(|&seat| self.seats[seat].user == key), "seats belong to their user");
            let joined = seats.len();
            match self.duplicate_login {
                DuplicateLogin::Replace => assert!(joined <= 1, "one seat for each user"),
                DuplicateLogin::Reject => assert!(user.taken() <= 1, "one seat for each user"),
                DuplicateLogin::Allow => {
                    let bound = self.max_per_user.bound();
                    assert!(bound.is_none_or(|bound| user.taken() <= bound as usize), "user limit");
                }
            }
        }
        let sum = |counts: &mut dyn Iterator<Item = usize>| counts.sum::<usize>();
        assert_eq!(sum(&mut self.lobbies.iter().map(|(_, lobby)| lobby.members.len())), self.seats.len());
        assert_eq!(sum(&mut self.users.iter().map(|(_, user)| user.seats.as_slice().len())), self.seats.len());
        let reserved = sum(&mut self.lobbies.iter().map(|(_, lobby)| lobby.reserved));
        assert_eq!(sum(&mut self.users.iter().map(|(_, user)| user.reserved as usize)), reserved);
        assert!(self.reserved <= reserved, "each reservation of the server is one of a lobby");
    }
}

impl Lobby {
    /// Returns the number of joined and reserved seats.
    fn taken(&self) -> usize {
        self.members.len() + self.reserved
    }

    /// Returns a member's position in join order.
    fn position_of(&self, seat: SeatKey) -> usize {
        self.members.iter().position(|member| member.seat == seat).expect("every seat of a lobby is in its member list")
    }

    /// Returns whether the lobby is removed when its member leaves.
    fn has_one_member(&self) -> bool {
        self.members.len() == 1 && self.authorizing == 0
    }
}

impl User {
    /// Returns the number of joined and reserved seats.
    fn taken(&self) -> usize {
        self.seats.as_slice().len() + self.reserved as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each member needs a `User` and a `Seat`, and small lobbies need about one `Lobby` per member. A change of these
    /// sizes must be deliberate.
    #[test]
    fn memory_per_member_stays_small() {
        // Name 24, which stores up to 23 bytes inline; seats 24, counts 8, buckets 16.
        assert_eq!(size_of::<User>(), 72);
        // Id 8, connection 8, lobby 4, user 4, flag 8.
        assert_eq!(size_of::<Seat>(), 32);
        // Code 24, epoch and seq 16, presence 40, members 24, counts 16, flag 8.
        assert_eq!(size_of::<Lobby>(), 128);
        assert_eq!(size_of::<LobbyMember>(), 8);
    }
}
