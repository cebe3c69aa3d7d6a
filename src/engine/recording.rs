//! The engine's inputs as data: how they are recorded, and how they are replayed.
//!
//! Every input goes through [`Engine::enter`] or [`Engine::enter_bytes`], where a [`Recorder`] receives it. A replay
//! computes the same session from the inputs, except for the application's decisions about requests: those depend on
//! tokens, which are not recorded. So the decisions are recorded too, and a replay uses them instead of asking the
//! application.
//!
//! Knows neither the journal's format nor its files: see [`journal`](crate::journal).

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
use crate::base::checksum::Checksum;
use crate::base::close::CloseReason;
use crate::base::id::ConnId;
use crate::base::rate::Bucket;
use crate::base::time::Time;
use crate::egress::outbox::Flow;
use crate::http::Refusal;
use crate::lobby::is_lobby_code;
use crate::ws::handshake::{Facts, Request, Upgrade};

/// An input of the engine.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Input<'a> {
    Accept(SocketAddr),
    /// Received bytes. The first `head` of them belong to a request or are ignored: only their number and the ends of
    /// their lines matter. `max_work` bounds how many bytes are consumed.
    Bytes {
        conn: ConnId,
        head: usize,
        bytes: &'a [u8],
        max_work: usize,
    },
    Hangup(ConnId),
    Writable(ConnId),
    Timeout,
    /// The complete list of connections that may have received bytes which are not read yet.
    Unread(&'a [ConnId]),
    /// The time of the wall clock, in microseconds since the Unix epoch.
    WallTime(u64),
    Authorized(ConnId, &'a Authorization),
    Command(&'a [u8]),
    Reload(&'a [u8]),
    Operator(&'a OperatorCommand),
    /// The report of an operator's ping was taken.
    ReportTaken,
    Drain,
    Stop,
    /// The driver dropped a new connection, because no file descriptor was free.
    Shed,
    /// The embedding program has accessed the application or acted through a closure. That is not data, so the session
    /// cannot be replayed beyond it.
    Closure,
}

/// Destination of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Destination {
    /// Nothing that exists here.
    Nowhere,
    /// The lobby with this valid code.
    Lobby(String),
    /// A lobby whose code is not valid. The text in place of the code is not kept: it may contain a token.
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

/// The application's decisions about a request. Those that the engine did not ask for are `None`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Decisions {
    pub(crate) destination: Option<Destination>,
    pub(crate) authorization: Option<Authorization>,
    /// State of the random generator afterwards, if the application drew from it.
    pub(crate) random: Option<[u64; 4]>,
}

/// A request and the decisions about it, as they were recorded.
#[derive(Debug)]
pub(crate) struct RecordedDecision {
    pub(crate) asked: Result<Facts, Refusal>,
    pub(crate) decisions: Decisions,
}

/// Result of one call of `write_to`: bytes that the socket took, their checksum, and how the call ended.
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

/// The complete state of an engine without connections. An engine that is restored from it continues identically.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Checkpoint {
    pub(crate) now: Time,
    pub(crate) unix_at_zero: u64,
    /// State of the random generator.
    pub(crate) random: [u64; 4],
    /// Position of the timer wheel.
    pub(crate) wheel: u64,
    pub(crate) seats_created: u64,
    pub(crate) last_epoch: u64,
    pub(crate) closes_started: u64,
    pub(crate) last_ticket: u64,
    /// Number of connections that the current batch may still close, and the time of the next batch: see
    /// [`CloseQueue`](super::drain::CloseQueue).
    pub(crate) batch: (u32, Time),
    pub(crate) counters: Counters,
    /// State of the game clock; empty when ticks are off.
    pub(crate) ticks: Vec<u64>,
    /// Rate-limit buckets of users (messages, bytes) and addresses without a connection. The bucket that is full first
    /// comes first.
    pub(crate) users: Vec<(SmolStr, [Bucket; 2])>,
    pub(crate) addresses: Vec<(IpAddr, Bucket)>,
}

/// Whether a new journal segment should begin, because the current one is long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RotateHint {
    /// Continue the current segment.
    Continue,
    /// Rotate when a checkpoint can be written, which takes an engine without connections.
    WhenEmpty,
    /// Rotate now, with or without a checkpoint.
    Now,
}

/// Statistics of a recording. They depend on the machine, so the application has no access to them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Recording {
    /// Bytes recorded.
    pub bytes: u64,
    /// Calls to the operating system that wrote these bytes.
    pub writes: u64,
    /// Microseconds spent in these calls, and in waiting for the disk.
    pub micros: u64,
    /// Duration of the longest of them, in microseconds.
    pub slowest_micros: u64,
    /// Whether an error has ended the recording.
    pub has_failed: bool,
}

