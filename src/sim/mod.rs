//! The whole server under a network that does its worst, driven by one number: for our tests, and for every game built
//! on this crate.
//!
//! A [`Simulator`] drives the real [`Engine`](crate::Engine) with model clients. Bytes arrive in pieces, late and out
//! of step; writes are short, blocked or fail; clients vanish, reset in the middle of a frame, log in twice, flood,
//! read slowly or never, and send what is nearly right; clocks jump. After every step all invariants are checked; and
//! when the faults stop, what each client knows, built only from what it received, must be what the server knows.
//!
//! One seed gives one run, bit for bit, on every machine. Runs differ in what they leave out and in how often the rest
//! happens (swarm testing), and with [`Simulator::swarm`] in their configuration too.
//!
//! # A game under simulation
//!
//! This game keeps a score for each member. It forgets that a member can leave and that another can come back under
//! the same name, and some seed finds out:
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
//!     fn on_join(&mut self, _: &mut Context<'_>, who: &Member) {
//!         self.present += 1;
//!         self.scores.insert(who.user().to_owned(), 0);
//!     }
//!
//!     fn on_message(&mut self, cx: &mut Context<'_>, from: &Member, _: Message<'_>) {
//!         let points = 1 + cx.random().below(6);
//!         *self.scores.get_mut(from.user()).expect("members have a score") += points;
//!         cx.broadcast_message(from, &format!("{{\"points\":{points}}}"));
//!     }
//!
//!     fn on_leave(&mut self, _: &mut Context<'_>, who: &Member, _: lobbyd::LeaveReason) {
//!         self.present -= 1;
//!         // The bug: `self.scores.remove(who.user())` is missing.
//!         let _ = who;
//!     }
//! }
//!
//! /// What a client of the game says.
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
mod app_owner;
mod client;
mod client_input;
mod driver;
mod invariants;
mod limit_model;
mod network;
mod observed_app;
mod operator;
mod rates;
mod record;
mod shared_state;
mod shrink;
mod stock_apps;
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
use self::transcript::NOBODY;
use self::world::World;
use crate::close::CloseReason;
use crate::config::Config;
use crate::engine::app::App;
use crate::random::Random;

pub use self::shrink::shrink;
pub use self::stock_apps::{simulate, simulate_journaled};
pub use self::swarm::Behaviour;

/// Clients there are at most in one run, unless it is told otherwise.
const CLIENTS: usize = 12;
/// Events in the report of a failure.
const EVENTS_SHOWN: usize = 40;

/// In these the owner speaks, and with words of its own.
const OWN_WORDS: &[Behaviour] = &[Behaviour::Notice, Behaviour::Squeeze, Behaviour::Latest, Behaviour::OperatorSay];

type Players = Box<dyn FnMut(&mut Random, &str) -> Box<dyn Player>>;
type Again<A> = Box<dyn Fn() -> A>;
type Invariant<A> = Box<dyn FnMut(&A) -> Result<(), String>>;

/// What a client of a game says and hears, on one connection.
pub trait Player {
    /// The next message, if there is something to say now. All randomness must come from `random`.
    fn act(&mut self, random: &mut Random) -> Option<String>;

    /// A text message has come, of the engine's or of the game's.
    ///
    /// # Errors
    ///
    /// What is wrong with it, if it must not be; the run fails with that.
    fn heard(&mut self, _text: &str) -> Result<(), String> {
        Ok(())
    }
}

/// One run to be made: an application under test, and the number that everything else follows from.
///
/// See the [module's page](self) for an example.
pub struct Simulator<A: App> {
    seed: u64,
    config: Config,
    app: A,
    clients: usize,
    without: Behaviours,
    relays: bool,
    players: Option<Players>,
    invariant: Option<Invariant<A>>,
    /// What the run is replayed with.
    again: Option<Again<A>>,
    /// What repeats a run, for the report of a failure: a command, or the constructor.
    repeats: Repeats,
}

