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
//! Head, Deciding   --accept an event stream--> Events   send events, discard input; close() leads to Lingering
//! Head, Deciding   --receive_body()--> Body --end_request()--> Idle --next byte--> Head
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
use super::handshake::{Acceptance, Page, Upgrade};
use super::post::{Body, BodyPart};
use super::websocket::{Compression, Limits, ReceivedFrame, WebSocket};
use crate::base::close::CloseReason;
use crate::http::file::FileResponse;
use crate::http::head::{FRONT_BYTES, is_head_request, is_post_request};
use crate::http::{self, Cors, DateLine, HeadCheck, PlainResponse};

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
    /// The payload of a compressed message, to be decompressed and checked.
    Compressed {
        is_text: bool,
        payload: &'s [u8],
    },
    /// A line of the body of a POST ended. `text` is the message in it, if any; `is_last`: the body has ended, too.
    /// [`Connection::end_request`], [`Connection::refuse`] or [`Connection::linger`] must follow then.
    Posted {
        text: Option<&'s str>,
        is_last: bool,
    },
    /// The body of a POST cannot be read; this is the response.
    BadBody(PlainResponse),
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
    Open(WebSocket, Compression),
    /// Sends server-sent events. The client has nothing more to send.
    Events,
    /// Receiving the body of a POST.
    Body(Box<Body>),
    /// A request was answered, and the next one has not begun.
    Idle,
    /// Our close frame is queued; the peer's has not arrived.
    Closing(WebSocket, Compression),
    /// Input is no longer parsed: flush the output, shut down the write side, discard input.
    Lingering,
    /// The peer sends nothing more: it has sent its close frame, or its stream has ended. The connection is closed when
    /// the output is flushed.
    CloseComplete,
}

/// A valid request that is waiting for a decision, and the bytes received after it.
#[derive(Debug)]
struct Deciding {
    request: Acceptance,
    page: Page,
    early: Vec<u8>,
    /// Whether bytes behind the body of a POST were discarded.
    is_cut: bool,
}

