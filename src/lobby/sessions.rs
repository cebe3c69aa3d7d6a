//! Seats of sessions: whose session holds a seat, and seats whose connection was lost.
//!
//! ```text
//! joined --set_away()--> away --a connection with a seat of its own session, or of its user: join()--> joined
//!                          +------leave(), when seat_grace has passed------> free
//! ```
//!
//! A seat without a session costs nothing here.

use super::directory::Directory;
use super::presence::AnnouncedMember;
use super::records::{Lobby, LobbyMember};
use super::session_records::{Away, Sessions};
pub(crate) use super::session_records::{AwayEvent, LostConn};
use crate::base::close::CloseReason;
use crate::base::entry::Role;
use crate::base::id::{AddressKey, ConnId, LobbyKey, SeatKey, UserKey};
use crate::base::session::{Claim, SessionHash};
use crate::base::time::Time;
use crate::config::DuplicateLogin;

/// Most users that one lobby keeps out after a kick. The oldest gives way.
pub(super) const MAX_KICKED: usize = 64;
/// Most away seats that are looked at to find when a refused client may try again.
const MAX_SEARCHED: usize = 1000;

impl Lobby {
    /// Away seats, in join order.
    pub(crate) fn away(&self) -> &[SeatKey] {
        self.sessions.as_ref().map_or(&[], |sessions| &sessions.away)
    }

    /// Seats whose connections are on other nodes of the cluster, in join order.
    pub(crate) fn elsewhere(&self) -> &[SeatKey] {
        self.sessions.as_ref().map_or(&[], |sessions| &sessions.elsewhere)
    }

    /// Number of members, present and away, without watchers.
    #[inline]
    pub(crate) fn seats_count(&self) -> usize {
        self.all_seats_count() - self.watchers as usize
    }

    /// Number of seats, of members and of watchers, present and away.
    pub(crate) fn all_seats_count(&self) -> usize {
        match &self.sessions {
            None => self.members.len(),
            Some(sessions) => self.members.len() + sessions.away.len() + sessions.elsewhere.len(),
        }
    }

    /// Number of watchers, present and away.
    pub(crate) fn watchers(&self) -> u32 {
        self.watchers
    }

    /// Whether a seat of the lobby has a session.
    pub(crate) fn has_sessions(&self) -> bool {
        self.sessions.as_ref().is_some_and(|sessions| sessions.seats > 0)
    }
}

impl Directory {
    // ---- sessions ----

    /// Returns the session that holds a seat.
    #[inline]
    pub(crate) fn session_of(&self, seat: SeatKey) -> Option<SessionHash> {
        if !self.seats[seat].has_session {
            return None;
        }
        self.sessions.get(seat).map(|session| session.hash)
    }

    /// Whether any seat has or had a session.
    pub(crate) fn has_had_sessions(&self) -> bool {
        !self.sessions.of_seats.is_untouched()
    }

    /// Sets the session that holds a seat, which is not away.
    pub(super) fn set_session(&mut self, key: SeatKey, session: Option<SessionHash>) {
        let seat = &mut self.seats[key];
        let had = std::mem::replace(&mut seat.has_session, session.is_some());
        if !had && session.is_none() {
            return;
        }
        let lobby = &mut self.lobbies[seat.lobby];
        let sessions = lobby.sessions.get_or_insert_default();
        sessions.seats = sessions.seats + u32::from(session.is_some()) - u32::from(had);
        lobby.drop_unused_sessions();
        self.sessions.set(key, session);
    }

    /// Returns the seat of `user`, in a lobby that `is_meant`, that a claim resumes: that of its session, else that of the
    /// session that it continues.
    pub(crate) fn seat_to_resume(
        &self,
        user: &str,
        claim: &Claim,
        is_meant: impl Fn(LobbyKey) -> bool,
    ) -> Option<SeatKey> {
        let seats = self.user_keys.get(user).map_or(&[][..], |&user| self.users[user].seats.as_slice());
        let find = |session: SessionHash| {
            let mut fits = seats.iter().copied().filter(|&seat| self.session_of(seat) == Some(session));
            fits.find(|&seat| is_meant(self.seats[seat].lobby))
        };
        find(claim.session).or_else(|| claim.was.and_then(find))
    }

