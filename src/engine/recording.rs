//! What enters an engine, as data: who is told of it, and how a session that was recorded enters again.
//!
//! Every `handle_*` method goes through [`Engine::enter`], so that whoever records what passes there has all of it. What
//! cannot be had again are the application's decisions about requests: they follow from tokens, which are not recorded.
//! So these decisions are told too, and a replay hands them to the engine in place of asking the application.

use std::any::Any;
use std::collections::BTreeMap;
use std::io::{self, IoSlice, Write};
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;

use smol_str::SmolStr;

use super::app::{App, Context};
use super::core::Core;
use super::member::{Authorization, Route};
use super::operator::OperatorCommand;
use super::stats::Counters;
use super::tick::Ticks;
use super::{Engine, Start};
use crate::checksum::Checksum;
use crate::close::CloseReason;
use crate::id::ConnId;
use crate::lobby::is_lobby_code;
use crate::rate::Bucket;
use crate::time::Time;
use crate::wire::handshake::{Facts, Request, Upgrade};
use crate::wire::http::Refusal;
use crate::wire::outbox::Flow;

/// Something that enters the engine.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Input<'a> {
    Accept(SocketAddr),
    /// Of `bytes`, the first `head` belong to a request, or to nothing: only their number and their lines matter. With
    /// `max_work` it is decided how many of them are taken.
    Bytes {
        conn: ConnId,
        head: usize,
        bytes: &'a [u8],
        max_work: usize,
    },
    Hangup(ConnId),
    Writable(ConnId),
    Timeout,
    /// These connections, and no others, may have input that has not been read.
    Unread(&'a [ConnId]),
    /// The wall clock shows so many microseconds since the Unix epoch.
    WallTime(u64),
    Authorized(ConnId, &'a Authorization),
    Command(&'a [u8]),
    Reload(&'a [u8]),
    Operator(&'a OperatorCommand),
    /// The answer to an operator's ping was taken.
    ReportTaken,
    Drain,
    Stop,
    /// A connection was closed before it could be accepted.
    Shed,
    /// The application's owner has acted by a closure. That is no data, and cannot be replayed.
    Owner,
}

/// Where a request leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Destination {
    /// To nothing that is here.
    Nowhere,
    /// To the lobby of this code, which is a valid one.
    Lobby(String),
    /// To a lobby whose code is not valid. What was written in its place is not kept: it may hold a token.
    BadCode,
}

impl From<Route> for Destination {
    fn from(route: Route) -> Destination {
        match route {
            Route::NotFound => Destination::Nowhere,
            Route::Lobby(code) if is_lobby_code(&code) => Destination::Lobby(code),
            Route::Lobby(_) => Destination::BadCode,
        }
    }
}

/// What the application said to a request. It is asked for less when the engine decides by itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Decisions {
    pub(crate) destination: Option<Destination>,
    pub(crate) authorization: Option<Authorization>,
    /// The generator's state afterwards, if the application drew from it.
    pub(crate) random: Option<[u64; 4]>,
}

/// A request and its decisions, as they were recorded.
#[derive(Debug)]
pub(crate) struct RecordedDecision {
    pub(crate) asked: Result<Facts, Refusal>,
    pub(crate) decisions: Decisions,
}

/// What one call of `write_to` came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct WriteRecord {
    pub(crate) taken: u64,
    pub(crate) checksum: u64,
    pub(crate) end: WriteEnd,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WriteEnd {
    Whole,
    Blocked,
    Failed,
}

/// The whole state of an engine without connections: an engine that starts from it goes on as this one does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Checkpoint {
    pub(crate) now: Time,
    pub(crate) unix_at_zero: u64,
    /// The generator's state.
    pub(crate) random: [u64; 4],
    /// The position of the timer wheel.
    pub(crate) wheel: u64,
    pub(crate) seats_ever: u64,
    pub(crate) last_epoch: u64,
    pub(crate) closing_ever: u64,
    pub(crate) last_ticket: u64,
    /// Goodbyes left in the current batch, and the time of the next batch: see [`CloseQueue`](super::drain::CloseQueue).
    pub(crate) batch: (u32, Time),
    pub(crate) counters: Counters,
    /// The game's clock; empty when there is none.
    pub(crate) ticks: Vec<u64>,
    /// The spent rates of users (messages, bytes) and addresses that have left, the oldest first.
    pub(crate) users: Vec<(SmolStr, [Bucket; 2])>,
    pub(crate) addresses: Vec<(IpAddr, Bucket)>,
}

/// Whether a record has become so long that another should begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RotateHint {
    /// Go on.
    Continue,
    /// A good moment should be used.
    WhenEmpty,
    /// Another should begin.
    Now,
}

