//! Outbound delivery: everything between a frame to send and the bytes for a socket.
//!
//! A broadcast is appended once to the lobby's [log](broadcast_log), and each member reads it from its own cursor. All
//! other frames are queued per connection, in an [outbox]. Queues are bounded and are written at the end of the turn.
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
//!
//! With `flush = tick`, output is *corked*: it waits for the end of the next tick.
//!
//! Knows connections and lobbies by their keys, and no users, seats or close reasons. Closes nothing: a result tells
//! the engine that a queue is full or has crossed a watermark.

mod broadcast_log;
mod flush;
mod outbox;

use std::collections::VecDeque;

use bytes::Bytes;

use self::broadcast_log::{BroadcastLog, Cursor, Excluded, FrameRange};
pub(crate) use self::flush::WriteEnd;
use self::outbox::{Outbox, Outboxes};
use crate::base::arena::Key;
use crate::base::id::{ConnId, ConnKey, LobbyKey};
use crate::config::{Config, Flush};
use crate::ws::frame::{Frame, Outgoing};

/// All pending output.
#[derive(Debug)]
pub(crate) struct Egress {
    max_outbound_bytes: usize,
    high_mark: usize,
    low_mark: usize,
    /// Whether `flush` is `tick`.
    flushes_at_tick: bool,
    /// Whether new output is corked. Set by the engine: only with `flush = tick`, and not while the clock is paused or the
    /// server is draining.
    is_corking: bool,
    /// Whether corked output is being written, so that nothing is corked in the rest of the turn.
    is_uncorking: bool,
    /// By [`ConnKey`].
    conns: Vec<Output>,
    log: BroadcastLog,
    outboxes: Outboxes,
    wants_flush: bool,
    /// Connections with output to write, in the order in which the output was queued.
    dirty: VecDeque<ConnId>,
    /// Lobbies with frames in this turn's buffers, whose members must still be written to; in the order of their first
    /// frame.
    lobbies_to_flush: VecDeque<LobbyKey>,
    /// Keys of the connections still to flush in one of these lobbies, in reverse order.
    flush_targets: Vec<ConnKey>,
    /// Connections with corked output; may contain duplicates.
    corked: Vec<ConnId>,
    /// Connections that `poll_writable` returned in this turn and that have not been written to since.
    flushing: Vec<ConnId>,
    /// Buffer that joins small pieces into one write.
    write_buffer: Vec<u8>,
}

/// Pending output of one connection. With thousands of members, it is not in the CPU's cache when it is written to, so
/// it is as small as possible.
#[derive(Debug)]
struct Output {
    /// [`ConnId::NONE`] while no connection has this key.
    id: ConnId,
    /// `None` while nothing is queued, so that an idle connection needs no outbox.
    outbox: Option<Box<Outbox>>,
    /// Position in the lobby's broadcast log up to which the member has read.
    cursor: Cursor,
    /// The lobby whose log it reads.
    lobby: Option<LobbyKey>,
    /// The member lags: its socket is blocked or its queue is above half the bound. Broadcasts are queued for it frame
    /// by frame. [`Egress::mark_lagging`] and [`Egress::clear_lagging`] keep the log's list of lagging members equal.
    is_lagging: bool,
    /// Whether the connection is in the list of connections with output to write.
    is_dirty: bool,
    /// Whether the socket accepted less than it was given, and has not become writable since.
    is_blocked: bool,
    /// Whether the queue is above the high-water mark, as last reported.
    is_above_high_mark: bool,
}

const VACANT: Output = Output {
    id: ConnId::NONE,
    outbox: None,
    cursor: Cursor::START,
    lobby: None,
    is_lagging: false,
    is_dirty: false,
    is_blocked: false,
    is_above_high_mark: false,
};

impl Output {
    fn queued_bytes(&self) -> usize {
        self.outbox.as_ref().map_or(0, |outbox| outbox.bytes())
    }

    /// Cost of the queue: its bytes plus an overhead for each frame.
    fn queued_cost(&self) -> usize {
        self.outbox.as_ref().map_or(0, |outbox| outbox.cost())
    }

    fn is_corked(&self) -> bool {
        self.outbox.as_ref().is_some_and(|outbox| outbox.is_corked())
    }
}

/// Order of a frame relative to the corked output of its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Priority {
    /// The frame is corked too.
    Deferred,
    /// The corked output is released, and the frame follows it.
    Normal,
    /// The frame goes out ahead of the corked output, which stays corked.
    Urgent,
}