    /// Whether `user` has a connection. A client that comes back gives way to it.
    pub(super) fn has_live_seat(&self, user: Option<UserKey>) -> bool {
        let seats = user.map_or(&[][..], |user| self.users[user].seats.as_slice());
        seats.iter().any(|&seat| !self.seats[seat].is_away)
    }

    // ---- away seats ----

    /// Returns an away seat's last connection; `None` for a seat with a connection.
    pub(crate) fn away(&self, seat: SeatKey) -> Option<&Away> {
        if !self.seats[seat].is_away {
            return None;
        }
        self.sessions.get(seat)?.away.as_ref()
    }

    /// Number of members of a lobby that are away.
    pub(crate) fn away_members(&self, lobby: LobbyKey) -> usize {
        let lobby = &self.lobbies[lobby];
        lobby.away().iter().filter(|&&seat| !self.seats[seat].is_watcher).count()
    }

    pub(crate) fn away_count(&self) -> usize {
        self.sessions.away_count()
    }

    /// Number of seats whose connections are on other nodes.
    pub(crate) fn elsewhere_count(&self) -> usize {
        self.seats.iter().filter(|(_, seat)| seat.is_elsewhere()).count()
    }

    /// All seats, by key.
    pub(crate) fn all_seats(&self) -> impl Iterator<Item = SeatKey> {
        self.seats.iter().map(|(seat, _)| seat)
    }

    /// All lobbies, by key.
    pub(crate) fn all_lobbies(&self) -> impl Iterator<Item = LobbyKey> {
        self.lobbies.iter().map(|(lobby, _)| lobby)
    }

    /// All away seats, in the order in which they are freed.
    pub(crate) fn all_away(&self) -> impl Iterator<Item = SeatKey> {
        self.sessions.ends.iter().map(|&(.., seat)| seat)
    }

    /// Returns the seats of a lobby's members and watchers, present and away, in join order.
    pub(crate) fn all_seats_in(&self, lobby: LobbyKey) -> impl Iterator<Item = SeatKey> {
        let lobby = &self.lobbies[lobby];
        let present = lobby.members.iter().map(|member| member.seat);
        self.merged(self.merged(present, lobby.away().iter().copied()), lobby.elsewhere().iter().copied())
    }

    /// Merges two lists of seats in join order.
    fn merged(
        &self,
        first: impl Iterator<Item = SeatKey>,
        second: impl Iterator<Item = SeatKey>,
    ) -> impl Iterator<Item = SeatKey> {
        let (mut first, mut second) = (first.peekable(), second.peekable());
        std::iter::from_fn(move || match (first.peek(), second.peek()) {
            (Some(&one), Some(&other)) if self.seats[other].id < self.seats[one].id => second.next(),
            (Some(_), _) => first.next(),
            (None, _) => second.next(),
        })
    }

    /// Returns the seats of a lobby's members, present and away, in join order.
    pub(crate) fn seats_in(&self, lobby: LobbyKey) -> impl Iterator<Item = SeatKey> {
        self.all_seats_in(lobby).filter(|&seat| !self.seats[seat].is_watcher)
    }

    /// Returns the seats of a lobby that were not announced to the other members, in join order.
    pub(crate) fn unannounced(&self, lobby: LobbyKey) -> Vec<SeatKey> {
        let lobby = &self.lobbies[lobby];
        // They have joined last.
        let is_unannounced = |seat: &SeatKey| !self.seats[*seat].is_announced;
        let present = lobby.members.iter().rev().map(|member| member.seat).take_while(is_unannounced);
        let away = lobby.away().iter().rev().copied().take_while(is_unannounced);
        let elsewhere = lobby.elsewhere().iter().rev().copied().take_while(is_unannounced);
        let mut seats: Vec<SeatKey> = present.chain(away).chain(elsewhere).collect();
        seats.sort_unstable_by_key(|&seat| self.seats[seat].id);
        seats
    }

