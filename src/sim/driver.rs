//! The simulator's driver, the counterpart of [`net::Server`](crate::net::Server) without sockets. It passes bytes in
//! and out, reports writable connections to the engine, ends turns, and drops closed connections.
//!
//! Draws the faults of the network. Does not advance the time.

use std::io;

use super::client::clients::Clients;
use super::client::pipe::{PipeEnd, Side};
use super::invariants;
use super::refusals;
use super::swarm::behaviour::Behaviour;
use super::swarm::parameters::Swarm;
use super::transcript::{EventKind, Transcript};
use super::world::World;
use crate::base::close::CloseReason;
use crate::base::id::ConnId;
use crate::base::random::Random;
use crate::base::time::Time;
use crate::engine::app::App;
use crate::engine::driver::{Flow, Transport};

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
        let (now, number) = (server.now, link.number);
        // Noted before the engine acts on them, so that the report of a panic shows them.
        let arrived = &bytes[link.unconsumed.min(handed_in)..];
        let decoder = &mut link.decoders.arrives;
        decoder.push(arrived, |unit, bytes| transcript.note_unit(now, number, EventKind::Request, unit, bytes));
        let consumed = server.call(|engine, now| engine.handle_bytes_up_to(now, conn, bytes, max_work)).bytes;
        link.unconsumed = link.unconsumed.max(handed_in) - consumed;
        link.pipe.server_unread(handed_in - consumed);
    }

    /// Lets the client at `index` read up to `chunk` bytes.
    pub(super) fn read(&mut self, index: usize, chunk: usize) -> Result<(), String> {
        let World { server, clients, swarm, random, transcript, .. } = self;
        let (link, shared) = clients.link_and_shared(index);
        transcript.current_client = link.number;
        shared.relay.executed(server.models.sessions.take_executed());
        if let Some(session) = &mut link.view.session {
            session.expected = session.expected.take().or(server.models.sessions.take_resume(link.accepted));
        }
        let before = link.pipe.unread_by_client();
        let was_answered = link.admission().is_some();
        let outcome = link.read(chunk, shared, &mut random.clients);
        if let Some(status) = link.admission().filter(|_| !was_answered) {
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

    /// Ends a turn, and handles what the engine has done in it.
    pub(super) fn end_turn(&mut self) -> Result<(), String> {
        self.server.turn_open = false;
        self.report_unread();
        let World { server, clients, swarm, random, transcript, .. } = self;
        let mut network = Network::new(clients, swarm, &mut random.network, transcript, server.now);
        let recorded = server.call(|engine, now| engine.end_turn(now, &mut network));
        let TurnRecord { bytes_out, faults, closed, unknown } = network.turn;
        recorded.map_err(|error| error.to_string())?;
        if let Some(conn) = unknown {
            return Err(format!("the engine has output for conn={conn}, which is unknown"));
        }
        server.models.counters.bytes_out += bytes_out;
        faults.into_iter().for_each(|behaviour| self.count(behaviour));
        invariants::check_close_reasons(self, &closed)?;
        for (conn, _) in closed {
            let index = self.clients.index_of(conn).ok_or_else(|| format!("conn={conn} is closed, but unknown"))?;
            self.handle_dropped(index)?;
        }
        invariants::after_turn(self)?;
        self.serve_admin_port()?;
        self.server.last_turn = self.server.now;
        self.server.had_unread = self.clients.has_unread();
        Ok(())
    }

    /// Serves the admin port, whose clients only ask questions. The reports of pings are taken already.
    fn serve_admin_port(&mut self) -> Result<(), String> {
        let World { server, admin_port, transcript, .. } = self;
        server.call(|engine, now| admin_port.work(now, engine));
        transcript.mix(admin_port.end_turn(server.now)?);
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

/// The sockets of the links, as the engine writes to them. Draws which writes are short or fail.
struct Network<'a> {
    clients: &'a mut Clients,
    swarm: &'a Swarm,
    random: &'a mut Random,
    transcript: &'a mut Transcript,
    now: Time,
    /// Bytes that the current write has written.
    written: Vec<u8>,
    attempt: Option<Attempt>,
    turn: TurnRecord,
}

/// The current write.
struct Attempt {
    index: usize,
    /// Bytes that the link's socket had accepted before.
    accepted: u64,
    faults: Vec<Behaviour>,
}

/// What the engine did to the sockets in one turn.
#[derive(Default)]
struct TurnRecord {
    /// Bytes written, without those of a write that failed: the engine does not count them.
    bytes_out: u64,
    faults: Vec<Behaviour>,
    closed: Vec<(ConnId, CloseReason)>,
    /// A connection that the engine wanted to write to and that does not exist.
    unknown: Option<ConnId>,
}

impl<'a> Network<'a> {
    fn new(
        clients: &'a mut Clients,
        swarm: &'a Swarm,
        random: &'a mut Random,
        transcript: &'a mut Transcript,
        now: Time,
    ) -> Network<'a> {
        Network {
            clients,
            swarm,
            random,
            transcript,
            now,
            written: Vec::new(),
            attempt: None,
            turn: TurnRecord::default(),
        }
    }
}

impl Transport for Network<'_> {
    type Socket<'b>
        = PipeEnd<'b>
    where
        Self: 'b;

    fn socket(&mut self, conn: ConnId) -> Option<PipeEnd<'_>> {
        let Some(index) = self.clients.index_of(conn) else {
            self.turn.unknown = Some(conn);
            return None;
        };
        let random = &mut *self.random;
        let is_short = self.swarm.occurs(Behaviour::ShortWrite, random);
        let fails = self.swarm.occurs(Behaviour::WriteError, random) && random.percent(5);
        let link = self.clients.link(index);
        self.transcript.current_client = link.number;
        let pipe = &mut link.pipe;
        if is_short {
            pipe.budget = random.below(4 * self.swarm.narrow as u64 + 100) as usize;
            pipe.max_write = 1 + random.below(100) as usize;
            pipe.write_is_interrupted = random.percent(10);
        }
        pipe.write_fails = fails;
        pipe.is_blocked = false;
        self.written.clear();
        let faults = [(is_short, Behaviour::ShortWrite), (fails, Behaviour::WriteError)];
        let faults = faults.into_iter().filter(|(occurs, _)| *occurs).map(|(_, behaviour)| behaviour).collect();
        self.attempt = Some(Attempt { index, accepted: pipe.accepted, faults });
        Some(PipeEnd { pipe, written: &mut self.written })
    }

    fn wrote(&mut self, _: ConnId, outcome: &io::Result<Flow>) {
        let Attempt { index, accepted, faults } = self.attempt.take().expect("socket() was called before");
        let link = self.clients.link(index);
        (link.pipe.budget, link.pipe.max_write) = (usize::MAX, usize::MAX);
        let accepted = link.pipe.accepted - accepted;
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
        self.turn.bytes_out += if outcome.is_ok() { accepted } else { 0 };
        self.turn.faults.extend(faults);
        let (number, now) = (link.number, self.now);
        self.transcript.note(now, number, event, accepted, &self.written);
        let transcript = &mut *self.transcript;
        let note = |unit, bytes: &[u8]| transcript.note_unit(now, number, EventKind::Response, unit, bytes);
        link.decoders.written.push(&self.written, note);
    }

    fn closed(&mut self, conn: ConnId, reason: CloseReason) {
        self.turn.closed.push((conn, reason));
    }
}
