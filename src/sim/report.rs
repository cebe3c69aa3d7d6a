//! The result of a run: its counters, or the failure with everything that repeats it.
//!
//! Knows nothing of how a run is carried out.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::str::FromStr;

use super::closes::Closes;
use super::swarm::behaviour::Behaviour;
use crate::base::close::CloseReason;

/// Default for the largest number of simultaneous clients in a run.
pub(super) const DEFAULT_CLIENTS: usize = 12;

/// The parameters that determine a run, besides the application and its configuration.
///
/// A plan is written as text and read again. The report of a failure shows the plan of the run, so that a test which
/// reads the variable `LOBBYD_PLAN` can repeat it: see [`seeds`](Plan::seeds).
///
/// ```
/// use lobbyd::sim::{Behaviour, Plan};
///
/// let plan: Plan = "seed=7 steps=89 clients=6 without=leave,drain".parse().unwrap();
/// assert_eq!((plan.seed, plan.steps, plan.clients), (7, 89, 6));
/// assert_eq!(plan.without, [Behaviour::Leave, Behaviour::Drain]);
/// assert_eq!(plan.to_string(), "seed=7 steps=89 clients=6 without=leave,drain");
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

    /// Returns the plans of a test: one for each of the `seeds`; or only the `repeated` one, the text of a plan from the
    /// report of a failure.
    ///
    /// # Panics
    ///
    /// Panics if `repeated` is not the text of a plan.
    ///
    /// ```
    /// use lobbyd::apps::Relay;
    /// use lobbyd::sim::{Plan, Simulator};
    /// use lobbyd::Config;
    ///
    /// for plan in Plan::seeds(0..10, 100, std::env::var("LOBBYD_PLAN").ok()) {
    ///     let simulator = Simulator::new(plan.seed, Config::default(), Relay::default());
    ///     let result = simulator.max_clients(plan.clients).without(&plan.without).run(plan.steps);
    ///     result.unwrap_or_else(|failure| panic!("{failure}"));
    /// }
    /// ```
    pub fn seeds(seeds: Range<u64>, steps: u64, repeated: Option<String>) -> impl Iterator<Item = Plan> {
        let repeated = repeated.map(|text| text.parse().unwrap_or_else(|error| panic!("LOBBYD_PLAN: {error}")));
        let seeds = if repeated.is_some() { 0..0 } else { seeds };
        repeated.into_iter().chain(seeds.map(move |seed| Plan::new(seed, steps)))
    }
}

/// The form `seed=7 steps=89 clients=6 without=leave,drain`. If most behaviours are excluded, the others are listed, as
/// `only=hangup`.
impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Plan { seed, steps, clients, without } = self;
        write!(f, "seed={seed} steps={steps}")?;
        if *clients != DEFAULT_CLIENTS {
            write!(f, " clients={clients}")?;
        }
        let others = Behaviour::ALL.iter().copied().filter(|behaviour| !without.contains(behaviour));
        let words = |behaviours: &[Behaviour]| behaviours.iter().map(|it| it.word()).collect::<Vec<_>>().join(",");
        match without.len() {
            0 => Ok(()),
            n if n > Behaviour::ALL.len() / 2 => write!(f, " only={}", words(&others.collect::<Vec<_>>())),
            _ => write!(f, " without={}", words(without)),
        }
    }
}

/// Why a text is not a [`Plan`].
///
/// ```
/// use lobbyd::sim::Plan;
///
/// let error = "seed=7 steps=many".parse::<Plan>().unwrap_err();
/// assert_eq!(error.to_string(), "`steps=many`: not a whole number");
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadPlan(String);

impl fmt::Display for BadPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for BadPlan {}

impl FromStr for Plan {
    type Err = BadPlan;

