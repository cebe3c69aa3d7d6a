//! The directory in a snapshot of the shared state: users, lobbies, seats, and everything on which a decision about them depends.
//!
//! ```text
//! numbers, then each lobby, oldest first: itself, presence, kicked users, published keys, seats in join order, lobby control
//! ```
//!
//! Keys of tables are not part of it. A lobby is named by its epoch and a seat by its id. A user is named once, where it first
//! appears, and then by its number. Connections, addresses, reservations for connections that are being authorized, and rate
//! buckets belong to one engine alone.

use std::sync::Arc;

use smol_str::SmolStr;

use super::control::entries::Entries;
use super::directory::Directory;
use super::presence::Presence;
use super::records::{AddressSeats, Lobby, Seat, User, UserSeats};
use super::session_records::{Away, LostConn};
use super::sessions::MAX_KICKED;
use super::{is_lobby_code, is_user_id};
use crate::base::arena::{Arena, SideTable};
use crate::base::close::LeaveReason;
use crate::base::entry::Role;
use crate::base::id::{AddressKey, ConnId, LobbyKey, SeatId, SeatKey, UserKey};
use crate::base::peer::Peer;
use crate::base::session::SessionHash;
use crate::base::snapshot::{SnapshotError, SnapshotReader, SnapshotWriter, ensure, ensure_setting};
use crate::base::time::Time;
use crate::config::{DuplicateLogin, Limit};

/// Flags of a seat.
const ANNOUNCED: u8 = 1;
const WATCHER: u8 = 2;
const SESSION: u8 = 4;
const AWAY: u8 = 8;
const TOLD: u8 = 16;
const DATA: u8 = 32;

/// Numbers of the users that have been written.
#[derive(Debug, Default)]
pub(crate) struct UserWriter {
    numbers: SideTable<UserKey, u64>,
    count: u64,
}

impl UserWriter {
    pub(super) fn write(&mut self, user: UserKey, directory: &Directory, to: &mut SnapshotWriter) {
        if let Some(&number) = self.numbers.get(user) {
            return to.number(number);
        }
        to.number(self.count);
        to.text(&directory.users[user].name);
        self.numbers.insert(user, self.count);
        self.count += 1;
    }
}

/// Users that have been read, by their numbers.
#[derive(Debug, Default)]
pub(crate) struct UserReader(Vec<UserKey>);

impl UserReader {
    pub(super) fn read(
        &mut self,
        directory: &mut Directory,
        from: &mut SnapshotReader<'_>,
    ) -> Result<UserKey, SnapshotError> {
        let number = from.len_up_to(self.0.len())?;
        if let Some(&user) = self.0.get(number) {
            return Ok(user);
        }
        let name = from.text()?;
        ensure(is_user_id(name), "a user has a valid id")?;
        ensure(!directory.user_keys.contains_key(name), "a user is named once")?;
        let name = SmolStr::new(name);
        let meter = directory.remembered.take(&name).unwrap_or_default();
        let user = User { name: name.clone(), seats: UserSeats::None, reserved: 0, authorizing: 0, meter };
        let user = directory.users.insert(user);
        directory.user_keys.insert(name, user);
        self.0.push(user);
        Ok(user)
    }
}

/// What a snapshot says of an away seat.
struct AwayTimes {
    reason: LeaveReason,
    /// `None`: the other members were told.
    tell_at: Option<Time>,
    ends: Time,
}

impl Directory {
    /// Number of connections that are being authorized and have a reservation.
    #[cfg(test)]
    pub(crate) fn authorizing_count(&self) -> u32 {
        let is_named = |key| self.control(key).is_some_and(|control| control.keeps_named_seats());
        self.lobbies.iter().map(|(key, lobby)| lobby.authorizing - u32::from(is_named(key))).sum()
    }

    // ---- writing ----