/// How recording goes. It depends on the machine, so none of it can reach an application.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Recording {
    /// Bytes recorded.
    pub bytes: u64,
    /// Calls to the operating system that wrote them.
    pub writes: u64,
    /// Microseconds spent in those, and in waiting for the disk.
    pub micros: u64,
    /// The longest of them, in microseconds.
    pub slowest_micros: u64,
    /// Whether it has ended for an error.
    pub has_failed: bool,
}

/// Records what enters an engine and what it sends.
pub(crate) trait Recorder: Any {
    /// Something enters. The engine has not acted on it yet.
    fn input(&mut self, now: Time, input: &Input<'_>);
    /// The bytes before held a whole request.
    fn asked(&mut self, asked: Result<&Facts, &Refusal>);
    /// What came of it.
    fn answered(&mut self, decisions: &Decisions);
    /// What followed the request in the same bytes; `is_read`: somebody will look at more than their number.
    fn rest(&mut self, bytes: &[u8], is_read: bool);
    /// The driver is about to write whatever is queued.
    fn flush(&mut self);
    /// Before anything is written: what it follows from must be recorded.
    fn commit(&mut self) -> io::Result<()>;
    fn wrote(&mut self, conn: ConnId, wrote: &WriteRecord);
    /// Nothing is left to be written.
    fn flushed(&mut self);
    fn rotate_hint(&self) -> RotateHint;
    /// Whether a checkpoint may be written now: enough was recorded since the last one.
    fn may_write_checkpoint(&self) -> bool;
    /// Goes on elsewhere. With a checkpoint, and what the application says of its state, a replay can begin there.
    fn rotate_segment(&mut self, start: Option<(&Checkpoint, &[u8])>);
    fn recording(&self) -> Recording;
}

/// Whether the engine is recorded, or replays.
#[derive(Default)]
pub(super) enum RecordMode {
    #[default]
    Off,
    Recording(Box<dyn Recorder>, RedactedRange),
    Replaying(Box<Replaying>),
}

#[derive(Default)]
pub(super) struct Replaying {
    recorded_decision: Option<RecordedDecision>,
    /// A request was read of which nothing is recorded_decision.
    has_decision_mismatch: bool,
    /// Connections that have ended since somebody looked.
    ends: Vec<(ConnId, CloseReason)>,
}

impl RecordMode {
    pub(super) fn recorder(&mut self) -> Option<&mut dyn Recorder> {
        match self {
            RecordMode::Recording(recorder, _) => Some(&mut **recorder),
            RecordMode::Off | RecordMode::Replaying(_) => None,
        }
    }

    /// Somebody who replays wants to know why a connection ended.
    pub(super) fn note_closed(&mut self, conn: ConnId, reason: CloseReason) {
        if let RecordMode::Replaying(replaying) = self {
            replaying.ends.push((conn, reason));
        }
    }

    #[inline]
    pub(super) fn is_recording(&self) -> bool {
        matches!(self, RecordMode::Recording(..))
    }

    /// The answer to `conn`, which is the first that it is sent, may repeat a word of the client's.
    pub(super) fn redact_echo(&mut self, conn: ConnId, upgrade: &Upgrade) {
        if let RecordMode::Recording(_, redacted) = self
            && let Some(range) = upgrade.echo()
        {
            redacted.0.insert(conn, range);
        }
    }

