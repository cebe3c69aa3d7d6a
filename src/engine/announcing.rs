//! The engine's own messages in the JSON protocol: `welcome`, presence, `health_ping` and `goodbye`.

use std::time::Duration;

use super::core::Core;
use super::member::Member;
use super::seating::{Arrival, Continuity};
use crate::base::close::CloseReason;
use crate::base::id::{ConnKey, LobbyKey, SeatId, SeatKey};
use crate::base::rate::Rate;
use crate::egress::Priority;
use crate::lobby::directory::Directory;
use crate::lobby::presence::{Changes, PresenceUpdate};
use crate::protocol::{self, ListedMember, Welcome, WelcomeLimits, WelcomePing, WelcomeSession, WelcomeTick};
use crate::ws::frame::{Mark, MarkedText, Outgoing};

impl Core {
    pub(super) fn health_ping(&mut self, key: ConnKey, nonce: u64) {
        protocol::write_health_ping(&mut self.buffers.text, nonce);
        self.send_text(key, Priority::Urgent);
    }

    /// Queues the goodbye that precedes a close frame. It may exceed the bound by its own size. With a `wait`, it asks the
    /// client to come back afterwards.
    /// A `url` is where the client finds its lobby.
    pub(super) fn send_goodbye(
        &mut self,
        key: ConnKey,
        reason: CloseReason,
        wait: Option<Duration>,
        url: Option<&str>,
    ) {
        let shutdown = reason == CloseReason::ServerShutdown;
        let wait_ms = wait.map(|wait| wait.as_micros().div_ceil(1000) as u64);
        let retry_after_ms = wait_ms.or_else(|| shutdown.then(|| self.retry_after_ms(self.conns[key].id)));
        protocol::write_goodbye(&mut self.buffers.text, reason, retry_after_ms, url);
        let text = std::mem::take(&mut self.buffers.text);
        let mark = Mark::Goodbye { retry_ms: self.event_retry_ms(key, reason, retry_after_ms) };
        self.send_unbounded(key, Outgoing::Marked(&MarkedText { text: &text, mark }), Priority::Normal);
        self.buffers.text = text;
    }

