//! What must hold: after every step, after every turn, and when the faults have stopped.

use std::time::Duration;

use super::network::Side;
use super::swarm::Behaviour;
use super::transcript::What;
use super::world::World;
use crate::close::CloseReason;
use crate::engine::app::{App, Protocol};
use crate::engine::tick::ClockCommand;

impl<A: App> World<A> {
    /// After every step, in the middle of a turn too.
    pub(super) fn after_step(&mut self) -> Result<(), String> {
        self.engine.check();
        self.look_for_reasons()?;
        self.check_answers()?;
        let seen = &mut self.engine.observed_app().seen;
        if let Some(violation) = seen.violation.take() {
            return Err(violation);
        }
        for behaviour in seen.did.drain(..) {
            self.tally.behaviours[behaviour as usize] += 1;
        }
        let counts = [seen.joined, seen.left, seen.messages, seen.taken_over, seen.unanswered];
        counts.into_iter().for_each(|count| self.transcript.mix(count));
        if let Some(invariant) = &mut self.invariant {
            invariant(&self.engine.app().app).map_err(|why| format!("the application's invariant: {why}"))?;
        }
        for place in self.places() {
            let Some(link) = &self.links[place] else { continue };
            if link.conn.is_none() && !link.pipe.reads() {
                self.involved = link.number;
                link.check_end()?;
                if let Some((client, k)) = link.view.missed(&self.common) {
                    return Err(format!("never heard message {k} of client #{client}, which was sent on to all"));
                }
                self.tally.frames += link.frames;
                self.tally.health_pongs += link.health_pongs;
                self.links[place] = None;
            }
        }
        Ok(())
    }

    /// When the driver has done everything that it was asked to do.
    pub(super) fn after_turn(&mut self) -> Result<(), String> {
        let may_wait = self.may_hold();
        for link in self.links.iter().flatten() {
            let Some(conn) = link.conn else { continue };
            if self.engine.queued_bytes(conn) > 0 && !link.pipe.is_blocked && !may_wait {
                self.involved = link.number;
                return Err(format!("conn={conn} has bytes queued, and its socket is not blocked"));
            }
            // Whoever has not been told goes with one of the next batches.
            let next_batch = self.now + self.engine.config().drain_batch_interval;
            let waits = self.engine.poll_timeout().is_some_and(|next| next <= next_batch);
            if self.is_draining && link.number < self.drained_from && link.reason.is_none() && !waits {
                self.involved = link.number;
                return Err(format!("conn={conn} was not told to go, although the server drains"));
            }
        }
        if !self.engine.is_presence_flushed() {
            return Err("a lobby has not been told at the end of a turn who came and who left".into());
        }
        self.check_operator()?;
        self.check_ticks()?;
        self.check_limits()?;
        self.check_attempts()?;
        match self.engine.poll_timeout() {
            Some(next) if next <= self.now => Err(format!("asks to be called at {next}, and it is {}", self.now)),
            _ => Ok(()),
        }
    }

    /// Notes why connections end, and whether that can be.
    pub(super) fn look_for_reasons(&mut self) -> Result<(), String> {
        for place in self.places() {
            let Some(link) = &mut self.links[place] else { continue };
            let Some(conn) = link.conn else { continue };
            let ending = self.engine.ending(conn);
            if ending == link.reason {
                continue;
            }
            let Some(reason) = ending.filter(|_| link.reason.is_none()) else {
                self.involved = link.number;
                return Err(format!("conn={conn} ended with {:?}, and now it is {ending:?}", link.reason));
            };
            link.reason = Some(reason);
            self.transcript.note(self.now, link.number, What::Ended(reason), u64::from(reason.code()), &[]);
            let number = link.number;
            self.tally.behaviours[Behaviour::Lifetime as usize] += u64::from(reason == CloseReason::MaxLifetime);
            if !self.is_plausible(place, reason) {
                self.involved = number;
                return Err(format!("conn={conn} ended with {reason}, which cannot be"));
            }
        }
        Ok(())
    }

