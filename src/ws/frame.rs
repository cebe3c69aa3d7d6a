//! Frames from the server to clients: encoded once and shared by all receivers.

use bytes::Bytes;
use tungstenite::protocol::frame::FrameHeader;
use tungstenite::protocol::frame::coding::{Control, Data, OpCode};

/// A complete WebSocket frame as a server sends it (RFC 6455 section 5.2).
///
/// Frames from a server are not masked, so all receivers get the same bytes. Cloning shares them.
///
/// ```
/// use lobbyd::Frame;
///
/// let frame = Frame::text("hi");
/// assert_eq!(frame.as_bytes(), b"\x81\x02hi");
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame(Bytes);

impl Frame {
    /// Encodes a text message as one frame.
    pub fn text(text: &str) -> Frame {
        Frame::encode(OpCode::Data(Data::Text), text.as_bytes())
    }

    /// Encodes a binary message as one frame.
    pub fn binary(bytes: &[u8]) -> Frame {
        Frame::encode(OpCode::Data(Data::Binary), bytes)
    }

    /// Encodes a binary message that names its sender: one byte with the length of the user id, the id in UTF-8, and
    /// then `payload`. Clients of the JSON protocol get binary messages in this form with `binary_sender` on.
    ///
    /// ```
    /// use lobbyd::Frame;
    ///
    /// assert_eq!(Frame::binary_from("ann", &[7, 8]), Frame::binary(b"\x03ann\x07\x08"));
    /// ```
    ///
    /// # Panics
    ///
    /// If the user id has more than 255 bytes. A member's has at most 128.
    pub fn binary_from(user: &str, payload: &[u8]) -> Frame {
        let length = u8::try_from(user.len()).expect("a user id has at most 128 bytes");
        Frame::binary(&[&[length], user.as_bytes(), payload].concat())
    }

    /// Encodes a text message with `value` as JSON.
    ///
    /// # Errors
    ///
    /// If `value` cannot be serialized as JSON. Nothing has been sent then, and no connection is affected.
    pub fn json(value: &impl serde::Serialize) -> Result<Frame, serde_json::Error> {
        serde_json::to_string(value).map(|text| Frame::text(&text))
    }

    /// Encodes a close frame with a code and a reason (RFC 6455 section 5.5.1).
    ///
    /// # Panics
    ///
    /// If code and reason together take more than 125 bytes.
    pub(crate) fn close(code: u16, reason: &str) -> Frame {
        let payload = [&code.to_be_bytes(), reason.as_bytes()].concat();
        assert!(payload.len() <= 125, "a control frame carries at most 125 bytes (RFC 6455 section 5.5)");
        Frame::encode(OpCode::Control(Control::Close), &payload)
    }

    /// Encodes a close frame without a code.
    pub(crate) fn empty_close() -> Frame {
        Frame::encode(OpCode::Control(Control::Close), &[])
    }

    fn encode(opcode: OpCode, payload: &[u8]) -> Frame {
        let mut buffer = Vec::with_capacity(encoded_length(opcode, payload));
        encode(opcode, payload, &mut buffer);
        Frame(buffer.into())
    }

    /// A frame from its bytes, which are a whole one.
    pub(crate) fn from_encoded(bytes: Vec<u8>) -> Frame {
        Frame(bytes.into())
    }

    /// Returns the whole frame, including its header.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    pub(crate) fn into_bytes(self) -> Bytes {
        self.0
    }

    /// Returns the text of a text message; `None` for other frames.
    pub(crate) fn as_text(&self) -> Option<&str> {
        let payload = self.0.get(header_length(&self.0)..)?;
        str::from_utf8(payload).ok().filter(|_| self.0[0] == 0x81)
    }
}