    /// A connection is over.
    pub(super) fn forget(&mut self, conn: ConnId) {
        if let RecordMode::Recording(_, redacted) = self {
            redacted.0.remove(&conn);
        }
    }
}

/// Stands for each byte that checksums must not depend on, because a replay does not know it.
pub(crate) const REDACTED: u8 = b'x';

/// Connections that have still to be sent something that a client wrote in its request: where it stands in what is written
/// to them next.
#[derive(Debug, Default)]
pub(super) struct RedactedRange(BTreeMap<ConnId, Range<u64>>);

impl RedactedRange {
    fn of(&self, conn: ConnId) -> Range<u64> {
        self.0.get(&conn).cloned().unwrap_or_default()
    }

    /// So many bytes were written.
    fn wrote(&mut self, conn: ConnId, taken: u64) {
        if let Some(range) = self.0.get_mut(&conn) {
            *range = range.start.saturating_sub(taken)..range.end.saturating_sub(taken);
            if range.is_empty() {
                self.0.remove(&conn);
            }
        }
    }
}

impl<A: App> Engine<A> {
    /// The one way in: time passes, and what enters is recorded before anything comes of it.
    #[inline]
    pub(super) fn enter(&mut self, now: Time, input: &Input<'_>) {
        self.core.assert_whole();
        self.core.advance(now);
        if self.core.record_mode.is_recording() {
            self.core.record_input(input);
        }
    }

    /// Bytes were received. What belongs to a request may hold a token, and what nobody reads may hold anything.
    pub(super) fn enter_bytes(&mut self, now: Time, conn: ConnId, bytes: &[u8], max_work: usize) {
        self.core.assert_whole();
        self.core.advance(now);
        let max_header_bytes = self.core.config.max_header_bytes.0;
        if self.core.record_mode.is_recording() {
            let head = match self.core.slot(conn) {
                Some(slot) => slot.wire.unread(bytes, max_header_bytes),
                None => bytes.len(),
            };
            self.enter(now, &Input::Bytes { conn, head, bytes, max_work });
        }
    }

    /// Has everything recorded from now on. An engine is recorded from its beginning or not at all.
    pub(crate) fn record(&mut self, recorder: Box<dyn Recorder>) {
        debug_assert!(self.core.is_blank(), "a record begins with nobody there");
        self.core.record_mode = RecordMode::Recording(recorder, RedactedRange::default());
    }

    /// Ends the record.
    pub(crate) fn take_recorder(&mut self) -> Option<Box<dyn Recorder>> {
        match std::mem::take(&mut self.core.record_mode) {
            RecordMode::Recording(recorder, _) => Some(recorder),
            other => {
                self.core.record_mode = other;
                None
            }
        }
    }

    /// Hands what is recorded to the operating system.
    ///
    /// # Errors
    ///
    /// When that fails, and nobody is to be served unrecorded.
    pub(crate) fn commit_record(&mut self) -> io::Result<()> {
        self.core.record_mode.recorder().map_or(Ok(()), Recorder::commit)
    }

    /// Begins another part of the record when this one is long enough: at best one with which a replay can begin. That
    /// changes nothing about the engine.
    pub(crate) fn rotate_segment(&mut self) {
        let RecordMode::Recording(recorder, _) = &self.core.record_mode else { return };
        let length = recorder.rotate_hint();
        if length == RotateHint::Continue {
            return;
        }
        let may_start = self.core.is_blank() && recorder.may_write_checkpoint();
        let snapshot = if may_start { self.app.snapshot() } else { None };
        if let Some(snapshot) = snapshot {
            let checkpoint = self.core.checkpoint();
            self.core.record_mode.recorder().expect("it is recording").rotate_segment(Some((&checkpoint, &snapshot)));
        } else if length == RotateHint::Now {
            self.core.record_mode.recorder().expect("it is recording").rotate_segment(None);
        }
    }

    /// How recording goes; `None` when nothing is recorded.
    pub fn recording(&self) -> Option<Recording> {
        match &self.core.record_mode {
            RecordMode::Recording(recorder, _) => Some(recorder.recording()),
            RecordMode::Off | RecordMode::Replaying(_) => None,
        }
    }

