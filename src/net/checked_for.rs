//! The check of a configuration for an application at the start.

use log::warn;

use super::error::Error;
use crate::config::{CheckedConfig, Config};
use crate::engine::app::App;
use crate::engine::control::configuring::has_lobby_control;

/// Checks a configuration for an application, and warns of lobby control that the application does not use: the checked
/// configuration does not show it any more.
pub(super) fn checked_for<A: App>(config: Config) -> Result<CheckedConfig, Error> {
    if config.lobby_control && !has_lobby_control::<A>(&config) {
        warn!("lobby_control = on: has no effect, because the application does not use it (App::LOBBY_CONTROL)");
    }
    config.check_for::<A>().map_err(Error::Config)
}