impl Deciding {
    /// Bytes of the body that are still to come, of a POST.
    fn body_left(&self) -> Option<usize> {
        match &self.request {
            Acceptance::Post(post) => Some(post.length - self.early.len()),
            Acceptance::WebSocket(_) | Acceptance::Events => None,
        }
    }
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
    /// Returns the length of a text or binary message as it was received, and 0 for other events.
    pub(crate) fn message_bytes(&self) -> usize {
        match self {
            WireEvent::Text(text) | WireEvent::Posted { text: Some(text), .. } => text.len(),
            WireEvent::Binary(bytes) | WireEvent::Compressed { payload: bytes, .. } => bytes.len(),
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
            Phase::Idle => {
                self.0 = Phase::Head(None);
                self.poll_head(input, rules)
            }
            Phase::Body(body) => Some(match body.receive(input, scratch, limits.max_message_bytes)? {
                BodyPart::Line { text, is_last } => WireEvent::Posted { text, is_last },
                BodyPart::Bad(refusal) => WireEvent::BadBody(refusal),
            }),
            Phase::Deciding(deciding) if let Some(left) = deciding.body_left() => {
                let (body, behind) = input.split_at(left.min(input.len()));
                deciding.early.extend_from_slice(body);
                // A request behind it may be read only when this one is answered, and could not wait that long: its head
                // may contain a token. So the connection ends with this answer, and the client sends the request again.
                deciding.is_cut |= !behind.is_empty();
                *input = &[];
                None
            }
            Phase::Deciding(deciding) => {
                let early = &mut deciding.early;
                early.extend_from_slice(mem::take(input));
                let too_much = early.len() > rules.max_bytes;
                too_much.then(|| {
                    WireEvent::TooMuchEarly(PlainResponse::new(431, "wait for the upgrade before sending so much"))
                })
            }
            Phase::Open(websocket, compression) => {
                Some(match websocket.receive(input, scratch, limits, *compression)? {
                    ReceivedFrame::Text(text) => WireEvent::Text(text),
                    ReceivedFrame::Binary(bytes) => WireEvent::Binary(bytes),
                    ReceivedFrame::Compressed { is_text, payload } => WireEvent::Compressed { is_text, payload },
                    ReceivedFrame::Fragment => WireEvent::Nothing,
                    ReceivedFrame::Ping(payload) => WireEvent::Ping(payload),
                    ReceivedFrame::Pong(payload) => WireEvent::Pong(payload),
                    ReceivedFrame::Close { code, answer } => WireEvent::Close { code, answer: Some(answer) },
                    ReceivedFrame::Fault(reason) => WireEvent::Fault(reason),
                })
            }
            Phase::Closing(websocket, compression) => {
                // After our close frame only the peer's close frame matters; its other frames are ignored.
                Some(match websocket.receive(input, scratch, limits, *compression)? {
                    ReceivedFrame::Close { code, .. } => WireEvent::Close { code, answer: None },
                    ReceivedFrame::Fault(reason) => WireEvent::Fault(reason),
                    _ => WireEvent::Nothing,
                })
            }
            Phase::Events | Phase::Lingering | Phase::CloseComplete => {
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
            Phase::Head(None) | Phase::Idle => http::head_end(input, 0, max_header_bytes, HeadCheck::All),
            Phase::Head(Some(buffered)) => {
                http::head_end(&[buffered, input].concat(), buffered.len(), max_header_bytes, HeadCheck::All)
                    .map(|end| end.map(|end| end - buffered.len()))
            }
            Phase::Deciding(deciding) if deciding.body_left() == Some(0) => Ok(None),
            Phase::Events | Phase::Lingering | Phase::CloseComplete => Ok(None),
            Phase::Deciding(_) | Phase::Body(_) | Phase::Open(..) | Phase::Closing(..) => Ok(Some(0)),
        };
        end.ok().flatten().unwrap_or(input.len())
    }

    /// Returns how many bytes at the front of `input` are to be received in one piece. A POST, its body and the request
    /// behind it are received apart, so that each is recorded in its own way: of a request head, only the line ends.
    pub(crate) fn piece(&self, input: &[u8], max_header_bytes: usize) -> usize {
        let begun: &[u8] = match &self.0 {
            Phase::Body(body) => return body.left().min(input.len()),
            Phase::Deciding(deciding) => {
                let left = deciding.body_left().filter(|&left| left > 0);
                return left.map_or(input.len(), |left| left.min(input.len()));
            }
            Phase::Head(Some(buffered)) => buffered,
            Phase::Head(None) | Phase::Idle => &[],
            _ => return input.len(),
        };
        let front: Vec<u8> = begun.iter().chain(input).copied().take(FRONT_BYTES).collect();
        if is_post_request(&front) { self.unread(input, max_header_bytes) } else { input.len() }
    }

    /// Returns whether the connection receives requests. Then its input is received in [pieces](Self::piece).
    #[inline]
    pub(crate) fn receives_requests(&self) -> bool {
        matches!(self.0, Phase::Head(_) | Phase::Idle | Phase::Body(_) | Phase::Deciding(_))
    }

    /// Opens the WebSocket. Returns the 101 response to send.
    pub(crate) fn accept(&mut self, upgrade: &Upgrade, date: DateLine) -> Bytes {
        let compression = if upgrade.deflate.is_some() { Compression::On } else { Compression::Off };
        self.0 = Phase::Open(WebSocket::default(), compression);
        upgrade.response(date)
    }

    /// Begins an event stream.
    pub(crate) fn accept_events(&mut self) {
        self.0 = Phase::Events;
    }

    /// Begins to receive the body of a POST, of at least one byte.
    pub(crate) fn receive_body(&mut self, length: usize) {
        self.0 = Phase::Body(Box::new(Body::new(length)));
    }

    /// Waits for the next request, because one was answered.
    pub(crate) fn end_request(&mut self) {
        self.0 = Phase::Idle;
    }

    /// Stores a request while the decision about it is pending; [`take_pending`](Self::take_pending) returns it.
    pub(crate) fn defer(&mut self, request: Acceptance, page: Page) {
        self.0 = Phase::Deciding(Box::new(Deciding { request, page, early: Vec::new(), is_cut: false }));
    }

    /// Returns the request whose decision is pending, if any.
    pub(crate) fn pending_request(&self) -> Option<&Acceptance> {
        match &self.0 {
            Phase::Deciding(deciding) => Some(&deciding.request),
            _ => None,
        }
    }

    /// Returns what the page that sent that request may read.
    pub(crate) fn pending_cors(&self) -> Option<&Cors> {
        match &self.0 {
            Phase::Deciding(deciding) => deciding.page.cors.as_ref(),
            _ => None,
        }
    }

    /// Takes the request that [`defer`](Self::defer) stored, the page that sent it, and the bytes received since then. The caller must
    /// accept or refuse the request, and then pass the bytes to [`poll`](Self::poll).
    pub(crate) fn take_pending(&mut self) -> (Acceptance, Page, Vec<u8>) {
        match mem::replace(&mut self.0, Phase::Lingering) {
            Phase::Deciding(deciding) => {
                let Deciding { mut request, page, early, is_cut } = *deciding;
                if let Acceptance::Post(post) = &mut request {
                    post.keep_alive &= !is_cut;
                }
                (request, page, early)
            }
            phase => unreachable!("take_pending() needs a pending request, but the phase is {phase:?}"),
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

    /// Waits for the peer's close frame. Returns the close frame to send. An event stream has none: it just ends.
    pub(crate) fn close(&mut self, code: u16, reason: &str) -> Option<Frame> {
        match mem::replace(&mut self.0, Phase::Lingering) {
            Phase::Open(websocket, compression) => {
                self.0 = Phase::Closing(websocket, compression);
                Some(Frame::close(code, reason))
            }
            Phase::Events => None,
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

    /// Returns whether messages can be sent: on an open WebSocket or an event stream.
    pub(crate) fn is_open(&self) -> bool {
        matches!(self.0, Phase::Open(..) | Phase::Events)
    }

    pub(crate) fn is_event_stream(&self) -> bool {
        matches!(self.0, Phase::Events)
    }

    pub(crate) fn is_idle(&self) -> bool {
        matches!(self.0, Phase::Idle)
    }

    pub(crate) fn is_reading_body(&self) -> bool {
        matches!(self.0, Phase::Body(_))
    }

    /// Returns whether the request head is still missing, or a part of it.
    pub(crate) fn is_reading_head(&self) -> bool {
        matches!(self.0, Phase::Head(_) | Phase::Idle)
    }

    pub(crate) fn is_deciding(&self) -> bool {
        matches!(self.0, Phase::Deciding(_))
    }

    /// Returns whether our close frame is queued or sent and the peer's has not arrived.
    pub(crate) fn is_closing(&self) -> bool {
        matches!(self.0, Phase::Closing(..))
    }

    pub(crate) fn ignores_input(&self) -> bool {
        matches!(self.0, Phase::Events | Phase::Lingering | Phase::CloseComplete)
    }

    /// Returns whether the connection can be closed as soon as the output is flushed: the peer sends nothing more.
    pub(crate) fn is_close_complete(&self) -> bool {
        matches!(self.0, Phase::CloseComplete)
    }
}
