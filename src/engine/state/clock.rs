//! The engine's time, and its relation to the wall clock.

use crate::base::time::Time;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    now: Time,
    /// Time of the end of the last turn, at which timers expire.
    pub(crate) last_timeout: Time,
    /// The wall time at [`Time::ZERO`], by the wall clock as it is set now, in microseconds since the Unix epoch.
    unix_at_zero: u64,
    /// While an entry of the cluster's log is executed: this node's own time, and the wall time of the log.
    shared: Option<(Time, u64)>,
}

impl Clock {
    pub(crate) fn new(now: Time, unix_at_zero: u64) -> Clock {
        Clock { now, last_timeout: Time::ZERO, unix_at_zero, shared: None }
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
        match self.shared {
            Some((_, unix_micros)) => unix_micros,
            None => self.unix_at_zero.saturating_add(self.now.as_micros()),
        }
    }

    /// Returns the time by which this node's connections are timed, also while an entry is executed.
    pub(crate) fn own(&self) -> Time {
        self.shared.map_or(self.now, |(own, _)| own)
    }

    /// Shows the time of the cluster's log, until [`show_own`](Self::show_own).
    pub(crate) fn show_shared(&mut self, time: Time, unix_micros: u64) {
        self.shared = Some((self.now, unix_micros));
        self.now = time;
    }

    pub(crate) fn show_own(&mut self) {
        self.now = self.own();
        self.shared = None;
    }

    /// Sets the wall time.
    pub(crate) fn set_unix_micros(&mut self, unix_micros: u64) {
        self.unix_at_zero = unix_micros.saturating_sub(self.now.as_micros());
    }
}
