//! Commands of an application to its session: requests, volatile messages, and the words of lobby control.

use std::time::Duration;

use serde::Serialize;
use serde_json::json;

use super::action::Outgoing;
use super::error::LobbyError;
use super::event::{Ack, Event, RequestId, State};
use super::limits::MAX_UNSENT_BYTES;
use super::payload::{check_length, check_text, encode};
use super::session::Session;
use super::timers::Timer;
use crate::base::time::Time;

/// Target of [`Session::set`]. The [module](crate::client) has an example.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Of<'a> {
    /// Data of the lobby. Only the host may change it, or every member if the setting `write` is `all`.
    Lobby,
    /// Data of the own member.
    Me,
    /// Data of the member on this seat. Only the host may change it.
    Member(&'a str),
}

impl Session {
    /// Sets the time for the answers to later requests: [`Options::request_timeout`](crate::client::Options::request_timeout).
    pub fn set_request_timeout(&mut self, timeout: Duration) {
        self.options.request_timeout = timeout;
    }

    /// Sends a request, at once or when the session is connected again. The server executes it at most once, also if the
    /// connection is lost meanwhile. Its outcome is an [`Event::Settled`].
    ///
    /// The message is `{"type": kind, …payload, "ref": …}`; a payload that is no object is its field `data`.
    ///
    /// # Errors
    ///
    /// `closed`, `queue_full`, `too_large` or `bad_payload`: nothing is sent. Errors that come later are in the event.
    pub fn request(&mut self, now: Time, kind: &str, payload: impl Serialize) -> Result<RequestId, LobbyError> {
        self.keep(now, kind, payload, false)
    }

    fn keep(
        &mut self,
        now: Time,
        kind: &str,
        payload: impl Serialize,
        is_control: bool,
    ) -> Result<RequestId, LobbyError> {
        let text = encode(kind, &payload)?;
        check_text(&text, self.max_message_bytes())?;
        if self.state == State::Closed {
            return Err(LobbyError::new("closed"));
        }
        if self.events.is_full() {
            return Err(LobbyError::new("queue_full"));
        }
        let id = self.requests.add(text, is_control)?;
        self.timers.set(Timer::Request(id), now + self.options.request_timeout);
        self.flush(now);
        Ok(id)
    }

    /// Sends a message now or never. Returns whether it was sent: not without a connection, with more than 64 KiB unsent, or
    /// when the rate asks for it. After `rate_limited` none is sent until the server's wait is over, and for 15 s none until
    /// 1 / [`messages_per_second`](crate::client::Welcome::messages_per_second) has passed since the last message. A game sends
    /// its position on a timer, such as 20 times per second, and not in each frame.
    ///
    /// What soon is obsolete, such as cursors and positions, is sent as a `broadcast` with the payload
    /// `{"data": {"type": "cursor", …}, "volatile": true}`, and is heard as `cursor`. Other messages the relay numbers and keeps
    /// for members that come back: many of them make every return a gap.
    ///
    /// # Errors
    ///
    /// `too_large` or `bad_payload`.
    pub fn send(&mut self, now: Time, kind: &str, payload: impl Serialize) -> Result<bool, LobbyError> {
        let text = encode(kind, &payload)?;
        check_text(&text, self.max_message_bytes())?;
        Ok(self.say_volatile(now, Outgoing::Text(text)))
    }

    /// The same for a binary message.
    ///
    /// # Errors
    ///
    /// `too_large`.
    pub fn bytes(&mut self, now: Time, bytes: Vec<u8>) -> Result<bool, LobbyError> {
        check_length(bytes.len(), self.max_message_bytes())?;
        Ok(self.say_volatile(now, Outgoing::Binary(bytes)))
    }

    // ---- lobby control ----

    /// Changes some keys of the data of the lobby or of a member; `null` deletes a key. A request, as the calls below.
    ///
    /// # Errors
    ///
    /// As [`request`](Self::request); `user_not_found` if the session has no seat yet whose data it could change.
    pub fn set(&mut self, now: Time, of: Of<'_>, data: impl Serialize) -> Result<RequestId, LobbyError> {
        self.set_data(now, of, data, None)
    }

    /// The same, only if none of the keys has changed since the message with this number: [`seq`](Self::seq) means that the
    /// caller has seen the newest values. Otherwise the error is a `conflict`, whose details have them.
    ///
    /// # Errors
    ///
    /// As [`set`](Self::set).
    pub fn set_if(&mut self, now: Time, of: Of<'_>, data: impl Serialize, seq: u64) -> Result<RequestId, LobbyError> {
        self.set_data(now, of, data, Some(seq))
    }

