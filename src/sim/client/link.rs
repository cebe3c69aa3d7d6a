//! A model client's end of one connection: its state, and how it puts frames on the path to the server.
//!
//! Knows nothing of the engine besides the connection's id. What the client knows of its lobby is in its view.

use std::collections::VecDeque;
use std::time::Duration;

use super::events::EventReader;
use super::in_session::InSession;
use super::pipe::{Pipe, Side};
use super::player::Player;
use super::posting::Posting;
use super::retry::Retry;
use super::sent::{RequestKind, SentRequest};
use super::sessions::SentClaim;
use super::shared_state::SharedState;
use super::view::View;
use crate::base::close::CloseReason;
use crate::base::id::ConnId;
use crate::base::random::Random;
use crate::base::rate::Rate;
use crate::base::time::Time;
use crate::sim::decoder::Decoder;
use crate::sim::deflate;
use crate::sim::wire::{self, Opcode, Reader};

/// Numbers of requests that are not messages, in a session, begin after this one.
const UNCOUNTED_REFS: u32 = 1_000_000;

/// Behaviours of one client, drawn when it connects. Each field names its [`Behaviour`](crate::sim::Behaviour).
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Traits {
    /// `Eager`: sends before it has read the response to its request.
    pub(crate) is_eager: bool,
    /// `Mute`: answers no ping.
    pub(crate) is_mute: bool,
    /// `Rude`: does not answer a close frame.
    pub(crate) is_rude: bool,
    /// `WrongPong`: answers pings with a wrong payload or nonce, twice, or not at all.
    pub(crate) pongs_wrongly: bool,
    /// `SlowReader`: reads little at a time.
    pub(crate) is_slow: bool,
    /// `Stall`: does not read.
    pub(crate) is_stalled: bool,
    /// `Fragment`: sends messages in fragments.
    pub(crate) fragments: bool,
    /// `Compress`: compresses some of its messages, if the server accepts it.
    pub(crate) compresses: bool,
    /// `Patient`: waits after a refusal, then tries again.
    pub(crate) is_patient: bool,
}

/// A connection that the server has just accepted.
pub(crate) struct Accepted {
    /// Number of the connection in the run, counted from 0.
    pub(crate) number: u32,
    pub(crate) conn: ConnId,
    pub(crate) at: Time,
    /// Index of the user in [`SharedState::users`].
    pub(crate) user: usize,
    /// Index of the lobby in [`SharedState::lobbies`].
    pub(crate) lobby: usize,
    /// Network that the client's address counts for.
    pub(crate) network: usize,
    /// Number of bytes that may be in flight to the client.
    pub(crate) capacity: usize,
    pub(crate) is_json: bool,
    /// Whether the client asks for an event stream.
    pub(crate) has_events: bool,
    /// Whether it posts messages for its event stream.
    pub(crate) may_post: bool,
    pub(crate) has_ticks: bool,
    /// Whether no limit of the server may cut the connection before the client has its answers.
    pub(crate) is_owed_answers: bool,
}

/// A health check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct HealthProbe {
    /// Whether it is a HEAD request, which is answered without a body.
    pub(crate) is_head_request: bool,
    /// Whether it asks if the server is ready, not only if it lives.
    pub(crate) asks_ready: bool,
}

