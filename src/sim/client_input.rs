//! Input from model clients: valid, almost valid and invalid upgrade requests and messages. Produces bytes only, and
//! knows no state but that of the sending client.

use data_encoding::BASE64URL_NOPAD;

use super::client::{Link, mask};
use super::shared_state::SharedState;
use super::swarm::{Behaviour, Swarm};
use super::view::{RequestKind, raw_message, write_number};
use super::wire::{self, Opcode};
use crate::base::random::Random;

/// User names with characters that need escaping in JSON, in a query, or in both.
const AWKWARD: &[&str] = &["a\"b\\c", "zoë & co", "100%+1", "\u{1f3b2}"];

pub(super) fn user_name(index: usize) -> String {
    match index.checked_sub(4).and_then(|index| AWKWARD.get(index)) {
        Some(&name) => name.into(),
        None => format!("user{index}"),
    }
}

/// Returns an upgrade request that the server may accept.
pub(super) fn request(user: &str, lobby: &str, is_json: bool, random: &mut Random) -> Vec<u8> {
    let mut lines = Vec::new();
    let mut target = format!("/ws/{lobby}");
    match random.below(3) {
        0 if user.is_ascii() && !user.contains(' ') => lines.push(format!("Authorization: Bearer {user}")),
        1 if is_json => lines.push(format!(
            "Sec-WebSocket-Protocol: lobby.v1.json, base64url.bearer.lobby.{}",
            BASE64URL_NOPAD.encode(user.as_bytes())
        )),
        _ => {
            target.push_str("?token=");
            user.bytes().for_each(|byte| target.push_str(&format!("%{byte:02X}")));
        }
    }
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    wire::upgrade_request(&target, &lines)
}

/// Returns an upgrade request that must be refused, and whether the server may accept the upgrade first and then refuse
/// with a close code, which a web page can read.
pub(super) fn bad_request(random: &mut Random) -> (Vec<u8>, bool) {
    let bytes = match random.below(9) {
        0 => return (wire::upgrade_request("/ws/chess", &[]), true),
        1 => return (wire::upgrade_request("/ws/no!code?token=user0", &[]), true),
        2 => return (wire::upgrade_request("/ws/chess?token=%01", &[]), false),
        3 => wire::upgrade_request("/elsewhere?token=user0", &[]),
        4 => b"GET / HTTP/1.1\r\nHost: a\r\n\r\n".to_vec(),
        5 => b"POST /ws/chess HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc".to_vec(),
        6 => wire::upgrade_request("/ws/chess?token=user0", &["Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="]),
        7 => b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(),
        _ => wire::upgrade_request(&format!("/ws/chess?token={}", "x".repeat(20_000)), &[]),
    };
    (bytes, false)
}

impl Link {
    fn reference(&mut self, random: &mut Random) -> Option<u32> {
        random.percent(40).then(|| {
            self.last_ref += 1;
            self.last_ref
        })
    }

    /// Sends one message of `kind`, or the next message of the player if there is one. `max` is `max_message_bytes`.
    pub(super) fn send_kind(
        &mut self,
        kind: Behaviour,
        swarm: &Swarm,
        shared: &SharedState,
        max: usize,
        random: &mut Random,
    ) {
        if let Some(player) = &mut self.player {
            if let Some(text) = player.act(random) {
                self.send_message(Opcode::TEXT, text.as_bytes(), random);
            }
            return;
        }
        // 110 bytes for the envelope, the marker and the `ref`.
        let room = max.saturating_sub(110);
        let padding = random.below(swarm.padding.min(room) as u64 + 1) as usize;
        if !self.is_json || kind == Behaviour::Binary {
            self.raw_sent += 1;
            let message = raw_message(self.number, self.raw_sent, padding);
            let is_text = !self.is_json && kind != Behaviour::Binary;
            let opcode = if is_text { Opcode::TEXT } else { Opcode::BINARY };
            return self.send_message(opcode, message.as_bytes(), random);
        }
        let mut reference = self.reference(random);
        let must_know = shared.is_final_phase || kind == Behaviour::Leave || self.traits.is_patient;
        if shared.has_rate_limits && reference.is_none() && must_know {
            // Only with a `ref` does the client learn whether the message was refused.
            self.last_ref += 1;
            reference = Some(self.last_ref);
        }
        let end =
            reference.map_or_else(|| "}".into(), |reference| format!(",\"ref\":{}}}", write_number(reference.into())));
        let link = self.number;
        let padding = ".".repeat(padding);
        let (request, text) = match kind {
            Behaviour::Direct => {
                self.directs_sent += 1;
                let to = &shared.users[random.below(shared.users.len() as u64) as usize];
                let to = serde_json::Value::String(to.clone());
                let k = self.directs_sent;
                (
                    RequestKind::Direct,
                    format!("{{\"type\":\"direct\",\"to\":{to},\"data\":{{\"l\":{link},\"k\":{k}}}{end}"),
                )
            }
            Behaviour::Presence => (RequestKind::Presence, format!("{{\"type\":\"presence\"{end}")),
            Behaviour::Ping => (RequestKind::Ping, format!("{{\"type\":\"ping\"{end}")),
            Behaviour::AppMessage => {
                self.messages_sent += 1;
                (
                    RequestKind::App,
                    format!("{{\"k\":{},\"l\":{link},\"type\":\"move\",\"pad\":\"{padding}\"{end}", self.messages_sent),
                )
            }
            Behaviour::Malformed => {
                let text = match (reference, random.below(6)) {
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
            Behaviour::Leave => {
                self.sent_leave = true;
                (RequestKind::Leave, format!("{{\"type\":\"leave\"{end}"))
            }
            _ => {
                self.messages_sent += 1;
                let data = format!("{{\"l\":{link},\"k\":{},\"pad\":\"{padding}\"}}", self.messages_sent);
                (RequestKind::Broadcast, format!("{{\"type\":\"broadcast\",\"data\":{data}{end}"))
            }
        };
        self.send_request(request, reference, &text, random);
    }

    /// Sends a message of more than `max` bytes, or the start of one.
    pub(super) fn send_too_big(&mut self, max: usize, random: &mut Random) {
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
    pub(super) fn send_garbage(&mut self, random: &mut Random) {
        self.is_unpredictable = true;
        let length = 1 + random.below(40);
        let bytes: Vec<u8> = (0..length).map(|_| random.next_u64() as u8).collect();
        self.pipe.send(&bytes);
    }

    /// Sends a frame that violates RFC 6455 or has one wrong bit.
    pub(super) fn send_near_valid(&mut self, random: &mut Random) {
        self.is_unpredictable = true;
        let mut good = wire::frame(Opcode::TEXT, true, b"{\"type\":\"ping\"}", mask(random));
        let bytes = match random.below(11) {
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
