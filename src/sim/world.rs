//! One run: the engine, the clients, the paths between them, and time. Decides what happens next, and checks after it.
//!
//! A step is one thing that happens: some bytes arrive or are read, a client says or does something, the driver
//! finishes its turn, time passes. Everything is drawn from a few generators with a purpose each, so that what one of
//! them decides does not shift what the others draw.

use super::client::{Link, Manners};
use super::client_input;
use super::limit_model::{self, Leases, NETWORKS};
use super::network::Side;
use super::observed_app::ObservedApp;
use super::operator::OperatorModel;
use super::rates;
use super::shared_state::SharedState;
use super::swarm::{Behaviour, Swarm};
use super::tick_model::{self, TickModel};
use super::transcript::{NOBODY, Transcript, What};
use super::view::{Question, write_number};
use super::{Invariant, Players};
use crate::Config;
use crate::close::CloseReason;
use crate::engine::app::{App, Protocol};
use crate::engine::{Engine, Start};
use crate::random::Random;
use crate::time::Time;

/// The wall time at which every run begins.
pub(super) const START_MICROS: u64 = 1_700_000_000_000_000;

pub(super) struct World<A: App> {
    pub(super) engine: Engine<ObservedApp<A>>,
    pub(super) now: Time,
    /// Wall time at [`Time::ZERO`] by the wall clock as it stands, in microseconds since the Unix epoch.
    pub(super) unix_at_zero: u64,
    /// The time of the turn before this one.
    pub(super) last_turn: Time,
    /// Whether timers may have waited for somebody's input after that turn.
    pub(super) had_unread: bool,
    /// When the wall clock was set last, if it ever was.
    pub(super) stepped_at: Option<Time>,
    /// By the place of a client; a client has one connection at a time, but not each connection is read to its end.
    pub(super) links: Vec<Option<Link>>,
    /// The place of each connection, by its index in the engine.
    pub(super) places: Vec<usize>,
    pub(super) swarm: Swarm,
    actions: Vec<(Action, u32)>,
    total_weight: u64,
    pub(super) schedule: Random,
    pub(super) network: Random,
    pub(super) clients: Random,
    pub(super) owner: Random,
    pub(super) common: SharedState,
    pub(super) transcript: Transcript,
    pub(super) tally: Tally,
    pub(super) players: Option<Players>,
    pub(super) invariant: Option<Invariant<A>>,
    /// Whether something has happened since the driver's last turn ended.
    pub(super) turn_open: bool,
    /// Whom the last step was about.
    pub(super) involved: u32,
    pub(super) is_draining: bool,
    /// The first number of those who were not there when the drain began.
    pub(super) drained_from: u32,
    pub(super) operators: OperatorModel,
    /// Connections that each address has made.
    pub(super) came: [u64; NETWORKS],
    pub(super) written: Vec<u8>,
}

/// What was counted outside of the engine.
#[derive(Clone, Debug, Default)]
pub(super) struct Tally {
    pub(super) opened: u64,
    pub(super) shed: u64,
    pub(super) bytes_in: u64,
    pub(super) bytes_out: u64,
    pub(super) closed: u64,
    /// Frames that clients which are gone have received.
    pub(super) frames: u64,
    pub(super) health_pongs: u64,
    pub(super) reasons: Vec<u64>,
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
    Talk,
    Authorize,
    Do(Behaviour),
}

