//! Outbound delivery: broadcasts, queues of single connections, and writing.
//!
//! A broadcast is appended once to the lobby's log, and each member reads it from its own cursor. All other frames are
//! queued per connection. Queues are bounded and are written at the end of the turn.
//!
//! A member's unread frames are taken from the log when its connection is written to. If another frame must be queued
//! for that connection first, the unread frames are queued in front of it.
//!
//! A broadcast does not check each member's bound, because two rules keep it within all bounds. The frames that a lobby
//! appends in one turn cost at most half of the smallest bound (`max_outbound_bytes` or `outbound_high_mark`). The
//! queue of a member costs at most that half too, unless the member is *lagging*: its queue costs more, or its socket
//! is blocked. Broadcasts are queued for lagging members frame by frame, so that each frame is checked against the
//! bound.
//!
//! ```text
//! reading the log --socket blocks, or queue above half the bound--> lagging
//!        ^------------------everything queued is written---------------+
//! ```

use std::io::{self, Write};
use std::time::Duration;

use super::core::{AppEvent, Core};
use super::member::{Pressure, Sent};
use crate::base::close::CloseReason;
use crate::base::id::ConnId;
use crate::config::Flush;
use crate::egress::broadcast_log::{Excluded, FrameRange};
use crate::egress::outbox::{Flow, Outbox};
use crate::lobby::directory::{Directory, LobbyKey, SeatKey};
use crate::ws::frame::{Frame, Outgoing};

/// Longest pause between two reads. A pause lets one read take several messages, and delays pongs by as much.
const MAX_READ_DELAY: Duration = Duration::from_millis(4);
/// Shortest useful pause: it is many times as long as going to sleep and waking up take.
const MIN_READ_DELAY: Duration = Duration::from_millis(1);

impl Core {
    pub(super) fn mark_dirty(&mut self, key: usize) {
        let slot = &mut self.slots[key];
        if !slot.dirty && !slot.blocked {
            slot.dirty = true;
            self.dirty.push_back(slot.id);
        }
    }

    /// Returns the next connection to write to. `None` ends the turn, except while output is corked.
    pub(super) fn poll_writable(&mut self) -> Option<ConnId> {
        if self.config.flush == Flush::Tick && (self.wants_flush || !self.corks_output()) {
            self.uncork_all();
        }
        loop {
            if let Some(id) = self.dirty.pop_front() {
                if let Some(slot) = self.slot(id) {
                    slot.dirty = false;
                    self.flushing.push(id);
                    return Some(id);
                }
            } else if self.corks_output() {
                return None;
            } else if let Some(key) = self.flush_targets.pop() {
                if self.lobby_with_unread(key as usize).is_some() {
                    let id = self.slots[key as usize].id;
                    self.flushing.push(id);
                    return Some(id);
                }
            } else if let Some(lobby) = self.lobbies_to_flush.pop_front() {
                self.broadcast_log.unmark_for_flush(lobby);
                if self.directory.get_lobby(lobby).is_some() {
                    self.flush_targets.extend(self.directory.conns(lobby).iter().rev());
                }
            } else {
                self.end_turn();
                return None;
            }
        }
    }

    /// Ends the turn: all connections have been written to, so the frames of this turn can be discarded.
    fn end_turn(&mut self) {
        self.wants_flush = false;
        self.is_uncorking = false;
        if self.broadcast_log.is_empty() {
            self.flushing.clear();
            return;
        }
        while let Some(id) = self.flushing.pop() {
            // poll_writable() returned this connection, but the driver did not write to it.
            if self.slot(id).is_some() {
                self.queue_unread(id.index());
                self.update_lagging(id.index());
                self.materialize(id.index());
            }
        }
        self.broadcast_log.end_turn();
    }

    /// Discards the frames of this turn, because no connection is left to receive them.
    ///
    /// While output is corked, nothing else ends the turn. The frames of an earlier lobby would then count against a
    /// later lobby under the same key.
    pub(super) fn discard_turn(&mut self) {
        self.corked_conns.clear();
        self.flushing.clear();
        (self.wants_flush, self.is_uncorking) = (false, false);
        self.broadcast_log.end_turn();
    }

    pub(super) fn writable(&mut self, id: ConnId) {
        if let Some(slot) = self.slot(id)
            && slot.blocked
        {
            slot.blocked = false;
            self.mark_dirty(id.index());
        }
    }

    // ---- corked output ----

