//! The last events of a run, for the report of a failure. A run that fails is repeated with the trace on.

use std::collections::VecDeque;

/// Number of events that a report shows.
const SHOWN: usize = 60;

#[derive(Debug)]
pub(super) struct Trace {
    is_on: bool,
    lines: VecDeque<String>,
    pub(super) step: u64,
}

impl Trace {
    pub(super) fn new(is_on: bool) -> Trace {
        Trace { is_on, lines: VecDeque::new(), step: 0 }
    }

    pub(super) fn note(&mut self, now: u64, line: impl FnOnce() -> String) {
        if self.is_on {
            if self.lines.len() == SHOWN {
                self.lines.pop_front();
            }
            let at = format!("{}.{:06}s", now / 1_000_000, now % 1_000_000);
            self.lines.push_back(format!("  step {:<6} {at} {}\n", self.step, line()));
        }
    }

    pub(super) fn text(&self) -> String {
        self.lines.iter().map(String::as_str).collect()
    }
}
