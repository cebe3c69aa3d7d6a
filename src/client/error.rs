//! Why a request failed, or a lobby was closed.

use std::error::Error;
use std::fmt;

use serde_json::{Map, Value};

use super::weight;

/// Why a request failed.
///
/// | code | meaning |
/// | --- | --- |
/// | the `code` of an `error` of the server, such as `user_not_found` or `conflict` | the server has refused it; [`details`](Self::details) are the other fields |
/// | `closed` | the lobby was left or closed; the request may have been executed |
/// | `unknown` | the seat was given up while the request was on its way; it may have been executed |
/// | `refused` | it was not executed; the reason was lost with the connection |
/// | `timeout` | no answer came in time. It may have been executed, but it will not be sent again |
/// | `queue_full` | 64 requests or 64 KiB are not settled, or the events are not polled. A single request may be larger |
/// | `too_large` | it is larger than the server allows |
/// | `bad_payload` | the payload has a key `type` or `ref`, or is no JSON |
/// | `no_control` | the server has lobby control off; nothing was sent |
/// | `bad_url` | the address is none of a WebSocket server |
/// | `bad_lobby_code` | the path begins with `/ws/` and names no lobby |
/// | `rate_limited`, `unavailable` | of [`read_found`](crate::client::read_found): the status of the answer |
///
/// For an example see [`Session::request`](crate::client::Session::request).
#[derive(Clone, Debug, PartialEq)]
pub struct LobbyError {
    code: String,
    details: Map<String, Value>,
}

impl LobbyError {
    pub(super) fn new(code: &str) -> LobbyError {
        LobbyError { code: code.to_owned(), details: Map::new() }
    }

    pub(super) fn with(code: &str, name: &str, value: impl Into<Value>) -> LobbyError {
        LobbyError { code: code.to_owned(), details: Map::from_iter([(name.to_owned(), value.into())]) }
    }

    pub(super) fn with_message(code: &str, message: &str) -> LobbyError {
        LobbyError::with(code, "message", message)
    }

    pub(super) fn with_details(code: String, details: Map<String, Value>) -> LobbyError {
        LobbyError { code, details }
    }

    /// Returns the word that programs compare.
    pub fn code(&self) -> &str {
        &self.code
    }

    /// Returns the sentence for people, if there is one.
    pub fn message(&self) -> Option<&str> {
        self.details.get("message")?.as_str()
    }

    /// Returns the other fields of the server's `error`: of a `conflict` the newest `seq` of the keys and their `data`. Of
    /// `closed`, the close code and its reason word.
    pub fn details(&self) -> &Map<String, Value> {
        &self.details
    }

    /// Returns the memory that it takes, roughly.
    pub(super) fn weight(&self) -> usize {
        self.code.len() + weight::of_map(&self.details)
    }
}

impl fmt::Display for LobbyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.message() {
            Some(message) => write!(f, "{}: {message}", self.code),
            None => f.write_str(&self.code),
        }
    }
}

impl Error for LobbyError {}