    /// Whether the other members know that a seat is away.
    pub(crate) fn is_told_away(&self, seat: SeatKey) -> bool {
        self.away(seat).is_some_and(|away| away.is_told)
    }

    /// Keeps the seat of a session whose connection was lost.
    pub(crate) fn set_away(&mut self, key: SeatKey, lost: LostConn, now: Time) {
        self.unlist(key);
        let seat = &mut self.seats[key];
        seat.is_away = true;
        let (id, lobby) = (seat.id, &mut self.lobbies[seat.lobby]);
        let away = &mut lobby.sessions.as_mut().expect("the seat has a session").away;
        let position = away.partition_point(|&other| self.seats[other].id < id);
        away.insert(position, key);
        let (tell_at, ends) = self.sessions.deadlines(now);
        let away = Away { lost, tell_at, ends, is_told: false };
        self.sessions.get_mut(key).expect("the seat has a session").away = Some(away);
        self.sessions.to_tell.insert((tell_at, id, key));
        self.sessions.ends.insert((ends, id, key));
        self.note_members_changed(self.seats[key].lobby, now);
    }

    /// Queues the news that an away seat has a connection again, if the other members know that it was away.
    pub(crate) fn tell_back(&mut self, key: SeatKey, now: Time) {
        let (tell_at, _) = self.sessions.deadlines(now);
        let Some(away) = self.sessions.get_mut(key).and_then(|session| session.away.as_mut()) else { return };
        if !std::mem::take(&mut away.is_told) {
            return;
        }
        // They are told again if it gets no connection in the end.
        away.tell_at = tell_at;
        let seat = &self.seats[key];
        self.sessions.to_tell.insert((tell_at, seat.id, key));
        if seat.is_announced && !seat.is_watcher {
            let user = self.users[seat.user].name.clone();
            self.lobbies[seat.lobby].presence.came_back(AnnouncedMember { user, seat: seat.id });
        }
    }

    /// Gives an away seat a connection again, of which the other members were [told](Self::tell_back).
    pub(super) fn set_back(&mut self, key: SeatKey) {
        self.end_away(key);
        self.enlist(key);
    }

    /// Adds a seat that is not away to the members with a connection, or to those elsewhere.
    pub(super) fn enlist(&mut self, key: SeatKey) {
        let seat = &self.seats[key];
        let lobby = &mut self.lobbies[seat.lobby];
        if seat.is_elsewhere() {
            let elsewhere = &mut lobby.sessions.get_or_insert_default().elsewhere;
            let position = elsewhere.partition_point(|&other| self.seats[other].id < seat.id);
            elsewhere.insert(position, key);
        } else {
            let position = lobby.members.partition_point(|member| self.seats[member.seat].id < seat.id);
            lobby.members.insert(position, LobbyMember { seat: key, conn: seat.conn.key() });
        }
    }

    /// Removes a seat that is not away from the list in which it is.
    pub(super) fn unlist(&mut self, key: SeatKey) {
        let seat = &self.seats[key];
        let lobby = &mut self.lobbies[seat.lobby];
        if seat.is_elsewhere() {
            let sessions = lobby.sessions.as_mut().expect("the seat is in the list");
            sessions.elsewhere.retain(|&other| other != key);
            lobby.drop_unused_sessions();
        } else {
            let position = lobby.position_of(key);
            lobby.members.remove(position);
        }
    }

    /// Makes a seat that is not away one of another node: its connection here was lost, and the cluster does not know it yet.
    pub(crate) fn detach(&mut self, key: SeatKey) {
        self.unlist(key);
        self.seats[key].conn = ConnId::ELSEWHERE;
        self.enlist(key);
    }

