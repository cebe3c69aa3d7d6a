//! Builds one run of an application, carries it out, and reports the result.
//!
//! Knows the phases of a run, but not what happens in a step.

use std::any::Any;
use std::collections::BTreeMap;
use std::panic::{self, AssertUnwindSafe};
use std::time::Duration;

use super::client::player::{Player, Players};
use super::commands::Commands;
use super::final_phase;
use super::record;
use super::report::{DEFAULT_CLIENTS, Expectation, Failure, Plan, Report, RunKind};
use super::steps::Steps;
use super::swarm::behaviour::{Behaviour, Behaviours, OF_CONTROL, OF_EVENTS, OF_SESSIONS};
use super::swarm::config::{draw_config, draw_for_behaviours, draw_for_lobby_control};
use super::swarm::parameters::Swarm;
use super::world::{Invariant, Setup, World};
use crate::base::random::Random;
use crate::config::Config;
#[cfg(test)]
use crate::engine::Engine;
use crate::engine::app::{App, Protocol};
use crate::engine::control::configuring::has_lobby_control;

/// Number of events shown in the report of a failure.
const EVENTS_SHOWN: usize = 40;
/// Number of heads and frames sent by the clients that the report of a failure shows.
const ACTIONS_SHOWN: usize = 15;

/// Behaviours in which the application or an operator sends frames that only the built-in model clients understand.
const INJECTING: &[Behaviour] = &[Behaviour::Notice, Behaviour::Squeeze, Behaviour::Latest, Behaviour::OperatorSay];

type MakeApp<A> = Box<dyn Fn() -> A>;

/// Builder of one simulated run: the application under test, the configuration, and the seed.
///
/// See the [module documentation](crate::sim) for an example.
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
    commands: Option<Commands>,
    /// Whether the configuration is completed with fields that the behaviours of the run need.
    draws_config: bool,
    /// How the run was started; the report of a failure names the same command.
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
            commands: None,
            draws_config: false,
            run_kind: RunKind::Application,
        }
    }

    /// Creates a run of `app` with a configuration drawn from the seed: tiny limits, no limits, or anything between.
    pub fn swarm(seed: u64, app: A) -> Simulator<A> {
        let config = draw_config(&mut Random::new(seed ^ 0x5eed));
        Simulator { draws_config: true, ..Simulator::new(seed, config, app) }
    }

    /// Sets how the run was started.
    pub(super) fn of_kind(self, run_kind: RunKind) -> Simulator<A> {
        Simulator { run_kind, ..self }
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

    /// Gives the application `command` once in every `period` of the simulated time, through
    /// [`App::on_command`](crate::App::on_command), as the loop of a game does that owns its steps.
    ///
    /// When the time jumps over several periods, at most 5 commands follow at once. No commands are given after the
    /// last step.
    pub fn command_every(mut self, period: Duration, command: impl Into<Vec<u8>>) -> Self {
        self.commands = Some(Commands::new(period, command.into()));
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
    /// applications, which announce nothing by themselves.
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
    /// Panics if [`Config::check_for`] rejects the configuration.
    pub fn run(mut self, steps: u64) -> Result<Report, Box<Failure>> {
        self.exclude_unsupported();
        let swarm = Swarm::draw(&mut Random::new(self.seed), self.clients, self.without);
        if self.draws_config {
            draw_for_behaviours(&mut self.config, &swarm, self.seed);
            if has_lobby_control::<A>(&self.config) && !self.config.lobby_control {
                draw_for_lobby_control(&mut self.config, self.seed);
            }
        }
        let without = self.named_without();
        let config = self.config.check_for::<A>().unwrap_or_else(|problems| panic!("seed {}: {problems}", self.seed));
        let plan = Plan { seed: self.seed, steps, clients: self.clients, without };
        let steps_of_run = Steps::new(&swarm, &config);
        let Simulator { seed, app, relays, players, invariant, commands, make_app, run_kind, .. } = self;
        let mut world = World::new(Setup { seed, config, swarm, relays, players, invariant, commands }, app);
        if make_app.is_some() {
            record::record(&mut world.server, seed);
        }
        let outcome = panic::catch_unwind(AssertUnwindSafe(|| {
            for step in 0..steps {
                world.transcript.step = step;
                steps_of_run.run(&mut world)?;
                if world.server.is_draining() && world.server.engine().is_drained() {
                    break;
                }
            }
            world.transcript.step += 1;
            world.expectation = Expectation::Agreement;
            final_phase::converge(&mut world)?;
            world.expectation = Expectation::Replay;
            make_app.map_or(Ok(()), |make_app| record::replay(&mut world.server, &*make_app))
        }));
        let violation = match outcome {
            Ok(Ok(())) => return Ok(report(&world)),
            Ok(Err(violation)) => violation,
            Err(panic) => {
                world.expectation = Expectation::NoPanic;
                format!("panicked: {}", panic_text(&*panic))
            }
        };
        Err(Box::new(failure(&mut world, violation, plan, run_kind)))
    }
}

#[cfg(test)]
impl<A: App> Simulator<A> {
    /// Runs some steps and returns the engine, perhaps in the middle of a turn.
    pub(crate) fn engine_after(mut self, steps: u64) -> Engine<impl App> {
        self.exclude_unsupported();
        let swarm = Swarm::draw(&mut Random::new(self.seed), self.clients, self.without);
        draw_for_behaviours(&mut self.config, &swarm, self.seed);
        let config = self.config.check_for::<A>().unwrap_or_else(|problems| panic!("seed {}: {problems}", self.seed));
        let steps_of_run = Steps::new(&swarm, &config);
        let Simulator { seed, app, relays, players, invariant, commands, .. } = self;
        let mut world = World::new(Setup { seed, config, swarm, relays, players, invariant, commands }, app);
        for step in 0..steps {
            world.transcript.step = step;
            steps_of_run.run(&mut world).unwrap_or_else(|violation| panic!("seed {seed}, step {step}: {violation}"));
        }
        world.server.into_engine()
    }
}

impl<A: App> Simulator<A> {
    /// Excludes the behaviours that the application does not support.
    fn exclude_unsupported(&mut self) {
        if A::PROTOCOL == Protocol::Raw || !self.relays {
            OF_SESSIONS.iter().chain(OF_CONTROL).for_each(|&behaviour| self.without.insert(behaviour));
            // An application may serve no event streams.
            OF_EVENTS.iter().for_each(|&behaviour| self.without.insert(behaviour));
        }
    }

    /// The excluded behaviours, without those that the run excludes by itself.
    fn named_without(&self) -> Vec<Behaviour> {
        let has_sessions = A::PROTOCOL == Protocol::Json && self.relays;
        let is_named = |behaviour: &Behaviour| {
            let needs_sessions = [OF_SESSIONS, OF_EVENTS, OF_CONTROL].iter().any(|of| of.contains(behaviour));
            (self.relays || !INJECTING.contains(behaviour)) && (has_sessions || !needs_sessions)
        };
        self.without.iter().filter(is_named).collect()
    }
}

pub(super) fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("without a text message").to_owned()
}

