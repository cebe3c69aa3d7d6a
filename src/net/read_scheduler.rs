//! Whose turn it is to be read: who has something to read, in what order, and how much of it in one turn.
//!
//! Four queues, each in the order in which it became known that there is something. Whoever has never been read goes first:
//! a handshake does not wait behind a crowd. Then come those who are known to say little, and then those of whom nothing is
//! known but their request. Whoever has said more than its share goes behind them, and there one after the other: so a flood
//! waits for itself, not others for the flood; and to come back does not make a flooder modest.
//!
//! Each of the last three has a budget of work in each turn, so that none keeps out another; that of the modest is the largest,
//! since what many say in one turn reaches each of its receivers in one write. A single message may cost more
//! than that; where it is likely to, among those who are not known to be modest, the queue pays it back in the turns that
//! follow. Nobody is forgotten: readiness is edge-triggered, and no second event would come.

use std::collections::VecDeque;

use crate::id::ConnId;

/// What is known of a socket that decides where it waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ReadClass {
    /// It has never been read.
    New,
    /// The last time it was read, all there was was little.
    Light,
    /// It has said nothing yet but its request.
    Unclassified,
    /// It had more to say than its share.
    Heavy,
}

/// How many times the budget of the others the modest have.
const LIGHT_SHARES: i64 = 4;

/// The queues in their order.
const ORDER: [ReadClass; 4] = [ReadClass::New, ReadClass::Light, ReadClass::Unclassified, ReadClass::Heavy];

/// The sockets that have, or may have, something to read.
#[derive(Debug, Default)]
pub(super) struct ReadScheduler {
    /// By [`ReadClass`].
    queues: [VecDeque<ConnId>; 4],
    /// What each of them may still cost in this turn; below zero what it has to pay back.
    work: [i64; 4],
}

/// How much may be read in one turn.
#[derive(Clone, Copy, Debug)]
pub(super) struct Budget {
    /// Of the newcomers.
    pub(super) new: u32,
    /// Of each other queue.
    pub(super) others: u32,
    /// For each other queue; the modest have some times as much.
    pub(super) work: usize,
}

/// How many of each queue may still be read in this turn.
#[derive(Debug)]
pub(super) struct Turn([usize; 4]);

impl ReadScheduler {
    pub(super) fn push(&mut self, id: ConnId, class: ReadClass) {
        self.queues[class as usize].push_back(id);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queues.iter().all(VecDeque::is_empty)
    }

    /// The connections that have, or may have, something to read.
    pub(super) fn ids(&self) -> impl Iterator<Item = ConnId> {
        self.queues.iter().flatten().copied()
    }

    /// Begins a turn: of the greedy each is read as often as there is work left, and of the others each once.
    pub(super) fn begin_turn(&mut self, budget: Budget) -> Turn {
        let full = i64::try_from(budget.work).unwrap_or(i64::MAX);
        for class in ORDER {
            let work = &mut self.work[class as usize];
            *work = match class {
                ReadClass::New => full,
                // Whoever is modest and costs much is so no more: there is nothing to be paid back by the others.
                ReadClass::Light => full.saturating_mul(LIGHT_SHARES),
                ReadClass::Unclassified | ReadClass::Heavy => work.saturating_add(full).min(full),
            };
        }
        Turn(ORDER.map(|class| match class {
            ReadClass::New => budget.new as usize,
            ReadClass::Light | ReadClass::Unclassified => budget.others as usize,
            ReadClass::Heavy => usize::MAX,
        }))
    }

    /// Who is to be read next in this turn, and where it stood.
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

    /// What came of reading whom [`next`](Self::next) has named.
    pub(super) fn spend(&mut self, class: ReadClass, work: usize) {
        // Newcomers are bounded by their number, and each by its request.
        if class != ReadClass::New {
            let left = &mut self.work[class as usize];
            *left = left.saturating_sub(i64::try_from(work).unwrap_or(i64::MAX));
        }
    }
}

/// Bytes that were read of a connection that says more than its share, and that wait for its next turn.
#[derive(Debug)]
pub(super) struct ReadBacklog {
    bytes: Vec<u8>,
    taken: usize,
}

impl ReadBacklog {
    /// `None` when nothing is left.
    pub(super) fn new(bytes: &[u8]) -> Option<Box<ReadBacklog>> {
        (!bytes.is_empty()).then(|| Box::new(ReadBacklog { bytes: bytes.to_vec(), taken: 0 }))
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes[self.taken..]
    }

    /// The first `n` bytes have had their turn. Whether those were the last.
    pub(super) fn take(&mut self, n: usize) -> bool {
        self.taken += n;
        self.taken == self.bytes.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each reading of `id` costs what `cost` says, and leaves so many readings to do as `left` says.
    fn turn(ready: &mut ReadScheduler, budget: Budget, cost: usize, left: &mut [usize]) -> Vec<u32> {
        let mut turn = ready.begin_turn(budget);
        let mut read = Vec::new();
        while let Some((id, class)) = ready.next(&mut turn) {
            read.push(id.key());
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
    fn newcomers_go_first_then_the_modest_and_the_greedy_by_turns() {
        let mut ready = ReadScheduler::default();
        let mut left = [3, 3, 1, 1, 1, 1, 1];
        let (new, modest, unheard, greedy) =
            (ReadClass::New, ReadClass::Light, ReadClass::Unclassified, ReadClass::Heavy);
        for (n, class) in [greedy, greedy, modest, new, modest, new, unheard].into_iter().enumerate() {
            ready.push(id(n as u32), class);
        }
        let budget = Budget { new: 1, others: 10, work: 40 };
        assert_eq!(turn(&mut ready, budget, 10, &mut left), [3, 2, 4, 6, 0, 1, 0, 1]);
        assert_eq!(turn(&mut ready, budget, 10, &mut left), [5, 0, 1]);
        assert!(ready.is_empty() && left.iter().all(|&left| left == 0));
    }

    #[test]
    fn whoever_is_left_over_keeps_its_place_and_all_queues_move_on() {
        let mut ready = ReadScheduler::default();
        let mut left = [1; 8];
        (0..4).for_each(|n| ready.push(id(n), ReadClass::Light));
        (4..8).for_each(|n| ready.push(id(n), ReadClass::Heavy));
        // One reading costs three times the budget: two of the modest a turn, and of the greedy one in every third.
        let budget = Budget { new: 1, others: 10, work: 10 };
        let turns: Vec<Vec<u32>> = (0..10).map(|_| turn(&mut ready, budget, 30, &mut left)).collect();
        let none = Vec::new;
        assert_eq!(turns[..5], [vec![0, 1, 4], vec![2, 3], none(), vec![5], none()]);
        assert_eq!(turns[5..], [none(), vec![6], none(), none(), vec![7]]);
        assert!(ready.is_empty());
    }
}
