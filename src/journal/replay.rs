//! Replays a recorded session: feeds its inputs to a new engine and compares the bytes that it sends with the recorded
//! checksums. Its only I/O is reading the journal.

use std::fmt;
use std::io::{self, Read, Write};
use std::time::Duration;

use super::format::{self, BadEntry, ConnReader, EntryReader, FAMILY, MAX_BLOCK, Segment};
use super::reader::{Blocks, Next};
use super::trace::{EventTracer, Printable, TraceEvent};
use super::{BUILD, config_from_text};
use crate::base::checksum::Checksum;
use crate::base::close::CloseReason;
use crate::base::id::ConnId;
use crate::base::time::Time;
use crate::egress::outbox::Flow;
use crate::engine::app::App;
use crate::engine::recording::{Decisions, Destination, Input, RecordedDecision, checksum_for};
use crate::engine::stats::Stats;
use crate::engine::{Engine, Start};

/// Most bytes of a diverging write that are shown.
const SAMPLE: usize = 64;

/// Why a replay ends before the end of its journal.
#[derive(Debug)]
#[non_exhaustive]
pub enum Fault {
    /// Reading the journal failed.
    Io(io::Error),
    /// The journal is empty.
    Empty,
    /// The input is not a journal.
    NotAJournal,
    /// The journal is written in another version of the format.
    OtherVersion(String),
    /// The journal was written by another build, whose engine may behave differently.
    OtherBuild(String),
    /// The journal begins with a later segment of a session, which has no checkpoint: an earlier segment is needed.
    NoStart {
        /// The number of that segment.
        segment: u64,
    },
    /// The journal is damaged.
    Broken {
        /// Bytes read before the damage was detected.
        offset: u64,
        /// Description of the damage.
        what: &'static str,
    },
    /// The session was changed through a closure, which cannot be recorded.
    Closure,
    /// The replay sent other bytes than the recorded session.
    Diverged(Box<Divergence>),
}

/// The first difference between a session and its replay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Divergence {
    /// The connection whose bytes differ; `None` when the difference concerns no single connection.
    pub conn: Option<ConnId>,
    /// Offset of the first differing write in the bytes that were sent to the connection.
    pub byte: u64,
    /// Description of the difference.
    pub what: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Io(error) => write!(f, "it cannot be read: {error}"),
            Fault::Empty => f.write_str("it is empty"),
            Fault::NotAJournal => {
                write!(f, "it is no journal: it does not begin with `{}`", String::from_utf8_lossy(FAMILY).trim())
            }
            Fault::OtherVersion(version) => {
                let version = Printable(version);
                write!(f, "it is written in version {version} of the format, and this build reads version 2")
            }
            Fault::OtherBuild(build) => {
                let build = Printable(build);
                write!(
                    f,
                    "it was written by build {build}, and this is {BUILD}: replay it with the build that wrote it"
                )
            }
            Fault::NoStart { segment } => {
                write!(f, "segment {segment} has no checkpoint to begin with: begin with an earlier segment")
            }
            Fault::Broken { offset, what } => write!(f, "it is damaged before byte {offset}: {what}"),
            Fault::Closure => f.write_str(
                "the embedding program changed the application through `act` or `app_mut`, which is not recorded; send a \
                 command instead",
            ),
            Fault::Diverged(divergence) => divergence.fmt(f),
        }
    }
}

impl fmt::Display for Divergence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.conn {
            Some(conn) => write!(f, "conn={conn} is sent something else from its byte {} on: {}", self.byte, self.what),
            None => f.write_str(&self.what),
        }
    }
}

impl std::error::Error for Fault {}

impl From<BadEntry> for Fault {
    fn from(_: BadEntry) -> Fault {
        // with_offset() fills in the offset.
        Fault::Broken { offset: 0, what: "an entry is not well-formed" }
    }
}

