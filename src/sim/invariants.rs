//! The invariants: checked after every step, after every turn, and at the end of the run after the faults have stopped.
//!
//! The end of a run has these phases:
//!
//! ```text
//! faults stop --pass time--> only live members remain --final messages--> states compared
//!     --all clients disconnect--> everything freed and all counters compared
//! ```

use std::time::Duration;

use super::network::Side;
use super::swarm::Behaviour;
use super::transcript::EventKind;
use super::world::World;
use crate::base::close::CloseReason;
use crate::engine::app::{App, Protocol};
use crate::engine::tick::ClockCommand;

impl<A: App> World<A> {
    /// Checks the invariants that hold after every step, also in the middle of a turn.
    pub(super) fn after_step(&mut self) -> Result<(), String> {
        self.engine.check();
        self.check_close_reasons()?;
        self.check_health_answers()?;
        let observed = &mut self.engine.observed_app().observed;
        if let Some(violation) = observed.violation.take() {
            return Err(violation);
        }
        for behaviour in observed.occurred.drain(..) {
            self.counts.behaviours[behaviour as usize] += 1;
        }
        let counts = [observed.joined, observed.left, observed.messages, observed.taken_over, observed.unanswered];
        counts.into_iter().for_each(|count| self.transcript.mix(count));
        if let Some(invariant) = &mut self.invariant {
            invariant(&self.engine.app().app).map_err(|error| format!("the application's invariant: {error}"))?;
        }
        for index in self.indices() {
            let Some(link) = &self.links[index] else { continue };
            if link.conn.is_none() && !link.pipe.is_client_reading() {
                self.current_client = link.number;
                link.check_end()?;
                if let Some((client, k)) = link.view.missing_message(&self.shared) {
                    return Err(format!("message {k} of client #{client} was acknowledged but did not arrive"));
                }
                self.counts.frames += link.frames;
                self.counts.health_pongs += link.health_pongs;
                self.links[index] = None;
            }
        }
        Ok(())
    }

    /// Checks the invariants that hold at the end of a turn, after the driver has written and dropped connections.
    pub(super) fn after_turn(&mut self) -> Result<(), String> {
        let may_wait = self.may_cork();
        for link in self.links.iter().flatten() {
            let Some(conn) = link.conn else { continue };
            if self.engine.queued_bytes(conn) > 0 && !link.pipe.is_blocked && !may_wait {
                self.current_client = link.number;
                return Err(format!("conn={conn} has queued bytes although its socket is not blocked"));
            }
            // A connection that is not closing yet is closed with one of the next batches.
            let next_batch = self.now + self.engine.config().drain_batch_interval;
            let waits = self.engine.poll_timeout().is_some_and(|next| next <= next_batch);
            if self.is_draining && link.number < self.drained_from && link.reason.is_none() && !waits {
                self.current_client = link.number;
                return Err(format!(
                    "conn={conn} is not closing and no batch is scheduled, although the server drains"
                ));
            }
        }
        if !self.engine.is_presence_flushed() {
            return Err("a lobby has unannounced joins or leaves at the end of a turn".into());
        }
        self.check_operator()?;
        self.check_ticks()?;
        self.check_limits()?;
        self.check_attempts()?;
        match self.engine.poll_timeout() {
            Some(next) if next <= self.now => Err(format!("the next timeout {next} is not after now, {}", self.now)),
            _ => Ok(()),
        }
    }

    /// Records new close reasons, and checks that each is plausible and never changes.
    pub(super) fn check_close_reasons(&mut self) -> Result<(), String> {
        for index in self.indices() {
            let Some(link) = &mut self.links[index] else { continue };
            let Some(conn) = link.conn else { continue };
            let ending = self.engine.ending(conn);
            if ending == link.reason {
                continue;
            }
            let Some(reason) = ending.filter(|_| link.reason.is_none()) else {
                self.current_client = link.number;
                return Err(format!("the close reason of conn={conn} changed from {:?} to {ending:?}", link.reason));
            };
            link.reason = Some(reason);
            self.transcript.note(self.now, link.number, EventKind::Ended(reason), u64::from(reason.code()), &[]);
            let number = link.number;
            self.counts.behaviours[Behaviour::Lifetime as usize] += u64::from(reason == CloseReason::MaxLifetime);
            if !self.is_plausible(index, reason) {
                self.current_client = number;
                return Err(format!("conn={conn} ended with {reason}, which nothing in the run explains"));
            }
        }
        Ok(())
    }

