//! Unread frames of a lobby's log, and which members do not read the log because they lag.

use super::output::Egress;
use crate::base::arena::Key;
use crate::base::id::{ConnKey, LobbyKey};

impl Egress {
    /// The lobby of the member under `key`, if the lobby's log has frames that the member has not read. `None` for a
    /// lagging member or one that receives events, which do not read the log.
    #[inline]
    pub(super) fn lobby_with_unread(&self, key: ConnKey) -> Option<LobbyKey> {
        let output = self.conns.get(key.index()).filter(|output| output.feed.reads_log())?;
        output.lobby.filter(|&lobby| self.log.has_unread(lobby, output.cursor))
    }

    /// Queues a member's unread frames, so that another frame can be queued behind them.
    pub(super) fn catch_up(&mut self, key: ConnKey) {
        if self.queue_unread(key) {
            if !self.corks_output() {
                self.mark_dirty(key);
            }
            self.update_lagging(key);
        }
    }

    /// Moves a member's unread frames from the log to its outbox. Returns whether there were any.
    pub(super) fn queue_unread(&mut self, key: ConnKey) -> bool {
        let Some(lobby) = self.lobby_with_unread(key) else { return false };
        let is_corked = self.corks_output();
        let Egress { conns, log, outboxes, corked, compressor, .. } = self;
        let output = &mut conns[key.index()];
        let was_corked = output.is_corked();
        let encoding = log.prepare(lobby, output.cursor, key, output.feed.encoding(), compressor);
        let mut has_queued = false;
        for range in log.unread_frames(lobby, output.cursor, key, encoding) {
            outboxes.of(&mut output.outbox).push_range(range, is_corked);
            has_queued = true;
        }
        if has_queued && is_corked && !was_corked {
            corked.push(output.id);
        }
        output.cursor = log.end_cursor(lobby);
        has_queued
    }

    /// Marks a member as lagging if its socket is blocked or its queue costs more than half the bound.
    pub(super) fn update_lagging(&mut self, key: ConnKey) {
        let output = self.output(key);
        if output.feed.reads_log() && (output.is_blocked || output.queued_cost() > self.half_bound()) {
            self.mark_lagging(key);
        }
    }

    /// Marks a member as lagging: from now on, broadcasts are queued for it frame by frame.
    pub(super) fn mark_lagging(&mut self, key: ConnKey) {
        self.catch_up(key);
        let Egress { conns, log, .. } = self;
        let output = &mut conns[key.index()];
        if output.feed.reads_log()
            && let Some(lobby) = output.lobby
        {
            output.feed = output.feed.with_lagging(true);
            log.mark_lagging(lobby, key);
            self.lagging_count += 1;
        }
    }

    /// Ends a member's lagging: it reads the lobby's log again, from the next frame on.
    pub(super) fn clear_lagging(&mut self, key: ConnKey) {
        let Egress { conns, log, .. } = self;
        let output = &mut conns[key.index()];
        if output.feed.is_lagging() {
            output.feed = output.feed.with_lagging(false);
            let lobby = output.lobby.expect("only members lag");
            output.cursor = log.end_cursor(lobby);
            log.clear_lagging(lobby, key);
            self.lagging_count -= 1;
        }
    }
}
