//! The wall clock of a run: what it shows at a time of the engine, and when it was last set.

use crate::base::time::Time;

/// Wall time at which every run begins, in microseconds since the Unix epoch.
pub(crate) const START_MICROS: u64 = 1_700_000_000_000_000;

#[derive(Debug)]
pub(crate) struct WallClock {
    /// Wall time at [`Time::ZERO`] according to the current clock, in microseconds since the Unix epoch.
    pub(crate) micros_at_zero: u64,
    /// Time of the last change, if any.
    pub(crate) stepped_at: Option<Time>,
}

impl WallClock {
    pub(crate) fn new() -> WallClock {
        WallClock { micros_at_zero: START_MICROS, stepped_at: None }
    }

    /// The clock was set: it would have shown `micros_at_zero` at [`Time::ZERO`].
    pub(crate) fn stepped(&mut self, now: Time, micros_at_zero: u64) {
        (self.micros_at_zero, self.stepped_at) = (micros_at_zero, Some(now));
    }

    /// Returns the wall time at `now`, in microseconds since the Unix epoch.
    pub(crate) fn micros_at(&self, now: Time) -> u64 {
        self.micros_at_zero + now.as_micros()
    }

    /// Returns the time at which the clock shows, or would have shown, `micros`.
    pub(crate) fn time_of(&self, micros: u64) -> Time {
        Time::from_micros(micros.saturating_sub(self.micros_at_zero))
    }
}