    /// Whether the connection at `index` can have ended now with `reason`.
    fn is_plausible(&self, index: usize, reason: CloseReason) -> bool {
        let Some(link) = &self.links[index] else { return false };
        let config = self.engine.config();
        let is_unchecked = link.is_unpredictable || link.player.is_some();
        match reason {
            CloseReason::Hangup => link.pipe.client != Side::Open,
            CloseReason::WriteFailed => link.pipe.write_fails || link.pipe.client == Side::Reset,
            CloseReason::ServerShutdown => self.is_draining,
            // An unread connection must not time out before its timers were deferred for max_deferred_turns turns.
            CloseReason::Stale | CloseReason::HandshakeTimeout | CloseReason::AuthTimeout
                if link.has_input() && link.unread_turns <= config.max_deferred_turns =>
            {
                false
            }
            CloseReason::Stale => self.now - link.last_delivery >= config.ping_interval + config.pong_timeout,
            CloseReason::HandshakeTimeout => self.now - link.opened >= config.handshake_timeout,
            CloseReason::AuthTimeout => self.now - link.opened >= config.auth_timeout,
            CloseReason::Replaced => {
                let later = &self.shared.link_users[link.number as usize..];
                later.iter().filter(|&&user| user == link.user).count() > 1
                    || self.has_other_connection(link.number, link.user)
            }
            CloseReason::Left => link.sent_leave || is_unchecked,
            CloseReason::PeerClosed => link.sent_close || is_unchecked,
            CloseReason::BadMessage => is_unchecked || self.counts.behaviours[Behaviour::Malformed as usize] > 0,
            CloseReason::MessageTooBig => is_unchecked,
            CloseReason::ProtocolError | CloseReason::BadUtf8 => link.is_unpredictable,
            _ => self.limits_allow(link, reason),
        }
    }

    /// Whether the user has another connection. An older one may have been authorized later and replaced this one.
    fn has_other_connection(&self, number: u32, user: usize) -> bool {
        self.links.iter().flatten().any(|link| link.number != number && link.user == user)
    }

    /// Checks that each answered health check matches a nonce that the client sent back, and that the latency fits.
    fn check_health_answers(&mut self) -> Result<(), String> {
        let answered = std::mem::take(&mut self.engine.observed_app().observed.answered);
        for (conn, at, latency) in answered {
            let Some(link) = self.links.iter_mut().flatten().find(|link| link.conn == Some(conn)) else { continue };
            let sent = (self.unix_at_zero + at.as_micros() - latency.as_micros() as u64) / 1000;
            // Nonces are milliseconds; further checks in the same millisecond use the next numbers.
            let has_stepped = self.wall_stepped_at.is_some();
            let own = link.ponged.iter().position(|&nonce| has_stepped || (sent..sent + 64).contains(&nonce));
            match own {
                Some(own) => drop(link.ponged.remove(own)),
                None if link.is_unpredictable || link.player.is_some() => {}
                None => {
                    self.current_client = link.number;
                    return Err(format!(
                        "a health check of conn={conn} was reported as answered after {latency:?}, but not answered"
                    ));
                }
            }
        }
        Ok(())
    }

    /// Stops the faults and checks that clients and server agree within a bounded time. Then disconnects all clients
    /// and checks that everything is freed.
    pub(super) fn converge(&mut self) -> Result<(), String> {
        self.swarm.stop_faults();
        for link in self.links.iter_mut().flatten() {
            link.traits = Default::default();
            (link.refused, link.retry) = (None, None);
            if link.pipe.is_client_reading() {
                link.pipe.capacity = usize::MAX;
                if link.is_unpredictable && !link.is_unfinished {
                    link.pipe.end(Side::Reset);
                }
            }
        }
        self.set_final_clock(self.longest_wait())?;
        self.engine.observed_app().observed.late = 0;
        // Answer half of the pending authorizations. The others time out.
        for _ in 0..self.engine.app().observed.waiting.len() / 2 {
            self.authorize();
        }
        self.pass_time(self.longest_wait())?;
        self.check_only_live_remain()?;
        if !self.is_draining {
            let closed_before = self.counts.closed;
            self.send_final_messages()?;
            self.compare_views(self.counts.closed == closed_before)?;
        }
        self.disconnect_all();
        self.pass_time(self.longest_wait())?;
        if self.engine.config().tick_hz.is_some() {
            self.command_clock(ClockCommand::Pause)?;
        }
        self.check_all_freed()
    }

    /// Upper bound for the sum of all timeouts that can still be running.
    fn longest_wait(&self) -> Duration {
        let config = self.engine.config();
        let granules = config.wheel_granule * 8;
        let path = config.ping_interval + config.pong_timeout;
        let before = config.handshake_timeout.max(config.auth_timeout).max(path);
        before + config.close_timeout * 2 + config.linger_timeout + config.health_timeout * 4 + granules
    }

