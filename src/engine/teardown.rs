//! The end of a connection, in stages. The close reason is recorded once; the first one stays.
//!
//! ```text
//! open --record_close_reason()--> reason recorded --leave_seat()--> closing --mark_closed()--> closed
//! closed --poll_closed(), the driver drops the socket--> freed
//! ```
//!
//! A closing connection flushes its queued output, then a goodbye and a close frame. A connection that is cut off
//! is closed without them. A connection that never had a seat stays pending until it is closed, except one that was
//! refused unread because `max_pending` was reached: it counts as closing.

use std::time::Duration;

use bytes::Bytes;
use log::{debug, info};

use super::core::Core;
use super::draining::shutting_down;
use super::member::{Member, Protocol};
use super::recording::Edition;
use super::state::conn::ConnState;
use super::state::events::AppEvent;
use crate::base::arena::Key;
use crate::base::close::{CloseReason, LeaveReason};
use crate::base::event_kind::EventKind;
use crate::base::id::{ConnId, ConnKey, SeatKey};
use crate::http::PlainResponse;
use crate::http::file::FileResponse;
use crate::http::response::JsonResponse;
use crate::ws::frame::Frame;
use crate::ws::handshake::Acceptance;

impl Core {
    /// Records the close reason of a connection. Returns false when one is recorded already.
    pub(super) fn record_close_reason(&mut self, key: ConnKey, reason: CloseReason) -> bool {
        self.conns[key].close_kind.is_none() && self.record_close_reason_of(key, self.member(key).as_ref(), reason)
    }

    /// The same, with the member passed in: a connection whose seat was just taken over is no longer found as a
    /// member.
    pub(super) fn record_close_reason_of(
        &mut self,
        key: ConnKey,
        member: Option<&Member>,
        reason: CloseReason,
    ) -> bool {
        if !self.conns.set_close_reason(key, reason) {
            return false;
        }
        let slot = &mut self.conns[key];
        self.counters.count_close(reason);
        self.record_mode.note_close_reason(slot.id, reason);
        let unanswered = slot.health.end_checks();
        self.counters.health_checks_failed += unanswered as u64;
        if let Some(member) = member {
            // Before the leave, so that every check has a result and no event follows the leave.
            self.events.extend((0..unanswered).map(|_| AppEvent::Health(member.clone(), None)));
        }
        self.pings.ended(slot.id);
        let slot = &self.conns[key];
        let remote = self.conns.remote(key);
        match member {
            Some(member) => info!(
                "conn={} peer={remote} user={:?} lobby={} closed: {reason}: {}",
                slot.id,
                member.user(),
                member.lobby(),
                reason.explain()
            ),
            None => debug!("conn={} peer={remote} closed: {reason}: {}", slot.id, reason.explain()),
        }
        true
    }

    /// Frees the seat of a connection, its reservation, or its place among those that follow the list of lobbies, and ends
    /// its POST.
    pub(super) fn leave_seat(&mut self, key: ConnKey, reason: CloseReason) {
        self.posts.end(self.conns[key].id);
        let id = self.conns[key].id;
        match &mut self.conns[key].state {
            ConnState::Pending(authorization) => {
                if let Some(reservation) = authorization.take().and_then(|pending| pending.reservation) {
                    self.directory.cancel(reservation, self.now());
                }
                self.forget_waiting(id);
                let session = self.posts.end_question(key);
                if let Some(session) = session.filter(|_| reason == CloseReason::Hangup) {
                    self.note_given_up(key, session);
                }
            }
            &mut ConnState::Seated(seat) => {
                if self.is_clustered() {
                    self.drop_later(key, seat, reason);
                } else if self.keeps_seat(key, seat, reason) {
                    self.set_away(key, seat, reason);
                } else {
                    self.free_seat(key, seat, reason);
                }
            }
            &mut ConnState::Listing(list) => {
                self.lists.leave(list, key, self.conns[key].address);
                self.set_closing(key);
            }
            ConnState::Overflow | ConnState::Closing(_) | ConnState::Closed => {}
        }
    }

    /// Frees the seat of a member that has a connection.
    fn free_seat(&mut self, key: ConnKey, seat: SeatKey, reason: CloseReason) {
        let member = self.member(key).expect("the connection has a seat");
        if reason.is_kick() && (self.config.lobby_control || self.directory.session_of(seat).is_some()) {
            self.directory.keep_out(seat, self.now());
        }
        let held_address = self.has_address_hold(seat).then(|| self.directory.seat(seat).address);
        let leave_reason = reason.leave_reason();
        self.directory.leave(seat, leave_reason, self.now());
        if let Some(address) = held_address {
            self.addresses.left(address, self.now());
        }
        self.forget_session(seat, member.lobby_key);
        self.set_closing(key);
        self.note_left(member, leave_reason);
    }

    pub(super) fn set_closing(&mut self, key: ConnKey) {
        self.egress.unsubscribe(key);
        self.timers.expiries.remove(&key);
        self.identity_data.set(key, None);
        self.conns.set_closing(key);
    }