/// Behaviours that are steps of their own; the others colour what happens anyway.
const STEPS: &[Behaviour] = &[
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
            (Action::Talk, swarm.talk),
            (Action::Authorize, if late > 0 { 20 } else { 0 }),
        ];
        for &behaviour in STEPS {
            // What ends connections is rarer than what uses them.
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
        let mut common = SharedState::new(users, lobbies, relays);
        common.has_full_inboxes = tick_model::are_inboxes_limited(&config);
        common.limited = rates::are_limited(&config) || swarm.weight(Behaviour::Tier) > 0 || common.has_full_inboxes;
        let leases = Leases::new(&swarm, &config, stream(6));
        let app = ObservedApp::new(app, late, leases, TickModel::new(&config), stream(1));
        World {
            engine: Engine::new(config, Start { unix_micros: START_MICROS, seed }, app),
            now: Time::ZERO,
            unix_at_zero: START_MICROS,
            last_turn: Time::ZERO,
            had_unread: false,
            stepped_at: None,
            links: (0..swarm.clients.max(1)).map(|_| None).collect(),
            places: Vec::new(),
            total_weight: actions.iter().map(|(_, weight)| u64::from(*weight)).sum(),
            actions,
            swarm,
            schedule: stream(2),
            network: stream(3),
            clients: stream(4),
            owner: stream(5),
            common,
            transcript: Transcript::new(seed),
            tally: Tally {
                reasons: vec![0; CloseReason::ALL.len()],
                behaviours: vec![0; Behaviour::ALL.len()],
                ..Tally::default()
            },
            players: None,
            invariant: None,
            turn_open: false,
            involved: NOBODY,
            is_draining: false,
            drained_from: 0,
            operators: OperatorModel::default(),
            came: [0; NETWORKS],
            written: Vec::new(),
        }
    }

    /// Does one thing, and checks everything.
    pub(super) fn step(&mut self) -> Result<(), String> {
        let action = self.draw();
        if !self.act(action)? {
            // Nobody could do that now. Something else happens.
            let instead = [Action::Deliver, Action::Read, Action::Wake, Action::Talk, Action::Connect];
            // Time must pass too, or nothing is ever silent.
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
        self.retry();
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

    /// Whether there was somebody to do it.
    fn act(&mut self, action: Action) -> Result<bool, String> {
        match action {
            Action::Deliver => {
                let Some(place) = self.pick(Link::has_input) else { return Ok(false) };
                let chunk = match self.swarm.strikes(Behaviour::Chunk, &mut self.network) {
                    true => {
                        self.count(Behaviour::Chunk);
                        1 + self.network.below(self.swarm.chunk as u64) as usize
                    }
                    false => self.engine.config().receive_buffer_bytes.0,
                };
                self.deliver(place, chunk);
            }
            Action::Read => {
                let Some(place) = self.pick(|link| {
                    link.pipe.reads()
                        && !link.manners.is_stalled
                        && (link.pipe.downward() > 0 || link.pipe.is_at_servers_end())
                }) else {
                    return Ok(false);
                };
                let is_slow = self.link(place).manners.is_slow;
                let chunk = if is_slow { 1 + self.network.below(self.swarm.narrow as u64) } else { u64::MAX };
                self.read(place, chunk as usize)?;
            }
            Action::Wake => {
                let Some(place) = self.pick(|link| link.conn.is_some() && link.pipe.is_unblocked()) else {
                    return Ok(false);
                };
                self.wake(place);
            }
            Action::EndTurn => self.end_turn()?,
            Action::Advance => self.advance()?,
            Action::Connect => return Ok(self.connect(None)),
            Action::Talk => return Ok(self.speak(Action::Talk)),
            Action::Authorize => return Ok(self.authorize()),
            Action::Do(behaviour) => {
                let done = self.behave(behaviour)?;
                if done {
                    self.count(behaviour);
                }
                return Ok(done);
            }
        }
        Ok(true)
    }

    pub(super) fn count(&mut self, behaviour: Behaviour) {
        self.tally.behaviours[behaviour as usize] += 1;
    }

    fn pick(&mut self, fits: impl Fn(&Link) -> bool) -> Option<usize> {
        let count = self.links.len();
        let start = self.schedule.below(count as u64) as usize;
        (start..count).chain(0..start).find(|&place| self.links[place].as_ref().is_some_and(&fits))
    }

    pub(super) fn link(&mut self, place: usize) -> &mut Link {
        self.links[place].as_mut().expect("a link that was picked is there")
    }

    pub(super) fn places(&self) -> impl Iterator<Item = usize> + use<A> {
        0..self.links.len()
    }

    pub(super) fn note(&mut self, place: usize, what: What, number: u64, bytes: &[u8]) {
        let link = self.links[place].as_ref().map_or(NOBODY, |link| link.number);
        self.involved = link;
        self.transcript.note(self.now, link, what, number, bytes);
    }

    // ---- clients ----

    fn connect(&mut self, special: Option<Behaviour>) -> bool {
        let Some(place) = self.places().find(|&place| self.links[place].is_none()) else { return false };
        let random = &mut self.clients;
        let user = random.below(self.common.users.len() as u64) as usize;
        let lobby = random.below(self.common.lobbies.len() as u64) as usize;
        let is_double = self.links.iter().flatten().any(|link| link.user == user && link.pipe.client == Side::Open);
        if is_double {
            if self.swarm.weight(Behaviour::LogInTwice) == 0 {
                return false;
            }
            self.count(Behaviour::LogInTwice);
        }
        let random = &mut self.clients;
        let mut has = |behaviour| self.swarm.strikes(behaviour, random);
        let manners = Manners {
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
            (manners.is_eager, Behaviour::Eager),
            (manners.is_mute, Behaviour::Mute),
            (manners.is_rude, Behaviour::Rude),
            (manners.pongs_wrongly, Behaviour::WrongPong),
            (manners.is_slow, Behaviour::SlowReader),
            (manners.is_stalled, Behaviour::Stall),
            (manners.fragments, Behaviour::Fragment),
        ] {
            self.tally.behaviours[behaviour as usize] += u64::from(has);
        }
        self.turn_open = true;
        let several = self.swarm.weight(Behaviour::Addresses) > 0;
        let (address, network) =
            if several { limit_model::draw_address(&mut self.clients) } else { ([127, 0, 0, 1].into(), 0) };
        let Ok(conn) = self.engine.handle_accept(self.now, (address, 1024 + place as u16).into()) else {
            self.tally.shed += 1;
            self.transcript.note(self.now, NOBODY, What::TurnedAway, 0, &[]);
            return true;
        };
        let number = self.common.owners.len() as u32;
        self.common.owners.push(user);
        self.tally.opened += 1;
        self.came[network] += 1;
        if several {
            self.count(Behaviour::Addresses);
        }
        let is_json = A::PROTOCOL == Protocol::Json;
        let capacity = if manners.is_slow || manners.is_stalled { self.swarm.narrow } else { 16 * 1024 };
        let mut link = Link::new(number, conn, user, lobby, capacity, manners, is_json, self.now);
        link.network = network;
        let config = self.engine.config();
        link.view.has_ticks = config.tick_hz.is_some();
        let most = self.links.len() as u32;
        link.is_owed_answers = config.max_closing >= most && config.max_pending >= most;
        let random = &mut self.clients;
        let mut request = client_input::request(&self.common.users[user], &self.common.lobbies[lobby], is_json, random);
        match special {
            Some(Behaviour::BadRequest) => {
                (request, link.may_be_granted) = client_input::bad_request(random);
                link.is_spoiled = true;
            }
            Some(_) => {
                request.truncate(random.below(request.len() as u64) as usize);
                link.is_spoiled = true;
                link.is_unfinished = true;
            }
            None => link.player = self.players.as_mut().map(|players| players(random, &self.common.users[user])),
        }
        link.pipe.send(&request);
        if conn.index() >= self.places.len() {
            self.places.resize(conn.index() + 1, usize::MAX);
        }
        self.places[conn.index()] = place;
        self.links[place] = Some(link);
        let (user, lobby) = (&self.common.users[user], &self.common.lobbies[lobby]);
        let words = format!("conn={conn} user={user} lobby={lobby}");
        self.note(place, What::Connects, 0, words.as_bytes());
        true
    }

    fn speak(&mut self, action: Action) -> bool {
        let kind = match action {
            Action::Do(behaviour) => behaviour,
            // Any of the messages without a name of their own.
            _ => Behaviour::Flood,
        };
        let Some(place) = self.pick(Link::may_speak) else { return false };
        let max = self.engine.config().max_message_bytes.0;
        let World { links, swarm, common, clients, .. } = self;
        let link = links[place].as_mut().expect("a link that was picked is there");
        match kind {
            Behaviour::Control => link.ping(clients),
            Behaviour::TooBig => link.say_too_much(max, clients),
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
                        _ => link.say(kind, swarm, common, max, clients),
                    }
                }
            }
            _ => link.say(kind, swarm, common, max, clients),
        }
        let what = if matches!(action, Action::Talk) { What::Broadcast } else { What::Did(kind) };
        self.note(place, what, 0, &[]);
        true
    }

    /// Does what only some runs do. Whether somebody could.
    fn behave(&mut self, behaviour: Behaviour) -> Result<bool, String> {
        match behaviour {
            Behaviour::BadRequest | Behaviour::HalfRequest => return Ok(self.connect(Some(behaviour))),
            Behaviour::Hangup | Behaviour::Reset | Behaviour::Vanish => {
                let Some(place) = self.pick(|link| link.pipe.client == Side::Open) else { return Ok(false) };
                let side = match behaviour {
                    Behaviour::Hangup => Side::Ended,
                    Behaviour::Reset => Side::Reset,
                    _ => Side::Vanished,
                };
                self.note(place, What::Did(behaviour), 0, &[]);
                self.link(place).pipe.end(side);
            }
            Behaviour::HalfClose => {
                let Some(place) = self.pick(|link| link.pipe.client == Side::Open) else { return Ok(false) };
                let says_so = self.clients.percent(50);
                let World { links, clients, .. } = self;
                let link = links[place].as_mut().expect("a link that was picked is there");
                if says_so && link.may_speak() {
                    link.close(1000, clients);
                }
                link.pipe.half_close();
                self.note(place, What::Did(behaviour), 0, &[]);
            }
            Behaviour::WallStep => {
                let step = limit_model::pick(&mut self.owner, &[1_000, 50_000, 2_000_000, 3_600_000_000]);
                self.unix_at_zero =
                    if self.owner.percent(50) { self.unix_at_zero + step } else { self.unix_at_zero - step };
                self.stepped_at = Some(self.now);
                self.turn_open = true;
                self.transcript.note(self.now, NOBODY, What::Did(behaviour), self.unix_at_zero, &[]);
                self.engine.handle_wall_time(self.now, self.unix_at_zero + self.now.as_micros());
            }
            Behaviour::SpuriousWake => {
                let Some(place) = self.pick(|link| link.conn.is_some()) else { return Ok(false) };
                self.note(place, What::SpuriousWake, 0, &[]);
                let conn = self.link(place).conn.expect("picked for it");
                self.turn_open = true;
                // If somebody does wait, it will be told again: the socket will still be blocked.
                self.engine.handle_writable(self.now, conn);
            }
            Behaviour::Kick | Behaviour::CloseLobby | Behaviour::Notice | Behaviour::HealthCheck => {
                self.intervene(behaviour);
            }
            Behaviour::Squeeze => return Ok(self.squeeze()),
            Behaviour::Latest => self.send_latest(None),
            Behaviour::Lock | Behaviour::OperatorKick | Behaviour::OperatorSay | Behaviour::OperatorPing => {
                self.operate(behaviour)?;
            }
            Behaviour::Clock => self.set_clock()?,
            Behaviour::Drain => {
                if self.is_draining {
                    return Ok(false);
                }
                self.drain();
            }
            _ => return Ok(self.speak(Action::Do(behaviour))),
        }
        Ok(true)
    }

    /// Sends what a client asks in the calm at the end.
    pub(super) fn ask_calmly(&mut self, place: usize, kind: Behaviour) {
        let max = self.engine.config().max_message_bytes.0;
        let World { links, swarm, common, clients, .. } = self;
        let link = links[place].as_mut().expect("a link that stays is there");
        match kind {
            Behaviour::Presence => {
                link.references += 1;
                let reference = link.references;
                let text = format!("{{\"type\":\"presence\",\"ref\":{}}}", write_number(reference.into()));
                link.ask(Question::Presence, Some(reference), &text, clients);
            }
            Behaviour::Control => link.ping(clients),
            _ => link.say(kind, swarm, common, max, clients),
        }
    }
}
