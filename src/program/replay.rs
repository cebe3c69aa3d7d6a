//! `lobbyd replay`: replays a journal of one of the built-in applications at full speed.
//!
//! Exit 0: the replay sent the same bytes as the recorded session. 1: the journal cannot be read, or the output cannot
//! be written. 2: the arguments are invalid, or the journal cannot be opened. 4: the replay sent different bytes. 5:
//! the journal is damaged, or the file is not a journal. 6: another build or format version wrote it. 7: it contains
//! something that cannot be replayed.

use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{Arg, ArgAction, ArgMatches, Command};
use lobbyd::apps::{Echo, Relay, Verbatim};
use lobbyd::journal::{Fault, Replay, ReplayFailure, Step, Summary, TraceEvent};
use lobbyd::net::open_journal;
use lobbyd::{App, Time};

const UNREADABLE: u8 = 1;
const NOT_STARTED: u8 = 2;
const DIVERGED: u8 = 4;
const BROKEN: u8 = 5;
const OTHER_BUILD: u8 = 6;
const NOT_REPLAYABLE: u8 = 7;

pub(crate) fn command() -> Command {
    let value = |name: &'static str, value_name: &'static str, help: &'static str| {
        Arg::new(name).long(name).value_name(value_name).help(help)
    };
    let seconds = |name: &'static str, help: &'static str| {
        value(name, "SECONDS", help).value_parser(parse_seconds).requires("print")
    };
    Command::new("replay")
        .about("Replays a journal and reports whether the server sends the same bytes again")
        .after_help(
            "Exit codes: 0 all output was reproduced; 1 the journal cannot be read; 2 there is no such journal, or the arguments \
             are invalid; 4 the output differs; 5 damaged, or not a journal; 6 written by another build; 7 not replayable.",
        )
        .arg(Arg::new("file").value_name("FILE").required(true).value_parser(clap::value_parser!(PathBuf)).help(
            "The value of --journal, to replay the last session; or a segment file to begin with",
        ))
        .arg(Arg::new("print").long("print").action(ArgAction::SetTrue).help("Prints one line for each event"))
        .arg(value("lobby", "CODE", "Prints only events of this lobby").requires("print"))
        .arg(value("user", "USER", "Prints only events of this user").requires("print"))
        .arg(seconds("from", "Prints only events from this time on"))
        .arg(seconds("until", "Prints only events before this time"))
        .arg(
            value("stop-at", "TURN", "Stops after this turn and prints the lobbies and their members").value_parser(clap::value_parser!(u64)),
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
    let any_build = matches.get_flag("any-build");
    match recorded_app(path, any_build).as_deref() {
        Ok("relay") => run_as(matches, path, Relay::default()),
        Ok("verbatim") => run_as(matches, path, Verbatim::default()),
        Ok("echo") => run_as(matches, path, Echo),
        Ok(other) => {
            eprintln!(
                "lobbyd: {} was recorded with {}, not with one of the built-in applications; replay it in the program that \
                 contains this application, with lobbyd::journal::replay",
                path.display(),
                other.escape_debug()
            );
            ExitCode::from(NOT_REPLAYABLE)
        }
        Err(code) => ExitCode::from(*code),
    }
}

/// Returns the application that the journal was recorded with: the value of `--app` for a built-in application, or the
/// type name of another.
fn recorded_app(path: &Path, any_build: bool) -> Result<String, u8> {
    let replay = open(path, Echo, any_build)?;
    let app = replay.recorded_app();
    let built_in = [
        (std::any::type_name::<Relay>(), "relay"),
        (std::any::type_name::<Verbatim>(), "verbatim"),
        (std::any::type_name::<Echo>(), "echo"),
    ];
    let known = built_in.iter().find(|(type_name, _)| *type_name == app);
    Ok(known.map_or(app, |(_, name)| *name).to_owned())
}

fn open<A: App>(path: &Path, app: A, any_build: bool) -> Result<Replay<A, impl Read + use<A>>, u8> {
    let journal = open_journal(path).map_err(|error| {
        eprintln!("lobbyd: {}: {error}", path.display());
        NOT_STARTED
    })?;
    Replay::open(journal, app, any_build).map_err(|failure| {
        eprintln!("lobbyd: {}: {failure}", path.display());
        code_of(&failure.fault)
    })
}

