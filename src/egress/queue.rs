//! Queueing frames, for one connection or for the members of a lobby. Closes nothing when a queue is full.

use bytes::Bytes;

use super::broadcast_log::{Excluded, FrameRange};
use super::outbox::Outbox;
use super::output::{Egress, Feed};
use super::results::{Dropped, LatestQueued, Pressure, Priority, QueueFull, Queued};
use crate::base::arena::Key;
use crate::base::id::{ConnId, ConnKey, LobbyKey};
use crate::base::time::Time;
use crate::ws::deflate::{COMPRESSOR, CompressionTotals, Compressor, compression_work};
use crate::ws::frame::{Frame, Outgoing};

/// A frame for several receivers, encoded once: in the lobby's buffer, or in memory of its own if it does not fit there
/// or a receiver cannot use the buffer.
pub(crate) struct SharedFrame<'a> {
    range: Option<FrameRange>,
    frame: Outgoing<'a>,
    /// The encoded frame, if it is not in the lobby's buffer.
    own: Option<&'a Frame>,
    compressed: CompressedForm,
}

/// The form of a shared frame for receivers that take compressed frames.
enum CompressedForm {
    /// It is not compressed.
    Plain,
    /// It was appended to the log of this lobby as the last frame, and is compressed there.
    InLog(LobbyKey),
    /// It is compressed by itself, once a receiver needs it.
    Own(Option<Frame>),
}

/// Whether a frame may be compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Compressible {
    Yes,
    No,
}

impl Egress {
    // ---- queueing for one connection ----

    /// Queues a frame for one connection, within `max_outbound_bytes`.
    pub(crate) fn push(&mut self, key: ConnKey, frame: Outgoing<'_>, priority: Priority) -> Queued {
        if self.output(key).feed == Feed::Events {
            return self.push_event(key, frame, priority, true);
        }
        if self.queued_size(key).cost + frame.len() <= self.max_outbound_bytes {
            Ok(self.push_unbounded(key, frame, priority))
        } else {
            Err(QueueFull)
        }
    }

    /// Queues a frame even if it exceeds `max_outbound_bytes`. Returns the watermark that the queue has crossed.
    pub(crate) fn push_unbounded(&mut self, key: ConnKey, frame: Outgoing<'_>, priority: Priority) -> Option<Pressure> {
        if self.output(key).feed == Feed::Events {
            return self.push_event(key, frame, priority, false).unwrap_or_default();
        }
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

    /// Queues the HTTP response to a request. Only responses to earlier requests may be queued before it.
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
        if self.output(key).feed == Feed::Events {
            return self.push_latest_event(key, latest, &frame);
        }
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
    /// Some members do not read the log: the frame must be queued for each of [`lagging`](Self::lagging).
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
        if COMPRESSOR.is_some() && self.will_compress(lobby, except) {
            self.compression_work = self.compression_work.wrapping_add(compression_work(frame.len()));
        }
        Some(SharedFrame { range: Some(range), frame, own: None, compressed: CompressedForm::InLog(lobby) })
    }

    /// Connections of the lobby's members that do not read its log: they lag, or receive events.
    pub(crate) fn lagging(&self, lobby: LobbyKey) -> &[ConnKey] {
        self.log.lagging(lobby)
    }

