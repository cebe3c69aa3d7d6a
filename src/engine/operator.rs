//! What an operator asks of a running server: pages of what is there, and commands.
//!
//! A command is plain data and reaches the engine through [`Engine::handle_operator`] alone. It does what an application
//! does through its `Context`, by the same functions. The answer comes at once, but for a ping's, which
//! [`Engine::poll_operator`] hands over when it is there.

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
use super::unread::Unread;
use crate::close::CloseReason;
use crate::id::{ConnId, SeatId};
use crate::lobby::directory::{LobbyKey, SeatKey};
use crate::lobby::protocol;
use crate::time::Time;
use crate::wire::frame::{Frame, Outgoing};

/// Pings of operators that may wait for their decisions, or for their answers to be taken.
const MAX_PINGS: usize = 64;

/// Something an operator wants done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OperatorCommand {
    /// Say something to everybody in a lobby.
    Publish {
        /// The lobby's code.
        lobby: String,
        /// What is said.
        payload: Payload,
    },
    /// Say something to one user, on all of its connections.
    Send {
        /// The user's id.
        user: String,
        /// What is said.
        payload: Payload,
    },
    /// Ask a user's page whether it is alive. [`Engine::poll_operator`] has the answer.
    Ping {
        /// The user's id.
        user: String,
        /// How long to wait for the answer.
        timeout: Duration,
    },
    /// End connections with 4003 `kicked`, or with 4103 `reconnect` when they may come back.
    Kick {
        /// Whose.
        whom: KickTarget,
        /// Whether the clients are to connect again.
        reconnect: bool,
    },
    /// Let nobody new into a lobby, or let them in again. A lobby that becomes empty is gone, and its lock with it.
    Lock {
        /// The lobby's code.
        lobby: String,
        /// Whether it is locked from now on.
        locked: bool,
    },
    /// End all connections in a lobby with 4006 `lobby_closed`.
    Close {
        /// The lobby's code.
        lobby: String,
    },
    /// Say goodbye to everybody, as [`Engine::handle_drain`].
    Drain,
    /// Set the game's clock; the wire, keep-alive and all timeouts go on.
    Clock(ClockCommand),
}

/// What an operator says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Payload {
    /// JSON. With [`Protocol::Json`] it is the `data` of a `message` or `direct` that is `from` nobody (`null`); with
    /// [`Protocol::Raw`] it is a text message as it stands.
    Json(String),
    /// A text message as it stands, which only [`Protocol::Raw`] knows.
    Text(String),
}

/// Whose connections an operator ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KickTarget {
    /// All of one user's.
    User(String),
    /// All in one lobby.
    Lobby(String),
    /// All members'.
    Everybody,
}

/// What came of an [`OperatorCommand`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OperatorAnswer {
    /// Published or sent; `seq` is that of the `message` in its lobby.
    Sent {
        /// The number of the message in its lobby, when it has one.
        seq: Option<u64>,
        /// How many got it.
        sent: Sent,
    },
    /// The answer will come from [`Engine::poll_operator`], under this number.
    Pinged(u64),
    /// So many connections end: the first `drain_batch` at once, the rest in batches.
    Ending(usize),
    /// The lobby is locked now, or is not.
    Locked(bool),
    /// The server is draining.
    Draining(DrainTotals),
    /// The game's clock stands like this now.
    Clock(ClockView),
}

/// Why an [`OperatorCommand`] was not carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OperatorRefusal {
    /// No lobby of that code exists.
    NoSuchLobby,
    /// The user has no connection.
    NoSuchUser,
    /// A plain text, which is no message of the JSON protocol.
    NotJson,
    /// More than `max_message_bytes`.
    TooLong,
    /// Too many pings wait for their decisions.
    Busy,
    /// `tick_hz` is off.
    NoTicks,
    /// A clock that runs cannot be stepped.
    ClockRuns,
    /// From 1 to 100 ticks may be asked for until they have run, and the clock may run from 1 to 1000 times slower.
    OutOfRange,
}

/// The end of an operator's ping.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PingReport {
    /// The number that [`OperatorAnswer::Pinged`] gave.
    pub ticket: u64,
    /// Who was asked.
    pub user: String,
    /// For each of the user's seats the latency, or `None` when it did not answer in time.
    pub answers: Vec<(SeatId, Option<Duration>)>,
}

/// A part of a list, and where the next part begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page<T> {
    /// In a fixed order. Whatever exists while all pages are asked for stands on exactly one of them.
    pub items: Vec<T>,
    /// What to ask for the next page `after`; `None` when this is the last.
    pub next: Option<u64>,
}