/// Progress and totals of a replay.
#[derive(Clone, Debug, PartialEq)]
pub struct Summary {
    /// The build that wrote the journal.
    pub build: String,
    /// The type name of the recorded application.
    pub app: String,
    /// The wall time at the start of the session, in microseconds since the Unix epoch.
    pub unix_micros: u64,
    /// The session's time up to the last replayed entry.
    pub span: Duration,
    /// The number of the last turn. A turn is all input between two flushes.
    pub turn: u64,
    /// Segments read.
    pub segments: u64,
    /// Turns in which bytes were sent, and all of them matched the recording.
    pub confirmed: u64,
    /// Whether the journal ends before the checksum of the last turn, which is then unconfirmed.
    pub is_open_ended: bool,
    /// Bytes of an incomplete block at the end, which was being written when the server ended.
    pub torn: Option<u64>,
    /// Reloads whose contents were not recorded. The replay leaves them out.
    pub omitted_reloads: u64,
    /// The engine's statistics.
    pub stats: Stats,
}

impl Summary {
    /// Returns the number of connections closed for each reason, without the reasons that did not occur.
    pub fn closes(&self) -> impl Iterator<Item = (CloseReason, u64)> {
        let counters = &self.stats.counters;
        CloseReason::ALL.iter().map(|&reason| (reason, counters.closed(reason))).filter(|(_, count)| *count > 0)
    }
}

/// The error of a replay that did not reach the end of its journal.
#[derive(Debug)]
pub struct ReplayFailure {
    /// The cause.
    pub fault: Fault,
    /// The summary of the part before it; `None` when the replay could not begin.
    pub summary: Option<Box<Summary>>,
}

impl fmt::Display for ReplayFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.summary {
            Some(summary) => {
                write!(f, "turn {} at {:.6}s: {}", summary.turn, summary.span.as_secs_f64(), self.fault)
            }
            None => self.fault.fmt(f),
        }
    }
}

impl std::error::Error for ReplayFailure {}

/// Replays a journal at full speed with a new instance of the recorded application.
///
/// `journal` is one segment, or several consecutive segments of one session in one stream.
///
/// # Errors
///
/// When the journal is damaged, written by another build, or cannot be replayed to its end; and when the replay sends
/// other bytes than the recorded session. An incomplete block at the end is not an error: the summary reports it.
pub fn replay<A: App>(journal: impl Read, app: A) -> Result<Summary, ReplayFailure> {
    let mut replay = Replay::open(journal, app, false)?;
    loop {
        if replay.step()? == Step::End {
            return Ok(replay.summary());
        }
    }
}

/// Outcome of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// An input or a write was replayed.
    On,
    /// A turn has ended.
    Turn,
    /// The journal has ended.
    End,
}

/// A replay in progress, which can be inspected between its steps.
pub struct Replay<A: App, R> {
    blocks: Blocks<R>,
    block: Vec<u8>,
    /// Offset of the next entry in `block`.
    at: usize,
    engine: Engine<A>,
    tracer: EventTracer,
    session: Segment,
    conns: ConnReader,
    /// Recorded limit on the work of one receive.
    max_work: usize,
    now: Time,
    /// Bytes of a request whose entries are not all read yet.
    pending: Option<Pending>,
    is_flushing: bool,
    sent: Checksum,
    has_sent: bool,
    /// Bytes sent to each connection, indexed by [`ConnId::index`].
    streams: Vec<u64>,
    summary: Summary,
}

struct Pending {
    conn: ConnId,
    bytes: Vec<u8>,
    recorded_decision: Option<RecordedDecision>,
}

