//! Writing at the end of a turn: which connections are written to, in which order, and what a socket did not take.

use std::io::{self, Write};

use super::{Egress, Pressure};
use crate::base::arena::Key;
use crate::base::id::{ConnId, ConnKey};
use crate::lobby::directory::Directory;

/// Result of writing to a connection's socket.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Written {
    /// Bytes that the socket took.
    pub(crate) bytes: usize,
    pub(crate) end: WriteEnd,
}

/// How a write ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WriteEnd {
    /// Nothing was queued, only unread frames of the log, and all of them were written.
    UnreadOnly,
    /// Everything that is not corked was written. Contains the watermark that the queue has crossed, if any.
    Drained(Option<Pressure>),
    /// The socket takes no more.
    Blocked(Option<Pressure>),
}

/// Result of writing a member's unread frames directly from the log.
enum UnreadWritten {
    /// All unread frames were written, this many bytes. Nothing is queued.
    All(usize),
    /// This many bytes were written. The connection's queue is to be written next.
    Partial(usize),
}

impl Egress {
    /// Returns the next connection to write to. `None` ends the turn, except while output is corked.
    pub(crate) fn poll_writable(&mut self, directory: &Directory) -> Option<ConnId> {
        if self.flushes_at_tick && (self.wants_flush || !self.corks_output()) {
            self.uncork_all();
        }
        loop {
            if let Some(id) = self.dirty.pop_front() {
                if self.find(id).is_some() {
                    self.output_mut(id.key()).is_dirty = false;
                    self.flushing.push(id);
                    return Some(id);
                }
            } else if self.corks_output() {
                return None;
            } else if let Some(key) = self.flush_targets.pop() {
                if self.lobby_with_unread(key).is_some() {
                    let id = self.output(key).id;
                    self.flushing.push(id);
                    return Some(id);
                }
            } else if let Some(lobby) = self.lobbies_to_flush.pop_front() {
                self.log.unmark_for_flush(lobby);
                if directory.get_lobby(lobby).is_some() {
                    self.flush_targets.extend(directory.members(lobby).iter().rev().map(|member| member.conn));
                }
            } else {
                self.end_turn();
                return None;
            }
        }
    }

    /// Writes the output that waits for a connection, until nothing is left or the socket takes no more.
    ///
    /// # Errors
    ///
    /// Those of the socket.
    pub(crate) fn write_to(&mut self, key: ConnKey, socket: &mut dyn Write) -> io::Result<Written> {
        let unread_bytes = match self.write_unread(key, socket)? {
            UnreadWritten::All(bytes) => {
                // The usual case: nothing was queued, so no watermark is crossed and nothing else changes.
                self.note_written(key);
                return Ok(Written { bytes, end: WriteEnd::UnreadOnly });
            }
            UnreadWritten::Partial(bytes) => bytes,
        };
        let Egress { conns, log, write_buffer, .. } = self;
        let (queued_bytes, is_drained) = match &mut conns[key.index()].outbox {
            None => (0, true),
            Some(outbox) => outbox.write_to(socket, log, write_buffer)?,
        };
        self.note_written(key);
        let crossed = self.check_watermarks(key);
        let end = if is_drained {
            if !self.output(key).is_corked() {
                let outbox = self.output_mut(key).outbox.take();
                self.outboxes.give_all(outbox);
                self.clear_lagging(key);
            }
            WriteEnd::Drained(crossed)
        } else {
            self.output_mut(key).is_blocked = true;
            self.update_lagging(key);
            // Late, so that only the bytes that the kernel did not take are copied.
            self.materialize(key);
            WriteEnd::Blocked(crossed)
        };
        Ok(Written { bytes: unread_bytes + queued_bytes, end })
    }

    /// A blocked socket accepts bytes again.
    pub(crate) fn handle_writable(&mut self, id: ConnId) {
        if self.find(id).is_some_and(|output| output.is_blocked) {
            self.output_mut(id.key()).is_blocked = false;
            self.mark_dirty(id.key());
        }
    }

    /// Discards the frames of this turn, because no connection is left to receive them.
    ///
    /// While output is corked, nothing else ends the turn. The frames of an earlier lobby would then count against a
    /// later lobby under the same key.
    pub(crate) fn discard_turn(&mut self) {
        self.corked.clear();
        self.flushing.clear();
        (self.wants_flush, self.is_uncorking) = (false, false);
        self.log.end_turn();
    }

    /// Ends the turn: all connections have been written to, so the frames of this turn can be discarded.
    fn end_turn(&mut self) {
        self.wants_flush = false;
        self.is_uncorking = false;
        if self.log.is_empty() {
            self.flushing.clear();
            return;
        }
        while let Some(id) = self.flushing.pop() {
            // poll_writable() returned this connection, but the driver did not write to it.
            if self.find(id).is_some() {
                self.queue_unread(id.key());
                self.update_lagging(id.key());
                self.materialize(id.key());
            }
        }
        self.log.end_turn();
    }

