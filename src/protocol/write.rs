//! Writes the server's messages.

use std::fmt::Write as _;

use serde::Serialize;

use crate::base::close::{CloseReason, LeaveReason, Reconnect, Reject};
use crate::base::id::SeatId;
use crate::lobby::presence::Departure;

/// The types of messages that only the server sends. `direct` is not among them, because it is also a request.
pub(super) const SERVER_TYPES: &[&str] =
    &["welcome", "presence_state", "presence_diff", "message", "ack", "error", "pong", "health_ping", "goodbye"];

/// The first message to every member.
#[derive(Serialize)]
#[serde(tag = "type", rename = "welcome")]
pub(crate) struct Welcome<'a> {
    pub(crate) protocol: u32,
    pub(crate) conn: String,
    pub(crate) user: &'a str,
    pub(crate) lobby: &'a str,
    pub(crate) epoch: u64,
    pub(crate) seq: u64,
    pub(crate) resumed: bool,
    pub(crate) recovered: bool,
    /// Milliseconds since the Unix epoch.
    pub(crate) server_time: u64,
    pub(crate) limits: WelcomeLimits,
    pub(crate) ping: WelcomePing,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) tick: Option<WelcomeTick>,
}

/// Tick rate of the game clock and the number of its last tick.
#[derive(Serialize)]
pub(crate) struct WelcomeTick {
    pub(crate) hz: u32,
    pub(crate) tick: u64,
}

#[derive(Serialize)]
pub(crate) struct WelcomeLimits {
    pub(crate) max_message_bytes: usize,
    /// `None`, written as `null`: unlimited.
    pub(crate) messages_per_second: Option<serde_json::Number>,
}

#[derive(Serialize)]
pub(crate) struct WelcomePing {
    pub(crate) interval_ms: u64,
    pub(crate) timeout_ms: u64,
}

impl Welcome<'_> {
    pub(crate) fn write(&self, out: &mut String) {
        *out = serde_json::to_string(self).expect("strings and numbers always serialize");
    }
}

/// Writer of one JSON object. It does not use serde, because this is the hot path and `data` must stay byte for byte.
struct MessageWriter<'a>(&'a mut String);

impl MessageWriter<'_> {
    fn of_type<'a>(out: &'a mut String, kind: &str) -> MessageWriter<'a> {
        debug_assert!(kind == "direct" || SERVER_TYPES.contains(&kind), "no client may send the type {kind}");
        out.clear();
        out.push_str("{\"type\":\"");
        out.push_str(kind);
        out.push('"');
        MessageWriter(out)
    }

    fn raw(self, key: &str, json: &str) -> Self {
        self.0.extend([",\"", key, "\":", json]);
        self
    }

    fn number(self, key: &str, value: u64) -> Self {
        write!(self.0, ",\"{key}\":{value}").expect("writing to a String cannot fail");
        self
    }

    fn string(self, key: &str, value: &str) -> Self {
        let mut object = self.raw(key, "");
        object.push_string(value);
        object
    }

    fn reference(self, reference: Option<&str>) -> Self {
        match reference {
            Some(json) => self.raw("ref", json),
            None => self,
        }
    }

    fn push_string(&mut self, value: &str) {
        // Fast path: names rarely contain characters that JSON must escape.
        if value.bytes().all(|c| c >= b' ' && c != b'"' && c != b'\\') {
            self.0.extend(["\"", value, "\""]);
        } else {
            self.0.push_str(&serde_json::to_string(value).expect("a string always serializes"));
        }
    }

    fn members<'a>(&mut self, key: &str, members: impl Iterator<Item = (&'a str, SeatId, Option<LeaveReason>)>) {
        self.0.extend([",\"", key, "\":["]);
        for (index, (user, seat, reason)) in members.enumerate() {
            self.0.push_str(if index == 0 { "{\"user\":" } else { ",{\"user\":" });
            self.push_string(user);
            write!(self.0, ",\"conn\":\"{seat}\"").expect("writing to a String cannot fail");
            if let Some(reason) = reason {
                self.0.extend([",\"reason\":\"", reason.word(), "\""]);
            }
            self.0.push('}');
        }
        self.0.push(']');
    }

    fn end(self) {
        self.0.push('}');
    }
}

pub(crate) fn write_message(out: &mut String, from: &str, seq: u64, data: &str) {
    MessageWriter::of_type(out, "message").string("from", from).number("seq", seq).raw("data", data).end();
}

pub(crate) fn write_direct(out: &mut String, from: &str, data: &str) {
    MessageWriter::of_type(out, "direct").string("from", from).raw("data", data).end();
}

/// Writes a `message` from the application or an operator: `from` is `null`.
pub(crate) fn write_server_message(out: &mut String, seq: u64, data: &str) {
    MessageWriter::of_type(out, "message").raw("from", "null").number("seq", seq).raw("data", data).end();
}

