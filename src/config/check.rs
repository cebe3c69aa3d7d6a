//! Rules for the values of fields, and fields that have no effect.

use std::fmt;
use std::ops::Deref;
use std::path::{Path, is_separator};
use std::time::Duration;
use std::vec;

use super::fields::Config;
use super::listen::Listen;
use super::types::{ByteSize, Flush, Form};
use super::value::Value;
use crate::base::forwarded_header::ForwardedHeader;
use crate::base::limit::{Limit, MAX_HEADER_LINES};

const SECOND: Duration = Duration::from_secs(1);
const DAY: Duration = Duration::from_secs(24 * 3600);
const YEAR: Duration = Duration::from_secs(8760 * 3600);

/// A configuration that has passed [`Config::check`]. It can be read like a [`Config`], but not changed.
///
/// ```
/// use lobbyd::apps::Echo;
/// use lobbyd::driver::Start;
/// use lobbyd::{Config, Engine};
///
/// let config = Config::default().check()?;
/// let engine = Engine::new(config, Start { unix_micros: 0, seed: 1 }, Echo);
/// assert_eq!(engine.config().message_burst, 120);
/// # Ok::<(), lobbyd::config::Problems>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct CheckedConfig(Config);

impl CheckedConfig {
    /// Returns the configuration, to be changed and checked again.
    pub fn into_config(self) -> Config {
        self.0
    }

    /// Returns the configuration with lobby control on or off, which may be invalid.
    #[cfg(test)]
    pub(crate) fn with_lobby_control(self, is_on: bool) -> CheckedConfig {
        CheckedConfig(Config { lobby_control: is_on, ..self.0 })
    }
}

impl Deref for CheckedConfig {
    type Target = Config;

    fn deref(&self) -> &Config {
        &self.0
    }
}

/// All problems of a configuration: the error of [`Config::check`].
///
/// ```
/// use lobbyd::Config;
///
/// let problems = Config { max_pending: 0, ..Config::default() }.check().unwrap_err();
/// assert_eq!(problems.len(), 1);
/// assert_eq!(problems[0].field, "max_pending");
/// assert!(problems.to_string().starts_with("invalid configuration\n  max_pending = 0: must be from 1 to 1048576"));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problems(Vec<Problem>);

impl Deref for Problems {
    type Target = [Problem];

    fn deref(&self) -> &[Problem] {
        &self.0
    }
}

impl IntoIterator for Problems {
    type Item = Problem;
    type IntoIter = vec::IntoIter<Problem>;

    fn into_iter(self) -> vec::IntoIter<Problem> {
        self.0.into_iter()
    }
}

/// Displayed as a heading and one line for each problem.
impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("invalid configuration")?;
        self.iter().try_for_each(|problem| write!(f, "\n  {problem}"))
    }
}

impl std::error::Error for Problems {}

/// A configuration value that breaks a rule or has no effect. Displayed as one line, which does not contain the
/// value if it is a path.
///
/// See [`Problems`] and [`Config::without_effect`] for examples.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Problem {
    /// Name of the field.
    pub field: &'static str,
    /// Current value of the field.
    pub value: String,
    /// The rule that the value breaks, with the reason.
    pub rule: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_path = Config::FIELDS.iter().any(|field| field.name == self.field && field.form == Form::Path);
        match is_path {
            // It may be a secret that was given instead of the name of its file.
            true => write!(f, "{}: {}", self.field, self.rule),
            false => write!(f, "{} = {}: {}", self.field, self.value, self.rule),
        }
    }
}

impl Config {
    /// Checks that each value is in range and that the values work together.
    ///
    /// # Errors
    ///
    /// All problems at once, each with field, value, rule and reason.
    pub fn check(self) -> Result<CheckedConfig, Problems> {
        self.check_as(Purpose::Service)
    }

    /// Checks a configuration that a journal names. An older build may have accepted a burst that has no room for the longest
    /// message in a POST; such a session must replay as it ran.
    pub(crate) fn check_recorded(self) -> Result<CheckedConfig, Problems> {
        self.check_as(Purpose::Replay)
    }

    fn check_as(self, purpose: Purpose) -> Result<CheckedConfig, Problems> {
        let problems = self.problems(purpose);
        if problems.is_empty() { Ok(CheckedConfig(self)) } else { Err(Problems(problems)) }
    }

