//! Writes the server's messages.

use serde::Serialize;

use super::writer::{Mark, MessageWriter};
use crate::base::close::{CloseReason, Reconnect, Reject};
use crate::base::id::SeatId;
use crate::lobby::control::entries::Entries;
use crate::lobby::presence::{AnnouncedMember, Departure};

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
    #[serde(flatten)]
    pub(crate) session: Option<WelcomeSession>,
}

/// What a client with a session needs in order to come back.
#[derive(Serialize)]
pub(crate) struct WelcomeSession {
    /// Time for which its seat is kept.
    pub(crate) away_ms: u64,
    /// Highest integer `ref` that was used.
    pub(crate) done: u64,
    /// The refused ones among the last 64, as hexadecimal digits: bit 0 is `done`, bit `i` is `done - i`.
    pub(crate) refused: String,
    /// Number of replayed frames that follow.
    pub(crate) replay: u64,
    /// Number of the last direct message before those that follow.
    pub(crate) n: u64,
    /// Lobby control is on: a `lobby_state` follows each `presence_state`.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(crate) control: bool,
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

pub(crate) fn write_message(out: &mut String, from: &str, seq: u64, data: &str) {
    MessageWriter::of_type(out, "message").string("from", from).number("seq", seq).raw("data", data).end();
}

/// Writes a `message` that is not numbered.
pub(crate) fn write_volatile_message(out: &mut String, from: &str, data: &str) {
    MessageWriter::of_type(out, "message").string("from", from).raw("data", data).end();
}

/// Writes a `direct`. In a session it has a number.
pub(crate) fn write_direct(out: &mut String, from: &str, n: Option<u64>, data: &str) {
    MessageWriter::of_type(out, "direct").string("from", from).optional_number("n", n).raw("data", data).end();
}

/// Returns the text of a `direct` that has a number, with another one.
pub(crate) fn renumbered_direct(text: &str, n: u64) -> String {
    // In a string, such as the user id before, a quote has a backslash. The data follows.
    const FIELD: &str = r#","n":"#;
    match text.split_once(FIELD) {
        Some((head, rest)) => {
            format!("{head}{FIELD}{n}{}", rest.trim_start_matches(|digit: char| digit.is_ascii_digit()))
        }
        None => text.to_owned(),
    }
}

/// Writes a `message` from the application or an operator: `from` is `null`.
pub(crate) fn write_server_message(out: &mut String, seq: Option<u64>, data: &str) {
    MessageWriter::of_type(out, "message").raw("from", "null").optional_number("seq", seq).raw("data", data).end();
}

/// Writes a `direct` from an operator: `from` is `null`.
pub(crate) fn write_server_direct(out: &mut String, n: Option<u64>, data: &str) {
    MessageWriter::of_type(out, "direct").raw("from", "null").optional_number("n", n).raw("data", data).end();
}

/// Writes an `ack`. `seq` is the number of the `message` that the request was sent as, if any.
pub(crate) fn write_ack(out: &mut String, reference: &str, seq: Option<u64>) {
    MessageWriter::of_type(out, "ack").raw("ref", reference).optional_number("seq", seq).end();
}

/// Writes the answer to a request of a session that was executed before.
pub(crate) fn write_repeated_ack(out: &mut String, reference: &str) {
    MessageWriter::of_type(out, "ack").raw("ref", reference).raw("repeated", "true").end();
}

/// Writes the answer to a request of a session whose `ref` was refused before, or skipped.
pub(crate) fn write_repeated_error(out: &mut String, reference: &str) {
    MessageWriter::of_type(out, "error")
        .raw("ref", reference)
        .string("code", "refused")
        .string("message", "a request with this ref was not executed; use a new one")
        .raw("repeated", "true")
        .end();
}

/// Writes the `ack` of a broadcast. `seq` is the number of its `message`, if it has one.
pub(crate) fn write_broadcast_ack(
    out: &mut String,
    reference: &str,
    seq: Option<u64>,
    delivered: usize,
    dropped: usize,
) {
    MessageWriter::of_type(out, "ack")
        .raw("ref", reference)
        .optional_number("seq", seq)
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
/// `url` is where the client finds its lobby.
pub(crate) fn write_goodbye(out: &mut String, reason: CloseReason, retry_after_ms: Option<u64>, url: Option<&str>) {
    let reconnect = if reason.reconnect() == Reconnect::No && retry_after_ms.is_none() { "false" } else { "true" };
    MessageWriter::of_type(out, "goodbye")
        .number("code", u64::from(reason.code()))
        .string("reason", reason.word())
        .raw("reconnect", reconnect)
        .optional_number("retry_after_ms", retry_after_ms)
        .optional_string("url", url)
        .end();
}

/// A member of a `presence_state`.
pub(crate) struct ListedMember<'a> {
    pub(crate) user: &'a str,
    pub(crate) seat: SeatId,
    pub(crate) is_away: bool,
    pub(crate) data: Option<&'a Entries>,
}

/// Writes a `presence_state`: the list of members, or only `count` if `users` is `None`, because the lobby is too large
/// for a list.
pub(crate) fn write_presence_state<'a>(
    out: &mut String,
    seq: u64,
    count: usize,
    users: Option<impl Iterator<Item = ListedMember<'a>>>,
) {
    let mut object = MessageWriter::of_type(out, "presence_state").number("seq", seq);
    match users {
        None => object = object.number("count", count as u64),
        Some(users) => {
            let mark = |ListedMember { user, seat, is_away, data }| (user, seat, Mark::Listed { is_away, data });
            object.members("users", users.map(mark));
        }
    }
    object.end();
}

