//! Whether an application has lobby control, and the check of a configuration for an application.

use super::LobbyControl;
use crate::config::{CheckedConfig, Config, Problems};
use crate::engine::app::{App, Protocol};

/// Whether the lobbies of `A` have lobby control with `config`.
pub(crate) fn has_lobby_control<A: App>(config: &Config) -> bool {
    match (A::PROTOCOL, A::LOBBY_CONTROL) {
        (Protocol::Raw, _) | (Protocol::Json, LobbyControl::Off) => false,
        (Protocol::Json, LobbyControl::On) => true,
        (Protocol::Json, LobbyControl::ByConfig) => config.lobby_control,
    }
}

impl Config {
    /// Sets [`lobby_control`](Self::lobby_control) to what [`App::LOBBY_CONTROL`] says, and checks the configuration as
    /// [`check`](Self::check) does. The rules and [`worst_case_memory`](Self::worst_case_memory) depend on it.
    /// [`Server::bind`](crate::net::Server::bind) calls it.
    ///
    /// # Errors
    ///
    /// All problems at once, as with [`check`](Self::check).
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use lobbyd::control::LobbyControl;
    /// use lobbyd::{App, Authorization, Config, Context, Member, Message, Protocol, Request};
    ///
    /// struct Game;
    ///
    /// impl App for Game {
    ///     const PROTOCOL: Protocol = Protocol::Json;
    ///     const LOBBY_CONTROL: LobbyControl = LobbyControl::On;
    ///
    ///     fn authorize(&mut self, _: &mut Context<'_>, request: &Request<'_>) -> Authorization {
    ///         Authorization::token_is_user(request)
    ///     }
    ///
    ///     fn on_message(&mut self, _: &mut Context<'_>, _: &Member, _: Message<'_>) {}
    /// }
    ///
    /// assert!(Config::default().check_for::<Game>()?.lobby_control);
    ///
    /// let config = Config { seat_grace: Duration::ZERO, ..Config::default() };
    /// let problems = config.check_for::<Game>().unwrap_err();
    /// assert_eq!(problems[0].to_string(), "lobby_control = on: needs sessions: set seat_grace above 0");
    /// # Ok::<(), lobbyd::config::Problems>(())
    /// ```
    pub fn check_for<A: App>(self) -> Result<CheckedConfig, Problems> {
        Config { lobby_control: has_lobby_control::<A>(&self), ..self }.check()
    }
}

impl CheckedConfig {
    /// Returns the configuration for an application. Panics if it was checked without lobby control and is invalid with it.
    pub(in crate::engine) fn fitted_to<A: App>(self) -> CheckedConfig {
        if self.lobby_control == has_lobby_control::<A>(&self) {
            return self;
        }
        self.into_config().check_for::<A>().unwrap_or_else(|problems| {
            panic!("check it with Config::check_for, because App::LOBBY_CONTROL changes lobby_control: {problems}")
        })
    }
}
