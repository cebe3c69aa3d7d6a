//! What an operator does, through the engine's own commands for that, and that each command is answered once and done.

use std::collections::BTreeSet;
use std::time::Duration;

use super::app_command::{AppCommand, Latest};
use super::observed_app::Seated;
use super::swarm::Behaviour;
use super::transcript::{NOBODY, What};
use super::world::World;
use crate::close::CloseReason;
use crate::engine::app::{App, Protocol, Sent};
use crate::engine::operator::{KickTarget, OperatorAnswer, OperatorCommand, OperatorRefusal, Payload, PingReport};
use crate::id::{ConnId, SeatId};
use crate::time::Time;

/// Keys under which only the latest frame matters.
const KEYS: u64 = 3;

/// What the operator waits for.
#[derive(Debug, Default)]
pub(super) struct OperatorModel {
    /// Pings that are not answered: the ticket, by when they are, how many were asked, and how long they were given.
    pings: Vec<(u64, Time, usize, Duration)>,
    last_ticket: u64,
    /// Seats whose members will be told to go, and with which batch at the latest. Nobody keeps one by coming again; but
    /// if that is all that is wanted of a connection, it is named.
    ending: Vec<(SeatId, Option<ConnId>, u32)>,
    /// Orders to close for good, and the seats they found. While one of these seats is taken, the order applies to newcomers.
    orders: Vec<(KickTarget, Vec<SeatId>)>,
    /// Connections that such an order found. None of them may be closed with `reconnect` instead.
    for_good: BTreeSet<ConnId>,
    /// Batches there can have been, and when the last was.
    batches: u32,
    last_batch: Time,
    /// Whether anybody was kicked to come back; whether a lobby was ever locked.
    pub(super) reconnects: bool,
    pub(super) locks: bool,
    /// Messages of the operator's so far.
    published: u32,
    /// Values so far of frames that only matter until the next.
    latest: u64,
}