    /// Whether new output is corked until the next tick.
    fn corks_output(&self) -> bool {
        self.config.flush == Flush::Tick
            && !self.is_uncorking
            && self.draining.is_none()
            && self.ticks.as_ref().is_some_and(|ticks| !ticks.view().paused)
    }

    /// The longest delay before the next read that keeps ticks on time. `None` when it is too short to be worth a
    /// pause.
    pub(super) fn max_read_delay(&self) -> Option<Duration> {
        let period = self.ticks.as_ref().filter(|_| self.corks_output())?.period();
        Some((period / 8).min(MAX_READ_DELAY)).filter(|&delay| delay >= MIN_READ_DELAY)
    }

    /// Releases all corked output: a tick is over, or too much output waits for the next one.
    pub(super) fn uncork_all(&mut self) {
        self.is_uncorking = true;
        while let Some(id) = self.corked_conns.pop() {
            if self.slot(id).is_some() {
                self.uncork(id.index());
            }
        }
    }

    /// Releases the corked output of one connection.
    fn uncork(&mut self, key: usize) {
        if let Some(outbox) = self.slots[key].wire.queued_mut().filter(|outbox| outbox.is_corked()) {
            outbox.uncork();
            self.mark_dirty(key);
        }
    }

    // ---- unread frames ----

    /// The lobby of the member under `key`, if the lobby's log has frames that the member has not read. `None` for a
    /// lagging member, which does not read the log.
    fn lobby_with_unread(&self, key: usize) -> Option<LobbyKey> {
        let slot = self.slots.get(key).filter(|slot| !slot.is_lagging)?;
        slot.lobby().filter(|&lobby| self.broadcast_log.has_unread(lobby, slot.cursor))
    }

    /// Size of the output that waits for a connection: its queue and its unread frames in the lobby's log.
    pub(super) fn queued_size(&self, key: usize) -> QueuedSize {
        let slot = &self.slots[key];
        let mut size = QueuedSize { bytes: slot.wire.queued_bytes(), cost: slot.wire.queued_cost() };
        if let Some(lobby) = self.lobby_with_unread(key) {
            for range in self.broadcast_log.unread_frames(lobby, slot.cursor, key) {
                size.bytes += range.len();
                size.cost += range.cost();
            }
        }
        size
    }

    /// Queues a member's unread frames, so that another frame can be queued behind them.
    fn catch_up(&mut self, key: usize) {
        if self.queue_unread(key) {
            if !self.corks_output() {
                self.mark_dirty(key);
            }
            self.update_lagging(key);
        }
    }

    /// Moves a member's unread frames from the log to its outbox. Returns whether there were any.
    fn queue_unread(&mut self, key: usize) -> bool {
        let Some(lobby) = self.lobby_with_unread(key) else { return false };
        let corked = self.corks_output();
        let Core { slots, broadcast_log, outboxes, corked_conns, .. } = self;
        let slot = &mut slots[key];
        let was_corked = slot.wire.outbox().is_some_and(Outbox::is_corked);
        let mut has_queued = false;
        for range in broadcast_log.unread_frames(lobby, slot.cursor, key) {
            slot.wire.outbox_mut(outboxes).push_range(range, corked);
            has_queued = true;
        }
        if has_queued && corked && !was_corked {
            corked_conns.push(slot.id);
        }
        slot.cursor = broadcast_log.end_cursor(lobby);
        has_queued
    }

    /// Marks a member as lagging: from now on, broadcasts are queued for it frame by frame.
    fn mark_lagging(&mut self, key: usize) {
        self.catch_up(key);
        let slot = &mut self.slots[key];
        if !slot.is_lagging
            && let Some(lobby) = slot.lobby()
        {
            slot.is_lagging = true;
            self.broadcast_log.mark_lagging(lobby, key);
        }
    }

    /// Ends a member's lagging: it reads the lobby's log again, from the next frame on.
    pub(super) fn clear_lagging(&mut self, key: usize) {
        let slot = &mut self.slots[key];
        if std::mem::take(&mut slot.is_lagging) {
            let lobby = slot.lobby().expect("only members lag");
            slot.cursor = self.broadcast_log.end_cursor(lobby);
            self.broadcast_log.clear_lagging(lobby, key);
        }
    }

    /// Starts reading the lobby's log, from the next frame on.
    pub(super) fn subscribe(&mut self, key: usize) {
        let slot = &mut self.slots[key];
        let lobby = slot.lobby().expect("only members read a lobby's log");
        slot.cursor = self.broadcast_log.end_cursor(lobby);
        self.update_lagging(key);
    }