    /// Removes a seat from the away ones.
    pub(super) fn end_away(&mut self, key: SeatKey) {
        let seat = &mut self.seats[key];
        seat.is_away = false;
        let id = seat.id;
        let away = &mut self.lobbies[seat.lobby].sessions.as_mut().expect("the seat has a session").away;
        away.retain(|&other| other != key);
        let away = self.sessions.get_mut(key).and_then(|session| session.away.take()).expect("the seat is away");
        self.sessions.to_tell.remove(&(away.tell_at, id, key));
        self.sessions.ends.remove(&(away.ends, id, key));
    }

    /// Returns when the next away seat is to be told of or freed.
    pub(crate) fn next_away_event(&self) -> Option<Time> {
        let Sessions { to_tell, ends, .. } = &self.sessions;
        if ends.is_empty() {
            return None;
        }
        [to_tell.first(), ends.first()].into_iter().flatten().map(|&(at, ..)| at).min()
    }

    /// Takes what is due by `now` for the next away seat. A seat whose time is over remains away until
    /// [`leave`](Self::leave) or [`extend_away`](Self::extend_away).
    pub(crate) fn take_away_event(&mut self, now: Time) -> Option<AwayEvent> {
        if let Some(&(.., seat)) = self.sessions.ends.first().filter(|&&(at, ..)| at <= now) {
            return Some(AwayEvent::End(seat));
        }
        self.sessions.to_tell.first().filter(|&&(at, ..)| at <= now)?;
        let (.., key) = self.sessions.to_tell.pop_first()?;
        self.sessions.get_mut(key)?.away.as_mut()?.is_told = true;
        let seat = &self.seats[key];
        if seat.is_announced && !seat.is_watcher {
            let user = self.users[seat.user].name.clone();
            self.lobbies[seat.lobby].presence.went_away(AnnouncedMember { user, seat: seat.id });
        }
        Some(AwayEvent::Tell(seat.lobby))
    }

    /// Keeps an away seat until `ends`: a connection that claims it is being authorized.
    pub(crate) fn extend_away(&mut self, seat: SeatKey, ends: Time) {
        let id = self.seats[seat].id;
        let away = self.sessions.get_mut(seat).and_then(|session| session.away.as_mut()).expect("the seat is away");
        let before = std::mem::replace(&mut away.ends, ends);
        self.sessions.ends.remove(&(before, id, seat));
        self.sessions.ends.insert((ends, id, seat));
    }

    /// Returns the oldest away seat of `user` that would make room for a login in `lobby`: one in the same lobby first.
    pub(super) fn away_seats_of(&self, user: Option<UserKey>, lobby: Option<LobbyKey>) -> Vec<SeatKey> {
        let seats = user.map_or(&[][..], |user| self.users[user].seats.as_slice());
        let away = || seats.iter().copied().filter(|&seat| self.seats[seat].is_away);
        let is_near = |seat: &SeatKey| Some(self.seats[*seat].lobby) == lobby;
        away().filter(|seat| is_near(seat)).chain(away().filter(|seat| !is_near(seat))).collect()
    }

    /// Returns when a client that was refused for `reason` may try again, if only away seats keep it out.
    pub(crate) fn room_after_away(
        &self,
        code: &str,
        role: Role,
        address: AddressKey,
        reason: CloseReason,
    ) -> Option<Time> {
        let first_end = |seats: &mut dyn Iterator<Item = SeatKey>| {
            seats.filter_map(|seat| self.away(seat)).map(|away| away.ends).min()
        };
        match reason {
            CloseReason::ServerFull if self.max_connections.has_room(self.taken() - self.away_count()) => {
                self.sessions.ends.first().map(|&(at, ..)| at)
            }
            CloseReason::LobbyFull => {
                let key = *self.lobby_keys.get(code)?;
                let lobby = &self.lobbies[key];
                let away = || lobby.away().iter().copied().filter(|&seat| self.seats[seat].role() == role);
                let has_room = self.seats_limit(Some(key), role).has_room(lobby.taken(role) - away().count());
                first_end(&mut away()).filter(|_| has_room)
            }
            CloseReason::LobbyLimit => {
                let is_alone = |seat: &SeatKey| self.lobbies[self.seats[*seat].lobby].has_one_member();
                first_end(&mut self.all_away().take(MAX_SEARCHED).filter(is_alone))
            }
            CloseReason::IpLimit => {
                let is_there = |seat: &SeatKey| self.seats[*seat].address == address;
                first_end(&mut self.all_away().take(MAX_SEARCHED).filter(is_there))
            }
            _ => None,
        }
    }

