//! Records the inputs of an engine as journal entries, and a checksum of the bytes that it sends. Writes to a [`Sink`]
//! and knows no files.
//!
//! ```text
//! Collecting --flush(): FLUSH entry, block written--> Flushing --flushed(): checksum of the writes--> Collecting
//!  input()                                             wrote()
//! ```

mod cluster;

use std::io;

use log::{error, warn};

use super::format::block::{BLOCK_HEADER, MAGIC, MAX_BLOCK, check_of};
use super::format::config_text::config_as_text;
use super::format::conn::ConnWriter;
use super::format::kinds;
use super::format::segment::{BUILD, Segment};
use super::format::write::Put;
use super::sink::Sink;
use crate::base::id::ConnId;
use crate::base::time::Time;
use crate::config::{Config, OnJournalError, Secrets};
use crate::engine::Engine;
use crate::engine::app::App;
use crate::engine::driver::Start;
use crate::engine::recording::{
    self, Checkpoint, Decisions, Edition, Input, Recording, RotateHint, WriteEnd, WriteRecord, WritesChecksum,
};
use crate::http::PlainResponse;
use crate::ws::deflate::COMPRESSOR;
use crate::ws::handshake::Facts;

/// Bytes of the buffer for the entries of a turn. A longer turn is written in several blocks.
const BUFFER: usize = 256 * 1024;
/// Upper bound on the size of an entry without its variable-length bytes.
const ENTRY: usize = 64;

/// Records all inputs of `engine` from now on. The engine must be new: made from `start`, and without any input so far.
///
/// The [module documentation](crate::journal) has an example.
///
/// # Errors
///
/// Errors of the sink, when the beginning of the journal cannot be written. `InvalidInput` when the configuration
/// cannot be written as text.
pub fn record<A: App, S: Sink>(engine: &mut Engine<A>, start: Start, sink: S) -> io::Result<()> {
    let segment = Segment {
        session: start.unix_micros.rotate_left(32) ^ start.seed,
        number: 0,
        chain: 0,
        build: BUILD.to_owned(),
        app: std::any::type_name::<A>().to_owned(),
        unix_micros: start.unix_micros,
        seed: start.seed,
        config: config_as_text(engine.config())?,
        turn: 0,
        start: None,
        edition: Edition::CURRENT.number(),
        compressor: COMPRESSOR.filter(|_| engine.config().deflate).map(str::to_owned),
    };
    let recorder = JournalRecorder::begin(segment, engine.config(), sink)?;
    engine.record(Box::new(recorder));
    Ok(())
}

/// Ends the recording of `engine` and returns its sink; `None` when nothing was recorded, or when the sink is not an
/// `S`.
///
/// The [module documentation](crate::journal) has an example.
pub fn finish<A: App, S: Sink>(engine: &mut Engine<A>) -> Option<S> {
    let recorder: Box<dyn std::any::Any> = engine.take_recorder()?;
    let mut recorder = recorder.downcast::<JournalRecorder<S>>().ok()?;
    recorder.seal();
    recorder.sink.take()
}

pub(super) struct JournalRecorder<S: Sink> {
    /// `None` after [`finish`] has taken it back.
    sink: Option<S>,
    /// First entry of the current segment.
    segment: Segment,
    /// The block being filled, after room for its header.
    buffer: Vec<u8>,
    /// Check of the last block. The next check is started with it, so that a missing or misplaced block is detected.
    chain: u32,
    now: Time,
    conns: ConnWriter,
    /// Last recorded limit on the work of one receive.
    max_work: usize,
    /// Checksum over the checksums of all writes since the segment began.
    sent: WritesChecksum,
    /// Size of the last block with a checkpoint.
    start_bytes: usize,
    /// Bytes written since then, including that block.
    since_start: usize,
    /// Whether an input was recorded since the last flush.
    has_input: bool,
    is_flushing: bool,
    has_sent: bool,
    /// Whether a write of this flush was short or failed. The application may react to it before the next flush.
    has_short_write: bool,
    keeps_secrets: bool,
    continues: bool,
    failed: Option<(io::ErrorKind, String)>,
}

