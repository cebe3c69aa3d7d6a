//! Writes pending output to sockets, and records what they took. Which connections are written to is up to
//! [`egress`](crate::egress).

use std::io::{self, Write};

use super::core::Core;
use super::driver::Flow;
use super::recording::WriteEnd;
use super::state::record_mode::{RecordMode, RecordedSocket};
use crate::base::id::{ConnId, ConnKey};
use crate::egress::{self, Target, Written};

impl Core {
    /// Writes the output that waits for a connection, until nothing is left or the socket takes no more.
    pub(super) fn write_to(&mut self, key: ConnKey, socket: &mut dyn Write) -> io::Result<Flow> {
        let written = self.egress.write_to(key, socket)?;
        Ok(self.after_write(key, written))
    }

    /// Continues a write to a target of which the socket has not taken all bytes.
    pub(super) fn write_rest_of_target(
        &mut self,
        target: &Target,
        first: io::Result<usize>,
        socket: &mut dyn Write,
    ) -> io::Result<Flow> {
        let written = self.egress.write_rest_of_target(target, first, socket)?;
        Ok(self.after_write(target.id.key(), written))
    }

    /// Counts what was written to a connection, and continues its close.
    fn after_write(&mut self, key: ConnKey, written: Written) -> Flow {
        self.counters.bytes_out += written.bytes as u64;
        if self.drain.is_some() {
            self.note_flushed(self.conns[key].id, written.bytes);
        }
        match written.end {
            egress::WriteEnd::UnreadOnly => Flow::Drained,
            egress::WriteEnd::Blocked(crossed) => {
                if written.bytes > 0 && self.conns[key].wire.is_event_stream() {
                    self.note_progress(key);
                }
                self.note_crossed(key, crossed);
                Flow::Blocked
            }
            egress::WriteEnd::Drained(crossed) => {
                self.note_crossed(key, crossed);
                self.after_drained(key)
            }
        }
    }

    /// Counts what was compressed in this turn.
    #[cold]
    #[inline(never)]
    pub(super) fn count_compressed(&mut self) {
        let totals = self.egress.take_compression_totals();
        self.counters.compressed_frames += totals.frames;
        self.counters.uncompressed_bytes += totals.bytes_before;
        self.counters.compressed_bytes += totals.bytes_after;
    }

    /// Continues the close of a connection after its queue was written.
    fn after_drained(&mut self, key: ConnKey) -> Flow {
        let slot = &mut self.conns[key];
        if !slot.wire.ignores_input() || slot.shut_down {
            Flow::Drained
        } else if slot.wire.is_event_stream() {
            self.note_progress(key);
            Flow::Drained
        } else if slot.wire.is_close_complete() {
            self.mark_closed(key);
            Flow::Closed
        } else {
            slot.shut_down = true;
            self.set_stage_deadline(key, self.config.linger_timeout);
            Flow::Finished
        }
    }

    /// Does the same as [`write_to`](Self::write_to), and reports the written bytes to the recorder. A function of its
    /// own, so that an engine without a journal pays nothing for it.
    #[cold]
    pub(super) fn write_recorded(&mut self, conn: ConnId, socket: &mut impl Write) -> io::Result<Flow> {
        let redacted = match &self.record_mode {
            RecordMode::Recording(_, redacted) => redacted.of(conn),
            RecordMode::Off | RecordMode::Replaying(_) => Vec::new(),
        };
        let mut socket = RecordedSocket::new(conn, socket, redacted);
        let written = self.write_to(conn.key(), &mut socket);
        let record = socket.write_record(match written {
            Ok(Flow::Drained | Flow::Finished | Flow::Closed) => WriteEnd::Whole,
            Ok(Flow::Blocked) => WriteEnd::Blocked,
            Err(_) => WriteEnd::Failed,
        });
        if let RecordMode::Recording(recorder, redacted) = &mut self.record_mode {
            recorder.wrote(conn, &record);
            redacted.advance(conn, record.taken);
        }
        written
    }
}