    /// Queues the frames that are still unread, and stops reading the lobby's log.
    pub(super) fn unsubscribe(&mut self, key: usize) {
        self.catch_up(key);
        self.uncork(key);
        self.clear_lagging(key);
    }

    /// Half of the smaller of `max_outbound_bytes` and `outbound_high_mark`: see the module documentation.
    fn half_bound(&self) -> usize {
        self.config.max_outbound_bytes.0.min(self.config.outbound_high_mark.0) / 2
    }

    /// Marks a member as lagging if its socket is blocked or its queue costs more than half the bound.
    fn update_lagging(&mut self, key: usize) {
        let slot = &self.slots[key];
        if !slot.is_lagging && (slot.blocked || slot.wire.queued_cost() > self.half_bound()) {
            self.mark_lagging(key);
        }
    }

    // ---- writing ----

    /// Writes the output that waits for a connection, until nothing is left or the socket takes no more.
    pub(super) fn write_to(&mut self, key: usize, socket: &mut dyn Write) -> io::Result<Flow> {
        let unread_written = match self.write_unread(key, socket)? {
            UnreadWritten::All(written) => {
                // The usual case: nothing was queued, so no watermark is crossed and nothing else changes.
                self.count_written(key, written);
                return Ok(Flow::Drained);
            }
            UnreadWritten::Partial(written) => written,
        };
        let (written, flow) = match self.slots[key].wire.queued_mut() {
            None => (0, Flow::Drained),
            Some(outbox) => outbox.write_to(socket, &self.broadcast_log, &mut self.write_buffer)?,
        };
        self.count_written(key, unread_written + written);
        self.check_watermarks(key);
        Ok(self.after_write(key, flow))
    }

    /// Writes a member's unread frames directly from the log. Queues the bytes that the socket does not take. If frames
    /// are queued already, queues all unread frames behind them and writes nothing.
    fn write_unread(&mut self, key: usize, socket: &mut dyn Write) -> io::Result<UnreadWritten> {
        if self.corks_output() {
            return Ok(UnreadWritten::Partial(0));
        }
        let Core { slots, broadcast_log, write_buffer, .. } = self;
        let slot = &mut slots[key];
        let Some(lobby) = slot.lobby().filter(|_| !slot.is_lagging) else { return Ok(UnreadWritten::Partial(0)) };
        if slot.wire.outbox().is_some() {
            self.queue_unread(key);
            return Ok(UnreadWritten::Partial(0));
        }
        let bytes = match broadcast_log.contiguous_unread(lobby, slot.cursor, key) {
            // The usual case: the end of the lobby's buffer, in one piece.
            Some(bytes) => bytes,
            // The pieces around frames that exclude this connection, mostly its own. The copy is small: see
            // half_bound().
            None => {
                write_buffer.clear();
                broadcast_log
                    .unread_frames(lobby, slot.cursor, key)
                    .for_each(|range| write_buffer.extend_from_slice(broadcast_log.bytes(&range)));
                write_buffer
            }
        };
        if bytes.is_empty() {
            slot.cursor = broadcast_log.end_cursor(lobby);
            return Ok(UnreadWritten::All(0));
        }
        let written = match socket.write(bytes) {
            Ok(written) => written,
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => 0,
            Err(error) => return Err(error),
        };
        if written == bytes.len() {
            slot.cursor = broadcast_log.end_cursor(lobby);
            return Ok(UnreadWritten::All(written));
        }
        self.queue_unread(key);
        if written > 0 {
            let outbox = self.slots[key].wire.outbox_mut(&mut self.outboxes);
            outbox.advance(written, &self.broadcast_log);
        }
        Ok(UnreadWritten::Partial(written))
    }

    /// Counts bytes that a connection's socket took, and notes that the connection has been written to.
    fn count_written(&mut self, key: usize, bytes: usize) {
        let id = self.slots[key].id;
        self.counters.bytes_out += bytes as u64;
        self.note_flushed(id, bytes);
        if self.flushing.last() == Some(&id) {
            self.flushing.pop();
        }
    }

