//! Types that the engine and an application share: members and identities, requests and messages, and the result of a
//! send.

use std::borrow::Cow;
use std::sync::Arc;

use smol_str::SmolStr;

use crate::base::close::CloseReason;
use crate::base::id::{ConnId, LobbyKey, SeatId, SeatKey};
use crate::base::rate::Rate;
use crate::config::ByteSize;
pub use crate::egress::Pressure;
use crate::lobby::{is_lobby_code, is_user_id};
use crate::protocol;
use crate::ws::frame::{Frame, Outgoing};
use crate::ws::handshake::{Request, Subprotocols};

/// A request of a member that the engine relays to other members: see [`App::allows`](crate::App::allows).
///
/// No example of its own: it is the argument of [`App::allows`](crate::App::allows).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RelayRequest<'a> {
    /// `data`, as JSON, to all other members of the lobby.
    Broadcast {
        /// JSON text.
        data: &'a str,
    },
    /// `data`, as JSON, to one user in the same lobby.
    Direct {
        /// User id of the receiver.
        to: &'a str,
        /// JSON text.
        data: &'a str,
    },
    /// With lobby control: changes data of the lobby or of a member. The sender may write it.
    Set {
        /// The member whose data it is; `None` for that of the lobby.
        of: Option<SeatId>,
        /// JSON object with the changes: `null` deletes a key.
        data: &'a str,
    },
    /// With lobby control: the host hands over to another member.
    Host {
        /// Seat of that member.
        conn: SeatId,
    },
    /// With lobby control: the host kicks a user.
    Kick {
        /// User id.
        user: &'a str,
        /// Whether the user is banned, too.
        is_banned: bool,
    },
    /// With lobby control: the host ends the ban of a user.
    Unban {
        /// User id.
        user: &'a str,
    },
    /// With lobby control: the host changes settings.
    Settings {
        /// JSON object with the settings to change. Their values are checked afterwards.
        settings: &'a str,
    },
}

/// The protocol that the engine speaks with members.
///
/// [`App`](crate::App) has an example.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// The engine sends `welcome`, presence and `goodbye`, and answers the reserved message types.
    Json,
    /// The engine sends no messages of its own; every message is the application's.
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

/// The destination of a request.
///
/// ```
/// use lobbyd::admission::Route;
/// use lobbyd::{App, Authorization, Context, Member, Message, Protocol, Request};
///
/// /// All members are in one lobby, on the path `/play`.
/// struct OneLobby;
///
/// impl App for OneLobby {
///     const PROTOCOL: Protocol = Protocol::Json;
///
///     fn route(&self, request: &Request<'_>) -> Route {
///         if request.path() == "/play" { Route::Lobby("all".into()) } else { Route::NotFound }
///     }
///
///     fn authorize(&mut self, _: &mut Context<'_>, request: &Request<'_>) -> Authorization {
///         Authorization::token_is_user(request)
///     }
///
///     fn on_message(&mut self, _: &mut Context<'_>, _: &Member, _: Message<'_>) {}
/// }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Route {
    /// The lobby with this code. An invalid code is refused with 4007.
    ///
    /// With [`lobby_control`](crate::Config::lobby_control), `~new` is a lobby with a new code, and `~quick/{pool}` is the
    /// oldest open lobby of a pool.
    Lobby(String),
    /// No destination: an upgrade is accepted and closed with 4007, other requests get HTTP status 404.
    NotFound,
}

/// The identity of a client and its restrictions.
///
/// ```
/// use lobbyd::Identity;
/// use lobbyd::admission::Rate;
///
/// let identity = Identity::new("ann").tier(Rate::PRO).only_in("chess").expires_at_unix_millis(1_900_000_000_000);
/// assert_eq!(identity.user, "ann");
///
/// // What the token says about the user reaches the game as `Member::data`.
/// let identity = identity.data(r#"{"rating":1850}"#.as_bytes());
/// assert_eq!(identity.data.as_deref(), Some(&br#"{"rating":1850}"#[..]));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Identity {
    /// User id: 1 to 128 bytes without control characters. Any other is refused with 4001.
    pub user: String,
    /// Message rate of the user over all its connections. `None`: the rate in the configuration.
    pub tier: Option<Rate>,
    /// The one lobby in which the identity is valid. In any other it is refused with 4001 `unauthorized`. `None`: all
    /// lobbies.
    pub lobby: Option<String>,
    /// Expiry time, in milliseconds since the Unix epoch. The connection is then closed with 4001 `token_expired`.
    pub expires: Option<u64>,
    /// Application data of the identity, such as claims of the token, in any form. The application gets it back as
    /// [`Member::data`], and journals record it. At most [`max_identity_bytes`](crate::Config::max_identity_bytes);
    /// with more, the client is refused with 1011 `internal_error`.
    pub data: Option<Arc<[u8]>>,
}

