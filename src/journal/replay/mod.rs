//! Replays a recorded session: feeds its inputs to a new engine and compares the bytes that it sends with the recorded
//! checksums. Its only I/O is reading the journal.

use std::io::Read;
use std::time::Duration;

use self::output::{Output, differs};
use self::request::{PendingRequest, describe_request};
use super::error::{Fault, ReplayFailure};
use super::format::config_text::config_from_text;
use super::format::conn::ConnReader;
use super::format::kinds;
use super::format::read::{BadEntry, EntryReader, MAX_COUNT};
use super::format::segment::{BUILD, Segment};
use super::reader::{Blocks, Next};
use super::summary::Summary;
use super::trace::{EventTracer, TraceEvent};
use crate::base::id::ConnId;
use crate::base::time::Time;
use crate::engine::Engine;
use crate::engine::app::App;
use crate::engine::control::configuring::has_lobby_control;
use crate::engine::driver::Start;
use crate::engine::recording::{Decisions, Edition, Input, WriteEnd};
use crate::ws::deflate::COMPRESSOR;

mod cluster;
mod output;
mod request;
mod state;
#[cfg(test)]
mod tests;

/// Replays a journal at full speed with a new instance of the recorded application.
///
/// `journal` is one segment, or several consecutive segments of one session in one stream.
///
/// The [module documentation](crate::journal) has an example.
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
///
/// [`Replay`] has an example.
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
///
/// The [module documentation](crate::journal#stepping-through-a-replay) has an example.
pub struct Replay<A: App, R> {
    blocks: Blocks<R>,
    block: Vec<u8>,
    /// Offset of the next entry in `block`.
    at: usize,
    engine: Engine<A>,
    /// Edition of the session.
    edition: Edition,
    tracer: EventTracer,
    session: Segment,
    conns: ConnReader,
    /// Recorded limit on the work of one receive.
    max_work: usize,
    now: Time,
    /// Bytes of a request whose entries are not all read yet.
    pending: Option<PendingRequest>,
    /// The parts so far of a state from another node of the cluster.
    cluster_state: Vec<u8>,
    output: Output,
    summary: Summary,
}

impl<A: App, R: Read> Replay<A, R> {
    /// Reads the first block of a journal. `any_build` accepts a journal that another build wrote.
    ///
    /// # Errors
    ///
    /// When it is not a journal, is damaged, has no checkpoint to begin with, or was written by another build; and when its
    /// configuration is invalid.
    pub fn open(journal: R, app: A, any_build: bool) -> Result<Replay<A, R>, ReplayFailure> {
        Replay::try_open(journal, app, any_build).map_err(|fault| ReplayFailure { fault, summary: None })
    }

    fn try_open(journal: R, mut app: A, any_build: bool) -> Result<Replay<A, R>, Fault> {
        let (mut blocks, mut block) = (Blocks::new(journal), Vec::new());
        let session = read_first_segment(&mut blocks, &mut block)?;
        if session.build != BUILD && !any_build {
            return Err(Fault::OtherBuild(session.build));
        }
        // Even the same sources may be built with another one, or without one.
        if let Some(compressor) = session.compressor.as_ref().filter(|name| COMPRESSOR != Some(name)) {
            return Err(Fault::OtherCompressor(compressor.clone()));
        }
        // The configuration of another build may have other fields.
        let mut config = config_from_text(&session.config).map_err(|()| Fault::OtherBuild(session.build.clone()))?;
        // The recorded value is the one that was in force. An application that says `On` does not switch it on: an older build had it
        // off without `seat_grace`.
        config.lobby_control &= has_lobby_control::<A>(&config);
        let config = config.check_recorded().map_err(Fault::Config)?;
        let edition = Edition::from_number(session.edition).ok_or_else(|| Fault::OtherBuild(session.build.clone()))?;
        let start = Start { unix_micros: session.unix_micros, seed: session.seed };
        if let Some((_, snapshot)) = &session.start {
            app.restore(snapshot);
        } else if session.number != 1 {
            return Err(Fault::NoStart { segment: session.number });
        }
        let mut engine = Engine::as_recorded(config, start, app);
        engine.replay(edition);
        if let Some((checkpoint, _)) = &session.start {
            engine.restore_checkpoint(checkpoint);
        }
        Ok(Replay {
            blocks,
            at: block.len(),
            block,
            tracer: EventTracer::default(),
            conns: ConnReader::default(),
            max_work: usize::MAX,
            now: engine.now(),
            pending: None,
            cluster_state: Vec::new(),
            output: Output::new(),
            summary: Summary::new(&session, engine.stats()),
            session,
            engine,
            edition,
        })
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
        outcome.map_err(|fault| fault.at_offset(self.blocks.offset()))
    }

