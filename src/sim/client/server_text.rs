//! The text messages of the server, parsed: every field that any of them has.
//!
//! Parses only; which fields a message must have is checked by the view.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

/// Types of the messages that the view checks. The application may send others.
const KNOWN: &[&str] = &[
    "welcome",
    "presence_state",
    "presence_diff",
    "message",
    "direct",
    "ack",
    "error",
    "pong",
    "health_ping",
    "goodbye",
    "latest",
];

/// Types of the messages of lobby control. With it off they are the application's.
const OF_CONTROL: &[&str] = &["state", "host", "settings", "countdown", "start", "lobby_state"];

#[derive(Deserialize)]
pub(super) struct Kind<'a> {
    #[serde(borrow, rename = "type")]
    pub(super) kind: Cow<'a, str>,
}

#[derive(Deserialize)]
pub(super) struct ServerText<'a> {
    #[serde(borrow)]
    pub(super) conn: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub(super) user: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub(super) lobby: Option<Cow<'a, str>>,
    pub(super) protocol: Option<u64>,
    pub(super) epoch: Option<u64>,
    pub(super) seq: Option<u64>,
    pub(super) count: Option<u64>,
    #[serde(borrow)]
    pub(super) users: Option<Vec<UserState<'a>>>,
    #[serde(borrow)]
    pub(super) joins: Option<Vec<UserState<'a>>>,
    #[serde(borrow)]
    pub(super) leaves: Option<Vec<UserState<'a>>>,
    #[serde(borrow)]
    pub(super) from: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub(super) data: Option<&'a RawValue>,
    #[serde(borrow, rename = "ref")]
    pub(super) reference: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(super) code: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(super) reason: Option<Cow<'a, str>>,
    pub(super) timestamp: Option<u64>,
    pub(super) retry_after_ms: Option<u64>,
    /// In `goodbye`.
    pub(super) reconnect: Option<bool>,
    pub(super) resumed: Option<bool>,
    pub(super) recovered: Option<bool>,
    pub(super) away_ms: Option<u64>,
    pub(super) done: Option<u64>,
    #[serde(borrow)]
    pub(super) refused: Option<Cow<'a, str>>,
    pub(super) replay: Option<u64>,
    pub(super) n: Option<u64>,
    pub(super) repeated: Option<bool>,
    #[serde(borrow)]
    pub(super) away: Option<Vec<UserState<'a>>>,
    #[serde(borrow)]
    pub(super) back: Option<Vec<UserState<'a>>>,
    /// In `lobby_state`: the name of the host's seat.
    #[serde(borrow)]
    pub(super) host: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub(super) settings: Option<&'a RawValue>,
    pub(super) watchers: Option<u64>,
    pub(super) countdown: Option<u64>,
    pub(super) key: Option<u64>,
    pub(super) value: Option<u64>,
}

#[derive(Deserialize)]
pub(super) struct UserState<'a> {
    #[serde(borrow)]
    pub(super) user: Cow<'a, str>,
    #[serde(borrow)]
    pub(super) conn: Cow<'a, str>,
    #[serde(borrow)]
    pub(super) reason: Option<Cow<'a, str>>,
    /// In `presence_state`: whether the member is away.
    pub(super) away: Option<bool>,
    /// In `presence_state`, with lobby control: its data, if there is any.
    #[serde(borrow)]
    pub(super) data: Option<&'a RawValue>,
}

impl<'a> Kind<'a> {
    pub(super) fn parse(text: &'a str) -> Result<Kind<'a>, String> {
        serde_json::from_str(text).map_err(|error| format!("not JSON ({error}): {text}"))
    }

    /// Whether the message is the server's own and not the application's.
    pub(super) fn is_known(&self, has_control: bool) -> bool {
        KNOWN.contains(&&*self.kind) || (has_control && OF_CONTROL.contains(&&*self.kind))
    }
}

impl<'a> ServerText<'a> {
    pub(super) fn parse(text: &'a str) -> Result<ServerText<'a>, String> {
        serde_json::from_str(text).map_err(|error| format!("{error}: {text}"))
    }
}

/// Returns a field that the message must have.
pub(super) fn field<T>(field: Option<T>) -> Result<T, String> {
    field.ok_or_else(|| "a field is missing".into())
}

pub(super) fn require(holds: bool, violation: &str) -> Result<(), String> {
    if holds { Ok(()) } else { Err(violation.into()) }
}
