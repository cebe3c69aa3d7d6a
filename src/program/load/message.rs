//! The messages of `lobby.v1.json` that the generator sends and reads.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

/// A message of the server: the fields of all types, of which each type has some.
#[derive(Debug, Deserialize)]
pub(super) struct ServerMessage<'a> {
    #[serde(borrow, rename = "type")]
    pub(super) kind: Cow<'a, str>,
    pub(super) seq: Option<u64>,
    pub(super) n: Option<u64>,
    /// A number or a text.
    #[serde(borrow, default, rename = "ref")]
    pub(super) reference: Option<&'a RawValue>,
    #[serde(borrow, default)]
    pub(super) data: Option<&'a RawValue>,
    /// A number in `goodbye`, a word in `error`.
    #[serde(borrow, default)]
    pub(super) code: Option<&'a RawValue>,
    #[serde(borrow, default)]
    pub(super) reason: Option<Cow<'a, str>>,
    pub(super) reconnect: Option<bool>,
    pub(super) retry_after_ms: Option<u64>,
    /// The server of a cluster that has the lobby.
    #[serde(borrow, default)]
    pub(super) url: Option<Cow<'a, str>>,
    /// The seat.
    #[serde(borrow, default)]
    pub(super) conn: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    pub(super) epoch: Option<&'a RawValue>,
    pub(super) resumed: Option<bool>,
    pub(super) recovered: Option<bool>,
    pub(super) away_ms: Option<u64>,
    pub(super) done: Option<u64>,
    #[serde(borrow, default)]
    pub(super) refused: Option<Cow<'a, str>>,
    pub(super) timestamp: Option<u64>,
}

impl ServerMessage<'_> {
    /// Returns `ref` if it is one of the numbers that the generator sends.
    pub(super) fn number(&self) -> Option<u64> {
        self.reference.and_then(|text| text.get().parse().ok())
    }
}

/// The `data` of a message of the generator.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
pub(super) struct Said {
    /// Number of the run.
    #[serde(rename = "r")]
    pub(super) run: u64,
    /// Number of the sender among all members.
    #[serde(rename = "m")]
    pub(super) member: usize,
    /// Number of the message among those of its sender.
    #[serde(rename = "k")]
    pub(super) number: u64,
    /// When it was due, in microseconds since the start of the generator.
    #[serde(rename = "t")]
    pub(super) due: u64,
}

/// Returns a `broadcast` whose `data` has `bytes` bytes, or as many as it needs at least.
pub(super) fn broadcast(reference: u64, said: Said, bytes: usize) -> String {
    let Said { run, member, number, due } = said;
    let data = format!(r#"{{"r":{run},"m":{member},"k":{number},"t":{due},"x":""#);
    let padding = bytes.saturating_sub(data.len() + 2);
    format!(r#"{{"type":"broadcast","ref":{reference},"data":{data}{}"}}}}"#, "x".repeat(padding))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sent_can_be_read_back() {
        let said = Said { run: 0xff_ffff, member: 999, number: 12, due: 60_000_000 };
        for bytes in [0, 64, 1000] {
            let text = broadcast(7, said, bytes);
            let message: ServerMessage<'_> = serde_json::from_str(&text).expect("JSON");
            assert_eq!((&*message.kind, message.number()), ("broadcast", Some(7)));
            let data = message.data.expect("data").get();
            assert_eq!(serde_json::from_str::<Said>(data).expect("it is ours"), said);
            assert!(data.len() == bytes || bytes < 50, "{data}");
        }
    }

    #[test]
    fn codes_may_be_numbers_or_words() {
        let text = r#"{"type":"goodbye","code":4002,"reason":"server_full","reconnect":false}"#;
        let message: ServerMessage<'_> = serde_json::from_str(text).expect("JSON");
        assert_eq!(message.code.map(RawValue::get), Some("4002"));
        let text = r#"{"type":"error","ref":3,"code":"rate_limited","message":"a\u00e9","retry_after_ms":17}"#;
        let message: ServerMessage<'_> = serde_json::from_str(text).expect("JSON");
        assert_eq!((message.number(), message.retry_after_ms), (Some(3), Some(17)));
    }
}