    /// Checks what cannot work if all nodes of a cluster execute the requests of all lobbies.
    pub(crate) fn check_replicated(&self) -> Result<(), Problems> {
        let mut rules = Rules { config: self, purpose: Purpose::Service, problems: Vec::new() };
        rules.check_replicated();
        if rules.problems.is_empty() { Ok(()) } else { Err(Problems(rules.problems)) }
    }

    fn problems(&self, purpose: Purpose) -> Vec<Problem> {
        let mut rules = Rules { config: self, purpose, problems: Vec::new() };
        rules.check_timeouts();
        rules.check_ticks();
        rules.check_counts();
        rules.check_sessions();
        rules.check_lobby_control();
        rules.check_listen();
        rules.check_tls();
        rules.check_deflate();
        rules.check_admin();
        rules.check_access();
        rules.check_hook();
        rules.check_sizes();
        rules.check_journal();
        rules.check_marks();
        rules.check_bursts();
        rules.check_drain();
        rules.check_outbox();
        rules.check_cluster();
        rules.problems
    }
}

/// Use of a configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    Service,
    /// Replay of a session that was recorded with it, possibly by an older build.
    Replay,
}

/// The problems found so far. Problems are reported in the order of the calls.
pub(super) struct Rules<'a> {
    pub(super) config: &'a Config,
    pub(super) purpose: Purpose,
    problems: Vec<Problem>,
}

