//! One connection's signs of life.
//!
//! Two questions are kept apart. Is the path alive? Any byte received says so; after silence a ping asks. Is the page
//! alive, and how far away? A health check asks the application at the other end; its answer carries the check's nonce.

use std::time::Duration;

use crate::time::Time;

/// A health check that has not been answered.
#[derive(Clone, Copy, Debug)]
struct Check {
    nonce: u64,
    sent: Time,
    deadline: Time,
}

#[derive(Debug)]
pub(crate) struct Health {
    last_heard: Time,
    /// When the ping that is not answered yet was sent.
    ping_sent: Option<Time>,
    /// The last nonce used; each is larger than the one before.
    nonce: u64,
    /// Oldest first.
    checks: Vec<Check>,
    /// When to begin the next periodic check.
    next_check: Time,
}

impl Health {
    pub(crate) fn new(now: Time) -> Health {
        Health { last_heard: now, ping_sent: None, nonce: 0, checks: Vec::new(), next_check: Time::NEVER }
    }

    /// Bytes were received: the path is alive. Touches no timer.
    pub(crate) fn heard(&mut self, now: Time) {
        self.last_heard = now;
        self.ping_sent = None;
    }

    pub(crate) fn last_heard(&self) -> Time {
        self.last_heard
    }

    /// When a ping is due, or when the one under way has taken too long.
    pub(crate) fn path_deadline(&self, interval: Duration, timeout: Duration) -> Time {
        match self.ping_sent {
            Some(sent) => sent + timeout,
            None => self.last_heard + interval,
        }
    }

    pub(crate) fn is_pinged(&self) -> bool {
        self.ping_sent.is_some()
    }

    pub(crate) fn pinged(&mut self, now: Time) {
        self.ping_sent = Some(now);
    }

    /// When the first check ends unanswered, or the next periodic one begins.
    pub(crate) fn check_deadline(&self) -> Time {
        self.checks.iter().map(|check| check.deadline).fold(self.next_check, Time::min)
    }

    pub(crate) fn next_check(&self) -> Time {
        self.next_check
    }

    pub(crate) fn schedule_check(&mut self, at: Time) {
        self.next_check = at;
    }

    /// Begins a check. Returns its nonce, at least `stamp` and larger than all before.
    pub(crate) fn begin_check(&mut self, now: Time, timeout: Duration, stamp: u64) -> u64 {
        self.nonce = stamp.max(self.nonce + 1);
        self.checks.push(Check { nonce: self.nonce, sent: now, deadline: now + timeout });
        self.nonce
    }

    /// Ends the check that was begun with `nonce`. Returns how long it took; `None` for a nonce that is unknown,
    /// answered before, or too late.
    pub(crate) fn answer(&mut self, now: Time, nonce: u64) -> Option<Duration> {
        let at = self.checks.iter().position(|check| check.nonce == nonce && now <= check.deadline)?;
        Some(now - self.checks.remove(at).sent)
    }

    /// Ends the checks whose time is over. Returns how many.
    pub(crate) fn expire_checks(&mut self, now: Time) -> usize {
        let before = self.checks.len();
        self.checks.retain(|check| now < check.deadline);
        before - self.checks.len()
    }

    /// Ends the oldest checks so that at most `bound` are left. Returns how many.
    pub(crate) fn trim_checks(&mut self, bound: usize) -> usize {
        let excess = self.checks.len().saturating_sub(bound);
        self.checks.drain(..excess);
        excess
    }

    /// Ends all checks. Returns how many.
    pub(crate) fn end_checks(&mut self) -> usize {
        let ended = self.checks.len();
        self.checks = Vec::new();
        self.next_check = Time::NEVER;
        ended
    }

    pub(crate) fn open_checks(&self) -> usize {
        self.checks.len()
    }
}
