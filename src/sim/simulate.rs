//! Simulation of the built-in applications.

use super::cluster::simulate_clients;
use super::report::{Failure, Plan, Report, RunKind};
use super::run::Simulator;
use super::swarm::behaviour::Behaviour;
use crate::apps::{Relay, Verbatim};
use crate::engine::app::{App, Protocol};

/// Simulates one of the built-in applications. The seed determines the application and the configuration.
///
/// # Errors
///
/// Returns a [`Failure`] if an invariant did not hold or the code under test panicked.
///
/// ```
/// use lobbyd::sim::{Plan, simulate};
///
/// let once = simulate(&Plan::new(7, 500)).expect("no violation");
/// assert_eq!(simulate(&Plan::new(7, 500)).expect("no violation").hash, once.hash);
/// ```
pub fn simulate(plan: &Plan) -> Result<Report, Box<Failure>> {
    if plan.seed % 5 == 4 { run::<Verbatim>(plan, false) } else { run::<Relay>(plan, false) }
}

/// Does the same as [`simulate`], and also records the run in a [journal](crate::journal) and replays it.
///
/// [`simulate`] has an example.
///
/// # Errors
///
/// Returns a [`Failure`] if an invariant did not hold, the code under test panicked, or the replay differs from the
/// run.
pub fn simulate_journaled(plan: &Plan) -> Result<Report, Box<Failure>> {
    if plan.seed % 5 == 4 { run::<Verbatim>(plan, true) } else { run::<Relay>(plan, true) }
}

fn run<A: App + Default + 'static>(plan: &Plan, is_journaled: bool) -> Result<Report, Box<Failure>> {
    let run_kind = if is_journaled { RunKind::Journaled } else { RunKind::Command };
    let mut simulator = Simulator::swarm(plan.seed, A::default()).of_kind(run_kind);
    if is_journaled {
        simulator = simulator.replayed_with(A::default);
    }
    let mut report = simulator.relays_everything().max_clients(plan.clients).without(&plan.without).run(plan.steps)?;
    if A::PROTOCOL == Protocol::Json && !plan.without.contains(&Behaviour::Client) {
        report.include(Behaviour::Client, &simulate_clients(plan, run_kind)?);
    }
    Ok(report)
}