impl<S: Sink> JournalRecorder<S> {
    /// Begins the recording of a session whose first segment is `segment`, with one added to its number.
    pub(super) fn begin(segment: Segment, config: &Config, sink: S) -> io::Result<JournalRecorder<S>> {
        let mut recorder = JournalRecorder {
            segment,
            buffer: Vec::with_capacity(BUFFER),
            chain: 0,
            now: Time::ZERO,
            conns: ConnWriter::default(),
            max_work: usize::MAX,
            sent: WritesChecksum::new(),
            start_bytes: 0,
            since_start: 0,
            has_input: false,
            is_flushing: false,
            has_sent: false,
            has_short_write: false,
            keeps_secrets: config.journal_secrets == Secrets::Keep,
            continues: config.journal_on_error == OnJournalError::Continue,
            failed: None,
            sink: Some(sink),
        };
        recorder.begin_segment(None)?;
        Ok(recorder)
    }

    fn begin_segment(&mut self, start: Option<(&Checkpoint, &[u8])>) -> io::Result<()> {
        self.segment.number += 1;
        self.segment.chain = self.chain;
        self.segment.start = start.map(|(checkpoint, snapshot)| (checkpoint.clone(), snapshot.to_vec()));
        self.chain = 0;
        self.conns = ConnWriter::default();
        self.max_work = usize::MAX;
        self.sent = WritesChecksum::new();
        self.buffer.clear();
        self.buffer.extend_from_slice(&[0; BLOCK_HEADER]);
        self.segment.put(&mut self.buffer);
        if self.buffer.len() - BLOCK_HEADER > MAX_BLOCK {
            // A replay then begins with an earlier segment.
            warn!(
                "the checkpoint of a journal segment exceeds the size of a block ({MAX_BLOCK} bytes) and is left out"
            );
            self.segment.start = None;
            self.buffer.truncate(BLOCK_HEADER);
            self.segment.put(&mut self.buffer);
        }
        if start.is_some() {
            (self.start_bytes, self.since_start) = (self.buffer.len(), 0);
        }
        if let Some(sink) = &mut self.sink {
            sink.begin(self.segment.number)?;
            sink.write(MAGIC, &[])?;
        }
        self.seal();
        // A large snapshot may have grown the buffer.
        self.segment.start = None;
        self.buffer.shrink_to(BUFFER);
        self.failure().map_or(Ok(()), Err)
    }

    /// Takes the sink, which has all that was recorded.
    #[cfg(test)]
    pub(super) fn take_sink(&mut self) -> S {
        self.seal();
        self.sink.take().expect("it was not taken before")
    }

    fn failure(&self) -> Option<io::Error> {
        self.failed.as_ref().map(|(kind, message)| io::Error::new(*kind, message.clone()))
    }

    /// Writes the block, unless it is empty.
    fn seal(&mut self) {
        if self.buffer.len() > BLOCK_HEADER {
            self.write_block(&[]);
        }
    }

    /// Writes the buffered block with `rest` at its end.
    fn write_block(&mut self, rest: &[u8]) {
        let Some(sink) = self.sink.as_mut().filter(|_| self.failed.is_none()) else {
            return self.buffer.truncate(BLOCK_HEADER);
        };
        let (header, payload) = self.buffer.split_at_mut(BLOCK_HEADER);
        let length = ((payload.len() + rest.len()) as u32).to_le_bytes();
        let length_check = check_of(self.chain, &[&length]);
        self.chain = check_of(self.chain, &[payload, rest]);
        header[..4].copy_from_slice(&length);
        header[4..8].copy_from_slice(&length_check.to_le_bytes());
        header[8..].copy_from_slice(&self.chain.to_le_bytes());
        self.since_start += self.buffer.len() + rest.len();
        let written = sink.write(&self.buffer, rest);
        self.buffer.truncate(BLOCK_HEADER);
        if let Err(error) = written {
            self.fail(&error);
        }
    }

    fn fail(&mut self, error: &io::Error) {
        let consequence =
            if self.continues { "the server continues without a journal" } else { "the server sends nothing more" };
        error!("the journal cannot be written: {error}; {consequence}");
        self.failed = Some((error.kind(), error.to_string()));
    }

    /// Makes room for an entry with `bytes` variable-length bytes. Returns false when it is too large for the buffer.
    fn make_room(&mut self, bytes: usize) -> bool {
        if self.buffer.len() + bytes + ENTRY > BUFFER {
            self.seal();
        }
        bytes + ENTRY + BLOCK_HEADER <= BUFFER
    }