    // ---- replaying ----

    /// From now on the application is not asked about requests.
    pub(crate) fn replay(&mut self) {
        self.core.record_mode = RecordMode::Replaying(Box::default());
    }

    /// The next request that is read is this one.
    pub(crate) fn set_recorded_decision(&mut self, next: Option<RecordedDecision>) {
        if let RecordMode::Replaying(replaying) = &mut self.core.record_mode {
            replaying.recorded_decision = next;
        }
    }

    /// Connections that have ended since the last call, and why.
    pub(crate) fn take_closed(&mut self) -> Vec<(ConnId, CloseReason)> {
        match &mut self.core.record_mode {
            RecordMode::Replaying(replaying) => std::mem::take(&mut replaying.ends),
            RecordMode::Off | RecordMode::Recording(..) => Vec::new(),
        }
    }

    /// Whether a request was read of which nothing was recorded_decision, or the other way round.
    pub(crate) fn has_decision_mismatch(&self) -> bool {
        matches!(&self.core.record_mode, RecordMode::Replaying(replaying) if replaying.has_decision_mismatch || replaying.recorded_decision.is_some())
    }

    /// What has been recorded enters again.
    pub(crate) fn replay_input(&mut self, now: Time, input: &Input<'_>) {
        match *input {
            Input::Accept(peer) => {
                let _ = self.handle_accept(now, peer);
            }
            Input::Bytes { conn, bytes, max_work, .. } => {
                self.handle_bytes_up_to(now, conn, bytes, max_work);
            }
            Input::Hangup(conn) => self.handle_hangup(now, conn),
            Input::Writable(conn) => self.handle_writable(now, conn),
            Input::Timeout => self.handle_timeout(now),
            Input::Unread(conns) => self.handle_unread(now, conns),
            Input::WallTime(unix_micros) => self.handle_wall_time(now, unix_micros),
            Input::Authorized(conn, answer) => self.handle_authorized(now, conn, answer.clone()),
            Input::Command(command) => self.handle_command(now, command),
            Input::Reload(contents) => self.handle_reload(now, contents),
            Input::Operator(command) => drop(self.handle_operator(now, command.clone())),
            Input::ReportTaken => drop(self.poll_operator()),
            Input::Drain => self.handle_drain(now),
            Input::Stop => self.handle_stop(now),
            Input::Shed => self.note_shed(),
            Input::Owner => {}
        }
    }

    /// The state of an engine in which nobody is.
    pub(crate) fn checkpoint(&mut self) -> Checkpoint {
        self.core.checkpoint()
    }

    /// Goes on from a moment at which nobody was there.
    pub(crate) fn restore_checkpoint(&mut self, checkpoint: &Checkpoint) {
        self.core.restore_checkpoint(checkpoint);
    }

    /// Whether nobody is here and nothing waits.
    pub(crate) fn is_blank(&self) -> bool {
        self.core.is_blank()
    }

    // ---- requests ----

    /// Decides about a request that was read, and records what was decided.
    pub(super) fn decide_and_record(
        &mut self,
        key: usize,
        request: &Request<'_>,
        upgrade: Result<Upgrade, Refusal>,
    ) -> Result<(), Refusal> {
        let facts = self.core.facts(request, upgrade);
        let mut decisions = Decisions::default();
        if let Some(recorder) = self.core.record_mode.recorder() {
            recorder.asked(Ok(&facts));
            let outcome = self.decide(key, Some(request), facts, &mut decisions);
            self.core.record_mode.recorder().expect("it is recording").answered(&decisions);
            outcome
        } else {
            self.decide(key, Some(request), facts, &mut decisions)
        }
    }

    /// Decides again about a request that was recorded: what was written in it is not known any more, but what was decided.
    pub(super) fn decide_from_record(&mut self, key: usize) -> Result<(), Refusal> {
        let RecordMode::Replaying(replaying) = &mut self.core.record_mode else { unreachable!("it was asked for") };
        let Some(RecordedDecision { asked, mut decisions }) = replaying.recorded_decision.take() else {
            replaying.has_decision_mismatch = true;
            return Ok(());
        };
        self.decide(key, None, asked?, &mut decisions)
    }

