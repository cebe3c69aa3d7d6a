//! Replays a journal and prints its timeline, for the program and for programs that embed the server.

use std::any::type_name;
use std::error::Error;
use std::fmt;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::clock::Stopwatch;
use super::error::text;
use super::journal_files::open_journal;
use crate::base::time::Time;
use crate::engine::app::App;
use crate::journal::{Fault, Replay, ReplayFailure, Step, Summary, TraceEvent};

/// Selects what [`print_replay`] prints. The default prints every event up to the end of the journal.
///
/// ```
/// use lobbyd::net::Timeline;
///
/// let timeline = Timeline { user: Some("ann".into()), ..Timeline::default() };
/// assert!(timeline.events && timeline.lobby.is_none());
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timeline {
    /// Whether events are printed. If not, only the summary is.
    pub events: bool,
    /// Prints only events of this lobby.
    pub lobby: Option<String>,
    /// Prints only events of this user.
    pub user: Option<String>,
    /// Prints only events from this time on.
    pub from: Time,
    /// Prints only events before this time.
    pub until: Time,
    /// Stops after this turn, and prints the lobbies and their members.
    pub stop_at: Option<u64>,
    /// Whether a journal that another build wrote is replayed too.
    pub any_build: bool,
}

impl Default for Timeline {
    fn default() -> Timeline {
        Timeline {
            events: true,
            lobby: None,
            user: None,
            from: Time::ZERO,
            until: Time::NEVER,
            stop_at: None,
            any_build: false,
        }
    }
}

impl Timeline {
    fn shows(&self, event: &TraceEvent) -> bool {
        self.events
            && (self.from..self.until).contains(&event.at)
            && self.lobby.as_ref().is_none_or(|lobby| event.lobby.as_ref() == Some(lobby))
            && self.user.as_ref().is_none_or(|user| event.user.as_ref() == Some(user))
    }
}

/// Replays the journal at `path` with a new instance of the recorded application, and prints one line for each event,
/// then a summary.
///
/// `path` is the journal's path from the configuration, or a segment: see [`open_journal`]. After every input
/// `check` is called with the application; an `Err` ends the replay. It is the same function as in
/// [`Simulator::check_app`](crate::sim::Simulator::check_app), so that what is a bug in the simulator is one in a
/// recorded session too. `|_| Ok(())` checks nothing.
///
/// A reader that closes the pipe, as `head` does, ends the printing without an error.
///
/// # Errors
///
/// [`ReplayError`].
///
/// ```no_run
/// use std::io;
/// use std::process::ExitCode;
///
/// use lobbyd::apps::Relay;
/// use lobbyd::net::{Timeline, print_replay};
///
/// fn main() -> ExitCode {
///     match print_replay("session".as_ref(), Relay::default(), |_| Ok(()), &Timeline::default(), io::stdout()) {
///         Ok(()) => ExitCode::SUCCESS,
///         Err(error) => {
///             eprintln!("game: {error}");
///             ExitCode::from(error.exit_code())
///         }
///     }
/// }
/// ```
pub fn print_replay<A: App>(
    path: &Path,
    app: A,
    check: impl FnMut(&A) -> Result<(), String>,
    timeline: &Timeline,
    out: impl Write,
) -> Result<(), ReplayError> {
    match try_print(path, app, check, timeline, out) {
        Err(Failure::Write(error)) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result.map_err(|failure| ReplayError { path: path.to_owned(), failure }),
    }
}

