//! Received bytes: counts and charges them, parses them, and acts on each event. Knows no sockets.

use super::Engine;
use super::app::App;
use super::cluster::SharedMessage;
use super::driver::Consumed;
use super::member::{Message, Protocol};
use super::requests::ONLY_WATCHES;
use super::state::inbox::QueuedMessage;
use super::ticking::Admitted;
use crate::base::close::{CloseReason, Reject};
use crate::base::id::{ConnId, ConnKey};
use crate::base::time::Time;
use crate::ws::connection::{HeadRules, WireEvent};
use crate::ws::websocket::Limits;

/// Cost of a frame besides its bytes. Locating the frame, and its part of a system call, take about as long as copying
/// this many bytes.
const FRAME_WORK: usize = 256;

impl<A: App> Engine<A> {
    /// Handles bytes of a connection that receives requests: a request head, the body of a POST and the next head are
    /// inputs of their own, since each is recorded in its own way.
    pub(super) fn receive_in_pieces(&mut self, now: Time, conn: ConnId, bytes: &[u8], max_work: usize) -> Consumed {
        let mut total = Consumed { bytes: 0, work: 0 };
        loop {
            let rest = &bytes[total.bytes..];
            let slot = self.core.conns.get(conn);
            let max_header_bytes = self.core.config.max_header_bytes.0;
            let length = slot.map_or(rest.len(), |slot| slot.wire.piece(rest, max_header_bytes));
            let begins_request = length > 0 && slot.is_some_and(|slot| slot.wire.is_idle());
            let piece = &rest[..length];
            self.enter_bytes(now, conn, piece, max_work);
            if begins_request && self.core.slot(conn).is_some() {
                self.core.set_stage_deadline(conn.key(), self.core.config.handshake_timeout);
            }
            let consumed = self.receive(conn, piece, max_work);
            total.bytes += consumed.bytes;
            total.work = total.work.saturating_add(consumed.work);
            if consumed.bytes < length || total.bytes == bytes.len() || total.work >= max_work {
                return total;
            }
        }
    }

    /// Handles received bytes, of which some may have been passed in before and not consumed.
    ///
    /// A charge takes at most the burst of a byte rate. So the messages of a member are charged and parsed in parts of at most
    /// that length, or a long read would cost no more than a short one.
    pub(super) fn receive(&mut self, conn: ConnId, bytes: &[u8], max_work: usize) -> Consumed {
        let most = self.core.rates.least_byte_burst as usize;
        if bytes.len() <= most || self.core.slot(conn).is_none_or(|slot| !slot.is_admitted()) {
            return self.receive_part(conn, bytes, max_work);
        }
        let mut total = Consumed { bytes: 0, work: 0 };
        loop {
            let rest = &bytes[total.bytes..];
            let unconsumed = self.core.slot(conn).map_or(0, |slot| slot.unconsumed as usize);
            let part = &rest[..rest.len().min(unconsumed.saturating_add(most))];
            let consumed = self.receive_part(conn, part, max_work - total.work);
            total.bytes += consumed.bytes;
            total.work = total.work.saturating_add(consumed.work);
            if consumed.bytes < part.len() || total.bytes == bytes.len() || total.work >= max_work {
                return total;
            }
        }
    }

    fn receive_part(&mut self, conn: ConnId, bytes: &[u8], max_work: usize) -> Consumed {
        let now = self.core.now();
        // A connection that was closed earlier in the turn is included: its received bytes are counted too.
        let Some(slot) = self.core.conns.get_mut(conn) else {
            return Consumed { bytes: bytes.len(), work: bytes.len() };
        };
        let unconsumed = std::mem::take(&mut slot.unconsumed) as usize;
        let new_bytes = bytes.len().saturating_sub(unconsumed);
        let (is_closed, is_closing) = (slot.is_closed(), slot.close_kind.is_some());
        self.core.counters.bytes_in += new_bytes as u64;
        if is_closed {
            return Consumed { bytes: bytes.len(), work: bytes.len() };
        }
        if new_bytes > 0 {
            if let Some(micros) = slot.health.heard(now) {
                self.core.latencies.pings.record(micros);
            }
            if is_closing && self.core.count_lingering(conn.key(), new_bytes) {
                return Consumed { bytes: bytes.len(), work: bytes.len() };
            }
            self.core.charge_bytes(conn.key(), new_bytes);
            // The charge may have closed the connection, so the events are dispatched before the input is parsed.
            self.dispatch_events();
        }
        let consumed = self.process_bytes(conn, bytes, max_work);
        let rest = unconsumed.max(bytes.len()) - consumed.bytes;
        if rest > 0
            && let Some(slot) = self.core.slot(conn)
        {
            slot.unconsumed = u32::try_from(rest).unwrap_or(u32::MAX);
        }
        consumed
    }

