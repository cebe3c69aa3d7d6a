//! `lobbyd completions`: prints a completion script for a shell.

use std::process::ExitCode;

use clap::ArgMatches;
use clap_complete::{Shell, generate};

use super::command_line;
use super::output;

pub(crate) fn run(matches: &ArgMatches) -> ExitCode {
    let &shell = matches.get_one::<Shell>("shell").expect("the argument is required");
    let mut script = Vec::new();
    generate(shell, &mut command_line::command(usize::MAX), "lobbyd", &mut script);
    output::print(&script)
}
