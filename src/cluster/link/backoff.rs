//! Growing delays between attempts, with jitter, so that the nodes of a cluster do not come all at once.

use std::time::Duration;

use crate::base::random::Random;

const FIRST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(5);

pub(super) struct Backoff {
    random: Random,
    attempts: u32,
}

impl Backoff {
    pub(super) fn new(seed: u64) -> Backoff {
        Backoff { random: Random::new(seed), attempts: 0 }
    }

    /// Returns the next delay: 50 to 100 % of 100 ms, doubled with each attempt, at most 5 s.
    pub(super) fn next(&mut self) -> Duration {
        let full = (FIRST * (1 << self.attempts.min(10))).min(LONGEST);
        self.attempts = self.attempts.saturating_add(1);
        full / 2 + full / 2 * self.random.below(1000) as u32 / 1000
    }

    pub(super) fn reset(&mut self) {
        self.attempts = 0;
    }
}
