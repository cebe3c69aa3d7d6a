//! Events that a session reports to its application.

use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::error::LobbyError;
use super::weight;

/// State of a session.
///
/// ```text
/// Idle --connect()--> Connecting --welcome, list--> Open --lost--> Waiting --time--> Connecting --> …
/// each of them --leave(), or a close that says not to come back--> Closed
/// ```
///
/// The [module](crate::client) has an example.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// [`connect`](crate::client::Session::connect) was not called.
    Idle,
    /// A connection is attempted, or has brought no list of members yet.
    Connecting,
    /// The members, and with lobby control the state of the lobby, are known.
    Open,
    /// The connection was lost; the next attempt follows.
    Waiting,
    /// For good.
    Closed,
}

/// Why a connection or the lobby was closed, as reported by [`Event::Connection`], which has an example.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Closed {
    /// Close code of the protocol. 1006: there was no close frame.
    pub code: u16,
    /// Reason word, such as `kicked`; possibly empty. `http_503`: the attempt was answered with this status. `overflow`: the
    /// events were not polled.
    pub reason: String,
    /// Time until the next attempt; `None` if there is none.
    pub wait: Option<Duration>,
}

impl Closed {
    /// Returns the error of a request that ends with the lobby.
    pub(super) fn error(&self) -> LobbyError {
        let details = [("code".to_owned(), self.code.into()), ("reason".to_owned(), self.reason.as_str().into())];
        LobbyError::with_details("closed".to_owned(), Map::from_iter(details))
    }
}

/// Names a request of a [`Session`](crate::client::Session), from the call that starts it to its [`Event::Settled`].
/// [`Session::request`](crate::client::Session::request) has an example.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub(super) u64);

/// The answer to a request that was executed. [`Session::request`](crate::client::Session::request) has an example.
///
/// It is empty if the answer was lost, and the server has said after the reconnect that the request was executed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Ack {
    pub(super) fields: Map<String, Value>,
}

impl Ack {
    /// Returns the number of the message in the lobby, if it has one.
    pub fn seq(&self) -> Option<u64> {
        self.fields.get("seq")?.as_u64()
    }

    /// Returns all fields: `seq`; of a `broadcast` also `delivered` and `dropped`; `repeated` for a request that was
    /// answered before.
    pub fn fields(&self) -> &Map<String, Value> {
        &self.fields
    }
}

/// A member of the lobby, as it was when it was read. Cloning it is cheap. [`Session::members`] has an example.
///
/// [`Session::members`]: crate::client::Session::members
#[derive(Clone, Debug, PartialEq)]
pub struct LobbyMember {
    pub(super) user: Arc<str>,
    pub(super) conn: Arc<str>,
    pub(super) is_away: bool,
    pub(super) data: Arc<Map<String, Value>>,
}

impl LobbyMember {
    /// Returns the user id.
    pub fn user(&self) -> &str {
        &self.user
    }

    /// Returns the name of the seat: the same while the member comes back to it, and new with every join.
    pub fn conn(&self) -> &str {
        &self.conn
    }

    /// Returns whether the member's connection is lost, and its seat kept.
    pub fn is_away(&self) -> bool {
        self.is_away
    }

    /// Returns the member's data, with lobby control.
    pub fn data(&self) -> &Map<String, Value> {
        &self.data
    }

    /// Returns the memory that its texts and its data take, roughly.
    pub(super) fn weight(&self) -> usize {
        self.user.len() + self.conn.len() + weight::of_map(&self.data)
    }
}

/// A seat with which a game starts. See [`Event::Start`], which names an example.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seat {
    /// User id.
    pub user: String,
    /// Name of the seat: [`LobbyMember::conn`].
    pub conn: String,
}

/// A message of a member, or of the application on the server. The [module](crate::client) has an example.
#[derive(Clone, Debug, PartialEq)]
pub struct LobbyMessage {
    /// User id of the sender; `None`: an operator, or the application on the server.
    pub from: Option<String>,
    /// The `type` of the data; `None`: the data is no object with a type.
    pub kind: Option<String>,
    /// Number of the message in the lobby. Direct and volatile messages have none.
    pub seq: Option<u64>,
    /// Whether it was sent to this user only.
    pub is_direct: bool,
    pub(super) json: String,
}

impl LobbyMessage {
    /// Parses the data. `T` may be a struct with the fields, or an enum with `#[serde(tag = "type")]` for all types of the
    /// game. What was sent with [`request`] or [`send`] and is no object is the field `data`.
    ///
    /// # Errors
    ///
    /// The data is not that of a `T`, or nested more than 127 levels deep.
    ///
    /// [`request`]: crate::client::Session::request
    /// [`send`]: crate::client::Session::send
    pub fn data<'a, T: Deserialize<'a>>(&'a self) -> Result<T, serde_json::Error> {
        serde_json::from_str(&self.json)
    }

    /// Returns the data as JSON text.
    pub fn json(&self) -> &str {
        &self.json
    }
}

/// An event of a session. Events are reported in order. The [module](crate::client) has an example.
///
/// The members of the first list are not reported one by one. Events before it are kept until the session is
/// [`State::Open`], except for [`Event::Connection`] and [`Event::Settled`].
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Event {
    /// The state has changed.
    Connection {
        /// The new state.
        state: State,
        /// For [`State::Waiting`] and [`State::Closed`], the reason.
        why: Option<Closed>,
    },
    /// A message, of any type.
    Message(LobbyMessage),
    /// A binary message.
    Binary(Vec<u8>),
    /// A member has joined.
    Join(LobbyMember),
    /// A member has left.
    Leave {
        /// The member, as it was.
        who: LobbyMember,
        /// `left dropped timeout kicked replaced slow shutdown`, or `unknown` if it left while the client was away.
        reason: String,
    },
    /// The connection of a member is lost, and its seat is kept.
    Away(LobbyMember),
    /// A member is back.
    Back(LobbyMember),
    /// The list of members has changed.
    Members,
    /// Messages were missed: load the state anew. Nothing else has this meaning.
    Gap,
    /// A request has its outcome.
    Settled {
        /// The request.
        id: RequestId,
        /// The answer, or why it failed.
        result: Result<Ack, LobbyError>,
    },
    /// The server has refused a message of [`send`](crate::client::Session::send).
    Error(LobbyError),
    /// Data have changed. With lobby control, as the events that follow.
    Data {
        /// The keys whose values differ; `null`: the key is gone.
        changes: Map<String, Value>,
        /// The member whose data they are; `None`: those of the lobby.
        who: Option<LobbyMember>,
        /// User id; `None`: the application, an operator, or a change that was missed.
        by: Option<String>,
        /// Number of the change in the lobby.
        seq: Option<u64>,
    },
    /// Another member is the host; `None`: it is not known.
    Host(Option<LobbyMember>),
    /// Settings have changed.
    Settings {
        /// The settings that differ.
        changes: Map<String, Value>,
        /// As in [`Event::Data`].
        by: Option<String>,
        /// Number of the change in the lobby.
        seq: Option<u64>,
    },
    /// When the game starts, in milliseconds since the Unix epoch, on the clock of [`Session::now`]; `None`: not any more.
    ///
    /// [`Session::now`]: crate::client::Session::now
    Countdown(Option<u64>),
    /// The game starts, with these seats: none in a lobby that is too large for a list.
    Start(Vec<Seat>),
    /// The list of lobbies has changed. [`Session::lobbies`](crate::client::Session::lobbies) has an example.
    Lobbies,
}
