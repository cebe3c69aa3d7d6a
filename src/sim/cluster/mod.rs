//! Simulation of a cluster: several engines, each with its link to a model of Redis, and client sessions, without sockets.
//!
//! One seed determines a run. The nodes have clocks of their own, with an offset and a drift. Bytes reach Redis and the nodes late and in
//! pieces. Nodes are killed and start again, are paused beyond their lease, and lose their link for a while, with or without being told.
//! Redis is stopped beyond the lease, forgets its scripts and subscriptions, and is replaced by one that lacks the last entries, or
//! everything. Clients with sessions connect to any node, lose their connections, and come back to another one.
//!
//! The same clients also run with one server that is no part of a cluster. It has no Redis, and what it knows ends with its process.
//!
//! In most runs the first node has no faults, and Redis loses only what that node can give back. Then nothing may be lost: the log never
//! begins anew and never forks. In the others it may, and the books forgive what a fork has touched, and nothing else.
//!
//! - [`redis`] is the Redis of a run with its faults, [`link`] the link of a node; [`faults`] draws when something fails.
//! - [`node`] drives an engine.
//! - [`operators`] gives operators' commands to any node.
//! - [`page`] drives a client session, and is its application; [`books`] checks what all clients receive, knowing neither nodes nor
//!   the log.
//! - [`agreement`] compares the nodes with each other after every entry, and with the clients at the end.

mod agreement;
mod asked;
mod books;
mod faults;
mod history;
mod link;
mod members;
mod node;
mod operators;
mod page;
mod redis;
mod requests;
mod swarm;
mod trace;
mod world;

use std::panic::{self, AssertUnwindSafe};

use self::world::World;
use super::closes::Closes;
use super::report::{Expectation, Failure, Plan, Report, RunKind};
use super::run::panic_text;

/// Simulates a cluster of two to four nodes. The seed determines the number of nodes, the configuration and the faults. The
/// behaviours of the plan are ignored.
///
/// # Errors
///
/// Returns a [`Failure`] if an invariant did not hold or the code under test panicked.
///
/// ```
/// use lobbyd::sim::{Plan, simulate_cluster};
///
/// let once = simulate_cluster(&Plan::new(7, 200)).expect("no violation");
/// assert_eq!(simulate_cluster(&Plan::new(7, 200)).expect("no violation").hash, once.hash);
/// ```
pub fn simulate_cluster(plan: &Plan) -> Result<Report, Box<Failure>> {
    run_and_show(plan, RunKind::Cluster)
}

/// Simulates one server without a cluster, with the clients and the books of a cluster.
pub(super) fn simulate_clients(plan: &Plan, run_kind: RunKind) -> Result<Report, Box<Failure>> {
    run_and_show(plan, run_kind)
}

fn run_and_show(plan: &Plan, run_kind: RunKind) -> Result<Report, Box<Failure>> {
    match run(plan, run_kind, false) {
        Ok(report) => Ok(report),
        // Once more, to show the events.
        Err(_) => run(plan, run_kind, true),
    }
}

fn run(plan: &Plan, run_kind: RunKind, is_traced: bool) -> Result<Report, Box<Failure>> {
    let is_alone = run_kind != RunKind::Cluster;
    let mut world = World::new(plan.seed, plan.clients, is_alone, is_traced);
    let mut expectation = if is_alone { Expectation::Engine } else { Expectation::Cluster };
    let outcome = panic::catch_unwind(AssertUnwindSafe(|| {
        for step in 0..plan.steps {
            world.trace.step = step;
            world.step()?;
        }
        expectation = Expectation::Agreement;
        world.converge()
    }));
    let violation = match outcome {
        Ok(Ok(())) => return Ok(report(&world)),
        Ok(Err(violation)) => violation,
        Err(panic) => {
            expectation = Expectation::NoPanic;
            format!("panicked: {}", panic_text(&*panic))
        }
    };
    Err(Box::new(Failure {
        plan: plan.clone(),
        step: world.trace.step,
        events: world.trace.text(&violation),
        violation,
        expectation,
        clients: String::new(),
        actions: String::new(),
        run_kind,
    }))
}

fn report(world: &World) -> Report {
    let mut closes = Closes::default();
    world.closes.iter().for_each(|&reason| closes.add(reason, 1));
    Report {
        seeds: 1,
        steps: world.trace.step,
        connections: world.last_wire,
        messages: world.messages,
        bytes: world.bytes,
        closes,
        behaviours: Vec::new(),
        effects: world.books.counts.iter().map(|(&what, &count)| (what, count)).collect(),
        hash: world.transcript.hash(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_of_a_cluster_agree_while_they_are_killed_paused_and_cut_off() {
        let mut total = Report::default();
        for seed in 0..60 {
            let report = simulate_cluster(&Plan::new(seed, 250)).unwrap_or_else(|failure| panic!("{failure}"));
            total.add(&report);
        }
        let effects: Vec<&str> = total.effects().map(|(effect, _)| effect).collect();
        for effect in [
            "nodes killed",
            "nodes paused",
            "links cut",
            "links reset",
            "Redis stopped",
            "Redis emptied",
            "failovers with a loss",
            "resumes",
            "replayed",
            "directs",
            "sent again",
            "the cluster was full",
            "there were as many lobbies as possible",
            "a lobby was full",
            "late attempts",
            "published",
            "pings answered",
        ] {
            assert!(effects.contains(&effect), "the runs show nothing about `{effect}`: {effects:?}");
        }
    }

    #[test]
    fn clients_of_one_server_come_back_while_it_is_killed_and_paused() {
        let mut total = Report::default();
        for seed in 0..20 {
            let report = simulate_clients(&Plan::new(seed, 250), RunKind::Command);
            total.add(&report.unwrap_or_else(|failure| panic!("{failure}")));
        }
        let effects: Vec<&str> = total.effects().map(|(effect, _)| effect).collect();
        let expected = ["nodes killed", "nodes paused", "resumes", "recovered", "replayed", "directs", "sent again"];
        for effect in
            expected.into_iter().chain(["settled by done", "settled as unknown", "sessions forgotten", "late attempts"])
        {
            assert!(effects.contains(&effect), "the runs show nothing about `{effect}`: {effects:?}");
        }
    }

    #[test]
    fn a_seed_determines_a_run() {
        let hash = |seed| simulate_cluster(&Plan::new(seed, 100)).expect("no violation").hash;
        assert_eq!(hash(3), hash(3));
        assert_ne!(hash(3), hash(4));
    }
}