    // ---- kicked users ----

    /// Keeps the user of a seat out of its lobby for `seat_grace`.
    pub(crate) fn keep_out(&mut self, seat: SeatKey, now: Time) {
        let seat = &self.seats[seat];
        let user = self.users[seat.user].name.clone();
        let kicked = &mut self.lobbies[seat.lobby].sessions.get_or_insert_default().kicked;
        kicked.retain(|(other, until)| *until > now && *other != user);
        if kicked.len() == MAX_KICKED {
            kicked.pop_front();
        }
        kicked.push_back((user, now + self.sessions.grace));
    }

    pub(super) fn is_kicked(&self, lobby: LobbyKey, user: &str, now: Time) -> bool {
        let kicked = self.lobbies[lobby].sessions.as_ref().map(|sessions| &sessions.kicked);
        kicked.is_some_and(|kicked| kicked.iter().any(|(other, until)| **other == *user && now < *until))
    }

    // ---- checks ----

    /// Asserts the invariants of sessions and away seats.
    pub(super) fn check_sessions(&self) {
        let mut away_count = 0;
        for (key, lobby) in self.lobbies.iter() {
            let is_of_lobby = |seat: &SeatKey| self.seats[*seat].lobby == key && self.seats[*seat].is_away;
            assert!(lobby.away().iter().all(is_of_lobby), "away seats are in the list of their lobby");
            let by_id = |seats: &[SeatKey]| seats.is_sorted_by_key(|&seat| self.seats[seat].id);
            let present: Vec<SeatKey> = lobby.members.iter().map(|member| member.seat).collect();
            assert!(by_id(lobby.away()) && by_id(&present), "members are in join order");
            assert!(present.iter().all(|&seat| !self.seats[seat].is_away), "present members are not away");
            let seats = self.seats.iter().filter(|(_, seat)| seat.lobby == key && seat.has_session).count();
            assert_eq!(lobby.sessions.as_ref().map_or(0, |sessions| sessions.seats as usize), seats);
            let is_of_lobby = |seat: &SeatKey| self.seats[*seat].lobby == key && self.seats[*seat].is_elsewhere();
            assert!(
                lobby.elsewhere().iter().all(is_of_lobby) && by_id(lobby.elsewhere()),
                "seats elsewhere are listed"
            );
            away_count += lobby.away().len();
        }
        assert_eq!(away_count, self.away_count(), "every away seat has an end");
        for (key, seat) in self.seats.iter() {
            let session = self.sessions.get(key);
            assert_eq!(seat.has_session, session.is_some(), "a seat with a session has one");
            assert_eq!(seat.is_away, session.is_some_and(|session| session.away.is_some()));
            if let Some(away) = session.and_then(|session| session.away.as_ref()) {
                assert!(self.sessions.ends.contains(&(away.ends, seat.id, key)), "an away seat is freed one day");
                assert!(
                    away.is_told || self.sessions.to_tell.contains(&(away.tell_at, seat.id, key)),
                    "and told of before"
                );
            }
        }
    }

    /// Whether a live connection of another session makes a client that comes back give way.
    pub(super) fn must_give_way(&self, user: Option<UserKey>, claim: &Claim) -> bool {
        claim.position.is_some() && self.duplicate_login == DuplicateLogin::Replace && self.has_live_seat(user)
    }

    /// The connection of a seat; `None` while it is away, or if it is on another node.
    pub(crate) fn conn_of(&self, seat: SeatKey) -> Option<ConnId> {
        let seat = &self.seats[seat];
        (!seat.is_away && !seat.is_elsewhere()).then_some(seat.conn)
    }
}
