//! The JSON of an event.

use std::fmt::Write;

use crate::base::event_kind::EventKind;
use crate::engine::state::feed::FeedEvent;

/// Writes a string as JSON.
fn put_string(out: &mut String, text: &str) {
    out.push_str(&serde_json::to_string(text).expect("a string always serializes"));
}

fn put_field(out: &mut String, name: &str, text: &str) {
    let _ = write!(out, ",\"{name}\":");
    put_string(out, text);
}

/// Returns the event as one JSON object without a line break. `node` is this node of a cluster.
pub(super) fn write_event(boot: &str, seq: u64, node: Option<&str>, event: &FeedEvent) -> String {
    let mut out = String::with_capacity(192);
    // Writing to a string cannot fail.
    let _ = write!(out, "{{\"boot\":\"{boot}\",\"seq\":{seq},\"at\":{}", event.unix_millis);
    if let Some(node) = node {
        put_field(&mut out, "node", node);
    }
    put_field(&mut out, "type", event.kind.word());
    if event.kind == EventKind::ServerStarted {
        put_field(&mut out, "version", env!("CARGO_PKG_VERSION"));
    }
    if let Some(lobby) = &event.lobby {
        put_field(&mut out, "lobby", lobby);
    }
    if let Some(member) = &event.member {
        put_field(&mut out, "user", &member.user);
        let _ = write!(out, ",\"conn\":\"{}\"", member.seat);
        if let Some(is_watcher) = member.is_watcher {
            put_field(&mut out, "role", if is_watcher { "watch" } else { "member" });
        }
    }
    if let Some(reason) = event.reason {
        put_field(&mut out, "reason", reason.word());
    }
    if let Some(millis) = event.deadline_millis {
        let _ = write!(out, ",\"deadline_ms\":{millis}");
    }
    out.push('}');
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::close::LeaveReason;
    use crate::base::id::SeatId;
    use crate::engine::state::feed::FeedMember;

    fn event(kind: EventKind) -> FeedEvent {
        FeedEvent { unix_millis: 1000, kind, lobby: None, member: None, reason: None, deadline_millis: None }
    }

    #[track_caller]
    fn check(node: Option<&str>, event: &FeedEvent, expected: &str) {
        let text = write_event("00ff", 7, node, event);
        assert_eq!(text, expected);
        serde_json::from_str::<serde_json::Value>(&text).expect("JSON");
    }

    #[test]
    fn events_are_objects_with_their_keys_in_this_order() {
        let member = FeedMember { user: "Zoë \"\u{2028}".into(), seat: SeatId(3), is_watcher: Some(true) };
        let left = FeedEvent {
            lobby: Some("chess".into()),
            member: Some(member.clone()),
            reason: Some(LeaveReason::Kicked),
            ..event(EventKind::Left)
        };
        check(
            Some("a"),
            &left,
            "{\"boot\":\"00ff\",\"seq\":7,\"at\":1000,\"node\":\"a\",\"type\":\"left\",\"lobby\":\"chess\",\
             \"user\":\"Zoë \\\"\u{2028}\",\"conn\":\"s3\",\"role\":\"watch\",\"reason\":\"kicked\"}",
        );
        let host = FeedEvent {
            lobby: Some("chess".into()),
            member: Some(FeedMember { is_watcher: None, user: "bob".into(), ..member }),
            ..event(EventKind::Host)
        };
        check(
            None,
            &host,
            r#"{"boot":"00ff","seq":7,"at":1000,"type":"host","lobby":"chess","user":"bob","conn":"s3"}"#,
        );
        let draining = FeedEvent { deadline_millis: Some(30_000), ..event(EventKind::Draining) };
        check(None, &draining, r#"{"boot":"00ff","seq":7,"at":1000,"type":"draining","deadline_ms":30000}"#);
        let started = write_event("00ff", 1, None, &event(EventKind::ServerStarted));
        assert!(started.ends_with(concat!("\"version\":\"", env!("CARGO_PKG_VERSION"), "\"}")));
    }
}
