//! When a segment of the journal ends, and whether a replay can start with the next one: between two turns, when the
//! recorder hints at it.
//!
//! The sizes that lead to a hint are in `net/journal_files.rs`; how far checkpoints are apart is up to the recorder.

use super::Engine;
use super::app::App;
use super::recording::{Checkpoint, RotateHint};
use super::state::record_mode::RecordMode;

impl<A: App> Engine<A> {
    /// Begins a new segment if the recorder hints at it, with a checkpoint from which a replay can start if possible.
    /// The engine's state does not change.
    pub(crate) fn rotate_segment(&mut self) {
        let RecordMode::Recording(recorder, _) = &self.core.record_mode else { return };
        let hint = recorder.rotate_hint();
        if hint == RotateHint::Continue {
            return;
        }
        // A checkpoint does not contain when connections were dropped.
        let is_whole = self.core.is_blank() && !self.core.shedding.is_recent(self.core.now());
        let may_start = is_whole && recorder.may_write_checkpoint();
        let snapshot = if may_start { self.app.snapshot() } else { None };
        if let Some(snapshot) = snapshot {
            let checkpoint = self.core.checkpoint();
            self.begin_segment(Some((&checkpoint, &snapshot)));
        } else if hint == RotateHint::Now {
            self.begin_segment(None);
        }
    }

    fn begin_segment(&mut self, start: Option<(&Checkpoint, &[u8])>) {
        self.core.record_mode.recorder().expect("the engine is recorded").rotate_segment(start);
    }
}
