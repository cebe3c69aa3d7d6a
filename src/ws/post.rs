//! The body of a POST: one message a line. Knows its length and what the lines are, but not who sent it.

use crate::http::PlainResponse;
use crate::http::head::Headers;

/// What the head of a POST says about its body and its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PostHead {
    /// Length of the body in bytes.
    pub(crate) length: usize,
    /// Whether the client keeps the connection for further requests.
    pub(crate) keep_alive: bool,
    /// Whether the client waits for a 100 before it sends the body (RFC 9110 section 10.1.1).
    pub(crate) expects_continue: bool,
}

impl PostHead {
    /// Reads the headers that frame the body (RFC 9112 section 6).
    ///
    /// # Errors
    ///
    /// The refusal of a body whose length is missing, ambiguous, or more than `max_bytes`.
    pub(super) fn read(headers: Headers<'_, '_>, max_bytes: usize) -> Result<PostHead, PlainResponse> {
        let has_encoding = headers.values("transfer-encoding").next().is_some();
        let mut lengths = headers.values("content-length");
        let length = match (lengths.next(), lengths.next()) {
            (Some(_), _) if has_encoding => {
                // RFC 9112 section 6.3: such a request may smuggle another one past a proxy.
                return Err(PlainResponse::new(400, "send Content-Length or Transfer-Encoding, not both"));
            }
            (None, _) => return Err(PlainResponse::new(411, "send the body with Content-Length, not chunked")),
            (Some(length), None) => length.trim_ascii(),
            (Some(_), Some(_)) => return Err(PlainResponse::new(400, "send exactly one Content-Length")),
        };
        if length.is_empty() || !length.iter().all(u8::is_ascii_digit) {
            return Err(PlainResponse::new(400, "Content-Length must be a decimal number"));
        }
        let digits = str::from_utf8(length).expect("digits are ASCII");
        // A number that does not fit is too long, too.
        let length = digits.parse().unwrap_or(usize::MAX);
        if length > max_bytes {
            return Err(PlainResponse::new(413, format!("a body has at most {max_bytes} bytes: send several POSTs")));
        }
        Ok(PostHead {
            length,
            keep_alive: !headers.has_token("connection", "close"),
            expects_continue: headers.has_token("expect", "100-continue"),
        })
    }
}

/// A body that is being received.
#[derive(Debug)]
pub(super) struct Body {
    /// Bytes that are still to come; at least one.
    left: usize,
    /// The front of a line that arrived in earlier receives.
    line: Vec<u8>,
}

/// A result of [`Body::receive`].
#[derive(Debug, PartialEq, Eq)]
pub(super) enum BodyPart<'s> {
    /// A line ended. `text` is `None` if it is empty, as only the last one can be. The last line may lack its line feed.
    Line { text: Option<&'s str>, is_last: bool },
    /// The body cannot be read to its end.
    Bad(PlainResponse),
}

impl Body {
    pub(super) fn new(length: usize) -> Body {
        Body { left: length, line: Vec::new() }
    }

    /// Bytes that are still to come.
    pub(super) fn left(&self) -> usize {
        self.left
    }

    /// Consumes `input` up to the end of the next line with text, or of the body. `None` when all of it is consumed and neither has
    /// ended.
    pub(super) fn receive<'s>(
        &mut self,
        input: &mut &[u8],
        scratch: &'s mut Vec<u8>,
        max_message_bytes: usize,
    ) -> Option<BodyPart<'s>> {
        // Empty lines are no events of their own: each byte of a body could be one, and an event costs as much as a message.
        loop {
            let chunk = &input[..input.len().min(self.left)];
            let line_end = chunk.iter().position(|&c| c == b'\n');
            let consumed = line_end.map_or(chunk.len(), |at| at + 1);
            let text = &chunk[..line_end.unwrap_or(chunk.len())];
            self.left -= consumed;
            *input = &input[consumed..];
            if line_end.is_none() && self.left > 0 {
                self.line.extend_from_slice(text);
                // One more: the last byte may be the CR of the line end.
                return (self.line.len() > max_message_bytes + 1).then(|| BodyPart::Bad(too_long(max_message_bytes)));
            }
            scratch.clear();
            scratch.append(&mut self.line);
            scratch.extend_from_slice(text);
            if scratch.last() == Some(&b'\r') {
                scratch.pop();
            }
            if scratch.len() > max_message_bytes {
                return Some(BodyPart::Bad(too_long(max_message_bytes)));
            }
            if self.left == 0 || !scratch.trim_ascii().is_empty() {
                break;
            }
        }
        let is_last = self.left == 0;
        Some(match str::from_utf8(scratch) {
            Ok(text) if text.trim_ascii().is_empty() => BodyPart::Line { text: None, is_last },
            Ok(text) => BodyPart::Line { text: Some(text), is_last },
            Err(_) => BodyPart::Bad(PlainResponse::new(400, "a message is not UTF-8")),
        })
    }
}

fn too_long(max_message_bytes: usize) -> PlainResponse {
    PlainResponse::new(413, format!("a message has more than {max_message_bytes} bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the lines of a body that arrives in pieces of `step` bytes, and the status of its refusal.
    fn lines(bytes: &[u8], step: usize) -> (Vec<String>, Option<u16>) {
        let (mut body, mut scratch, mut lines) = (Body::new(bytes.len()), Vec::new(), Vec::new());
        let mut has_ended = false;
        for mut piece in bytes.chunks(step) {
            while !piece.is_empty() {
                match body.receive(&mut piece, &mut scratch, 8) {
                    None => {}
                    Some(BodyPart::Line { text, is_last }) => {
                        lines.extend(text.map(str::to_owned));
                        assert!(!has_ended);
                        has_ended = is_last;
                    }
                    Some(BodyPart::Bad(refusal)) => return (lines, Some(refusal.status())),
                }
            }
        }
        assert!(has_ended, "the last line ends the body");
        (lines, None)
    }

    #[test]
    fn lines_do_not_depend_on_how_the_body_is_split() {
        let check = |body: &str, expected: &[&str], status: Option<u16>| {
            for step in 1..=body.len() {
                assert_eq!(
                    lines(body.as_bytes(), step),
                    (expected.iter().map(|&line| line.to_owned()).collect(), status),
                    "{body:?} by {step}"
                );
            }
        };
        check("one", &["one"], None);
        check("one\n", &["one"], None);
        check("one\r\ntwo\r\n", &["one", "two"], None);
        check("\n\r\n \t\none\n\n\ntwo\n \n", &["one", "two"], None);
        check("12345678\n12345678\r\n12345678", &["12345678"; 3], None);
        check("one\n123456789", &["one"], Some(413));
        check("one\n123456789\n", &["one"], Some(413));
        check("12345678\r\r\n", &[], Some(413));
        check("€€\n", &["€€"], None);
        assert_eq!(lines(b"one\n\xff\ntwo", 3), (vec!["one".to_owned()], Some(400)));
    }

    #[test]
    fn empty_lines_are_no_events() {
        for (bytes, last) in
            [("\n \r\n\t\n\r\r\n", None), ("\n\n\r\n\none", Some("one")), ("\n\n\n\none\n", Some("one"))]
        {
            let (mut body, mut scratch, mut input) = (Body::new(bytes.len()), Vec::new(), bytes.as_bytes());
            let part = body.receive(&mut input, &mut scratch, 8);
            assert_eq!(part, Some(BodyPart::Line { text: last, is_last: true }), "{bytes:?}");
            assert!(input.is_empty());
        }
    }
}
