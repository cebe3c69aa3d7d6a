//! Writing at the end of a turn: which connections are written to, in which order, and what a socket did not take. Knows
//! no seats and closes nothing.

use std::io::{self, Write};
use std::ops::Range;

use super::output::{Egress, Feed};
use super::results::{Target, WriteEnd, Written};
use crate::base::arena::Key;
use crate::base::id::{ConnId, ConnKey};
use crate::lobby::directory::Directory;

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
            } else if !self.next_lobby(directory) {
                self.end_turn();
                return None;
            }
        }
    }

    /// Lists the members of the next lobby to flush. Returns false if there is none.
    fn next_lobby(&mut self, directory: &Directory) -> bool {
        let Some(lobby) = self.lobbies_to_flush.pop_front() else { return false };
        self.log.unmark_for_flush(lobby);
        if directory.get_lobby(lobby).is_some() {
            self.flush_targets.extend(directory.members(lobby).iter().rev().map(|member| member.conn));
            self.log.list_frames(lobby, &mut self.turn_frames);
        }
        true
    }

    // ---- members that get all frames of the turn ----

    /// Prepares [`next_target`](Self::next_target). Returns whether only members of lobbies are left to be written to.
    pub(crate) fn prepare_targets(&mut self) -> bool {
        if let Some(lobby) = self.turn_frames.lobby
            && self.log.end_cursor(lobby) != self.turn_frames.end
        {
            // A frame was appended since the members were listed.
            self.log.list_frames(lobby, &mut self.turn_frames);
        }
        self.dirty.is_empty() && self.corked.is_empty() && !self.corks_output()
    }

    /// Returns the next member to write to, if nothing is queued for it and it has read none of the turn's frames: the
    /// usual case, which needs none of the checks of [`write_to`](Self::write_to). Otherwise the next connection is up to
    /// [`poll_writable`](Self::poll_writable).
    ///
    /// Call this only after [`prepare_targets`](Self::prepare_targets) has returned true, and while nothing is sent.
    #[inline]
    pub(crate) fn next_target(&mut self, directory: &Directory) -> Option<Target> {
        while self.flush_targets.is_empty() {
            if !self.next_lobby(directory) {
                return None;
            }
        }
        let &key = self.flush_targets.last()?;
        let output = &self.conns[key.index()];
        if output.outbox.is_some()
            || output.feed != Feed::Log
            || !self.turn_frames.are_unread(output.lobby, output.cursor)
        {
            return None;
        }
        let frames = self.turn_frames.frames_for(key)?;
        self.flush_targets.pop();
        Some(Target { id: output.id, frames })
    }

    /// The bytes for a target.
    #[inline]
    pub(crate) fn target_bytes(&mut self, target: &Target) -> &[u8] {
        let [before, after] = &target.frames;
        let bytes = self.log.buffer_bytes(self.turn_frames.buffer);
        let range = |range: &Range<u32>| &bytes[range.start as usize..range.end as usize];
        if before.is_empty() {
            return range(after);
        }
        if after.is_empty() {
            return range(before);
        }
        self.write_buffer.clear();
        self.write_buffer.extend_from_slice(range(before));
        self.write_buffer.extend_from_slice(range(after));
        &self.write_buffer
    }

    /// Notes that a target's socket has taken all its bytes.
    #[inline]
    pub(crate) fn target_written(&mut self, target: &Target) {
        self.conns[target.id.index()].cursor = self.turn_frames.end;
    }

    /// Continues a write to a target of which the socket has not taken all bytes.
    ///
    /// # Errors
    ///
    /// Errors of the socket.
    pub(crate) fn write_rest_of_target(
        &mut self,
        target: &Target,
        first: io::Result<usize>,
        socket: &mut dyn Write,
    ) -> io::Result<Written> {
        let key = target.id.key();
        let written = self.queue_rest(key, first)?;
        self.write_queue(key, written, socket)
    }

    // ---- any connection ----

    /// Writes the output that waits for a connection, until nothing is left or the socket takes no more.
    ///
    /// # Errors
    ///
    /// Errors of the socket.
    pub(crate) fn write_to(&mut self, key: ConnKey, socket: &mut dyn Write) -> io::Result<Written> {
        match self.write_unread(key, socket)? {
            UnreadWritten::All(bytes) => {
                // Nothing was queued, so no watermark is crossed and nothing else changes.
                self.note_written(key);
                Ok(Written { bytes, end: WriteEnd::UnreadOnly })
            }
            UnreadWritten::Partial(bytes) => self.write_queue(key, bytes, socket),
        }
    }

    /// Writes the queue of a connection. `unread_bytes` have been written before.
    fn write_queue(&mut self, key: ConnKey, unread_bytes: usize, socket: &mut dyn Write) -> io::Result<Written> {
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
            self.blocked_bytes.record(self.output(key).queued_bytes() as u64);
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
        self.turn_frames.lobby = None;
        self.log.end_turn();
    }

    /// Ends the turn: all connections have been written to, so the frames of this turn can be discarded.
    fn end_turn(&mut self) {
        self.wants_flush = false;
        self.is_uncorking = false;
        self.turn_frames.lobby = None;
        if self.log.is_empty() {
            self.flushing.clear();
            return;
        }
        while let Some(id) = self.flushing.pop() {
            // The driver did not write to this connection, because the journal failed.
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
        let Egress { conns, log, write_buffer, compressor, .. } = self;
        let output = &mut conns[key.index()];
        let Some(lobby) = output.lobby.filter(|_| output.feed.reads_log()) else {
            return Ok(UnreadWritten::Partial(0));
        };
        if output.outbox.is_some() {
            self.queue_unread(key);
            return Ok(UnreadWritten::Partial(0));
        }
        let encoding = log.prepare(lobby, output.cursor, key, output.feed.encoding(), compressor);
        let bytes = match log.contiguous_unread(lobby, output.cursor, key, encoding) {
            // The usual case: the end of the lobby's buffer, in one piece.
            Some(bytes) => bytes,
            // The pieces around frames that exclude this connection, mostly its own. The copy is small: see
            // half_bound().
            None => {
                write_buffer.clear();
                log.unread_frames(lobby, output.cursor, key, encoding)
                    .for_each(|range| write_buffer.extend_from_slice(log.bytes(&range)));
                write_buffer
            }
        };
        if bytes.is_empty() {
            output.cursor = log.end_cursor(lobby);
            return Ok(UnreadWritten::All(0));
        }
        let length = bytes.len();
        match socket.write(bytes) {
            Ok(written) if written == length => {
                output.cursor = log.end_cursor(lobby);
                Ok(UnreadWritten::All(written))
            }
            first => self.queue_rest(key, first).map(UnreadWritten::Partial),
        }
    }

    /// Queues the unread frames of which a socket has taken only a part. Returns the number of bytes that it has taken.
    fn queue_rest(&mut self, key: ConnKey, first: io::Result<usize>) -> io::Result<usize> {
        let written = match first {
            Ok(written) => written,
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => 0,
            Err(error) => return Err(error),
        };
        self.queue_unread(key);
        if written > 0 {
            let Egress { conns, log, outboxes, .. } = self;
            outboxes.of(&mut conns[key.index()].outbox).advance(written, log);
        }
        Ok(written)
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
