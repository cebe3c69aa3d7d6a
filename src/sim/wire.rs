//! The client's side of a WebSocket connection: writes upgrade requests and masked frames, reads responses and frames.
//!
//! Shares no code with the server's side, so that each checks the other. Keeps no state but the unread bytes and the
//! stage of the connection, and draws no random numbers: the caller passes the mask.
//!
//! A [`Reader`] goes through these stages:
//!
//! ```text
//! Head --status 101--> Frames --close frame--> Closed
//!  |
//!  +----other status--> Body
//! ```

use std::fmt;

use super::deflate;

/// The bit of a compressed message in the first byte of its frame (RFC 7692 section 6).
pub(super) const RSV1: u8 = 0x40;

/// An opcode (RFC 6455 section 5.2).
///
/// [`frame`] has an example.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opcode(pub u8);

impl Opcode {
    /// A continuation of a fragmented message.
    pub const CONTINUATION: Opcode = Opcode(0);
    /// A text message.
    pub const TEXT: Opcode = Opcode(1);
    /// A binary message.
    pub const BINARY: Opcode = Opcode(2);
    /// The close frame.
    pub const CLOSE: Opcode = Opcode(8);
    /// A ping.
    pub const PING: Opcode = Opcode(9);
    /// A pong.
    pub const PONG: Opcode = Opcode(10);
}

/// Returns an upgrade request for `target`, such as `/ws/chess?token=ann`, with the additional header `lines`, each
/// complete but without its line ending.
///
/// ```
/// let request = lobbyd::sim::wire::upgrade_request("/ws/chess?token=ann", &["Origin: http://localhost"]);
/// assert!(request.starts_with(b"GET /ws/chess?token=ann HTTP/1.1\r\n"));
/// assert!(request.ends_with(b"Origin: http://localhost\r\n\r\n"));
/// ```
pub fn upgrade_request(target: &str, lines: &[&str]) -> Vec<u8> {
    let mut request = format!(
        "GET {target} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    );
    for line in lines {
        request.push_str(line);
        request.push_str("\r\n");
    }
    request.push_str("\r\n");
    request.into_bytes()
}

/// Returns a frame as a client sends it: masked with `mask` (RFC 6455 section 5.3).
///
/// ```
/// use lobbyd::sim::wire::{self, Opcode};
///
/// let ping = wire::frame(Opcode::PING, true, b"hi", [0; 4]);
/// assert_eq!(ping, b"\x89\x82\0\0\0\0hi");
/// ```
pub fn frame(opcode: Opcode, is_final: bool, payload: &[u8], mask: [u8; 4]) -> Vec<u8> {
    let mut bytes = vec![opcode.0 | if is_final { 0x80 } else { 0 }];
    match payload.len() {
        n @ 0..126 => bytes.push(0x80 | n as u8),
        n @ 126..65_536 => {
            bytes.push(0x80 | 126);
            bytes.extend_from_slice(&(n as u16).to_be_bytes());
        }
        n => {
            bytes.push(0x80 | 127);
            bytes.extend_from_slice(&(n as u64).to_be_bytes());
        }
    }
    bytes.extend_from_slice(&mask);
    bytes.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, key)| byte ^ key));
    bytes
}

/// Returns a text message in one frame, with a fixed mask.
///
/// ```
/// assert_eq!(lobbyd::sim::wire::text("hi").len(), 2 + 4 + 2, "header, mask and text");
/// ```
pub fn text(text: &str) -> Vec<u8> {
    frame(Opcode::TEXT, true, text.as_bytes(), [1, 2, 3, 4])
}

/// Returns a close frame with a fixed mask.
///
/// ```
/// assert_eq!(lobbyd::sim::wire::close(1000, "bye").len(), 2 + 4 + 2 + 3, "header, mask, code and reason");
/// ```
pub fn close(code: u16, reason: &str) -> Vec<u8> {
    frame(Opcode::CLOSE, true, &[&code.to_be_bytes(), reason.as_bytes()].concat(), [1, 2, 3, 4])
}