impl<A: App> World<A> {
    /// Does one thing as an operator would. Whether it makes sense now.
    pub(super) fn operate(&mut self, behaviour: Behaviour) -> Result<(), String> {
        self.turn_open = true;
        let random = &mut self.owner;
        let user = self.common.users[random.below(self.common.users.len() as u64) as usize].clone();
        let lobby = self.common.lobbies[random.below(self.common.lobbies.len() as u64) as usize].clone();
        let how = random.below(10);
        self.transcript.note(self.now, NOBODY, What::Did(behaviour), how, lobby.as_bytes());
        let command = match (behaviour, how) {
            (Behaviour::Lock, 0) => OperatorCommand::Close { lobby: lobby.clone() },
            (Behaviour::Lock, _) => OperatorCommand::Lock { lobby: lobby.clone(), locked: how < 6 },
            (Behaviour::OperatorKick, 0) => OperatorCommand::Kick { whom: KickTarget::Everybody, reconnect: true },
            (Behaviour::OperatorKick, 1..4) => {
                OperatorCommand::Kick { whom: KickTarget::Lobby(lobby.clone()), reconnect: how == 1 }
            }
            (Behaviour::OperatorKick, _) => {
                OperatorCommand::Kick { whom: KickTarget::User(user.clone()), reconnect: how < 7 }
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
        // What is there before, since nothing may happen beside what is asked for.
        let members = self.seats_in(&lobby);
        let seats = &self.engine.app().seen.seats;
        let seats: Vec<SeatId> = seats.iter().filter(|(_, it)| *it.user == *user).map(|(&seat, _)| seat).collect();
        let everybody = self.engine.stats().total_connections;
        let answer = self.engine.handle_operator(self.now, command.clone());
        self.transcript.mix(answer.is_ok().into());
        let there = match &command {
            OperatorCommand::Publish { .. } | OperatorCommand::Lock { .. } | OperatorCommand::Close { .. } => {
                members.len()
            }
            OperatorCommand::Kick { whom: KickTarget::Lobby(_), .. } => members.len(),
            OperatorCommand::Kick { whom: KickTarget::Everybody, .. } => everybody,
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
                self.common.published.extend(seq.map(|seq| (self.operators.published, seq)));
                // Telling who came may end members before. A lobby may be there for a seat that is promised.
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
            (OperatorCommand::Kick { whom, reconnect }, Ok(OperatorAnswer::Ending(count))) => {
                self.operators.reconnects |= *reconnect;
                let ending = match whom {
                    KickTarget::User(_) => seats,
                    KickTarget::Lobby(_) => members,
                    KickTarget::Everybody => self.engine.app().seen.seats.keys().copied().collect(),
                };
                self.expect_endings(ending, whom, *reconnect);
                *count == there
            }
            (OperatorCommand::Close { lobby }, Ok(OperatorAnswer::Ending(count))) => {
                self.operators.locks = true;
                self.expect_endings(members, &KickTarget::Lobby(lobby.clone()), false);
                *count == there
            }
            (OperatorCommand::Lock { locked, .. }, Ok(OperatorAnswer::Locked(now))) => {
                self.operators.locks = true;
                locked == now
            }
            _ => false,
        };
        let is_locked = self.engine.lobby(&lobby).is_some_and(|lobby| lobby.locked);
        let locked = &mut self.engine.observed_app().seen.locked;
        locked.retain(|code| **code != *lobby);
        if is_locked {
            locked.push(lobby.into());
        }
        if fits { Ok(()) } else { Err(format!("{command:?} was answered {answer:?}, and there are {there}")) }
    }

    fn seats_in(&self, lobby: &str) -> Vec<SeatId> {
        let inside = self.engine.lobby_inside(lobby);
        inside.map_or_else(Vec::new, |(_, _, members)| members.map(|(_, seat, _)| seat).collect())
    }

    fn members(&self, lobby: &str) -> Vec<ConnId> {
        let inside = self.engine.lobby_inside(lobby);
        inside.map_or_else(Vec::new, |(_, _, members)| members.map(|(_, _, conn)| conn).collect())
    }

    /// All of these are told to go, in batches after those who are to be told before.
    fn expect_endings(&mut self, seats: Vec<SeatId>, whom: &KickTarget, reconnect: bool) {
        let taken = &self.engine.app().seen.seats;
        if !reconnect {
            self.operators.for_good.extend(seats.iter().filter_map(|seat| taken.get(seat)).map(|seated| seated.conn));
            self.operators.orders.push((whom.clone(), seats.clone()));
        }
        let conn = |seat: SeatId| taken.get(&seat).map(|seated| seated.conn).filter(|_| reconnect);
        let ending = seats.into_iter().map(|seat| (seat, conn(seat))).collect();
        self.expect_ends(ending);
    }

    fn expect_ends(&mut self, ending: Vec<(SeatId, Option<ConnId>)>) {
        let taken = &self.engine.app().seen.seats;
        self.operators.ending.retain(|(seat, ..)| taken.contains_key(seat));
        let batches = (self.operators.ending.len() + ending.len()) as u32 / self.engine.config().drain_batch + 2;
        let end = self.operators.batches + batches;
        self.operators.ending.extend(ending.into_iter().map(|(seat, conn)| (seat, conn, end)));
    }

    /// Members that joined while the batches of an order about them were running are closed too.
    fn expect_newcomers_to_end(&mut self) {
        let seats = &self.engine.app().seen.seats;
        self.operators.orders.retain(|(_, found)| found.iter().any(|seat| seats.contains_key(seat)));
        let known: BTreeSet<SeatId> =
            self.operators.ending.iter().filter(|(_, conn, _)| conn.is_none()).map(|&(seat, ..)| seat).collect();
        let is_meant = |seated: &Seated| {
            self.operators.orders.iter().any(|(whom, _)| match whom {
                KickTarget::User(user) => *seated.user == **user,
                KickTarget::Lobby(lobby) => *seated.lobby == **lobby,
                KickTarget::Everybody => true,
            })
        };
        let newcomers = seats.iter().filter(|(seat, seated)| !known.contains(seat) && is_meant(seated));
        let newcomers: Vec<_> = newcomers.map(|(&seat, _)| (seat, None)).collect();
        if !newcomers.is_empty() {
            self.expect_ends(newcomers);
        }
    }

    /// Whether somebody was named as having unread input, so that an operator's ping to it may wait.
    pub(super) fn has_unread(&self) -> bool {
        self.links.iter().flatten().any(|link| link.unread_turns > 0)
    }

    /// Takes the answers that have come, and holds the engine to those that are due. After every turn.
    pub(super) fn check_operator(&mut self) -> Result<(), String> {
        while let Some(PingReport { ticket, user, answers }) = self.engine.poll_operator() {
            let at = self.operators.pings.iter().position(|ping| ping.0 == ticket);
            let (_, due, asked, timeout) = self
                .operators
                .pings
                .remove(at.ok_or_else(|| format!("the ping {ticket} of {user} is answered, and is not open"))?);
            let late = answers.iter().filter_map(|(_, latency)| *latency).find(|&latency| latency > timeout);
            // An answer may have lain in the network since before it was due.
            let may_be_late = self.last_turn <= due || self.had_unread;
            if answers.len() > asked || (late.is_some() && !may_be_late) {
                return Err(format!("a ping of {asked} seats with {timeout:?} is answered {answers:?}"));
            }
            self.transcript.mix(ticket ^ (answers.len() as u64) << 32);
        }
        let overdue = self.operators.pings.iter().find(|ping| ping.1 < self.now);
        // A ping that waited for input ends in the first turn after it in which time has passed.
        let may_wait = self.has_unread() || self.had_unread || self.last_turn == self.now;
        if let Some(ping) = overdue.filter(|_| !may_wait) {
            return Err(format!("the ping {} was to be answered by {}", ping.0, ping.1));
        }
        self.expect_newcomers_to_end();
        if !self.operators.ending.is_empty() {
            // However much time passes at once, it is one batch.
            let operators = &mut self.operators;
            if self.now - operators.last_batch >= self.engine.config().drain_batch_interval {
                operators.batches += 1;
                operators.last_batch = self.now;
            }
            let seats = &self.engine.app().seen.seats;
            let is_here = |seat, conn: Option<ConnId>| {
                seats.get(seat).is_some_and(|seated| conn.is_none_or(|conn| conn == seated.conn))
            };
            let overdue =
                operators.ending.iter().find(|(seat, conn, end)| *end < operators.batches && is_here(seat, *conn));
            if let Some((seat, _, end)) = overdue {
                return Err(format!("seat={seat} was to be told to go {} batches ago", operators.batches - end));
            }
            operators.ending.retain(|&(.., end)| end >= operators.batches);
        }
        Ok(())
    }

    /// Sends a frame that only matters until the next one, to a lobby or to one connection.
    pub(super) fn send_latest(&mut self, to: Option<usize>) {
        self.turn_open = true;
        let random = &mut self.owner;
        let place = to.or_else(|| Some(random.below(self.links.len() as u64) as usize));
        let key = random.below(KEYS);
        let is_single = to.is_none() && random.percent(30);
        let padding = random.below(self.swarm.padding as u64 + 200) as usize;
        let Some(link) = place.and_then(|place| self.links[place].as_ref()) else { return };
        let (Some(conn), lobby) = (link.conn, &self.common.lobbies[link.lobby]) else { return };
        self.operators.latest += 1;
        let value = self.operators.latest;
        let lobby = lobby.clone();
        let latest = Latest { key, value, padding };
        let (sent, members) = if is_single {
            (self.ask_app(AppCommand::Latest { conn, latest }).queued, None)
        } else {
            let sent = self.ask_app(AppCommand::LatestInLobby { lobby: &lobby, latest });
            (sent.queued, Some(sent.dropped))
        };
        self.transcript.note(self.now, NOBODY, What::Latest, key, &value.to_be_bytes());
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
        // Who had no room for it gets none, and has lost the one before.
        let is_certain = members == Some(0) || (members.is_none() && sent == 1);
        for link in self.links.iter_mut().flatten() {
            let concerned =
                if is_single { link.conn == Some(conn) } else { link.conn.is_some_and(|it| reached.contains(&it)) };
            if concerned {
                link.latest[key as usize] = Some(value).filter(|_| is_certain);
            }
        }
    }

    /// Whoever stayed has read the last one that was sent to it.
    pub(super) fn compare_latest(&mut self) -> Result<(), String> {
        for link in self.links.iter().flatten() {
            for (key, &sent) in link.latest.iter().enumerate() {
                let read = link.view.latest[key];
                if sent.is_some_and(|sent| sent != read) {
                    self.involved = link.number;
                    return Err(format!(
                        "client #{} read {read} last under key {key}, and {sent:?} was sent",
                        link.number
                    ));
                }
            }
        }
        Ok(())
    }

    /// Whether an operator can have ended a connection for this reason.
    pub(super) fn may_be_told_to_go(&self, conn: Option<ConnId>, reason: CloseReason) -> bool {
        match reason {
            // A stricter order replaces a reconnect.
            CloseReason::ForcedReconnect => {
                self.operators.reconnects
                    && !self.is_draining
                    && conn.is_none_or(|conn| !self.operators.for_good.contains(&conn))
            }
            CloseReason::LobbyLocked => self.operators.locks,
            _ => true,
        }
    }
}
