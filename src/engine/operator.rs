//! Operators' commands, their answers, and paged views of lobbies and members. Plain data.
//!
//! Knows no HTTP and no JSON of the operators' port: see [`admin`](crate::admin).

use std::error::Error;
use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

pub use super::control::command::{ControlSummary, LobbyChange, LobbyControlView, NewLobby, SettingsText};
use super::member::Sent;
use super::state::drain::DrainTotals;
use super::state::ticks::{ClockCommand, ClockView};
use crate::base::id::SeatId;
use crate::base::peer::Peer;

/// A command from an operator.
///
/// ```
/// use lobbyd::apps::Relay;
/// use lobbyd::driver::Start;
/// use lobbyd::operator::{KickTarget, OperatorAnswer, OperatorCommand, OperatorRefusal, Payload};
/// use lobbyd::sim::wire;
/// use lobbyd::{Config, Engine, Time};
///
/// let (config, start) = (Config::default().check()?, Start { unix_micros: 0, seed: 1 });
/// let (mut engine, now) = (Engine::new(config, start, Relay::default()), Time::ZERO);
/// let conn = engine.handle_accept(now, "127.0.0.1:4000".parse().unwrap()).unwrap();
/// engine.handle_bytes(now, conn, &wire::upgrade_request("/ws/chess?token=ann", &[]));
///
/// let lobbies = engine.lobbies(None, 100);
/// assert_eq!((lobbies.items[0].code.as_str(), lobbies.items[0].members, lobbies.next), ("chess", 1, None));
/// let members = engine.lobby_members("chess", None, 100);
/// assert_eq!(members.items[0].seat.to_string(), "s1");
///
/// let publish = |lobby: &str| OperatorCommand::publish(lobby, Payload::Json("1".into()));
/// let answer = engine.handle_operator(now, publish("chess"));
/// assert!(matches!(answer, Ok(OperatorAnswer::Sent { sent, .. }) if sent.queued == 1));
/// assert_eq!(engine.handle_operator(now, publish("go")), Err(OperatorRefusal::NoSuchLobby));
///
/// let kick = OperatorCommand::Kick { target: KickTarget::User("ann".into()), reconnect: false };
/// assert_eq!(engine.handle_operator(now, kick), Ok(OperatorAnswer::Ending(1)));
/// # Ok::<(), lobbyd::config::Problems>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OperatorCommand {
    /// Sends a payload to the members of a lobby.
    Publish {
        /// The lobby's code.
        lobby: String,
        /// The payload to send.
        payload: Payload,
        /// Users that do not get it. If there are any, the `message` has no `seq`, is not kept in the history, and does
        /// not reach a member that is away.
        exclude: Vec<String>,
        /// Name of this command, of 1 to 64 bytes: the same command sends nothing again, and gets the first answer. A lobby
        /// keeps its last [`max_idempotency_keys`](crate::Config::max_idempotency_keys) keys as long as it exists.
        idempotency_key: Option<String>,
    },
    /// Sends a payload to all connections of a user.
    Send {
        /// The user's id.
        user: String,
        /// The payload to send.
        payload: Payload,
    },
    /// Checks whether a user's pages are alive. [`Engine::poll_operator`](crate::Engine::poll_operator) returns the result.
    Ping {
        /// The user's id.
        user: String,
        /// Longest time to wait for an answer.
        timeout: Duration,
    },
    /// Closes connections with 4003 `kicked`, or with 4103 `reconnect`.
    Kick {
        /// The connections to close.
        target: KickTarget,
        /// Whether the clients are asked to reconnect: closes with 4103 instead of 4003.
        reconnect: bool,
    },
    /// Locks a lobby against new members, or unlocks it. A lobby that becomes empty is removed together with its lock.
    Lock {
        /// The lobby's code.
        lobby: String,
        /// Whether the lobby is locked from now on.
        locked: bool,
    },
    /// Closes all connections in a lobby with 4006 `lobby_closed`.
    Close {
        /// The lobby's code.
        lobby: String,
    },
    /// Changes data, settings, host or bans of a lobby, with [`lobby_control`](crate::Config::lobby_control) on.
    Change {
        /// The lobby's code.
        lobby: String,
        /// The change.
        change: LobbyChange,
    },
    /// Creates a lobby, with [`lobby_control`](crate::Config::lobby_control) on.
    Create(NewLobby),
    /// Drains the server, as [`Engine::handle_drain`](crate::Engine::handle_drain) does.
    Drain,
    /// Changes the game clock. The protocol, keep-alive and all timeouts are not affected.
    Clock(ClockCommand),
}

