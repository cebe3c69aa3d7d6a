//! Who sits where: users, lobbies and the seats between them, with every limit.
//!
//! A seat is taken and given back here and nowhere else:
//!
//! ```text
//! free --reserve()--> reserved --join_reserved()--> joined --leave()--> free
//!  |                      +------cancel()-------> free
//!  +------------------join()------------------------^
//! ```
//!
//! `reserved + joined <= limit` holds at every instant, per lobby, per user and for the server. Knows connections only
//! by their names. Hash maps are looked up, never walked; members are walked in the order in which they joined.

use std::collections::HashMap;
use std::slice;

use slab::Slab;
use smol_str::SmolStr;

use super::presence::{Departure, Presence};
use crate::close::{CloseReason, LeaveReason};
use crate::config::{Config, DuplicateLogin, Limit};
use crate::id::{ConnId, SeatId, remove_keyed};
use crate::rate::{Bucket, Remembered};
use crate::time::Time;

pub(crate) type SeatKey = usize;
pub(crate) type LobbyKey = usize;
type UserKey = usize;

#[derive(Debug)]
pub(crate) struct Lobby {
    pub(crate) code: SmolStr,
    /// New whenever a lobby comes into being, also under a name that existed before.
    pub(crate) epoch: u64,
    /// Counts what everybody in the lobby was told, without gaps.
    pub(crate) seq: u64,
    pub(crate) presence: Presence,
    /// Whether it takes nobody new.
    pub(crate) locked: bool,
    /// Joined seats, in the order in which they joined.
    members: Vec<SeatKey>,
    /// The keys of their connections, in the same order: what is said to all of them needs nothing else of their seats.
    conns: Vec<u32>,
    /// Seats promised to connections that are being authorized.
    reserved: usize,
    /// Connections being authorized, also those that will take over a seat and need none.
    awaited: usize,
}

#[derive(Debug)]
struct User {
    name: SmolStr,
    seats: UserSeats,
    reserved: u32,
    awaited: u32,
    meter: UserMeter,
}

/// A user's joined seats, oldest first. Nearly everybody has one, and that needs no memory of its own.
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

/// What a user has used up of its rates, over all its connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct UserMeter {
    pub(crate) messages: Bucket,
    pub(crate) bytes: Bucket,
}

impl UserMeter {
    /// When there is nothing to be made up any more.
    fn full_at(&self) -> Time {
        self.messages.full_at().max(self.bytes.full_at())
    }
}

#[derive(Debug)]
pub(crate) struct Seat {
    pub(crate) id: SeatId,
    pub(crate) conn: ConnId,
    pub(crate) lobby: LobbyKey,
    /// Whether the other members have been told.
    pub(crate) is_announced: bool,
    user: UserKey,
}

/// A seat promised to a connection that is being authorized. Must be given back to the directory.
#[must_use]
#[derive(Debug)]
pub(crate) struct Reservation {
    lobby: LobbyKey,
    user: UserKey,
    /// Whether it counts in the lobby and for the user; otherwise it takes over the user's own seat there.
    in_lobby: bool,
    /// Whether it counts for the server; otherwise the user's own seat elsewhere will be given up for it.
    in_server: bool,
}

/// A connection has its seat.
#[derive(Debug)]
pub(crate) struct Joined {
    pub(crate) seat: SeatKey,
    /// The connection that held this very seat before.
    pub(crate) took_over: Option<ConnId>,
    /// The seat in another lobby that had to be given up, and its connection.
    pub(crate) gave_up: Option<ConnId>,
}

