//! The words of the conversation between the engine and an application: who is there, what was said, what became of it.

use smol_str::SmolStr;

use crate::close::CloseReason;
use crate::id::{ConnId, SeatId};
use crate::lobby::directory::{LobbyKey, SeatKey};
use crate::lobby::{is_lobby_code, is_user_id, protocol};
use crate::rate::Rate;
use crate::wire::handshake::{Request, Subprotocols};

/// What a member wants to say by means of the engine: see [`App::allows`](crate::App::allows).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RelayRequest<'a> {
    /// `data`, as JSON, to everybody else.
    Broadcast {
        /// JSON text.
        data: &'a str,
    },
    /// `data`, as JSON, to one user in the same lobby.
    Direct {
        /// The receiver.
        to: &'a str,
        /// JSON text.
        data: &'a str,
    },
}

/// Who speaks the JSON protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// The engine welcomes members, tells them who is there, answers the reserved types and says goodbye.
    Json,
    /// The engine says nothing; every message is the application's.
    Raw,
}

impl Protocol {
    pub(super) fn subprotocols(self) -> Subprotocols {
        match self {
            Protocol::Json => Subprotocols::Only(protocol::SUBPROTOCOL),
            Protocol::Raw => Subprotocols::Any,
        }
    }
}

/// Where a request leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Route {
    /// To the lobby of this code. A code that is not valid is refused with 4007.
    Lobby(String),
    /// Nowhere: HTTP status 404.
    NotFound,
}

/// Who a client is, and what that allows.
///
/// ```
/// use lobbyd::{Identity, Rate};
///
/// let identity = Identity::new("ann").tier(Rate::PRO).only_in("chess").expires_at_unix_millis(1_900_000_000_000);
/// assert_eq!(identity.user, "ann");
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// 1 to 128 bytes without control characters; anything else is refused with 4001.
    pub user: String,
    /// How many messages the user may send, over all its connections. `None`: as the configuration says.
    pub tier: Option<Rate>,
    /// The one lobby it is good for. In any other it is refused with 4001 `unauthorized`. `None`: all.
    pub lobby: Option<String>,
    /// When it ends, in milliseconds since the Unix epoch: then the connection is closed with 4001 `token_expired`.
    pub expires: Option<u64>,
}

impl Identity {
    /// A user without any restriction.
    pub fn new(user: impl Into<String>) -> Identity {
        Identity { user: user.into(), tier: None, lobby: None, expires: None }
    }

    /// The same, with a rate of its own.
    pub fn tier(self, tier: Rate) -> Identity {
        Identity { tier: Some(tier), ..self }
    }

    /// The same, good for one lobby.
    pub fn only_in(self, lobby: impl Into<String>) -> Identity {
        Identity { lobby: Some(lobby.into()), ..self }
    }

    /// The same, for a limited time.
    pub fn expires_at_unix_millis(self, millis: u64) -> Identity {
        Identity { expires: Some(millis), ..self }
    }
}

/// The answer to [`App::authorize`](crate::App::authorize).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Authorization {
    /// Let in as this user.
    Allow(Identity),
    /// Refused; the client reads the reason's code.
    Refuse(CloseReason),
    /// Not decided: `Handle::authorized` will answer, or the connection ends with 4101 after `auth_timeout`.
    Pending {
        /// Whom the client claims to be, if that is known: its seat is held for it meanwhile.
        user: Option<String>,
    },
}

impl Authorization {
    /// Let in as `user`, without any restriction.
    pub fn allow(user: impl Into<String>) -> Authorization {
        Authorization::Allow(Identity::new(user))
    }

    /// The same, without names that break the rules: those let nobody in, and may be anything, even a token.
    pub(super) fn without_bad_names(self) -> Authorization {
        match self {
            Authorization::Allow(Identity { user, lobby, .. })
                if !is_user_id(&user) || lobby.as_ref().is_some_and(|code| !is_lobby_code(code)) =>
            {
                Authorization::Refuse(CloseReason::Unauthorized)
            }
            // Nobody can come in under that name, so no seat is held for it.
            Authorization::Pending { user: Some(user) } if !is_user_id(&user) => Authorization::Pending { user: None },
            answer => answer,
        }
    }

    /// For trying out: whoever has a token is let in under it as a name; without one, 4001 `unauthorized`.
    pub fn token_is_user(request: &Request<'_>) -> Authorization {
        match request.token() {
            Some(token) => Authorization::allow(token),
            None => Authorization::Refuse(CloseReason::Unauthorized),
        }
    }
}

/// What a member said.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Message<'a> {
    /// A text message, with [`Protocol::Raw`].
    Text(&'a str),
    /// A JSON object whose `type` is not one of the protocol's, with [`Protocol::Json`].
    Json {
        /// Its `type`.
        kind: &'a str,
        /// The whole object, as the member wrote it.
        text: &'a str,
    },
    /// A binary message.
    Binary(&'a [u8]),
}

/// Somebody who holds a seat.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    pub(super) conn: ConnId,
    pub(super) user: SmolStr,
    pub(super) lobby: SmolStr,
    pub(super) seat: SeatId,
    pub(super) seat_key: SeatKey,
    pub(super) lobby_key: LobbyKey,
}

impl Member {
    /// The connection that is in the seat.
    pub fn conn(&self) -> ConnId {
        self.conn
    }

    /// The user's id.
    pub fn user(&self) -> &str {
        &self.user
    }

    /// The lobby's code.
    pub fn lobby(&self) -> &str {
        &self.lobby
    }

    /// The seat's name: the `conn` field of the protocol.
    pub fn seat(&self) -> SeatId {
        self.seat
    }
}

/// Who does not get a broadcast.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exclude<'a> {
    /// Everybody gets it.
    None,
    /// Not this connection.
    Conn(ConnId),
    /// Not this user, on any of its connections.
    User(&'a str),
    /// None of these users.
    Users(&'a [&'a str]),
}

/// How full a member's queue is: see [`App::on_pressure`](crate::App::on_pressure).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pressure {
    /// Above the high mark.
    High {
        /// Bytes that wait to be written.
        queued_bytes: usize,
    },
    /// At the low mark again.
    Low {
        /// Bytes that wait to be written.
        queued_bytes: usize,
    },
}

/// What became of a frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sent {
    /// Receivers for whom it was queued.
    pub queued: usize,
    /// Receivers who were closed with 4102 instead, because too much was queued for them already.
    pub dropped: usize,
    /// Members who were left out on purpose.
    pub excluded: usize,
}
