//! Deterministic simulation of the whole server with injected faults. This crate's tests use it, and so can the tests
//! of an application.
//!
//! A [`Simulator`] drives the real [`Engine`](crate::Engine) with model clients and without sockets. It injects faults:
//!
//! - Network: input arrives late and in small pieces; writes are short, blocked, or fail.
//! - Clients: they vanish, reset in the middle of a frame, log in twice, flood, read slowly or never, and send
//!   malformed frames.
//! - Time: the monotonic clock jumps forward, and the wall clock is set.
//!
//! All invariants are checked after every step. After the last step the faults stop. Then the state that each client
//! built from the frames it received must equal the state of the server.
//!
//! A seed determines the whole run, bit for bit, on every machine. Each run leaves some [`Behaviour`]s out and draws
//! the frequency of the others (swarm testing). [`Simulator::swarm`] also draws the configuration.
//!
//! # Testing an application
//!
//! This game keeps a score for each member. It does not remove the score when a member leaves, and the simulator finds
//! a seed that shows it:
//!
//! ```
//! use std::collections::BTreeMap;
//!
//! use lobbyd::sim::{Player, Simulator};
//! use lobbyd::{App, Authorization, Config, Context, Member, Message, Random, Request, Protocol};
//!
//! #[derive(Default)]
//! struct Dice {
//!     scores: BTreeMap<String, u64>,
//!     present: u64,
//! }
//!
//! impl App for Dice {
//!     const PROTOCOL: Protocol = Protocol::Json;
//!
//!     fn authorize(&mut self, _: &mut Context<'_>, request: &Request<'_>) -> Authorization {
//!         Authorization::token_is_user(request)
//!     }
//!
//!     fn on_join(&mut self, _: &mut Context<'_>, member: &Member) {
//!         self.present += 1;
//!         self.scores.insert(member.user().to_owned(), 0);
//!     }
//!
//!     fn on_message(&mut self, cx: &mut Context<'_>, from: &Member, _: Message<'_>) {
//!         let points = 1 + cx.random().below(6);
//!         *self.scores.get_mut(from.user()).expect("members have a score") += points;
//!         cx.broadcast_message(from, &format!("{{\"points\":{points}}}"));
//!     }
//!
//!     fn on_leave(&mut self, _: &mut Context<'_>, member: &Member, _: lobbyd::LeaveReason) {
//!         self.present -= 1;
//!         // The bug: `self.scores.remove(member.user())` is missing.
//!         let _ = member;
//!     }
//! }
//!
//! /// A model client of the game.
//! struct Thrower;
//!
//! impl Player for Thrower {
//!     fn act(&mut self, random: &mut Random) -> Option<String> {
//!         random.percent(50).then(|| r#"{"type":"throw"}"#.to_owned())
//!     }
//! }
//!
//! let simulator = |seed| {
//!     Simulator::new(seed, Config::default(), Dice::default())
//!         .players(|_, _| Box::new(Thrower))
//!         .check_app(|dice| match dice.scores.len() as u64 {
//!             scores if scores <= dice.present => Ok(()),
//!             scores => Err(format!("{scores} scores for {} members", dice.present)),
//!         })
//! };
//! let failure = (0..100).find_map(|seed| simulator(seed).run(1000).err()).expect("some seed finds the bug");
//! assert!(failure.violation().contains("scores for"), "{failure}");
//! ```

mod app_command;
mod app_control;
mod client;
mod client_input;
mod driver;
mod invariants;
mod limit_model;
mod memory;
mod network;
mod observed_app;
mod operator;
mod rates;
mod record;
mod shared_state;
mod shrink;
mod simulate;
mod swarm;
mod tick_model;
mod transcript;
mod view;
pub mod wire;
mod world;

use std::any::Any;
use std::fmt;
use std::panic::{self, AssertUnwindSafe};

use self::swarm::{Behaviours, Swarm, draw_config};
use self::transcript::NO_CLIENT;
use self::world::World;
use crate::base::close::CloseReason;
use crate::base::random::Random;
use crate::config::Config;
use crate::engine::app::App;

pub use self::memory::{MemorySocket, MemorySockets, MemoryWrite};
pub use self::shrink::shrink;
pub use self::simulate::{simulate, simulate_journaled};
pub use self::swarm::Behaviour;

