//! A model client's end of one connection. Reads what the server sent, answers it correctly or, on purpose,
//! incorrectly, and checks it against RFC 6455 and the lobby protocol.
//!
//! Knows nothing of the engine. `invariants` compares the state kept here with that of the server.

use std::collections::VecDeque;
use std::time::Duration;

use super::Player;
use super::network::{Pipe, Side};
use super::rates::Retry;
use super::shared_state::SharedState;
use super::view::{Reaction, RequestKind, SentRequest, View, write_number};
use super::wire::{self, Opcode, Reader, Received};
use crate::base::close::CloseReason;
use crate::base::id::ConnId;
use crate::base::random::Random;
use crate::base::rate::Rate;
use crate::base::time::Time;

/// Behaviours of one client, drawn when it connects. Each field names its [`Behaviour`](super::Behaviour).
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Traits {
    /// `Eager`: sends before it has read the response to its request.
    pub(super) is_eager: bool,
    /// `Mute`: answers no ping.
    pub(super) is_mute: bool,
    /// `Rude`: does not answer a close frame.
    pub(super) is_rude: bool,
    /// `WrongPong`: answers pings with a wrong payload or nonce, twice, or not at all.
    pub(super) pongs_wrongly: bool,
    /// `SlowReader`: reads little at a time.
    pub(super) is_slow: bool,
    /// `Stall`: does not read.
    pub(super) is_stalled: bool,
    /// `Fragment`: sends messages in fragments.
    pub(super) fragments: bool,
    /// `Patient`: waits after a refusal, then tries again.
    pub(super) is_patient: bool,
}

/// The client's end of one connection.
pub(super) struct Link {
    /// Number of the connection in the run, counted from 0.
    pub(super) number: u32,
    /// `None` once the server has dropped the connection.
    pub(super) conn: Option<ConnId>,
    /// Index of the user in [`SharedState::users`].
    pub(super) user: usize,
    /// Index of the lobby in [`SharedState::lobbies`].
    pub(super) lobby: usize,
    /// Network that the client's address counts for.
    pub(super) network: usize,
    pub(super) pipe: Pipe,
    /// Bytes that were passed to the engine and not consumed by it.
    pub(super) unconsumed: usize,
    reader: Reader,
    pub(super) view: View,
    pub(super) traits: Traits,
    pub(super) player: Option<Box<dyn Player>>,
    pub(super) is_json: bool,
    /// Whether the server may answer the upgrade request with 101.
    pub(super) may_be_accepted: bool,
    /// Whether the client sent something invalid, after which answers are not predictable.
    pub(super) is_unpredictable: bool,
    /// Status of the response to the upgrade request, once it was read.
    pub(super) status: Option<u16>,
    pub(super) sent_close: bool,
    pub(super) sent_leave: bool,
    /// Code and reason of the close frame received, if any.
    pub(super) closed: Option<(u16, String)>,
    /// Number of broadcasts and of messages to the application sent so far.
    pub(super) messages_sent: u32,
    /// Number of direct messages sent so far.
    pub(super) directs_sent: u32,
    /// Number of raw messages sent so far: binary, or any message of a raw application.
    pub(super) raw_sent: u32,
    /// Last `ref` used.
    pub(super) last_ref: u32,
    /// Payloads of the unanswered pings, in order.
    pub(super) pings: VecDeque<u32>,
    pub(super) pings_sent: u32,
    /// Nonces of the health checks received, newest last.
    nonces: Vec<u64>,
    /// Nonces that were sent back and that the server has not yet reported as an answer.
    pub(super) ponged: Vec<u64>,
    /// Number of `health_pong` messages sent.
    pub(super) health_pongs: u64,
    /// Value of `pipe.sent` after the last request.
    pub(super) request_end: u64,
    /// `ref` of the last refused request and the wait that the server asked for, until all requests are answered.
    pub(super) refused: Option<(u32, Duration)>,
    /// The retry that the client waits for, or whose answer it waits for.
    pub(super) retry: Option<Retry>,
    /// Rate of the connection's identity, kept after the connection was dropped.
    pub(super) tier: Option<Rate>,
    /// For each key, the last latest-wins value sent to this connection. `None` if it may have been dropped.
    pub(super) latest: [Option<u64>; 3],
    /// Number of text, binary, ping and pong frames received.
    pub(super) frames: u64,
    /// Whether the upgrade request is never completed.
    pub(super) is_unfinished: bool,
    pub(super) opened: Time,
    /// Time at which the server last received a byte.
    pub(super) last_delivery: Time,
    /// Number of consecutive turns in which the driver reported unread input of this connection.
    pub(super) unread_turns: u32,
    /// Whether the driver has read the client's end of the stream.
    pub(super) end_was_read: bool,
    /// Whether the last write failed or was blocked, or the connection was dropped while draining.
    pub(super) was_cut: bool,
    /// Whether every answer must still reach the client after it closed its own direction. True if `max_closing` and
    /// `max_pending` are too large to cut the connection.
    pub(super) is_owed_answers: bool,
    /// Close reason that the server recorded, once there is one.
    pub(super) reason: Option<CloseReason>,
}

