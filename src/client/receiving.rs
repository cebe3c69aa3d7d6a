//! Messages of the server.

use std::time::Duration;

use super::action::Outgoing;
use super::backoff::Ending;
use super::error::LobbyError;
use super::event::{Ack, Event, LobbyMessage, State};
use super::fields::Fields;
use super::limits::MAX_UNSENT_BYTES;
use super::list::Lobbies;
use super::requests::Fate;
use super::session::{Position, Session};
use super::timers::Timer;
use super::view::Origin;
use super::welcome;
use crate::base::time::Time;

/// Pause after `rate_limited` if the server names none.
const USUAL_PAUSE_MS: u64 = 1000;

impl Session {
    /// Reads a text message. What is none of the protocol's, or comes before the welcome, is ignored.
    pub(super) fn receive(&mut self, now: Time, text: &str) {
        let Some(message) = Fields::read(text) else { return };
        let Some(kind) = message.text("type") else { return };
        let Some(link) = &mut self.link else { return };
        match &*kind {
            "goodbye" => link.goodbye = Ending::of_goodbye(&message).or(link.goodbye.take()),
            "welcome" if self.lobbies.is_none() => self.welcomed(now, &message),
            "lobbies" | "lobbies_diff" if self.lobbies.is_some() => self.list_changed(now, &kind, &message),
            _ if link.is_welcome => self.hear(now, &kind, &message, text),
            _ => {}
        }
    }

    fn hear(&mut self, now: Time, kind: &str, message: &Fields<'_>, text: &str) {
        let seq = message.number("seq");
        if let (Some(seq), Some(welcome)) = (seq, &self.welcome) {
            let highest = self.position.map_or(seq, |position| position.seq.max(seq));
            self.position = Some(Position { epoch: welcome.epoch, seq: highest });
        }
        let has_control = self.has_control();
        match kind {
            "presence_state" => self.listed(now, message),
            "presence_diff" => self.view.change(message, &mut self.events),
            // A text is the `ref` of the session's own pings.
            "pong" if message.text("ref").is_some() => self.sampled(now, message),
            "ack" | "error" | "pong" => self.answered(now, kind == "error", message),
            "health_ping" => self.answer_health_ping(message),
            "lobby_state" if has_control => self.stated(Some(message)),
            "state" if has_control => {
                self.view.set(message, &Origin { by: message.text("by"), seq }, &mut self.events);
            }
            "host" if has_control => self.view.set_host(message.text("conn"), &mut self.events),
            "settings" if has_control => {
                self.view.configure(message, &Origin { by: message.text("by"), seq }, &mut self.events);
            }
            "countdown" if has_control => self.view.set_countdown(message.number("at"), &mut self.events),
            "start" if has_control => self.view.start(message, &mut self.events),
            _ => self.pass_on(kind, message, text),
        }
    }

    pub(super) fn has_control(&self) -> bool {
        self.welcome.as_ref().is_some_and(|welcome| welcome.has_control)
    }

    fn welcomed(&mut self, now: Time, message: &Fields<'_>) {
        let Some((welcome, settlement)) = welcome::read(message) else { return };
        self.connected(now);
        // The session may have got another seat on a connection whose welcome was lost.
        let is_same_seat = welcome.resumed && self.welcome.as_ref().is_none_or(|before| before.conn == welcome.conn);
        self.has_gap |= self.position.is_some() && !welcome.recovered;
        self.position = self.position.filter(|position| is_same_seat && position.epoch == welcome.epoch);
        self.n = if is_same_seat { self.n.max(settlement.n) } else { settlement.n };
        self.was = None;
        self.round_trips.restart(now, settlement.server_time);
        self.welcome = Some(welcome);
        if let Some(link) = &mut self.link {
            link.is_welcome = true;
        }
        for (id, fate) in self.requests.fates(is_same_seat, &settlement) {
            match fate {
                Fate::Again(text) => drop(self.say_own(now, Outgoing::Text(text))),
                Fate::Executed => self.settle(id, Ok(Ack::default())),
                Fate::Refused => self.settle(id, Err(LobbyError::new("refused"))),
                Fate::Unknown => self.settle(id, Err(LobbyError::new("unknown"))),
            }
        }
        self.ping(now);
        self.flush(now);
    }