/// Default for the largest number of simultaneous clients in a run.
const DEFAULT_CLIENTS: usize = 12;
/// Number of events shown in the report of a failure.
const EVENTS_SHOWN: usize = 40;

/// Behaviours in which the application or an operator sends frames that only the built-in model clients understand.
const INJECTING: &[Behaviour] = &[Behaviour::Notice, Behaviour::Squeeze, Behaviour::Latest, Behaviour::OperatorSay];

type Players = Box<dyn FnMut(&mut Random, &str) -> Box<dyn Player>>;
type MakeApp<A> = Box<dyn Fn() -> A>;
type Invariant<A> = Box<dyn FnMut(&A) -> Result<(), String>>;

/// The application's side of one model client, for one connection: it chooses the messages to send and checks those
/// received.
pub trait Player {
    /// Returns the next text message to send, or `None` to send nothing now.
    ///
    /// All randomness must come from `random`; otherwise the run cannot be repeated.
    fn act(&mut self, random: &mut Random) -> Option<String>;

    /// Receives a text message that the engine or the application sent.
    ///
    /// # Errors
    ///
    /// Returns a description of the violation if the message is not allowed. The run then fails with that description.
    fn heard(&mut self, _text: &str) -> Result<(), String> {
        Ok(())
    }
}

/// Builder of one simulated run: the application under test, the configuration, and the seed.
///
/// See the [module documentation](self) for an example.
pub struct Simulator<A: App> {
    seed: u64,
    config: Config,
    app: A,
    clients: usize,
    without: Behaviours,
    relays: bool,
    players: Option<Players>,
    invariant: Option<Invariant<A>>,
    /// Creates the application for the replay. `None` if the run is not recorded.
    make_app: Option<MakeApp<A>>,
    /// How the run was started; the report of a failure names the same command or constructor.
    run_kind: RunKind,
}

impl<A: App> Simulator<A> {
    /// Creates a run of `app` with `config`.
    pub fn new(seed: u64, config: Config, app: A) -> Simulator<A> {
        let mut without = Behaviours::default();
        // Players of an application do not understand the injected frames.
        INJECTING.iter().for_each(|&behaviour| without.insert(behaviour));
        Simulator {
            seed,
            config,
            app,
            clients: DEFAULT_CLIENTS,
            without,
            relays: false,
            players: None,
            invariant: None,
            make_app: None,
            run_kind: RunKind::New,
        }
    }

    /// Creates a run of `app` with a configuration drawn from the seed: tiny limits, no limits, or anything between.
    pub fn swarm(seed: u64, app: A) -> Simulator<A> {
        let config = draw_config(&mut Random::new(seed ^ 0x5eed));
        Simulator { run_kind: RunKind::Swarm, ..Simulator::new(seed, config, app) }
    }

    /// Sets the function that creates the [`Player`] of each connection, from a random generator and the user's name.
    ///
    /// Without players, clients use the protocol of [`apps::Relay`](crate::apps::Relay).
    pub fn players(mut self, players: impl FnMut(&mut Random, &str) -> Box<dyn Player> + 'static) -> Self {
        self.players = Some(Box::new(players));
        self
    }

    /// Sets an invariant of the application, checked after every step. An `Err` fails the run with its text.
    pub fn check_app(mut self, invariant: impl FnMut(&A) -> Result<(), String> + 'static) -> Self {
        self.invariant = Some(Box::new(invariant));
        self
    }

    /// Records the run in a [journal](crate::journal) and replays it at the end; a replay that differs fails the run.
    ///
    /// `make_app` must return the application in the state in which it was passed to [`new`](Self::new) or
    /// [`swarm`](Self::swarm).
    pub fn replayed_with(mut self, make_app: impl Fn() -> A + 'static) -> Self {
        self.make_app = Some(Box::new(make_app));
        self
    }

    /// Checks that every message of a member reaches every other member exactly once and in order, as in the built-in
    /// applications.
    pub fn relays_everything(mut self) -> Self {
        self.relays = true;
        INJECTING.iter().for_each(|&behaviour| self.without.remove(behaviour));
        self
    }

    /// Sets the largest number of simultaneous clients; 0 counts as 1. The default is 12.
    pub fn max_clients(mut self, clients: usize) -> Self {
        self.clients = clients.max(1);
        self
    }

