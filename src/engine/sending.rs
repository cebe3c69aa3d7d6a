//! How frames reach members: queued, bounded, ridden on the lobby's buffer of the turn, and written.

use super::core::{Core, Happening};
use super::member::{Pressure, Sent};
use crate::close::CloseReason;
use crate::id::ConnId;
use crate::lobby::directory::{Directory, LobbyKey, SeatKey};
use crate::wire::chorus::Part;
use crate::wire::frame::Frame;
use crate::wire::outbox::Flow;

/// The longest frame that is copied into the lobby's buffer: about as much as costs a system call's time to copy.
const MAX_CHORUS_FRAME: usize = 16 * 1024;

impl Core {
    pub(super) fn mark_dirty(&mut self, key: usize) {
        let slot = &mut self.slots[key];
        if !slot.dirty && !slot.blocked {
            slot.dirty = true;
            self.dirty.push_back(slot.id);
        }
    }

    pub(super) fn poll_writable(&mut self) -> Option<ConnId> {
        while let Some(id) = self.dirty.pop_front() {
            if let Some(slot) = self.slot(id) {
                slot.dirty = false;
                self.flushing.push(id);
                return Some(id);
            }
        }
        self.end_turn();
        None
    }

    /// Everybody has been written to, so what was said in this turn can be forgotten.
    fn end_turn(&mut self) {
        self.wants_flush = false;
        if self.chorus.is_silent() {
            self.flushing.clear();
            return;
        }
        for id in std::mem::take(&mut self.flushing) {
            // The driver was asked to write to it, and has not.
            if self.slot(id).is_some() {
                self.slots[id.index()].wire.outbox_mut().own(&self.chorus);
            }
        }
        self.chorus.end_turn();
    }

    pub(super) fn writable(&mut self, id: ConnId) {
        if let Some(slot) = self.slot(id)
            && slot.blocked
        {
            slot.blocked = false;
            self.mark_dirty(id.index());
        }
    }

    /// The socket took `bytes` bytes.
    pub(super) fn written(&mut self, key: usize, bytes: usize, flow: Flow) -> Flow {
        self.counters.bytes_out += bytes as u64;
        self.feel_pressure(key);
        self.note_flushed(self.slots[key].id, bytes);
        let slot = &mut self.slots[key];
        if self.flushing.last() == Some(&slot.id) {
            self.flushing.pop();
        }
        match flow {
            Flow::Blocked => {
                slot.blocked = true;
                // Only what the kernel did not take is copied.
                slot.wire.outbox_mut().own(&self.chorus);
            }
            Flow::Drained if slot.wire.is_finishing() && !slot.shut_down => {
                slot.shut_down = true;
                self.set_step(key, self.config.linger_timeout);
                return Flow::Finished;
            }
            Flow::Drained | Flow::Finished => {}
        }
        flow
    }

    /// Queues a frame for a member. A member that has not read what was queued before is ended instead.
    pub(super) fn send(&mut self, key: usize, frame: Frame) -> bool {
        let queued = self.queue(key, frame);
        if !queued {
            self.end(key, CloseReason::SlowConsumer);
        }
        queued
    }

    pub(super) fn queue(&mut self, key: usize, frame: Frame) -> bool {
        let slot = &mut self.slots[key];
        if slot.wire.outbox().cost() + frame.as_bytes().len() > self.config.max_outbound_bytes.0 {
            return false;
        }
        slot.wire.send(frame);
        self.counters.frames_out += 1;
        self.mark_dirty(key);
        self.feel_pressure(key);
        true
    }

    /// Queues a frame that lies in the lobby's buffer of this turn.
    fn queue_shared(&mut self, key: usize, part: &Part, frame: &Frame) -> bool {
        let slot = &mut self.slots[key];
        // Whoever is behind will not be written to in this turn, and so needs the frame for itself.
        if slot.blocked {
            return self.queue(key, frame.clone());
        }
        let outbox = slot.wire.outbox_mut();
        if outbox.cost() + part.len() > self.config.max_outbound_bytes.0 {
            return false;
        }
        outbox.push_shared(part);
        self.counters.frames_out += 1;
        self.mark_dirty(key);
        self.feel_pressure(key);
        true
    }

    /// Queues a frame in place of the one that was queued under the same key before, if that is still there.
    ///
    /// When there is no room even so, the frame is dropped: the next one will replace it anyway.
    pub(super) fn queue_latest(&mut self, key: usize, latest: u64, frame: Frame) -> bool {
        let outbox = self.slots[key].wire.outbox_mut();
        if outbox.drop_latest(latest) {
            self.counters.frames_replaced += 1;
        }
        if outbox.cost() + frame.as_bytes().len() > self.config.max_outbound_bytes.0 {
            self.counters.frames_dropped += 1;
            self.feel_pressure(key);
            return false;
        }
        outbox.push_latest(latest, frame.into_bytes());
        self.counters.frames_out += 1;
        self.mark_dirty(key);
        self.feel_pressure(key);
        true
    }

    /// Tells the application when the high mark is crossed upwards, and when the low mark is reached again.
    #[inline]
    pub(super) fn feel_pressure(&mut self, key: usize) {
        let slot = &self.slots[key];
        let queued = slot.wire.outbox().bytes();
        let crossed = if slot.pressed {
            queued <= self.config.outbound_low_mark.0
        } else {
            queued > self.config.outbound_high_mark.0
        };
        if crossed {
            self.tell_pressure(key, queued);
        }
    }

    fn tell_pressure(&mut self, key: usize, queued_bytes: usize) {
        let slot = &mut self.slots[key];
        self.wants_flush |= !slot.pressed && !slot.blocked;
        let pressure = if slot.pressed { Pressure::Low { queued_bytes } } else { Pressure::High { queued_bytes } };
        slot.pressed = !slot.pressed;
        if let Some(member) = slot.member().cloned() {
            self.happenings.push_back(Happening::Pressure(member, pressure));
        }
    }

    /// Sends a frame to the members of a lobby for whom `includes` holds. Returns how many got it, and how many could
    /// not take it and were ended.
    pub(super) fn send_to_members(
        &mut self,
        lobby: LobbyKey,
        frame: &Frame,
        latest: Option<u64>,
        mut includes: impl FnMut(&Directory, SeatKey) -> bool,
    ) -> Sent {
        let mut sent = Sent::default();
        let mut slow = Vec::new();
        let mut audience = std::mem::take(&mut self.audience);
        audience.clear();
        audience.extend_from_slice(self.directory.members(lobby));
        // A large frame is shared as it is: copying it would cost more than a slice of its own.
        let is_small = latest.is_none() && frame.as_bytes().len() <= MAX_CHORUS_FRAME;
        let part = if is_small { self.chorus.append(lobby, frame.as_bytes()) } else { None };
        for &seat in &audience {
            if !includes(&self.directory, seat) {
                sent.excluded += 1;
                continue;
            }
            let key = self.directory.seat(seat).conn.index();
            let queued = match (latest, &part) {
                (Some(latest), _) => self.queue_latest(key, latest, frame.clone()),
                (None, Some(part)) => self.queue_shared(key, part, frame),
                (None, None) => self.queue(key, frame.clone()),
            };
            if queued {
                sent.queued += 1;
            } else {
                sent.dropped += 1;
                // A frame that matters is never left out in silence.
                if latest.is_none() {
                    slow.push(key);
                }
            }
        }
        self.audience = audience;
        // Afterwards, so that everybody who was in the lobby at the call gets the frame.
        for key in slow {
            self.end(key, CloseReason::SlowConsumer);
        }
        sent
    }
}
