//! Measures the time per operation of turns that do several operations.

use std::time::Duration;

use criterion::Bencher;
use criterion::measurement::{Measurement, WallTime};

/// Measures `turn`, which returns its number of operations, and reports the time per operation instead of per turn.
///
/// So the figures of different sizes are equal when the cost of an operation does not grow with the size.
pub(crate) fn each(bencher: &mut Bencher<'_>, mut turn: impl FnMut() -> u64) {
    bencher.iter_custom(|wanted| {
        let start = WallTime.start();
        let (mut done, mut turns) = (0, 0_u64);
        while done < wanted {
            done += turn();
            turns += 1;
            assert!(done > 0 || turns < 100_000, "the turns do nothing");
        }
        // The last turn may have done more operations than wanted.
        Duration::from_secs_f64(WallTime.end(start).as_secs_f64() * wanted as f64 / done as f64)
    });
}
