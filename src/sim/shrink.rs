//! Shrinks a failing run: fewer steps, clients and behaviours.

use super::report::{Failure, Plan, Report};
use super::swarm::behaviour::Behaviour;

/// Searches for smaller plans that still fail, and returns the failure of the smallest one found. `run` runs a plan.
///
/// A changed plan draws other random numbers, so a smaller run may fail with another violation. It is accepted as well.
///
/// ```
/// use lobbyd::sim::{Plan, shrink, simulate};
///
/// if let Err(failure) = simulate(&Plan::new(1, 200)) {
///     eprintln!("{}", shrink(failure, simulate));
/// }
/// ```
pub fn shrink(failure: Box<Failure>, mut run: impl FnMut(&Plan) -> Result<Report, Box<Failure>>) -> Box<Failure> {
    let mut best = failure;
    loop {
        let before = best.plan.clone();
        // The steps up to the failure are enough, and fewer may be.
        let used = best.step.min(best.plan.steps);
        for steps in [used + 1, used, used / 2, used * 3 / 4, used * 7 / 8] {
            attempt(&mut best, &mut run, |plan| plan.steps = steps);
        }
        for clients in 1..best.plan.clients {
            if attempt(&mut best, &mut run, |plan| plan.clients = clients) {
                break;
            }
        }
        for &behaviour in Behaviour::ALL {
            attempt(&mut best, &mut run, |plan| {
                if !plan.without.contains(&behaviour) {
                    plan.without.push(behaviour);
                }
            });
        }
        if best.plan == before {
            return best;
        }
    }
}

/// Runs the best plan with a change. If it fails, it becomes the best. Returns whether it did.
fn attempt(
    best: &mut Box<Failure>,
    run: &mut impl FnMut(&Plan) -> Result<Report, Box<Failure>>,
    change: impl FnOnce(&mut Plan),
) -> bool {
    let mut plan = best.plan.clone();
    change(&mut plan);
    if plan == best.plan || plan.steps > best.plan.steps {
        return false;
    }
    match run(&plan) {
        Err(failure) => {
            *best = failure;
            true
        }
        Ok(_) => false,
    }
}
