//! What a run draws once: the number of nodes and users, the configuration, and how frequent each fault is.

use std::time::Duration;

use crate::base::random::Random;
use crate::config::{ByteSize, Config, DuplicateLogin, Limit};
use crate::sim::swarm::pick::{limit, pick};

/// How often each fault happens: of the nodes and of Redis in 10,000 steps, of the connections in 1000 uses.
#[derive(Clone, Debug)]
pub(super) struct Faults {
    pub(super) kill: u64,
    pub(super) pause: u64,
    pub(super) cut: u64,
    /// Connections to Redis.
    pub(super) reset: u64,
    /// Redis: stopped, replaced by another one, or a lesser disturbance.
    pub(super) stop: u64,
    pub(super) fail_over: u64,
    pub(super) disturb: u64,
    pub(super) drop: u64,
    pub(super) vanish: u64,
    pub(super) stall: u64,
    /// Attempts that take long to reach their node.
    pub(super) late: u64,
}

#[derive(Clone, Debug)]
pub(super) struct Swarm {
    pub(super) nodes: usize,
    pub(super) users: usize,
    pub(super) faults: Faults,
    /// Whether the first node has no faults, so that there is always a living one.
    pub(super) has_anchor: bool,
    /// Percentage of actions of a user with a page that open another one.
    pub(super) second_pages: u64,
    /// Operators' commands in 1000 steps.
    pub(super) commands: u64,
    lobbies: u64,
    has_control: bool,
}

impl Swarm {
    pub(super) fn draw(random: &mut Random, clients: usize) -> Swarm {
        let mut rate = |rates: &[u64]| pick(random, rates);
        let faults = Faults {
            kill: rate(&[0, 5, 20, 60]),
            pause: rate(&[0, 5, 20, 60]),
            cut: rate(&[0, 10, 40, 80]),
            reset: rate(&[0, 0, 20, 100]),
            stop: rate(&[0, 5, 20]),
            fail_over: rate(&[0, 0, 15, 40]),
            disturb: rate(&[0, 0, 10, 50]),
            drop: rate(&[0, 10, 40]),
            vanish: rate(&[0, 5, 20]),
            stall: rate(&[0, 10, 40]),
            late: rate(&[0, 50, 300]),
        };
        Swarm {
            nodes: pick(random, &[2, 2, 3, 3, 4]),
            users: 2 + random.below(clients.clamp(1, 200) as u64) as usize,
            faults,
            has_anchor: random.percent(70),
            second_pages: pick(random, &[0, 0, 1, 5]),
            commands: pick(random, &[0, 10, 40]),
            lobbies: pick(random, &[1, 2, 3]),
            has_control: random.percent(75),
        }
    }

    /// The same for one server without a cluster.
    pub(super) fn alone(self) -> Swarm {
        let faults = Faults { cut: 0, reset: 0, stop: 0, fail_over: 0, disturb: 0, ..self.faults };
        Swarm { nodes: 1, has_anchor: false, faults, ..self }
    }

    pub(super) fn config(&self, random: &mut Random) -> Config {
        let millis = |random: &mut Random, values: &[u64]| Duration::from_millis(pick(random, values));
        let mut config = Config {
            lobby_control: self.has_control,
            max_connections: limit(random, &[4, 8, 0, 0, 0, 0]),
            max_per_lobby: limit(random, &[3, 6, 10, 10, 10]),
            max_lobbies: limit(random, &[2, 4, 0, 0, 0]),
            duplicate_login: pick(
                random,
                &[DuplicateLogin::Replace, DuplicateLogin::Replace, DuplicateLogin::Reject, DuplicateLogin::Allow],
            ),
            seat_grace: millis(random, &[8_000, 15_000, 30_000, 30_000]),
            away_after: millis(random, &[100, 1_000, 2_000]),
            history_frames: pick(random, &[8, 32, 256]),
            history_bytes: ByteSize(pick(random, &[2_000, 20_000, 65_536])),
            direct_frames: pick(random, &[4, 32]),
            ping_interval: millis(random, &[4_000, 20_000]),
            pong_timeout: millis(random, &[2_000, 3_000]),
            host_grace: millis(random, &[500, 5_000]),
            max_empty_ttl: millis(random, &[0, 5_000]),
            cluster_log_entries: pick(random, &[200, 1_000, 10_000]),
            ..Config::default()
        };
        config.messages_per_second = Limit::UNLIMITED;
        config.bytes_per_second = Limit::UNLIMITED;
        config.control_per_second = Limit::UNLIMITED;
        if config.duplicate_login == DuplicateLogin::Allow {
            config.max_per_user = Limit::at_most(2);
        }
        config
    }

    /// Draws where a page enters, with the beginning of its query.
    pub(super) fn place(&self, random: &mut Random) -> String {
        match random.below(10) {
            0 if self.has_control => "~new?".to_owned(),
            1 | 2 if self.has_control => "~quick/pool?seats=3&".to_owned(),
            3 if self.has_control => format!("lobby{}?password=tulip&", random.below(self.lobbies)),
            _ => format!("lobby{}?", random.below(self.lobbies)),
        }
    }

    pub(super) fn has_control(&self) -> bool {
        self.has_control
    }
}
