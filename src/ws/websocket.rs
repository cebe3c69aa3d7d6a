//! Receiver of RFC 6455 frames: bytes in, messages and control frames out.
//!
//! tungstenite parses frame headers and opcodes; this module assembles messages. A message that arrives
//! whole, which is the common case, is unmasked into the shared scratch buffer and returned from there, so its
//! connection owns no memory. Only frames and messages that are split across receives or fragments are kept, in a
//! [`Partial`].
//!
//! Errors are detected as early as possible: a frame by its header, a text at the first byte that cannot be UTF-8. A
//! compressed message is returned as it is when it is complete: the caller decompresses and checks it.
//! Knows no connection state: replies are returned to the caller.

use std::io::Cursor;
use std::mem;

use tungstenite::protocol::frame::FrameHeader;
use tungstenite::protocol::frame::coding::{Control, Data, OpCode};

use super::deflate::COMPRESSOR;
use super::frame::Frame;
use crate::base::close::CloseReason;
use crate::config::Config;

/// Without the feature the compiler removes what concerns compressed messages.
const CAN_COMPRESS: bool = COMPRESSOR.is_some();

/// Length of the longest frame header: two bytes, eight of length, four of mask.
const MAX_HEADER: usize = 14;
/// Longest payload of a control frame (RFC 6455 section 5.5).
const MAX_CONTROL: usize = 125;

/// Limits of one message.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) max_message_bytes: usize,
    pub(crate) max_fragments: u32,
}

/// Whether a connection's messages may be compressed, as the handshake has negotiated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Compression {
    Off,
    On,
}

