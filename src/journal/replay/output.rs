//! The output of a replay: writes as many bytes as the recorded session, and compares their checksums with the recorded
//! ones.

use std::io::{self, Write};

use super::super::error::{Divergence, Fault};
use super::super::format::read::{BadEntry, EntryReader};
use crate::base::checksum::Checksum;
use crate::base::id::ConnId;
use crate::engine::Engine;
use crate::engine::app::App;
use crate::engine::driver::Flow;
use crate::engine::recording::{WriteEnd, WritesChecksum, checksum_for};

/// Most bytes of a diverging write that are shown.
const SAMPLE: usize = 64;

/// What a replay has sent.
pub(super) struct Output {
    is_flushing: bool,
    /// Whether anything was sent in this flush.
    has_sent: bool,
    /// Checksum over the checksums of all writes since the segment began.
    sent: WritesChecksum,
    /// Bytes sent to each connection, indexed by [`ConnId::index`].
    streams: Vec<u64>,
}

impl Output {
    pub(super) fn new() -> Output {
        Output { is_flushing: false, has_sent: false, sent: WritesChecksum::new(), streams: Vec::new() }
    }

    /// Returns whether the input of the turn has ended, and its output has not.
    pub(super) fn is_flushing(&self) -> bool {
        self.is_flushing
    }

    pub(super) fn begin_segment(&mut self) {
        self.sent = WritesChecksum::new();
    }

    pub(super) fn begin_flush(&mut self) {
        (self.is_flushing, self.has_sent) = (true, false);
    }

    /// Repeats a recorded write that ended with `end`. The rest of its entry is read from `from`.
    pub(super) fn write<A: App>(
        &mut self,
        engine: &mut Engine<A>,
        end: WriteEnd,
        from: &mut EntryReader<'_>,
    ) -> Result<(), Fault> {
        let max_bytes = if end == WriteEnd::Whole { u64::MAX } else { from.number()? };
        if !self.is_flushing {
            return Err(BadEntry.into());
        }
        let Some(conn) = engine.poll_writable() else {
            return Err(differs("nothing more is sent, but the recorded session sent more"));
        };
        let mut socket = ReplaySocket::new(conn, max_bytes, end == WriteEnd::Failed);
        let flow = engine.write_to(conn, &mut socket).expect("a replay records no journal");
        let is_same = match end {
            WriteEnd::Whole => matches!(flow, Ok(Flow::Drained | Flow::Finished | Flow::Closed)),
            WriteEnd::Blocked => matches!(flow, Ok(Flow::Blocked)) && socket.taken == max_bytes,
            WriteEnd::Failed => flow.is_err() && socket.taken == max_bytes,
        };
        self.compare(conn, &socket, is_same, from.take(2)?)
    }

    fn compare(&mut self, conn: ConnId, socket: &ReplaySocket, is_same: bool, recorded: &[u8]) -> Result<(), Fault> {
        let checksum = socket.checksum.finish();
        self.sent.add(checksum);
        self.has_sent = true;
        let byte = self.stream(conn);
        if !is_same || (checksum as u16).to_le_bytes() != recorded {
            let what = format!("{} bytes, which begin with {}", socket.taken, socket.sample.escape_ascii());
            return Err(Fault::Diverged(Box::new(Divergence { conn: Some(conn), byte, what })));
        }
        self.streams[conn.index()] = byte + socket.taken;
        Ok(())
    }

    /// Ends a flush with the recorded checksum, or `None` if nothing was sent in it. Returns whether anything was sent.
    pub(super) fn end_flush<A: App>(&mut self, engine: &mut Engine<A>, recorded: Option<&[u8]>) -> Result<bool, Fault> {
        if !self.is_flushing {
            return Err(BadEntry.into());
        }
        if let Some(conn) = engine.poll_writable() {
            let byte = self.stream(conn);
            let what = "the recorded session sent it nothing more in this turn".to_owned();
            return Err(Fault::Diverged(Box::new(Divergence { conn: Some(conn), byte, what })));
        }
        let is_same = match recorded {
            Some(recorded) => self.has_sent && self.sent.value().to_le_bytes() == recorded,
            None => !self.has_sent,
        };
        if !is_same {
            return Err(differs("other bytes are sent in this turn"));
        }
        self.is_flushing = false;
        Ok(self.has_sent)
    }

    /// Ends a flush whose results are not recorded.
    pub(super) fn end_unrecorded<A: App>(&mut self, engine: &mut Engine<A>) {
        self.is_flushing = false;
        while let Some(conn) = engine.poll_writable() {
            engine
                .write_to(conn, &mut io::sink())
                .expect("a replay records no journal")
                .expect("a sink takes all bytes");
        }
    }

    /// Drops what is kept for a connection, because its index may be used again.
    pub(super) fn forget(&mut self, conn: ConnId) {
        if let Some(stream) = self.streams.get_mut(conn.index()) {
            *stream = 0;
        }
    }

    fn stream(&mut self, conn: ConnId) -> u64 {
        if conn.index() >= self.streams.len() {
            self.streams.resize(conn.index() + 1, 0);
        }
        self.streams[conn.index()]
    }
}

/// A difference that concerns no single connection.
pub(super) fn differs(what: impl Into<String>) -> Fault {
    Fault::Diverged(Box::new(Divergence { conn: None, byte: 0, what: what.into() }))
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
    fn new(conn: ConnId, max_bytes: u64, fails: bool) -> ReplaySocket {
        ReplaySocket { max_bytes, fails, taken: 0, checksum: checksum_for(conn), sample: Vec::new() }
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