/// A lobby, as an operator sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LobbyView {
    /// The lobby's code.
    pub code: String,
    /// Members.
    pub members: usize,
    /// Whether it takes nobody new.
    pub locked: bool,
    /// New whenever a lobby comes into being.
    pub epoch: u64,
    /// The number of the last message.
    pub seq: u64,
}

/// A member, as an operator sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeatView {
    /// The user's id.
    pub user: String,
    /// The lobby's code.
    pub lobby: String,
    /// The seat's name: the `conn` field of the protocol.
    pub seat: SeatId,
    /// The address the connection comes from.
    pub peer: SocketAddr,
    /// Bytes that wait to be written.
    pub queued_bytes: usize,
    /// How long nothing has been heard.
    pub idle: Duration,
}

/// Pings that operators wait for.
#[derive(Default)]
pub(super) struct Pings {
    last_ticket: u64,
    open: Vec<Ping>,
    done: VecDeque<PingReport>,
}

struct Ping {
    ticket: u64,
    user: String,
    deadline: Time,
    /// For how many turns it has waited beyond its deadline because of unread input.
    deferred: u32,
    asked: Vec<Asked>,
}

struct Asked {
    conn: ConnId,
    seat: SeatId,
    nonce: u64,
    /// `None` while it is awaited.
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

    /// When the first of them has waited long enough.
    pub(super) fn next(&self) -> Option<Time> {
        self.open.iter().map(|ping| ping.deadline).min()
    }

    /// The check that was begun with `nonce` has been answered.
    pub(super) fn answered(&mut self, conn: ConnId, nonce: u64, latency: Duration) {
        self.resolve(|asked| (asked.conn == conn && asked.nonce == nonce).then_some(Some(latency)));
    }

    /// The connection has ended: nothing more comes from it.
    pub(super) fn ended(&mut self, conn: ConnId) {
        self.resolve(|asked| (asked.conn == conn).then_some(None));
    }

    /// Ends the pings that have waited long enough. Connections with unread input are waited for, for `max_deferred` turns.
    pub(super) fn expire(&mut self, now: Time, unread: &Unread, max_deferred: u32) {
        for ping in self.open.iter_mut().filter(|ping| ping.deadline <= now) {
            let may_wait = ping.deferred < max_deferred;
            for asked in ping.asked.iter_mut().filter(|asked| asked.outcome.is_none()) {
                if may_wait && unread.contains(asked.conn) {
                    ping.deadline = Time::from_micros(now.as_micros().saturating_add(1));
                } else {
                    asked.outcome = Some(None);
                }
            }
            ping.deferred += 1;
        }
        self.collect();
    }

    fn resolve(&mut self, outcome: impl Fn(&Asked) -> Option<Option<Duration>>) {
        if self.open.is_empty() {
            return;
        }
        for asked in self.open.iter_mut().flat_map(|ping| &mut ping.asked) {
            asked.outcome = asked.outcome.or_else(|| outcome(asked));
        }
        self.collect();
    }

    fn collect(&mut self) {
        let Pings { open, done, .. } = self;
        open.retain_mut(|ping| {
            if ping.asked.iter().any(|asked| asked.outcome.is_none()) {
                return true;
            }
            let answers = ping.asked.iter().map(|asked| (asked.seat, asked.outcome.flatten())).collect();
            done.push_back(PingReport { ticket: ping.ticket, user: std::mem::take(&mut ping.user), answers });
            false
        });
    }
}

impl<A: App> Engine<A> {
    /// An operator wants something done.
    ///
    /// # Errors
    ///
    /// When it cannot be done; nothing has been done then.
    pub fn handle_operator(&mut self, now: Time, command: OperatorCommand) -> Result<OperatorAnswer, OperatorRefusal> {
        self.enter(now, &Input::Operator(&command));
        if command == OperatorCommand::Drain {
            self.drain();
            return Ok(OperatorAnswer::Draining(self.core.drain_totals().expect("it has begun")));
        }
        let answer = self.core.operate(command);
        self.dispatch_events();
        answer
    }

    /// The next ping of an operator that has ended.
    pub fn poll_operator(&mut self) -> Option<PingReport> {
        // That makes room for another ping, so it matters when it is done.
        if !self.core.pings.done.is_empty() {
            self.enter(self.core.now(), &Input::ReportTaken);
        }
        self.core.pings.done.pop_front()
    }

