//! Messages of model clients: valid, almost valid and invalid ones.
//!
//! Produces bytes only, and knows no state but that of the sending client.

use super::link::{Link, mask};
use super::payload::{raw_message, write_number};
use super::sent::{Outcome, RequestKind, SentRequest};
use super::sessions::Unconfirmed;
use super::shared_state::SharedState;
use crate::base::random::Random;
use crate::sim::swarm::behaviour::Behaviour;
use crate::sim::wire::{self, Opcode};

impl Link {
    /// Sends one message of `kind`, or the next message of the player if there is one. `max` is `max_message_bytes`,
    /// and `max_padding` the largest padding.
    pub(crate) fn send_kind(
        &mut self,
        kind: Behaviour,
        max_padding: usize,
        shared: &mut SharedState,
        max: usize,
        random: &mut Random,
    ) {
        if let Some(player) = &mut self.player {
            if let Some(text) = player.act(random) {
                self.send_message(Opcode::TEXT, text.as_bytes(), random);
            }
            return;
        }
        // 110 bytes for the envelope, the marker and the `ref`, and 15 for its copy in the data.
        let room = max.saturating_sub(if self.view.session.is_some() { 125 } else { 110 });
        let padding = random.below(max_padding.min(room) as u64 + 1) as usize;
        if !self.is_json || kind == Behaviour::Binary {
            self.raw_sent += 1;
            let message = raw_message(self.number, self.raw_sent, padding);
            let is_text = !self.is_json && kind != Behaviour::Binary;
            let opcode = if is_text { Opcode::TEXT } else { Opcode::BINARY };
            self.send_message(opcode, message.as_bytes(), random);
            return;
        }
        let has_reference = self.draw_reference(kind, shared, random);
        let Some(reference) = self.next_reference(kind, has_reference, shared, random) else { return };
        let (request, text) = self.compose(kind, reference, &".".repeat(padding), shared, random);
        // An empty line of a POST is no message.
        if text.is_empty() && self.has_events() {
            return;
        }
        if let (Some(session), Some(reference)) = (self.view.answers.session, reference)
            && request.is_numbered()
        {
            let k = self.messages_sent;
            shared.sessions.all[session].sent(Unconfirmed { reference, kind: request, k, text: text.clone() });
        }
        self.send_request(request, reference, &text, random);
    }

    fn draw_reference(&self, kind: Behaviour, shared: &SharedState, random: &mut Random) -> bool {
        // Only with a `ref` does the client learn whether the message was refused.
        let must_know = shared.is_final_phase || kind == Behaviour::Leave || self.traits.is_patient;
        random.percent(40) || (shared.may_refuse && must_know)
    }

    /// Returns the `ref` of the next request, if it has one. `None` if too many are unanswered in its session.
    fn next_reference(
        &mut self,
        kind: Behaviour,
        has_reference: bool,
        shared: &mut SharedState,
        random: &mut Random,
    ) -> Option<Option<u32>> {
        let is_numbered = !matches!(kind, Behaviour::Presence | Behaviour::Ping | Behaviour::Leave);
        match self.view.answers.session.filter(|_| is_numbered) {
            _ if !has_reference => Some(None),
            Some(session) => {
                let skips = random.percent(3);
                shared.sessions.all[session].next_reference(skips).map(Some)
            }
            None => {
                self.last_ref += 1;
                Some(Some(self.last_ref))
            }
        }
    }

    /// Sends a request with a number that was used before, or that is not positive. Returns whether there is one.
    pub(crate) fn repeat(&mut self, shared: &SharedState, random: &mut Random) -> bool {
        let Some(session) = self.view.answers.session.filter(|_| self.view.is_synced()) else { return false };
        let used = shared.sessions.all[session].used_reference(random.next_u64());
        let (number, outcome) = match used.filter(|_| random.percent(90)) {
            Some(used) => used,
            None => (0, Some(Outcome::Refused)),
        };
        let written = write_number(number.into());
        let text = match random.below(3) {
            0 => format!("{{\"type\":\"broadcast\",\"data\":\"again\",\"ref\":{written}}}"),
            1 => format!("{{\"type\":\"again\",\"ref\":{written}}}"),
            _ => format!("{{\"type\":\"direct\",\"to\":\"nobody\",\"data\":0,\"ref\":{written}}}"),
        };
        self.send_request(RequestKind::Repeat(outcome), Some(number), &text, random);
        true
    }

