//! Requests: each is executed at most once. The application is told its outcome, or that the outcome is unknown.
//!
//! ```text
//! kept, without a number --sent--> kept, with a number --answer, `done`--> settled
//!           ^                              |
//!           +---------rate_limited---------+
//! ```
//!
//! A request that has timed out is settled, but its number waits for an answer: the server allows only so many of them.

use std::collections::BTreeMap;

use super::error::LobbyError;
use super::event::RequestId;
use super::limits::{MAX_KEPT, MAX_KEPT_BYTES};
use super::welcome::Settlement;

#[derive(Debug)]
struct Kept {
    /// The message as JSON, without its number.
    text: String,
    number: Option<u64>,
    is_control: bool,
}

/// What the first message on a connection says about a request that was sent.
#[derive(Debug, PartialEq)]
pub(super) enum Fate {
    Executed,
    Refused,
    Unknown,
    /// It is sent again.
    Again(String),
}

#[derive(Debug, Default)]
pub(super) struct Requests {
    /// Not settled, in the order in which they were made.
    kept: BTreeMap<RequestId, Kept>,
    kept_bytes: usize,
    /// By number, without an answer.
    sent: BTreeMap<u64, RequestId>,
    last_number: u64,
    last_id: u64,
}

impl Requests {
    pub(super) fn add(&mut self, text: String, is_control: bool) -> Result<RequestId, LobbyError> {
        let has_room = self.kept.is_empty() || self.kept_bytes + text.len() <= MAX_KEPT_BYTES;
        if self.kept.len() >= MAX_KEPT || !has_room {
            return Err(LobbyError::new("queue_full"));
        }
        self.last_id += 1;
        self.kept_bytes += text.len();
        let id = RequestId(self.last_id);
        self.kept.insert(id, Kept { text, number: None, is_control });
        Ok(id)
    }

    /// Returns false if the request is settled already.
    pub(super) fn settle(&mut self, id: RequestId) -> bool {
        let kept = self.kept.remove(&id);
        self.kept_bytes -= kept.as_ref().map_or(0, |kept| kept.text.len());
        kept.is_some()
    }

    /// Returns whether the request is not settled.
    pub(super) fn is_kept(&self, id: RequestId) -> bool {
        self.kept.contains_key(&id)
    }

    /// Returns the requests that are not settled, in order.
    pub(super) fn ids(&self) -> Vec<RequestId> {
        self.kept.keys().copied().collect()
    }

    /// Returns the next request without a number, unless `window` requests or more have no answer: its message, and whether it
    /// needs lobby control.
    pub(super) fn next_to_send(&self, window: usize) -> Option<(RequestId, &str, bool)> {
        let mut unsent = self.kept.iter().filter(|(_, kept)| kept.number.is_none());
        let next = unsent.next().filter(|_| self.sent.len() < window);
        next.map(|(id, kept)| (*id, &*kept.text, kept.is_control))
    }

    /// Gives a request the next number. Returns the message.
    pub(super) fn number(&mut self, id: RequestId) -> Option<String> {
        let kept = self.kept.get_mut(&id)?;
        self.last_number += 1;
        kept.number = Some(self.last_number);
        self.sent.insert(self.last_number, id);
        Some(numbered(&kept.text, self.last_number))
    }

    /// The server has answered a number. Returns the request.
    pub(super) fn answered(&mut self, number: u64) -> Option<RequestId> {
        self.sent.remove(&number)
    }

    /// The number of a request is used up, but it was not executed: it needs another one.
    pub(super) fn unnumber(&mut self, id: RequestId) {
        if let Some(kept) = self.kept.get_mut(&id) {
            kept.number = None;
        }
    }

    /// Returns what has become of the requests that were sent, in their order. Those of another seat are unknown.
    pub(super) fn fates(&mut self, is_same_seat: bool, settlement: &Settlement) -> Vec<(RequestId, Fate)> {
        self.last_number = self.last_number.max(settlement.done);
        let mut fates = Vec::new();
        for (number, id) in std::mem::take(&mut self.sent) {
            let fate = match self.kept.get(&id) {
                Some(kept) if is_same_seat && number > settlement.done => {
                    self.sent.insert(number, id);
                    Fate::Again(numbered(&kept.text, number))
                }
                _ if !is_same_seat => Fate::Unknown,
                _ if settlement.is_refused(number) => Fate::Refused,
                _ => Fate::Executed,
            };
            fates.push((id, fate));
        }
        fates
    }
}

/// Adds its number to a message.
fn numbered(text: &str, number: u64) -> String {
    let fields = text.strip_suffix('}').expect("a message is an object");
    format!("{fields},\"ref\":{number}}}")
}