    /// Closes a connection in order: it leaves its seat now; a goodbye and a close frame follow its queued output. For
    /// a reason that no close frame can carry, the connection is cut off.
    pub(super) fn begin_close(&mut self, key: ConnKey, reason: CloseReason) {
        self.begin_close_for(key, reason, None);
    }

    /// The same; the goodbye asks the client to come back after `wait`.
    pub(super) fn begin_close_for(&mut self, key: ConnKey, reason: CloseReason, wait: Option<Duration>) {
        if self.record_close_reason(key, reason) {
            self.leave_seat(key, reason);
            if reason.is_sent() {
                self.send_close(key, reason, wait);
            } else {
                self.mark_closed(key);
            }
        }
    }

    /// Closes a connection whose peer has broken the protocol. Its further input cannot be parsed, not even a close
    /// frame, so none is awaited.
    pub(super) fn close_after_fault(&mut self, key: ConnKey, reason: CloseReason) {
        self.begin_close(key, reason);
        if !self.conns[key].is_closed() {
            self.conns[key].wire.linger();
            self.set_stage_deadline(key, self.config.close_timeout);
            self.egress.mark_dirty(key);
        }
    }

    /// Handles the end of the peer's stream, or a failure of the socket. Queued output is flushed before the socket is
    /// dropped: a peer that sent a request or a close frame and the end of the stream in one packet waits for the
    /// answer.
    pub(super) fn handle_peer_end(&mut self, key: ConnKey) {
        // A client may end a connection between two requests.
        let is_idle = self.conns[key].wire.is_idle();
        let reason = if is_idle { CloseReason::HttpRefused } else { CloseReason::Hangup };
        if self.record_close_reason(key, reason) {
            self.leave_seat(key, reason);
            if self.conns[key].wire.is_deciding() {
                let why = "the connection was closed before it was known whether you may come in";
                self.refuse_http(key, &PlainResponse::new(400, why));
            }
        }
        if !self.egress.has_queue(key) {
            self.mark_closed(key);
        } else if !self.conns[key].wire.is_close_complete() {
            self.conns[key].wire.complete_close();
            self.set_stage_deadline(key, self.config.close_timeout);
            self.egress.mark_dirty(key);
        }
    }

    /// Answers a request with an HTTP status, and closes the connection.
    pub(super) fn close_with_http(&mut self, key: ConnKey, reason: CloseReason, refusal: &PlainResponse) {
        if self.record_close_reason(key, reason) {
            self.leave_seat(key, reason);
            self.refuse_http(key, refusal);
        }
    }

    /// Answers a request with a file of the program, and closes the connection.
    pub(super) fn close_with_file(&mut self, key: ConnKey, file: &FileResponse, with_body: bool) {
        if self.record_close_reason(key, CloseReason::HttpRefused) {
            self.leave_seat(key, CloseReason::HttpRefused);
            debug!("conn={} answered {}: a file of the program", self.conns[key].id, file.status());
            let date = self.date_line();
            let slot = &mut self.conns[key];
            let (response, head) = slot.wire.respond(file, date, with_body);
            self.redact_echo(key, Some(head as u64..response.len() as u64).filter(|body| !body.is_empty()));
            self.push_http(key, response);
        }
    }

    /// Answers a request with JSON, and closes the connection.
    pub(super) fn close_with_json(&mut self, key: ConnKey, response: &JsonResponse, with_body: bool) {
        if self.record_close_reason(key, CloseReason::HttpRefused) {
            self.leave_seat(key, CloseReason::HttpRefused);
            debug!("conn={} answered {}", self.conns[key].id, response.status);
            let mut bytes = Vec::new();
            response.write(&mut bytes, self.date_line(), with_body, false);
            self.conns[key].wire.linger();
            self.redact_echo(key, response.echo(&bytes));
            self.push_http(key, bytes.into());
        }
    }

    pub(super) fn refuse_http(&mut self, key: ConnKey, refusal: &PlainResponse) {
        debug!("conn={} answered {}: {}", self.conns[key].id, refusal.status(), refusal.sentence());
        let date = self.date_line();
        let cors = self.conns[key].wire.pending_cors();
        let refusal = if cors.is_some() { &refusal.clone().with_cors(cors.cloned()) } else { refusal };
        let response = self.conns[key].wire.refuse(refusal, date);
        self.redact_echo(key, refusal.echo(&response));
        self.push_http(key, response);
    }

    fn push_http(&mut self, key: ConnKey, response: Bytes) {
        self.egress.push_response(key, response);
        self.set_stage_deadline(key, self.config.close_timeout);
        self.egress.mark_dirty(key);
    }

    pub(super) fn send_close(&mut self, key: ConnKey, reason: CloseReason, wait: Option<Duration>) {
        self.send_close_with(key, reason, wait, None);
    }

    /// Closes a connection whose lobby is on another node of the cluster. The goodbye says where.
    pub(super) fn redirect(&mut self, key: ConnKey, url: Option<&str>) {
        let reason = CloseReason::ForcedReconnect;
        if self.record_close_reason(key, reason) {
            self.leave_seat(key, reason);
            self.send_close_with(key, reason, None, url);
        }
    }

