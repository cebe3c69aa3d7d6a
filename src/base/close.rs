//! Reasons: why a connection was closed, why a member left its lobby, and why a request was refused.

use std::borrow::Cow;
use std::error::Error;
use std::fmt;

use super::codes::{CloseCode, ErrorCode};

macro_rules! close_reasons {
    ($( $(#[$doc:meta])* $name:ident = $code:literal, $word:literal, $explain:literal; )*) => {
        /// Reason why a connection was closed. Every connection gets exactly one reason.
        ///
        /// The codes are those of RFC 6455 section 7.4 and, from 4000, those of the lobby protocol; 4400 to 4699 are for
        /// applications. Code 1006 is never sent: it means that no close frame is sent. Code 0 means that the
        /// connection never became a WebSocket.
        ///
        /// ```
        /// use lobbyd::CloseReason;
        ///
        /// const CHEATER: CloseReason = CloseReason::app(4400, "cheater");
        /// assert_eq!((CHEATER.code(), CHEATER.word()), (4400, "cheater"));
        /// assert_eq!(CloseReason::Kicked.to_string(), "4003 kicked");
        /// ```
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum CloseReason {
            $( $(#[$doc])* $name, )*
            /// The application closed the connection with a code of its own: see [`CloseReason::app`].
            App(CloseCode),
        }

        /// A [`CloseReason`] without the code of the application, in one byte.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum CloseKind { $( $name, )* App }

        impl CloseReason {
            /// All reasons of the server, in the order of their numbers in journals.
            pub const ALL: &'static [CloseReason] = &[ $( CloseReason::$name, )* ];

            /// Returns the close code that is sent to the peer, or 1006 or 0 if no close frame is sent.
            pub const fn code(self) -> u16 {
                match self {
                    $( CloseReason::$name => $code, )*
                    CloseReason::App(code) => code.number(),
                }
            }

            /// Returns the reason word that is sent to the peer with the code.
            pub fn word(&self) -> &str {
                match self {
                    $( CloseReason::$name => $word, )*
                    CloseReason::App(code) => code.word(),
                }
            }

            /// Returns an explanation for the log and the documentation.
            pub const fn explain(self) -> &'static str {
                match self {
                    $( CloseReason::$name => $explain, )*
                    CloseReason::App(_) => "the application closed the connection",
                }
            }

            pub(crate) const fn kind(self) -> CloseKind {
                match self {
                    $( CloseReason::$name => CloseKind::$name, )*
                    CloseReason::App(_) => CloseKind::App,
                }
            }
        }
    };
}

impl CloseKind {
    /// Returns the reason with this kind; `None` for the application's codes.
    pub(crate) fn reason(self) -> Option<CloseReason> {
        CloseReason::ALL.get(self as usize).copied()
    }
}

close_reasons! {
    /// The client sent `leave`.
    Left = 1000, "left", "the client said leave";
    /// The peer sent a close frame first, with a code other than 1001.
    PeerClosed = 1000, "peer_closed", "the peer sent a close frame";
    /// The connection ended without a close frame from the peer.
    Hangup = 1006, "hangup", "the connection ended without a close frame";
    /// Writing to the peer failed.
    WriteFailed = 1006, "write_failed", "the operating system could not write to the connection";
    /// The server is shutting down.
    ServerShutdown = 1001, "server_shutdown", "the server is shutting down";
    /// The peer violated RFC 6455.
    ProtocolError = 1002, "protocol_error", "the peer broke the WebSocket protocol";
    /// The application does not accept messages of that kind.
    UnsupportedData = 1003, "unsupported_data", "the application does not take messages of that kind";
    /// A text message or a close reason was not valid UTF-8.
    BadUtf8 = 1007, "bad_utf8", "a text was not valid UTF-8";
    /// The application refused an action of the peer, or a message had more than `max_fragments` frames.
    PolicyViolation = 1008, "policy_violation", "the application refused what the peer did";
    /// A message was larger than `max_message_bytes`.
    MessageTooBig = 1009, "message_too_big", "a message was larger than max_message_bytes";
    /// The application failed.
    InternalError = 1011, "internal_error", "the application failed";
    /// The request had no token, or the token was refused.
    Unauthorized = 4001, "unauthorized", "there was no token, or it was refused";
    /// The token has expired.
    TokenExpired = 4001, "token_expired", "the token has expired";
    /// All `max_connections` seats of the server are taken.
    ServerFull = 4002, "server_full", "all max_connections seats of the server are taken";
    /// All `max_per_lobby` seats of the lobby are taken.
    LobbyFull = 4002, "lobby_full", "all max_per_lobby seats of the lobby are taken";
    /// The lobby is locked by the application or an operator.
    LobbyLocked = 4002, "lobby_locked", "the lobby is locked: it admits no new members";
    /// `max_lobbies` lobbies exist already.
    LobbyLimit = 4002, "lobby_limit", "max_lobbies lobbies exist already";
    /// The user has its maximum number of seats.
    UserLimit = 4002, "user_limit", "the user holds as many seats as it may";
    /// The address has its maximum number of seats.
    IpLimit = 4002, "ip_limit", "the address holds as many seats as it may";
    /// The application or an operator removed the member.
    Kicked = 4003, "kicked", "the member was kicked";
    /// The user is banned.
    Banned = 4003, "banned", "the user is banned";
    /// The page's origin is not allowed.
    ForbiddenOrigin = 4003, "forbidden_origin", "the page's origin is not allowed";
    /// A newer connection of the same user took over the seat.
    Replaced = 4004, "replaced", "a newer connection of the same user took the seat";
    /// The client sent more than `max_strikes` malformed messages, or a request with a malformed session or entry.
    BadMessage = 4005, "bad_message", "more than max_strikes messages were malformed, or the session in the request";
    /// The application or an operator closed the lobby.
    LobbyClosed = 4006, "lobby_closed", "the lobby was closed";
    /// The path does not contain a valid lobby code, or is not that of a lobby.
    BadLobbyCode = 4007, "bad_lobby_code", "the path names no lobby; a code is 1 to 64 letters, digits, _ or -";
    /// The client kept exceeding its rate.
    RateLimited = 4009, "rate_limited", "the peer kept sending more than its rate";
    /// The application did not complete the authorization within `auth_timeout`.
    AuthTimeout = 4101, "auth_timeout", "authorization took longer than auth_timeout";
    /// The peer reads too slowly, and its queue exceeded `max_outbound_bytes`.
    SlowConsumer = 4102, "slow_consumer", "the peer reads too slowly: more than max_outbound_bytes were queued";
    /// An operator requested that the client reconnect.
    ForcedReconnect = 4103, "reconnect", "an operator asked the client to connect again";
    /// No bytes were received within `pong_timeout` of a ping.
    Stale = 4201, "stale", "nothing was heard within pong_timeout of a ping";
    /// The connection reached the age `max_lifetime`.
    MaxLifetime = 4202, "max_lifetime", "the connection reached its allowed age";
    /// The request was answered with an HTTP status.
    HttpRefused = 0, "http_refused", "the request was answered with an HTTP status";
    /// The request head did not arrive within `handshake_timeout`.
    HandshakeTimeout = 0, "handshake_timeout", "the request head did not arrive within handshake_timeout";
    /// The peer sent a close frame first, with code 1001 or without a code, as a page does that is left or reloaded.
    PeerGone = 1001, "peer_gone", "the peer's close frame says that it went away, or has no code";
    /// The client asked for a lobby that exists, and there is none with this code.
    LobbyNotFound = 4007, "lobby_not_found", "no lobby with this code exists";
    /// The lobby has a password, and the client's is missing or another.
    WrongPassword = 4003, "wrong_password", "the lobby has another password";
    /// A compressed message could not be decompressed.
    BadCompression = 1007, "bad_compression", "a compressed message could not be decompressed";
}

/// Whether and when a client should reconnect after a close.
///
/// ```
/// use lobbyd::CloseReason;
/// use lobbyd::codes::Reconnect;
///
/// assert_eq!(CloseReason::Kicked.reconnect(), Reconnect::No);
/// assert_eq!(CloseReason::SlowConsumer.reconnect(), Reconnect::Backoff);
/// assert_eq!(CloseReason::app(4600, "next_round").reconnect(), Reconnect::AtOnce);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reconnect {
    /// Do not reconnect with the same request.
    No,
    /// Reconnect after a growing, jittered wait.
    Backoff,
    /// Reconnect immediately.
    AtOnce,
}

impl CloseReason {
    /// Creates a reason with a close code of the application: from 4400 to 4699, with a word of 1 to 32 lower-case
    /// letters, digits and underscores. [`CloseCode`] says which codes let clients reconnect.
    ///
    /// Meant for constants, where an invalid code does not compile:
    ///
    /// ```compile_fail
    /// const TAKEN: lobbyd::CloseReason = lobbyd::CloseReason::app(4003, "a code of the protocol");
    /// ```
    ///
    /// # Panics
    ///
    /// If the code or the word is invalid. [`CloseCode::new`] returns `None` instead.
    pub const fn app(code: u16, word: &str) -> CloseReason {
        match CloseCode::new(code, word) {
            Some(code) => CloseReason::App(code),
            None => panic!("a close code is from 4400 to 4699, and its word has 1 to 32 of a-z, 0-9 and _"),
        }
    }

    /// Returns the reconnect rule of the protocol's table of close codes.
    pub const fn reconnect(self) -> Reconnect {
        match self.code() {
            1001 | 1006 | 1011 | 4100..=4199 | 4500..=4599 => Reconnect::Backoff,
            4200..=4299 | 4600..=4699 => Reconnect::AtOnce,
            _ => Reconnect::No,
        }
    }

    /// Returns the name under which the reason is counted in the log and for operators: `kicked`, or `4400_cheater` for
    /// a code of the application.
    pub(crate) fn count_name(&self) -> Cow<'_, str> {
        match self {
            CloseReason::App(code) => Cow::Owned(format!("{}_{}", code.number(), code.word())),
            reason => Cow::Borrowed(reason.word()),
        }
    }

    /// Returns whether a close frame can carry the code: 1006 must not be sent (RFC 6455 section 7.4.1), and 0 is no
    /// code.
    pub(crate) const fn is_sent(self) -> bool {
        !matches!(self.code(), 0 | 1006)
    }

    /// Returns whether the seat of a session is kept after a connection was closed for this reason: it was lost, or the
    /// client is asked to come back.
    pub(crate) const fn keeps_seat(self) -> bool {
        matches!(
            self,
            CloseReason::PeerGone
                | CloseReason::Hangup
                | CloseReason::WriteFailed
                | CloseReason::Stale
                | CloseReason::SlowConsumer
                | CloseReason::MaxLifetime
                | CloseReason::ForcedReconnect
                | CloseReason::TokenExpired
                | CloseReason::ServerShutdown
        )
    }

    /// Returns the reason that the other members see when a seat is freed that was kept after this reason.
    pub(crate) const fn away_reason(self) -> LeaveReason {
        match self {
            CloseReason::MaxLifetime | CloseReason::ForcedReconnect | CloseReason::TokenExpired => LeaveReason::Dropped,
            reason => reason.leave_reason(),
        }
    }

    /// Returns whether it keeps the user out of the lobby for some time.
    pub(crate) const fn is_kick(self) -> bool {
        matches!(self, CloseReason::Kicked | CloseReason::Banned)
    }

    /// Returns the reason that the other members of the lobby see.
    pub const fn leave_reason(self) -> LeaveReason {
        match self {
            CloseReason::Left | CloseReason::PeerClosed | CloseReason::PeerGone => LeaveReason::Left,
            CloseReason::Stale | CloseReason::AuthTimeout => LeaveReason::Timeout,
            CloseReason::Kicked
            | CloseReason::ForcedReconnect
            | CloseReason::Banned
            | CloseReason::BadMessage
            | CloseReason::LobbyClosed
            | CloseReason::PolicyViolation
            | CloseReason::RateLimited
            | CloseReason::MaxLifetime
            | CloseReason::TokenExpired
            | CloseReason::App(_) => LeaveReason::Kicked,
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

impl Error for CloseReason {}

/// Reason why a member left its lobby, as sent in `presence_diff`.
///
/// The [simulator](crate::sim#testing-an-application) has an example of an application that receives one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum LeaveReason {
    /// The client sent `leave` or a close frame.
    Left,
    /// The connection was lost, or the client violated the protocol.
    Dropped,
    /// The client did not respond in time.
    Timeout,
    /// The server, the application or an operator removed the member.
    Kicked,
    /// A newer connection of the same user replaced the member.
    Replaced,
    /// The client read too slowly.
    Slow,
    /// The server is shutting down.
    Shutdown,
}

impl LeaveReason {
    /// All reasons. Their order is part of the format of snapshots.
    pub(crate) const ALL: &'static [LeaveReason] = &[
        LeaveReason::Left,
        LeaveReason::Dropped,
        LeaveReason::Timeout,
        LeaveReason::Kicked,
        LeaveReason::Replaced,
        LeaveReason::Slow,
        LeaveReason::Shutdown,
    ];

    /// Returns the word used on the wire.
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

/// Reason why a request was refused although the connection stays open: the `code` of an `error`.
///
/// ```
/// use lobbyd::Reject;
///
/// const NOT_YOUR_TURN: Reject = Reject::app("not_your_turn");
/// assert_eq!(NOT_YOUR_TURN.word(), "not_your_turn");
/// assert_eq!(Reject::NotAllowed.word(), "not_allowed");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Reject {
    /// The message is not a JSON object with a `type` of clients, a field is missing or has the wrong type, or strict
    /// parsers would not read the JSON.
    BadMessage,
    /// The lobby has no member with that user id.
    UserNotFound,
    /// The client exceeds its rate.
    RateLimited,
    /// The application or the host does not allow this request of this member.
    NotAllowed,
    /// The data has changed since the `seq` of a conditional `set`.
    Conflict,
    /// A bound has no room for the data.
    TooLarge,
    /// The server is a node of a cluster, and cannot reach it at this moment.
    Unavailable,
    /// The application refused the request with a code of its own: see [`Reject::app`].
    App(ErrorCode),
}

impl Reject {
    /// All reasons of the server.
    pub const ALL: &'static [Reject] = &[
        Reject::BadMessage,
        Reject::UserNotFound,
        Reject::RateLimited,
        Reject::NotAllowed,
        Reject::Conflict,
        Reject::TooLarge,
        Reject::Unavailable,
    ];

    /// Creates a reason with an error code of the application: 1 to 32 lower-case letters, digits and underscores, and
    /// no error code of the protocol.
    ///
    /// Meant for constants, where an invalid code does not compile.
    ///
    /// # Panics
    ///
    /// If the code is invalid. [`ErrorCode::new`] returns `None` instead.
    pub const fn app(code: &str) -> Reject {
        match ErrorCode::new(code) {
            Some(code) => Reject::App(code),
            None => panic!("an error code has 1 to 32 of a-z, 0-9 and _, and is no code of the protocol"),
        }
    }

    /// Returns the position in [`ALL`](Self::ALL), or the code of the application.
    pub(crate) const fn index(self) -> Result<usize, ErrorCode> {
        match self {
            Reject::BadMessage => Ok(0),
            Reject::UserNotFound => Ok(1),
            Reject::RateLimited => Ok(2),
            Reject::NotAllowed => Ok(3),
            Reject::Conflict => Ok(4),
            Reject::TooLarge => Ok(5),
            Reject::Unavailable => Ok(6),
            Reject::App(code) => Err(code),
        }
    }

    /// Returns the word used on the wire.
    pub fn word(&self) -> &str {
        match self {
            Reject::BadMessage => "bad_message",
            Reject::UserNotFound => "user_not_found",
            Reject::RateLimited => "rate_limited",
            Reject::NotAllowed => "not_allowed",
            Reject::Conflict => "conflict",
            Reject::TooLarge => "too_large",
            Reject::Unavailable => "unavailable",
            Reject::App(code) => code.word(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_error_code_of_an_application_equals_one_of_the_protocol() {
        assert!(Reject::ALL.iter().all(|reject| ErrorCode::new(reject.word()).is_none()));
    }
}