/// Writes a `presence_diff`. The lists of members that are away and back appear only if they have members.
pub(crate) fn write_presence_diff<'a>(
    out: &mut String,
    seq: u64,
    joins: impl Iterator<Item = (&'a str, SeatId)>,
    leaves: &[Departure],
    away: &[AnnouncedMember],
    back: &[AnnouncedMember],
) {
    let mut object = MessageWriter::of_type(out, "presence_diff").number("seq", seq);
    object.members("joins", joins.map(|(user, seat)| (user, seat, Mark::None)));
    object.members("leaves", leaves.iter().map(|left| (&*left.user, left.seat, Mark::Left(left.reason))));
    for (key, members) in [("away", away), ("back", back)] {
        if !members.is_empty() {
            object.members(key, members.iter().map(|member| (&*member.user, member.seat, Mark::None)));
        }
    }
    object.end();
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::close::LeaveReason;

    #[test]
    fn names_with_special_characters_are_escaped() {
        let mut out = String::new();
        let name = "a\"b\\c\u{2028}d";
        write_message(&mut out, name, 3, "{\"x\": 1}");
        let value: serde_json::Value = serde_json::from_str(&out).expect(&out);
        assert_eq!(value, serde_json::json!({"type": "message", "from": name, "seq": 3, "data": {"x": 1}}));

        let departure = Departure { user: "bob".into(), seat: SeatId(2), reason: LeaveReason::Slow };
        write_presence_diff(&mut out, 9, [("ann", SeatId(1)), (name, SeatId(3))].into_iter(), &[departure], &[], &[]);
        let value: serde_json::Value = serde_json::from_str(&out).expect(&out);
        assert_eq!(value["joins"][1], serde_json::json!({"user": name, "conn": "s3"}));
        assert_eq!(value["leaves"][0], serde_json::json!({"user": "bob", "conn": "s2", "reason": "slow"}));

        write_goodbye(&mut out, CloseReason::ServerShutdown, Some(250), None);
        assert_eq!(
            out,
            r#"{"type":"goodbye","code":1001,"reason":"server_shutdown","reconnect":true,"retry_after_ms":250}"#
        );
    }

    #[track_caller]
    fn check(write: impl FnOnce(&mut String), expected: &str) {
        let mut out = String::new();
        write(&mut out);
        assert_eq!(out, expected);
    }

    #[test]
    fn direct_messages_have_a_number_only_in_sessions() {
        check(|out| write_direct(out, "ann", None, "[1]"), r#"{"type":"direct","from":"ann","data":[1]}"#);
        check(|out| write_direct(out, "ann", Some(3), "[1]"), r#"{"type":"direct","from":"ann","n":3,"data":[1]}"#);
        check(|out| write_server_direct(out, None, "0"), r#"{"type":"direct","from":null,"data":0}"#);
        check(|out| write_server_direct(out, Some(1), "0"), r#"{"type":"direct","from":null,"n":1,"data":0}"#);
    }

    #[test]
    fn repeated_requests_are_answered_as_such() {
        check(|out| write_repeated_ack(out, "7"), r#"{"type":"ack","ref":7,"repeated":true}"#);
        let error = concat!(
            r#"{"type":"error","ref":7,"code":"refused","#,
            r#""message":"a request with this ref was not executed; use a new one","repeated":true}"#
        );
        check(|out| write_repeated_error(out, "7"), error);
        check(|out| write_ack(out, "\"a\"", Some(5)), r#"{"type":"ack","ref":"a","seq":5}"#);
    }

    #[test]
    fn presence_names_members_that_are_away_only_if_there_are_any() {
        let joins = || [("ann", SeatId(1))].into_iter();
        let member = |user: &str, seat| AnnouncedMember { user: user.into(), seat: SeatId(seat) };
        let (bob, cid) = (member("bob", 2), member("cid", 3));
        let left = Departure { user: "dan".into(), seat: SeatId(4), reason: LeaveReason::Timeout };
        check(
            |out| write_presence_diff(out, 1, joins(), &[], &[], &[]),
            r#"{"type":"presence_diff","seq":1,"joins":[{"user":"ann","conn":"s1"}],"leaves":[]}"#,
        );
        check(
            |out| write_presence_diff(out, 1, [].into_iter(), &[left], &[bob], &[cid]),
            concat!(
                r#"{"type":"presence_diff","seq":1,"joins":[],"leaves":[{"user":"dan","conn":"s4","reason":"timeout"}],"#,
                r#""away":[{"user":"bob","conn":"s2"}],"back":[{"user":"cid","conn":"s3"}]}"#
            ),
        );
        let member = |user, seat, is_away| ListedMember { user, seat: SeatId(seat), is_away, data: None };
        let users = [member("ann", 1, false), member("bob", 2, true)].into_iter();
        check(
            |out| write_presence_state(out, 5, 2, Some(users)),
            concat!(
                r#"{"type":"presence_state","seq":5,"users":[{"user":"ann","conn":"s1"},"#,
                r#"{"user":"bob","conn":"s2","away":true}]}"#
            ),
        );
    }

    #[test]
    fn welcome_ends_with_what_a_session_needs() {
        let mut welcome = Welcome {
            protocol: 1,
            conn: "s1".to_owned(),
            user: "ann",
            lobby: "chess",
            epoch: 9,
            seq: 3,
            resumed: true,
            recovered: true,
            server_time: 5,
            limits: WelcomeLimits { max_message_bytes: 10, messages_per_second: serde_json::Number::from_f64(2.5) },
            ping: WelcomePing { interval_ms: 1, timeout_ms: 2 },
            tick: Some(WelcomeTick { hz: 20, tick: 7 }),
            session: None,
        };
        let without = concat!(
            r#"{"type":"welcome","protocol":1,"conn":"s1","user":"ann","lobby":"chess","epoch":9,"seq":3,"#,
            r#""resumed":true,"recovered":true,"server_time":5,"#,
            r#""limits":{"max_message_bytes":10,"messages_per_second":2.5},"#,
            r#""ping":{"interval_ms":1,"timeout_ms":2},"tick":{"hz":20,"tick":7}"#
        );
        check(|out| welcome.write(out), &format!("{without}}}"));
        let refused = "1f".to_owned();
        welcome.session = Some(WelcomeSession { away_ms: 30_000, done: 8, refused, replay: 2, n: 4, control: false });
        let session = r#""away_ms":30000,"done":8,"refused":"1f","replay":2,"n":4"#;
        check(|out| welcome.write(out), &format!("{without},{session}}}"));
        welcome.session.as_mut().expect("it was set").control = true;
        check(|out| welcome.write(out), &format!(r#"{without},{session},"control":true}}"#));
    }
}