    /// Returns the lobbies that a snapshot contains, oldest first. A lobby that exists only for connections that are being
    /// authorized is not one of them.
    pub(crate) fn lobbies_to_share(&self) -> Vec<LobbyKey> {
        let is_shared = |key: LobbyKey, lobby: &Lobby| {
            let control = self.control(key);
            !lobby.has_no_seats() || control.is_some_and(|control| control.is_kept_empty())
        };
        let shared = self.lobbies.iter().filter(|&(key, lobby)| is_shared(key, lobby));
        let mut lobbies: Vec<LobbyKey> = shared.map(|(key, _)| key).collect();
        lobbies.sort_unstable_by_key(|&lobby| self.lobbies[lobby].epoch);
        lobbies
    }

    /// Writes the directory with these lobbies, which [`lobbies_to_share`](Self::lobbies_to_share) has returned.
    pub(crate) fn write(&self, lobbies: &[LobbyKey], to: &mut SnapshotWriter) {
        to.number(self.seats_created);
        to.number(self.last_epoch);
        self.write_emptied(to);
        to.len(lobbies.len());
        let mut users = UserWriter::default();
        let mut before = 0;
        for &lobby in lobbies {
            to.number(self.lobbies[lobby].epoch - before);
            before = self.lobbies[lobby].epoch;
            self.write_lobby(lobby, &mut users, to);
        }
    }

    fn write_lobby(&self, key: LobbyKey, users: &mut UserWriter, to: &mut SnapshotWriter) {
        let lobby = &self.lobbies[key];
        to.text(&lobby.code);
        to.number(lobby.seq);
        to.flag(lobby.locked);
        lobby.presence.write(to);
        let kicked = lobby.sessions.iter().flat_map(|sessions| &sessions.kicked);
        // Those that may come back are forgotten when the next user is kicked.
        let kicked: Vec<&(SmolStr, Time)> = kicked.filter(|(_, until)| *until > to.now()).collect();
        to.len(kicked.len());
        for (user, until) in kicked {
            to.text(user);
            to.time(*until);
        }
        self.published.write(key, to);
        to.len(lobby.all_seats_count());
        let mut before = 0;
        for seat in self.all_seats_in(key) {
            to.number(self.seats[seat].id.0 - before);
            before = self.seats[seat].id.0;
            self.write_seat(seat, users, to);
        }
        self.write_control(key, users, to);
    }

    fn write_seat(&self, key: SeatKey, users: &mut UserWriter, to: &mut SnapshotWriter) {
        let seat = &self.seats[key];
        let (session, away, data) = (self.session_of(key), self.away(key), self.member_data(key));
        let flag = |flag: u8, is_set: bool| if is_set { flag } else { 0 };
        to.byte(
            flag(ANNOUNCED, seat.is_announced)
                | flag(WATCHER, seat.is_watcher)
                | flag(SESSION, session.is_some())
                | flag(AWAY, away.is_some())
                | flag(TOLD, away.is_some_and(|away| away.is_told))
                | flag(DATA, data.is_some()),
        );
        users.write(seat.user, self, to);
        session.into_iter().for_each(|session| to.bits(session.bits()));
        if let Some(away) = away {
            to.reason(away.lost.reason);
            if !away.is_told {
                to.time(away.tell_at);
            }
            to.time(away.ends);
        }
        data.into_iter().for_each(|data| data.write(to));
    }

    // ---- reading ----

    /// Forgets all users, lobbies and seats. Rate buckets, and the number of changes of the list of lobbies, stay.
    pub(crate) fn forget_all(&mut self) {
        (self.users, self.lobbies, self.seats) = (Arena::default(), Arena::default(), Arena::default());
        self.user_keys.clear();
        self.lobby_keys.clear();
        self.count_updates.clear();
        self.sessions.clear();
        self.published.clear();
        self.control.iter_mut().for_each(|controls| controls.clear());
        self.seats_of_addresses = AddressSeats::default();
        (self.reserved, self.seats_created, self.last_epoch) = (0, 0, 0);
    }

