//! Reading of entries and their fields.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use super::block::MAX_BLOCK;
use crate::base::close::CloseReason;
use crate::base::codes::CloseCode;
use crate::base::entry::{self, Entry, PasswordHash, Role};
use crate::base::id::SeatId;
use crate::base::leb128;
use crate::base::list_query::{ListFilter, ListQuery, MAX_TAGS};
use crate::base::peer::Peer;
use crate::base::rate::Rate;
use crate::base::session::{BadClaim, Claim, Position, SessionHash};
use crate::engine::member::{Authorization, Identity};
use crate::engine::operator::{KickTarget, LobbyChange, NewLobby, OperatorCommand, Payload, SettingsText};
use crate::engine::recording::{Decisions, Destination, Edition, REDACTED};
use crate::engine::state::ticks::ClockCommand;
use crate::http::file::FileResponse;
use crate::http::probe::Probe;
use crate::http::{Cors, PlainResponse};
use crate::ws::deflate::Deflate;
use crate::ws::handshake::{Acceptance, Facts, Upgrade};
use crate::ws::post::PostHead;

/// Largest count or time that is accepted. As microseconds it is 146,000 years.
pub(crate) const MAX_COUNT: u64 = 1 << 62;

/// The bytes are not a valid entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BadEntry;

pub(crate) type Read<T> = Result<T, BadEntry>;

/// Reads the entries of one block from the front.
#[derive(Clone, Debug)]
pub(crate) struct EntryReader<'a> {
    rest: &'a [u8],
}

impl<'a> EntryReader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> EntryReader<'a> {
        EntryReader { rest: bytes }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    pub(crate) fn left(&self) -> usize {
        self.rest.len()
    }

