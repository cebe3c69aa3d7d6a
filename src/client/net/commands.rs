//! The commands of a session, which are carried out at once.

use std::time::Duration;

use serde::Serialize;

use super::lobby::Lobby;
use crate::client::commands::Of;
use crate::client::error::LobbyError;
use crate::client::event::{Ack, RequestId};

/// Commands, as those of [`Session`](crate::client::Session) with the same names. What the socket takes is sent at once, the
/// rest with later turns.
impl Lobby {
    /// See [`Session::request`](crate::client::Session::request).
    ///
    /// # Errors
    ///
    /// As there.
    pub fn request(&mut self, kind: &str, payload: impl Serialize) -> Result<RequestId, LobbyError> {
        self.command(|session, now| session.request(now, kind, payload))
    }

    /// Sends a request, and waits for its answer. Other events stay to be polled.
    ///
    /// # Errors
    ///
    /// Errors of [`request`](Self::request), and errors of the answer. It comes at the latest when
    /// [`request_timeout`](crate::client::Options::request_timeout) is over.
    pub fn request_and_wait(&mut self, kind: &str, payload: impl Serialize) -> Result<Ack, LobbyError> {
        let id = self.request(kind, payload)?;
        self.settle(id)
    }

    /// Waits for the answer to a request, unless its event was polled. Other events stay to be polled.
    ///
    /// # Errors
    ///
    /// Errors of the answer. `unknown`: there is no such request any more.
    pub fn settle(&mut self, id: RequestId) -> Result<Ack, LobbyError> {
        loop {
            if let Some(result) = self.command(|session, _| session.take_settled(id)) {
                return result;
            }
            if !self.is_pending(id) {
                return Err(LobbyError::new("unknown"));
            }
            self.step(Duration::MAX);
        }
    }

    /// See [`Session::send`](crate::client::Session::send).
    ///
    /// # Errors
    ///
    /// As there.
    pub fn send(&mut self, kind: &str, payload: impl Serialize) -> Result<bool, LobbyError> {
        self.command(|session, now| session.send(now, kind, payload))
    }

    /// See [`Session::bytes`](crate::client::Session::bytes).
    ///
    /// # Errors
    ///
    /// As there.
    pub fn bytes(&mut self, bytes: Vec<u8>) -> Result<bool, LobbyError> {
        self.command(|session, now| session.bytes(now, bytes))
    }

    /// See [`Session::set`](crate::client::Session::set).
    ///
    /// # Errors
    ///
    /// As there.
    pub fn set(&mut self, of: Of<'_>, data: impl Serialize) -> Result<RequestId, LobbyError> {
        self.command(|session, now| session.set(now, of, data))
    }

    /// See [`Session::set_if`](crate::client::Session::set_if).
    ///
    /// # Errors
    ///
    /// As there.
    pub fn set_if(&mut self, of: Of<'_>, data: impl Serialize, seq: u64) -> Result<RequestId, LobbyError> {
        self.command(|session, now| session.set_if(now, of, data, seq))
    }

    /// See [`Session::configure`](crate::client::Session::configure).
    ///
    /// # Errors
    ///
    /// As there.
    pub fn configure(&mut self, settings: impl Serialize) -> Result<RequestId, LobbyError> {
        self.command(|session, now| session.configure(now, settings))
    }

    /// See [`Session::kick`](crate::client::Session::kick).
    ///
    /// # Errors
    ///
    /// As there.
    pub fn kick(&mut self, user: &str, ban: bool) -> Result<RequestId, LobbyError> {
        self.command(|session, now| session.kick(now, user, ban))
    }

    /// See [`Session::unban`](crate::client::Session::unban).
    ///
    /// # Errors
    ///
    /// As there.
    pub fn unban(&mut self, user: &str) -> Result<RequestId, LobbyError> {
        self.command(|session, now| session.unban(now, user))
    }

    /// See [`Session::hand_over`](crate::client::Session::hand_over).
    ///
    /// # Errors
    ///
    /// As there.
    pub fn hand_over(&mut self, conn: &str) -> Result<RequestId, LobbyError> {
        self.command(|session, now| session.hand_over(now, conn))
    }

    /// Gives the seat up, for good: see [`Session::leave`](crate::client::Session::leave). A program that ends should call
    /// [`turn`](Self::turn) or [`next_event`](Self::next_event) until [`is_finished`](Self::is_finished), which takes a round
    /// trip: otherwise the message may be lost with the socket.
    pub fn leave(&mut self) {
        self.command(|session, _| session.leave());
    }

    /// See [`Session::wake`](crate::client::Session::wake).
    pub fn wake(&mut self, is_online: bool) {
        self.command(|session, now| session.wake(now, is_online));
    }

    /// See [`Session::set_request_timeout`](crate::client::Session::set_request_timeout).
    pub fn set_request_timeout(&mut self, timeout: Duration) {
        self.command(|session, _| session.set_request_timeout(timeout));
    }
}