/// The client's end of one connection.
pub(crate) struct Link {
    /// Number of the connection in the run, counted from 0.
    pub(crate) number: u32,
    /// Number under which the client's messages are known: that of the first connection of its session.
    pub(crate) marker: u32,
    /// `None` once the server has dropped the connection.
    pub(crate) conn: Option<ConnId>,
    /// The connection, also after it was dropped.
    pub(crate) accepted: ConnId,
    /// Index of the user in [`SharedState::users`].
    pub(crate) user: usize,
    /// Index of the lobby in [`SharedState::lobbies`].
    pub(crate) lobby: usize,
    /// Network that the client's address counts for.
    pub(crate) network: usize,
    pub(crate) pipe: Pipe,
    /// Bytes that were passed to the engine and not consumed by it.
    pub(crate) unconsumed: usize,
    pub(super) reader: Reader,
    /// Reads in place of `reader` what a client receives that asks for an event stream.
    pub(super) events: Option<EventReader>,
    may_post: bool,
    /// Messages for the event stream that were not posted yet.
    pub(crate) to_post: VecDeque<String>,
    /// Number of messages posted for the event stream, and of the bytes that they may be charged.
    pub(crate) posted: (u64, u64),
    /// Bytes by which the compressed messages sent are longer than their payloads.
    pub(crate) growth: u64,
    /// `Some` for a connection on which messages for an event stream are posted.
    pub(crate) posting: Option<Posting>,
    pub(crate) view: View,
    pub(crate) traits: Traits,
    pub(crate) player: Option<Box<dyn Player>>,
    pub(crate) is_json: bool,
    /// Whether the server may answer the upgrade request with 101.
    pub(crate) may_be_accepted: bool,
    /// The health check that the client sends instead of an upgrade request, if any.
    pub(crate) probe: Option<HealthProbe>,
    /// Status that the response must have, if that is certain.
    pub(crate) expected_status: Option<u16>,
    /// Whether its request is for a file of the program.
    pub(crate) asks_for_file: bool,
    /// Whether the client sent something invalid, after which answers are not predictable.
    pub(crate) is_unpredictable: bool,
    /// Status of the response to the upgrade request, once it was read.
    pub(crate) status: Option<u16>,
    pub(crate) sent_close: bool,
    /// Code of the close frame sent first, which the server must repeat.
    pub(crate) close_code: Option<u16>,
    pub(crate) sent_leave: bool,
    /// Code and reason of the close frame received, if any.
    pub(crate) closed: Option<(u16, String)>,
    /// Number of broadcasts and of messages to the application sent so far.
    pub(crate) messages_sent: u32,
    /// Number of direct messages and volatile broadcasts sent so far.
    pub(crate) directs_sent: u32,
    /// Number of raw messages sent so far: binary, or any message of a raw application.
    pub(crate) raw_sent: u32,
    /// Last `ref` used.
    pub(crate) last_ref: u32,
    /// Payloads of the unanswered pings, in order.
    pub(crate) pings: VecDeque<u32>,
    pub(crate) pings_sent: u32,
    /// Nonces of the health checks received, newest last.
    pub(super) nonces: Vec<u64>,
    /// Nonces that were sent back and that the server has not yet reported as an answer.
    pub(crate) ponged: Vec<u64>,
    /// Number of `health_pong` messages sent.
    pub(crate) health_pongs: u64,
    /// Value of `pipe.sent` after the last request.
    pub(crate) request_end: u64,
    /// `ref` of the last refused request and the wait that the server asked for, until all requests are answered.
    pub(crate) refused: Option<(u32, Duration)>,
    /// The retry that the client waits for, or whose answer it waits for.
    pub(crate) retry: Option<Retry>,
    /// Rate of the connection's identity, kept after the connection was dropped.
    pub(crate) tier: Option<Rate>,
    /// Number of text, binary, ping and pong frames received.
    pub(crate) frames: u64,
    /// Whether the upgrade request is never completed.
    pub(crate) is_unfinished: bool,
    pub(crate) opened: Time,
    /// Time at which the server last received a byte.
    pub(crate) last_delivery: Time,
    /// Number of consecutive turns in which the driver reported unread input of this connection.
    pub(crate) unread_turns: u32,
    /// Whether the driver has read the client's end of the stream.
    pub(crate) end_was_read: bool,
    /// Whether the last write failed or was blocked, or the connection was dropped while draining.
    pub(crate) was_cut: bool,
    /// Whether every answer must still reach the client after it closed its own direction. True if `max_closing` and
    /// `max_pending` are too large to cut the connection.
    pub(crate) is_owed_answers: bool,
    /// Close reason that the server recorded, once there is one.
    pub(crate) reason: Option<CloseReason>,
    pub(crate) decoders: Decoders,
    /// Whether the player rejected a message.
    pub(crate) is_rejected: bool,
}

/// Decoders of what is sent on a connection, for the report of a failure.
#[derive(Debug, Default)]
pub(crate) struct Decoders {
    /// What the client sends.
    pub(crate) sends: Decoder,
    /// What arrives at the server.
    pub(crate) arrives: Decoder,
    /// What the server writes.
    pub(crate) written: Decoder,
}

impl Link {
    pub(crate) fn new(accepted: Accepted, traits: Traits) -> Link {
        let Accepted { number, conn, at, user, lobby, network, capacity, is_json, .. } = accepted;
        Link {
            number,
            marker: number,
            conn: Some(conn),
            accepted: conn,
            user,
            lobby,
            network,
            pipe: Pipe::new(capacity),
            unconsumed: 0,
            reader: Reader::default(),
            events: accepted.has_events.then(EventReader::default),
            may_post: accepted.may_post,
            to_post: VecDeque::new(),
            posted: (0, 0),
            growth: 0,
            posting: None,
            view: View::new(number, accepted.has_ticks),
            traits,
            player: None,
            is_json,
            may_be_accepted: true,
            probe: None,
            expected_status: None,
            asks_for_file: false,
            is_unpredictable: false,
            status: None,
            sent_close: false,
            close_code: None,
            sent_leave: false,
            closed: None,
            messages_sent: 0,
            directs_sent: 0,
            raw_sent: 0,
            last_ref: 0,
            pings: VecDeque::new(),
            pings_sent: 0,
            nonces: Vec::new(),
            ponged: Vec::new(),
            health_pongs: 0,
            request_end: 0,
            refused: None,
            retry: None,
            tier: None,
            frames: 0,
            is_unfinished: false,
            opened: at,
            last_delivery: at,
            unread_turns: 0,
            end_was_read: false,
            was_cut: false,
            is_owed_answers: accepted.is_owed_answers,
            reason: None,
            decoders: Decoders::default(),
            is_rejected: false,
        }
    }