/// Records an engine's inputs, and checksums of its output.
pub(crate) trait Recorder: Any {
    /// Records an input, before the engine acts on it.
    fn input(&mut self, now: Time, input: &Input<'_>);
    /// The bytes that were recorded last completed a request, with these facts or this refusal.
    fn asked(&mut self, asked: Result<&Facts, &Refusal>);
    /// Records the decisions about that request.
    fn answered(&mut self, decisions: &Decisions);
    /// Records bytes that followed the request in the same input. If `is_read` is false, the engine ignores their
    /// content.
    fn rest(&mut self, bytes: &[u8], is_read: bool);
    /// The driver is about to write the queued output.
    fn flush(&mut self);
    /// Hands the recorded inputs to the operating system. Called before output that follows from them is written.
    fn commit(&mut self) -> io::Result<()>;
    fn wrote(&mut self, conn: ConnId, wrote: &WriteRecord);
    /// No output is left to be written.
    fn flushed(&mut self);
    fn rotate_hint(&self) -> RotateHint;
    /// Whether enough was recorded since the last checkpoint to write another one.
    fn may_write_checkpoint(&self) -> bool;
    /// Begins a new segment. With `start`, a checkpoint and the application's snapshot, a replay can begin there.
    fn rotate_segment(&mut self, start: Option<(&Checkpoint, &[u8])>);
    fn recording(&self) -> Recording;
}

/// Recorder or replayer of the engine's inputs, if any.
#[derive(Default)]
pub(super) enum RecordMode {
    #[default]
    Off,
    Recording(Box<dyn Recorder>, RedactedRanges),
    Replaying(Box<Replaying>),
}

#[derive(Default)]
pub(super) struct Replaying {
    /// The decision for the next request that is read.
    recorded_decision: Option<RecordedDecision>,
    /// Whether the engine needed a decision that is not recorded.
    has_decision_mismatch: bool,
    /// Connections that got a close reason since the last [`Engine::take_close_reasons`], with the reasons.
    close_reasons: Vec<(ConnId, CloseReason)>,
}

impl RecordMode {
    pub(super) fn recorder(&mut self) -> Option<&mut dyn Recorder> {
        match self {
            RecordMode::Recording(recorder, _) => Some(&mut **recorder),
            RecordMode::Off | RecordMode::Replaying(_) => None,
        }
    }

    /// Notes a connection's close reason for a replay.
    pub(super) fn note_close_reason(&mut self, conn: ConnId, reason: CloseReason) {
        if let RecordMode::Replaying(replaying) = self {
            replaying.close_reasons.push((conn, reason));
        }
    }

    #[inline]
    pub(super) fn is_recording(&self) -> bool {
        matches!(self, RecordMode::Recording(..))
    }

    /// Notes where the HTTP response to `conn` repeats text that the client chose. The response is the connection's
    /// first output.
    pub(super) fn redact_echo(&mut self, conn: ConnId, upgrade: &Upgrade) {
        if let RecordMode::Recording(_, redacted) = self
            && let Some(range) = upgrade.echo()
        {
            redacted.0.insert(conn, range);
        }
    }

    /// Drops the state that is kept for a connection, because the connection is freed.
    pub(super) fn forget(&mut self, conn: ConnId) {
        if let RecordMode::Recording(_, redacted) = self {
            redacted.0.remove(&conn);
        }
    }
}

/// Replaces, in checksums, each byte that a replay does not know.
pub(crate) const REDACTED: u8 = b'x';

/// Positions of text that the client chose, by connection, in the output that is still to be written to the connection.
#[derive(Debug, Default)]
pub(super) struct RedactedRanges(BTreeMap<ConnId, Range<u64>>);

impl RedactedRanges {
    fn of(&self, conn: ConnId) -> Range<u64> {
        self.0.get(&conn).cloned().unwrap_or_default()
    }