    /// Excludes `behaviours` from the run.
    pub fn without(mut self, behaviours: &[Behaviour]) -> Self {
        behaviours.iter().for_each(|&behaviour| self.without.insert(behaviour));
        self
    }

    /// Runs `steps` steps with faults, then as many steps without faults as are needed to reach a final state.
    ///
    /// The steps with faults end early when a drain completes.
    ///
    /// # Errors
    ///
    /// Returns a [`Failure`] if an invariant did not hold or the code under test panicked.
    ///
    /// # Panics
    ///
    /// Panics if [`Config::check`] rejects the configuration.
    pub fn run(mut self, steps: u64) -> Result<Report, Box<Failure>> {
        let swarm = Swarm::draw(&mut Random::new(self.seed), self.clients, self.without);
        if self.run_kind != RunKind::New {
            limit_model::draw(&mut self.config, &swarm, self.seed);
        }
        if let Err(problems) = self.config.check() {
            let problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
            panic!("seed {}: {}", self.seed, problems.join("\n"));
        }
        let plan = Plan {
            seed: self.seed,
            steps,
            clients: self.clients,
            without: self.without.iter().filter(|it| self.relays || !INJECTING.contains(it)).collect(),
        };
        let mut world = World::new(self.seed, self.config, self.app, swarm, self.relays);
        if self.make_app.is_some() {
            world.record(self.seed);
        }
        let make_app = self.make_app;
        world.players = self.players;
        world.invariant = self.invariant;
        let outcome = panic::catch_unwind(AssertUnwindSafe(|| {
            for step in 0..steps {
                world.transcript.step = step;
                world.step()?;
                if world.is_draining && world.engine.is_drained() {
                    break;
                }
            }
            world.transcript.step += 1;
            world.converge()?;
            make_app.map_or(Ok(()), |make_app| world.replay(&*make_app))
        }));
        let violation = match outcome {
            Ok(Ok(())) => return Ok(world.report()),
            Ok(Err(violation)) => violation,
            Err(panic) => format!("panicked: {}", panic_text(&*panic)),
        };
        Err(Box::new(Failure {
            step: world.transcript.step,
            violation,
            client: Some(world.current_client).filter(|&client| client != NO_CLIENT),
            events: world.events(),
            run_kind: self.run_kind,
            plan,
        }))
    }
}

fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("without a text message").to_owned()
}

impl<A: App> World<A> {
    fn report(&self) -> Report {
        let counts = &self.counts;
        Report {
            seeds: 1,
            steps: self.transcript.step,
            connections: counts.opened,
            messages: self.shared.messages,
            bytes: counts.bytes_in + counts.bytes_out,
            closes: counts.reasons.clone(),
            behaviours: counts.behaviours.clone(),
            hash: self.transcript.hash(),
        }
    }

    /// Formats the last events of the client that the last step concerned, of the clients in its lobby and of its
    /// user's other connections.
    fn events(&self) -> String {
        let current_client = self.links.iter().flatten().find(|link| link.number == self.current_client);
        let near =
            |link: &&client::Link| current_client.is_some_and(|it| it.lobby == link.lobby || it.user == link.user);
        let mut numbers = vec![self.current_client];
        numbers.extend(self.links.iter().flatten().filter(near).map(|link| link.number));
        self.transcript.last(&numbers, EVENTS_SHOWN)
    }
}

/// The parameters that determine a run, besides the application and its configuration.
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
#[derive(Clone, Debug, Default, PartialEq, Eq)]
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
    closes: Vec<u64>,
    behaviours: Vec<u64>,
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
        for (mine, others) in [(&mut self.closes, &other.closes), (&mut self.behaviours, &other.behaviours)] {
            mine.resize(others.len().max(mine.len()), 0);
            mine.iter_mut().zip(others).for_each(|(mine, other)| *mine += other);
        }
    }

    /// Returns the number of connections that ended with each reason. Reasons with a count of 0 are omitted.
    pub fn closes(&self) -> impl Iterator<Item = (CloseReason, u64)> {
        CloseReason::ALL.iter().copied().zip(self.closes.iter().copied()).filter(|(_, count)| *count > 0)
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
#[derive(Clone, Debug)]
pub struct Failure {
    plan: Plan,
    step: u64,
    violation: String,
    client: Option<u32>,
    events: String,
    run_kind: RunKind,
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
enum RunKind {
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