/// A change in the bytes queued for a member: see [`App::on_pressure`](crate::App::on_pressure).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pressure {
    /// Above the high-water mark.
    High {
        /// Bytes that wait to be written.
        queued_bytes: usize,
    },
    /// At the low-water mark again.
    Low {
        /// Bytes that wait to be written.
        queued_bytes: usize,
    },
}

/// The queue has no room for the frame. Nothing was queued.
#[derive(Clone, Copy, Debug)]
pub(crate) struct QueueFull;

/// The frame was queued. Contains the watermark that the queue has crossed, if any.
pub(crate) type Queued = Result<Option<Pressure>, QueueFull>;

/// Result of queueing a latest-wins frame.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LatestQueued {
    /// Whether there was room for the frame.
    pub(crate) is_queued: bool,
    /// Whether an older frame was dropped.
    pub(crate) has_replaced: bool,
    pub(crate) crossed: Option<Pressure>,
}

/// Output that was dropped before it was written.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Dropped {
    pub(crate) frames: usize,
    pub(crate) bytes: usize,
}

/// Size of the output that waits for a connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct QueuedSize {
    pub(crate) bytes: usize,
    /// Bytes plus overhead per frame, as counted against `max_outbound_bytes`.
    pub(crate) cost: usize,
}

/// A frame for several receivers, encoded once: in the lobby's buffer, or in memory of its own if it does not fit there
/// or a receiver cannot use the buffer.
pub(crate) struct SharedFrame<'a> {
    range: Option<FrameRange>,
    frame: Outgoing<'a>,
}

impl Egress {
    pub(crate) fn new(config: &Config) -> Egress {
        Egress {
            max_outbound_bytes: config.max_outbound_bytes.0,
            high_mark: config.outbound_high_mark.0,
            low_mark: config.outbound_low_mark.0,
            flushes_at_tick: config.flush == Flush::Tick,
            is_corking: false,
            is_uncorking: false,
            conns: Vec::new(),
            log: BroadcastLog::default(),
            outboxes: Outboxes::default(),
            wants_flush: false,
            dirty: VecDeque::new(),
            lobbies_to_flush: VecDeque::new(),
            flush_targets: Vec::new(),
            corked: Vec::new(),
            flushing: Vec::new(),
            write_buffer: Vec::new(),
        }
    }

    // ---- connections ----

    /// Adds a connection.
    pub(crate) fn open(&mut self, id: ConnId) {
        if id.index() >= self.conns.len() {
            self.conns.resize_with(id.index() + 1, || VACANT);
        }
        self.conns[id.index()] = Output { id, ..VACANT };
    }

    /// Removes a connection and drops its pending output.
    pub(crate) fn close(&mut self, key: ConnKey) -> Dropped {
        let bytes = self.output(key).queued_bytes();
        let Dropped { frames, .. } = self.discard_unsent(key);
        let output = std::mem::replace(self.output_mut(key), VACANT);
        debug_assert!(output.lobby.is_none(), "unsubscribe() was called before");
        self.outboxes.give_all(output.outbox);
        Dropped { frames, bytes }
    }

    /// Starts reading the lobby's log, from the next frame on.
    pub(crate) fn subscribe(&mut self, key: ConnKey, lobby: LobbyKey) {
        let cursor = self.log.end_cursor(lobby);
        let output = self.output_mut(key);
        (output.lobby, output.cursor) = (Some(lobby), cursor);
        self.update_lagging(key);
    }

    /// Queues the frames that are still unread, and stops reading the lobby's log.
    pub(crate) fn unsubscribe(&mut self, key: ConnKey) {
        self.catch_up(key);
        self.uncork(key);
        self.clear_lagging(key);
        self.output_mut(key).lobby = None;
    }

    /// The lobby whose log the connection reads.
    pub(crate) fn lobby_of(&self, id: ConnId) -> Option<LobbyKey> {
        self.find(id)?.lobby
    }

    #[inline]
    fn output(&self, key: ConnKey) -> &Output {
        &self.conns[key.index()]
    }

    #[inline]
    fn output_mut(&mut self, key: ConnKey) -> &mut Output {
        &mut self.conns[key.index()]
    }

    #[inline]
    fn find(&self, id: ConnId) -> Option<&Output> {
        self.conns.get(id.index()).filter(|output| output.id == id)
    }

    // ---- corked output ----

    /// Sets whether new output waits for ticks.
    pub(crate) fn set_corking(&mut self, is_corking: bool) {
        self.is_corking = is_corking;
    }

