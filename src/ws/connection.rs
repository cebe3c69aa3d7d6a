//! Protocol state of one connection: bytes in, events out.
//!
//! Knows HTTP and WebSocket, not lobbies. Owns no socket, queues no output and reads no clock: the engine passes received
//! bytes in, and sends the responses and frames that the methods return.
//!
//! ```text
//! Head --defer()--> Deciding --accept_pending()--> Open --close()--> Closing
//!  |                                             ^
//!  +-------------------accept()------------------+
//!
//! Head, Deciding   --refuse()----------> Lingering      flush the output, discard input
//! Head             --respond()---------> Lingering
//! any              --linger()----------> Lingering
//! any              --complete_close()--> CloseComplete  the same; the peer sends nothing more
//! ```

use std::borrow::Cow;
use std::mem;

use bytes::Bytes;

use super::frame::Frame;
use super::handshake::Upgrade;
use super::websocket::{Limits, ReceivedFrame, WebSocket};
use crate::base::close::CloseReason;
use crate::http::file::FileResponse;
use crate::http::head::is_head_request;
use crate::http::{self, DateLine, HeadCheck, PlainResponse};

/// An event that received bytes produced.
///
/// A request head is borrowed from the input (`'a`) or owned; payloads are borrowed from the scratch buffer (`'s`).
#[derive(Debug)]
pub(crate) enum WireEvent<'a, 's> {
    /// A complete request head. [`Connection::accept`], [`Connection::refuse`], [`Connection::respond`] or
    /// [`Connection::defer`] must follow.
    Head(Cow<'a, [u8]>),
    /// The bytes are not a valid request head; this is the response.
    BadHead(PlainResponse),
    /// The client sent too much before its upgrade was accepted; this is the response.
    TooMuchEarly(PlainResponse),
    Text(&'s str),
    Binary(&'s [u8]),
    Ping(&'s [u8]),
    /// A frame that requires no action: a fragment, or a frame that the peer sent before it saw our close frame.
    Nothing,
    Pong(&'s [u8]),
    /// The peer sent a close frame, with this code if it has one. If the peer closed first, `answer` is the reply to send;
    /// it is `None` if the frame answers ours. [`Connection::complete_close`] or [`Connection::linger`] must follow.
    Close {
        code: Option<u16>,
        answer: Option<Frame>,
    },
    /// The peer violated the protocol.
    Fault(CloseReason),
}

/// Protocol state, as drawn in the module documentation.
#[derive(Debug)]
#[expect(clippy::box_collection, reason = "the phase of an idle connection is smaller with the box")]
enum Phase {
    /// Receiving the request head; contains the bytes of it that arrived in earlier receives, if any.
    Head(Option<Box<Vec<u8>>>),
    /// The head was parsed and the decision about it is pending. Buffers the bytes that the client sends meanwhile.
    Deciding(Box<Deciding>),
    Open(WebSocket),
    /// Our close frame is queued; the peer's has not arrived.
    Closing(WebSocket),
    /// Input is no longer parsed: flush the output, shut down the write side, discard input.
    Lingering,
    /// The peer sends nothing more: it has sent its close frame, or its stream has ended. The connection is closed when
    /// the output is flushed.
    CloseComplete,
}

/// A valid upgrade request that is waiting for a decision, and the bytes received after it.
#[derive(Debug)]
struct Deciding {
    upgrade: Upgrade,
    early: Vec<u8>,
}

/// Protocol state of one connection.
#[derive(Debug)]
pub(crate) struct Connection(Phase);

/// How request heads are read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HeadRules {
    /// Most bytes of a head, and of what follows it before the upgrade is accepted.
    pub(crate) max_bytes: usize,
    pub(crate) check: HeadCheck,
}

impl WireEvent<'_, '_> {
    /// Returns the length of a text or binary message, and 0 for other events.
    pub(crate) fn message_bytes(&self) -> usize {
        match self {
            WireEvent::Text(text) => text.len(),
            WireEvent::Binary(bytes) => bytes.len(),
            _ => 0,
        }
    }
}

impl Connection {
    pub(crate) fn new() -> Connection {
        Connection(Phase::Head(None))
    }

    /// Consumes `input` up to the next event and returns that event. `None` when all of `input` is consumed.
    pub(crate) fn poll<'a, 's>(
        &mut self,
        input: &mut &'a [u8],
        scratch: &'s mut Vec<u8>,
        rules: HeadRules,
        limits: Limits,
    ) -> Option<WireEvent<'a, 's>> {
        match &mut self.0 {
            Phase::Head(_) => self.poll_head(input, rules),
            Phase::Deciding(deciding) => {
                let early = &mut deciding.early;
                early.extend_from_slice(mem::take(input));
                let too_much = early.len() > rules.max_bytes;
                too_much.then(|| {
                    WireEvent::TooMuchEarly(PlainResponse::new(431, "wait for the upgrade before sending so much"))
                })
            }
            Phase::Open(websocket) => Some(match websocket.receive(input, scratch, limits)? {
                ReceivedFrame::Text(text) => WireEvent::Text(text),
                ReceivedFrame::Binary(bytes) => WireEvent::Binary(bytes),
                ReceivedFrame::Fragment => WireEvent::Nothing,
                ReceivedFrame::Ping(payload) => WireEvent::Ping(payload),
                ReceivedFrame::Pong(payload) => WireEvent::Pong(payload),
                ReceivedFrame::Close { code, answer } => WireEvent::Close { code, answer: Some(answer) },
                ReceivedFrame::Fault(reason) => WireEvent::Fault(reason),
            }),
            Phase::Closing(websocket) => {
                // After our close frame only the peer's close frame matters; its other frames are ignored.
                Some(match websocket.receive(input, scratch, limits)? {
                    ReceivedFrame::Close { code, .. } => WireEvent::Close { code, answer: None },
                    ReceivedFrame::Fault(reason) => WireEvent::Fault(reason),
                    _ => WireEvent::Nothing,
                })
            }
            Phase::Lingering | Phase::CloseComplete => {
                *input = &[];
                None
            }
        }
    }

    fn poll_head<'a>(&mut self, input: &mut &'a [u8], rules: HeadRules) -> Option<WireEvent<'a, 'static>> {
        let HeadRules { max_bytes, check } = rules;
        let Phase::Head(buffered) = &mut self.0 else { unreachable!("poll() calls this in phase Head only") };
        if input.is_empty() {
            return None;
        }
        let before = buffered.as_ref().map_or(0, |buffered| buffered.len());
        // A request usually arrives in one piece. Then it is parsed in the input buffer without a copy.
        let found = match buffered {
            None => http::head_end(input, 0, max_bytes, check),
            Some(buffered) => {
                buffered.extend_from_slice(input);
                http::head_end(buffered, before, max_bytes, check)
            }
        };
        match found {
            Err(refusal) => {
                let received = buffered.as_ref().map_or(*input, |buffered| &buffered[..]);
                Some(WireEvent::BadHead(refusal.with_body(!is_head_request(received))))
            }
            Ok(None) => {
                buffered.get_or_insert_with(|| Box::new(input.to_vec()));
                *input = &[];
                None
            }
            Ok(Some(end)) => {
                let (head, rest) = match buffered.take() {
                    None => {
                        let (head, rest) = input.split_at(end);
                        (Cow::Borrowed(head), rest)
                    }
                    Some(mut buffered) => {
                        buffered.truncate(end);
                        (Cow::Owned(*buffered), &input[end - before..])
                    }
                };
                *input = rest;
                Some(WireEvent::Head(head))
            }
        }
    }

    /// Returns how many bytes at the front of `input` are not parsed as frames: bytes of a request head, and input that
    /// is discarded. Of these only their number and the line ends have an effect.
    pub(crate) fn unread(&self, input: &[u8], max_header_bytes: usize) -> usize {
        let end = match &self.0 {
            Phase::Head(None) => http::head_end(input, 0, max_header_bytes, HeadCheck::All),
            Phase::Head(Some(buffered)) => {
                http::head_end(&[buffered, input].concat(), buffered.len(), max_header_bytes, HeadCheck::All)
                    .map(|end| end.map(|end| end - buffered.len()))
            }
            Phase::Lingering | Phase::CloseComplete => Ok(None),
            Phase::Deciding { .. } | Phase::Open(_) | Phase::Closing(_) => Ok(Some(0)),
        };
        end.ok().flatten().unwrap_or(input.len())
    }

    /// Opens the WebSocket. Returns the 101 response to send.
    pub(crate) fn accept(&mut self, upgrade: &Upgrade, date: DateLine) -> Bytes {
        self.0 = Phase::Open(WebSocket::default());
        upgrade.response(date)
    }

    /// Stores an upgrade while the decision about it is pending; [`accept_pending`](Self::accept_pending) accepts it.
    pub(crate) fn defer(&mut self, upgrade: Upgrade) {
        self.0 = Phase::Deciding(Box::new(Deciding { upgrade, early: Vec::new() }));
    }

    /// Returns the upgrade whose decision is pending, if any.
    pub(crate) fn pending_upgrade(&self) -> Option<&Upgrade> {
        match &self.0 {
            Phase::Deciding(deciding) => Some(&deciding.upgrade),
            _ => None,
        }
    }

    /// Accepts the upgrade that [`defer`](Self::defer) stored. Returns the 101 response to send, and the bytes received
    /// since then, which the caller must pass to [`poll`](Self::poll) next.
    pub(crate) fn accept_pending(&mut self, date: DateLine) -> (Bytes, Vec<u8>) {
        match mem::replace(&mut self.0, Phase::Lingering) {
            Phase::Deciding(deciding) => (self.accept(&deciding.upgrade, date), deciding.early),
            phase => unreachable!("accept_pending() needs a pending upgrade, but the phase is {phase:?}"),
        }
    }

    /// Lingers, because the request is refused. Returns the HTTP response to send.
    pub(crate) fn refuse(&mut self, refusal: &PlainResponse, date: DateLine) -> Bytes {
        self.0 = Phase::Lingering;
        refusal.response(date)
    }

    /// Lingers, because the request is answered with a file. Returns the response to send, and the length of its head.
    pub(crate) fn respond(&mut self, file: &FileResponse, date: DateLine, with_body: bool) -> (Bytes, usize) {
        self.0 = Phase::Lingering;
        file.encode(date, with_body)
    }

    /// Waits for the peer's close frame. Returns the close frame to send.
    pub(crate) fn close(&mut self, code: u16, reason: &str) -> Frame {
        match mem::replace(&mut self.0, Phase::Lingering) {
            Phase::Open(websocket) => {
                self.0 = Phase::Closing(websocket);
                Frame::close(code, reason)
            }
            phase => unreachable!("close() needs an open WebSocket, but the phase is {phase:?}"),
        }
    }

    /// Stops parsing: the output is flushed and input is discarded.
    pub(crate) fn linger(&mut self) {
        self.0 = Phase::Lingering;
    }

    /// Records that the peer sends nothing more, because it has sent its close frame (RFC 6455 section 5.5.1) or its
    /// stream has ended.
    pub(crate) fn complete_close(&mut self) {
        self.0 = Phase::CloseComplete;
    }

    pub(crate) fn is_open(&self) -> bool {
        matches!(self.0, Phase::Open(_))
    }

    /// Returns whether the request head is still missing, or a part of it.
    pub(crate) fn is_reading_head(&self) -> bool {
        matches!(self.0, Phase::Head(_))
    }

    pub(crate) fn is_deciding(&self) -> bool {
        matches!(self.0, Phase::Deciding(_))
    }

    /// Returns whether our close frame is queued or sent and the peer's has not arrived.
    pub(crate) fn is_closing(&self) -> bool {
        matches!(self.0, Phase::Closing(_))
    }

    pub(crate) fn ignores_input(&self) -> bool {
        matches!(self.0, Phase::Lingering | Phase::CloseComplete)
    }

    /// Returns whether the connection can be closed as soon as the output is flushed: the peer sends nothing more.
    pub(crate) fn is_close_complete(&self) -> bool {
        matches!(self.0, Phase::CloseComplete)
    }
}
