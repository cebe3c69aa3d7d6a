//! Health of one connection: the time of the last received byte, and the open health checks. Plain data: it sends
//! nothing and touches no timer.
//!
//! Two checks are separate. Pings check the path: any received byte proves that it works, so a ping is sent only when
//! no byte has arrived for some time. Health checks test the page at the other end and measure its latency; the answer
//! carries the nonce of the check.

use std::time::Duration;

use crate::base::time::Time;

/// A health check that has not been answered yet.
#[derive(Clone, Copy, Debug)]
struct Check {
    nonce: u64,
    sent: Time,
    deadline: Time,
}

#[derive(Debug)]
pub(crate) struct Health {
    /// Time of the last received byte.
    last_heard: Time,
    /// When the unanswered ping was sent, or [`Time::NEVER`].
    ping_sent: Time,
    /// Present once a check was started or scheduled.
    checks: Option<Box<Checks>>,
}

#[derive(Debug)]
struct Checks {
    /// The last nonce that was used; each is larger than the one before.
    nonce: u64,
    /// Oldest first.
    open: Vec<Check>,
    /// When to start the next periodic check.
    next: Time,
    /// When a refused login last had the path checked, or [`Time::NEVER`].
    login_ping: Time,
    /// Number of checks that gave way to newer ones and are not reported as ended yet.
    displaced: usize,
    /// When to report them, or [`Time::NEVER`].
    report_displaced: Time,
}

impl Default for Checks {
    fn default() -> Checks {
        Checks {
            nonce: 0,
            open: Vec::new(),
            next: Time::NEVER,
            login_ping: Time::NEVER,
            displaced: 0,
            report_displaced: Time::NEVER,
        }
    }
}

impl Health {
    pub(crate) fn new(now: Time) -> Health {
        Health { last_heard: now, ping_sent: Time::NEVER, checks: None }
    }

    /// Records received bytes: the path is alive. Touches no timer. Returns the microseconds since the ping that they
    /// answer, if there is one.
    #[inline]
    pub(crate) fn heard(&mut self, now: Time) -> Option<u64> {
        let latency = self.is_pinged().then(|| now.as_micros() - self.ping_sent.as_micros());
        self.last_heard = now;
        self.ping_sent = Time::NEVER;
        latency
    }

    /// Records that the socket has taken bytes, if no answer to a ping can come: they answer it. Returns whether a ping was
    /// unanswered. The next one is due an interval after it.
    pub(crate) fn written(&mut self) -> bool {
        let is_pinged = self.is_pinged();
        if is_pinged {
            self.last_heard = self.last_heard.max(self.ping_sent);
            self.ping_sent = Time::NEVER;
        }
        is_pinged
    }

    pub(crate) fn last_heard(&self) -> Time {
        self.last_heard
    }

    /// When a ping is due, or when the unanswered one times out.
    pub(crate) fn path_deadline(&self, interval: Duration, timeout: Duration) -> Time {
        if self.is_pinged() { self.ping_sent + timeout } else { self.last_heard + interval }
    }

    pub(crate) fn is_pinged(&self) -> bool {
        self.ping_sent != Time::NEVER
    }

    pub(crate) fn pinged(&mut self, now: Time) {
        self.ping_sent = now;
    }

    /// Returns whether a ping is to be sent, because a login was refused on account of this connection. None is while one
    /// is unanswered, and for `pause` after the last one: logins must not be able to cause many.
    pub(crate) fn needs_login_ping(&mut self, now: Time, pause: Duration) -> bool {
        let last = &mut self.checks.get_or_insert_default().login_ping;
        let is_needed = self.ping_sent == Time::NEVER && (*last == Time::NEVER || now >= *last + pause);
        if is_needed {
            *last = now;
        }
        is_needed
    }

    /// When the first check expires or is to be reported as displaced, or the next periodic one starts.
    pub(crate) fn check_deadline(&self) -> Time {
        let Some(checks) = &self.checks else { return Time::NEVER };
        checks.open.iter().map(|check| check.deadline).fold(checks.next.min(checks.report_displaced), Time::min)
    }

    pub(crate) fn next_check(&self) -> Time {
        self.checks.as_ref().map_or(Time::NEVER, |checks| checks.next)
    }

    pub(crate) fn schedule_check(&mut self, at: Time) {
        self.checks.get_or_insert_default().next = at;
    }

    /// Starts a check. Returns its nonce, which is at least `stamp` and larger than all before.
    pub(crate) fn begin_check(&mut self, now: Time, timeout: Duration, stamp: u64) -> u64 {
        let checks = self.checks.get_or_insert_default();
        checks.nonce = stamp.max(checks.nonce + 1);
        checks.open.push(Check { nonce: checks.nonce, sent: now, deadline: now + timeout });
        checks.nonce
    }

    /// Ends the check with this `nonce`. Returns its latency; `None` for a nonce that is unknown, already answered or
    /// expired.
    ///
    /// All bytes that arrived before `heard_until` have been read. An answer that is read after its deadline counts if
    /// it may have arrived in time.
    pub(crate) fn answer(&mut self, now: Time, nonce: u64, heard_until: Time) -> Option<Duration> {
        let open = &mut self.checks.as_mut()?.open;
        let at = open.iter().position(|check| check.nonce == nonce && now.min(heard_until) <= check.deadline)?;
        Some(now - open.remove(at).sent)
    }

    /// Ends the checks whose deadline has passed. Returns their number, and that of the displaced ones to report.
    pub(crate) fn expire_checks(&mut self, now: Time) -> usize {
        let Some(checks) = &mut self.checks else { return 0 };
        let before = checks.open.len();
        checks.open.retain(|check| now < check.deadline);
        let expired = before - checks.open.len();
        if now < checks.report_displaced {
            return expired;
        }
        checks.report_displaced = Time::NEVER;
        expired + std::mem::take(&mut checks.displaced)
    }

    /// Ends the oldest checks so that at most `bound` are left.
    ///
    /// They are reported after `now`, and so in a later turn. The application may start a check because another has
    /// ended, and its turn must end.
    pub(crate) fn trim_checks(&mut self, now: Time, bound: usize) {
        let excess = self.open_checks().saturating_sub(bound);
        if let Some(checks) = self.checks.as_mut().filter(|_| excess > 0) {
            checks.open.drain(..excess);
            checks.displaced += excess;
            checks.report_displaced = checks.report_displaced.min(now + Duration::from_micros(1));
        }
    }

    /// Ends all checks. Returns the number of those without a result.
    pub(crate) fn end_checks(&mut self) -> usize {
        self.checks.take().map_or(0, |checks| checks.open.len() + checks.displaced)
    }

    pub(crate) fn open_checks(&self) -> usize {
        self.checks.as_ref().map_or(0, |checks| checks.open.len())
    }
}
