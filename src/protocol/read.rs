//! Parses the requests of clients.

use std::borrow::Cow;

use serde::de::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::control::{ControlRequest, read_control};
use super::portable;
use super::writer::SERVER_TYPES;
use crate::base::limit::Limit;
use crate::base::number::integer;

/// Maximum length of a string `ref`, in bytes.
const MAX_REF_BYTES: usize = 64;

/// A client's request, by `type`.
#[derive(Debug, PartialEq)]
pub(crate) enum ClientRequest<'a> {
    Broadcast {
        data: &'a str,
        is_volatile: bool,
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
    Control(Box<ControlRequest<'a>>),
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
    #[serde(borrow, default)]
    volatile: Present<'a>,
}

impl<'a> EnvelopeFields<'a> {
    /// Returns the `ref`, if there is one. Fails with the rule that it breaks.
    fn reference(&self) -> Result<Option<&'a str>, &'static str> {
        match self.reference.0 {
            // `null` means that the field is absent.
            None | Some("null") => Ok(None),
            Some(raw) if is_reference(&self.reference, raw) => Ok(Some(raw)),
            Some(_) => Err("ref must be an integer below 2^53 in magnitude or a string of at most 64 bytes"),
        }
    }

    /// Returns whether a broadcast is volatile. Fails with the rule that the field breaks.
    fn is_volatile(&self) -> Result<bool, &'static str> {
        match self.volatile.0 {
            None | Some("false" | "null") => Ok(false),
            Some("true") => Ok(true),
            Some(_) => Err("volatile must be true or false"),
        }
    }
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

/// Returns the `ref` of a message that is valid JSON but for halves of surrogate pairs. `None`: there is another fault.
fn reference_beside_surrogates(text: &str) -> Option<Option<&str>> {
    let repaired = portable::without_surrogates(text);
    let fields: EnvelopeFields<'_> = serde_json::from_str(&repaired).ok()?;
    let Ok(Some(raw)) = fields.reference() else { return Some(None) };
    // Both texts have the same length, so the `ref` is at the same place.
    let start = raw.as_ptr() as usize - repaired.as_ptr() as usize;
    Some(text.get(start..start + raw.len()).filter(|&original| original == raw))
}

/// Parses one text message. `has_control` returns whether the requests of lobby control are the engine's.
///
/// # Errors
///
/// [`MalformedMessage`] if the text is not one JSON object that strict parsers read, has no `type` or one that only the
/// server sends, or has a reserved field of the wrong type.
pub(crate) fn read(
    text: &str,
    max_depth: Limit,
    has_control: impl FnOnce() -> bool,
) -> Result<Envelope<'_>, MalformedMessage<'_>> {
    let malformed = |why| MalformedMessage { reference: None, why, is_health_pong: false };
    // serde also deserializes a struct from an array.
    if !text.trim_ascii_start().starts_with('{') {
        return Err(malformed("send one JSON object per message"));
    }
    let fields: EnvelopeFields<'_> = serde_json::from_str(text).map_err(|error| match error.classify() {
        serde_json::error::Category::Data => malformed("a reserved field occurs twice"),
        // Names of fields are decoded, so half of a surrogate pair in one is an error of the syntax here.
        _ => portable::check(text, max_depth)
            .err()
            .and_then(|why| Some(MalformedMessage { reference: reference_beside_surrogates(text)?, ..malformed(why) }))
            .unwrap_or(malformed("the message is not valid JSON")),
    })?;
    let kind = fields.kind.as_string().filter(|kind| !kind.is_empty());
    let is_health_pong = kind.as_deref() == Some("health_pong");
    let reference = fields.reference().map_err(|why| MalformedMessage { is_health_pong, ..malformed(why) })?;
    let malformed = |why| MalformedMessage { reference, why, is_health_pong };
    portable::check(text, max_depth).map_err(malformed)?;
    let kind = kind.ok_or(malformed("type must be a non-empty string"))?;
    let data = fields.data.0.ok_or(malformed("data is missing"));
    let request = match &*kind {
        "broadcast" => ClientRequest::Broadcast { data: data?, is_volatile: fields.is_volatile().map_err(malformed)? },
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
        // An application may pass a message on as it is. The other members would take it for the server's.
        server if SERVER_TYPES.contains(&server) => return Err(malformed("only the server sends this type")),
        _ if has_control() => match read_control(&kind, text).map_err(malformed)? {
            Some(request) => ClientRequest::Control(Box::new(request)),
            None => ClientRequest::App { kind },
        },
        _ => ClientRequest::App { kind },
    };
    Ok(Envelope { request, reference })
}

fn is_reference(field: &Present<'_>, raw: &str) -> bool {
    integer(raw).is_some() || field.as_string().is_some_and(|text| text.len() <= MAX_REF_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEPTH: Limit = Limit::at_most(128);

    #[track_caller]
    fn check(text: &str, expected: ClientRequest<'_>, reference: Option<&str>) {
        assert_eq!(read(text, DEPTH, || false), Ok(Envelope { request: expected, reference }), "{text}");
    }

    #[track_caller]
    fn check_malformed(text: &str, why: &str, reference: Option<&str>) {
        let malformed = read(text, DEPTH, || false).expect_err(text);
        assert!(malformed.why.contains(why), "{text}: {}", malformed.why);
        assert_eq!(malformed.reference, reference, "{text}");
    }

    #[test]
    fn requests_are_parsed_with_keys_in_any_order() {
        let broadcast = |data, is_volatile| ClientRequest::Broadcast { data, is_volatile };
        check(r#"{"type":"broadcast","data":{"a":[1]}}"#, broadcast(r#"{"a":[1]}"#, false), None);
        check(r#" {"data": null, "ref":7, "type":"broadcast"} "#, broadcast("null", false), Some("7"));
        check(r#"{"type":"broadc\u0061st","data":1}"#, broadcast("1", false), None);
        for (volatile, expected) in [("true", true), ("false", false), ("null", false)] {
            let text = format!(r#"{{"type":"broadcast","volatile":{volatile} ,"data":1}}"#);
            check(&text, broadcast("1", expected), None);
        }
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
        check(r#"{"type":"move","to":5,"timestamp":"x","volatile":7}"#, kind(), None);
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
        for volatile in ["0", "1", "\"true\"", "[]", "{}"] {
            let text = format!(r#"{{"type":"broadcast","data":1,"ref":1,"volatile":{volatile}}}"#);
            check_malformed(&text, "volatile must be true or false", Some("1"));
        }
        check_malformed(r#"{"type":"direct","data":1}"#, "to must be", None);
        check_malformed(r#"{"type":"health_pong","timestamp":"x"}"#, "timestamp", None);
        check_malformed(r#"{"type":"move","ref":1,"at":"\ud800"}"#, "surrogate", Some("1"));
        check_malformed(
            &format!(r#"{{"type":"move","ref":1,"at":{}{}}}"#, "[".repeat(128), "]".repeat(128)),
            "nested",
            Some("1"),
        );
        check_malformed(r#"{"type":"goodbye","ref":1}"#, "only the server", Some("1"));
        for reference in ["1.5", "1e-1", "1e16", "true", "[1]", &format!("{:?}", "x".repeat(65)), "9007199254740992"] {
            check_malformed(&format!(r#"{{"type":"ping","ref":{reference}}}"#), "ref must be", None);
        }
    }
}
