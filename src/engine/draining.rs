//! Closing many connections in batches, and draining the whole server.
//!
//! Decides which connections are closed, when and in which order. How one connection is closed is up to
//! [`teardown`](super::teardown).

use log::{info, warn};

use super::core::Core;
use super::operator::KickTarget;
use super::state::close_queue::severity;
use super::state::conn::ConnState;
use super::state::drain::{Drain, DrainTotals};
use crate::base::close::{CloseKind, CloseReason};
use crate::base::id::{ConnId, ConnKey};
use crate::base::time::Time;
use crate::http::PlainResponse;
use crate::ws::handshake::Acceptance;

/// Longest `retry_after_ms` when a node of a cluster drains. Shorter than [`away_after`](crate::Config::away_after).
const MAX_MOVE_MS: u64 = 300;

impl Core {
    // ---- in batches ----

    /// Closes connections for `reason`: `drain_batch` of them now, and as many every `drain_batch_interval`. Returns
    /// the number of connections that will be closed.
    ///
    /// Batches limit the load on the loop and the rate of reconnects. A connection that is queued already keeps its
    /// position, and keeps its reason unless the new one is [stricter](severity).
    pub(super) fn close_in_batches(&mut self, conns: impl IntoIterator<Item = ConnId>, reason: CloseReason) -> usize {
        let count = self.enqueue_closes(conns, reason);
        self.close_next_batch();
        count
    }

    /// Closes connections in batches, as [`close_in_batches`](Self::close_in_batches) does, for an order about
    /// `target`.
    ///
    /// Unless the reason asks for a reconnect, the order also applies to members that join before its last batch:
    /// otherwise a user could escape by a second connection.
    pub(super) fn order_close(
        &mut self,
        target: &KickTarget,
        conns: impl IntoIterator<Item = ConnId>,
        reason: CloseReason,
    ) -> usize {
        let count = self.enqueue_closes(conns, reason);
        if count > 0 && reason != CloseReason::ForcedReconnect {
            self.close_queue.insert_order(target, reason);
        }
        self.close_next_batch();
        count
    }

    fn enqueue_closes(&mut self, conns: impl IntoIterator<Item = ConnId>, reason: CloseReason) -> usize {
        let mut count = 0;
        for conn in conns {
            let Some(slot) = self.slot(conn).filter(|slot| slot.close_kind.is_none()) else { continue };
            count += 1;
            match &mut slot.queued_close {
                Some(before) if severity(*before) < severity(reason.kind()) => *before = reason.kind(),
                Some(_) => {}
                None => self.push_close(conn, reason),
            }
        }
        count
    }

    fn push_close(&mut self, conn: ConnId, reason: CloseReason) {
        self.conns[conn.key()].queued_close = Some(reason.kind());
        // The entry of a connection that closes before its batch stays in the queue. Every existing connection has at
        // most one entry, so more than half of the entries are stale here. They are removed.
        if self.close_queue.len() > 2 * self.conns.len() {
            self.close_queue.prune(|conn| self.conns.get(conn).is_some());
        }
        self.close_queue.push(conn);
    }

    /// Lets the connection `new`, which took over a member's seat, inherit the queued close of the connection `old`.
    ///
    /// A forced reconnect is not inherited: the member has just reconnected.
    pub(super) fn inherit_queued_close(&mut self, old: ConnId, new: ConnId) {
        let reason = self.conns[old.key()].queued_close.filter(|kind| *kind != CloseKind::ForcedReconnect);
        if reason.is_some() && self.close_queue.replace(old, new) {
            self.conns[new.key()].queued_close = reason;
        }
    }

    /// Queues a connection that has just been seated, if an order that is not over applies to it.
    pub(super) fn apply_orders(&mut self, key: ConnKey, user: &str, lobby: &str) {
        if self.close_queue.is_empty() || self.conns[key].queued_close.is_some() {
            return;
        }
        let Some(reason) = self.close_queue.ordered_reason(user, lobby) else { return };
        self.push_close(self.conns[key].id, reason);
        // An order about a user lasts until the user's newest connection is closed. New members do not extend orders
        // about a lobby or all members: with steady arrivals these would never end.
        self.close_queue.extend_order(user);
    }

    /// The connections of all members, oldest first.
    pub(super) fn members_by_age(&self) -> Vec<ConnId> {
        let members = self.conns.iter().filter(|(_, slot)| slot.seat().is_some());
        let mut conns: Vec<ConnId> = members.map(|(_, slot)| slot.id).collect();
        conns.sort_unstable_by_key(|conn| conn.generation());
        conns
    }

