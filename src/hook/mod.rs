//! The hook: questions to a backend of the operator, events for it, and keys of tokens by URL. Without I/O.
//!
//! The driver performs the HTTP calls and passes their results back. Time is an argument. Each of the three parts decides what
//! is asked when, what waits and what is given up.
//!
//! ```text
//! engine --Question::Connect--> Questions --HttpCall--> driver --HttpResult--> Authorization --> engine
//! engine --FeedEvent--> EventLog --> Batches --HttpCall--> driver --HttpResult--> the next batch, or again later
//! engine --Question::Keys--> KeyFetches --HttpCall--> driver --HttpResult--> reload, then each token is checked again
//! ```

mod answer;
pub(crate) mod batches;
pub(crate) mod keys;
pub(crate) mod questions;
#[cfg(feature = "hook")]
pub(crate) mod signature;

use std::fmt;
use std::time::Duration;

/// Most bytes of an answer to a question or a batch.
pub(crate) const MAX_ANSWER: usize = 64 << 10;

/// One HTTP call to perform.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct HttpCall {
    pub(crate) of: CallId,
    /// Body of a POST; `None` for a GET.
    pub(crate) body: Option<Vec<u8>>,
    /// Longest duration of the whole call.
    pub(crate) timeout: Duration,
    /// Most bytes of the answer's body.
    pub(crate) max_answer: usize,
}

/// Purpose of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CallId {
    Question(u64),
    Batch,
    Keys,
}

/// The result of a call: status and body, or why there is none.
pub(crate) type HttpResult = Result<(u16, Vec<u8>), HttpFault>;

/// Why a call had no result.
#[cfg_attr(not(any(feature = "hook", test)), expect(dead_code, reason = "nothing performs calls"))]
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum HttpFault {
    /// The call took longer than its timeout.
    Timeout,
    /// The answer's body is longer than `max_answer`.
    TooLong,
    /// The backend cannot be reached, or broke the protocol. The text contains no part of the URL.
    Failed(String),
}

impl fmt::Display for HttpFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HttpFault::Timeout => f.write_str("there was no answer in time"),
            HttpFault::TooLong => f.write_str("the answer is too long"),
            HttpFault::Failed(text) => f.write_str(text),
        }
    }
}

/// Returns the wait before the next attempt: 250 ms after the first failure, then each time twice as long, at most 30 s.
pub(crate) fn wait_after(failures: u32) -> Duration {
    const FIRST: Duration = Duration::from_millis(250);
    const LONGEST: Duration = Duration::from_secs(30);
    FIRST.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(LONGEST)
}
