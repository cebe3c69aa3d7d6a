//! The engine's part of the JSON protocol: serves members' requests, and sends welcome, presence, broadcasts and
//! goodbyes.

use super::app::{App, Context};
use super::core::Core;
use super::inbox::QueuedMessage;
use super::member::{Member, Message, RelayRequest, Sent};
use super::observer::ObservedEvent;
use super::sending::Priority;
use super::{Engine, member::Exclude};
use crate::base::close::{CloseReason, Reject};
use crate::base::id::SeatId;
use crate::base::rate::Rate;
use crate::lobby::directory::{Directory, LobbyKey, SeatKey};
use crate::lobby::presence::PresenceUpdate;
use crate::protocol::{
    self, ClientRequest, Envelope, MalformedMessage, Welcome, WelcomeLimits, WelcomePing, WelcomeTick,
};
use crate::ws::frame::{Frame, Outgoing};

impl<A: App> Engine<A> {
    /// Handles a text message of a member.
    pub(super) fn on_request(&mut self, member: &Member, text: &str) {
        let key = member.conn.index();
        let Envelope { request, reference } = match protocol::read(text) {
            Ok(envelope) => envelope,
            Err(MalformedMessage { reference, why, is_health_pong }) => {
                let charge = if is_health_pong { Core::charge_control } else { Core::charge_message };
                return match charge(&mut self.core, key) {
                    // A client answers every `health_ping` in the same way, so strikes would close it because of its
                    // JSON library.
                    Ok(()) if is_health_pong => self.core.reject(key, reference, Reject::BadMessage, why),
                    Ok(()) => self.core.malformed(key, reference, why),
                    Err(denied) => self.core.rate_limited(key, reference, denied),
                };
            }
        };
        // Charged after `type` and `ref` are known, so that a refusal can carry the `ref`.
        let charged = match request {
            ClientRequest::HealthPong { .. } => self.core.charge_control(key),
            // A request that involves the application waits for its tick. A request that the engine answers alone
            // never waits.
            ClientRequest::Broadcast { .. } | ClientRequest::Direct { .. } | ClientRequest::App { .. } => {
                if self.core.admit_message(key, reference, || QueuedMessage::Text(text.into())) {
                    self.serve(member, text, request, reference);
                }
                return;
            }
            _ => self.core.charge_message(key),
        };
        match charged {
            Ok(()) => self.serve(member, text, request, reference),
            Err(denied) => self.core.rate_limited(key, reference, denied),
        }
    }

    /// Serves a request that was queued for its tick.
    pub(super) fn serve_queued_request(&mut self, member: &Member, text: &str) {
        let Ok(Envelope { request, reference }) = protocol::read(text) else {
            unreachable!("only parsed requests are queued")
        };
        let is_seated = self.core.directory.is_current_seat(member.seat_key, member.seat);
        // The engine relays nothing from a sender that the other members have seen leave. The application gets its
        // message even so.
        if is_seated || matches!(request, ClientRequest::App { .. }) {
            self.serve(member, text, request, reference);
        }
    }

    fn serve(&mut self, member: &Member, text: &str, request: ClientRequest<'_>, reference: Option<&str>) {
        let key = member.conn.index();
        let outcome = match request {
            ClientRequest::Broadcast { data } => {
                if !self.allows(member, RelayRequest::Broadcast { data }) {
                    return self.core.reject(key, reference, Reject::NotAllowed, "you may not broadcast here");
                }
                let (seq, sent) = self.core.broadcast_message(member.lobby_key, member, data);
                reference.map(|reference| {
                    protocol::write_broadcast_ack(&mut self.core.text, reference, seq, sent.queued, sent.dropped);
                })
            }
            ClientRequest::Direct { to, data } => {
                if !self.allows(member, RelayRequest::Direct { to: &to, data }) {
                    return self.core.reject(key, reference, Reject::NotAllowed, "you may not write to others here");
                }
                if !self.core.direct(member, &to, data) {
                    return self.core.reject(key, reference, Reject::UserNotFound, "no such user in this lobby");
                }
                reference.map(|reference| protocol::write_ack(&mut self.core.text, reference, None))
            }
            ClientRequest::Presence => {
                self.core.send_presence_state(key, member.lobby_key);
                reference.map(|reference| protocol::write_ack(&mut self.core.text, reference, None))
            }
            ClientRequest::Ping => {
                let server_time = self.core.unix_micros() / 1000;
                protocol::write_pong(&mut self.core.text, reference, server_time);
                Some(())
            }
            ClientRequest::HealthPong { timestamp } => {
                // A negative timestamp is no nonce that was ever sent, so it answers no check.
                if let Ok(nonce) = u64::try_from(timestamp) {
                    self.core.answer_check(key, nonce);
                }
                reference.map(|reference| protocol::write_ack(&mut self.core.text, reference, None))
            }
            ClientRequest::Leave => {
                self.drain_inbox(member.conn);
                if let Some(reference) = reference {
                    protocol::write_ack(&mut self.core.text, reference, None);
                    self.core.reply(key);
                }
                return self.core.begin_close(key, CloseReason::Left);
            }
            ClientRequest::App { kind } => {
                self.core.relayed = Some((member.conn, 0));
                if let Some((reject, message)) = self.deliver(member, Message::Json { kind: &kind, text }) {
                    return self.core.reject(key, reference, reject, &message);
                }
                let seq = self.core.relayed.take().map(|(_, seq)| seq).filter(|&seq| seq > 0);
                reference.map(|reference| protocol::write_ack(&mut self.core.text, reference, seq))
            }
        };
        if outcome.is_some() {
            self.core.reply(key);
        }
    }

