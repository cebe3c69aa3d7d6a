//! Carries out operators' commands, and shows lobbies and members to them.
//!
//! A command reaches the engine only through [`Engine::handle_operator`]. It uses the same functions as an application
//! does through its `Context`. The answer is returned at once, except the result of a ping, which
//! [`Engine::poll_operator`] returns later.

use std::time::Duration;

use super::Engine;
use super::app::App;
use super::core::Core;
use super::member::{Protocol, Sent};
use super::operator::{
    KickTarget, LobbyView, OperatorAnswer, OperatorCommand, OperatorRefusal, OperatorReport, Page, Payload, SeatView,
};
use super::recording::Input;
use super::state::pings::{PingTarget, Via};
use super::state::ticks::ClockRefusal;
use crate::base::arena::Key;
use crate::base::close::CloseReason;
use crate::base::id::{ConnId, LobbyKey, SeatKey};
use crate::base::time::Time;
use crate::lobby::control::settings::SettingsChange;
use crate::lobby::sessions::LostConn;
use crate::protocol;
use crate::ws::frame::Outgoing;

impl From<ClockRefusal> for OperatorRefusal {
    fn from(refusal: ClockRefusal) -> OperatorRefusal {
        match refusal {
            ClockRefusal::Runs => OperatorRefusal::ClockRuns,
            ClockRefusal::OutOfRange => OperatorRefusal::OutOfRange,
        }
    }
}

impl<A: App> Engine<A> {
    /// Carries out a command of an operator.
    ///
    /// # Errors
    ///
    /// An [`OperatorRefusal`] if the command cannot be carried out. It has no effect then.
    pub fn handle_operator(&mut self, now: Time, command: OperatorCommand) -> Result<OperatorAnswer, OperatorRefusal> {
        self.enter(now, &Input::Operator(&command));
        if command == OperatorCommand::Drain {
            self.drain();
            return Ok(OperatorAnswer::Draining(self.core.drain_totals().expect("the drain has begun")));
        }
        if self.core.must_submit(&command) {
            return self.core.submit(command);
        }
        let answer = self.core.operate(command);
        self.dispatch_events();
        answer
    }

    /// Whether a report waits to be taken by [`poll_operator`](Self::poll_operator).
    pub fn has_operator_reports(&self) -> bool {
        self.core.pings.has_reports()
            || self.core.cluster.as_ref().is_some_and(|cluster| cluster.submitted.has_reports())
    }

    /// Takes the next report: of a ping that has ended, or the answer to a command that was
    /// [submitted](OperatorAnswer::Submitted).
    pub fn poll_operator(&mut self) -> Option<OperatorReport> {
        // Recorded, because it makes room for another one: see MAX_PINGS.
        if self.has_operator_reports() {
            self.enter(self.core.now(), &Input::ReportTaken);
        }
        let ping = self.core.pings.take_report().map(OperatorReport::Pinged);
        ping.or_else(|| self.core.cluster.as_mut()?.submitted.take_report())
    }

    /// At most `limit` lobbies, after those of earlier pages. Their order is fixed but has no meaning.
    pub fn lobbies(&self, after: Option<u64>, limit: usize) -> Page<LobbyView> {
        self.lobbies_with("", after, limit)
    }

    /// At most `limit` lobbies whose code or name contains `text`, in the order of [`lobbies`](Self::lobbies). Upper and
    /// lower case of ASCII letters are the same.
    ///
    /// One call looks at 10,000 lobbies at most. So a page may have fewer lobbies than `limit`, or none, although
    /// others follow: `next` is `None` on the last page only.
    pub fn lobbies_with(&self, text: &str, after: Option<u64>, limit: usize) -> Page<LobbyView> {
        // Larger numbers are not keys, and no key follows them.
        let after = after.map(|key| LobbyKey::new(key.min(u64::from(u32::MAX) - 1) as usize));
        let (keys, next) = self.core.directory.lobbies_after(after, limit.max(1), text);
        Page {
            items: keys.iter().map(|&key| self.core.lobby_view(key)).collect(),
            next: next.map(|key| key.index() as u64),
        }
    }

    /// The lobby with this code, if it exists.
    pub fn lobby(&self, code: &str) -> Option<LobbyView> {
        self.core.directory.find_lobby(code).map(|key| self.core.lobby_view(key))
    }