impl Link {
    #[expect(clippy::too_many_arguments, reason = "the facts of a connection")]
    pub(super) fn new(
        number: u32,
        conn: ConnId,
        user: usize,
        lobby: usize,
        capacity: usize,
        traits: Traits,
        is_json: bool,
        now: Time,
    ) -> Link {
        Link {
            number,
            conn: Some(conn),
            user,
            lobby,
            network: 0,
            pipe: Pipe::new(capacity),
            unconsumed: 0,
            reader: Reader::default(),
            view: View::new(number),
            traits,
            player: None,
            is_json,
            may_be_accepted: true,
            is_unpredictable: false,
            status: None,
            sent_close: false,
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
            latest: [None; 3],
            frames: 0,
            is_unfinished: false,
            opened: now,
            last_delivery: now,
            unread_turns: 0,
            end_was_read: false,
            was_cut: false,
            is_owed_answers: false,
            reason: None,
        }
    }

    /// Whether the client may send a message now.
    pub(super) fn may_send(&self) -> bool {
        self.pipe.client == Side::Open
            && !self.pipe.server_dropped
            && !self.sent_close
            && !self.sent_leave
            && !self.is_unpredictable
            && self.may_be_accepted
            && self.closed.is_none()
            && self.view.goodbye.is_none()
            && (self.status == Some(101) || (self.traits.is_eager && self.status.is_none()))
            && self.pipe.unread_by_server() < 100_000
            && self.retry.is_none()
            && self.refused.is_none()
    }

    /// Whether the server could read bytes, or the end of the stream, that it has not read yet.
    pub(super) fn has_input(&self) -> bool {
        let is_at_end = self.pipe.is_at_end() && !self.end_was_read;
        self.conn.is_some() && (self.pipe.unread_by_server() > 0 || is_at_end)
    }

    /// Whether the connection was upgraded and neither side has ended it.
    pub(super) fn is_live(&self) -> bool {
        self.conn.is_some()
            && self.pipe.client == Side::Open
            && !self.sent_close
            && !self.sent_leave
            && !self.is_unpredictable
            && self.closed.is_none()
            && self.status == Some(101)
    }

    /// Whether the answers are exactly predictable.
    fn is_strict(&self, shared: &SharedState) -> bool {
        shared.relays && !self.is_unpredictable && self.player.is_none()
    }

    /// Sends a message of the lobby protocol and records it, so that the answers can be checked in order.
    pub(super) fn send_request(&mut self, kind: RequestKind, reference: Option<u32>, text: &str, random: &mut Random) {
        if kind == RequestKind::Leave {
            self.view.leave_ref = reference;
        }
        self.view.expect(SentRequest { kind, reference, k: self.messages_sent });
        self.send_message(Opcode::TEXT, text.as_bytes(), random);
        self.request_end = self.pipe.sent;
    }