    fn allows(&mut self, member: &Member, request: RelayRequest<'_>) -> bool {
        let Engine { app, core } = self;
        core.observer.note(core.now, || ObservedEvent::relay(member, request));
        // The application may have closed the member in this call, and then nothing is relayed. If a newer connection
        // has taken over the seat meanwhile, the request is still relayed.
        app.allows(&mut Context { core }, member, request)
            && core.directory.is_current_seat(member.seat_key, member.seat)
    }
}

impl Core {
    /// Sends the contents of `text` to a member, unless it has left its seat.
    pub(super) fn reply(&mut self, key: usize) {
        self.send_text(key, Priority::Normal);
    }

    fn send_text(&mut self, key: usize, priority: Priority) {
        if self.slots[key].seat().is_some() {
            let text = std::mem::take(&mut self.text);
            self.send(key, Outgoing::Text(&text), priority);
            self.text = text;
        }
    }

    fn reject(&mut self, key: usize, reference: Option<&str>, reject: Reject, message: &str) {
        self.counters.count_reject(reject);
        protocol::write_error(&mut self.text, reference, reject, message);
        self.reply(key);
    }

    fn malformed(&mut self, key: usize, reference: Option<&str>, why: &str) {
        let slot = &mut self.slots[key];
        if slot.strikes == self.config.max_strikes {
            return self.begin_close(key, CloseReason::BadMessage);
        }
        slot.strikes += 1;
        self.reject(key, reference, Reject::BadMessage, why);
    }

    /// Sends a frame to the members of a lobby that `exclude` does not name.
    pub(super) fn broadcast(&mut self, lobby: LobbyKey, exclude: Exclude<'_>, frame: Outgoing<'_>) -> Sent {
        self.flush_presence(lobby);
        // The flush may have closed the last member as too slow.
        if self.directory.get_lobby(lobby).is_none() {
            return Sent::default();
        }
        match exclude {
            Exclude::None => self.send_to_lobby(lobby, frame, None),
            Exclude::Conn(conn) => self.send_to_lobby(lobby, frame, Some(conn)),
            Exclude::User(_) | Exclude::Users(_) => {
                self.send_to_members(lobby, frame, |directory, seat| includes(exclude, directory, seat))
            }
        }
    }

    /// Sends a frame to all other connections in the lobby of `from`. The sender may have left it.
    pub(super) fn relay(&mut self, from: &Member, frame: Outgoing<'_>) -> Sent {
        let lobby = if self.is_seated(from) { Some(from.lobby_key) } else { self.directory.find_lobby(&from.lobby) };
        lobby.map_or(Sent::default(), |lobby| self.broadcast(lobby, Exclude::Conn(from.conn), frame))
    }

    /// The same as [`broadcast`](Self::broadcast), but the frame replaces the one that was queued before under the key
    /// `latest`.
    pub(super) fn broadcast_latest(
        &mut self,
        lobby: LobbyKey,
        exclude: Exclude<'_>,
        latest: u64,
        frame: &Frame,
    ) -> Sent {
        self.flush_presence(lobby);
        if self.directory.get_lobby(lobby).is_none() {
            return Sent::default();
        }
        self.send_latest_to_members(lobby, frame, latest, |directory, seat| includes(exclude, directory, seat))
    }

    /// Sends `data` to all other members of the lobby as a `message`. Returns its `seq`, or 0 if nothing was sent.
    pub(super) fn broadcast_message(&mut self, lobby: LobbyKey, from: &Member, data: &str) -> (u64, Sent) {
        self.flush_presence(lobby);
        // The flush may have closed the sender as too slow, and no member may receive a message from a sender it does
        // not know.
        if !self.directory.is_current_seat(from.seat_key, from.seat) {
            return (0, Sent::default());
        }
        let lobby_ref = self.directory.lobby_mut(lobby);
        lobby_ref.seq += 1;
        let seq = lobby_ref.seq;
        let mut text = std::mem::take(&mut self.text);
        protocol::write_message(&mut text, &from.user, seq, data);
        // Excludes the connection, not the seat: a newer connection that took over the seat has not seen this message.
        let sent = self.send_to_lobby(lobby, Outgoing::Text(&text), Some(from.conn));
        self.text = text;
        (seq, sent)
    }