    /// Where the request leads, as the application says; in a replay, as it said.
    pub(super) fn ask_destination(
        &mut self,
        request: Option<&Request<'_>>,
        decisions: &mut Decisions,
    ) -> Option<Destination> {
        if let Some(request) = request {
            decisions.destination = Some(self.app.route(request).into());
        }
        self.unless_mismatched(decisions.destination.clone())
    }

    /// Who it is, as the application says; in a replay, as it said.
    pub(super) fn ask_authorization(
        &mut self,
        request: Option<&Request<'_>>,
        decisions: &mut Decisions,
    ) -> Option<Authorization> {
        let Some(request) = request else {
            if let Some(state) = decisions.random {
                self.core.random().set_state(state);
            }
            return self.unless_mismatched(decisions.authorization.clone());
        };
        let before = self.core.random().state();
        let answer = self.app.authorize(&mut Context { core: &mut self.core }, request).without_bad_names();
        if self.core.record_mode.is_recording() {
            let after = self.core.random().state();
            decisions.random = (after != before).then_some(after);
            decisions.authorization = Some(answer.clone());
        }
        Some(answer)
    }

    /// A journal that says nothing of what the engine asks for belongs to another engine.
    fn unless_mismatched<T>(&mut self, answer: Option<T>) -> Option<T> {
        if let RecordMode::Replaying(replaying) = &mut self.core.record_mode {
            replaying.has_decision_mismatch |= answer.is_none();
        }
        answer
    }
}

impl Core {
    #[cold]
    fn record_input(&mut self, input: &Input<'_>) {
        if let RecordMode::Recording(recorder, _) = &mut self.record_mode {
            recorder.input(self.now, input);
        }
    }

    #[inline]
    pub(super) fn record_flush(&mut self) {
        if let RecordMode::Recording(recorder, _) = &mut self.record_mode {
            recorder.flush();
        }
    }

    #[inline]
    pub(super) fn record_flushed(&mut self) {
        if let RecordMode::Recording(recorder, _) = &mut self.record_mode {
            recorder.flushed();
        }
    }

    /// The same as [`write_to`](Self::write_to), under the eyes of the recorder. Apart, so that it costs nothing to have no journal.
    #[cold]
    pub(super) fn write_recorded(&mut self, conn: ConnId, socket: &mut impl Write) -> io::Result<Flow> {
        let redacted = match &self.record_mode {
            RecordMode::Recording(_, redacted) => redacted.of(conn),
            RecordMode::Off | RecordMode::Replaying(_) => Range::default(),
        };
        let mut socket = RecordedSocket::new(conn, socket, redacted);
        let written = self.write_to(conn.index(), &mut socket);
        let wrote = socket.wrote(&written);
        if let RecordMode::Recording(recorder, redacted) = &mut self.record_mode {
            recorder.wrote(conn, &wrote);
            redacted.wrote(conn, wrote.taken);
        }
        written
    }

    /// What was taken for a request is none that could be read.
    pub(super) fn record_refused(&mut self, refusal: &Refusal) {
        if let Some(recorder) = self.record_mode.recorder() {
            recorder.asked(Err(refusal));
        }
    }

    /// What followed a request in the same bytes.
    pub(super) fn record_rest(&mut self, key: usize, rest: &[u8]) {
        let is_read = self.slots.get(key).is_some_and(|slot| !slot.wire.ignores_input());
        if let Some(recorder) = self.record_mode.recorder().filter(|_| !rest.is_empty()) {
            recorder.rest(rest, is_read);
        }
    }

    /// Whether nobody is here and nothing waits.
    fn is_blank(&self) -> bool {
        let is_beating = self.ticks.as_ref().is_some_and(Ticks::is_under_way);
        let is_empty = self.slots.is_empty() && self.directory.is_blank() && self.pings.is_empty();
        is_empty && !is_beating && self.draining.is_none() && self.close_queue.is_empty()
    }

