//! The end of a turn: timers and ticks, writing, dropping closed connections, and the journal. Knows no sockets: they are
//! those of a [`Transport`].

use std::io::{self, Write};

use log::debug;

use super::Engine;
use super::app::App;
use super::driver::{Flow, JournalError, Transport};
use super::recording::Input;
use crate::base::close::CloseReason;
use crate::base::id::ConnId;
use crate::base::time::Time;

impl<A: App> Engine<A> {
    /// Ends a turn: expires timers, runs due ticks, writes all output, drops closed connections, begins a new segment
    /// of the journal if it is time, and hands the journal's entries to the operating system.
    ///
    /// # Errors
    ///
    /// [`JournalError`] if the journal cannot be written and `journal_on_error` is `stop`. Errors of sockets are
    /// reported to [`Transport::wrote`].
    pub fn end_turn(&mut self, now: Time, transport: &mut impl Transport) -> Result<(), JournalError> {
        self.expire(now);
        // A tick that fills the queues is interrupted. It continues once the queued bytes are written.
        while self.wants_flush() {
            self.flush(transport)?;
            self.expire(now);
        }
        self.flush(transport)?;
        if self.core.record_mode.is_recording() {
            // Only when all output is written, because a segment must not begin in the middle of a turn.
            self.rotate_segment();
            self.commit_journal()?;
        }
        Ok(())
    }

    /// Writes all output and drops closed connections: in the middle of a turn, when
    /// [`wants_flush`](Self::wants_flush) returns true, and for what a program has sent between two turns.
    ///
    /// # Errors
    ///
    /// As [`end_turn`](Self::end_turn).
    pub fn flush(&mut self, transport: &mut impl Transport) -> Result<(), JournalError> {
        self.write_pending(transport)?;
        // Asked first, because most turns close nothing and a close reason is large.
        while self.core.conns.has_closed()
            && let Some((conn, reason)) = self.poll_closed()
        {
            transport.closed(conn, reason);
        }
        Ok(())
    }

    fn write_pending(&mut self, transport: &mut impl Transport) -> Result<(), JournalError> {
        loop {
            self.write_targets(transport);
            let Some(conn) = self.poll_writable() else { return Ok(()) };
            let outcome = match transport.socket(conn) {
                Some(mut socket) => self.write_to(conn, &mut socket)?,
                None => self.write_to(conn, &mut NoSocket)?,
            };
            transport.wrote(conn, &outcome);
        }
    }

    /// Writes to members of lobbies that get all frames of the turn and nothing else, until another connection is next.
    /// They are most connections of a busy server, so this loop does only what they need.
    fn write_targets(&mut self, transport: &mut impl Transport) {
        let core = &mut self.core;
        let is_idle = core.events.is_empty() && core.unflushed_lobbies.is_empty();
        if !is_idle || core.record_mode.is_recording() || core.drain.is_some() || !core.egress.prepare_targets() {
            return;
        }
        while let Some(target) = core.egress.next_target(&core.directory) {
            let Some(mut socket) = transport.socket(target.id) else {
                let outcome = core.write_rest_of_target(&target, Ok(0), &mut NoSocket);
                return transport.wrote(target.id, &outcome);
            };
            let bytes = core.egress.target_bytes(&target);
            let length = bytes.len();
            let first = if length == 0 { Ok(0) } else { socket.write(bytes) };
            if first.as_ref().is_ok_and(|&written| written == length) {
                core.egress.target_written(&target);
                core.counters.bytes_out += length as u64;
                drop(socket);
                transport.wrote(target.id, &Ok(Flow::Drained));
            } else {
                let outcome = core.write_rest_of_target(&target, first, &mut socket);
                drop(socket);
                self.note_write(target.id, &outcome);
                return transport.wrote(target.id, &outcome);
            }
        }
    }

    // ---- the steps, as a replay takes them one by one ----

    /// Advances the time: expires timers, then runs due ticks.
    ///
    /// If [`wants_flush`](Self::wants_flush) returns true afterwards, the rest of the tick runs in the next call, which
    /// is due after all connections with output have been written to.
    pub(crate) fn expire(&mut self, now: Time) {
        self.enter(now, &Input::Timeout);
        self.core.clock.last_timeout = self.core.clock.now();
        for key in self.core.expire() {
            self.core.handle_timer(key);
            self.dispatch_events();
        }
        self.drain_inboxes_of_batch();
        self.core.drive_drain();
        self.core.expire_pings();
        self.core.expire_lobbies();
        self.core.expire_lists();
        self.dispatch_events();
        self.run_ticks();
    }

    /// Returns the next connection with output to write, for [`write_to`](Self::write_to).
    pub(crate) fn poll_writable(&mut self) -> Option<ConnId> {
        self.core.record_flush();
        // A turn may write several times, if its output would exceed a bound.
        self.core.egress.note_turn(self.core.clock.now());
        self.flush_presence_and_events();
        let next = self.core.egress.poll_writable(&self.core.directory);
        if next.is_none() {
            if self.core.egress.has_compressed() {
                self.core.count_compressed();
            }
            // Here and not when the link asks, because a replay ends the same flushes.
            if self.core.homes.is_some() {
                self.core.append_homes();
            }
            self.core.record_flushed();
        }
        next
    }

    /// Writes the queued output of `conn` to its socket. The inner result is that of the socket: after an error the
    /// connection is closed.
    ///
    /// # Errors
    ///
    /// [`JournalError`] if no output may be sent unrecorded. Nothing has been written then.
    pub(crate) fn write_to(&mut self, conn: ConnId, socket: &mut impl Write) -> Result<io::Result<Flow>, JournalError> {
        if self.core.slot(conn).is_none() {
            return Ok(Ok(Flow::Drained));
        }
        let outcome = if self.core.record_mode.is_recording() {
            self.commit_journal()?;
            self.core.write_recorded(conn, socket)
        } else {
            self.core.write_to(conn.key(), socket)
        };
        self.note_write(conn, &outcome);
        Ok(outcome)
    }

    /// Closes a connection whose socket has failed.
    fn note_write(&mut self, conn: ConnId, outcome: &io::Result<Flow>) {
        if let Err(error) = outcome {
            debug!("conn={conn} write failed: {error}");
            self.drain_inbox(conn);
            if self.core.slot(conn).is_some() {
                self.core.abort(conn.key(), CloseReason::WriteFailed);
                self.dispatch_events();
            }
        }
    }

    /// Frees the next closed connection. Returns its id, which is invalid from now on, and its close reason.
    pub(crate) fn poll_closed(&mut self) -> Option<(ConnId, CloseReason)> {
        self.core.poll_closed()
    }
}

/// Stands for a socket that the driver does not have: it takes no bytes.
struct NoSocket;

impl Write for NoSocket {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(io::ErrorKind::WouldBlock.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