/// A message, a control frame or an error. Payloads are borrowed from the scratch buffer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum ReceivedFrame<'s> {
    Text(&'s str),
    Binary(&'s [u8]),
    /// The payload of a compressed message (RFC 7692 section 6.2).
    Compressed {
        is_text: bool,
        payload: &'s [u8],
    },
    /// A ping; the reply is a pong with the same payload (RFC 6455 section 5.5.2).
    Ping(&'s [u8]),
    /// A frame that does not end its message.
    Fragment,
    Pong(&'s [u8]),
    /// The peer sent a close frame, and will send no further frame. `code` is its code, if it has one; `answer` is the
    /// reply to it, unless ours was sent first.
    Close {
        code: Option<u16>,
        answer: Frame,
    },
    /// The peer violated the protocol. Further input cannot be parsed.
    Fault(CloseReason),
}

/// Receive state of one connection.
#[derive(Debug, Default)]
pub(crate) struct WebSocket {
    /// The incomplete frame or message. `None` while there is none.
    partial: Option<Box<Partial>>,
}

/// An incomplete frame or message.
#[derive(Debug, Default)]
struct Partial {
    /// Bytes of an incomplete frame header.
    header: [u8; MAX_HEADER],
    header_len: usize,
    frame: Option<CurrentFrame>,
    /// Kind of the incomplete message.
    message: Option<Data>,
    is_compressed: bool,
    fragments: u32,
    /// Unmasked payload of the message so far.
    payload: Vec<u8>,
    /// Length of the prefix of `payload` that was validated as complete UTF-8 sequences. For uncompressed texts only.
    checked: usize,
    /// Unmasked payload of an incomplete control frame, which may arrive between the fragments of a message.
    control: Vec<u8>,
}

/// A frame whose header was parsed.
#[derive(Clone, Copy, Debug)]
struct CurrentFrame {
    opcode: OpCode,
    is_final: bool,
    /// Whether the bit RSV1 is set.
    is_compressed: bool,
    mask: [u8; 4],
    /// Payload bytes received so far.
    received: usize,
    /// Length of the payload.
    length: usize,
}

/// Kind of a complete frame or message. Its payload is in the scratch buffer, except for a fragment.
enum Complete {
    Text,
    Binary,
    Compressed { is_text: bool },
    Fragment,
    Control(Control),
}

impl Complete {
    fn message(kind: Data, is_compressed: bool) -> Complete {
        match kind {
            _ if is_compressed => Complete::Compressed { is_text: kind == Data::Text },
            Data::Text => Complete::Text,
            _ => Complete::Binary,
        }
    }
}

impl WebSocket {
    /// Consumes `input` up to the end of the next frame and returns the result. `None` when all of `input` is consumed
    /// and no frame is complete.
    pub(crate) fn receive<'s>(
        &mut self,
        input: &mut &[u8],
        scratch: &'s mut Vec<u8>,
        limits: Limits,
        compression: Compression,
    ) -> Option<ReceivedFrame<'s>> {
        if self.partial.is_none()
            && let Some((frame, rest)) = split_short_frame(input)
            && frame.payload.len() <= limits.max_message_bytes
        {
            *input = rest;
            scratch.clear();
            unmask_into(scratch, frame.payload, frame.mask, 0);
            return Some(match (frame.first_byte, str::from_utf8(scratch)) {
                (BINARY, _) => ReceivedFrame::Binary(scratch),
                (_, Ok(text)) => ReceivedFrame::Text(text),
                (_, Err(_)) => ReceivedFrame::Fault(CloseReason::BadUtf8),
            });
        }
        let complete = match self.next_complete(input, scratch, limits, compression) {
            Ok(complete) => complete?,
            Err(reason) => return Some(ReceivedFrame::Fault(reason)),
        };
        Some(match complete {
            Complete::Text => match str::from_utf8(scratch) {
                Ok(text) => ReceivedFrame::Text(text),
                Err(_) => ReceivedFrame::Fault(CloseReason::BadUtf8),
            },
            Complete::Binary => ReceivedFrame::Binary(scratch),
            Complete::Compressed { is_text } => ReceivedFrame::Compressed { is_text, payload: scratch },
            Complete::Fragment => ReceivedFrame::Fragment,
            Complete::Control(Control::Ping) => ReceivedFrame::Ping(scratch),
            Complete::Control(Control::Pong) => ReceivedFrame::Pong(scratch),
            Complete::Control(Control::Close) => match answer_to_close(scratch) {
                Ok((code, answer)) => ReceivedFrame::Close { code, answer },
                Err(reason) => ReceivedFrame::Fault(reason),
            },
            Complete::Control(Control::Reserved(_)) => unreachable!("parse_header() refuses reserved opcodes"),
        })
    }

    fn next_complete(
        &mut self,
        input: &mut &[u8],
        scratch: &mut Vec<u8>,
        limits: Limits,
        compression: Compression,
    ) -> Result<Option<Complete>, CloseReason> {
        loop {
            if self.partial.as_ref().is_none_or(|partial| partial.frame.is_none()) {
                let Some(frame) = self.next_header(input)? else { return Ok(None) };
                self.check(&frame, limits, compression)?;
                // Common case: no frame or message is incomplete, and all of this message is in the input.
                if self.partial.is_none()
                    && frame.is_final
                    && let Some((payload, rest)) = input.split_at_checked(frame.length)
                {
                    *input = rest;
                    scratch.clear();
                    unmask_into(scratch, payload, frame.mask, 0);
                    return Ok(Some(match frame.opcode {
                        OpCode::Data(kind) => Complete::message(kind, frame.is_compressed),
                        OpCode::Control(control) => Complete::Control(control),
                    }));
                }
                self.partial.get_or_insert_default().begin(frame);
            }
            let partial = self.partial.as_mut().expect("begin() was called for the current frame");
            if let Some(complete) = partial.resume(input, scratch)? {
                if partial.is_empty() {
                    self.partial = None;
                }
                return Ok(Some(complete));
            }
            if input.is_empty() {
                return Ok(None);
            }
        }
    }

    /// Parses the next frame header. Returns `None` and keeps the bytes if the header is incomplete.
    fn next_header(&mut self, input: &mut &[u8]) -> Result<Option<CurrentFrame>, CloseReason> {
        if input.is_empty() {
            return Ok(None);
        }
        match &mut self.partial {
            Some(partial) if partial.header_len > 0 => {
                // Completes a split header: append as many bytes as a header can have, then consume only its own.
                let buffered = partial.header_len;
                let more = input.len().min(MAX_HEADER - buffered);
                partial.header[buffered..buffered + more].copy_from_slice(&input[..more]);
                let parsed = parse_header(&partial.header[..buffered + more])?;
                let Some((frame, length)) = parsed else {
                    partial.header_len += more;
                    *input = &input[more..];
                    return Ok(None);
                };
                partial.header_len = 0;
                *input = &input[length - buffered..];
                Ok(Some(frame))
            }
            _ => {
                let Some((frame, length)) = parse_header(input)? else {
                    let partial = self.partial.get_or_insert_default();
                    partial.header[..input.len()].copy_from_slice(input);
                    partial.header_len = input.len();
                    *input = &[];
                    return Ok(None);
                };
                // An earlier split header may have left an empty `Partial`.
                if self.partial.as_ref().is_some_and(|partial| partial.is_empty()) {
                    self.partial = None;
                }
                *input = &input[length..];
                Ok(Some(frame))
            }
        }
    }

    /// Checks a frame by its header, before any of its payload is read. Fails if the frame is invalid in itself or in
    /// this state.
    fn check(&mut self, frame: &CurrentFrame, limits: Limits, compression: Compression) -> Result<(), CloseReason> {
        let fragmented = self.partial.as_ref().filter(|partial| partial.message.is_some());
        let so_far = fragmented.map_or(0, |partial| partial.payload.len());
        let is_compressed =
            CAN_COMPRESS && (frame.is_compressed || fragmented.is_some_and(|partial| partial.is_compressed));
        let max_bytes = if is_compressed {
            Config::max_compressed_bytes(limits.max_message_bytes)
        } else {
            limits.max_message_bytes
        };
        match frame.opcode {
            // Only the first frame of a message has the bit (RFC 7692 section 6.1).
            OpCode::Control(_) | OpCode::Data(Data::Continue) if frame.is_compressed => Err(CloseReason::ProtocolError),
            OpCode::Data(_) if frame.is_compressed && compression == Compression::Off => {
                Err(CloseReason::ProtocolError)
            }
            OpCode::Control(_) if !frame.is_final || frame.length > MAX_CONTROL => Err(CloseReason::ProtocolError),
            OpCode::Control(_) => Ok(()),
            OpCode::Data(Data::Continue) if fragmented.is_none() => Err(CloseReason::ProtocolError),
            OpCode::Data(Data::Text | Data::Binary) if fragmented.is_some() => Err(CloseReason::ProtocolError),
            OpCode::Data(_) if frame.length > max_bytes - so_far => Err(CloseReason::MessageTooBig),
            OpCode::Data(_) if fragmented.is_some_and(|partial| partial.fragments >= limits.max_fragments) => {
                Err(CloseReason::PolicyViolation)
            }
            OpCode::Data(_) => Ok(()),
        }
    }
}

impl Partial {
    /// Begins the frame whose header was parsed.
    fn begin(&mut self, frame: CurrentFrame) {
        self.frame = Some(frame);
        if let OpCode::Data(kind) = frame.opcode {
            self.fragments += 1;
            if kind != Data::Continue {
                self.message = Some(kind);
                self.is_compressed = frame.is_compressed;
            }
        }
    }

    /// Consumes the received payload of the current frame. Returns `None` while the frame is incomplete.
    fn resume(&mut self, input: &mut &[u8], scratch: &mut Vec<u8>) -> Result<Option<Complete>, CloseReason> {
        let frame = self.frame.as_mut().expect("begin() was called for the current frame");
        let (arrived, rest) = input.split_at(input.len().min(frame.length - frame.received));
        *input = rest;
        let buffer = if matches!(frame.opcode, OpCode::Control(_)) { &mut self.control } else { &mut self.payload };
        unmask_into(buffer, arrived, frame.mask, frame.received);
        frame.received += arrived.len();
        let CurrentFrame { opcode, is_final, received, length, .. } = *frame;
        if self.message == Some(Data::Text) && !self.is_compressed && matches!(opcode, OpCode::Data(_)) {
            self.checked += utf8_prefix(&self.payload[self.checked..])?;
        }
        if received < length {
            return Ok(None);
        }
        self.frame = None;
        if let OpCode::Control(control) = opcode {
            *scratch = mem::take(&mut self.control);
            return Ok(Some(Complete::Control(control)));
        }
        if !is_final {
            return Ok(Some(Complete::Fragment));
        }
        *scratch = mem::take(&mut self.payload);
        self.fragments = 0;
        self.checked = 0;
        let kind = self.message.take().expect("begin() has set the kind at the first frame of the message");
        Ok(Some(Complete::message(kind, self.is_compressed)))
    }

    /// Returns whether no header, frame or message is incomplete.
    fn is_empty(&self) -> bool {
        self.header_len == 0 && self.frame.is_none() && self.message.is_none()
    }
}

/// Checks the payload of a close frame. Returns its code and the reply, which has the same code and reason. The payload is
/// empty, or a code and a reason in UTF-8 (RFC 6455 section 5.5.1).
fn answer_to_close(payload: &[u8]) -> Result<(Option<u16>, Frame), CloseReason> {
    let Some((code, reason)) = payload.split_first_chunk() else {
        return if payload.is_empty() { Ok((None, Frame::empty_close())) } else { Err(CloseReason::ProtocolError) };
    };
    let code = u16::from_be_bytes(*code);
    if !may_be_sent(code) {
        return Err(CloseReason::ProtocolError);
    }
    let reason = str::from_utf8(reason).map_err(|_| CloseReason::BadUtf8)?;
    Ok((Some(code), Frame::close(code, reason)))
}

/// Returns whether a close frame may carry the code: the codes of RFC 6455 section 7.4.1 and those that IANA has
/// registered since (1012 to 1014), except the ones that are never sent (1004, 1005, 1006, 1015); from 3000 those of
/// libraries and applications. The rest, to 2999, is reserved for the protocol.
fn may_be_sent(code: u16) -> bool {
    matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999)
}