    /// Prepares a frame to be queued for some members of a lobby, one by one.
    pub(crate) fn share<'a>(
        &mut self,
        lobby: LobbyKey,
        frame: Outgoing<'a>,
        compressible: Compressible,
        own: &'a mut Option<Frame>,
    ) -> SharedFrame<'a> {
        let range = self.log.append(lobby, frame, Excluded::All);
        let own = if range.is_some() { None } else { Some(&*own.insert(frame.to_frame())) };
        let compressed = match compressible {
            Compressible::Yes => CompressedForm::Own(None),
            Compressible::No => CompressedForm::Plain,
        };
        SharedFrame { range, frame, own, compressed }
    }

    /// Queues a shared frame for one connection, within `max_outbound_bytes`.
    pub(crate) fn push_shared(&mut self, key: ConnKey, shared: &mut SharedFrame<'_>) -> Queued {
        let feed = self.output(key).feed;
        if feed == Feed::Events {
            return self.push_event(key, shared.frame, Priority::Deferred, true);
        }
        self.catch_up(key);
        if feed.takes_compressed()
            && let Some(queued) = self.push_compressed(key, shared)
        {
            return queued;
        }
        if !self.has_room(key, shared.frame.len()) {
            return Err(QueueFull);
        }
        let range = shared.range.as_ref().filter(|_| !self.output(key).is_blocked).cloned();
        let priority = self.effective_priority(Priority::Deferred);
        let encode = || shared.own.cloned().unwrap_or_else(|| shared.frame.to_frame());
        Ok(self.push_frame(key, range.ok_or_else(encode), priority))
    }

    // ---- compressed frames ----

    /// From now on the connection gets broadcasts compressed. Called before it subscribes.
    pub(crate) fn accept_compressed(&mut self, key: ConnKey) {
        self.output_mut(key).feed = Feed::CompressedLog;
    }

    /// Whether the connection gets broadcasts compressed.
    pub(crate) fn takes_compressed(&self, key: ConnKey) -> bool {
        self.output(key).feed.takes_compressed()
    }

    /// Returns a frame compressed, if the connection takes compressed frames. `compressed` is the compressed frame, if it was
    /// needed before.
    pub(crate) fn form_for(&mut self, key: ConnKey, frame: &Frame, compressed: &mut Option<Frame>) -> Frame {
        if !self.takes_compressed(key) {
            return frame.clone();
        }
        let Egress { compressor, compression_work, .. } = self;
        compressed.get_or_insert_with(|| compress(compressor, compression_work, frame)).clone()
    }

    /// Whether a broadcast to a lobby without the connection `except` will be compressed, if it is long enough.
    #[inline]
    fn will_compress(&self, lobby: LobbyKey, except: Option<ConnId>) -> bool {
        let members = self.log.compressed_members(lobby);
        members > 0 && members > u32::from(except.is_some_and(|conn| self.takes_compressed(conn.key())))
    }

    /// Work of all compression so far, as [`compression_work`] counts it. A frame in the log of a lobby counts when it is appended, not when it is
    /// compressed at the end of the turn. So the work of a turn is known while there is input to leave for the next one.
    #[inline]
    pub(crate) fn compression_work(&self) -> usize {
        if COMPRESSOR.is_some() { self.compression_work } else { 0 }
    }

    /// Tells the time of the turn, which may have been told before.
    #[inline]
    pub(crate) fn note_turn(&mut self, now: Time) {
        if COMPRESSOR.is_some() && self.turn_time != now {
            self.turn_time = now;
            self.compressor.begin_turn();
        }
    }

    /// Whether anything was compressed since the last call of [`take_compression_totals`](Self::take_compression_totals).
    #[inline]
    pub(crate) fn has_compressed(&self) -> bool {
        self.compressor.has_totals()
    }

    /// Returns what was compressed since the last call.
    pub(crate) fn take_compression_totals(&mut self) -> CompressionTotals {
        self.compressor.take_totals()
    }

    /// Queues a shared frame in its compressed form. `None` if it has none.
    // Not inlined: plain frames must not pay for it.
    #[cold]
    #[inline(never)]
    fn push_compressed(&mut self, key: ConnKey, shared: &mut SharedFrame<'_>) -> Option<Queued> {
        let Egress { log, compressor, compression_work, conns, .. } = self;
        let frame = match &mut shared.compressed {
            CompressedForm::Plain => return None,
            CompressedForm::InLog(lobby) => {
                let range = log.compress_last(*lobby, compressor);
                let is_blocked = conns[key.index()].is_blocked;
                if is_blocked { Err(Frame::from_encoded(log.bytes(&range).to_vec())) } else { Ok(range) }
            }
            CompressedForm::Own(compressed) => {
                let compressed = compressed.get_or_insert_with(|| match shared.own {
                    Some(frame) => compress(compressor, compression_work, frame),
                    None => compress(compressor, compression_work, &shared.frame.to_frame()),
                });
                Err(compressed.clone())
            }
        };
        let length = frame.as_ref().map_or_else(|frame| frame.as_bytes().len(), FrameRange::len);
        if !self.has_room(key, length) {
            return Some(Err(QueueFull));
        }
        Some(Ok(self.push_frame(key, frame, self.effective_priority(Priority::Deferred))))
    }

    // ---- internals ----

    /// The priority to queue a frame with: `Normal` for every frame while output is not corked.
    pub(super) fn effective_priority(&self, priority: Priority) -> Priority {
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
    pub(super) fn outbox_to_push(&mut self, key: ConnKey, is_corked: bool) -> &mut Outbox {
        let Egress { conns, outboxes, corked, .. } = self;
        let output = &mut conns[key.index()];
        let outbox = outboxes.of(&mut output.outbox);
        if is_corked && !outbox.is_corked() {
            corked.push(output.id);
        }
        outbox
    }

    /// Schedules a connection for writing after a frame was queued for it, and updates its watermark and its lagging.
    pub(super) fn after_push(&mut self, key: ConnKey, is_corked: bool) -> Option<Pressure> {
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
    pub(super) fn check_watermarks(&mut self, key: ConnKey) -> Option<Pressure> {
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
}

/// Compresses a frame, and adds the work to `work`.
fn compress(compressor: &mut Compressor, work: &mut usize, frame: &Frame) -> Frame {
    *work = work.wrapping_add(compression_work(frame.as_bytes().len()));
    compressor.compress(frame)
}
