//! The state of one run: the engine, the clients, the network between them, and the time. Draws each step, runs it, and
//! checks the invariants.
//!
//! A step is one action: some bytes arrive or are read, a client sends a message, the driver finishes its turn, or time
//! passes. Each purpose has its own random generator, so that a draw for one purpose does not change the draws for the
//! others.

use super::client::{Link, Traits};
use super::client_input;
use super::limit_model::{self, IdentityModel, NETWORKS};
use super::network::Side;
use super::observed_app::ObservedApp;
use super::operator::OperatorModel;
use super::rates;
use super::shared_state::SharedState;
use super::swarm::{Behaviour, Swarm};
use super::tick_model::{self, TickModel};
use super::transcript::{EventKind, NO_CLIENT, Transcript};
use super::view::{RequestKind, write_number};
use super::{Invariant, Players};
use crate::Config;
use crate::base::close::CloseReason;
use crate::base::random::Random;
use crate::base::time::Time;
use crate::engine::Engine;
use crate::engine::app::{App, Protocol};
use crate::engine::driver::Start;

/// Wall time at which every run begins, in microseconds since the Unix epoch.
pub(super) const START_MICROS: u64 = 1_700_000_000_000_000;

pub(super) struct World<A: App> {
    pub(super) engine: Engine<ObservedApp<A>>,
    pub(super) now: Time,
    /// Wall time at [`Time::ZERO`] according to the current wall clock, in microseconds since the Unix epoch.
    pub(super) unix_at_zero: u64,
    /// Time of the previous turn.
    pub(super) last_turn: Time,
    /// Whether a connection had unread input after the previous turn, so that its timers may have been deferred.
    pub(super) had_unread: bool,
    /// Time of the last change of the wall clock, if any.
    pub(super) wall_stepped_at: Option<Time>,
    /// The clients' ends of the connections. An entry is free again once the client has read the end and the server has
    /// dropped the socket.
    pub(super) links: Vec<Option<Link>>,
    /// Index into `links`, by the connection's index in the engine.
    pub(super) link_of_conn: Vec<usize>,
    pub(super) swarm: Swarm,
    actions: Vec<(Action, u32)>,
    total_weight: u64,
    /// Generator for the order of actions and for time.
    pub(super) schedule: Random,
    /// Generator for chunks and write faults.
    pub(super) network: Random,
    /// Generator for the clients' requests and messages.
    pub(super) clients: Random,
    /// Generator for the application's and the operators' commands, and for the wall clock.
    pub(super) control: Random,
    pub(super) shared: SharedState,
    pub(super) transcript: Transcript,
    pub(super) counts: Counts,
    pub(super) players: Option<Players>,
    pub(super) invariant: Option<Invariant<A>>,
    /// Whether the engine has received an input since the driver's last turn ended.
    pub(super) turn_open: bool,
    /// Number of the link that the last step concerned, or [`NO_CLIENT`]. The report of a failure names it.
    pub(super) current_client: u32,
    pub(super) is_draining: bool,
    /// Number of the first link accepted after the drain began.
    pub(super) drained_from: u32,
    pub(super) operators: OperatorModel,
    /// Number of accepted connections, by network.
    pub(super) attempts: [u64; NETWORKS],
    /// Bytes of the last write, for the transcript.
    pub(super) written: Vec<u8>,
}

/// Counters kept outside of the engine, to be compared with the engine's own.
#[derive(Clone, Debug, Default)]
pub(super) struct Counts {
    pub(super) opened: u64,
    pub(super) shed: u64,
    pub(super) bytes_in: u64,
    pub(super) bytes_out: u64,
    pub(super) closed: u64,
    /// Text, binary, ping and pong frames received on links that were removed.
    pub(super) frames: u64,
    /// `health_pong` messages sent on links that were removed.
    pub(super) health_pongs: u64,
    /// Closed connections, by close reason.
    pub(super) reasons: Vec<u64>,
    /// Occurrences, by behaviour.
    pub(super) behaviours: Vec<u64>,
}

#[derive(Clone, Copy, Debug)]
enum Action {
    Deliver,
    Read,
    Wake,
    EndTurn,
    Advance,
    Connect,
    Send,
    Authorize,
    Do(Behaviour),
}

