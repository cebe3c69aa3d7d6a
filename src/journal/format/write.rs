//! Writing of entries and their fields.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::base::close::CloseReason;
use crate::base::codes::CloseCode;
use crate::base::entry::{self, Entry, Role};
use crate::base::id::SeatId;
use crate::base::list_query::{ListFilter, ListQuery};
use crate::base::peer::Peer;
use crate::base::session::{BadClaim, Claim, Position};
use crate::engine::member::{Authorization, Identity};
use crate::engine::operator::{KickTarget, LobbyChange, NewLobby, OperatorCommand, Payload, SettingsText};
use crate::engine::recording::{Decisions, Destination};
use crate::engine::state::ticks::ClockCommand;
use crate::http::probe::Probe;
use crate::http::{Cors, PlainResponse};
use crate::ws::handshake::{Acceptance, Facts, Upgrade};
use crate::ws::post::PostHead;

/// A buffer to which entries are appended.
pub(crate) trait Put: Sized {
    fn put_bytes(&mut self, bytes: &[u8]);

    fn put_byte(&mut self, byte: u8) {
        self.put_bytes(&[byte]);
    }

    fn put_number(&mut self, mut number: u64) {
        let mut bytes = [0; 10];
        let mut length = 0;
        loop {
            bytes[length] = number as u8 & 0x7f;
            number >>= 7;
            length += 1;
            if number == 0 {
                break;
            }
            bytes[length - 1] |= 0x80;
        }
        self.put_bytes(&bytes[..length]);
    }

    fn put_slice(&mut self, bytes: &[u8]) {
        self.put_number(bytes.len() as u64);
        self.put_bytes(bytes);
    }

    fn put_option<T>(&mut self, value: Option<T>, put: impl FnOnce(&mut Self, T)) {
        self.put_byte(u8::from(value.is_some()));
        if let Some(value) = value {
            put(self, value);
        }
    }

    fn put_ip(&mut self, ip: IpAddr) {
        match ip {
            IpAddr::V4(v4) => {
                self.put_byte(4);
                self.put_bytes(&v4.octets());
            }
            IpAddr::V6(v6) => {
                self.put_byte(6);
                self.put_bytes(&v6.octets());
            }
        }
    }

    fn put_peer(&mut self, peer: Peer) {
        let address = match peer {
            Peer::Ip(address) => address,
            Peer::Unix => return self.put_byte(0),
        };
        self.put_ip(address.ip());
        self.put_number(address.port().into());
        if let SocketAddr::V6(v6) = address {
            self.put_number(v6.flowinfo().into());
            self.put_number(v6.scope_id().into());
        }
    }

    fn put_duration(&mut self, span: Duration) {
        self.put_number(span.as_secs());
        self.put_number(span.subsec_nanos().into());
    }

    fn put_close_code(&mut self, code: CloseCode) {
        self.put_number(code.number().into());
        self.put_slice(code.word().as_bytes());
    }

    /// Appends the shape of a request's bytes without their contents, which may hold a token: the number of bytes,
    /// whether the first is a capital letter, and the positions of CR and LF.
    fn put_shape(&mut self, bytes: &[u8]) {
        self.put_number(bytes.len() as u64);
        self.put_byte(u8::from(bytes.first().is_some_and(u8::is_ascii_uppercase)));
        let mut rest = bytes;
        while !rest.is_empty() {
            let run = rest.iter().position(|byte| matches!(byte, b'\r' | b'\n')).unwrap_or(rest.len());
            self.put_number(run as u64);
            if let Some(&end) = rest.get(run) {
                self.put_byte(end);
            }
            rest = rest.get(run + 1..).unwrap_or_default();
        }
    }

    fn put_refusal(&mut self, refusal: &PlainResponse) {
        let (status, sentence, lines, is_bodiless) = refusal.parts();
        self.put_number(status.into());
        self.put_slice(sentence.as_bytes());
        self.put_slice(lines.as_bytes());
        self.put_byte(is_bodiless.into());
    }

