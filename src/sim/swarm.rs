//! What a run is made of: which behaviours it has and how often, and the configuration.
//!
//! Swarm testing (Groce and others, 2012): a run that leaves some behaviours out, and does much of the others, gets to
//! places that a run with a little of everything never sees. Everything here is drawn once, before the first step.

use std::time::Duration;

use crate::config::{ByteSize, Config, DuplicateLogin, Limit};
use crate::random::Random;

macro_rules! behaviours {
    ($( $(#[doc = $doc:literal])* $name:ident = $word:literal; )*) => {
        /// Something that clients, the network, the clock or the application's owner do, and that a run can leave out.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Behaviour { $( $(#[doc = $doc])* $name, )* }

        impl Behaviour {
            /// Every behaviour, in the order of the counters in [`Report`](super::Report).
            pub const ALL: &'static [Behaviour] = &[ $( Behaviour::$name, )* ];

            /// Its name on a command line.
            pub const fn word(self) -> &'static str {
                match self { $( Behaviour::$name => $word, )* }
            }
        }
    };
}

behaviours! {
    /// A user connects while it is connected already.
    LogInTwice = "log-in-twice";
    /// Clients send before they have read the answer to their request.
    Eager = "eager";
    /// A message to one user.
    Direct = "direct";
    /// Asking who is there.
    Presence = "presence";
    /// Asking for a `pong` of the protocol.
    Ping = "ping";
    /// An RFC 6455 ping.
    Control = "control";
    /// A binary message.
    Binary = "binary";
    /// A message of a type that is the application's.
    AppMessage = "app-message";
    /// Messages in several fragments, with pings between them.
    Fragment = "fragment";
    /// Many messages at once.
    Flood = "flood";
    /// A proper frame around a malformed message.
    Malformed = "malformed";
    /// A message over the limit.
    TooBig = "too-big";
    /// Frames that are nearly right.
    NearValid = "near-valid";
    /// Random bytes.
    Garbage = "garbage";
    /// Requests that must be refused.
    BadRequest = "bad-request";
    /// Requests that are never completed.
    HalfRequest = "half-request";
    /// The member says `leave`.
    Leave = "leave";
    /// The client sends a close frame.
    Close = "close";
    /// The client's end is closed without a close frame.
    Hangup = "hangup";
    /// The connection is reset.
    Reset = "reset";
    /// The client vanishes without a word.
    Vanish = "vanish";
    /// Clients that answer no ping.
    Mute = "mute";
    /// Clients that answer health checks late, twice, or with another's nonce.
    WrongPong = "wrong-pong";
    /// Clients that do not answer a close frame.
    Rude = "rude";
    /// Clients that read little at a time, over a narrow path.
    SlowReader = "slow-reader";
    /// Clients that do not read at all.
    Stall = "stall";
    /// Bytes arrive in small pieces.
    Chunk = "chunk";
    /// The server's writes are taken in part.
    ShortWrite = "short-write";
    /// The server's writes fail.
    WriteError = "write-error";
    /// The driver says that a socket is writable although nobody waits for it.
    SpuriousWake = "spurious-wake";
    /// The clock jumps far past the next deadline.
    Jump = "jump";
    /// Authorizations that are answered late, differently, or never.
    LateAuth = "late-auth";
    /// A user is kicked.
    Kick = "kick";
    /// A whole lobby is closed.
    CloseLobby = "close-lobby";
    /// The application's owner sends something of its own.
    Notice = "notice";
    /// In one turn: the outboxes of a lobby are filled to the brim, somebody goes, and the others speak.
    Squeeze = "squeeze";
    /// A user's page is asked whether it is alive.
    HealthCheck = "health-check";
    /// The server is drained in the middle of the run.
    Drain = "drain";
    /// Frames of which only the latest matters.
    Latest = "latest";
    /// An operator locks and unlocks lobbies, or closes them.
    Lock = "lock";
    /// An operator kicks users, lobbies, everybody, for good or to come back.
    OperatorKick = "operator-kick";
    /// An operator speaks to users and lobbies.
    OperatorSay = "operator-say";
    /// An operator pings users.
    OperatorPing = "operator-ping";
    /// Messages, bytes and pings are held to rates.
    Rates = "rates";
    /// Clients that wait as long as they are told, and then try again.
    Patient = "patient";
    /// Identities with a rate of their own.
    Tier = "tier";
    /// Identities that expire.
    Expiry = "expiry";
    /// Identities that are good for one lobby.
    OneLobby = "one-lobby";
    /// Connections grow too old.
    Lifetime = "lifetime";
    /// Clients come from several addresses, which are held to their share.
    Addresses = "addresses";
    /// The application is told early of full queues.
    Pressure = "pressure";
    /// The game's clock beats, and what members say waits for it.
    Ticks = "ticks";
    /// An operator pauses, steps and slows the clock.
    Clock = "clock";
    /// The client closes its own direction, with or without a close frame, and reads on.
    HalfClose = "half-close";
    /// The wall clock is set.
    WallStep = "wall-step";
    /// Timers wait for unread input for few turns, or for none.
    Unread = "unread";
}

/// A set of behaviours.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Behaviours(u64);

impl Behaviours {
    pub(super) fn contains(self, behaviour: Behaviour) -> bool {
        self.0 >> behaviour as u32 & 1 == 1
    }

    pub(super) fn insert(&mut self, behaviour: Behaviour) {
        self.0 |= 1 << behaviour as u32;
    }

    pub(super) fn remove(&mut self, behaviour: Behaviour) {
        self.0 &= !(1 << behaviour as u32);
    }

    pub(super) fn iter(self) -> impl Iterator<Item = Behaviour> {
        Behaviour::ALL.iter().copied().filter(move |&behaviour| self.contains(behaviour))
    }
}

/// How one run goes.
#[derive(Debug)]
pub(super) struct Swarm {
    weights: [u32; Behaviour::ALL.len()],
    pub(super) clients: usize,
    pub(super) users: usize,
    pub(super) lobbies: usize,
    /// Of a hundred steps, after how many the driver finishes its turn.
    pub(super) turns: u64,
    /// The most bytes that arrive at once.
    pub(super) chunk: usize,
    /// What a narrow path holds.
    pub(super) narrow: usize,
    /// How often clients speak, and connect, beside everything else.
    pub(super) talk: u32,
    pub(super) arrivals: u32,
    /// How often time passes.
    pub(super) clock: u32,
    /// The largest padding of a message.
    pub(super) padding: usize,
}

impl Swarm {
    /// Draws a run with at most `clients` clients and without some behaviours.
    pub(super) fn draw(random: &mut Random, clients: usize, without: Behaviours) -> Swarm {
        let pick = |random: &mut Random, values: &[usize]| values[random.below(values.len() as u64) as usize];
        let mut weights = [0; Behaviour::ALL.len()];
        // Some runs are wild and some nearly quiet.
        let absent = 20 + 20 * random.below(4);
        // Drawn also for those left out, so that leaving one out changes nothing about the others.
        let mut weigh = |behaviour: Behaviour, random: &mut Random| {
            let (off, drawn) = (random.percent(absent), 1 << random.below(7));
            weights[behaviour as usize] = if off || without.contains(behaviour) { 0 } else { drawn };
        };
        let (first, later) = Behaviour::ALL.split_at(Behaviour::Ticks as usize);
        first.iter().for_each(|&behaviour| weigh(behaviour, random));
        // Crowds, and now and then a few.
        let drawn = pick(random, &[2, 4, 8, 12, 12, 12]);
        let users = pick(random, &[1, 3, 8, 12, 12, 16]);
        let mut swarm = Swarm {
            weights: [0; Behaviour::ALL.len()],
            clients: drawn.min(clients),
            users,
            lobbies: pick(random, &[1, 1, 2, 3]),
            turns: pick(random, &[100, 100, 60, 30, 10]) as u64,
            chunk: pick(random, &[1, 3, 20, 200, 2000]),
            narrow: pick(random, &[1, 10, 200, 1000]),
            talk: pick(random, &[10, 60, 200]) as u32,
            arrivals: pick(random, &[20, 60, 150]) as u32,
            clock: pick(random, &[5, 20, 60]) as u32,
            padding: pick(random, &[0, 0, 60, 1000, 20_000]),
        };
        // Last, so that seeds from before there were these mean what they meant.
        later.iter().for_each(|&behaviour| weigh(behaviour, random));
        swarm.weights = weights;
        swarm
    }

    /// How often something happens, against other things; 0 when this run leaves it out.
    pub(super) fn weight(&self, behaviour: Behaviour) -> u32 {
        self.weights[behaviour as usize]
    }

    /// Whether something happens now that happens with something else: up to half of the times.
    pub(super) fn strikes(&self, behaviour: Behaviour, random: &mut Random) -> bool {
        let weight = self.weight(behaviour);
        weight > 0 && random.below(128) < u64::from(weight)
    }

    /// No faults any more.
    pub(super) fn calm(&mut self) {
        self.weights = [0; Behaviour::ALL.len()];
    }
}

/// Draws a configuration: tiny limits, everything unlimited, or anything between.
pub(super) fn draw_config(random: &mut Random) -> Config {
    fn pick<T: Copy>(random: &mut Random, values: &[T]) -> T {
        values[random.below(values.len() as u64) as usize]
    }
    let millis = |random: &mut Random, values: &[u64]| Duration::from_millis(pick(random, values));
    let mut config = Config::default();
    // Whoever is held to a rate is told what was refused, not what was lost: the clients would count it as lost.
    for field in ["messages_per_second", "bytes_per_second", "control_per_second"] {
        let field = Config::FIELDS.iter().find(|known| known.name == field).expect("a field of the table");
        (field.set)(&mut config, "unlimited").expect("a rate may be unlimited");
    }
    if random.percent(10) {
        for field in ["max_connections", "max_per_lobby", "max_lobbies", "max_per_user"] {
            let field = Config::FIELDS.iter().find(|known| known.name == field).expect("a field of the table");
            (field.set)(&mut config, "unlimited").expect("a limit may be unlimited");
        }
        config.duplicate_login = DuplicateLogin::Allow;
        return config;
    }
    let limit = |random: &mut Random, values: &[u32]| match pick(random, values) {
        99 => Limit::UNLIMITED,
        n => Limit::at_most(n),
    };
    config.max_connections = limit(random, &[1, 3, 5, 8, 12, 99, 99, 99]);
    config.max_per_lobby = limit(random, &[1, 2, 4, 8, 8, 99, 99, 99]);
    config.max_lobbies = limit(random, &[1, 2, 99, 99, 99]);
    config.duplicate_login = pick(random, &[DuplicateLogin::Replace, DuplicateLogin::Reject, DuplicateLogin::Allow]);
    config.max_per_user = limit(random, &[1, 2, 99]);
    config.max_pending = pick(random, &[1, 4, 8, 256, 256]);
    config.max_closing = pick(random, &[1, 2, 256]);
    config.max_header_bytes = pick(random, &[ByteSize(512), ByteSize::kib(1), ByteSize::kib(8)]);
    config.max_message_bytes = pick(random, &[ByteSize(125), ByteSize(300), ByteSize(2000), ByteSize::kib(64)]);
    config.presence_max = pick(random, &[0, 1, 2, 4, 500]);
    if config.max_per_lobby == Limit::UNLIMITED && random.percent(70) {
        config.presence_max = config.presence_max.min(4);
    }
    config.max_outbound_bytes = ByteSize(config.largest_frame() + pick(random, &[0, 0, 300, 5000, 100_000]));
    config.max_strikes = pick(random, &[0, 1, 3, 32]);
    config.wheel_granule = millis(random, &[1, 10, 10, 100, 1000]);
    // Timeouts of about the same size meet more often than others.
    let scale = pick(random, &[20, 200, 2000]);
    config.handshake_timeout = millis(random, &[scale, 2 * scale, 5 * scale]);
    config.auth_timeout = millis(random, &[scale, 2 * scale, 5 * scale]);
    config.ping_interval = millis(random, &[4 * scale, 10 * scale, 30 * scale]);
    config.pong_timeout = config.ping_interval / pick(random, &[2, 4, 10]);
    config.health_timeout = millis(random, &[scale, 2 * scale, 5 * scale]);
    config.health_interval = random.percent(30).then(|| config.health_timeout * pick(random, &[1, 3, 10]));
    config.max_health_pings = pick(random, &[1, 2, 8]);
    config.close_timeout = millis(random, &[scale, 2 * scale]);
    config.linger_timeout = millis(random, &[scale, 2 * scale]);
    config.drain_batch = pick(random, &[1, 2, 500]);
    config.drain_batch_interval = config.wheel_granule;
    // At most sixteen seats, one in each batch.
    config.drain_deadline = millis(random, &[scale, 10 * scale]) + config.drain_batch_interval * 16;
    // Every timeout is at least a granule long.
    let granule = config.wheel_granule;
    for span in [
        &mut config.handshake_timeout,
        &mut config.auth_timeout,
        &mut config.pong_timeout,
        &mut config.health_timeout,
        &mut config.close_timeout,
        &mut config.linger_timeout,
        &mut config.drain_deadline,
    ] {
        *span = (*span).max(granule);
    }
    config.ping_interval = config.ping_interval.max(config.pong_timeout * 2);
    config.health_interval = config.health_interval.map(|interval| interval.max(config.health_timeout));
    config
}
