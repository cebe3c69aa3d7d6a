//! The connection on which a client posts messages for its event stream: what it waits for, and the answers.
//!
//! Knows no message. Which statuses are allowed is checked with what happened to the stream.

use crate::sim::wire::head_length;

/// What a client knows of a connection on which it posts.
#[derive(Debug)]
pub(crate) struct Posting {
    /// Number of the link of the event stream.
    pub(crate) stream: u32,
    /// Whether a request was sent and not answered.
    pub(crate) waits: bool,
    /// Whether the connection stays open for the next request.
    pub(crate) keeps: bool,
    /// The answer to the last request, until it is taken: its status, or `None` if the connection ended without one.
    pub(crate) answer: Option<Option<u16>>,
    unread: Vec<u8>,
}

impl Posting {
    pub(crate) fn new(stream: u32) -> Posting {
        Posting { stream, waits: false, keeps: true, answer: None, unread: Vec::new() }
    }

    /// Reads the answer to the last request. Leaves what follows it.
    pub(super) fn receive(&mut self, bytes: &[u8]) -> Result<(), String> {
        self.unread.extend_from_slice(bytes);
        let Some(length) = head_length(&self.unread).filter(|_| self.answer.is_none()) else { return Ok(()) };
        let rest = self.unread.split_off(length);
        let head = String::from_utf8(std::mem::replace(&mut self.unread, rest)).map_err(|error| error.to_string())?;
        let status = head.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)).and_then(|code| code.parse().ok());
        let shown = || head.trim_end().replace("\r\n", " | ");
        let status: u16 = status.ok_or_else(|| format!("an answer without a status line: {}", shown()))?;
        let says_keep = head.contains("\r\nConnection: keep-alive\r\n");
        // The answer to the end of the connection may follow.
        let is_right = status != 202 || (says_keep == self.keeps && head.contains("\r\nContent-Length: 0\r\n"));
        if !is_right || !head.contains("\r\nDate: ") {
            return Err(format!("not the answer to a POST that keeps the connection = {}: {}", self.keeps, shown()));
        }
        if !self.waits {
            // A request that was never sent may be answered only because the connection ends.
            return if status == 202 { Err(format!("an answer without a request: {}", shown())) } else { Ok(()) };
        }
        self.keeps &= status == 202;
        self.answer = Some(Some(status));
        Ok(())
    }
}
