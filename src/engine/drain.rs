//! Telling many to go: in batches, oldest first; and how the whole server ends.
//!
//! ```text
//! serving --begin_drain()--> draining: no new seats; batches of goodbyes; everything queued is flushed
//!                               |--everybody has gone----------------------------> drained
//!                               +--the deadline, or a second request: abort_all()--> drained
//! ```

use std::collections::{BTreeMap, VecDeque};
use std::fmt;

use log::info;
use smol_str::SmolStr;

use super::core::Core;
use super::operator::KickTarget;
use super::slot::{ConnState, Slot};
use crate::close::CloseReason;
use crate::id::ConnId;
use crate::time::Time;
use crate::wire::http::Refusal;

/// What came of saying goodbye to everybody.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DrainTotals {
    /// Connections that ended in good order, or by themselves.
    pub closed: u64,
    /// Bytes written to them since the drain began.
    pub flushed_bytes: u64,
    /// Bytes that were queued for connections that were cut off, lost or too slow.
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

/// The server is saying goodbye.
pub(super) struct Drain {
    deadline: Time,
    /// The youngest connection that is waited for. Later ones are only told to come back another time.
    youngest: u64,
    /// How many there were to wait for.
    begun: usize,
    /// How many of those are left.
    left: usize,
    flushed_bytes: u64,
    dropped_bytes: u64,
    forced: u64,
}

/// Connections that will be told to go, in the order in which they will.
#[derive(Default)]
pub(super) struct CloseQueue {
    /// Connections with increasing sequence numbers. The reason is in the slot.
    queue: VecDeque<(u64, ConnId)>,
    /// The sequence number given last.
    last: u64,
    /// How many more may be told before `next_batch`.
    room: u32,
    next_batch: Time,
    orders: Orders,
}

/// The operator's orders to close connections for good whose batches are still running. They apply to members that join
/// meanwhile too.
///
/// An order found at least one member when it was given, and is forgotten with its last batch.
#[derive(Default)]
struct Orders {
    users: BTreeMap<SmolStr, Order>,
    lobbies: BTreeMap<SmolStr, Order>,
    everybody: Option<Order>,
}

#[derive(Clone, Copy)]
struct Order {
    reason: CloseReason,
    /// Sequence number of the last connection queued for it. When that has been closed, the order is over.
    until: u64,
}

impl Orders {
    fn insert(&mut self, whom: &KickTarget, order: Order) {
        let standing = match whom {
            KickTarget::User(user) => self.users.entry(user.as_str().into()).or_insert(order),
            KickTarget::Lobby(lobby) => self.lobbies.entry(lobby.as_str().into()).or_insert(order),
            KickTarget::Everybody => self.everybody.get_or_insert(order),
        };
        standing.until = order.until;
    }

    /// The reason to close a member that joins now.
    fn reason(&self, user: &str, lobby: &str) -> Option<CloseReason> {
        let order = self.users.get(user).or_else(|| self.lobbies.get(lobby)).or(self.everybody.as_ref());
        order.map(|order| order.reason)
    }

    /// Forgets the orders that are over. `next` is the sequence number at the front of the queue.
    fn expire(&mut self, next: u64) {
        self.users.retain(|_, order| order.until >= next);
        self.lobbies.retain(|_, order| order.until >= next);
        self.everybody.take_if(|order| order.until < next);
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

    /// Goodbyes left in the current batch, and the time of the next batch.
    pub(super) fn numbers(&self) -> (u32, Time) {
        (self.room, self.next_batch)
    }

    pub(super) fn set_numbers(&mut self, (room, next_batch): (u32, Time)) {
        (self.room, self.next_batch) = (room, next_batch);
    }
}

impl Drain {
    fn waits_for(&self, id: ConnId) -> bool {
        id.generation() <= self.youngest
    }