    /// At most `limit` lobbies, in no particular order, after those of earlier pages.
    pub fn lobbies(&self, after: Option<u64>, limit: usize) -> Page<LobbyView> {
        let (keys, next) =
            self.core.directory.lobbies_after(after.map(|key| LobbyKey::try_from(key).unwrap_or(LobbyKey::MAX)), limit);
        Page { items: keys.iter().map(|&key| self.core.lobby_view(key)).collect(), next: next.map(|key| key as u64) }
    }

    /// The lobby of this code.
    pub fn lobby(&self, code: &str) -> Option<LobbyView> {
        self.core.directory.find_lobby(code).map(|key| self.core.lobby_view(key))
    }

    /// At most `limit` members of a lobby, in the order in which they joined.
    pub fn lobby_members(&self, code: &str, after: Option<u64>, limit: usize) -> Page<SeatView> {
        let directory = &self.core.directory;
        let seats = directory.find_lobby(code).map_or(&[][..], |lobby| directory.members(lobby));
        self.core.seats_page(seats, after, limit)
    }

    /// At most `limit` of a user's seats, oldest first.
    pub fn user_seats(&self, user: &str, after: Option<u64>, limit: usize) -> Page<SeatView> {
        self.core.seats_page(self.core.directory.seats_of(user), after, limit)
    }

    /// The time of the last thing that happened.
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
            OperatorCommand::Kick { whom, reconnect } => {
                let reason = if reconnect { CloseReason::ForcedReconnect } else { CloseReason::Kicked };
                let conns = match &whom {
                    KickTarget::User(user) => self.conns_of(self.seats_of(user)?),
                    KickTarget::Lobby(lobby) => self.conns_in(lobby).ok_or(OperatorRefusal::NoSuchLobby)?,
                    KickTarget::Everybody => self.members_by_age(),
                };
                Ok(OperatorAnswer::Ending(self.order_close(&whom, conns, reason)))
            }
            OperatorCommand::Lock { lobby, locked } => match self.lock_lobby(&lobby, locked) {
                true => Ok(OperatorAnswer::Locked(locked)),
                false => Err(OperatorRefusal::NoSuchLobby),
            },
            OperatorCommand::Close { lobby } => {
                let conns = self.conns_in(&lobby).ok_or(OperatorRefusal::NoSuchLobby)?;
                // So that nobody comes in between two batches.
                self.lock_lobby(&lobby, true);
                Ok(OperatorAnswer::Ending(self.order_close(&KickTarget::Lobby(lobby), conns, CloseReason::LobbyClosed)))
            }
            OperatorCommand::Clock(command) => {
                let (ticks, now) = (self.ticks.as_mut().ok_or(OperatorRefusal::NoTicks)?, self.now);
                ticks.command(now, command)?;
                Ok(OperatorAnswer::Clock(ticks.view()))
            }
            OperatorCommand::Drain => unreachable!("the engine drains itself"),
        }
    }

    pub(super) fn expire_pings(&mut self) {
        self.pings.expire(self.now, &self.unread, self.config.max_deferred_turns);
    }

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
        let mut asked = Vec::with_capacity(conns.len());
        for conn in conns {
            // The ping before may have ended it, when the lobby was too slow to be told of that.
            let Some(seat) = self.slots[conn.index()].seat().map(|seat| self.directory.seat(seat).id) else { continue };
            let nonce = self.begin_check(conn.index(), timeout);
            self.rearm(conn.index());
            let ended = self.slots[conn.index()].close_reason.is_some();
            asked.push(Asked { conn, seat, nonce, outcome: ended.then_some(None) });
        }
        self.pings.last_ticket += 1;
        let ticket = self.pings.last_ticket;
        self.pings.open.push(Ping { ticket, user, deadline: self.now + timeout, deferred: 0, asked });
        self.pings.collect();
        Ok(OperatorAnswer::Pinged(ticket))
    }

    /// Sends `data` to everybody in the lobby as a `message` from nobody. Returns its `seq`.
    pub(super) fn announce(&mut self, lobby: LobbyKey, data: &str) -> (u64, Sent) {
        self.flush_presence(lobby);
        let Some(_) = self.directory.get_lobby(lobby) else { return (0, Sent::default()) };
        let there = self.directory.lobby_mut(lobby);
        there.seq += 1;
        let seq = there.seq;
        let mut text = std::mem::take(&mut self.text);
        protocol::write_server_message(&mut text, seq, data);
        let sent = self.send_to_lobby(lobby, Outgoing::Text(&text), None);
        self.text = text;
        (seq, sent)
    }

    /// False when there is no such lobby.
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

    /// `seats` stand in the order of their ids.
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
