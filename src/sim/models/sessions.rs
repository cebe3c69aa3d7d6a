//! Model of the sessions: what a lobby has said, what the server must keep of it, and what it must replay.
//!
//! Fed with claims, with the changes of the seats, and with everything that was said. It keeps every frame of a lobby, and
//! works out from the bounds of the configuration which of them the server must still have.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::missed::{Away, Claim, LobbyLog, Resume, SaidDirect, SaidFrame, SessionSeat};
use super::relay::{MessageId, hash_text};
use crate::base::close::LeaveReason;
use crate::base::id::{ConnId, SeatId};
use crate::base::time::Time;
use crate::config::{Config, DuplicateLogin};
use crate::engine::app::Member;
use crate::sim::client::books::ReadPosition;

/// Most users that a lobby keeps out.
const MAX_BARRED: usize = 64;

/// A user that was kicked out of a lobby in which it had a session.
#[derive(Debug)]
struct Barred {
    user: Box<str>,
    lobby: Box<str>,
    until: Time,
}

/// The sessions of a run.
#[derive(Debug)]
pub(crate) struct SessionModel {
    seat_grace: Duration,
    away_after: Duration,
    history: (usize, usize),
    kept_directs: (usize, usize),
    duplicate_login: DuplicateLogin,
    /// Whether the grace of a seat may be suspended while a claim is being authorized.
    may_suspend: bool,
    claims: BTreeMap<ConnId, Claim>,
    seats: BTreeMap<SeatId, SessionSeat>,
    /// Numbers of the last direct messages to seats without a session that had one.
    last_directs: BTreeMap<SeatId, u64>,
    /// With `away_after` 0, seats that were said to be away before the application was told.
    said_early: BTreeSet<SeatId>,
    /// When each session was sent its first `presence_state`, and the `seq` of that.
    began: BTreeMap<SeatId, (Time, u64)>,
    logs: BTreeMap<Box<str>, LobbyLog>,
    barred: Vec<Barred>,
    /// Messages that the application was shown.
    executed: BTreeSet<MessageId>,
    newly_executed: Vec<MessageId>,
    /// The last message without a mark that the application was shown, with the mark of its sender's session.
    unmarked: Option<(u32, Box<str>)>,
    /// Direct messages that the application was shown, by sender and number.
    directs: BTreeSet<MessageId>,
    resumes: BTreeMap<ConnId, Resume>,
    places: u64,
    /// The member that was replaced last, if it was present: its user and session.
    replaced: Option<(Box<str>, Option<u32>, Time)>,
    /// Connections that had the seat of a session, each with its lobby, which still exists.
    was_seated: BTreeMap<ConnId, Box<str>>,
    /// Whether the present command kicks its users.
    pub(crate) is_kicking: bool,
    is_draining: bool,
    /// Number of sessions that were resumed.
    pub(crate) resumed: u64,
}

/// The fields of a frame that was said.
#[derive(Deserialize)]
struct SaidText<'a> {
    #[serde(borrow)]
    data: Option<&'a RawValue>,
    #[serde(borrow)]
    joins: Option<Vec<Named<'a>>>,
    #[serde(borrow)]
    away: Option<Vec<Named<'a>>>,
    #[serde(borrow)]
    back: Option<Vec<Named<'a>>>,
}

#[derive(Deserialize)]
struct Named<'a> {
    #[serde(borrow)]
    conn: std::borrow::Cow<'a, str>,
}

/// The fields of a client's message: see [`Marker`](crate::sim::client::payload::Marker).
#[derive(Deserialize)]
struct Marked {
    l: u32,
    k: u32,
    /// The `ref` with which it was sent.
    r: Option<u64>,
}

impl SessionModel {
    pub(crate) fn new(config: &Config, may_suspend: bool) -> SessionModel {
        SessionModel {
            seat_grace: config.seat_grace,
            away_after: config.away_after,
            history: (config.history_frames as usize, config.history_bytes.0),
            kept_directs: (config.direct_frames as usize, config.direct_bytes.0),
            duplicate_login: config.duplicate_login,
            may_suspend,
            claims: BTreeMap::new(),
            seats: BTreeMap::new(),
            last_directs: BTreeMap::new(),
            said_early: BTreeSet::new(),
            began: BTreeMap::new(),
            logs: BTreeMap::new(),
            barred: Vec::new(),
            executed: BTreeSet::new(),
            newly_executed: Vec::new(),
            unmarked: None,
            directs: BTreeSet::new(),
            resumes: BTreeMap::new(),
            places: 0,
            replaced: None,
            was_seated: BTreeMap::new(),
            is_kicking: false,
            is_draining: false,
            resumed: 0,
        }
    }