    /// As last set.
    pub(crate) fn is_corking(&self) -> bool {
        self.is_corking
    }

    /// Whether new output is corked until the next tick.
    #[inline]
    pub(crate) fn corks_output(&self) -> bool {
        self.is_corking && !self.is_uncorking
    }

    /// Releases all corked output: a tick is over, or too much output waits for the next one.
    pub(crate) fn uncork_all(&mut self) {
        self.is_uncorking = true;
        while let Some(id) = self.corked.pop() {
            if self.find(id).is_some() {
                self.uncork(id.key());
            }
        }
    }

    /// Releases the corked output of one connection.
    fn uncork(&mut self, key: ConnKey) {
        if let Some(outbox) = self.output_mut(key).outbox.as_mut().filter(|outbox| outbox.is_corked()) {
            outbox.uncork();
            self.mark_dirty(key);
        }
    }

    // ---- the size of queues ----

    /// Whether so much output is queued for writable connections that the driver should write before it reads on.
    pub(crate) fn wants_flush(&self) -> bool {
        self.wants_flush
    }

    /// Whether frames are queued for the connection. Unread frames of the log do not count.
    pub(crate) fn has_queue(&self, key: ConnKey) -> bool {
        self.output(key).outbox.is_some()
    }

    /// Whether the connection will be written to in this turn.
    pub(crate) fn is_dirty(&self, key: ConnKey) -> bool {
        self.output(key).is_dirty
    }

    /// Size of the output that waits for a connection: its queue and its unread frames in the lobby's log.
    pub(crate) fn queued_size(&self, key: ConnKey) -> QueuedSize {
        let output = self.output(key);
        let mut size = QueuedSize { bytes: output.queued_bytes(), cost: output.queued_cost() };
        if let Some(lobby) = self.lobby_with_unread(key) {
            for range in self.log.unread_frames(lobby, output.cursor, key) {
                size.bytes += range.len();
                size.cost += range.cost();
            }
        }
        size
    }

    fn has_room(&self, key: ConnKey, bytes: usize) -> bool {
        self.output(key).queued_cost() + bytes <= self.max_outbound_bytes
    }

    /// Half of the smaller of `max_outbound_bytes` and `outbound_high_mark`: see the module documentation.
    fn half_bound(&self) -> usize {
        self.max_outbound_bytes.min(self.high_mark) / 2
    }

    // ---- queueing for one connection ----

    /// Queues a frame for one connection, within `max_outbound_bytes`.
    pub(crate) fn push(&mut self, key: ConnKey, frame: Outgoing<'_>, priority: Priority) -> Queued {
        if self.queued_size(key).cost + frame.len() <= self.max_outbound_bytes {
            Ok(self.push_unbounded(key, frame, priority))
        } else {
            Err(QueueFull)
        }
    }

    /// Queues a frame even if it exceeds `max_outbound_bytes`. Returns the watermark that the queue has crossed.
    pub(crate) fn push_unbounded(&mut self, key: ConnKey, frame: Outgoing<'_>, priority: Priority) -> Option<Pressure> {
        let priority = self.effective_priority(priority);
        if priority != Priority::Urgent {
            self.catch_up(key);
        }
        // A blocked connection is not written to in this turn, so its frame would have to be copied out of the buffer.
        // While output is corked, the buffers live until the tick, so a frame that is sent at once would waste their
        // memory.
        let may_use_buffer = priority == Priority::Deferred || !self.corks_output();
        let range = if may_use_buffer && !self.output(key).is_blocked { self.log.append_unicast(frame) } else { None };
        self.push_frame(key, range.ok_or_else(|| frame.to_frame()), priority)
    }

    /// Queues the HTTP response to a request. Nothing may be queued before it.
    pub(crate) fn push_response(&mut self, key: ConnKey, response: Bytes) {
        let Egress { conns, outboxes, .. } = self;
        outboxes.of(&mut conns[key.index()].outbox).push_answer(response);
    }

    /// Queues a close frame behind everything else. It counts against no bound.
    pub(crate) fn push_close(&mut self, key: ConnKey, close: Frame) {
        let Egress { conns, outboxes, .. } = self;
        outboxes.of(&mut conns[key.index()].outbox).push(close.into_bytes(), false);
    }