    /// At most `limit` members and watchers of a lobby, in the order of joining.
    pub fn lobby_members(&self, code: &str, after: Option<u64>, limit: usize) -> Page<SeatView> {
        let directory = &self.core.directory;
        let seats = directory.find_lobby(code).map_or(Vec::new(), |lobby| directory.all_seats_in(lobby).collect());
        self.core.seats_page(&seats, |&seat| seat, after, limit)
    }

    /// At most `limit` of a user's seats, oldest first.
    pub fn user_seats(&self, user: &str, after: Option<u64>, limit: usize) -> Page<SeatView> {
        self.core.seats_page(self.core.directory.seats_of(user), |&seat| seat, after, limit)
    }

    /// The time of the last input.
    pub fn now(&self) -> Time {
        self.core.now()
    }
}

/// The seats that a command ends.
struct Concerned {
    /// Connections of this node: those of a lobby's members in join order.
    conns: Vec<ConnId>,
    away: Vec<SeatKey>,
    /// In a cluster: all of them, on any node.
    seats: Vec<SeatKey>,
}

impl Core {
    /// Carries out a command, in a cluster at its place in the log if it concerns all nodes.
    pub(super) fn operate(&mut self, command: OperatorCommand) -> Result<OperatorAnswer, OperatorRefusal> {
        match command {
            OperatorCommand::Publish { lobby, payload, exclude, idempotency_key } => {
                self.publish(&lobby, payload, &exclude, idempotency_key)
            }
            OperatorCommand::Send { user, payload } => {
                let seats = self.seats_of(&user)?.len();
                let sent = match self.admit(payload)? {
                    Payload::Json(data) if self.protocol == Protocol::Json => self.server_direct(&user, &data),
                    Payload::Json(text) | Payload::Text(text) => self.send_to_user(&user, Outgoing::Text(&text)),
                };
                // All nodes count alike, whichever of them has the connections.
                let sent = if self.is_clustered() { Sent { queued: seats, ..Sent::default() } } else { sent };
                Ok(OperatorAnswer::Sent { seq: None, sent, repeated: false })
            }
            OperatorCommand::Ping { user, timeout } => self.begin_ping(user, timeout),
            OperatorCommand::Kick { target, reconnect } => {
                let reason = if reconnect { CloseReason::ForcedReconnect } else { CloseReason::Kicked };
                let concerned = self.concerned(&target)?;
                Ok(self.end_concerned(&target, &concerned, reason))
            }
            OperatorCommand::Lock { lobby, locked } => match self.lock_lobby(&lobby, locked) {
                true => Ok(OperatorAnswer::Locked(locked)),
                false => Err(OperatorRefusal::NoSuchLobby),
            },
            OperatorCommand::Close { lobby } => {
                let target = KickTarget::Lobby(lobby.clone());
                let concerned = self.concerned(&target)?;
                // Locked, so that no user joins between two batches.
                self.lock_lobby(&lobby, true);
                if let Some(lobby) = self.directory.find_lobby(&lobby) {
                    self.directory.end_named_seats(lobby, self.clock.now());
                }
                Ok(self.end_concerned(&target, &concerned, CloseReason::LobbyClosed))
            }
            OperatorCommand::Change { lobby, change } => self.change_lobby(&lobby, change),
            OperatorCommand::Create(new) => self.create_lobby(&new),
            OperatorCommand::Clock(command) => {
                let (ticks, now) = (self.ticks.as_mut().ok_or(OperatorRefusal::NoTicks)?, self.clock.now());
                ticks.command(now, command)?;
                let view = ticks.view();
                self.update_corking();
                Ok(OperatorAnswer::Clock(view))
            }
            OperatorCommand::Drain => unreachable!("handle_operator() carries out a drain"),
        }
    }

    pub(super) fn expire_pings(&mut self) {
        self.pings.expire(self.clock.now(), &self.timers.unread, self.config.max_deferred_turns);
    }

    /// Checks a payload's length and kind.
    pub(super) fn admit(&self, payload: Payload) -> Result<Payload, OperatorRefusal> {
        self.check_payload(&payload)?;
        Ok(payload)
    }

