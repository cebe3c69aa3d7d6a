//! Commands that the application gets at fixed times, as from a loop of the program's own.
//!
//! Knows when a command is due. Knows neither the application nor the engine.

use std::time::Duration;

use crate::base::time::Time;

/// Most commands that are given at once, after the time has jumped. Older ones are skipped, as a game skips steps.
const MAX_AT_ONCE: u64 = 5;

/// A command, and when it is due.
pub(super) struct Commands {
    period: Duration,
    command: Vec<u8>,
    /// Number of periods that have passed.
    passed: u64,
}

impl Commands {
    pub(super) fn new(period: Duration, command: Vec<u8>) -> Commands {
        Commands { period: period.max(Duration::from_micros(1)), command, passed: 0 }
    }

    /// Returns the command, and how often it is due at `now`.
    pub(super) fn take_due(&mut self, now: Time) -> (&[u8], u64) {
        let passed = (now - Time::ZERO).as_micros() / self.period.as_micros();
        let passed = u64::try_from(passed).unwrap_or(u64::MAX);
        let count = passed - self.passed;
        self.passed = passed;
        (&self.command, count.min(MAX_AT_ONCE))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_due_once_a_period_and_a_jump_skips_some() {
        let mut commands = Commands::new(Duration::from_millis(10), b"step".to_vec());
        let mut due = |millis: u64| commands.take_due(Time::from_micros(millis * 1000)).1;
        assert_eq!([due(0), due(9), due(10), due(19), due(40), due(40), due(1000)], [0, 0, 1, 0, 3, 0, 5]);
    }
}