/// Behaviours that are actions of their own. The other behaviours modify actions that happen anyway.
const STEP_BEHAVIOURS: &[Behaviour] = &[
    Behaviour::Direct,
    Behaviour::Presence,
    Behaviour::Ping,
    Behaviour::Control,
    Behaviour::Binary,
    Behaviour::AppMessage,
    Behaviour::Flood,
    Behaviour::Malformed,
    Behaviour::TooBig,
    Behaviour::NearValid,
    Behaviour::Garbage,
    Behaviour::BadRequest,
    Behaviour::HalfRequest,
    Behaviour::Leave,
    Behaviour::Close,
    Behaviour::Hangup,
    Behaviour::Reset,
    Behaviour::Vanish,
    Behaviour::SpuriousWake,
    Behaviour::Kick,
    Behaviour::CloseLobby,
    Behaviour::Notice,
    Behaviour::Squeeze,
    Behaviour::HealthCheck,
    Behaviour::Latest,
    Behaviour::Lock,
    Behaviour::OperatorKick,
    Behaviour::OperatorSay,
    Behaviour::OperatorPing,
    Behaviour::Clock,
    Behaviour::HalfClose,
    Behaviour::WallStep,
];

impl<A: App> World<A> {
    pub(super) fn new(seed: u64, config: Config, app: A, swarm: Swarm, relays: bool) -> World<A> {
        let stream = |purpose: u64| Random::new(seed.wrapping_mul(0x2545_f491_4f6c_dd1d) ^ purpose << 56);
        let users = (0..swarm.users).map(client_input::user_name).collect();
        let lobbies = (0..swarm.lobbies).map(|index| ["chess", "go", "2-4_Z"][index % 3].to_owned()).collect();
        let late = u64::from(swarm.weight(Behaviour::LateAuth)).min(60);
        let mut actions = vec![
            (Action::Deliver, 300),
            (Action::Read, 300),
            (Action::Wake, 60),
            (Action::EndTurn, 30),
            (Action::Advance, swarm.clock),
            (Action::Connect, swarm.arrivals),
            (Action::Send, swarm.sends),
            (Action::Authorize, if late > 0 { 20 } else { 0 }),
        ];
        for &behaviour in STEP_BEHAVIOURS {
            // Behaviours that end connections are less frequent than those that use them.
            let weight = swarm.weight(behaviour);
            let divisor = match behaviour {
                Behaviour::Squeeze => 3,
                Behaviour::Latest => 1,
                _ if behaviour < Behaviour::Malformed => 1,
                _ => 8,
            };
            let weight = weight.div_ceil(divisor);
            actions.push((Action::Do(behaviour), weight));
        }
        actions.push((Action::Do(Behaviour::Drain), u32::from(swarm.weight(Behaviour::Drain) > 16)));
        let mut shared = SharedState::new(users, lobbies, relays);
        shared.has_inbox_limit = tick_model::has_inbox_limit(&config);
        shared.has_rate_limits =
            rates::has_rate_limits(&config) || swarm.weight(Behaviour::Tier) > 0 || shared.has_inbox_limit;
        let identity_model = IdentityModel::new(&swarm, &config, stream(6));
        let app = ObservedApp::new(app, late, identity_model, TickModel::new(&config), stream(1));
        World {
            engine: Engine::new(config, Start { unix_micros: START_MICROS, seed }, app),
            now: Time::ZERO,
            unix_at_zero: START_MICROS,
            last_turn: Time::ZERO,
            had_unread: false,
            wall_stepped_at: None,
            links: (0..swarm.clients.max(1)).map(|_| None).collect(),
            link_of_conn: Vec::new(),
            total_weight: actions.iter().map(|(_, weight)| u64::from(*weight)).sum(),
            actions,
            swarm,
            schedule: stream(2),
            network: stream(3),
            clients: stream(4),
            control: stream(5),
            shared,
            transcript: Transcript::new(seed),
            counts: Counts {
                reasons: vec![0; CloseReason::ALL.len()],
                behaviours: vec![0; Behaviour::ALL.len()],
                ..Counts::default()
            },
            players: None,
            invariant: None,
            turn_open: false,
            current_client: NO_CLIENT,
            is_draining: false,
            drained_from: 0,
            operators: OperatorModel::default(),
            attempts: [0; NETWORKS],
            written: Vec::new(),
        }
    }

