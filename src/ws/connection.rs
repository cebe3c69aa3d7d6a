//! Protocol state of one connection: bytes in, events out, and an outbox for the frames to send.
//!
//! Knows HTTP and WebSocket, not lobbies. Owns no socket and reads no clock: the engine passes received bytes in.
//!
//! ```text
//! Head --defer()--> Deciding --accept_pending()--> Open --close()--> Closing
//!  |                                             ^
//!  +-------------------accept()------------------+
//!
//! Head, Deciding   --refuse()----------> Lingering      flush the outbox, discard input
//! any              --linger()----------> Lingering
//! any              --complete_close()--> CloseComplete  the same; the peer sends nothing more
//! ```

use std::borrow::Cow;
use std::mem;

use super::frame::Frame;
use super::handshake::Upgrade;
use super::websocket::{Limits, ReceivedFrame, WebSocket};
use crate::base::close::CloseReason;
use crate::egress::outbox::{Outbox, Outboxes};
use crate::http::{self, Refusal};

/// An event that received bytes produced.
///
/// A request head is borrowed from the input (`'a`) or owned; payloads are borrowed from the scratch buffer (`'s`).
#[derive(Debug)]
pub(crate) enum WireEvent<'a, 's> {
    /// A complete request head. [`Connection::accept`], [`Connection::refuse`] or [`Connection::defer`] must follow.
    Head(Cow<'a, [u8]>),
    /// The bytes are not a valid request head; this is the response.
    BadHead(Refusal),
    Text(&'s str),
    Binary(&'s [u8]),
    Ping(&'s [u8]),
    /// A frame that requires no action: a fragment, or a frame that the peer sent before it saw our close frame.
    Nothing,
    Pong(&'s [u8]),
    /// The peer sent a close frame. If the peer closed first, this is the reply to send; `None` if the frame answers
    /// ours. [`Connection::complete_close`] or [`Connection::linger`] must follow.
    Close(Option<Frame>),
    /// The peer violated the protocol.
    Fault(CloseReason),
}

/// Protocol state, as drawn in the module documentation.
#[derive(Debug)]
enum Phase {
    /// Receiving the request head; contains the bytes of it that arrived in earlier receives.
    Head(Vec<u8>),
    /// The head was parsed and the decision about it is pending. Buffers the bytes that the client sends meanwhile.
    Deciding(Box<Deciding>),
    Open(WebSocket),
    /// Our close frame is queued; the peer's has not arrived.
    Closing(WebSocket),
    /// Input is no longer parsed: flush the outbox, shut down the write side, discard input.
    Lingering,
    /// The peer sends nothing more: it has sent its close frame, or its stream has ended. The connection is closed when
    /// the outbox is flushed.
    CloseComplete,
}

/// A valid upgrade request that is waiting for a decision, and the bytes received after it.
#[derive(Debug)]
struct Deciding {
    upgrade: Upgrade,
    early: Vec<u8>,
}

/// Protocol state and outbox of one connection. Writing reads only the outbox, so it is the first field (`repr(C)`).
#[derive(Debug)]
#[repr(C)]
pub(crate) struct Connection {
    /// `None` while nothing is queued, so that an idle connection needs no outbox.
    outbox: Option<Box<Outbox>>,
    phase: Phase,
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
        Connection { phase: Phase::Head(Vec::new()), outbox: None }
    }

    /// Consumes `input` up to the next event and returns that event. `None` when all of `input` is consumed.
    pub(crate) fn poll<'a, 's>(
        &mut self,
        input: &mut &'a [u8],
        scratch: &'s mut Vec<u8>,
        max_header_bytes: usize,
        limits: Limits,
    ) -> Option<WireEvent<'a, 's>> {
        match &mut self.phase {
            Phase::Head(_) => self.poll_head(input, max_header_bytes),
            Phase::Deciding(deciding) => {
                let early = &mut deciding.early;
                early.extend_from_slice(mem::take(input));
                let too_much = early.len() > max_header_bytes;
                too_much.then(|| WireEvent::BadHead(Refusal::new(431, "wait for the upgrade before sending so much")))
            }
            Phase::Open(websocket) => Some(match websocket.receive(input, scratch, limits)? {
                ReceivedFrame::Text(text) => WireEvent::Text(text),
                ReceivedFrame::Binary(bytes) => WireEvent::Binary(bytes),
                ReceivedFrame::Fragment => WireEvent::Nothing,
                ReceivedFrame::Ping(payload) => WireEvent::Ping(payload),
                ReceivedFrame::Pong(payload) => WireEvent::Pong(payload),
                ReceivedFrame::Close(answer) => WireEvent::Close(Some(answer)),
                ReceivedFrame::Fault(reason) => WireEvent::Fault(reason),
            }),
            Phase::Closing(websocket) => {
                // After our close frame only the peer's close frame matters; its other frames are ignored.
                Some(match websocket.receive(input, scratch, limits)? {
                    ReceivedFrame::Close(_) => WireEvent::Close(None),
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

    fn poll_head<'a>(&mut self, input: &mut &'a [u8], max_header_bytes: usize) -> Option<WireEvent<'a, 'static>> {
        let Phase::Head(buffered) = &mut self.phase else { unreachable!("poll() calls this in phase Head only") };
        if input.is_empty() {
            return None;
        }
        let before = buffered.len();
        // A request usually arrives in one piece. Then it is parsed in the input buffer without a copy.
        let found = if before == 0 {
            http::head_end(input, 0, max_header_bytes)
        } else {
            buffered.extend_from_slice(input);
            http::head_end(buffered, before, max_header_bytes)
        };
        match found {
            Err(refusal) => Some(WireEvent::BadHead(refusal)),
            Ok(None) if before + input.len() > max_header_bytes => {
                let refusal = Refusal::new(431, format!("the request head is longer than {max_header_bytes} bytes"));
                Some(WireEvent::BadHead(refusal))
            }
            Ok(None) => {
                if before == 0 {
                    buffered.extend_from_slice(input);
                }
                *input = &[];
                None
            }
            Ok(Some(end)) => {
                let (head, rest) = if before == 0 {
                    let (head, rest) = input.split_at(end);
                    (Cow::Borrowed(head), rest)
                } else {
                    buffered.truncate(end);
                    (Cow::Owned(mem::take(buffered)), &input[end - before..])
                };
                *input = rest;
                Some(WireEvent::Head(head))
            }
        }
    }

    /// Returns how many bytes at the front of `input` are not parsed as frames: bytes of a request head, and input that
    /// is discarded. Of these only their number and the line ends have an effect.
    pub(crate) fn unread(&self, input: &[u8], max_header_bytes: usize) -> usize {
        let end = match &self.phase {
            Phase::Head(buffered) if buffered.is_empty() => http::head_end(input, 0, max_header_bytes),
            Phase::Head(buffered) => http::head_end(&[buffered, input].concat(), buffered.len(), max_header_bytes)
                .map(|end| end.map(|end| end - buffered.len())),
            Phase::Lingering | Phase::CloseComplete => Ok(None),
            Phase::Deciding { .. } | Phase::Open(_) | Phase::Closing(_) => Ok(Some(0)),
        };
        end.ok().flatten().unwrap_or(input.len())
    }

    /// Queues the 101 response and opens the WebSocket.
    pub(crate) fn accept(&mut self, upgrade: &Upgrade, outboxes: &mut Outboxes) {
        self.outbox_mut(outboxes).push_answer(upgrade.response());
        self.phase = Phase::Open(WebSocket::default());
    }

    /// Stores an upgrade while the decision about it is pending; [`accept_pending`](Self::accept_pending) accepts it.
    pub(crate) fn defer(&mut self, upgrade: Upgrade) {
        self.phase = Phase::Deciding(Box::new(Deciding { upgrade, early: Vec::new() }));
    }

    /// Returns the upgrade whose decision is pending, if any.
    pub(crate) fn pending_upgrade(&self) -> Option<&Upgrade> {
        match &self.phase {
            Phase::Deciding(deciding) => Some(&deciding.upgrade),
            _ => None,
        }
    }

    /// Accepts the upgrade that [`defer`](Self::defer) stored. Returns the bytes received since then, which the caller
    /// must pass to [`poll`](Self::poll) next.
    pub(crate) fn accept_pending(&mut self, outboxes: &mut Outboxes) -> Vec<u8> {
        match mem::replace(&mut self.phase, Phase::Lingering) {
            Phase::Deciding(deciding) => {
                self.accept(&deciding.upgrade, outboxes);
                deciding.early
            }
            phase => unreachable!("accept_pending() needs a pending upgrade, but the phase is {phase:?}"),
        }
    }

    /// Queues an HTTP response without an upgrade, and lingers.
    pub(crate) fn refuse(&mut self, refusal: &Refusal, outboxes: &mut Outboxes) {
        self.outbox_mut(outboxes).push_answer(refusal.response());
        self.phase = Phase::Lingering;
    }

    /// Queues a close frame and waits for the peer's.
    pub(crate) fn close(&mut self, code: u16, reason: &'static str, outboxes: &mut Outboxes) {
        match mem::replace(&mut self.phase, Phase::Lingering) {
            Phase::Open(websocket) => {
                self.outbox_mut(outboxes).push(Frame::close(code, reason).into_bytes(), false);
                self.phase = Phase::Closing(websocket);
            }
            phase => unreachable!("close() needs an open WebSocket, but the phase is {phase:?}"),
        }
    }

    /// Stops parsing: the outbox is flushed and input is discarded.
    pub(crate) fn linger(&mut self) {
        self.phase = Phase::Lingering;
    }

    /// Records that the peer sends nothing more, because it has sent its close frame (RFC 6455 section 5.5.1) or its
    /// stream has ended.
    pub(crate) fn complete_close(&mut self) {
        self.phase = Phase::CloseComplete;
    }

    pub(crate) fn is_open(&self) -> bool {
        matches!(self.phase, Phase::Open(_))
    }

    pub(crate) fn is_deciding(&self) -> bool {
        matches!(self.phase, Phase::Deciding(_))
    }

    /// Returns whether our close frame is queued or sent and the peer's has not arrived.
    pub(crate) fn is_closing(&self) -> bool {
        matches!(self.phase, Phase::Closing(_))
    }

    pub(crate) fn ignores_input(&self) -> bool {
        matches!(self.phase, Phase::Lingering | Phase::CloseComplete)
    }

    /// Returns whether the connection can be closed as soon as the outbox is flushed: the peer sends nothing more.
    pub(crate) fn is_close_complete(&self) -> bool {
        matches!(self.phase, Phase::CloseComplete)
    }

    /// Returns the outbox, or `None` if nothing is queued.
    pub(crate) fn outbox(&self) -> Option<&Outbox> {
        self.outbox.as_deref()
    }

    /// Returns the outbox to queue frames in, and takes one from `outboxes` if there is none. When all its frames are
    /// written or discarded, return it with [`release_outbox`](Self::release_outbox).
    pub(crate) fn outbox_mut(&mut self, outboxes: &mut Outboxes) -> &mut Outbox {
        self.outbox.get_or_insert_with(|| outboxes.take())
    }

    /// Returns the outbox for writing or inspection, or `None` if nothing is queued.
    pub(crate) fn queued_mut(&mut self) -> Option<&mut Outbox> {
        self.outbox.as_deref_mut()
    }

    /// Drops all queued frames and returns the outbox to `outboxes`.
    pub(crate) fn release_outbox(&mut self, outboxes: &mut Outboxes) {
        self.outbox.take().into_iter().for_each(|outbox| outboxes.give(outbox));
    }

    /// Returns the number of queued bytes.
    pub(crate) fn queued_bytes(&self) -> usize {
        self.outbox().map_or(0, Outbox::bytes)
    }

    /// Returns the cost of the queue, which `max_outbound_bytes` bounds: its bytes plus an overhead for each frame.
    pub(crate) fn queued_cost(&self) -> usize {
        self.outbox().map_or(0, Outbox::cost)
    }
}