    /// A client connects with a claim.
    pub(crate) fn claimed(&mut self, conn: ConnId, claim: Claim) {
        self.claims.insert(conn, claim);
    }

    /// Takes what the `welcome` on `conn` must say, if a session was resumed on it.
    pub(crate) fn take_resume(&mut self, conn: ConnId) -> Option<Resume> {
        self.resumes.remove(&conn)
    }

    /// Takes the messages that the application was shown since the last call.
    pub(crate) fn take_executed(&mut self) -> Vec<MessageId> {
        std::mem::take(&mut self.newly_executed)
    }

    /// Whether the seat is one of a session and has no connection.
    pub(crate) fn is_away(&self, seat: SeatId) -> bool {
        self.seats.get(&seat).is_some_and(|seat| seat.away.is_some())
    }

    /// Whether the seat is one of a session.
    pub(crate) fn has_session(&self, seat: SeatId) -> bool {
        self.seats.contains_key(&seat)
    }

    /// Since when the seat has no connection, if it has none.
    pub(crate) fn away_since(&self, seat: SeatId) -> Option<Time> {
        self.seats.get(&seat)?.away.as_ref().map(|away| away.since)
    }

    /// A member joined in a new seat.
    pub(crate) fn joined(&mut self, member: &Member, at: Time) -> Result<(), String> {
        self.check_barred(member, at)?;
        let Some(claim) = self.claims.get(&member.conn()).copied() else { return Ok(()) };
        self.check_not_resumable(member, &claim)?;
        let displaced = self.replaced.take().filter(|(user, _, when)| **user == *member.user() && *when == at);
        if let Some((user, session, _)) = displaced
            && claim.position.is_some()
            && session != Some(claim.session)
        {
            return Err(format!("{user} came back with a position, and displaced a newer login"));
        }
        self.begin(member, claim, at);
        Ok(())
    }

    /// A newer connection took over the seat of its user, not by a session.
    pub(crate) fn took_over(&mut self, member: &Member, at: Time) -> Result<(), String> {
        self.check_barred(member, at)?;
        let before = self.seats.remove(&member.seat());
        let Some(claim) = self.claims.get(&member.conn()).copied() else {
            self.last_directs.extend(before.map(|before| (member.seat(), before.last_direct)));
            return Ok(());
        };
        let was_live = before.as_ref().is_none_or(|seat| seat.away.is_none());
        let is_same =
            before.as_ref().is_some_and(|seat| seat.session == claim.session || Some(seat.session) == claim.was);
        if is_same {
            return Err(format!("{} took over its seat, and must have resumed its session", member.user()));
        }
        if was_live && claim.position.is_some() && self.duplicate_login == DuplicateLogin::Replace {
            return Err(format!("{} came back with a position, and displaced a newer login", member.user()));
        }
        self.check_not_resumable(member, &claim)?;
        self.begin(member, claim, at);
        let former = self.last_directs.remove(&member.seat()).map(|last| (last, Vec::new()));
        let former = before.map(|before| (before.last_direct, before.directs)).or(former);
        let step = self.renumbering_step();
        let seat = self.seats.get_mut(&member.seat()).expect("the session has just begun");
        if let Some((last_direct, directs)) = former {
            (seat.last_direct, seat.directs) = (last_direct, directs);
            seat.renumber(step);
        }
        Ok(())
    }

    /// What is added to the numbers of the direct messages to a seat when a new session takes it over.
    fn renumbering_step(&self) -> u64 {
        self.kept_directs.0 as u64 + 1
    }

    fn check_not_resumable(&self, member: &Member, claim: &Claim) -> Result<(), String> {
        let is_own = |seat: &SessionSeat| {
            *seat.user == *member.user()
                && *seat.lobby == *member.lobby()
                && (seat.session == claim.session || Some(seat.session) == claim.was)
        };
        match self.seats.iter().find(|(id, seat)| **id != member.seat() && is_own(seat)) {
            Some((id, _)) => Err(format!("{} has joined, and must have resumed seat={id}", member.user())),
            None => Ok(()),
        }
    }

