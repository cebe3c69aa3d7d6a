//! Model of the operators: sends operator commands to the engine, and checks that each is answered once and carried
//! out.

use std::collections::BTreeSet;
use std::time::Duration;

use super::app_command::{AppCommand, Latest};
use super::observed_app::Seated;
use super::swarm::Behaviour;
use super::transcript::{EventKind, NO_CLIENT};
use super::world::World;
use crate::base::close::CloseReason;
use crate::base::id::{ConnId, SeatId};
use crate::base::time::Time;
use crate::engine::app::{App, Protocol, Sent};
use crate::engine::operator::{KickTarget, OperatorAnswer, OperatorCommand, OperatorRefusal, Payload, PingReport};

/// Number of keys for latest-wins frames.
const KEYS: u64 = 3;

/// Outstanding effects of the operators' commands.
#[derive(Debug, Default)]
pub(super) struct OperatorModel {
    /// Unanswered pings: ticket, deadline, number of seats pinged, and timeout.
    pings: Vec<(u64, Time, usize, Duration)>,
    last_ticket: u64,
    /// Seats that must be closed, and the last batch that may still do it. A kick with `reconnect` also names the
    /// connection, because a new connection may keep the seat. A kick without it applies to any connection in the seat.
    pending_closes: Vec<(SeatId, Option<ConnId>, u32)>,
    /// Kicks without `reconnect`, with the seats they found. While one of these seats is occupied, the kick also
    /// applies to members that join later.
    kick_orders: Vec<(KickTarget, Vec<SeatId>)>,
    /// Connections found by such kicks. None of them may be closed with `reconnect` instead.
    no_reconnect: BTreeSet<ConnId>,
    /// Largest possible number of batches so far.
    batches: u32,
    /// Time of the last batch.
    last_batch: Time,
    /// Whether a kick with `reconnect` was ever sent.
    pub(super) reconnects: bool,
    /// Whether a lobby was ever locked or closed.
    pub(super) locks: bool,
    /// Number of the operator's messages so far.
    published: u32,
    /// Number of latest-wins frames so far.
    latest: u64,
}

