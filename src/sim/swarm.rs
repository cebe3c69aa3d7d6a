//! Draws the parameters of a run before its first step: its behaviours with their frequencies, and its configuration.
//!
//! This is swarm testing (Groce et al., 2012): a run that leaves some behaviours out and performs the others often
//! reaches states that a run with a little of everything does not reach.

use std::time::Duration;

use crate::base::random::Random;
use crate::config::{ByteSize, Config, DuplicateLogin, Limit};

macro_rules! behaviours {
    ($( $(#[doc = $doc:literal])* $name:ident = $word:literal; )*) => {
        /// A behaviour of clients, network, clock, application or operators that a run can leave out.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Behaviour { $( $(#[doc = $doc])* $name, )* }

        impl Behaviour {
            /// Every behaviour, in the order of the counters in [`Report`](super::Report).
            pub const ALL: &'static [Behaviour] = &[ $( Behaviour::$name, )* ];

            /// Returns the name of the behaviour on the command line.
            pub const fn word(self) -> &'static str {
                match self { $( Behaviour::$name => $word, )* }
            }
        }
    };
}

behaviours! {
    /// A user connects although it already has a connection.
    LogInTwice = "log-in-twice";
    /// A client sends before it has read the response to its upgrade request.
    Eager = "eager";
    /// A client sends a `direct` message to one user.
    Direct = "direct";
    /// A client requests the list of members with `presence`.
    Presence = "presence";
    /// A client sends a `ping` of the lobby protocol.
    Ping = "ping";
    /// A client sends an RFC 6455 ping.
    Control = "control";
    /// A client sends a binary message.
    Binary = "binary";
    /// A client sends a message with a `type` that belongs to the application.
    AppMessage = "app-message";
    /// A client sends messages in several fragments, with pings between them.
    Fragment = "fragment";
    /// A client sends many messages at once.
    Flood = "flood";
    /// A client sends a malformed message in a valid frame.
    Malformed = "malformed";
    /// A client sends a message larger than `max_message_bytes`.
    TooBig = "too-big";
    /// A client sends a frame that is almost valid.
    NearValid = "near-valid";
    /// A client sends random bytes.
    Garbage = "garbage";
    /// A client sends a request that must be refused.
    BadRequest = "bad-request";
    /// A client sends a request that it never completes.
    HalfRequest = "half-request";
    /// A client sends `leave`.
    Leave = "leave";
    /// A client sends a close frame.
    Close = "close";
    /// A client closes its socket without a close frame.
    Hangup = "hangup";
    /// A client resets its connection.
    Reset = "reset";
    /// A client vanishes: no bytes arrive in either direction, and no end of the stream.
    Vanish = "vanish";
    /// A client answers no pings.
    Mute = "mute";
    /// A client answers pings and health checks wrongly: twice, with another nonce, or not at all.
    WrongPong = "wrong-pong";
    /// A client does not answer a close frame.
    Rude = "rude";
    /// A client reads little at a time, over a path with a small capacity.
    SlowReader = "slow-reader";
    /// A client does not read at all.
    Stall = "stall";
    /// Bytes arrive at the server in small pieces.
    Chunk = "chunk";
    /// A write of the server is accepted only in part.
    ShortWrite = "short-write";
    /// A write of the server fails.
    WriteError = "write-error";
    /// The driver reports a socket as writable without cause.
    SpuriousWake = "spurious-wake";
    /// The monotonic clock jumps far past the next deadline.
    Jump = "jump";
    /// An authorization is answered late, with another answer, or never.
    LateAuth = "late-auth";
    /// The application kicks a user.
    Kick = "kick";
    /// The application closes a lobby.
    CloseLobby = "close-lobby";
    /// The application sends frames of its own.
    Notice = "notice";
    /// In one turn, the outboxes of a lobby are filled almost completely, a member is kicked, and the others send.
    Squeeze = "squeeze";
    /// The application starts a health check of a user.
    HealthCheck = "health-check";
    /// The server is drained in the middle of the run.
    Drain = "drain";
    /// The application sends latest-wins frames.
    Latest = "latest";
    /// An operator locks, unlocks or closes a lobby.
    Lock = "lock";
    /// An operator kicks a user, a lobby or all users, with or without `reconnect`.
    OperatorKick = "operator-kick";
    /// An operator sends a message to a user or a lobby.
    OperatorSay = "operator-say";
    /// An operator pings a user.
    OperatorPing = "operator-ping";
    /// Messages, bytes and control frames are rate-limited.
    Rates = "rates";
    /// A refused client waits as long as the server asks for, then tries again.
    Patient = "patient";
    /// An identity has its own rate.
    Tier = "tier";
    /// An identity expires.
    Expiry = "expiry";
    /// An identity is restricted to one lobby.
    OneLobby = "one-lobby";
    /// A connection exceeds `max_lifetime`.
    Lifetime = "lifetime";
    /// Clients connect from several addresses, with limits per address.
    Addresses = "addresses";
    /// The application is notified when an outbox crosses its high-water mark.
    Pressure = "pressure";
    /// Ticks are on, and messages to the lobby or the application wait for the next tick.
    Ticks = "ticks";
    /// An operator pauses, resumes, steps or slows the tick clock.
    Clock = "clock";
    /// A client closes its own direction, with or without a close frame, and still reads.
    HalfClose = "half-close";
    /// The wall clock is set.
    WallStep = "wall-step";
    /// Unread input defers timers for a drawn number of turns, possibly none.
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

/// The drawn parameters of one run.
#[derive(Debug)]
pub(super) struct Swarm {
    weights: [u32; Behaviour::ALL.len()],
    pub(super) clients: usize,
    pub(super) users: usize,
    pub(super) lobbies: usize,
    /// Percentage of steps after which the driver ends its turn.
    pub(super) turns: u64,
    /// Largest number of bytes that arrive at once, under [`Behaviour::Chunk`].
    pub(super) chunk: usize,
    /// Capacity in bytes of the path to a slow or stalled client.
    pub(super) narrow: usize,
    /// Weight of the action in which a client sends a broadcast.
    pub(super) sends: u32,
    /// Weight of the action in which a client connects.
    pub(super) arrivals: u32,
    /// Weight of the action in which time passes.
    pub(super) clock: u32,
    /// Largest padding of a message, in bytes.
    pub(super) padding: usize,
}

impl Swarm {
    /// Draws the parameters of a run with at most `clients` clients and without the behaviours `without`.
    pub(super) fn draw(random: &mut Random, clients: usize, without: Behaviours) -> Swarm {
        let pick = |random: &mut Random, values: &[usize]| values[random.below(values.len() as u64) as usize];
        let mut weights = [0; Behaviour::ALL.len()];
        // The percentage of behaviours left out varies: some runs have most of them, some only a few.
        let absent = 20 + 20 * random.below(4);
        // Weights are also drawn for excluded behaviours, so that excluding one does not change the others.
        let mut weigh = |behaviour: Behaviour, random: &mut Random| {
            let (off, drawn) = (random.percent(absent), 1 << random.below(7));
            weights[behaviour as usize] = if off || without.contains(behaviour) { 0 } else { drawn };
        };
        let (first, later) = Behaviour::ALL.split_at(Behaviour::Ticks as usize);
        first.iter().for_each(|&behaviour| weigh(behaviour, random));
        // Mostly many clients, sometimes a few.
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
            sends: pick(random, &[10, 60, 200]) as u32,
            arrivals: pick(random, &[20, 60, 150]) as u32,
            clock: pick(random, &[5, 20, 60]) as u32,
            padding: pick(random, &[0, 0, 60, 1000, 20_000]),
        };
        // Behaviours that were added later are drawn last, so that older seeds still give the same runs.
        later.iter().for_each(|&behaviour| weigh(behaviour, random));
        swarm.weights = weights;
        swarm
    }

    /// Returns the relative frequency of `behaviour`; 0 if the run leaves it out.
    pub(super) fn weight(&self, behaviour: Behaviour) -> u32 {
        self.weights[behaviour as usize]
    }

    /// Draws whether `behaviour`, which modifies another action, occurs now: with a probability of at most one half.
    pub(super) fn occurs(&self, behaviour: Behaviour, random: &mut Random) -> bool {
        let weight = self.weight(behaviour);
        weight > 0 && random.below(128) < u64::from(weight)
    }

    /// Sets all weights to 0, so that no more faults occur.
    pub(super) fn stop_faults(&mut self) {
        self.weights = [0; Behaviour::ALL.len()];
    }
}

/// Draws a configuration: tiny limits, no limits, or anything between.
pub(super) fn draw_config(random: &mut Random) -> Config {
    fn pick<T: Copy>(random: &mut Random, values: &[T]) -> T {
        values[random.below(values.len() as u64) as usize]
    }
    let millis = |random: &mut Random, values: &[u64]| Duration::from_millis(pick(random, values));
    let mut config = Config::default();
    // No rates here: the clients would count a refused message as lost.
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
    // Timeouts of similar size coincide more often.
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
    // Time for 16 batches: a run has at most 16 seats, at worst one in each batch.
    config.drain_deadline = millis(random, &[scale, 10 * scale]) + config.drain_batch_interval * 16;
    // Every timeout is at least one granule long.
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