impl OperatorCommand {
    /// Returns the command that sends a payload to all members of a lobby.
    pub fn publish(lobby: impl Into<String>, payload: Payload) -> OperatorCommand {
        OperatorCommand::Publish { lobby: lobby.into(), payload, exclude: Vec::new(), idempotency_key: None }
    }
}

/// Payload of an operator's message.
///
/// [`OperatorCommand`] has an example.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Payload {
    /// JSON. With [`Protocol::Json`](super::member::Protocol::Json) it is checked, and sent as the `data` of a `message` or `direct` whose `from` is `null`. With
    /// [`Protocol::Raw`](super::member::Protocol::Raw) it is sent unchanged as a text message.
    Json(String),
    /// Text, sent unchanged as a text message. Allowed only with [`Protocol::Raw`](super::member::Protocol::Raw).
    Text(String),
}

/// The connections that an operator's kick closes.
///
/// [`OperatorCommand`] has an example.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KickTarget {
    /// All connections of the user with this id.
    User(String),
    /// All connections in the lobby with this code.
    Lobby(String),
    /// The connections of all members.
    All,
}

/// Result of an [`OperatorCommand`].
///
/// [`OperatorCommand`] has an example.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum OperatorAnswer {
    /// The payload was published or sent.
    Sent {
        /// The `seq` of the `message` in its lobby; `None` for a direct message, for a message with excluded users, and with
        /// [`Protocol::Raw`](super::member::Protocol::Raw).
        seq: Option<u64>,
        /// Numbers of receivers: queued, dropped, excluded.
        sent: Sent,
        /// Whether nothing was sent, because the same was published before under the same idempotency key. `seq` and `sent`
        /// are those of that time.
        repeated: bool,
    },
    /// In a cluster: the command is on its way to the log that all nodes execute.
    /// [`Engine::poll_operator`](crate::Engine::poll_operator) will return its answer, with this number as ticket.
    Submitted(u64),
    /// The ping was sent. [`Engine::poll_operator`](crate::Engine::poll_operator) will return its report, with this number as ticket.
    Pinged(u64),
    /// This many connections will be closed: the first `drain_batch` at once, the rest in batches.
    Ending(usize),
    /// Whether the lobby is locked now.
    Locked(bool),
    /// Data, settings or the host were changed.
    Changed {
        /// The `seq` of the message that all members are sent.
        seq: u64,
    },
    /// The ban has ended.
    Unbanned,
    /// A lobby was created.
    Created {
        /// Its code.
        lobby: String,
        /// Its epoch.
        epoch: u64,
    },
    /// The server is draining, with these totals so far.
    Draining(DrainTotals),
    /// The state of the game clock after the command.
    Clock(ClockView),
}

