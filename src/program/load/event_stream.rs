//! The answer to a request for server-sent events (HTML standard, section 9.2): bytes in, messages out.
//!
//! Fields other than `data` are skipped. As in `lobby.js`, the messages themselves say how far they were read, and `goodbye`
//! whether to come back.

use super::ended::Ended;
use super::input::MAX_MESSAGE;
use super::response::{Piece, Responses, header};

#[derive(Debug, Default)]
pub(super) struct EventStream {
    responses: Responses,
    /// Bytes of the stream, of which `parsed` are done with, and `searched` contain no further line end.
    unread: Vec<u8>,
    parsed: usize,
    searched: usize,
    /// Data of the event that is not complete.
    data: Option<Vec<u8>>,
}

impl EventStream {
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.responses.push(bytes);
    }

    /// Returns the next message, or `None` if more bytes are needed. Fails at the end of the stream.
    pub(super) fn next(&mut self) -> Result<Option<String>, Ended> {
        loop {
            if let Some(message) = self.next_event()? {
                return Ok(Some(message));
            }
            match self.responses.next().map_err(|what| Ended::Failed(format!("the server broke HTTP: {what}")))? {
                None => return Ok(None),
                Some(Piece::Body(bytes)) => self.unread.extend(bytes),
                // A proxy that frames the stream may keep the connection.
                Some(Piece::End) => return Err(Ended::EndOfStream),
                Some(Piece::Head(200, head)) => {
                    let kind = header(&head, "content-type").unwrap_or_default();
                    if !kind.starts_with("text/event-stream") {
                        return Err(Ended::Failed("the answer is no event stream".to_owned()));
                    }
                }
                Some(Piece::Head(status, head)) => return Err(Ended::refused(status, &head)),
            }
        }
    }

    fn next_event(&mut self) -> Result<Option<String>, Ended> {
        let mut event = None;
        while let Some(length) = self.unread[self.searched..].iter().position(|&byte| byte == b'\n') {
            let end = self.searched + length;
            let line = &self.unread[self.parsed..end];
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            (self.parsed, self.searched) = (end + 1, end + 1);
            if line.is_empty() {
                event = self.data.take();
                if event.is_some() {
                    break;
                }
            } else if let Some(value) = line.strip_prefix(b"data:") {
                let value = value.strip_prefix(b" ").unwrap_or(value);
                match &mut self.data {
                    None => self.data = Some(value.to_vec()),
                    Some(data) => {
                        data.push(b'\n');
                        data.extend_from_slice(value);
                    }
                }
            }
        }
        if event.is_none() {
            self.unread.drain(..self.parsed);
            (self.parsed, self.searched) = (0, self.unread.len());
            if self.unread.len() + self.data.as_ref().map_or(0, Vec::len) > MAX_MESSAGE {
                return Err(Ended::Failed("an event of more than 16 MiB".to_owned()));
            }
        }
        let not_utf8 = |_| Ended::Failed("an event that is not UTF-8".to_owned());
        event.map(|data| String::from_utf8(data).map_err(not_utf8)).transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the messages of a stream that arrives in pieces of `step` bytes, and its end.
    fn read(bytes: &str, step: usize) -> (Vec<String>, Option<Ended>) {
        let (mut stream, mut messages) = (EventStream::default(), Vec::new());
        for piece in bytes.as_bytes().chunks(step) {
            stream.push(piece);
            loop {
                match stream.next() {
                    Ok(Some(message)) => messages.push(message),
                    Ok(None) => break,
                    Err(ended) => return (messages, Some(ended)),
                }
            }
        }
        (messages, None)
    }

    #[test]
    fn events_are_read_however_they_are_split_and_framed() {
        let body =
            "retry: 3127\n\ndata: {}\n\n:\n\nid: 1.2.3\ndata: \"é\"\n\nretry: 5\r\ndata:1\r\ndata: 2\r\n\r\ndata: 3";
        let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n";
        let messages = ["{}", "\"é\"", "1\n2"].map(str::to_owned);
        let chunked = format!("{head}Transfer-Encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n0\r\n\r\n", body.len());
        for step in 1..60 {
            assert_eq!(read(&format!("{head}\r\n{body}"), step), (messages.to_vec(), None), "by {step}");
            assert_eq!(read(&chunked, step), (messages.to_vec(), Some(Ended::EndOfStream)), "by {step}");
        }
    }

    #[test]
    fn other_answers_end_the_connection() {
        let busy = "HTTP/1.1 503 Service Unavailable\r\nRetry-After: 3\r\nContent-Length: 4\r\n\r\nbusy";
        assert_eq!(read(busy, 10).1, Some(Ended::Status(503, Some(3_000_000))));
        let page = "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n";
        assert_eq!(read(page, 10).1, Some(Ended::Failed("the answer is no event stream".into())));
        assert!(matches!(read("SSH-2.0-x\r\n\r\n", 10).1, Some(Ended::Failed(_))));
    }

    #[test]
    fn an_event_without_an_end_ends_the_connection() {
        let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n";
        let line = format!("data: {}\n", "x".repeat(1000));
        for body in [format!("data: {}", "x".repeat(17 << 20)), line.repeat(17 << 10)] {
            let (messages, ended) = read(&format!("{head}data: {{}}\n\n{body}"), 64 << 10);
            assert_eq!((messages.len(), ended), (1, Some(Ended::Failed("an event of more than 16 MiB".into()))));
        }
    }
}