    pub(crate) fn take(&mut self, count: usize) -> Read<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or(BadEntry)?;
        self.rest = rest;
        Ok(taken)
    }

    pub(crate) fn byte(&mut self) -> Read<u8> {
        Ok(self.take(1)?[0])
    }

    pub(crate) fn flag(&mut self) -> Read<bool> {
        match self.byte()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(BadEntry),
        }
    }

    pub(crate) fn number(&mut self) -> Read<u64> {
        let (number, count) = leb128::read(self.rest).map_err(|_| BadEntry)?;
        self.rest = &self.rest[count..];
        Ok(number)
    }

    pub(crate) fn number_as<T: TryFrom<u64>>(&mut self) -> Read<T> {
        T::try_from(self.number()?).map_err(|_| BadEntry)
    }

    /// Reads a count of events, or a time in microseconds, of at most [`MAX_COUNT`]: two of them can be added and
    /// incremented without overflow.
    pub(crate) fn count(&mut self) -> Read<u64> {
        self.number().and_then(|count| if count <= MAX_COUNT { Ok(count) } else { Err(BadEntry) })
    }

    pub(crate) fn slice(&mut self) -> Read<&'a [u8]> {
        let length = self.number_as()?;
        self.take(length)
    }

    pub(crate) fn text(&mut self) -> Read<String> {
        String::from_utf8(self.slice()?.to_vec()).map_err(|_| BadEntry)
    }

    pub(crate) fn option<T>(&mut self, read: impl FnOnce(&mut Self) -> Read<T>) -> Read<Option<T>> {
        if self.flag()? { read(self).map(Some) } else { Ok(None) }
    }

    pub(crate) fn ip(&mut self) -> Read<IpAddr> {
        let mut octets = |count| self.take(count);
        match octets(1)? {
            [4] => octets(4)?.try_into().map(|v4: [u8; 4]| Ipv4Addr::from(v4).into()).map_err(|_| BadEntry),
            [6] => octets(16)?.try_into().map(|v6: [u8; 16]| Ipv6Addr::from(v6).into()).map_err(|_| BadEntry),
            _ => Err(BadEntry),
        }
    }

    pub(crate) fn peer(&mut self) -> Read<Peer> {
        if self.rest.first() == Some(&0) {
            self.byte()?;
            return Ok(Peer::Unix);
        }
        let ip = self.ip()?;
        let mut address = SocketAddr::new(ip, self.number_as()?);
        if let SocketAddr::V6(v6) = &mut address {
            v6.set_flowinfo(self.number_as()?);
            v6.set_scope_id(self.number_as()?);
        }
        Ok(address.into())
    }

    fn duration(&mut self) -> Read<Duration> {
        let (seconds, nanos) = (self.number()?, self.number_as()?);
        if nanos < 1_000_000_000 { Ok(Duration::new(seconds, nanos)) } else { Err(BadEntry) }
    }

    fn reason(&mut self) -> Read<CloseReason> {
        CloseReason::ALL.get(usize::from(self.byte()?)).copied().ok_or(BadEntry)
    }

    pub(crate) fn close_code(&mut self) -> Read<CloseCode> {
        CloseCode::new(self.number_as()?, &self.text()?).ok_or(BadEntry)
    }

    /// Appends bytes of the recorded shape to `bytes`: `x` (first `X` for a capital) in place of the contents.
    pub(crate) fn shape(&mut self, bytes: &mut Vec<u8>) -> Read<()> {
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

    pub(crate) fn refusal(&mut self) -> Read<PlainResponse> {
        Ok(PlainResponse::from_parts(self.number_as()?, self.text()?, self.text()?, self.byte()? != 0))
    }

    /// Reads the facts of a request, as a build of `edition` wrote them. The subprotocol's length is at most
    /// `max_header_bytes`, like the head it comes from.
    pub(crate) fn facts(&mut self, edition: Edition, max_header_bytes: usize) -> Read<Facts> {
        let form = self.byte()?;
        let (is_head_request, has_file) = (form & 4 != 0, form & 8 != 0);
        let (has_entry, has_list) = (form & 16 != 0, form & 32 != 0);
        let probe = match form & !(4 | 8 | 16 | 32) {
            0 => None,
            1 => Some(Probe::Live),
            2 => Some(Probe::Ready),
            _ => return Err(BadEntry),
        };
        let (address, is_origin_allowed) = (self.ip()?, self.flag()?);
        let (form, cors) = match self.byte()? {
            0 => (Err(self.refusal()?), None),
            form @ (1 | 5) => {
                let deflate = if form == 5 { Some(self.deflate()?) } else { None };
                let accept_key = self.text()?;
                let subprotocol = self.option(|from| from.redacted(max_header_bytes))?;
                (Ok(Acceptance::WebSocket(Upgrade { accept_key, subprotocol, deflate })), None)
            }
            2 => (Ok(Acceptance::Events), self.cors(max_header_bytes)?),
            3 => {
                let (length, flags) = (self.number_as()?, self.byte()?);
                if flags > 3 {
                    return Err(BadEntry);
                }
                let head = PostHead { length, keep_alive: flags & 1 != 0, expects_continue: flags & 2 != 0 };
                (Ok(Acceptance::Post(head)), self.cors(max_header_bytes)?)
            }
            4 => (Err(self.refusal()?), Some(self.cors(max_header_bytes)?.ok_or(BadEntry)?)),
            _ => return Err(BadEntry),
        };
        let claim = if edition < Edition::Third { Ok(None) } else { self.claim()? };
        let entry = if has_entry { self.entry()? } else { Ok(Entry::ORDINARY) };
        let file = if has_file { Some(Box::new(self.file()?)) } else { None };
        let list = if has_list { Some(Box::new(self.list_query()?)) } else { None };
        Ok(Facts { probe, is_head_request, address, is_origin_allowed, claim, entry, cors, form, file, list })
    }

    fn deflate(&mut self) -> Read<Deflate> {
        let window_bits = self.byte()?;
        Deflate::new(Some(window_bits).filter(|&bits| bits > 0)).ok_or(BadEntry)
    }

    fn list_query(&mut self) -> Read<Result<ListQuery, PlainResponse>> {
        Ok(match self.byte()? {
            0 => Err(self.refusal()?),
            1 => {
                let (filter, after) = (self.list_filter()?, self.number()?);
                Ok(ListQuery { filter, after: Some(after).filter(|&after| after < Position::END).ok_or(BadEntry)? })
            }
            _ => return Err(BadEntry),
        })
    }

    fn list_filter(&mut self) -> Read<ListFilter> {
        let pool = self.option(|from| Ok(from.text()?.into()))?;
        let count = self.number_as().ok().filter(|&count: &usize| count <= MAX_TAGS).ok_or(BadEntry)?;
        let tags = (0..count).map(|_| Ok((self.text()?.into(), self.text()?.into()))).collect::<Read<_>>()?;
        Some(ListFilter { pool, tags }).filter(ListFilter::is_valid).ok_or(BadEntry)
    }

    fn file(&mut self) -> Read<FileResponse> {
        FileResponse::from_parts(self.number_as()?, self.text()?, self.number()?).ok_or(BadEntry)
    }

    fn claim(&mut self) -> Read<Result<Option<Claim>, BadClaim>> {
        match self.byte()? {
            0 => Ok(Ok(None)),
            1 => {
                let (session, was) = (self.session_hash()?, self.option(EntryReader::session_hash)?);
                let position = self.option(|from| {
                    let mut next = || from.number().and_then(|n| if n < Position::END { Ok(n) } else { Err(BadEntry) });
                    Ok(Position { epoch: next()?, seq: next()?, n: next()? })
                })?;
                Ok(Ok(Some(Claim { session, was, position })))
            }
            2 => Ok(Err(BadClaim)),
            _ => Err(BadEntry),
        }
    }

    fn entry(&mut self) -> Read<Result<Entry, entry::BadEntry>> {
        let flags = self.byte()?;
        match flags {
            0 => return Ok(Err(entry::BadEntry)),
            _ if flags & 1 == 1 && flags < 8 => {}
            _ => return Err(BadEntry),
        }
        Ok(Ok(Entry {
            create: flags & 2 != 0,
            role: if flags & 4 != 0 { Role::Watch } else { Role::Play },
            password: self.option(|from| {
                let bytes = from.take(16)?.try_into().map_err(|_| BadEntry)?;
                Ok(PasswordHash::from_bits(u128::from_be_bytes(bytes)))
            })?,
            seats: self
                .option(|from| from.number_as().and_then(|seats| if seats > 0 { Ok(seats) } else { Err(BadEntry) }))?,
        }))
    }

    fn session_hash(&mut self) -> Read<SessionHash> {
        let bytes = self.take(16)?.try_into().map_err(|_| BadEntry)?;
        Ok(SessionHash::from_bits(u128::from_be_bytes(bytes)))
    }

    fn cors(&mut self, max_header_bytes: usize) -> Read<Option<Cors>> {
        Ok(match self.byte()? {
            0 => None,
            1 => Some(Cors::Any),
            2 => Some(Cors::Origin(self.redacted(max_header_bytes)?)),
            _ => return Err(BadEntry),
        })
    }

    /// Reads the length of a text whose contents were not recorded, and returns a placeholder of that length.
    fn redacted(&mut self, max_bytes: usize) -> Read<String> {
        let length: usize = self.number_as()?;
        if length <= max_bytes { Ok(char::from(REDACTED).to_string().repeat(length)) } else { Err(BadEntry) }
    }

    pub(crate) fn decisions(&mut self) -> Read<Decisions> {
        let destination = self.option(|from| match from.byte()? {
            0 => Ok(Destination::Nowhere),
            1 => from.text().map(Destination::Lobby),
            2 => Ok(Destination::BadCode),
            3 => Ok(Destination::New),
            4 => from.text().map(Destination::Quick),
            5 => Ok(Destination::Lobbies(from.option(EntryReader::list_filter)?)),
            _ => Err(BadEntry),
        })?;
        let authorization = self.option(EntryReader::authorization)?;
        let random = self.option(|from| Ok([from.number()?, from.number()?, from.number()?, from.number()?]))?;
        Ok(Decisions { destination, authorization, random })
    }

    pub(crate) fn authorization(&mut self) -> Read<Authorization> {
        match self.byte()? {
            form @ (0 | 3) => Ok(Authorization::Allow(Identity {
                user: self.text()?,
                tier: self.option(|from| Ok(Rate::new(from.number_as()?, from.duration()?, from.number_as()?)))?,
                lobby: self.option(EntryReader::text)?,
                expires: self.option(EntryReader::number)?,
                data: if form == 3 { Some(self.slice()?.into()) } else { None },
            })),
            1 => self.reason().map(Authorization::Refuse),
            2 => Ok(Authorization::Pending { user: self.option(EntryReader::text)? }),
            4 => Ok(Authorization::Refuse(CloseReason::App(self.close_code()?))),
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

    fn lobby_change(&mut self) -> Read<LobbyChange> {
        Ok(match self.byte()? {
            0 => LobbyChange::Data {
                of: self.option(|from| from.number().map(SeatId))?,
                if_seq: self.option(EntryReader::number)?,
                data: self.text()?,
            },
            1 => LobbyChange::Settings(SettingsText(self.text()?)),
            2 => LobbyChange::Host(SeatId(self.number()?)),
            3 => LobbyChange::Ban(self.text()?),
            4 => LobbyChange::Unban(self.text()?),
            _ => return Err(BadEntry),
        })
    }

    pub(crate) fn operator(&mut self) -> Read<OperatorCommand> {
        Ok(match self.byte()? {
            0 => OperatorCommand::publish(self.text()?, self.payload()?),
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
            8 => OperatorCommand::Publish {
                lobby: self.text()?,
                payload: self.payload()?,
                exclude: (0..self.number()?).map(|_| self.text()).collect::<Read<_>>()?,
                idempotency_key: self.option(EntryReader::text)?,
            },
            9 => OperatorCommand::Change { lobby: self.text()?, change: self.lobby_change()? },
            10 => OperatorCommand::Create(NewLobby {
                code: self.option(EntryReader::text)?,
                seats: (0..self.number()?).map(|_| self.text()).collect::<Read<_>>()?,
                settings: self.option(EntryReader::text)?.map(SettingsText),
                data: self.option(EntryReader::text)?,
                ttl: self.duration()?,
                pool: self.option(EntryReader::text)?,
            }),
            _ => return Err(BadEntry),
        })
    }
}

#[cfg(test)]
mod tests;
