//! `lobbyd replay`: replays a journal of one of the built-in applications at full speed.

use std::any::type_name;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Arg, ArgAction, ArgMatches, Command};
use lobbyd::apps::{CatchPanics, Echo, Relay, Verbatim};
use lobbyd::journal::Replay;
use lobbyd::net::{Timeline, open_journal, print_replay};
use lobbyd::{App, Time};

use super::exit;
use super::failure;

pub(crate) fn command() -> Command {
    let value = |name: &'static str, value_name: &'static str, help: &'static str| {
        Arg::new(name).long(name).value_name(value_name).help(help)
    };
    let seconds = |name: &'static str, help: &'static str| {
        value(name, "SECONDS", help).value_parser(parse_seconds).requires("print")
    };
    Command::new("replay")
        .about("Replays a journal and reports whether the server sends the same bytes again")
        .after_help(exit::help("", exit::REPLAY))
        .arg(
            Arg::new("file")
                .value_name("FILE")
                .required(true)
                .value_parser(clap::value_parser!(PathBuf))
                .help("The value of --journal, to replay the last session; or a segment file to begin with"),
        )
        .arg(Arg::new("print").long("print").action(ArgAction::SetTrue).help("Prints one line for each event"))
        .arg(value("lobby", "CODE", "Prints only events of this lobby").requires("print"))
        .arg(value("user", "USER", "Prints only events of this user").requires("print"))
        .arg(seconds("from", "Prints only events from this time on"))
        .arg(seconds("until", "Prints only events before this time"))
        .arg(
            value("stop-at", "TURN", "Stops after this turn and prints the lobbies and their members")
                .value_parser(clap::value_parser!(u64)),
        )
        .arg(
            Arg::new("any-build")
                .long("any-build")
                .action(ArgAction::SetTrue)
                .help("Also tries to replay a journal that another build wrote"),
        )
}

fn parse_seconds(text: &str) -> Result<Time, String> {
    match text.trim_end_matches('s').parse() {
        Ok(seconds) if (0.0..1e12).contains(&seconds) => Ok(Time::ZERO + Duration::from_secs_f64(seconds)),
        _ => Err(format!("`{text}` is not a number of seconds since the start")),
    }
}

pub(crate) fn run(matches: &ArgMatches) -> ExitCode {
    let path = matches.get_one::<PathBuf>("file").expect("the argument is required");
    let Some(recorded) = recorded_app(path, matches.get_flag("any-build")) else {
        // The replay fails in the same way, and reports why.
        return print(matches, path, Relay::default());
    };
    replay_of(matches, path, &recorded, Relay::default())
        .or_else(|| replay_of(matches, path, &recorded, Verbatim::default()))
        .or_else(|| replay_of(matches, path, &recorded, Echo))
        .unwrap_or_else(|| {
            let problem = format!(
                "{}: it was recorded with {}, not with one of the built-in applications; replay it in the program that \
                 contains this application, with lobbyd::net::print_replay",
                path.display(),
                recorded.escape_debug()
            );
            failure::failed(&problem, exit::NOT_REPLAYABLE)
        })
}

/// Replays a journal that was recorded with `A`, or with `A` under `--on-app-panic close-lobby`. `None` if it was recorded
/// with another application.
fn replay_of<A: App>(matches: &ArgMatches, path: &Path, recorded: &str, app: A) -> Option<ExitCode> {
    if recorded == type_name::<A>() {
        Some(print(matches, path, app))
    } else if recorded == type_name::<CatchPanics<A>>() {
        Some(print(matches, path, CatchPanics::new(app)))
    } else {
        None
    }
}

/// Returns the type name of the application that the journal was recorded with; `None` if the journal cannot be opened.
fn recorded_app(path: &Path, any_build: bool) -> Option<String> {
    Some(Replay::open(open_journal(path).ok()?, Echo, any_build).ok()?.recorded_app().to_owned())
}

fn print<A: App>(matches: &ArgMatches, path: &Path, app: A) -> ExitCode {
    let timeline = Timeline {
        events: matches.get_flag("print"),
        lobby: matches.get_one("lobby").cloned(),
        user: matches.get_one("user").cloned(),
        from: matches.get_one("from").copied().unwrap_or(Time::ZERO),
        until: matches.get_one("until").copied().unwrap_or(Time::NEVER),
        stop_at: matches.get_one("stop-at").copied(),
        any_build: matches.get_flag("any-build"),
    };
    match print_replay(path, app, |_| Ok(()), &timeline, io::stdout().lock()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failure::failed(&error, error.exit_code()),
    }
}
