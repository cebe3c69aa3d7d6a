//! Whether the server admits new members: the answer to `GET /health/ready` on both ports.

use std::time::Duration;

use crate::base::time::Time;

/// Time without a dropped connection after which the server counts as ready again. Longer than the usual interval of
/// health checks, so that a check sees that connections are dropped from time to time.
const RECOVERY: Duration = Duration::from_secs(10);

/// Whether the server admits new members.
///
/// [`Engine::readiness`](crate::Engine::readiness) has an example.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Readiness {
    /// New members are admitted. A full server is ready too: it refuses members with a close reason of its own.
    Ready,
    /// The server drains.
    Draining,
    /// New connections are dropped, because no file descriptor is free, or were in the last ten seconds.
    Shedding,
    /// The node is not attached to its cluster, or has not reached it for longer than `cluster_lease`.
    Detached,
}

impl Readiness {
    /// Returns the state as one word, as in the JSON of operators.
    pub fn word(self) -> &'static str {
        match self {
            Readiness::Ready => "ready",
            Readiness::Draining => "draining",
            Readiness::Shedding => "shedding",
            Readiness::Detached => "detached",
        }
    }

    /// Returns what the word alone does not explain.
    pub(crate) fn message(self) -> Option<&'static str> {
        match self {
            Readiness::Ready | Readiness::Draining => None,
            Readiness::Shedding => Some("new connections are dropped because no file descriptor is free"),
            Readiness::Detached => Some("this node is not attached to its cluster, or does not reach it"),
        }
    }

    /// Returns the HTTP status of the answer.
    pub(crate) fn status(self) -> u16 {
        if self == Readiness::Ready { 200 } else { 503 }
    }
}

/// When connections were dropped because no descriptor was free.
#[derive(Debug, Default)]
pub(crate) struct Shedding {
    /// End of the time in which the server is not ready.
    until: Time,
}

impl Shedding {
    /// A connection was dropped.
    pub(crate) fn note(&mut self, now: Time) {
        self.until = now + RECOVERY;
    }

    pub(crate) fn is_recent(&self, now: Time) -> bool {
        now < self.until
    }
}