/// Returns the length of the head of a request or response, including its empty line. `None` if it is not complete.
pub(super) fn head_length(bytes: &[u8]) -> Option<usize> {
    bytes.windows(4).position(|window| window == b"\r\n\r\n").map(|end| end + 4)
}

/// Returns the value of a header in the head of a response.
pub(super) fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let lines = head.lines().filter_map(|line| line.split_once(':'));
    lines.filter(|(of, _)| of.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim()).next()
}

/// Returns the ends of the header and of the payload of a frame (RFC 6455 section 5.2). `None` if its length is not
/// complete. Nothing is checked.
pub(super) fn frame_ends(bytes: &[u8]) -> Option<(usize, usize)> {
    let &[_, second, ..] = bytes else { return None };
    let (length, start) = match second & 0x7f {
        126 => (usize::from(u16::from_be_bytes(*bytes.get(2..)?.first_chunk()?)), 4),
        127 => (usize::try_from(u64::from_be_bytes(*bytes.get(2..)?.first_chunk()?)).ok()?, 10),
        n => (usize::from(n), 2),
    };
    let start = if second & 0x80 == 0 { start } else { start + 4 };
    Some((start, start.checked_add(length)?))
}

/// A unit that the server sent: a response head, its body, or a frame.
///
/// [`Reader`] has an example.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Received {
    /// The response to the request: its status and its whole head. If the status is not 101, [`Body`](Self::Body)
    /// follows.
    Answer(u16, String),
    /// Part of the body of a response with a status other than 101.
    Body(String),
    /// A text message.
    Text(String),
    /// A binary message.
    Binary(Vec<u8>),
    /// A ping.
    Ping(Vec<u8>),
    /// A pong.
    Pong(Vec<u8>),
    /// A close frame: its code (1005 if it has none) and reason.
    Close(u16, String),
}

/// A violation of HTTP or RFC 6455 by the server, with its description.
///
/// [`Reader`] has an example.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation(pub String);

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the server broke the protocol: {}", self.0)
    }
}

impl std::error::Error for Violation {}

/// Incremental parser of the bytes that a server sends, which checks them against RFC 6455.
///
/// The bytes may be split at any position.
///
/// ```
/// use lobbyd::sim::wire::{Reader, Received};
///
/// let mut reader = Reader::default();
/// reader.push(b"HTTP/1.1 101 Switching Protocols\r\n\r\n\x81\x02h");
/// assert!(matches!(reader.next(), Ok(Some(Received::Answer(101, _)))));
/// assert_eq!(reader.next(), Ok(None));
/// reader.push(b"i");
/// assert_eq!(reader.next(), Ok(Some(Received::Text("hi".into()))));
/// ```
#[derive(Clone, Debug, Default)]
pub struct Reader {
    input: Vec<u8>,
    /// Bytes at the front of `input` that were returned. Dropped with the next bytes: many small frames may arrive at once.
    consumed: usize,
    /// Unread bytes that do not contain the end of the head.
    searched: usize,
    state: ReaderState,
    /// Whether the response accepts compression.
    has_deflate: bool,
    decompressed: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum ReaderState {
    #[default]
    Head,
    Body,
    Frames,
    Closed,
}

impl Reader {
    /// Appends received bytes.
    pub fn push(&mut self, bytes: &[u8]) {
        self.input.drain(..std::mem::take(&mut self.consumed));
        self.input.extend_from_slice(bytes);
    }

    /// Returns the number of bytes that are not yet part of a complete unit.
    pub fn unread(&self) -> usize {
        self.input.len() - self.consumed
    }

    /// Returns whether the server has accepted compressed messages. [`next`](Self::next) returns them decompressed.
    pub fn has_deflate(&self) -> bool {
        self.has_deflate
    }

    /// Returns the number of compressed messages so far.
    pub fn decompressed(&self) -> u64 {
        self.decompressed
    }

