//! The simulator's driver, the counterpart of [`net::Server`](crate::net::Server) without sockets. It passes bytes in
//! and out, reports writable connections to the engine, ends turns, and drops closed connections.
//!
//! Draws the faults of the network. Does not advance the time.

use super::client::pipe::{PipeEnd, Side};
use super::invariants;
use super::refusals;
use super::swarm::behaviour::Behaviour;
use super::transcript::EventKind;
use super::world::World;
use crate::base::id::ConnId;
use crate::engine::app::App;
use crate::engine::driver::Flow;

impl<A: App> World<A> {
    /// Passes up to `chunk` bytes, or the end of the stream, from the link at `index` to the engine.
    pub(super) fn deliver(&mut self, index: usize, chunk: usize) {
        let World { server, clients, transcript, .. } = self;
        server.turn_open = true;
        let link = clients.link(index);
        let conn = link.conn.expect("has_input() implies an open connection");
        transcript.current_client = link.number;
        if link.pipe.is_at_end() {
            link.end_was_read = true;
            transcript.note(server.now, link.number, EventKind::HangsUp, 0, &[]);
            return server.call(|engine, now| engine.handle_hangup(now, conn));
        }
        link.last_delivery = server.now;
        // For a third of the chunk sizes the work is limited, as by a driver that divides its time among connections.
        let max_work = if chunk.is_multiple_of(3) && chunk != usize::MAX { 4 * chunk } else { usize::MAX };
        let bytes = link.pipe.server_read(chunk);
        let handed_in = bytes.len();
        server.models.counters.bytes_in += handed_in.saturating_sub(link.unconsumed) as u64;
        transcript.note(server.now, link.number, EventKind::Arrived, handed_in as u64, bytes);
        let consumed = server.call(|engine, now| engine.handle_bytes_up_to(now, conn, bytes, max_work)).bytes;
        link.unconsumed = link.unconsumed.max(handed_in) - consumed;
        link.pipe.server_unread(handed_in - consumed);
    }

    /// Lets the client at `index` read up to `chunk` bytes.
    pub(super) fn read(&mut self, index: usize, chunk: usize) -> Result<(), String> {
        let World { server, clients, swarm, random, transcript, .. } = self;
        let (link, shared) = clients.link_and_shared(index);
        transcript.current_client = link.number;
        let before = link.pipe.unread_by_client();
        let was_answered = link.status.is_some();
        let outcome = link.read(chunk, shared, &mut random.clients);
        if let Some(status) = link.status.filter(|_| !was_answered) {
            server.models.addresses.answered(link.network, status);
        }
        let read = before - link.pipe.unread_by_client();
        transcript.note(server.now, link.number, EventKind::Reads, read as u64, &[]);
        outcome?;
        if shared.may_refuse { refusals::check(&mut server.models, clients, swarm, index, server.now) } else { Ok(()) }
    }

    /// Reports that the socket of the link at `index` accepts bytes again.
    pub(super) fn wake(&mut self, index: usize) {
        self.server.turn_open = true;
        self.note(index, EventKind::Writable, 0, &[]);
        let link = self.clients.link(index);
        link.pipe.is_blocked = false;
        if let Some(conn) = link.conn {
            self.server.call(|engine, now| engine.handle_writable(now, conn));
        }
    }

    /// Ends a turn: expires timers, writes, then drops closed connections.
    pub(super) fn end_turn(&mut self) -> Result<(), String> {
        self.server.turn_open = false;
        self.report_unread();
        self.server.call(|engine, now| engine.handle_timeout(now));
        // A tick with much output pauses until the driver has written, then continues.
        while self.server.call(|engine, _| engine.wants_flush()) {
            self.write_all()?;
            self.server.call(|engine, now| engine.handle_timeout(now));
        }
        self.write_all()?;
        invariants::check_close_reasons(self)?;
        while let Some(conn) = self.server.call(|engine, _| engine.poll_closed()) {
            let index =
                self.clients.index_of(conn).ok_or_else(|| format!("poll_closed() returned unknown conn={conn}"))?;
            self.handle_dropped(index)?;
        }
        self.server.call(|engine, _| engine.rotate_segment());
        invariants::after_turn(self)?;
        self.server.last_turn = self.server.now;
        self.server.had_unread = self.clients.has_unread();
        Ok(())
    }

    /// Reports the connections with unread input, as a driver does when a turn ends before it has read all sockets.
    fn report_unread(&mut self) {
        if !self.server.engine().has_due_timers(self.server.now) {
            return;
        }
        let mut unread = Vec::new();
        for link in self.clients.iter_mut() {
            link.unread_turns = if link.has_input() { link.unread_turns + 1 } else { 0 };
            unread.extend(link.conn.filter(|_| link.has_input()));
        }
        if !unread.is_empty() && self.swarm.weight(Behaviour::Unread) > 0 {
            self.count(Behaviour::Unread);
        }
        self.server.call(|engine, now| engine.handle_unread(now, &unread));
    }

    fn write_all(&mut self) -> Result<(), String> {
        while let Some(conn) = self.server.call(|engine, _| engine.poll_writable()) {
            self.write(conn)?;
        }
        Ok(())
    }

    fn write(&mut self, conn: ConnId) -> Result<(), String> {
        let World { server, clients, swarm, random, transcript, .. } = self;
        let network = &mut random.network;
        let index = clients.index_of(conn).ok_or_else(|| format!("poll_writable() returned unknown conn={conn}"))?;
        let short = swarm.occurs(Behaviour::ShortWrite, network);
        let write_fails = swarm.occurs(Behaviour::WriteError, network) && network.percent(5);
        let link = clients.link(index);
        transcript.current_client = link.number;
        if short {
            link.pipe.budget = network.below(4 * swarm.narrow as u64 + 100) as usize;
            link.pipe.max_write = 1 + network.below(100) as usize;
            link.pipe.write_is_interrupted = network.percent(10);
        }
        link.pipe.write_fails = write_fails;
        link.pipe.is_blocked = false;
        let mut written = Vec::new();
        let before = link.pipe.accepted;
        let mut socket = PipeEnd { pipe: &mut link.pipe, written: &mut written };
        let outcome = server.call(|engine, _| engine.write_to(conn, &mut socket));
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
            server.models.counters.bytes_out += accepted;
        }
        transcript.note(server.now, link.number, event, accepted, &written);
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
        let World { server, clients, random, .. } = self;
        server.models.counters.closed += 1;
        // Unread input turns the end of the stream into a reset, which may discard output still in flight.
        let overtakes = random.network.percent(50);
        let link = clients.link(index);
        let was_unread = link.pipe.unread_by_server() > 0;
        link.was_cut |= server.is_draining();
        if let Some(conn) = link.conn.take() {
            link.tier = server.models.tokens.dropped(conn);
        }
        link.pipe.drop_server();
        let reason = link.reason.ok_or("the connection was dropped without a close reason")?;
        if link.traits.is_stalled || (was_unread && overtakes) {
            link.pipe.end(Side::Ended);
        }
        server.models.counters.dropped(reason);
        Ok(())
    }
}
