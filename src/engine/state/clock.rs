//! The engine's time, and its relation to the wall clock.

use crate::base::time::Time;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    now: Time,
    /// Time of the end of the last turn, at which timers expire.
    pub(crate) last_timeout: Time,
    /// The wall time at [`Time::ZERO`], by the wall clock as it is set now, in microseconds since the Unix epoch.
    unix_at_zero: u64,
    /// The wall time while an entry of the cluster's log is executed: that of the log.
    shared_unix: Option<u64>,
}

impl Clock {
    pub(crate) fn new(now: Time, unix_at_zero: u64) -> Clock {
        Clock { now, last_timeout: Time::ZERO, unix_at_zero, shared_unix: None }
    }

    #[inline]
    pub(crate) fn now(&self) -> Time {
        self.now
    }

    /// Advances the time. It never goes back, even if the driver passes an earlier time.
    pub(crate) fn advance(&mut self, now: Time) {
        self.now = self.now.max(now);
    }

    pub(crate) fn unix_at_zero(&self) -> u64 {
        self.unix_at_zero
    }

    /// Returns the wall time in microseconds since the Unix epoch.
    pub(crate) fn unix_micros(&self) -> u64 {
        self.shared_unix.unwrap_or_else(|| self.unix_at_zero.saturating_add(self.now.as_micros()))
    }

    /// Shows the time of the cluster's log, until [`show_own`](Self::show_own). Returns the own time.
    pub(crate) fn show_shared(&mut self, time: Time, unix_micros: u64) -> Time {
        self.shared_unix = Some(unix_micros);
        std::mem::replace(&mut self.now, time)
    }

    pub(crate) fn show_own(&mut self, now: Time) {
        self.shared_unix = None;
        self.now = now;
    }

    /// Sets the wall time.
    pub(crate) fn set_unix_micros(&mut self, unix_micros: u64) {
        self.unix_at_zero = unix_micros.saturating_sub(self.now.as_micros());
    }
}
