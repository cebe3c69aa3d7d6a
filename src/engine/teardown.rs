//! The end of a connection, in stages. The close reason is recorded once; the first one stays.
//!
//! ```text
//! open --record_close_reason()--> reason recorded --leave_seat()--> closing --mark_closed()--> closed
//! closed --poll_closed(), the driver drops the socket--> freed
//! ```
//!
//! A closing connection flushes its queued output, then a goodbye and a close frame. A connection that is cut off
//! is closed without them. A connection that never had a seat stays pending until it is closed, except one that was
//! refused because `max_pending` was reached: it counts as closing.

use std::time::Duration;

use log::{debug, info};

use super::core::{AppEvent, Core};
use super::drain::shutting_down;
use super::member::{Member, Protocol};
use super::slot::ConnState;
use crate::base::close::CloseReason;
use crate::http::Refusal;
use crate::ws::frame::Frame;

impl Core {
    /// Records the close reason of a connection. Returns false when one is recorded already.
    pub(super) fn record_close_reason(&mut self, key: usize, reason: CloseReason) -> bool {
        self.slots[key].close_reason.is_none() && self.record_close_reason_of(key, self.member(key).as_ref(), reason)
    }

    /// The same, with the member passed in: a connection whose seat was just taken over is no longer found as a
    /// member.
    pub(super) fn record_close_reason_of(&mut self, key: usize, member: Option<&Member>, reason: CloseReason) -> bool {
        let slot = &mut self.slots[key];
        if slot.close_reason.is_some() {
            return false;
        }
        slot.close_reason = Some(reason);
        self.counters.count_close(reason);
        self.record_mode.note_close_reason(slot.id, reason);
        let unanswered = slot.health.end_checks();
        self.counters.health_checks_failed += unanswered as u64;
        if let Some(member) = member {
            // Before the leave, so that every check has a result and no event follows the leave.
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

    /// Frees the seat of a connection, or its reservation.
    pub(super) fn leave_seat(&mut self, key: usize, reason: CloseReason) {
        match &mut self.slots[key].state {
            ConnState::Pending(authorization) => {
                if let Some(reservation) = authorization.take().and_then(|pending| pending.reservation) {
                    self.directory.cancel(reservation, self.now);
                }
            }
            ConnState::Seated(..) => {
                let member = self.member(key).expect("the connection has a seat");
                let leave_reason = reason.leave_reason();
                self.directory.leave(member.seat_key, leave_reason, self.now);
                self.set_closing(key);
                self.note_left(member, leave_reason);
            }
            ConnState::Closing(_) | ConnState::Closed => {}
        }
    }

    pub(super) fn set_closing(&mut self, key: usize) {
        self.unsubscribe(key);
        self.expiries.remove(&key);
        self.closes_started += 1;
        self.closing.insert(self.closes_started, self.slots[key].id);
        let before = std::mem::replace(&mut self.slots[key].state, ConnState::Closing(self.closes_started));
        if let ConnState::Pending(authorization) = before {
            debug_assert!(authorization.is_none(), "leave_seat() has cancelled the reservation");
            self.pending.remove(&self.slots[key].id.generation());
        }
    }

    /// Closes a connection in order: it leaves its seat now; a goodbye and a close frame follow its queued output. For
    /// a reason that no close frame can carry, the connection is cut off.
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

    /// Closes a connection whose peer has broken the protocol. Its further input cannot be parsed, not even a close
    /// frame, so none is awaited.
    pub(super) fn close_after_fault(&mut self, key: usize, reason: CloseReason) {
        self.begin_close(key, reason);
        if !self.slots[key].is_closed() {
            self.slots[key].wire.linger();
            self.set_stage_deadline(key, self.config.close_timeout);
            self.mark_dirty(key);
        }
    }

    /// Handles the end of the peer's stream, or a failure of the socket. Queued output is flushed before the socket is
    /// dropped: a peer that sent a request or a close frame and the end of the stream in one packet waits for the
    /// answer.
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
            self.set_stage_deadline(key, self.config.close_timeout);
            self.mark_dirty(key);
        }
    }

    /// Answers a request with an HTTP status, and closes the connection.
    pub(super) fn close_with_http(&mut self, key: usize, reason: CloseReason, refusal: &Refusal) {
        if self.record_close_reason(key, reason) {
            self.leave_seat(key, reason);
            self.refuse_http(key, refusal);
        }
    }

    pub(super) fn refuse_http(&mut self, key: usize, refusal: &Refusal) {
        debug!("conn={} answered {}: {}", self.slots[key].id, refusal.status(), refusal.sentence());
        self.slots[key].wire.refuse(refusal, &mut self.outboxes);
        self.set_stage_deadline(key, self.config.close_timeout);
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
            // A slow consumer's unsent frames are discarded, so that the close reason can reach it.
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
        self.set_stage_deadline(key, self.config.close_timeout);
        self.mark_dirty(key);
    }

    /// Counts the bytes that a peer sends after its close reason was recorded. Above `max_linger_bytes` it closes the
    /// connection and returns true: such a peer does not wait for the reason.
    pub(super) fn count_lingering(&mut self, key: usize, count: usize) -> bool {
        let slot = &mut self.slots[key];
        slot.lingering_bytes = slot.lingering_bytes.saturating_add(u32::try_from(count).unwrap_or(u32::MAX));
        let too_much = slot.lingering_bytes as usize > self.config.max_linger_bytes.0;
        if too_much {
            debug!("conn={} cut off: its peer kept sending after the close", slot.id);
            self.mark_closed(key);
        }
        too_much
    }

    /// Handles the peer's close frame: the first one, for which `answer` is due, or the answer to ours.
    ///
    /// A close frame is the last frame that a peer sends. So once ours is written the socket is dropped, because the
    /// server must close the TCP connection first (RFC 6455 section 7.1.1).
    ///
    /// If more bytes follow the close frame in the same input, `is_last` is false, and the connection lingers as after
    /// a fault: a socket that is dropped with unread input sends a reset. Bytes that arrive later cannot be considered
    /// here; a peer that sends them breaks the protocol.
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
        self.set_stage_deadline(key, self.config.close_timeout);
        self.mark_dirty(key);
    }

    pub(super) fn set_stage_deadline(&mut self, key: usize, span: Duration) {
        self.slots[key].deadline = self.now + span;
        self.rearm(key);
    }
}