    fn set_data(
        &mut self,
        now: Time,
        of: Of<'_>,
        data: impl Serialize,
        seq: Option<u64>,
    ) -> Result<RequestId, LobbyError> {
        #[derive(Serialize)]
        struct Set<'a, T> {
            data: T,
            #[serde(skip_serializing_if = "Option::is_none")]
            of: Option<&'a str>,
            #[serde(skip_serializing_if = "Option::is_none", rename = "if")]
            seq: Option<u64>,
        }

        let own = self.me().map(|me| me.conn().to_owned());
        let of = match of {
            Of::Lobby => None,
            Of::Me => Some(own.as_deref().ok_or_else(|| LobbyError::new("user_not_found"))?),
            Of::Member(conn) => Some(conn),
        };
        self.keep(now, "set", Set { data, of, seq }, true)
    }

    /// Changes some settings, as the host. `null` means the default.
    ///
    /// # Errors
    ///
    /// As [`request`](Self::request).
    pub fn configure(&mut self, now: Time, settings: impl Serialize) -> Result<RequestId, LobbyError> {
        #[derive(Serialize)]
        struct Configure<T> {
            settings: T,
        }

        self.keep(now, "settings", Configure { settings }, true)
    }

    /// Ends all seats of a user, as the host. With `ban` it cannot come back.
    ///
    /// # Errors
    ///
    /// As [`request`](Self::request).
    pub fn kick(&mut self, now: Time, user: &str, ban: bool) -> Result<RequestId, LobbyError> {
        let payload = if ban { json!({"user": user, "ban": true}) } else { json!({"user": user}) };
        self.keep(now, "kick", payload, true)
    }

    /// Ends a ban, as the host.
    ///
    /// # Errors
    ///
    /// As [`request`](Self::request).
    pub fn unban(&mut self, now: Time, user: &str) -> Result<RequestId, LobbyError> {
        self.keep(now, "unban", json!({"user": user}), true)
    }

    /// Makes the member on a seat the host, as the host.
    ///
    /// # Errors
    ///
    /// As [`request`](Self::request).
    pub fn hand_over(&mut self, now: Time, conn: &str) -> Result<RequestId, LobbyError> {
        self.keep(now, "host", json!({"conn": conn}), true)
    }

    // ---- shared by the parts ----

    /// Sends what may be sent. Without a position a late attempt could make the server forget which requests it has executed.
    pub(super) fn flush(&mut self, now: Time) {
        let is_welcome = self.link.as_ref().is_some_and(|link| link.is_welcome);
        let window = self.pacing.window(now);
        while is_welcome && self.position.is_some() && !self.timers.is_set(Timer::Pause) {
            let Some((id, text, is_control)) = self.requests.next_to_send(window) else { return };
            // Without lobby control it would be a message to the other members.
            if is_control && !self.has_control() {
                let why = "the server has lobby control off";
                self.settle(id, Err(LobbyError::with_message("no_control", why)));
            } else if let Err(error) = check_text(text, self.max_message_bytes()) {
                self.settle(id, Err(error));
            } else if let Some(text) = self.requests.number(id) {
                self.say_own(now, Outgoing::Text(text));
            }
        }
    }

    /// Sends a message of the application. Returns whether it was sent.
    pub(super) fn say_own(&mut self, now: Time, message: Outgoing) -> bool {
        let is_sent = self.say(message);
        if is_sent {
            self.pacing.sent(now);
        }
        is_sent
    }

    fn say_volatile(&mut self, now: Time, message: Outgoing) -> bool {
        let rate = self.welcome.as_ref().and_then(|welcome| welcome.messages_per_second);
        !self.is_blocked() && self.pacing.permits_volatile(now, rate) && self.say_own(now, message)
    }

    pub(super) fn settle(&mut self, id: RequestId, result: Result<Ack, LobbyError>) {
        if self.requests.settle(id) {
            self.timers.stop(Timer::Request(id));
            self.events.push_at_once(Event::Settled { id, result });
        }
    }

    pub(super) fn unsent_bytes(&self) -> usize {
        self.link.as_ref().map_or(0, |link| link.unpolled + link.unwritten)
    }

    fn is_blocked(&self) -> bool {
        self.timers.is_set(Timer::Pause) || self.unsent_bytes() > MAX_UNSENT_BYTES
    }

    fn max_message_bytes(&self) -> Option<u64> {
        self.welcome.as_ref()?.max_message_bytes
    }
}