    /// Updates a connection after its queue was written as far as the socket allowed.
    fn after_write(&mut self, key: usize, flow: Flow) -> Flow {
        let slot = &mut self.slots[key];
        match flow {
            Flow::Blocked => {
                slot.blocked = true;
                self.update_lagging(key);
                // Late, so that only the bytes that the kernel did not take are copied.
                self.materialize(key);
            }
            Flow::Drained | Flow::Finished | Flow::Closed => {
                let ends_stream = slot.wire.ignores_input() && !slot.shut_down;
                if !slot.wire.outbox().is_some_and(Outbox::is_corked) {
                    slot.wire.release_outbox(&mut self.outboxes);
                    self.clear_lagging(key);
                }
                if ends_stream && self.slots[key].wire.is_close_complete() {
                    self.mark_closed(key);
                    return Flow::Closed;
                } else if ends_stream {
                    self.slots[key].shut_down = true;
                    self.set_stage_deadline(key, self.config.linger_timeout);
                    return Flow::Finished;
                }
            }
        }
        flow
    }

    /// Copies the queued frames of a connection out of the buffers of this turn, so that they outlast the turn.
    fn materialize(&mut self, key: usize) {
        if let Some(outbox) = self.slots[key].wire.queued_mut() {
            outbox.materialize(&self.broadcast_log);
        }
    }

    // ---- queueing ----

    /// Queues a frame for a member, and returns true. If `max_outbound_bytes` leaves no room for the frame, closes the
    /// connection as a slow consumer instead, and returns false.
    pub(super) fn send(&mut self, key: usize, frame: Outgoing<'_>, priority: Priority) -> bool {
        let queued = self.queued_size(key).cost + frame.len() <= self.config.max_outbound_bytes.0;
        if queued {
            self.queue_unbounded(key, frame, priority);
        } else {
            self.begin_close(key, CloseReason::SlowConsumer);
        }
        queued
    }

    /// Queues a frame even if it exceeds `max_outbound_bytes`.
    pub(super) fn queue_unbounded(&mut self, key: usize, frame: Outgoing<'_>, priority: Priority) {
        let priority = self.effective_priority(priority);
        if priority != Priority::Urgent {
            self.catch_up(key);
        }
        // A blocked connection is not written to in this turn, so its frame would have to be copied out of the buffer.
        // While output is corked, the buffers live until the tick, so a frame that is sent at once would waste their
        // memory.
        let may_use_buffer = priority == Priority::Deferred || !self.corks_output();
        let range =
            if may_use_buffer && !self.slots[key].blocked { self.broadcast_log.append_unicast(frame) } else { None };
        self.push_frame(key, range.ok_or_else(|| frame.to_frame()), priority);
    }

    /// The priority to queue a frame with: `Normal` for every frame while output is not corked.
    fn effective_priority(&self, priority: Priority) -> Priority {
        if self.corks_output() { priority } else { Priority::Normal }
    }

    /// Queues a broadcast frame for one connection that does not read it from the log. `range` is where the frame lies
    /// in the log, if it is there. Returns false if the queue has no room for the frame.
    fn queue_range(&mut self, key: usize, range: Option<&FrameRange>, frame: Outgoing<'_>) -> bool {
        self.catch_up(key);
        if !self.has_room(key, frame.len()) {
            return false;
        }
        let range = range.filter(|_| !self.slots[key].blocked).cloned();
        self.push_frame(key, range.ok_or_else(|| frame.to_frame()), self.effective_priority(Priority::Deferred));
        true
    }

    fn has_room(&self, key: usize, bytes: usize) -> bool {
        self.slots[key].wire.queued_cost() + bytes <= self.config.max_outbound_bytes.0
    }

    fn push_frame(&mut self, key: usize, frame: Result<FrameRange, Frame>, priority: Priority) {
        let corked = priority == Priority::Deferred;
        let slot = &mut self.slots[key];
        let outbox = slot.wire.outbox_mut(&mut self.outboxes);
        if corked && !outbox.is_corked() {
            self.corked_conns.push(slot.id);
        }
        match (frame, priority) {
            (Ok(range), _) => outbox.push_range(range, corked),
            (Err(frame), Priority::Urgent) => outbox.push_ahead(frame.into_bytes()),
            (Err(frame), Priority::Deferred | Priority::Normal) => outbox.push(frame.into_bytes(), corked),
        }
        self.counters.frames_out += 1;
        self.after_push(key, corked);
    }

    /// Schedules a connection for writing after a frame was queued for it, and updates its watermark and its lagging.
    fn after_push(&mut self, key: usize, corked: bool) {
        if !corked {
            self.mark_dirty(key);
        }
        self.check_watermarks(key);
        self.update_lagging(key);
    }

