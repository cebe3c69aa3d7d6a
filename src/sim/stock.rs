//! The stock applications under simulation.

use super::{Failure, Plan, Repeats, Report, Simulator};
use crate::apps::{Relay, Verbatim};
use crate::engine::app::App;

/// Runs one of the stock applications, which one and how configured following from the seed.
///
/// # Errors
///
/// What did not hold.
///
/// ```
/// use lobbyd::sim::{Plan, simulate};
///
/// let once = simulate(&Plan::new(7, 500)).expect("everything holds");
/// assert_eq!(simulate(&Plan::new(7, 500)).expect("everything holds").hash, once.hash);
/// ```
pub fn simulate(plan: &Plan) -> Result<Report, Box<Failure>> {
    if plan.seed % 5 == 4 { run(plan, Verbatim::default()) } else { run(plan, Relay::default()) }
}

fn run<A: App>(plan: &Plan, app: A) -> Result<Report, Box<Failure>> {
    let simulator = Simulator { repeats: Repeats::Command, ..Simulator::swarm(plan.seed, app) };
    simulator.relays_everything().max_clients(plan.clients).without(&plan.without).run(plan.steps)
}
