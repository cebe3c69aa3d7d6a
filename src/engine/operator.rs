//! Operator commands, and paged views of lobbies and members.
//!
//! A command is plain data and reaches the engine only through [`Engine::handle_operator`]. It uses the same functions
//! as an application does through its `Context`. The answer is returned at once, except the result of a ping, which
//! [`Engine::poll_operator`] returns later. Knows no HTTP and no JSON of the admin port: see [`admin`](crate::admin).

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use super::Engine;
use super::app::App;
use super::core::Core;
use super::drain::DrainTotals;
use super::member::{Exclude, Protocol, Sent};
use super::recording::Input;
use super::tick::{ClockCommand, ClockView};
use super::unread::UnreadInput;
use crate::base::close::CloseReason;
use crate::base::id::{ConnId, SeatId};
use crate::base::time::Time;
use crate::lobby::directory::{LobbyKey, SeatKey};
use crate::protocol;
use crate::ws::frame::{Frame, Outgoing};

/// Largest number of operators' pings that wait for their answers, or whose reports have not been taken.
const MAX_PINGS: usize = 64;

/// A command from an operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OperatorCommand {
    /// Sends a payload to all members of a lobby.
    Publish {
        /// The lobby's code.
        lobby: String,
        /// The payload to send.
        payload: Payload,
    },
    /// Sends a payload to all connections of a user.
    Send {
        /// The user's id.
        user: String,
        /// The payload to send.
        payload: Payload,
    },
    /// Checks whether a user's pages are alive. [`Engine::poll_operator`] returns the result.
    Ping {
        /// The user's id.
        user: String,
        /// Longest time to wait for an answer.
        timeout: Duration,
    },
    /// Closes connections with 4003 `kicked`, or with 4103 `reconnect`.
    Kick {
        /// The connections to close.
        target: KickTarget,
        /// Whether the clients are asked to reconnect: closes with 4103 instead of 4003.
        reconnect: bool,
    },
    /// Locks a lobby against new members, or unlocks it. A lobby that becomes empty is removed together with its lock.
    Lock {
        /// The lobby's code.
        lobby: String,
        /// Whether the lobby is locked from now on.
        locked: bool,
    },
    /// Closes all connections in a lobby with 4006 `lobby_closed`.
    Close {
        /// The lobby's code.
        lobby: String,
    },
    /// Drains the server, as [`Engine::handle_drain`] does.
    Drain,
    /// Changes the game clock. The protocol, keep-alive and all timeouts are not affected.
    Clock(ClockCommand),
}

/// Payload of an operator's message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Payload {
    /// JSON. With [`Protocol::Json`] it is sent as the `data` of a `message` or `direct` whose `from` is `null`. With
    /// [`Protocol::Raw`] it is sent unchanged as a text message.
    Json(String),
    /// Text, sent unchanged as a text message. Allowed only with [`Protocol::Raw`].
    Text(String),
}

/// The connections that an operator's kick closes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KickTarget {
    /// All connections of the user with this id.
    User(String),
    /// All connections in the lobby with this code.
    Lobby(String),
    /// The connections of all members.
    All,
}

/// Result of an [`OperatorCommand`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OperatorAnswer {
    /// The payload was published or sent.
    Sent {
        /// The `seq` of the `message` in its lobby; `None` for a direct message, and with [`Protocol::Raw`].
        seq: Option<u64>,
        /// Numbers of receivers: queued, dropped, excluded.
        sent: Sent,
    },
    /// The ping was sent. [`Engine::poll_operator`] will return its report, with this number as ticket.
    Pinged(u64),
    /// This many connections will be closed: the first `drain_batch` at once, the rest in batches.
    Ending(usize),
    /// Whether the lobby is locked now.
    Locked(bool),
    /// The server is draining, with these totals so far.
    Draining(DrainTotals),
    /// The state of the game clock after the command.
    Clock(ClockView),
}

/// Why an [`OperatorCommand`] was not carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OperatorRefusal {
    /// No lobby with that code exists.
    NoSuchLobby,
    /// The user has no connection.
    NoSuchUser,
    /// The payload is plain text, which the JSON protocol cannot carry.
    NotJson,
    /// The payload is longer than `max_message_bytes`.
    TooLong,
    /// Too many pings wait for their answers, or for their reports to be taken.
    Busy,
    /// `tick_hz` is off.
    NoTicks,
    /// The clock is running. Only a paused clock can be stepped.
    ClockRuns,
    /// The number is out of range: 1 to 100 for the steps that have still to run, 1 to 1000 for the slowdown.
    OutOfRange,
}