impl Rules<'_> {
    pub(super) fn require(&mut self, holds: bool, field: &'static str, rule: impl Into<String>) {
        if !holds {
            self.problems.push(Problem { field, value: self.config.value_of(field), rule: rule.into() });
        }
    }

    fn check_timeouts(&mut self) {
        let config = self.config;
        let granule = config.wheel_granule;
        for (field, span) in [
            ("handshake_timeout", config.handshake_timeout),
            ("auth_timeout", config.auth_timeout),
            ("ping_interval", config.ping_interval),
            ("pong_timeout", config.pong_timeout),
            ("close_timeout", config.close_timeout),
            ("linger_timeout", config.linger_timeout),
            ("health_timeout", config.health_timeout),
            ("drain_deadline", config.drain_deadline),
            ("admin_timeout", config.admin_timeout),
            ("drain_batch_interval", config.drain_batch_interval),
        ] {
            let rule = format!("must be at least wheel_granule ({granule:?}), the resolution of all timeouts");
            self.require(span >= granule, field, rule);
            self.require(span <= DAY, field, "must be at most 24h");
        }
        let is_possible = (Duration::from_millis(1)..=SECOND).contains(&granule);
        self.require(is_possible, "wheel_granule", "must be from 1ms to 1s");
        let rule = format!(
            "must be shorter than ping_interval ({:?}), or a ping is sent while the previous one is unanswered",
            config.ping_interval
        );
        self.require(config.pong_timeout < config.ping_interval, "pong_timeout", rule);
        let rule =
            format!("must be at least health_timeout ({:?}), or checks of a page overlap", config.health_timeout);
        let overlap = config.health_interval.is_some_and(|interval| interval < config.health_timeout);
        self.require(!overlap, "health_interval", rule);
        let is_short = config.max_lifetime.is_some_and(|age| age < SECOND);
        self.require(!is_short, "max_lifetime", "must be at least 1s, or off");
        let is_possible = config.presence_count_interval.is_none_or(|interval| interval >= Duration::from_millis(1));
        self.require(is_possible, "presence_count_interval", "must be at least 1ms, or off");
        for (field, span) in [
            ("max_lifetime", config.max_lifetime),
            ("token_grace", Some(config.token_grace)),
            ("health_interval", config.health_interval),
            ("presence_count_interval", config.presence_count_interval),
            ("stats_interval", config.stats_interval),
        ] {
            self.require(span.is_none_or(|span| span <= YEAR), field, "must be at most 8760h (one year)");
        }
    }

    fn check_ticks(&mut self) {
        let config = self.config;
        let is_possible = config.tick_hz.is_none_or(|hz| (1..=1000).contains(&hz));
        self.require(is_possible, "tick_hz", "must be from 1 to 1000, or off");
        let rule = "must be turn while tick_hz is off, since no tick would send the frames";
        self.require(config.flush == Flush::Turn || config.tick_hz.is_some(), "flush", rule);
        let rule = "must be at most 1000, since late ticks run in one turn of the loop";
        self.require(config.max_catch_up_ticks <= 1000, "max_catch_up_ticks", rule);
    }

    /// Checks values that have no other rule than a range that applies to several fields.
    fn check_counts(&mut self) {
        let config = self.config;
        self.require(config.stats_interval != Some(Duration::ZERO), "stats_interval", "must be above 0, or off");
        for (field, count) in [
            ("max_pending", config.max_pending),
            ("max_closing", config.max_closing),
            ("max_headers", config.max_headers),
            ("accept_per_turn", config.accept_per_turn),
            ("tls_handshakes_per_turn", config.tls_handshakes_per_turn),
            ("events_per_turn", config.events_per_turn),
            ("max_commands", config.max_commands),
            ("max_health_pings", config.max_health_pings),
            ("drain_batch", config.drain_batch),
            ("max_admin_connections", config.max_admin_connections),
            ("max_admin_pending", config.max_admin_pending),
        ] {
            let is_possible = (1..=1 << 20).contains(&count);
            self.require(is_possible, field, "must be from 1 to 1048576; with 0 the server could not work");
        }
        let is_possible = config.max_json_depth != Limit::at_most(0);
        self.require(is_possible, "max_json_depth", "must be at least 1, since every message is an object");
        for (field, count, most) in [
            // No request head has room for more entries.
            ("trusted_proxies", config.trusted_proxies, 1 << 16),
            ("max_overflow", config.max_overflow, 1 << 20),
            // Each remembered entry takes up to REMEMBERED_BYTES.
            ("max_remembered_rates", config.max_remembered_rates, 1 << 24),
        ] {
            self.require(count <= most, field, format!("must be at most {most}"));
        }
        for (field, bytes) in [
            ("max_outbound_bytes", config.max_outbound_bytes),
            ("outbound_high_mark", config.outbound_high_mark),
            ("max_inbox_bytes", config.max_inbox_bytes),
            ("max_linger_bytes", config.max_linger_bytes),
        ] {
            self.require(bytes.0 <= 2 << 30, field, "must be at most 2048MiB");
        }
        for (field, burst) in
            [("byte_burst", config.byte_burst), ("user_byte_burst", config.user_byte_burst.or(ByteSize(0)))]
        {
            self.require(u32::try_from(burst.0).is_ok(), field, "must be below 4096MiB");
        }
    }

    fn check_listen(&mut self) {
        let config = self.config;
        for (field, listen) in [("listen", Some(&config.listen)), ("admin", config.admin.as_ref())] {
            let rule = listen.and_then(Listen::broken_rule);
            self.require(rule.is_none(), field, rule.unwrap_or_default());
        }
        let is_mode = config.listen_mode.0 <= 0o777 && config.listen_mode.0 & 0o222 != 0;
        self.require(
            is_mode,
            "listen_mode",
            "must be from 002 to 777 and permit somebody to write, which connecting needs",
        );
    }

    fn check_admin(&mut self) {
        let config = self.config;
        self.require(config.max_admin_connections <= 1024, "max_admin_connections", "must be at most 1024");
        self.require(config.max_admin_pending <= 1024, "max_admin_pending", "must be at most 1024");
        self.require(config.max_seats_ttl <= DAY, "max_seats_ttl", "must be at most 24h");
        let rule = "must be from 1 to 4096; with 0 no repeated message would be recognized";
        self.require((1..=4096).contains(&config.max_idempotency_keys), "max_idempotency_keys", rule);
        let is_exposed = config.admin.as_ref().is_some_and(|admin| !admin.is_local());
        self.require(
            !is_exposed || config.admin_token_file.is_some(),
            "admin",
            "must be loopback addresses such as 127.0.0.1:9002, or socket files, or admin_token_file must be set: without \
             a token, every client that reaches the address can kick all members",
        );
        let shared = config.admin.as_ref().and_then(|admin| admin.overlap(&config.listen));
        let rule = "must differ from listen: the admin API needs an address of its own";
        self.require(shared.is_none(), "admin", rule);
    }

    /// Checks how pages, operators and proxies are recognized.
    fn check_access(&mut self) {
        let problems = self.config.admin_host.problems();
        problems.into_iter().for_each(|rule| self.require(false, "admin_host", rule));
        let problems = self.config.allowed_origin.problems();
        problems.into_iter().for_each(|rule| self.require(false, "allowed_origin", rule));
        let is_one_entry = self.config.forwarded_header == ForwardedHeader::XRealIp;
        let rule = "must be 1 with forwarded_header = x-real-ip, which has one address: that of the peer of the proxy that sets \
                    it. With several proxies use x-forwarded-for or forwarded";
        self.require(!is_one_entry || self.config.trusted_proxies <= 1, "trusted_proxies", rule);
    }

    fn check_sizes(&mut self) {
        let config = self.config;
        let rule = format!("must be at most {MAX_HEADER_LINES}");
        self.require(config.max_headers <= MAX_HEADER_LINES, "max_headers", rule);
        self.require(
            (256..=1 << 20).contains(&config.max_header_bytes.0),
            "max_header_bytes",
            "must be from 256 to 1MiB; a browser's request head has about 600 bytes",
        );
        self.require(
            (125..=1 << 30).contains(&config.max_message_bytes.0),
            "max_message_bytes",
            "must be from 125, the longest control frame, to 1024MiB",
        );
        self.require(config.max_identity_bytes.0 <= 1 << 20, "max_identity_bytes", "must be at most 1MiB");
        for (field, size) in [
            ("receive_buffer_bytes", config.receive_buffer_bytes),
            ("work_per_turn", config.work_per_turn),
            ("work_per_receive", config.work_per_receive),
        ] {
            self.require((1 << 10..=1 << 30).contains(&size.0), field, "must be from 1KiB to 1024MiB");
        }
        self.require(
            config.socket_receive_bytes.is_none_or(|bytes| (1 << 12..=1 << 30).contains(&bytes.0)),
            "socket_receive_bytes",
            "must be from 4KiB to 1024MiB, or off",
        );
    }

    fn check_journal(&mut self) {
        let config = self.config;
        self.require(
            config.journal.is_none() || config.receive_buffer_bytes <= ByteSize(16 << 20),
            "receive_buffer_bytes",
            "must be at most 16MiB while journal is on",
        );
        self.require(
            config.journal.as_deref().is_none_or(names_file),
            "journal",
            "must name a file, not a folder: the segments of a journal `session` are session.000001 and so on",
        );
        self.require(
            config.journal_max_bytes.is_none_or(|max| max >= ByteSize::kib(16)),
            "journal_max_bytes",
            "must be at least 16KiB, or off: the header of each segment takes part of it",
        );
    }

    fn check_marks(&mut self) {
        let (low, high) = (self.config.outbound_low_mark, self.config.outbound_high_mark);
        let rule = format!("must be below outbound_high_mark ({high}), or a frame could cross both");
        self.require(low < high, "outbound_low_mark", rule);
    }

    fn check_drain(&mut self) {
        let config = self.config;
        let batches = config.max_connections.bound().unwrap_or(0).div_ceil(config.drain_batch.max(1));
        let batches_span = config.drain_batch_interval.saturating_mul(batches.saturating_sub(1));
        let rule = format!(
            "must be longer than {batches_span:?}, the time to close max_connections ({}) in batches of drain_batch ({}) \
             every drain_batch_interval ({:?})",
            config.max_connections.show(),
            config.drain_batch,
            config.drain_batch_interval
        );
        self.require(batches_span < config.drain_deadline, "drain_deadline", rule);
    }
}

