//! Sessions: seats whose connection was lost are kept for a while, and their clients come back to them.
//!
//! Which seat a client gets is up to [`Directory::plan`](crate::lobby::directory::Directory::plan); what it missed is sent
//! by [`resuming`](super::resuming).

use log::info;

use super::Engine;
use super::app::App;
use super::core::Core;
use super::member::{Identity, Member};
use super::seating::{Arrival, Continuity};
use super::state::conn::ConnState;
use super::state::events::AppEvent;
use crate::base::close::{CloseKind, CloseReason, LeaveReason};
use crate::base::event_kind::EventKind;
use crate::base::id::{ConnId, ConnKey, LobbyKey, SeatKey};
use crate::base::session::{Claim, Position};
use crate::base::time::Time;
use crate::lobby::directory::{Plan, SeatRequest};
use crate::lobby::entering::Wanted;
use crate::lobby::sessions::{AwayEvent, LostConn};
use crate::ws::handshake::Acceptance;

impl<A: App> Engine<A> {
    /// Delivers the messages that wait for a tick on the connection whose seat an admitted client is about to get, if either
    /// of them has a session: what a `welcome` says of their outcome is final, and they are not messages of the new session.
    ///
    /// The connection's own reservation, if it had one, is released already: it must not count against it.
    pub(super) fn complete_session(
        &mut self,
        key: ConnKey,
        wanted: Wanted<'_>,
        decision: &Result<Identity, CloseReason>,
    ) {
        let Ok(identity) = decision else { return };
        let core = &self.core;
        let claim = wanted.claim;
        if claim.is_none() && !core.directory.has_had_sessions() {
            return;
        }
        let code = core.directory.resolve(&wanted, &identity.user, core.now());
        let request = SeatRequest::new(&code, &identity.user, core.address_of(key), &wanted);
        if let Ok(Plan::Resume(seat) | Plan::TakeOver(seat)) = core.directory.plan(&request, core.now())
            && (claim.is_some() || core.directory.session_of(seat).is_some())
            && let Some(conn) = core.directory.conn_of(seat)
        {
            self.drain_inbox(conn);
        }
    }
}

impl Core {
    /// Whether the seat of a connection is kept when the connection is closed for `reason`.
    pub(super) fn keeps_seat(&self, key: ConnKey, seat: SeatKey, reason: CloseReason) -> bool {
        let is_ordered = |kind| !matches!(kind, CloseKind::ForcedReconnect | CloseKind::ServerShutdown);
        self.directory.session_of(seat).is_some()
            && reason.keeps_seat()
            && !self.config.seat_grace.is_zero()
            && !self.is_draining()
            // A member that is about to be kicked does not escape.
            && !self.conns[key].queued_close.is_some_and(is_ordered)
    }

    /// Keeps the seat of a connection that is being closed.
    pub(super) fn set_away(&mut self, key: ConnKey, seat: SeatKey, reason: CloseReason) {
        let member = Member { is_away: true, ..self.member(key).expect("the connection has a seat") };
        let reason = reason.away_reason();
        let lost = LostConn {
            reason,
            peer: self.conns[key].peer.peer(),
            address: self.conns.address(key),
            last_heard: self.conns[key].health.last_heard(),
            data: member.data.clone(),
        };
        if !self.has_address_hold(seat) {
            self.addresses.hold(self.directory.seat(seat).address);
        }
        self.note_written_directs(key, seat);
        self.directory.set_away(seat, lost, self.clock.now());
        if self.config.lobby_control {
            // A countdown is cancelled at once.
            self.unflushed_lobbies.push(member.lobby_key);
        }
        self.set_closing(key);
        self.note_undelivered(&member);
        info!("conn={} user={:?} lobby={} away: {}", member.conn, member.user(), member.lobby(), reason.word());
        self.counters.seats_kept += 1;
        self.feed_member(EventKind::Away, &member, Some(reason));
        self.events.push_back(AppEvent::Away(member, reason));
    }

    /// Whether a seat keeps its address from being forgotten: it has no connection, or one from another address.
    pub(super) fn has_address_hold(&self, key: SeatKey) -> bool {
        if self.is_clustered() {
            return false;
        }
        let seat = self.directory.seat(key);
        seat.is_away || self.conns[seat.conn.key()].address != Some(seat.address)
    }

    /// Frees a seat that is away.
    pub(super) fn end_away(&mut self, seat: SeatKey, reason: LeaveReason) {
        let member = self.member_in(seat);
        let address = self.directory.seat(seat).address;
        self.directory.leave(seat, reason, self.clock.now());
        if !self.is_clustered() {
            self.addresses.left(address, self.clock.now());
        }
        info!("user={:?} lobby={} left: {}", member.user(), member.lobby(), reason.word());
        self.forget_session(seat, member.lobby_key);
        self.note_left(member, reason);
    }

    /// The away seats among these.
    pub(super) fn away_among(&self, seats: &[SeatKey]) -> Vec<SeatKey> {
        seats.iter().copied().filter(|&seat| self.directory.seat(seat).is_away).collect()
    }

    /// Frees away seats, unless the reason is one after which seats are kept. Returns the number of seats freed.
    pub(super) fn close_away(&mut self, seats: &[SeatKey], reason: CloseReason) -> usize {
        if reason.keeps_seat() {
            return 0;
        }
        for &seat in seats {
            if reason.is_kick() {
                self.directory.keep_out(seat, self.clock.now());
            }
            self.end_away(seat, reason.leave_reason());
        }
        seats.len()
    }