impl<A: App> World<A> {
    /// Sends a random operator command of the kind `behaviour`, and checks the answer.
    pub(super) fn send_operator_command(&mut self, behaviour: Behaviour) -> Result<(), String> {
        self.turn_open = true;
        let random = &mut self.control;
        let user = self.shared.users[random.below(self.shared.users.len() as u64) as usize].clone();
        let lobby = self.shared.lobbies[random.below(self.shared.lobbies.len() as u64) as usize].clone();
        let how = random.below(10);
        self.transcript.note(self.now, NO_CLIENT, EventKind::Did(behaviour), how, lobby.as_bytes());
        let command = match (behaviour, how) {
            (Behaviour::Lock, 0) => OperatorCommand::Close { lobby: lobby.clone() },
            (Behaviour::Lock, _) => OperatorCommand::Lock { lobby: lobby.clone(), locked: how < 6 },
            (Behaviour::OperatorKick, 0) => OperatorCommand::Kick { target: KickTarget::All, reconnect: true },
            (Behaviour::OperatorKick, 1..4) => {
                OperatorCommand::Kick { target: KickTarget::Lobby(lobby.clone()), reconnect: how == 1 }
            }
            (Behaviour::OperatorKick, _) => {
                OperatorCommand::Kick { target: KickTarget::User(user.clone()), reconnect: how < 7 }
            }
            (Behaviour::OperatorPing, _) => {
                let timeout = self.engine.config().health_timeout * (how as u32 + 1) / 2;
                OperatorCommand::Ping { user: user.clone(), timeout }
            }
            (_, 0) => OperatorCommand::Publish { lobby: lobby.clone(), payload: Payload::Text("not JSON".into()) },
            (_, 1) => {
                let long = format!("\"{}\"", "x".repeat(self.engine.config().max_message_bytes.0));
                OperatorCommand::Send { user: user.clone(), payload: Payload::Json(long) }
            }
            (_, _) => {
                self.operators.published += 1;
                let payload = Payload::Json(format!("{{\"op\":{}}}", self.operators.published));
                match how {
                    2..6 => OperatorCommand::Send { user: user.clone(), payload },
                    _ => OperatorCommand::Publish { lobby: lobby.clone(), payload },
                }
            }
        };
        // The state before the command, which determines the answer.
        let members = self.seats_in(&lobby);
        let seats = &self.engine.app().observed.seats;
        let seats: Vec<SeatId> = seats.iter().filter(|(_, it)| *it.user == *user).map(|(&seat, _)| seat).collect();
        let total = self.engine.stats().total_connections;
        let answer = self.engine.handle_operator(self.now, command.clone());
        self.transcript.mix(answer.is_ok().into());
        let there = match &command {
            OperatorCommand::Publish { .. } | OperatorCommand::Lock { .. } | OperatorCommand::Close { .. } => {
                members.len()
            }
            OperatorCommand::Kick { target: KickTarget::Lobby(_), .. } => members.len(),
            OperatorCommand::Kick { target: KickTarget::All, .. } => total,
            _ => seats.len(),
        };
        let counted = |sent: Sent| sent.queued + sent.dropped + sent.excluded;
        let fits = match (&command, &answer) {
            (_, Err(OperatorRefusal::NoSuchLobby)) => members.is_empty(),
            (_, Err(OperatorRefusal::NoSuchUser)) => seats.is_empty(),
            (_, Err(OperatorRefusal::NotJson)) => how == 0 && A::PROTOCOL == Protocol::Json,
            (_, Err(OperatorRefusal::TooLong)) => how == 1,
            (_, Err(OperatorRefusal::Busy)) => self.operators.pings.len() >= 64,
            (OperatorCommand::Publish { .. }, Ok(OperatorAnswer::Sent { seq, sent })) => {
                self.shared.published.extend(seq.map(|seq| (self.operators.published, seq)));
                // Presence is sent first and may end lagging members. A lobby may also exist with a reserved seat only.
                counted(*sent) <= there
            }
            (OperatorCommand::Send { .. }, Ok(OperatorAnswer::Sent { seq: None, sent })) => {
                counted(*sent) <= there && there > 0
            }
            (OperatorCommand::Ping { timeout, .. }, &Ok(OperatorAnswer::Pinged(ticket))) => {
                let deadline = self.now + *timeout;
                let is_new = std::mem::replace(&mut self.operators.last_ticket, ticket) < ticket;
                self.operators.pings.push((ticket, deadline, there, *timeout));
                is_new && there > 0
            }
            (OperatorCommand::Kick { target, reconnect }, Ok(OperatorAnswer::Ending(count))) => {
                self.operators.reconnects |= *reconnect;
                let ending = match target {
                    KickTarget::User(_) => seats,
                    KickTarget::Lobby(_) => members,
                    KickTarget::All => self.engine.app().observed.seats.keys().copied().collect(),
                };
                self.expect_closes(ending, target, *reconnect);
                *count == there
            }
            (OperatorCommand::Close { lobby }, Ok(OperatorAnswer::Ending(count))) => {
                self.operators.locks = true;
                self.expect_closes(members, &KickTarget::Lobby(lobby.clone()), false);
                *count == there
            }
            (OperatorCommand::Lock { locked, .. }, Ok(OperatorAnswer::Locked(now))) => {
                self.operators.locks = true;
                locked == now
            }
            _ => false,
        };
        let is_locked = self.engine.lobby(&lobby).is_some_and(|lobby| lobby.locked);
        let locked = &mut self.engine.observed_app().observed.locked;
        locked.retain(|code| **code != *lobby);
        if is_locked {
            locked.push(lobby.into());
        }
        if fits {
            Ok(())
        } else {
            Err(format!("the answer to {command:?} is {answer:?}, with {there} members or seats"))
        }
    }

    fn seats_in(&self, lobby: &str) -> Vec<SeatId> {
        let inside = self.engine.lobby_state(lobby);
        inside.map_or_else(Vec::new, |(_, _, members)| members.map(|(_, seat, _)| seat).collect())
    }

