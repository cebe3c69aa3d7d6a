//! Model of the operators: every command gets the right answer, and what it announces is carried out in time.
//!
//! Fed with commands and their answers, with turns, and with the reports of pings.

use std::collections::BTreeSet;
use std::time::Duration;

use super::published::PublishedModel;
use super::seats::{SeatModel, Seated};
use crate::base::id::{ConnId, SeatId};
use crate::base::time::Time;
use crate::config::Config;
use crate::engine::app::{Protocol, Sent};
use crate::engine::operator::{KickTarget, OperatorAnswer, OperatorCommand, OperatorRefusal, Payload, PingReport};

/// Largest number of pings that an engine accepts before it has answered one.
const MAX_PINGS: usize = 64;

/// Outstanding effects of the operators' commands.
#[derive(Debug)]
pub(crate) struct OperatorModel {
    protocol: Protocol,
    max_message_bytes: usize,
    drain_batch: u32,
    drain_batch_interval: Duration,
    pings: Vec<OpenPing>,
    last_ticket: u64,
    /// Seats that must be closed. A kick with `reconnect` also names the connection, because a new connection may keep
    /// the seat. A kick without it applies to any connection in the seat.
    pending_closes: Vec<PendingClose>,
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
    has_asked_to_reconnect: bool,
    /// Number of the operators' messages so far.
    messages: u32,
    pub(crate) published: PublishedModel,
}

/// A ping that has no report yet.
#[derive(Debug)]
struct OpenPing {
    ticket: u64,
    due: Time,
    /// Number of seats pinged.
    asked: usize,
    timeout: Duration,
}

/// A seat that must be closed.
#[derive(Clone, Copy, Debug)]
struct PendingClose {
    seat: SeatId,
    conn: Option<ConnId>,
    /// The last batch that may still do it.
    last_batch: u32,
}

/// The members that a command finds: the state before it, which determines the answer.
#[derive(Debug)]
pub(crate) struct Found {
    /// The seats in the command's lobby.
    pub(crate) in_lobby: Vec<SeatId>,
    /// The seats of the command's user.
    pub(crate) of_user: Vec<SeatId>,
    /// Number of seats on the server.
    pub(crate) total: usize,
    /// Epoch of the command's lobby, if it exists.
    pub(crate) epoch: Option<u64>,
}

impl Found {
    /// Number of seats that `command` concerns.
    fn concerned(&self, command: &OperatorCommand) -> usize {
        match command {
            OperatorCommand::Publish { .. }
            | OperatorCommand::Lock { .. }
            | OperatorCommand::Close { .. }
            | OperatorCommand::Kick { target: KickTarget::Lobby(_), .. } => self.in_lobby.len(),
            OperatorCommand::Kick { target: KickTarget::All, .. } => self.total,
            _ => self.of_user.len(),
        }
    }

    /// Removes the seats that are away from those found. A kick with `reconnect` does not concern them.
    pub(crate) fn without_away(mut self, seats: &SeatModel) -> Found {
        let is_away = |seat: &SeatId| seats.get(*seat).is_some_and(|seated| seated.is_away);
        self.in_lobby.retain(|seat| !is_away(seat));
        self.of_user.retain(|seat| !is_away(seat));
        self.total -= seats.iter().filter(|(_, seated)| seated.is_away).count();
        self
    }
}

impl OperatorModel {
    pub(crate) fn new(protocol: Protocol, config: &Config) -> OperatorModel {
        OperatorModel {
            protocol,
            max_message_bytes: config.max_message_bytes.0,
            drain_batch: config.drain_batch,
            drain_batch_interval: config.drain_batch_interval,
            pings: Vec::new(),
            last_ticket: 0,
            pending_closes: Vec::new(),
            kick_orders: Vec::new(),
            no_reconnect: BTreeSet::new(),
            batches: 0,
            last_batch: Time::ZERO,
            has_asked_to_reconnect: false,
            messages: 0,
            published: PublishedModel::new(config),
        }
    }

    /// Returns the number of the operators' next message.
    pub(crate) fn next_message(&mut self) -> u32 {
        self.messages += 1;
        self.messages
    }

    pub(crate) fn last_message(&self) -> u32 {
        self.messages
    }

