//! The simulator's driver, the counterpart of [`net::Server`](crate::net::Server) without sockets. It passes bytes in
//! and out, reports writable connections to the engine, drops closed connections, and advances time.

use std::time::Duration;

use super::network::{PipeEnd, Side};
use super::swarm::Behaviour;
use super::transcript::{EventKind, NO_CLIENT};
use super::world::World;
use crate::base::id::ConnId;
use crate::engine::app::App;
use crate::engine::driver::Flow;

impl<A: App> World<A> {
    pub(super) fn deliver(&mut self, index: usize, chunk: usize) {
        self.turn_open = true;
        let link = self.links[index].as_mut().expect("pick() returns the index of a link");
        let conn = link.conn.expect("has_input() implies an open connection");
        self.current_client = link.number;
        if link.pipe.is_at_end() {
            link.end_was_read = true;
            self.transcript.note(self.now, link.number, EventKind::HangsUp, 0, &[]);
            return self.engine.handle_hangup(self.now, conn);
        }
        link.last_delivery = self.now;
        // For a third of the chunk sizes the work is limited, as by a driver that divides its time among connections.
        let max_work = if chunk.is_multiple_of(3) && chunk != usize::MAX { 4 * chunk } else { usize::MAX };
        let bytes = link.pipe.server_read(chunk);
        let handed_in = bytes.len();
        self.counts.bytes_in += handed_in.saturating_sub(link.unconsumed) as u64;
        self.transcript.note(self.now, link.number, EventKind::Arrived, handed_in as u64, bytes);
        let consumed = self.engine.handle_bytes_up_to(self.now, conn, bytes, max_work).bytes;
        link.unconsumed = link.unconsumed.max(handed_in) - consumed;
        link.pipe.server_unread(handed_in - consumed);
    }

    pub(super) fn read(&mut self, index: usize, chunk: usize) -> Result<(), String> {
        let World { links, shared, clients, transcript, .. } = self;
        let link = links[index].as_mut().expect("pick() returns the index of a link");
        self.current_client = link.number;
        let before = link.pipe.unread_by_client();
        let outcome = link.read(chunk, shared, clients);
        transcript.note(self.now, link.number, EventKind::Reads, (before - link.pipe.unread_by_client()) as u64, &[]);
        outcome?;
        if self.shared.has_rate_limits { self.check_rates(index) } else { Ok(()) }
    }

    pub(super) fn wake(&mut self, index: usize) {
        self.turn_open = true;
        self.note(index, EventKind::Writable, 0, &[]);
        let link = self.link(index);
        link.pipe.is_blocked = false;
        if let Some(conn) = link.conn {
            self.engine.handle_writable(self.now, conn);
        }
    }

    /// Ends a turn: expires timers, writes, then drops closed connections.
    pub(super) fn end_turn(&mut self) -> Result<(), String> {
        self.turn_open = false;
        self.report_unread();
        self.engine.handle_timeout(self.now);
        // A tick with much output pauses until the driver has written, then continues.
        while self.engine.wants_flush() {
            self.write_all()?;
            self.engine.handle_timeout(self.now);
        }
        self.write_all()?;
        self.check_close_reasons()?;
        while let Some(conn) = self.engine.poll_closed() {
            let index = self.index_of(conn).ok_or_else(|| format!("poll_closed() returned unknown conn={conn}"))?;
            self.handle_dropped(index)?;
        }
        self.engine.rotate_segment();
        self.after_turn()?;
        self.last_turn = self.now;
        self.had_unread = self.has_unread();
        Ok(())
    }

    /// Reports the connections with unread input, as a driver does when a turn ends before it has read all sockets.
    fn report_unread(&mut self) {
        if !self.engine.has_due_timers(self.now) {
            return;
        }
        let mut unread = Vec::new();
        for link in self.links.iter_mut().flatten() {
            link.unread_turns = if link.has_input() { link.unread_turns + 1 } else { 0 };
            unread.extend(link.conn.filter(|_| link.has_input()));
        }
        if !unread.is_empty() && self.swarm.weight(Behaviour::Unread) > 0 {
            self.count(Behaviour::Unread);
        }
        self.engine.handle_unread(self.now, &unread);
    }

    fn write_all(&mut self) -> Result<(), String> {
        while let Some(conn) = self.engine.poll_writable() {
            self.write(conn)?;
        }
        Ok(())
    }

    pub(super) fn index_of(&self, conn: ConnId) -> Option<usize> {
        let index = *self.link_of_conn.get(conn.index())?;
        self.links.get(index)?.as_ref().filter(|link| link.conn == Some(conn)).map(|_| index)
    }

