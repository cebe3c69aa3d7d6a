//! Incremental parser of an event stream (HTML standard, section 9.2), as strict as the server writes it.
//!
//! Splits bytes only. Which events must come, and with which `id`, is checked by the link and its view.

use super::books::ReadPosition;
use super::server_text::{Kind, ServerText};
use super::view::View;
use crate::sim::wire::head_length;

/// A unit of the answer to a request for events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum EventUnit {
    /// The response: its status and its whole head.
    Answer(u16, String),
    /// Part of the body of a refusal.
    Body,
    /// A comment, which the server sends instead of a ping.
    Comment,
    /// The wait before the client connects again, without an event.
    Retry,
    Event(Event),
}

/// An event with data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Event {
    pub(super) id: Option<String>,
    /// Wait in milliseconds before the client connects again.
    pub(super) retry: Option<u64>,
    pub(super) data: String,
}

/// Parser of an event stream. The bytes may be split at any position.
#[derive(Debug, Default)]
pub(super) struct EventReader {
    unread: Vec<u8>,
    state: State,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Head,
    /// The next block is the `retry` that follows the head.
    Begun,
    Events,
    Body,
}

impl EventReader {
    /// Appends received bytes.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.unread.extend_from_slice(bytes);
    }

    /// Returns the number of bytes that are not yet part of a complete unit.
    pub(super) fn unread(&self) -> usize {
        self.unread.len()
    }

    /// Returns the next complete unit, or `None` if more bytes are needed. Fails if the server would not write it so.
    pub(super) fn next(&mut self) -> Result<Option<EventUnit>, String> {
        match self.state {
            State::Head => self.next_head(),
            State::Body => {
                let is_empty = std::mem::take(&mut self.unread).is_empty();
                Ok((!is_empty).then_some(EventUnit::Body))
            }
            State::Begun | State::Events => self.next_block(),
        }
    }

    fn next_head(&mut self) -> Result<Option<EventUnit>, String> {
        let Some(length) = head_length(&self.unread) else { return Ok(None) };
        let head = String::from_utf8(self.unread.drain(..length).collect()).map_err(|error| error.to_string())?;
        let status = head.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)).and_then(|code| code.parse().ok());
        let status = status.ok_or_else(|| format!("a response without a status line: {head}"))?;
        self.state = if status == 200 { State::Begun } else { State::Body };
        // The end of the stream is the end of the connection, so no line may frame the body.
        let lacks = |line: &str| !head.contains(&format!("\r\n{line}\r\n"));
        if status == 200
            && (lacks("Content-Type: text/event-stream")
                || lacks("Cache-Control: no-store")
                || head.contains("Content-Length:")
                || head.contains("Transfer-Encoding:"))
        {
            return Err(format!("not the head of an event stream: {head}"));
        }
        Ok(Some(EventUnit::Answer(status, head)))
    }

    fn next_block(&mut self) -> Result<Option<EventUnit>, String> {
        let Some(at) = self.unread.windows(2).position(|pair| pair == b"\n\n") else { return Ok(None) };
        let block: Vec<u8> = self.unread.drain(..at + 2).collect();
        let block = str::from_utf8(&block[..at]).map_err(|error| format!("an event that is not UTF-8: {error}"))?;
        let wrong = || format!("no event as the server writes it: {block:?}");
        let is_first = std::mem::replace(&mut self.state, State::Events) == State::Begun;
        let (mut id, mut retry, mut data) = (None, None, None);
        if block == ":" && !is_first {
            return Ok(Some(EventUnit::Comment));
        }
        for line in block.split('\n') {
            // Nothing follows the data, and no field comes twice.
            let is_new = match line.split_once(": ").filter(|_| data.is_none()) {
                Some(("id", value)) => id.replace(value.to_owned()).is_none(),
                Some(("retry", value)) => retry.replace(value.parse().map_err(|_| wrong())?).is_none(),
                Some(("data", value)) => data.replace(value.to_owned()).is_none(),
                _ => false,
            };
            if !is_new || line.contains('\r') {
                return Err(wrong());
            }
        }
        match (data, id, retry) {
            (None, None, Some(_)) if is_first => Ok(Some(EventUnit::Retry)),
            (Some(data), id, retry) if !is_first => Ok(Some(EventUnit::Event(Event { id, retry, data }))),
            _ => Err(wrong()),
        }
    }
}