    fn send_close_with(&mut self, key: ConnKey, reason: CloseReason, wait: Option<Duration>, url: Option<&str>) {
        if matches!(self.conns[key].wire.pending_request(), Some(Acceptance::Events)) {
            // An `EventSource` reads no status, so its stream begins and ends.
            self.accept_pending(key);
        }
        let slot = &self.conns[key];
        if !slot.wire.is_open() {
            let refusal = match reason {
                CloseReason::ServerShutdown => shutting_down(),
                _ => PlainResponse::new(400, reason.explain()),
            };
            return self.refuse_http(key, &refusal);
        }
        if reason == CloseReason::SlowConsumer {
            self.discard_for_goodbye(key);
        }
        if self.protocol == Protocol::Json {
            self.send_goodbye(key, reason, wait, url);
        }
        if let Some(close) = self.conns[key].wire.close(reason.code(), reason.word()) {
            self.egress.push_close(key, close);
        }
        self.set_stage_deadline(key, self.config.close_timeout);
        self.egress.mark_dirty(key);
    }

    /// Counts the bytes that a peer sends after its close reason was recorded. Above `max_linger_bytes` it closes the
    /// connection and returns true: such a peer does not wait for the reason.
    pub(super) fn count_lingering(&mut self, key: ConnKey, count: usize) -> bool {
        let slot = &mut self.conns[key];
        slot.lingering_bytes = slot.lingering_bytes.saturating_add(u32::try_from(count).unwrap_or(u32::MAX));
        let too_much = slot.lingering_bytes as usize > self.config.max_linger_bytes.0;
        if too_much {
            debug!("conn={} cut off: its peer kept sending after the close", slot.id);
            self.mark_closed(key);
        }
        too_much
    }

    /// Handles the peer's close frame: the first one, for which `answer` is due, or the answer to ours. `code` is its code.
    ///
    /// A close frame is the last frame that a peer sends. So once ours is written the socket is dropped, because the
    /// server must close the TCP connection first (RFC 6455 section 7.1.1).
    ///
    /// If more bytes follow the close frame in the same input, `is_last` is false, and the connection lingers as after
    /// a fault: a socket that is dropped with unread input sends a reset. Bytes that arrive later cannot be considered
    /// here; a peer that sends them breaks the protocol.
    pub(super) fn handle_peer_close(&mut self, key: ConnKey, code: Option<u16>, answer: Option<Frame>, is_last: bool) {
        let reason = match code {
            // Earlier editions did not tell these codes apart.
            None | Some(1001) if self.record_mode.edition() >= Edition::Third => CloseReason::PeerGone,
            _ => CloseReason::PeerClosed,
        };
        if self.record_close_reason(key, reason) {
            self.leave_seat(key, reason);
            if let Some(answer) = answer {
                self.egress.push_close(key, answer);
            }
        }
        let wire = &mut self.conns[key].wire;
        if is_last {
            wire.complete_close();
        } else {
            wire.linger();
        }
        self.set_stage_deadline(key, self.config.close_timeout);
        self.egress.mark_dirty(key);
    }

    /// Closes a connection at once: nothing more is written to it or read from it.
    pub(super) fn abort(&mut self, key: ConnKey, reason: CloseReason) {
        if self.record_close_reason(key, reason) {
            self.leave_seat(key, reason);
        }
        self.mark_closed(key);
    }

    /// Marks a connection as closed, discards its queued output, and lets the driver drop its socket.
    pub(super) fn mark_closed(&mut self, key: ConnKey) {
        if !self.conns.set_closed(key) {
            return;
        }
        let slot = &self.conns[key];
        let (id, address) = (slot.id, slot.address);
        let dropped = self.egress.close(key);
        self.counters.frames_dropped += dropped.frames as u64;
        self.note_dropped(id, dropped.bytes);
        self.posts.end(id);
        self.posts.close_stream(key);
        self.timers.wheel.disarm(key.index());
        if let Some(address) = address {
            self.addresses.left(address, self.now());
        }
    }

    /// Frees the next closed connection.
    pub(super) fn poll_closed(&mut self) -> Option<(ConnId, CloseReason)> {
        let (id, reason) = self.conns.free_next()?;
        if self.conns.is_empty() {
            self.egress.discard_turn();
        }
        self.record_mode.forget(id);
        self.note_freed(id);
        Some((id, reason.expect("a closed connection has a close reason")))
    }

    /// Records that a member has left its seat: queues the presence change and the events for the application.
    pub(super) fn note_left(&mut self, member: Member, reason: LeaveReason) {
        self.counters.left += 1;
        if self.directory.get_lobby(member.lobby_key).is_some() {
            if self.protocol == Protocol::Json && !self.is_ending() {
                self.unflushed_lobbies.push(member.lobby_key);
            } else {
                self.discard_presence_changes(member.lobby_key);
            }
        }
        self.feed_member(EventKind::Left, &member, Some(reason));
        self.note_undelivered(&member);
        self.events.push_back(AppEvent::Left(member, reason));
    }
}
