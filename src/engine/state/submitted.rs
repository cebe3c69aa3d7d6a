//! Operators' commands in the log of the cluster: which of them wait for their place in it, and answers that have not been
//! taken.

use std::collections::{BTreeMap, VecDeque};

use crate::base::time::Time;
use crate::engine::operator::{OperatorAnswer, OperatorRefusal, OperatorReport};

/// Largest number of commands that wait for their answers, or whose answers have not been taken. Above that of the
/// connections of operators, each of which waits for one.
const MAX_SUBMITTED: usize = 1024;

/// Commands that this node has appended.
#[derive(Debug, Default)]
pub(crate) struct Submitted {
    /// By ticket, with their deadlines. Both increase.
    open: BTreeMap<u64, Time>,
    done: VecDeque<OperatorReport>,
}

impl Submitted {
    pub(crate) fn is_full(&self) -> bool {
        self.open.len() + self.done.len() >= MAX_SUBMITTED
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.open.is_empty() && self.done.is_empty()
    }

    pub(crate) fn has_reports(&self) -> bool {
        !self.done.is_empty()
    }

    pub(crate) fn take_report(&mut self) -> Option<OperatorReport> {
        self.done.pop_front()
    }

    /// Waits for the answer to a command.
    pub(crate) fn begin(&mut self, ticket: u64, deadline: Time) {
        self.open.insert(ticket, deadline);
    }

    /// A command was carried out, or refused. Ignored if nobody waits for it any more.
    pub(crate) fn answered(&mut self, ticket: u64, answer: Result<OperatorAnswer, OperatorRefusal>) {
        if self.open.remove(&ticket).is_some() {
            self.done.push_back(OperatorReport::Answered { ticket, answer });
        }
    }

    /// The earliest deadline.
    pub(crate) fn next(&self) -> Option<Time> {
        self.open.values().next().copied()
    }

    /// Ends the commands whose deadline has passed. Their outcome is not known.
    pub(crate) fn expire(&mut self, now: Time) {
        while let Some((&ticket, _)) = self.open.first_key_value().filter(|&(_, &deadline)| deadline <= now) {
            self.answered(ticket, Err(OperatorRefusal::OutcomeUnknown));
        }
    }

    /// Ends all commands, because this node does not see the log any more.
    pub(crate) fn end_all(&mut self) {
        self.expire(Time::NEVER);
    }
}
