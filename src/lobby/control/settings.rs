//! Settings of a lobby and the rules for their values.

use std::time::Duration;

use smol_str::SmolStr;

use crate::base::entry::PasswordHash;
use crate::base::list_query::{MAX_TAG_BYTES, MAX_TAGS};
use crate::config::{Config, Limit};

/// Longest name of a lobby, in bytes.
const MAX_NAME_BYTES: usize = 64;
/// Longest countdown.
const MAX_COUNTDOWN_MS: u64 = 3_600_000;

/// Settings of a lobby. Whether it is locked is known to the [`Lobby`](crate::lobby::directory::Lobby).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Settings {
    /// Most members, if fewer than `max_per_lobby`.
    pub(crate) max: Option<u32>,
    /// Whether it appears in the list of lobbies.
    pub(crate) listed: bool,
    pub(crate) name: Option<SmolStr>,
    /// Ordered by key.
    pub(crate) tags: Vec<(SmolStr, SmolStr)>,
    pub(crate) password: Option<PasswordHash>,
    pub(crate) write: Writers,
    /// Most watchers, if fewer than `max_watchers`.
    pub(crate) watchers: Option<u32>,
    pub(crate) start: Option<StartRule>,
    /// How long the lobby exists without members.
    pub(crate) empty_ttl: Duration,
}

/// Who may change the data of a lobby.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Writers {
    #[default]
    Host,
    All,
}

/// When a lobby starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StartRule {
    /// Least number of members.
    pub(crate) min: u32,
    /// Whether each of them must have set `ready` to true in its data.
    pub(crate) needs_ready: bool,
    pub(crate) countdown: Duration,
}

/// New values of settings; `None` for those that do not change. An inner `None` is the default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct SettingsChange {
    pub(crate) max: Option<Option<u32>>,
    pub(crate) locked: Option<bool>,
    pub(crate) listed: Option<bool>,
    pub(crate) name: Option<Option<SmolStr>>,
    pub(crate) tags: Option<Vec<(SmolStr, SmolStr)>>,
    pub(crate) password: Option<Option<PasswordHash>>,
    pub(crate) write: Option<Writers>,
    pub(crate) watchers: Option<Option<u32>>,
    pub(crate) start: Option<Option<StartRule>>,
    pub(crate) empty_ttl: Option<Duration>,
}

/// Largest values that the configuration allows.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SettingsBounds {
    pub(crate) members: Limit,
    pub(crate) watchers: u32,
    pub(crate) empty_ttl: Duration,
}

impl SettingsBounds {
    pub(crate) fn new(config: &Config) -> SettingsBounds {
        SettingsBounds { members: config.max_per_lobby, watchers: config.max_watchers, empty_ttl: config.max_empty_ttl }
    }
}

impl SettingsChange {
    /// Checks the values.
    ///
    /// # Errors
    ///
    /// A sentence with the setting, its value and the rule that it breaks.
    pub(crate) fn check(&self, bounds: SettingsBounds) -> Result<(), String> {
        let most = bounds.members.bound().unwrap_or(u32::MAX);
        if let Some(Some(max)) = self.max
            && !(1..=most).contains(&max)
        {
            return Err(format!("max is {max}: it must be from 1 to {most}"));
        }
        if let Some(Some(watchers)) = self.watchers
            && watchers > bounds.watchers
        {
            return Err(format!("watchers is {watchers}: it must be at most {}", bounds.watchers));
        }
        if let Some(Some(name)) = &self.name
            && !is_text(name, MAX_NAME_BYTES)
        {
            return Err(format!("name must have 1 to {MAX_NAME_BYTES} bytes and no control characters"));
        }
        if let Some(tags) = &self.tags {
            if tags.len() > MAX_TAGS {
                return Err(format!("tags has {} keys: it must have at most {MAX_TAGS}", tags.len()));
            }
            if !tags.iter().all(|(key, value)| is_text(key, MAX_TAG_BYTES) && is_text(value, MAX_TAG_BYTES)) {
                return Err(format!(
                    "keys and values of tags must have 1 to {MAX_TAG_BYTES} bytes and no control characters"
                ));
            }
        }
        if let Some(Some(start)) = self.start {
            if !(1..=most).contains(&start.min) {
                return Err(format!("start.min is {}: it must be from 1 to {most}", start.min));
            }
            let countdown_ms = start.countdown.as_millis();
            if countdown_ms > u128::from(MAX_COUNTDOWN_MS) {
                return Err(format!("start.countdown_ms is {countdown_ms}: it must be at most {MAX_COUNTDOWN_MS}"));
            }
        }
        if let Some(ttl) = self.empty_ttl
            && ttl > bounds.empty_ttl
        {
            let (ttl_ms, max_ms) = (ttl.as_millis(), bounds.empty_ttl.as_millis());
            return Err(format!(
                "empty_ttl_ms is {ttl_ms}: it must be at most {max_ms}, the max_empty_ttl of this server"
            ));
        }
        Ok(())
    }
}

fn is_text(text: &str, max_bytes: usize) -> bool {
    (1..=max_bytes).contains(&text.len()) && !text.chars().any(char::is_control)
}

impl Settings {
    /// Applies a change, except that of `locked`.
    pub(crate) fn apply(&mut self, change: &SettingsChange) {
        fn set<T: Clone>(value: &mut T, new: &Option<T>) {
            if let Some(new) = new {
                value.clone_from(new);
            }
        }
        let SettingsChange { max, locked: _, listed, name, tags, password, write, watchers, start, empty_ttl } = change;
        set(&mut self.max, max);
        set(&mut self.listed, listed);
        set(&mut self.name, name);
        set(&mut self.tags, tags);
        set(&mut self.password, password);
        set(&mut self.write, write);
        set(&mut self.watchers, watchers);
        set(&mut self.start, start);
        set(&mut self.empty_ttl, empty_ttl);
    }
}