    fn check_barred(&self, member: &Member, at: Time) -> Result<(), String> {
        let is_barred =
            |barred: &&Barred| *barred.user == *member.user() && *barred.lobby == *member.lobby() && at < barred.until;
        match self.barred.iter().find(is_barred) {
            Some(barred) => Err(format!("{} was kicked and is in its lobby before {}", member.user(), barred.until)),
            None => Ok(()),
        }
    }

    /// A session begins in a seat.
    fn begin(&mut self, member: &Member, claim: Claim, at: Time) {
        let start = self.start_of(member, at);
        let seat = SessionSeat {
            session: claim.session,
            marker: claim.marker,
            user: member.user().into(),
            lobby: member.lobby().into(),
            conn: member.conn(),
            away: None,
            start,
            begun: (at, claim.position),
            starts_late: false,
            directs: Vec::new(),
            last_direct: 0,
        };
        self.seats.insert(member.seat(), seat);
        self.was_seated.insert(member.conn(), member.lobby().into());
    }

    /// Returns the position of the first `presence_state` of the session that a member begins, as far as it is known.
    fn start_of(&self, member: &Member, at: Time) -> ReadPosition {
        let Some(log) = self.logs.get(member.lobby()) else { return ReadPosition::default() };
        let began = self.began.get(&member.seat()).filter(|(when, _)| *when == at);
        ReadPosition { epoch: log.epoch, seq: began.map_or(log.seq, |(_, seq)| *seq), n: 0 }
    }

    /// A session was resumed.
    pub(crate) fn back(&mut self, member: &Member, at: Time) -> Result<(), String> {
        self.resumed += 1;
        self.check_barred(member, at)?;
        let conn = member.conn();
        let claim = self.claims.get(&conn).copied();
        let claim = claim.ok_or_else(|| format!("conn={conn} has resumed a session, and claimed none"))?;
        let step = self.renumbering_step();
        let seat = self.seats.get_mut(&member.seat());
        let seat = seat.ok_or_else(|| format!("conn={conn} has resumed a session in seat={}", member.seat()))?;
        if *seat.user != *member.user() || *seat.lobby != *member.lobby() {
            return Err(format!("conn={conn} has resumed a session of {} in {}", seat.user, seat.lobby));
        }
        let is_reload = seat.session != claim.session;
        if is_reload && claim.was != Some(seat.session) {
            return Err(format!("conn={conn} has resumed a session that it did not claim"));
        }
        (seat.conn, seat.away, seat.session) = (conn, None, claim.session);
        if is_reload {
            seat.marker = claim.marker;
        }
        let log = self.logs.get(member.lobby());
        // A position of an earlier session changes nothing: it may be that of a late attempt.
        let predates = if is_reload { Some(false) } else { seat.predates(&claim, log, at) };
        if is_reload {
            seat.begun = (at, claim.position);
            seat.renumber(step);
        }
        let resume = seat.resume(&claim, log, self.history, self.kept_directs, is_reload, predates);
        let is_in_log = log.is_some();
        if is_reload && is_in_log {
            let start = self.start_of(member, at);
            let seat = self.seats.get_mut(&member.seat()).expect("found above");
            seat.start = ReadPosition { n: seat.start.n, ..start };
        }
        self.resumes.insert(conn, resume);
        self.was_seated.insert(conn, member.lobby().into());
        Ok(())
    }

    /// The connection of a session was lost, and its seat is kept.
    pub(crate) fn went_away(&mut self, member: &Member, reason: LeaveReason, at: Time) -> Result<(), String> {
        let seat = self.seats.get_mut(&member.seat()).filter(|seat| seat.conn == member.conn() && seat.away.is_none());
        let seat = seat.ok_or_else(|| format!("on_away for seat={}, which is not present", member.seat()))?;
        let is_announced = self.said_early.remove(&member.seat());
        seat.away = Some(Away { since: at, reason, is_announced });
        Ok(())
    }

