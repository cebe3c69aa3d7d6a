//! Logs which pages of foreign origins are refused.

use std::collections::VecDeque;
use std::time::Duration;

use log::warn;

use super::core::Core;
use crate::time::Time;
use crate::wire::handshake::Request;

/// Time between two log lines about the same origin.
const PAUSE: Duration = Duration::from_secs(60);
/// Origins that are remembered. No other is logged until one of them expires: a client chooses what it sends, and must
/// not fill the log.
const MAX_ORIGINS: usize = 16;

/// Origins that were logged lately, the oldest first.
#[derive(Debug, Default)]
pub(super) struct LoggedOrigins(VecDeque<(Time, String)>);

impl LoggedOrigins {
    /// Returns whether a refusal of this origin is to be logged now, and remembers it.
    fn is_news(&mut self, now: Time, origin: &str) -> bool {
        while self.0.front().is_some_and(|&(at, _)| at + PAUSE <= now) {
            self.0.pop_front();
        }
        let is_news = self.0.len() < MAX_ORIGINS && self.0.iter().all(|(_, known)| known != origin);
        if is_news {
            self.0.push_back((now, origin.to_owned()));
        }
        is_news
    }
}

impl Core {
    /// Warns that a page of a foreign origin was refused (RFC 6455 section 10.2), with what to do about it. A replay has no
    /// request and logs nothing.
    pub(super) fn log_refused_origin(&mut self, request: &Request<'_>) {
        let origin = request.origin_for_log();
        if self.logged_origins.is_news(self.now, &origin) {
            warn!(
                "conn={} peer={} a page of the origin {origin} is refused at {}: if its pages may connect, name the origin in \
                 --allowed-origin",
                request.conn(),
                request.peer(),
                request.host_for_log()
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_logged_once_a_minute_and_only_so_many_are() {
        let mut logged = LoggedOrigins::default();
        let at = |seconds| Time::ZERO + Duration::from_secs(seconds);
        assert!(logged.is_news(at(0), "a"));
        assert!(!logged.is_news(at(59), "a"));
        assert!(logged.is_news(at(60), "a"));
        for n in 1..MAX_ORIGINS {
            assert!(logged.is_news(at(61), &format!("b{n}")));
        }
        for n in 0..1000 {
            assert!(!logged.is_news(at(62), &format!("c{n}")));
        }
        assert_eq!(logged.0.len(), MAX_ORIGINS);
        assert!(logged.is_news(at(120), "d"), "the first has been forgotten");
        assert!(!logged.is_news(at(120), "e"));
    }
}
