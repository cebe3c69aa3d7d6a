//! One connection's protocol state: bytes in, events out; and an outbox for the way back.
//!
//! Knows HTTP and WebSocket, not lobbies. Owns no socket and reads no clock: the engine passes both in as data.
//!
//! ```text
//! Head --request complete--> Deciding --accept--> Open --close()--> Closing
//!  |                            |                   | |                | |
//!  +--------refuse--------------+-----finish()------+-+----------------+-+--> Finishing (flushes, understands nothing)
//!                                                     |                  |
//!                                                     +---peer's close---+--> Parted (the same, and nothing will come)
//! ```

use std::borrow::Cow;
use std::mem;

use super::frame::Frame;
use super::handshake::Upgrade;
use super::http::{self, Refusal};
use super::outbox::{Outbox, Outboxes};
use super::websocket::{Limits, Received, WebSocket};
use crate::close::CloseReason;

/// What came of the bytes that were received.
///
/// A head lies in the input (`'a`) or is handed over; messages lie in the scratch buffer (`'s`).
#[derive(Debug)]
pub(crate) enum WireEvent<'a, 's> {
    /// A complete request head. [`Connection::accept`], [`Connection::refuse`] or [`Connection::hold`] must follow.
    Head(Cow<'a, [u8]>),
    /// What arrived instead of a request head gets this answer.
    BadHead(Refusal),
    Text(&'s str),
    Binary(&'s [u8]),
    Ping(&'s [u8]),
    /// A frame from which nothing follows: a fragment, or what a peer sent before it saw our close frame.
    Nothing,
    Pong(&'s [u8]),
    /// The peer sent a close frame: first, and then this is the answer to it, or as the answer to ours. Either way
    /// [`Connection::part`] or [`Connection::finish`] must follow.
    Close(Option<Frame>),
    /// The peer broke the protocol.
    Fault(CloseReason),
}

#[derive(Debug)]
enum Phase {
    /// Collecting the request head: what came of it before this receive.
    Head(Vec<u8>),
    /// The head is read; the answer is not decided. Keeps what the client sends meanwhile.
    Deciding(Box<Deciding>),
    Open(WebSocket),
    /// Our close frame is queued, the peer's is awaited.
    Closing(WebSocket),
    /// Nothing more is understood: flush, shut down, drop what comes.
    Lingering,
    /// Both ends have sent their close frames: once ours is flushed it is over.
    CloseComplete,
}

/// A request whose answer is not decided.
#[derive(Debug)]
struct Deciding {
    upgrade: Upgrade,
    early: Vec<u8>,
}

/// Who writes looks at the outbox and at nothing else, so it comes first.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct Connection {
    /// Only while something is queued: who is idle has none.
    outbox: Option<Box<Outbox>>,
    phase: Phase,
}

impl WireEvent<'_, '_> {
    /// Bytes of the message, where it is one.
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

    /// Takes from `input` up to the next event. `None` when `input` is used up.
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
                Received::Text(text) => WireEvent::Text(text),
                Received::Binary(bytes) => WireEvent::Binary(bytes),
                Received::Fragment => WireEvent::Nothing,
                Received::Ping(payload) => WireEvent::Ping(payload),
                Received::Pong(payload) => WireEvent::Pong(payload),
                Received::Close(answer) => WireEvent::Close(Some(answer)),
                Received::Fault(reason) => WireEvent::Fault(reason),
            }),
            Phase::Closing(websocket) => {
                // Of what a peer sent before it saw our close frame only its own close frame matters.
                Some(match websocket.receive(input, scratch, limits)? {
                    Received::Close(_) => WireEvent::Close(None),
                    Received::Fault(reason) => WireEvent::Fault(reason),
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
        let Phase::Head(held) = &mut self.phase else { unreachable!("poll() has looked") };
        if input.is_empty() {
            return None;
        }
        let before = held.len();
        // The usual request comes in one piece and is read where it lies.
        let found = if before == 0 {
            http::head_end(input, 0, max_header_bytes)
        } else {
            held.extend_from_slice(input);
            http::head_end(held, before, max_header_bytes)
        };
        match found {
            Err(refusal) => Some(WireEvent::BadHead(refusal)),
            Ok(None) if before + input.len() > max_header_bytes => {
                let refusal = Refusal::new(431, format!("the request head is longer than {max_header_bytes} bytes"));
                Some(WireEvent::BadHead(refusal))
            }
            Ok(None) => {
                if before == 0 {
                    held.extend_from_slice(input);
                }
                *input = &[];
                None
            }
            Ok(Some(end)) => {
                let (head, rest) = if before == 0 {
                    let (head, rest) = input.split_at(end);
                    (Cow::Borrowed(head), rest)
                } else {
                    held.truncate(end);
                    (Cow::Owned(mem::take(held)), &input[end - before..])
                };
                *input = rest;
                Some(WireEvent::Head(head))
            }
        }
    }

    /// How many bytes at the front of `input` are not looked at as frames: those of a request, and those nobody reads. Of
    /// them only the number and the ends of lines matter.
    pub(crate) fn unread(&self, input: &[u8], max_header_bytes: usize) -> usize {
        let end = match &self.phase {
            Phase::Head(held) if held.is_empty() => http::head_end(input, 0, max_header_bytes),
            Phase::Head(held) => http::head_end(&[held, input].concat(), held.len(), max_header_bytes)
                .map(|end| end.map(|end| end - held.len())),
            Phase::Lingering | Phase::CloseComplete => Ok(None),
            Phase::Deciding { .. } | Phase::Open(_) | Phase::Closing(_) => Ok(Some(0)),
        };
        end.ok().flatten().unwrap_or(input.len())
    }

    /// Answers the request with an upgrade: from now on this is a WebSocket.
    pub(crate) fn accept(&mut self, upgrade: &Upgrade, outboxes: &mut Outboxes) {
        self.outbox_mut(outboxes).push_answer(upgrade.response());
        self.phase = Phase::Open(WebSocket::default());
    }

    /// Keeps what it takes to accept later.
    pub(crate) fn hold(&mut self, upgrade: Upgrade) {
        self.phase = Phase::Deciding(Box::new(Deciding { upgrade, early: Vec::new() }));
    }

    /// What it takes to accept a request that is held.
    pub(crate) fn held_upgrade(&self) -> Option<&Upgrade> {
        match &self.phase {
            Phase::Deciding(deciding) => Some(&deciding.upgrade),
            _ => None,
        }
    }

    /// Accepts a request that was held. Returns what the client sent meanwhile, to be polled next.
    pub(crate) fn accept_held(&mut self, outboxes: &mut Outboxes) -> Vec<u8> {
        match mem::replace(&mut self.phase, Phase::Lingering) {
            Phase::Deciding(deciding) => {
                self.accept(&deciding.upgrade, outboxes);
                deciding.early
            }
            phase => unreachable!("only a held request can be accepted later, this is {phase:?}"),
        }
    }

    /// Answers the request with an HTTP status; nothing follows.
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
            phase => unreachable!("only an open WebSocket can be closed, this is {phase:?}"),
        }
    }

    /// Waits for nothing any more: what is queued is flushed, what comes is dropped.
    pub(crate) fn linger(&mut self) {
        self.phase = Phase::Lingering;
    }

    /// Waits for nothing any more, since the peer has nothing more to say (RFC 6455 section 5.5.1).
    pub(crate) fn complete_close(&mut self) {
        self.phase = Phase::CloseComplete;
    }

    pub(crate) fn is_open(&self) -> bool {
        matches!(self.phase, Phase::Open(_))
    }

    pub(crate) fn is_deciding(&self) -> bool {
        matches!(self.phase, Phase::Deciding(_))
    }

    /// Whether the peer's close frame is awaited.
    pub(crate) fn is_closing(&self) -> bool {
        matches!(self.phase, Phase::Closing(_))
    }

    pub(crate) fn ignores_input(&self) -> bool {
        matches!(self.phase, Phase::Lingering | Phase::CloseComplete)
    }

    /// Whether both close frames have been sent.
    pub(crate) fn is_close_complete(&self) -> bool {
        matches!(self.phase, Phase::CloseComplete)
    }

    /// What is queued; `None` when nothing is.
    pub(crate) fn outbox(&self) -> Option<&Outbox> {
        self.outbox.as_deref()
    }

    /// Where to queue something. What is queued must be written, or dropped with [`give_back`](Self::give_back).
    pub(crate) fn outbox_mut(&mut self, outboxes: &mut Outboxes) -> &mut Outbox {
        self.outbox.get_or_insert_with(|| outboxes.take())
    }

    /// What is queued, to be written or looked through.
    pub(crate) fn queued_mut(&mut self) -> Option<&mut Outbox> {
        self.outbox.as_deref_mut()
    }

    /// Drops whatever is queued.
    pub(crate) fn give_back(&mut self, outboxes: &mut Outboxes) {
        self.outbox.take().into_iter().for_each(|outbox| outboxes.give(outbox));
    }

    /// Bytes that are queued.
    pub(crate) fn queued_bytes(&self) -> usize {
        self.outbox().map_or(0, Outbox::bytes)
    }

    /// What they count against `max_outbound_bytes`.
    pub(crate) fn queued_cost(&self) -> usize {
        self.outbox().map_or(0, Outbox::cost)
    }
}