/// Why an [`OperatorCommand`] was not carried out.
///
/// [`OperatorCommand`] has an example.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum OperatorRefusal {
    /// No lobby with that code exists.
    NoSuchLobby,
    /// The user has no connection.
    NoSuchUser,
    /// The payload is plain text, which the JSON protocol cannot carry.
    NotJson,
    /// The payload is longer than `max_message_bytes`.
    TooLong,
    /// The payload is not valid JSON, is nested deeper than `max_json_depth` allows in a member's `broadcast`, has a
    /// string with an escape for half of a surrogate pair, or a number beyond the largest finite double. Only with
    /// [`Protocol::Json`](super::member::Protocol::Json).
    BadMessage,
    /// The idempotency key is empty or longer than 64 bytes.
    BadKey,
    /// Something else was published to the lobby under the idempotency key.
    KeyReused,
    /// [`lobby_control`](crate::Config::lobby_control) is off.
    ControlOff,
    /// The lobby has no member in that seat, or it cannot be the host.
    NoSuchMember,
    /// The user is not banned from the lobby.
    NotBanned,
    /// Data, settings or the description of a new lobby are not valid. The sentence names the rule.
    Invalid(String),
    /// A bound has no room for the data. The sentence names the bound.
    TooLarge(String),
    /// One of the keys has changed since the `seq` of the condition.
    Conflict {
        /// The `seq` of the newest change of these keys.
        seq: u64,
        /// JSON object with their values; `null` for a key without a value.
        data: String,
    },
    /// A lobby with the code exists.
    LobbyExists,
    /// There are `max_lobbies`.
    LobbyLimit,
    /// The server is draining.
    Draining,
    /// Too many pings or commands wait for their answers, or for their reports to be taken.
    Busy,
    /// The node is not attached to its cluster, or Redis does not answer. The command was not carried out.
    Unavailable,
    /// The command was not seen in the log of the cluster within [`admin_timeout`](crate::Config::admin_timeout), or the
    /// node was detached from the cluster. It may have been carried out, or may still be.
    OutcomeUnknown,
    /// `tick_hz` is off.
    NoTicks,
    /// The clock is running. Only a paused clock can be stepped.
    ClockRuns,
    /// The number is out of range: 1 to 100 for the steps that have still to run, 1 to 1000 for the slowdown.
    OutOfRange,
}

impl fmt::Display for OperatorRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            OperatorRefusal::NoSuchLobby => "no lobby of that code exists",
            OperatorRefusal::NoSuchUser => "the user is not connected",
            OperatorRefusal::NotJson => "the members speak JSON: send `data` in place of `text`",
            OperatorRefusal::TooLong => "that is more than max_message_bytes",
            OperatorRefusal::BadMessage => {
                "some members could not read this JSON: it is invalid, nested deeper than max_json_depth, or has half of a \
                 surrogate pair or a number beyond the largest double"
            }
            OperatorRefusal::BadKey => "idempotency_key must have 1 to 64 bytes",
            OperatorRefusal::KeyReused => "another message was published to this lobby under this idempotency_key",
            OperatorRefusal::ControlOff => "lobby_control is off",
            OperatorRefusal::NoSuchMember => "the lobby has no such member, or it cannot be the host",
            OperatorRefusal::NotBanned => "the user is not banned from this lobby",
            OperatorRefusal::Invalid(why) | OperatorRefusal::TooLarge(why) => why,
            OperatorRefusal::Conflict { .. } => "the data has changed since; read seq and data, and try again",
            OperatorRefusal::LobbyExists => "a lobby of that code exists",
            OperatorRefusal::LobbyLimit => "there are max_lobbies lobbies",
            OperatorRefusal::Draining => "the server is draining",
            OperatorRefusal::Busy => "too many commands wait for their answers",
            OperatorRefusal::Unavailable => "the cluster does not answer: try again later",
            OperatorRefusal::OutcomeUnknown => "the cluster has not answered: the command may have been carried out",
            OperatorRefusal::NoTicks => "there is no clock to set: tick_hz is off",
            OperatorRefusal::ClockRuns => "pause the clock before you step it",
            OperatorRefusal::OutOfRange => "ticks must be from 1 to 100 until they have run, factor from 1 to 1000",
        })
    }
}

impl Error for OperatorRefusal {}

/// A report that [`Engine::poll_operator`](crate::Engine::poll_operator) returns.
///
/// No example: it takes a client that answers a ping, or a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum OperatorReport {
    /// A ping has ended.
    Pinged(PingReport),
    /// A command that was [submitted](OperatorAnswer::Submitted) was carried out or refused.
    Answered {
        /// The number from [`OperatorAnswer::Submitted`].
        ticket: u64,
        /// The answer, as [`Engine::handle_operator`](crate::Engine::handle_operator) returns it without a cluster.
        answer: Result<OperatorAnswer, OperatorRefusal>,
    },
}

/// Result of an operator's ping.
///
/// No example: a report takes a client that answers the ping.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PingReport {
    /// The number from [`OperatorAnswer::Pinged`].
    pub ticket: u64,
    /// The id of the pinged user.
    pub user: String,
    /// For each of the user's seats the latency, or `None` if the page did not answer in time. In a cluster the node with the connection
    /// has measured it, and its result must be in the log in time.
    pub answers: Vec<(SeatId, Option<Duration>)>,
}

