//! Connections that are closed in batches, and operators' orders to close connections for good.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use smol_str::SmolStr;

use crate::base::close::{CloseKind, CloseReason};
use crate::base::id::ConnId;
use crate::base::time::Time;
use crate::engine::operator::KickTarget;

/// Connections that are to be closed in batches, in the order of closing.
#[derive(Default)]
pub(crate) struct CloseQueue {
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
pub(crate) fn severity(kind: CloseKind) -> u8 {
    match kind {
        CloseKind::ForcedReconnect => 0,
        CloseKind::ServerShutdown => 1,
        _ => 2,
    }
}

impl CloseQueue {
    pub(crate) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.queue.len()
    }

    /// Number of connections that the current batch may still close, and the time of the next batch.
    pub(crate) fn numbers(&self) -> (u32, Time) {
        (self.room, self.next_batch)
    }

    pub(crate) fn set_numbers(&mut self, (room, next_batch): (u32, Time)) {
        (self.room, self.next_batch) = (room, next_batch);
    }

    pub(crate) fn push(&mut self, conn: ConnId) {
        self.last += 1;
        self.queue.push_back((self.last, conn));
    }

    /// Removes the connections that do not exist any more.
    pub(crate) fn prune(&mut self, exists: impl Fn(ConnId) -> bool) {
        self.queue.retain(|&(_, conn)| exists(conn));
        self.expire_orders();
    }

    /// Puts `new` in the position of `old`. Returns false if `old` is not queued.
    pub(crate) fn replace(&mut self, old: ConnId, new: ConnId) -> bool {
        let entry = self.queue.iter_mut().find(|(_, conn)| *conn == old);
        entry.map(|(_, conn)| *conn = new).is_some()
    }

    // ---- orders ----

    /// Stores an order that lasts until the connections that are queued now are closed.
    pub(crate) fn insert_order(&mut self, target: &KickTarget, reason: CloseReason) {
        self.orders.insert(target, Order { reason, until: self.last });
    }

    /// The reason to close a member that joins now, if an order applies to it.
    pub(crate) fn ordered_reason(&self, user: &str, lobby: &str) -> Option<CloseReason> {
        self.orders.reason(user, lobby)
    }

    /// Lets an order about a user last until the connection that was queued last is closed.
    pub(crate) fn extend_order(&mut self, user: &str) {
        if let Some(order) = self.orders.users.get_mut(user) {
            order.until = self.last;
        }
    }

    fn expire_orders(&mut self) {
        let next = self.queue.front().map_or(u64::MAX, |&(number, _)| number);
        self.orders.expire(next);
    }

    // ---- batches ----

    /// Time of the next batch; `None` if no connection is queued.
    pub(crate) fn next_batch_at(&self) -> Option<Time> {
        (!self.queue.is_empty()).then_some(self.next_batch)
    }

    /// Returns the connections that the next batch closes. Queued connections that `is_open` rejects do not count.
    pub(crate) fn upcoming(&self, now: Time, batch: u32, is_open: impl Fn(ConnId) -> bool) -> Vec<ConnId> {
        let room = if now >= self.next_batch { batch } else { self.room };
        self.queue.iter().map(|&(_, conn)| conn).filter(|&conn| is_open(conn)).take(room as usize).collect()
    }

    /// Begins a new batch if it is time.
    pub(crate) fn begin_batch(&mut self, now: Time, batch: u32, interval: Duration) {
        if now >= self.next_batch {
            self.room = batch;
            self.next_batch = now + interval;
        }
    }

    /// Takes the next connection, while the batch has room.
    pub(crate) fn pop(&mut self) -> Option<ConnId> {
        if self.room == 0 {
            return None;
        }
        self.queue.pop_front().map(|(_, conn)| conn)
    }

    /// Counts a connection that the batch has closed.
    pub(crate) fn spend(&mut self) {
        self.room -= 1;
    }

    /// Ends a batch: frees memory, and removes the orders that are over.
    pub(crate) fn end_batch(&mut self) {
        if self.queue.is_empty() {
            self.queue = VecDeque::new();
        }
        self.expire_orders();
    }

    /// Asserts the invariants. `queued` are the open connections with a queued close.
    pub(crate) fn check(&self, queued: impl Iterator<Item = ConnId>) {
        let CloseQueue { queue, last, orders, .. } = self;
        assert!(queue.iter().is_sorted_by(|a, b| a.0 < b.0) && queue.back().is_none_or(|(number, _)| number <= last));
        for id in queued {
            let count = queue.iter().filter(|(_, conn)| *conn == id).count();
            assert_eq!(count, 1, "a connection with a queued close is in the queue once: {id}");
        }
        let all_orders = || orders.users.values().chain(orders.lobbies.values()).chain(&orders.all);
        let first = queue.front().map_or(u64::MAX, |&(number, _)| number);
        assert!(all_orders().all(|order| order.until >= first), "an order is removed with its last batch");
    }
}
