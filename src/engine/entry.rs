//! The entry of inputs: every input goes through [`Engine::enter`] or [`Engine::enter_bytes`], where a [`Recorder`]
//! receives it.

use std::ops::Range;

use super::Engine;
use super::app::App;
use super::core::Core;
use super::driver::JournalError;
use super::recording::{Input, Recorder, Recording};
use super::state::record_mode::{RecordMode, RedactedRanges};
use crate::base::id::{ConnId, ConnKey};
use crate::base::time::Time;
use crate::cluster::log::ClusterOutput;
use crate::http::PlainResponse;

impl<A: App> Engine<A> {
    /// Advances the time and records an input, before the engine acts on it. Every input but received bytes passes
    /// through here; see [`enter_bytes`](Self::enter_bytes).
    #[inline]
    pub(super) fn enter(&mut self, now: Time, input: &Input<'_>) {
        self.core.call_guard.assert_consistent();
        self.core.clock.advance(now);
        if self.core.record_mode.is_recording() {
            self.core.record_input(input);
        }
    }

    /// Advances the time and records received bytes. The first `head` bytes are redacted: a request may contain a
    /// token, and bytes that the engine ignores may contain anything.
    #[inline]
    pub(super) fn enter_bytes(&mut self, now: Time, conn: ConnId, bytes: &[u8], max_work: usize) {
        self.core.call_guard.assert_consistent();
        self.core.clock.advance(now);
        if self.core.record_mode.is_recording() {
            self.core.record_bytes(conn, bytes, max_work);
        }
    }

    /// Records all inputs from now on. Must be called before the engine has any connection.
    pub(crate) fn record(&mut self, recorder: Box<dyn Recorder>) {
        debug_assert!(self.core.is_blank(), "recording begins without connections");
        self.core.record_mode = RecordMode::Recording(recorder, RedactedRanges::default());
        if self.core.is_node() {
            self.core.record_input(&Input::JoinCluster);
        }
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

    /// Hands the journal's entries to the operating system. [`end_turn`](Self::end_turn) does this too; after a
    /// [`flush`](Self::flush) between two turns, a driver calls it before it waits.
    ///
    /// # Errors
    ///
    /// As [`end_turn`](Self::end_turn).
    pub fn commit_journal(&mut self) -> Result<(), JournalError> {
        self.core.record_mode.recorder().map_or(Ok(()), Recorder::commit).map_err(JournalError)
    }

    /// Statistics of the recording; `None` if the engine is not recorded.
    pub fn recording(&self) -> Option<Recording> {
        match &self.core.record_mode {
            RecordMode::Recording(recorder, _) => Some(recorder.recording()),
            RecordMode::Off | RecordMode::Replaying(_) => None,
        }
    }
}

impl Core {
    /// Apart from [`Engine::enter_bytes`], so that it is inlined where nothing is recorded.
    #[cold]
    fn record_bytes(&mut self, conn: ConnId, bytes: &[u8], max_work: usize) {
        let max_header_bytes = self.config.max_header_bytes.0;
        let head = match self.slot(conn) {
            Some(slot) => slot.wire.unread(bytes, max_header_bytes),
            None => bytes.len(),
        };
        self.record_input(&Input::Bytes { conn, head, bytes, max_work });
    }

    /// Records what the link to the cluster has taken.
    pub(super) fn record_taken(&mut self, output: &ClusterOutput) {
        if self.record_mode.is_recording() {
            self.record_input(&Input::ClusterTaken(output));
        }
    }

    #[cold]
    fn record_input(&mut self, input: &Input<'_>) {
        if let RecordMode::Recording(recorder, _) = &mut self.record_mode {
            recorder.input(self.clock.now(), input);
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

    /// Notes where the response that is queued next for a connection repeats text of the client, or the
    /// contents of a file.
    pub(super) fn redact_echo(&mut self, key: ConnKey, echo: Option<Range<u64>>) {
        if let Some(echo) = echo.filter(|_| self.record_mode.is_recording()) {
            self.record_mode.redact_echo(self.conns[key].id, self.egress.queued_size(key).bytes, echo);
        }
    }

    /// Records that the received request could not be parsed.
    pub(super) fn record_refused(&mut self, refusal: &PlainResponse) {
        if let Some(recorder) = self.record_mode.recorder() {
            recorder.request(Err(refusal));
        }
    }

    /// Records the bytes that followed a request in the same input.
    pub(super) fn record_rest(&mut self, key: ConnKey, rest: &[u8]) {
        let is_read = self.conns.by_key(key).is_some_and(|slot| !slot.wire.ignores_input());
        if let Some(recorder) = self.record_mode.recorder().filter(|_| !rest.is_empty()) {
            recorder.rest(rest, is_read);
        }
    }
}
