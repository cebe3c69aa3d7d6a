//! The last events of a run, for the report of a failure. A run that fails is repeated with the trace on.

use std::collections::VecDeque;

/// Number of events that are kept.
const KEPT: usize = 20_000;
/// Number of events that a report shows: the last ones, and earlier ones with a number that the violation names.
const SHOWN: usize = 60;
/// Least digits of such a number.
const DIGITS: usize = 3;

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
            if self.lines.len() == KEPT {
                self.lines.pop_front();
            }
            let at = format!("{}.{:06}s", now / 1_000_000, now % 1_000_000);
            self.lines.push_back(format!("  step {:<6} {at} {}\n", self.step, line()));
        }
    }

    pub(super) fn text(&self, violation: &str) -> String {
        let numbers = violation.split(|c: char| !c.is_ascii_digit()).filter(|word| word.len() >= DIGITS);
        let numbers: Vec<&str> = numbers.collect();
        let first = self.lines.len().saturating_sub(SHOWN);
        let is_about = |line: &&String| numbers.iter().any(|number| line.contains(number));
        let mut about: Vec<&str> = self.lines.range(..first).filter(is_about).map(String::as_str).collect();
        about.drain(..about.len().saturating_sub(SHOWN));
        about.into_iter().chain(self.lines.range(first..).map(String::as_str)).collect()
    }
}