impl<A: App> Simulator<A> {
    /// A run of `app` under `config`.
    pub fn new(seed: u64, config: Config, app: A) -> Simulator<A> {
        let mut without = Behaviours::default();
        // The game's clients do not know what the owner of another application would send.
        OWN_WORDS.iter().for_each(|&behaviour| without.insert(behaviour));
        Simulator {
            seed,
            config,
            app,
            clients: CLIENTS,
            without,
            relays: false,
            players: None,
            invariant: None,
            again: None,
            repeats: Repeats::New,
        }
    }

    /// The same, with a configuration that is drawn too: tiny limits, everything unlimited, or anything between.
    pub fn swarm(seed: u64, app: A) -> Simulator<A> {
        let config = draw_config(&mut Random::new(seed ^ 0x5eed));
        Simulator { repeats: Repeats::Swarm, ..Simulator::new(seed, config, app) }
    }

    /// What the clients say and hear, one player for each connection: drawn from the generator, for the user named.
    ///
    /// Without players, clients speak the protocol of [`apps::Relay`](crate::apps::Relay).
    pub fn players(mut self, players: impl FnMut(&mut Random, &str) -> Box<dyn Player> + 'static) -> Self {
        self.players = Some(Box::new(players));
        self
    }

    /// What must hold in the application after every step.
    pub fn check_app(mut self, invariant: impl FnMut(&A) -> Result<(), String> + 'static) -> Self {
        self.invariant = Some(Box::new(invariant));
        self
    }

    /// The run is recorded in a [journal](crate::journal), which must then be replayable with `again`, an application as the
    /// one under test is at first.
    pub fn replayed_with(mut self, again: impl Fn() -> A + 'static) -> Self {
        self.again = Some(Box::new(again));
        self
    }

    /// Every message of a member reaches every other member exactly once and in order: that is checked then.
    pub fn relays_everything(mut self) -> Self {
        self.relays = true;
        OWN_WORDS.iter().for_each(|&behaviour| self.without.remove(behaviour));
        self
    }

    /// At most so many clients at once.
    pub fn max_clients(mut self, clients: usize) -> Self {
        self.clients = clients.max(1);
        self
    }

    /// These do not happen.
    pub fn without(mut self, behaviours: &[Behaviour]) -> Self {
        behaviours.iter().for_each(|&behaviour| self.without.insert(behaviour));
        self
    }

    /// Makes the run: `steps` steps, and then as many as it takes for everything to come to rest.
    ///
    /// # Errors
    ///
    /// What did not hold, whether a check said so or the code under test panicked.
    ///
    /// # Panics
    ///
    /// When the configuration is one that [`Config::check`] refuses.
    pub fn run(mut self, steps: u64) -> Result<Report, Box<Failure>> {
        let swarm = Swarm::draw(&mut Random::new(self.seed), self.clients, self.without);
        if self.repeats != Repeats::New {
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
            without: self.without.iter().filter(|it| self.relays || !OWN_WORDS.contains(it)).collect(),
        };
        let mut world = World::new(self.seed, self.config, self.app, swarm, self.relays);
        if self.again.is_some() {
            world.record(self.seed);
        }
        let again = self.again;
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
            again.map_or(Ok(()), |again| world.replay(&*again))
        }));
        let violation = match outcome {
            Ok(Ok(())) => return Ok(world.report()),
            Ok(Err(violation)) => violation,
            Err(panic) => format!("panicked: {}", words_of(&*panic)),
        };
        Err(Box::new(Failure {
            step: world.transcript.step,
            violation,
            client: Some(world.involved).filter(|&client| client != NOBODY),
            events: world.events(),
            repeats: self.repeats,
            plan,
        }))
    }
}

fn words_of(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("without a word").to_owned()
}

impl<A: App> World<A> {
    fn report(&self) -> Report {
        let tally = &self.tally;
        Report {
            seeds: 1,
            steps: self.transcript.step,
            connections: tally.opened,
            messages: self.common.messages,
            bytes: tally.bytes_in + tally.bytes_out,
            closes: tally.reasons.clone(),
            behaviours: tally.behaviours.clone(),
            hash: self.transcript.hash(),
        }
    }

