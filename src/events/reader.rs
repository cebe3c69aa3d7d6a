//! One client of the operators' event stream: its filter, its position, and the server-sent events for it.

use std::fmt::Write;

use smol_str::SmolStr;

use super::log::{Entry, EventLog};
use crate::base::event_kind::EventKinds;

/// Beginning of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Start {
    /// With what happens from now on.
    Now,
    /// After the event with this number, of this start of the server.
    After(u64),
    /// After the last event that the client has read: its `Last-Event-ID`.
    Resume { boot: String, seq: u64 },
}

/// Selection of the events that a client reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct EventQuery {
    pub(crate) kinds: EventKinds,
    /// Only events of this lobby, and of the server.
    pub(crate) lobby: Option<SmolStr>,
    pub(crate) start: Start,
}

impl EventQuery {
    fn wants(&self, entry: &Entry) -> bool {
        let is_of_lobby = |lobby: &SmolStr| entry.lobby.as_ref().is_none_or(|of| of == lobby);
        self.kinds.contains(entry.kind) && self.lobby.as_ref().is_none_or(is_of_lobby)
    }
}

/// A client of the event stream.
#[derive(Debug)]
pub(crate) struct EventReader {
    query: EventQuery,
    /// Number of the next event to send.
    next: u64,
}

impl EventReader {
    /// Begins a stream. Appends its first lines to `out`.
    pub(crate) fn begin(query: EventQuery, log: &EventLog, out: &mut Vec<u8>) -> EventReader {
        let (last, oldest, boot) = (log.last(), log.oldest(), log.boot());
        let hello = format!("{{\"type\":\"hello\",\"boot\":\"{boot}\",\"seq\":{last},\"oldest\":{oldest}}}");
        out.extend_from_slice(format!("retry: 1000\n\ndata: {hello}\n\n").as_bytes());
        let next = match &query.start {
            Start::Now => last + 1,
            // A number that does not exist yet is a mistake, or of another start.
            Start::After(seq) => seq.saturating_add(1).min(last + 1),
            Start::Resume { boot: of, seq } if of == boot => seq.saturating_add(1).min(last + 1),
            Start::Resume { .. } => {
                put_lost(out, boot, None);
                1
            }
        };
        let is_new_boot = matches!(&query.start, Start::Resume { boot: of, .. } if of != boot);
        // What the log has lost of a new start is part of the loss that was just reported.
        let next = if is_new_boot { next.max(oldest) } else { next };
        EventReader { query, next }
    }

    /// Whether there is an event that was not looked at.
    pub(crate) fn is_behind(&self, log: &EventLog) -> bool {
        self.next <= log.last()
    }

    /// Appends events to `out` until that has `max_bytes` or more, or none is left.
    pub(crate) fn read(&mut self, log: &EventLog, out: &mut Vec<u8>, max_bytes: usize) {
        if self.next < log.oldest() {
            put_lost(out, log.boot(), Some(log.oldest() - self.next));
            self.next = log.oldest();
        }
        for entry in log.from(self.next) {
            if out.len() >= max_bytes {
                break;
            }
            self.next = entry.seq + 1;
            if self.query.wants(entry) {
                let mut text = String::new();
                // Writing to a string cannot fail.
                let _ = write!(text, "id: {}-{}\ndata: {}\n\n", log.boot(), entry.seq, entry.text);
                out.extend_from_slice(text.as_bytes());
            }
        }
    }
}

fn put_lost(out: &mut Vec<u8>, boot: &str, count: Option<u64>) {
    let count = count.map_or("null".to_owned(), |count| count.to_string());
    out.extend_from_slice(format!("data: {{\"type\":\"lost\",\"boot\":\"{boot}\",\"count\":{count}}}\n\n").as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::event_kind::EventKind;
    use crate::events::log::tests::event;

    fn query(start: Start) -> EventQuery {
        EventQuery { kinds: EventKinds::ALL, lobby: None, start }
    }

    fn log(events: usize) -> EventLog {
        let mut log = EventLog::new(10, None, 4);
        (0..events).for_each(|at| drop(log.push(&event(EventKind::Joined, Some(if at % 2 == 0 { "a" } else { "b" })))));
        log
    }

    /// The numbers of the events that a reader gets, and the losses that it is told.
    #[track_caller]
    fn check(start: Start, log: &EventLog, expected: &[&str]) {
        let mut out = Vec::new();
        EventReader::begin(query(start), log, &mut out).read(log, &mut out, usize::MAX);
        assert_eq!(told(&out), expected);
    }

    fn told(out: &[u8]) -> Vec<String> {
        let text = str::from_utf8(out).expect("UTF-8");
        let objects = text.lines().filter_map(|line| line.strip_prefix("data: "));
        let objects = objects.map(|object| serde_json::from_str::<serde_json::Value>(object).expect("JSON"));
        objects
            .filter(|object| object["type"] != "hello")
            .map(
                |object| {
                    if object["type"] == "lost" {
                        format!("lost {}", object["count"])
                    } else {
                        object["seq"].to_string()
                    }
                },
            )
            .collect()
    }

    #[test]
    fn a_stream_begins_where_the_client_says_and_tells_what_is_lost() {
        let resume = |boot: &str, seq| Start::Resume { boot: boot.into(), seq };
        let own = "000000000000000a";
        check(Start::Now, &log(3), &[]);
        check(Start::After(0), &log(3), &["1", "2", "3"]);
        check(Start::After(2), &log(3), &["3"]);
        check(Start::After(99), &log(3), &[]);
        check(Start::After(1), &log(9), &["lost 4", "6", "7", "8", "9"]);
        check(resume(own, 2), &log(3), &["3"]);
        check(resume(own, 0), &log(5), &["lost 1", "2", "3", "4", "5"]);
        check(resume("000000000000000b", 2), &log(3), &["lost null", "1", "2", "3"]);
        check(resume("000000000000000b", 900), &log(6), &["lost null", "3", "4", "5", "6"]);
        check(Start::After(u64::MAX), &log(1), &[]);
    }

    #[test]
    fn a_filter_skips_events_but_not_those_of_the_server() {
        let mut log = log(2);
        log.push(&event(EventKind::Left, Some("a")));
        log.push(&event(EventKind::Draining, None));
        let wanted = |kinds: &str, lobby: Option<&str>| {
            let query = EventQuery {
                kinds: kinds.parse().expect("kinds"),
                lobby: lobby.map(SmolStr::new),
                start: Start::After(0),
            };
            let mut out = Vec::new();
            let mut reader = EventReader::begin(query, &log, &mut out);
            reader.read(&log, &mut out, usize::MAX);
            assert!(!reader.is_behind(&log));
            told(&out)
        };
        assert_eq!(wanted("all", Some("a")), ["1", "3", "4"]);
        assert_eq!(wanted("left,joined", Some("b")), ["2"]);
        assert_eq!(wanted("draining", None), ["4"]);
    }

    #[test]
    fn a_reader_stops_at_the_bound_and_goes_on_from_there() {
        let log = log(4);
        let mut out = Vec::new();
        let mut reader = EventReader::begin(query(Start::After(0)), &log, &mut out);
        out.clear();
        reader.read(&log, &mut out, 1);
        assert_eq!((told(&out), reader.is_behind(&log)), (vec!["1".to_owned()], true));
        out.clear();
        reader.read(&log, &mut out, usize::MAX);
        assert_eq!(told(&out), ["2", "3", "4"]);
    }
}
