//! Operations: what nodes append to the log. Each is a kind, a length of four bytes, and so many bytes; numbers are in
//! little-endian order.

use std::time::Duration;

use super::fields::{Body, put_bytes, put_option};
use crate::base::close::CloseReason;
use crate::base::codes::CloseCode;
use crate::base::entry::{Entry, PasswordHash, RequestedLobby, Role};
use crate::base::id::SeatId;
use crate::base::session::{Claim, Position, SessionHash};
use crate::cluster::log::Incarnation;

/// An operation. The members of lobbies are named by the id of their seat and the `join_number` of their connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Operation<'a> {
    /// A text message of a member.
    Text { seat: SeatId, join_number: u64, text: &'a str },
    /// A binary message of a member.
    Binary { seat: SeatId, join_number: u64, bytes: &'a [u8] },
    /// A connection asks for a seat. Its user is authorized.
    Join(Join<'a>),
    /// The connection of a member has ended.
    /// `is_written` says whether all that it was sent had been written.
    Drop { seat: SeatId, join_number: u64, reason: CloseReason, is_written: bool },
    /// An operator's command, in the form of [`command`](super::command). The ticket names it for its own node.
    Operate { ticket: u64, command: &'a [u8] },
    /// The node with the connection of a seat is to check whether its page is alive. The ticket names the operator's ping for the node
    /// that asks; 0: an application asks, and nobody waits for a [result](Self::Checked).
    Check { seat: SeatId, join_number: u64, ticket: u64, timeout: Duration },
    /// The result of a check that `asker` has asked for: the latency, or `None` without an answer in time.
    Checked { asker: Incarnation, ticket: u64, seat: SeatId, latency: Option<Duration> },
    /// A node is to be the home of a lobby.
    Claim { lobby: &'a str },
    /// A lobby was removed from its home.
    Release { lobby: &'a str },
}

/// Returns the length of the first of these operations, which this program has written; `None` if there is none.
pub(crate) fn operation_length(operations: &[u8]) -> Option<usize> {
    let (&[_, a, b, c, d], _) = operations.split_first_chunk()?;
    Some(5 + u32::from_le_bytes([a, b, c, d]) as usize)
}

/// A request for a seat.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Join<'a> {
    /// Names the connection for its own node.
    pub(crate) conn: u64,
    pub(crate) user: &'a str,
    pub(crate) requested: RequestedLobby,
    pub(crate) claim: Option<Claim>,
    pub(crate) entry: Entry,
    /// Data of the identity.
    pub(crate) data: Option<&'a [u8]>,
}

const TEXT: u8 = 1;
const BINARY: u8 = 2;
const JOIN: u8 = 3;
const DROP: u8 = 4;
const OPERATE: u8 = 5;
const CLAIM: u8 = 6;
const RELEASE: u8 = 7;
const CHECK: u8 = 8;
const CHECKED: u8 = 9;

/// Reason of a [`Operation::Drop`] with a close code of the application; a code and a word follow.
const APP_REASON: u8 = u8::MAX;

impl Operation<'_> {
    /// Appends the operation to `out`.
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend([self.kind(), 0, 0, 0, 0]);
        match self {
            Operation::Text { seat, join_number, text } => {
                put_member(out, *seat, *join_number);
                out.extend(text.as_bytes());
            }
            Operation::Binary { seat, join_number, bytes } => {
                put_member(out, *seat, *join_number);
                out.extend(*bytes);
            }
            Operation::Join(join) => join.write(out),
            Operation::Claim { lobby } | Operation::Release { lobby } => out.extend(lobby.as_bytes()),
            Operation::Drop { seat, join_number, reason, is_written } => {
                put_member(out, *seat, *join_number);
                out.push(u8::from(*is_written));
                put_reason(out, *reason);
            }
            Operation::Operate { ticket, command } => {
                out.extend(ticket.to_le_bytes());
                out.extend(*command);
            }
            Operation::Check { seat, join_number, ticket, timeout } => {
                put_member(out, *seat, *join_number);
                out.extend(ticket.to_le_bytes());
                put_span(out, *timeout);
            }
            Operation::Checked { asker, ticket, seat, latency } => {
                [asker.0, *ticket, seat.0].iter().for_each(|number| out.extend(number.to_le_bytes()));
                put_option(out, *latency, put_span);
            }
        }
        let length = u32::try_from(out.len() - start - 5).expect("an operation is shorter than 4 GiB");
        out[start + 1..start + 5].copy_from_slice(&length.to_le_bytes());
    }

    fn kind(&self) -> u8 {
        match self {
            Operation::Text { .. } => TEXT,
            Operation::Binary { .. } => BINARY,
            Operation::Join(_) => JOIN,
            Operation::Drop { .. } => DROP,
            Operation::Operate { .. } => OPERATE,
            Operation::Claim { .. } => CLAIM,
            Operation::Release { .. } => RELEASE,
            Operation::Check { .. } => CHECK,
            Operation::Checked { .. } => CHECKED,
        }
    }

    /// Reads the first operation of `bytes`, and returns it with the rest. `None` if it is malformed.
    pub(crate) fn read(bytes: &[u8]) -> Option<(Operation<'_>, &[u8])> {
        let (&[kind, a, b, c, d], rest) = bytes.split_first_chunk()?;
        let (body, rest) = rest.split_at_checked(u32::from_le_bytes([a, b, c, d]) as usize)?;
        let mut body = Body(body);
        let operation = match kind {
            TEXT => {
                let (seat, join_number) = body.member()?;
                Operation::Text { seat, join_number, text: std::str::from_utf8(body.0).ok()? }
            }
            BINARY => {
                let (seat, join_number) = body.member()?;
                Operation::Binary { seat, join_number, bytes: body.0 }
            }
            JOIN => Operation::Join(Join::read(body)?),
            DROP => {
                let (seat, join_number) = body.member()?;
                let is_written = body.u8()? == 1;
                Operation::Drop { seat, join_number, reason: body.reason()?, is_written }
            }
            OPERATE => Operation::Operate { ticket: body.u64()?, command: body.0 },
            CHECK => {
                let (seat, join_number) = body.member()?;
                Operation::Check { seat, join_number, ticket: body.u64()?, timeout: body.span()? }
            }
            CHECKED => Operation::Checked {
                asker: Incarnation(body.u64()?),
                ticket: body.u64()?,
                seat: SeatId(body.u64()?),
                latency: body.option(Body::span)?,
            },
            CLAIM => Operation::Claim { lobby: std::str::from_utf8(body.0).ok()? },
            RELEASE => Operation::Release { lobby: std::str::from_utf8(body.0).ok()? },
            _ => return None,
        };
        Some((operation, rest))
    }
}

impl Join<'_> {
    fn write(&self, out: &mut Vec<u8>) {
        let Join { conn, user, requested, claim, entry, data } = self;
        out.extend(conn.to_le_bytes());
        put_bytes(out, user.as_bytes());
        let (kind, name) = match requested {
            RequestedLobby::Lobby(code) => (0, &**code),
            RequestedLobby::New => (1, ""),
            RequestedLobby::Quick(pool) => (2, &**pool),
        };
        out.push(kind);
        put_bytes(out, name.as_bytes());
        put_option(out, claim.as_ref(), |out, claim| {
            out.extend(claim.session.bits().to_le_bytes());
            put_option(out, claim.was, |out, was| out.extend(was.bits().to_le_bytes()));
            put_option(out, claim.position, |out, Position { epoch, seq, n }| {
                [epoch, seq, n].iter().for_each(|number| out.extend(number.to_le_bytes()));
            });
        });
        let Entry { create, role, password, seats } = entry;
        out.extend([u8::from(*create), u8::from(*role == Role::Watch)]);
        put_option(out, *password, |out, password| out.extend(password.bits().to_le_bytes()));
        put_option(out, *seats, |out, seats| out.extend(seats.to_le_bytes()));
        put_option(out, *data, put_bytes);
    }

    fn read(mut body: Body<'_>) -> Option<Join<'_>> {
        let (conn, user) = (body.u64()?, body.text()?);
        let requested = match (body.u8()?, body.text()?) {
            (0, code) => RequestedLobby::Lobby(code.to_owned()),
            (1, _) => RequestedLobby::New,
            (2, pool) => RequestedLobby::Quick(pool.to_owned()),
            _ => return None,
        };
        let claim = body.option(|body| {
            let session = SessionHash::from_bits(body.u128()?);
            let was = body.option(|body| body.u128().map(SessionHash::from_bits))?;
            let position =
                body.option(|body| Some(Position { epoch: body.u64()?, seq: body.u64()?, n: body.u64()? }))?;
            Some(Claim { session, was, position })
        })?;
        let create = body.u8()? == 1;
        let role = if body.u8()? == 1 { Role::Watch } else { Role::Play };
        let password = body.option(|body| body.u128().map(PasswordHash::from_bits))?;
        let seats = body.option(|body| body.take().map(u32::from_le_bytes))?;
        let data = body.option(Body::bytes)?;
        Some(Join { conn, user, requested, claim, entry: Entry { create, role, password, seats }, data })
    }
}

fn put_member(out: &mut Vec<u8>, seat: SeatId, join_number: u64) {
    out.extend(seat.0.to_le_bytes());
    out.extend(join_number.to_le_bytes());
}

/// Appends a span of time in microseconds.
fn put_span(out: &mut Vec<u8>, span: Duration) {
    let micros = u64::try_from(span.as_micros()).unwrap_or(u64::MAX);
    out.extend(micros.to_le_bytes());
}

fn put_reason(out: &mut Vec<u8>, reason: CloseReason) {
    match CloseReason::ALL.iter().position(|&other| other == reason) {
        Some(number) => out.push(number as u8),
        None => {
            out.push(APP_REASON);
            out.extend(reason.code().to_le_bytes());
            put_bytes(out, reason.word().as_bytes());
        }
    }
}

impl Body<'_> {
    fn member(&mut self) -> Option<(SeatId, u64)> {
        Some((SeatId(self.u64()?), self.u64()?))
    }

    fn span(&mut self) -> Option<Duration> {
        self.u64().map(Duration::from_micros)
    }

    fn reason(&mut self) -> Option<CloseReason> {
        match self.u8()? {
            APP_REASON => {
                let code = self.take().map(u16::from_le_bytes)?;
                CloseCode::new(code, self.text()?).map(CloseReason::App)
            }
            number => CloseReason::ALL.get(usize::from(number)).copied(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> Vec<Operation<'static>> {
        let (seat, join_number) = (SeatId(7), 1 << 40);
        let session = SessionHash::from_bits(3);
        let claim = Claim { session, was: None, position: Some(Position { epoch: 1, seq: 2, n: 3 }) };
        let entry = Entry { create: false, role: Role::Watch, password: PasswordHash::of("tulip"), seats: Some(4) };
        let join = |requested, claim, entry, data| {
            Operation::Join(Join { conn: 9, user: "ann", requested, claim, entry, data })
        };
        vec![
            Operation::Text { seat, join_number, text: r#"{"type":"move"}"# },
            Operation::Binary { seat, join_number, bytes: &[0, 255] },
            join(RequestedLobby::Lobby("chess".into()), None, Entry::ORDINARY, None),
            join(
                RequestedLobby::New,
                Some(Claim { was: Some(session), position: None, ..claim }),
                entry,
                Some(&b"{}"[..]),
            ),
            join(RequestedLobby::Quick("ranked".into()), Some(claim), Entry { password: None, ..entry }, Some(&[])),
            Operation::Drop { seat, join_number, reason: CloseReason::Stale, is_written: true },
            Operation::Claim { lobby: "chess" },
            Operation::Release { lobby: "chess" },
            Operation::Drop { seat, join_number, reason: CloseReason::app(4400, "cheater"), is_written: false },
            Operation::Operate { ticket: 9, command: &[1, 2] },
            Operation::Check { seat, join_number, ticket: 3, timeout: Duration::from_millis(2000) },
            Operation::Checked { asker: Incarnation(4), ticket: 3, seat, latency: Some(Duration::from_micros(812)) },
            Operation::Checked { asker: Incarnation(4), ticket: 3, seat, latency: None },
        ]
    }

    #[test]
    fn operations_are_read_as_they_were_written() {
        let mut bytes = Vec::new();
        all().iter().for_each(|operation| operation.write(&mut bytes));
        let mut rest = &bytes[..];
        for written in all() {
            let (read, after) = Operation::read(rest).expect("well-formed");
            assert_eq!(read, written);
            rest = after;
        }
        assert!(rest.is_empty());
    }

    #[test]
    fn every_reason_is_written() {
        for &reason in CloseReason::ALL {
            let mut bytes = Vec::new();
            let drop = Operation::Drop { seat: SeatId(1), join_number: 2, reason, is_written: false };
            drop.write(&mut bytes);
            assert_eq!(Operation::read(&bytes), Some((drop, &[][..])));
        }
    }

    #[test]
    fn damaged_operations_are_no_operations() {
        for operation in all() {
            let mut bytes = Vec::new();
            operation.write(&mut bytes);
            for end in 0..bytes.len() {
                assert!(Operation::read(&bytes[..end]).is_none(), "{operation:?} cut at {end}");
            }
            for at in 0..bytes.len() {
                let mut damaged = bytes.clone();
                damaged[at] = damaged[at].wrapping_add(100);
                // Whatever it is, reading it does not panic.
                let _ = Operation::read(&damaged);
            }
        }
    }
}
