//! The `lobbyd` program: parses the command line and runs the command.

mod program;

use std::process::ExitCode;

use self::program::{command_line, failure, replay, serve, simulate};

fn main() -> ExitCode {
    let matches = match command_line::command().try_get_matches() {
        Ok(matches) => matches,
        Err(error) => return failure::wrong_arguments(&error),
    };
    match matches.subcommand() {
        Some(("simulate", matches)) => simulate::run(matches),
        Some(("replay", matches)) => replay::run(matches),
        _ => serve::run(&matches),
    }
}
