//! Operators' commands of lobby control, as plain data.

use std::fmt;
use std::time::Duration;

use crate::base::id::SeatId;

/// A change of a lobby by an operator. With [`lobby_control`](crate::Config::lobby_control) on.
///
/// [`NewLobby`] has an example.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LobbyChange {
    /// Changes data of the lobby or of a member, as a member's `set` does.
    Data {
        /// The seat of the member; `None` for the lobby.
        of: Option<SeatId>,
        /// Changes only if none of the keys has changed since this `seq`.
        if_seq: Option<u64>,
        /// JSON object with the new values: `null` deletes a key.
        data: String,
    },
    /// Changes settings of the lobby.
    Settings(SettingsText),
    /// Makes the member in a seat the host.
    Host(SeatId),
    /// Bans a user, and closes its connections in the lobby with 4003 `banned`.
    Ban(String),
    /// Ends the ban of a user.
    Unban(String),
}

/// Settings of a lobby as a JSON object, as in the `settings` of a member. `Debug` shows none of them: a password may be
/// among them.
///
/// [`NewLobby`] has an example.
#[derive(Clone, PartialEq, Eq)]
pub struct SettingsText(pub String);

impl fmt::Debug for SettingsText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SettingsText({} bytes)", self.0.len())
    }
}

/// A lobby that an operator creates, with seats that are kept for users, as for the players of a match. With
/// [`lobby_control`](crate::Config::lobby_control) on.
///
/// ```
/// use std::time::Duration;
///
/// use lobbyd::apps::Relay;
/// use lobbyd::driver::Start;
/// use lobbyd::operator::{LobbyChange, NewLobby, OperatorAnswer, OperatorCommand, SettingsText};
/// use lobbyd::{Config, Engine, Time};
///
/// let config = Config { lobby_control: true, ..Config::default() }.check()?;
/// let (mut engine, now) = (Engine::new(config, Start { unix_micros: 0, seed: 1 }, Relay::default()), Time::ZERO);
/// let new = NewLobby {
///     code: Some("match-7".into()),
///     seats: vec!["ann".into(), "bob".into()],
///     settings: Some(SettingsText(r#"{"max":2}"#.into())),
///     ..NewLobby::new(Duration::from_secs(60))
/// };
/// let created = engine.handle_operator(now, OperatorCommand::Create(new));
/// assert!(matches!(created, Ok(OperatorAnswer::Created { lobby, .. }) if lobby == "match-7"));
/// assert_eq!(engine.lobby_control("match-7").unwrap().reserved, ["ann", "bob"]);
///
/// let change = LobbyChange::Data { of: None, if_seq: None, data: r#"{"map":"dust"}"#.into() };
/// let changed = engine.handle_operator(now, OperatorCommand::Change { lobby: "match-7".into(), change });
/// assert_eq!(changed, Ok(OperatorAnswer::Changed { seq: 1 }));
/// # Ok::<(), lobbyd::config::Problems>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewLobby {
    /// Its code; `None` for a new one, as under `/ws/~new`.
    pub code: Option<String>,
    /// Users for which seats are kept. Others join only if there is room beyond them.
    pub seats: Vec<String>,
    /// Settings that differ from the defaults.
    pub settings: Option<SettingsText>,
    /// Data of the lobby, as a JSON object.
    pub data: Option<String>,
    /// Time for which the seats are kept. If the lobby has no members then, it is removed as any empty lobby.
    pub ttl: Duration,
    /// The pool whose clients may join it, with as many seats as the setting `max`: see `/ws/~quick/{pool}`.
    pub pool: Option<String>,
}

impl NewLobby {
    /// A lobby without a code of its own, seats, settings and data, that exists for `ttl`.
    pub fn new(ttl: Duration) -> NewLobby {
        NewLobby { code: None, seats: Vec::new(), settings: None, data: None, ttl, pool: None }
    }
}

/// Lobby-control state of a lobby, for operators: see [`Engine::lobby_control`](crate::Engine::lobby_control).
///
/// [`NewLobby`] has an example.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LobbyControlView {
    /// The seat of the host. It may have been freed, while no other member could become the host.
    pub host: Option<SeatId>,
    /// The settings, as the JSON object that members see: with `has_password` in place of the password.
    pub settings: String,
    /// The data of the lobby, as a JSON object.
    pub data: String,
    /// Banned users, oldest ban first.
    pub bans: Vec<String>,
    /// When the lobby starts, in milliseconds since the Unix epoch, while it counts down.
    pub countdown: Option<u64>,
    /// Users for which a seat is kept that they have not taken.
    pub reserved: Vec<String>,
    /// Time until these seats, and the lobby, expire.
    pub reserved_for: Option<Duration>,
}

/// Additional fields of a lobby in a list, with lobby control on.
///
/// No example of its own: it is part of [`LobbyView`](crate::operator::LobbyView).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ControlSummary {
    /// Number of watchers, present and away.
    pub watchers: u32,
    /// Whether it is in the public list while it can be joined.
    pub is_listed: bool,
    /// Its name, if it has one.
    pub name: Option<String>,
    /// Whether it has a password.
    pub has_password: bool,
    /// Number of seats that are kept for users and not taken.
    pub reserved: usize,
}
