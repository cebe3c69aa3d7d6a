//! The `lobbyd` program: parses the command line and runs the command.

mod program;

use std::process::ExitCode;

use self::program::{command_line, replay, serve, simulate};

fn main() -> ExitCode {
    let matches = command_line::command().get_matches();
    match matches.subcommand() {
        Some(("simulate", matches)) => simulate::run(matches),
        Some(("replay", matches)) => replay::run(matches),
        _ => serve::run(&matches),
    }
}
