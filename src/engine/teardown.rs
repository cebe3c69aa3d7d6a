//! How connections end: why is noted once, the seat is given back, goodbye is said.

use std::time::Duration;

use log::{debug, info};

use super::core::{AppEvent, Core};
use super::drain::shutting_down;
use super::member::{Member, Protocol};
use super::slot::ConnState;
use crate::close::CloseReason;
use crate::wire::frame::Frame;
use crate::wire::http::Refusal;

impl Core {
    /// Notes why a connection ends. False when it is ending already: the first reason stands.
    pub(super) fn record_close_reason(&mut self, key: usize, reason: CloseReason) -> bool {
        self.slots[key].close_reason.is_none() && self.record_close_reason_of(key, self.member(key).as_ref(), reason)
    }

    /// The same for a connection that is, or was until now, that of `member`.
    pub(super) fn record_close_reason_of(&mut self, key: usize, member: Option<&Member>, reason: CloseReason) -> bool {
        let slot = &mut self.slots[key];
        if slot.close_reason.is_some() {
            return false;
        }
        slot.close_reason = Some(reason);
        self.counters.count_close(reason);
        self.record_mode.note_closed(slot.id, reason);
        let unanswered = slot.health.end_checks();
        self.counters.health_checks_failed += unanswered as u64;
        if let Some(member) = member {
            // Before it leaves, so that every check has a result and nothing follows the leave.
            self.app_events.extend((0..unanswered).map(|_| AppEvent::Health(member.clone(), None)));
        }
        self.pings.ended(slot.id);
        let peer = slot.peer.address();
        match member {
            Some(member) => info!(
                "conn={} peer={peer} closed: {reason}: {} user={:?} lobby={}",
                slot.id,
                reason.explain(),
                member.user(),
                member.lobby()
            ),
            None => debug!("conn={} peer={peer} closed: {reason}: {}", slot.id, reason.explain()),
        }
        true
    }

    /// Gives back the seat, or the promise of one.
    pub(super) fn leave_seat(&mut self, key: usize, reason: CloseReason) {
        match &mut self.slots[key].state {
            ConnState::Pending(waiting) => {
                if let Some(reservation) = waiting.take().and_then(|waiting| waiting.reservation) {
                    self.directory.cancel(reservation, self.now);
                }
            }
            ConnState::Seated(..) => {
                let member = self.member(key).expect("it is seated");
                let why = reason.leave_reason();
                self.directory.leave(member.seat_key, why, self.now);
                self.set_closing(key);
                self.note_left(member, why);
            }
            ConnState::Closing(_) | ConnState::Closed => {}
        }
    }

    pub(super) fn set_closing(&mut self, key: usize) {
        self.unsubscribe(key);
        self.expiries.remove(&key);
        self.closing_ever += 1;
        self.closing.insert(self.closing_ever, self.slots[key].id);
        let before = std::mem::replace(&mut self.slots[key].state, ConnState::Closing(self.closing_ever));
        if let ConnState::Pending(waiting) = before {
            debug_assert!(waiting.is_none(), "leave_seat() has given the reservation back");
            self.pending.remove(&self.slots[key].id.generation());
        }
    }

    /// Ends a connection in good order: its seat is free now; goodbye and a close frame follow what is queued. For a reason
    /// that no close frame can carry, the connection is cut off.
    pub(super) fn begin_close(&mut self, key: usize, reason: CloseReason) {
        if self.record_close_reason(key, reason) {
            self.leave_seat(key, reason);
            if reason.is_sent() {
                self.send_close(key, reason);
            } else {
                self.mark_closed(key);
            }
        }
    }

    /// Ends a connection whose peer has broken the protocol: what it sends cannot be understood any more, its close frame
    /// neither, so nothing is waited for.
    pub(super) fn close_after_fault(&mut self, key: usize, reason: CloseReason) {
        self.begin_close(key, reason);
        if !self.slots[key].is_closed() {
            self.slots[key].wire.linger();
            self.set_step(key, self.config.close_timeout);
            self.mark_dirty(key);
        }
    }