    pub(super) fn check_payload(&self, payload: &Payload) -> Result<(), OperatorRefusal> {
        let (Payload::Json(text) | Payload::Text(text)) = payload;
        match payload {
            _ if text.len() > self.config.max_message_bytes.0 => Err(OperatorRefusal::TooLong),
            Payload::Text(_) if self.protocol == Protocol::Json => Err(OperatorRefusal::NotJson),
            Payload::Json(data)
                if self.protocol == Protocol::Json
                    && protocol::check_data(data, self.config.max_json_depth).is_err() =>
            {
                Err(OperatorRefusal::BadMessage)
            }
            _ => Ok(()),
        }
    }

    fn seats_of(&self, user: &str) -> Result<&[SeatKey], OperatorRefusal> {
        Some(self.directory.seats_of(user)).filter(|seats| !seats.is_empty()).ok_or(OperatorRefusal::NoSuchUser)
    }

    fn concerned(&self, target: &KickTarget) -> Result<Concerned, OperatorRefusal> {
        let lobby = |code: &str| self.directory.find_lobby(code).ok_or(OperatorRefusal::NoSuchLobby);
        let (conns, mut away) = match target {
            KickTarget::User(user) => {
                let seats = self.seats_of(user)?;
                (self.conns_of(seats), self.away_among(seats))
            }
            KickTarget::Lobby(code) => {
                let lobby = lobby(code)?;
                (self.conns_in(lobby), self.directory.lobby_ref(lobby).away().to_vec())
            }
            KickTarget::All => (self.members_by_age(), self.directory.all_away().collect()),
        };
        let mut seats = Vec::new();
        if self.is_clustered() {
            match target {
                KickTarget::User(user) => seats.extend_from_slice(self.seats_of(user)?),
                KickTarget::Lobby(code) => seats.extend(self.directory.all_seats_in(lobby(code)?)),
                KickTarget::All => seats.extend(self.directory.all_seats()),
            }
            // Keys differ from node to node.
            away.sort_unstable_by_key(|&seat| self.directory.seat(seat).id);
        }
        Ok(Concerned { conns, away, seats })
    }

    /// Ends seats, those of this node in batches.
    fn end_concerned(&mut self, target: &KickTarget, concerned: &Concerned, reason: CloseReason) -> OperatorAnswer {
        let Concerned { conns, away, seats } = concerned;
        let present = self.order_end(seats, reason);
        let ended = self.close_away(away, reason);
        let queued = self.order_close(target, conns.iter().copied(), reason);
        OperatorAnswer::Ending(ended + if self.is_clustered() { present } else { queued })
    }

    /// Sends `data` to all seats of a user as a `direct` without a sender.
    fn server_direct(&mut self, user: &str, data: &str) -> Sent {
        let mut sent = Sent::default();
        for seat in self.directory.seats_of(user).to_vec() {
            self.flush_presence(self.directory.seat(seat).lobby);
            if !self.directory.seats_of(user).contains(&seat) {
                continue;
            }
            let is_queued = self.send_direct(seat, |text, n| protocol::write_server_direct(text, n, data));
            sent.queued += usize::from(is_queued);
            sent.dropped += usize::from(!is_queued);
        }
        sent
    }

    fn begin_ping(&mut self, user: String, timeout: Duration) -> Result<OperatorAnswer, OperatorRefusal> {
        let seats = self.seats_of(&user)?;
        let conns = self.conns_of(seats);
        let elsewhere = self.seats_elsewhere(seats);
        if self.pings.is_full() {
            return Err(OperatorRefusal::Busy);
        }
        if !elsewhere.is_empty() {
            self.check_log_takes_more()?;
        }
        let ticket = self.pings.next_ticket();
        let mut targets = Vec::with_capacity(conns.len());
        for conn in conns {
            // A ping closes at most its own connection, so every later one has its seat; this skips it if that changes.
            let Some(seat) = self.conns[conn.key()].seat().map(|seat| self.directory.seat(seat).id) else { continue };
            let nonce = self.begin_check(conn.key(), timeout);
            self.rearm(conn.key());
            let ended = self.conns[conn.key()].close_kind.is_some();
            targets.push(PingTarget { seat, via: Via::Conn(conn, nonce), outcome: ended.then_some(None) });
        }
        targets.extend(elsewhere.into_iter().filter_map(|seat| self.ask_for_check(seat, ticket, timeout)));
        targets.sort_by_key(|target| target.seat);
        self.pings.begin(ticket, user, self.now() + timeout, targets);
        Ok(OperatorAnswer::Pinged(ticket))
    }

