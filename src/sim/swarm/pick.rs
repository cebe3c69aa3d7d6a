//! Draws one of several values.

use crate::base::random::Random;
use crate::config::Limit;

pub(crate) fn pick<T: Copy>(random: &mut Random, values: &[T]) -> T {
    values[random.below(values.len() as u64) as usize]
}

/// Draws a limit. The value 0 stands for no limit.
pub(crate) fn limit(random: &mut Random, values: &[u32]) -> Limit {
    match pick(random, values) {
        0 => Limit::UNLIMITED,
        n => Limit::at_most(n),
    }
}