    /// The same for the application: the sender's `ack` carries the `seq`.
    pub(super) fn broadcast_for_app(&mut self, lobby: LobbyKey, from: &Member, data: &str) -> Sent {
        let (seq, sent) = self.broadcast_message(lobby, from, data);
        // A `seq` of 0 means that nothing was sent. A message with another member as `from` does not change the `ack`.
        if let Some((_, last)) = self.relayed.as_mut().filter(|(conn, _)| seq > 0 && *conn == from.conn) {
            *last = seq;
        }
        sent
    }

    /// Sends `data` to the seats of `to` in the sender's lobby. Returns false when there is none.
    ///
    /// A sender that the flush has closed sends nothing, and the result is true.
    fn direct(&mut self, from: &Member, to: &str, data: &str) -> bool {
        self.flush_presence(from.lobby_key);
        if !self.directory.is_current_seat(from.seat_key, from.seat) {
            return true;
        }
        let mut receivers = std::mem::take(&mut self.receivers);
        receivers.clear();
        let seats = self.directory.seats_of(to).iter().map(|&seat| self.directory.seat(seat));
        receivers.extend(seats.filter(|seat| seat.lobby == from.lobby_key).map(|seat| seat.conn.key()));
        let mut text = std::mem::take(&mut self.text);
        protocol::write_direct(&mut text, &from.user, data);
        for &key in &receivers {
            self.send(key as usize, Outgoing::Text(&text), Priority::Deferred);
        }
        self.text = text;
        let found = !receivers.is_empty();
        self.receivers = receivers;
        found
    }

    pub(super) fn health_ping(&mut self, key: usize, nonce: u64) {
        protocol::write_health_ping(&mut self.text, nonce);
        self.send_text(key, Priority::Urgent);
    }

    /// Queues the goodbye that precedes a close frame. It may exceed the bound by its own size.
    pub(super) fn send_goodbye(&mut self, key: usize, reason: CloseReason) {
        let shutdown = reason == CloseReason::ServerShutdown;
        let retry_after_ms = shutdown.then(|| self.retry_after_ms(self.slots[key].id));
        protocol::write_goodbye(&mut self.text, reason, retry_after_ms);
        let text = std::mem::take(&mut self.text);
        self.queue_unbounded(key, Outgoing::Text(&text), Priority::Normal);
        self.text = text;
    }

    /// The long-term message rate for the `welcome`: the lower one of the connection's and the user's.
    fn messages_per_second(&self, key: usize) -> Option<serde_json::Number> {
        let tier = self.slots[key].meter.tier();
        let rates = [tier.or(self.config.message_rate()), tier.or(self.config.user_message_rate())];
        let per_second = |rate: &Rate| f64::from(rate.count()) / rate.period().as_secs_f64();
        let rate = rates.into_iter().flatten().min_by(|a, b| per_second(a).total_cmp(&per_second(b)))?;
        let (count, millis) = (u64::from(rate.count()) * 1000, rate.period().as_millis() as u64);
        if count.is_multiple_of(millis.max(1)) {
            Some((count / millis.max(1)).into())
        } else {
            serde_json::Number::from_f64(count as f64 / millis as f64)
        }
    }

    /// Sends the `welcome`, a member's first message: its user id, its lobby and the limits.
    ///
    /// The presence state follows when the lobby's presence is flushed. A seat that is already announced gets it at
    /// once.
    pub(super) fn welcome(&mut self, member: &Member) {
        let is_new = !self.directory.seat(member.seat_key).is_announced;
        if is_new {
            self.unflushed_lobbies.push(member.lobby_key);
        }
        let lobby = self.directory.lobby_ref(member.lobby_key);
        let welcome = Welcome {
            protocol: 1,
            conn: member.seat.to_string(),
            user: &member.user,
            lobby: &member.lobby,
            epoch: lobby.epoch,
            seq: lobby.seq,
            resumed: false,
            recovered: false,
            server_time: self.unix_micros() / 1000,
            limits: WelcomeLimits {
                max_message_bytes: self.config.max_message_bytes.0,
                messages_per_second: self.messages_per_second(member.conn.index()),
            },
            ping: WelcomePing {
                interval_ms: self.config.ping_interval.as_millis() as u64,
                timeout_ms: self.config.pong_timeout.as_millis() as u64,
            },
            tick: self
                .config
                .tick_hz
                .zip(self.ticks.as_ref())
                .map(|(hz, ticks)| WelcomeTick { hz, tick: ticks.view().tick }),
        };
        let mut text = String::new();
        welcome.write(&mut text);
        self.send(member.conn.index(), Outgoing::Text(&text), Priority::Normal);
        if !is_new && self.slots[member.conn.index()].seat().is_some() {
            self.send_presence_state(member.conn.index(), member.lobby_key);
        }
    }