    // ---- the lobby ----

    /// The list replaces what was known. With lobby control the state of the lobby follows it.
    fn listed(&mut self, now: Time, message: &Fields<'_>) {
        let Some(welcome) = &self.welcome else { return };
        let watches = self.address.watches();
        self.view.list(message, &welcome.conn, &welcome.user, watches, &mut self.events);
        self.flush(now);
        if !self.has_control() {
            self.stated(None);
        }
    }

    fn stated(&mut self, state: Option<&Fields<'_>>) {
        self.view.replace(state, &mut self.events);
        self.opened();
        if std::mem::take(&mut self.has_gap) {
            self.events.push(Event::Gap);
        }
    }

    fn opened(&mut self) {
        self.timers.stop(Timer::Connect);
        self.become_state(State::Open, None);
        self.events.release();
    }

    fn list_changed(&mut self, now: Time, kind: &str, message: &Fields<'_>) {
        if kind == "lobbies" {
            self.connected(now);
        }
        if let Some(link) = &mut self.link {
            link.is_welcome = true;
        }
        self.lobbies.get_or_insert_with(Lobbies::default).apply(message);
        self.opened();
        self.events.push(Event::Lobbies);
    }

    // ---- messages and answers ----

    fn pass_on(&mut self, kind: &str, message: &Fields<'_>, text: &str) {
        let is_direct = kind == "direct";
        if let Some(n) = message.number("n").filter(|_| is_direct) {
            // A server that was told no position sends direct messages again.
            if n <= self.n {
                return;
            }
            self.n = n;
        }
        let is_wrapped = is_direct || kind == "message";
        let json = if is_wrapped { message.json("data").unwrap_or("null") } else { text };
        let typed = Fields::read(json).and_then(|fields| Some((fields.text("type")?, fields)));
        let (kind, json) = match typed {
            Some((kind, fields)) if fields.json("ref").is_some() => (Some(kind), fields.json_without("ref")),
            Some((kind, _)) => (Some(kind), json.to_owned()),
            None => (None, json.to_owned()),
        };
        let (from, seq) = (message.text("from"), message.number("seq"));
        self.events.push(Event::Message(LobbyMessage { from, kind, seq, is_direct, json }));
    }

    fn answered(&mut self, now: Time, is_error: bool, message: &Fields<'_>) {
        let code = message.text("code").unwrap_or_else(|| "error".to_owned());
        let is_limited = is_error && code == "rate_limited";
        if is_limited {
            let pause = message.number("retry_after_ms").unwrap_or(USUAL_PAUSE_MS);
            self.timers.set(Timer::Pause, now + Duration::from_millis(pause));
            self.pacing.limited(now);
        }
        let answer = || message.values_without(&["type", "ref"]);
        let Some(id) = message.number("ref").and_then(|number| self.requests.answered(number)) else {
            // Without a `ref` it answers a volatile message.
            if is_error && message.json("ref").is_none() {
                self.events.push(Event::Error(LobbyError::with_details(code, answer())));
            }
            return;
        };
        if is_limited {
            self.requests.unnumber(id);
        } else if is_error {
            self.settle(id, Err(LobbyError::with_details(code, answer())));
        } else {
            self.settle(id, Ok(Ack { fields: answer() }));
        }
        self.flush(now);
    }

    fn sampled(&mut self, now: Time, pong: &Fields<'_>) {
        let sent = pong.text("ref").and_then(|text| text.parse().ok()).map(Time::from_micros);
        if let (Some(sent), Some(millis)) = (sent.filter(|&sent| sent <= now), pong.number("server_time")) {
            self.round_trips.add(sent, now, millis);
        }
    }

    /// A server that asks and does not read gets no answers without an end.
    fn answer_health_ping(&mut self, ping: &Fields<'_>) {
        if let Some(timestamp) = ping.json("timestamp")
            && self.unsent_bytes() <= MAX_UNSENT_BYTES
        {
            self.say(Outgoing::Text(format!(r#"{{"type":"health_pong","timestamp":{timestamp}}}"#)));
        }
    }
}
