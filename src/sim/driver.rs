//! What a driver does, as [`net::Server`](crate::net::Server) does it with sockets: carries bytes in and out, tells
//! the engine what has become possible, drops what is over, and lets time pass.

use std::time::Duration;

use super::network::{PipeEnd, Side};
use super::swarm::Behaviour;
use super::transcript::{NOBODY, What};
use super::world::World;
use crate::engine::app::App;
use crate::id::ConnId;
use crate::wire::outbox::Flow;

impl<A: App> World<A> {
    pub(super) fn deliver(&mut self, place: usize, chunk: usize) {
        self.turn_open = true;
        let link = self.links[place].as_mut().expect("a link that was picked is there");
        let conn = link.conn.expect("only open connections are delivered to");
        self.involved = link.number;
        if link.pipe.is_at_end() {
            link.end_was_read = true;
            self.transcript.note(self.now, link.number, What::HangsUp, 0, &[]);
            return self.engine.handle_hangup(self.now, conn);
        }
        link.last_heard = self.now;
        // Some of it is left for later, as by a driver with others to serve.
        let max_work = if chunk.is_multiple_of(3) && chunk != usize::MAX { 4 * chunk } else { usize::MAX };
        let bytes = link.pipe.take_up(chunk);
        let handed_in = bytes.len();
        self.tally.bytes_in += handed_in.saturating_sub(link.untaken) as u64;
        self.transcript.note(self.now, link.number, What::Arrived, handed_in as u64, bytes);
        let taken = self.engine.handle_bytes_up_to(self.now, conn, bytes, max_work).bytes;
        link.untaken = link.untaken.max(handed_in) - taken;
        link.pipe.put_back(handed_in - taken);
    }

    pub(super) fn read(&mut self, place: usize, chunk: usize) -> Result<(), String> {
        let World { links, common, clients, transcript, .. } = self;
        let link = links[place].as_mut().expect("a link that was picked is there");
        self.involved = link.number;
        let before = link.pipe.downward();
        let outcome = link.read(chunk, common, clients);
        transcript.note(self.now, link.number, What::Reads, (before - link.pipe.downward()) as u64, &[]);
        outcome?;
        if self.common.limited { self.check_rates(place) } else { Ok(()) }
    }

    pub(super) fn wake(&mut self, place: usize) {
        self.turn_open = true;
        self.note(place, What::Writable, 0, &[]);
        let link = self.link(place);
        link.pipe.is_blocked = false;
        if let Some(conn) = link.conn {
            self.engine.handle_writable(self.now, conn);
        }
    }

    /// What a driver does at the end of a turn: timers, then writing, then dropping what is over.
    pub(super) fn end_turn(&mut self) -> Result<(), String> {
        self.turn_open = false;
        self.name_unread();
        self.engine.handle_timeout(self.now);
        // A tick with much to say goes on once everybody has been written to.
        while self.engine.wants_flush() {
            self.write_all()?;
            self.engine.handle_timeout(self.now);
        }
        self.write_all()?;
        self.look_for_reasons()?;
        while let Some(conn) = self.engine.poll_closed() {
            let place = self.place_of(conn).ok_or_else(|| format!("conn={conn} is closed, which is not open"))?;
            self.dropped(place)?;
        }
        self.engine.rotate_segment();
        self.after_turn()?;
        self.last_turn = self.now;
        self.had_unread = self.has_unread();
        Ok(())
    }

