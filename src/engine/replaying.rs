//! Replays recorded inputs. The application is not asked about requests: the recorded decisions are used.

use super::Engine;
use super::app::App;
use super::recording::{Checkpoint, Edition, Input, RecordedDecision};
use super::state::record_mode::{RecordMode, Replaying};
use crate::base::close::CloseReason;
use crate::base::id::ConnId;
use crate::base::time::Time;

impl<A: App> Engine<A> {
    /// Switches to replaying: from now on the application is not asked about requests, which are answered as in
    /// `edition`.
    pub(crate) fn replay(&mut self, edition: Edition) {
        self.core.record_mode = RecordMode::Replaying(Box::new(Replaying::new(edition)));
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
            Input::Timeout => self.expire(now),
            Input::Unread(conns) => self.handle_unread(now, conns),
            Input::WallTime(unix_micros) => self.handle_wall_time(now, unix_micros),
            Input::Authorized(conn, answer) => self.handle_authorized(now, conn, answer.clone()),
            Input::Command(command) => self.handle_command(now, command),
            Input::Reload(contents) => self.handle_reload(now, contents),
            Input::Operator(command) => drop(self.handle_operator(now, command.clone())),
            Input::ReportTaken => drop(self.poll_operator()),
            Input::Drain => self.handle_drain(now),
            Input::Stop => self.handle_stop(now),
            Input::Shed => self.handle_shed(now),
            Input::Closure | Input::ClusterTaken(_) => {}
            Input::JoinCluster => self.join_cluster(),
            Input::Cluster(input) => self.handle_cluster(now, input),
        }
    }

    /// The engine's state, as a checkpoint. The engine must be [blank](Self::is_blank).
    pub(crate) fn checkpoint(&mut self) -> Checkpoint {
        self.core.checkpoint()
    }

    /// Restores the state of a checkpoint.
    pub(crate) fn restore_checkpoint(&mut self, checkpoint: &Checkpoint) {
        self.core.restore_checkpoint(checkpoint, A::IS_STATELESS);
    }

    /// Whether the engine has no connections and no unfinished work.
    pub(crate) fn is_blank(&self) -> bool {
        self.core.is_blank()
    }
}