impl<A: App, R: Read> Replay<A, R> {
    /// Reads the first block of a journal. `any_build` accepts a journal that another build wrote.
    ///
    /// # Errors
    ///
    /// When it is not a journal, is damaged, has no checkpoint to begin with, or was written by another build.
    pub fn open(journal: R, mut app: A, any_build: bool) -> Result<Replay<A, R>, ReplayFailure> {
        let begin = move || -> Result<Replay<A, R>, Fault> {
            let mut blocks = Blocks::new(journal);
            let mut block = Vec::new();
            let segment = match blocks.read(&mut block)? {
                Next::Block { is_first: true } => {
                    read_segment(&block).map_err(|fault| with_offset(fault, blocks.offset()))?
                }
                Next::Torn(bytes) => {
                    return Err(Fault::Broken { offset: bytes, what: "the first block of the segment is incomplete" });
                }
                Next::Block { .. } | Next::End => return Err(Fault::NotAJournal),
            };
            if segment.build != BUILD && !any_build {
                return Err(Fault::OtherBuild(segment.build));
            }
            // The configuration of another build may have other fields.
            let config = config_from_text(&segment.config).map_err(|()| Fault::OtherBuild(segment.build.clone()))?;
            if config.check().is_err() {
                let what = "its configuration is invalid";
                return Err(Fault::Broken { offset: blocks.offset(), what });
            }
            let start = Start { unix_micros: segment.unix_micros, seed: segment.seed };
            if let Some((_, snapshot)) = &segment.start {
                app.restore(snapshot);
            } else if segment.number != 1 {
                return Err(Fault::NoStart { segment: segment.number });
            }
            let mut engine = Engine::new(config, start, app);
            engine.replay();
            if let Some((checkpoint, _)) = &segment.start {
                engine.restore_checkpoint(checkpoint);
            }
            let now = engine.now();
            let summary = Summary {
                build: segment.build.clone(),
                app: segment.app.clone(),
                unix_micros: segment.unix_micros,
                span: Duration::ZERO,
                turn: segment.turn,
                segments: 1,
                confirmed: 0,
                is_open_ended: false,
                torn: None,
                omitted_reloads: 0,
                stats: engine.stats(),
            };
            Ok(Replay {
                blocks,
                at: block.len(),
                block,
                engine,
                tracer: EventTracer::default(),
                session: segment,
                conns: ConnReader::default(),
                max_work: usize::MAX,
                now,
                pending: None,
                is_flushing: false,
                sent: Checksum::new(0),
                has_sent: false,
                streams: Vec::new(),
                summary,
            })
        };
        begin().map_err(|fault| ReplayFailure { fault, summary: None })
    }

    /// Returns the application.
    pub fn app(&self) -> &A {
        self.engine.app()
    }

    /// Returns the current time of the session.
    pub fn now(&self) -> Time {
        self.now
    }

    /// Returns the number of the current turn.
    pub fn turn(&self) -> u64 {
        self.summary.turn
    }

    /// Returns the type name of the recorded application.
    pub fn recorded_app(&self) -> &str {
        &self.session.app
    }

    /// Traces events from now on; see [`events`](Self::events).
    pub fn trace_events(&mut self) {
        self.tracer.start();
        self.engine.observe();
    }

    /// Returns the events since the last call. Empty unless [`trace_events`](Self::trace_events) was called.
    pub fn events(&mut self) -> Vec<TraceEvent> {
        self.tracer.take()
    }

    /// Returns the summary of the replay so far.
    pub fn summary(&self) -> Summary {
        Summary { span: self.now - Time::ZERO, stats: self.engine.stats(), ..self.summary.clone() }
    }

    /// Replays one entry.
    ///
    /// # Errors
    ///
    /// As [`replay`].
    pub fn step(&mut self) -> Result<Step, ReplayFailure> {
        let step = self.try_step();
        self.note_observed();
        step.map_err(|fault| ReplayFailure { fault, summary: Some(Box::new(self.summary())) })
    }

    fn try_step(&mut self) -> Result<Step, Fault> {
        if self.at == self.block.len() {
            match self.blocks.read(&mut self.block)? {
                Next::Block { is_first } => {
                    self.at = 0;
                    if is_first {
                        self.at = self.block.len();
                        return self.next_segment();
                    }
                }
                Next::Torn(bytes) => {
                    self.summary.torn = Some(bytes);
                    return self.end();
                }
                Next::End => return self.end(),
            }
        }
        let block = std::mem::take(&mut self.block);
        let mut from = EntryReader::new(&block[self.at..]);
        let outcome = self.replay_entry(&mut from);
        self.at = block.len() - from.left();
        self.block = block;
        outcome.map_err(|fault| with_offset(fault, self.blocks.offset()))
    }