    fn checkpoint(&mut self) -> Checkpoint {
        let (seats_ever, last_epoch) = self.directory.numbers();
        Checkpoint {
            now: self.now,
            unix_at_zero: self.unix_at_zero,
            random: self.random.state(),
            wheel: self.wheel.position(),
            seats_ever,
            last_epoch,
            closing_ever: self.closing_ever,
            last_ticket: self.pings.last_ticket(),
            batch: self.close_queue.numbers(),
            counters: self.counters.clone(),
            ticks: self.ticks.as_mut().map(Ticks::numbers).unwrap_or_default(),
            users: self.directory.remembered(self.now),
            addresses: self.addresses.remembered(self.now),
        }
    }

    fn restore_checkpoint(&mut self, checkpoint: &Checkpoint) {
        let start = Start { unix_micros: checkpoint.unix_at_zero, seed: 0 };
        let record_mode = std::mem::take(&mut self.record_mode);
        *self = Core { record_mode, ..Core::new(self.config.clone(), self.protocol, start) };
        self.now = checkpoint.now;
        self.random.set_state(checkpoint.random);
        self.wheel.set_position(checkpoint.wheel, checkpoint.now);
        self.directory.set_numbers(checkpoint.seats_ever, checkpoint.last_epoch);
        self.closing_ever = checkpoint.closing_ever;
        self.pings.set_last_ticket(checkpoint.last_ticket);
        self.close_queue.set_numbers(checkpoint.batch);
        self.counters = checkpoint.counters.clone();
        self.ticks.iter_mut().for_each(|ticks| ticks.set_numbers(&checkpoint.ticks));
        checkpoint
            .users
            .iter()
            .for_each(|(user, buckets)| self.directory.remember(user.clone(), *buckets, checkpoint.now));
        checkpoint
            .addresses
            .iter()
            .for_each(|&(address, attempts)| self.addresses.remember(address, attempts, checkpoint.now));
    }
}

/// A socket that is written to under the eyes of a recorder.
struct RecordedSocket<'a, S> {
    socket: &'a mut S,
    taken: u64,
    checksum: Checksum,
    /// Bytes that the checksum does not depend on.
    redacted: Range<u64>,
}

impl<'a, S> RecordedSocket<'a, S> {
    fn new(conn: ConnId, socket: &'a mut S, redacted: Range<u64>) -> RecordedSocket<'a, S> {
        RecordedSocket { socket, taken: 0, checksum: checksum_for(conn), redacted }
    }

    fn took(&mut self, bytes: &[u8]) {
        let before = self.taken;
        self.taken += bytes.len() as u64;
        // Where in `bytes` the concealed ones stand; nearly always nowhere.
        let clamp = |at: u64| at.clamp(before, self.taken) - before;
        let (start, end) = (clamp(self.redacted.start) as usize, clamp(self.redacted.end) as usize);
        self.checksum.write(&bytes[..start]);
        if start < end {
            self.checksum.write(&vec![REDACTED; end - start]);
        }
        self.checksum.write(&bytes[end..]);
    }

    fn wrote(&self, outcome: &io::Result<Flow>) -> WriteRecord {
        let end = match outcome {
            Ok(Flow::Drained | Flow::Finished | Flow::Closed) => WriteEnd::Whole,
            Ok(Flow::Blocked) => WriteEnd::Blocked,
            Err(_) => WriteEnd::Failed,
        };
        WriteRecord { taken: self.taken, checksum: self.checksum.finish(), end }
    }
}

/// Two connections that are sent the same are told apart.
pub(crate) fn checksum_for(conn: ConnId) -> Checksum {
    Checksum::new(conn.bits())
}

impl<S: Write> Write for RecordedSocket<'_, S> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.socket.write(bytes)?;
        self.took(&bytes[..n]);
        Ok(n)
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let n = self.socket.write_vectored(slices)?;
        let mut left = n;
        for slice in slices {
            let part = left.min(slice.len());
            self.took(&slice[..part]);
            left -= part;
        }
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.socket.flush()
    }
}
