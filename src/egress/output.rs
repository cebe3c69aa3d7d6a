//! [`Egress`]: the owner of all pending output. Connections, corked output, and the sizes of queues.

use std::collections::VecDeque;

use super::broadcast_log::{BroadcastLog, Encoding};
use super::cursor::Cursor;
use super::event_positions::EventPositions;
use super::outbox::{Outbox, Outboxes};
use super::results::{Dropped, QueuedSize};
use super::turn_frames::TurnFrames;
use crate::base::arena::Key;
use crate::base::distribution::Distribution;
use crate::base::id::{ConnId, ConnKey, LobbyKey};
use crate::base::time::Time;
use crate::config::{Config, Flush};
use crate::ws::deflate::Compressor;

/// All pending output.
#[derive(Debug)]
pub(crate) struct Egress {
    pub(super) max_outbound_bytes: usize,
    pub(super) high_mark: usize,
    pub(super) low_mark: usize,
    /// Whether `flush` is `tick`.
    pub(super) flushes_at_tick: bool,
    /// Whether new output is corked. Set by the engine: only with `flush = tick`, and not while the clock is paused or the
    /// server is draining.
    pub(super) is_corking: bool,
    /// Whether corked output is being written, so that nothing is corked in the rest of the turn.
    pub(super) is_uncorking: bool,
    /// By [`ConnKey`].
    pub(super) conns: Vec<Output>,
    pub(super) log: BroadcastLog,
    pub(super) outboxes: Outboxes,
    pub(super) compressor: Compressor,
    /// Work of all compression so far, in bytes of messages that take as long.
    pub(super) compression_work: usize,
    /// Time of the turn, as last told.
    pub(super) turn_time: Time,
    pub(super) wants_flush: bool,
    /// Connections with output to write, in the order in which the output was queued.
    pub(super) dirty: VecDeque<ConnId>,
    /// Lobbies with frames in this turn's buffers, whose members must still be written to; in the order of their first
    /// frame.
    pub(super) lobbies_to_flush: VecDeque<LobbyKey>,
    /// Keys of the connections still to flush in one of these lobbies, in reverse order.
    pub(super) flush_targets: Vec<ConnKey>,
    /// The frames of that lobby in this turn.
    pub(super) turn_frames: TurnFrames,
    /// Connections with corked output; may contain duplicates.
    pub(super) corked: Vec<ConnId>,
    /// Connections that `poll_writable` returned in this turn and that have not been written to since.
    pub(super) flushing: Vec<ConnId>,
    /// Number of lagging members.
    pub(super) lagging_count: usize,
    pub(super) events: EventPositions,
    /// Bytes left in a queue, each time that a socket took less than was queued.
    pub(super) blocked_bytes: Distribution,
    /// Buffer that joins small pieces into one write.
    pub(super) write_buffer: Vec<u8>,
}

/// Pending output of one connection. With thousands of members, it is not in the CPU's cache when it is written to, so
/// it is as small as possible.
#[derive(Debug)]
pub(super) struct Output {
    /// [`ConnId::NONE`] while no connection has this key.
    pub(super) id: ConnId,
    /// `None` while nothing is queued, so that an idle connection needs no outbox.
    pub(super) outbox: Option<Box<Outbox>>,
    /// Position in the lobby's broadcast log up to which the member has read.
    pub(super) cursor: Cursor,
    /// The lobby whose log it reads.
    pub(super) lobby: Option<LobbyKey>,
    pub(super) feed: Feed,
    /// Whether the connection is in the list of connections with output to write.
    pub(super) is_dirty: bool,
    /// Whether the socket accepted less than it was given, and has not become writable since.
    pub(super) is_blocked: bool,
    /// Whether the queue is above the high-water mark, as last reported.
    pub(super) is_above_high_mark: bool,
}

/// How a connection gets the broadcasts of its lobby. The log lists the members that do not read it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Feed {
    /// It reads the log.
    Log,
    /// It reads the compressed frames of the log.
    CompressedLog,
    /// The member lags: its socket is blocked or its queue is above half the bound. Broadcasts are queued for it frame
    /// by frame.
    Lagging,
    /// The same for a member that takes compressed frames.
    CompressedLagging,
    /// It receives server-sent events. Broadcasts are queued for it one by one, too.
    Events,
}

impl Feed {
    pub(super) fn reads_log(self) -> bool {
        matches!(self, Feed::Log | Feed::CompressedLog)
    }

    pub(super) fn is_lagging(self) -> bool {
        matches!(self, Feed::Lagging | Feed::CompressedLagging)
    }

    pub(super) fn takes_compressed(self) -> bool {
        matches!(self, Feed::CompressedLog | Feed::CompressedLagging)
    }

    /// The form of the frames that a reader of the log gets.
    pub(super) fn encoding(self) -> Encoding {
        if self.takes_compressed() { Encoding::Compressed } else { Encoding::Plain }
    }

    /// The feed of the same member while it lags, or does not lag.
    pub(super) fn with_lagging(self, is_lagging: bool) -> Feed {
        match (self, is_lagging) {
            (Feed::Log | Feed::Lagging, false) => Feed::Log,
            (Feed::Log | Feed::Lagging, true) => Feed::Lagging,
            (Feed::CompressedLog | Feed::CompressedLagging, false) => Feed::CompressedLog,
            (Feed::CompressedLog | Feed::CompressedLagging, true) => Feed::CompressedLagging,
            (Feed::Events, _) => Feed::Events,
        }
    }
}