    /// Moves the position after `taken` bytes were written.
    fn advance(&mut self, conn: ConnId, taken: u64) {
        if let Some(range) = self.0.get_mut(&conn) {
            *range = range.start.saturating_sub(taken)..range.end.saturating_sub(taken);
            if range.is_empty() {
                self.0.remove(&conn);
            }
        }
    }
}

impl<A: App> Engine<A> {
    /// Advances the time and records an input, before the engine acts on it. Every input but received bytes passes
    /// through here; see [`enter_bytes`](Self::enter_bytes).
    #[inline]
    pub(super) fn enter(&mut self, now: Time, input: &Input<'_>) {
        self.core.assert_consistent();
        self.core.advance(now);
        if self.core.record_mode.is_recording() {
            self.core.record_input(input);
        }
    }

    /// Advances the time and records received bytes. The first `head` bytes are redacted: a request may contain a
    /// token, and bytes that the engine ignores may contain anything.
    pub(super) fn enter_bytes(&mut self, now: Time, conn: ConnId, bytes: &[u8], max_work: usize) {
        self.core.assert_consistent();
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

    /// Records all inputs from now on. Must be called before the engine has any connection.
    pub(crate) fn record(&mut self, recorder: Box<dyn Recorder>) {
        debug_assert!(self.core.is_blank(), "recording begins without connections");
        self.core.record_mode = RecordMode::Recording(recorder, RedactedRanges::default());
    }

    /// Stops recording and returns the recorder, if there is one.
    pub(crate) fn take_recorder(&mut self) -> Option<Box<dyn Recorder>> {
        match std::mem::take(&mut self.core.record_mode) {
            RecordMode::Recording(recorder, _) => Some(recorder),
            other => {
                self.core.record_mode = other;
                None
            }
        }
    }

    /// Hands the recorded inputs to the operating system.
    ///
    /// # Errors
    ///
    /// Those of the recorder, if it failed and the server must not serve unrecorded.
    pub(crate) fn commit_record(&mut self) -> io::Result<()> {
        self.core.record_mode.recorder().map_or(Ok(()), Recorder::commit)
    }

    /// Begins a new segment if the recorder hints at it, with a checkpoint from which a replay can start if possible.
    /// The engine's state does not change.
    pub(crate) fn rotate_segment(&mut self) {
        let RecordMode::Recording(recorder, _) = &self.core.record_mode else { return };
        let hint = recorder.rotate_hint();
        if hint == RotateHint::Continue {
            return;
        }
        let may_start = self.core.is_blank() && recorder.may_write_checkpoint();
        let snapshot = if may_start { self.app.snapshot() } else { None };
        if let Some(snapshot) = snapshot {
            let checkpoint = self.core.checkpoint();
            self.core
                .record_mode
                .recorder()
                .expect("the engine is recorded")
                .rotate_segment(Some((&checkpoint, &snapshot)));
        } else if hint == RotateHint::Now {
            self.core.record_mode.recorder().expect("the engine is recorded").rotate_segment(None);
        }
    }

    /// Statistics of the recording; `None` if the engine is not recorded.
    pub fn recording(&self) -> Option<Recording> {
        match &self.core.record_mode {
            RecordMode::Recording(recorder, _) => Some(recorder.recording()),
            RecordMode::Off | RecordMode::Replaying(_) => None,
        }
    }

    // ---- replaying ----

    /// Switches to replaying: from now on the application is not asked about requests.
    pub(crate) fn replay(&mut self) {
        self.core.record_mode = RecordMode::Replaying(Box::default());
    }

    /// Sets the recorded decision for the next request that is read.
    pub(crate) fn set_recorded_decision(&mut self, next: Option<RecordedDecision>) {
        if let RecordMode::Replaying(replaying) = &mut self.core.record_mode {
            replaying.recorded_decision = next;
        }
    }

    /// Takes the connections that got a close reason since the last call, with the reasons. Empty unless replaying.
    pub(crate) fn take_close_reasons(&mut self) -> Vec<(ConnId, CloseReason)> {
        match &mut self.core.record_mode {
            RecordMode::Replaying(replaying) => std::mem::take(&mut replaying.close_reasons),
            RecordMode::Off | RecordMode::Recording(..) => Vec::new(),
        }
    }

    /// Whether the engine needed a decision that is not recorded, or did not use a recorded one.
    pub(crate) fn has_decision_mismatch(&self) -> bool {
        matches!(&self.core.record_mode, RecordMode::Replaying(replaying) if replaying.has_decision_mismatch || replaying.recorded_decision.is_some())
    }

    /// Feeds a recorded input to the engine.
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
            Input::Closure => {}
        }
    }