    fn put_facts(&mut self, facts: &Facts) {
        let probe = match facts.probe {
            None => 0,
            Some(Probe::Live) => 1,
            Some(Probe::Ready) => 2,
        };
        let head_request = if facts.is_head_request { 4 } else { 0 };
        let has_entry = facts.entry != Ok(Entry::ORDINARY);
        let mut parts = if facts.file.is_some() { 8 } else { 0 };
        parts += if has_entry { 16 } else { 0 } + if facts.list.is_some() { 32 } else { 0 };
        self.put_byte(probe + head_request + parts);
        self.put_ip(facts.address);
        self.put_byte(facts.is_origin_allowed.into());
        match (&facts.form, &facts.cors) {
            (Ok(Acceptance::WebSocket(Upgrade { accept_key, subprotocol, deflate })), _) => {
                if let Some(deflate) = deflate {
                    self.put_bytes(&[5, deflate.window_bits().unwrap_or(0)]);
                } else {
                    self.put_byte(1);
                }
                self.put_slice(accept_key.as_bytes());
                // Only the length: the client chose the name, which may contain its token.
                self.put_option(subprotocol.as_ref(), |to, name| to.put_number(name.len() as u64));
            }
            (Ok(Acceptance::Events), cors) => {
                self.put_byte(2);
                self.put_cors(cors.as_ref());
            }
            (Ok(Acceptance::Post(PostHead { length, keep_alive, expects_continue })), cors) => {
                self.put_byte(3);
                self.put_number(*length as u64);
                self.put_byte(u8::from(*keep_alive) + 2 * u8::from(*expects_continue));
                self.put_cors(cors.as_ref());
            }
            (Err(refusal), None) => {
                self.put_byte(0);
                self.put_refusal(refusal);
            }
            (Err(refusal), cors @ Some(_)) => {
                self.put_byte(4);
                self.put_refusal(refusal);
                self.put_cors(cors.as_ref());
            }
        }
        self.put_claim(facts.claim);
        if has_entry {
            self.put_entry(facts.entry);
        }
        if let Some(file) = &facts.file {
            let (status, lines, length) = file.parts();
            self.put_number(status.into());
            self.put_slice(lines.as_bytes());
            self.put_number(length as u64);
        }
        match facts.list.as_deref() {
            None => {}
            Some(Ok(ListQuery { filter, after })) => {
                self.put_byte(1);
                self.put_list_filter(filter);
                self.put_number(*after);
            }
            Some(Err(response)) => {
                self.put_byte(0);
                self.put_refusal(response);
            }
        }
    }

    fn put_list_filter(&mut self, ListFilter { pool, tags }: &ListFilter) {
        self.put_option(pool.as_ref(), |to, pool| to.put_slice(pool.as_bytes()));
        self.put_number(tags.len() as u64);
        for (key, value) in tags {
            self.put_slice(key.as_bytes());
            self.put_slice(value.as_bytes());
        }
    }

    /// Appends what a page may read. Of its origin, which the client wrote, only the length.
    fn put_cors(&mut self, cors: Option<&Cors>) {
        match cors {
            None => self.put_byte(0),
            Some(Cors::Any) => self.put_byte(1),
            Some(Cors::Origin(origin)) => {
                self.put_byte(2);
                self.put_number(origin.len() as u64);
            }
        }
    }

    /// Appends what a request claims: hashes of names, never a name.
    fn put_claim(&mut self, claim: Result<Option<Claim>, BadClaim>) {
        match claim {
            Ok(None) => self.put_byte(0),
            Ok(Some(Claim { session, was, position })) => {
                self.put_byte(1);
                self.put_bytes(&session.bits().to_be_bytes());
                self.put_option(was, |to, was| to.put_bytes(&was.bits().to_be_bytes()));
                self.put_option(position, |to, Position { epoch, seq, n }| {
                    [epoch, seq, n].into_iter().for_each(|number| to.put_number(number));
                });
            }
            Err(BadClaim) => self.put_byte(2),
        }
    }

    /// Appends how a client enters its lobby: the hash of its password, never the password.
    fn put_entry(&mut self, entry: Result<Entry, entry::BadEntry>) {
        let Ok(Entry { create, role, password, seats }) = entry else { return self.put_byte(0) };
        self.put_byte(1 + 2 * u8::from(create) + 4 * u8::from(role == Role::Watch));
        self.put_option(password, |to, hash| to.put_bytes(&hash.bits().to_be_bytes()));
        self.put_option(seats, |to, seats| to.put_number(seats.into()));
    }

    fn put_decisions(&mut self, decisions: &Decisions) {
        self.put_option(decisions.destination.as_ref(), |to, destination| match destination {
            Destination::Nowhere => to.put_byte(0),
            Destination::Lobby(code) => {
                to.put_byte(1);
                to.put_slice(code.as_bytes());
            }
            Destination::BadCode => to.put_byte(2),
            Destination::New => to.put_byte(3),
            Destination::Quick(pool) => {
                to.put_byte(4);
                to.put_slice(pool.as_bytes());
            }
            Destination::Lobbies(filter) => {
                to.put_byte(5);
                to.put_option(filter.as_ref(), Put::put_list_filter);
            }
        });
        self.put_option(decisions.authorization.as_ref(), Put::put_authorization);
        self.put_option(decisions.random, |to, state| state.iter().for_each(|word| to.put_number(*word)));
    }

    fn put_authorization(&mut self, answer: &Authorization) {
        match answer {
            Authorization::Allow(Identity { user, tier, lobby, expires, data }) => {
                self.put_byte(if data.is_none() { 0 } else { 3 });
                self.put_slice(user.as_bytes());
                self.put_option(*tier, |to, rate| {
                    to.put_number(rate.count().into());
                    to.put_duration(rate.period());
                    to.put_number(rate.burst().into());
                });
                self.put_option(lobby.as_ref(), |to, code| to.put_slice(code.as_bytes()));
                self.put_option(*expires, Put::put_number);
                if let Some(data) = data {
                    self.put_slice(data);
                }
            }
            Authorization::Refuse(CloseReason::App(code)) => {
                self.put_byte(4);
                self.put_close_code(*code);
            }
            Authorization::Refuse(reason) => self.put_bytes(&[1, reason.kind() as u8]),
            Authorization::Pending { user } => {
                self.put_byte(2);
                self.put_option(user.as_ref(), |to, user| to.put_slice(user.as_bytes()));
            }
        }
    }