/// Result of an operator's ping.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PingReport {
    /// The number from [`OperatorAnswer::Pinged`].
    pub ticket: u64,
    /// The id of the pinged user.
    pub user: String,
    /// For each of the user's seats the latency, or `None` if the page did not answer in time.
    pub answers: Vec<(SeatId, Option<Duration>)>,
}

/// One page of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page<T> {
    /// Items in a fixed order. An item that exists while all pages are requested is on exactly one of them.
    pub items: Vec<T>,
    /// The value of `after` for the next page; `None` on the last page.
    pub next: Option<u64>,
}

/// A lobby, as an operator sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LobbyView {
    /// The lobby's code.
    pub code: String,
    /// Number of members.
    pub members: usize,
    /// Whether the lobby is locked against new members.
    pub locked: bool,
    /// Epoch of the lobby. Each newly created lobby has another.
    pub epoch: u64,
    /// The lobby's last sequence number.
    pub seq: u64,
}

/// A member, as an operator sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeatView {
    /// The user's id.
    pub user: String,
    /// The lobby's code.
    pub lobby: String,
    /// Id of the seat: the `conn` field of the protocol.
    pub seat: SeatId,
    /// Remote address of the connection.
    pub peer: SocketAddr,
    /// Bytes that wait to be written to the connection.
    pub queued_bytes: usize,
    /// Time since bytes were last received from the connection.
    pub idle: Duration,
}

/// The operators' pings.
#[derive(Default)]
pub(super) struct Pings {
    last_ticket: u64,
    /// Pings that wait for answers.
    open: Vec<Ping>,
    /// Reports that have not been taken.
    done: VecDeque<PingReport>,
}

struct Ping {
    ticket: u64,
    user: String,
    deadline: Time,
    /// Number of turns for which the ping has waited beyond its deadline because of unread input.
    deferred: u32,
    targets: Vec<PingTarget>,
}

/// One connection of the pinged user.
struct PingTarget {
    conn: ConnId,
    seat: SeatId,
    nonce: u64,
    /// The latency, or `Some(None)` if there was no answer. `None` while the answer is awaited.
    outcome: Option<Option<Duration>>,
}

impl Pings {
    pub(super) fn is_empty(&self) -> bool {
        self.open.is_empty() && self.done.is_empty()
    }

    pub(super) fn last_ticket(&self) -> u64 {
        self.last_ticket
    }

    pub(super) fn set_last_ticket(&mut self, ticket: u64) {
        self.last_ticket = ticket;
    }

    /// The earliest deadline of a ping that waits for answers.
    pub(super) fn next(&self) -> Option<Time> {
        self.open.iter().map(|ping| ping.deadline).min()
    }

    /// Stores the answer to the check that was begun with `nonce`.
    pub(super) fn answered(&mut self, conn: ConnId, nonce: u64, latency: Duration) {
        self.resolve(|target| (target.conn == conn && target.nonce == nonce).then_some(Some(latency)));
    }

    /// Sets the outcome of the checks of a connection that is closing to "no answer".
    pub(super) fn ended(&mut self, conn: ConnId) {
        self.resolve(|target| (target.conn == conn).then_some(None));
    }

    /// Ends the pings whose deadline has passed. Waits for connections with unread input, at most `max_deferred` turns
    /// longer.
    pub(super) fn expire(&mut self, now: Time, unread: &UnreadInput, max_deferred: u32) {
        for ping in self.open.iter_mut().filter(|ping| ping.deadline <= now) {
            let may_wait = ping.deferred < max_deferred;
            for target in ping.targets.iter_mut().filter(|target| target.outcome.is_none()) {
                if may_wait && unread.contains(target.conn) {
                    ping.deadline = Time::from_micros(now.as_micros().saturating_add(1));
                } else {
                    target.outcome = Some(None);
                }
            }
            ping.deferred += 1;
        }
        self.collect();
    }

    /// Sets the outcomes that `outcome` yields for targets without one.
    fn resolve(&mut self, outcome: impl Fn(&PingTarget) -> Option<Option<Duration>>) {
        if self.open.is_empty() {
            return;
        }
        for target in self.open.iter_mut().flat_map(|ping| &mut ping.targets) {
            target.outcome = target.outcome.or_else(|| outcome(target));
        }
        self.collect();
    }

    /// Turns the pings of which all outcomes are known into reports.
    fn collect(&mut self) {
        let Pings { open, done, .. } = self;
        open.retain_mut(|ping| {
            if ping.targets.iter().any(|target| target.outcome.is_none()) {
                return true;
            }
            let answers = ping.targets.iter().map(|target| (target.seat, target.outcome.flatten())).collect();
            done.push_back(PingReport { ticket: ping.ticket, user: std::mem::take(&mut ping.user), answers });
            false
        });
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
        let answer = self.core.operate(command);
        self.dispatch_events();
        answer
    }