    /// Sends the messages again whose outcome the `welcome` of a resumed session left open. On an event stream without
    /// POSTs, they wait for a later connection of the session.
    pub(crate) fn resend(&mut self, random: &mut Random) {
        if self.has_nothing_to_say() {
            return;
        }
        let Some(session) = &mut self.view.session else { return };
        for Unconfirmed { reference, kind, k, text } in session.take_resend() {
            let growth = self.send_message(Opcode::TEXT, text.as_bytes(), random);
            self.view.answers.expect(SentRequest { kind, reference: Some(reference), k, growth });
            self.request_end = self.pipe.sent;
        }
    }

    /// Writes a message of the lobby protocol.
    fn compose(
        &mut self,
        kind: Behaviour,
        reference: Option<u32>,
        padding: &str,
        shared: &SharedState,
        random: &mut Random,
    ) -> (RequestKind, String) {
        let end =
            reference.map_or_else(|| "}".into(), |reference| format!(",\"ref\":{}}}", write_number(reference.into())));
        let link = self.marker;
        // The data repeats the number, so that the model of the sessions knows it.
        let copy = self.view.answers.session.and(reference).map_or(String::new(), |number| format!(",\"r\":{number}"));
        match kind {
            Behaviour::Direct => {
                self.directs_sent += 1;
                let to = &shared.users[random.below(shared.users.len() as u64) as usize];
                let to = serde_json::Value::String(to.clone());
                let k = self.directs_sent;
                let text = format!("{{\"type\":\"direct\",\"to\":{to},\"data\":{{\"l\":{link},\"k\":{k}}}{end}");
                (RequestKind::Direct, text)
            }
            Behaviour::Volatile => {
                self.directs_sent += 1;
                let data = format!("{{\"l\":{link},\"v\":{},\"pad\":\"{padding}\"}}", self.directs_sent);
                (RequestKind::Volatile, format!("{{\"type\":\"broadcast\",\"volatile\":true,\"data\":{data}{end}"))
            }
            Behaviour::Presence => (RequestKind::Presence, format!("{{\"type\":\"presence\"{end}")),
            Behaviour::Ping => (RequestKind::Ping, format!("{{\"type\":\"ping\"{end}")),
            Behaviour::AppMessage => {
                self.messages_sent += 1;
                let k = self.messages_sent;
                (
                    RequestKind::App,
                    format!("{{\"k\":{k},\"l\":{link},\"type\":\"move\",\"pad\":\"{padding}\"{copy}{end}"),
                )
            }
            Behaviour::Malformed => malformed(reference, &end, random),
            Behaviour::Leave => {
                self.sent_leave = true;
                (RequestKind::Leave, format!("{{\"type\":\"leave\"{end}"))
            }
            _ => {
                self.messages_sent += 1;
                let data = format!("{{\"l\":{link},\"k\":{},\"pad\":\"{padding}\"{copy}}}", self.messages_sent);
                (RequestKind::Broadcast, format!("{{\"type\":\"broadcast\",\"data\":{data}{end}"))
            }
        }
    }

    /// Sends a `presence` or `ping` request with a `ref`, so that its answer can be told from others.
    pub(crate) fn send_with_reference(&mut self, kind: RequestKind, random: &mut Random) -> u32 {
        self.last_ref += 1;
        let reference = self.last_ref;
        let word = if kind == RequestKind::Presence { "presence" } else { "ping" };
        let text = format!("{{\"type\":\"{word}\",\"ref\":{}}}", write_number(reference.into()));
        self.send_request(kind, Some(reference), &text, random);
        reference
    }

