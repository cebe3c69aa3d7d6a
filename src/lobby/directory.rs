//! Directory of users, lobbies and the seats that connect them, with all seat limits.
//!
//! A seat is reserved, joined and freed only here:
//!
//! ```text
//! free --reserve()--> reserved --release(), join()--> joined --leave()--> free
//!  |                      +------cancel()-------> free   ^
//!  +------------------join()-----------------------------+--set_away(), join()--> away --leave()--> free
//! ```
//!
//! `reserved + joined + away <= limit` is true at all times, per lobby, per user, per address and for the server. Connections and
//! addresses are known only by their ids and keys. Hash maps are looked up, never iterated, so that no behaviour depends on hash order. Members are
//! iterated in the order in which they joined.

use std::collections::{BTreeSet, HashMap};

use smol_str::SmolStr;

use super::control::Controls;
use super::control::listing::Pool;
use super::presence::{Changes, CountRules, Departure};
use super::published::{Published, PublishedKeys};
use super::records::{AddressSeats, Lobby, User, UserMeter, UserSeats};
pub(crate) use super::records::{LobbyMember, Plan, Reservation, Seat, SeatRequest};
use super::session_records::Sessions;
use crate::base::arena::Arena;
use crate::base::close::{CloseReason, LeaveReason};
use crate::base::entry::Role;
use crate::base::id::{AddressKey, ConnId, LobbyKey, SeatId, SeatKey, UserKey};
use crate::base::rate::{Bucket, Remembered};
use crate::base::time::Time;
use crate::config::{Config, DuplicateLogin, Limit};

#[derive(Debug)]
pub(crate) struct Directory {
    pub(super) max_connections: Limit,
    pub(super) max_per_lobby: Limit,
    pub(super) max_lobbies: Limit,
    pub(super) max_per_user: Limit,
    pub(super) max_per_ip: Limit,
    pub(super) duplicate_login: DuplicateLogin,
    count_rules: CountRules,
    pub(super) users: Arena<UserKey, User>,
    pub(super) user_keys: HashMap<SmolStr, UserKey>,
    pub(super) lobbies: Arena<LobbyKey, Lobby>,
    pub(super) lobby_keys: HashMap<SmolStr, LobbyKey>,
    /// Lobbies whose members are to be told their number, and when. Of those with the same time the oldest comes first, by its
    /// epoch: its key would depend on earlier events.
    pub(super) count_updates: BTreeSet<(Time, u64, LobbyKey)>,
    pub(super) seats: Arena<SeatKey, Seat>,
    pub(super) sessions: Sessions,
    pub(super) published: PublishedKeys,
    /// `None` with `lobby_control` off.
    pub(super) control: Option<Box<Controls>>,
    pub(super) seats_of_addresses: AddressSeats,
    /// Rate buckets of users without a seat, kept until they are full again.
    pub(super) remembered: Remembered<SmolStr, UserMeter>,
    pub(super) reserved: usize,
    pub(super) seats_created: u64,
    pub(super) last_epoch: u64,
    /// Makes the codes that this directory draws other ones than those of another directory.
    pub(super) code_salt: u64,
    /// Codes of lobbies that were created or removed. `None` unless a consumer is registered.
    pub(super) changed_lobbies: Option<Vec<SmolStr>>,
    /// Lobbies that were opened (`true`) and closed. `None` unless a consumer is registered.
    pub(super) opened_lobbies: Option<Vec<(bool, SmolStr)>>,
}

/// The lobby and the user of a reservation that was [released](Directory::release).
#[must_use]
pub(crate) struct Released {
    pub(super) lobby: LobbyKey,
    user: UserKey,
}

