//! `lobbyd cluster`: starts a Redis and several nodes on this machine, to try a cluster.
//!
//! The processes are in process groups of their own, so that Ctrl-C in a terminal reaches only this one. On SIGINT or SIGTERM the
//! nodes drain one after the other. The Redis keeps nothing on disk.

mod arguments;
mod child;
pub(crate) mod command;
mod processes;

use std::ffi::OsString;
use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;

use clap::ArgMatches;

use self::arguments::NodePlan;
use self::processes::{Event, Processes, REDIS};
use super::exit::{CUT_OFF, FAILED};
use super::failure;
use super::logger::Format;

/// Time between two questions whether a process has become ready, and how often it is asked.
const INTERVAL: Duration = Duration::from_millis(10);
const ATTEMPTS: u32 = 1500;

pub(crate) fn run(matches: &ArgMatches) -> ExitCode {
    if let Some(words) = matches.get_many::<OsString>(child::ARGUMENT) {
        return failure::not_started(&child::execute(words), Format::Text);
    }
    let mut processes = match Processes::new() {
        Ok(processes) => processes,
        Err(problem) => return failure::not_started(&problem, Format::Text),
    };
    let plans = match arguments::plan(matches, &processes.redis_url()) {
        Ok(plans) => plans,
        Err(refusal) => return refusal.report(),
    };
    if let Err(end) = start(&plans, &mut processes) {
        return match end {
            Start::Failed(problem) => failure::not_started(&problem, plans[0].format),
            Start::Stopped => ExitCode::SUCCESS,
        };
    }
    serve(&mut processes)
}

/// Why the start has ended.
enum Start {
    Failed(String),
    /// On request.
    Stopped,
}

fn start(plans: &[NodePlan], processes: &mut Processes) -> Result<(), Start> {
    processes.start_redis().map_err(Start::Failed)?;
    wait(processes, |processes| processes.redis_answers())?;
    for plan in plans {
        processes.start_node(plan).map_err(Start::Failed)?;
    }
    wait(processes, |processes| processes.nodes_are_ready())?;
    let table = table(plans, processes);
    // The nodes serve, whether anybody reads the table or not.
    let _ = io::stdout().write_all(table.as_bytes()).and_then(|()| io::stdout().flush());
    Ok(())
}

/// Passes on the log until all processes are ready.
fn wait(processes: &mut Processes, is_ready: impl Fn(&Processes) -> bool) -> Result<(), Start> {
    for _ in 0..ATTEMPTS {
        let happened = processes.poll(Some(INTERVAL));
        match happened.first() {
            None if is_ready(processes) => return Ok(()),
            None => {}
            Some(Event::Stop) => return Err(Start::Stopped),
            Some(&Event::Ended(number)) => {
                let ended = processes.ended(number);
                return Err(Start::Failed(format!("{ended}{}", processes.last_words(number))));
            }
        }
    }
    Err(Start::Failed("the nodes are not ready after 15s; their log is above".into()))
}

/// Passes on the log until all nodes have ended.
fn serve(processes: &mut Processes) -> ExitCode {
    let (mut is_stopping, mut was_cut_off) = (false, false);
    while processes.has_nodes() {
        for event in processes.poll(None) {
            let number = match event {
                Event::Stop if is_stopping => {
                    processes.kill_nodes();
                    was_cut_off = true;
                    continue;
                }
                Event::Stop => {
                    is_stopping = true;
                    processes.drain_next();
                    continue;
                }
                Event::Ended(number) => number,
            };
            let ended = processes.ended(number);
            was_cut_off |= is_stopping && ended.code == Some(i32::from(CUT_OFF));
            processes.report(&ended.to_string());
            if number == REDIS {
                let effect = "without Redis the nodes admit nobody, and nothing is started again";
                processes.report(&format!("{effect}{}", processes.last_words(REDIS)));
            } else if is_stopping {
                processes.drain_next();
            }
        }
    }
    match (is_stopping, was_cut_off) {
        (true, false) => ExitCode::SUCCESS,
        (true, true) => ExitCode::from(CUT_OFF),
        (false, _) => ExitCode::from(FAILED),
    }
}

/// Returns the table of the addresses.
fn table(plans: &[NodePlan], processes: &Processes) -> String {
    let mut rows = vec![["node", "members", "operators", "playground", "process"].map(String::from)];
    for (number, plan) in plans.iter().enumerate() {
        let (listen, admin, id) = processes.addresses_of(number);
        rows.push([
            plan.name.clone(),
            format!("ws://{listen}/ws/{{lobby}}"),
            admin.map_or_else(|| "off".into(), |admin| format!("http://{admin}/")),
            if plan.has_playground { format!("http://{listen}/#lobby=try") } else { "off".into() },
            id.to_string(),
        ]);
    }
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or_default();
    let widths = [0, 1, 2, 3].map(width);
    let mut text = String::new();
    for [node, members, operators, playground, process] in &rows {
        text += &format!(
            "{node:w0$}  {members:w1$}  {operators:w2$}  {playground:w3$}  {process}\n",
            w0 = widths[0],
            w1 = widths[1],
            w2 = widths[2],
            w3 = widths[3],
        );
    }
    let (program, id) = (processes.redis_program(), processes.redis_id());
    text + &format!("{program} listens on {}, process {id}. Ctrl-C drains the nodes.\n", processes.redis_url())
}