    /// Reads a directory into this one, which is blank. Every seat is away, or elsewhere. Returns the
    /// lobbies, oldest first.
    ///
    /// # Errors
    ///
    /// The directory is in an unspecified state then: [`forget_all`](Self::forget_all) is to be called.
    pub(crate) fn read(&mut self, from: &mut SnapshotReader<'_>) -> Result<Vec<LobbyKey>, SnapshotError> {
        (self.seats_created, self.last_epoch) = (from.count()?, from.count()?);
        self.read_emptied(from)?;
        let len = from.len()?;
        ensure_setting(self.max_lobbies.bound().is_none_or(|bound| len <= bound as usize), "max_lobbies")?;
        let (mut users, mut lobbies, mut seats) = (UserReader::default(), Vec::new(), Vec::new());
        let mut epoch = 0;
        for _ in 0..len {
            let distance = from.count()?;
            ensure(distance > 0 && epoch + distance <= self.last_epoch, "lobbies are ordered by their epochs")?;
            epoch += distance;
            lobbies.push(self.read_lobby(epoch, &mut users, &mut seats, from)?);
        }
        // The seats of a user are in join order, across its lobbies.
        seats.sort_unstable_by_key(|&(id, _)| id);
        ensure(seats.windows(2).all(|pair| pair[0].0 != pair[1].0), "every seat has an id of its own")?;
        for (_, seat) in seats {
            self.users[self.seats[seat].user].seats.push(seat);
        }
        lobbies.iter().for_each(|&lobby| self.update_listing(lobby));
        self.ensure_limits()?;
        Ok(lobbies)
    }

    fn read_lobby(
        &mut self,
        epoch: u64,
        users: &mut UserReader,
        all_seats: &mut Vec<(SeatId, SeatKey)>,
        from: &mut SnapshotReader<'_>,
    ) -> Result<LobbyKey, SnapshotError> {
        let code = from.text()?;
        ensure(is_lobby_code(code), "a lobby has a valid code")?;
        ensure(!self.lobby_keys.contains_key(code), "every lobby has a code of its own")?;
        let code = SmolStr::new(code);
        let (seq, locked, presence) = (from.count()?, from.flag()?, Presence::read(from)?);
        let update_at = presence.update_at();
        let key = self.lobbies.insert(Lobby { seq, presence, locked, ..Lobby::new(code.clone(), epoch) });
        self.lobby_keys.insert(code, key);
        if update_at != Time::NEVER {
            self.count_updates.insert((update_at, epoch, key));
        }
        if let Some(controls) = &mut self.control {
            controls.created(key, epoch, None);
        }
        let kicked = from.len()?;
        ensure(kicked <= MAX_KICKED, "a lobby keeps out at most 64 kicked users")?;
        for _ in 0..kicked {
            let kicked = (from.text()?.into(), from.time()?);
            self.lobbies[key].sessions.get_or_insert_default().kicked.push_back(kicked);
        }
        self.published.read(key, from)?;
        let mut id = 0;
        for _ in 0..from.len()? {
            let distance = from.count()?;
            ensure(distance > 0 && id + distance <= self.seats_created, "seats are ordered by their ids")?;
            id += distance;
            all_seats.push((SeatId(id), self.read_seat(SeatId(id), key, users, from)?));
        }
        self.read_control(key, users, from)?;
        let is_kept = self.control(key).is_some_and(|control| control.is_kept_empty());
        ensure(!self.lobbies[key].has_no_seats() || is_kept, "a lobby without members is kept for a reason")?;
        Ok(key)
    }