    fn put_payload(&mut self, payload: &Payload) {
        let (kind, text) = match payload {
            Payload::Json(text) => (0, text),
            Payload::Text(text) => (1, text),
        };
        self.put_byte(kind);
        self.put_slice(text.as_bytes());
    }

    fn put_lobby_change(&mut self, change: &LobbyChange) {
        match change {
            LobbyChange::Data { of, if_seq, data } => {
                self.put_byte(0);
                self.put_option(*of, |to, SeatId(seat)| to.put_number(seat));
                self.put_option(*if_seq, Put::put_number);
                self.put_slice(data.as_bytes());
            }
            LobbyChange::Settings(SettingsText(settings)) => {
                self.put_byte(1);
                self.put_slice(settings.as_bytes());
            }
            LobbyChange::Host(SeatId(seat)) => {
                self.put_byte(2);
                self.put_number(*seat);
            }
            LobbyChange::Ban(user) => {
                self.put_byte(3);
                self.put_slice(user.as_bytes());
            }
            LobbyChange::Unban(user) => {
                self.put_byte(4);
                self.put_slice(user.as_bytes());
            }
        }
    }

    fn put_new_lobby(&mut self, NewLobby { code, seats, settings, data, ttl, pool }: &NewLobby) {
        let put_text = |to: &mut Self, text: &String| to.put_slice(text.as_bytes());
        self.put_option(code.as_ref(), put_text);
        self.put_number(seats.len() as u64);
        seats.iter().for_each(|user| self.put_slice(user.as_bytes()));
        self.put_option(settings.as_ref().map(|SettingsText(settings)| settings), put_text);
        self.put_option(data.as_ref(), put_text);
        self.put_duration(*ttl);
        self.put_option(pool.as_ref(), put_text);
    }

    fn put_operator(&mut self, command: &OperatorCommand) {
        match command {
            OperatorCommand::Publish { lobby, payload, exclude, idempotency_key } => {
                let is_plain = exclude.is_empty() && idempotency_key.is_none();
                self.put_byte(if is_plain { 0 } else { 8 });
                self.put_slice(lobby.as_bytes());
                self.put_payload(payload);
                if !is_plain {
                    self.put_number(exclude.len() as u64);
                    exclude.iter().for_each(|user| self.put_slice(user.as_bytes()));
                    self.put_option(idempotency_key.as_ref(), |to, key| to.put_slice(key.as_bytes()));
                }
            }
            OperatorCommand::Send { user, payload } => {
                self.put_byte(1);
                self.put_slice(user.as_bytes());
                self.put_payload(payload);
            }
            OperatorCommand::Ping { user, timeout } => {
                self.put_byte(2);
                self.put_slice(user.as_bytes());
                self.put_duration(*timeout);
            }
            OperatorCommand::Kick { target, reconnect } => {
                self.put_byte(3);
                let (kind, name) = match target {
                    KickTarget::User(user) => (0, &**user),
                    KickTarget::Lobby(code) => (1, &**code),
                    KickTarget::All => (2, ""),
                };
                self.put_byte(kind);
                self.put_slice(name.as_bytes());
                self.put_byte(u8::from(*reconnect));
            }
            OperatorCommand::Lock { lobby, locked } => {
                self.put_byte(4);
                self.put_slice(lobby.as_bytes());
                self.put_byte(u8::from(*locked));
            }
            OperatorCommand::Close { lobby } => {
                self.put_byte(5);
                self.put_slice(lobby.as_bytes());
            }
            OperatorCommand::Change { lobby, change } => {
                self.put_byte(9);
                self.put_slice(lobby.as_bytes());
                self.put_lobby_change(change);
            }
            OperatorCommand::Create(new) => {
                self.put_byte(10);
                self.put_new_lobby(new);
            }
            OperatorCommand::Drain => self.put_byte(6),
            OperatorCommand::Clock(command) => {
                let (kind, count) = match *command {
                    ClockCommand::Pause => (0, 0),
                    ClockCommand::Resume => (1, 0),
                    ClockCommand::Step(ticks) => (2, ticks),
                    ClockCommand::Slow(factor) => (3, factor),
                };
                self.put_bytes(&[7, kind]);
                self.put_number(count.into());
            }
        }
    }
}

impl Put for Vec<u8> {
    #[inline]
    fn put_bytes(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }

    #[inline]
    fn put_byte(&mut self, byte: u8) {
        self.push(byte);
    }
}
