//! Closing many connections in batches, and draining the whole server.
//!
//! Decides which connections are closed, when and in which order. How one connection is closed is up to
//! [`teardown`](super::teardown).
//!
//! ```text
//! serving --begin_drain()--> draining: no new seats; members are closed in batches; queues are flushed
//!                               |--all connections are freed-----------------------> drained
//!                               +--the deadline, or a second request: abort_all()--> drained
//! ```

use std::collections::{BTreeMap, VecDeque};
use std::fmt;

use log::info;
use smol_str::SmolStr;

use super::core::Core;
use super::operator::KickTarget;
use super::slot::{ConnState, Slot};
use crate::base::close::CloseReason;
use crate::base::id::ConnId;
use crate::base::time::Time;
use crate::http::Refusal;

/// Totals of a drain, since it began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DrainTotals {
    /// Connections that are freed and were not cut off: closed by the server or the peer, or broken by an error.
    pub closed: u64,
    /// Bytes written, since the drain began, to the connections that it waits for.
    pub flushed_bytes: u64,
    /// Queued bytes that were dropped, because their connection was cut off, broken or too slow.
    pub dropped_bytes: u64,
    /// Connections that were cut off, because the deadline passed or because of a second request to stop.
    pub forced: u64,
}

impl fmt::Display for DrainTotals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let DrainTotals { closed, flushed_bytes, dropped_bytes, forced } = self;
        write!(f, "closed={closed} flushed_bytes={flushed_bytes} dropped_bytes={dropped_bytes} forced={forced}")
    }
}

/// State of a drain.
pub(super) struct Drain {
    deadline: Time,
    /// Generation of the newest connection that the drain waits for. Later connections are refused with HTTP 503.
    newest: u64,
    /// Number of connections when the drain began.
    initial: usize,
    /// Number of those that are not freed yet.
    left: usize,
    flushed_bytes: u64,
    dropped_bytes: u64,
    forced: u64,
}

/// Connections that are to be closed in batches, in the order of closing.
#[derive(Default)]
pub(super) struct CloseQueue {
    /// Connections with increasing sequence numbers. The close reason is in the connection's slot.
    queue: VecDeque<(u64, ConnId)>,
    /// The last sequence number that was assigned.
    last: u64,
    /// Number of connections that may still be closed before `next_batch`.
    room: u32,
    next_batch: Time,
    orders: Orders,
}

/// The operator's orders to close connections for good. They also apply to members that join before the last batch.
///
/// An order found at least one member when it was given. It is removed with its last batch.
#[derive(Default)]
struct Orders {
    users: BTreeMap<SmolStr, Order>,
    lobbies: BTreeMap<SmolStr, Order>,
    all: Option<Order>,
}

#[derive(Clone, Copy)]
struct Order {
    reason: CloseReason,
    /// Sequence number of the last connection queued for the order. When that has been closed, the order is over.
    until: u64,
}

impl Orders {
    fn insert(&mut self, target: &KickTarget, order: Order) {
        let current = match target {
            KickTarget::User(user) => self.users.entry(user.as_str().into()).or_insert(order),
            KickTarget::Lobby(lobby) => self.lobbies.entry(lobby.as_str().into()).or_insert(order),
            KickTarget::All => self.all.get_or_insert(order),
        };
        current.until = order.until;
    }

    /// The reason to close a member that joins now, if an order applies to it.
    fn reason(&self, user: &str, lobby: &str) -> Option<CloseReason> {
        let order = self.users.get(user).or_else(|| self.lobbies.get(lobby)).or(self.all.as_ref());
        order.map(|order| order.reason)
    }

    /// Removes the orders that are over. `next` is the sequence number at the front of the queue.
    fn expire(&mut self, next: u64) {
        self.users.retain(|_, order| order.until >= next);
        self.lobbies.retain(|_, order| order.until >= next);
        self.all.take_if(|order| order.until < next);
    }
}

/// Strictness of an order to close a connection: a stricter order replaces an earlier one for connections still queued.
/// A reconnect is the mildest, then a shutdown; a kick and a closed lobby are final.
fn severity(reason: CloseReason) -> u8 {
    match reason {
        CloseReason::ForcedReconnect => 0,
        CloseReason::ServerShutdown => 1,
        _ => 2,
    }
}

