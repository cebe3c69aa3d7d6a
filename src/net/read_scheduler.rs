//! Read scheduling: which ready sockets are read in a turn, in which order, and how much. Knows no sockets and no bytes
//! of the protocol, only connection ids, classes and costs.
//!
//! There are five FIFO queues of ready sockets, one for each [`ReadClass`], served in this order:
//!
//! 1. `New`: never read. First, so that a handshake does not wait behind many busy connections.
//! 2. `Light`: the last read emptied the socket and stayed within the work of one receive.
//! 3. `Unclassified`: only the request was read so far.
//! 4. `Heavy`: more input than fits in the work of one receive. Last, and served round-robin, so that a flood delays
//!    only itself. After a reconnect a flooding client is `Unclassified`, not `Light`, so it gains nothing.
//! 5. `Handshake`: the TLS handshake is not over. Each costs as much as hundreds of messages, so a few are read in each turn.
//!
//! Each of `Light`, `Unclassified` and `Heavy` has a budget of work per turn, so that no queue starves another. The budget of `Light`
//! is the largest: all messages read in one turn reach each receiver in one write. A single message may cost more than
//! the budget. `Unclassified` and `Heavy` then carry the excess over and pay it back in the following turns. A socket
//! stays queued until it is read: readiness is edge-triggered, and no second event follows.

use std::collections::VecDeque;

use crate::base::id::ConnId;

/// Class of a socket, which selects its queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ReadClass {
    /// Never read.
    New,
    /// The last read emptied the socket and stayed within the work of one receive.
    Light,
    /// Only its request was read so far.
    Unclassified,
    /// The last read left input over, or exceeded the work of one receive.
    Heavy,
    /// Its TLS handshake is not over.
    Handshake,
}

/// Number of classes.
const CLASSES: usize = 5;

/// The budget of `Light`, as a multiple of the budget of `Unclassified` and `Heavy`.
const LIGHT_BUDGET_FACTOR: i64 = 4;

/// The queues in the order in which they are served.
const ORDER: [ReadClass; CLASSES] =
    [ReadClass::New, ReadClass::Light, ReadClass::Unclassified, ReadClass::Heavy, ReadClass::Handshake];

/// Sockets that have, or may have, unread input.
#[derive(Debug, Default)]
pub(super) struct ReadScheduler {
    /// Indexed by [`ReadClass`].
    queues: [VecDeque<ConnId>; CLASSES],
    /// Work left to each queue in this turn. Negative: the excess to pay back in the following turns.
    work: [i64; CLASSES],
}

/// Bounds on the reads of one turn.
#[derive(Clone, Copy, Debug)]
pub(super) struct Budget {
    /// Sockets of the `New` queue.
    pub(super) new: u32,
    /// Sockets of the `Light` and of the `Unclassified` queue, each.
    pub(super) others: u32,
    /// Sockets of the `Handshake` queue.
    pub(super) handshakes: u32,
    /// Work of each queue except `New` and `Handshake`. `Light` has [`LIGHT_BUDGET_FACTOR`] times as much.
    pub(super) work: usize,
}

/// Sockets of each queue that may still be read in this turn.
#[derive(Debug)]
pub(super) struct Turn([usize; CLASSES]);

impl ReadScheduler {
    pub(super) fn push(&mut self, id: ConnId, class: ReadClass) {
        self.queues[class as usize].push_back(id);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queues.iter().all(VecDeque::is_empty)
    }

    /// Connections that have, or may have, unread input.
    pub(super) fn ids(&self) -> impl Iterator<Item = ConnId> {
        self.queues.iter().flatten().copied()
    }

    /// Begins a turn. `Heavy` sockets may be read repeatedly while the queue has work left, all others once.
    pub(super) fn begin_turn(&mut self, budget: Budget) -> Turn {
        let full = i64::try_from(budget.work).unwrap_or(i64::MAX);
        for class in ORDER {
            let work = &mut self.work[class as usize];
            *work = match class {
                ReadClass::New | ReadClass::Handshake => full,
                // No excess is carried over: a light socket that costs much becomes `Heavy`, and must not delay the
                // others.
                ReadClass::Light => full.saturating_mul(LIGHT_BUDGET_FACTOR),
                ReadClass::Unclassified | ReadClass::Heavy => work.saturating_add(full).min(full),
            };
        }
        Turn(ORDER.map(|class| match class {
            ReadClass::New => budget.new as usize,
            ReadClass::Light | ReadClass::Unclassified => budget.others as usize,
            ReadClass::Heavy => usize::MAX,
            ReadClass::Handshake => budget.handshakes as usize,
        }))
    }

    /// Returns the next connection to read in this turn, and the queue it came from.
    pub(super) fn next(&mut self, turn: &mut Turn) -> Option<(ConnId, ReadClass)> {
        for class in ORDER {
            let queue = class as usize;
            if turn.0[queue] > 0
                && self.work[queue] > 0
                && let Some(id) = self.queues[queue].pop_front()
            {
                turn.0[queue] -= 1;
                return Some((id, class));
            }
        }
        None
    }