    /// Appends the last field of an entry, a slice. One that is too large for the buffer is written directly, as the
    /// end of the block.
    fn put_last(&mut self, bytes: &[u8], fits: bool) {
        self.buffer.put_number(bytes.len() as u64);
        if fits {
            self.buffer.put_bytes(bytes);
        } else if bytes.len() + ENTRY <= MAX_BLOCK {
            self.write_block(bytes);
        } else {
            self.buffer.truncate(BLOCK_HEADER);
            let problem = format!("an entry of {} bytes exceeds the size of a block ({MAX_BLOCK} bytes)", bytes.len());
            self.fail(&io::Error::new(io::ErrorKind::InvalidInput, problem));
        }
    }

    /// Appends an entry without fields.
    fn put_entry(&mut self, kind: u8) {
        self.make_room(0);
        self.buffer.put_byte(kind);
    }

    /// Appends an entry whose only field is a number.
    fn put_number_entry(&mut self, kind: u8, number: u64) {
        self.put_entry(kind);
        self.buffer.put_number(number);
    }

    /// Appends an entry whose only field is a slice.
    fn put_slice_entry(&mut self, kind: u8, bytes: &[u8]) {
        let fits = self.make_room(bytes.len());
        self.buffer.put_byte(kind);
        self.put_last(bytes, fits);
    }

    /// Appends an entry whose only field is a connection.
    fn put_conn_entry(&mut self, kind: u8, conn: ConnId) {
        self.put_entry(kind);
        self.conns.put(&mut self.buffer, conn);
    }

    /// Appends an entry with a connection and a slice.
    fn put_conn_slice_entry(&mut self, kind: u8, conn: ConnId, bytes: &[u8]) {
        let fits = self.make_room(bytes.len());
        self.buffer.put_byte(kind);
        self.conns.put(&mut self.buffer, conn);
        self.put_last(bytes, fits);
    }

    /// Records received bytes, of which the first `head` are recorded as a shape only.
    fn put_received(&mut self, conn: ConnId, head: usize, bytes: &[u8]) {
        if head == 0 {
            return self.put_conn_slice_entry(kinds::BYTES, conn, bytes);
        }
        // A shape takes about twice as many bytes as the request at most, and usually a tenth.
        let mut shape = Vec::new();
        shape.put_shape(&bytes[..head]);
        self.put_conn_slice_entry(kinds::HEAD, conn, &shape);
    }

    /// Records that the time has advanced, if it has.
    fn put_time(&mut self, now: Time) {
        if now != self.now {
            self.put_number_entry(kinds::TIME, now.as_micros() - self.now.as_micros());
            self.now = now;
        }
    }
}

impl<S: Sink> recording::Recorder for JournalRecorder<S> {
    fn input(&mut self, now: Time, input: &Input<'_>) {
        if self.failed.is_some() {
            return;
        }
        self.has_input = true;
        self.put_time(now);
        match *input {
            Input::Bytes { conn, head, bytes, max_work } => {
                if max_work != self.max_work {
                    self.max_work = max_work;
                    self.put_number_entry(kinds::MAX_WORK, max_work as u64);
                }
                self.put_received(conn, head, bytes);
            }
            Input::Accept(peer) => {
                self.put_entry(kinds::ACCEPT);
                self.buffer.put_peer(peer);
            }
            Input::Hangup(conn) => self.put_conn_entry(kinds::HANGUP, conn),
            Input::Writable(conn) => self.put_conn_entry(kinds::WRITABLE, conn),
            Input::Timeout => self.put_entry(kinds::TIMEOUT),
            Input::Unread(conns) => {
                let mut entry = Vec::new();
                conns.iter().for_each(|&conn| self.conns.put(&mut entry, conn));
                self.put_slice_entry(kinds::UNREAD, &entry);
            }
            Input::WallTime(unix_micros) => self.put_number_entry(kinds::WALL_TIME, unix_micros),
            Input::Authorized(conn, answer) => {
                let mut entry = Vec::new();
                entry.put_authorization(answer);
                self.put_conn_slice_entry(kinds::AUTHORIZED, conn, &entry);
            }
            Input::Command(bytes) => self.put_slice_entry(kinds::COMMAND, bytes),
            Input::Reload(bytes) if self.keeps_secrets => self.put_slice_entry(kinds::RELOAD, bytes),
            Input::Reload(bytes) => self.put_number_entry(kinds::OMITTED_RELOAD, bytes.len() as u64),
            Input::Operator(command) => {
                let mut entry = Vec::new();
                entry.put_operator(command);
                self.put_slice_entry(kinds::OPERATOR, &entry);
            }
            Input::ReportTaken => self.put_entry(kinds::REPORT_TAKEN),
            Input::Drain => self.put_entry(kinds::DRAIN),
            Input::Stop => self.put_entry(kinds::STOP),
            Input::Shed => self.put_entry(kinds::SHED),
            Input::Closure => self.put_entry(kinds::CLOSURE),
            Input::JoinCluster => self.put_entry(kinds::JOIN_CLUSTER),
            Input::Cluster(ref input) => self.put_cluster_input(input),
            Input::ClusterTaken(output) => self.put_cluster_taken(output),
        }
    }

