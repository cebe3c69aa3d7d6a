//! Which refused origins are logged: each once a minute, and only a few of them.

use std::collections::VecDeque;
use std::time::Duration;

use crate::base::time::Time;

/// Time between two log lines about the same origin.
const PAUSE: Duration = Duration::from_secs(60);
/// Largest number of origins that are remembered. No other origin is logged until one of them expires: clients choose
/// the header's text, and must not be able to fill the log.
const MAX_ORIGINS: usize = 16;

/// Origins that were logged within the last minute, oldest first.
#[derive(Debug, Default)]
pub(crate) struct LoggedOrigins(VecDeque<(Time, String)>);

impl LoggedOrigins {
    /// Returns whether a refusal of this origin is to be logged now. If so, remembers the origin.
    pub(crate) fn should_log(&mut self, now: Time, origin: &str) -> bool {
        while self.0.front().is_some_and(|&(at, _)| at + PAUSE <= now) {
            self.0.pop_front();
        }
        let should_log = self.0.len() < MAX_ORIGINS && self.0.iter().all(|(_, known)| known != origin);
        if should_log {
            self.0.push_back((now, origin.to_owned()));
        }
        should_log
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_logged_once_a_minute_and_the_number_of_origins_is_bounded() {
        let mut logged = LoggedOrigins::default();
        let at = |seconds| Time::ZERO + Duration::from_secs(seconds);
        assert!(logged.should_log(at(0), "a"));
        assert!(!logged.should_log(at(59), "a"));
        assert!(logged.should_log(at(60), "a"));
        for n in 1..MAX_ORIGINS {
            assert!(logged.should_log(at(61), &format!("b{n}")));
        }
        for n in 0..1000 {
            assert!(!logged.should_log(at(62), &format!("c{n}")));
        }
        assert_eq!(logged.0.len(), MAX_ORIGINS);
        assert!(logged.should_log(at(120), "d"), "the first origin has expired");
        assert!(!logged.should_log(at(120), "e"));
    }
}
