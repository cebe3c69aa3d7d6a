//! What the threads of a run share, and what they report.

use std::io;
use std::sync::atomic::{AtomicU64, AtomicUsize};

use super::tally::{Interval, Tally};

/// What the threads share.
#[derive(Debug, Default)]
pub(super) struct Shared {
    /// Threads all of whose members are welcomed or given up.
    pub(super) settled: AtomicUsize,
    /// Tokens that were refused, of the members of these threads.
    pub(super) refused_tokens: AtomicUsize,
    /// When members begin to talk; 0 while it is not known, and [`NEVER`] if they do not.
    pub(super) begin: AtomicU64,
}

/// No member talks.
pub(super) const NEVER: u64 = u64::MAX;

pub(super) enum Report {
    Interval(Interval),
    /// The thread has ended.
    Done(Box<Tally>),
    /// It could not run.
    Failed(io::Error),
}