impl View {
    /// The `id` of an own message's `ack` names its `seq`, which is read then.
    pub(super) fn follow_ack(&mut self, event: &Event) -> Result<(), String> {
        let seq = ServerText::parse(&event.data)?.seq.filter(|_| self.is_synced());
        if let Some(seq) = seq.filter(|_| event.data.contains("\"type\":\"ack\"")) {
            self.books.position.seq = self.books.position.seq.max(seq);
        }
        Ok(())
    }

    /// Checks the fields of an event, once its data was handled: the `id` names how far the client has read, and the last
    /// event says whether to come back.
    pub(super) fn check_event(&self, event: &Event) -> Result<(), String> {
        let Event { id, retry, data } = event;
        let (kind, fields) = (Kind::parse(data)?, ServerText::parse(data)?);
        let comes_back = self.goodbye.is_some() && fields.reconnect == Some(true);
        let ReadPosition { epoch, seq, n } = self.books.position;
        let is_numbered = match &*kind.kind {
            "presence_state" | "lobby_state" => true,
            "state" | "host" | "settings" | "countdown" | "start" => fields.seq.is_some(),
            "presence_diff" | "message" | "ack" => fields.seq.is_some(),
            "direct" => fields.n.is_some(),
            _ => false,
        };
        let is_recovered = self.session.as_ref().is_some_and(|session| session.is_recovered);
        let expected = match self.goodbye {
            Some(_) => (!comes_back).then(|| "end".to_owned()),
            // The client had read nothing of its session, so it does not know where the session began.
            None if is_numbered && is_recovered && !self.books.has_position => id.clone(),
            None if is_numbered && (is_recovered || self.is_synced()) => Some(format!("{epoch}.{seq}.{n}")),
            None => None,
        };
        if *id != expected || retry.is_some() != comes_back {
            return Err(format!("id {id:?} and retry {retry:?}, expected id {expected:?}: {data}"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the units of a stream that arrives in pieces of `step` bytes, after those of its head.
    fn read(body: &str, step: usize) -> Result<Vec<EventUnit>, String> {
        let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-store\r\n\r\n";
        let (mut reader, mut units) = (EventReader::default(), Vec::new());
        for piece in format!("{head}retry: 1000\n\n{body}").as_bytes().chunks(step) {
            reader.push(piece);
            while let Some(unit) = reader.next()? {
                units.push(unit);
            }
        }
        assert_eq!(reader.unread(), 0);
        assert!(matches!(units.remove(0), EventUnit::Answer(200, _)));
        assert_eq!(units.remove(0), EventUnit::Retry);
        Ok(units)
    }

    #[test]
    fn events_do_not_depend_on_how_the_stream_is_split() {
        let body = "data: {}\n\n:\n\nid: 1.2.3\ndata: [\"é\"]\n\nretry: 5\ndata: 1\n\n";
        let event = |id: Option<&str>, retry, data: &str| {
            EventUnit::Event(Event { id: id.map(str::to_owned), retry, data: data.to_owned() })
        };
        let expected = [
            event(None, None, "{}"),
            EventUnit::Comment,
            event(Some("1.2.3"), None, "[\"é\"]"),
            event(None, Some(5), "1"),
        ];
        for step in 1..40 {
            assert_eq!(read(body, step).as_deref(), Ok(&expected[..]), "by {step}");
        }
    }

    #[test]
    fn what_the_server_does_not_write_is_refused() {
        for body in [
            "\u{81}\u{2}hi\n\n",
            "data:1\n\n",
            "data: 1\ndata: 2\n\n",
            "data: 1\nid: 1.2.3\n\n",
            "data: 1\r\n\n",
            "event: x\ndata: 1\n\n",
            "retry: 1\n\n",
            "retry: x\ndata: 1\n\n",
            "id: 1.2.3\n\n",
        ] {
            assert!(read(body, 1000).is_err(), "{body:?}");
        }
        let mut reader = EventReader::default();
        reader.push(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n");
        assert!(reader.next().is_err(), "the head of a file");
    }
}
