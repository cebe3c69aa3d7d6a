//! Asserts the invariants of pending output.

use super::broadcast_log::Encoding;
use super::output::{Egress, Output};
use crate::base::id::{ConnId, ConnKey, LobbyKey};

impl Egress {
    /// Asserts the invariants of one connection's output, among them those that allow a broadcast without a check of
    /// each member's bound.
    pub(crate) fn check(&self, id: ConnId, lobby: Option<LobbyKey>) {
        let key = id.key();
        let output = self.output(key);
        assert_eq!((output.id, output.lobby), (id, lobby), "exactly the members read their lobby's log");
        output.outbox.iter().for_each(|outbox| outbox.check());
        let is_flushing = self.flushing.contains(&id);
        let has_ranges = output.outbox.as_ref().is_some_and(|outbox| outbox.has_ranges());
        assert!(
            !has_ranges || output.is_dirty || is_flushing || self.corked.contains(&id),
            "frames of the broadcast log are written in their turn: {output:?}"
        );
        assert!(!output.is_corked() || self.corked.contains(&id), "corked output is uncorked at the tick: {output:?}");
        let is_ready = output.outbox.as_ref().is_some_and(|outbox| outbox.is_ready());
        assert!(
            !is_ready || output.is_dirty || output.is_blocked,
            "queued output is scheduled for a write: {output:?}"
        );
        let Some(lobby) = lobby else { return assert!(!output.feed.is_lagging(), "only members lag") };
        let entries = self.log.lagging(lobby).iter().filter(|&&other| other == key).count();
        let reads_log = output.feed.reads_log();
        assert_eq!(
            entries,
            usize::from(!reads_log),
            "the log lists exactly the members that do not read it, once each"
        );
        if !reads_log {
            return;
        }
        let half = self.half_bound();
        assert!(!output.is_blocked && output.queued_cost() <= half, "a member that does not lag has room");
        let unread: usize =
            self.log.unread_frames(lobby, output.cursor, key, Encoding::Plain).map(|range| range.cost()).sum();
        assert!(unread <= half, "unread frames are within half of every member's bound");
        assert!(
            output.outbox.is_some() || !output.is_above_high_mark,
            "a member above the high-water mark has a queue"
        );
        let is_scheduled = output.is_dirty || is_flushing || self.flush_targets.contains(&key);
        assert!(
            unread == 0 || is_scheduled || self.log.is_marked_for_flush(lobby),
            "a member with unread frames is written to in this turn"
        );
    }

    /// Asserts what concerns all connections: the lagging members are counted.
    pub(crate) fn check_all(&self) {
        let lagging = self.conns.iter().filter(|output| output.feed.is_lagging()).count();
        assert_eq!(self.lagging_count, lagging, "the lagging members are counted");
        let is_compressed = |output: &&Output| output.lobby.is_some() && output.feed.takes_compressed();
        let compressed = self.conns.iter().filter(is_compressed).count();
        assert_eq!(
            self.log.all_compressed_members(),
            compressed,
            "the members that take compressed frames are counted"
        );
    }

    /// Asserts that nothing is kept for a connection that is closed.
    pub(crate) fn check_closed(&self, key: ConnKey) {
        let output = self.output(key);
        assert!(output.id == ConnId::NONE && output.outbox.is_none(), "a closed connection has no output");
    }
}