    fn from_str(text: &str) -> Result<Plan, BadPlan> {
        let mut plan = Plan::new(0, 0);
        let mut names = Vec::new();
        for word in text.split_whitespace() {
            let (name, value) = word.split_once('=').ok_or_else(|| BadPlan(format!("`{word}` is not name=value")))?;
            let number = || value.parse().map_err(|_| BadPlan(format!("`{word}`: not a whole number")));
            match name {
                "seed" => plan.seed = number()?,
                "steps" => plan.steps = number()?,
                "clients" => plan.clients = usize::try_from(number()?).unwrap_or(usize::MAX),
                "without" => plan.without = behaviours(value)?,
                "only" => {
                    let only = behaviours(value)?;
                    plan.without = Behaviour::ALL.iter().copied().filter(|it| !only.contains(it)).collect();
                }
                _ => return Err(BadPlan(format!("`{name}` is none of seed, steps, clients, without, only"))),
            }
            names.push(name);
        }
        match ["seed", "steps"].iter().find(|name| !names.contains(*name)) {
            Some(name) => Err(BadPlan(format!("`{text}` has no {name}"))),
            None => Ok(plan),
        }
    }
}

/// Reads words of behaviours, separated by commas.
fn behaviours(words: &str) -> Result<Vec<Behaviour>, BadPlan> {
    let known = |word: &str| Behaviour::ALL.iter().copied().find(|behaviour| behaviour.word() == word);
    let words = words.split(',').filter(|word| !word.is_empty());
    words.map(|word| known(word).ok_or_else(|| BadPlan(format!("`{word}` is no behaviour")))).collect()
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
    /// What happened in a cluster, and how often.
    pub(super) effects: BTreeMap<&'static str, u64>,
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
        other.effects().for_each(|(effect, count)| *self.effects.entry(effect).or_default() += count);
    }

    /// Adds the counters of a part of the same run, which shows `behaviour`.
    pub(super) fn include(&mut self, behaviour: Behaviour, part: &Report) {
        self.add(&Report { seeds: 0, ..part.clone() });
        self.behaviours[behaviour as usize] += part.connections;
    }

    /// Returns what happened in a [cluster](crate::sim::simulate_cluster), and how often.
    pub fn effects(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.effects.iter().map(|(&effect, &count)| (effect, count))
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
/// Its `Display` output contains the violation, what was expected instead, the last events of the clients concerned
/// with their frames as text, the last messages that these clients sent, and the command that repeats the run.
///
/// The [module documentation](crate::sim#testing-an-application) has an example.
#[derive(Clone, Debug)]
pub struct Failure {
    pub(super) plan: Plan,
    pub(super) step: u64,
    pub(super) violation: String,
    pub(super) expectation: Expectation,
    /// The clients concerned, with user and lobby.
    pub(super) clients: String,
    pub(super) events: String,
    pub(super) actions: String,
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

    /// Returns the command that repeats the run.
    ///
    /// For a run of an application this is the test of the application with `LOBBYD_PLAN` set, which
    /// [`Plan::seeds`] reads.
    pub fn repeat(&self) -> String {
        let Plan { seed, steps, clients, without } = &self.plan;
        match self.run_kind {
            RunKind::Application => format!("LOBBYD_PLAN='{}' cargo test", self.plan),
            RunKind::Command | RunKind::Journaled | RunKind::Cluster => {
                let words: Vec<&str> = without.iter().map(|behaviour| behaviour.word()).collect();
                let clients = if *clients == DEFAULT_CLIENTS { String::new() } else { format!(" --clients {clients}") };
                let without = if words.is_empty() { String::new() } else { format!(" --without {}", words.join(",")) };
                let kind = match self.run_kind {
                    RunKind::Journaled => " --journal",
                    RunKind::Cluster => " --cluster",
                    RunKind::Command | RunKind::Application => "",
                };
                format!("lobbyd simulate --seed {seed} --steps {steps}{clients}{without}{kind}")
            }
        }
    }
}

/// What started a run, and repeats it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RunKind {
    /// A test of an application.
    Application,
    /// `lobbyd simulate`.
    Command,
    /// `lobbyd simulate --journal`.
    Journaled,
    /// `lobbyd simulate --cluster`.
    Cluster,
}