    /// Frees all away seats, each with the reason for which its connection was lost. In a cluster they are not this node's
    /// alone.
    pub(super) fn end_away_for_drain(&mut self) {
        if self.is_clustered() {
            return;
        }
        let seats: Vec<SeatKey> = self.directory.all_away().collect();
        for seat in seats {
            let reason = self.directory.away(seat).expect("the seat is away").lost.reason;
            self.end_away(seat, reason);
        }
    }

    /// Tells of away seats and frees them, where it is time to.
    pub(super) fn expire_away(&mut self) {
        let now = self.now();
        while self.directory.away_count() > 0
            && let Some(event) = self.directory.take_away_event(now)
        {
            match event {
                AwayEvent::Tell(lobby) => self.unflushed_lobbies.push(lobby),
                AwayEvent::End(seat) => match self.claim_deadline(seat).filter(|_| !self.is_clustered()) {
                    Some(ends) => self.directory.extend_away(seat, ends),
                    None => {
                        let reason = self.directory.away(seat).expect("the seat is away").lost.reason;
                        self.end_away(seat, reason);
                    }
                },
            }
        }
    }

    /// Returns when it is certain whether a connection that is being authorized gets this seat; `None` if none claims it.
    fn claim_deadline(&self, seat: SeatKey) -> Option<Time> {
        let code = &self.directory.lobby_ref(self.directory.seat(seat).lobby).code;
        let session = self.directory.session_of(seat)?;
        let deadlines = self.conns.pending().filter_map(|id| {
            let slot = &self.conns[id.key()];
            let ConnState::Pending(Some(pending)) = &slot.state else { return None };
            // A POST claims no seat.
            let is_post = matches!(slot.wire.pending_request(), Some(Acceptance::Post(_)));
            let claim = pending.claim.filter(|_| pending.requested.may_be(code) && !is_post)?;
            let is_claimed = claim.session == session || claim.was == Some(session);
            (is_claimed && slot.deadline > self.now()).then_some(slot.deadline)
        });
        deadlines.max()
    }

    /// Begins or continues the state of the session that has just got this seat, and the history of its lobby.
    pub(super) fn begin_session(&mut self, seat: SeatKey, arrival: Arrival, claim: Option<&Claim>) {
        let lobby = self.directory.seat(seat).lobby;
        match (self.directory.session_of(seat), arrival) {
            (None, Arrival::Joined) => self.sessions.remove(seat),
            (None, _) => self.sessions.end(seat),
            // A claim with an earlier position changes nothing: it may be an old attempt that was late, of a client that has
            // read the `welcome` since, and whose requests were executed.
            (Some(_), Arrival::Resumed { continuity: Continuity::Same | Continuity::Unread, .. }) => return,
            (Some(_), Arrival::Joined) => self.sessions.begin(seat),
            (Some(_), Arrival::TookOver | Arrival::Resumed { continuity: Continuity::Reloaded, .. }) => {
                self.sessions.renew(seat);
            }
        }
        if let Some(state) = self.sessions.get_mut(seat) {
            state.begun_at = claim.and_then(|claim| claim.position);
        }
        self.update_history(lobby);
    }

    /// Whether a client has read its position in an earlier session of the same name. It had not received the `welcome` of
    /// this one, and may have sent requests that this one does not know.
    pub(super) fn is_of_earlier_session(&self, seat: SeatKey, position: Option<Position>) -> bool {
        let (Some(position), Some(state)) = (position, self.sessions.get(seat)) else { return false };
        let epoch = self.directory.lobby_ref(self.directory.seat(seat).lobby).epoch;
        // With the position with which this session began, the client may have read nothing since.
        position.epoch != epoch
            || state.since_seq.is_none_or(|since_seq| position.seq < since_seq)
            || position.n < state.since_n
            || state.begun_at == Some(position)
    }

    /// Removes the state of a session whose seat was freed.
    pub(super) fn forget_session(&mut self, seat: SeatKey, lobby: LobbyKey) {
        self.sessions.remove(seat);
        if let Some(cluster) = &mut self.cluster {
            cluster.seat_freed(seat);
        }
        self.update_history(lobby);
    }

    /// Keeps a history for a lobby that has a session, and none for any other.
    fn update_history(&mut self, key: LobbyKey) {
        match self.directory.get_lobby(key).filter(|lobby| lobby.has_sessions()) {
            Some(lobby) => self.histories.keep(key, lobby.epoch, lobby.seq),
            None => self.histories.remove(key),
        }
    }

    /// Notes what the connection that a seat had was written. All nodes of a cluster decide alike: a connection that is live
    /// counts as one that has received everything.
    pub(super) fn note_directs_before(&mut self, conn: Option<ConnId>, seat: SeatKey, was_away: bool) {
        match conn {
            _ if self.is_clustered() => {
                if let Some(state) = self.sessions.get_mut(seat).filter(|_| !was_away) {
                    state.directs.note_all_written();
                }
            }
            Some(conn) => self.note_written_directs(conn.key(), seat),
            None => {}
        }
    }

    /// Notes that everything sent to a connection was written, if it was and the seat has a session.
    pub(super) fn note_written_directs(&mut self, key: ConnKey, seat: SeatKey) {
        if !self.egress.has_queue(key)
            && let Some(state) = self.sessions.get_mut(seat)
        {
            state.directs.note_all_written();
        }
    }
}