    /// Continues with the next segment, whose first block was read.
    fn next_segment(&mut self) -> Result<Step, Fault> {
        self.run_pending()?;
        let offset = self.blocks.offset();
        let segment = Segment::read(&self.block).map_err(|error| Fault::from(error).at_offset(offset))?;
        let broken = |what| Err(Fault::Broken { offset, what });
        if segment.session != self.session.session {
            return broken("a segment of another session follows");
        }
        if segment.edition != self.session.edition {
            return broken("a segment of another edition follows");
        }
        if segment.compressor != self.session.compressor {
            return broken("a segment with another compressor follows");
        }
        if segment.number != self.session.number + 1 || segment.chain != self.blocks.before() {
            return broken("a segment is missing");
        }
        if self.output.is_flushing() {
            return broken("a segment begins in the middle of a turn");
        }
        if let Some((checkpoint, _)) = &segment.start {
            if !self.engine.is_blank() {
                return Err(differs("the segment begins with a checkpoint, but the replay still has connections"));
            }
            let mut replayed = self.engine.checkpoint();
            // A reload that was not recorded may have changed the application, which draws other random numbers from then on.
            if self.summary.omitted_reloads > 0 {
                replayed.random = checkpoint.random;
            }
            if replayed != *checkpoint {
                return Err(differs("the state of the engine differs from the checkpoint of the segment"));
            }
            self.engine.restore_checkpoint(checkpoint);
        }
        self.conns = ConnReader::default();
        self.max_work = usize::MAX;
        self.output.begin_segment();
        self.summary.segments += 1;
        self.session = segment;
        Ok(Step::On)
    }

    /// Replays the next entry of the block.
    fn replay_entry(&mut self, from: &mut EntryReader<'_>) -> Result<Step, Fault> {
        let kind = from.byte()?;
        match kind {
            kinds::ASKED | kinds::REFUSED | kinds::ANSWERED | kinds::REST | kinds::UNREAD_REST => {
                let mut entry = EntryReader::new(from.slice()?);
                let pending = self.pending.as_mut().ok_or(BadEntry)?;
                let max_header_bytes = self.engine.config().max_header_bytes.0;
                pending.add(kind, &mut entry, self.edition, max_header_bytes)?;
                return Ok(Step::On);
            }
            _ => self.run_pending()?,
        }
        if !self.cluster_state.is_empty() && !matches!(kind, kinds::CLUSTER_STATE | kinds::CLUSTER_ATTACHED) {
            return Err(BadEntry.into());
        }
        match kind {
            kinds::TIME => {
                let now = self.now + Duration::from_micros(from.count()?);
                self.now = Some(now).filter(|now| now.as_micros() <= MAX_COUNT).ok_or(BadEntry)?;
            }
            kinds::MAX_WORK => self.max_work = usize::try_from(from.number()?).map_err(|_| BadEntry)?,
            kinds::HEAD => {
                let conn = self.conns.read(from)?;
                self.pending = Some(PendingRequest::read(conn, &mut EntryReader::new(from.slice()?))?);
            }
            kinds::FLUSH => {
                self.output.begin_flush();
                self.summary.turn += 1;
            }
            kinds::WROTE => self.output.write(&mut self.engine, WriteEnd::Whole, from)?,
            kinds::BLOCKED => self.output.write(&mut self.engine, WriteEnd::Blocked, from)?,
            kinds::FAILED => self.output.write(&mut self.engine, WriteEnd::Failed, from)?,
            kinds::FLUSHED | kinds::FLUSHED_NOTHING => {
                let sent = if kind == kinds::FLUSHED { Some(from.take(8)?) } else { None };
                let has_sent = self.output.end_flush(&mut self.engine, sent)?;
                self.summary.confirmed += u64::from(has_sent);
                self.drop_closed();
                return Ok(Step::Turn);
            }
            _ => self.feed_input(kind, from)?,
        }
        Ok(Step::On)
    }