impl Identity {
    /// Creates an identity without restrictions.
    pub fn new(user: impl Into<String>) -> Identity {
        Identity { user: user.into(), tier: None, lobby: None, expires: None, data: None }
    }

    /// Returns the identity with its own message rate.
    pub fn tier(self, tier: Rate) -> Identity {
        Identity { tier: Some(tier), ..self }
    }

    /// Returns the identity restricted to one lobby.
    pub fn only_in(self, lobby: impl Into<String>) -> Identity {
        Identity { lobby: Some(lobby.into()), ..self }
    }

    /// Returns the identity with an expiry time, in milliseconds since the Unix epoch.
    pub fn expires_at_unix_millis(self, millis: u64) -> Identity {
        Identity { expires: Some(millis), ..self }
    }

    /// Returns the identity with data for [`Member::data`].
    pub fn data(self, data: impl Into<Arc<[u8]>>) -> Identity {
        Identity { data: Some(data.into()), ..self }
    }
}

/// The answer to [`App::authorize`](crate::App::authorize).
///
/// [`App`](crate::App) has examples.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Authorization {
    /// The client is admitted as this user.
    Allow(Identity),
    /// The client is refused; it receives the code of this reason.
    Refuse(CloseReason),
    /// Not decided yet: `Handle::authorized` gives the answer later, or the connection is closed with 4101
    /// after `auth_timeout`.
    Pending {
        /// The user that the client claims to be, if known. A seat is reserved for this user meanwhile.
        user: Option<String>,
    },
}

impl Authorization {
    /// Admits the client as `user`, without restrictions.
    pub fn allow(user: impl Into<String>) -> Authorization {
        Authorization::Allow(Identity::new(user))
    }

    /// Returns the answer without what is not allowed in it: invalid names, which admit no client and may contain
    /// anything, even a token; and data of more than `max_data` bytes.
    pub(super) fn checked(self, max_data: ByteSize) -> Authorization {
        match self {
            Authorization::Allow(Identity { user, lobby, .. })
                if !is_user_id(&user) || lobby.as_ref().is_some_and(|code| !is_lobby_code(code)) =>
            {
                Authorization::Refuse(CloseReason::Unauthorized)
            }
            Authorization::Allow(Identity { data: Some(data), .. }) if data.len() > max_data.0 => {
                log::debug!("the data of an identity has {} bytes, more than max_identity_bytes", data.len());
                Authorization::Refuse(CloseReason::InternalError)
            }
            // An invalid user id is never admitted, so no seat is reserved for it.
            Authorization::Pending { user: Some(user) } if !is_user_id(&user) => Authorization::Pending { user: None },
            answer => answer,
        }
    }

    /// Admits every client with a token, and uses the token as its user id. For development.
    ///
    /// A client without a token is refused with 4001 `unauthorized`.
    pub fn token_is_user(request: &Request<'_>) -> Authorization {
        match request.token() {
            Some(token) => Authorization::allow(token),
            None => Authorization::Refuse(CloseReason::Unauthorized),
        }
    }
}

/// A message from a member.
///
/// [`Context`](crate::Context#sending) has an example.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Message<'a> {
    /// A text message, with [`Protocol::Raw`].
    Text(&'a str),
    /// A JSON object whose `type` is not defined by the protocol, with [`Protocol::Json`]. Strict parsers read it: it is
    /// nested at most `max_json_depth` levels, its strings have no escape for half of a surrogate pair, and its numbers are
    /// not beyond the largest finite double.
    Json {
        /// Value of its `type`.
        kind: &'a str,
        /// The whole object, as the member sent it.
        text: &'a str,
    },
    /// A binary message.
    Binary(&'a [u8]),
}

/// Body of a message that a method of [`Context`](crate::Context#sending) sends: a [`Frame`], or a member's [`Message`]
/// unchanged.
///
/// Methods take either of them and convert it themselves. A frame is encoded once, which pays off if it is sent several
/// times. A message needs no frame: it is encoded directly into the buffers of its receivers.
///
/// [`Context`](crate::Context#sending) has an example.
#[derive(Clone, Copy, Debug)]
pub struct Body<'a>(pub(super) Outgoing<'a>);