    /// The long-term message rate for the `welcome`: the lower one of the connection's and the user's.
    fn messages_per_second(&self, key: ConnKey) -> Option<serde_json::Number> {
        let tier = self.conns[key].meter.tier();
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
    pub(super) fn welcome(&mut self, member: &Member, arrival: Arrival) {
        let missed = self.missed(member, arrival);
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
            resumed: matches!(arrival, Arrival::Resumed { continuity: Continuity::Same | Continuity::Reloaded, .. }),
            recovered: missed.as_ref().is_some_and(|missed| missed.is_complete),
            server_time: self.unix_millis(),
            limits: WelcomeLimits {
                max_message_bytes: self.config.max_message_bytes.0,
                messages_per_second: self.messages_per_second(member.conn.key()),
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
            session: missed.as_ref().zip(self.sessions.get(member.seat_key)).map(|(missed, state)| WelcomeSession {
                away_ms: self.config.seat_grace.as_millis() as u64,
                done: state.upstream.done(),
                refused: state.upstream.refused_hex(),
                replay: missed.len() as u64,
                n: missed.n,
                control: self.has_control(member.seat_key),
            }),
        };
        let mut text = String::new();
        welcome.write(&mut text);
        self.send(member.conn.key(), Outgoing::Text(&text), Priority::Normal);
        if let Some(missed) = missed {
            if let Some(position) = self.egress.event_position(member.conn.key()) {
                position.resume(missed.position, missed.n);
            }
            self.send_missed(member.conn.key(), &missed);
        }
        if !is_new && self.conns[member.conn.key()].seat().is_some() {
            self.send_presence_state(member.conn.key(), member.lobby_key);
            if self.config.lobby_control {
                self.unflushed_lobbies.push(member.lobby_key);
            }
        }
    }

    /// Sends the presence state of its lobby to one member.
    pub(super) fn send_presence_state(&mut self, key: ConnKey, lobby: LobbyKey) {
        // A member that receives the state must have received all changes before it, and must not receive any of them
        // again. What follows from its return is sent after the state.
        self.flush_members(lobby);
        if let Some(seat) = self.conns[key].seat() {
            let (text, mark) = self.presence_state(lobby);
            self.note_presence_state(seat, lobby);
            self.send(key, Outgoing::Marked(&MarkedText { text: &text, mark }), Priority::Normal);
            self.send_lobby_state(key, lobby);
        }
    }

    fn presence_state(&self, lobby: LobbyKey) -> (String, Mark) {
        let directory = &self.directory;
        let mut text = String::new();
        let lobby_ref = directory.lobby_ref(lobby);
        let listed = !lobby_ref.presence.is_counted();
        let users = listed.then(|| {
            directory.seats_in(lobby).map(|seat| {
                let (user, id) = user_and_seat(directory, seat);
                let (is_away, data) = (directory.is_told_away(seat), directory.member_data(seat));
                ListedMember { user, seat: id, is_away, data }
            })
        });
        protocol::write_presence_state(&mut text, lobby_ref.seq, lobby_ref.seats_count(), users);
        (text, Mark::State { epoch: lobby_ref.epoch, seq: lobby_ref.seq })
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
        loop {
            self.flush_members(lobby);
            if !self.flush_control(lobby) {
                return;
            }
        }
    }

    /// The same, without what follows from the changes with lobby control.
    pub(super) fn flush_members(&mut self, lobby: LobbyKey) {
        // A flush may close members that read too slowly; the remaining members must receive these leaves too.
        while self.directory.get_lobby(lobby).is_some_and(|lobby| !lobby.presence.is_flushed()) {
            if self.is_ending() {
                self.discard_presence_changes(lobby);
            } else {
                self.flush_presence_once(lobby);
            }
        }
    }

    fn flush_presence_once(&mut self, lobby: LobbyKey) {
        let now = self.now();
        let Changes { departures, away, back, update } = self.directory.take_presence_changes(lobby, now);
        // In join order. An away seat may be unannounced too.
        let unannounced: Vec<SeatKey> = self.directory.unannounced(lobby);
        let mut diff = None;
        if unannounced.len() < self.directory.lobby_ref(lobby).all_seats_count() && update == PresenceUpdate::Diff {
            let lobby_ref = self.directory.lobby_mut(lobby);
            lobby_ref.seq += 1;
            let seq = lobby_ref.seq;
            let members = unannounced.iter().filter(|&&seat| !self.directory.seat(seat).is_watcher);
            let joins = members.map(|&seat| user_and_seat(&self.directory, seat));
            let mut text = String::new();
            protocol::write_presence_diff(&mut text, seq, joins, &departures, &away, &back);
            self.keep_frame(lobby, seq, &text);
            diff = Some((text, Mark::Seq(seq)));
        }
        // All texts are written before any is sent: sending may close members as too slow, and their leaves belong to the
        // next flush.
        let first_new = unannounced.first().map(|&seat| self.directory.seat(seat).id);
        let host = self.host_frame(lobby, first_new);
        let state = (update == PresenceUpdate::State || !unannounced.is_empty()).then(|| self.presence_state(lobby));
        let lobby_state = if unannounced.is_empty() { None } else { self.lobby_state(lobby) };
        for &seat in &unannounced {
            self.directory.seat_mut(seat).is_announced = true;
        }
        unannounced.iter().for_each(|&seat| self.note_presence_state(seat, lobby));
        for (text, mark) in [diff, host].into_iter().flatten() {
            self.send_to_older(lobby, first_new, &MarkedText { text: &text, mark });
        }
        for (index, (text, mark)) in [state, lobby_state].into_iter().enumerate().filter_map(|(i, it)| Some((i, it?))) {
            if self.directory.get_lobby(lobby).is_none() {
                return;
            }
            let frame = MarkedText { text: &text, mark };
            if index == 0 && update == PresenceUpdate::State {
                self.send_to_lobby(lobby, Outgoing::Marked(&frame), None);
            } else {
                self.send_to_members(lobby, Outgoing::Marked(&frame), |_, member| unannounced.contains(&member.seat));
            }
        }
    }

    /// Sends a frame to the members of a lobby with an id below `first_new`; to all of them if that is `None`.
    pub(super) fn send_to_older(&mut self, lobby: LobbyKey, first_new: Option<SeatId>, frame: &MarkedText<'_>) {
        if self.directory.get_lobby(lobby).is_some() {
            self.send_to_members(lobby, Outgoing::Marked(frame), |directory, member| {
                first_new.is_none_or(|first| directory.seat(member.seat).id < first)
            });
        }
    }

    /// Lets the flush at the end of the turn tell the members of large lobbies their number, where it is time to.
    pub(super) fn expire_count_updates(&mut self) {
        let now = self.now();
        while let Some(lobby) = self.directory.take_count_update(now) {
            self.unflushed_lobbies.push(lobby);
        }
    }

    /// Discards unsent presence changes: during a drain, and for protocols without presence.
    pub(super) fn discard_presence_changes(&mut self, lobby: LobbyKey) {
        let Core { directory, .. } = self;
        if directory.lobby_ref(lobby).presence.is_flushed() {
            return;
        }
        directory.lobby_mut(lobby).presence.discard_changes();
        let unannounced: Vec<SeatKey> = directory.unannounced(lobby);
        unannounced.into_iter().for_each(|seat| directory.seat_mut(seat).is_announced = true);
    }
}

fn user_and_seat(directory: &Directory, seat: SeatKey) -> (&str, SeatId) {
    (directory.user_of(seat), directory.seat(seat).id)
}