    /// Feeds the input of an entry to the engine.
    fn feed_input(&mut self, kind: u8, from: &mut EntryReader<'_>) -> Result<(), Fault> {
        if self.output.is_flushing() {
            return Err(BadEntry.into());
        }
        match kind {
            kinds::ACCEPT | kinds::BYTES | kinds::HANGUP | kinds::WRITABLE | kinds::UNREAD | kinds::AUTHORIZED => {
                self.feed_conn_input(kind, from)?
            }
            kinds::COMMAND | kinds::RELOAD | kinds::OMITTED_RELOAD | kinds::OPERATOR => {
                self.feed_command(kind, from)?;
            }
            kinds::TIMEOUT => self.engine.replay_input(self.now, &Input::Timeout),
            kinds::WALL_TIME => {
                let unix_micros = from.count()?;
                self.note(None, || format!("sets the wall time to {unix_micros} us"));
                self.engine.replay_input(self.now, &Input::WallTime(unix_micros));
            }
            kinds::REPORT_TAKEN => self.engine.replay_input(self.now, &Input::ReportTaken),
            kinds::DRAIN => {
                if !self.engine.is_draining() {
                    self.note(None, || "drains".to_owned());
                }
                self.engine.replay_input(self.now, &Input::Drain);
            }
            kinds::STOP => self.engine.replay_input(self.now, &Input::Stop),
            kinds::SHED => self.engine.replay_input(self.now, &Input::Shed),
            kinds::CLOSURE => return Err(Fault::Closure),
            kinds::JOIN_CLUSTER..=kinds::CLUSTER_TAKEN => self.feed_cluster(kind, from)?,
            _ => return Err(BadEntry.into()),
        }
        self.note_close_reasons();
        Ok(())
    }

    /// Feeds an input that concerns connections.
    fn feed_conn_input(&mut self, kind: u8, from: &mut EntryReader<'_>) -> Result<(), BadEntry> {
        match kind {
            kinds::ACCEPT => {
                let peer = from.peer()?;
                if let Ok(conn) = self.engine.handle_accept(self.now, peer) {
                    self.note(Some(conn), || format!("connects from {peer}"));
                }
            }
            kinds::BYTES => {
                let conn = self.conns.read(from)?;
                let input = Input::Bytes { conn, head: 0, bytes: from.slice()?, max_work: self.max_work };
                self.engine.replay_input(self.now, &input);
            }
            kinds::HANGUP => {
                let conn = self.conns.read(from)?;
                self.engine.replay_input(self.now, &Input::Hangup(conn));
            }
            kinds::WRITABLE => {
                let conn = self.conns.read(from)?;
                self.engine.replay_input(self.now, &Input::Writable(conn));
            }
            kinds::UNREAD => {
                let mut entry = EntryReader::new(from.slice()?);
                let mut conns = Vec::new();
                while !entry.is_empty() {
                    conns.push(self.conns.read(&mut entry)?);
                }
                self.engine.replay_input(self.now, &Input::Unread(&conns));
            }
            kinds::AUTHORIZED => {
                let conn = self.conns.read(from)?;
                let answer = EntryReader::new(from.slice()?).authorization()?;
                self.engine.replay_input(self.now, &Input::Authorized(conn, &answer));
            }
            _ => unreachable!("feed_input() passes only inputs of connections"),
        }
        Ok(())
    }