impl<'a> From<&'a Frame> for Body<'a> {
    fn from(frame: &'a Frame) -> Body<'a> {
        Body(Outgoing::Frame(frame))
    }
}

impl<'a> From<Message<'a>> for Body<'a> {
    fn from(message: Message<'a>) -> Body<'a> {
        Body(match message {
            Message::Text(text) | Message::Json { text, .. } => Outgoing::Text(text),
            Message::Binary(bytes) => Outgoing::Binary(bytes),
        })
    }
}

/// A connection that has a seat in a lobby.
///
/// [`App`](crate::App) has examples.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    pub(super) conn: ConnId,
    pub(super) user: SmolStr,
    pub(super) lobby: SmolStr,
    pub(super) seat: SeatId,
    pub(super) seat_key: SeatKey,
    pub(super) lobby_key: LobbyKey,
    pub(super) data: Option<Arc<[u8]>>,
    pub(super) is_away: bool,
    pub(super) is_watcher: bool,
}

impl Member {
    /// The connection in the seat. A member that is away has none: it is the last one.
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

    /// The seat's id: the `conn` field of the protocol.
    pub fn seat(&self) -> SeatId {
        self.seat
    }

    /// Whether its connection was lost, and its seat is kept until the client comes back: see
    /// [`App::on_away`](crate::App::on_away).
    pub fn is_away(&self) -> bool {
        self.is_away
    }

    /// Whether it only watches the lobby: it receives what the members receive, no member is told of it, and its messages
    /// are refused. There are watchers only with [`lobby_control`](crate::Config::lobby_control).
    pub fn is_watcher(&self) -> bool {
        self.is_watcher
    }

    /// The [data](Identity::data) of the identity with which the connection was admitted.
    pub fn data(&self) -> Option<&[u8]> {
        self.data.as_deref()
    }
}

/// A numbered frame of a lobby that is kept: see [`Context::history`](crate::Context::history).
///
/// No example of its own: it is what [`Context::history`](crate::Context::history) returns.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct HistoryFrame<'a> {
    /// Its number in the lobby.
    pub seq: u64,
    /// The JSON text: a `message` or a `presence_diff`.
    pub text: Cow<'a, str>,
}

/// Members that do not receive a broadcast.
///
/// [`App`](crate::App) and [`Context`](crate::Context#sending) have examples.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exclude<'a> {
    /// No member is excluded.
    None,
    /// This connection. As everybody else receives the message, it may be
    /// [compressed](crate::guide::operating#compression), so its length tells something of its contents. With `User` it is not.
    Conn(ConnId),
    /// This user, on all of its connections.
    User(&'a str),
    /// These users, on all of their connections.
    Users(&'a [&'a str]),
}

/// The result of sending a frame.
///
/// ```
/// use lobbyd::apps::Relay;
/// use lobbyd::driver::Start;
/// use lobbyd::sending::Sent;
/// use lobbyd::{Config, Engine, Exclude, Frame, Time};
///
/// let (config, start) = (Config::default().check()?, Start { unix_micros: 0, seed: 1 });
/// let mut engine = Engine::new(config, start, Relay::default());
/// let sent = engine.act(Time::ZERO, |_, cx| cx.broadcast_to_lobby("chess", Exclude::None, &Frame::text("hi")));
/// assert_eq!(sent, Sent { queued: 0, dropped: 0, excluded: 0 }, "the lobby does not exist");
/// # Ok::<(), lobbyd::config::Problems>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sent {
    /// Number of receivers for which the frame was queued.
    pub queued: usize,
    /// Number of receivers that did not get the frame because their queue was full. They were closed with 4102, except
    /// for a latest-wins frame.
    pub dropped: usize,
    /// Number of members that the caller excluded.
    pub excluded: usize,
}
