//! The behaviours of clients, network, clock, application and operators that a run can leave out.
//!
//! Names them and counts them. Draws nothing, and knows nothing of how a behaviour is performed.

macro_rules! behaviours {
    ($( $(#[doc = $doc:literal])* $name:ident = $word:literal; )*) => {
        /// A behaviour of clients, network, clock, application or operators that a run can leave out.
        ///
        /// [`Plan`](crate::sim::Plan) has an example.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        #[non_exhaustive]
        pub enum Behaviour { $( $(#[doc = $doc])* $name, )* }

        impl Behaviour {
            /// Every behaviour, in the order of the counters in [`Report`](crate::sim::Report).
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
    /// A client writes its request in an unusual way that HTTP allows.
    OddRequest = "odd-request";
    /// A load balancer asks for `/health` on the members' port, also while all sockets without a seat are taken.
    Probe = "probe";
    /// Operators and strangers connect to the admin port, ask, hang or hang up.
    AdminPort = "admin-port";
    /// Clients choose a session, and come back to it.
    Session = "session";
    /// A client comes back to its session: after it lost its connection, or while it still has it.
    Resume = "resume";
    /// A client comes back with a position that it passed long ago, that lies ahead, or of another epoch.
    OddPosition = "odd-position";
    /// A client that comes back has loaded its page anew: it has a new session, and names the old one.
    Reload = "reload";
    /// A client comes back and keeps its old connection, as two tabs with the same session do.
    TwoTabs = "two-tabs";
    /// An attempt that a client gave up reaches the server late, with the position that the client had then.
    Stray = "stray";
    /// A client claims the session of another user, or of another lobby.
    ForeignSession = "foreign-session";
    /// A client claims a session in a malformed way.
    BadClaim = "bad-claim";
    /// A client closes with 1001 or without a code, as a page that goes away does.
    GoAway = "go-away";
    /// A client with a session sends a request with a number that it used before.
    Repeat = "repeat";
    /// A client receives server-sent events instead of frames.
    Events = "events";
    /// A client with an event stream and a session posts messages.
    Post = "post";
    /// A client sends a broadcast that is not numbered.
    Volatile = "volatile";
    /// Lobbies have data, a host and settings, which clients with a session change.
    LobbyControl = "lobby-control";
    /// A client changes data of its lobby or of a member, with or without a condition.
    SetData = "set-data";
    /// A client makes another member the host.
    HandOver = "hand-over";
    /// A client kicks or bans a user, or ends a ban.
    Expel = "expel";
    /// A client changes settings of its lobby.
    Settings = "settings";
    /// A client is ready, or not ready any more.
    Ready = "ready";
    /// A client offers to receive compressed messages, and sends some of its own compressed. Only in a build with the Cargo
    /// feature `deflate`.
    Compress = "compress";
    /// Clients that are client sessions have a server of their own.
    Client = "client";
}

/// Behaviours that only clients with a session show.
pub(crate) const OF_SESSIONS: &[Behaviour] = &[
    Behaviour::Session,
    Behaviour::Resume,
    Behaviour::OddPosition,
    Behaviour::Reload,
    Behaviour::TwoTabs,
    Behaviour::Stray,
    Behaviour::ForeignSession,
    Behaviour::BadClaim,
    Behaviour::Repeat,
];

/// Behaviours that only clients show whose lobbies have data, a host and settings.
pub(crate) const OF_CONTROL: &[Behaviour] = &[
    Behaviour::LobbyControl,
    Behaviour::SetData,
    Behaviour::HandOver,
    Behaviour::Expel,
    Behaviour::Settings,
    Behaviour::Ready,
];

/// Behaviours that only clients with an event stream show.
pub(crate) const OF_EVENTS: &[Behaviour] = &[Behaviour::Events, Behaviour::Post];

/// A set of behaviours.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Behaviours(u128);

impl Behaviours {
    pub(crate) fn contains(self, behaviour: Behaviour) -> bool {
        self.0 >> behaviour as u32 & 1 == 1
    }

    pub(crate) fn insert(&mut self, behaviour: Behaviour) {
        self.0 |= 1 << behaviour as u32;
    }

    pub(crate) fn remove(&mut self, behaviour: Behaviour) {
        self.0 &= !(1 << behaviour as u32);
    }

    pub(crate) fn iter(self) -> impl Iterator<Item = Behaviour> {
        Behaviour::ALL.iter().copied().filter(move |&behaviour| self.contains(behaviour))
    }
}

/// Number of occurrences of each behaviour in a run.
#[derive(Clone, Debug)]
pub(crate) struct BehaviourCounts(Vec<u64>);

impl BehaviourCounts {
    pub(crate) fn new() -> BehaviourCounts {
        BehaviourCounts(vec![0; Behaviour::ALL.len()])
    }

    pub(crate) fn add(&mut self, behaviour: Behaviour) {
        self.0[behaviour as usize] += 1;
    }

    pub(crate) fn of(&self, behaviour: Behaviour) -> u64 {
        self.0[behaviour as usize]
    }

    /// Returns the counts in the order of [`Behaviour::ALL`].
    pub(crate) fn to_vec(&self) -> Vec<u64> {
        self.0.clone()
    }
}
