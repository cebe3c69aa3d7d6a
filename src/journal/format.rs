//! Encoding of journal entries: one byte for the kind, then the fields. Numbers are in LEB128, and slices and texts
//! follow their length. Knows no blocks, files or engines; the [parent module](super) documents the entries.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use crate::base::close::CloseReason;
use crate::base::id::ConnId;
use crate::base::rate::{Bucket, Rate};
use crate::base::time::Time;
use crate::engine::member::{Authorization, Identity};
use crate::engine::operator::{KickTarget, OperatorCommand, Payload};
use crate::engine::recording::{Checkpoint, Decisions, Destination, REDACTED};
use crate::engine::stats::Counters;
use crate::engine::tick::ClockCommand;
use crate::http::Refusal;
use crate::ws::handshake::{Facts, Probe, Upgrade};

/// First line of a segment. It contains the version of the format.
pub(super) const MAGIC: &[u8] = b"lobbyd journal 2\n";
/// Beginning of that line in all versions.
pub(super) const FAMILY: &[u8] = b"lobbyd journal ";

/// Bytes before each payload: its length, a check of the length, and a check of the block.
pub(super) const BLOCK_HEADER: usize = 12;
/// Longest payload of a block. It bounds the memory of a reader when a length is damaged.
pub(super) const MAX_BLOCK: usize = 64 << 20;

macro_rules! kinds {
    ($($name:ident = $number:literal,)*) => {
        $( pub(super) const $name: u8 = $number; )*
    };
}

kinds! {
    SEGMENT = 1,
    TIME = 2,
    ACCEPT = 3,
    BYTES = 4,
    HEAD = 5,
    ASKED = 6,
    REFUSED = 7,
    ANSWERED = 8,
    REST = 9,
    UNREAD_REST = 10,
    HANGUP = 11,
    WRITABLE = 12,
    TIMEOUT = 13,
    AUTHORIZED = 14,
    COMMAND = 15,
    RELOAD = 16,
    OMITTED_RELOAD = 17,
    OPERATOR = 18,
    REPORT_TAKEN = 19,
    DRAIN = 20,
    STOP = 21,
    SHED = 22,
    CLOSURE = 23,
    FLUSH = 24,
    WROTE = 25,
    BLOCKED = 26,
    FAILED = 27,
    FLUSHED = 28,
    FLUSHED_NOTHING = 29,
    MAX_WORK = 30,
    UNREAD = 31,
    WALL_TIME = 32,
}

/// The first entry of a segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Segment {
    /// Identifies the session: equal in all its segments, and different in those of other sessions.
    pub(super) session: u64,
    /// Number of the segment in its session, from 1.
    pub(super) number: u64,
    /// Check of the last block of the previous segment.
    pub(super) chain: u32,
    pub(super) build: String,
    pub(super) app: String,
    pub(super) unix_micros: u64,
    pub(super) seed: u64,
    /// One line `name=value` for each field.
    pub(super) config: String,
    /// Number of the last turn before this segment.
    pub(super) turn: u64,
    /// Checkpoint and application snapshot with which a replay can begin. Present only when there were no connections.
    pub(super) start: Option<(Checkpoint, Vec<u8>)>,
}

// ---- writing ----

/// A buffer to which entries are appended.
pub(super) trait Put {
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

