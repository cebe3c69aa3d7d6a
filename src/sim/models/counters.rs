//! Counters kept outside of the engine, to be compared with the engine's own.

use crate::base::close::CloseReason;
use crate::engine::state::counters::Counters;
use crate::sim::closes::Closes;

/// Counters of the connections, bytes and frames of a run.
#[derive(Clone, Debug, Default)]
pub(crate) struct CounterModel {
    pub(crate) opened: u64,
    pub(crate) shed: u64,
    pub(crate) bytes_in: u64,
    pub(crate) bytes_out: u64,
    pub(crate) closed: u64,
    /// Closed connections, by close reason.
    pub(crate) reasons: Closes,
}

impl CounterModel {
    /// The server dropped a connection that ended with `reason`.
    pub(crate) fn dropped(&mut self, reason: CloseReason) {
        self.reasons.add(reason, 1);
    }

    /// Compares the engine's counters with these, after all connections have closed.
    pub(crate) fn check(&self, engine: &Counters) -> Result<(), String> {
        check_equal(&[
            ("accepted", engine.accepted, self.opened),
            ("shed", engine.shed, self.shed),
            ("closed", engine.closed_in_all(), self.closed),
            ("opened and closed", self.opened, self.closed),
            ("bytes_in", engine.bytes_in, self.bytes_in),
            ("bytes_out", engine.bytes_out, self.bytes_out),
        ])?;
        let (counted, known): (Vec<_>, Vec<_>) = (engine.closes().collect(), self.reasons.iter().collect());
        if counted == known {
            Ok(())
        } else {
            Err(format!("closes by reason: the engine counts {counted:?}, the simulator {known:?}"))
        }
    }
}

/// Checks that the two counts of each name are equal.
pub(crate) fn check_equal(counts: &[(&str, u64, u64)]) -> Result<(), String> {
    match counts.iter().find(|(_, first, second)| first != second) {
        Some((name, first, second)) => Err(format!("{name}: the first count is {first}, the second {second}")),
        None => Ok(()),
    }
}