fn code_of(fault: &Fault) -> u8 {
    match fault {
        Fault::Diverged(_) => DIVERGED,
        Fault::OtherVersion(_) | Fault::OtherBuild(_) => OTHER_BUILD,
        Fault::Closure | Fault::NoStart { .. } => NOT_REPLAYABLE,
        Fault::Io(_) => UNREADABLE,
        _ => BROKEN,
    }
}

fn run_as<A: App>(matches: &ArgMatches, path: &Path, app: A) -> ExitCode {
    let replay = match open(path, app, matches.get_flag("any-build")) {
        Ok(replay) => replay,
        Err(code) => return ExitCode::from(code),
    };
    match replay_all(matches, replay) {
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(failure)) => {
            eprintln!("lobbyd: {}: {failure}", path.display());
            ExitCode::from(code_of(&failure.fault))
        }
        // The reader closed the pipe, as `head` does: no error.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("lobbyd: cannot write: {error}");
            ExitCode::from(UNREADABLE)
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "the duration is only displayed; the engine never sees it")]
fn replay_all<A: App, R: Read>(
    matches: &ArgMatches,
    mut replay: Replay<A, R>,
) -> io::Result<Result<(), ReplayFailure>> {
    let started = Instant::now();
    let mut out = io::BufWriter::new(io::stdout().lock());
    let filter = matches.get_flag("print").then(|| Filter::of(matches));
    let stop_at = matches.get_one::<u64>("stop-at").copied();
    if filter.is_some() {
        replay.trace_events();
    }
    loop {
        let step = replay.step();
        if let Some(filter) = &filter {
            for event in replay.events().iter().filter(|event| filter.shows(event)) {
                writeln!(out, "turn {:<6} {event}", replay.turn())?;
            }
        }
        match step {
            Err(failure) => {
                if let Some(before) = &failure.summary {
                    write!(out, "{}", report(before, started.elapsed()))?;
                }
                out.flush()?;
                return Ok(Err(failure));
            }
            Ok(Step::On) => {}
            Ok(Step::Turn) if stop_at.is_none_or(|turn| replay.turn() < turn) => {}
            Ok(Step::Turn | Step::End) => break,
        }
    }
    if stop_at.is_some() {
        write!(out, "{}", replay.state())?;
    }
    write!(out, "{}", report(&replay.summary(), started.elapsed()))?;
    out.flush()?;
    Ok(Ok(()))
}

/// Selects the events to print.
struct Filter {
    lobby: Option<String>,
    user: Option<String>,
    from: Time,
    until: Time,
}

impl Filter {
    fn of(matches: &ArgMatches) -> Filter {
        Filter {
            lobby: matches.get_one("lobby").cloned(),
            user: matches.get_one("user").cloned(),
            from: matches.get_one("from").copied().unwrap_or(Time::ZERO),
            until: matches.get_one("until").copied().unwrap_or(Time::NEVER),
        }
    }

    fn shows(&self, event: &TraceEvent) -> bool {
        (self.from..self.until).contains(&event.at)
            && self.lobby.as_ref().is_none_or(|lobby| event.lobby.as_ref() == Some(lobby))
            && self.user.as_ref().is_none_or(|user| event.user.as_ref() == Some(user))
    }
}

fn report(summary: &Summary, took: Duration) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: String| text.push_str(&format!("{name:<24}{value:>16}\n"));
    let counters = &summary.stats.counters;
    line("recorded", format!("{:.3}s", summary.span.as_secs_f64()));
    line("turns", summary.turn.to_string());
    line("turns confirmed", summary.confirmed.to_string());
    line("segments", summary.segments.to_string());
    line("connections", counters.accepted.to_string());
    line("messages in", counters.messages_in.to_string());
    line("frames out", counters.frames_out.to_string());
    line("bytes in", counters.bytes_in.to_string());
    line("bytes out", counters.bytes_out.to_string());
    for (reason, count) in summary.closes() {
        line(&format!("closed {}", reason.word()), count.to_string());
    }
    if let Some(bytes) = summary.torn {
        line("torn bytes at the end", bytes.to_string());
    }
    if summary.is_open_ended {
        line("last turn", "unconfirmed".into());
    }
    if summary.omitted_reloads > 0 {
        line("reloads left out", summary.omitted_reloads.to_string());
    }
    line("replayed in", format!("{:.3}s", took.as_secs_f64()));
    line("times real time", format!("{:.0}", summary.span.as_secs_f64() / took.as_secs_f64().max(1e-6)));
    text
}
