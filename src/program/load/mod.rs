//! `lobbyd load`: a load generator that checks what the members receive.
//!
//! Its exit codes are in `exit`.
//!
//!     command ──► plan ──► worker (one for each thread): member (link), receiving, books ──► tally ──► report
//!
//! A link is a WebSocket, or an event stream and POSTs:
//!
//!     link ──► event_stream, posts ──► response ──► input
//!        └───────► route ──► socket

mod books;
mod clock;
pub(crate) mod command;
mod ended;
mod event_stream;
mod input;
mod link;
mod member;
mod message;
mod plan;
mod position;
mod posts;
mod receiving;
mod report;
mod response;
mod route;
mod shared;
mod socket;
mod tally;
mod target;
mod timer;
mod trust;
mod worker;

use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::ArgMatches;
use lobbyd::net::raise_descriptor_limit;

use self::clock::Clock;
use self::plan::Plan;
use self::shared::{NEVER, Report, Shared};
use self::tally::{Interval, Tally};
use super::exit::{FAILED, NOT_STARTED};
use super::failure::failed;

/// Descriptors of the process beside its members.
const OWN_DESCRIPTORS: u64 = 32;
/// Descriptors of one thread: its poll and its timer.
const PER_THREAD: u64 = 4;
/// Wait before the members talk, so that all threads begin at the same time.
const BEGIN_MICROS: u64 = 100_000;

pub(crate) fn run(matches: &ArgMatches) -> ExitCode {
    let plan = match command::plan(matches, run_number()).and_then(|plan| check_descriptors(&plan).map(|()| plan)) {
        Ok(plan) => Arc::new(plan),
        Err(problem) => return failed(&problem, NOT_STARTED),
    };
    let tally = match generate(&plan) {
        Ok(tally) => tally,
        Err(error) => return failed(&format!("the generator has failed: {error}"), FAILED),
    };
    let problems = report::problems(&plan, &tally);
    let text = match plan.is_json {
        true => report::json(&plan, &tally),
        false => report::table(&plan, &tally),
    };
    // The reader of the output may be gone.
    let _ = io::stdout().write_all(text.as_bytes());
    match problems.is_empty() {
        true => ExitCode::SUCCESS,
        false if tally.count.joined == 0 || !tally.refused_tokens.is_empty() => ExitCode::from(NOT_STARTED),
        false => ExitCode::from(FAILED),
    }
}

/// A number that no other run has: names of lobbies and sessions begin with it.
#[expect(clippy::disallowed_methods, reason = "no server and no test depends on it")]
fn run_number() -> u64 {
    let nanos = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_nanos() as u64);
    // Far below 2^53, since it is a number of JSON.
    lobbyd::Random::new(nanos ^ u64::from(std::process::id()) << 40).below(1 << 31)
}

/// Raises the limit of open files, and refuses a plan that needs more.
fn check_descriptors(plan: &Plan) -> Result<(), String> {
    let needed = plan.sockets() as u64 + PER_THREAD * plan.threads as u64 + OWN_DESCRIPTORS;
    match raise_descriptor_limit() {
        Ok(Some(limit)) if limit < needed => Err(format!(
            "{} members need {needed} open files, and the limit is {limit}: raise the hard limit (ulimit -Hn), lower --members, \
             or run on several machines",
            plan.members
        )),
        _ => Ok(()),
    }
}

/// Runs the threads to their end. Shows progress on a terminal.
fn generate(plan: &Arc<Plan>) -> io::Result<Tally> {
    let (shared, clock) = (Arc::new(Shared::default()), Clock::start());
    let (sender, reports) = channel();
    let mut threads = Vec::new();
    for number in 0..plan.threads {
        let (plan, shared, sender) = (plan.clone(), shared.clone(), sender.clone());
        let run = move || worker::run(plan, shared, clock, number, &sender);
        threads.push(thread::Builder::new().name(format!("load-{number}")).spawn(run)?);
    }
    drop(sender);
    collect(plan, &shared, clock, &threads, &reports)
}

fn collect(
    plan: &Plan,
    shared: &Shared,
    clock: Clock,
    threads: &[JoinHandle<()>],
    reports: &Receiver<Report>,
) -> io::Result<Tally> {
    let (mut tally, mut ended) = (Tally::new(), 0);
    let mut progress = Progress::new();
    let (mut interval, mut collected) = (Interval::new(), 0);
    while ended < plan.threads {
        if shared.begin.load(Ordering::Acquire) == 0 && shared.settled.load(Ordering::Acquire) == plan.threads {
            let is_complete = shared.refused_tokens.load(Ordering::Acquire) == 0;
            let begin = if is_complete { clock.micros() + BEGIN_MICROS } else { NEVER };
            shared.begin.store(begin, Ordering::Release);
        }
        let finished = threads.iter().filter(|thread| thread.is_finished()).count();
        match reports.recv_timeout(Duration::from_millis(20)) {
            Ok(Report::Interval(of_thread)) => {
                interval.add(&of_thread);
                collected += 1;
                if collected >= plan.threads {
                    progress.show(clock.micros() / 1_000_000, plan, &interval);
                    (interval, collected) = (Interval::new(), 0);
                }
            }
            Ok(Report::Done(of_thread)) => {
                tally.add(&of_thread);
                ended += 1;
            }
            Ok(Report::Failed(error)) => return Err(error),
            Err(RecvTimeoutError::Timeout) if !is_missing(finished, ended) => {}
            Err(_) => return Err(io::Error::other("a thread has panicked")),
        }
    }
    progress.clear();
    Ok(tally)
}

/// Whether one of the threads that have finished has reported no end, so that it has panicked. A thread that has reported its
/// end may need a moment to finish.
fn is_missing(finished: usize, reported: usize) -> bool {
    finished > reported
}

/// A line that is rewritten, on a terminal only.
struct Progress {
    is_visible: bool,
    errors: u64,
}

impl Progress {
    fn new() -> Progress {
        Progress { is_visible: io::stderr().is_terminal(), errors: 0 }
    }

    fn show(&mut self, second: u64, plan: &Plan, interval: &Interval) {
        self.errors += interval.errors;
        if !self.is_visible {
            return;
        }
        let millis = |quantile| interval.delivery.value_at_quantile(quantile) as f64 / 1000.0;
        eprint!(
            "\r{second:>4} s  {}/{} members  {} sent/s  {} delivered/s  p50 {:.1} ms  p99 {:.1} ms  {} errors    ",
            interval.open,
            plan.members,
            interval.sent,
            interval.delivered,
            millis(0.5),
            millis(0.99),
            self.errors
        );
        let _ = io::stderr().flush();
    }

    fn clear(&self) {
        if self.is_visible {
            eprint!("\r{:110}\r", "");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_has_reported_its_end_is_not_missing_while_it_finishes() {
        assert!(!is_missing(0, 0) && !is_missing(0, 1) && !is_missing(2, 2));
        assert!(is_missing(1, 0) && is_missing(2, 1));
    }
}
