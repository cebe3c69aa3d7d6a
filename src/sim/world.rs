//! The parts of one run: the server, the clients, and the random generators.
//!
//! Each purpose has its own random generator, so that a draw for one purpose does not change the draws for the others.
//! Knows neither steps nor turns.

use super::admin_port::AdminPort;
use super::app::authorizer::{Authorizer, percent_late};
use super::app::under_test::AppUnderTest;
use super::client::asked::ControlBook;
use super::client::clients::Clients;
use super::client::player::Players;
use super::client::request::user_name;
use super::client::shared_state::SharedState;
use super::commands::Commands;
use super::models::feed::{Allowances, Models};
use super::report::Expectation;
use super::server::Server;
use super::swarm::behaviour::Behaviour;
use super::swarm::config::{has_inbox_limit, has_rate_limits, has_unanswered_limit};
use super::swarm::parameters::Swarm;
use super::transcript::{EventKind, NO_CLIENT, Transcript};
use crate::base::random::Random;
use crate::config::{CheckedConfig, Config};
use crate::engine::app::App;

/// An invariant of the application.
pub(super) type Invariant<A> = Box<dyn FnMut(&A) -> Result<(), String>>;

pub(super) struct World<A: App> {
    pub(super) server: Server<A>,
    pub(super) admin_port: AdminPort,
    pub(super) clients: Clients,
    pub(super) swarm: Swarm,
    pub(super) random: Generators,
    pub(super) transcript: Transcript,
    pub(super) invariant: Option<Invariant<A>>,
    /// Commands of the application's own loop.
    pub(super) commands: Option<Commands>,
    /// What a failure violates.
    pub(super) expectation: Expectation,
}

/// The random generators of a run, besides those of the authorizer.
pub(super) struct Generators {
    /// Generator for the order of actions and for time.
    pub(super) schedule: Random,
    /// Generator for chunks and write faults.
    pub(super) network: Random,
    /// Generator for the clients' requests and messages.
    pub(super) clients: Random,
    /// Generator for the application's and the operators' commands, and for the wall clock.
    pub(super) control: Random,
    /// Generator for requests of lobby control.
    pub(super) lobby: Random,
}

/// What is tested in a run, besides the application.
pub(super) struct Setup<A> {
    pub(super) seed: u64,
    pub(super) config: CheckedConfig,
    pub(super) swarm: Swarm,
    /// Whether every message of a member must reach all other members.
    pub(super) relays: bool,
    pub(super) players: Option<Players>,
    pub(super) invariant: Option<Invariant<A>>,
    pub(super) commands: Option<Commands>,
}

impl<A: App> World<A> {
    pub(super) fn new(setup: Setup<A>, app: A) -> World<A> {
        let Setup { seed, config, swarm, relays, players, invariant, commands } = setup;
        let stream = |purpose: u64| Random::new(seed.wrapping_mul(0x2545_f491_4f6c_dd1d) ^ purpose << 56);
        let users = (0..swarm.users).map(user_name).collect();
        let lobbies = (0..swarm.lobbies).map(|index| ["chess", "go", "2-4_Z"][index % 3].to_owned()).collect();
        let limits_inbox = has_inbox_limit(&config) || has_unanswered_limit(&config, &swarm);
        let may_refuse = has_rate_limits(&config) || swarm.weight(Behaviour::Tier) > 0 || limits_inbox;
        let allowances = Allowances { limits_inbox, may_refuse, may_reserve: percent_late(&swarm) > 0 };
        // What an application changes by itself is not modelled.
        let modelled = Config { lobby_control: config.lobby_control && relays, ..(*config).clone() };
        let models = Models::new(A::PROTOCOL, &modelled, allowances);
        let grace = config.seat_grace.as_millis() as u64;
        let seat_grace_ms = Some(grace).filter(|&grace| grace > 0 && swarm.weight(Behaviour::Session) > 0);
        let mut shared = SharedState::new(users, lobbies, relays, may_refuse, models.may_be_counted, seat_grace_ms);
        shared.control = ControlBook::new(&modelled);
        let authorizer = Authorizer::new(&swarm, config.ping_interval, stream(1), stream(6));
        let may_post = swarm.weight(Behaviour::Events) > 0 && swarm.weight(Behaviour::Post) > 0;
        World {
            admin_port: AdminPort::new(&config, stream(7)),
            server: Server::new(seed, config, AppUnderTest::new(app, authorizer), models),
            clients: Clients::new(swarm.clients.max(1), may_post, shared, players),
            swarm,
            random: Generators {
                schedule: stream(2),
                network: stream(3),
                clients: stream(4),
                control: stream(5),
                lobby: stream(8),
            },
            transcript: Transcript::new(seed),
            invariant,
            commands,
            expectation: Expectation::default(),
        }
    }

    /// Notes an event of the link at `index`.
    pub(super) fn note(&mut self, index: usize, kind: EventKind, number: u64, bytes: &[u8]) {
        let link = self.clients.get(index).map_or(NO_CLIENT, |link| link.number);
        self.transcript.current_client = link;
        self.transcript.note(self.server.now, link, kind, number, bytes);
    }

    /// Notes an event that concerns no single connection.
    pub(super) fn note_server(&mut self, kind: EventKind, number: u64, bytes: &[u8]) {
        self.transcript.note(self.server.now, NO_CLIENT, kind, number, bytes);
    }

    /// Notes what the clients have sent since the last call.
    pub(super) fn note_actions(&mut self) {
        let World { server, clients, transcript, .. } = self;
        for link in clients.iter_mut().filter(|link| !link.pipe.unnoted.is_empty()) {
            let (number, now) = (link.number, server.now);
            let note = |unit, bytes: &[u8]| transcript.note_action(now, number, unit, bytes);
            link.decoders.sends.push(&link.pipe.unnoted, note);
            link.pipe.unnoted.clear();
        }
    }

    pub(super) fn count(&mut self, behaviour: Behaviour) {
        self.server.models.behaviours.add(behaviour);
    }
}