    /// The last events of the client involved, of those in its lobby and of its user's other connections.
    fn events(&self) -> String {
        let involved = self.links.iter().flatten().find(|link| link.number == self.involved);
        let near = |link: &&client::Link| involved.is_some_and(|it| it.lobby == link.lobby || it.user == link.user);
        let mut numbers = vec![self.involved];
        numbers.extend(self.links.iter().flatten().filter(near).map(|link| link.number));
        self.transcript.last(&numbers, EVENTS_SHOWN)
    }
}

/// What it takes to make the same run again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The number everything is drawn from.
    pub seed: u64,
    /// Steps before the faults stop.
    pub steps: u64,
    /// Clients there are at most at once.
    pub clients: usize,
    /// What does not happen.
    pub without: Vec<Behaviour>,
}

impl Plan {
    /// Everything, with a few clients.
    pub fn new(seed: u64, steps: u64) -> Plan {
        Plan { seed, steps, clients: CLIENTS, without: Vec::new() }
    }
}

/// What happened in a run, or in many.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Runs.
    pub seeds: u64,
    /// Steps, those of coming to rest included.
    pub steps: u64,
    /// Connections opened.
    pub connections: u64,
    /// Messages that clients heard from one another.
    pub messages: u64,
    /// Bytes to and from the server.
    pub bytes: u64,
    /// A hash over everything that went into the engine and came out of it, in order.
    pub hash: u64,
    closes: Vec<u64>,
    behaviours: Vec<u64>,
}

impl Report {
    /// Adds another run to this one. The hash depends on the order.
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

    /// How many connections ended with each reason; those that none ended with are left out.
    pub fn closes(&self) -> impl Iterator<Item = (CloseReason, u64)> {
        CloseReason::ALL.iter().copied().zip(self.closes.iter().copied()).filter(|(_, count)| *count > 0)
    }

    /// How often each behaviour struck; those that never did are left out.
    pub fn behaviours(&self) -> impl Iterator<Item = (Behaviour, u64)> {
        Behaviour::ALL.iter().copied().zip(self.behaviours.iter().copied()).filter(|(_, count)| *count > 0)
    }
}

/// A run in which something did not hold. Displayed with all it takes to understand and repeat it.
#[derive(Clone, Debug)]
pub struct Failure {
    plan: Plan,
    step: u64,
    violation: String,
    client: Option<u32>,
    events: String,
    repeats: Repeats,
}

impl Failure {
    /// What it takes to make the run again.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// The step after which it was noticed.
    pub fn step(&self) -> u64 {
        self.step
    }

    /// What did not hold.
    pub fn violation(&self) -> &str {
        &self.violation
    }

    /// How to repeat the run.
    pub fn repeat(&self) -> String {
        let Plan { seed, steps, clients, without } = &self.plan;
        let words: Vec<&str> = without.iter().map(|behaviour| behaviour.word()).collect();
        let constructor = match self.repeats {
            Repeats::Command | Repeats::Journaled => {
                let clients = if *clients == CLIENTS { String::new() } else { format!(" --clients {clients}") };
                let without = if words.is_empty() { String::new() } else { format!(" --without {}", words.join(",")) };
                let journal = if self.repeats == Repeats::Journaled { " --journal" } else { "" };
                return format!("lobbyd simulate --seed {seed} --steps {steps}{clients}{without}{journal}");
            }
            Repeats::New => "new",
            Repeats::Swarm => "swarm",
        };
        let without: Vec<String> = without.iter().map(|it| format!("Behaviour::{it:?}")).collect();
        let without = without.join(", ");
        format!("Simulator::{constructor}({seed}, …).max_clients({clients}).without(&[{without}]).run({steps})")
    }
}

/// How a run was made, and can be made again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Repeats {
    New,
    Swarm,
    Command,
    Journaled,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let who = self.client.map_or(String::new(), |client| format!(", client #{client}"));
        writeln!(f, "seed {} failed at step {}{who}: {}", self.plan.seed, self.step, self.violation)?;
        writeln!(f, "the last of what happened to those involved:")?;
        f.write_str(&self.events)?;
        write!(f, "repeat it with: {}", self.repeat())
    }
}

impl std::error::Error for Failure {}