impl CloseQueue {
    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Number of connections that the current batch may still close, and the time of the next batch.
    pub(super) fn numbers(&self) -> (u32, Time) {
        (self.room, self.next_batch)
    }

    pub(super) fn set_numbers(&mut self, (room, next_batch): (u32, Time)) {
        (self.room, self.next_batch) = (room, next_batch);
    }
}

impl Drain {
    fn waits_for(&self, id: ConnId) -> bool {
        id.generation() <= self.newest
    }

    fn totals(&self) -> DrainTotals {
        let freed = (self.initial - self.left) as u64;
        DrainTotals {
            closed: freed.saturating_sub(self.forced),
            flushed_bytes: self.flushed_bytes,
            dropped_bytes: self.dropped_bytes,
            forced: self.forced,
        }
    }
}

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
            self.close_queue.orders.insert(target, Order { reason, until: self.close_queue.last });
        }
        self.close_next_batch();
        count
    }

    fn enqueue_closes(&mut self, conns: impl IntoIterator<Item = ConnId>, reason: CloseReason) -> usize {
        let mut count = 0;
        for conn in conns {
            let Some(slot) = self.slot(conn).filter(|slot| slot.close_reason.is_none()) else { continue };
            count += 1;
            match &mut slot.queued_close {
                Some(before) if severity(*before) < severity(reason) => *before = reason,
                Some(_) => {}
                None => self.push_close(conn, reason),
            }
        }
        count
    }

    fn push_close(&mut self, conn: ConnId, reason: CloseReason) {
        self.slots[conn.index()].queued_close = Some(reason);
        // The entry of a connection that closes before its batch stays in the queue. Every existing connection has at
        // most one entry, so more than half of the entries are stale here. They are removed.
        if self.close_queue.queue.len() > 2 * self.slots.len() {
            let Core { close_queue, slots, .. } = self;
            close_queue.queue.retain(|(_, conn)| slots.get(conn.index()).is_some_and(|slot| slot.id == *conn));
            let next = close_queue.queue.front().map_or(u64::MAX, |&(number, _)| number);
            close_queue.orders.expire(next);
        }
        self.close_queue.last += 1;
        self.close_queue.queue.push_back((self.close_queue.last, conn));
    }

    /// Lets the connection `new`, which took over a member's seat, inherit the queued close of the connection `old`.
    ///
    /// A forced reconnect is not inherited: the member has just reconnected.
    pub(super) fn inherit_queued_close(&mut self, old: ConnId, new: ConnId) {
        let reason = self.slots[old.index()].queued_close.filter(|reason| *reason != CloseReason::ForcedReconnect);
        if reason.is_none() {
            return;
        }
        if let Some((_, conn)) = self.close_queue.queue.iter_mut().find(|(_, conn)| *conn == old) {
            *conn = new;
            self.slots[new.index()].queued_close = reason;
        }
    }

    /// Queues a connection that has just been seated, if an order that is not over applies to it.
    pub(super) fn apply_orders(&mut self, key: usize, user: &str, lobby: &str) {
        if self.close_queue.queue.is_empty() || self.slots[key].queued_close.is_some() {
            return;
        }
        let Some(reason) = self.close_queue.orders.reason(user, lobby) else { return };
        self.push_close(self.slots[key].id, reason);
        // An order about a user lasts until the user's newest connection is closed. New members do not extend orders
        // about a lobby or all members: with steady arrivals these would never end.
        if let Some(order) = self.close_queue.orders.users.get_mut(user) {
            order.until = self.close_queue.last;
        }
    }

    /// The connections of all members, oldest first.
    pub(super) fn members_by_age(&self) -> Vec<ConnId> {
        let members = self.slots.iter().filter(|(_, slot)| slot.seat().is_some());
        let mut conns: Vec<ConnId> = members.map(|(_, slot)| slot.id).collect();
        conns.sort_unstable_by_key(|conn| conn.generation());
        conns
    }

    fn close_next_batch(&mut self) {
        let first = self.close_queue.queue.front().map(|&(number, _)| number);
        if first.is_none() {
            return;
        }
        if self.now >= self.close_queue.next_batch {
            self.close_queue.room = self.config.drain_batch;
            self.close_queue.next_batch = self.now + self.config.drain_batch_interval;
        }
        while self.close_queue.room > 0
            && let Some((_, conn)) = self.close_queue.queue.pop_front()
        {
            if let Some(slot) = self.slot(conn).filter(|slot| slot.close_reason.is_none()) {
                let reason = slot.queued_close.expect("a queued connection has a reason");
                self.close_queue.room -= 1;
                self.begin_close(conn.index(), reason);
            }
        }
        let next = self.close_queue.queue.front().map(|&(number, _)| number);
        if next.is_none() {
            self.close_queue.queue = VecDeque::new();
        }
        if next != first {
            self.close_queue.orders.expire(next.unwrap_or(u64::MAX));
        }
    }

    /// Returns the connections that the next batch closes. Queued connections that are closing already do not count.
    pub(super) fn next_batch(&self) -> Vec<ConnId> {
        let CloseQueue { queue, room, next_batch, .. } = &self.close_queue;
        let room = if self.now >= *next_batch { self.config.drain_batch } else { *room };
        let is_open = |conn: ConnId| {
            self.slots.get(conn.index()).is_some_and(|slot| slot.id == conn && slot.close_reason.is_none())
        };
        queue.iter().map(|&(_, conn)| conn).filter(|&conn| is_open(conn)).take(room as usize).collect()
    }

    /// Time of the next batch or of the drain's deadline, whichever comes first.
    pub(super) fn next_batch_at(&self) -> Option<Time> {
        let batch = (!self.close_queue.queue.is_empty()).then_some(self.close_queue.next_batch);
        let deadline = self.draining.as_ref().filter(|drain| drain.left > 0).map(|drain| drain.deadline);
        [batch, deadline].into_iter().flatten().min()
    }

    /// Closes the connections whose batch is due. After the drain's deadline, cuts off the connections that are left.
    pub(super) fn drive_drain(&mut self) {
        self.close_next_batch();
        if self.draining.as_ref().is_some_and(|drain| drain.left > 0 && self.now >= drain.deadline) {
            self.abort_all();
        }
    }

    pub(super) fn check_close_queue(&self) {
        let CloseQueue { queue, last, orders, .. } = &self.close_queue;
        assert!(queue.iter().is_sorted_by(|a, b| a.0 < b.0) && queue.back().is_none_or(|(number, _)| number <= last));
        for (key, slot) in
            self.slots.iter().filter(|(_, slot)| slot.close_reason.is_none() && slot.queued_close.is_some())
        {
            let count = queue.iter().filter(|(_, conn)| *conn == slot.id).count();
            assert_eq!(count, 1, "a connection with a queued close is in the queue once: {key}");
        }
        let all_orders = || orders.users.values().chain(orders.lobbies.values()).chain(&orders.all);
        let first = queue.front().map_or(u64::MAX, |&(number, _)| number);
        assert!(all_orders().all(|order| order.until >= first), "an order is removed with its last batch");
    }

    // ---- draining the server ----

    /// Begins the drain: no further connection gets a seat. Returns the drain's deadline, or `None` if it had begun
    /// already.
    pub(super) fn begin_drain(&mut self) -> Option<Time> {
        if self.draining.is_some() {
            return None;
        }
        // Flushed now, because no presence is sent while draining, and a member must be announced before its messages
        // are sent.
        self.flush_all_presence();
        let deadline = self.now + self.config.drain_deadline;
        let initial = self.slots.len();
        self.draining = Some(Drain {
            deadline,
            newest: self.counters.accepted,
            initial,
            left: initial,
            flushed_bytes: 0,
            dropped_bytes: 0,
            forced: 0,
        });
        info!("draining {initial} connections, until {deadline} after the start");
        self.note_drained();
        Some(deadline)
    }

    /// Closes all members in batches. Connections whose request is undecided are answered with HTTP 503 at once.
    pub(super) fn close_all_members(&mut self) {
        let pending = self.slots.iter().filter(|(_, slot)| matches!(slot.state, ConnState::Pending(_)));
        let pending: Vec<ConnId> = pending.map(|(_, slot)| slot.id).collect();
        for conn in pending {
            self.close_with_http(conn.index(), CloseReason::ServerShutdown, &shutting_down());
        }
        self.close_in_batches(self.members_by_age(), CloseReason::ServerShutdown);
    }

    /// Cuts off all connections that are not closed.
    pub(super) fn abort_all(&mut self) {
        let left: Vec<ConnId> =
            self.slots.iter().filter(|(_, slot)| !slot.is_closed()).map(|(_, slot)| slot.id).collect();
        if let Some(drain) = &mut self.draining {
            drain.forced += left.iter().filter(|&&conn| drain.waits_for(conn)).count() as u64;
        }
        left.iter().for_each(|conn| self.abort(conn.index(), CloseReason::ServerShutdown));
    }

    /// Whether a drain has still to flush the connection's queue. Such a connection keeps its socket until the drain's
    /// deadline, however slowly it reads.
    pub(super) fn must_flush(&self, slot: &Slot) -> bool {
        self.draining.as_ref().is_some_and(|drain| drain.waits_for(slot.id)) && slot.wire.outbox().is_some()
    }

    pub(super) fn note_flushed(&mut self, conn: ConnId, bytes: usize) {
        if let Some(drain) = self.draining.as_mut().filter(|drain| drain.waits_for(conn)) {
            drain.flushed_bytes += bytes as u64;
        }
    }

    pub(super) fn note_dropped(&mut self, conn: ConnId, bytes: usize) {
        if let Some(drain) = self.draining.as_mut().filter(|drain| drain.waits_for(conn)) {
            drain.dropped_bytes += bytes as u64;
        }
    }

    /// Counts a connection as drained after its slot was freed.
    pub(super) fn note_freed(&mut self, conn: ConnId) {
        if let Some(drain) = self.draining.as_mut().filter(|drain| drain.waits_for(conn)) {
            drain.left -= 1;
            self.note_drained();
        }
    }

    fn note_drained(&self) {
        if let Some(drain) = self.draining.as_ref().filter(|drain| drain.left == 0) {
            info!("drained: {}", drain.totals());
        }
    }

    /// Milliseconds after which a member that is closed now should reconnect.
    ///
    /// At least a second, in which the server can be started again. The rest depends on the connection's generation,
    /// and is spread evenly, so that no more than about a thousand members reconnect per second.
    pub(super) fn retry_after_ms(&self, conn: ConnId) -> u64 {
        let window = self.draining.as_ref().map_or(0, |drain| drain.initial as u64).max(4000);
        // Multiples of the golden ratio fill a range evenly, in any number (Knuth, volume 3, section 6.4).
        let fraction = u64::from((conn.generation() as u32).wrapping_mul(0x9e37_79b9));
        1000 + ((fraction * window) >> 32)
    }

    pub(super) fn is_draining(&self) -> bool {
        self.draining.is_some()
    }

    pub(super) fn is_drained(&self) -> bool {
        self.draining.as_ref().is_some_and(|drain| drain.left == 0)
    }

    pub(super) fn drain_totals(&self) -> Option<DrainTotals> {
        self.draining.as_ref().map(Drain::totals)
    }
}

