//! How a connection has ended, and whether its member comes back.

use super::response::header;
use super::tally::{MAX_REASON, Tally, count_text};

/// What the server has said before it ended a connection.
#[derive(Clone, Debug)]
pub(super) struct Goodbye {
    pub(super) code: u16,
    pub(super) reason: String,
    pub(super) reconnect: bool,
    pub(super) retry_after_micros: Option<u64>,
}

/// How a connection has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// Without an answer or a close frame: the error.
    Failed(String),
    EndOfStream,
    /// The request was refused with this status, and perhaps a time to wait in microseconds.
    Status(u16, Option<u64>),
    /// The same for a POST. Its event stream is given up, as `lobby.js` does.
    PostStatus(u16, Option<u64>),
    Closed(u16, String),
}

impl Ended {
    /// The answer to the request of a connection was another one than the expected one.
    pub(super) fn refused(status: u16, head: &str) -> Ended {
        Ended::Status(status, retry_after(head))
    }

    pub(super) fn post_refused(status: u16, head: &str) -> Ended {
        Ended::PostStatus(status, retry_after(head))
    }

    /// Takes the code and the reason from the last message if there was no close frame: an event stream has none.
    pub(super) fn explained(self, goodbye: Option<&Goodbye>) -> Ended {
        match (self, goodbye) {
            (Ended::EndOfStream, Some(goodbye)) => Ended::Closed(goodbye.code, goodbye.reason.clone()),
            (ended, _) => ended,
        }
    }

    /// Whether the server may be gone, or is about to go.
    pub(super) fn has_no_answer(&self) -> bool {
        matches!(self, Ended::Failed(_) | Ended::EndOfStream | Ended::Closed(1001, _))
    }

    /// Whether the server, or a proxy, does not accept the token.
    pub(super) fn refuses_token(&self) -> bool {
        match self {
            Ended::Status(status, _) => [401, 403].contains(status),
            Ended::Closed(code, _) => [4001, 4003].contains(code),
            Ended::Failed(_) | Ended::EndOfStream | Ended::PostStatus(..) => false,
        }
    }

    /// Counts the end, and returns how long the member waits before it comes back; `None` if it must not.
    pub(super) fn count_and_wait(self, goodbye: Option<&Goodbye>, tally: &mut Tally, backoff: u64) -> Option<u64> {
        let (code, reason) = match self {
            Ended::Failed(error) => {
                count_text(&mut tally.failed, &error, MAX_REASON);
                return Some(backoff);
            }
            Ended::Status(status, retry_after) => {
                *tally.statuses.entry(status).or_default() += 1;
                return [429, 503].contains(&status).then(|| backoff.max(retry_after.unwrap_or(0)));
            }
            Ended::PostStatus(status, retry_after) => {
                *tally.post_statuses.entry(status).or_default() += 1;
                return Some(backoff.max(retry_after.unwrap_or(0)));
            }
            Ended::EndOfStream => (1006, "unexpected end of the stream".to_owned()),
            Ended::Closed(code, reason) => (code, reason),
        };
        tally.count_closed(code, &reason);
        match (goodbye, code) {
            (Some(Goodbye { reconnect: false, .. }), _) => None,
            (Some(Goodbye { retry_after_micros: Some(wait), .. }), _) => Some(*wait),
            (_, 4200..4300 | 4600..4700) => Some(0),
            (Some(_), _) | (None, 1001 | 1005 | 1006 | 1011..1015 | 4100..4200 | 4500..4600) => Some(backoff),
            (None, _) => None,
        }
    }
}

/// Returns the value of `Retry-After` in microseconds.
fn retry_after(head: &str) -> Option<u64> {
    header(head, "retry-after")?.parse::<u64>().ok()?.checked_mul(1_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_may_be_tried_again_is_tried_again() {
        let wait = |ended: Ended, goodbye: Option<(bool, Option<u64>)>| {
            let goodbye = goodbye.map(|(reconnect, retry_after_micros)| Goodbye {
                code: 4002,
                reason: "server_full".into(),
                reconnect,
                retry_after_micros,
            });
            ended.explained(goodbye.as_ref()).count_and_wait(goodbye.as_ref(), &mut Tally::new(), 7)
        };
        let closed = |code| Ended::Closed(code, String::new());
        assert_eq!(wait(closed(4002), Some((false, None))), None);
        assert_eq!(wait(closed(4002), Some((true, Some(9)))), Some(9));
        assert_eq!(wait(closed(4201), None), Some(0));
        assert_eq!(wait(closed(4201), Some((true, None))), Some(0));
        assert_eq!(wait(closed(1001), Some((true, None))), Some(7));
        assert_eq!(wait(closed(4009), None), None);
        assert_eq!(wait(closed(1000), None), None);
        assert_eq!(wait(Ended::EndOfStream, None), Some(7));
        assert_eq!(wait(Ended::EndOfStream, Some((false, None))), None);
        assert_eq!(wait(Ended::EndOfStream, Some((true, Some(9)))), Some(9));
        assert_eq!(wait(Ended::Status(429, Some(30)), None), Some(30));
        assert_eq!(wait(Ended::Status(503, None), None), Some(7));
        assert_eq!(wait(Ended::Status(404, None), None), None);
        assert_eq!(wait(Ended::PostStatus(404, None), None), Some(7));
        assert_eq!(wait(Ended::PostStatus(429, Some(30)), None), Some(30));
        assert_eq!(wait(Ended::Failed("refused".into()), None), Some(7));
    }

    /// A stream that is refused ends behind its `goodbye`. Its server is there.
    #[test]
    fn the_end_of_a_stream_is_that_of_its_goodbye() {
        let goodbye = |code| Goodbye { code, reason: "x".into(), reconnect: true, retry_after_micros: None };
        let ended = |code| Ended::EndOfStream.explained(Some(&goodbye(code)));
        assert_eq!(ended(4002), Ended::Closed(4002, "x".into()));
        assert!(!ended(4002).has_no_answer() && ended(1001).has_no_answer());
        assert!(ended(4001).refuses_token() && !ended(4002).refuses_token());
        assert!(Ended::EndOfStream.explained(None).has_no_answer());
    }

    #[test]
    fn retry_after_is_read_in_any_case() {
        assert_eq!(retry_after("HTTP/1.1 429 Too Many Requests\r\nretry-after: 3\r\n\r\n"), Some(3_000_000));
        assert_eq!(retry_after("HTTP/1.1 503 Busy\r\nRetry-After: soon\r\n\r\n"), None);
        assert_eq!(retry_after("HTTP/1.1 503 Busy\r\n\r\n"), None);
    }
}