    fn check_only_live_remain(&mut self) -> Result<(), String> {
        for link in self.links.iter().flatten() {
            if !link.is_live() {
                self.current_client = link.number;
                return Err(format!("client #{} has ended, but its connection is still open", link.number));
            }
        }
        let stats = self.engine.stats();
        if (stats.pending, stats.closing) != (0, 0) {
            return Err(format!("{} pending and {} closing connections remain", stats.pending, stats.closing));
        }
        if self.is_draining && !self.engine.is_drained() {
            return Err("the drain is not complete".into());
        }
        Ok(())
    }

    /// Lets each remaining client send one request of each kind and checks the engine's message and frame counters.
    fn send_final_messages(&mut self) -> Result<(), String> {
        self.run_until_inboxes_empty()?;
        let before = self.engine.stats().counters;
        let frames_before = self.frames_received();
        let pongs_before = self.health_pongs();
        let mut messages_sent = 0;
        self.shared.is_final_phase = true;
        for index in self.indices() {
            let kinds: &[Behaviour] = match (A::PROTOCOL, self.players.is_some()) {
                (Protocol::Json, false) => {
                    &[Behaviour::Flood, Behaviour::Presence, Behaviour::Ping, Behaviour::Control]
                }
                (Protocol::Json, true) => &[Behaviour::Presence, Behaviour::Control],
                (Protocol::Raw, false) => &[Behaviour::Flood, Behaviour::Control],
                (Protocol::Raw, true) => &[Behaviour::Control],
            };
            for &kind in kinds {
                if self.shared.has_rate_limits {
                    self.pass_time(self.final_wait())?;
                }
                if self.links[index].is_some() {
                    self.send_one(index, kind);
                    messages_sent += u64::from(kind != Behaviour::Control);
                    self.run_until_inboxes_empty()?;
                }
            }
        }
        if self.shared.relays {
            // All outboxes have room now, so every latest-wins frame must arrive.
            for index in self.indices() {
                self.send_latest(Some(index));
                self.run_until_inboxes_empty()?;
            }
        }
        let after = self.engine.stats().counters;
        let frames = self.frames_received();
        let counted = (after.messages_in - before.messages_in, after.frames_out - before.frames_out);
        // Health checks go on meanwhile, and their answers may count as messages.
        let most = messages_sent + self.health_pongs() - pongs_before;
        if !(messages_sent..=most).contains(&counted.0) || counted.1 != frames - frames_before {
            return Err(format!(
                "the engine counts {} messages in and {} frames out, but clients sent {messages_sent} and received {}",
                counted.0,
                counted.1,
                frames - frames_before
            ));
        }
        Ok(())
    }

    fn health_pongs(&self) -> u64 {
        self.counts.health_pongs + self.links.iter().flatten().map(|link| link.health_pongs).sum::<u64>()
    }

    fn frames_received(&self) -> u64 {
        self.counts.frames + self.links.iter().flatten().map(|link| link.frames).sum::<u64>()
    }

    /// Compares each client's view of its lobby with the server's directory.
    ///
    /// A client that receives only the number of members is not informed of leaves. Its number is compared only if
    /// `all_stayed`, that is, no connection closed while the final messages were sent.
    fn compare_views(&mut self, all_stayed: bool) -> Result<(), String> {
        let mut seated = 0;
        for index in self.indices() {
            let Some(link) = &mut self.links[index] else { continue };
            self.current_client = link.number;
            let conn = link.conn.ok_or("a connection was dropped in the final phase")?;
            if !link.pings.is_empty() {
                return Err(format!("{} pings were not answered", link.pings.len()));
            }
            let code = &self.shared.lobbies[link.lobby];
            let (epoch, seq, members) =
                self.engine.lobby_state(code).ok_or_else(|| format!("lobby {code} of conn={conn} does not exist"))?;
            let members: Vec<_> = members.collect();
            seated += 1;
            if !members.iter().any(|(user, _, at)| *at == conn && **user == *self.shared.users[link.user]) {
                return Err(format!("conn={conn} is not in its lobby {code}"));
            }
            if link.is_json {
                let view = &mut link.view;
                if self.shared.relays {
                    view.skip_all_silent(&self.shared);
                }
                if !view.is_synced() || (view.epoch, view.seq) != (epoch, seq) {
                    return Err(format!(
                        "the client is at epoch {} seq {}, the server at epoch {epoch} seq {seq}",
                        view.epoch, view.seq
                    ));
                }
                if let Some(request) = view.unanswered().filter(|_| self.shared.relays && link.player.is_none()) {
                    return Err(format!("no answer to {request:?}"));
                }
                let listed = view.members.as_ref();
                let names = |(user, seat, _): &(&str, crate::SeatId, crate::ConnId)| format!("{user}/{seat}");
                let there: Vec<String> = members.iter().map(names).collect();
                let known = listed.map(|known| {
                    known.iter().map(|known| format!("{}/{}", known.user, known.conn)).collect::<Vec<_>>()
                });
                if known.as_ref().is_some_and(|known| *known != there)
                    || ((known.is_some() || all_stayed) && view.count_known() != there.len() as u64)
                {
                    return Err(format!(
                        "the client knows the members {known:?} ({}), the server has {there:?}",
                        view.count_known()
                    ));
                }
            }
        }
        let stats = self.engine.stats();
        if stats.total_connections != seated {
            return Err(format!("{} seats are occupied, but {seated} clients remain", stats.total_connections));
        }
        self.compare_latest()?;
        self.compare_messages()
    }