    /// Drops the unsent frame under the key `latest`, if there is one, and queues the new frame at the end.
    ///
    /// If there is still no room, drops the new frame too and returns false: the next one would replace it anyway.
    pub(super) fn queue_latest(&mut self, key: usize, latest: u64, frame: Frame) -> bool {
        self.catch_up(key);
        let outbox = self.slots[key].wire.outbox_mut(&mut self.outboxes);
        if outbox.drop_latest(latest) {
            self.counters.frames_replaced += 1;
        }
        let (has_room, corked) = (self.has_room(key, frame.as_bytes().len()), self.corks_output());
        if has_room {
            let slot = &mut self.slots[key];
            let outbox = slot.wire.outbox_mut(&mut self.outboxes);
            if corked && !outbox.is_corked() {
                self.corked_conns.push(slot.id);
            }
            outbox.push_latest(latest, frame.into_bytes(), corked);
            self.counters.frames_out += 1;
        } else {
            self.counters.frames_dropped += 1;
        }
        self.after_push(key, corked);
        has_room
    }

    /// Reports to the application when a queue rises above the high-water mark, and when it falls to the low-water mark
    /// again.
    #[inline]
    fn check_watermarks(&mut self, key: usize) {
        let slot = &self.slots[key];
        let queued = slot.wire.queued_bytes();
        let crossed = if slot.above_high_mark {
            queued <= self.config.outbound_low_mark.0
        } else {
            queued > self.config.outbound_high_mark.0
        };
        if crossed {
            self.report_pressure(key, queued);
        }
    }

    fn report_pressure(&mut self, key: usize, queued_bytes: usize) {
        let slot = &mut self.slots[key];
        self.wants_flush |= !slot.above_high_mark && !slot.blocked;
        let pressure =
            if slot.above_high_mark { Pressure::Low { queued_bytes } } else { Pressure::High { queued_bytes } };
        slot.above_high_mark = !slot.above_high_mark;
        if let Some(member) = self.member(key) {
            self.app_events.push_back(AppEvent::Pressure(member, pressure));
        }
    }

    // ---- several receivers ----

    /// Sends a frame to the members of a lobby, except to the connection `except`.
    pub(super) fn send_to_lobby(&mut self, lobby: LobbyKey, frame: Outgoing<'_>, except: Option<ConnId>) -> Sent {
        // The connection may be closed, or belong to another lobby.
        let except = except.filter(|&conn| self.slot(conn).and_then(|slot| slot.lobby()) == Some(lobby));
        let is_within_bound = self.broadcast_log.cost_with(lobby, frame) <= self.half_bound();
        // Writing to all members makes room again.
        self.wants_flush |= !is_within_bound;
        let except_key = except.map_or(Excluded::None, |conn| Excluded::Conn(conn.index()));
        let range = is_within_bound.then(|| self.broadcast_log.append(lobby, frame, except_key)).flatten();
        let Some(range) = range else {
            return self.send_to_members(lobby, frame, |directory, seat| Some(directory.seat(seat).conn) != except);
        };
        if self.broadcast_log.mark_for_flush(lobby) {
            self.lobbies_to_flush.push_back(lobby);
        }
        let excluded = usize::from(except.is_some());
        let members = self.directory.members(lobby).len();
        let mut sent = Sent { queued: members - excluded, dropped: 0, excluded };
        self.counters.frames_out += sent.queued as u64;
        if !self.broadcast_log.lagging(lobby).is_empty() {
            self.send_to_lagging(lobby, frame, &range, except, &mut sent);
        }
        sent
    }

    /// Queues a broadcast frame for the lagging members of a lobby, and corrects the totals in `sent`.
    fn send_to_lagging(
        &mut self,
        lobby: LobbyKey,
        frame: Outgoing<'_>,
        range: &FrameRange,
        except: Option<ConnId>,
        sent: &mut Sent,
    ) {
        let mut slow = Vec::new();
        let mut receivers = std::mem::take(&mut self.receivers);
        receivers.clear();
        receivers.extend_from_slice(self.broadcast_log.lagging(lobby));
        for key in receivers.iter().map(|&key| key as usize) {
            if Some(self.slots[key].id) != except {
                // queue_range() counts the frame again if it queues it.
                self.counters.frames_out -= 1;
                if !self.queue_range(key, Some(range), frame) {
                    slow.push(key);
                }
            }
        }
        self.receivers = receivers;
        sent.queued -= slow.len();
        sent.dropped += slow.len();
        // Close in join order, which does not depend on when a member began to lag.
        slow.sort_unstable_by_key(|&key| self.slots[key].seat().map(|seat| self.directory.seat(seat).id));
        slow.into_iter().for_each(|key| self.begin_close(key, CloseReason::SlowConsumer));
    }

