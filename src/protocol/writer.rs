//! Writer of the server's messages: JSON objects, one field after the other.

use std::fmt::Write as _;

use crate::base::close::LeaveReason;
use crate::base::id::SeatId;
use crate::lobby::control::entries::Entries;

/// The types of messages that only the server sends. `direct` is not among them, because it is also a request.
pub(super) const SERVER_TYPES: &[&str] =
    &["welcome", "presence_state", "presence_diff", "message", "ack", "error", "pong", "health_ping", "goodbye"];

/// Types that only the server sends, with lobby control on. `host` and `settings` are requests, too.
pub(super) const CONTROL_TYPES: &[&str] = &["state", "lobby_state", "countdown", "start"];

/// Writer of one JSON object. It does not use serde, because this is the hot path and `data` must stay byte for byte.
pub(super) struct MessageWriter<'a>(&'a mut String);

impl MessageWriter<'_> {
    pub(super) fn of_type<'a>(out: &'a mut String, kind: &str) -> MessageWriter<'a> {
        debug_assert!(
            ["direct", "host", "settings"].contains(&kind)
                || SERVER_TYPES.contains(&kind)
                || CONTROL_TYPES.contains(&kind),
            "no client may send the type {kind}"
        );
        out.clear();
        out.push_str("{\"type\":\"");
        out.push_str(kind);
        out.push('"');
        MessageWriter(out)
    }

    pub(super) fn raw(self, key: &str, json: &str) -> Self {
        self.0.extend([",\"", key, "\":", json]);
        self
    }

    pub(super) fn number(self, key: &str, value: u64) -> Self {
        write!(self.0, ",\"{key}\":{value}").expect("writing to a String cannot fail");
        self
    }

    pub(super) fn string(self, key: &str, value: &str) -> Self {
        let mut object = self.raw(key, "");
        object.push_string(value);
        object
    }

    pub(super) fn reference(self, reference: Option<&str>) -> Self {
        match reference {
            Some(json) => self.raw("ref", json),
            None => self,
        }
    }

    fn push_string(&mut self, value: &str) {
        push_string(self.0, value);
    }

    pub(super) fn optional_string(self, key: &str, value: Option<&str>) -> Self {
        match value {
            Some(value) => self.string(key, value),
            None => self,
        }
    }

    pub(super) fn optional_number(self, key: &str, value: Option<u64>) -> Self {
        match value {
            Some(value) => self.number(key, value),
            None => self,
        }
    }

    pub(super) fn members<'a>(&mut self, key: &str, members: impl Iterator<Item = (&'a str, SeatId, Mark<'a>)>) {
        self.0.extend([",\"", key, "\":["]);
        for (index, (user, seat, mark)) in members.enumerate() {
            self.0.push_str(if index == 0 { "{\"user\":" } else { ",{\"user\":" });
            self.push_string(user);
            write!(self.0, ",\"conn\":\"{seat}\"").expect("writing to a String cannot fail");
            match mark {
                Mark::None => {}
                Mark::Left(reason) => self.0.extend([",\"reason\":\"", reason.word(), "\""]),
                Mark::Listed { is_away, data } => {
                    self.0.push_str(if is_away { ",\"away\":true" } else { "" });
                    if let Some(data) = data.filter(|data| !data.is_empty()) {
                        self.0.push_str(",\"data\":");
                        push_data(self.0, data);
                    }
                }
            }
            self.0.push('}');
        }
        self.0.push(']');
    }

    /// The members of a list, by user and seat.
    pub(super) fn seats<'a>(&mut self, key: &str, seats: impl Iterator<Item = (&'a str, SeatId)>) {
        self.members(key, seats.map(|(user, seat)| (user, seat, Mark::None)));
    }

    /// The text, to append the value of the last field to it.
    pub(super) fn out(&mut self) -> &mut String {
        self.0
    }

    pub(super) fn end(self) {
        self.0.push('}');
    }
}

/// What is said of a member beside its name and seat.
#[derive(Clone, Copy)]
pub(super) enum Mark<'a> {
    None,
    Listed { is_away: bool, data: Option<&'a Entries> },
    Left(LeaveReason),
}

/// Appends data as a JSON object.
pub(crate) fn push_data(out: &mut String, data: &Entries) {
    push_changes(out, data.iter().map(|(key, value)| (key, Some(value))));
}

/// Appends keys and values as a JSON object. A key without a value is `null`.
pub(crate) fn push_changes<'a>(out: &mut String, changes: impl Iterator<Item = (&'a str, Option<&'a str>)>) {
    out.push('{');
    for (index, (key, value)) in changes.enumerate() {
        if index > 0 {
            out.push(',');
        }
        push_string(out, key);
        out.push(':');
        out.push_str(value.unwrap_or("null"));
    }
    out.push('}');
}

/// Appends a string as JSON.
pub(super) fn push_string(out: &mut String, value: &str) {
    // Names rarely have characters that JSON must escape.
    if value.bytes().all(|c| c >= b' ' && c != b'"' && c != b'\\') {
        return out.extend(["\"", value, "\""]);
    }
    out.push_str(&serde_json::to_string(value).expect("a string always serializes"));
}