    /// The engine's state, as a checkpoint. The engine must be [blank](Self::is_blank).
    pub(crate) fn checkpoint(&mut self) -> Checkpoint {
        self.core.checkpoint()
    }

    /// Restores the state of a checkpoint.
    pub(crate) fn restore_checkpoint(&mut self, checkpoint: &Checkpoint) {
        self.core.restore_checkpoint(checkpoint);
    }

    /// Whether the engine has no connections and no unfinished work.
    pub(crate) fn is_blank(&self) -> bool {
        self.core.is_blank()
    }

    // ---- requests ----

    /// Decides about a request that was read, and records the decisions.
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
            self.core.record_mode.recorder().expect("the engine is recorded").answered(&decisions);
            outcome
        } else {
            self.decide(key, Some(request), facts, &mut decisions)
        }
    }

    /// Decides about a request in a replay. The text of the request is not recorded, so the recorded decisions are
    /// used.
    pub(super) fn decide_from_record(&mut self, key: usize) -> Result<(), Refusal> {
        let RecordMode::Replaying(replaying) = &mut self.core.record_mode else {
            unreachable!("only a replay has recorded decisions")
        };
        let Some(RecordedDecision { asked, mut decisions }) = replaying.recorded_decision.take() else {
            replaying.has_decision_mismatch = true;
            return Ok(());
        };
        self.decide(key, None, asked?, &mut decisions)
    }

    /// The request's destination: from the application, or in a replay from the record.
    pub(super) fn ask_destination(
        &mut self,
        request: Option<&Request<'_>>,
        decisions: &mut Decisions,
    ) -> Option<Destination> {
        if let Some(request) = request {
            decisions.destination = Some(self.app.route(request).into());
        }
        self.check_recorded(decisions.destination.clone())
    }

    /// The request's authorization: from the application, or in a replay from the record.
    pub(super) fn ask_authorization(
        &mut self,
        request: Option<&Request<'_>>,
        decisions: &mut Decisions,
    ) -> Option<Authorization> {
        let Some(request) = request else {
            if let Some(state) = decisions.random {
                self.core.random().set_state(state);
            }
            return self.check_recorded(decisions.authorization.clone());
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

    /// Notes a mismatch if a replay lacks the decision that the engine asks for: the journal then comes from another
    /// engine.
    fn check_recorded<T>(&mut self, decision: Option<T>) -> Option<T> {
        if let RecordMode::Replaying(replaying) = &mut self.core.record_mode {
            replaying.has_decision_mismatch |= decision.is_none();
        }
        decision
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

    /// Does the same as [`write_to`](Self::write_to), and reports the written bytes to the recorder. A function of its
    /// own, so that an engine without a journal pays nothing for it.
    #[cold]
    pub(super) fn write_recorded(&mut self, conn: ConnId, socket: &mut impl Write) -> io::Result<Flow> {
        let redacted = match &self.record_mode {
            RecordMode::Recording(_, redacted) => redacted.of(conn),
            RecordMode::Off | RecordMode::Replaying(_) => Range::default(),
        };
        let mut socket = RecordedSocket::new(conn, socket, redacted);
        let written = self.write_to(conn.index(), &mut socket);
        let record = socket.write_record(&written);
        if let RecordMode::Recording(recorder, redacted) = &mut self.record_mode {
            recorder.wrote(conn, &record);
            redacted.advance(conn, record.taken);
        }
        written
    }

    /// Records that the received request could not be parsed.
    pub(super) fn record_refused(&mut self, refusal: &Refusal) {
        if let Some(recorder) = self.record_mode.recorder() {
            recorder.asked(Err(refusal));
        }
    }

    /// Records the bytes that followed a request in the same input.
    pub(super) fn record_rest(&mut self, key: usize, rest: &[u8]) {
        let is_read = self.slots.get(key).is_some_and(|slot| !slot.wire.ignores_input());
        if let Some(recorder) = self.record_mode.recorder().filter(|_| !rest.is_empty()) {
            recorder.rest(rest, is_read);
        }
    }

    /// Whether the engine has no connections and no unfinished work.
    fn is_blank(&self) -> bool {
        let is_tick_under_way = self.ticks.as_ref().is_some_and(Ticks::is_under_way);
        let is_empty = self.slots.is_empty() && self.directory.is_blank() && self.pings.is_empty();
        is_empty && !is_tick_under_way && self.draining.is_none() && self.close_queue.is_empty()
    }

    fn checkpoint(&mut self) -> Checkpoint {
        let (seats_created, last_epoch) = self.directory.numbers();
        Checkpoint {
            now: self.now,
            unix_at_zero: self.unix_at_zero,
            random: self.random.state(),
            wheel: self.wheel.position(),
            seats_created,
            last_epoch,
            closes_started: self.closes_started,
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
        let (record_mode, observer) = (std::mem::take(&mut self.record_mode), std::mem::take(&mut self.observer));
        *self = Core { record_mode, observer, ..Core::new(self.config.clone(), self.protocol, start) };
        self.now = checkpoint.now;
        self.random.set_state(checkpoint.random);
        self.wheel.set_position(checkpoint.wheel, checkpoint.now);
        self.directory.set_numbers(checkpoint.seats_created, checkpoint.last_epoch);
        self.closes_started = checkpoint.closes_started;
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

/// Wraps a socket, counts the written bytes and computes their checksum.
struct RecordedSocket<'a, S> {
    socket: &'a mut S,
    taken: u64,
    checksum: Checksum,
    /// Position of the bytes that enter the checksum as [`REDACTED`].
    redacted: Range<u64>,
}

impl<'a, S> RecordedSocket<'a, S> {
    fn new(conn: ConnId, socket: &'a mut S, redacted: Range<u64>) -> RecordedSocket<'a, S> {
        RecordedSocket { socket, taken: 0, checksum: checksum_for(conn), redacted }
    }

    fn add_written(&mut self, bytes: &[u8]) {
        let before = self.taken;
        self.taken += bytes.len() as u64;
        // Position of the redacted bytes within `bytes`, almost always an empty range.
        let clamp = |at: u64| at.clamp(before, self.taken) - before;
        let (start, end) = (clamp(self.redacted.start) as usize, clamp(self.redacted.end) as usize);
        self.checksum.write(&bytes[..start]);
        if start < end {
            self.checksum.write(&vec![REDACTED; end - start]);
        }
        self.checksum.write(&bytes[end..]);
    }

    fn write_record(&self, outcome: &io::Result<Flow>) -> WriteRecord {
        let end = match outcome {
            Ok(Flow::Drained | Flow::Finished | Flow::Closed) => WriteEnd::Whole,
            Ok(Flow::Blocked) => WriteEnd::Blocked,
            Err(_) => WriteEnd::Failed,
        };
        WriteRecord { taken: self.taken, checksum: self.checksum.finish(), end }
    }
}

/// A checksum that depends on the connection too, so that the same bytes on two connections yield different checksums.
pub(crate) fn checksum_for(conn: ConnId) -> Checksum {
    Checksum::new(conn.bits())
}

impl<S: Write> Write for RecordedSocket<'_, S> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.socket.write(bytes)?;
        self.add_written(&bytes[..n]);
        Ok(n)
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let n = self.socket.write_vectored(slices)?;
        let mut left = n;
        for slice in slices {
            let part = left.min(slice.len());
            self.add_written(&slice[..part]);
            left -= part;
        }
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.socket.flush()
    }
}