    /// The peer has closed its direction, or its socket failed. What is queued is flushed first, then the socket is dropped:
    /// after a request or a close frame and the end of the stream in one packet, the peer waits for the answer.
    pub(super) fn peer_finished(&mut self, key: usize) {
        if self.record_close_reason(key, CloseReason::Hangup) {
            self.leave_seat(key, CloseReason::Hangup);
            if self.slots[key].wire.is_deciding() {
                let why = "the connection was closed before it was known whether you may come in";
                self.refuse_http(key, &Refusal::new(400, why));
            }
        }
        let slot = &mut self.slots[key];
        if slot.wire.outbox().is_none() {
            self.mark_closed(key);
        } else if !slot.wire.is_close_complete() {
            slot.wire.complete_close();
            self.set_step(key, self.config.close_timeout);
            self.mark_dirty(key);
        }
    }

    /// Answers a request with an HTTP status, and ends the connection.
    pub(super) fn close_with_http(&mut self, key: usize, reason: CloseReason, refusal: &Refusal) {
        if self.record_close_reason(key, reason) {
            self.leave_seat(key, reason);
            self.refuse_http(key, refusal);
        }
    }

    pub(super) fn refuse_http(&mut self, key: usize, refusal: &Refusal) {
        debug!("conn={} answered {}: {}", self.slots[key].id, refusal.status(), refusal.sentence());
        self.slots[key].wire.refuse(refusal, &mut self.outboxes);
        self.set_step(key, self.config.close_timeout);
        self.mark_dirty(key);
    }

    pub(super) fn send_close(&mut self, key: usize, reason: CloseReason) {
        let slot = &mut self.slots[key];
        if !slot.wire.is_open() {
            let refusal = match reason {
                CloseReason::ServerShutdown => shutting_down(),
                _ => Refusal::new(400, reason.explain()),
            };
            return self.refuse_http(key, &refusal);
        }
        if reason == CloseReason::SlowConsumer {
            // What it did not read in time it will not miss; the reason must reach it.
            let (conn, before) = (slot.id, slot.wire.queued_bytes());
            if let Some(outbox) = slot.wire.queued_mut() {
                self.counters.frames_dropped += outbox.discard_unsent(&self.broadcast_log) as u64;
            }
            let dropped = before - slot.wire.queued_bytes();
            self.note_dropped(conn, dropped);
        }
        if self.protocol == Protocol::Json {
            self.send_goodbye(key, reason);
        }
        let wire = &mut self.slots[key].wire;
        wire.close(reason.code(), reason.word(), &mut self.outboxes);
        self.set_step(key, self.config.close_timeout);
        self.mark_dirty(key);
    }

    /// Counts what a peer still sends after its connection has ended. Gives it up, and says so, when that is too much: it
    /// does not want to hear the reason.
    pub(super) fn has_lingered(&mut self, key: usize, count: usize) -> bool {
        let slot = &mut self.slots[key];
        slot.lingered = slot.lingered.saturating_add(u32::try_from(count).unwrap_or(u32::MAX));
        let too_much = slot.lingered as usize > self.config.max_linger_bytes.0;
        if too_much {
            debug!("conn={} cut off: it went on sending", slot.id);
            self.mark_closed(key);
        }
        too_much
    }

    /// The peer's close frame has come: first, and then with the answer that is due, or as the answer to ours.
    ///
    /// It is the last that a peer sends, so once ours is on its way the socket is dropped, which tells the peer that it is
    /// for the server to end the connection (RFC 6455 section 7.1.1). If something came behind it nevertheless, in the same
    /// bytes, `is_last` is false and the end is as after a fault: what a socket has received unread when it is dropped turns
    /// into a reset. Of what is still on its way nobody can know; whoever sends it breaks the protocol.
    pub(super) fn peer_closed(&mut self, key: usize, answer: Option<Frame>, is_last: bool) {
        if self.record_close_reason(key, CloseReason::PeerClosed) {
            self.leave_seat(key, CloseReason::PeerClosed);
            if let Some(answer) = answer {
                self.slots[key].wire.outbox_mut(&mut self.outboxes).push(answer.into_bytes(), false);
            }
        }
        let wire = &mut self.slots[key].wire;
        if is_last {
            wire.complete_close();
        } else {
            wire.linger();
        }
        self.set_step(key, self.config.close_timeout);
        self.mark_dirty(key);
    }

    pub(super) fn set_step(&mut self, key: usize, span: Duration) {
        self.slots[key].deadline = self.now + span;
        self.rearm(key);
    }
}