    /// Sends a message, possibly in fragments with pings between them.
    pub(super) fn send_message(&mut self, opcode: Opcode, payload: &[u8], random: &mut Random) {
        if !self.traits.fragments || payload.len() < 2 || random.percent(50) {
            let frame = wire::frame(opcode, true, payload, mask(random));
            return self.pipe.send(&frame);
        }
        let (mut rest, mut opcode) = (payload, opcode);
        while !rest.is_empty() {
            let (part, after) = rest.split_at(1 + random.below(rest.len() as u64) as usize);
            self.pipe.send(&wire::frame(opcode, after.is_empty(), part, mask(random)));
            (rest, opcode) = (after, Opcode::CONTINUATION);
            if !rest.is_empty() && random.percent(20) {
                self.ping(random);
            }
        }
    }

    pub(super) fn ping(&mut self, random: &mut Random) {
        self.pings_sent += 1;
        self.pings.push_back(self.pings_sent);
        self.pipe.send(&wire::frame(Opcode::PING, true, &self.pings_sent.to_be_bytes(), mask(random)));
    }

    pub(super) fn close(&mut self, code: u16, random: &mut Random) {
        self.sent_close = true;
        self.pipe.send(&wire::frame(Opcode::CLOSE, true, &code.to_be_bytes(), mask(random)));
    }

    /// Reads up to `n` bytes and handles the frames that are complete.
    pub(super) fn read(&mut self, n: usize, shared: &mut SharedState, random: &mut Random) -> Result<(), String> {
        let bytes = self.pipe.client_read(n);
        self.reader.push(bytes);
        while let Some(received) = self.reader.next().map_err(|violation| violation.to_string())? {
            self.handle(received, shared, random)?;
        }
        if self.pipe.is_at_server_end() && self.pipe.is_client_reading() {
            self.handle_server_end()?;
        }
        Ok(())
    }

    /// Handles the end of the server's stream: checks that it was allowed, and closes the client's direction.
    fn handle_server_end(&mut self) -> Result<(), String> {
        if self.pipe.server_ended {
            if self.reader.unread() > 0 {
                return Err("the server shut down its side in the middle of a frame".into());
            }
            if self.status.is_none() || (self.status == Some(101) && self.closed.is_none()) {
                return Err("the server shut down its side without a response or a close frame".into());
            }
        }
        if self.pipe.client == Side::HalfClosed && self.is_owed_answers && !self.was_cut {
            let lacks_answer = match self.reason {
                Some(CloseReason::PeerClosed) => self.closed.is_none(),
                Some(CloseReason::HttpRefused) => self.status.is_none(),
                _ => false,
            };
            if lacks_answer {
                return Err(format!(
                    "the client closed its own direction and got no answer before the end of the stream: {:?}",
                    self.reason
                ));
            }
        }
        self.pipe.end(Side::Ended);
        Ok(())
    }

