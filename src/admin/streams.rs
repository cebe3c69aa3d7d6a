//! `GET /events`: the events of the server as server-sent events, for backends that cannot be called, and for pages.
//!
//! A client of the stream has a position in the event log and at most [`MAX_OUTPUT`] bytes of output: one that reads slowly
//! makes nobody wait and nothing grow.

use std::time::Duration;

use crate::base::event_kind::EventKinds;
use crate::base::time::Time;
use crate::events::log::EventLog;
use crate::events::reader::{EventQuery, EventReader, Start};
use crate::http::DateLine;
use crate::http::request::HttpRequest;
use crate::http::response::JsonResponse;
use crate::http::target::percent_decode;
use crate::lobby::is_lobby_code;

/// Most bytes of output, plus one event.
const MAX_OUTPUT: usize = 64 << 10;
/// Time without an event after which a comment is sent, so that proxies do not cut the stream.
pub(super) const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// Parses the query and the position of a request for the stream.
pub(super) fn read_query(request: &HttpRequest<'_>) -> Result<EventQuery, JsonResponse> {
    let mut query = EventQuery { kinds: EventKinds::ALL, lobby: None, start: Start::Now };
    let bad = JsonResponse::bad_request;
    for pair in request.query.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        let value =
            percent_decode(value, true).ok_or_else(|| bad("the query is not properly percent-encoded UTF-8"))?;
        match key {
            "types" => query.kinds = value.parse().map_err(|rule: String| bad(&format!("types: {rule}")))?,
            "lobby" if is_lobby_code(&value) => query.lobby = Some((&*value).into()),
            "lobby" => return Err(bad("lobby must be a lobby code")),
            "after" => {
                let after = value.parse().map_err(|_| bad("after must be the seq of an event, or 0"))?;
                query.start = Start::After(after);
            }
            _ => return Err(bad("the query may hold types, lobby and after")),
        }
    }
    if let Some(id) = request.headers.last_event_id.filter(|id| !id.is_empty()) {
        let parts = id.split_once('-').filter(|(boot, _)| boot.len() == 16);
        let parsed = parts.and_then(|(boot, seq)| Some((boot.to_owned(), seq.parse().ok()?)));
        let (boot, seq) = parsed.ok_or_else(|| bad("Last-Event-ID must be the id of an event"))?;
        query.start = Start::Resume { boot, seq };
    }
    Ok(query)
}

/// A stream that a client reads.
#[derive(Debug)]
pub(super) struct Stream {
    reader: EventReader,
    /// Whether the log has events that the client was not sent yet.
    pub(super) is_behind: bool,
}

impl Stream {
    /// Begins a stream: appends the head of the response and the first lines to `output`.
    pub(super) fn begin(query: EventQuery, log: &EventLog, date: DateLine, output: &mut Vec<u8>) -> Stream {
        output.extend_from_slice(b"HTTP/1.1 200 OK\r\n");
        output.extend_from_slice(date.as_bytes());
        output.extend_from_slice(
            b"Content-Type: text/event-stream\r\nCache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\n\
              X-Accel-Buffering: no\r\nConnection: close\r\n\r\n",
        );
        let reader = EventReader::begin(query, log, output);
        Stream { is_behind: reader.is_behind(log), reader }
    }

    /// Appends events to `output`, if it is empty. Returns whether it has changed.
    pub(super) fn fill(&mut self, log: &EventLog, output: &mut Vec<u8>) -> bool {
        let may_read = output.is_empty() && self.reader.is_behind(log);
        if may_read {
            self.reader.read(log, output, MAX_OUTPUT);
        }
        self.is_behind = self.reader.is_behind(log);
        may_read && !output.is_empty()
    }
}

/// When a comment is due after the last output was written.
pub(super) fn keep_alive_at(now: Time) -> Time {
    now + KEEP_ALIVE
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::request::SingleHeaders;

    fn read(query: &str, id: Option<&str>) -> Result<EventQuery, u16> {
        let headers = SingleHeaders { last_event_id: id, ..SingleHeaders::default() };
        let request = HttpRequest { method: "GET", path: "/events", query, headers, body: b"", keep_alive: true };
        read_query(&request).map_err(|answer| answer.status)
    }

    #[test]
    fn a_query_selects_events_and_the_begin() {
        let all = EventQuery { kinds: EventKinds::ALL, lobby: None, start: Start::Now };
        assert_eq!(read("", None), Ok(all.clone()));
        assert_eq!(read("after=0", None), Ok(EventQuery { start: Start::After(0), ..all.clone() }));
        let kinds = "joined,left".parse().expect("kinds");
        let some = EventQuery { kinds, lobby: Some("chess".into()), start: Start::After(7) };
        assert_eq!(read("types=joined%2Cleft&lobby=chess&after=7", Some("")), Ok(some));
        let start = Start::Resume { boot: "7c1e9b52d0a4f366".into(), seq: 12 };
        assert_eq!(read("after=3", Some("7c1e9b52d0a4f366-12")), Ok(EventQuery { start, ..all }));
        for bad in ["types=", "types=entered", "lobby=", "lobby=a%20b", "after=", "after=-1", "since=1", "lobby=%ff"] {
            assert_eq!(read(bad, None), Err(400), "{bad}");
        }
        for bad in ["12", "7c1e9b52d0a4f366-", "7c1e9b52d0a4f366-x", "7c1e-12"] {
            assert_eq!(read("", Some(bad)), Err(400), "{bad}");
        }
    }
}