    /// Queues a frame for each member of a lobby for which `includes` returns true. A member without room for the frame
    /// counts as dropped, and its connection is closed as a slow consumer.
    pub(super) fn send_to_members(
        &mut self,
        lobby: LobbyKey,
        frame: Outgoing<'_>,
        mut includes: impl FnMut(&Directory, SeatKey) -> bool,
    ) -> Sent {
        // Encoded once: in the lobby's buffer, or in memory of its own if it is too large for the buffer.
        let range = self.broadcast_log.append(lobby, frame, Excluded::All);
        let encoded = if range.is_some() { None } else { Some(frame.to_frame()) };
        let frame = encoded.as_ref().map_or(frame, Outgoing::Frame);
        let mut slow = Vec::new();
        let sent = self.for_members(lobby, |core, seat, key| {
            if !includes(&core.directory, seat) {
                return None;
            }
            let queued = core.queue_range(key, range.as_ref(), frame);
            if !queued {
                slow.push(key);
            }
            Some(queued)
        });
        // Closed afterwards, so that every member at the time of the call is sent the frame.
        slow.into_iter().for_each(|key| self.begin_close(key, CloseReason::SlowConsumer));
        sent
    }

    /// Queues a frame for each member of a lobby for which `includes` returns true, in place of the unsent frame under
    /// the key `latest`. Closes no connection.
    pub(super) fn send_latest_to_members(
        &mut self,
        lobby: LobbyKey,
        frame: &Frame,
        latest: u64,
        mut includes: impl FnMut(&Directory, SeatKey) -> bool,
    ) -> Sent {
        self.for_members(lobby, |core, seat, key| {
            includes(&core.directory, seat).then(|| core.queue_latest(key, latest, frame.clone()))
        })
    }

    /// Calls `queue` for each member in join order and counts the results: whether the frame was queued, or `None` for
    /// a member that is excluded.
    fn for_members(
        &mut self,
        lobby: LobbyKey,
        mut queue: impl FnMut(&mut Core, SeatKey, usize) -> Option<bool>,
    ) -> Sent {
        let mut sent = Sent::default();
        for index in 0..self.directory.members(lobby).len() {
            let seat = self.directory.members(lobby)[index];
            let key = self.directory.seat(seat).conn.index();
            match queue(self, seat, key) {
                Some(true) => sent.queued += 1,
                Some(false) => sent.dropped += 1,
                None => sent.excluded += 1,
            }
        }
        sent
    }
}

impl Core {
    /// Asserts the invariants that allow a broadcast without a check of each member's bound.
    pub(super) fn check_cursor(&self, key: usize) {
        let slot = &self.slots[key];
        let Some(lobby) = slot.lobby() else { return assert!(!slot.is_lagging, "only members lag") };
        let entries = self.broadcast_log.lagging(lobby).iter().filter(|&&other| other as usize == key).count();
        assert_eq!(entries, usize::from(slot.is_lagging), "the log lists exactly the lagging members, once each");
        if slot.is_lagging {
            return;
        }
        assert!(!slot.blocked && slot.wire.queued_cost() <= self.half_bound(), "a member that does not lag has room");
        let unread: usize = self.broadcast_log.unread_frames(lobby, slot.cursor, key).map(|range| range.cost()).sum();
        assert!(unread <= self.half_bound(), "unread frames are within half of every member's bound");
        assert!(
            slot.wire.outbox().is_some() || !slot.above_high_mark,
            "a member above the high-water mark has a queue"
        );
        let is_scheduled = slot.dirty || self.flushing.contains(&slot.id) || self.flush_targets.contains(&(key as u32));
        assert!(
            unread == 0 || is_scheduled || self.broadcast_log.is_marked_for_flush(lobby),
            "a member with unread frames is written to in this turn"
        );
    }
}

/// Order of a frame relative to the corked output of its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Priority {
    /// The frame is corked too.
    Deferred,
    /// The corked output is released, and the frame follows it.
    Normal,
    /// The frame goes out ahead of the corked output, which stays corked.
    Urgent,
}

/// Result of writing a member's unread frames directly from the log.
enum UnreadWritten {
    /// All unread frames were written, this many bytes. Nothing is queued.
    All(usize),
    /// This many bytes were written. The connection's queue is to be written next.
    Partial(usize),
}

/// Size of the output that waits for a connection.
pub(super) struct QueuedSize {
    pub(super) bytes: usize,
    /// Bytes plus overhead per frame, as counted against `max_outbound_bytes`.
    pub(super) cost: usize,
}
