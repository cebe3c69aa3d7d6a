//! The `lobbyd` program: parses the command line and runs the command.

mod program;

use std::process::ExitCode;

use self::program::{check, command_line, completions, failure, load, manual, print_config, replay, serve, simulate};

fn main() -> ExitCode {
    let matches = match command_line::command(command_line::COLUMNS).try_get_matches() {
        Ok(matches) => matches,
        Err(error) => return failure::wrong_arguments(&error),
    };
    match matches.subcommand() {
        #[cfg(unix)]
        Some(("cluster", matches)) => program::cluster::run(matches),
        Some(("check", matches)) => check::run(matches),
        Some(("config", matches)) => print_config::run(matches),
        Some(("simulate", matches)) => simulate::run(matches),
        Some(("load", matches)) => load::run(matches),
        Some(("replay", matches)) => replay::run(matches),
        Some(("completions", matches)) => completions::run(matches),
        Some(("man", _)) => manual::run(),
        _ => serve::run(&matches),
    }
}
