//! The only place that reads a clock.
#![allow(clippy::disallowed_methods)]

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use crate::engine::Start;
use crate::time::Time;

/// Monotonic time since the engine started.
#[derive(Debug)]
pub(super) struct Clock {
    start: Instant,
}

impl Clock {
    /// Starts the clock. The wall time is read once, here; it may be set later without any effect.
    pub(super) fn start(seed: u64) -> (Clock, Start) {
        let unix_micros = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as u64);
        (Clock { start: Instant::now() }, Start { unix_micros, seed })
    }

    pub(super) fn now(&self) -> Time {
        Time::ZERO + self.start.elapsed()
    }
}

/// How long something takes that makes the loop wait.
pub(super) struct Stopwatch(Instant);

impl Stopwatch {
    pub(super) fn start() -> Stopwatch {
        Stopwatch(Instant::now())
    }

    pub(super) fn micros(&self) -> u64 {
        self.0.elapsed().as_micros() as u64
    }
}