    fn totals(&self) -> DrainTotals {
        let gone = (self.begun - self.left) as u64;
        DrainTotals {
            closed: gone.saturating_sub(self.forced),
            flushed_bytes: self.flushed_bytes,
            dropped_bytes: self.dropped_bytes,
            forced: self.forced,
        }
    }
}

impl Core {
    // ---- in batches ----

    /// Ends connections for `reason`, `drain_batch` of them now and so many every `drain_batch_interval`, so that
    /// neither the loop nor those who come back are overrun. Returns how many will be ended.
    ///
    /// A connection that is queued already keeps its place, and its reason unless the new one is [stricter](severity).
    pub(super) fn close_in_batches(&mut self, conns: impl IntoIterator<Item = ConnId>, reason: CloseReason) -> usize {
        let count = self.enqueue_closes(conns, reason);
        self.close_next_batch();
        count
    }

    /// The same for an order about `whom`. Unless it asks for a reconnect, it also applies to members that join before its last
    /// batch: otherwise a user could escape by a second connection.
    pub(super) fn order_close(
        &mut self,
        whom: &KickTarget,
        conns: impl IntoIterator<Item = ConnId>,
        reason: CloseReason,
    ) -> usize {
        let count = self.enqueue_closes(conns, reason);
        if count > 0 && reason != CloseReason::ForcedReconnect {
            self.close_queue.orders.insert(whom, Order { reason, until: self.close_queue.last });
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
        // Connections that end before their batch stay in the queue, so it is purged when most of it may be gone.
        if self.close_queue.queue.len() > 2 * self.slots.len() {
            let Core { close_queue, slots, .. } = self;
            close_queue.queue.retain(|(_, conn)| slots.get(conn.index()).is_some_and(|slot| slot.id == *conn));
            let next = close_queue.queue.front().map_or(u64::MAX, |&(number, _)| number);
            close_queue.orders.expire(next);
        }
        self.close_queue.last += 1;
        self.close_queue.queue.push_back((self.close_queue.last, conn));
    }

    /// A newer connection of a member has taken its seat over. If the member was to be told to go, it still is, unless to
    /// come again was all that was asked of it.
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

    /// A connection has been seated. Queues it if an order whose batches are running applies to it.
    pub(super) fn apply_orders(&mut self, key: usize, user: &str, lobby: &str) {
        if self.close_queue.queue.is_empty() || self.slots[key].queued_close.is_some() {
            return;
        }
        let Some(reason) = self.close_queue.orders.reason(user, lobby) else { return };
        self.push_close(self.slots[key].id, reason);
        // An order about one user lasts until its newest connection is closed. The others are not extended by newcomers: with
        // steady arrivals they would never end.
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
                let reason = slot.queued_close.expect("what is queued has a reason");
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

    /// Connections that the next batch closes. Connections that have closed by themselves stand in the queue too, and take no
    /// room.
    pub(super) fn next_batch(&self) -> Vec<ConnId> {
        let CloseQueue { queue, room, next_batch, .. } = &self.close_queue;
        let room = if self.now >= *next_batch { self.config.drain_batch } else { *room };
        let is_there = |conn: ConnId| {
            self.slots.get(conn.index()).is_some_and(|slot| slot.id == conn && slot.close_reason.is_none())
        };
        queue.iter().map(|&(_, conn)| conn).filter(|&conn| is_there(conn)).take(room as usize).collect()
    }

    /// The next batch, or the end of the drain.
    pub(super) fn next_batch_at(&self) -> Option<Time> {
        let batch = (!self.close_queue.queue.is_empty()).then_some(self.close_queue.next_batch);
        let deadline = self.draining.as_ref().filter(|drain| drain.left > 0).map(|drain| drain.deadline);
        [batch, deadline].into_iter().flatten().min()
    }

    /// Says the goodbyes that are due, and cuts off what is left when the time for the drain is over.
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
            assert_eq!(count, 1, "a connection to be closed is queued once: {key}");
        }
        let every = || orders.users.values().chain(orders.lobbies.values()).chain(&orders.everybody);
        let first = queue.front().map_or(u64::MAX, |&(number, _)| number);
        assert!(every().all(|order| order.until >= first), "an order is forgotten with its last batch");
    }

