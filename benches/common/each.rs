//! Time for each of the things that a turn brings about, however many they are.

use std::time::Duration;

use criterion::Bencher;
use criterion::measurement::{Measurement, WallTime};

/// Measures `turn`, which returns how many things it did, and reports the time for each of them rather than for the turn:
/// where that does not grow with the size of what is measured, the figures are the same.
pub(crate) fn each(bencher: &mut Bencher<'_>, mut turn: impl FnMut() -> u64) {
    bencher.iter_custom(|wanted| {
        let start = WallTime.start();
        let (mut done, mut turns) = (0, 0_u64);
        while done < wanted {
            done += turn();
            turns += 1;
            assert!(done > 0 || turns < 100_000, "nothing happens");
        }
        // The last turn did more than was wanted.
        Duration::from_secs_f64(WallTime.end(start).as_secs_f64() * wanted as f64 / done as f64)
    });
}