    fn put_option<T>(&mut self, value: Option<T>, put: impl FnOnce(&mut Self, T))
    where
        Self: Sized,
    {
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

    fn put_address(&mut self, address: SocketAddr) {
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

    fn put_reason(&mut self, reason: CloseReason) {
        self.put_byte(reason as u8);
    }

    /// Appends the shape of a request's bytes without their contents, which may hold a token: the number of bytes,
    /// whether the first is a capital letter, and the positions of CR and LF.
    fn put_shape(&mut self, bytes: &[u8])
    where
        Self: Sized,
    {
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

    fn put_refusal(&mut self, refusal: &Refusal) {
        let (status, sentence, lines, is_bodiless) = refusal.parts();
        self.put_number(status.into());
        self.put_slice(sentence.as_bytes());
        self.put_slice(lines.as_bytes());
        self.put_byte(is_bodiless.into());
    }

    fn put_facts(&mut self, facts: &Facts)
    where
        Self: Sized,
    {
        self.put_byte(match facts.probe {
            None => 0,
            Some(Probe::Live) => 1,
            Some(Probe::Ready) => 2,
        });
        self.put_ip(facts.address);
        self.put_byte(facts.is_origin_allowed.into());
        match &facts.upgrade {
            Ok(Upgrade { accept_key, subprotocol }) => {
                self.put_byte(1);
                self.put_slice(accept_key.as_bytes());
                // Only the length: the client chose the name, which may contain its token.
                self.put_option(subprotocol.as_ref(), |to, name| to.put_number(name.len() as u64));
            }
            Err(refusal) => {
                self.put_byte(0);
                self.put_refusal(refusal);
            }
        }
    }

    fn put_decisions(&mut self, decisions: &Decisions)
    where
        Self: Sized,
    {
        self.put_option(decisions.destination.as_ref(), |to, destination| match destination {
            Destination::Nowhere => to.put_byte(0),
            Destination::Lobby(code) => {
                to.put_byte(1);
                to.put_slice(code.as_bytes());
            }
            Destination::BadCode => to.put_byte(2),
        });
        self.put_option(decisions.authorization.as_ref(), Put::put_authorization);
        self.put_option(decisions.random, |to, state| state.iter().for_each(|word| to.put_number(*word)));
    }

    fn put_authorization(&mut self, answer: &Authorization)
    where
        Self: Sized,
    {
        match answer {
            Authorization::Allow(Identity { user, tier, lobby, expires }) => {
                self.put_byte(0);
                self.put_slice(user.as_bytes());
                self.put_option(*tier, |to, rate| {
                    to.put_number(rate.count().into());
                    to.put_duration(rate.period());
                    to.put_number(rate.burst().into());
                });
                self.put_option(lobby.as_ref(), |to, code| to.put_slice(code.as_bytes()));
                self.put_option(*expires, Put::put_number);
            }
            Authorization::Refuse(reason) => {
                self.put_byte(1);
                self.put_reason(*reason);
            }
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

    fn put_operator(&mut self, command: &OperatorCommand) {
        match command {
            OperatorCommand::Publish { lobby, payload } => {
                self.put_byte(0);
                self.put_slice(lobby.as_bytes());
                self.put_payload(payload);
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

    fn put_segment(&mut self, segment: &Segment)
    where
        Self: Sized,
    {
        let Segment { session, number, chain, build, app, unix_micros, seed, config, turn, start } = segment;
        self.put_byte(SEGMENT);
        for number in [*session, *number, u64::from(*chain), *unix_micros, *seed, *turn] {
            self.put_number(number);
        }
        for text in [build, app, config] {
            self.put_slice(text.as_bytes());
        }
        self.put_option(start.as_ref(), |to, (checkpoint, snapshot)| {
            let Checkpoint {
                now,
                unix_at_zero,
                random,
                wheel,
                seats_created,
                last_epoch,
                closes_started,
                last_ticket,
                ..
            } = checkpoint;
            for number in
                [now.as_micros(), *unix_at_zero, *wheel, *seats_created, *last_epoch, *closes_started, *last_ticket]
            {
                to.put_number(number);
            }
            random.iter().for_each(|word| to.put_number(*word));
            let Checkpoint { batch: (room, next), counters, ticks, users, addresses, .. } = checkpoint;
            to.put_number(u64::from(*room));
            to.put_number(next.as_micros());
            let mut counters = counters.clone();
            to.put_number(counters.all_mut().count() as u64);
            counters.all_mut().for_each(|count| to.put_number(*count));
            to.put_number(ticks.len() as u64);
            ticks.iter().for_each(|number| to.put_number(*number));
            to.put_number(users.len() as u64);
            for (user, buckets) in users {
                to.put_slice(user.as_bytes());
                buckets.iter().for_each(|bucket| to.put_number(bucket.full_at_nanos()));
            }
            to.put_number(addresses.len() as u64);
            for (address, attempts) in addresses {
                to.put_ip(*address);
                to.put_number(attempts.full_at_nanos());
            }
            to.put_slice(snapshot);
        });
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

// ---- reading ----

/// The bytes are not a valid entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BadEntry;

type Read<T> = Result<T, BadEntry>;

/// Reads the entries of one block from the front.
#[derive(Clone, Debug)]
pub(super) struct EntryReader<'a> {
    rest: &'a [u8],
}

impl<'a> EntryReader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> EntryReader<'a> {
        EntryReader { rest: bytes }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    pub(super) fn left(&self) -> usize {
        self.rest.len()
    }

    pub(super) fn take(&mut self, count: usize) -> Read<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or(BadEntry)?;
        self.rest = rest;
        Ok(taken)
    }

    pub(super) fn byte(&mut self) -> Read<u8> {
        Ok(self.take(1)?[0])
    }

    fn flag(&mut self) -> Read<bool> {
        match self.byte()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(BadEntry),
        }
    }

    pub(super) fn number(&mut self) -> Read<u64> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            number |= bits << shift;
            if byte < 0x80 {
                // The tenth byte has one significant bit; more would be shifted out.
                return if bits << shift >> shift == bits { Ok(number) } else { Err(BadEntry) };
            }
        }
        Err(BadEntry)
    }

    pub(super) fn number_as<T: TryFrom<u64>>(&mut self) -> Read<T> {
        T::try_from(self.number()?).map_err(|_| BadEntry)
    }

    /// Reads a count of events, or a time in microseconds, of at most [`MAX_COUNT`]: two of them can be added and
    /// incremented without overflow.
    pub(super) fn count(&mut self) -> Read<u64> {
        self.number().and_then(|count| if count <= MAX_COUNT { Ok(count) } else { Err(BadEntry) })
    }

    pub(super) fn slice(&mut self) -> Read<&'a [u8]> {
        let length = self.number_as()?;
        self.take(length)
    }

    fn text(&mut self) -> Read<String> {
        String::from_utf8(self.slice()?.to_vec()).map_err(|_| BadEntry)
    }

    fn option<T>(&mut self, read: impl FnOnce(&mut Self) -> Read<T>) -> Read<Option<T>> {
        if self.flag()? { read(self).map(Some) } else { Ok(None) }
    }

    fn ip(&mut self) -> Read<IpAddr> {
        let mut octets = |count| self.take(count);
        match octets(1)? {
            [4] => octets(4)?.try_into().map(|v4: [u8; 4]| Ipv4Addr::from(v4).into()).map_err(|_| BadEntry),
            [6] => octets(16)?.try_into().map(|v6: [u8; 16]| Ipv6Addr::from(v6).into()).map_err(|_| BadEntry),
            _ => Err(BadEntry),
        }
    }

    pub(super) fn address(&mut self) -> Read<SocketAddr> {
        let ip = self.ip()?;
        let mut address = SocketAddr::new(ip, self.number_as()?);
        if let SocketAddr::V6(v6) = &mut address {
            v6.set_flowinfo(self.number_as()?);
            v6.set_scope_id(self.number_as()?);
        }
        Ok(address)
    }

    fn duration(&mut self) -> Read<Duration> {
        let (seconds, nanos) = (self.number()?, self.number_as()?);
        if nanos < 1_000_000_000 { Ok(Duration::new(seconds, nanos)) } else { Err(BadEntry) }
    }

    fn reason(&mut self) -> Read<CloseReason> {
        CloseReason::ALL.get(usize::from(self.byte()?)).copied().ok_or(BadEntry)
    }

    /// Appends bytes of the recorded shape to `bytes`: `x` (first `X` for a capital) in place of the contents.
    pub(super) fn shape(&mut self, bytes: &mut Vec<u8>) -> Read<()> {
        let length: usize = self.number_as()?;
        if length > MAX_BLOCK {
            return Err(BadEntry);
        }
        let is_upper = self.flag()?;
        let start = bytes.len();
        while bytes.len() - start < length {
            let run: usize = self.number_as()?;
            let left = length - (bytes.len() - start);
            if run > left {
                return Err(BadEntry);
            }
            bytes.resize(bytes.len() + run, b'x');
            if run < left {
                let end = self.byte()?;
                if !matches!(end, b'\r' | b'\n') {
                    return Err(BadEntry);
                }
                bytes.push(end);
            }
        }
        if is_upper && let Some(first) = bytes.get_mut(start) {
            *first = b'X';
        }
        Ok(())
    }

    pub(super) fn refusal(&mut self) -> Read<Refusal> {
        Ok(Refusal::from_parts(self.number_as()?, self.text()?, self.text()?, self.byte()? != 0))
    }

    /// Reads the facts of a request. The subprotocol's length is at most `max_header_bytes`, like the head it comes
    /// from.
    pub(super) fn facts(&mut self, max_header_bytes: usize) -> Read<Facts> {
        let probe = match self.byte()? {
            0 => None,
            1 => Some(Probe::Live),
            2 => Some(Probe::Ready),
            _ => return Err(BadEntry),
        };
        let (address, is_origin_allowed) = (self.ip()?, self.flag()?);
        let upgrade = if self.flag()? {
            Ok(Upgrade { accept_key: self.text()?, subprotocol: self.option(|from| from.redacted(max_header_bytes))? })
        } else {
            Err(self.refusal()?)
        };
        Ok(Facts { probe, address, is_origin_allowed, upgrade })
    }

    /// Reads the length of a text whose contents were not recorded, and returns a placeholder of that length.
    fn redacted(&mut self, max_bytes: usize) -> Read<String> {
        let length: usize = self.number_as()?;
        if length <= max_bytes { Ok(char::from(REDACTED).to_string().repeat(length)) } else { Err(BadEntry) }
    }

    pub(super) fn decisions(&mut self) -> Read<Decisions> {
        let destination = self.option(|from| match from.byte()? {
            0 => Ok(Destination::Nowhere),
            1 => from.text().map(Destination::Lobby),
            2 => Ok(Destination::BadCode),
            _ => Err(BadEntry),
        })?;
        let authorization = self.option(EntryReader::authorization)?;
        let random = self.option(|from| Ok([from.number()?, from.number()?, from.number()?, from.number()?]))?;
        Ok(Decisions { destination, authorization, random })
    }

    pub(super) fn authorization(&mut self) -> Read<Authorization> {
        match self.byte()? {
            0 => Ok(Authorization::Allow(Identity {
                user: self.text()?,
                tier: self.option(|from| Ok(Rate::new(from.number_as()?, from.duration()?, from.number_as()?)))?,
                lobby: self.option(EntryReader::text)?,
                expires: self.option(EntryReader::number)?,
            })),
            1 => self.reason().map(Authorization::Refuse),
            2 => Ok(Authorization::Pending { user: self.option(EntryReader::text)? }),
            _ => Err(BadEntry),
        }
    }

    fn payload(&mut self) -> Read<Payload> {
        match (self.byte()?, self.text()?) {
            (0, text) => Ok(Payload::Json(text)),
            (1, text) => Ok(Payload::Text(text)),
            _ => Err(BadEntry),
        }
    }

    pub(super) fn operator(&mut self) -> Read<OperatorCommand> {
        Ok(match self.byte()? {
            0 => OperatorCommand::Publish { lobby: self.text()?, payload: self.payload()? },
            1 => OperatorCommand::Send { user: self.text()?, payload: self.payload()? },
            2 => OperatorCommand::Ping { user: self.text()?, timeout: self.duration()? },
            3 => {
                let target = match (self.byte()?, self.text()?) {
                    (0, user) => KickTarget::User(user),
                    (1, code) => KickTarget::Lobby(code),
                    (2, _) => KickTarget::All,
                    _ => return Err(BadEntry),
                };
                OperatorCommand::Kick { target, reconnect: self.flag()? }
            }
            4 => OperatorCommand::Lock { lobby: self.text()?, locked: self.flag()? },
            5 => OperatorCommand::Close { lobby: self.text()? },
            6 => OperatorCommand::Drain,
            7 => OperatorCommand::Clock(match (self.byte()?, self.number_as()?) {
                (0, _) => ClockCommand::Pause,
                (1, _) => ClockCommand::Resume,
                (2, ticks) => ClockCommand::Step(ticks),
                (3, factor) => ClockCommand::Slow(factor),
                _ => return Err(BadEntry),
            }),
            _ => return Err(BadEntry),
        })
    }

    /// Reads the fields that follow the kind [`SEGMENT`].
    pub(super) fn segment(&mut self) -> Read<Segment> {
        Ok(Segment {
            session: self.number()?,
            number: self.count()?,
            chain: self.number_as()?,
            unix_micros: self.count()?,
            seed: self.number()?,
            turn: self.count()?,
            build: self.text()?,
            app: self.text()?,
            config: self.text()?,
            start: self.option(|from| Ok((from.checkpoint()?, from.slice()?.to_vec())))?,
        })
    }

    fn bucket(&mut self) -> Read<Bucket> {
        self.number().map(Bucket::from_full_at_nanos)
    }

    fn checkpoint(&mut self) -> Read<Checkpoint> {
        let mut checkpoint = Checkpoint {
            now: Time::from_micros(self.count()?),
            unix_at_zero: self.count()?,
            wheel: self.count()?,
            seats_created: self.count()?,
            last_epoch: self.count()?,
            closes_started: self.count()?,
            last_ticket: self.count()?,
            random: [self.number()?, self.number()?, self.number()?, self.number()?],
            batch: (self.number_as()?, Time::from_micros(self.count()?)),
            counters: Counters::default(),
            ticks: Vec::new(),
            users: Vec::new(),
            addresses: Vec::new(),
        };
        let count: usize = self.number_as()?;
        if count != checkpoint.counters.all_mut().count() {
            return Err(BadEntry);
        }
        for counter in checkpoint.counters.all_mut() {
            *counter = self.count()?;
        }
        checkpoint.ticks = (0..self.number()?).map(|_| self.count()).collect::<Read<_>>()?;
        for _ in 0..self.number()? {
            let user = self.text()?.into();
            checkpoint.users.push((user, [self.bucket()?, self.bucket()?]));
        }
        for _ in 0..self.number()? {
            checkpoint.addresses.push((self.ip()?, self.bucket()?));
        }
        Ok(checkpoint)
    }
}

/// Writes connection ids. The generation is written only when it differs from the last one written for that index.
#[derive(Clone, Debug, Default)]
pub(super) struct ConnWriter {
    generations: Vec<u64>,
}

impl ConnWriter {
    pub(super) fn put(&mut self, to: &mut Vec<u8>, conn: ConnId) {
        let index = conn.index();
        if index >= self.generations.len() {
            self.generations.resize(index + 1, 0);
        }
        let is_new = std::mem::replace(&mut self.generations[index], conn.generation()) != conn.generation();
        to.put_number((index as u64) << 1 | u64::from(is_new));
        if is_new {
            to.put_number(conn.generation());
        }
    }
}

/// Reads connection ids. Uses a map instead of a vector, so that a large index in a damaged journal allocates little
/// memory.
#[derive(Clone, Debug, Default)]
pub(super) struct ConnReader {
    generations: HashMap<u32, u64>,
}

impl ConnReader {
    pub(super) fn read(&mut self, from: &mut EntryReader<'_>) -> Read<ConnId> {
        let number = from.number()?;
        let index = u32::try_from(number >> 1).map_err(|_| BadEntry)?;
        if number & 1 == 1 {
            self.generations.insert(index, from.number()?);
        }
        let generation = *self.generations.get(&index).ok_or(BadEntry)?;
        ConnId::new(index as usize, generation).ok_or(BadEntry)
    }
}

/// Largest count or time that is accepted. As microseconds it is 146,000 years.
pub(super) const MAX_COUNT: u64 = 1 << 62;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_survive_a_round_trip() {
        for number in (0..64).flat_map(|bit| [(1u64 << bit) - 1, 1 << bit]).chain([u64::MAX]) {
            let mut bytes = Vec::new();
            bytes.put_number(number);
            assert_eq!(EntryReader::new(&bytes).number(), Ok(number));
            assert_eq!(EntryReader::new(&bytes[..bytes.len() - 1]).number(), Err(BadEntry));
        }
        assert_eq!(EntryReader::new(&[0xff; 10]).number(), Err(BadEntry), "more than 64 bits");
    }

    #[test]
    fn a_shape_keeps_only_the_line_ends_of_a_request() {
        for text in ["GET /ws/a?token=secret HTTP/1.1\r\nA: b\r\n\r\n", "\n", "", "x", "get\r", "\r\r\nA", "Ab\n"] {
            let mut bytes = Vec::new();
            bytes.put_shape(text.as_bytes());
            assert!(!bytes.windows(6).any(|window| window == b"secret"));
            let mut shape = Vec::new();
            EntryReader::new(&bytes).shape(&mut shape).expect("put_shape() wrote it");
            assert_eq!(shape.len(), text.len());
            for (at, (original, read)) in text.bytes().zip(shape).enumerate() {
                let expected = match original {
                    b'\r' | b'\n' => original,
                    _ if at == 0 && original.is_ascii_uppercase() => b'X',
                    _ => b'x',
                };
                assert_eq!(read, expected, "{text:?} at {at}");
            }
        }
    }

    #[test]
    fn connection_ids_survive_a_round_trip_in_few_bytes() {
        let conns = [(0, 1), (0, 1), (3, 2), (0, 3), (3, 2), (0, 1)]
            .map(|(index, generation)| ConnId::new(index, generation).unwrap());
        let (mut written, mut bytes) = (ConnWriter::default(), Vec::new());
        conns.iter().for_each(|&conn| written.put(&mut bytes, conn));
        let (mut read, mut from) = (ConnReader::default(), EntryReader::new(&bytes));
        conns.iter().for_each(|&conn| assert_eq!(read.read(&mut from), Ok(conn)));
        assert!(from.is_empty() && bytes.len() == 6 + 4);
    }
}