    /// Drops the unsent frame under the key `latest`, if there is one, and queues the new frame at the end.
    ///
    /// If there is still no room, drops the new frame too: the next one would replace it anyway.
    pub(crate) fn push_latest(&mut self, key: ConnKey, latest: u64, frame: Frame) -> LatestQueued {
        self.catch_up(key);
        let Egress { conns, outboxes, .. } = self;
        let has_replaced = outboxes.of(&mut conns[key.index()].outbox).drop_latest(latest);
        let (has_room, is_corked) = (self.has_room(key, frame.as_bytes().len()), self.corks_output());
        if has_room {
            self.outbox_to_push(key, is_corked).push_latest(latest, frame.into_bytes(), is_corked);
        }
        let crossed = self.after_push(key, is_corked);
        LatestQueued { is_queued: has_room, has_replaced, crossed }
    }

    /// Drops the frames of which no byte has been written.
    pub(crate) fn discard_unsent(&mut self, key: ConnKey) -> Dropped {
        let Egress { conns, log, .. } = self;
        let output = &mut conns[key.index()];
        let before = output.queued_bytes();
        let frames = output.outbox.as_mut().map_or(0, |outbox| outbox.discard_unsent(log));
        Dropped { frames, bytes: before - output.queued_bytes() }
    }

    /// Schedules a connection for writing.
    pub(crate) fn mark_dirty(&mut self, key: ConnKey) {
        let output = self.output_mut(key);
        if !output.is_dirty && !output.is_blocked {
            output.is_dirty = true;
            let id = output.id;
            self.dirty.push_back(id);
        }
    }

    // ---- queueing for several connections ----

