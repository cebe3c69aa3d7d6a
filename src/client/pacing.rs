//! How fast a client sends after the server has refused a message with `rate_limited`.
//!
//! When the wait of a refusal is over, the server accepts one message, and then as many a second as its rate says. Requests that
//! are sent together would be refused again, except the first one: so one at a time waits for its answer. With time more are
//! tried, as there may be room.

use std::time::Duration;

use super::limits::MAX_IN_FLIGHT;
use crate::base::time::Time;

#[derive(Debug, Default)]
pub(super) struct Pacing {
    /// The last refusal. It counts for later connections, too.
    limited_at: Option<Time>,
    /// The last message of the application: a request or a volatile message.
    sent_at: Option<Time>,
}

impl Pacing {
    /// The server has refused a message.
    pub(super) fn limited(&mut self, now: Time) {
        self.limited_at = Some(now);
    }

    /// A message of the application was sent.
    pub(super) fn sent(&mut self, now: Time) {
        self.sent_at = Some(now);
    }

    /// Returns how many requests may be without an answer: after a refusal one, and one more with each second.
    pub(super) fn window(&self, now: Time) -> usize {
        let seconds = self.limited_at.and_then(|limited_at| usize::try_from((now - limited_at).as_secs()).ok());
        seconds.map_or(MAX_IN_FLIGHT, |seconds| MAX_IN_FLIGHT.min(seconds.saturating_add(1)))
    }

    /// Returns whether a volatile message may be sent, if the server accepts so many messages a second; `None`: unlimited.
    pub(super) fn permits_volatile(&self, now: Time, messages_per_second: Option<f64>) -> bool {
        let rate = messages_per_second.filter(|&rate| rate > 0.0 && self.window(now) < MAX_IN_FLIGHT);
        let distance = rate.map(|rate| Duration::try_from_secs_f64(1.0 / rate).unwrap_or(Duration::MAX));
        match (distance, self.sent_at) {
            (Some(distance), Some(sent_at)) => now - sent_at >= distance,
            _ => true,
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
    fn the_window_opens_by_one_with_each_second() {
        let mut pacing = Pacing::default();
        assert_eq!(pacing.window(at(0)), 16);
        pacing.limited(at(500));
        let windows = [500, 1499, 1500, 2499, 2500, 15_499, 15_500, 99_999].map(|millis| pacing.window(at(millis)));
        assert_eq!(windows, [1, 1, 2, 2, 3, 15, 16, 16]);
        assert_eq!((pacing.window(at(0)), pacing.window(Time::NEVER)), (1, 16));
    }

    #[test]
    fn volatile_messages_keep_their_distance_while_the_window_is_small() {
        let mut pacing = Pacing::default();
        pacing.limited(at(0));
        assert!(pacing.permits_volatile(at(0), Some(50.0)), "none was sent");
        pacing.sent(at(500));
        assert!(!pacing.permits_volatile(at(519), Some(50.0)));
        assert!(pacing.permits_volatile(at(520), Some(50.0)));
        for unlimited in [None, Some(0.0), Some(-1.0), Some(f64::MAX)] {
            assert!(pacing.permits_volatile(at(500), unlimited), "{unlimited:?}");
        }
        assert!(!pacing.permits_volatile(at(14_000), Some(f64::MIN_POSITIVE)));
        pacing.sent(at(15_000));
        assert!(pacing.permits_volatile(at(15_000), Some(50.0)), "as before the refusal");
    }
}