    /// Feeds a command to the application or to the engine.
    fn feed_command(&mut self, kind: u8, from: &mut EntryReader<'_>) -> Result<(), BadEntry> {
        match kind {
            kinds::COMMAND => {
                let command = from.slice()?;
                self.note(None, || format!("receives a command of {} bytes", command.len()));
                self.engine.replay_input(self.now, &Input::Command(command));
            }
            kinds::RELOAD => {
                let contents = from.slice()?;
                self.note(None, || format!("receives a reload of {} bytes", contents.len()));
                self.engine.replay_input(self.now, &Input::Reload(contents));
            }
            kinds::OMITTED_RELOAD => {
                let length = from.number()?;
                self.summary.omitted_reloads += 1;
                self.note(None, || format!("receives a reload of {length} bytes, which are not recorded"));
            }
            kinds::OPERATOR => {
                let command = EntryReader::new(from.slice()?).operator()?;
                self.note(None, || format!("receives an operator command: {command:?}"));
                self.engine.replay_input(self.now, &Input::Operator(&command));
            }
            _ => unreachable!("feed_input() passes only commands"),
        }
        Ok(())
    }

    /// Replays the pending request, now that all its entries are read.
    fn run_pending(&mut self) -> Result<(), Fault> {
        let Some(PendingRequest { conn, bytes, recorded_decision }) = self.pending.take() else { return Ok(()) };
        if self.output.is_flushing() {
            return Err(BadEntry.into());
        }
        if let Some(recorded_decision) = &recorded_decision {
            let is_proxied = self.engine.config().trusted_proxies > 0;
            self.note(Some(conn), || describe_request(recorded_decision, is_proxied));
        }
        self.engine.set_recorded_decision(recorded_decision);
        self.engine.replay_input(self.now, &Input::Bytes { conn, head: 0, bytes: &bytes, max_work: self.max_work });
        self.note_close_reasons();
        if self.engine.has_decision_mismatch() {
            return Err(differs(format!("the request of conn={conn} is complete at another time")));
        }
        Ok(())
    }

    fn drop_closed(&mut self) {
        self.note_close_reasons();
        while let Some((conn, _)) = self.engine.poll_closed() {
            self.output.forget(conn);
        }
    }

    /// Finishes at the end of the journal, which may be in the middle of a turn.
    fn end(&mut self) -> Result<Step, Fault> {
        if let Some(PendingRequest { conn, bytes, recorded_decision }) = self.pending.take() {
            // If the application panicked on the request, no decision is recorded. The request is then left unread.
            let is_decided = recorded_decision
                .as_ref()
                .is_some_and(|request| request.asked.is_err() || request.decisions != Decisions::default());
            self.engine.set_recorded_decision(recorded_decision.filter(|_| is_decided));
            self.engine.replay_input(self.now, &Input::Bytes { conn, head: 0, bytes: &bytes, max_work: self.max_work });
            self.summary.is_open_ended = true;
        }
        if self.output.is_flushing() {
            self.output.end_unrecorded(&mut self.engine);
            self.summary.is_open_ended = true;
            self.drop_closed();
        }
        Ok(Step::End)
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
}

/// Reads the first block of a journal, which begins a segment.
fn read_first_segment<R: Read>(blocks: &mut Blocks<R>, block: &mut Vec<u8>) -> Result<Segment, Fault> {
    match blocks.read(block)? {
        Next::Block { is_first: true } => {
            Segment::read(block).map_err(|error| Fault::from(error).at_offset(blocks.offset()))
        }
        Next::Torn(bytes) => Err(Fault::Broken { offset: bytes, what: "the first block of the segment is incomplete" }),
        Next::Block { .. } | Next::End => Err(Fault::NotAJournal),
    }
}