    /// Runs one action and checks all invariants.
    pub(super) fn step(&mut self) -> Result<(), String> {
        let action = self.draw();
        if !self.act(action)? {
            // No client can do that now: try other actions.
            let instead = [Action::Deliver, Action::Read, Action::Wake, Action::Send, Action::Connect];
            // Time must pass too; otherwise no connection is ever idle.
            let mut done = matches!(action, Action::Deliver | Action::Read) && self.schedule.percent(10);
            if done {
                self.act(Action::Advance)?;
            }
            for action in instead {
                done = done || self.act(action)?;
            }
            if !done {
                self.act(Action::Advance)?;
            }
        }
        self.send_due_retries();
        if self.turn_open && self.schedule.percent(self.swarm.turns) {
            self.end_turn()?;
        }
        self.after_step()
    }

    fn draw(&mut self) -> Action {
        let mut at = self.schedule.below(self.total_weight);
        for &(action, weight) in &self.actions {
            match at.checked_sub(u64::from(weight)) {
                Some(rest) => at = rest,
                None => return action,
            }
        }
        unreachable!("the weights add up to their total")
    }

    /// Runs `action`. Returns whether it was possible.
    fn act(&mut self, action: Action) -> Result<bool, String> {
        match action {
            Action::Deliver => {
                let Some(index) = self.pick(Link::has_input) else { return Ok(false) };
                let chunk = match self.swarm.occurs(Behaviour::Chunk, &mut self.network) {
                    true => {
                        self.count(Behaviour::Chunk);
                        1 + self.network.below(self.swarm.chunk as u64) as usize
                    }
                    false => self.engine.config().receive_buffer_bytes.0,
                };
                self.deliver(index, chunk);
            }
            Action::Read => {
                let Some(index) = self.pick(|link| {
                    link.pipe.is_client_reading()
                        && !link.traits.is_stalled
                        && (link.pipe.unread_by_client() > 0 || link.pipe.is_at_server_end())
                }) else {
                    return Ok(false);
                };
                let is_slow = self.link(index).traits.is_slow;
                let chunk = if is_slow { 1 + self.network.below(self.swarm.narrow as u64) } else { u64::MAX };
                self.read(index, chunk as usize)?;
            }
            Action::Wake => {
                let Some(index) = self.pick(|link| link.conn.is_some() && link.pipe.is_unblocked()) else {
                    return Ok(false);
                };
                self.wake(index);
            }
            Action::EndTurn => self.end_turn()?,
            Action::Advance => self.advance()?,
            Action::Connect => return Ok(self.connect(None)),
            Action::Send => return Ok(self.send_from_client(Action::Send)),
            Action::Authorize => return Ok(self.authorize()),
            Action::Do(behaviour) => {
                let done = self.perform(behaviour)?;
                if done {
                    self.count(behaviour);
                }
                return Ok(done);
            }
        }
        Ok(true)
    }

    pub(super) fn count(&mut self, behaviour: Behaviour) {
        self.counts.behaviours[behaviour as usize] += 1;
    }

    fn pick(&mut self, fits: impl Fn(&Link) -> bool) -> Option<usize> {
        let count = self.links.len();
        let start = self.schedule.below(count as u64) as usize;
        (start..count).chain(0..start).find(|&index| self.links[index].as_ref().is_some_and(&fits))
    }

    pub(super) fn link(&mut self, index: usize) -> &mut Link {
        self.links[index].as_mut().expect("pick() returns the index of a link")
    }

    pub(super) fn indices(&self) -> impl Iterator<Item = usize> + use<A> {
        0..self.links.len()
    }

    pub(super) fn note(&mut self, index: usize, kind: EventKind, number: u64, bytes: &[u8]) {
        let link = self.links[index].as_ref().map_or(NO_CLIENT, |link| link.number);
        self.current_client = link;
        self.transcript.note(self.now, link, kind, number, bytes);
    }

    // ---- clients ----