    fn members(&self, lobby: &str) -> Vec<ConnId> {
        let inside = self.engine.lobby_state(lobby);
        inside.map_or_else(Vec::new, |(_, _, members)| members.map(|(_, _, conn)| conn).collect())
    }

    /// Expects all `seats` to be closed, in batches after the closes that are pending already.
    fn expect_closes(&mut self, seats: Vec<SeatId>, target: &KickTarget, reconnect: bool) {
        let taken = &self.engine.app().observed.seats;
        if !reconnect {
            self.operators
                .no_reconnect
                .extend(seats.iter().filter_map(|seat| taken.get(seat)).map(|seated| seated.conn));
            self.operators.kick_orders.push((target.clone(), seats.clone()));
        }
        let conn = |seat: SeatId| taken.get(&seat).map(|seated| seated.conn).filter(|_| reconnect);
        let ending = seats.into_iter().map(|seat| (seat, conn(seat))).collect();
        self.expect_batched_closes(ending);
    }

    fn expect_batched_closes(&mut self, ending: Vec<(SeatId, Option<ConnId>)>) {
        let taken = &self.engine.app().observed.seats;
        self.operators.pending_closes.retain(|(seat, ..)| taken.contains_key(seat));
        let batches =
            (self.operators.pending_closes.len() + ending.len()) as u32 / self.engine.config().drain_batch + 2;
        let end = self.operators.batches + batches;
        self.operators.pending_closes.extend(ending.into_iter().map(|(seat, conn)| (seat, conn, end)));
    }

    /// Expects closes for members that joined while a kick that applies to them was still running.
    fn expect_newcomer_closes(&mut self) {
        let seats = &self.engine.app().observed.seats;
        self.operators.kick_orders.retain(|(_, found)| found.iter().any(|seat| seats.contains_key(seat)));
        let known: BTreeSet<SeatId> = self
            .operators
            .pending_closes
            .iter()
            .filter(|(_, conn, _)| conn.is_none())
            .map(|&(seat, ..)| seat)
            .collect();
        let is_target = |seated: &Seated| {
            self.operators.kick_orders.iter().any(|(target, _)| match target {
                KickTarget::User(user) => *seated.user == **user,
                KickTarget::Lobby(lobby) => *seated.lobby == **lobby,
                KickTarget::All => true,
            })
        };
        let newcomers = seats.iter().filter(|(seat, seated)| !known.contains(seat) && is_target(seated));
        let newcomers: Vec<_> = newcomers.map(|(&seat, _)| (seat, None)).collect();
        if !newcomers.is_empty() {
            self.expect_batched_closes(newcomers);
        }
    }

    /// Whether a connection was reported to have unread input, so that an operator's ping to it may be deferred.
    pub(super) fn has_unread(&self) -> bool {
        self.links.iter().flatten().any(|link| link.unread_turns > 0)
    }

    /// Checks, after a turn, the ping reports received. Also checks that no ping report and no pending close is
    /// overdue.
    pub(super) fn check_operator(&mut self) -> Result<(), String> {
        while let Some(PingReport { ticket, user, answers }) = self.engine.poll_operator() {
            let at = self.operators.pings.iter().position(|ping| ping.0 == ticket);
            let (_, due, asked, timeout) = self
                .operators
                .pings
                .remove(at.ok_or_else(|| format!("the report of ping {ticket} of {user} answers no open ping"))?);
            let late = answers.iter().filter_map(|(_, latency)| *latency).find(|&latency| latency > timeout);
            // An answer may have been unread in the network since before the deadline.
            let may_be_late = self.last_turn <= due || self.had_unread;
            if answers.len() > asked || (late.is_some() && !may_be_late) {
                return Err(format!("the report of a ping of {asked} seats with timeout {timeout:?} is {answers:?}"));
            }
            self.transcript.mix(ticket ^ (answers.len() as u64) << 32);
        }
        let overdue = self.operators.pings.iter().find(|ping| ping.1 < self.now);
        // A ping deferred by unread input ends in the first later turn in which time has passed.
        let may_wait = self.has_unread() || self.had_unread || self.last_turn == self.now;
        if let Some(ping) = overdue.filter(|_| !may_wait) {
            return Err(format!("the report of ping {} was due at {}", ping.0, ping.1));
        }
        self.expect_newcomer_closes();
        if !self.operators.pending_closes.is_empty() {
            // At most one batch runs per turn, however much time has passed.
            let operators = &mut self.operators;
            if self.now - operators.last_batch >= self.engine.config().drain_batch_interval {
                operators.batches += 1;
                operators.last_batch = self.now;
            }
            let seats = &self.engine.app().observed.seats;
            let is_occupied = |seat, conn: Option<ConnId>| {
                seats.get(seat).is_some_and(|seated| conn.is_none_or(|conn| conn == seated.conn))
            };
            let overdue = operators
                .pending_closes
                .iter()
                .find(|(seat, conn, end)| *end < operators.batches && is_occupied(seat, *conn));
            if let Some((seat, _, end)) = overdue {
                return Err(format!("seat={seat} should have been closed {} batches ago", operators.batches - end));
            }
            operators.pending_closes.retain(|&(.., end)| end >= operators.batches);
        }
        Ok(())
    }