    /// Charges the work of one read to the queue that [`next`](Self::next) returned.
    pub(super) fn spend(&mut self, class: ReadClass, work: usize) {
        // New connections are bounded by their number, and the read of each by `max_header_bytes`; handshakes are bounded by
        // their number.
        if !matches!(class, ReadClass::New | ReadClass::Handshake) {
            let left = &mut self.work[class as usize];
            *left = left.saturating_sub(i64::try_from(work).unwrap_or(i64::MAX));
        }
    }
}

/// Received bytes beyond the work of one receive. They wait for the connection's next read.
#[derive(Debug)]
pub(super) struct ReadBacklog {
    bytes: Vec<u8>,
    consumed: usize,
}

impl ReadBacklog {
    /// Copies `bytes`; returns `None` when there are none.
    pub(super) fn new(bytes: &[u8]) -> Option<Box<ReadBacklog>> {
        (!bytes.is_empty()).then(|| Box::new(ReadBacklog { bytes: bytes.to_vec(), consumed: 0 }))
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes[self.consumed..]
    }

    /// Removes the first `n` bytes. Returns whether the backlog is empty then.
    pub(super) fn consume(&mut self, n: usize) -> bool {
        self.consumed += n;
        self.consumed == self.bytes.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs one turn in which each read costs `cost`. `left` counts the reads that each connection still needs. Returns
    /// the keys of the connections in the order of their reads.
    fn turn(ready: &mut ReadScheduler, budget: Budget, cost: usize, left: &mut [usize]) -> Vec<usize> {
        let mut turn = ready.begin_turn(budget);
        let mut read = Vec::new();
        while let Some((id, class)) = ready.next(&mut turn) {
            read.push(id.index());
            ready.spend(class, cost);
            let left = &mut left[id.index()];
            *left = left.saturating_sub(1);
            if *left > 0 {
                ready.push(id, ReadClass::Heavy);
            }
        }
        read
    }

    fn id(index: u32) -> ConnId {
        ConnId::new(index as usize, 0).expect("small")
    }

    #[test]
    fn new_goes_first_then_light_and_heavy_is_served_round_robin() {
        let mut ready = ReadScheduler::default();
        let mut left = [3, 3, 1, 1, 1, 1, 1];
        let (new, light, unclassified, heavy) =
            (ReadClass::New, ReadClass::Light, ReadClass::Unclassified, ReadClass::Heavy);
        for (n, class) in [heavy, heavy, light, new, light, new, unclassified].into_iter().enumerate() {
            ready.push(id(n as u32), class);
        }
        let budget = Budget { new: 1, others: 10, handshakes: 1, work: 40 };
        assert_eq!(turn(&mut ready, budget, 10, &mut left), [3, 2, 4, 6, 0, 1, 0, 1]);
        assert_eq!(turn(&mut ready, budget, 10, &mut left), [5, 0, 1]);
        assert!(ready.is_empty() && left.iter().all(|&left| left == 0));
    }

    /// However many handshakes wait, and whatever they cost, the others are read in each turn.
    #[test]
    fn a_flood_of_handshakes_has_a_budget_of_its_own() {
        let mut ready = ReadScheduler::default();
        let mut left = [1; 10];
        (0..7).for_each(|n| ready.push(id(n), ReadClass::Handshake));
        let budget = Budget { new: 1, others: 10, handshakes: 3, work: 40 };
        ready.push(id(7), ReadClass::Light);
        assert_eq!(turn(&mut ready, budget, 1_000_000, &mut left), [7, 0, 1, 2]);
        ready.push(id(8), ReadClass::Heavy);
        ready.push(id(9), ReadClass::New);
        assert_eq!(turn(&mut ready, budget, 1, &mut left), [9, 8, 3, 4, 5]);
        assert_eq!(turn(&mut ready, budget, 1, &mut left), [6]);
        assert!(ready.is_empty());
    }

    #[test]
    fn sockets_left_over_stay_in_order_and_no_queue_starves() {
        let mut ready = ReadScheduler::default();
        let mut left = [1; 8];
        (0..4).for_each(|n| ready.push(id(n), ReadClass::Light));
        (4..8).for_each(|n| ready.push(id(n), ReadClass::Heavy));
        // One read costs three times the budget: two light reads per turn, and one heavy read in every third turn.
        let budget = Budget { new: 1, others: 10, handshakes: 1, work: 10 };
        let turns: Vec<Vec<usize>> = (0..10).map(|_| turn(&mut ready, budget, 30, &mut left)).collect();
        let none = Vec::new;
        assert_eq!(turns[..5], [vec![0, 1, 4], vec![2, 3], none(), vec![5], none()]);
        assert_eq!(turns[5..], [none(), vec![6], none(), none(), vec![7]]);
        assert!(ready.is_empty());
    }
}