    fn write(&mut self, conn: ConnId) -> Result<(), String> {
        let index = self.index_of(conn).ok_or_else(|| format!("poll_writable() returned unknown conn={conn}"))?;
        let (short, write_fails) = (
            self.swarm.occurs(Behaviour::ShortWrite, &mut self.network),
            self.swarm.occurs(Behaviour::WriteError, &mut self.network) && self.network.percent(5),
        );
        let link = self.links[index].as_mut().expect("index_of() found the link");
        self.current_client = link.number;
        if short {
            link.pipe.budget = self.network.below(4 * self.swarm.narrow as u64 + 100) as usize;
            link.pipe.max_write = 1 + self.network.below(100) as usize;
            link.pipe.write_is_interrupted = self.network.percent(10);
        }
        link.pipe.write_fails = write_fails;
        link.pipe.is_blocked = false;
        self.written.clear();
        let before = link.pipe.accepted;
        let mut socket = PipeEnd { pipe: &mut link.pipe, written: &mut self.written };
        let outcome = self.engine.write_to(conn, &mut socket);
        (link.pipe.budget, link.pipe.max_write) = (usize::MAX, usize::MAX);
        let accepted = link.pipe.accepted - before;
        // The engine does not count bytes written before a failed write in the same call.
        let counted = outcome.is_ok();
        link.was_cut = matches!(outcome, Ok(Flow::Blocked) | Err(_));
        let event = match outcome {
            Ok(Flow::Drained) => EventKind::Wrote,
            Ok(Flow::Blocked) => EventKind::WroteBlocked,
            Ok(Flow::Finished) => {
                link.pipe.server_ended = true;
                EventKind::WroteFinished
            }
            Ok(Flow::Closed) => EventKind::WroteClosed,
            Err(_) => EventKind::WriteFailed,
        };
        if counted {
            self.counts.bytes_out += accepted;
        }
        self.transcript.note(self.now, link.number, event, accepted, &self.written);
        if short {
            self.count(Behaviour::ShortWrite);
        }
        if write_fails {
            self.count(Behaviour::WriteError);
        }
        Ok(())
    }

    fn handle_dropped(&mut self, index: usize) -> Result<(), String> {
        self.note(index, EventKind::Dropped, 0, &[]);
        self.counts.closed += 1;
        // Unread input turns the end of the stream into a reset, which may discard output still in flight.
        let overtakes = self.network.percent(50);
        let link = self.links[index].as_mut().expect("index_of() found the link");
        let was_unread = link.pipe.unread_by_server() > 0;
        link.was_cut |= self.is_draining;
        if let Some(conn) = link.conn.take() {
            let identity = self.engine.observed_app().observed.identities.remove(&conn);
            link.tier = identity.and_then(|identity| identity.tier);
        }
        link.pipe.drop_server();
        let reason = link.reason.ok_or("the connection was dropped without a close reason")?;
        if link.traits.is_stalled || (was_unread && overtakes) {
            link.pipe.end(Side::Ended);
        }
        self.counts.reasons[reason as usize] += 1;
        Ok(())
    }

    // ---- time ----

    pub(super) fn advance(&mut self) -> Result<(), String> {
        self.end_turn()?;
        let config = self.engine.config();
        let retry = self.next_retry().filter(|&retry| retry > self.now);
        let random = &mut self.schedule;
        self.now = if let Some(retry) = retry
            && random.percent(50)
        {
            retry
        } else if self.swarm.occurs(Behaviour::Jump, random) {
            let reach = config.ping_interval * 3 + config.handshake_timeout * 2;
            let far = Duration::from_micros(random.below(reach.as_micros() as u64));
            let far = if random.percent(5) { far * 5000 } else { far };
            self.counts.behaviours[Behaviour::Jump as usize] += 1;
            self.now + far
        } else if let Some(hz) = config.tick_hz
            && random.percent(10)
        {
            // Up to eleven tick periods at once, so that the turn is late for some ticks.
            self.now + Duration::from_secs(1) / hz * random.below(12) as u32
        } else {
            match self.engine.poll_timeout() {
                Some(next) if random.percent(50) => next,
                _ => self.now + Duration::from_micros(random.below(20_000)),
            }
        };
        self.turn_open = true;
        self.transcript.note(self.now, NO_CLIENT, EventKind::Clock, 0, &[]);
        Ok(())
    }

    /// Advances time by `span`, stopping at every timer, and delivers everything in flight at each stop.
    pub(super) fn pass_time(&mut self, span: Duration) -> Result<(), String> {
        let end = self.now + span;
        self.run_until_quiet()?;
        for _ in 0..100_000 {
            match self.engine.poll_timeout() {
                Some(next) if next <= end => self.now = next,
                _ => {
                    self.now = end;
                    return self.run_until_quiet();
                }
            }
            self.run_until_quiet()?;
        }
        Err("timers keep expiring without end".into())
    }

    /// Delivers everything in flight and all answers, and runs ticks until no inbox or corked output is left.
    pub(super) fn run_until_inboxes_empty(&mut self) -> Result<(), String> {
        self.run_until_quiet()?;
        while self.inbox_bytes() > 0 || self.has_corked_output() {
            self.now =
                self.engine.poll_timeout().ok_or("messages or output wait for a tick, but no tick is scheduled")?;
            self.run_until_quiet()?;
        }
        Ok(())
    }

    /// Delivers everything in flight, and all answers, until no more bytes move.
    pub(super) fn run_until_quiet(&mut self) -> Result<(), String> {
        for _ in 0..100_000 {
            let mut moved = false;
            for index in self.indices() {
                let Some(link) = &self.links[index] else { continue };
                if link.has_input() {
                    self.deliver(index, usize::MAX);
                    moved = true;
                }
                if self.link(index).pipe.is_unblocked() {
                    self.wake(index);
                    moved = true;
                }
            }
            self.end_turn()?;
            for index in self.indices() {
                let Some(link) = &self.links[index] else { continue };
                if link.pipe.is_client_reading() && (link.pipe.unread_by_client() > 0 || link.pipe.is_at_server_end()) {
                    self.read(index, usize::MAX)?;
                    moved = true;
                }
            }
            self.transcript.step += 1;
            self.after_step()?;
            if !moved {
                return Ok(());
            }
        }
        Err("the clients and the server keep exchanging bytes without end".into())
    }
}