    fn connect(&mut self, special: Option<Behaviour>) -> bool {
        let Some(index) = self.indices().find(|&index| self.links[index].is_none()) else { return false };
        let random = &mut self.clients;
        let user = random.below(self.shared.users.len() as u64) as usize;
        let lobby = random.below(self.shared.lobbies.len() as u64) as usize;
        let is_double = self.links.iter().flatten().any(|link| link.user == user && link.pipe.client == Side::Open);
        if is_double {
            if self.swarm.weight(Behaviour::LogInTwice) == 0 {
                return false;
            }
            self.count(Behaviour::LogInTwice);
        }
        let random = &mut self.clients;
        let mut has = |behaviour| self.swarm.occurs(behaviour, random);
        let traits = Traits {
            is_eager: has(Behaviour::Eager),
            is_mute: has(Behaviour::Mute),
            is_rude: has(Behaviour::Rude),
            pongs_wrongly: has(Behaviour::WrongPong),
            is_slow: has(Behaviour::SlowReader),
            is_stalled: has(Behaviour::Stall),
            fragments: has(Behaviour::Fragment),
            is_patient: has(Behaviour::Patient),
        };
        for (has, behaviour) in [
            (traits.is_eager, Behaviour::Eager),
            (traits.is_mute, Behaviour::Mute),
            (traits.is_rude, Behaviour::Rude),
            (traits.pongs_wrongly, Behaviour::WrongPong),
            (traits.is_slow, Behaviour::SlowReader),
            (traits.is_stalled, Behaviour::Stall),
            (traits.fragments, Behaviour::Fragment),
        ] {
            self.counts.behaviours[behaviour as usize] += u64::from(has);
        }
        self.turn_open = true;
        let several = self.swarm.weight(Behaviour::Addresses) > 0;
        let (address, network) =
            if several { limit_model::draw_address(&mut self.clients) } else { ([127, 0, 0, 1].into(), 0) };
        let Ok(conn) = self.engine.handle_accept(self.now, (address, 1024 + index as u16).into()) else {
            self.counts.shed += 1;
            self.transcript.note(self.now, NO_CLIENT, EventKind::TurnedAway, 0, &[]);
            return true;
        };
        let number = self.shared.link_users.len() as u32;
        self.shared.link_users.push(user);
        self.counts.opened += 1;
        self.attempts[network] += 1;
        if several {
            self.count(Behaviour::Addresses);
        }
        let is_json = A::PROTOCOL == Protocol::Json;
        let capacity = if traits.is_slow || traits.is_stalled { self.swarm.narrow } else { 16 * 1024 };
        let mut link = Link::new(number, conn, user, lobby, capacity, traits, is_json, self.now);
        link.network = network;
        let config = self.engine.config();
        link.view.has_ticks = config.tick_hz.is_some();
        let most = self.links.len() as u32;
        link.is_owed_answers = config.max_closing >= most && config.max_pending >= most;
        let random = &mut self.clients;
        let mut request = client_input::request(&self.shared.users[user], &self.shared.lobbies[lobby], is_json, random);
        match special {
            Some(Behaviour::BadRequest) => {
                (request, link.may_be_accepted) = client_input::bad_request(random);
                link.is_unpredictable = true;
            }
            Some(_) => {
                request.truncate(random.below(request.len() as u64) as usize);
                link.is_unpredictable = true;
                link.is_unfinished = true;
            }
            None => link.player = self.players.as_mut().map(|players| players(random, &self.shared.users[user])),
        }
        link.pipe.send(&request);
        if conn.index() >= self.link_of_conn.len() {
            self.link_of_conn.resize(conn.index() + 1, usize::MAX);
        }
        self.link_of_conn[conn.index()] = index;
        self.links[index] = Some(link);
        let (user, lobby) = (&self.shared.users[user], &self.shared.lobbies[lobby]);
        let words = format!("conn={conn} user={user} lobby={lobby}");
        self.note(index, EventKind::Connects, 0, words.as_bytes());
        true
    }

    fn send_from_client(&mut self, action: Action) -> bool {
        let kind = match action {
            Action::Do(behaviour) => behaviour,
            // `Flood` stands for an ordinary broadcast here.
            _ => Behaviour::Flood,
        };
        let Some(index) = self.pick(Link::may_send) else { return false };
        let max = self.engine.config().max_message_bytes.0;
        let World { links, swarm, shared, clients, .. } = self;
        let link = links[index].as_mut().expect("pick() returns the index of a link");
        match kind {
            Behaviour::Control => link.ping(clients),
            Behaviour::TooBig => link.send_too_big(max, clients),
            Behaviour::NearValid => link.send_near_valid(clients),
            Behaviour::Garbage => link.send_garbage(clients),
            Behaviour::Close => {
                let code = [1000, 1001, 3000, 4999][clients.below(4) as usize];
                link.close(code, clients);
            }
            Behaviour::Flood if matches!(action, Action::Do(_)) => {
                let kinds = [Behaviour::Flood, Behaviour::Control, Behaviour::Ping, Behaviour::Presence];
                let kind = kinds[clients.below(4) as usize];
                for _ in 0..clients.below(60) {
                    match kind {
                        Behaviour::Control => link.ping(clients),
                        _ => link.send_kind(kind, swarm, shared, max, clients),
                    }
                }
            }
            _ => link.send_kind(kind, swarm, shared, max, clients),
        }
        let event = if matches!(action, Action::Send) { EventKind::Broadcast } else { EventKind::Did(kind) };
        self.note(index, event, 0, &[]);
        true
    }

