//! Model of the health checks: a check is reported as answered only if the client answered it.
//!
//! Fed with the results that the application receives.

use std::time::Duration;

use super::wall_clock::WallClock;
use crate::base::id::ConnId;
use crate::base::time::Time;

/// A health check that was reported as answered.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AnsweredCheck {
    pub(crate) conn: ConnId,
    at: Time,
    latency: Duration,
}

/// Results of the health checks so far.
#[derive(Debug, Default)]
pub(crate) struct HealthModel {
    /// Answered checks that are not evaluated yet.
    unevaluated: Vec<AnsweredCheck>,
    /// Number of checks answered.
    pub(crate) answered: u64,
    /// Number of checks that ended without an answer.
    pub(crate) unanswered: u64,
}

impl HealthModel {
    /// A check ended: answered after `latency`, or not answered.
    pub(crate) fn ended(&mut self, conn: ConnId, at: Time, latency: Option<Duration>) {
        match latency {
            Some(latency) => {
                self.answered += 1;
                self.unevaluated.push(AnsweredCheck { conn, at, latency });
            }
            None => self.unanswered += 1,
        }
    }

    pub(crate) fn take_answered(&mut self) -> Vec<AnsweredCheck> {
        std::mem::take(&mut self.unevaluated)
    }
}

impl AnsweredCheck {
    /// Checks that the client sent back the nonce of this check, and removes it from `ponged`, the nonces sent back and
    /// not reported yet. A client that `is_unchecked` may have sent any nonce.
    pub(crate) fn check(
        &self,
        ponged: &mut Vec<u64>,
        is_unchecked: bool,
        wall_clock: &WallClock,
    ) -> Result<(), String> {
        let AnsweredCheck { conn, at, latency } = *self;
        let sent = (wall_clock.micros_at(at) - latency.as_micros() as u64) / 1000;
        // Nonces are milliseconds; further checks in the same millisecond use the next numbers.
        let has_stepped = wall_clock.stepped_at.is_some();
        match ponged.iter().position(|&nonce| has_stepped || (sent..sent + 64).contains(&nonce)) {
            Some(own) => drop(ponged.remove(own)),
            None if is_unchecked => {}
            None => {
                return Err(format!(
                    "a health check of conn={conn} was reported as answered after {latency:?}, but not answered"
                ));
            }
        }
        Ok(())
    }
}
