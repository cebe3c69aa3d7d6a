//! Server-sent events (HTML standard, section 9.2): the requests, the heads of the answers, and frames as events.
//!
//! The events of a connection carry the position of its reader as their `id`. An `EventSource` repeats the last one as
//! `Last-Event-ID` when it connects again.

use std::io::Write as _;

use bytes::Bytes;

use super::claim::position_number;
use super::frame::{Mark, MarkedText, Outgoing};
use super::post::PostHead;
use crate::base::session::{BadClaim, Claim, Position};
use crate::http::head::Headers;
use crate::http::{Cors, DateLine, PlainResponse};

/// The `id` of the event after which a client does not come back.
const END: &str = "end";
/// Shortest wait before a client connects again, in milliseconds: without a wait, a browser tries in a loop while the
/// server is not reachable.
const MIN_RETRY_MS: u64 = 100;

/// Reads a request for an event stream (`None`) or of messages for one. A request of a method that may have no body has
/// none.
///
/// # Errors
///
/// The answer to any other request, among them those that are no refusal: 204 to a preflight, and to a client that was
/// told not to come back.
pub(super) fn read(
    method: &str,
    headers: Headers<'_, '_>,
    max_body_bytes: usize,
) -> Result<Option<PostHead>, PlainResponse> {
    match method {
        "GET" if headers.values("last-event-id").any(|id| id.trim_ascii() == END.as_bytes()) => {
            // An EventSource stops after a 204.
            Err(PlainResponse::new(204, "this stream has ended"))
        }
        "GET" => Ok(None),
        "POST" => PostHead::read(headers, max_body_bytes).map(Some),
        "OPTIONS" => Err(PlainResponse::new(204, "GET and POST are allowed").with_lines(
            "Allow: GET, POST, OPTIONS\r\nAccess-Control-Allow-Methods: GET, POST\r\n\
             Access-Control-Allow-Headers: authorization, cache-control, content-type, last-event-id\r\n\
             Access-Control-Max-Age: 7200\r\n",
        )),
        _ => Err(PlainResponse::new(405, "GET an event stream, or POST messages for it")
            .with_lines("Allow: GET, POST, OPTIONS\r\n")),
    }
}

/// Returns the claim of a request with the position that its client was told last: it is newer than that in the URL, which
/// stays the same when an `EventSource` connects again.
pub(super) fn continued(claim: Claim, headers: Headers<'_, '_>) -> Result<Claim, BadClaim> {
    let position = last_position(headers).map_err(|()| BadClaim)?;
    Ok(Claim { position: position.or(claim.position), ..claim })
}

/// Returns the position that a client was told last. Fails if it is none that a server sends.
fn last_position(headers: Headers<'_, '_>) -> Result<Option<Position>, ()> {
    let Some(id) = headers.single("last-event-id").map_err(|_| ())?.filter(|id| !id.is_empty()) else {
        return Ok(None);
    };
    let mut numbers = id.split('.').map(position_number);
    let mut next = || numbers.next().flatten().ok_or(());
    let position = Position { epoch: next()?, seq: next()?, n: next()? };
    if numbers.next().is_none() { Ok(Some(position)) } else { Err(()) }
}

/// The head of an event stream and its first line: how long to wait if the connection is lost.
///
/// The body has no length. It ends with the connection (RFC 9112 section 6.3), so a client that sees an end before the
/// goodbye knows that it was cut, and no event has to be framed twice.
pub(crate) fn stream_head(date: DateLine, cors: Option<&Cors>, retry_ms: u64) -> Bytes {
    let mut head = Vec::with_capacity(320);
    head.extend_from_slice(b"HTTP/1.1 200 OK\r\n");
    head.extend_from_slice(date.as_bytes());
    head.extend_from_slice(
        b"Content-Type: text/event-stream\r\nCache-Control: no-store\r\nX-Accel-Buffering: no\r\nConnection: close\r\n",
    );
    cors.into_iter().for_each(|cors| cors.put_lines(&mut head));
    write!(head, "\r\nretry: {retry_ms}\n\n").expect("writing to a Vec cannot fail");
    Bytes::from(head)
}

