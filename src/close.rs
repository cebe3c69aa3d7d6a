//! Why a connection ended, why a member left, and why a request was refused.

use std::fmt;

macro_rules! close_reasons {
    ($( $(#[$doc:meta])* $name:ident = $code:literal, $word:literal, $explain:literal; )*) => {
        /// Why a connection ended. Every connection ends with exactly one of these.
        ///
        /// Codes from 1000 on are those of RFC 6455 section 7.4 and of the protocol's own range. Code 1006 is never
        /// sent: it stands for an end without a close frame. Code 0 stands for an end before there was a WebSocket.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum CloseReason { $( $(#[$doc])* $name, )* }

        impl CloseReason {
            /// Every reason, in the order of the counters in [`Stats`](crate::Stats).
            pub const ALL: &'static [CloseReason] = &[ $( CloseReason::$name, )* ];

            /// The close code a peer reads, or 1006 or 0 when none was sent.
            pub const fn code(self) -> u16 {
                match self { $( CloseReason::$name => $code, )* }
            }

            /// The reason word a peer reads beside the code.
            pub const fn word(self) -> &'static str {
                match self { $( CloseReason::$name => $word, )* }
            }

            /// One sentence for the person who reads the log or the documentation.
            pub const fn explain(self) -> &'static str {
                match self { $( CloseReason::$name => $explain, )* }
            }
        }
    };
}

close_reasons! {
    /// The client asked to leave.
    Left = 1000, "left", "the client said leave";
    /// The peer sent a close frame of its own accord.
    PeerClosed = 1000, "peer_closed", "the peer sent a close frame";
    /// The peer's end of the connection went away without a close frame.
    Hangup = 1006, "hangup", "the connection ended without a close frame";
    /// Writing to the peer failed.
    WriteFailed = 1006, "write_failed", "the operating system could not write to the connection";
    /// The server is going away.
    ServerShutdown = 1001, "server_shutdown", "the server is shutting down";
    /// The peer broke RFC 6455.
    ProtocolError = 1002, "protocol_error", "the peer broke the WebSocket protocol";
    /// The application takes no messages of that kind.
    UnsupportedData = 1003, "unsupported_data", "the application does not take messages of that kind";
    /// A text message or close reason was not UTF-8.
    BadUtf8 = 1007, "bad_utf8", "a text was not valid UTF-8";
    /// The application refused what the peer did.
    PolicyViolation = 1008, "policy_violation", "the application refused what the peer did";
    /// A message was larger than `max_message_bytes`.
    MessageTooBig = 1009, "message_too_big", "a message was larger than max_message_bytes";
    /// The application failed.
    InternalError = 1011, "internal_error", "the application failed";
    /// No token, or one that is not good.
    Unauthorized = 4001, "unauthorized", "there was no token, or it was refused";
    /// The token was good once.
    TokenExpired = 4001, "token_expired", "the token has expired";
    /// `max_connections` seats are taken.
    ServerFull = 4002, "server_full", "all max_connections seats of the server are taken";
    /// `max_per_lobby` seats are taken.
    LobbyFull = 4002, "lobby_full", "all max_per_lobby seats of the lobby are taken";
    /// The lobby was locked by the application or an operator.
    LobbyLocked = 4002, "lobby_locked", "the lobby is locked: it takes nobody new";
    /// `max_lobbies` lobbies exist.
    LobbyLimit = 4002, "lobby_limit", "max_lobbies lobbies exist already";
    /// The user holds as many seats as it may.
    UserLimit = 4002, "user_limit", "the user holds as many seats as it may";
    /// The address holds as many connections as it may.
    IpLimit = 4002, "ip_limit", "the address holds as many connections as it may";
    /// Removed by the application or an operator.
    Kicked = 4003, "kicked", "the member was kicked";
    /// Removed and not wanted back.
    Banned = 4003, "banned", "the user is banned";
    /// A page of a foreign origin tried to connect.
    ForbiddenOrigin = 4003, "forbidden_origin", "the page's origin is not allowed";
    /// A newer connection of the same user took the seat.
    Replaced = 4004, "replaced", "a newer connection of the same user took the seat";
    /// More than `max_strikes` malformed messages.
    BadMessage = 4005, "bad_message", "more than max_strikes messages were malformed";
    /// The lobby was closed by the application or an operator.
    LobbyClosed = 4006, "lobby_closed", "the lobby was closed";
    /// The path names no valid lobby.
    BadLobbyCode = 4007, "bad_lobby_code", "a lobby code is 1 to 64 letters, digits, _ or -";
    /// Too many messages.
    RateLimited = 4009, "rate_limited", "the peer kept sending more than its rate";
    /// The application did not answer `authorize` in `auth_timeout`.
    AuthTimeout = 4101, "auth_timeout", "authorization took longer than auth_timeout";
    /// The peer reads slower than it is sent to.
    SlowConsumer = 4102, "slow_consumer", "the peer reads too slowly: more than max_outbound_bytes were queued";
    /// An operator wants the client on a new connection.
    ForcedReconnect = 4103, "reconnect", "an operator asked the client to connect again";
    /// No sign of life.
    Stale = 4201, "stale", "nothing was heard within pong_timeout of a ping";
    /// The connection reached its allowed age.
    MaxLifetime = 4202, "max_lifetime", "the connection reached its allowed age";
    /// The request was answered with an HTTP status.
    HttpRefused = 0, "http_refused", "the request was answered with an HTTP status";
    /// The request head did not arrive in `handshake_timeout`.
    HandshakeTimeout = 0, "handshake_timeout", "the request head did not arrive within handshake_timeout";
}