    /// Continues with the next segment, whose first block was read.
    fn next_segment(&mut self) -> Result<Step, Fault> {
        self.run_pending()?;
        let offset = self.blocks.offset();
        let segment = read_segment(&self.block).map_err(|fault| with_offset(fault, offset))?;
        let broken = |what| Err(Fault::Broken { offset, what });
        if segment.session != self.session.session {
            return broken("a segment of another session follows");
        }
        if segment.number != self.session.number + 1 || segment.chain != self.blocks.before() {
            return broken("a segment is missing");
        }
        if self.is_flushing {
            return broken("a segment begins in the middle of a turn");
        }
        if let Some((checkpoint, _)) = &segment.start {
            if !self.engine.is_blank() {
                return Err(
                    self.differs("the segment begins with a checkpoint, but the replay still has connections".into())
                );
            }
            let replayed = self.engine.checkpoint();
            // A reload that was not recorded may have changed the application and the random numbers that it drew.
            if replayed != *checkpoint && self.summary.omitted_reloads == 0 {
                return Err(self.differs("the state of the engine differs from the checkpoint of the segment".into()));
            }
            self.engine.restore_checkpoint(checkpoint);
        }
        self.conns = ConnReader::default();
        self.max_work = usize::MAX;
        self.sent = Checksum::new(0);
        self.summary.segments += 1;
        self.session = segment;
        Ok(Step::On)
    }

    /// Replays the next entry of the block.
    fn replay_entry(&mut self, from: &mut EntryReader<'_>) -> Result<Step, Fault> {
        let kind = from.byte()?;
        match kind {
            format::ASKED | format::REFUSED | format::ANSWERED | format::REST | format::UNREAD_REST => {
                let mut entry = EntryReader::new(from.slice()?);
                let pending = self.pending.as_mut().ok_or(BadEntry)?;
                pending.add(kind, &mut entry, self.engine.config().max_header_bytes.0)?;
                return Ok(Step::On);
            }
            _ => self.run_pending()?,
        }
        match kind {
            format::TIME => {
                let now = self.now + Duration::from_micros(from.count()?);
                self.now = Some(now).filter(|now| now.as_micros() <= format::MAX_COUNT).ok_or(BadEntry)?;
            }
            format::MAX_WORK => self.max_work = usize::try_from(from.number()?).map_err(|_| BadEntry)?,
            format::HEAD => {
                let conn = self.conns.read(from)?;
                let mut bytes = Vec::new();
                EntryReader::new(from.slice()?).shape(&mut bytes)?;
                self.pending = Some(Pending { conn, bytes, recorded_decision: None });
            }
            format::FLUSH => {
                (self.is_flushing, self.has_sent) = (true, false);
                self.summary.turn += 1;
            }
            format::WROTE => self.write(u64::MAX, Flow::Drained, from)?,
            format::BLOCKED => {
                let taken = from.number()?;
                self.write(taken, Flow::Blocked, from)?;
            }
            format::FAILED => {
                let taken = from.number()?;
                self.fail_to_write(taken, from)?;
            }
            format::FLUSHED | format::FLUSHED_NOTHING => {
                let sent = if kind == format::FLUSHED { Some(from.take(8)?) } else { None };
                self.flushed(sent)?;
                return Ok(Step::Turn);
            }
            _ => self.feed_input(kind, from)?,
        }
        Ok(Step::On)
    }