/// First byte of a message in one frame (RFC 6455 section 5.2): the bit FIN and the opcode.
const TEXT: u8 = 0x81;
const BINARY: u8 = 0x82;

/// A whole message of at most 125 bytes in one masked frame: the usual case.
struct ShortFrame<'a> {
    /// [`TEXT`] or [`BINARY`].
    first_byte: u8,
    mask: [u8; 4],
    payload: &'a [u8],
}

/// Splits a short frame off the input. Returns it and the rest of the input. `None` for every other input, which the
/// general parser handles.
#[inline]
fn split_short_frame(input: &[u8]) -> Option<(ShortFrame<'_>, &[u8])> {
    let (&[first, second, m0, m1, m2, m3], rest) = input.split_first_chunk()?;
    let length = usize::from(second & 0x7f);
    let is_masked = second & 0x80 != 0;
    if !matches!(first, TEXT | BINARY) || !is_masked || length > MAX_CONTROL {
        return None;
    }
    let (payload, rest) = rest.split_at_checked(length)?;
    Some((ShortFrame { first_byte: first, mask: [m0, m1, m2, m3], payload }, rest))
}

/// Parses a frame header and returns it with its length in bytes; `None` if the header is incomplete.
fn parse_header(bytes: &[u8]) -> Result<Option<(CurrentFrame, usize)>, CloseReason> {
    let mut cursor = Cursor::new(bytes);
    // Parsing fails only for a reserved opcode.
    let parsed = FrameHeader::parse(&mut cursor).map_err(|_| CloseReason::ProtocolError)?;
    let Some((header, length)) = parsed else { return Ok(None) };
    // Reserved bits must be 0, but RSV1 if compression may be negotiated; clients must mask (RFC 6455 sections 5.2 and 5.1).
    let is_reserved = header.rsv1 && !CAN_COMPRESS || header.rsv2 || header.rsv3;
    let Some(mask) = header.mask.filter(|_| !is_reserved) else {
        return Err(CloseReason::ProtocolError);
    };
    let header_len = cursor.position() as usize;
    // The length must take the fewest bytes, and its most significant bit must be 0 (RFC 6455 section 5.2).
    if header_len != header.len(length) || length > i64::MAX as u64 {
        return Err(CloseReason::ProtocolError);
    }
    let length = usize::try_from(length).map_err(|_| CloseReason::MessageTooBig)?;
    let FrameHeader { opcode, is_final, rsv1, .. } = header;
    let is_compressed = CAN_COMPRESS && rsv1;
    let frame = CurrentFrame { opcode, is_final, is_compressed, mask, received: 0, length };
    Ok(Some((frame, header_len)))
}