    /// Takes the report of the next operator's ping that has ended.
    pub fn poll_operator(&mut self) -> Option<PingReport> {
        // Recorded, because it makes room for another ping: see MAX_PINGS.
        if !self.core.pings.done.is_empty() {
            self.enter(self.core.now(), &Input::ReportTaken);
        }
        self.core.pings.done.pop_front()
    }

    /// At most `limit` lobbies, after those of earlier pages. Their order is fixed but has no meaning.
    pub fn lobbies(&self, after: Option<u64>, limit: usize) -> Page<LobbyView> {
        let (keys, next) =
            self.core.directory.lobbies_after(after.map(|key| LobbyKey::try_from(key).unwrap_or(LobbyKey::MAX)), limit);
        Page { items: keys.iter().map(|&key| self.core.lobby_view(key)).collect(), next: next.map(|key| key as u64) }
    }

    /// The lobby with this code, if it exists.
    pub fn lobby(&self, code: &str) -> Option<LobbyView> {
        self.core.directory.find_lobby(code).map(|key| self.core.lobby_view(key))
    }

    /// At most `limit` members of a lobby, in the order of joining.
    pub fn lobby_members(&self, code: &str, after: Option<u64>, limit: usize) -> Page<SeatView> {
        let directory = &self.core.directory;
        let seats = directory.find_lobby(code).map_or(&[][..], |lobby| directory.members(lobby));
        self.core.seats_page(seats, after, limit)
    }

    /// At most `limit` of a user's seats, oldest first.
    pub fn user_seats(&self, user: &str, after: Option<u64>, limit: usize) -> Page<SeatView> {
        self.core.seats_page(self.core.directory.seats_of(user), after, limit)
    }

    /// The time of the last input.
    pub fn now(&self) -> Time {
        self.core.now()
    }
}

impl Core {
    fn operate(&mut self, command: OperatorCommand) -> Result<OperatorAnswer, OperatorRefusal> {
        match command {
            OperatorCommand::Publish { lobby, payload } => {
                let lobby = self.directory.find_lobby(&lobby).ok_or(OperatorRefusal::NoSuchLobby)?;
                let (seq, sent) = match self.admit(payload)? {
                    Payload::Json(data) if self.protocol == Protocol::Json => {
                        let (seq, sent) = self.announce(lobby, &data);
                        (Some(seq), sent)
                    }
                    Payload::Json(text) | Payload::Text(text) => {
                        (None, self.broadcast(lobby, Exclude::None, Outgoing::Text(&text)))
                    }
                };
                Ok(OperatorAnswer::Sent { seq, sent })
            }
            OperatorCommand::Send { user, payload } => {
                self.seats_of(&user)?;
                let frame = match self.admit(payload)? {
                    Payload::Json(data) if self.protocol == Protocol::Json => {
                        protocol::write_server_direct(&mut self.text, &data);
                        Frame::text(&self.text)
                    }
                    Payload::Json(text) | Payload::Text(text) => Frame::text(&text),
                };
                Ok(OperatorAnswer::Sent { seq: None, sent: self.send_to_user(&user, &frame) })
            }
            OperatorCommand::Ping { user, timeout } => self.begin_ping(user, timeout),
            OperatorCommand::Kick { target, reconnect } => {
                let reason = if reconnect { CloseReason::ForcedReconnect } else { CloseReason::Kicked };
                let conns = match &target {
                    KickTarget::User(user) => self.conns_of(self.seats_of(user)?),
                    KickTarget::Lobby(lobby) => self.conns_in(lobby).ok_or(OperatorRefusal::NoSuchLobby)?,
                    KickTarget::All => self.members_by_age(),
                };
                Ok(OperatorAnswer::Ending(self.order_close(&target, conns, reason)))
            }
            OperatorCommand::Lock { lobby, locked } => match self.lock_lobby(&lobby, locked) {
                true => Ok(OperatorAnswer::Locked(locked)),
                false => Err(OperatorRefusal::NoSuchLobby),
            },
            OperatorCommand::Close { lobby } => {
                let conns = self.conns_in(&lobby).ok_or(OperatorRefusal::NoSuchLobby)?;
                // Locked, so that no user joins between two batches.
                self.lock_lobby(&lobby, true);
                Ok(OperatorAnswer::Ending(self.order_close(&KickTarget::Lobby(lobby), conns, CloseReason::LobbyClosed)))
            }
            OperatorCommand::Clock(command) => {
                let (ticks, now) = (self.ticks.as_mut().ok_or(OperatorRefusal::NoTicks)?, self.now);
                ticks.command(now, command)?;
                Ok(OperatorAnswer::Clock(ticks.view()))
            }
            OperatorCommand::Drain => unreachable!("handle_operator() carries out a drain"),
        }
    }

