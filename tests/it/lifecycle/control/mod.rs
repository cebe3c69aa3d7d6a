//! Members change their lobby: data, host, settings, bans and start.

mod application;
mod configured;
mod data;
mod host;
mod settings;
mod start;

use std::time::Duration;

use lobbyd::Config;

/// Lobby control is on, and lobbies may be kept without members.
pub fn on() -> Config {
    Config { lobby_control: true, max_empty_ttl: Duration::from_secs(60), ..Config::default() }
}