impl Directory {
    pub(crate) fn new(config: &Config) -> Directory {
        Directory {
            max_connections: config.max_connections,
            max_per_lobby: config.max_per_lobby,
            max_lobbies: config.max_lobbies,
            max_per_user: config.max_per_user,
            max_per_ip: config.max_per_ip,
            duplicate_login: config.duplicate_login,
            count_rules: CountRules::new(config),
            users: Arena::default(),
            user_keys: HashMap::new(),
            lobbies: Arena::default(),
            lobby_keys: HashMap::new(),
            count_updates: BTreeSet::new(),
            seats: Arena::default(),
            sessions: Sessions::new(config),
            published: PublishedKeys::new(config),
            control: config.lobby_control.then(|| Box::new(Controls::new(config))),
            seats_of_addresses: AddressSeats::default(),
            remembered: Remembered::new(config.max_remembered_rates),
            reserved: 0,
            seats_created: 0,
            last_epoch: 0,
            code_salt: 0,
            changed_lobbies: None,
            opened_lobbies: None,
        }
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

    /// Reserves a seat for a connection that is being authorized. `unix` is `now` in microseconds since the Unix epoch.
    ///
    /// # Errors
    ///
    /// As [`plan`](Self::plan); nothing has changed then.
    pub(crate) fn reserve(
        &mut self,
        request: SeatRequest<'_>,
        now: Time,
        unix: u64,
    ) -> Result<Reservation, CloseReason> {
        let plan = self.plan(&request, now)?;
        let SeatRequest { code, user, address, entry, pool, .. } = request;
        // plan() does not count a lobby that the user would leave empty. But that lobby exists until the join, so
        // until then both lobbies count.
        if !self.lobby_keys.contains_key(code) && !self.max_lobbies.has_room(self.used_lobbies()) {
            return Err(CloseReason::LobbyLimit);
        }
        let user = self.user(user);
        let lobby = self.lobby(code, unix, pool, entry.seats);
        let replaced = plan.seat();
        let in_lobby = matches!(plan, Plan::Move(_) | Plan::Join);
        let in_server = replaced.is_none();
        // With `replace` a user has one seat, and the seats of its connections that are being authorized.
        let in_user = in_lobby && (in_server || self.duplicate_login == DuplicateLogin::Replace);
        let is_counted = replaced.is_none_or(|seat| self.seats[seat].address != address);
        let address = (is_counted && !matches!(plan, Plan::Resume(_))).then_some(address);
        address.into_iter().for_each(|address| self.seats_of_addresses.add(address));
        self.users[user].authorizing += 1;
        self.lobbies[lobby].authorizing += 1;
        self.users[user].reserved += u32::from(in_user);
        if in_lobby {
            self.lobbies[lobby].reserve(entry.role, true);
            self.note_seat_taken(lobby, user, entry.role);
        }
        self.reserved += usize::from(in_server);
        self.update_listing(lobby);
        Ok(Reservation { lobby, user, role: entry.role, address, in_lobby, in_user, in_server })
    }

    /// Cancels a reservation.
    pub(crate) fn cancel(&mut self, reservation: Reservation, now: Time) {
        let released = self.release(reservation);
        self.forget_released(released, now);
    }

    /// Subtracts a reservation from all counters, so that the seat can be taken. Its lobby and its user stay until
    /// [`forget_released`](Self::forget_released).
    pub(crate) fn release(&mut self, reservation: Reservation) -> Released {
        let Reservation { lobby, user, role, address, in_lobby, in_user, in_server } = reservation;
        address.into_iter().for_each(|address| self.seats_of_addresses.remove(address));
        self.users[user].authorizing -= 1;
        self.lobbies[lobby].authorizing -= 1;
        self.users[user].reserved -= u32::from(in_user);
        if in_lobby {
            self.lobbies[lobby].reserve(role, false);
            self.note_seat_given_back(lobby, user, role);
        }
        self.reserved -= usize::from(in_server);
        self.update_listing(lobby);
        Released { lobby, user }
    }

    /// Removes the lobby and the user of a reservation if nothing has a use for them.
    pub(crate) fn forget_released(&mut self, Released { lobby, user }: Released, now: Time) {
        self.remove_if_empty(lobby, user, now);
    }

    /// Decides how a connection gets the seat that it asks for. The user and the lobby may differ from those of its
    /// reservation.
    ///
    /// # Errors
    ///
    /// The close reason of the rule, the limit or the lock that refuses the seat.
    pub(crate) fn plan(&self, request: &SeatRequest<'_>, now: Time) -> Result<Plan, CloseReason> {
        let &SeatRequest { code, user, entry, ref claim, .. } = request;
        let lobby = self.lobby_keys.get(code).copied();
        if let Some(reason) = lobby.and_then(|lobby| self.kept_out(lobby, user, now)) {
            return Err(reason);
        }
        if let Some(claim) = claim {
            if let Some(seat) = self.seat_to_resume(user, claim, |other| Some(other) == lobby) {
                return Ok(Plan::Resume(seat));
            }
            if self.must_give_way(self.user_keys.get(user).copied(), claim) {
                return Err(CloseReason::Replaced);
            }
        }
        self.may_enter(lobby, user, &entry)?;
        Ok(match self.replaced_seat(lobby, request)? {
            Some(seat) if self.is_of(seat, lobby, entry.role) => Plan::TakeOver(seat),
            Some(seat) => Plan::Move(seat),
            None => Plan::Join,
        })
    }

    /// Gives `conn` a seat as [`plan`](Self::plan) has just decided. `unix` is `now` in microseconds since the Unix epoch.
    /// Returns the seat.
    pub(crate) fn join(&mut self, request: SeatRequest<'_>, plan: Plan, conn: ConnId, now: Time, unix: u64) -> SeatKey {
        let SeatRequest { code, user, address, claim, entry, pool } = request;
        let session = claim.map(|claim| claim.session);
        if let Plan::Resume(seat) | Plan::TakeOver(seat) = plan {
            self.give_conn(seat, conn, address, matches!(plan, Plan::Resume(_)));
            self.set_session(seat, session);
            self.note_members_changed(self.seats[seat].lobby, now);
            return seat;
        }
        let user = self.user(user);
        self.seats_of_addresses.add(address);
        // leave() removes a user without seats, so this count keeps the user while its old seat is freed.
        self.users[user].authorizing += 1;
        if let Plan::Move(seat) = plan {
            // The same for a lobby in which the user takes another role.
            let kept = self.lobby_keys.get(code).copied();
            kept.into_iter().for_each(|lobby| self.lobbies[lobby].authorizing += 1);
            self.leave(seat, LeaveReason::Replaced, now);
            kept.into_iter().for_each(|lobby| self.lobbies[lobby].authorizing -= 1);
        }
        self.users[user].authorizing -= 1;
        let lobby = self.lobby(code, unix, pool, entry.seats);
        self.seats_created += 1;
        let id = SeatId(self.seats_created);
        let (is_announced, has_session, is_away) = (false, false, false);
        let is_watcher = entry.role == Role::Watch;
        let seat = Seat { id, conn, address, lobby, is_announced, has_session, is_away, is_watcher, user };
        let seat = self.seats.insert(seat);
        self.users[user].seats.push(seat);
        let key = lobby;
        let lobby = &mut self.lobbies[key];
        if conn == ConnId::ELSEWHERE {
            lobby.sessions.get_or_insert_default().elsewhere.push(seat);
        } else {
            lobby.members.push(LobbyMember { seat, conn: conn.key() });
        }
        lobby.watchers += u32::from(is_watcher);
        lobby.presence.joined(is_watcher);
        self.note_seat_taken(key, user, entry.role);
        self.set_session(seat, session);
        self.update_listing(key);
        self.note_members_changed(key, now);
        seat
    }

    /// Gives a seat another connection. The seat of a session that comes back goes on counting for its earlier address
    /// if the new one has no room.
    fn give_conn(&mut self, key: SeatKey, conn: ConnId, address: AddressKey, is_resumed: bool) {
        let before = self.seats[key].address;
        let has_room = before == address || self.max_per_ip.has_room(self.seats_of_addresses.count(address));
        if has_room || !is_resumed {
            self.seats_of_addresses.add(address);
            self.seats_of_addresses.remove(std::mem::replace(&mut self.seats[key].address, address));
        }
        if self.seats[key].is_away {
            self.seats[key].conn = conn;
            return self.set_back(key);
        }
        if self.seats[key].is_elsewhere() || conn == ConnId::ELSEWHERE {
            self.unlist(key);
            self.seats[key].conn = conn;
            return self.enlist(key);
        }
        self.seats[key].conn = conn;
        let lobby = &mut self.lobbies[self.seats[key].lobby];
        let position = lobby.position_of(key);
        lobby.members[position].conn = conn.key();
    }

    /// Frees a seat. The departure is queued in the lobby's `presence` and has still to be sent to the other members.
    pub(crate) fn leave(&mut self, seat: SeatKey, reason: LeaveReason, now: Time) {
        if self.seats[seat].is_away {
            self.end_away(seat);
        } else {
            self.unlist(seat);
        }
        self.set_session(seat, None);
        self.forget_data(self.seats[seat].lobby, seat);
        let Seat { id, address, lobby, user, is_announced, is_watcher, .. } = self.seats.remove(seat);
        self.seats_of_addresses.remove(address);
        let name = self.users[user].name.clone();
        self.users[user].seats.remove(seat);
        if is_watcher {
            self.lobbies[lobby].watchers -= 1;
            self.lobbies[lobby].presence.watcher_left(is_announced);
        } else {
            self.lobbies[lobby].presence.left(is_announced, Departure { user: name, seat: id, reason });
            self.note_seat_given_back(lobby, user, Role::Play);
        }
        self.update_listing(lobby);
        self.note_members_changed(lobby, now);
        self.remove_if_empty(lobby, user, now);
    }

    /// Returns the key of the user `name`, and creates the user if there is none.
    pub(super) fn user(&mut self, name: &str) -> UserKey {
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

    /// Returns the key of the lobby `code`, and creates the lobby if there is none: in this pool, with this number of
    /// seats.
    pub(super) fn lobby(&mut self, code: &str, now: u64, pool: Option<&str>, seats: Option<u32>) -> LobbyKey {
        if let Some(&lobby) = self.lobby_keys.get(code) {
            self.end_emptiness(lobby);
            return lobby;
        }
        if !self.max_lobbies.has_room(self.lobbies.len()) {
            self.remove_oldest_empty();
        }
        let code: SmolStr = code.into();
        // The time makes the epoch new after a restart; the maximum makes it new within one microsecond.
        self.last_epoch = now.max(self.last_epoch + 1);
        let lobby = self.lobbies.insert(Lobby::new(code.clone(), self.last_epoch));
        if let Some(changed) = &mut self.changed_lobbies {
            changed.push(code.clone());
        }
        if let Some(opened) = &mut self.opened_lobbies {
            opened.push((true, code.clone()));
        }
        self.lobby_keys.insert(code, lobby);
        if let Some(controls) = &mut self.control {
            controls.created(lobby, self.last_epoch, pool.map(|pool| Pool::new(pool, seats)));
        }
        lobby
    }

    /// Returns what was published to a lobby under an idempotency key.
    pub(crate) fn published(&self, lobby: LobbyKey, key: &str) -> Option<&Published> {
        self.published.get(lobby, key)
    }

    /// Keeps an idempotency key that the lobby does not have yet.
    pub(crate) fn note_published(&mut self, lobby: LobbyKey, key: String, published: Published) {
        self.published.insert(lobby, key, published);
    }

    /// Takes a lobby's unsent presence changes, as its `presence` does.
    pub(crate) fn take_presence_changes(&mut self, key: LobbyKey, now: Time) -> Changes {
        let lobby = &mut self.lobbies[key];
        let before = lobby.presence.update_at();
        let changes = lobby.presence.take_changes(lobby.seats_count(), self.count_rules, now);
        let after = lobby.presence.update_at();
        if before != after {
            self.count_updates.remove(&(before, lobby.epoch, key));
        }
        if after != Time::NEVER {
            self.count_updates.insert((after, lobby.epoch, key));
        }
        changes
    }

    /// Returns when the members of a lobby are to be told their number.
    pub(crate) fn next_count_update(&self) -> Option<Time> {
        self.count_updates.first().map(|&(at, ..)| at)
    }

    /// Takes the next lobby whose members are to be told their number by `now`. Its presence is no longer flushed.
    pub(crate) fn take_count_update(&mut self, now: Time) -> Option<LobbyKey> {
        self.next_count_update().filter(|&at| at <= now)?;
        let (.., lobby) = self.count_updates.pop_first()?;
        self.lobbies[lobby].presence.update_is_due();
        Some(lobby)
    }

    /// Returns the number of joined, away and reserved seats.
    pub(crate) fn taken(&self) -> usize {
        self.seats.len() + self.reserved
    }

    /// Returns the number of members of all lobbies, present and away.
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

    /// Returns a user's id.
    pub(crate) fn name_of(&self, user: UserKey) -> &SmolStr {
        &self.users[user].name
    }

    pub(crate) fn user_of(&self, seat: SeatKey) -> &SmolStr {
        self.name_of(self.seats[seat].user)
    }

    pub(crate) fn find_lobby(&self, code: &str) -> Option<LobbyKey> {
        self.lobby_keys.get(code).copied()
    }

    pub(crate) fn get_lobby(&self, lobby: LobbyKey) -> Option<&Lobby> {
        self.lobbies.get(lobby)
    }

    pub(crate) fn lobby_ref(&self, lobby: LobbyKey) -> &Lobby {
        &self.lobbies[lobby]
    }

    /// Locks a lobby against new members, or unlocks it.
    pub(crate) fn set_locked(&mut self, lobby: LobbyKey, locked: bool) {
        self.lobbies[lobby].locked = locked;
        self.update_listing(lobby);
    }

    pub(crate) fn lobby_mut(&mut self, lobby: LobbyKey) -> &mut Lobby {
        &mut self.lobbies[lobby]
    }

    /// Returns a lobby's members that have a connection, in join order.
    pub(crate) fn members(&self, lobby: LobbyKey) -> &[LobbyMember] {
        &self.lobbies[lobby].members
    }

    /// Returns a user's seats, oldest first.
    pub(crate) fn seats_of(&self, user: &str) -> &[SeatKey] {
        self.user_keys.get(user).map_or(&[], |&user| self.users[user].seats.as_slice())
    }
}
