//! A model client's end of one connection: reads whatever came, answers as a client should or should not, and holds
//! the server to RFC 6455 and to its own protocol.
//!
//! Knows nothing of the engine. What the server says its state is, the world compares with what is here.

use std::collections::VecDeque;
use std::time::Duration;

use super::Player;
use super::network::{Pipe, Side};
use super::rates::Patience;
use super::shared_state::SharedState;
use super::view::{Expected, Heard, Question, View, write_number};
use super::wire::{self, Opcode, Reader, Received};
use crate::close::CloseReason;
use crate::id::ConnId;
use crate::random::Random;
use crate::rate::Rate;
use crate::time::Time;

/// How this client behaves. Drawn when it connects.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Manners {
    pub(super) is_eager: bool,
    pub(super) is_mute: bool,
    pub(super) is_rude: bool,
    pub(super) pongs_wrongly: bool,
    pub(super) is_slow: bool,
    pub(super) is_stalled: bool,
    pub(super) fragments: bool,
    pub(super) is_patient: bool,
}

pub(super) struct Link {
    /// How manieth connection of the run.
    pub(super) number: u32,
    /// `None` once the server has dropped the connection.
    pub(super) conn: Option<ConnId>,
    pub(super) user: usize,
    pub(super) lobby: usize,
    /// Which of the addresses it comes from.
    pub(super) network: usize,
    pub(super) pipe: Pipe,
    /// Bytes that were handed in and not taken.
    pub(super) untaken: usize,
    reader: Reader,
    pub(super) view: View,
    pub(super) manners: Manners,
    pub(super) player: Option<Box<dyn Player>>,
    pub(super) is_json: bool,
    /// Whether the request was one that may be granted.
    pub(super) may_be_granted: bool,
    /// Whether something was sent after which answers are not predictable.
    pub(super) is_spoiled: bool,
    pub(super) status: Option<u16>,
    pub(super) sent_close: bool,
    pub(super) sent_leave: bool,
    pub(super) closed: Option<(u16, String)>,
    /// Messages of each kind sent so far.
    pub(super) said: u32,
    pub(super) said_directly: u32,
    pub(super) said_raw: u32,
    pub(super) references: u32,
    /// Payloads of pings that are not answered.
    pub(super) pings: VecDeque<u32>,
    pub(super) pings_ever: u32,
    /// Nonces of health checks that were seen, newest last.
    nonces: Vec<u64>,
    /// Nonces that were sent back and have not been taken for an answer.
    pub(super) ponged: Vec<u64>,
    /// Answers to health checks of the page that were sent.
    pub(super) health_pongs: u64,
    /// What had been sent when the last question had been.
    pub(super) asked_at: u64,
    /// The last of its questions that was refused, and for how long, until all are answered.
    pub(super) refused: Option<(u32, Duration)>,
    pub(super) patience: Option<Patience>,
    /// The rate it had of its own, once its connection is gone.
    pub(super) tier: Option<Rate>,
    /// Under each key the last value that was certainly sent to it.
    pub(super) latest: [Option<u64>; 3],
    /// Text, binary and ping frames received.
    pub(super) frames: u64,
    /// Whether the request is never completed.
    pub(super) is_unfinished: bool,
    pub(super) opened: Time,
    /// When the server last received a byte.
    pub(super) last_heard: Time,
    /// Turns in a row in which it was named as having unread input.
    pub(super) unread_turns: u32,
    /// Whether the driver has seen the client's end.
    pub(super) end_was_read: bool,
    /// Whether the last write to it failed or was blocked, or a drain may have cut it off.
    pub(super) was_cut: bool,
    /// Whether every answer must reach a client that has closed its own direction: the limits never cut it off.
    pub(super) is_owed_answers: bool,
    /// Why the server says the connection ended.
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
        manners: Manners,
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
            untaken: 0,
            reader: Reader::default(),
            view: View::new(number),
            manners,
            player: None,
            is_json,
            may_be_granted: true,
            is_spoiled: false,
            status: None,
            sent_close: false,
            sent_leave: false,
            closed: None,
            said: 0,
            said_directly: 0,
            said_raw: 0,
            references: 0,
            pings: VecDeque::new(),
            pings_ever: 0,
            nonces: Vec::new(),
            ponged: Vec::new(),
            health_pongs: 0,
            asked_at: 0,
            refused: None,
            patience: None,
            tier: None,
            latest: [None; 3],
            frames: 0,
            is_unfinished: false,
            opened: now,
            last_heard: now,
            unread_turns: 0,
            end_was_read: false,
            was_cut: false,
            is_owed_answers: false,
            reason: None,
        }
    }

    /// Whether the client would say something now.
    pub(super) fn may_speak(&self) -> bool {
        self.pipe.client == Side::Open
            && !self.pipe.server_gone
            && !self.sent_close
            && !self.sent_leave
            && !self.is_spoiled
            && self.may_be_granted
            && self.closed.is_none()
            && self.view.goodbye.is_none()
            && (self.status == Some(101) || (self.manners.is_eager && self.status.is_none()))
            && self.pipe.upward() < 100_000
            && self.patience.is_none()
            && self.refused.is_none()
    }

    /// Whether the server could read something, or the end, of which it does not know yet.
    pub(super) fn has_input(&self) -> bool {
        let is_at_end = self.pipe.is_at_end() && !self.end_was_read;
        self.conn.is_some() && (self.pipe.upward() > 0 || is_at_end)
    }

    /// Whether it takes part to the end: it read its welcome, and nothing has ended it.
    pub(super) fn stays(&self) -> bool {
        self.conn.is_some()
            && self.pipe.client == Side::Open
            && !self.sent_close
            && !self.sent_leave
            && !self.is_spoiled
            && self.closed.is_none()
            && self.status == Some(101)
    }

    /// Answers are exactly predictable.
    fn is_strict(&self, common: &SharedState) -> bool {
        common.relays && !self.is_spoiled && self.player.is_none()
    }

    /// Sends a message of the protocol, to be answered in order.
    pub(super) fn ask(&mut self, what: Question, reference: Option<u32>, text: &str, random: &mut Random) {
        if what == Question::Leave {
            self.view.leaving = reference;
        }
        self.view.expect(Expected { what, reference, k: self.said });
        self.send_message(Opcode::TEXT, text.as_bytes(), random);
        self.asked_at = self.pipe.sent;
    }

    /// Sends a message, perhaps in fragments, with a ping in between.
    pub(super) fn send_message(&mut self, opcode: Opcode, payload: &[u8], random: &mut Random) {
        if !self.manners.fragments || payload.len() < 2 || random.percent(50) {
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
        self.pings_ever += 1;
        self.pings.push_back(self.pings_ever);
        self.pipe.send(&wire::frame(Opcode::PING, true, &self.pings_ever.to_be_bytes(), mask(random)));
    }

    pub(super) fn close(&mut self, code: u16, random: &mut Random) {
        self.sent_close = true;
        self.pipe.send(&wire::frame(Opcode::CLOSE, true, &code.to_be_bytes(), mask(random)));
    }

    /// Reads up to `n` bytes and acts on what they are.
    pub(super) fn read(&mut self, n: usize, common: &mut SharedState, random: &mut Random) -> Result<(), String> {
        let bytes = self.pipe.take_down(n);
        self.reader.push(bytes);
        while let Some(received) = self.reader.next().map_err(|violation| violation.to_string())? {
            self.take(received, common, random)?;
        }
        if self.pipe.is_at_servers_end() && self.pipe.reads() {
            self.servers_end()?;
        }
        Ok(())
    }

    /// The server's end is read. After that the client has nothing to do but to close its own.
    fn servers_end(&mut self) -> Result<(), String> {
        if self.pipe.server_ended {
            if self.reader.unread() > 0 {
                return Err("the server shut down in the middle of a frame".into());
            }
            if self.status.is_none() || (self.status == Some(101) && self.closed.is_none()) {
                return Err("the server shut down without a word of why".into());
            }
        }
        if self.pipe.client == Side::HalfClosed && self.is_owed_answers && !self.was_cut {
            let has_none = match self.reason {
                Some(CloseReason::PeerClosed) => self.closed.is_none(),
                Some(CloseReason::HttpRefused) => self.status.is_none(),
                _ => false,
            };
            if has_none {
                return Err(format!("closed its own direction, and got no answer before the end: {:?}", self.reason));
            }
        }
        self.pipe.end(Side::Ended);
        Ok(())
    }

    fn take(&mut self, received: Received, common: &mut SharedState, random: &mut Random) -> Result<(), String> {
        match received {
            Received::Answer(status, head) => {
                self.status = Some(status);
                match status {
                    101 => common.let_in[self.network] += 1,
                    429 => common.refused_429[self.network] += 1,
                    _ => {}
                }
                let is_fine = match status {
                    101 => self.may_be_granted,
                    400..=599 => true,
                    _ => false,
                };
                if !is_fine {
                    return Err(format!("answered {}", head.lines().next().unwrap_or_default()));
                }
            }
            Received::Body(_) => {}
            Received::Text(text) => {
                self.frames += 1;
                self.take_text(&text, common, random)?;
            }
            Received::Binary(bytes) => {
                self.frames += 1;
                self.view.hear_raw(&bytes, common)?;
            }
            Received::Ping(payload) => {
                self.frames += 1;
                if self.manners.pongs_wrongly && random.percent(50) {
                    self.pipe.send(&wire::frame(Opcode::PONG, true, b"another", mask(random)));
                } else if !self.manners.is_mute {
                    // An application that says nothing itself is checked by pings with a nonce.
                    self.ponged.extend(payload.as_slice().try_into().map(u64::from_be_bytes));
                    self.pipe.send(&wire::frame(Opcode::PONG, true, &payload, mask(random)));
                }
            }
            Received::Pong(payload) => {
                self.frames += 1;
                let expected = self.pings.pop_front();
                if !self.is_spoiled && expected.map(u32::to_be_bytes).as_ref().map(|n| &n[..]) != Some(&payload[..]) {
                    return Err(format!("a pong with {payload:?}, where {expected:?} was due"));
                }
            }
            Received::Close(code, reason) => self.take_close(code, reason, random)?,
        }
        Ok(())
    }

    fn take_text(&mut self, text: &str, common: &mut SharedState, random: &mut Random) -> Result<(), String> {
        if !self.is_json {
            return self.view.hear_raw(text.as_bytes(), common);
        }
        let strict = self.is_strict(common);
        let me = common.users[self.user].clone();
        let lobby = common.lobbies[self.lobby].clone();
        let heard = self.view.hear(text, &me, &lobby, strict, common)?;
        if let Some(player) = &mut self.player {
            player.heard(text)?;
        }
        if std::mem::take(&mut self.view.stays_after_all) {
            self.sent_leave = false;
        }
        match heard {
            Heard::HealthPing(nonce) => self.answer_check(nonce, random),
            Heard::Nothing => {}
        }
        Ok(())
    }

    fn answer_check(&mut self, nonce: u64, random: &mut Random) {
        self.nonces.push(nonce);
        if self.sent_close || self.manners.is_mute {
            return;
        }
        if !self.manners.pongs_wrongly {
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

    fn take_close(&mut self, code: u16, reason: String, random: &mut Random) -> Result<(), String> {
        if let Some(goodbye) = &self.view.goodbye
            && (goodbye.0 != code || goodbye.1 != reason)
        {
            return Err(format!("close {code} {reason} after goodbye {} {}", goodbye.0, goodbye.1));
        }
        if self.is_json && !self.sent_close && !self.is_spoiled && self.view.goodbye.is_none() {
            return Err(format!("close {code} {reason} without a goodbye"));
        }
        self.closed = Some((code, reason));
        if !self.sent_close && !self.manners.is_rude {
            self.close(code, random);
        }
        Ok(())
    }

    /// The connection is over for both: what the client read of its end must be what the server says it was.
    pub(super) fn check_end(&self) -> Result<(), String> {
        let Some(reason) = self.reason else { return Err("dropped without a reason".into()) };
        match &self.closed {
            Some((code, word)) if !self.sent_close_first() && (*code != reason.code() || word != reason.word()) => {
                Err(format!("read close {code} {word}, but the server counts {reason}"))
            }
            _ => Ok(()),
        }
    }

    /// Whether the close frame that was read may be the answer to one's own.
    fn sent_close_first(&self) -> bool {
        self.is_spoiled || (self.sent_close && self.view.goodbye.is_none())
    }
}

pub(super) fn mask(random: &mut Random) -> [u8; 4] {
    (random.next_u64() as u32).to_be_bytes()
}