    fn request(&mut self, asked: Result<&Facts, &PlainResponse>) {
        if self.failed.is_some() {
            return;
        }
        let mut entry = Vec::new();
        match asked {
            Ok(facts) => entry.put_facts(facts),
            Err(refusal) => entry.put_refusal(refusal),
        }
        self.put_slice_entry(if asked.is_ok() { kinds::ASKED } else { kinds::REFUSED }, &entry);
    }

    fn decisions(&mut self, decisions: &Decisions) {
        if self.failed.is_some() {
            return;
        }
        let mut entry = Vec::new();
        entry.put_decisions(decisions);
        self.put_slice_entry(kinds::ANSWERED, &entry);
    }

    fn rest(&mut self, bytes: &[u8], is_read: bool) {
        if self.failed.is_some() {
            return;
        }
        let mut shape = Vec::new();
        if !is_read {
            shape.put_shape(bytes);
        }
        let bytes = if is_read { bytes } else { &shape };
        self.put_slice_entry(if is_read { kinds::REST } else { kinds::UNREAD_REST }, bytes);
    }

    fn flush(&mut self) {
        if self.is_flushing || !self.has_input || self.failed.is_some() {
            return;
        }
        (self.is_flushing, self.has_input) = (true, false);
        self.segment.turn += 1;
        self.put_entry(kinds::FLUSH);
        self.seal();
    }

    fn commit(&mut self) -> io::Result<()> {
        // Results of writes can wait for the next block, unless the engine may have reacted to one.
        if !self.is_flushing || self.has_short_write {
            self.seal();
            self.has_short_write = false;
        }
        match self.failure() {
            Some(error) if !self.continues => Err(error),
            _ => Ok(()),
        }
    }

    #[inline]
    fn wrote(&mut self, _: ConnId, wrote: &WriteRecord) {
        if self.failed.is_some() {
            return;
        }
        self.make_room(0);
        let kind = match wrote.end {
            WriteEnd::Whole => kinds::WROTE,
            WriteEnd::Blocked => kinds::BLOCKED,
            WriteEnd::Failed => kinds::FAILED,
        };
        self.buffer.put_byte(kind);
        if wrote.end != WriteEnd::Whole {
            self.buffer.put_number(wrote.taken);
            self.has_short_write = true;
        }
        self.buffer.put_bytes(&(wrote.checksum as u16).to_le_bytes());
        self.sent.add(wrote.checksum);
        self.has_sent = true;
    }

    fn flushed(&mut self) {
        if !std::mem::take(&mut self.is_flushing) || self.failed.is_some() {
            return;
        }
        self.make_room(0);
        if std::mem::take(&mut self.has_sent) {
            self.buffer.put_byte(kinds::FLUSHED);
            self.buffer.put_bytes(&self.sent.value().to_le_bytes());
        } else {
            self.buffer.put_byte(kinds::FLUSHED_NOTHING);
        }
        self.has_short_write = false;
    }

    fn rotate_hint(&self) -> RotateHint {
        match &self.sink {
            Some(sink) if self.failed.is_none() => sink.rotate_hint(),
            _ => RotateHint::Continue,
        }
    }

    /// Limits checkpoints to half of the bytes written: the rate buckets in one may take megabytes.
    fn may_write_checkpoint(&self) -> bool {
        self.since_start >= 2 * self.start_bytes
    }

    fn rotate_segment(&mut self, start: Option<(&Checkpoint, &[u8])>) {
        self.seal();
        if self.failed.is_none()
            && let Err(error) = self.begin_segment(start)
            && self.failed.is_none()
        {
            self.fail(&error);
        }
    }

    fn recording(&self) -> Recording {
        let recording = self.sink.as_ref().map(Sink::recording).unwrap_or_default();
        Recording { has_failed: self.failed.is_some(), ..recording }
    }
}

/// Writes the last block. After a panic of the application, its last entry is the input that caused the panic.
impl<S: Sink> Drop for JournalRecorder<S> {
    fn drop(&mut self) {
        self.seal();
    }
}

#[cfg(test)]
mod tests;