    /// Whether a connection that ends now can have ended for this reason.
    fn is_plausible(&self, place: usize, reason: CloseReason) -> bool {
        let Some(link) = &self.links[place] else { return false };
        let config = self.engine.config();
        let is_free = link.is_spoiled || link.player.is_some();
        match reason {
            CloseReason::Hangup => link.pipe.client != Side::Open,
            CloseReason::WriteFailed => link.pipe.breaks || link.pipe.client == Side::Reset,
            CloseReason::ServerShutdown => self.is_draining,
            // Nobody is given up for silence while there is something to read from it.
            CloseReason::Stale | CloseReason::HandshakeTimeout | CloseReason::AuthTimeout
                if link.has_input() && link.unread_turns <= config.max_deferred_turns =>
            {
                false
            }
            CloseReason::Stale => self.now - link.last_heard >= config.ping_interval + config.pong_timeout,
            CloseReason::HandshakeTimeout => self.now - link.opened >= config.handshake_timeout,
            CloseReason::AuthTimeout => self.now - link.opened >= config.auth_timeout,
            CloseReason::Replaced => {
                let later = &self.common.owners[link.number as usize..];
                later.iter().filter(|&&owner| owner == link.user).count() > 1 || self.has_other(link.number, link.user)
            }
            CloseReason::Left => link.sent_leave || is_free,
            CloseReason::PeerClosed => link.sent_close || is_free,
            CloseReason::BadMessage => is_free || self.tally.behaviours[Behaviour::Malformed as usize] > 0,
            CloseReason::MessageTooBig => is_free,
            CloseReason::ProtocolError | CloseReason::BadUtf8 => link.is_spoiled,
            _ => self.limits_allow(link, reason),
        }
    }

    /// Whether an older connection of the user was let in later: authorization takes its time.
    fn has_other(&self, number: u32, user: usize) -> bool {
        self.links.iter().flatten().any(|link| link.number != number && link.user == user)
    }

    /// A health check is answered by its own nonce, and tells how long that took.
    fn check_answers(&mut self) -> Result<(), String> {
        let answered = std::mem::take(&mut self.engine.observed_app().seen.answered);
        for (conn, at, latency) in answered {
            let Some(link) = self.links.iter_mut().flatten().find(|link| link.conn == Some(conn)) else { continue };
            let sent = (self.unix_at_zero + at.as_micros() - latency.as_micros() as u64) / 1000;
            // Checks of the same millisecond take the next numbers.
            let has_stepped = self.stepped_at.is_some();
            let own = link.ponged.iter().position(|&nonce| has_stepped || (sent..sent + 64).contains(&nonce));
            match own {
                Some(own) => drop(link.ponged.remove(own)),
                None if link.is_spoiled || link.player.is_some() => {}
                None => {
                    self.involved = link.number;
                    return Err(format!("conn={conn} answered in {latency:?} a check that it did not answer"));
                }
            }
        }
        Ok(())
    }

    /// The faults stop. Within a bounded time everybody agrees; and when everybody has left, nothing is left.
    pub(super) fn converge(&mut self) -> Result<(), String> {
        self.swarm.calm();
        for link in self.links.iter_mut().flatten() {
            link.manners = Default::default();
            (link.refused, link.patience) = (None, None);
            if link.pipe.reads() {
                link.pipe.capacity = usize::MAX;
                if link.is_spoiled && !link.is_unfinished {
                    link.pipe.end(Side::Reset);
                }
            }
        }
        self.calm_clock(self.longest_wait())?;
        self.engine.observed_app().seen.late = 0;
        // Half of those who wait for an authorization get it; the others wait in vain.
        for _ in 0..self.engine.app().seen.waiting.len() / 2 {
            self.authorize();
        }
        self.pass(self.longest_wait())?;
        self.check_nobody_lingers()?;
        if !self.is_draining {
            let closed_before = self.tally.closed;
            self.say_last_words()?;
            self.compare_views(self.tally.closed == closed_before)?;
        }
        self.everybody_leaves();
        self.pass(self.longest_wait())?;
        if self.engine.config().tick_hz.is_some() {
            self.command_clock(ClockCommand::Pause)?;
        }
        self.check_nothing_is_left()
    }

    /// By when everything that can take its time is over.
    fn longest_wait(&self) -> Duration {
        let config = self.engine.config();
        let granules = config.wheel_granule * 8;
        let path = config.ping_interval + config.pong_timeout;
        let before = config.handshake_timeout.max(config.auth_timeout).max(path);
        before + config.close_timeout * 2 + config.linger_timeout + config.health_timeout * 4 + granules
    }