    /// Checks that each client received the last message of each other client in its lobby.
    fn compare_messages(&mut self) -> Result<(), String> {
        if !self.shared.relays || self.players.is_some() {
            return Ok(());
        }
        for link in self.links.iter().flatten() {
            if let Some((client, k)) = link.view.missing_message(&self.shared) {
                return Err(format!("client #{} did not receive message {k} of client #{client}", link.number));
            }
            for other in self.links.iter().flatten() {
                if other.number == link.number || other.lobby != link.lobby {
                    continue;
                }
                let (received, sent) = match link.is_json {
                    true => (link.view.last_message_of(other.number), other.messages_sent),
                    false => (link.view.last_raw_of(other.number), other.raw_sent),
                };
                if received != Some(sent) {
                    self.current_client = link.number;
                    return Err(format!(
                        "client #{} last received {received:?} from client #{}, which sent {sent}",
                        link.number, other.number
                    ));
                }
            }
        }
        Ok(())
    }

    fn disconnect_all(&mut self) {
        if self.clients.percent(30) && !self.is_draining {
            return self.drain();
        }
        for index in self.indices() {
            if self.links[index].is_none() {
                continue;
            }
            let kind = match self.clients.below(4) {
                // Not under rate limits, where a `leave` could be refused.
                0 if A::PROTOCOL == Protocol::Json && self.players.is_none() && !self.shared.has_rate_limits => {
                    Some(Behaviour::Leave)
                }
                0 | 1 => Some(Behaviour::Close),
                _ => None,
            };
            match kind {
                Some(Behaviour::Leave) => self.send_one(index, Behaviour::Leave),
                Some(_) => {
                    let link = self.links[index].as_mut().expect("the loop checked that the link exists");
                    link.close(1000, &mut self.clients);
                }
                None => {
                    let side = if self.clients.percent(50) { Side::Ended } else { Side::Reset };
                    self.link(index).pipe.end(side);
                }
            }
        }
    }

    fn check_all_freed(&mut self) -> Result<(), String> {
        if let Some(link) = self.links.iter().flatten().next() {
            self.current_client = link.number;
            return Err(format!("client #{} has disconnected, but its link remains", link.number));
        }
        let stats = self.engine.stats();
        let (slots, timers) = self.engine.slots_and_timers();
        let left = [stats.total_connections, stats.active_lobbies, stats.pending, stats.closing, slots, timers];
        if left != [0; 6] {
            return Err(format!("not freed: [seats, lobbies, pending, closing, slots, timers] = {left:?}"));
        }
        if self.engine.poll_timeout().is_some() || (self.is_draining && !self.engine.is_drained()) {
            return Err("no connection is left, but the engine has a timeout or has not drained".into());
        }
        let observed = &self.engine.app().observed;
        if let (Some(tick_model), Some(ticks)) = (&observed.tick_model, &stats.ticks) {
            tick_model.check_counts(ticks.ran, ticks.skipped)?;
            if ticks.inbox_bytes > 0 {
                return Err(format!("no connection is left, but {} bytes wait for a tick", ticks.inbox_bytes));
            }
        }
        if !observed.seats.is_empty() {
            return Err(format!("no on_leave for {:?}", observed.seats));
        }
        let (c, counts) = (&stats.counters, &self.counts);
        for (name, counted, known) in [
            ("accepted", c.accepted, counts.opened),
            ("shed", c.shed, counts.shed),
            ("closed", c.closed_in_all(), counts.closed),
            ("opened and closed", counts.opened, counts.closed),
            ("bytes_in", c.bytes_in, counts.bytes_in),
            ("bytes_out", c.bytes_out, counts.bytes_out),
            ("joined", c.joined, observed.joined),
            ("left", c.left, observed.left),
            ("joined and left", c.joined, c.left),
            ("taken_over", c.taken_over, observed.taken_over),
            ("health_checks", c.health_checks, observed.answered_ever + c.health_checks_failed),
        ] {
            if counted != known {
                return Err(format!("{name}: the first count is {counted}, the second {known}"));
            }
        }
        for &reason in CloseReason::ALL {
            let known = counts.reasons[reason as usize];
            if c.closed(reason) != known {
                return Err(format!("closed {reason}: the engine counts {}, the simulator {known}", c.closed(reason)));
            }
        }
        Ok(())
    }
}
