//! The clocks: monotonic time since the start, and the wall time. The only file of the driver that reads a clock, except for
//! the duration of HTTP calls.
#![expect(clippy::disallowed_methods, reason = "the clock of the server; everything else gets the time as an argument")]

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::base::time::Time;
use crate::engine::driver::Start;

/// Largest difference between the wall clock and the engine's expectation that is not reported to the engine. Smaller
/// differences are the usual slewing of a synchronized clock, at most 0.5 ms a second.
const TOLERANCE: Duration = Duration::from_millis(10);
/// Engine time between two readings of the wall clock, so that a busy loop does not pay for one in each turn.
const WALL_INTERVAL: Duration = Duration::from_millis(10);

/// Monotonic time since the engine started, and the wall clock's position against it.
#[derive(Debug)]
pub(super) struct Clock {
    start: Instant,
    wall: Wall,
}

/// The engine's view of the wall clock.
#[derive(Debug)]
struct Wall {
    /// Wall time at [`Time::ZERO`] by the last report to the engine, in microseconds since the Unix epoch.
    unix_at_zero: u64,
    next_read: Time,
}

impl Clock {
    /// Starts the clock.
    pub(super) fn start(seed: u64) -> (Clock, Start) {
        let unix_micros = unix_micros();
        let wall = Wall { unix_at_zero: unix_micros, next_read: Time::ZERO };
        (Clock { start: Instant::now(), wall }, Start { unix_micros, seed })
    }

    pub(super) fn now(&self) -> Time {
        Time::ZERO + self.start.elapsed()
    }

    /// Returns the wall time if the clock was set, or has drifted, since the last report to the engine.
    pub(super) fn moved_wall_time(&mut self, now: Time) -> Option<u64> {
        if now < self.wall.next_read {
            return None;
        }
        self.wall.next_read = now + WALL_INTERVAL;
        let before = self.now();
        let unix_micros = unix_micros();
        self.wall.moved(before, unix_micros, self.now())
    }
}

impl Wall {
    /// Checks `unix_micros`, which was read between `before` and `after`. These may be far apart when the process was
    /// interrupted. If no moment between them explains the value, the clock has moved: returns the wall time at
    /// `after`.
    fn moved(&mut self, before: Time, unix_micros: u64, after: Time) -> Option<u64> {
        let expected = |at: Time| Time::from_micros(self.unix_at_zero.saturating_add(at.as_micros()));
        let read = Time::from_micros(unix_micros);
        if read + TOLERANCE >= expected(before) && read <= expected(after) + TOLERANCE {
            return None;
        }
        self.unix_at_zero = unix_micros.saturating_sub(before.as_micros());
        Some(self.unix_at_zero.saturating_add(after.as_micros()))
    }
}

/// Returns the wall time in seconds since the Unix epoch, for the dates of certificates.
#[cfg(feature = "tls")]
pub(super) fn unix_seconds() -> i64 {
    (unix_micros() / 1_000_000) as i64
}

fn unix_micros() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as u64)
}

/// Returns the wall time in milliseconds since the Unix epoch.
#[cfg(feature = "hook")]
pub(super) fn unix_millis() -> u64 {
    unix_micros() / 1000
}

/// Measures the duration of a call that blocks the loop.
pub(super) struct Stopwatch(Instant);

impl Stopwatch {
    pub(super) fn start() -> Stopwatch {
        Stopwatch(Instant::now())
    }

    pub(super) fn micros(&self) -> u64 {
        self.0.elapsed().as_micros() as u64
    }
}

/// Returns the CPU time that the process has used, in user mode and in the kernel.
#[cfg(target_os = "linux")]
pub(super) fn process_cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::try_from(time).unwrap_or_default()
}

/// Returns a seed from the operating system, taken from the random keys of the standard hash map.
pub(super) fn os_seed() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: u64 = 1_700_000_000_000_000;

    /// Reads a wall clock that is wrong by `offset`. The reading begins at `at` and takes `duration`; all in
    /// microseconds.
    #[track_caller]
    fn check(wall: &mut Wall, at: u64, duration: u64, offset: i64, expected: Option<i64>) {
        let unix = (START + at).checked_add_signed(offset).expect("in range");
        let moved = wall.moved(Time::from_micros(at), unix, Time::from_micros(at + duration));
        let expected = expected.map(|offset| (START + at + duration).checked_add_signed(offset).expect("in range"));
        assert_eq!(moved, expected);
    }

    #[test]
    fn a_step_is_reported_once_and_slewing_when_it_adds_up() {
        let mut wall = Wall { unix_at_zero: START, next_read: Time::ZERO };
        check(&mut wall, 1_000, 0, 0, None);
        check(&mut wall, 2_000, 0, 10_000, None);
        check(&mut wall, 3_000, 0, 10_001, Some(10_001));
        check(&mut wall, 4_000, 0, 10_001, None);
        check(&mut wall, 5_000, 3, -3_600_000_000, Some(-3_600_000_000));
        check(&mut wall, 6_000, 0, -3_600_000_000, None);
    }

    #[test]
    fn an_interrupted_reading_is_not_a_step() {
        let mut wall = Wall { unix_at_zero: START, next_read: Time::ZERO };
        // The process was stopped for a minute after the first reading, or after the second.
        check(&mut wall, 1_000, 60_000_000, 60_000_000, None);
        check(&mut wall, 70_000_000, 60_000_000, 0, None);
        check(&mut wall, 140_000_000, 60_000_000, 120_000_000, Some(120_000_000));
    }

    #[test]
    fn a_wall_time_before_the_epoch_counts_as_the_epoch() {
        let mut wall = Wall { unix_at_zero: START, next_read: Time::ZERO };
        assert_eq!(wall.moved(Time::from_micros(5), 0, Time::from_micros(6)), Some(6));
    }
}
