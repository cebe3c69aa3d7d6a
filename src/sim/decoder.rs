//! Splits the bytes of one direction of a connection into HTTP heads and frames, and describes them for the report of a
//! failure.
//!
//! Takes any bytes, because clients also send invalid ones, and checks nothing: [`wire::Reader`](super::wire::Reader)
//! does. Splitting is cheap, so it is always on. Only a report describes the units.

use std::fmt::Write as _;

use super::wire::{Opcode, frame_ends, head_length};

/// Most characters of a message that are shown.
const SHOWN: usize = 240;
/// Longest head or frame that is found. No unit is found after a longer one.
const MAX_UNIT: usize = 1 << 20;
/// Media type of an event stream, in the response and also in the request, after which nothing is sent.
const EVENTS: &[u8] = b": text/event-stream\r\n";

/// What a unit of a stream is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Unit {
    /// The head of a request or response.
    #[default]
    Head,
    Frame,
    /// The lines of an event stream up to an empty one.
    Event,
    /// The body of a POST, or what follows its answer.
    Posted,
    /// The body of a response, or bytes after a unit that is too long.
    Opaque,
}

/// Splits one direction of a connection.
#[derive(Debug, Default)]
pub(crate) struct Decoder {
    unread: Vec<u8>,
    next: Unit,
}

impl Decoder {
    /// Takes further bytes, and calls `note` with each unit that is complete now.
    pub(crate) fn push(&mut self, bytes: &[u8], note: impl FnMut(Unit, &[u8])) {
        if self.unread.is_empty() {
            let split = self.split(bytes, note);
            self.unread.extend_from_slice(&bytes[split..]);
        } else {
            self.unread.extend_from_slice(bytes);
            let unread = std::mem::take(&mut self.unread);
            let split = self.split(&unread, note);
            self.unread = unread;
            self.unread.drain(..split);
        }
        if self.unread.len() > MAX_UNIT {
            self.unread = Vec::new();
            self.next = Unit::Opaque;
        }
    }

    /// Returns the number of bytes in complete units.
    fn split(&mut self, bytes: &[u8], mut note: impl FnMut(Unit, &[u8])) -> usize {
        let mut start = 0;
        while start < bytes.len() {
            let (unit, rest) = (self.next, &bytes[start..]);
            let length = match unit {
                Unit::Head => head_length(rest),
                Unit::Frame => frame_ends(rest).map(|(_, end)| end).filter(|&end| end <= rest.len()),
                Unit::Event => rest.windows(2).position(|pair| pair == b"\n\n").map(|at| at + 2),
                Unit::Posted | Unit::Opaque => Some(rest.len()),
            };
            let Some(length) = length else { break };
            note(unit, &rest[..length]);
            if unit == Unit::Head {
                // A request is followed by frames, a response only if it accepts the upgrade.
                let is_refused = rest.starts_with(b"HTTP/") && !rest.starts_with(b"HTTP/1.1 101");
                let head = &rest[..length];
                let is_posted = head.starts_with(b"POST /sse/") || head.starts_with(b"HTTP/1.1 202");
                let has_events = head.windows(EVENTS.len()).any(|part| part == EVENTS);
                self.next = match is_refused {
                    _ if has_events => Unit::Event,
                    _ if is_posted => Unit::Posted,
                    true => Unit::Opaque,
                    false => Unit::Frame,
                };
            }
            start += length;
        }
        start
    }
}

/// Describes a unit of `length` bytes, of which `sample` are the first.
pub(super) fn describe(unit: Unit, sample: &[u8], length: usize) -> String {
    match unit {
        // An empty line may precede a request.
        Unit::Head => quote(String::from_utf8_lossy(sample).trim_start().lines().next().unwrap_or_default()),
        Unit::Event | Unit::Posted => quote(String::from_utf8_lossy(sample).trim_end()),
        Unit::Opaque => format!("{length} bytes"),
        Unit::Frame => {
            let (start, end) = frame_ends(sample).expect("the sample of a frame contains its header");
            let mut payload = sample[start..].to_vec();
            if sample[1] & 0x80 != 0 {
                let mask = &sample[start - 4..start];
                payload.iter_mut().zip(mask.iter().cycle()).for_each(|(byte, key)| *byte ^= key);
            }
            describe_frame(sample[0], &payload, end - start)
        }
    }
}

/// Describes a frame of which `sample` is the payload, or its first bytes.
fn describe_frame(first: u8, sample: &[u8], length: usize) -> String {
    let opcode = Opcode(first & 0x0f);
    let mut text = match opcode {
        Opcode::CONTINUATION => "continuation".to_owned(),
        Opcode::TEXT => "text".to_owned(),
        Opcode::BINARY => "binary".to_owned(),
        Opcode::CLOSE => "close".to_owned(),
        Opcode::PING => "ping".to_owned(),
        Opcode::PONG => "pong".to_owned(),
        Opcode(number) => format!("opcode {number}"),
    };
    if first & 0x80 == 0 {
        text.push_str(" fragment");
    }
    if first & 0x70 != 0 {
        text.push_str(" with reserved bits");
    }
    if length == 0 {
        return text;
    }
    text.push(' ');
    match (opcode, sample) {
        (Opcode::CLOSE, [high, low, reason @ ..]) => {
            let _ = write!(text, "{} ", u16::from_be_bytes([*high, *low]));
            quote_bytes(&mut text, reason, length - 2);
        }
        (Opcode::CONTINUATION | Opcode::TEXT, sample) => quote_bytes(&mut text, sample, length),
        (_, sample) => escape(&mut text, sample, length),
    }
    text.truncate(text.trim_end().len());
    text
}

