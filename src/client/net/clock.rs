//! The time since the client was created, and random numbers of the system. The only part of the client that reads a clock.
#![expect(clippy::disallowed_methods, reason = "the clock of the client; everything else gets the time as an argument")]

use std::hash::{BuildHasher, RandomState};
use std::time::Instant;

use crate::base::time::Time;

#[derive(Debug)]
pub(super) struct Clock(Instant);

impl Clock {
    pub(super) fn start() -> Clock {
        Clock(Instant::now())
    }

    pub(super) fn now(&self) -> Time {
        Time::ZERO + self.0.elapsed()
    }
}

/// Random numbers: a keyed hash of a counter, with a key from the operating system.
#[derive(Debug)]
pub(super) struct SystemRandom {
    key: RandomState,
    drawn: u64,
}

impl SystemRandom {
    pub(super) fn new() -> SystemRandom {
        SystemRandom { key: RandomState::new(), drawn: 0 }
    }

    pub(super) fn next(&mut self) -> u64 {
        self.drawn += 1;
        self.key.hash_one(self.drawn)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn numbers_differ_between_clients_and_draws() {
        let mut clients = [SystemRandom::new(), SystemRandom::new()];
        let drawn: BTreeSet<u64> = (0..100).map(|at| clients[at % 2].next()).collect();
        assert_eq!(drawn.len(), 100);
    }
}