    /// Parses received bytes and acts on each event, until the work reaches `max_work`.
    pub(super) fn process_bytes(&mut self, conn: ConnId, bytes: &[u8], max_work: usize) -> Consumed {
        if self.core.refuse_from_record(conn) {
            self.dispatch_events();
            return Consumed { bytes: bytes.len(), work: bytes.len() };
        }
        let mut input = bytes;
        let mut work = 0;
        let config = &self.core.config;
        let rules = HeadRules { max_bytes: config.max_header_bytes.0, check: self.core.record_mode.head_check() };
        let limits = Limits { max_message_bytes: config.max_message_bytes.0, max_fragments: config.max_fragments };
        // The scratch buffer is moved out of the core, because events borrow from it while the core acts on them.
        let mut scratch = std::mem::take(&mut self.core.buffers.scratch);
        while !input.is_empty()
            && let Some(slot) = self.core.slot(conn)
            && let Some(event) = slot.wire.poll(&mut input, &mut scratch, rules, limits)
        {
            let key = conn.key();
            let (mut length, frames_out) = (event.message_bytes(), self.core.counters.frames_out);
            let (mut decompression_work, compression_work) = (0, self.core.egress.compression_work());
            match event {
                WireEvent::Nothing => {}
                WireEvent::Head(head) => {
                    self.on_head(conn, &head);
                    self.core.record_rest(key, input);
                }
                WireEvent::BadHead(refusal) => {
                    self.core.record_refused(&refusal);
                    self.core.close_with_http(key, CloseReason::HttpRefused, &refusal);
                }
                WireEvent::TooMuchEarly(refusal) => self.core.close_with_http(key, CloseReason::HttpRefused, &refusal),
                WireEvent::Text(text) => {
                    self.on_text(key, text);
                    self.core.message_ended(key, input.len());
                }
                WireEvent::Compressed { is_text, payload } => {
                    let contents;
                    (contents, decompression_work) = self.on_compressed(conn, is_text, payload, input.len());
                    length += contents;
                }
                WireEvent::Posted { text, is_last } => self.on_posted(conn, text, is_last),
                WireEvent::BadBody(refusal) => self.core.refuse_post(key, refusal),
                WireEvent::Binary(bytes) => {
                    self.on_app_message(key, Message::Binary(bytes));
                    self.core.message_ended(key, input.len());
                }
                WireEvent::Ping(payload) => self.core.handle_ping(key, payload),
                WireEvent::Pong(payload) => self.core.handle_pong(key, payload),
                // No frame may follow the answer to the peer's close frame, so the peer's queued messages are served
                // first.
                WireEvent::Close { code, answer } => {
                    self.drain_inbox(conn);
                    if self.core.slot(conn).is_some() {
                        self.core.handle_peer_close(key, code, answer, input.is_empty());
                    }
                }
                WireEvent::Fault(reason) => self.on_fault(conn, reason),
            }
            self.dispatch_events();
            let frames_queued = (self.core.counters.frames_out - frames_out) as usize;
            work = (1 + frames_queued).saturating_mul(FRAME_WORK + length).saturating_add(work);
            let compression_work = self.core.egress.compression_work().wrapping_sub(compression_work);
            work = work.saturating_add(decompression_work).saturating_add(compression_work);
            if work >= max_work {
                break;
            }
        }
        self.core.buffers.scratch = scratch;
        // The rest of the input is discarded if the connection is closed or no longer parses its input.
        let is_parsed = !input.is_empty() && self.core.slot(conn).is_some_and(|slot| !slot.wire.ignores_input());
        let unconsumed = if is_parsed { input.len() } else { 0 };
        Consumed { bytes: bytes.len() - unconsumed, work }
    }

    /// Closes a connection whose peer has violated the protocol.
    #[cold]
    pub(super) fn on_fault(&mut self, conn: ConnId, reason: CloseReason) {
        self.drain_inbox(conn);
        if self.core.slot(conn).is_some() {
            self.core.close_after_fault(conn.key(), reason);
        }
    }

    pub(super) fn on_text(&mut self, key: ConnKey, text: &str) {
        match A::PROTOCOL {
            Protocol::Raw => self.on_app_message(key, Message::Text(text)),
            Protocol::Json => {
                let Some(member) = self.core.member(key) else { return self.core.on_list_message(key, Some(text)) };
                self.core.counters.messages_in += 1;
                self.on_request(&member, text);
            }
        }
    }

    pub(super) fn on_app_message(&mut self, key: ConnKey, message: Message<'_>) {
        let Some(member) = self.core.member(key) else { return self.core.on_list_message(key, None) };
        self.core.counters.messages_in += 1;
        if member.is_watcher() {
            return match self.core.charge_message(key) {
                Ok(()) => self.core.reject(key, None, Reject::NotAllowed, ONLY_WATCHES),
                Err(denied) => self.core.rate_limited(key, None, denied),
            };
        }
        if let (true, Message::Binary(bytes)) = (self.core.is_clustered(), message) {
            return self.core.append_message(&member, SharedMessage::Binary(bytes), None);
        }
        let queued = || match message {
            Message::Text(text) | Message::Json { text, .. } => QueuedMessage::Text(text.into()),
            Message::Binary(bytes) => QueuedMessage::Binary(bytes.into()),
        };
        if self.core.admit_message(key, None, queued) == Admitted::Now {
            // Only a JSON message can be answered with an error, so a rejection is dropped here.
            let _ = self.deliver(&member, message);
        }
    }
}