fn names_file(path: &Path) -> bool {
    let last = path.as_os_str().as_encoded_bytes().last();
    path.file_name().is_some() && !last.is_some_and(|&last| is_separator(last.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A burst without room for the head of a POST was accepted by builds that did not know the rule.
    #[test]
    fn a_recorded_configuration_may_have_a_burst_without_room_for_a_post() {
        let config = Config { byte_burst: ByteSize((64 << 10) + 14), ..Config::default() };
        assert_eq!(config.clone().check().expect_err("too small")[0].field, "byte_burst");
        assert_eq!(config.clone().check_recorded().map(CheckedConfig::into_config), Ok(config));
        let config = Config { byte_burst: ByteSize((64 << 10) + 13), ..Config::default() };
        config.check_recorded().expect_err("too small for a message in a frame");
    }

    #[test]
    fn check_returns_all_problems_at_once() {
        let config = Config {
            pong_timeout: Duration::from_secs(40),
            max_outbound_bytes: ByteSize(1000),
            max_pending: 0,
            ..Config::default()
        };
        let problems = config.check().expect_err("three fields are wrong");
        let fields: Vec<&str> = problems.iter().map(|problem| problem.field).collect();
        assert_eq!(fields, ["pong_timeout", "max_pending", "max_outbound_bytes"]);
        assert!(problems[0].to_string().starts_with("pong_timeout = 40s: must be shorter than ping_interval (20s)"));
    }
}