/// What was expected where a run failed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Expectation {
    /// A rule of the simulator's models.
    #[default]
    Engine,
    /// The invariant of the application.
    Application,
    /// The application's player.
    Player,
    /// No panic.
    NoPanic,
    /// The rules of the final phase.
    Agreement,
    /// The replay of the run's journal.
    Replay,
    /// The rules of a cluster.
    Cluster,
}

impl Expectation {
    fn sentence(self) -> &'static str {
        match self {
            Expectation::Engine => {
                "the server keeps its protocol and its limits, and sends what follows from its input, after every step"
            }
            Expectation::Application => "check_app() returns Ok after every step",
            Expectation::Player => "the player's heard() accepts every text that its client receives",
            Expectation::NoPanic => "neither the application nor the server panics",
            Expectation::Agreement => {
                "after the faults have stopped, clients and server agree, and nothing remains of closed connections"
            }
            Expectation::Cluster => {
                "all nodes have the same state after the same entry, and every session receives every frame once and in order"
            }
            Expectation::Replay => "a replay of the recorded run sends the same bytes and ends in the same state",
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "seed {} failed at step {}: {}", self.plan.seed, self.step, self.violation)?;
        writeln!(f, "expected: {}", self.expectation.sentence())?;
        if !self.clients.is_empty() {
            writeln!(f, "clients concerned: {}", self.clients)?;
        }
        writeln!(f, "the last events (> arrived at the server, < written by the server):")?;
        f.write_str(&self.events)?;
        if !self.actions.is_empty() {
            writeln!(f, "what the clients concerned sent last, when they sent it:")?;
            f.write_str(&self.actions)?;
        }
        write!(f, "repeat it with: {}", self.repeat())
    }
}

impl std::error::Error for Failure {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plans_are_read_as_they_are_written() {
        let all_but = |kept: &[Behaviour]| {
            let without = Behaviour::ALL.iter().copied().filter(|it| !kept.contains(it)).collect();
            Plan { without, ..Plan::new(1, 2) }
        };
        for (plan, text) in [
            (Plan::new(3, 400), "seed=3 steps=400"),
            (Plan { clients: 2, ..Plan::new(u64::MAX, 0) }, "seed=18446744073709551615 steps=0 clients=2"),
            (Plan { without: vec![Behaviour::Stall], ..Plan::new(1, 2) }, "seed=1 steps=2 without=stall"),
            (all_but(&[Behaviour::Reset, Behaviour::Hangup]), "seed=1 steps=2 only=hangup,reset"),
            (all_but(&[]), "seed=1 steps=2 only="),
        ] {
            assert_eq!((plan.to_string().as_str(), text.parse()), (text, Ok(plan)));
        }
    }

    #[test]
    fn what_is_no_plan_is_refused_with_the_reason() {
        for (text, reason) in [
            ("", "`` has no seed"),
            ("seed=1", "`seed=1` has no steps"),
            ("seed=1 steps=x", "`steps=x`: not a whole number"),
            ("seed", "`seed` is not name=value"),
            ("seed=1 steps=2 without=sleep", "`sleep` is no behaviour"),
            ("seed=1 steps=2 turns=3", "`turns` is none of seed, steps, clients, without, only"),
        ] {
            assert_eq!(text.parse::<Plan>().map_err(|error| error.to_string()), Err(reason.to_owned()));
        }
    }

    #[test]
    fn a_repeated_plan_replaces_the_seeds() {
        let seeds = |repeated: Option<&str>| Plan::seeds(4..6, 9, repeated.map(String::from)).collect::<Vec<_>>();
        assert_eq!(seeds(None), [Plan::new(4, 9), Plan::new(5, 9)]);
        assert_eq!(seeds(Some("seed=1 steps=2")), [Plan::new(1, 2)]);
    }
}