    /// Names the connections whose input lies in the network, as a driver does whose turn ends before it has read all.
    fn name_unread(&mut self) {
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

    pub(super) fn place_of(&self, conn: ConnId) -> Option<usize> {
        let place = *self.places.get(conn.index())?;
        self.links.get(place)?.as_ref().filter(|link| link.conn == Some(conn)).map(|_| place)
    }

    fn write(&mut self, conn: ConnId) -> Result<(), String> {
        let place = self.place_of(conn).ok_or_else(|| format!("conn={conn} is to be written to, which is not open"))?;
        let (short, breaks) = (
            self.swarm.strikes(Behaviour::ShortWrite, &mut self.network),
            self.swarm.strikes(Behaviour::WriteError, &mut self.network) && self.network.percent(5),
        );
        let link = self.links[place].as_mut().expect("place_of() has found it");
        self.involved = link.number;
        if short {
            link.pipe.budget = self.network.below(4 * self.swarm.narrow as u64 + 100) as usize;
            link.pipe.grain = 1 + self.network.below(100) as usize;
            link.pipe.interrupts = self.network.percent(10);
        }
        link.pipe.breaks = breaks;
        link.pipe.is_blocked = false;
        self.written.clear();
        let before = link.pipe.taken;
        let mut socket = PipeEnd { pipe: &mut link.pipe, written: &mut self.written };
        let outcome = self.engine.write_to(conn, &mut socket);
        (link.pipe.budget, link.pipe.grain) = (usize::MAX, usize::MAX);
        let taken = link.pipe.taken - before;
        // What was written before a write failed is in nobody's books.
        let counted = outcome.is_ok();
        link.was_cut = matches!(outcome, Ok(Flow::Blocked) | Err(_));
        let what = match outcome {
            Ok(Flow::Drained) => What::Wrote,
            Ok(Flow::Blocked) => What::WroteBlocked,
            Ok(Flow::Finished) => {
                link.pipe.server_ended = true;
                What::WroteFinished
            }
            Ok(Flow::Closed) => What::WroteClosed,
            Err(_) => What::WriteFailed,
        };
        if counted {
            self.tally.bytes_out += taken;
        }
        self.transcript.note(self.now, link.number, what, taken, &self.written);
        if short {
            self.count(Behaviour::ShortWrite);
        }
        if breaks {
            self.count(Behaviour::WriteError);
        }
        Ok(())
    }

    fn dropped(&mut self, place: usize) -> Result<(), String> {
        self.note(place, What::Dropped, 0, &[]);
        self.tally.closed += 1;
        // Input that nobody has read turns the end into a reset, which may overtake what was written.
        let overtakes = self.network.percent(50);
        let link = self.links[place].as_mut().expect("a link that is dropped is there");
        let was_unread = link.pipe.upward() > 0;
        link.was_cut |= self.is_draining;
        if let Some(conn) = link.conn.take() {
            let identity = self.engine.observed_app().seen.identities.remove(&conn);
            link.tier = identity.and_then(|identity| identity.tier);
        }
        link.pipe.drop_server();
        let reason = link.reason.ok_or("dropped without a reason")?;
        if link.manners.is_stalled || (was_unread && overtakes) {
            link.pipe.end(Side::Ended);
        }
        self.tally.reasons[reason as usize] += 1;
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
        } else if self.swarm.strikes(Behaviour::Jump, random) {
            let reach = config.ping_interval * 3 + config.handshake_timeout * 2;
            let far = Duration::from_micros(random.below(reach.as_micros() as u64));
            let far = if random.percent(5) { far * 5000 } else { far };
            self.tally.behaviours[Behaviour::Jump as usize] += 1;
            self.now + far
        } else if let Some(hz) = config.tick_hz
            && random.percent(10)
        {
            // A turn that comes too late for some ticks.
            self.now + Duration::from_secs(1) / hz * random.below(12) as u32
        } else {
            match self.engine.poll_timeout() {
                Some(next) if random.percent(50) => next,
                _ => self.now + Duration::from_micros(random.below(20_000)),
            }
        };
        self.turn_open = true;
        self.transcript.note(self.now, NOBODY, What::Clock, 0, &[]);
        Ok(())
    }

    /// Lets `span` pass, stopping at every timer; all that is under way arrives.
    pub(super) fn pass(&mut self, span: Duration) -> Result<(), String> {
        let end = self.now + span;
        self.settle()?;
        for _ in 0..100_000 {
            match self.engine.poll_timeout() {
                Some(next) if next <= end => self.now = next,
                _ => {
                    self.now = end;
                    return self.settle();
                }
            }
            self.settle()?;
        }
        Err("the timers do not come to rest".into())
    }

    /// Everything that is under way arrives and is answered, also what waits for a tick.
    pub(super) fn settle_kept(&mut self) -> Result<(), String> {
        self.settle()?;
        while self.kept_bytes() > 0 || self.holds_something() {
            self.now = self.engine.poll_timeout().ok_or("something waits for a tick, and none comes")?;
            self.settle()?;
        }
        Ok(())
    }

    /// Everything that is under way arrives and is answered.
    pub(super) fn settle(&mut self) -> Result<(), String> {
        for _ in 0..100_000 {
            let mut moved = false;
            for place in self.places() {
                let Some(link) = &self.links[place] else { continue };
                if link.has_input() {
                    self.deliver(place, usize::MAX);
                    moved = true;
                }
                if self.link(place).pipe.is_unblocked() {
                    self.wake(place);
                    moved = true;
                }
            }
            self.end_turn()?;
            for place in self.places() {
                let Some(link) = &self.links[place] else { continue };
                if link.pipe.reads() && (link.pipe.downward() > 0 || link.pipe.is_at_servers_end()) {
                    self.read(place, usize::MAX)?;
                    moved = true;
                }
            }
            self.transcript.step += 1;
            self.after_step()?;
            if !moved {
                return Ok(());
            }
        }
        Err("the clients and the server do not come to rest".into())
    }
}
