//! WebSocket frames (RFC 6455 section 5), as a client sends and receives them.

use std::io::Cursor;

use tungstenite::protocol::frame::FrameHeader;
use tungstenite::protocol::frame::coding::{Control, Data, OpCode};

/// Longest payload of a control frame.
const MAX_CONTROL: usize = 125;
/// The buffers of a connection keep at most this much memory that they do not need.
const MAX_SPARE: usize = 64 << 10;

/// Bytes that have arrived and were not read.
#[derive(Debug, Default)]
pub(super) struct Input {
    bytes: Vec<u8>,
    /// Bytes at the front that were read.
    read: usize,
}

impl Input {
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.bytes.drain(..self.read);
        self.read = 0;
        self.bytes.extend_from_slice(bytes);
    }

    pub(super) fn unread(&self) -> &[u8] {
        &self.bytes[self.read..]
    }

    pub(super) fn consume(&mut self, count: usize) {
        self.read += count;
        if self.read == self.bytes.len() {
            self.clear();
        }
    }

    pub(super) fn clear(&mut self) {
        self.bytes.clear();
        self.bytes.shrink_to(MAX_SPARE);
        self.read = 0;
    }
}

/// A whole message, or a control frame.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Incoming {
    Text(String),
    Binary(Vec<u8>),
    Ping(Vec<u8>),
    Pong,
    /// With the code, 1005 if there is none, and the reason.
    Close(u16, String),
}

/// Violation of the protocol by the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Violation {
    Protocol,
    NotUtf8,
    TooLarge,
}

impl Violation {
    pub(super) fn code(self) -> u16 {
        match self {
            Violation::Protocol => 1002,
            Violation::NotUtf8 => 1007,
            Violation::TooLarge => 1009,
        }
    }
}

/// Assembles messages from frames.
#[derive(Debug)]
pub(super) struct Frames {
    max_bytes: usize,
    /// The message whose last frame has not come.
    message: Option<(Data, Vec<u8>)>,
}

impl Frames {
    /// Refuses messages with more than `max_bytes` when they are announced.
    pub(super) fn new(max_bytes: usize) -> Frames {
        Frames { max_bytes, message: None }
    }

    /// Returns the next message or control frame. `None`: it has not arrived whole.
    pub(super) fn next(&mut self, input: &mut Input) -> Result<Option<Incoming>, Violation> {
        loop {
            let mut cursor = Cursor::new(input.unread());
            let parsed = FrameHeader::parse(&mut cursor).map_err(|_| Violation::Protocol)?;
            let Some((header, length)) = parsed else { return Ok(None) };
            let start = cursor.position() as usize;
            let length = self.check(&header, length)?;
            let Some(payload) = input.unread().get(start..start + length) else { return Ok(None) };
            let complete = match header.opcode {
                OpCode::Control(control) => Some(control_frame(control, payload)?),
                OpCode::Data(data) => {
                    let (kind, mut bytes) = self.message.take().unwrap_or((data, Vec::new()));
                    bytes.extend_from_slice(payload);
                    if header.is_final {
                        Some(message(kind, bytes)?)
                    } else {
                        self.message = Some((kind, bytes));
                        None
                    }
                }
            };
            input.consume(start + length);
            if complete.is_some() {
                return Ok(complete);
            }
        }
    }

    /// Checks a header. Returns the length of the payload.
    fn check(&self, header: &FrameHeader, length: u64) -> Result<usize, Violation> {
        let length = usize::try_from(length).map_err(|_| Violation::TooLarge)?;
        let is_continued = self.message.is_some();
        let is_valid = match header.opcode {
            OpCode::Control(_) => header.is_final && length <= MAX_CONTROL,
            OpCode::Data(Data::Continue) => is_continued,
            OpCode::Data(_) => !is_continued,
        };
        if !is_valid || header.rsv1 || header.rsv2 || header.rsv3 || header.mask.is_some() {
            return Err(Violation::Protocol);
        }
        let before = match header.opcode {
            OpCode::Data(_) => self.message.as_ref().map_or(0, |(_, bytes)| bytes.len()),
            OpCode::Control(_) => 0,
        };
        let is_small = length <= self.max_bytes.saturating_sub(before);
        if is_small || matches!(header.opcode, OpCode::Control(_)) { Ok(length) } else { Err(Violation::TooLarge) }
    }
}

fn message(kind: Data, bytes: Vec<u8>) -> Result<Incoming, Violation> {
    match kind {
        Data::Text => String::from_utf8(bytes).map(Incoming::Text).map_err(|_| Violation::NotUtf8),
        _ => Ok(Incoming::Binary(bytes)),
    }
}

fn control_frame(control: Control, payload: &[u8]) -> Result<Incoming, Violation> {
    match (control, payload) {
        (Control::Ping, _) => Ok(Incoming::Ping(payload.to_vec())),
        (Control::Pong, _) => Ok(Incoming::Pong),
        (Control::Close, []) => Ok(Incoming::Close(1005, String::new())),
        (Control::Close, &[high, low, ref reason @ ..]) => {
            let reason = str::from_utf8(reason).map_err(|_| Violation::NotUtf8)?;
            Ok(Incoming::Close(u16::from_be_bytes([high, low]), reason.to_owned()))
        }
        _ => Err(Violation::Protocol),
    }
}