    /// Those of these seats whose connections are on other nodes of a cluster.
    pub(super) fn seats_elsewhere(&self, seats: &[SeatKey]) -> Vec<SeatKey> {
        seats.iter().copied().filter(|&seat| self.directory.seat(seat).is_elsewhere()).collect()
    }

    /// Locks or unlocks a lobby. Returns false if there is no such lobby.
    pub(super) fn lock_lobby(&mut self, lobby: &str, locked: bool) -> bool {
        let Some(lobby) = self.directory.find_lobby(lobby) else { return false };
        if self.config.lobby_control {
            let change = SettingsChange { locked: Some(locked), ..SettingsChange::default() };
            // The flush of presence may have closed the last member as too slow.
            return self.change_settings(lobby, None, &change).is_ok();
        }
        self.directory.set_locked(lobby, locked);
        true
    }

    pub(super) fn lobby_view(&self, key: LobbyKey) -> LobbyView {
        let lobby = self.directory.lobby_ref(key);
        LobbyView {
            code: lobby.code.to_string(),
            members: lobby.seats_count(),
            away: self.directory.away_members(key),
            locked: lobby.locked,
            epoch: lobby.epoch,
            seq: lobby.seq,
            control: self.control_summary(key),
        }
    }

    /// A page of `list`, which must be sorted by the ids of its seats.
    pub(super) fn seats_page<T>(
        &self,
        list: &[T],
        seat: impl Fn(&T) -> SeatKey,
        after: Option<u64>,
        limit: usize,
    ) -> Page<SeatView> {
        let id = |entry: &T| self.directory.seat(seat(entry)).id.0;
        let from = after.map_or(0, |after| list.partition_point(|entry| id(entry) <= after));
        let to = from.saturating_add(limit.max(1)).min(list.len());
        let items: Vec<SeatView> = list[from..to].iter().map(|entry| self.seat_view(seat(entry))).collect();
        let next = items.last().filter(|_| to < list.len()).map(|last| last.seat.0);
        Page { items, next }
    }

    pub(super) fn seat_view(&self, key: SeatKey) -> SeatView {
        let seat = self.directory.seat(key);
        let away = self.directory.away(key);
        let (conn, lost) = (self.directory.conn_of(key), self.lost(key));
        let slot = conn.map(|conn| &self.conns[conn.key()]);
        let address = conn.map(|conn| self.conns.address(conn.key()));
        SeatView {
            user: self.directory.user_of(key).to_string(),
            lobby: self.directory.lobby_ref(seat.lobby).code.to_string(),
            seat: seat.id,
            is_watcher: seat.is_watcher,
            data: self.member_data_json(key),
            away: away.is_some(),
            node: self.node_of(key),
            peer: slot.map(|slot| slot.peer.peer()).or(lost.map(|lost| lost.peer)),
            address: address.or(lost.map(|lost| lost.address)),
            queued_bytes: self.seat_queued_bytes(key),
            idle: self.seat_idle(key),
        }
    }

    /// The last connection of a seat that is away. In a cluster, the node that had it may be another one.
    fn lost(&self, key: SeatKey) -> Option<&LostConn> {
        self.directory.away(key).map(|away| &away.lost).filter(|_| !self.is_clustered())
    }

    pub(super) fn seat_queued_bytes(&self, key: SeatKey) -> Option<usize> {
        let conn = self.directory.conn_of(key);
        conn.map(|conn| self.egress.queued_size(conn.key()).bytes).or(self.lost(key).map(|_| 0))
    }

    /// Time since something was heard of a member.
    pub(super) fn seat_idle(&self, key: SeatKey) -> Option<Duration> {
        let conn = self.directory.conn_of(key);
        let last_heard = conn.map(|conn| self.conns[conn.key()].health.last_heard());
        last_heard.or(self.lost(key).map(|lost| lost.last_heard)).map(|at| self.now() - at)
    }
}