    /// A command was answered. Checks that the answer fits what the command found, and expects its effects. `seats` are
    /// those after the command.
    pub(crate) fn answered(
        &mut self,
        command: &OperatorCommand,
        answer: &Result<OperatorAnswer, OperatorRefusal>,
        found: Found,
        seats: &SeatModel,
        now: Time,
    ) -> Result<(), String> {
        let there = found.concerned(command);
        let fits_keys = self.published.answered(found.epoch, command, answer);
        let fits = match (command, answer) {
            (_, Err(refusal)) => self.allows_refusal(command, refusal, &found),
            // Presence is sent first and may end lagging members. A lobby may also exist with a reserved seat only.
            (OperatorCommand::Publish { exclude, .. }, Ok(OperatorAnswer::Sent { seq, sent, repeated })) => {
                let is_numbered = self.protocol == Protocol::Json && exclude.is_empty();
                (*repeated || counted(*sent) <= there) && seq.is_some() == is_numbered
            }
            (OperatorCommand::Send { .. }, Ok(OperatorAnswer::Sent { seq: None, sent, repeated: false })) => {
                counted(*sent) <= there && there > 0
            }
            (&OperatorCommand::Ping { timeout, .. }, &Ok(OperatorAnswer::Pinged(ticket))) => {
                let is_new = std::mem::replace(&mut self.last_ticket, ticket) < ticket;
                self.pings.push(OpenPing { ticket, due: now + timeout, asked: there, timeout });
                is_new && there > 0
            }
            (OperatorCommand::Kick { target, reconnect }, Ok(OperatorAnswer::Ending(count))) => {
                self.has_asked_to_reconnect |= *reconnect;
                let ending = match target {
                    KickTarget::User(_) => found.of_user,
                    KickTarget::Lobby(_) => found.in_lobby,
                    KickTarget::All => seats.iter().map(|(seat, _)| seat).collect(),
                };
                self.expect_closes(ending, target, *reconnect, seats);
                *count == there
            }
            (OperatorCommand::Close { lobby }, Ok(OperatorAnswer::Ending(count))) => {
                self.expect_closes(found.in_lobby, &KickTarget::Lobby(lobby.clone()), false, seats);
                *count == there
            }
            (OperatorCommand::Lock { locked, .. }, Ok(OperatorAnswer::Locked(now))) => locked == now,
            _ => false,
        };
        if fits && fits_keys {
            Ok(())
        } else {
            Err(format!("the answer to {command:?} is {answer:?}, with {there} members or seats"))
        }
    }

    fn allows_refusal(&self, command: &OperatorCommand, refusal: &OperatorRefusal, found: &Found) -> bool {
        let payload = match command {
            OperatorCommand::Publish { payload, .. } | OperatorCommand::Send { payload, .. } => Some(payload),
            _ => None,
        };
        match (refusal, payload) {
            (OperatorRefusal::NoSuchLobby, _) => found.in_lobby.is_empty(),
            (OperatorRefusal::NoSuchUser, _) => found.of_user.is_empty(),
            (OperatorRefusal::NotJson, Some(Payload::Text(_))) => self.protocol == Protocol::Json,
            (OperatorRefusal::TooLong, Some(Payload::Json(text))) => text.len() > self.max_message_bytes,
            (OperatorRefusal::BadMessage, Some(Payload::Json(text))) => {
                self.protocol == Protocol::Json && text.contains("\\ud800")
            }
            // The model of the keys knows when.
            (OperatorRefusal::KeyReused, Some(_)) => true,
            (OperatorRefusal::Busy, _) => self.pings.len() >= MAX_PINGS,
            _ => false,
        }
    }

    /// Expects all `ending` seats to be closed, in batches after the closes that are pending already.
    fn expect_closes(&mut self, ending: Vec<SeatId>, target: &KickTarget, reconnect: bool, seats: &SeatModel) {
        let conn_of = |seat: SeatId| seats.conn_of(seat);
        if !reconnect {
            self.no_reconnect.extend(ending.iter().filter_map(|&seat| conn_of(seat)));
            self.kick_orders.push((target.clone(), ending.clone()));
        }
        // A seat without a connection, after a kick with `reconnect`, is kept for its session.
        let ending = ending.into_iter().filter(|&seat| !reconnect || conn_of(seat).is_some());
        let ending = ending.map(|seat| (seat, conn_of(seat).filter(|_| reconnect))).collect();
        self.expect_batched_closes(ending, seats);
    }