    /// Sends a message of more than `max` bytes, or the start of one.
    pub(crate) fn send_too_big(&mut self, max: usize, random: &mut Random) {
        self.is_unpredictable = true;
        if max > 10_000 {
            // The frame header suffices, because its length already exceeds the limit.
            let mut head = vec![0x81, 0x80 | 127];
            head.extend_from_slice(&(max as u64 + 1).to_be_bytes());
            return self.pipe.send(&head);
        }
        self.traits.fragments = random.percent(50);
        self.send_message(Opcode::TEXT, &vec![b'x'; max + 1], random);
    }

    /// Sends random bytes.
    pub(crate) fn send_garbage(&mut self, random: &mut Random) {
        self.is_unpredictable = true;
        let length = 1 + random.below(40);
        let bytes: Vec<u8> = (0..length).map(|_| random.next_u64() as u8).collect();
        self.pipe.send(&bytes);
    }

    /// Sends a frame that violates RFC 6455 or has one wrong bit.
    pub(crate) fn send_near_valid(&mut self, random: &mut Random) {
        self.is_unpredictable = true;
        let mut good = wire::frame(Opcode::TEXT, true, b"{\"type\":\"ping\"}", mask(random));
        let bytes = match random.below(14) {
            0 => b"\x81\x02{}".to_vec(),
            1 => {
                good[0] |= 1 << (4 + random.below(3));
                good
            }
            2 => wire::frame(Opcode(3 + random.below(5) as u8), true, b"", mask(random)),
            3 => wire::frame(Opcode::PING, false, b"", mask(random)),
            4 => wire::frame(Opcode::PING, true, &[0; 126], mask(random)),
            5 => wire::frame(Opcode::CONTINUATION, true, b"x", mask(random)),
            6 => wire::frame(Opcode::TEXT, true, b"\"\xff\"", mask(random)),
            7 => wire::frame(Opcode::CLOSE, true, &[3], mask(random)),
            8 => wire::frame(Opcode::CLOSE, true, &1005u16.to_be_bytes(), mask(random)),
            // Lengths that are not in their shortest form.
            10 => [&[0x82, 0xfe, 0, 3][..], &[0; 4], b"abc"].concat(),
            11 => [&[0x82, 0xff, 0, 0, 0, 0, 0, 0, 0, 3][..], &[0; 4], b"abc"].concat(),
            12 => [&[0x89, 0xfe, 0, 0][..], &[0; 4]].concat(),
            9 => [&[0x81, 0xff, 0x80][..], &[0; 11]].concat(),
            _ => {
                let at = random.below(good.len() as u64) as usize;
                good[at] ^= 1 << random.below(8);
                good
            }
        };
        self.pipe.send(&bytes);
    }
}

/// Writes a message that breaks the lobby protocol in a valid frame.
fn malformed(reference: Option<u32>, end: &str, random: &mut Random) -> (RequestKind, String) {
    let text = match (reference, random.below(9)) {
        // Strict parsers would not read it, or a client would take it for the server's.
        (_, 6) => format!("{{\"type\":\"move\",\"pad\":\"\\ud83d\"{end}"),
        (Some(reference), 7) if reference % 2 == 0 => format!("{{\"type\":\"move\",\"at\":[-1E+309]{end}"),
        (_, 7) => format!("{{\"type\":\"move\",\"at\":{{\"\\ude00\\ud83d\":0}}{end}"),
        (_, 8) => {
            const TYPES: [&str; 4] = ["goodbye", "welcome", "message", "health_ping"];
            format!("{{\"type\":\"{}\",\"from\":\"x\"{end}", TYPES[random.below(4) as usize])
        }
        (Some(_), 0) => format!("{{\"type\":7{end}"),
        (Some(_), 1) => format!("{{\"type\":\"direct\",\"data\":1{end}"),
        (Some(_), _) => format!("{{\"type\":\"broadcast\"{end}"),
        (None, 0) => "{".into(),
        (None, 1) => "[1,2]".into(),
        (None, 2) => "{\"type\":\"ping\",\"ref\":1.5}".into(),
        (None, 3) => "{\"type\":\"ping\",\"type\":\"ping\"}".into(),
        (None, 4) => String::new(),
        (None, _) => "{\"type\":\"health_pong\",\"timestamp\":0.5}".into(),
    };
    (if text.contains("health_pong") { RequestKind::BadPong } else { RequestKind::Malformed }, text)
}