    /// A member left its seat.
    pub(crate) fn left(&mut self, member: &Member, reason: LeaveReason, at: Time) -> Result<(), String> {
        let seat = self.seats.remove(&member.seat());
        self.last_directs.remove(&member.seat());
        let session = seat.as_ref().map(|seat| seat.session);
        let was_live = seat.as_ref().is_none_or(|seat| seat.away.is_none());
        self.replaced = (reason == LeaveReason::Replaced && was_live).then(|| (member.user().into(), session, at));
        let Some(seat) = seat else { return Ok(()) };
        let Some(away) = seat.away else { return Ok(()) };
        if reason == LeaveReason::Kicked && self.is_kicking {
            self.bar(&seat.user, &seat.lobby, at);
        }
        let is_ended = matches!(reason, LeaveReason::Kicked | LeaveReason::Replaced) || self.is_draining;
        if !is_ended && at < away.since + self.seat_grace {
            return Err(format!("{} left its seat before the end of seat_grace: {reason:?}", seat.user));
        }
        if !is_ended && reason != away.reason {
            return Err(format!(
                "{} left its seat with the reason {reason:?}, and was away with {:?}",
                seat.user, away.reason
            ));
        }
        Ok(())
    }

    /// A lobby has no seat any more, and nothing that it said or ordered remains.
    pub(crate) fn lobby_removed(&mut self, lobby: &str) {
        self.logs.remove(lobby);
        self.barred.retain(|barred| *barred.lobby != *lobby);
        self.was_seated.retain(|_, other| **other != *lobby);
    }

    /// The drain began, in which no seat is kept.
    pub(crate) fn drain(&mut self) {
        self.is_draining = true;
    }

    /// The member on `conn` was kicked.
    pub(crate) fn kicked(&mut self, conn: ConnId, user: &str, lobby: &str, at: Time) {
        if self.was_seated.contains_key(&conn) {
            self.bar(user, lobby, at);
        }
    }

    fn bar(&mut self, user: &str, lobby: &str, at: Time) {
        self.barred.push(Barred { user: user.into(), lobby: lobby.into(), until: at + self.seat_grace });
        if self.barred.iter().filter(|barred| *barred.lobby == *lobby).count() > MAX_BARRED {
            self.barred.remove(0);
        }
    }

    /// A lobby of which nothing is known, because it is new or was empty, is in this epoch and has said `seq` frames.
    pub(crate) fn lobby_found(&mut self, lobby: &str, epoch: u64, seq: u64) {
        let log = self.logs.entry(lobby.into()).or_default();
        // An earlier lobby of this name may have ended with a reserved seat, of which no event tells.
        if log.epoch != epoch {
            *log = LobbyLog { epoch, seq, frames: Vec::new() };
        }
    }

    /// A lobby has said a numbered frame to its members.
    pub(crate) fn said(&mut self, lobby: &str, epoch: u64, seq: u64, text: &str, at: Time) -> Result<(), String> {
        let log = self.logs.entry(lobby.into()).or_default();
        if log.epoch != epoch {
            *log = LobbyLog { epoch, seq: seq - 1, frames: Vec::new() };
        }
        if seq != log.seq + 1 {
            return Err(format!("lobby {lobby} said seq {seq} after {}", log.seq));
        }
        let fields: SaidText<'_> = serde_json::from_str(text).map_err(|error| format!("{error}: {text}"))?;
        let marked: Option<Marked> = fields.data.and_then(|data| serde_json::from_str(data.get()).ok());
        let unmarked = fields.data.and_then(|data| self.unmarked.take_if(|(_, text)| **text == *data.get()));
        let unmarked = unmarked.map(|(marker, _)| marker);
        self.places += 1;
        log.seq = seq;
        log.frames.push(SaidFrame {
            seq,
            bytes: text.len(),
            hash: hash_text(text),
            marker: marked.as_ref().map_or(unmarked, |marked| Some(marked.l)),
            reference: marked.and_then(|marked| marked.r),
            place: self.places,
        });
        for joined in fields.joins.unwrap_or_default() {
            if let Some((_, seat)) = self.seats.iter_mut().find(|(id, _)| id.to_string() == *joined.conn) {
                seat.start = ReadPosition { epoch, seq, n: 0 };
            }
        }
        for back in fields.back.unwrap_or_default() {
            // It may still be away: its connection is just being seated.
            if let Some(away) = self.seat_named(&back.conn).and_then(|seat| seat.away.as_mut()) {
                away.is_announced = false;
            }
        }
        for away in fields.away.unwrap_or_default() {
            self.said_to_be_away(&away.conn, at)?;
        }
        Ok(())
    }