/// The answer to a POST whose messages were taken.
pub(crate) fn accepted_head(date: DateLine, cors: Option<&Cors>, keep_alive: bool) -> Bytes {
    let mut head = Vec::with_capacity(192);
    head.extend_from_slice(b"HTTP/1.1 202 Accepted\r\n");
    head.extend_from_slice(date.as_bytes());
    cors.into_iter().for_each(|cors| cors.put_lines(&mut head));
    let connection = if keep_alive { "keep-alive" } else { "close" };
    write!(head, "Cache-Control: no-store\r\nContent-Length: 0\r\nConnection: {connection}\r\n\r\n")
        .expect("writing to a Vec cannot fail");
    Bytes::from(head)
}

/// The interim answer to a client that asks whether it shall send the body.
pub(crate) const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// Position of the reader of an event stream, as far as the events go that were encoded for it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct EventPosition {
    /// `None` until the position begins, with the first `presence_state` or the position of a client that came back.
    epoch: Option<u64>,
    seq: u64,
    n: u64,
}

impl EventPosition {
    /// Begins with the position of a client that comes back, or with the number of its last direct message.
    pub(crate) fn resume(&mut self, position: Option<Position>, n: u64) {
        *self = match position {
            Some(Position { epoch, seq, n }) => EventPosition { epoch: Some(epoch), seq, n },
            None => EventPosition { epoch: None, seq: 0, n },
        };
    }

    /// Encodes a frame as an event. `None` for a frame that event streams do not carry: a binary message, or a control
    /// frame other than a ping.
    pub(crate) fn event(&mut self, frame: Outgoing<'_>) -> Option<Vec<u8>> {
        let (text, mark) = match frame {
            // A comment: the browser ignores it, and proxies see that the connection is in use.
            Outgoing::Ping(_) => return Some(b":\n\n".to_vec()),
            Outgoing::Pong(_) | Outgoing::Binary(_) => return None,
            Outgoing::Text(text) => (text, None),
            Outgoing::Marked(&MarkedText { text, mark }) => (text, Some(mark)),
            Outgoing::Frame(frame) => (frame.as_text()?, None),
        };
        let mut event = Vec::with_capacity(text.len() + 64);
        self.put_fields(mark, &mut event);
        event.extend_from_slice(b"data: ");
        // In JSON a line end is only ever white space between two tokens, as a space is. An event of one line has the
        // length of its frame, whatever a member sent.
        event.extend(text.bytes().map(|c| if matches!(c, b'\r' | b'\n') { b' ' } else { c }));
        event.extend_from_slice(b"\n\n");
        Some(event)
    }