    /// Sends the presence state of its lobby to one member.
    fn send_presence_state(&mut self, key: usize, lobby: LobbyKey) {
        // A member that receives the state must have received all changes before it, and must not receive any of them
        // again.
        self.flush_presence(lobby);
        if self.slots[key].seat().is_some() {
            let frame = self.presence_state(lobby);
            self.send(key, Outgoing::Frame(&frame), Priority::Normal);
        }
    }

    fn presence_state(&mut self, lobby: LobbyKey) -> Frame {
        let Core { directory, text, .. } = self;
        let members = directory.members(lobby);
        let lobby_ref = directory.lobby_ref(lobby);
        let listed = !lobby_ref.presence.is_counted();
        let users = listed.then(|| members.iter().map(|&seat| user_and_seat(directory, seat)));
        protocol::write_presence_state(text, lobby_ref.seq, members.len(), users);
        Frame::text(text)
    }

    /// Flushes presence in all lobbies that have changed in this turn.
    pub(super) fn flush_all_presence(&mut self) {
        // A flush may close members as too slow, and so change lobbies again.
        while let Some(lobby) = self.unflushed_lobbies.pop() {
            if self.directory.get_lobby(lobby).is_some() {
                self.flush_presence(lobby);
            }
        }
    }

    /// Sends the joins and leaves since the last flush to a lobby's members, and the presence state to those that
    /// joined.
    ///
    /// Called before any message is sent, so that no member receives a message from a sender it does not know.
    pub(super) fn flush_presence(&mut self, lobby: LobbyKey) {
        // A flush may close members that read too slowly; the remaining members must receive these leaves too.
        while self.directory.get_lobby(lobby).is_some_and(|lobby| !lobby.presence.is_flushed()) {
            if self.is_draining() {
                self.discard_presence_changes(lobby);
            } else {
                self.flush_presence_once(lobby);
            }
        }
    }

    fn flush_presence_once(&mut self, lobby: LobbyKey) {
        let count = self.directory.members(lobby).len();
        let presence_max = self.config.presence_max as usize;
        let (departures, update) = self.directory.lobby_mut(lobby).presence.take_changes(count, presence_max);
        // Members are in join order, so unannounced seats are at the end.
        let first_unannounced =
            self.directory.members(lobby).partition_point(|&seat| self.directory.seat(seat).is_announced);
        let unannounced: Vec<SeatKey> = self.directory.members(lobby)[first_unannounced..].to_vec();
        let mut diff = None;
        if first_unannounced > 0 && update == PresenceUpdate::Diff {
            let lobby_ref = self.directory.lobby_mut(lobby);
            lobby_ref.seq += 1;
            let seq = lobby_ref.seq;
            let joins = unannounced.iter().map(|&seat| user_and_seat(&self.directory, seat));
            protocol::write_presence_diff(&mut self.text, seq, joins, &departures);
            diff = Some(Frame::text(&self.text));
        }
        let state = (update == PresenceUpdate::State || !unannounced.is_empty()).then(|| self.presence_state(lobby));
        for &seat in &unannounced {
            self.directory.seat_mut(seat).is_announced = true;
        }
        if let Some(diff) = diff {
            let first_unannounced_id = unannounced.first().map(|&seat| self.directory.seat(seat).id);
            self.send_to_members(lobby, Outgoing::Frame(&diff), |directory, seat| {
                first_unannounced_id.is_none_or(|first| directory.seat(seat).id < first)
            });
        }
        if let Some(state) = state
            && self.directory.get_lobby(lobby).is_some()
        {
            let to_all = update == PresenceUpdate::State;
            self.send_to_members(lobby, Outgoing::Frame(&state), |_, seat| to_all || unannounced.contains(&seat));
        }
    }
}

fn includes(exclude: Exclude<'_>, directory: &Directory, seat: SeatKey) -> bool {
    match exclude {
        Exclude::None => true,
        Exclude::Conn(conn) => directory.seat(seat).conn != conn,
        Exclude::User(user) => **directory.user_of(seat) != *user,
        Exclude::Users(users) => !users.contains(&&**directory.user_of(seat)),
    }
}

fn user_and_seat(directory: &Directory, seat: SeatKey) -> (&str, SeatId) {
    (directory.user_of(seat), directory.seat(seat).id)
}
