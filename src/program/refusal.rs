//! The report of a program that does not start as configured.

use std::io::{self, Write};
use std::process::ExitCode;

use super::logger::{Format, json_error};

/// Exit code of a program that does not start as configured.
pub(crate) const NOT_STARTED: u8 = 2;

/// All problems of a configuration.
pub(crate) struct Refusal {
    pub(crate) problems: Vec<String>,
    pub(crate) format: Format,
}

impl Refusal {
    /// Writes the problems to standard error, and returns the exit code.
    pub(crate) fn report(&self) -> ExitCode {
        let text = match self.format {
            Format::Text => {
                let problems = self.problems.iter().map(|problem| format!("  {problem}\n"));
                ["lobbyd: invalid configuration\n".to_owned()].into_iter().chain(problems).collect::<String>()
            }
            Format::Json => {
                let problems = self.problems.iter();
                problems.map(|problem| json_error(&format!("invalid configuration: {problem}"))).collect()
            }
        };
        let _ = io::stderr().write_all(text.as_bytes());
        ExitCode::from(NOT_STARTED)
    }
}
