//! Requests and messages of lobby control.

use std::borrow::Cow;

use super::object::Object;
use super::settings::push_settings;
use super::writer::{CONTROL_TYPES, MessageWriter, push_changes, push_data};
use crate::base::id::SeatId;
use crate::base::number::integer;
use crate::lobby::control::entries::{Change, Entries, MAX_KEY_BYTES};
use crate::lobby::control::settings::{Settings, SettingsBounds, SettingsChange};

/// A request of a member to change its lobby.
#[derive(Debug, PartialEq)]
pub(crate) enum ControlRequest<'a> {
    Set {
        data: DataChanges<'a>,
        /// The member whose data it is; `None` for that of the lobby.
        of: Option<SeatId>,
        /// Changes only if none of the keys has changed since this `seq`.
        if_seq: Option<u64>,
    },
    Host {
        conn: SeatId,
    },
    Kick {
        user: Cow<'a, str>,
        is_banned: bool,
    },
    Unban {
        user: Cow<'a, str>,
    },
    /// The object `settings`, as JSON.
    Settings {
        settings: &'a str,
    },
}

/// Changes of data: keys and values, of which `None` deletes the key.
#[derive(Debug, PartialEq)]
pub(crate) struct DataChanges<'a> {
    text: &'a str,
    changes: Vec<(Cow<'a, str>, Option<&'a str>)>,
}

impl<'a> DataChanges<'a> {
    /// Reads changes from a JSON object.
    ///
    /// # Errors
    ///
    /// The rule that it breaks.
    pub(crate) fn read(text: &'a str) -> Result<DataChanges<'a>, &'static str> {
        let object = Object::read(text).ok_or("data must be an object")?;
        if object.0.is_empty() {
            return Err("data must have at least one key");
        }
        if object.repeated_key().is_some() {
            return Err("data has a key twice");
        }
        let is_key = |key: &str| (1..=MAX_KEY_BYTES).contains(&key.len()) && !key.chars().any(char::is_control);
        if !object.0.iter().all(|(key, _)| is_key(key)) {
            return Err("keys of data must have 1 to 64 bytes and no control characters");
        }
        let change = |(key, value)| (key, Some(value).filter(|&value| value != "null"));
        Ok(DataChanges { text, changes: object.0.into_iter().map(change).collect() })
    }

    /// The JSON object.
    pub(crate) fn text(&self) -> &'a str {
        self.text
    }

    pub(crate) fn changes(&self) -> Vec<Change<'_>> {
        self.changes.iter().map(|(key, value)| (&**key, *value)).collect()
    }
}

/// The fields of these requests, as JSON text.
#[derive(Default)]
struct Fields<'a> {
    data: Option<&'a str>,
    of: Option<&'a str>,
    if_seq: Option<&'a str>,
    conn: Option<&'a str>,
    user: Option<&'a str>,
    ban: Option<&'a str>,
    settings: Option<&'a str>,
}

/// Reads the request of the type `kind` from a message. `None` if it is not one of lobby control.
///
/// # Errors
///
/// The rule that the request breaks.
pub(super) fn read_control<'a>(kind: &str, text: &'a str) -> Result<Option<ControlRequest<'a>>, &'static str> {
    if CONTROL_TYPES.contains(&kind) {
        return Err("only the server sends this type");
    }
    if !["set", "host", "kick", "unban", "settings"].contains(&kind) {
        return Ok(None);
    }
    let object = Object::read(text).expect("the message is an object");
    let mut fields = Fields::default();
    for (key, value) in &object.0 {
        let field = match &**key {
            "data" => &mut fields.data,
            "of" => &mut fields.of,
            "if" => &mut fields.if_seq,
            "conn" => &mut fields.conn,
            "user" => &mut fields.user,
            "ban" => &mut fields.ban,
            "settings" => &mut fields.settings,
            _ => continue,
        };
        // `null` in an optional field means that the field is absent.
        if field.replace(value).is_some() {
            return Err("a field occurs twice");
        }
    }
    let optional = |field: Option<&'a str>| field.filter(|&value| value != "null");
    let user = || {
        let user = fields.user.and_then(|user| serde_json::from_str(user).ok());
        user.map(|BorrowedText(user)| user).ok_or("user must be a string")
    };
    Ok(Some(match kind {
        "set" => ControlRequest::Set {
            data: DataChanges::read(fields.data.ok_or("data is missing")?)?,
            of: optional(fields.of).map(|of| seat(of).ok_or("of must be the conn of a member")).transpose()?,
            if_seq: optional(fields.if_seq).map(seq).transpose()?,
        },
        "host" => ControlRequest::Host { conn: fields.conn.and_then(seat).ok_or("conn must be the conn of a member")? },
        "kick" => ControlRequest::Kick {
            user: user()?,
            is_banned: match optional(fields.ban) {
                None | Some("false") => false,
                Some("true") => true,
                Some(_) => return Err("ban must be true or false"),
            },
        },
        "unban" => ControlRequest::Unban { user: user()? },
        _ => ControlRequest::Settings { settings: fields.settings.ok_or("settings is missing")? },
    }))
}