/// A frame to send: an encoded one, or a payload that is encoded directly into its destination buffer.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Outgoing<'a> {
    Frame(&'a Frame),
    Text(&'a str),
    /// A text that moves the position of its receivers. On a WebSocket it is any other text.
    Marked(&'a MarkedText<'a>),
    Binary(&'a [u8]),
    /// Up to 125 bytes (RFC 6455 section 5.5).
    Ping(&'a [u8]),
    /// The reply to a ping (RFC 6455 section 5.5.3).
    Pong(&'a [u8]),
}

/// A text of the JSON protocol with its [`Mark`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct MarkedText<'a> {
    pub(crate) text: &'a str,
    pub(crate) mark: Mark,
}

/// What a receiver that keeps its position has to know about a text: an event stream carries it beside the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mark {
    /// It has this `seq`.
    Seq(u64),
    /// It is the direct message with this `n`.
    Direct(u64),
    /// It is the `presence_state`, with which a position begins.
    State { epoch: u64, seq: u64 },
    /// It is the `goodbye`. The client may come back after so many milliseconds; `None`: never.
    Goodbye { retry_ms: Option<u64> },
}

impl Outgoing<'_> {
    /// Returns the length of the whole frame in bytes.
    pub(crate) fn len(self) -> usize {
        match self.parts() {
            Ok((opcode, payload)) => encoded_length(opcode, payload),
            Err(frame) => frame.as_bytes().len(),
        }
    }

    /// Appends the whole frame.
    pub(crate) fn append_to(self, buffer: &mut Vec<u8>) {
        match self.parts() {
            Ok((opcode, payload)) => encode(opcode, payload, buffer),
            Err(frame) => buffer.extend_from_slice(frame.as_bytes()),
        }
    }

    /// Returns the frame, encoded into a buffer of its own if it is not encoded yet.
    pub(crate) fn to_frame(self) -> Frame {
        match self.parts() {
            Ok((opcode, payload)) => Frame::encode(opcode, payload),
            Err(frame) => frame.clone(),
        }
    }

    /// Returns the opcode and the payload, or the frame as `Err` if it is already encoded.
    fn parts(&self) -> Result<(OpCode, &[u8]), &Frame> {
        match self {
            Outgoing::Frame(frame) => Err(frame),
            Outgoing::Text(text) => Ok((OpCode::Data(Data::Text), text.as_bytes())),
            Outgoing::Marked(marked) => Ok((OpCode::Data(Data::Text), marked.text.as_bytes())),
            Outgoing::Binary(bytes) => Ok((OpCode::Data(Data::Binary), bytes)),
            Outgoing::Ping(payload) => Ok((OpCode::Control(Control::Ping), payload)),
            Outgoing::Pong(payload) => Ok((OpCode::Control(Control::Pong), payload)),
        }
    }
}

/// Length of the header of an unmasked frame (RFC 6455 section 5.2).
pub(crate) fn header_length(frame: &[u8]) -> usize {
    match frame[1] {
        126 => 4,
        127 => 10,
        _ => 2,
    }
}

/// Returns the header of a frame of the same kind whose payload has this length and is compressed (RSV1, RFC 7692 section 6),
/// and the length of the header.
pub(super) fn compressed_header(frame: &[u8], length: usize) -> ([u8; 10], usize) {
    let mut bytes = [0; 10];
    let mut rest = &mut bytes[..];
    let header = FrameHeader { opcode: OpCode::from(frame[0] & 0x0f), rsv1: true, ..FrameHeader::default() };
    header.format(length as u64, &mut rest).expect("a header without a mask has at most 10 bytes");
    let unused = rest.len();
    (bytes, bytes.len() - unused)
}

fn encoded_length(opcode: OpCode, payload: &[u8]) -> usize {
    FrameHeader { opcode, ..FrameHeader::default() }.len(payload.len() as u64) + payload.len()
}

fn encode(opcode: OpCode, payload: &[u8], buffer: &mut Vec<u8>) {
    let header = FrameHeader { opcode, ..FrameHeader::default() };
    header.format(payload.len() as u64, buffer).expect("writing to a Vec cannot fail");
    buffer.extend_from_slice(payload);
}

#[cfg(test)]
mod tests {
    use super::Frame;

    #[test]
    fn the_text_of_a_frame_is_found() {
        for length in [0, 125, 126, 65_535, 65_536] {
            let text = "x".repeat(length);
            assert_eq!(Frame::text(&text).as_text(), Some(&*text));
            assert_eq!(Frame::binary(text.as_bytes()).as_text(), None);
        }
    }

    /// The three length forms of RFC 6455 section 5.2, at their boundaries.
    #[test]
    fn length_is_encoded_in_the_shortest_form() {
        #[track_caller]
        fn check(length: usize, header: &[u8]) {
            let frame = Frame::binary(&vec![7; length]);
            assert_eq!(&frame.as_bytes()[..header.len()], header);
            assert_eq!(frame.as_bytes().len(), header.len() + length);
        }
        check(0, &[0x82, 0]);
        check(125, &[0x82, 125]);
        check(126, &[0x82, 126, 0, 126]);
        check(65_535, &[0x82, 126, 0xff, 0xff]);
        check(65_536, &[0x82, 127, 0, 0, 0, 0, 0, 1, 0, 0]);
    }
}