fn report<A: App>(world: &World<A>) -> Report {
    let models = &world.server.models;
    let counters = &models.counters;
    Report {
        seeds: 1,
        steps: world.transcript.step,
        connections: counters.opened,
        messages: world.clients.shared.messages,
        bytes: counters.bytes_in + counters.bytes_out,
        closes: counters.reasons.clone(),
        behaviours: models.behaviours.to_vec(),
        effects: BTreeMap::new(),
        hash: world.transcript.hash(),
    }
}

/// Describes the failure of a run.
///
/// The clients concerned are the one of the last event and those of users whose names the violation contains. Events of
/// clients in the same lobby, and of earlier connections of the same users, are shown too.
fn failure<A: App>(world: &mut World<A>, violation: String, plan: Plan, run_kind: RunKind) -> Failure {
    world.note_actions();
    let (clients, current) = (&world.clients, world.transcript.current_client);
    let shared = &clients.shared;
    let is_named = |user: usize| {
        let name = &shared.users[user];
        let is_inside = |c: char| c.is_alphanumeric();
        violation.match_indices(name.as_str()).any(|(at, _)| {
            !violation[..at].ends_with(is_inside) && !violation[at + name.len()..].starts_with(is_inside)
        })
    };
    let concerned: Vec<u32> = (0..)
        .zip(&shared.link_users)
        .filter(|&(link, &user)| link == current || is_named(user))
        .map(|(link, _)| link)
        .collect();
    let users: Vec<usize> = concerned.iter().map(|&link| shared.link_users[link as usize]).collect();
    let link_of = |number: u32| clients.iter().find(|link| link.number == number);
    let lobbies: Vec<usize> = concerned.iter().filter_map(|&number| link_of(number)).map(|link| link.lobby).collect();
    let is_near = |number: u32, user: usize| {
        !concerned.contains(&number)
            && (users.contains(&user) || link_of(number).is_some_and(|link| lobbies.contains(&link.lobby)))
    };
    let near: Vec<u32> =
        (0..).zip(&shared.link_users).filter(|&(link, &user)| is_near(link, user)).map(|(link, _)| link).collect();
    let describe = |number: &u32| {
        let user = &shared.users[shared.link_users[*number as usize]];
        let lobby =
            link_of(*number).map_or_else(|| ", ended".into(), |link| format!(" in {}", shared.lobbies[link.lobby]));
        format!("#{number} {user}{lobby}")
    };
    let has_player_failed = clients.iter().any(|link| link.is_rejected);
    Failure {
        step: world.transcript.step,
        expectation: if has_player_failed { Expectation::Player } else { world.expectation },
        clients: concerned.iter().map(describe).collect::<Vec<_>>().join("; "),
        events: world.transcript.last_events(&concerned, &near, EVENTS_SHOWN),
        actions: world.transcript.last_actions(&concerned, ACTIONS_SHOWN),
        violation,
        run_kind,
        plan,
    }
}