/// A string, borrowed if it has no escapes.
#[derive(serde::Deserialize)]
#[serde(transparent)]
struct BorrowedText<'a>(#[serde(borrow)] Cow<'a, str>);

fn seat(raw: &str) -> Option<SeatId> {
    SeatId::read(raw.strip_prefix('"')?.strip_suffix('"')?)
}

fn seq(raw: &str) -> Result<u64, &'static str> {
    integer(raw).and_then(|seq| u64::try_from(seq).ok()).ok_or("if must be a seq")
}

/// A lobby's state, for a member that has just joined or come back.
pub(crate) struct LobbyState<'a> {
    pub(crate) seq: u64,
    pub(crate) host: Option<SeatId>,
    pub(crate) settings: &'a Settings,
    pub(crate) is_locked: bool,
    pub(crate) bounds: SettingsBounds,
    pub(crate) data: &'a Entries,
    pub(crate) watchers: u32,
    /// Milliseconds since the Unix epoch.
    pub(crate) countdown: Option<u64>,
}

impl LobbyState<'_> {
    pub(crate) fn write(&self, out: &mut String) {
        let mut object = MessageWriter::of_type(out, "lobby_state").number("seq", self.seq);
        object = host(object, "host", self.host).raw("settings", "");
        push_settings(object.out(), self.settings, self.is_locked, self.bounds, None);
        object = object.raw("data", "");
        push_data(object.out(), self.data);
        object.number("watchers", u64::from(self.watchers)).optional_number("countdown", self.countdown).end();
    }
}

fn host<'a>(object: MessageWriter<'a>, key: &str, seat: Option<SeatId>) -> MessageWriter<'a> {
    match seat {
        Some(seat) => object.string(key, &seat.to_string()),
        None => object.raw(key, "null"),
    }
}

fn by<'a>(object: MessageWriter<'a>, user: Option<&str>) -> MessageWriter<'a> {
    match user {
        Some(user) => object.string("by", user),
        None => object.raw("by", "null"),
    }
}