    fn close_next_batch(&mut self) {
        if self.close_queue.is_empty() {
            return;
        }
        self.close_queue.begin_batch(self.clock.own(), self.config.drain_batch, self.config.drain_batch_interval);
        while let Some(conn) = self.close_queue.pop() {
            if let Some(slot) = self.conns.open(conn).filter(|slot| slot.close_kind.is_none()) {
                let reason = slot.queued_close.and_then(CloseKind::reason);
                let reason = reason.expect("a queued connection has a reason, and none of the application");
                self.close_queue.spend();
                self.begin_close(conn.key(), reason);
            }
        }
        self.close_queue.end_batch();
    }

    /// Returns the connections that the next batch closes. Queued connections that are closing already do not count.
    pub(super) fn next_batch(&self) -> Vec<ConnId> {
        let is_open = |conn| self.conns.get(conn).is_some_and(|slot| slot.close_kind.is_none());
        self.close_queue.upcoming(self.clock.own(), self.config.drain_batch, is_open)
    }

    /// Time of the next batch or of the drain's deadline, whichever comes first.
    pub(super) fn next_batch_at(&self) -> Option<Time> {
        let deadline = self.drain.as_ref().filter(|_| !self.is_drained()).map(|drain| drain.deadline);
        [self.close_queue.next_batch_at(), deadline].into_iter().flatten().min()
    }

    /// Closes the connections whose batch is due. After the drain's deadline, cuts off the connections that are left.
    pub(super) fn drive_drain(&mut self) {
        self.close_next_batch();
        if self.drain.as_ref().is_some_and(|drain| !drain.is_over() && self.now() >= drain.deadline) {
            self.abort_all("drain_deadline has passed");
        }
    }

    // ---- draining the server ----

    /// Begins the drain: no further connection gets a seat. Returns the drain's deadline, or `None` if it had begun
    /// already.
    pub(super) fn begin_drain(&mut self) -> Option<Time> {
        if self.drain.is_some() {
            return None;
        }
        // Flushed now, because no presence is sent while draining, and a member must be announced before its messages
        // are sent.
        self.flush_all_presence();
        let within = self.config.drain_deadline;
        let initial = self.conns.len();
        let drain = Drain::new(self.now(), within, self.counters.accepted, initial);
        let deadline = drain.deadline;
        self.drain = Some(drain);
        self.feed_drain(within);
        self.update_corking();
        info!("draining: connections={initial} within {within:?}");
        self.note_drained();
        Some(deadline)
    }

    /// Closes all members, and the connections that follow the list of lobbies, in batches. Connections whose request is undecided are answered with HTTP 503 at once.
    pub(super) fn close_all_members(&mut self) {
        let pending =
            self.conns.iter().filter(|(_, slot)| matches!(slot.state, ConnState::Pending(_) | ConnState::Overflow));
        let pending: Vec<ConnId> = pending.map(|(_, slot)| slot.id).collect();
        for conn in pending {
            let wire = &self.conns[conn.key()].wire;
            if wire.is_idle() {
                self.abort(conn.key(), CloseReason::HttpRefused);
            } else if matches!(wire.pending_request(), Some(Acceptance::Events)) {
                self.begin_close(conn.key(), CloseReason::ServerShutdown);
            } else if wire.is_reading_body() {
                self.refuse_post(conn.key(), shutting_down());
            } else {
                self.close_with_http(conn.key(), CloseReason::ServerShutdown, &shutting_down());
            }
        }
        let admitted = self.conns.iter().filter(|(_, slot)| slot.is_admitted());
        let mut admitted: Vec<ConnId> = admitted.map(|(_, slot)| slot.id).collect();
        admitted.sort_unstable_by_key(|conn| conn.generation());
        self.close_in_batches(admitted, CloseReason::ServerShutdown);
    }

    /// Cuts off all connections that are not closed, for this cause.
    pub(super) fn abort_all(&mut self, cause: &str) {
        let left: Vec<ConnId> =
            self.conns.iter().filter(|(_, slot)| !slot.is_closed()).map(|(_, slot)| slot.id).collect();
        if !left.is_empty() {
            warn!("cut off connections={}: {cause}", left.len());
        }
        if let Some(drain) = &mut self.drain {
            drain.note_forced(&left);
        }
        left.iter().for_each(|conn| self.abort(conn.key(), CloseReason::ServerShutdown));
    }