    fn feed_input(&mut self, kind: u8, from: &mut EntryReader<'_>) -> Result<(), Fault> {
        if self.is_flushing {
            return Err(BadEntry.into());
        }
        let now = self.now;
        match kind {
            format::ACCEPT => {
                let peer = from.address()?;
                if let Ok(conn) = self.engine.handle_accept(now, peer) {
                    self.note(Some(conn), || format!("connects from {peer}"));
                }
            }
            format::BYTES => {
                let conn = self.conns.read(from)?;
                self.engine
                    .replay_input(now, &Input::Bytes { conn, head: 0, bytes: from.slice()?, max_work: self.max_work });
            }
            format::HANGUP => {
                let conn = self.conns.read(from)?;
                self.engine.replay_input(now, &Input::Hangup(conn));
            }
            format::WRITABLE => {
                let conn = self.conns.read(from)?;
                self.engine.replay_input(now, &Input::Writable(conn));
            }
            format::TIMEOUT => self.engine.replay_input(now, &Input::Timeout),
            format::UNREAD => {
                let mut entry = EntryReader::new(from.slice()?);
                let mut conns = Vec::new();
                while !entry.is_empty() {
                    conns.push(self.conns.read(&mut entry)?);
                }
                self.engine.replay_input(now, &Input::Unread(&conns));
            }
            format::WALL_TIME => {
                let unix_micros = from.count()?;
                self.note(None, || format!("sets the wall time to {unix_micros} us"));
                self.engine.replay_input(now, &Input::WallTime(unix_micros));
            }
            format::AUTHORIZED => {
                let conn = self.conns.read(from)?;
                let answer = EntryReader::new(from.slice()?).authorization()?;
                self.engine.replay_input(now, &Input::Authorized(conn, &answer));
            }
            format::COMMAND => {
                let command = from.slice()?;
                self.note(None, || format!("receives a command of {} bytes", command.len()));
                self.engine.replay_input(now, &Input::Command(command));
            }
            format::RELOAD => {
                let contents = from.slice()?;
                self.note(None, || format!("receives a reload of {} bytes", contents.len()));
                self.engine.replay_input(now, &Input::Reload(contents));
            }
            format::OMITTED_RELOAD => {
                let length = from.number()?;
                self.summary.omitted_reloads += 1;
                self.note(None, || format!("receives a reload of {length} bytes, which are not recorded"));
            }
            format::OPERATOR => {
                let command = EntryReader::new(from.slice()?).operator()?;
                self.note(None, || format!("receives an operator command: {command:?}"));
                self.engine.replay_input(now, &Input::Operator(&command));
            }
            format::REPORT_TAKEN => self.engine.replay_input(now, &Input::ReportTaken),
            format::DRAIN => {
                if !self.engine.is_draining() {
                    self.note(None, || "drains".to_owned());
                }
                self.engine.replay_input(now, &Input::Drain);
            }
            format::STOP => self.engine.replay_input(now, &Input::Stop),
            format::SHED => self.engine.replay_input(now, &Input::Shed),
            format::CLOSURE => return Err(Fault::Closure),
            _ => return Err(BadEntry.into()),
        }
        self.note_close_reasons();
        Ok(())
    }

    /// Replays the pending request, now that all its entries are read.
    fn run_pending(&mut self) -> Result<(), Fault> {
        let Some(Pending { conn, bytes, recorded_decision }) = self.pending.take() else { return Ok(()) };
        if self.is_flushing {
            return Err(BadEntry.into());
        }
        if let Some(recorded_decision) = &recorded_decision {
            self.note(Some(conn), || describe_request(recorded_decision));
        }
        self.engine.set_recorded_decision(recorded_decision);
        self.engine.replay_input(self.now, &Input::Bytes { conn, head: 0, bytes: &bytes, max_work: self.max_work });
        self.note_close_reasons();
        if self.engine.has_decision_mismatch() {
            return Err(self.differs(format!("the request of conn={conn} is complete at another time")));
        }
        Ok(())
    }

    // ---- output ----

    fn write(&mut self, taken: u64, expected: Flow, from: &mut EntryReader<'_>) -> Result<(), Fault> {
        let (conn, socket, flow) = self.write_once(ReplaySocket::new(taken, false))?;
        let is_same = match expected {
            Flow::Blocked => matches!(flow, Ok(Flow::Blocked)) && socket.taken == taken,
            _ => matches!(flow, Ok(Flow::Drained | Flow::Finished | Flow::Closed)),
        };
        self.compare(conn, socket, is_same, from)
    }

    fn fail_to_write(&mut self, taken: u64, from: &mut EntryReader<'_>) -> Result<(), Fault> {
        let (conn, socket, flow) = self.write_once(ReplaySocket::new(taken, true))?;
        let is_same = flow.is_err() && socket.taken == taken;
        self.compare(conn, socket, is_same, from)
    }

    fn write_once(&mut self, mut socket: ReplaySocket) -> Result<(ConnId, ReplaySocket, io::Result<Flow>), Fault> {
        if !self.is_flushing {
            return Err(BadEntry.into());
        }
        let Some(conn) = self.engine.poll_writable() else {
            return Err(self.differs("nothing more is sent, but the recorded session sent more".into()));
        };
        socket.checksum = checksum_for(conn);
        let flow = self.engine.write_to(conn, &mut socket);
        Ok((conn, socket, flow))
    }