    // ---- the end of it all ----

    /// Nobody is let in any more. Returns by when it must be over, the first time.
    pub(super) fn begin_drain(&mut self) -> Option<Time> {
        if self.draining.is_some() {
            return None;
        }
        // Nothing is told of comings and goings from now on, and nobody may hear from a member it does not know.
        self.flush_all_presence();
        let deadline = self.now + self.config.drain_deadline;
        let begun = self.slots.len();
        self.draining = Some(Drain {
            deadline,
            youngest: self.counters.accepted,
            begun,
            left: begun,
            flushed_bytes: 0,
            dropped_bytes: 0,
            forced: 0,
        });
        info!("draining {begun} connections, until {deadline}");
        self.note_drained();
        Some(deadline)
    }

    /// Says goodbye to everybody, in batches; those who were not let in yet are told at once.
    pub(super) fn close_all_members(&mut self) {
        let pending = self.slots.iter().filter(|(_, slot)| matches!(slot.state, ConnState::Pending(_)));
        let pending: Vec<ConnId> = pending.map(|(_, slot)| slot.id).collect();
        for conn in pending {
            self.close_with_http(conn.index(), CloseReason::ServerShutdown, &shutting_down());
        }
        self.close_in_batches(self.members_by_age(), CloseReason::ServerShutdown);
    }

    /// Cuts off whatever is left.
    pub(super) fn abort_all(&mut self) {
        let left: Vec<ConnId> =
            self.slots.iter().filter(|(_, slot)| !slot.is_closed()).map(|(_, slot)| slot.id).collect();
        if let Some(drain) = &mut self.draining {
            drain.forced += left.iter().filter(|&&conn| drain.waits_for(conn)).count() as u64;
        }
        left.iter().for_each(|conn| self.abort(conn.index(), CloseReason::ServerShutdown));
    }

    /// Whether the connection must not be given up yet, however slowly it reads: a drain flushes what is queued, and
    /// has one deadline for all.
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

    /// A connection's slot is free.
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

    /// When a member that is told goodbye now should come back: spread evenly by age, so that no more than about a
    /// thousand come in a second, and nobody comes before the server can have been started again.
    pub(super) fn retry_after_ms(&self, conn: ConnId) -> u64 {
        let window = self.draining.as_ref().map_or(0, |drain| drain.begun as u64).max(4000);
        // Multiples of the golden ratio fill a range evenly, however many there are (Knuth, volume 3, section 6.4).
        let place = u64::from((conn.generation() as u32).wrapping_mul(0x9e37_79b9));
        1000 + ((place * window) >> 32)
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

/// The answer to requests that come, or are undecided, while the server is draining.
pub(super) fn shutting_down() -> Refusal {
    Refusal::new(503, "the server is shutting down; try again in a moment")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apps::Relay;
    use crate::config::Config;
    use crate::engine::{Engine, Start};

    /// Accepts, refuses and drains around every power of two at which a counter could be cut off.
    #[test]
    fn a_drain_ends_after_any_number_of_accepts() {
        for accepted in [1 << 16, 1 << 31, 1 << 32, 1 << 33] {
            let config = Config { max_pending: 2, ..Config::default() };
            let mut engine = Engine::new(config, Start { unix_micros: 0, seed: 1 }, Relay::default());
            engine.core.counters.accepted = accepted - 2;
            let peers = ["10.0.0.1:1", "10.0.0.1:2", "10.0.0.1:3", "10.0.0.2:4"];
            let conns = peers.map(|peer| engine.handle_accept(Time::ZERO, peer.parse().unwrap()).unwrap());
            assert!(conns.is_sorted_by_key(|conn| conn.generation()), "{conns:?} are in the order of accepting");
            assert!(engine.core.slots[conns[0].index()].is_closed(), "the oldest makes room for another address");
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
