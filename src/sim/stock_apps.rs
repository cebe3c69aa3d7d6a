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
    if plan.seed % 5 == 4 { run::<Verbatim>(plan, false) } else { run::<Relay>(plan, false) }
}

/// The same, and each run is recorded in a [journal](crate::journal) too, which is then replayed.
///
/// # Errors
///
/// What did not hold, or that the replay was another session.
pub fn simulate_journaled(plan: &Plan) -> Result<Report, Box<Failure>> {
    if plan.seed % 5 == 4 { run::<Verbatim>(plan, true) } else { run::<Relay>(plan, true) }
}

fn run<A: App + Default + 'static>(plan: &Plan, is_journaled: bool) -> Result<Report, Box<Failure>> {
    let repeats = if is_journaled { Repeats::Journaled } else { Repeats::Command };
    let mut simulator = Simulator { repeats, ..Simulator::swarm(plan.seed, A::default()) };
    if is_journaled {
        simulator = simulator.replayed_with(A::default);
    }
    simulator.relays_everything().max_clients(plan.clients).without(&plan.without).run(plan.steps)
}