/// One page of a list.
///
/// [`OperatorCommand`] has an example.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page<T> {
    /// Items in a fixed order. An item that exists while all pages are requested is on exactly one of them.
    pub items: Vec<T>,
    /// The value of `after` for the next page; `None` on the last page.
    pub next: Option<u64>,
}

/// The order of a sorted list.
///
/// ```
/// use lobbyd::apps::Relay;
/// use lobbyd::driver::Start;
/// use lobbyd::operator::{Order, SortLobbies};
/// use lobbyd::sim::wire;
/// use lobbyd::{Config, Engine, Time};
///
/// let (config, start) = (Config::default().check()?, Start { unix_micros: 0, seed: 1 });
/// let (mut engine, now) = (Engine::new(config, start, Relay::default()), Time::ZERO);
/// for path in ["/ws/go?token=ann", "/ws/chess?token=bob", "/ws/chess?token=cid"] {
///     let conn = engine.handle_accept(now, "127.0.0.1:4000".parse().unwrap()).unwrap();
///     engine.handle_bytes(now, conn, &wire::upgrade_request(path, &[]));
/// }
/// let order = Order { by: SortLobbies::Members, is_descending: true };
/// let page = engine.sorted_lobbies("", order, 0, 1).expect("there are few lobbies");
/// assert_eq!((page.items[0].code.as_str(), page.items[0].members, page.next), ("chess", 2, Some(1)));
/// # Ok::<(), lobbyd::config::Problems>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Order<B> {
    /// Sort key of the entries.
    pub by: B,
    /// Whether the largest value comes first.
    pub is_descending: bool,
}

/// Sort key of lobbies.
///
/// [`Order`] has an example.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SortLobbies {
    /// The number of members.
    Members,
    /// The number of members that are away.
    Away,
    /// The last sequence number.
    Seq,
    /// The time since the lobby was created.
    Age,
}

/// Sort key of the members of a lobby.
///
/// They are sorted as lobbies are: [`Order`] has an example.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SortMembers {
    /// The bytes that are queued for the connection.
    Queued,
    /// The time since something was heard.
    Idle,
}

/// A lobby, as an operator sees it.
///
/// [`OperatorCommand`] has an example.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LobbyView {
    /// The lobby's code.
    pub code: String,
    /// Number of members, present and away.
    pub members: usize,
    /// Number of members whose connection was lost and whose seat is kept.
    pub away: usize,
    /// Whether the lobby is locked against new members.
    pub locked: bool,
    /// Epoch of the lobby. Each newly created lobby has another.
    pub epoch: u64,
    /// The lobby's last sequence number.
    pub seq: u64,
    /// With [`lobby_control`](crate::Config::lobby_control) on.
    pub control: Option<ControlSummary>,
}

/// A member, as an operator sees it.
///
/// [`OperatorCommand`] has an example.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SeatView {
    /// The user's id.
    pub user: String,
    /// The lobby's code.
    pub lobby: String,
    /// Id of the seat: the `conn` field of the protocol.
    pub seat: SeatId,
    /// Whether it watches: it receives what the lobby is sent, and is no member for the others.
    pub is_watcher: bool,
    /// Data of the member as a JSON object, with [`lobby_control`](crate::Config::lobby_control) on.
    pub data: Option<String>,
    /// Whether the connection was lost and the seat is kept. The following is about that connection then.
    pub away: bool,
    /// In a cluster: the name of the node that has the connection. `None` if that node has ended.
    pub node: Option<String>,
    /// Remote end of the connection: behind a proxy that of the proxy. This and the following are `None` for a connection of another
    /// node, and for an away seat in a cluster.
    pub peer: Option<Peer>,
    /// The client's address: see [`Request::address`](crate::Request::address).
    pub address: Option<IpAddr>,
    /// Bytes that wait to be written to the connection.
    pub queued_bytes: Option<usize>,
    /// Time since bytes were last received from the connection.
    pub idle: Option<Duration>,
}