/// Whether and when a client should try again after a close.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reconnect {
    /// Not with the same request.
    No,
    /// After a growing, jittered wait.
    Backoff,
    /// At once.
    AtOnce,
}

impl CloseReason {
    /// What the protocol's table of close codes tells a client to do.
    pub const fn reconnect(self) -> Reconnect {
        match self.code() {
            1001 | 1006 | 1011 | 4100..=4199 => Reconnect::Backoff,
            4200..=4299 => Reconnect::AtOnce,
            _ => Reconnect::No,
        }
    }

    /// Whether a close frame can carry it: 1006 must not be sent (RFC 6455 section 7.4.1), and 0 is no code.
    pub(crate) const fn is_sent(self) -> bool {
        !matches!(self.code(), 0 | 1006)
    }

    /// How the others in the lobby see a member that ended like this.
    pub const fn leave_reason(self) -> LeaveReason {
        match self {
            CloseReason::Left | CloseReason::PeerClosed => LeaveReason::Left,
            CloseReason::Stale | CloseReason::AuthTimeout => LeaveReason::Timeout,
            CloseReason::Kicked
            | CloseReason::ForcedReconnect
            | CloseReason::Banned
            | CloseReason::BadMessage
            | CloseReason::LobbyClosed
            | CloseReason::PolicyViolation
            | CloseReason::RateLimited
            | CloseReason::MaxLifetime
            | CloseReason::TokenExpired => LeaveReason::Kicked,
            CloseReason::Replaced => LeaveReason::Replaced,
            CloseReason::SlowConsumer => LeaveReason::Slow,
            CloseReason::ServerShutdown => LeaveReason::Shutdown,
            _ => LeaveReason::Dropped,
        }
    }
}

impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.code(), self.word())
    }
}

/// Why a member is no longer in its lobby, as `presence_diff` says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LeaveReason {
    /// It said `leave`, or closed its connection properly.
    Left,
    /// Its connection broke, or it broke the protocol.
    Dropped,
    /// It gave no sign of life.
    Timeout,
    /// It was removed.
    Kicked,
    /// The same user took a seat elsewhere.
    Replaced,
    /// It did not read fast enough.
    Slow,
    /// The server is going away.
    Shutdown,
}

impl LeaveReason {
    /// The word on the wire.
    pub const fn word(self) -> &'static str {
        match self {
            LeaveReason::Left => "left",
            LeaveReason::Dropped => "dropped",
            LeaveReason::Timeout => "timeout",
            LeaveReason::Kicked => "kicked",
            LeaveReason::Replaced => "replaced",
            LeaveReason::Slow => "slow",
            LeaveReason::Shutdown => "shutdown",
        }
    }
}

/// Why a request was refused while its connection lives on: the `code` of an `error`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reject {
    /// It was no JSON object with a `type`, or a field was missing or of the wrong kind.
    BadMessage,
    /// Nobody of that name is in the lobby.
    UserNotFound,
    /// Too many requests.
    RateLimited,
    /// The application does not let this member do that.
    NotAllowed,
}

impl Reject {
    /// Every way to refuse a request, in the order of the counters in [`Stats`](crate::Stats).
    pub const ALL: &'static [Reject] =
        &[Reject::BadMessage, Reject::UserNotFound, Reject::RateLimited, Reject::NotAllowed];

    /// The word on the wire.
    pub const fn word(self) -> &'static str {
        match self {
            Reject::BadMessage => "bad_message",
            Reject::UserNotFound => "user_not_found",
            Reject::RateLimited => "rate_limited",
            Reject::NotAllowed => "not_allowed",
        }
    }
}
