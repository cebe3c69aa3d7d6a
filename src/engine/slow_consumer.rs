//! What a member gets that reads too slowly: its queue has no room for a frame.
//!
//! How much may be queued, and which frames count, is checked in `egress/queue.rs`; `max_outbound_bytes` is the bound.

use super::core::Core;
use crate::base::close::CloseReason;
use crate::base::id::ConnKey;

impl Core {
    /// Closes a connection whose queue has no room for a frame.
    pub(super) fn close_slow_consumer(&mut self, key: ConnKey) {
        self.begin_close(key, CloseReason::SlowConsumer);
    }

    /// Discards the unsent frames of a slow consumer, so that the close reason can reach it.
    pub(super) fn discard_for_goodbye(&mut self, key: ConnKey) {
        let dropped = self.egress.discard_unsent(key);
        self.counters.frames_dropped += dropped.frames as u64;
        self.note_dropped(self.conns[key].id, dropped.bytes);
    }
}
