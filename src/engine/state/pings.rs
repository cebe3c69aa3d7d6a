//! The operators' pings: which answers they wait for, and reports that have not been taken.

use std::collections::VecDeque;
use std::time::Duration;

use super::unread::UnreadInput;
use crate::base::id::{ConnId, SeatId};
use crate::base::time::Time;
use crate::engine::operator::PingReport;

/// Largest number of pings that wait for their answers, or whose reports have not been taken.
const MAX_PINGS: usize = 64;

/// The operators' pings.
#[derive(Default)]
pub(crate) struct Pings {
    last_ticket: u64,
    /// Pings that wait for answers.
    open: Vec<Ping>,
    /// Reports that have not been taken.
    done: VecDeque<PingReport>,
}

struct Ping {
    ticket: u64,
    user: String,
    deadline: Time,
    /// Number of turns for which the ping has waited beyond its deadline because of unread input.
    deferred: u32,
    targets: Vec<PingTarget>,
}

/// One connection of the pinged user.
pub(crate) struct PingTarget {
    pub(crate) conn: ConnId,
    pub(crate) seat: SeatId,
    pub(crate) nonce: u64,
    /// The latency, or `Some(None)` if there was no answer. `None` while the answer is awaited.
    pub(crate) outcome: Option<Option<Duration>>,
}

impl Pings {
    pub(crate) fn is_full(&self) -> bool {
        self.open.len() + self.done.len() >= MAX_PINGS
    }

    /// Waits for the answers to a ping. Returns the number of its report.
    pub(crate) fn begin(&mut self, user: String, deadline: Time, targets: Vec<PingTarget>) -> u64 {
        let ticket = self.next_ticket();
        self.open.push(Ping { ticket, user, deadline, deferred: 0, targets });
        self.collect();
        ticket
    }

    pub(crate) fn has_reports(&self) -> bool {
        !self.done.is_empty()
    }

    pub(crate) fn take_report(&mut self) -> Option<PingReport> {
        self.done.pop_front()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.open.is_empty() && self.done.is_empty()
    }

    /// Returns the number of the next report.
    pub(crate) fn next_ticket(&mut self) -> u64 {
        self.last_ticket += 1;
        self.last_ticket
    }

    pub(crate) fn last_ticket(&self) -> u64 {
        self.last_ticket
    }

    pub(crate) fn set_last_ticket(&mut self, ticket: u64) {
        self.last_ticket = ticket;
    }

    /// The earliest deadline of a ping that waits for answers.
    pub(crate) fn next(&self) -> Option<Time> {
        self.open.iter().map(|ping| ping.deadline).min()
    }

    /// Stores the answer to the check that was begun with `nonce`.
    pub(crate) fn answered(&mut self, conn: ConnId, nonce: u64, latency: Duration) {
        self.resolve(|target| (target.conn == conn && target.nonce == nonce).then_some(Some(latency)));
    }

    /// Sets the outcome of the checks of a connection that is closing to "no answer".
    pub(crate) fn ended(&mut self, conn: ConnId) {
        self.resolve(|target| (target.conn == conn).then_some(None));
    }

    /// Ends the pings whose deadline has passed. Waits for connections with unread input, at most `max_deferred` turns
    /// longer.
    pub(crate) fn expire(&mut self, now: Time, unread: &UnreadInput, max_deferred: u32) {
        if self.open.is_empty() {
            return;
        }
        for ping in self.open.iter_mut().filter(|ping| ping.deadline <= now) {
            let may_wait = ping.deferred < max_deferred;
            for target in ping.targets.iter_mut().filter(|target| target.outcome.is_none()) {
                if may_wait && unread.contains(target.conn) {
                    ping.deadline = Time::from_micros(now.as_micros().saturating_add(1));
                } else {
                    target.outcome = Some(None);
                }
            }
            ping.deferred += 1;
        }
        self.collect();
    }

    /// Sets the outcomes that `outcome` yields for targets without one.
    fn resolve(&mut self, outcome: impl Fn(&PingTarget) -> Option<Option<Duration>>) {
        if self.open.is_empty() {
            return;
        }
        for target in self.open.iter_mut().flat_map(|ping| &mut ping.targets) {
            target.outcome = target.outcome.or_else(|| outcome(target));
        }
        self.collect();
    }

    /// Turns the pings of which all outcomes are known into reports.
    fn collect(&mut self) {
        let Pings { open, done, .. } = self;
        open.retain_mut(|ping| {
            if ping.targets.iter().any(|target| target.outcome.is_none()) {
                return true;
            }
            let answers = ping.targets.iter().map(|target| (target.seat, target.outcome.flatten())).collect();
            done.push_back(PingReport { ticket: ping.ticket, user: std::mem::take(&mut ping.user), answers });
            false
        });
    }
}
