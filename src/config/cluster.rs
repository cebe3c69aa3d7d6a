//! The rules of the fields of a cluster, and which fields all nodes share.

use std::time::Duration;

use super::check::Rules;
use super::fields::Config;
use crate::base::limit::Limit;

/// Longest message in a cluster. Some of them, and their overhead, fit into one batch of the log.
const MAX_MESSAGE_BYTES: usize = 2 << 20;

/// The fields that decisions of all nodes depend on. Nodes that differed in one of them would come to different results.
const SHARED: &[&str] = &[
    "max_seats_ttl",
    "max_idempotency_keys",
    "max_connections",
    "max_per_lobby",
    "max_lobbies",
    "duplicate_login",
    "max_per_user",
    "seat_grace",
    "away_after",
    "history_frames",
    "history_bytes",
    "direct_frames",
    "direct_bytes",
    "max_unanswered",
    "lobby_control",
    "host_grace",
    "max_lobby_keys",
    "max_lobby_data",
    "max_member_keys",
    "max_member_data",
    "max_members_data",
    "max_bans",
    "max_watchers",
    "max_empty_ttl",
    "max_json_depth",
    "max_message_bytes",
    "presence_max",
    "presence_count_interval",
    "binary_sender",
    "cluster_lease",
];

/// Changes when nodes of two versions would execute the same log differently.
const LOG_VERSION: u32 = 2;

impl Config {
    /// Returns the values that all nodes of a cluster must share, as lines `field=value`.
    pub(crate) fn shared_fingerprint(&self) -> String {
        let lines = SHARED.iter().map(|field| format!("{field}={}\n", self.value_of(field)));
        format!("log_version={LOG_VERSION}\n{}", lines.collect::<String>())
    }
}

impl Rules<'_> {
    /// Checks the fields of the cluster, and which others cannot work with it.
    pub(super) fn check_cluster(&mut self) {
        let config = self.config;
        let is_possible = (Duration::from_secs(1)..=Duration::from_secs(60)).contains(&config.cluster_lease);
        self.require(is_possible, "cluster_lease", "must be from 1s to 60s");
        let is_possible = (64..=1 << 20).contains(&config.cluster_log_entries);
        self.require(is_possible, "cluster_log_entries", "must be from 64 to 1048576");
        // Half of the queue, and one more batch, must fit: a node beyond it is detached.
        for (field, bytes, least) in [
            ("cluster_log_bytes", config.cluster_log_bytes, 1),
            ("cluster_queue_bytes", config.cluster_queue_bytes, 16),
            ("cluster_state_bytes", config.cluster_state_bytes, 1),
        ] {
            let rule = format!("must be from {least}MiB to 2048MiB");
            self.require((least << 20..=2 << 30).contains(&bytes.0), field, rule);
        }
        if config.cluster.is_none() {
            return;
        }
        self.require(config.node.is_some(), "node", "must be set with cluster: each node needs a name of its own");
        let rule =
            format!("must be at most {}MiB with cluster, so that it fits into an entry", MAX_MESSAGE_BYTES >> 20);
        self.require(config.max_message_bytes.0 <= MAX_MESSAGE_BYTES, "max_message_bytes", rule);
    }

    /// Checks what cannot work if all nodes execute the requests of all lobbies. Where each lobby has a home, it can.
    pub(super) fn check_replicated(&mut self) {
        let config = self.config;
        let rule = "must be off with cluster: the nodes share the order of requests, but no game clock";
        self.require(config.tick_hz.is_none(), "tick_hz", rule);
        let rule = "must be unlimited with cluster: a node does not know the addresses of the members of other nodes";
        self.require(config.max_per_ip == Limit::UNLIMITED, "max_per_ip", rule);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ByteSize;

    #[test]
    fn the_fingerprint_names_each_shared_field() {
        let config = Config { max_bans: 7, ..Config::default() };
        assert!(config.shared_fingerprint().lines().any(|line| line == "max_bans=7"));
        let differing = |config: &Config| config.shared_fingerprint() != Config::default().shared_fingerprint();
        assert!(differing(&config));
        let config = Config { max_message_bytes: ByteSize(7 << 10), ..Config::default() };
        assert!(differing(&config), "all nodes check what an operator publishes");
        let local = Config { max_pending: 7, message_burst: 7, ..Config::default() };
        assert!(!differing(&local), "what concerns one node alone may differ");
    }

    #[test]
    fn the_requests_of_one_turn_do_not_cost_a_node_its_place() {
        let config = Config { cluster_queue_bytes: ByteSize((16 << 20) - 1), ..Config::default() };
        let problems = config.check().expect_err("a batch has up to 6 MiB");
        assert_eq!(problems.iter().map(|problem| problem.field).collect::<Vec<_>>(), ["cluster_queue_bytes"]);
    }

    #[test]
    fn what_cannot_work_in_a_cluster_is_refused() {
        let config = Config {
            cluster: Some("redis://:hunter2@h".parse().expect("a URL")),
            tick_hz: Some(20),
            max_per_ip: Limit::at_most(5),
            ..Config::default()
        };
        let problems = config.clone().check().expect_err("a node needs a name");
        assert_eq!(problems.iter().map(|problem| problem.field).collect::<Vec<_>>(), ["node"]);
        assert!(!format!("{config:?} {problems}").contains("hunter2"));
        let config = Config { node: Some("a".parse().expect("a name")), ..config };
        let problems = config.check_replicated().expect_err("one order of requests has no clock and no addresses");
        assert_eq!(problems.iter().map(|problem| problem.field).collect::<Vec<_>>(), ["tick_hz", "max_per_ip"]);
        let config = Config { tick_hz: None, max_per_ip: Limit::UNLIMITED, ..config };
        assert!(config.check_replicated().is_ok());
    }
}