    /// Sends a latest-wins frame to a lobby or to one connection. `to` selects the link; otherwise it is drawn.
    pub(super) fn send_latest(&mut self, to: Option<usize>) {
        self.turn_open = true;
        let random = &mut self.control;
        let index = to.or_else(|| Some(random.below(self.links.len() as u64) as usize));
        let key = random.below(KEYS);
        let is_single = to.is_none() && random.percent(30);
        let padding = random.below(self.swarm.padding as u64 + 200) as usize;
        let Some(link) = index.and_then(|index| self.links[index].as_ref()) else { return };
        let (Some(conn), lobby) = (link.conn, &self.shared.lobbies[link.lobby]) else { return };
        self.operators.latest += 1;
        let value = self.operators.latest;
        let lobby = lobby.clone();
        let latest = Latest { key, value, padding };
        let (sent, members) = if is_single {
            (self.send_app_command(AppCommand::Latest { conn, latest }).queued, None)
        } else {
            let sent = self.send_app_command(AppCommand::LatestInLobby { lobby: &lobby, latest });
            (sent.queued, Some(sent.dropped))
        };
        self.transcript.note(self.now, NO_CLIENT, EventKind::Latest, key, &value.to_be_bytes());
        let reached = match members {
            None => {
                if sent == 1 {
                    vec![conn]
                } else {
                    Vec::new()
                }
            }
            Some(_) => self.members(&lobby),
        };
        // A connection without room for the frame loses it and the one it replaces, so its value is unknown then.
        let is_certain = members == Some(0) || (members.is_none() && sent == 1);
        for link in self.links.iter_mut().flatten() {
            let concerned =
                if is_single { link.conn == Some(conn) } else { link.conn.is_some_and(|it| reached.contains(&it)) };
            if concerned {
                link.latest[key as usize] = Some(value).filter(|_| is_certain);
            }
        }
    }

    /// Checks that each remaining client read the last latest-wins frame sent to it.
    pub(super) fn compare_latest(&mut self) -> Result<(), String> {
        for link in self.links.iter().flatten() {
            for (key, &sent) in link.latest.iter().enumerate() {
                let read = link.view.latest[key];
                if sent.is_some_and(|sent| sent != read) {
                    self.current_client = link.number;
                    return Err(format!(
                        "client #{} last read {read} under key {key}, but {sent:?} was sent",
                        link.number
                    ));
                }
            }
        }
        Ok(())
    }

    /// Whether an operator's command can have ended a connection with `reason`. True for reasons of other causes.
    pub(super) fn operator_allows(&self, conn: Option<ConnId>, reason: CloseReason) -> bool {
        match reason {
            // A kick without `reconnect` overrides one with it.
            CloseReason::ForcedReconnect => {
                self.operators.reconnects
                    && !self.is_draining
                    && conn.is_none_or(|conn| !self.operators.no_reconnect.contains(&conn))
            }
            CloseReason::LobbyLocked => self.operators.locks,
            _ => true,
        }
    }
}
