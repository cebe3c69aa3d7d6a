//! Whether the engine is recorded or replays a record, and what it keeps for that.

use std::collections::BTreeMap;
use std::io::{self, IoSlice, Write};
use std::ops::Range;

use crate::base::checksum::Checksum;
use crate::base::close::CloseReason;
use crate::base::id::ConnId;
use crate::engine::recording::{Edition, REDACTED, RecordedDecision, Recorder, WriteEnd, WriteRecord, checksum_for};
use crate::http::{HeadCheck, PlainResponse};

/// Recorder or replayer of the engine's inputs, if any.
#[derive(Default)]
pub(crate) enum RecordMode {
    #[default]
    Off,
    Recording(Box<dyn Recorder>, RedactedRanges),
    Replaying(Box<Replaying>),
}

pub(crate) struct Replaying {
    edition: Edition,
    /// The decision for the next request that is read.
    pub(crate) recorded_decision: Option<RecordedDecision>,
    /// Whether the engine needed a decision that is not recorded.
    pub(crate) has_decision_mismatch: bool,
    /// Connections that got a close reason since the last [`Engine::take_close_reasons`](crate::Engine), with the reasons.
    pub(crate) close_reasons: Vec<(ConnId, CloseReason)>,
}

impl Replaying {
    pub(crate) fn new(edition: Edition) -> Replaying {
        Replaying { edition, recorded_decision: None, has_decision_mismatch: false, close_reasons: Vec::new() }
    }
}

impl RecordMode {
    /// Returns the edition of the answers.
    pub(crate) fn edition(&self) -> Edition {
        match self {
            RecordMode::Replaying(replaying) => replaying.edition,
            RecordMode::Off | RecordMode::Recording(..) => Edition::CURRENT,
        }
    }

    /// Returns what is checked in request heads.
    pub(crate) fn head_check(&self) -> HeadCheck {
        match self {
            RecordMode::Off | RecordMode::Recording(..) => HeadCheck::All,
            RecordMode::Replaying(replaying) if replaying.edition == Edition::First => HeadCheck::FirstEdition,
            RecordMode::Replaying(_) => HeadCheck::Nothing,
        }
    }

    /// Takes the recorded refusal of the bytes that are replayed next. In the first edition the refusal of a whole head is
    /// taken when the head is complete instead.
    pub(crate) fn take_refusal(&mut self) -> Option<PlainResponse> {
        let RecordMode::Replaying(replaying) = self else { return None };
        if replaying.edition == Edition::First {
            return None;
        }
        replaying.recorded_decision.take_if(|recorded| recorded.asked.is_err())?.asked.err()
    }

    pub(crate) fn recorder(&mut self) -> Option<&mut dyn Recorder> {
        match self {
            RecordMode::Recording(recorder, _) => Some(&mut **recorder),
            RecordMode::Off | RecordMode::Replaying(_) => None,
        }
    }

    /// Notes a connection's close reason for a replay.
    pub(crate) fn note_close_reason(&mut self, conn: ConnId, reason: CloseReason) {
        if let RecordMode::Replaying(replaying) = self {
            replaying.close_reasons.push((conn, reason));
        }
    }

    #[inline]
    pub(crate) fn is_recording(&self) -> bool {
        matches!(self, RecordMode::Recording(..))
    }

    /// Notes where an HTTP response to `conn`, which will be queued behind `queued` bytes, repeats text that the client
    /// chose, or the contents of a file: a replay does not know them.
    pub(crate) fn redact_echo(&mut self, conn: ConnId, queued: usize, echo: Range<u64>) {
        if let RecordMode::Recording(_, redacted) = self {
            let queued = queued as u64;
            redacted.0.entry(conn).or_default().push(queued + echo.start..queued + echo.end);
        }
    }

    /// Drops the state that is kept for a connection, because the connection is freed.
    pub(crate) fn forget(&mut self, conn: ConnId) {
        if let RecordMode::Recording(_, redacted) = self {
            redacted.0.remove(&conn);
        }
    }
}

/// Positions of text that the client chose, or of the contents of a file, by connection, in the output that is still to be
/// written to the connection.
#[derive(Debug, Default)]
pub(crate) struct RedactedRanges(BTreeMap<ConnId, Vec<Range<u64>>>);

impl RedactedRanges {
    pub(crate) fn of(&self, conn: ConnId) -> Vec<Range<u64>> {
        self.0.get(&conn).cloned().unwrap_or_default()
    }

    /// Moves the positions after `taken` bytes were written.
    pub(crate) fn advance(&mut self, conn: ConnId, taken: u64) {
        if let Some(ranges) = self.0.get_mut(&conn) {
            for range in ranges.iter_mut() {
                *range = range.start.saturating_sub(taken)..range.end.saturating_sub(taken);
            }
            ranges.retain(|range| !range.is_empty());
            if ranges.is_empty() {
                self.0.remove(&conn);
            }
        }
    }
}

/// Wraps a socket, counts the written bytes and computes their checksum.
pub(crate) struct RecordedSocket<'a, S> {
    socket: &'a mut S,
    taken: u64,
    checksum: Checksum,
    /// Positions of the bytes that enter the checksum as [`REDACTED`], in order.
    redacted: Vec<Range<u64>>,
}

impl<'a, S> RecordedSocket<'a, S> {
    pub(crate) fn new(conn: ConnId, socket: &'a mut S, redacted: Vec<Range<u64>>) -> RecordedSocket<'a, S> {
        RecordedSocket { socket, taken: 0, checksum: checksum_for(conn), redacted }
    }

    fn add_written(&mut self, bytes: &[u8]) {
        let before = self.taken;
        self.taken += bytes.len() as u64;
        let mut done = 0;
        for range in &self.redacted {
            // Position of the redacted bytes within `bytes`.
            let clamp = |at: u64| (at.clamp(before, self.taken) - before) as usize;
            let (start, end) = (clamp(range.start), clamp(range.end));
            self.checksum.write(&bytes[done..start]);
            self.checksum.write(&vec![REDACTED; end - start]);
            done = end;
        }
        self.checksum.write(&bytes[done..]);
    }

    pub(crate) fn write_record(&self, end: WriteEnd) -> WriteRecord {
        WriteRecord { taken: self.taken, checksum: self.checksum.finish(), end }
    }
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