    /// Whether the connection brings messages for an event stream, and is no member of its own.
    pub(crate) fn is_post(&self) -> bool {
        self.posting.is_some()
    }

    /// Whether the client receives an event stream. It has no frames, so it neither pings nor sends a close frame.
    pub(crate) fn has_events(&self) -> bool {
        self.events.is_some()
    }

    /// Whether the server has accepted the client's request.
    pub(crate) fn is_accepted(&self) -> bool {
        self.status == Some(if self.has_events() { 200 } else { 101 })
    }

    /// Status of the answer to the attempt to connect, once it was read. An event stream has always 200, and is refused
    /// with the code of its first event.
    pub(crate) fn admission(&self) -> Option<u16> {
        match (self.status, &self.view.goodbye) {
            // A POST is no attempt.
            _ if self.is_post() => None,
            (Some(200), None) if self.has_events() => self.view.is_welcomed().then_some(101),
            (Some(200), Some((code, _))) if self.has_events() && !self.view.is_welcomed() => {
                Some(if *code == CloseReason::RateLimited.code() { 429 } else { 200 })
            }
            (Some(200), Some(_)) if self.has_events() => Some(101),
            (status, _) => status,
        }
    }

    /// Whether the client with an event stream may post for it now: the stream of a session is open, as far as it knows.
    pub(crate) fn may_say(&self) -> bool {
        self.pipe.client == Side::Open && !self.has_nothing_to_say() && self.view.is_synced()
    }

    /// Whether the client only reads: no session, no POST.
    pub(crate) fn has_nothing_to_say(&self) -> bool {
        self.has_events() && (!self.may_post || self.view.answers.session.is_none())
    }

    /// Whether the client may send any frame now.
    pub(crate) fn may_send_frames(&self) -> bool {
        self.may_send() && !self.has_events()
    }

    /// Whether the client may send a message now.
    pub(crate) fn may_send(&self) -> bool {
        self.pipe.client == Side::Open
            && (!self.has_events() || (self.may_say() && self.to_post.len() < 30))
            && !self.pipe.server_dropped
            && !self.sent_close
            && !self.sent_leave
            && !self.is_unpredictable
            && self.may_be_accepted
            && self.closed.is_none()
            && self.view.goodbye.is_none()
            && (self.is_accepted() || (self.traits.is_eager && self.status.is_none()))
            && self.pipe.unread_by_server() < 100_000
            && self.retry.is_none()
            && self.refused.is_none()
            && self.speaks_for_session()
    }

    /// Whether it is the connection that its session uses, and the session knows what became of its requests.
    fn speaks_for_session(&self) -> bool {
        let Some(session) = &self.view.session else { return true };
        !session.is_superseded && (self.view.is_synced() || !session.waits_for_welcome())
    }

    /// Begins to speak for the session with this index.
    pub(crate) fn enter_session(&mut self, index: usize, claim: SentClaim, shared: &mut SharedState) {
        let session = &mut shared.sessions.all[index];
        session.link = self.number;
        (self.marker, self.messages_sent, self.directs_sent) =
            (session.marker, session.messages_sent, session.directs_sent);
        // Only the numbers of messages count, so that the others are told apart by their size.
        self.last_ref = UNCOUNTED_REFS;
        (self.view.answers.session, self.view.answers.number) = (Some(index), self.marker);
        let waits = session.was.is_some() || session.marker != self.number;
        self.view.session = Some(InSession::new(index, claim, waits));
    }

    /// Another connection, or none, speaks for the session from now on. It keeps what the client knows.
    pub(crate) fn leave_session(&mut self, shared: &mut SharedState) {
        let Some(in_session) = self.view.session.as_mut().filter(|session| !session.is_superseded) else { return };
        in_session.is_superseded = true;
        let books = self.view.books_of_session();
        self.view.answers.session = None;
        for sent in self.view.answers.unknown().filter(|sent| sent.kind.is_message()) {
            shared.relay.lost((self.marker, sent.k));
        }
        let session = &mut shared.sessions.all[self.view.session.as_ref().expect("it is in a session").index];
        (session.messages_sent, session.directs_sent) = (self.messages_sent, self.directs_sent);
        session.gave_up(books);
    }

    /// Whether the server could read bytes, or the end of the stream, that it has not read yet.
    pub(crate) fn has_input(&self) -> bool {
        let is_at_end = self.pipe.is_at_end() && !self.end_was_read;
        self.conn.is_some() && (self.pipe.unread_by_server() > 0 || is_at_end)
    }

