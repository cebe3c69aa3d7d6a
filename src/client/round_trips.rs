//! The server's time and the distance to it, from pings and their answers.

use std::collections::VecDeque;
use std::time::Duration;

use crate::base::time::Time;

/// Number of answers that are remembered.
const SAMPLES: usize = 8;
/// Two samples agree if their offsets differ by no more than half of both round trips and so many microseconds.
const TOLERANCE: i128 = 5_000;

#[derive(Clone, Copy, Debug)]
struct Sample {
    round_trip: Duration,
    offset: i128,
}

impl Sample {
    fn agrees_with(self, other: Sample) -> bool {
        let both = (self.round_trip + other.round_trip).as_micros() as i128;
        (self.offset - other.offset).abs() <= both / 2 + TOLERANCE
    }
}

/// The newest samples that agree with the last one. The one with the shortest round trip is the most exact.
#[derive(Debug, Default)]
pub(super) struct RoundTrips {
    samples: VecDeque<Sample>,
    /// Microseconds from the session's time to the server's, since the Unix epoch; `None` before the first welcome.
    offset: Option<i128>,
}

impl RoundTrips {
    /// A new connection may lead to another server: what was measured is discarded.
    pub(super) fn restart(&mut self, now: Time, server_millis: Option<u64>) {
        self.samples.clear();
        if let Some(millis) = server_millis {
            self.offset = Some(i128::from(millis) * 1000 - i128::from(now.as_micros()));
        }
    }

    pub(super) fn add(&mut self, sent: Time, now: Time, server_millis: u64) {
        let middle = (i128::from(sent.as_micros()) + i128::from(now.as_micros())) / 2;
        let new = Sample { round_trip: now - sent, offset: i128::from(server_millis) * 1000 - middle };
        // One that contradicts is from before a sleep, during which this clock stood still.
        self.samples.retain(|sample| sample.agrees_with(new));
        self.samples.truncate(SAMPLES - 1);
        self.samples.push_front(new);
        self.offset = self.best().map(|best| best.offset);
    }

    fn best(&self) -> Option<&Sample> {
        // The newest of several.
        self.samples.iter().min_by_key(|sample| sample.round_trip)
    }

    pub(super) fn latency(&self) -> Option<Duration> {
        self.best().map(|best| best.round_trip)
    }

    /// Returns the server's time in milliseconds since the Unix epoch.
    pub(super) fn server_millis(&self, now: Time) -> Option<u64> {
        let micros = i128::from(now.as_micros()) + self.offset?;
        u64::try_from((micros + 500).div_euclid(1000)).ok()
    }
}
