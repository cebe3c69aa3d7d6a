//! What a session waits for, by name.

use std::time::Duration;

use super::event::RequestId;
use crate::base::time::Time;

/// A timer that is handled later than this has slept with its process: a laptop was closed, or a game was stopped.
const LATE: Duration = Duration::from_secs(1);
/// How long a late timer waits for what has arrived meanwhile to be handled first.
const GRACE: Duration = Duration::from_millis(100);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Timer {
    /// The attempt has brought no welcome, or no list after it.
    Connect,
    /// The connection has held long enough for the backoff to begin anew.
    Stable,
    /// A probe has no answer.
    Probe,
    /// The server may have been silent for some time. What arrives does not set the timer anew.
    Heartbeat,
    /// The next attempt is due.
    Retry,
    /// A wait that the server has asked for is over.
    Pause,
    /// A request has no answer.
    Request(RequestId),
}

#[derive(Debug)]
struct Entry {
    timer: Timer,
    due: Time,
    /// Of two timers that are due at the same time, the one that was set first is handled first.
    order: u64,
    /// It was set anew because it was late. Not again: the program may be slow all the time.
    was_late: bool,
}

/// A short list: a handful of timers, and one for each request.
#[derive(Debug, Default)]
pub(super) struct Timers {
    entries: Vec<Entry>,
    last_order: u64,
}

impl Timers {
    /// Sets a timer, or sets it anew.
    pub(super) fn set(&mut self, timer: Timer, due: Time) {
        self.insert(timer, due, false);
    }

    fn insert(&mut self, timer: Timer, due: Time, was_late: bool) {
        self.stop(timer);
        self.last_order += 1;
        self.entries.push(Entry { timer, due, order: self.last_order, was_late });
    }

    pub(super) fn stop(&mut self, timer: Timer) {
        self.entries.retain(|entry| entry.timer != timer);
    }

    pub(super) fn stop_all(&mut self) {
        self.entries.clear();
    }

    pub(super) fn is_set(&self, timer: Timer) -> bool {
        self.due(timer).is_some()
    }

    /// Returns when a timer is due, if it is set.
    pub(super) fn due(&self, timer: Timer) -> Option<Time> {
        self.entries.iter().find(|entry| entry.timer == timer).map(|entry| entry.due)
    }

    pub(super) fn next_due(&self) -> Option<Time> {
        self.entries.iter().map(|entry| entry.due).min().filter(|&due| due != Time::NEVER)
    }

    /// Removes and returns the next timer that is due. A late one is set anew, once.
    pub(super) fn pop(&mut self, now: Time) -> Option<Timer> {
        loop {
            let next = self.entries.iter().min_by_key(|entry| (entry.due, entry.order))?;
            let (timer, due, was_late) = (next.timer, next.due, next.was_late);
            if due > now || due == Time::NEVER {
                return None;
            }
            if was_late || now - due <= LATE {
                self.stop(timer);
                return Some(timer);
            }
            self.insert(timer, now + GRACE, true);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Time {
        Time::from_micros(millis * 1000)
    }

    #[test]
    fn timers_are_handled_in_the_order_of_their_times_and_then_of_being_set() {
        let mut timers = Timers::default();
        for (timer, millis) in [(Timer::Probe, 500), (Timer::Retry, 300), (Timer::Stable, 300), (Timer::Probe, 300)] {
            timers.set(timer, at(millis));
        }
        assert_eq!((timers.next_due(), timers.pop(at(299))), (Some(at(300)), None));
        let popped: Vec<Timer> = std::iter::from_fn(|| timers.pop(at(300))).collect();
        assert_eq!(popped, [Timer::Retry, Timer::Stable, Timer::Probe]);
        assert_eq!(timers.next_due(), None);
    }

    #[test]
    fn a_late_timer_gives_what_has_arrived_some_time() {
        let mut timers = Timers::default();
        timers.set(Timer::Probe, at(1000));
        timers.set(Timer::Pause, at(9000));
        assert_eq!(timers.pop(at(10_000)), Some(Timer::Pause), "at most a second late");
        assert_eq!((timers.pop(at(10_000)), timers.next_due()), (None, Some(at(10_100))));
        assert_eq!(timers.pop(at(10_100)), Some(Timer::Probe));
    }

    #[test]
    fn a_late_timer_is_postponed_once() {
        let mut timers = Timers::default();
        timers.set(Timer::Retry, at(1000));
        assert_eq!(timers.pop(at(5000)), None);
        assert_eq!(timers.pop(at(9000)), Some(Timer::Retry), "the program is slow all the time");
    }

    #[test]
    fn a_timer_that_is_never_due_needs_no_wait() {
        let mut timers = Timers::default();
        timers.set(Timer::Pause, at(5) + Duration::MAX);
        assert_eq!((timers.next_due(), timers.pop(Time::NEVER)), (None, None));
    }
}