    pub(super) fn expire_pings(&mut self) {
        self.pings.expire(self.now, &self.unread, self.config.max_deferred_turns);
    }

    /// Checks a payload's length and kind.
    fn admit(&self, payload: Payload) -> Result<Payload, OperatorRefusal> {
        let (Payload::Json(text) | Payload::Text(text)) = &payload;
        match &payload {
            _ if text.len() > self.config.max_message_bytes.0 => Err(OperatorRefusal::TooLong),
            Payload::Text(_) if self.protocol == Protocol::Json => Err(OperatorRefusal::NotJson),
            _ => Ok(payload),
        }
    }

    fn seats_of(&self, user: &str) -> Result<&[SeatKey], OperatorRefusal> {
        Some(self.directory.seats_of(user)).filter(|seats| !seats.is_empty()).ok_or(OperatorRefusal::NoSuchUser)
    }

    fn conns_in(&self, lobby: &str) -> Option<Vec<ConnId>> {
        let lobby = self.directory.find_lobby(lobby)?;
        Some(self.conns_of(self.directory.members(lobby)))
    }

    fn begin_ping(&mut self, user: String, timeout: Duration) -> Result<OperatorAnswer, OperatorRefusal> {
        let conns = self.conns_of(self.seats_of(&user)?);
        if self.pings.open.len() + self.pings.done.len() >= MAX_PINGS {
            return Err(OperatorRefusal::Busy);
        }
        let mut targets = Vec::with_capacity(conns.len());
        for conn in conns {
            // A ping closes at most its own connection, so every later one has its seat; this skips it if that changes.
            let Some(seat) = self.slots[conn.index()].seat().map(|seat| self.directory.seat(seat).id) else { continue };
            let nonce = self.begin_check(conn.index(), timeout);
            self.rearm(conn.index());
            let ended = self.slots[conn.index()].close_reason.is_some();
            targets.push(PingTarget { conn, seat, nonce, outcome: ended.then_some(None) });
        }
        self.pings.last_ticket += 1;
        let ticket = self.pings.last_ticket;
        self.pings.open.push(Ping { ticket, user, deadline: self.now + timeout, deferred: 0, targets });
        self.pings.collect();
        Ok(OperatorAnswer::Pinged(ticket))
    }

    /// Sends `data` to all members of the lobby as a `message` whose `from` is `null`. Returns its `seq`.
    pub(super) fn announce(&mut self, lobby: LobbyKey, data: &str) -> (u64, Sent) {
        self.flush_presence(lobby);
        let Some(_) = self.directory.get_lobby(lobby) else { return (0, Sent::default()) };
        let state = self.directory.lobby_mut(lobby);
        state.seq += 1;
        let seq = state.seq;
        let mut text = std::mem::take(&mut self.text);
        protocol::write_server_message(&mut text, seq, data);
        let sent = self.send_to_lobby(lobby, Outgoing::Text(&text), None);
        self.text = text;
        (seq, sent)
    }

    /// Locks or unlocks a lobby. Returns false if there is no such lobby.
    pub(super) fn lock_lobby(&mut self, lobby: &str, locked: bool) -> bool {
        let Some(lobby) = self.directory.find_lobby(lobby) else { return false };
        self.directory.lobby_mut(lobby).locked = locked;
        true
    }

    fn lobby_view(&self, key: LobbyKey) -> LobbyView {
        let lobby = self.directory.lobby_ref(key);
        LobbyView {
            code: lobby.code.to_string(),
            members: self.directory.members(key).len(),
            locked: lobby.locked,
            epoch: lobby.epoch,
            seq: lobby.seq,
        }
    }

    /// A page of `seats`, which must be sorted by id.
    fn seats_page(&self, seats: &[SeatKey], after: Option<u64>, limit: usize) -> Page<SeatView> {
        let from = after.map_or(0, |after| seats.partition_point(|&seat| self.directory.seat(seat).id.0 <= after));
        let to = from.saturating_add(limit.max(1)).min(seats.len());
        let items: Vec<SeatView> = seats[from..to].iter().map(|&seat| self.seat_view(seat)).collect();
        let next = items.last().filter(|_| to < seats.len()).map(|last| last.seat.0);
        Page { items, next }
    }

    fn seat_view(&self, key: SeatKey) -> SeatView {
        let seat = self.directory.seat(key);
        let slot = &self.slots[seat.conn.index()];
        SeatView {
            user: self.directory.user_of(key).to_string(),
            lobby: self.directory.lobby_ref(seat.lobby).code.to_string(),
            seat: seat.id,
            peer: slot.peer.address(),
            queued_bytes: self.queued_size(seat.conn.index()).bytes,
            idle: self.now - slot.health.last_heard(),
        }
    }
}