fn try_print<A: App>(
    path: &Path,
    app: A,
    mut check: impl FnMut(&A) -> Result<(), String>,
    timeline: &Timeline,
    out: impl Write,
) -> Result<(), Failure> {
    let stopwatch = Stopwatch::start();
    let journal = open_journal(path).map_err(Failure::Open)?;
    let mut replay = Replay::open(journal, app, timeline.any_build)?;
    let (recorded, given) = (replay.recorded_app(), type_name::<A>());
    if recorded != given {
        return Err(Failure::OtherApp { recorded: recorded.to_owned(), given });
    }
    let mut out = io::BufWriter::new(out);
    if timeline.events {
        replay.trace_events();
    }
    let result = loop {
        let step = replay.step();
        for event in replay.events().iter().filter(|event| timeline.shows(event)) {
            writeln!(out, "turn {:<6} {event}", replay.turn())?;
        }
        let step = match step {
            Ok(step) => step,
            Err(failure) => break Err(failure.into()),
        };
        if let Err(what) = check(replay.app()) {
            break Err(Failure::Check { turn: replay.turn(), at: replay.now(), what });
        }
        if step == Step::End || step == Step::Turn && timeline.stop_at.is_some_and(|turn| replay.turn() >= turn) {
            break Ok(());
        }
    };
    if timeline.stop_at.is_some() && result.is_ok() {
        write!(out, "{}", replay.state())?;
    }
    let written = print_totals(&mut out, &replay.summary(), &stopwatch);
    // What the replay found outweighs an output that nobody reads any more.
    result.and(written.map_err(Failure::Write))
}

fn print_totals(out: &mut impl Write, summary: &Summary, stopwatch: &Stopwatch) -> io::Result<()> {
    let seconds = stopwatch.micros() as f64 / 1e6;
    write!(out, "{summary}")?;
    writeln!(out, "{:<24}{:>16}", "replayed in", format!("{seconds:.3}s"))?;
    writeln!(out, "{:<24}{:>16.0}", "times real time", summary.span.as_secs_f64() / seconds.max(1e-6))?;
    out.flush()
}

/// Why a journal was not replayed to its end. [`print_replay`] has an example.
#[derive(Debug)]
pub struct ReplayError {
    path: PathBuf,
    failure: Failure,
}

#[derive(Debug)]
enum Failure {
    Open(io::Error),
    OtherApp { recorded: String, given: &'static str },
    Replay(ReplayFailure),
    Check { turn: u64, at: Time, what: String },
    Write(io::Error),
}

impl ReplayError {
    /// Returns the exit code of `lobbyd replay` for this error.
    ///
    /// 1: the journal cannot be read, or the output cannot be written. 2: there is no such journal. 4: the replay sent
    /// different bytes. 5: the journal is damaged, or is none. 6: another build or format version wrote it. 7: it
    /// contains something that cannot be replayed, such as a configuration that this build refuses, or was recorded with
    /// another application. 8: the application's check failed.
    pub fn exit_code(&self) -> u8 {
        match &self.failure {
            Failure::Write(_) => 1,
            Failure::Open(error) if error.kind() == io::ErrorKind::NotFound => 2,
            Failure::Open(_) => 1,
            Failure::OtherApp { .. } => 7,
            Failure::Check { .. } => 8,
            Failure::Replay(ReplayFailure { fault, .. }) => match fault {
                Fault::Io(_) => 1,
                Fault::Diverged(_) => 4,
                Fault::OtherVersion(_) | Fault::OtherBuild(_) | Fault::OtherCompressor(_) => 6,
                Fault::Closure | Fault::Config(_) | Fault::NoStart { .. } => 7,
                _ => 5,
            },
        }
    }

    /// Returns why the replay ended; `None` when another error ended it.
    pub fn fault(&self) -> Option<&Fault> {
        match &self.failure {
            Failure::Replay(failure) => Some(&failure.fault),
            _ => None,
        }
    }
}

impl fmt::Display for ReplayError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.display();
        match &self.failure {
            Failure::Open(error) => write!(f, "{path}: {}", text(error)),
            Failure::OtherApp { recorded, given } => {
                write!(f, "{path}: it was recorded with {}, and this is {given}", recorded.escape_debug())
            }
            Failure::Replay(failure) => write!(f, "{path}: {failure}"),
            Failure::Check { turn, at, what } => write!(f, "{path}: turn {turn} at {at}: {what}"),
            Failure::Write(error) => write!(f, "the output cannot be written: {}", text(error)),
        }
    }
}

impl Error for ReplayError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match &self.failure {
            Failure::Open(error) | Failure::Write(error) => Some(error),
            Failure::Replay(failure) => Some(failure),
            Failure::Check { .. } | Failure::OtherApp { .. } => None,
        }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Failure {
        Failure::Write(error)
    }
}

impl From<ReplayFailure> for Failure {
    fn from(failure: ReplayFailure) -> Failure {
        Failure::Replay(failure)
    }
}