/// Writes a `state`: changed data of the lobby, or of the member in the seat `conn`.
pub(crate) fn write_state(
    out: &mut String,
    seq: u64,
    user: Option<&str>,
    conn: Option<SeatId>,
    changes: &[Change<'_>],
) {
    let mut object = by(MessageWriter::of_type(out, "state").number("seq", seq), user);
    if let Some(conn) = conn {
        object = object.string("conn", &conn.to_string());
    }
    object = object.raw("data", "");
    push_changes(object.out(), changes.iter().copied());
    object.end();
}

pub(crate) fn write_host(out: &mut String, seq: u64, conn: SeatId) {
    MessageWriter::of_type(out, "host").number("seq", seq).string("conn", &conn.to_string()).end();
}

/// Writes the settings that have changed.
pub(crate) fn write_settings(
    out: &mut String,
    seq: u64,
    user: Option<&str>,
    (settings, is_locked): (&Settings, bool),
    bounds: SettingsBounds,
    change: &SettingsChange,
) {
    let mut object = by(MessageWriter::of_type(out, "settings").number("seq", seq), user).raw("settings", "");
    push_settings(object.out(), settings, is_locked, bounds, Some(change));
    object.end();
}

/// Writes a `countdown`; `at` is in milliseconds since the Unix epoch, or `None` if it is cancelled.
pub(crate) fn write_countdown(out: &mut String, seq: u64, at: Option<u64>) {
    let object = MessageWriter::of_type(out, "countdown").number("seq", seq);
    match at {
        Some(at) => object.number("at", at).end(),
        None => object.raw("at", "null").end(),
    }
}

/// Writes a `start`: the list of members, or only `count` if `seats` is `None`, because the lobby is too large for a list.
pub(crate) fn write_start<'a>(
    out: &mut String,
    seq: u64,
    count: usize,
    seats: Option<impl Iterator<Item = (&'a str, SeatId)>>,
) {
    let mut object = MessageWriter::of_type(out, "start").number("seq", seq);
    match seats {
        Some(seats) => object.seats("seats", seats),
        None => object = object.number("count", count as u64),
    }
    object.end();
}

/// Writes the answer to a conditional `set` whose keys have changed: the `seq` of their newest change and their values.
pub(crate) fn write_conflict<'a>(
    out: &mut String,
    reference: Option<&str>,
    seq: u64,
    values: impl Iterator<Item = (&'a str, Option<&'a str>)>,
) {
    let mut object = MessageWriter::of_type(out, "error")
        .reference(reference)
        .string("code", "conflict")
        .string("message", "the data has changed since; read seq and data, and try again")
        .number("seq", seq)
        .raw("data", "");
    push_changes(object.out(), values);
    object.end();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(kind: &str, text: &str, expected: Result<Option<ControlRequest<'_>>, &'static str>) {
        assert_eq!(read_control(kind, text), expected, "{text}");
    }

    const DATA: &str = r#"{"b":[1, 2],"a":null}"#;

    fn set(of: Option<u64>, if_seq: Option<u64>) -> ControlRequest<'static> {
        let changes = vec![("b".into(), Some("[1, 2]")), ("a".into(), None)];
        ControlRequest::Set { data: DataChanges { text: DATA, changes }, of: of.map(SeatId), if_seq }
    }

    #[test]
    fn requests_are_read() {
        check("set", &format!(r#"{{"data":{DATA}}}"#), Ok(Some(set(None, None))));
        check("set", &format!(r#"{{"of":"s3","if":7.0,"data":{DATA}}}"#), Ok(Some(set(Some(3), Some(7)))));
        check("set", &format!(r#"{{"of":null,"if":null,"data":{DATA}}}"#), Ok(Some(set(None, None))));
        check("host", r#"{"conn":"s12"}"#, Ok(Some(ControlRequest::Host { conn: SeatId(12) })));
        let kick = |is_banned| Ok(Some(ControlRequest::Kick { user: "zoë".into(), is_banned }));
        check("kick", r#"{"user":"zo\u00eb"}"#, kick(false));
        check("kick", r#"{"user":"zoë","ban":true}"#, kick(true));
        check("unban", r#"{"user":"ann"}"#, Ok(Some(ControlRequest::Unban { user: "ann".into() })));
        check("settings", r#"{"settings":{"max":2}}"#, Ok(Some(ControlRequest::Settings { settings: r#"{"max":2}"# })));
        check("move", r#"{"data":1,"data":2}"#, Ok(None));
    }

    #[test]
    fn malformed_requests_are_refused_with_the_rule() {
        for (kind, text, why) in [
            ("set", "{}", "data is missing"),
            ("set", r#"{"data":null}"#, "data must be an object"),
            ("set", r#"{"data":{}}"#, "data must have at least one key"),
            ("set", r#"{"data":{"a":1,"\u0061":2}}"#, "data has a key twice"),
            ("set", r#"{"data":{"":1}}"#, "keys of data must have 1 to 64 bytes and no control characters"),
            ("set", r#"{"data":{"a":1},"of":3}"#, "of must be the conn of a member"),
            ("set", r#"{"data":{"a":1},"of":"s+3"}"#, "of must be the conn of a member"),
            ("set", r#"{"data":{"a":1},"if":-1}"#, "if must be a seq"),
            ("set", r#"{"data":{"a":1},"data":{"b":1}}"#, "a field occurs twice"),
            ("host", r#"{"conn":null}"#, "conn must be the conn of a member"),
            ("kick", r#"{"user":7}"#, "user must be a string"),
            ("kick", r#"{"user":"ann","ban":1}"#, "ban must be true or false"),
            ("settings", "{}", "settings is missing"),
            ("state", "{}", "only the server sends this type"),
        ] {
            check(kind, text, Err(why));
        }
        let long = format!(r#"{{"data":{{"{}":1}}}}"#, "k".repeat(65));
        check("set", &long, Err("keys of data must have 1 to 64 bytes and no control characters"));
    }

    #[track_caller]
    fn check_written(write: impl FnOnce(&mut String), expected: &str) {
        let mut out = String::new();
        write(&mut out);
        assert_eq!(out, expected);
    }

    #[test]
    fn messages_are_written() {
        let changes: &[Change<'_>] = &[("b", Some("[1, 2]")), ("\"", None)];
        check_written(
            |out| write_state(out, 5, Some("ann"), None, changes),
            r#"{"type":"state","seq":5,"by":"ann","data":{"b":[1, 2],"\"":null}}"#,
        );
        check_written(
            |out| write_state(out, 5, None, Some(SeatId(3)), &[("a", Some("1"))]),
            r#"{"type":"state","seq":5,"by":null,"conn":"s3","data":{"a":1}}"#,
        );
        check_written(|out| write_host(out, 6, SeatId(2)), r#"{"type":"host","seq":6,"conn":"s2"}"#);
        check_written(|out| write_countdown(out, 7, Some(9)), r#"{"type":"countdown","seq":7,"at":9}"#);
        check_written(|out| write_countdown(out, 7, None), r#"{"type":"countdown","seq":7,"at":null}"#);
        check_written(
            |out| write_start(out, 8, 2, Some([("ann", SeatId(1)), ("b\"", SeatId(2))].into_iter())),
            r#"{"type":"start","seq":8,"seats":[{"user":"ann","conn":"s1"},{"user":"b\"","conn":"s2"}]}"#,
        );
        check_written(
            |out| write_conflict(out, Some("4"), 9, [("a", Some("1")), ("b", None)].into_iter()),
            concat!(
                r#"{"type":"error","ref":4,"code":"conflict","#,
                r#""message":"the data has changed since; read seq and data, and try again","#,
                r#""seq":9,"data":{"a":1,"b":null}}"#
            ),
        );
    }
}