/// Appends `payload` unmasked (RFC 6455 section 5.3). `offset` is its position in the payload of its frame.
fn unmask_into(buffer: &mut Vec<u8>, payload: &[u8], mask: [u8; 4], offset: usize) {
    let start = buffer.len();
    buffer.extend_from_slice(payload);
    let rotated: [u8; 4] = std::array::from_fn(|index| mask[(index + offset) % 4]);
    let wide = u64::from_ne_bytes(std::array::from_fn(|index| rotated[index % 4]));
    let (chunks, rest) = buffer[start..].as_chunks_mut();
    for chunk in chunks {
        *chunk = (u64::from_ne_bytes(*chunk) ^ wide).to_ne_bytes();
    }
    for (byte, key) in rest.iter_mut().zip(rotated.iter().cycle()) {
        *byte ^= key;
    }
}

/// Returns the length of the prefix that is complete UTF-8 sequences. A sequence that is cut off at the end is no
/// error, because the next bytes may complete it.
fn utf8_prefix(bytes: &[u8]) -> Result<usize, CloseReason> {
    match str::from_utf8(bytes) {
        Ok(_) => Ok(bytes.len()),
        Err(error) if error.error_len().is_none() => Ok(error.valid_up_to()),
        Err(_) => Err(CloseReason::BadUtf8),
    }
}

#[cfg(test)]
mod tests;
