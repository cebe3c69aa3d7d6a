//! The whole server under simulation: many seeds, the same hash in every process, and seeds that once failed.
//!
//! `LOBBYD_SEEDS=10000` sets the number of seeds. The default is 120, and fewer where a seed runs several times: `.ci/run`
//! simulates thousands with the release program, hundreds of them with a journal, and compares a hundred with a debug build.

use std::process::Command;

use lobbyd::sim::{Behaviour, Plan, Report, shrink, simulate, simulate_journaled};

fn run(plan: &Plan) -> Report {
    simulate(plan).unwrap_or_else(|failure| panic!("{failure}"))
}

fn run_all(seeds: std::ops::Range<u64>, steps: u64) -> Report {
    let mut total = Report::default();
    seeds.for_each(|seed| total.add(&run(&Plan::new(seed, steps))));
    total
}

#[test]
fn invariants_hold_for_every_seed() {
    let seeds = std::env::var("LOBBYD_SEEDS").map_or(120, |text| text.parse().expect("a number of seeds"));
    let total = run_all(0..seeds, 400);
    // A behaviour that no seed shows is not tested.
    if seeds >= 120 {
        let is_possible = |known: &&Behaviour| cfg!(feature = "deflate") || **known != Behaviour::Compress;
        let is_shown = |known: &&Behaviour| total.behaviours().any(|(done, _)| done == **known);
        let missing: Vec<_> = Behaviour::ALL.iter().filter(is_possible).filter(|known| !is_shown(known)).collect();
        assert!(missing.is_empty(), "no seed showed {missing:?}");
    }
}

#[test]
fn the_same_seed_gives_the_same_run() {
    for seed in 0..8 {
        let plan = Plan::new(seed, 500);
        assert_eq!(run(&plan), run(&plan), "seed {seed}");
    }
}

/// `.ci/run` compares debug and release builds.
#[test]
fn another_process_gives_the_same_hash() {
    let output = Command::new(env!("CARGO_BIN_EXE_lobbyd"))
        .args(["simulate", "--seed", "1..8", "--steps", "500"])
        .output()
        .expect("the program starts");
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    let expected = format!("{:016x}", run_all(1..8, 500).hash);
    assert_eq!(text.lines().last().and_then(|line| line.split_whitespace().last()), Some(&*expected), "{text}");
}

#[test]
fn seeds_that_once_failed_pass() {
    let lines: Vec<&str> = include_str!("seeds.txt").lines().filter(|line| !line.starts_with('#')).collect();
    assert!(!lines.is_empty());
    for line in lines {
        let mut words = line.splitn(3, ' ');
        let mut number = || words.next().and_then(|word| word.parse().ok()).expect("a seed and its steps");
        run(&Plan::new(number(), number()));
        assert!(words.next().is_some_and(|found| !found.is_empty()), "the bug found is missing: {line}");
    }
}

mod broken {
    use lobbyd::sim::Simulator;
    use lobbyd::{App, Authorization, Context, LeaveReason, Member, Message, Protocol, Request};

    use super::*;

    /// Counts its members, and counts a kicked member twice when it leaves.
    #[derive(Default)]
    struct Miscount(i64);

    impl App for Miscount {
        const PROTOCOL: Protocol = Protocol::Json;

        fn authorize(&mut self, _: &mut Context<'_>, request: &Request<'_>) -> Authorization {
            Authorization::token_is_user(request)
        }

        fn on_join(&mut self, _: &mut Context<'_>, _: &Member) {
            self.0 += 1;
        }

        fn on_message(&mut self, _: &mut Context<'_>, _: &Member, _: Message<'_>) {}

        fn on_leave(&mut self, _: &mut Context<'_>, _: &Member, why: LeaveReason) {
            self.0 -= if why == LeaveReason::Kicked { 2 } else { 1 };
        }
    }

    fn run(plan: &Plan) -> Result<Report, Box<lobbyd::sim::Failure>> {
        Simulator::swarm(plan.seed, Miscount::default())
            .max_clients(plan.clients)
            .without(&plan.without)
            .check_app(|app| if app.0 < 0 { Err(format!("{} members", app.0)) } else { Ok(()) })
            .run(plan.steps)
    }

    #[test]
    fn a_failure_is_found_reported_and_shrunk() {
        // The leave reason `kicked` has other causes too, such as max_lifetime. A failure that names a kick is wanted here.
        let mut failures = (0..200).filter_map(|seed| run(&Plan::new(seed, 500)).err());
        let failure = failures.find(|failure| failure.to_string().contains("kick")).expect("some seed finds it");
        let text = failure.to_string();
        assert!(text.contains("the application's invariant: -"), "{text}");
        assert!(text.contains("repeat it with: LOBBYD_PLAN='seed="), "{text}");
        let small = shrink(failure.clone(), run);
        assert!(small.plan().steps <= failure.plan().steps && small.plan().clients <= failure.plan().clients);
        assert!(small.plan().without.len() > 10, "most behaviours have nothing to do with it: {small}");
        assert_eq!(run(small.plan()).expect_err("it still fails").to_string(), small.to_string());
    }
}

/// Each run is replayed from its journal exactly. Recording changes nothing: a run with a journal and a run without one have
/// the same transcript.
#[test]
fn recording_changes_nothing_and_the_run_replays_exactly() {
    for seed in 0..12 {
        let plan = Plan::new(seed, 400);
        let recorded = simulate_journaled(&plan).unwrap_or_else(|failure| panic!("{failure}"));
        assert!(recorded.connections > 0);
        assert_eq!(recorded, run(&plan), "seed {seed}");
    }
}