    fn handle(&mut self, received: Received, shared: &mut SharedState, random: &mut Random) -> Result<(), String> {
        match received {
            Received::Answer(status, head) => {
                self.status = Some(status);
                match status {
                    101 => shared.admitted[self.network] += 1,
                    429 => shared.refused_429[self.network] += 1,
                    _ => {}
                }
                let is_allowed = match status {
                    101 => self.may_be_accepted,
                    400..=599 => true,
                    _ => false,
                };
                if !is_allowed {
                    return Err(format!("unexpected response: {}", head.lines().next().unwrap_or_default()));
                }
            }
            Received::Body(_) => {}
            Received::Text(text) => {
                self.frames += 1;
                self.handle_text(&text, shared, random)?;
            }
            Received::Binary(bytes) => {
                self.frames += 1;
                self.view.receive_raw(&bytes, shared)?;
            }
            Received::Ping(payload) => {
                self.frames += 1;
                if self.traits.pongs_wrongly && random.percent(50) {
                    self.pipe.send(&wire::frame(Opcode::PONG, true, b"another", mask(random)));
                } else if !self.traits.is_mute {
                    // With a raw application, health checks are RFC 6455 pings whose payload is the nonce.
                    self.ponged.extend(payload.as_slice().try_into().map(u64::from_be_bytes));
                    self.pipe.send(&wire::frame(Opcode::PONG, true, &payload, mask(random)));
                }
            }
            Received::Pong(payload) => {
                self.frames += 1;
                let expected = self.pings.pop_front();
                if !self.is_unpredictable
                    && expected.map(u32::to_be_bytes).as_ref().map(|n| &n[..]) != Some(&payload[..])
                {
                    return Err(format!("pong with payload {payload:?}, expected {expected:?}"));
                }
            }
            Received::Close(code, reason) => self.handle_close(code, reason, random)?,
        }
        Ok(())
    }

    fn handle_text(&mut self, text: &str, shared: &mut SharedState, random: &mut Random) -> Result<(), String> {
        if !self.is_json {
            return self.view.receive_raw(text.as_bytes(), shared);
        }
        let strict = self.is_strict(shared);
        let me = shared.users[self.user].clone();
        let lobby = shared.lobbies[self.lobby].clone();
        let reaction = self.view.receive_text(text, &me, &lobby, strict, shared)?;
        if let Some(player) = &mut self.player {
            player.heard(text)?;
        }
        // A refused `leave` has no effect: the client goes on as a member.
        if std::mem::take(&mut self.view.leave_refused) {
            self.sent_leave = false;
        }
        match reaction {
            Reaction::HealthPing(nonce) => self.answer_health_check(nonce, random),
            Reaction::Nothing => {}
        }
        Ok(())
    }

    fn answer_health_check(&mut self, nonce: u64, random: &mut Random) {
        self.nonces.push(nonce);
        if self.sent_close || self.traits.is_mute {
            return;
        }
        if !self.traits.pongs_wrongly {
            return self.pong(nonce, random);
        }
        let older = self.nonces[random.below(self.nonces.len() as u64) as usize];
        match random.below(4) {
            0 => self.pong(nonce + 1, random),
            1 => self.pong(older, random),
            2 => {
                self.pong(older, random);
                self.pong(nonce, random);
                self.pong(nonce, random);
            }
            _ => {}
        }
    }

    fn pong(&mut self, nonce: u64, random: &mut Random) {
        self.ponged.push(nonce);
        self.health_pongs += 1;
        let text = format!("{{\"type\":\"health_pong\",\"timestamp\":{}}}", write_number(nonce));
        self.pipe.send(&wire::frame(Opcode::TEXT, true, text.as_bytes(), mask(random)));
    }

    fn handle_close(&mut self, code: u16, reason: String, random: &mut Random) -> Result<(), String> {
        if let Some(goodbye) = &self.view.goodbye
            && (goodbye.0 != code || goodbye.1 != reason)
        {
            return Err(format!("close {code} {reason} does not match the goodbye {} {}", goodbye.0, goodbye.1));
        }
        if self.is_json && !self.sent_close && !self.is_unpredictable && self.view.goodbye.is_none() {
            return Err(format!("close {code} {reason} without a goodbye"));
        }
        self.closed = Some((code, reason));
        if !self.sent_close && !self.traits.is_rude {
            self.close(code, random);
        }
        Ok(())
    }

    /// Checks, once both sides have ended the connection, that the close frame matches the server's close reason.
    pub(super) fn check_end(&self) -> Result<(), String> {
        let Some(reason) = self.reason else { return Err("the connection was dropped without a close reason".into()) };
        match &self.closed {
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

pub(super) fn mask(random: &mut Random) -> [u8; 4] {
    (random.next_u64() as u32).to_be_bytes()
}