/// Appends a text, or bytes that are none. A fragment, or a sample, may end inside a character.
fn quote_bytes(text: &mut String, sample: &[u8], length: usize) {
    match str::from_utf8(sample) {
        Ok(sample) => quote_sample(text, sample, length),
        Err(error) if error.error_len().is_none() => {
            let valid = str::from_utf8(&sample[..error.valid_up_to()]).expect("it is valid up to there");
            quote_sample(text, valid, length);
        }
        Err(_) => escape(text, sample, length),
    }
}

fn escape(text: &mut String, sample: &[u8], length: usize) {
    let shown = sample.len().min(SHOWN / 4);
    let _ = write!(text, "{}", sample[..shown].escape_ascii());
    if shown < length {
        let _ = write!(text, "… ({length} bytes)");
    }
}

/// Shortens a text and escapes its control characters. Quotation marks stay, because most texts are JSON.
pub(super) fn quote(text: &str) -> String {
    let mut quoted = String::new();
    quote_sample(&mut quoted, text, text.len());
    quoted
}

fn quote_sample(quoted: &mut String, sample: &str, length: usize) {
    let mut shown = 0;
    for c in sample.chars().take(SHOWN) {
        shown += c.len_utf8();
        if c.is_control() { quoted.extend(c.escape_default()) } else { quoted.push(c) }
    }
    if shown < length {
        let _ = write!(quoted, "… ({length} bytes)");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::wire;

    /// Passes `bytes` whole, and byte by byte.
    #[track_caller]
    fn check(bytes: &[u8], expected: &[&str]) {
        let (mut whole, mut bytewise) = (Vec::new(), Vec::new());
        Decoder::default().push(bytes, |unit, bytes| whole.push(describe(unit, bytes, bytes.len())));
        let mut decoder = Decoder::default();
        for byte in bytes {
            decoder.push(&[*byte], |unit, bytes| bytewise.push(describe(unit, bytes, bytes.len())));
        }
        assert_eq!(whole, expected);
        assert_eq!(bytewise, expected);
    }

    #[test]
    fn a_client_is_shown_with_its_request_and_unmasked_frames() {
        let mut bytes = wire::upgrade_request("/ws/chess?token=ann", &[]);
        bytes.extend(wire::text(r#"{"type":"input","dx":1}"#));
        bytes.extend(wire::frame(Opcode::TEXT, false, b"be", [9; 4]));
        bytes.extend(wire::frame(Opcode::PING, true, &[0, 1], [9; 4]));
        bytes.extend(wire::frame(Opcode::CONTINUATION, true, b"gin", [9; 4]));
        bytes.extend(wire::close(4999, "done"));
        let expected = [
            "GET /ws/chess?token=ann HTTP/1.1",
            r#"text {"type":"input","dx":1}"#,
            "text fragment be",
            r"ping \x00\x01",
            "continuation gin",
            "close 4999 done",
        ];
        check(&bytes, &expected);
    }

    #[test]
    fn a_server_is_shown_with_its_response_and_frames() {
        let long = "x".repeat(300);
        let mut bytes = b"HTTP/1.1 101 Switching Protocols\r\n\r\n".to_vec();
        bytes.extend(b"\x81\x02hi\x82\x01\xff\x88\x00\x81\x7e\x01\x2c");
        bytes.extend(long.bytes());
        let long = format!("text {}… (300 bytes)", "x".repeat(SHOWN));
        check(&bytes, &["HTTP/1.1 101 Switching Protocols", "text hi", r"binary \xff", "close", &long]);
    }

    #[test]
    fn invalid_bytes_are_shown_as_far_as_they_can_be_read() {
        check(b"GET / HTTP/1.1\r\n", &[]);
        let mut bytes = wire::upgrade_request("/", &[]);
        bytes.extend(b"\xc3\x01\x00\x81\xff\x80\0\0\0\0\0\0\0");
        check(&bytes, &["GET / HTTP/1.1", r"opcode 3 with reserved bits \x00"]);
        check(b"HTTP/1.1 404 Not Found\r\n\r\n!", &["HTTP/1.1 404 Not Found", "1 bytes"]);
    }

    #[test]
    fn the_sample_of_a_long_text_is_shown() {
        let frame = wire::text(&"ab\u{1f3b2}".repeat(1000));
        let shown = describe(Unit::Frame, &frame[..40], frame.len());
        assert_eq!(shown, "text ab\u{1f3b2}ab\u{1f3b2}ab\u{1f3b2}ab\u{1f3b2}ab\u{1f3b2}ab… (6000 bytes)");
        assert_eq!(describe(Unit::Frame, &[0x81, 0x02, b'h', b'\n'], 4), r"text h\n");
    }
}