/// Bytes that wait to be written.
#[derive(Debug, Default)]
pub(super) struct Output {
    bytes: Vec<u8>,
    written: usize,
}

impl Output {
    pub(super) fn unwritten(&self) -> &[u8] {
        &self.bytes[self.written..]
    }

    /// Whether a byte of what was pushed since it was last empty was written.
    pub(super) fn has_begun(&self) -> bool {
        self.bytes.is_empty() || self.written > 0
    }

    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Appends a frame. `mask` is a random number.
    pub(super) fn push_frame(&mut self, opcode: OpCode, payload: &[u8], mask: u64) {
        let [a, b, c, d, ..] = mask.to_le_bytes();
        let mask = [a, b, c, d];
        let header = FrameHeader { opcode, mask: Some(mask), ..FrameHeader::default() };
        header.format(payload.len() as u64, &mut self.bytes).expect("a vector takes all bytes");
        self.bytes.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    }

    pub(super) fn consume(&mut self, count: usize) {
        self.written += count;
        if self.written == self.bytes.len() {
            self.clear();
        }
    }

    pub(super) fn clear(&mut self) {
        self.bytes.clear();
        self.bytes.shrink_to(MAX_SPARE);
        self.written = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds bytes one at a time, and at once: both give the same.
    #[track_caller]
    fn check(bytes: &[u8], expected: &[Incoming], violation: Option<Violation>) {
        for step in [1, bytes.len()] {
            let (mut frames, mut input, mut got, mut violated) = (Frames::new(200), Input::default(), Vec::new(), None);
            for chunk in bytes.chunks(step) {
                input.push(chunk);
                while violated.is_none() {
                    match frames.next(&mut input) {
                        Ok(Some(incoming)) => got.push(incoming),
                        Ok(None) => break,
                        Err(violation) => violated = Some(violation),
                    }
                }
            }
            assert_eq!((&*got, violated), (expected, violation), "{bytes:?}");
        }
    }

    fn text(text: &str) -> Incoming {
        Incoming::Text(text.to_owned())
    }

    #[test]
    fn messages_are_assembled_and_control_frames_may_be_between() {
        check(b"\x81\x02hi\x82\x01\xff", &[text("hi"), Incoming::Binary(vec![255])], None);
        check(b"\x01\x01h\x89\x01p\x00\x00\x80\x01i", &[Incoming::Ping(b"p".to_vec()), text("hi")], None);
        check(b"\x01\x01\xc3\x80\x01\xa4\x8a\x00", &[text("\u{e4}"), Incoming::Pong], None);
        let long = [&b"\x81\x7e\x00\xc8"[..], &[b'x'; 200]].concat();
        check(&long, &[text(&"x".repeat(200))], None);
    }

    #[test]
    fn a_close_frame_may_have_a_code_and_a_reason() {
        check(b"\x88\x00", &[Incoming::Close(1005, String::new())], None);
        check(b"\x88\x04\x10\x69no", &[Incoming::Close(4201, "no".to_owned())], None);
        check(b"\x88\x01\x10", &[], Some(Violation::Protocol));
        check(b"\x88\x03\x10\x69\xff", &[], Some(Violation::NotUtf8));
    }

    #[test]
    fn a_large_message_is_refused_by_its_header() {
        check(b"\x82\x7f\x00\x00\x00\x00\x01\x00\x00\x00", &[], Some(Violation::TooLarge));
        check(b"\x82\x7f\xff\xff\xff\xff\xff\xff\xff\xff", &[], Some(Violation::TooLarge));
        let parts = [&b"\x02\x7e\x00\x96"[..], &[0; 150], b"\x80\x33"].concat();
        check(&parts, &[], Some(Violation::TooLarge));
        let fits = [&b"\x02\x7e\x00\x96"[..], &[0; 150], b"\x80\x32", &[0; 50]].concat();
        check(&fits, &[Incoming::Binary(vec![0; 200])], None);
    }

    #[test]
    fn violations_are_found() {
        for (bytes, violation) in [
            (&b"\x81\x80\x01\x02\x03\x04"[..], Violation::Protocol),
            (b"\xc1\x00", Violation::Protocol),
            (b"\x83\x00", Violation::Protocol),
            (b"\x80\x00", Violation::Protocol),
            (b"\x01\x00\x81\x00", Violation::Protocol),
            (b"\x09\x00", Violation::Protocol),
            (b"\x89\x7e\x00\x7e", Violation::Protocol),
            (b"\x81\x01\xff", Violation::NotUtf8),
        ] {
            check(bytes, &[], Some(violation));
        }
    }

    #[test]
    fn frames_are_masked() {
        let mut output = Output::default();
        assert!(output.has_begun(), "nothing waits");
        output.push_frame(OpCode::Data(Data::Text), b"abcde", 0x0403_0201);
        assert_eq!(output.unwritten(), [0x81, 0x85, 1, 2, 3, 4, b'a' ^ 1, b'b' ^ 2, b'c' ^ 3, b'd' ^ 4, b'e' ^ 1]);
        assert!(!output.has_begun());
        output.consume(10);
        assert_eq!((output.unwritten(), output.has_begun()), (&[b'e' ^ 1][..], true));
    }
}