    fn compare(
        &mut self,
        conn: ConnId,
        socket: ReplaySocket,
        is_same: bool,
        from: &mut EntryReader<'_>,
    ) -> Result<(), Fault> {
        let recorded = from.take(2)?;
        let checksum = socket.checksum.finish();
        self.sent.write_u64(checksum);
        self.has_sent = true;
        let byte = self.stream(conn);
        if !is_same || (checksum as u16).to_le_bytes() != recorded {
            let what = format!("{} bytes, which begin with {}", socket.taken, socket.sample.escape_ascii());
            return Err(Fault::Diverged(Box::new(Divergence { conn: Some(conn), byte, what })));
        }
        self.streams[conn.index()] = byte + socket.taken;
        Ok(())
    }

    fn stream(&mut self, conn: ConnId) -> u64 {
        if conn.index() >= self.streams.len() {
            self.streams.resize(conn.index() + 1, 0);
        }
        self.streams[conn.index()]
    }

    fn flushed(&mut self, recorded: Option<&[u8]>) -> Result<(), Fault> {
        if !self.is_flushing {
            return Err(BadEntry.into());
        }
        if let Some(conn) = self.engine.poll_writable() {
            let byte = self.stream(conn);
            let what = "the recorded session sent it nothing more in this turn".to_owned();
            return Err(Fault::Diverged(Box::new(Divergence { conn: Some(conn), byte, what })));
        }
        let is_same = match recorded {
            Some(recorded) => self.has_sent && self.sent.finish().to_le_bytes() == recorded,
            None => !self.has_sent,
        };
        if !is_same {
            return Err(self.differs("other bytes are sent in this turn".into()));
        }
        self.is_flushing = false;
        self.summary.confirmed += u64::from(self.has_sent);
        self.drop_closed();
        Ok(())
    }

    fn drop_closed(&mut self) {
        self.note_close_reasons();
        while let Some(conn) = self.engine.poll_closed() {
            if let Some(stream) = self.streams.get_mut(conn.index()) {
                *stream = 0;
            }
        }
    }

    /// Finishes at the end of the journal, which may be in the middle of a turn.
    fn end(&mut self) -> Result<Step, Fault> {
        if let Some(Pending { conn, bytes, recorded_decision }) = self.pending.take() {
            // If the application panicked on the request, no decision is recorded. The request is then left unread.
            let is_decided = recorded_decision
                .as_ref()
                .is_some_and(|request| request.asked.is_err() || request.decisions != Decisions::default());
            self.engine.set_recorded_decision(recorded_decision.filter(|_| is_decided));
            self.engine.replay_input(self.now, &Input::Bytes { conn, head: 0, bytes: &bytes, max_work: self.max_work });
            self.summary.is_open_ended = true;
        }
        if self.is_flushing {
            self.is_flushing = false;
            self.summary.is_open_ended = true;
            while let Some(conn) = self.engine.poll_writable() {
                // The result of this write is not recorded.
                let _ = self.engine.write_to(conn, &mut io::sink());
            }
            self.drop_closed();
        }
        Ok(Step::End)
    }

    fn differs(&self, what: String) -> Fault {
        Fault::Diverged(Box::new(Divergence { conn: None, byte: 0, what }))
    }

    /// Traces an event, after those that the engine has noted.
    fn note(&mut self, conn: Option<ConnId>, what: impl FnOnce() -> String) {
        self.note_observed();
        self.tracer.note(self.now, conn, what);
    }

    /// Traces the events that the engine has noted.
    fn note_observed(&mut self) {
        self.engine.take_observed().iter().for_each(|event| self.tracer.note_observed(event));
    }

    /// Traces the close reasons of connections, after the events that the engine has noted. The application does not
    /// see all of these reasons.
    fn note_close_reasons(&mut self) {
        self.note_observed();
        for (conn, reason) in self.engine.take_close_reasons() {
            self.tracer.note_close_reason(self.now, conn, reason);
        }
    }

