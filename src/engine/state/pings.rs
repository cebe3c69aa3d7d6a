//! The operators' pings: which answers they wait for, and reports that have not been taken.

use std::collections::VecDeque;
use std::time::Duration;

use super::unread::UnreadInput;
use crate::base::id::{ConnId, SeatId};
use crate::base::time::Time;
use crate::cluster::log::Incarnation;
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
    /// Results of checks that other nodes of a cluster have asked for, still to append.
    results: VecDeque<CheckResult>,
}

struct Ping {
    ticket: u64,
    /// The node of a cluster that has asked for the check of its only target. `None`: an operator of this node.
    asker: Option<Incarnation>,
    user: String,
    deadline: Time,
    /// Number of turns for which the ping has waited beyond its deadline because of unread input.
    deferred: u32,
    targets: Vec<PingTarget>,
}

/// The result of a check that a node of a cluster has asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CheckResult {
    pub(crate) asker: Incarnation,
    pub(crate) ticket: u64,
    pub(crate) seat: SeatId,
    pub(crate) latency: Option<Duration>,
}

/// Where the page of a pinged seat is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Via {
    /// On this connection, where a check with this nonce was begun.
    Conn(ConnId, u64),
    /// On another node, which was asked to check it.
    Node(Incarnation),
}

/// One seat of the pinged user.
pub(crate) struct PingTarget {
    pub(crate) seat: SeatId,
    pub(crate) via: Via,
    /// The latency, or `Some(None)` if there was no answer. `None` while the answer is awaited.
    pub(crate) outcome: Option<Option<Duration>>,
}

impl Pings {
    pub(crate) fn is_full(&self) -> bool {
        self.open.iter().filter(|ping| ping.asker.is_none()).count() + self.done.len() >= MAX_PINGS
    }

    /// Waits for the answers to a ping. `ticket` is the number of its report.
    pub(crate) fn begin(&mut self, ticket: u64, user: String, deadline: Time, targets: Vec<PingTarget>) {
        self.open.push(Ping { ticket, asker: None, user, deadline, deferred: 0, targets });
        self.collect();
    }

    /// Waits for the answer to a check that a node of a cluster has asked for. Each node asks for those of [`MAX_PINGS`] pings.
    pub(crate) fn begin_for(&mut self, asker: Incarnation, ticket: u64, deadline: Time, target: PingTarget) {
        let (asker, user, targets) = (Some(asker), String::new(), vec![target]);
        self.open.push(Ping { ticket, asker, user, deadline, deferred: 0, targets });
        self.collect();
    }

    /// Notes the result of a check that a node has asked for.
    pub(crate) fn note_result(&mut self, result: CheckResult) {
        self.results.push_back(result);
    }

    /// Takes the next result of a check that a node has asked for.
    pub(crate) fn take_result(&mut self) -> Option<CheckResult> {
        self.results.pop_front()
    }

    pub(crate) fn has_reports(&self) -> bool {
        !self.done.is_empty()
    }

    pub(crate) fn take_report(&mut self) -> Option<PingReport> {
        self.done.pop_front()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.open.is_empty() && self.done.is_empty() && self.results.is_empty()
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
        self.resolve(|_, target| (target.via == Via::Conn(conn, nonce)).then_some(Some(latency)));
    }

    /// Sets the outcome of the checks of a connection that is closing to "no answer".
    pub(crate) fn ended(&mut self, conn: ConnId) {
        self.resolve(|_, target| matches!(target.via, Via::Conn(known, _) if known == conn).then_some(None));
    }

    /// Stores the result of another node. Ignored if nobody waits for it any more.
    pub(crate) fn answered_elsewhere(&mut self, ticket: u64, seat: SeatId, latency: Option<Duration>) {
        self.resolve(|ping, target| {
            let is_asked = ping == ticket && target.seat == seat && matches!(target.via, Via::Node(_));
            is_asked.then_some(latency)
        });
    }

    /// A node has ended. It answers nothing any more, and nobody waits there.
    pub(crate) fn node_ended(&mut self, node: Incarnation) {
        self.open.retain(|ping| ping.asker != Some(node));
        self.resolve(|_, target| (target.via == Via::Node(node)).then_some(None));
    }

    /// This node was detached from the cluster.
    pub(crate) fn lose_cluster(&mut self) {
        self.open.retain(|ping| ping.asker.is_none());
        self.results.clear();
        self.resolve(|_, target| matches!(target.via, Via::Node(_)).then_some(None));
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
                if may_wait && matches!(target.via, Via::Conn(conn, _) if unread.contains(conn)) {
                    ping.deadline = Time::from_micros(now.as_micros().saturating_add(1));
                } else {
                    target.outcome = Some(None);
                }
            }
            ping.deferred += 1;
        }
        self.collect();
    }

    /// Sets the outcomes that `outcome` yields for targets without one. It gets the ticket of a ping of this node, and 0 for one that
    /// another node waits for.
    fn resolve(&mut self, outcome: impl Fn(u64, &PingTarget) -> Option<Option<Duration>>) {
        if self.open.is_empty() {
            return;
        }
        for ping in &mut self.open {
            let ticket = if ping.asker.is_none() { ping.ticket } else { 0 };
            for target in &mut ping.targets {
                target.outcome = target.outcome.or_else(|| outcome(ticket, target));
            }
        }
        self.collect();
    }

    /// Turns the pings of which all outcomes are known into reports.
    fn collect(&mut self) {
        let Pings { open, done, results, .. } = self;
        open.retain_mut(|ping| {
            if ping.targets.iter().any(|target| target.outcome.is_none()) {
                return true;
            }
            if let Some(asker) = ping.asker {
                let ticket = ping.ticket;
                let result = |target: &PingTarget| CheckResult {
                    asker,
                    ticket,
                    seat: target.seat,
                    latency: target.outcome.flatten(),
                };
                results.extend(ping.targets.iter().map(result));
                return false;
            }
            let answers = ping.targets.iter().map(|target| (target.seat, target.outcome.flatten())).collect();
            done.push_back(PingReport { ticket: ping.ticket, user: std::mem::take(&mut ping.user), answers });
            false
        });
    }
}