    /// Performs `behaviour`. Returns whether it was possible.
    fn perform(&mut self, behaviour: Behaviour) -> Result<bool, String> {
        match behaviour {
            Behaviour::BadRequest | Behaviour::HalfRequest => return Ok(self.connect(Some(behaviour))),
            Behaviour::Hangup | Behaviour::Reset | Behaviour::Vanish => {
                let Some(index) = self.pick(|link| link.pipe.client == Side::Open) else { return Ok(false) };
                let side = match behaviour {
                    Behaviour::Hangup => Side::Ended,
                    Behaviour::Reset => Side::Reset,
                    _ => Side::Vanished,
                };
                self.note(index, EventKind::Did(behaviour), 0, &[]);
                self.link(index).pipe.end(side);
            }
            Behaviour::HalfClose => {
                let Some(index) = self.pick(|link| link.pipe.client == Side::Open) else { return Ok(false) };
                let sends_close = self.clients.percent(50);
                let World { links, clients, .. } = self;
                let link = links[index].as_mut().expect("pick() returns the index of a link");
                if sends_close && link.may_send() {
                    link.close(1000, clients);
                }
                link.pipe.half_close();
                self.note(index, EventKind::Did(behaviour), 0, &[]);
            }
            Behaviour::WallStep => {
                let step = limit_model::pick(&mut self.control, &[1_000, 50_000, 2_000_000, 3_600_000_000]);
                self.unix_at_zero =
                    if self.control.percent(50) { self.unix_at_zero + step } else { self.unix_at_zero - step };
                self.wall_stepped_at = Some(self.now);
                self.turn_open = true;
                self.transcript.note(self.now, NO_CLIENT, EventKind::Did(behaviour), self.unix_at_zero, &[]);
                self.engine.handle_wall_time(self.now, self.unix_at_zero + self.now.as_micros());
            }
            Behaviour::SpuriousWake => {
                let Some(index) = self.pick(|link| link.conn.is_some()) else { return Ok(false) };
                self.note(index, EventKind::SpuriousWake, 0, &[]);
                let conn = self.link(index).conn.expect("pick() chose an open connection");
                self.turn_open = true;
                // If the socket is in fact blocked, the next write blocks again and `wake` reports it later.
                self.engine.handle_writable(self.now, conn);
            }
            Behaviour::Kick | Behaviour::CloseLobby | Behaviour::Notice | Behaviour::HealthCheck => {
                self.run_app_commands(behaviour);
            }
            Behaviour::Squeeze => return Ok(self.squeeze()),
            Behaviour::Latest => self.send_latest(None),
            Behaviour::Lock | Behaviour::OperatorKick | Behaviour::OperatorSay | Behaviour::OperatorPing => {
                self.send_operator_command(behaviour)?;
            }
            Behaviour::Clock => self.set_clock()?,
            Behaviour::Drain => {
                if self.is_draining {
                    return Ok(false);
                }
                self.drain();
            }
            _ => return Ok(self.send_from_client(Action::Do(behaviour))),
        }
        Ok(true)
    }

    /// Sends one message of `kind` from the client at `index`. A presence request always carries a `ref`.
    pub(super) fn send_one(&mut self, index: usize, kind: Behaviour) {
        let max = self.engine.config().max_message_bytes.0;
        let World { links, swarm, shared, clients, .. } = self;
        let link = links[index].as_mut().expect("the caller found the link");
        match kind {
            Behaviour::Presence => {
                link.last_ref += 1;
                let reference = link.last_ref;
                let text = format!("{{\"type\":\"presence\",\"ref\":{}}}", write_number(reference.into()));
                link.send_request(RequestKind::Presence, Some(reference), &text, clients);
            }
            Behaviour::Control => link.ping(clients),
            _ => link.send_kind(kind, swarm, shared, max, clients),
        }
    }
}