    /// Returns the current state as text: statistics, lobbies and their members.
    pub fn state(&self) -> String {
        let mut text = format!("turn {} at {}\n{}\n", self.summary.turn, self.now, self.engine.stats().line());
        let mut after = None;
        loop {
            let page = self.engine.lobbies(after, 1000);
            for lobby in page.items {
                let locked = if lobby.locked { " locked" } else { "" };
                let (code, epoch, seq) = (&lobby.code, lobby.epoch, lobby.seq);
                text.push_str(&format!("lobby {code} members={} epoch={epoch} seq={seq}{locked}\n", lobby.members));
                for seat in self.engine.lobby_members(code, None, usize::MAX).items {
                    let (user, peer, queued) = (&seat.user, seat.peer, seat.queued_bytes);
                    text.push_str(&format!(
                        "  {user:?} conn={} peer={peer} queued_bytes={queued} idle={:.3}s\n",
                        seat.seat,
                        seat.idle.as_secs_f64()
                    ));
                }
            }
            after = page.next;
            if after.is_none() {
                return text;
            }
        }
    }
}

impl Pending {
    /// Adds one of the entries 6 to 10, which describe a request.
    fn add(&mut self, kind: u8, entry: &mut EntryReader<'_>, max_header_bytes: usize) -> Result<(), BadEntry> {
        match kind {
            format::REST => self.bytes.extend_from_slice(entry.take(entry.left())?),
            format::UNREAD_REST => entry.shape(&mut self.bytes)?,
            format::ANSWERED => {
                let recorded_decision = self.recorded_decision.as_mut().ok_or(BadEntry)?;
                recorded_decision.decisions = entry.decisions()?;
            }
            _ => {
                let asked =
                    if kind == format::ASKED { Ok(entry.facts(max_header_bytes)?) } else { Err(entry.refusal()?) };
                self.recorded_decision = Some(RecordedDecision { asked, decisions: Decisions::default() });
            }
        }
        // A shape of a few bytes may describe many, so the total is bounded.
        if entry.is_empty() && self.bytes.len() <= MAX_BLOCK { Ok(()) } else { Err(BadEntry) }
    }
}

/// Describes a recorded request.
fn describe_request(RecordedDecision { asked, decisions }: &RecordedDecision) -> String {
    let facts = match asked {
        Ok(facts) => facts,
        Err(refusal) => return format!("sends an invalid request: {}", refusal.sentence()),
    };
    let origin = if facts.is_origin_allowed { "" } else { ", from a page of a forbidden origin" };
    let target = match (&decisions.destination, facts.probe) {
        (Some(Destination::Lobby(code)), _) => format!("lobby {code}"),
        (Some(Destination::BadCode), _) => "a lobby with an invalid code".to_owned(),
        (Some(Destination::Nowhere), _) => "a path that does not exist".to_owned(),
        (None, Some(_)) if facts.upgrade.is_err() => "a health check".to_owned(),
        (None, _) => "a seat".to_owned(),
    };
    format!("asks for {target}{origin}")
}

fn read_segment(block: &[u8]) -> Result<Segment, Fault> {
    let mut from = EntryReader::new(block);
    let segment = if from.byte()? == format::SEGMENT { from.segment()? } else { return Err(BadEntry.into()) };
    if from.is_empty() { Ok(segment) } else { Err(BadEntry.into()) }
}

pub(super) fn segment_number(block: &[u8]) -> Option<u64> {
    read_segment(block).ok().map(|segment| segment.number)
}

/// Fills in the offset of a fault that has none yet.
fn with_offset(fault: Fault, offset: u64) -> Fault {
    match fault {
        Fault::Broken { offset: 0, what } => Fault::Broken { offset, what },
        other => other,
    }
}

/// A socket that takes as many bytes as the recorded one, and then blocks or fails.
struct ReplaySocket {
    max_bytes: u64,
    fails: bool,
    taken: u64,
    checksum: Checksum,
    /// The first bytes, for the report of a divergence.
    sample: Vec<u8>,
}

impl ReplaySocket {
    fn new(max_bytes: u64, fails: bool) -> ReplaySocket {
        ReplaySocket { max_bytes, fails, taken: 0, checksum: Checksum::new(0), sample: Vec::new() }
    }
}

impl Write for ReplaySocket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = (self.max_bytes - self.taken).min(bytes.len() as u64) as usize;
        if room == 0 && !bytes.is_empty() {
            return Err(if self.fails { io::ErrorKind::BrokenPipe } else { io::ErrorKind::WouldBlock }.into());
        }
        self.checksum.write(&bytes[..room]);
        self.taken += room as u64;
        let shown = room.min(SAMPLE - self.sample.len());
        self.sample.extend_from_slice(&bytes[..shown]);
        Ok(room)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
