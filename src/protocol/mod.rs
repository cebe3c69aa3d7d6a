//! The JSON protocol `lobby.v1.json`: parses client requests and writes server messages.
//!
//! Each text frame is one JSON object, and its `type` names the kind. Knows no lobby and no connection.

use std::borrow::Cow;
use std::fmt::Write as _;

use serde::Serialize;
use serde::de::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use crate::base::close::{CloseReason, LeaveReason, Reconnect, Reject};
use crate::base::id::SeatId;
use crate::base::number::integer;
use crate::lobby::presence::Departure;

/// Name of the WebSocket subprotocol.
pub(crate) const SUBPROTOCOL: &str = "lobby.v1.json";

/// Maximum length of a string `ref`, in bytes.
const MAX_REF_BYTES: usize = 64;

/// A client's request, by `type`.
#[derive(Debug, PartialEq)]
pub(crate) enum ClientRequest<'a> {
    Broadcast {
        data: &'a str,
    },
    Direct {
        to: Cow<'a, str>,
        data: &'a str,
    },
    Presence,
    Ping,
    HealthPong {
        timestamp: i64,
    },
    Leave,
    /// Any other `type`: passed to the application.
    App {
        kind: Cow<'a, str>,
    },
}

/// A request and its `ref`, exactly as the client wrote it; the answer carries the same text.
#[derive(Debug, PartialEq)]
pub(crate) struct Envelope<'a> {
    pub(crate) request: ClientRequest<'a>,
    pub(crate) reference: Option<&'a str>,
}

/// A malformed message: the reason, and the `ref` for the answer if the message has a valid one.
#[derive(Debug, PartialEq)]
pub(crate) struct MalformedMessage<'a> {
    pub(crate) reference: Option<&'a str>,
    pub(crate) why: &'static str,
    /// Whether the `type` is `health_pong`. Such a message answers a request of the server. Even if it is malformed, it
    /// is charged as a `health_pong` and is not counted as a strike.
    pub(crate) is_health_pong: bool,
}

/// The reserved fields as raw JSON. Their types are checked later: the rules depend on `type`, and in messages of the
/// application the fields may have any type.
#[derive(serde::Deserialize)]
struct EnvelopeFields<'a> {
    #[serde(borrow, default, rename = "type")]
    kind: Present<'a>,
    #[serde(borrow, default, rename = "ref")]
    reference: Present<'a>,
    #[serde(borrow, default)]
    data: Present<'a>,
    #[serde(borrow, default)]
    to: Present<'a>,
    #[serde(borrow, default)]
    timestamp: Present<'a>,
}

/// A field's JSON, if the field is present. Unlike `Option<&RawValue>` it distinguishes `null` from an absent field.
#[derive(Default)]
struct Present<'a>(Option<&'a str>);

impl<'de: 'a, 'a> Deserialize<'de> for Present<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        <&RawValue>::deserialize(deserializer).map(|raw| Present(Some(raw.get())))
    }
}

impl<'a> Present<'a> {
    fn as_string(&self) -> Option<Cow<'a, str>> {
        // Text without a backslash is borrowed; text with escapes must be decoded.
        let inner = self.0?.strip_prefix('"')?.strip_suffix('"')?;
        if inner.contains('\\') {
            serde_json::from_str(self.0?).ok().map(Cow::Owned)
        } else {
            Some(Cow::Borrowed(inner))
        }
    }
}

/// Parses one text message.
///
/// # Errors
///
/// [`MalformedMessage`] if the text is not one JSON object, has no `type`, or has a reserved field of the wrong type.
pub(crate) fn read(text: &str) -> Result<Envelope<'_>, MalformedMessage<'_>> {
    let malformed = |why| MalformedMessage { reference: None, why, is_health_pong: false };
    // serde also deserializes a struct from an array.
    if !text.trim_ascii_start().starts_with('{') {
        return Err(malformed("send one JSON object per message"));
    }
    let fields: EnvelopeFields<'_> = serde_json::from_str(text).map_err(|error| match error.classify() {
        serde_json::error::Category::Data => malformed("a reserved field occurs twice"),
        _ => malformed("the message is not valid JSON"),
    })?;
    let kind = fields.kind.as_string().filter(|kind| !kind.is_empty());
    let is_health_pong = kind.as_deref() == Some("health_pong");
    let reference = match fields.reference.0 {
        // `null` means that the field is absent.
        None | Some("null") => None,
        Some(raw) if is_reference(&fields.reference, raw) => Some(raw),
        Some(_) => {
            let why = "ref must be an integer below 2^53 in magnitude or a string of at most 64 bytes";
            return Err(MalformedMessage { reference: None, why, is_health_pong });
        }
    };
    let malformed = |why| MalformedMessage { reference, why, is_health_pong };
    let kind = kind.ok_or(malformed("type must be a non-empty string"))?;
    let data = fields.data.0.ok_or(malformed("data is missing"));
    let request = match &*kind {
        "broadcast" => ClientRequest::Broadcast { data: data? },
        "direct" => {
            let to = fields.to.as_string().ok_or(malformed("to must be a string"))?;
            ClientRequest::Direct { to, data: data? }
        }
        "presence" => ClientRequest::Presence,
        "ping" => ClientRequest::Ping,
        "health_pong" => {
            let timestamp = fields.timestamp.0.and_then(integer);
            ClientRequest::HealthPong {
                timestamp: timestamp.ok_or(malformed("timestamp must be that of a health_ping"))?,
            }
        }
        "leave" => ClientRequest::Leave,
        _ => ClientRequest::App { kind },
    };
    Ok(Envelope { request, reference })
}

