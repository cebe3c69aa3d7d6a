//! How frames reach members: taken as a share of what the lobby says in this turn, or queued; bounded; written.
//!
//! What a lobby says is appended to its buffer and touches nobody: each member takes its share when it is written to, or
//! as soon as something has to be queued for it alone. That this breaks no bound is known without looking at anybody,
//! since all that the lobby has said in this turn is less than half of every bound, and of what is queued for a member
//! there is no more than that: whoever has more queued, or cannot be written to, is *behind*, and is looked at for every
//! frame.

use std::io::{self, Write};
use std::time::Duration;

use super::core::{AppEvent, Core};
use super::member::{Pressure, Sent};
use crate::close::CloseReason;
use crate::config::Flush;
use crate::id::ConnId;
use crate::lobby::directory::{Directory, LobbyKey, SeatKey};
use crate::wire::broadcast_log::{Excluded, FrameRange};
use crate::wire::frame::{Frame, Outgoing};
use crate::wire::outbox::{Flow, Outbox};

/// How late a pong may be, so that what arrives meanwhile is read together.
const MAX_READ_DELAY: Duration = Duration::from_millis(4);
/// About what it costs to go to sleep and to be woken, many times over.
const MIN_READ_DELAY: Duration = Duration::from_millis(1);

impl Core {
    pub(super) fn mark_dirty(&mut self, key: usize) {
        let slot = &mut self.slots[key];
        if !slot.dirty && !slot.blocked {
            slot.dirty = true;
            self.dirty.push_back(slot.id);
        }
    }

