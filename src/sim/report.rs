//! The result of a run: its counters, or the failure with everything that repeats it.
//!
//! Knows nothing of how a run is carried out.

use std::fmt;

use super::closes::Closes;
use super::swarm::behaviour::Behaviour;
use crate::base::close::CloseReason;

/// Default for the largest number of simultaneous clients in a run.
pub(super) const DEFAULT_CLIENTS: usize = 12;

/// The parameters that determine a run, besides the application and its configuration.
///
/// ```
/// use lobbyd::sim::{Behaviour, Plan, simulate};
///
/// let plan = Plan { clients: 3, without: vec![Behaviour::Vanish], ..Plan::new(1, 100) };
/// let report = simulate(&plan).expect("no violation");
/// assert!(report.behaviours().all(|(behaviour, _)| behaviour != Behaviour::Vanish));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Seed of all random generators.
    pub seed: u64,
    /// Steps before the faults stop.
    pub steps: u64,
    /// Largest number of simultaneous clients.
    pub clients: usize,
    /// Behaviours excluded from the run.
    pub without: Vec<Behaviour>,
}

impl Plan {
    /// Creates a plan with all behaviours and at most 12 clients.
    pub fn new(seed: u64, steps: u64) -> Plan {
        Plan { seed, steps, clients: DEFAULT_CLIENTS, without: Vec::new() }
    }
}

/// Counters and transcript hash of one run, or the sum of several runs.
///
/// [`simulate`](crate::sim::simulate) has an example.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Report {
    /// Number of runs.
    pub seeds: u64,
    /// Number of steps, including those after the faults stop.
    pub steps: u64,
    /// Number of connections opened.
    pub connections: u64,
    /// Number of messages that clients received from other clients or from an operator.
    pub messages: u64,
    /// Bytes to and from the server.
    pub bytes: u64,
    /// Hash over all inputs and outputs of the engine, in order.
    pub hash: u64,
    pub(super) closes: Closes,
    pub(super) behaviours: Vec<u64>,
}

impl Report {
    /// Adds the counters of `other`. The resulting hash depends on the order of the additions.
    pub fn add(&mut self, other: &Report) {
        self.seeds += other.seeds;
        self.steps += other.steps;
        self.connections += other.connections;
        self.messages += other.messages;
        self.bytes += other.bytes;
        self.hash = (self.hash.rotate_left(7) ^ other.hash).wrapping_mul(0x9fb2_1c65_1e98_df25);
        other.closes().for_each(|(reason, count)| self.closes.add(reason, count));
        self.behaviours.resize(other.behaviours.len().max(self.behaviours.len()), 0);
        self.behaviours.iter_mut().zip(&other.behaviours).for_each(|(mine, other)| *mine += other);
    }

    /// Returns the number of connections that ended with each reason. Reasons with a count of 0 are omitted.
    pub fn closes(&self) -> impl Iterator<Item = (CloseReason, u64)> {
        self.closes.iter()
    }

    /// Returns the number of times each behaviour occurred. Behaviours with a count of 0 are omitted.
    pub fn behaviours(&self) -> impl Iterator<Item = (Behaviour, u64)> {
        Behaviour::ALL.iter().copied().zip(self.behaviours.iter().copied()).filter(|(_, count)| *count > 0)
    }
}

/// A failed run.
///
/// Its `Display` output contains the violation, the last events of the clients concerned, and the command that repeats
/// the run.
///
/// The [module documentation](crate::sim#testing-an-application) has an example.
#[derive(Clone, Debug)]
pub struct Failure {
    pub(super) plan: Plan,
    pub(super) step: u64,
    pub(super) violation: String,
    pub(super) client: Option<u32>,
    pub(super) events: String,
    pub(super) run_kind: RunKind,
}

impl Failure {
    /// Returns the parameters of the run.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Returns the step after which the violation was detected.
    pub fn step(&self) -> u64 {
        self.step
    }

    /// Returns the description of the violated invariant, or of the panic.
    pub fn violation(&self) -> &str {
        &self.violation
    }

    /// Returns the command or the Rust expression that repeats the run.
    pub fn repeat(&self) -> String {
        let Plan { seed, steps, clients, without } = &self.plan;
        let words: Vec<&str> = without.iter().map(|behaviour| behaviour.word()).collect();
        let constructor = match self.run_kind {
            RunKind::Command | RunKind::Journaled => {
                let clients = if *clients == DEFAULT_CLIENTS { String::new() } else { format!(" --clients {clients}") };
                let without = if words.is_empty() { String::new() } else { format!(" --without {}", words.join(",")) };
                let journal = if self.run_kind == RunKind::Journaled { " --journal" } else { "" };
                return format!("lobbyd simulate --seed {seed} --steps {steps}{clients}{without}{journal}");
            }
            RunKind::New => "new",
            RunKind::Swarm => "swarm",
        };
        let without: Vec<String> = without.iter().map(|it| format!("Behaviour::{it:?}")).collect();
        let without = without.join(", ");
        format!("Simulator::{constructor}({seed}, …).max_clients({clients}).without(&[{without}]).run({steps})")
    }
}

/// The command or constructor that started a run, and that repeats it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RunKind {
    New,
    Swarm,
    Command,
    Journaled,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let client = self.client.map_or(String::new(), |client| format!(", client #{client}"));
        writeln!(f, "seed {} failed at step {}{client}: {}", self.plan.seed, self.step, self.violation)?;
        writeln!(f, "the last events of the clients concerned:")?;
        f.write_str(&self.events)?;
        write!(f, "repeat it with: {}", self.repeat())
    }
}

impl std::error::Error for Failure {}
