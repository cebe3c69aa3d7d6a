//! Serves the requests of members in the JSON protocol.

use super::Engine;
use super::app::App;
use super::cluster::SharedMessage;
use super::context::Context;
use super::core::Core;
use super::member::{Member, Message, RelayRequest};
use super::observer::ObservedEvent;
use super::state::inbox::QueuedMessage;
use super::ticking::Admitted;
use crate::base::close::{CloseReason, Reject};
use crate::base::id::ConnKey;
use crate::egress::Priority;
use crate::protocol::{self, ClientRequest, Envelope, MalformedMessage};
use crate::ws::frame::{Mark, MarkedText, Outgoing};

/// What a watcher is told that sends a message to others.
pub(super) const ONLY_WATCHES: &str = "you only watch this lobby";

impl<A: App> Engine<A> {
    /// Handles a text message of a member.
    pub(super) fn on_request(&mut self, member: &Member, text: &str) {
        let key = member.conn.key();
        let has_control = || self.core.has_control(member.seat_key);
        let Envelope { request, reference } = match protocol::read(text, self.core.config.max_json_depth, has_control) {
            Ok(envelope) => envelope,
            Err(MalformedMessage { reference, why, is_health_pong }) => {
                if !self.core.is_clustered() {
                    if !is_health_pong && !self.core.use_reference(member, reference) {
                        return;
                    }
                    self.core.note_refused(member, reference);
                }
                let core = &mut self.core;
                let charged =
                    if is_health_pong { core.charge_health_pong(key, text.len()) } else { core.charge_message(key) };
                return match charged {
                    // A client answers every `health_ping` in the same way, so strikes would close it because of its
                    // JSON library.
                    Ok(()) if is_health_pong => self.core.reject(key, reference, Reject::BadMessage, why),
                    Ok(()) => self.core.strike(key, reference, Reject::BadMessage, why),
                    Err(denied) => self.core.rate_limited(key, reference, denied),
                };
            }
        };
        // Charged after `type` and `ref` are known, so that a refusal can carry the `ref`.
        let charged = match request {
            ClientRequest::HealthPong { .. } => self.core.charge_health_pong(key, text.len()),
            // A request that involves the application waits for its tick. A request that the engine answers alone
            // never waits.
            ClientRequest::Broadcast { .. }
            | ClientRequest::Direct { .. }
            | ClientRequest::Control(_)
            | ClientRequest::App { .. } => {
                if self.core.is_clustered() {
                    return self.core.append_message(member, SharedMessage::Text(text), reference);
                }
                if !self.core.use_reference(member, reference) {
                    return;
                }
                let to_queued = || match request {
                    ClientRequest::Control(_) => QueuedMessage::Control(text.into()),
                    _ => QueuedMessage::Text(text.into()),
                };
                return match self.core.admit_message(key, reference, to_queued) {
                    Admitted::Now => self.serve(member, text, request, reference),
                    Admitted::Queued => self.core.note_waiting(member, reference),
                    Admitted::Refused => self.core.note_refused(member, reference),
                };
            }
            _ => self.core.charge_message(key),
        };
        match charged {
            Ok(()) => self.serve(member, text, request, reference),
            Err(denied) => self.core.rate_limited(key, reference, denied),
        }
    }

    /// Serves a request that was queued for its tick.
    pub(super) fn serve_queued_request(&mut self, member: &Member, text: &str, is_control: bool) {
        let read = protocol::read(text, self.core.config.max_json_depth, || is_control);
        let Ok(Envelope { request, reference }) = read else { unreachable!("only parsed requests are queued") };
        self.core.note_served(member, reference);
        let is_seated = self.core.directory.is_current_seat(member.seat_key, member.seat);
        // The engine relays nothing from a sender that the other members have seen leave. The application gets its
        // message even so.
        if is_seated || matches!(request, ClientRequest::App { .. }) {
            self.serve(member, text, request, reference);
        }
    }

