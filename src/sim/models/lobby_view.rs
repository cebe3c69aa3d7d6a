//! A lobby as its frames describe it: data, host, settings and countdown.
//!
//! The clients keep one from what they receive, and the model of lobby control one from everything that was said. Knows the
//! frames, and not who may cause them.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::value::RawValue;

/// Values under keys, as JSON texts.
pub(crate) type Values = BTreeMap<Box<str>, Box<str>>;

/// Types of the numbered frames of lobby control.
const KINDS: &[&str] = &["state", "host", "settings", "countdown", "start"];

/// What is known of a lobby.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct LobbyView {
    /// Name of the host's seat.
    pub(crate) host: Option<Box<str>>,
    pub(crate) settings: Values,
    pub(crate) data: Values,
    /// Data of the members that have some, by the names of their seats.
    pub(crate) members: BTreeMap<Box<str>, Values>,
    /// Time of the start, in milliseconds since the Unix epoch, during a countdown.
    pub(crate) countdown: Option<u64>,
}

/// A numbered frame of lobby control.
#[derive(Clone, Debug)]
pub(crate) enum LobbyFrame {
    State {
        by: Option<Box<str>>,
        conn: Option<Box<str>>,
        data: Values,
    },
    Host {
        conn: Box<str>,
    },
    Settings {
        by: Option<Box<str>>,
        settings: Values,
    },
    Countdown {
        at: Option<u64>,
    },
    /// A lobby that is too large for a list has only the number of its members.
    Start {
        seats: Option<Vec<Box<str>>>,
        count: usize,
    },
}

/// Fields of these frames.
#[derive(Deserialize)]
struct Fields<'a> {
    #[serde(borrow)]
    by: Option<&'a RawValue>,
    #[serde(borrow)]
    conn: Option<&'a RawValue>,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
    #[serde(borrow)]
    settings: Option<&'a RawValue>,
    at: Option<u64>,
    seats: Option<Vec<StartSeat>>,
    count: Option<usize>,
}

#[derive(Deserialize)]
struct StartSeat {
    conn: Box<str>,
}

/// Reads a JSON object.
pub(crate) fn read_values(text: &str) -> Result<Values, String> {
    let read: BTreeMap<Box<str>, &RawValue> = serde_json::from_str(text).map_err(|error| format!("{error}: {text}"))?;
    Ok(read.into_iter().map(|(key, value)| (key, value.get().into())).collect())
}

fn read_string(text: &RawValue) -> Result<Box<str>, String> {
    serde_json::from_str(text.get()).map_err(|error| error.to_string())
}

impl LobbyFrame {
    /// Reads a frame; `None` if its type is not one of lobby control.
    pub(crate) fn read(kind: &str, text: &str) -> Result<Option<LobbyFrame>, String> {
        if !KINDS.contains(&kind) {
            return Ok(None);
        }
        let fields: Fields<'_> = serde_json::from_str(text).map_err(|error| format!("{error}: {text}"))?;
        let by = fields.by.map(read_string).transpose()?;
        let conn = fields.conn.map(read_string).transpose()?;
        let object = |field: Option<&RawValue>| read_values(field.ok_or("a field is missing")?.get());
        Ok(Some(match kind {
            "state" => LobbyFrame::State { by, conn, data: object(fields.data)? },
            "host" => LobbyFrame::Host { conn: conn.ok_or("no conn")? },
            "settings" => LobbyFrame::Settings { by, settings: object(fields.settings)? },
            "countdown" => LobbyFrame::Countdown { at: fields.at },
            _ => {
                let seats: Option<Vec<Box<str>>> =
                    fields.seats.map(|seats| seats.into_iter().map(|seat| seat.conn).collect());
                let count = seats.as_ref().map(Vec::len).or(fields.count).ok_or("neither seats nor count")?;
                LobbyFrame::Start { seats, count }
            }
        }))
    }
}

impl LobbyView {
    /// Applies a frame.
    pub(crate) fn apply(&mut self, frame: &LobbyFrame) {
        match frame {
            LobbyFrame::State { conn: None, data, .. } => change(&mut self.data, data),
            LobbyFrame::State { conn: Some(conn), data, .. } => {
                let values = self.members.entry(conn.clone()).or_default();
                change(values, data);
                if values.is_empty() {
                    self.members.remove(conn);
                }
            }
            LobbyFrame::Host { conn } => self.host = Some(conn.clone()),
            LobbyFrame::Settings { settings, .. } => {
                self.settings.extend(settings.iter().map(|(key, value)| (key.clone(), value.clone())));
            }
            LobbyFrame::Countdown { at } => self.countdown = *at,
            LobbyFrame::Start { .. } => self.countdown = None,
        }
    }

    /// Returns the data of the lobby, or of the member in the seat `of`.
    pub(crate) fn data_of(&self, of: Option<&str>) -> Values {
        match of {
            None => self.data.clone(),
            Some(of) => self.members.get(of).cloned().unwrap_or_default(),
        }
    }

    /// Returns the data after a change of it.
    pub(crate) fn after(&self, of: Option<&str>, changes: &Values) -> Values {
        let mut values = self.data_of(of);
        change(&mut values, changes);
        values
    }

    /// Whether every member may change the data of the lobby.
    pub(crate) fn all_may_write(&self) -> bool {
        self.settings.get("write").is_some_and(|write| **write == *"\"all\"")
    }
}

/// Applies changes, of which `null` deletes a key.
fn change(values: &mut Values, changes: &Values) {
    for (key, value) in changes {
        if **value == *"null" {
            values.remove(key);
        } else {
            values.insert(key.clone(), value.clone());
        }
    }
}

/// Returns the number of bytes of values, as the bounds of the configuration count them.
pub(crate) fn bytes_of(values: &Values) -> usize {
    // A key in quotes with its escapes, a colon and a comma. No key has control characters.
    let size = |key: &str| serde_json::Value::from(key).to_string().len() + 2;
    values.iter().map(|(key, value)| size(key) + value.len()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_view_follows_the_frames() {
        let mut view = LobbyView::default();
        for (kind, text) in [
            ("state", r#"{"by":"ann","data":{"a":1,"b":[1, 2]}}"#),
            ("state", r#"{"by":null,"data":{"a":null}}"#),
            ("state", r#"{"by":"ann","conn":"s1","data":{"ready":true}}"#),
            ("state", r#"{"by":"ann","conn":"s2","data":{"ready":null}}"#),
            ("host", r#"{"conn":"s2"}"#),
            ("settings", r#"{"by":"ann","settings":{"max":4,"name":null}}"#),
            ("countdown", r#"{"at":7}"#),
        ] {
            let frame = LobbyFrame::read(kind, text).expect("valid").expect("a frame of lobby control");
            view.apply(&frame);
        }
        let values = |text| read_values(text).expect("an object");
        assert_eq!(view.data, values(r#"{"b":[1, 2]}"#));
        assert_eq!(view.members.into_iter().collect::<Vec<_>>(), [("s1".into(), values(r#"{"ready":true}"#))]);
        assert_eq!((view.host.as_deref(), view.countdown), (Some("s2"), Some(7)));
        assert_eq!(view.settings, values(r#"{"max":4,"name":null}"#));
        assert_eq!(bytes_of(&values(r#"{"a":1,"\"":22}"#)), 14);
        assert!(LobbyFrame::read("message", "{}").expect("valid").is_none());
    }
}