/// Writes a `direct` from an operator: `from` is `null`.
pub(crate) fn write_server_direct(out: &mut String, data: &str) {
    MessageWriter::of_type(out, "direct").raw("from", "null").raw("data", data).end();
}

/// Writes an `ack`. `seq` is the number of the `message` that the request was sent as, if any.
pub(crate) fn write_ack(out: &mut String, reference: &str, seq: Option<u64>) {
    let object = MessageWriter::of_type(out, "ack").raw("ref", reference);
    match seq {
        Some(seq) => object.number("seq", seq).end(),
        None => object.end(),
    }
}

pub(crate) fn write_broadcast_ack(out: &mut String, reference: &str, seq: u64, delivered: usize, dropped: usize) {
    MessageWriter::of_type(out, "ack")
        .raw("ref", reference)
        .number("seq", seq)
        .number("delivered", delivered as u64)
        .number("dropped", dropped as u64)
        .end();
}

pub(crate) fn write_error(out: &mut String, reference: Option<&str>, reject: Reject, message: &str) {
    MessageWriter::of_type(out, "error")
        .reference(reference)
        .string("code", reject.word())
        .string("message", message)
        .end();
}

pub(crate) fn write_rate_limited(out: &mut String, reference: Option<&str>, why: &str, retry_after_ms: u64) {
    MessageWriter::of_type(out, "error")
        .reference(reference)
        .string("code", Reject::RateLimited.word())
        .string("message", why)
        .number("retry_after_ms", retry_after_ms)
        .end();
}

pub(crate) fn write_pong(out: &mut String, reference: Option<&str>, server_time: u64) {
    MessageWriter::of_type(out, "pong").reference(reference).number("server_time", server_time).end();
}

pub(crate) fn write_health_ping(out: &mut String, timestamp: u64) {
    MessageWriter::of_type(out, "health_ping").number("timestamp", timestamp).end();
}

/// Writes a `goodbye`. A time to come back after overrules the reason.
pub(crate) fn write_goodbye(out: &mut String, reason: CloseReason, retry_after_ms: Option<u64>) {
    let reconnect = if reason.reconnect() == Reconnect::No && retry_after_ms.is_none() { "false" } else { "true" };
    let object = MessageWriter::of_type(out, "goodbye")
        .number("code", u64::from(reason.code()))
        .string("reason", reason.word())
        .raw("reconnect", reconnect);
    match retry_after_ms {
        Some(wait) => object.number("retry_after_ms", wait).end(),
        None => object.end(),
    }
}

/// Writes a `presence_state`: the list of members, or only `count` if `users` is `None`, because the lobby is too large
/// for a list.
pub(crate) fn write_presence_state<'a>(
    out: &mut String,
    seq: u64,
    count: usize,
    users: Option<impl Iterator<Item = (&'a str, SeatId)>>,
) {
    let mut object = MessageWriter::of_type(out, "presence_state").number("seq", seq);
    match users {
        None => object = object.number("count", count as u64),
        Some(users) => object.members("users", users.map(|(user, seat)| (user, seat, None))),
    }
    object.end();
}

pub(crate) fn write_presence_diff<'a>(
    out: &mut String,
    seq: u64,
    joins: impl Iterator<Item = (&'a str, SeatId)>,
    leaves: &'a [Departure],
) {
    let mut object = MessageWriter::of_type(out, "presence_diff").number("seq", seq);
    object.members("joins", joins.map(|(user, seat)| (user, seat, None)));
    object.members("leaves", leaves.iter().map(|left| (&*left.user, left.seat, Some(left.reason))));
    object.end();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_special_characters_are_escaped() {
        let mut out = String::new();
        let name = "a\"b\\c\u{2028}d";
        write_message(&mut out, name, 3, "{\"x\": 1}");
        let value: serde_json::Value = serde_json::from_str(&out).expect(&out);
        assert_eq!(value, serde_json::json!({"type": "message", "from": name, "seq": 3, "data": {"x": 1}}));

        let departure = Departure { user: "bob".into(), seat: SeatId(2), reason: LeaveReason::Slow };
        write_presence_diff(&mut out, 9, [("ann", SeatId(1)), (name, SeatId(3))].into_iter(), &[departure]);
        let value: serde_json::Value = serde_json::from_str(&out).expect(&out);
        assert_eq!(value["joins"][1], serde_json::json!({"user": name, "conn": "s3"}));
        assert_eq!(value["leaves"][0], serde_json::json!({"user": "bob", "conn": "s2", "reason": "slow"}));

        write_goodbye(&mut out, CloseReason::ServerShutdown, Some(250));
        assert_eq!(
            out,
            r#"{"type":"goodbye","code":1001,"reason":"server_shutdown","reconnect":true,"retry_after_ms":250}"#
        );
    }
}