    fn read_seat(
        &mut self,
        id: SeatId,
        lobby: LobbyKey,
        users: &mut UserReader,
        from: &mut SnapshotReader<'_>,
    ) -> Result<SeatKey, SnapshotError> {
        let flags = from.byte()?;
        let has = |flag: u8| flags & flag != 0;
        ensure(flags < 2 * DATA, "a seat has known flags")?;
        ensure(has(SESSION) || !has(AWAY), "an away seat has a session")?;
        ensure(has(AWAY) || !has(TOLD), "the others were told of an away seat")?;
        ensure(!has(DATA) || !has(WATCHER), "watchers have no data")?;
        let user = users.read(self, from)?;
        let session = if has(SESSION) { Some(SessionHash::from_bits(from.bits()?)) } else { None };
        let away = if has(AWAY) {
            let (reason, tell_at) = (from.reason()?, if has(TOLD) { None } else { Some(from.time()?) });
            Some(AwayTimes { reason, tell_at, ends: from.time()? })
        } else {
            None
        };
        let key = self.seats.insert(Seat {
            id,
            conn: ConnId::ELSEWHERE,
            address: AddressKey::NONE,
            lobby,
            is_announced: has(ANNOUNCED),
            has_session: false,
            is_away: false,
            is_watcher: has(WATCHER),
            user,
        });
        let state = &mut self.lobbies[lobby];
        state.watchers += u32::from(has(WATCHER));
        if !has(ANNOUNCED) {
            state.presence.joined(has(WATCHER));
        }
        let has_unannounced = state.presence.unannounced() != (0, 0);
        ensure(!has(ANNOUNCED) || !has_unannounced, "members that were not announced have joined last")?;
        self.set_session(key, session);
        match away {
            Some(away) => self.insert_away(key, away, from.now()),
            None => self.enlist(key),
        }
        if has(DATA) {
            let controls = self.control.as_mut().ok_or(SnapshotError::Setting("lobby_control"))?;
            controls.data_of_members.insert(key, Box::new(Entries::read(from, controls.bounds.member_data)?));
        }
        Ok(key)
    }

    /// Adds an away seat to its lobby, whose seats are added in join order.
    fn insert_away(&mut self, key: SeatKey, away: AwayTimes, now: Time) {
        let AwayTimes { reason, tell_at, ends } = away;
        let seat = &mut self.seats[key];
        seat.is_away = true;
        self.lobbies[seat.lobby].sessions.as_mut().expect("the seat has a session").away.push(key);
        if let Some(tell_at) = tell_at {
            self.sessions.to_tell.insert((tell_at, seat.id, key));
        }
        self.sessions.ends.insert((ends, seat.id, key));
        let lost = LostConn::elsewhere(reason, now);
        let away = Away { lost, tell_at: tell_at.unwrap_or(Time::ZERO), ends, is_told: tell_at.is_none() };
        self.sessions.get_mut(key).expect("the seat has a session").away = Some(away);
    }

    /// Sets the data of the identity of a member that is away.
    pub(crate) fn set_away_data(&mut self, seat: SeatKey, data: Option<Arc<[u8]>>) {
        if let Some(away) = self.sessions.get_mut(seat).and_then(|session| session.away.as_mut()) {
            away.lost.data = data;
        }
    }

    /// Checks the limits that [`check`](Self::check) asserts.
    fn ensure_limits(&self) -> Result<(), SnapshotError> {
        let fits = |count: usize, limit: Limit| limit.bound().is_none_or(|bound| count <= bound as usize);
        ensure_setting(fits(self.taken(), self.max_connections), "max_connections")?;
        for (_, lobby) in self.lobbies.iter() {
            ensure_setting(fits(lobby.taken(Role::Play), self.max_per_lobby), "max_per_lobby")?;
            ensure_setting(fits(lobby.taken(Role::Watch), self.max_watchers()), "max_watchers")?;
        }
        for (_, user) in self.users.iter() {
            match self.duplicate_login {
                DuplicateLogin::Replace | DuplicateLogin::Reject => {
                    ensure_setting(user.taken() <= 1, "duplicate_login")?
                }
                DuplicateLogin::Allow => ensure_setting(fits(user.taken(), self.max_per_user), "max_per_user")?,
            }
        }
        Ok(())
    }
}

impl LostConn {
    /// A connection of another engine, of which nothing else is known. It was lost at `now`.
    pub(crate) fn elsewhere(reason: LeaveReason, now: Time) -> LostConn {
        LostConn { reason, peer: Peer::UNKNOWN, address: Peer::UNKNOWN.ip(), last_heard: now, data: None }
    }
}