    pub(super) fn poll_writable(&mut self) -> Option<ConnId> {
        if self.config.flush == Flush::Tick && (self.wants_flush || !self.is_corked()) {
            self.uncork_all();
        }
        loop {
            if let Some(id) = self.dirty.pop_front() {
                if let Some(slot) = self.slot(id) {
                    slot.dirty = false;
                    self.flushing.push(id);
                    return Some(id);
                }
            } else if self.is_corked() {
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

    /// Everybody has been written to, so what was said in this turn can be forgotten.
    fn end_turn(&mut self) {
        self.wants_flush = false;
        self.is_uncorking = false;
        if self.broadcast_log.is_empty() {
            self.flushing.clear();
            return;
        }
        while let Some(id) = self.flushing.pop() {
            // The driver was asked to write to it, and has not.
            if self.slot(id).is_some() {
                self.queue_unread(id.index());
                self.update_lagging(id.index());
                self.materialize(id.index());
            }
        }
        self.broadcast_log.end_turn();
    }

    /// No connection is left, so nobody will be sent what was said. While frames wait for a tick, the turn has no other end,
    /// and what an earlier lobby has said would count against a later one under the same key.
    pub(super) fn forget_turn(&mut self) {
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

    // ---- what waits for the tick ----

    /// Whether what is said waits for the next tick.
    fn is_corked(&self) -> bool {
        self.config.flush == Flush::Tick
            && !self.is_uncorking
            && self.draining.is_none()
            && self.ticks.as_ref().is_some_and(|ticks| !ticks.view().paused)
    }

    /// How long nobody would notice if nothing were read; `None` when that is too short to be worth a pause.
    pub(super) fn max_read_delay(&self) -> Option<Duration> {
        let period = self.ticks.as_ref().filter(|_| self.is_corked())?.period();
        Some((period / 8).min(MAX_READ_DELAY)).filter(|&rest| rest >= MIN_READ_DELAY)
    }

    /// What is corked may be written: a tick is over, or there is no room for more.
    pub(super) fn uncork_all(&mut self) {
        self.is_uncorking = true;
        while let Some(id) = self.corked_conns.pop() {
            if self.slot(id).is_some() {
                self.uncork(id.index());
            }
        }
    }

    /// What is corked for one connection may be written.
    fn uncork(&mut self, key: usize) {
        if let Some(outbox) = self.slots[key].wire.queued_mut().filter(|outbox| outbox.is_corked()) {
            outbox.uncork();
            self.mark_dirty(key);
        }
    }

    // ---- a member's share ----

    /// The lobby of the member under `key`, if the member has not taken all of what it has said.
    fn lobby_with_unread(&self, key: usize) -> Option<LobbyKey> {
        let slot = self.slots.get(key).filter(|slot| !slot.is_lagging)?;
        slot.lobby().filter(|&lobby| self.broadcast_log.has_unread(lobby, slot.cursor))
    }

    /// The bytes, frames and cost of what waits to be written to a connection, queued or not.
    pub(super) fn queued_size(&self, key: usize) -> QueuedSize {
        let slot = &self.slots[key];
        let mut waiting = QueuedSize { bytes: slot.wire.queued_bytes(), cost: slot.wire.queued_cost() };
        if let Some(lobby) = self.lobby_with_unread(key) {
            for range in self.broadcast_log.unread_frames(lobby, slot.cursor, key) {
                waiting.bytes += range.len();
                waiting.cost += range.cost();
            }
        }
        waiting
    }

    /// Queues a member's share of what its lobby has said so far, so that something can be queued behind it.
    fn catch_up(&mut self, key: usize) {
        if self.queue_unread(key) {
            if !self.is_corked() {
                self.mark_dirty(key);
            }
            self.update_lagging(key);
        }
    }

    /// Queues a member's share to be written at once. Whether there was one.
    fn queue_unread(&mut self, key: usize) -> bool {
        let Some(lobby) = self.lobby_with_unread(key) else { return false };
        let corked = self.is_corked();
        let Core { slots, broadcast_log, outboxes, corked_conns, .. } = self;
        let slot = &mut slots[key];
        let was_held = slot.wire.outbox().is_some_and(Outbox::is_corked);
        let mut took = false;
        for range in broadcast_log.unread_frames(lobby, slot.cursor, key) {
            slot.wire.outbox_mut(outboxes).push_range(range, corked);
            took = true;
        }
        if took && corked && !was_held {
            corked_conns.push(slot.id);
        }
        slot.cursor = broadcast_log.end_cursor(lobby);
        took
    }

    /// From now on frames are queued for the member one by one.
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

    /// From now on the member takes its share of what its lobby says.
    pub(super) fn clear_lagging(&mut self, key: usize) {
        let slot = &mut self.slots[key];
        if std::mem::take(&mut slot.is_lagging) {
            let lobby = slot.lobby().expect("only members are behind");
            slot.cursor = self.broadcast_log.end_cursor(lobby);
            self.broadcast_log.clear_lagging(lobby, key);
        }
    }

    /// Begins to take a share, from what is said next.
    pub(super) fn subscribe(&mut self, key: usize) {
        let slot = &mut self.slots[key];
        let lobby = slot.lobby().expect("only members hear what is said");
        slot.cursor = self.broadcast_log.end_cursor(lobby);
        self.update_lagging(key);
    }

    /// Takes the last share, of what was said until now.
    pub(super) fn unsubscribe(&mut self, key: usize) {
        self.catch_up(key);
        self.uncork(key);
        self.clear_lagging(key);
    }

    /// Half of the smallest bound on what waits for a member: see the top of this file.
    fn half_bound(&self) -> usize {
        self.config.max_outbound_bytes.0.min(self.config.outbound_high_mark.0) / 2
    }

    /// Something was queued for a connection; if much is, or it cannot be written to, it is behind.
    fn update_lagging(&mut self, key: usize) {
        let slot = &self.slots[key];
        if !slot.is_lagging && (slot.blocked || slot.wire.queued_cost() > self.half_bound()) {
            self.mark_lagging(key);
        }
    }

    // ---- writing ----

    /// Writes what waits for a connection, until everything is gone or the socket takes no more.
    pub(super) fn write_to(&mut self, key: usize, socket: &mut dyn Write) -> io::Result<Flow> {
        let shared = match self.write_unread(key, socket)? {
            UnreadWritten::All(written) => {
                // The usual case: there was nothing else for it, and so there is nothing else to look after.
                self.count_written(key, written);
                return Ok(Flow::Drained);
            }
            UnreadWritten::FrameRange(written) => written,
        };
        let (written, flow) = match self.slots[key].wire.queued_mut() {
            None => (0, Flow::Drained),
            Some(outbox) => outbox.write_to(socket, &self.broadcast_log, &mut self.gathered)?,
        };
        self.count_written(key, shared + written);
        self.check_watermarks(key);
        Ok(self.after_write(key, flow))
    }

    /// Writes a member's share from where it lies. Queues what the socket does not take at once, and all of it when
    /// something else goes before it.
    fn write_unread(&mut self, key: usize, socket: &mut dyn Write) -> io::Result<UnreadWritten> {
        if self.is_corked() {
            return Ok(UnreadWritten::FrameRange(0));
        }
        let Core { slots, broadcast_log, gathered, .. } = self;
        let slot = &mut slots[key];
        let Some(lobby) = slot.lobby().filter(|_| !slot.is_lagging) else { return Ok(UnreadWritten::FrameRange(0)) };
        if slot.wire.outbox().is_some() {
            self.queue_unread(key);
            return Ok(UnreadWritten::FrameRange(0));
        }
        let bytes = match broadcast_log.contiguous_unread(lobby, slot.cursor, key) {
            // The usual case: the lobby's buffer as it stands.
            Some(bytes) => bytes,
            // Cut into pieces, because it said something itself; what has been said in a turn is not much.
            None => {
                gathered.clear();
                broadcast_log
                    .unread_frames(lobby, slot.cursor, key)
                    .for_each(|range| gathered.extend_from_slice(broadcast_log.bytes(&range)));
                gathered
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
        Ok(UnreadWritten::FrameRange(written))
    }

    /// The socket took `bytes` bytes.
    fn count_written(&mut self, key: usize, bytes: usize) {
        let id = self.slots[key].id;
        self.counters.bytes_out += bytes as u64;
        self.note_flushed(id, bytes);
        if self.flushing.last() == Some(&id) {
            self.flushing.pop();
        }
    }

    /// What becomes of a connection whose queue has been written as far as that goes.
    fn after_write(&mut self, key: usize, flow: Flow) -> Flow {
        let slot = &mut self.slots[key];
        match flow {
            Flow::Blocked => {
                slot.blocked = true;
                self.update_lagging(key);
                // Only what the kernel did not take is copied.
                self.materialize(key);
            }
            Flow::Drained | Flow::Finished | Flow::Closed => {
                let is_last = slot.wire.ignores_input() && !slot.shut_down;
                if !slot.wire.outbox().is_some_and(Outbox::is_corked) {
                    slot.wire.give_back(&mut self.outboxes);
                    self.clear_lagging(key);
                }
                if is_last && self.slots[key].wire.is_close_complete() {
                    self.mark_closed(key);
                    return Flow::Closed;
                } else if is_last {
                    self.slots[key].shut_down = true;
                    self.set_step(key, self.config.linger_timeout);
                    return Flow::Finished;
                }
            }
        }
        flow
    }

    /// Copies what a connection's queue refers to in the buffers of this turn.
    fn materialize(&mut self, key: usize) {
        if let Some(outbox) = self.slots[key].wire.queued_mut() {
            outbox.materialize(&self.broadcast_log);
        }
    }

    // ---- queueing ----

    /// Queues a frame for a member. A member that has not read what was queued before is ended instead.
    pub(super) fn send(&mut self, key: usize, frame: Outgoing<'_>, priority: Priority) -> bool {
        let queued = self.queued_size(key).cost + frame.len() <= self.config.max_outbound_bytes.0;
        if queued {
            self.queue_unbounded(key, frame, priority);
        } else {
            self.begin_close(key, CloseReason::SlowConsumer);
        }
        queued
    }

    /// Queues a frame whether there is room for it or not.
    pub(super) fn queue_unbounded(&mut self, key: usize, frame: Outgoing<'_>, priority: Priority) {
        let priority = self.effective_priority(priority);
        if priority != Priority::Urgent {
            self.catch_up(key);
        }
        // Who is not written to in this turn needs the frame for itself; and while something is corked, the buffers last for
        // longer than what is not corked needs.
        let lasts = priority == Priority::Deferred || !self.is_corked();
        let range = if lasts && !self.slots[key].blocked { self.broadcast_log.append_unicast(frame) } else { None };
        self.add(key, range.ok_or_else(|| frame.to_frame()), priority);
    }

    /// Nothing waits when nothing is held.
    fn effective_priority(&self, priority: Priority) -> Priority {
        if self.is_corked() { priority } else { Priority::Normal }
    }

    /// Queues a frame that was said to many, of whom this one takes no share.
    fn queue_range(&mut self, key: usize, range: Option<&FrameRange>, frame: Outgoing<'_>) -> bool {
        self.catch_up(key);
        if !self.has_room(key, frame.len()) {
            return false;
        }
        let range = range.filter(|_| !self.slots[key].blocked).cloned();
        self.add(key, range.ok_or_else(|| frame.to_frame()), self.effective_priority(Priority::Deferred));
        true
    }

    fn has_room(&self, key: usize, bytes: usize) -> bool {
        self.slots[key].wire.queued_cost() + bytes <= self.config.max_outbound_bytes.0
    }

    fn add(&mut self, key: usize, frame: Result<FrameRange, Frame>, priority: Priority) {
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
        self.added(key, corked);
    }

    /// Something was queued for a connection.
    fn added(&mut self, key: usize, corked: bool) {
        if !corked {
            self.mark_dirty(key);
        }
        self.check_watermarks(key);
        self.update_lagging(key);
    }

    /// Queues a frame in place of the one that was queued under the same key before, if that is still there.
    ///
    /// When there is no room even so, the frame is dropped: the next one will replace it anyway.
    pub(super) fn queue_latest(&mut self, key: usize, latest: u64, frame: Frame) -> bool {
        self.catch_up(key);
        let outbox = self.slots[key].wire.outbox_mut(&mut self.outboxes);
        if outbox.drop_latest(latest) {
            self.counters.frames_replaced += 1;
        }
        let (has_room, corked) = (self.has_room(key, frame.as_bytes().len()), self.is_corked());
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
        self.added(key, corked);
        has_room
    }

    /// Tells the application when the high mark is crossed upwards, and when the low mark is reached again.
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

    // ---- to many ----

    /// Sends a frame to the members of a lobby but one connection.
    pub(super) fn send_to_lobby(&mut self, lobby: LobbyKey, frame: Outgoing<'_>, except: Option<ConnId>) -> Sent {
        // It may be in another lobby, or have gone.
        let except = except.filter(|&conn| self.slot(conn).and_then(|slot| slot.lobby()) == Some(lobby));
        let is_within = self.broadcast_log.cost_with(lobby, frame) <= self.half_bound();
        // Once everybody has been written to, there is room again.
        self.wants_flush |= !is_within;
        let except_key = except.map_or(Excluded::Nobody, |conn| Excluded::Conn(conn.index()));
        let said = is_within.then(|| self.broadcast_log.append(lobby, frame, except_key)).flatten();
        let Some(range) = said else {
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

    /// Queues a frame that was said to a whole lobby for those of its members who take no share of it.
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
                // Counted when it is queued.
                self.counters.frames_out -= 1;
                if !self.queue_range(key, Some(range), frame) {
                    slow.push(key);
                }
            }
        }
        self.receivers = receivers;
        sent.queued -= slow.len();
        sent.dropped += slow.len();
        // In the order in which they joined, whoever fell behind first.
        slow.sort_unstable_by_key(|&key| self.slots[key].seat().map(|seat| self.directory.seat(seat).id));
        slow.into_iter().for_each(|key| self.begin_close(key, CloseReason::SlowConsumer));
    }

    /// Queues a frame for each of the members of a lobby for whom `includes` holds. Returns how many got it, and how many
    /// could not take it and were ended.
    pub(super) fn send_to_members(
        &mut self,
        lobby: LobbyKey,
        frame: Outgoing<'_>,
        mut includes: impl FnMut(&Directory, SeatKey) -> bool,
    ) -> Sent {
        // Encoded once: in the lobby's buffer, or if it is too large for that, on its own.
        let range = self.broadcast_log.append(lobby, frame, Excluded::Everybody);
        let whole = if range.is_some() { None } else { Some(frame.to_frame()) };
        let frame = whole.as_ref().map_or(frame, Outgoing::Frame);
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
        // Afterwards, so that everybody who was in the lobby at the call gets the frame.
        slow.into_iter().for_each(|key| self.begin_close(key, CloseReason::SlowConsumer));
        sent
    }

    /// The same with a frame that takes the place of the one queued before under the key `latest`. Nobody is ended.
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

    /// Calls `queue` for each member, in join order, which says whether it queued the frame; `None` if it was not meant.
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
    /// Asserts what makes it safe to say something to a lobby without looking at its members.
    pub(super) fn check_cursor(&self, key: usize) {
        let slot = &self.slots[key];
        let Some(lobby) = slot.lobby() else { return assert!(!slot.is_lagging, "only members are behind") };
        let behind = self.broadcast_log.lagging(lobby).iter().filter(|&&other| other as usize == key).count();
        assert_eq!(behind, usize::from(slot.is_lagging), "who is behind is known to be");
        if slot.is_lagging {
            return;
        }
        assert!(!slot.blocked && slot.wire.queued_cost() <= self.half_bound(), "who is not behind has room");
        let share: usize = self.broadcast_log.unread_frames(lobby, slot.cursor, key).map(|range| range.cost()).sum();
        assert!(share <= self.half_bound(), "what a lobby has said is within every member's bound");
        assert!(slot.wire.outbox().is_some() || !slot.above_high_mark, "who is told to go slow has something queued");
        let is_named = slot.dirty || self.flushing.contains(&slot.id) || self.flush_targets.contains(&(key as u32));
        assert!(
            share == 0 || is_named || self.broadcast_log.is_marked_for_flush(lobby),
            "a share is written in its turn"
        );
    }
}

/// How a frame for one connection stands to what waits for the tick, if something does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Priority {
    /// It waits too.
    Deferred,
    /// All of it goes out now, and this at its end.
    Normal,
    /// It overtakes.
    Urgent,
}

/// What became of a member's share.
enum UnreadWritten {
    /// The socket took all of it, so many bytes; nothing is queued.
    All(usize),
    /// So many bytes of it were written. What is left is queued, with whatever was before it.
    FrameRange(usize),
}

/// What waits to be written to a connection.
pub(super) struct QueuedSize {
    pub(super) bytes: usize,
    /// What it counts against `max_outbound_bytes`.
    pub(super) cost: usize,
}