    fn check_nobody_lingers(&mut self) -> Result<(), String> {
        for link in self.links.iter().flatten() {
            if !link.stays() {
                self.involved = link.number;
                return Err(format!("client #{} is over, and its connection is still there", link.number));
            }
        }
        let stats = self.engine.stats();
        if (stats.pending, stats.closing) != (0, 0) {
            return Err(format!("still {} pending and {} closing", stats.pending, stats.closing));
        }
        if self.is_draining && !self.engine.is_drained() {
            return Err("the drain is not over".into());
        }
        Ok(())
    }

    /// Everybody who stays says something to everybody, and asks everything.
    fn say_last_words(&mut self) -> Result<(), String> {
        self.settle_kept()?;
        let before = self.engine.stats().counters;
        let frames_before = self.frames_received();
        let pongs_before = self.health_pongs();
        let mut said = 0;
        self.common.is_calm = true;
        for place in self.places() {
            let kinds: &[Behaviour] = match (A::PROTOCOL, self.players.is_some()) {
                (Protocol::Json, false) => {
                    &[Behaviour::Flood, Behaviour::Presence, Behaviour::Ping, Behaviour::Control]
                }
                (Protocol::Json, true) => &[Behaviour::Presence, Behaviour::Control],
                (Protocol::Raw, false) => &[Behaviour::Flood, Behaviour::Control],
                (Protocol::Raw, true) => &[Behaviour::Control],
            };
            for &kind in kinds {
                if self.common.limited {
                    self.pass(self.calm_wait())?;
                }
                if self.links[place].is_some() {
                    self.ask_calmly(place, kind);
                    said += u64::from(kind != Behaviour::Control);
                    self.settle_kept()?;
                }
            }
        }
        if self.common.relays {
            // Nobody's outbox is full now.
            for place in self.places() {
                self.send_latest(Some(place));
                self.settle_kept()?;
            }
        }
        let after = self.engine.stats().counters;
        let frames = self.frames_received();
        let counted = (after.messages_in - before.messages_in, after.frames_out - before.frames_out);
        // While they wait, pages are asked whether they are alive.
        let most = said + self.health_pongs() - pongs_before;
        if !(said..=most).contains(&counted.0) || counted.1 != frames - frames_before {
            return Err(format!(
                "counts {} messages in and {} frames out, where clients sent {said} and got {}",
                counted.0,
                counted.1,
                frames - frames_before
            ));
        }
        Ok(())
    }

    fn health_pongs(&self) -> u64 {
        self.tally.health_pongs + self.links.iter().flatten().map(|link| link.health_pongs).sum::<u64>()
    }

    fn frames_received(&self) -> u64 {
        self.tally.frames + self.links.iter().flatten().map(|link| link.frames).sum::<u64>()
    }

    /// What each member knows is what the directory knows.
    ///
    /// Who is told only a number is not told of everybody who leaves: `all_stayed` since it last asked, or it may not know.
    fn compare_views(&mut self, all_stayed: bool) -> Result<(), String> {
        let mut seated = 0;
        for place in self.places() {
            let Some(link) = &mut self.links[place] else { continue };
            self.involved = link.number;
            let conn = link.conn.ok_or("gone in the calm")?;
            if !link.pings.is_empty() {
                return Err(format!("{} pings were not answered", link.pings.len()));
            }
            let code = &self.common.lobbies[link.lobby];
            let (epoch, seq, members) = self
                .engine
                .lobby_inside(code)
                .ok_or_else(|| format!("there is no lobby {code}, where conn={conn} is"))?;
            let members: Vec<_> = members.collect();
            seated += 1;
            if !members.iter().any(|(user, _, at)| *at == conn && **user == *self.common.users[link.user]) {
                return Err(format!("conn={conn} is not in its lobby {code}"));
            }
            if link.is_json {
                let view = &mut link.view;
                if self.common.relays {
                    view.skip_all_silent(&self.common);
                }
                if !view.is_settled() || (view.epoch, view.seq) != (epoch, seq) {
                    return Err(format!(
                        "knows epoch {} seq {}, and it is epoch {epoch} seq {seq}",
                        view.epoch, view.seq
                    ));
                }
                if let Some(question) = view.unanswered().filter(|_| self.common.relays && link.player.is_none()) {
                    return Err(format!("got no answer to {question:?}"));
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
                    return Err(format!("knows {known:?} ({}), and there are {there:?}", view.count_known()));
                }
            }
        }
        let stats = self.engine.stats();
        if stats.total_connections != seated {
            return Err(format!("{} seats are taken, and {seated} clients stayed", stats.total_connections));
        }
        self.compare_latest()?;
        self.compare_messages()
    }