    /// Writes a member's unread frames directly from the log. Queues the bytes that the socket does not take. If frames
    /// are queued already, queues all unread frames behind them and writes nothing.
    fn write_unread(&mut self, key: ConnKey, socket: &mut dyn Write) -> io::Result<UnreadWritten> {
        if self.corks_output() {
            return Ok(UnreadWritten::Partial(0));
        }
        let Egress { conns, log, write_buffer, .. } = self;
        let output = &mut conns[key.index()];
        let Some(lobby) = output.lobby.filter(|_| !output.is_lagging) else { return Ok(UnreadWritten::Partial(0)) };
        if output.outbox.is_some() {
            self.queue_unread(key);
            return Ok(UnreadWritten::Partial(0));
        }
        let bytes = match log.contiguous_unread(lobby, output.cursor, key) {
            // The usual case: the end of the lobby's buffer, in one piece.
            Some(bytes) => bytes,
            // The pieces around frames that exclude this connection, mostly its own. The copy is small: see
            // half_bound().
            None => {
                write_buffer.clear();
                log.unread_frames(lobby, output.cursor, key)
                    .for_each(|range| write_buffer.extend_from_slice(log.bytes(&range)));
                write_buffer
            }
        };
        if bytes.is_empty() {
            output.cursor = log.end_cursor(lobby);
            return Ok(UnreadWritten::All(0));
        }
        let written = match socket.write(bytes) {
            Ok(written) => written,
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => 0,
            Err(error) => return Err(error),
        };
        if written == bytes.len() {
            output.cursor = log.end_cursor(lobby);
            return Ok(UnreadWritten::All(written));
        }
        self.queue_unread(key);
        if written > 0 {
            let Egress { conns, log, outboxes, .. } = self;
            outboxes.of(&mut conns[key.index()].outbox).advance(written, log);
        }
        Ok(UnreadWritten::Partial(written))
    }

    /// Notes that a connection has been written to.
    fn note_written(&mut self, key: ConnKey) {
        if self.flushing.last().is_some_and(|id| id.key() == key) {
            self.flushing.pop();
        }
    }

    /// Copies the queued frames of a connection out of the buffers of this turn, so that they outlast the turn.
    fn materialize(&mut self, key: ConnKey) {
        let Egress { conns, log, .. } = self;
        if let Some(outbox) = &mut conns[key.index()].outbox {
            outbox.materialize(log);
        }
    }
}

impl Egress {
    /// Asserts the invariants of one connection's output, among them those that allow a broadcast without a check of
    /// each member's bound.
    pub(crate) fn check(&self, id: ConnId, lobby: Option<crate::base::id::LobbyKey>) {
        let key = id.key();
        let output = self.output(key);
        assert_eq!((output.id, output.lobby), (id, lobby), "exactly the members read their lobby's log");
        output.outbox.iter().for_each(|outbox| outbox.check());
        let is_flushing = self.flushing.contains(&id);
        let has_ranges = output.outbox.as_ref().is_some_and(|outbox| outbox.has_ranges());
        assert!(
            !has_ranges || output.is_dirty || is_flushing || self.corked.contains(&id),
            "frames of the broadcast log are written in their turn: {output:?}"
        );
        assert!(!output.is_corked() || self.corked.contains(&id), "corked output is uncorked at the tick: {output:?}");
        let is_ready = output.outbox.as_ref().is_some_and(|outbox| outbox.is_ready());
        assert!(
            !is_ready || output.is_dirty || output.is_blocked,
            "queued output is scheduled for a write: {output:?}"
        );
        let Some(lobby) = lobby else { return assert!(!output.is_lagging, "only members lag") };
        let entries = self.log.lagging(lobby).iter().filter(|&&other| other == key).count();
        assert_eq!(entries, usize::from(output.is_lagging), "the log lists exactly the lagging members, once each");
        if output.is_lagging {
            return;
        }
        let half = self.half_bound();
        assert!(!output.is_blocked && output.queued_cost() <= half, "a member that does not lag has room");
        let unread: usize = self.log.unread_frames(lobby, output.cursor, key).map(|range| range.cost()).sum();
        assert!(unread <= half, "unread frames are within half of every member's bound");
        assert!(
            output.outbox.is_some() || !output.is_above_high_mark,
            "a member above the high-water mark has a queue"
        );
        let is_scheduled = output.is_dirty || is_flushing || self.flush_targets.contains(&key);
        assert!(
            unread == 0 || is_scheduled || self.log.is_marked_for_flush(lobby),
            "a member with unread frames is written to in this turn"
        );
    }

    /// Asserts that nothing is kept for a connection that is closed.
    pub(crate) fn check_closed(&self, key: ConnKey) {
        let output = self.output(key);
        assert!(output.id == ConnId::NONE && output.outbox.is_none(), "a closed connection has no output");
    }
}
