//! Growing delays between attempts, with jitter, so that the nodes of a cluster do not come all at once.

use std::time::Duration;

use crate::base::random::Random;

const FIRST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_millis(500);

pub(super) struct Backoff {
    random: Random,
    longest: Duration,
    attempts: u32,
}

impl Backoff {
    /// `freeze`: for how long a new Redis suspends appends. A node that has what Redis lost must come in this time.
    pub(super) fn new(seed: u64, freeze: Duration) -> Backoff {
        Backoff { random: Random::new(seed), longest: LONGEST.min(freeze / 2), attempts: 0 }
    }

    /// Returns the next delay: 50 to 100 % of 100 ms, doubled with each attempt, at most 500 ms and half of the freeze.
    pub(super) fn next(&mut self) -> Duration {
        let full = (FIRST * (1 << self.attempts.min(10))).min(self.longest);
        self.attempts = self.attempts.saturating_add(1);
        full / 2 + full / 2 * self.random.below(1000) as u32 / 1000
    }

    pub(super) fn reset(&mut self) {
        self.attempts = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_comes_back_before_a_new_redis_goes_on_without_it() {
        for freeze in [1000, 333, 167].map(Duration::from_millis) {
            let mut backoff = Backoff::new(1, freeze);
            let longest = (0..50).map(|_| backoff.next()).max();
            assert!(longest <= Some(freeze / 2) && longest > Some(freeze / 4), "{longest:?} of {freeze:?}");
        }
        let mut backoff = Backoff::new(1, Duration::from_secs(10));
        assert!((0..50).all(|_| backoff.next() <= LONGEST));
    }
}