/// The response to requests that arrive or are undecided while the server is draining.
pub(super) fn shutting_down() -> Refusal {
    Refusal::new(503, "the server is shutting down; try again in a moment")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apps::Relay;
    use crate::config::Config;
    use crate::engine::{Engine, Start};

    /// Accepts, refuses and drains around each power of two at which a counter could be truncated.
    #[test]
    fn a_drain_ends_after_any_number_of_accepts() {
        for accepted in [1 << 16, 1 << 31, 1 << 32, 1 << 33] {
            let config = Config { max_pending: 2, ..Config::default() };
            let mut engine = Engine::new(config, Start { unix_micros: 0, seed: 1 }, Relay::default());
            engine.core.counters.accepted = accepted - 2;
            let peers = ["10.0.0.1:1", "10.0.0.1:2", "10.0.0.1:3", "10.0.0.2:4"];
            let conns = peers.map(|peer| engine.handle_accept(Time::ZERO, peer.parse().unwrap()).unwrap());
            assert!(
                conns.is_sorted_by_key(|conn| conn.generation()),
                "{conns:?} must be in the order in which they were accepted"
            );
            assert!(
                engine.core.slots[conns[0].index()].is_closed(),
                "the oldest connection is closed for one from another address"
            );
            engine.handle_drain(Time::ZERO);
            while let Some(conn) = engine.poll_writable() {
                engine.write_to(conn, &mut Vec::new()).unwrap();
                engine.handle_hangup(Time::ZERO, conn);
            }
            while engine.poll_closed().is_some() {}
            assert!(engine.is_drained(), "{accepted}: {:?}", engine.drain_totals());
        }
    }
}