    /// Whether the connection was upgraded and neither side has ended it.
    pub(crate) fn is_live(&self) -> bool {
        self.conn.is_some()
            && self.pipe.client == Side::Open
            && !self.sent_close
            && !self.sent_leave
            && !self.is_unpredictable
            && self.closed.is_none()
            && self.is_accepted()
    }

    /// Whether the answers are exactly predictable.
    pub(super) fn is_strict(&self, shared: &SharedState) -> bool {
        shared.relays && !self.is_unpredictable && self.player.is_none()
    }

    /// Sends a message of the lobby protocol and records it, so that the answers can be checked in order.
    pub(crate) fn send_request(&mut self, kind: RequestKind, reference: Option<u32>, text: &str, random: &mut Random) {
        let growth = self.send_message(Opcode::TEXT, text.as_bytes(), random);
        self.view.answers.expect(SentRequest { kind, reference, k: self.messages_sent, growth });
        self.request_end = self.pipe.sent;
    }

    /// Sends a message, possibly in fragments with pings between them. Returns the bytes by which it is longer than its payload,
    /// because it is compressed.
    pub(crate) fn send_message(&mut self, opcode: Opcode, message: &[u8], random: &mut Random) -> u32 {
        if self.has_events() {
            let text = str::from_utf8(message).expect("only texts are posted");
            self.to_post.push_back(text.to_owned());
            return 0;
        }
        let compressed = self.compressed(message, random);
        let growth = compressed.as_ref().map_or(0, |compressed| message.len().saturating_sub(compressed.len()) as u32);
        self.growth += u64::from(growth);
        self.send_payload(opcode, compressed.as_deref().unwrap_or(message), compressed.is_some(), random);
        growth
    }

    fn send_payload(&mut self, opcode: Opcode, payload: &[u8], is_compressed: bool, random: &mut Random) {
        let mut rsv1 = if is_compressed { wire::RSV1 } else { 0 };
        let mut frame = |opcode, is_final, part: &[u8], mask| {
            let mut frame = wire::frame(opcode, is_final, part, mask);
            frame[0] |= std::mem::take(&mut rsv1);
            frame
        };
        if !self.traits.fragments || payload.len() < 2 || random.percent(50) {
            return self.pipe.send(&frame(opcode, true, payload, mask(random)));
        }
        let (mut rest, mut opcode) = (payload, opcode);
        while !rest.is_empty() {
            let (part, after) = rest.split_at(1 + random.below(rest.len() as u64) as usize);
            self.pipe.send(&frame(opcode, after.is_empty(), part, mask(random)));
            (rest, opcode) = (after, Opcode::CONTINUATION);
            if !rest.is_empty() && random.percent(20) {
                self.ping(random);
            }
        }
    }

    /// Compresses a message, if the client does so now.
    fn compressed(&self, message: &[u8], random: &mut Random) -> Option<Vec<u8>> {
        if !self.traits.compresses || !self.reader.has_deflate() || random.percent(50) {
            return None;
        }
        // The server takes no message that compression has made much longer.
        Some(deflate::compress(message, random)).filter(|compressed| compressed.len() < message.len() + 64)
    }

    pub(crate) fn ping(&mut self, random: &mut Random) {
        self.pings_sent += 1;
        self.pings.push_back(self.pings_sent);
        self.pipe.send(&wire::frame(Opcode::PING, true, &self.pings_sent.to_be_bytes(), mask(random)));
    }

    pub(crate) fn close(&mut self, code: Option<u16>, random: &mut Random) {
        self.sent_close = true;
        self.close_code = code;
        let payload = code.map(u16::to_be_bytes);
        self.pipe.send(&wire::frame(Opcode::CLOSE, true, payload.as_ref().map_or(&[], |code| &code[..]), mask(random)));
    }

    /// Checks, once both sides have ended the connection, that the close frame matches the server's close reason.
    pub(crate) fn check_end(&self) -> Result<(), String> {
        let Some(reason) = self.reason else { return Err("the connection was dropped without a close reason".into()) };
        // Of an event stream, the last event takes the place of the close frame.
        let closed = if self.has_events() { &self.view.goodbye } else { &self.closed };
        match closed {
            Some((code, word)) if !self.sent_close_first() && (*code != reason.code() || word != reason.word()) => {
                Err(format!("the client read close {code} {word}, but the server's reason is {reason}"))
            }
            _ => Ok(()),
        }
    }

    /// Whether the close frame read may be the answer to the client's own.
    fn sent_close_first(&self) -> bool {
        self.is_unpredictable || (self.sent_close && self.view.goodbye.is_none())
    }
}

pub(crate) fn mask(random: &mut Random) -> [u8; 4] {
    (random.next_u64() as u32).to_be_bytes()
}