    /// Whether a drain has still to flush the connection's queue. Such a connection keeps its socket until the drain's
    /// deadline, however slowly it reads.
    pub(super) fn must_flush(&self, conn: ConnId) -> bool {
        self.drain.as_ref().is_some_and(|drain| drain.waits_for(conn)) && self.egress.has_queue(conn.key())
    }

    pub(super) fn note_flushed(&mut self, conn: ConnId, bytes: usize) {
        self.drain.iter_mut().for_each(|drain| drain.note_flushed(conn, bytes));
    }

    pub(super) fn note_dropped(&mut self, conn: ConnId, bytes: usize) {
        self.drain.iter_mut().for_each(|drain| drain.note_dropped(conn, bytes));
    }

    /// Counts a connection as drained after its slot was freed.
    pub(super) fn note_freed(&mut self, conn: ConnId) {
        let now = self.clock.own();
        if self.drain.as_mut().is_some_and(|drain| drain.note_freed(now, conn)) {
            self.note_drained();
        }
    }

    fn note_drained(&self) {
        if let Some(drain) = self.drain.as_ref().filter(|drain| drain.is_over()) {
            let totals = drain.totals(self.clock.own());
            info!("drained in {:.3}s: {totals}", totals.elapsed.as_secs_f64());
        }
    }

    /// Milliseconds after which a member that is closed now should reconnect.
    ///
    /// At least a second, in which the server can be started again. The rest depends on the connection's generation,
    /// and is spread evenly, so that no more than about a thousand members reconnect per second. When a node of a cluster
    /// drains, the others are there already: its members are spread over a moment in which nobody notices that they are away.
    pub(super) fn retry_after_ms(&self, conn: ConnId) -> u64 {
        let (least, window) = match &self.drain {
            Some(_) if self.is_clustered() => (0, MAX_MOVE_MS),
            drain => (1000, drain.as_ref().map_or(0, |drain| drain.initial as u64).max(4000)),
        };
        // Multiples of the golden ratio fill a range evenly, in any number (Knuth, volume 3, section 6.4).
        let fraction = u64::from((conn.generation() as u32).wrapping_mul(0x9e37_79b9));
        least + ((fraction * window) >> 32)
    }

    /// Whether the drain is over. For a node of a cluster, the log also has the end of all its connections, unless that takes
    /// longer than the drain may.
    pub(super) fn is_drained(&self) -> bool {
        let Some(drain) = self.drain.as_ref().filter(|drain| drain.is_over()) else { return false };
        let is_settled = self.cluster.as_ref().is_none_or(|cluster| cluster.is_settled());
        is_settled || drain.is_cut_off || self.now() >= drain.deadline
    }

    pub(super) fn drain_totals(&self) -> Option<DrainTotals> {
        self.drain.as_ref().map(|drain| drain.totals(self.now()))
    }
}

/// The response to requests that arrive or are undecided while the server is draining.
pub(super) fn shutting_down() -> PlainResponse {
    PlainResponse::new(503, "the server is shutting down; try again in a moment")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apps::Relay;
    use crate::config::Config;
    use crate::engine::Engine;
    use crate::engine::driver::Start;
    use crate::sim::MemorySockets;

    /// Accepts, refuses and drains around each power of two at which a counter could be truncated.
    #[test]
    fn a_drain_ends_after_any_number_of_accepts() {
        for accepted in [1 << 16, 1 << 31, 1 << 32, 1 << 33] {
            let config = Config { max_pending: 2, ..Config::default() };
            let mut engine = Engine::new(
                config.check().expect("the configuration is valid"),
                Start { unix_micros: 0, seed: 1 },
                Relay::default(),
            );
            engine.core.counters.accepted = accepted - 2;
            let peers = ["10.0.0.1:1", "10.0.0.1:2", "10.0.0.1:3", "10.0.0.2:4"];
            let conns = peers.map(|peer| engine.handle_accept(Time::ZERO, peer.parse().unwrap()).unwrap());
            assert!(
                conns.is_sorted_by_key(|conn| conn.generation()),
                "{conns:?} must be in the order in which they were accepted"
            );
            assert!(
                engine.core.conns[conns[0].key()].is_closed(),
                "the oldest connection is closed for one from another address"
            );
            engine.handle_drain(Time::ZERO);
            let mut sockets = MemorySockets::default();
            engine.flush(&mut sockets).unwrap();
            for write in sockets.take_writes() {
                engine.handle_hangup(Time::ZERO, write.conn);
            }
            engine.flush(&mut sockets).unwrap();
            assert!(engine.is_drained(), "{accepted}: {:?}", engine.drain_totals());
        }
    }
}