    /// A session was sent its first `presence_state`, with this `seq`. The joins precede it, and with lobby control another
    /// host.
    pub(crate) fn began(&mut self, id: SeatId, seq: u64, at: Time) {
        // The application may be told of the session later.
        self.began.insert(id, (at, seq));
        if let Some(seat) = self.seats.get_mut(&id).filter(|seat| seat.begun.0 == at)
            && seq == seat.start.seq + 1
        {
            seat.start.seq = seq;
        }
    }

    fn seat_named(&mut self, name: &str) -> Option<&mut SessionSeat> {
        self.seats.iter_mut().find(|(id, _)| id.to_string() == name).map(|(_, seat)| seat)
    }

    /// The other members were told that the seat with this name is away.
    fn said_to_be_away(&mut self, name: &str, at: Time) -> Result<(), String> {
        let away_after = self.away_after;
        let found = self.seats.iter_mut().find(|(id, _)| id.to_string() == name);
        let (&id, seat) = found.ok_or_else(|| format!("{name} is said to be away, and has no session"))?;
        match &mut seat.away {
            None if away_after.is_zero() && self.said_early.insert(id) => {}
            None => return Err(format!("{name} is said to be away, and is not")),
            Some(state) if at < state.since + away_after => {
                return Err(format!("{name} is said to be away before away_after"));
            }
            Some(state) if state.is_announced => return Err(format!("{name} is said to be away twice")),
            Some(state) => state.is_announced = true,
        }
        Ok(())
    }

    /// A direct message with the number `n` was sent to a session.
    pub(crate) fn said_directly(&mut self, seat: SeatId, n: u64, bytes: usize) -> Result<(), String> {
        self.places += 1;
        let place = self.places;
        let to =
            self.seats.get_mut(&seat).ok_or_else(|| format!("a direct message to seat={seat}, without a session"))?;
        if n != to.last_direct + 1 {
            return Err(format!("direct message {n} to seat={seat} after {}", to.last_direct));
        }
        to.last_direct = n;
        to.directs.push(SaidDirect { n, bytes, place });
        Ok(())
    }

    /// The application was shown a message of `from`, which is direct or not.
    pub(crate) fn shown(&mut self, from: &Member, data: &str, is_direct: bool) -> Result<(), String> {
        let Ok(Marked { l, k, .. }) = serde_json::from_str(data) else {
            // A flipped bit can turn a ping of a client into a message for the application.
            let seat = self.seats.get(&from.seat()).filter(|_| !is_direct);
            self.unmarked = seat.map(|seat| (seat.marker, data.into()));
            return Ok(());
        };
        let of_kind = if is_direct { &mut self.directs } else { &mut self.executed };
        if !of_kind.insert((l, k)) {
            return Err(format!("message {k} of client #{l} was executed twice: {data}"));
        }
        if !is_direct {
            self.newly_executed.push((l, k));
        }
        Ok(())
    }

    /// Checks, after a turn, that no seat is away for longer than it may be, and that the others were told. `slack` is the
    /// lateness of a timer. `is_counted`: whether the lobby is told only numbers of members.
    pub(crate) fn check(&self, now: Time, slack: Duration, may_be_counted: bool) -> Result<(), String> {
        if let Some(id) = self.said_early.first() {
            return Err(format!("{id} is said to be away, and the application was not told"));
        }
        for (id, seat) in &self.seats {
            let Some(away) = &seat.away else { continue };
            if !self.may_suspend && now >= away.since + self.seat_grace + slack {
                return Err(format!("seat={id} of {} is away for longer than seat_grace", seat.user));
            }
            let is_due = now >= away.since + self.away_after + slack;
            if is_due && !away.is_announced && !may_be_counted && !self.is_draining {
                return Err(format!("seat={id} of {} is away, and the others were not told", seat.user));
            }
        }
        Ok(())
    }

    /// Checks that no session is left.
    pub(crate) fn check_empty(&self) -> Result<(), String> {
        if self.seats.is_empty() { Ok(()) } else { Err(format!("no on_leave for the sessions {:?}", self.seats)) }
    }
}
