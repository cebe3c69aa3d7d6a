//! Makes a failing run smaller: fewer steps, fewer clients, fewer behaviours.

use super::swarm::Behaviour;
use super::{Failure, Plan, Report};

/// Looks for a smaller run that fails too. `run` makes the run of a plan.
///
/// Each change draws other numbers, so a smaller run may fail in another way; it is taken all the same, since it fails.
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
        // Never more steps than it took; and perhaps fewer do.
        let took = best.step.min(best.plan.steps);
        for steps in [took + 1, took, took / 2, took * 3 / 4, took * 7 / 8] {
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

/// Tries a change of the best plan. Whether the smaller run fails too.
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
