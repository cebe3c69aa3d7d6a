//! `lobbyd simulate`: runs the built-in applications in the simulator, one seed after the other.
//!
//! Exit 0: every seed passed. 1: a seed failed. 2: the arguments are invalid.

use std::io::{self, IsTerminal, Write};
use std::panic;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{Arg, ArgAction, ArgMatches, Command};
use lobbyd::sim::{Behaviour, Failure, Plan, Report, shrink, simulate, simulate_cluster, simulate_journaled};

/// Shortest time between two updates of the progress bar.
const UPDATE: Duration = Duration::from_millis(100);
/// Characters of the progress bar.
const BAR: usize = 30;

pub(crate) fn command() -> Command {
    Command::new("simulate")
        .about("Runs the server on a simulated network with faults, without sockets")
        .after_help("Each run is determined by its seed: the same seeds give the same hash on every machine.")
        .arg(
            Arg::new("seed")
                .long("seed")
                .value_name("N|A..B")
                .default_value("0..100")
                .value_parser(parse_seeds)
                .help("One seed, or the seeds from A up to but not including B"),
        )
        .arg(
            Arg::new("steps")
                .long("steps")
                .value_name("N")
                .default_value("1000")
                .value_parser(clap::value_parser!(u64))
                .help("Steps with faults for each seed"),
        )
        .arg(
            Arg::new("clients")
                .long("clients")
                .value_name("N")
                .value_parser(clap::value_parser!(u16).range(1..=1000))
                .help("Largest number of clients at the same time [default: 12]"),
        )
        .arg(
            Arg::new("without")
                .long("without")
                .value_name("BEHAVIOUR,…")
                .value_delimiter(',')
                .action(ArgAction::Append)
                .value_parser(parse_behaviour)
                .help("Behaviours to leave out; an unknown word lists all of them"),
        )
        .arg(
            Arg::new("journal")
                .long("journal")
                .action(ArgAction::SetTrue)
                .help("Records each run in a journal in memory and replays it"),
        )
        .arg(
            Arg::new("cluster")
                .long("cluster")
                .action(ArgAction::SetTrue)
                .conflicts_with_all(["journal", "without"])
                .help("Runs several nodes of a cluster, with a model of Redis"),
        )
        .arg(
            Arg::new("shrink")
                .long("shrink")
                .action(ArgAction::SetTrue)
                .help("Reduces a failing run to fewer steps, clients and behaviours"),
        )
}

type Run = fn(&Plan) -> Result<Report, Box<Failure>>;

fn parse_seeds(text: &str) -> Result<(u64, u64), String> {
    let number = |text: &str| text.parse::<u64>().map_err(|_| format!("`{text}` is not a whole number"));
    let (first, end) = match text.split_once("..") {
        Some((first, end)) => (number(first)?, number(end)?),
        None => (number(text)?, number(text)?.checked_add(1).ok_or("the seed is too large")?),
    };
    if first < end { Ok((first, end)) } else { Err(format!("there is no seed in {first}..{end}")) }
}

fn parse_behaviour(text: &str) -> Result<Behaviour, String> {
    let known = Behaviour::ALL.iter().copied();
    known.clone().find(|behaviour| behaviour.word() == text).ok_or_else(|| {
        let words: Vec<&str> = known.map(Behaviour::word).collect();
        format!("`{text}` is none of {}", words.join(", "))
    })
}

pub(crate) fn run(matches: &ArgMatches) -> ExitCode {
    let &(first, end) = matches.get_one::<(u64, u64)>("seed").expect("the argument has a default");
    let &steps = matches.get_one::<u64>("steps").expect("the argument has a default");
    let plan = |seed| {
        let mut plan = Plan::new(seed, steps);
        if let Some(&clients) = matches.get_one::<u16>("clients") {
            plan.clients = usize::from(clients);
        }
        plan.without = matches.get_many::<Behaviour>("without").unwrap_or_default().copied().collect();
        plan
    };
    let simulate: Run = match () {
        () if matches.get_flag("journal") => simulate_journaled,
        () if matches.get_flag("cluster") => simulate_cluster,
        () => simulate,
    };
    let mut progress = Progress::start(end - first);
    let mut total = Report::default();
    for seed in first..end {
        match simulate(&plan(seed)) {
            Ok(report) => total.add(&report),
            Err(failure) => {
                progress.clear();
                return report_failure(failure, matches.get_flag("shrink").then_some(simulate), &total);
            }
        }
        progress.show(seed + 1 - first, &total);
    }
    progress.clear();
    print!("{}", summary(&total, progress.elapsed()));
    ExitCode::SUCCESS
}

fn report_failure(failure: Box<Failure>, shrinks: Option<Run>, before: &Report) -> ExitCode {
    eprintln!("{failure}");
    if let Some(simulate) = shrinks {
        // Silences the panic message of each smaller run that fails.
        let hook = panic::take_hook();
        panic::set_hook(Box::new(|_| {}));
        let small = shrink(failure, simulate);
        panic::set_hook(hook);
        eprintln!("\nthe smallest failing run found:\n{small}");
    }
    eprintln!("{} seeds passed before it", before.seeds);
    ExitCode::FAILURE
}

fn summary(total: &Report, elapsed: Duration) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: String| text.push_str(&format!("{name:<24}{value:>16}\n"));
    line("seeds", total.seeds.to_string());
    line("steps", total.steps.to_string());
    line("connections", total.connections.to_string());
    line("messages received", total.messages.to_string());
    line("bytes", total.bytes.to_string());
    for (reason, count) in total.closes() {
        line(&format!("closed {}", reason.word()), count.to_string());
    }
    for (behaviour, count) in total.behaviours() {
        line(&format!("did {}", behaviour.word()), count.to_string());
    }
    for (effect, count) in total.effects() {
        line(effect, count.to_string());
    }
    line("seconds", format!("{:.1}", elapsed.as_secs_f64()));
    line("steps per second", format!("{:.0}", total.steps as f64 / elapsed.as_secs_f64()));
    line("transcript hash", format!("{:016x}", total.hash));
    text
}

/// A progress bar, shown only when standard error is a terminal.
struct Progress {
    seeds: u64,
    started: Instant,
    shown: Duration,
    is_visible: bool,
}

impl Progress {
    #[expect(clippy::disallowed_methods, reason = "the duration is only displayed; the engine never sees it")]
    fn start(seeds: u64) -> Progress {
        Progress { seeds, started: Instant::now(), shown: Duration::ZERO, is_visible: io::stderr().is_terminal() }
    }

    fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    fn show(&mut self, done: u64, total: &Report) {
        let elapsed = self.elapsed();
        if !self.is_visible || elapsed < self.shown + UPDATE {
            return;
        }
        self.shown = elapsed;
        let filled = (done as usize * BAR) / self.seeds as usize;
        let rate = total.steps as f64 / elapsed.as_secs_f64();
        let bar = format!("{}{}", "=".repeat(filled), " ".repeat(BAR - filled));
        eprint!("\r[{bar}] {done}/{} seeds, {} steps, {rate:.0} steps/s ", self.seeds, total.steps);
        let _ = io::stderr().flush();
    }

    fn clear(&self) {
        if self.is_visible {
            eprint!("\r{:100}\r", "");
        }
    }
}