    /// Returns the next complete unit, or `None` if more bytes are needed.
    ///
    /// # Errors
    ///
    /// Returns a [`Violation`] if the bytes violate the protocol: a response head that is not UTF-8 or has no status
    /// line, a masked or fragmented frame, a reserved bit or opcode, a length not in its shortest form, a control frame
    /// of more than 125 bytes, a close frame of one byte, text or a close reason that is not UTF-8, bytes after a
    /// close frame, or a compressed message that was not agreed on or is no shorter than its contents.
    #[expect(clippy::should_implement_trait, reason = "it can fail, and more units may follow after None")]
    pub fn next(&mut self) -> Result<Option<Received>, Violation> {
        match self.state {
            ReaderState::Head => self.next_head(),
            ReaderState::Body => Ok((self.unread() > 0).then(|| {
                let body = String::from_utf8_lossy(&self.input[self.consumed..]).into_owned();
                self.consumed = self.input.len();
                Received::Body(body)
            })),
            ReaderState::Frames => self.next_frame(),
            ReaderState::Closed if self.unread() == 0 => Ok(None),
            ReaderState::Closed => Err(violation("bytes after the close frame")),
        }
    }

    fn next_head(&mut self) -> Result<Option<Received>, Violation> {
        let unread = &self.input[self.consumed..];
        // Its end may have begun in the bytes that were searched.
        let from = self.searched.saturating_sub(3);
        let Some(length) = head_length(&unread[from..]).map(|length| from + length) else {
            self.searched = unread.len();
            return Ok(None);
        };
        let head = String::from_utf8(unread[..length].to_vec());
        (self.consumed, self.searched) = (self.consumed + length, 0);
        let head = head.map_err(|_| violation("a response head that is not UTF-8"))?;
        let status = head.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)).and_then(|code| code.parse().ok());
        let status = status.ok_or_else(|| violation("a response without a status line"))?;
        self.state = if status == 101 { ReaderState::Frames } else { ReaderState::Body };
        self.has_deflate = status == 101 && head.contains("\r\nSec-WebSocket-Extensions: permessage-deflate;");
        Ok(Some(Received::Answer(status, head)))
    }

    fn next_frame(&mut self) -> Result<Option<Received>, Violation> {
        let bytes = &self.input[self.consumed..];
        let &[first, second, ..] = bytes else { return Ok(None) };
        let is_compressed = first & RSV1 != 0;
        if first & 0xf0 & !RSV1 != 0x80 || (is_compressed && !self.has_deflate) {
            return Err(violation("a fragment, or a reserved bit"));
        }
        if second & 0x80 != 0 {
            return Err(violation("a masked frame"));
        }
        let Some((start, end)) = frame_ends(bytes) else { return Ok(None) };
        let shortest = match end - start {
            0..126 => 2,
            126..65_536 => 4,
            _ => 10,
        };
        if start != shortest {
            return Err(violation("a length not in its shortest form"));
        }
        if bytes.len() < end {
            return Ok(None);
        }
        let mut payload = bytes[start..end].to_vec();
        self.consumed += end;
        let opcode = Opcode(first & 0x0f);
        if is_compressed {
            let message = deflate::decompress(&payload).map_err(violation)?;
            if opcode.0 >= 8 || message.len() <= payload.len() {
                return Err(violation("a compressed control frame, or a message that compression has not shortened"));
            }
            payload = message;
            self.decompressed += 1;
        }
        if opcode.0 >= 8 && payload.len() > 125 {
            return Err(violation("a control frame of more than 125 bytes"));
        }
        let utf8 = |bytes: Vec<u8>| String::from_utf8(bytes).map_err(|_| violation("text that is not UTF-8"));
        Ok(Some(match opcode {
            Opcode::TEXT => Received::Text(utf8(payload)?),
            Opcode::BINARY => Received::Binary(payload),
            Opcode::PING => Received::Ping(payload),
            Opcode::PONG => Received::Pong(payload),
            Opcode::CLOSE => {
                self.state = ReaderState::Closed;
                match payload.split_first_chunk() {
                    Some((code, reason)) => Received::Close(u16::from_be_bytes(*code), utf8(reason.to_vec())?),
                    None if payload.is_empty() => Received::Close(1005, String::new()),
                    None => return Err(violation("a close frame of one byte")),
                }
            }
            other => return Err(violation(&format!("opcode {}", other.0))),
        }))
    }
}

fn violation(description: &str) -> Violation {
    Violation(description.to_owned())
}