const VACANT: Output = Output {
    id: ConnId::NONE,
    outbox: None,
    cursor: Cursor::START,
    lobby: None,
    feed: Feed::Log,
    is_dirty: false,
    is_blocked: false,
    is_above_high_mark: false,
};

impl Output {
    pub(super) fn queued_bytes(&self) -> usize {
        self.outbox.as_ref().map_or(0, |outbox| outbox.bytes())
    }

    /// Cost of the queue: its bytes plus an overhead for each frame.
    pub(super) fn queued_cost(&self) -> usize {
        self.outbox.as_ref().map_or(0, |outbox| outbox.cost())
    }

    pub(super) fn is_corked(&self) -> bool {
        self.outbox.as_ref().is_some_and(|outbox| outbox.is_corked())
    }
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
            compressor: Compressor::default(),
            compression_work: 0,
            turn_time: Time::default(),
            wants_flush: false,
            dirty: VecDeque::new(),
            lobbies_to_flush: VecDeque::new(),
            flush_targets: Vec::new(),
            turn_frames: TurnFrames::default(),
            corked: Vec::new(),
            flushing: Vec::new(),
            lagging_count: 0,
            events: EventPositions::default(),
            blocked_bytes: Distribution::of_sizes(),
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
        if output.feed == Feed::Events {
            self.events.remove(key);
        }
        Dropped { frames, bytes }
    }

    /// Starts reading the lobby's log, from the next frame on.
    pub(crate) fn subscribe(&mut self, key: ConnKey, lobby: LobbyKey) {
        let cursor = self.log.end_cursor(lobby);
        let output = self.output_mut(key);
        (output.lobby, output.cursor) = (Some(lobby), cursor);
        match output.feed {
            Feed::Events => self.log.mark_lagging(lobby, key),
            Feed::CompressedLog => self.log.add_compressed_member(lobby),
            _ => {}
        }
        self.update_lagging(key);
    }

    /// Queues the frames that are still unread, and stops reading the lobby's log.
    pub(crate) fn unsubscribe(&mut self, key: ConnKey) {
        self.catch_up(key);
        self.uncork(key);
        self.clear_lagging(key);
        let output = self.output_mut(key);
        let (lobby, feed) = (output.lobby.take(), output.feed);
        match (lobby, feed) {
            (Some(lobby), Feed::Events) => self.log.clear_lagging(lobby, key),
            (Some(lobby), Feed::CompressedLog) => self.log.remove_compressed_member(lobby),
            _ => {}
        }
    }

    /// The lobby whose log the connection reads.
    pub(crate) fn lobby_of(&self, id: ConnId) -> Option<LobbyKey> {
        self.find(id)?.lobby
    }

    #[inline]
    pub(super) fn output(&self, key: ConnKey) -> &Output {
        &self.conns[key.index()]
    }

    #[inline]
    pub(super) fn output_mut(&mut self, key: ConnKey) -> &mut Output {
        &mut self.conns[key.index()]
    }

    #[inline]
    pub(super) fn find(&self, id: ConnId) -> Option<&Output> {
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
    pub(super) fn uncork(&mut self, key: ConnKey) {
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

    /// Whether the socket accepted less than it was given, and has not become writable since.
    pub(crate) fn is_blocked(&self, key: ConnKey) -> bool {
        self.output(key).is_blocked
    }

    /// Whether the connection will be written to in this turn.
    pub(crate) fn is_dirty(&self, key: ConnKey) -> bool {
        self.output(key).is_dirty
    }

    /// Size of the output that waits for a connection: its queue and its unread frames in the lobby's log. Frames that may be
    /// compressed when they are read count as they are.
    pub(crate) fn queued_size(&self, key: ConnKey) -> QueuedSize {
        let output = self.output(key);
        let mut size = QueuedSize { bytes: output.queued_bytes(), cost: output.queued_cost() };
        if let Some(lobby) = self.lobby_with_unread(key) {
            for range in self.log.unread_frames(lobby, output.cursor, key, Encoding::Plain) {
                size.bytes += range.len();
                size.cost += range.cost();
            }
        }
        size
    }

    /// Number of lagging members.
    pub(crate) fn lagging_count(&self) -> usize {
        self.lagging_count
    }

    /// Bytes left in a connection's queue, each time that its socket took less than was queued.
    pub(crate) fn blocked_bytes(&self) -> Distribution {
        self.blocked_bytes
    }

    pub(super) fn has_room(&self, key: ConnKey, bytes: usize) -> bool {
        self.output(key).queued_cost() + bytes <= self.max_outbound_bytes
    }

    /// Half of the smaller of `max_outbound_bytes` and `outbound_high_mark`: see the module documentation.
    pub(super) fn half_bound(&self) -> usize {
        self.max_outbound_bytes.min(self.high_mark) / 2
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every idle connection pays for this size, and every write waits for it: id 8, outbox 8, cursor 8, lobby 4, feed
    /// and three flags 4.
    #[test]
    fn the_output_of_a_connection_stays_small() {
        assert_eq!(size_of::<Output>(), 32);
    }
}