fn is_reference(field: &Present<'_>, raw: &str) -> bool {
    integer(raw).is_some() || field.as_string().is_some_and(|text| text.len() <= MAX_REF_BYTES)
}

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

pub(crate) fn write_goodbye(out: &mut String, reason: CloseReason, retry_after_ms: Option<u64>) {
    let reconnect = if reason.reconnect() == Reconnect::No { "false" } else { "true" };
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

impl MessageWriter<'_> {
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
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: ClientRequest<'_>, reference: Option<&str>) {
        assert_eq!(read(text), Ok(Envelope { request: expected, reference }), "{text}");
    }

    #[track_caller]
    fn check_malformed(text: &str, why: &str, reference: Option<&str>) {
        let malformed = read(text).expect_err(text);
        assert!(malformed.why.contains(why), "{text}: {}", malformed.why);
        assert_eq!(malformed.reference, reference, "{text}");
    }

    #[test]
    fn requests_are_parsed_with_keys_in_any_order() {
        check(r#"{"type":"broadcast","data":{"a":[1]}}"#, ClientRequest::Broadcast { data: r#"{"a":[1]}"# }, None);
        check(r#" {"data": null, "ref":7, "type":"broadcast"} "#, ClientRequest::Broadcast { data: "null" }, Some("7"));
        check(r#"{"type":"broadc\u0061st","data":1}"#, ClientRequest::Broadcast { data: "1" }, None);
        let to = Cow::Borrowed("zoë");
        check(
            r#"{"type":"direct","to":"zo\u00eb","data":"x","ref":"a"}"#,
            ClientRequest::Direct { to, data: r#""x""# },
            Some(r#""a""#),
        );
        check(r#"{"type":"presence"}"#, ClientRequest::Presence, None);
        check(r#"{"type":"ping","ref":-1}"#, ClientRequest::Ping, Some("-1"));
        for seventeen in ["17", "17.0", "1.7e1", "170E-1"] {
            let text = format!(r#"{{"type":"health_pong","timestamp":{seventeen},"ref":{seventeen}}}"#);
            check(&text, ClientRequest::HealthPong { timestamp: 17 }, Some(seventeen));
        }
        check(r#"{"type":"ping","ref":null}"#, ClientRequest::Ping, None);
        check(r#"{"type":"leave"}"#, ClientRequest::Leave, None);
    }

    #[test]
    fn application_messages_may_give_reserved_fields_any_type() {
        let kind = || ClientRequest::App { kind: Cow::Borrowed("move") };
        check(r#"{"type":"move","to":5,"timestamp":"x"}"#, kind(), None);
        check(r#"{"type":"move","type2":1,"x":1,"x":2}"#, kind(), None);
    }

    #[test]
    fn malformed_messages_are_refused_with_the_reason() {
        for text in ["", "[]", "1", "null", r#""x""#, r#"["broadcast",1,2]"#] {
            check_malformed(text, "one JSON object", None);
        }
        check_malformed("{", "not valid JSON", None);
        check_malformed(r#"{"type":"ping"} x"#, "not valid JSON", None);
        check_malformed(&format!("{{\"data\":{}", "[".repeat(10_000)), "not valid JSON", None);
        check_malformed(r#"{"type":"ping","type":"ping"}"#, "twice", None);
        check_malformed("{}", "type must be", None);
        check_malformed(r#"{"type":7,"ref":1}"#, "type must be", Some("1"));
        check_malformed(r#"{"type":"broadcast","ref":1}"#, "data is missing", Some("1"));
        check_malformed(r#"{"type":"direct","data":1}"#, "to must be", None);
        check_malformed(r#"{"type":"health_pong","timestamp":"x"}"#, "timestamp", None);
        for reference in ["1.5", "1e-1", "1e16", "true", "[1]", &format!("{:?}", "x".repeat(65)), "9007199254740992"] {
            check_malformed(&format!(r#"{{"type":"ping","ref":{reference}}}"#), "ref must be", None);
        }
    }

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