#[derive(Debug)]
pub(crate) struct Directory {
    max_connections: Limit,
    max_per_lobby: Limit,
    max_lobbies: Limit,
    max_per_user: Limit,
    duplicate_login: DuplicateLogin,
    users: Slab<User>,
    user_keys: HashMap<SmolStr, UserKey>,
    lobbies: Slab<Lobby>,
    lobby_keys: HashMap<SmolStr, LobbyKey>,
    seats: Slab<Seat>,
    /// What users who are not here had used up when they left.
    remembered: Remembered<SmolStr, UserMeter>,
    reserved: usize,
    seats_ever: u64,
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
            users: Slab::new(),
            user_keys: HashMap::new(),
            lobbies: Slab::new(),
            lobby_keys: HashMap::new(),
            seats: Slab::new(),
            remembered: Remembered::new(config.max_remembered_rates),
            reserved: 0,
            seats_ever: 0,
            last_epoch: 0,
        }
    }

    /// Whether `user` would get a seat in the lobby `code`, and if not, why.
    pub(crate) fn admits(&self, code: &str, user: Option<&str>) -> Result<(), CloseReason> {
        let lobby = self.lobby_keys.get(code).copied();
        let user = user.and_then(|user| self.user_keys.get(user).copied());
        match self.own_seat(user) {
            Some(own) if Some(self.seats[own].lobby) == lobby => Ok(()),
            own => self.has_room(lobby, user, own),
        }
    }

    /// The seat that a new connection of `user` would take over or give up.
    fn own_seat(&self, user: Option<UserKey>) -> Option<SeatKey> {
        match self.duplicate_login {
            DuplicateLogin::Replace => self.users[user?].seats.as_slice().first().copied(),
            DuplicateLogin::Reject | DuplicateLogin::Allow => None,
        }
    }

    /// The seat that a new connection of `user` would take over or give up.
    pub(crate) fn seat_to_replace(&self, user: &str) -> Option<SeatKey> {
        self.own_seat(self.user_keys.get(user).copied())
    }

    /// The seat in the lobby `code` that a new connection of `user` would take over.
    pub(crate) fn seat_to_take_over(&self, code: &str, user: &str) -> Option<SeatKey> {
        let own = self.own_seat(self.user_keys.get(user).copied())?;
        (*self.lobbies[self.seats[own].lobby].code == *code).then_some(own)
    }

    /// Whether there is room for one more seat; `own` will be given up for it and does not count against it.
    fn has_room(
        &self,
        lobby: Option<LobbyKey>,
        user: Option<UserKey>,
        own: Option<SeatKey>,
    ) -> Result<(), CloseReason> {
        if !self.max_connections.has_room(self.taken() - usize::from(own.is_some())) {
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
                let leaves_empty = own.is_some_and(|own| self.lobbies[self.seats[own].lobby].would_end());
                if !self.max_lobbies.has_room(self.lobbies.len() - usize::from(leaves_empty)) {
                    return Err(CloseReason::LobbyLimit);
                }
            }
        }
        let held = user.map_or(0, |user| self.users[user].held());
        let allowed = match self.duplicate_login {
            DuplicateLogin::Replace => true,
            DuplicateLogin::Reject => held == 0,
            DuplicateLogin::Allow => self.max_per_user.has_room(held),
        };
        if allowed { Ok(()) } else { Err(CloseReason::UserLimit) }
    }

    /// Whether nobody is here or awaited.
    pub(crate) fn is_blank(&self) -> bool {
        self.users.is_empty() && self.lobbies.is_empty() && self.seats.is_empty()
    }

    /// What users who are not here have used up of their messages and bytes. The user whose buckets are full first comes
    /// first.
    pub(crate) fn remembered(&self, now: Time) -> Vec<(SmolStr, [Bucket; 2])> {
        let entries = self.remembered.entries(now);
        entries.map(|(user, &UserMeter { messages, bytes })| (user.clone(), [messages, bytes])).collect()
    }

    pub(crate) fn remember(&mut self, user: SmolStr, [messages, bytes]: [Bucket; 2], now: Time) {
        let meter = UserMeter { messages, bytes };
        self.remembered.put(now, user, meter, meter.full_at());
    }

    /// How many seats there ever were, and the last epoch.
    pub(crate) fn numbers(&self) -> (u64, u64) {
        (self.seats_ever, self.last_epoch)
    }

    /// Goes on counting from these.
    pub(crate) fn set_numbers(&mut self, seats_ever: u64, last_epoch: u64) {
        (self.seats_ever, self.last_epoch) = (seats_ever, last_epoch);
    }

    /// Promises a seat to a connection that is being authorized as `user`. `now` in microseconds since the Unix epoch.
    pub(crate) fn reserve(&mut self, code: &str, user: &str, now: u64) -> Result<Reservation, CloseReason> {
        self.admits(code, Some(user))?;
        // The lobby that the user would leave empty stays until it joins: the new one cannot have its place yet.
        if !self.lobby_keys.contains_key(code) && !self.max_lobbies.has_room(self.lobbies.len()) {
            return Err(CloseReason::LobbyLimit);
        }
        let user = self.user(user);
        let lobby = self.lobby(code, now);
        let own = self.own_seat(Some(user));
        let in_lobby = own.is_none_or(|own| self.seats[own].lobby != lobby);
        let in_server = own.is_none();
        self.users[user].awaited += 1;
        self.lobbies[lobby].awaited += 1;
        self.users[user].reserved += u32::from(in_lobby);
        self.lobbies[lobby].reserved += usize::from(in_lobby);
        self.reserved += usize::from(in_server);
        Ok(Reservation { lobby, user, in_lobby, in_server })
    }

    /// Takes a promised seat back.
    pub(crate) fn cancel(&mut self, reservation: Reservation, now: Time) {
        let Reservation { lobby, user, .. } = reservation;
        self.take_back(reservation);
        self.forget_if_empty(lobby, user, now);
    }

    fn take_back(&mut self, Reservation { lobby, user, in_lobby, in_server }: Reservation) {
        self.users[user].awaited -= 1;
        self.lobbies[lobby].awaited -= 1;
        self.users[user].reserved -= u32::from(in_lobby);
        self.lobbies[lobby].reserved -= usize::from(in_lobby);
        self.reserved -= usize::from(in_server);
    }

    /// Gives `conn` a seat in the lobby `code` for `user`. `unix` is `now` in microseconds since the Unix epoch.
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
        let own = self.own_seat(Some(user));
        if let Some(own) = to_take_over {
            let took_over = std::mem::replace(&mut self.seats[own].conn, conn);
            let lobby = &mut self.lobbies[self.seats[own].lobby];
            let place = lobby.place_of(own);
            lobby.conns[place] = conn.key();
            return Ok(Joined { seat: own, took_over: Some(took_over), gave_up: None });
        }
        // The user must outlive its old seat: keep it while that one goes.
        self.users[user].awaited += 1;
        let gave_up = own.map(|own| {
            let conn = self.seats[own].conn;
            self.leave(own, LeaveReason::Replaced, now);
            conn
        });
        self.users[user].awaited -= 1;
        let lobby = self.lobby(code, unix);
        self.seats_ever += 1;
        let id = SeatId(self.seats_ever);
        let seat = self.seats.insert(Seat { id, conn, lobby, is_announced: false, user });
        self.users[user].seats.push(seat);
        let lobby = &mut self.lobbies[lobby];
        lobby.members.push(seat);
        lobby.conns.push(conn.key());
        lobby.presence.joined();
        Ok(Joined { seat, took_over: None, gave_up })
    }

    /// Turns a promise into a seat, perhaps under another name or in another lobby than was promised.
    pub(crate) fn join_reserved(
        &mut self,
        reservation: Reservation,
        code: &str,
        user: &str,
        conn: ConnId,
        now: Time,
        unix: u64,
    ) -> Result<Joined, CloseReason> {
        let Reservation { lobby, user: promised, .. } = reservation;
        self.take_back(reservation);
        let joined = self.join(code, user, conn, now, unix);
        self.forget_if_empty(lobby, promised, now);
        joined
    }

    /// Frees a seat. The lobby's members have still to be told, through its [`Presence`].
    pub(crate) fn leave(&mut self, seat: SeatKey, reason: LeaveReason, now: Time) {
        let Seat { id, lobby, user, is_announced, .. } = remove_keyed(&mut self.seats, seat);
        let name = self.users[user].name.clone();
        self.users[user].seats.remove(seat);
        let there = &mut self.lobbies[lobby];
        let place = there.place_of(seat);
        there.members.remove(place);
        there.conns.remove(place);
        there.presence.left(is_announced, Departure { user: name, seat: id, reason });
        self.forget_if_empty(lobby, user, now);
    }

    fn user(&mut self, name: &str) -> UserKey {
        if let Some(&user) = self.user_keys.get(name) {
            return user;
        }
        let name: SmolStr = name.into();
        let meter = self.remembered.take(&name).unwrap_or_default();
        let user =
            self.users.insert(User { name: name.clone(), seats: UserSeats::None, reserved: 0, awaited: 0, meter });
        self.user_keys.insert(name, user);
        user
    }

    fn lobby(&mut self, code: &str, now: u64) -> LobbyKey {
        if let Some(&lobby) = self.lobby_keys.get(code) {
            return lobby;
        }
        let code: SmolStr = code.into();
        // The time makes an epoch new after a restart too, the maximum within a microsecond.
        self.last_epoch = now.max(self.last_epoch + 1);
        let lobby = self.lobbies.insert(Lobby {
            code: code.clone(),
            epoch: self.last_epoch,
            seq: 0,
            presence: Presence::default(),
            locked: false,
            members: Vec::new(),
            conns: Vec::new(),
            reserved: 0,
            awaited: 0,
        });
        self.lobby_keys.insert(code, lobby);
        lobby
    }

    fn forget_if_empty(&mut self, lobby: LobbyKey, user: UserKey, now: Time) {
        if self.lobbies.get(lobby).is_some_and(|lobby| lobby.members.is_empty() && lobby.awaited == 0) {
            let lobby = remove_keyed(&mut self.lobbies, lobby);
            self.lobby_keys.remove(&lobby.code);
        }
        if self.users.get(user).is_some_and(|user| user.seats.as_slice().is_empty() && user.awaited == 0) {
            let user = remove_keyed(&mut self.users, user);
            self.user_keys.remove(&user.name);
            self.remembered.put(now, user.name, user.meter, user.meter.full_at());
        }
    }

    /// Seats that are taken, also by connections that are still being authorized.
    pub(crate) fn taken(&self) -> usize {
        self.seats.len() + self.reserved
    }

    /// Members of all lobbies together.
    pub(crate) fn members_count(&self) -> usize {
        self.seats.len()
    }

    /// Whether nobody has to be told anything about who is there.
    pub(crate) fn is_presence_flushed(&self) -> bool {
        self.lobbies.iter().all(|(_, lobby)| lobby.presence.is_flushed())
    }

    pub(crate) fn lobbies_count(&self) -> usize {
        self.lobbies.len()
    }

    pub(crate) fn seat(&self, seat: SeatKey) -> &Seat {
        &self.seats[seat]
    }

    /// Whether the seat `id` is still taken, under the key it had.
    pub(crate) fn is_taken(&self, seat: SeatKey, id: SeatId) -> bool {
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

    /// At most `limit` lobbies with keys above `after`, and after which key to go on if there may be more.
    ///
    /// Looks at no more than so many places, whether there is a lobby or not, so that a page costs a bounded time.
    pub(crate) fn lobbies_after(&self, after: Option<LobbyKey>, limit: usize) -> (Vec<LobbyKey>, Option<LobbyKey>) {
        const MAX_PLACES: usize = 100_000;
        let from = after.map_or(0, |after| after.saturating_add(1));
        // No lobby has a key beyond the slab's capacity.
        let end = self.lobbies.capacity();
        let mut found = Vec::new();
        for key in from..end.min(from.saturating_add(MAX_PLACES)) {
            if self.lobbies.contains(key) {
                if found.len() == limit {
                    return (found, Some(key - 1));
                }
                found.push(key);
            }
        }
        let looked_at = from.saturating_add(MAX_PLACES);
        (found, (looked_at < end).then(|| looked_at - 1))
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

    /// A lobby's seats, in the order in which they were taken.
    pub(crate) fn members(&self, lobby: LobbyKey) -> &[SeatKey] {
        &self.lobbies[lobby].members
    }

    /// The keys of the connections of a lobby's members, in the same order.
    pub(crate) fn conns(&self, lobby: LobbyKey) -> &[u32] {
        &self.lobbies[lobby].conns
    }

    /// A user's seats, oldest first.
    pub(crate) fn seats_of(&self, user: &str) -> &[SeatKey] {
        self.user_keys.get(user).map_or(&[], |&user| self.users[user].seats.as_slice())
    }

    /// Asserts every invariant, by counting everything again.
    pub(crate) fn check(&self) {
        assert!(self.max_connections.bound().is_none_or(|bound| self.taken() <= bound as usize), "server limit");
        assert!(self.max_lobbies.bound().is_none_or(|bound| self.lobbies.len() <= bound as usize), "lobbies limit");
        assert_eq!(self.users.len(), self.user_keys.len());
        assert_eq!(self.lobbies.len(), self.lobby_keys.len());
        for (key, lobby) in &self.lobbies {
            assert_eq!(self.lobby_keys.get(&lobby.code), Some(&key), "a lobby is found under its code");
            assert!(self.max_per_lobby.bound().is_none_or(|bound| lobby.taken() <= bound as usize), "lobby limit");
            assert!(!lobby.members.is_empty() || lobby.awaited > 0, "an empty lobby is gone");
            assert!(lobby.members.iter().all(|&seat| self.seats[seat].lobby == key), "members sit in their lobby");
            let conns = lobby.members.iter().map(|&seat| self.seats[seat].conn.key());
            assert!(conns.eq(lobby.conns.iter().copied()), "a lobby's connections are those of its members");
            let unannounced = lobby.members.iter().filter(|&&seat| !self.seats[seat].is_announced).count();
            assert_eq!(lobby.presence.unannounced(), unannounced, "presence counts those who are not introduced");
        }
        for (key, user) in &self.users {
            assert_eq!(self.user_keys.get(&user.name), Some(&key), "a user is found under its name");
            let seats = user.seats.as_slice();
            assert!(!seats.is_empty() || user.awaited > 0, "a user without a seat is forgotten");
            assert!(seats.iter().all(|&seat| self.seats[seat].user == key), "seats belong to their user");
            let held = seats.len();
            match self.duplicate_login {
                DuplicateLogin::Replace => assert!(held <= 1, "one seat for each user"),
                DuplicateLogin::Reject => assert!(user.held() <= 1, "one seat for each user"),
                DuplicateLogin::Allow => {
                    let bound = self.max_per_user.bound();
                    assert!(bound.is_none_or(|bound| user.held() <= bound as usize), "user limit");
                }
            }
        }
        let sum = |counts: &mut dyn Iterator<Item = usize>| counts.sum::<usize>();
        assert_eq!(sum(&mut self.lobbies.iter().map(|(_, lobby)| lobby.members.len())), self.seats.len());
        assert_eq!(sum(&mut self.users.iter().map(|(_, user)| user.seats.as_slice().len())), self.seats.len());
        let reserved = sum(&mut self.lobbies.iter().map(|(_, lobby)| lobby.reserved));
        assert_eq!(sum(&mut self.users.iter().map(|(_, user)| user.reserved as usize)), reserved);
        assert!(self.reserved <= reserved, "what is reserved for the server is reserved in a lobby");
    }
}

impl Lobby {
    /// Seats that are taken, also by connections that are still being authorized.
    fn taken(&self) -> usize {
        self.members.len() + self.reserved
    }

    /// Where a member stands in the order in which they joined.
    fn place_of(&self, seat: SeatKey) -> usize {
        self.members.iter().position(|&other| other == seat).expect("who sits in a lobby is among its members")
    }

    /// Whether the lobby ends when one member leaves.
    fn would_end(&self) -> bool {
        self.members.len() == 1 && self.awaited == 0
    }
}

impl User {
    /// Seats that are taken, also by connections that are still being authorized.
    fn held(&self) -> usize {
        self.seats.as_slice().len() + self.reserved as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every member pays for these, and with few in a lobby also for the last: growth is a decision.
    #[test]
    fn what_a_member_costs_stays_small() {
        // Name 24, which holds up to 23 bytes itself; seats 24, counts 8, buckets 16.
        assert_eq!(size_of::<User>(), 72);
        // Id 8, connection 8, lobby 8, user 8, flag 8.
        assert_eq!(size_of::<Seat>(), 40);
        // Code 24, epoch and seq 16, presence 40, members 24, their connections 24, counts 16, flag 8.
        assert_eq!(size_of::<Lobby>(), 152);
    }
}