    /// Everybody has heard everybody's last words.
    fn compare_messages(&mut self) -> Result<(), String> {
        if !self.common.relays || self.players.is_some() {
            return Ok(());
        }
        for link in self.links.iter().flatten() {
            if let Some((client, k)) = link.view.missed(&self.common) {
                return Err(format!("client #{} never heard message {k} of client #{client}", link.number));
            }
            for other in self.links.iter().flatten() {
                if other.number == link.number || other.lobby != link.lobby {
                    continue;
                }
                let (heard, said) = match link.is_json {
                    true => (link.view.last_heard(other.number), other.said),
                    false => (link.view.last_raw(other.number), other.said_raw),
                };
                if heard != Some(said) {
                    self.involved = link.number;
                    return Err(format!(
                        "client #{} heard {heard:?} last of client #{}, who said {said}",
                        link.number, other.number
                    ));
                }
            }
        }
        Ok(())
    }

    fn everybody_leaves(&mut self) {
        if self.clients.percent(30) && !self.is_draining {
            return self.drain();
        }
        for place in self.places() {
            if self.links[place].is_none() {
                continue;
            }
            let kind = match self.clients.below(4) {
                // It could be refused.
                0 if A::PROTOCOL == Protocol::Json && self.players.is_none() && !self.common.limited => {
                    Some(Behaviour::Leave)
                }
                0 | 1 => Some(Behaviour::Close),
                _ => None,
            };
            match kind {
                Some(Behaviour::Leave) => self.ask_calmly(place, Behaviour::Leave),
                Some(_) => {
                    let link = self.links[place].as_mut().expect("just looked at");
                    link.close(1000, &mut self.clients);
                }
                None => {
                    let side = if self.clients.percent(50) { Side::Ended } else { Side::Reset };
                    self.link(place).pipe.end(side);
                }
            }
        }
    }

    fn check_nothing_is_left(&mut self) -> Result<(), String> {
        if let Some(link) = self.links.iter().flatten().next() {
            self.involved = link.number;
            return Err(format!("client #{} has left, and is still there", link.number));
        }
        let stats = self.engine.stats();
        let (slots, timers) = self.engine.held();
        let left = [stats.total_connections, stats.active_lobbies, stats.pending, stats.closing, slots, timers];
        if left != [0; 6] {
            return Err(format!("left are [seats, lobbies, pending, closing, slots, timers] {left:?}"));
        }
        if self.engine.poll_timeout().is_some() || (self.is_draining && !self.engine.is_drained()) {
            return Err("nobody is there, and the engine waits for something".into());
        }
        let seen = &self.engine.app().seen;
        if let (Some(tick_model), Some(ticks)) = (&seen.tick_model, &stats.ticks) {
            tick_model.check_counts(ticks.ran, ticks.skipped)?;
            if ticks.inbox_bytes > 0 {
                return Err(format!("nobody is there, and {} bytes wait for a tick", ticks.inbox_bytes));
            }
        }
        if !seen.seats.is_empty() {
            return Err(format!("no on_leave for {:?}", seen.seats));
        }
        let (c, tally) = (&stats.counters, &self.tally);
        for (name, counted, known) in [
            ("accepted", c.accepted, tally.opened),
            ("shed", c.shed, tally.shed),
            ("closed", c.closed_in_all(), tally.closed),
            ("opened and closed", tally.opened, tally.closed),
            ("bytes_in", c.bytes_in, tally.bytes_in),
            ("bytes_out", c.bytes_out, tally.bytes_out),
            ("joined", c.joined, seen.joined),
            ("left", c.left, seen.left),
            ("joined and left", c.joined, c.left),
            ("taken_over", c.taken_over, seen.taken_over),
            ("health_checks", c.health_checks, seen.answered_ever + c.health_checks_failed),
        ] {
            if counted != known {
                return Err(format!("{name}: {counted} are counted, and there were {known}"));
            }
        }
        for &reason in CloseReason::ALL {
            let known = tally.reasons[reason as usize];
            if c.closed(reason) != known {
                return Err(format!("closed {reason}: {} are counted, and there were {known}", c.closed(reason)));
            }
        }
        Ok(())
    }
}