    /// Appends the fields that follow from the mark, and moves the position.
    fn put_fields(&mut self, mark: Option<Mark>, event: &mut Vec<u8>) {
        match mark {
            None => return,
            Some(Mark::Goodbye { retry_ms: None }) => return event.extend_from_slice(b"id: end\n"),
            Some(Mark::Goodbye { retry_ms: Some(retry_ms) }) => {
                return writeln!(event, "retry: {}", retry_ms.max(MIN_RETRY_MS)).expect("writing to a Vec cannot fail");
            }
            // The `ack` of an own message may follow a later message of another member.
            Some(Mark::Seq(seq)) => self.seq = self.seq.max(seq),
            Some(Mark::Direct(n)) => self.n = self.n.max(n),
            Some(Mark::State { epoch, seq }) => {
                let is_same = self.epoch == Some(epoch);
                self.seq = if is_same { self.seq.max(seq) } else { seq };
                self.epoch = Some(epoch);
            }
        }
        if let EventPosition { epoch: Some(epoch), seq, n } = *self {
            writeln!(event, "id: {epoch}.{seq}.{n}").expect("writing to a Vec cannot fail");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::head::{HeaderLines, RequestHead};
    use crate::ws::frame::Frame;

    fn event(position: &mut EventPosition, text: &str, mark: Mark) -> String {
        let event = position.event(Outgoing::Marked(&MarkedText { text, mark })).expect("an event");
        String::from_utf8(event).expect("UTF-8")
    }

    #[test]
    fn an_event_names_the_position_behind_it() {
        let mut position = EventPosition::default();
        assert_eq!(event(&mut position, "1", Mark::Direct(1)), "data: 1\n\n", "the position has not begun");
        assert_eq!(event(&mut position, "2", Mark::State { epoch: 7, seq: 3 }), "id: 7.3.1\ndata: 2\n\n");
        assert_eq!(event(&mut position, "3", Mark::Seq(5)), "id: 7.5.1\ndata: 3\n\n");
        assert_eq!(event(&mut position, "4", Mark::Seq(4)), "id: 7.5.1\ndata: 4\n\n", "it never goes back");
        assert_eq!(event(&mut position, "5", Mark::Direct(2)), "id: 7.5.2\ndata: 5\n\n");
        assert_eq!(event(&mut position, "6", Mark::State { epoch: 8, seq: 0 }), "id: 8.0.2\ndata: 6\n\n");
        assert_eq!(event(&mut position, "7", Mark::Goodbye { retry_ms: Some(0) }), "retry: 100\ndata: 7\n\n");
        assert_eq!(event(&mut position, "8", Mark::Goodbye { retry_ms: None }), "id: end\ndata: 8\n\n");
        position.resume(Some(Position { epoch: 9, seq: 1, n: 4 }), 0);
        assert_eq!(event(&mut position, "9", Mark::Seq(2)), "id: 9.2.4\ndata: 9\n\n");
    }

    #[test]
    fn an_event_has_one_line_and_carries_texts_only() {
        let mut position = EventPosition::default();
        let text = "{\r\n\t\"a\":\n1\r}";
        assert_eq!(position.event(Outgoing::Text(text)).as_deref(), Some(&b"data: {  \t\"a\": 1 }\n\n"[..]));
        assert_eq!(position.event(Outgoing::Frame(&Frame::text("x"))).as_deref(), Some(&b"data: x\n\n"[..]));
        assert_eq!(position.event(Outgoing::Ping(b"nonce")).as_deref(), Some(&b":\n\n"[..]));
        assert_eq!(position.event(Outgoing::Binary(b"x")), None);
        assert_eq!(position.event(Outgoing::Frame(&Frame::binary(b"x"))), None);
        assert_eq!(position.event(Outgoing::Pong(b"x")), None);
    }

    #[test]
    fn only_positions_of_a_server_are_read() {
        let read = |id: &str| {
            let head = format!("GET / HTTP/1.1\r\n{id}\r\n\r\n");
            let mut lines = HeaderLines::EMPTY;
            last_position(RequestHead::parse(head.as_bytes(), &mut lines, 8).expect("well-formed").headers)
        };
        let position = Position { epoch: 1, seq: (1 << 53) - 1, n: 0 };
        assert_eq!(read("Last-Event-ID: 1.9007199254740991.0"), Ok(Some(position)));
        assert_eq!((read("A: b"), read("Last-Event-ID:")), (Ok(None), Ok(None)));
        for bad in
            ["1.2", "1.2.3.4", "1.2.", "1.+2.3", "1.9007199254740992.3", "1.99999999999999999999.3", "x", "1. 2.3"]
        {
            assert_eq!(read(&format!("Last-Event-ID: {bad}")), Err(()), "{bad}");
        }
        assert_eq!(read("Last-Event-ID: 1.2.3\r\nLast-Event-ID: 1.2.4"), Err(()));
    }
}
