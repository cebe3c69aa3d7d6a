//! Counters kept outside of the engine, to be compared with the engine's own.

use std::collections::BTreeMap;

use crate::base::close::CloseReason;
use crate::base::codes::{AppCounts, CloseCode};
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
        // Beyond its bound the engine counts the application's codes only by their number.
        let has_others = known.len() > AppCounts::<CloseCode>::MAX;
        if counted == known || has_others && by_number(&counted) == by_number(&known) {
            Ok(())
        } else {
            Err(format!("closes by reason: the engine counts {counted:?}, the simulator {known:?}"))
        }
    }
}

/// Sums the counts of the application's codes of one number.
fn by_number(counts: &[(CloseReason, u64)]) -> BTreeMap<(u16, Option<&str>), u64> {
    let mut sums = BTreeMap::new();
    for (reason, count) in counts {
        let word = (!matches!(reason, CloseReason::App(_))).then_some(reason.word());
        *sums.entry((reason.code(), word)).or_default() += count;
    }
    sums
}

/// Checks that the two counts of each name are equal.
pub(crate) fn check_equal(counts: &[(&str, u64, u64)]) -> Result<(), String> {
    match counts.iter().find(|(_, first, second)| first != second) {
        Some((name, first, second)) => Err(format!("{name}: the first count is {first}, the second {second}")),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_codes_than_the_engine_counts_one_by_one_are_compared_by_number() {
        let (mut engine, mut model) = (Counters::default(), CounterModel::default());
        for index in 0..300_u64 {
            let code = CloseCode::new(4400 + (index % 2) as u16, &format!("word_{index}")).expect("a code");
            engine.app_closes.add(code);
            model.dropped(CloseReason::App(code));
        }
        (engine.accepted, model.opened, model.closed) = (300, 300, 300);
        model.check(&engine).expect("the sums of 4400 and of 4401 are equal");
        engine.app_closes.add(CloseCode::new(4402, "more").expect("a code"));
        assert!(model.check(&engine).is_err());
    }
}