    /// Appends a frame to a lobby's log, for all members but the connection `except`. Returns `None` if the lobby's
    /// frames of this turn would exceed the bound, or if the frame is too large for the log. It must then be queued for
    /// each member.
    ///
    /// Lagging members do not read the log: the frame must be queued for each of [`lagging`](Self::lagging).
    pub(crate) fn broadcast<'a>(
        &mut self,
        lobby: LobbyKey,
        frame: Outgoing<'a>,
        except: Option<ConnId>,
    ) -> Option<SharedFrame<'a>> {
        let is_within_bound = self.log.cost_with(lobby, frame) <= self.half_bound();
        // Writing to all members makes room again.
        self.wants_flush |= !is_within_bound;
        let excluded = except.map_or(Excluded::None, |conn| Excluded::Conn(conn.key()));
        let range = if is_within_bound { self.log.append(lobby, frame, excluded) } else { None }?;
        if self.log.mark_for_flush(lobby) {
            self.lobbies_to_flush.push_back(lobby);
        }
        Some(SharedFrame { range: Some(range), frame })
    }

    /// Connections of the lobby's lagging members.
    pub(crate) fn lagging(&self, lobby: LobbyKey) -> &[ConnKey] {
        self.log.lagging(lobby)
    }

    /// Prepares a frame to be queued for some members of a lobby, one by one.
    pub(crate) fn share<'a>(
        &mut self,
        lobby: LobbyKey,
        frame: Outgoing<'a>,
        own: &'a mut Option<Frame>,
    ) -> SharedFrame<'a> {
        let range = self.log.append(lobby, frame, Excluded::All);
        let frame = if range.is_some() { frame } else { Outgoing::Frame(own.insert(frame.to_frame())) };
        SharedFrame { range, frame }
    }

    /// Queues a shared frame for one connection, within `max_outbound_bytes`.
    pub(crate) fn push_shared(&mut self, key: ConnKey, shared: &SharedFrame<'_>) -> Queued {
        self.catch_up(key);
        if !self.has_room(key, shared.frame.len()) {
            return Err(QueueFull);
        }
        let range = shared.range.as_ref().filter(|_| !self.output(key).is_blocked).cloned();
        let priority = self.effective_priority(Priority::Deferred);
        Ok(self.push_frame(key, range.ok_or_else(|| shared.frame.to_frame()), priority))
    }

    // ---- internals ----

    /// The priority to queue a frame with: `Normal` for every frame while output is not corked.
    fn effective_priority(&self, priority: Priority) -> Priority {
        if self.corks_output() { priority } else { Priority::Normal }
    }

    fn push_frame(&mut self, key: ConnKey, frame: Result<FrameRange, Frame>, priority: Priority) -> Option<Pressure> {
        let is_corked = priority == Priority::Deferred;
        let outbox = self.outbox_to_push(key, is_corked);
        match (frame, priority) {
            (Ok(range), _) => outbox.push_range(range, is_corked),
            (Err(frame), Priority::Urgent) => outbox.push_ahead(frame.into_bytes()),
            (Err(frame), Priority::Deferred | Priority::Normal) => outbox.push(frame.into_bytes(), is_corked),
        }
        self.after_push(key, is_corked)
    }

    /// The outbox of a connection, noted as corked if the next frame is to be.
    fn outbox_to_push(&mut self, key: ConnKey, is_corked: bool) -> &mut Outbox {
        let Egress { conns, outboxes, corked, .. } = self;
        let output = &mut conns[key.index()];
        let outbox = outboxes.of(&mut output.outbox);
        if is_corked && !outbox.is_corked() {
            corked.push(output.id);
        }
        outbox
    }

    /// Schedules a connection for writing after a frame was queued for it, and updates its watermark and its lagging.
    fn after_push(&mut self, key: ConnKey, is_corked: bool) -> Option<Pressure> {
        if !is_corked {
            self.mark_dirty(key);
        }
        let crossed = self.check_watermarks(key);
        self.update_lagging(key);
        crossed
    }

    /// Returns the watermark that the queue has crossed since the last call: above the high one, or down to the low one
    /// again.
    #[inline]
    fn check_watermarks(&mut self, key: ConnKey) -> Option<Pressure> {
        let (high_mark, low_mark) = (self.high_mark, self.low_mark);
        let output = &mut self.conns[key.index()];
        let queued_bytes = output.queued_bytes();
        if output.is_above_high_mark {
            (queued_bytes <= low_mark).then(|| {
                output.is_above_high_mark = false;
                Pressure::Low { queued_bytes }
            })
        } else {
            (queued_bytes > high_mark).then(|| {
                output.is_above_high_mark = true;
                self.wants_flush |= !output.is_blocked;
                Pressure::High { queued_bytes }
            })
        }
    }

    /// The lobby of the member under `key`, if the lobby's log has frames that the member has not read. `None` for a
    /// lagging member, which does not read the log.
    #[inline]
    fn lobby_with_unread(&self, key: ConnKey) -> Option<LobbyKey> {
        let output = self.conns.get(key.index()).filter(|output| !output.is_lagging)?;
        output.lobby.filter(|&lobby| self.log.has_unread(lobby, output.cursor))
    }

    /// Queues a member's unread frames, so that another frame can be queued behind them.
    fn catch_up(&mut self, key: ConnKey) {
        if self.queue_unread(key) {
            if !self.corks_output() {
                self.mark_dirty(key);
            }
            self.update_lagging(key);
        }
    }

    /// Moves a member's unread frames from the log to its outbox. Returns whether there were any.
    fn queue_unread(&mut self, key: ConnKey) -> bool {
        let Some(lobby) = self.lobby_with_unread(key) else { return false };
        let is_corked = self.corks_output();
        let Egress { conns, log, outboxes, corked, .. } = self;
        let output = &mut conns[key.index()];
        let was_corked = output.is_corked();
        let mut has_queued = false;
        for range in log.unread_frames(lobby, output.cursor, key) {
            outboxes.of(&mut output.outbox).push_range(range, is_corked);
            has_queued = true;
        }
        if has_queued && is_corked && !was_corked {
            corked.push(output.id);
        }
        output.cursor = log.end_cursor(lobby);
        has_queued
    }

    /// Marks a member as lagging if its socket is blocked or its queue costs more than half the bound.
    fn update_lagging(&mut self, key: ConnKey) {
        let output = self.output(key);
        if !output.is_lagging && (output.is_blocked || output.queued_cost() > self.half_bound()) {
            self.mark_lagging(key);
        }
    }

    /// Marks a member as lagging: from now on, broadcasts are queued for it frame by frame.
    fn mark_lagging(&mut self, key: ConnKey) {
        self.catch_up(key);
        let Egress { conns, log, .. } = self;
        let output = &mut conns[key.index()];
        if !output.is_lagging
            && let Some(lobby) = output.lobby
        {
            output.is_lagging = true;
            log.mark_lagging(lobby, key);
        }
    }

    /// Ends a member's lagging: it reads the lobby's log again, from the next frame on.
    fn clear_lagging(&mut self, key: ConnKey) {
        let Egress { conns, log, .. } = self;
        let output = &mut conns[key.index()];
        if std::mem::take(&mut output.is_lagging) {
            let lobby = output.lobby.expect("only members lag");
            output.cursor = log.end_cursor(lobby);
            log.clear_lagging(lobby, key);
        }
    }
}
