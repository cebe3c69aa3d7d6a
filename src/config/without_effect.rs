//! Fields that have no effect, because another field switches their feature off.

use super::check::Problem;
use super::fields::Config;
use super::listen::Listen;
use super::types::DuplicateLogin;
use crate::base::limit::Limit;

/// Whether a feature is off, the cause, and the fields that have no effect then.
type Dependency = (bool, &'static str, &'static [&'static str]);

impl Config {
    /// Returns the fields that differ from their default but have no effect, because another field switches their
    /// feature off. [`Server::bind`](crate::net::Server::bind) logs a warning for each of them.
    ///
    /// ```
    /// use lobbyd::Config;
    ///
    /// let config = Config { journal_sync: true, ..Config::default() };
    /// assert_eq!(config.without_effect()[0].to_string(), "journal_sync = on: has no effect while journal is off");
    /// ```
    pub fn without_effect(&self) -> Vec<Problem> {
        let unlimited = |limit: Limit| limit == Limit::UNLIMITED;
        let dependencies: &[Dependency] = &[
            (
                self.admin.is_none(),
                "admin is off",
                &[
                    "admin_token_file",
                    "admin_host",
                    "max_admin_connections",
                    "max_admin_pending",
                    "admin_timeout",
                    "max_event_readers",
                ],
            ),
            (
                self.journal.is_none(),
                "journal is off",
                &["journal_max_bytes", "journal_sync", "journal_on_error", "journal_secrets"],
            ),
            (
                self.cluster.is_none(),
                "cluster is off",
                &[
                    "node",
                    "node_url",
                    "cluster_namespace",
                    "cluster_lease",
                    "cluster_log_entries",
                    "cluster_log_bytes",
                    "cluster_queue_bytes",
                    "cluster_state_bytes",
                ],
            ),
            (self.trusted_proxies == 0, "trusted_proxies is 0", &["forwarded_header"]),
            (!self.has_socket_file(), "listen and admin name no socket file", &["listen_mode"]),
            (
                !self.has_tls(),
                "listen and admin have no address with tls:",
                &["tls_cert", "tls_key", "tls_handshakes_per_turn"],
            ),
            (self.tick_hz.is_none(), "tick_hz is off", &["max_catch_up_ticks", "max_inbox_bytes"]),
            (
                self.seat_grace.is_zero(),
                "seat_grace is 0",
                &["away_after", "history_frames", "history_bytes", "direct_frames", "direct_bytes", "max_unanswered"],
            ),
            (self.health_interval.is_none(), "health_interval is off", &["health_timeout"]),
            (self.duplicate_login != DuplicateLogin::Allow, "duplicate_login is not allow", &["max_per_user"]),
            (unlimited(self.attempts_per_minute), "attempts_per_minute is unlimited", &["attempt_burst"]),
            (unlimited(self.messages_per_second), "messages_per_second is unlimited", &["message_burst"]),
            (
                unlimited(self.user_messages_per_second.or(self.messages_per_second)),
                "user_messages_per_second is unlimited",
                &["user_message_burst"],
            ),
            (unlimited(self.bytes_per_second), "bytes_per_second is unlimited", &["byte_burst"]),
            (
                unlimited(self.user_bytes_per_second.or(self.bytes_per_second)),
                "user_bytes_per_second is unlimited",
                &["user_byte_burst"],
            ),
            (unlimited(self.control_per_second), "control_per_second is unlimited", &["control_burst"]),
        ];
        let of_hook = self.hook_dependencies();
        let unused = dependencies.iter().chain(&of_hook).filter(|(is_off, ..)| *is_off);
        unused
            .flat_map(|(_, cause, fields)| fields.iter().map(move |field| (cause, *field)))
            .map(|(cause, field)| Problem {
                field,
                value: self.value_of(field),
                rule: format!("has no effect while {cause}"),
            })
            .filter(|problem| problem.value != Config::default().value_of(problem.field))
            .collect()
    }

    fn hook_dependencies(&self) -> [Dependency; 4] {
        [
            (
                self.hook.is_none(),
                "hook is off",
                &[
                    "hook_secret_file",
                    "hook_events",
                    "hook_headers",
                    "hook_timeout",
                    "hook_on_failure",
                    "max_hook_calls",
                    "hook_batch_events",
                    "hook_batch_wait",
                ],
            ),
            (self.jwt_jwks_url.is_none(), "jwt_jwks_url is off", &["jwt_jwks_refresh"]),
            (
                self.hook.is_none() && self.jwt_jwks_url.is_none(),
                "hook and jwt_jwks_url are off",
                &["hook_ca_file", "max_hook_questions"],
            ),
            (self.hook.is_none() && self.admin.is_none(), "hook and admin are off", &["max_kept_events"]),
        ]
    }

    fn has_socket_file(&self) -> bool {
        self.listen.has_socket_file() || self.admin.as_ref().is_some_and(Listen::has_socket_file)
    }
}