    pub(super) fn serve(&mut self, member: &Member, text: &str, request: ClientRequest<'_>, reference: Option<&str>) {
        let key = member.conn.key();
        if member.is_watcher && !may_watcher_send(&request) {
            return self.core.refuse_request(member, reference, Reject::NotAllowed, ONLY_WATCHES);
        }
        let outcome = match request {
            ClientRequest::Broadcast { data, is_volatile } => {
                if !self.allows(member, RelayRequest::Broadcast { data }) {
                    let why = "you may not broadcast here";
                    return self.core.refuse_request(member, reference, Reject::NotAllowed, why);
                }
                let elsewhere = self.core.members_elsewhere(member.lobby_key);
                let (seq, sent) = match is_volatile {
                    false => self.core.broadcast_message(member.lobby_key, member, reference, data),
                    true => (0, self.core.broadcast_volatile(member.lobby_key, member, data)),
                };
                if let Some(reference) = reference {
                    let text = &mut self.core.buffers.text;
                    let shown = Some(seq).filter(|_| !is_volatile);
                    protocol::write_broadcast_ack(text, reference, shown, sent.queued + elsewhere, sent.dropped);
                    self.core.reply_with_seq(key, seq);
                }
                None
            }
            ClientRequest::Direct { to, data } => {
                if !self.allows(member, RelayRequest::Direct { to: &to, data }) {
                    let why = "you may not write to others here";
                    return self.core.refuse_request(member, reference, Reject::NotAllowed, why);
                }
                if !self.core.direct(member, &to, data) {
                    let why = "no such user in this lobby";
                    return self.core.refuse_request(member, reference, Reject::UserNotFound, why);
                }
                reference.map(|reference| protocol::write_ack(&mut self.core.buffers.text, reference, None))
            }
            ClientRequest::Presence => {
                self.core.send_presence_state(key, member.lobby_key);
                reference.map(|reference| protocol::write_ack(&mut self.core.buffers.text, reference, None))
            }
            ClientRequest::Ping => {
                let server_time = self.core.unix_millis();
                protocol::write_pong(&mut self.core.buffers.text, reference, server_time);
                Some(())
            }
            ClientRequest::HealthPong { timestamp } => {
                // A negative timestamp is no nonce that was ever sent, so it answers no check.
                if let Ok(nonce) = u64::try_from(timestamp) {
                    self.core.answer_check(key, nonce);
                }
                reference.map(|reference| protocol::write_ack(&mut self.core.buffers.text, reference, None))
            }
            ClientRequest::Leave => {
                self.drain_inbox(member.conn);
                if let Some(reference) = reference {
                    protocol::write_ack(&mut self.core.buffers.text, reference, None);
                    self.core.reply(key);
                }
                return self.core.begin_close(key, CloseReason::Left);
            }
            ClientRequest::Control(request) => return self.serve_control(member, &request, reference),
            ClientRequest::App { kind } => {
                self.core.answer.relayed = Some((member.conn, 0));
                self.core.answer.reference = self.core.kept_reference(member, reference);
                let rejected = self.deliver(member, Message::Json { kind: &kind, text });
                self.core.answer.reference = None;
                if let Some((reject, message)) = rejected {
                    return self.core.refuse_request(member, reference, reject, &message);
                }
                let seq = self.core.answer.relayed.take().map(|(_, seq)| seq).filter(|&seq| seq > 0);
                if let Some(reference) = reference {
                    protocol::write_ack(&mut self.core.buffers.text, reference, seq);
                    self.core.reply_with_seq(key, seq.unwrap_or(0));
                }
                None
            }
        };
        if outcome.is_some() {
            self.core.reply(key);
        }
    }

    pub(super) fn allows(&mut self, member: &Member, request: RelayRequest<'_>) -> bool {
        let Engine { app, core } = self;
        core.observer.note(core.clock.now(), || ObservedEvent::relay(member, request));
        // The application may have closed the member in this call, and then nothing is relayed. If a newer connection
        // has taken over the seat meanwhile, the request is still relayed.
        app.allows(&mut Context { core }, member, request)
            && core.directory.is_current_seat(member.seat_key, member.seat)
    }
}

/// Whether a watcher may send this request.
fn may_watcher_send(request: &ClientRequest<'_>) -> bool {
    match request {
        ClientRequest::Leave | ClientRequest::Ping | ClientRequest::Presence | ClientRequest::HealthPong { .. } => true,
        ClientRequest::Broadcast { .. }
        | ClientRequest::Direct { .. }
        | ClientRequest::Control(_)
        | ClientRequest::App { .. } => false,
    }
}

impl Core {
    /// Sends the contents of `text` to a member, or to a connection that follows the list of lobbies, unless it closes.
    pub(super) fn reply(&mut self, key: ConnKey) {
        self.send_text(key, Priority::Normal);
    }

    /// The same for an `ack` with this `seq`; 0 is none.
    pub(super) fn reply_with_seq(&mut self, key: ConnKey, seq: u64) {
        if seq == 0 {
            return self.reply(key);
        }
        if self.conns[key].seat().is_some() {
            let text = std::mem::take(&mut self.buffers.text);
            let marked = MarkedText { text: &text, mark: Mark::Seq(seq) };
            self.send(key, Outgoing::Marked(&marked), Priority::Normal);
            self.buffers.text = text;
        }
    }

    pub(super) fn send_text(&mut self, key: ConnKey, priority: Priority) {
        if self.conns[key].is_admitted() {
            let text = std::mem::take(&mut self.buffers.text);
            self.send(key, Outgoing::Text(&text), priority);
            self.buffers.text = text;
        }
    }

    pub(super) fn reject(&mut self, key: ConnKey, reference: Option<&str>, reject: Reject, message: &str) {
        self.counters.count_reject(reject);
        protocol::write_error(&mut self.buffers.text, reference, reject, message);
        self.reply(key);
    }

    /// Refuses a message that no client of good will sends. After too many of them the connection is closed.
    pub(super) fn strike(&mut self, key: ConnKey, reference: Option<&str>, reject: Reject, why: &str) {
        let slot = &mut self.conns[key];
        if slot.strikes == self.config.max_strikes {
            return self.begin_close(key, CloseReason::BadMessage);
        }
        slot.strikes += 1;
        self.reject(key, reference, reject, why);
    }
}