    fn expect_batched_closes(&mut self, ending: Vec<(SeatId, Option<ConnId>)>, seats: &SeatModel) {
        self.pending_closes.retain(|pending| seats.get(pending.seat).is_some());
        let batches = (self.pending_closes.len() + ending.len()) as u32 / self.drain_batch + 2;
        let last_batch = self.batches + batches;
        self.pending_closes.extend(ending.into_iter().map(|(seat, conn)| PendingClose { seat, conn, last_batch }));
    }

    /// Expects closes for members that joined while a kick that applies to them was still running.
    fn expect_newcomer_closes(&mut self, seats: &SeatModel) {
        self.kick_orders.retain(|(_, found)| found.iter().any(|&seat| seats.get(seat).is_some()));
        let pending = self.pending_closes.iter().filter(|pending| pending.conn.is_none());
        let known: BTreeSet<SeatId> = pending.map(|pending| pending.seat).collect();
        let is_target = |seated: &Seated| {
            self.kick_orders.iter().any(|(target, _)| match target {
                KickTarget::User(user) => *seated.user == **user,
                KickTarget::Lobby(lobby) => *seated.lobby == **lobby,
                KickTarget::All => true,
            })
        };
        let newcomers = seats.iter().filter(|(seat, seated)| !known.contains(seat) && is_target(seated));
        let newcomers: Vec<_> = newcomers.map(|(seat, _)| (seat, None)).collect();
        if !newcomers.is_empty() {
            self.expect_batched_closes(newcomers, seats);
        }
    }

    /// A ping ended with `report`. `may_be_late`: an answer may have been unread in the network since before the
    /// deadline `due` of the ping.
    pub(crate) fn ping_ended(
        &mut self,
        report: &PingReport,
        may_be_late: impl FnOnce(Time) -> bool,
    ) -> Result<(), String> {
        let PingReport { ticket, user, answers } = report;
        let at = self.pings.iter().position(|ping| ping.ticket == *ticket);
        let at = at.ok_or_else(|| format!("the report of ping {ticket} of {user} answers no open ping"))?;
        let OpenPing { due, asked, timeout, .. } = self.pings.remove(at);
        let is_late = answers.iter().filter_map(|(_, latency)| *latency).any(|latency| latency > timeout);
        if answers.len() > asked || (is_late && !may_be_late(due)) {
            return Err(format!("the report of a ping of {asked} seats with timeout {timeout:?} is {answers:?}"));
        }
        Ok(())
    }

    /// Checks that no ping report is overdue.
    pub(crate) fn check_pings(&self, now: Time) -> Result<(), String> {
        match self.pings.iter().find(|ping| ping.due < now) {
            Some(ping) => Err(format!("the report of ping {} was due at {}", ping.ticket, ping.due)),
            None => Ok(()),
        }
    }

    /// A turn ended. Checks that no pending close is overdue.
    pub(crate) fn turn_ended(&mut self, now: Time, seats: &SeatModel) -> Result<(), String> {
        self.expect_newcomer_closes(seats);
        if self.pending_closes.is_empty() {
            return Ok(());
        }
        // At most one batch runs per turn, however much time has passed.
        if now - self.last_batch >= self.drain_batch_interval {
            self.batches += 1;
            self.last_batch = now;
        }
        let is_occupied = |pending: &PendingClose| {
            let conn = seats.conn_of(pending.seat);
            conn.is_some_and(|there| pending.conn.is_none_or(|conn| conn == there))
        };
        let is_overdue = |pending: &&PendingClose| pending.last_batch < self.batches && is_occupied(pending);
        if let Some(PendingClose { seat, last_batch, .. }) = self.pending_closes.iter().find(is_overdue) {
            return Err(format!("seat={seat} should have been closed {} batches ago", self.batches - last_batch));
        }
        self.pending_closes.retain(|pending| pending.last_batch >= self.batches);
        Ok(())
    }

    /// Whether a kick with `reconnect` can have ended a connection. A kick without `reconnect` overrides one with it.
    pub(crate) fn allows_reconnect(&self, conn: ConnId) -> bool {
        self.has_asked_to_reconnect && !self.no_reconnect.contains(&conn)
    }
}

fn counted(sent: Sent) -> usize {
    sent.queued + sent.dropped + sent.excluded
}
