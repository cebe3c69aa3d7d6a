//! Rules for sessions, and for the room that an outbox needs.

use std::time::Duration;

use super::check::Rules;
use super::types::ByteSize;
use super::value::Value;

const DAY: Duration = Duration::from_secs(24 * 3600);

impl Rules<'_> {
    pub(super) fn check_sessions(&mut self) {
        let config = self.config;
        for (field, span) in [("seat_grace", config.seat_grace), ("away_after", config.away_after)] {
            self.require(span <= DAY, field, "must be at most 24h");
        }
        for (field, count, most) in
            [("history_frames", config.history_frames, 1 << 16), ("direct_frames", config.direct_frames, 1 << 12)]
        {
            self.require(count <= most, field, format!("must be at most {most}"));
        }
        for (field, bytes) in [("history_bytes", config.history_bytes), ("direct_bytes", config.direct_bytes)] {
            self.require(bytes <= ByteSize(64 << 20), field, "must be at most 64MiB");
        }
        let rule = "must be from 1 to 64, the number of requests whose outcome a client that comes back is told";
        self.require((1..=64).contains(&config.max_unanswered), "max_unanswered", rule);
    }

    pub(super) fn check_lobby_control(&mut self) {
        let config = self.config;
        let rule = "needs sessions: set seat_grace above 0";
        self.require(!config.lobby_control || !config.seat_grace.is_zero(), "lobby_control", rule);
        for (field, span) in [("host_grace", config.host_grace), ("max_empty_ttl", config.max_empty_ttl)] {
            self.require(span <= DAY, field, "must be at most 24h");
        }
        for (field, count) in [
            ("max_lobby_keys", config.max_lobby_keys),
            ("max_member_keys", config.max_member_keys),
            ("max_bans", config.max_bans),
        ] {
            self.require(count <= 1 << 12, field, "must be at most 4096");
        }
        for (field, bytes) in [
            ("max_lobby_data", config.max_lobby_data),
            ("max_member_data", config.max_member_data),
            ("max_members_data", config.max_members_data),
        ] {
            self.require(bytes <= ByteSize(64 << 20), field, "must be at most 64MiB");
        }
        self.require(config.max_watchers <= 65_535, "max_watchers", "must be at most 65535");
        self.require(config.max_list_watchers <= 1 << 20, "max_list_watchers", "must be at most 1048576");
    }

    pub(super) fn check_outbox(&mut self) {
        let config = self.config;
        let largest = config.largest_frame();
        let rule = format!(
            "must be at least {largest}, the space for the largest frame: a message of max_message_bytes ({}), or the \
             presence of a full lobby (max_per_lobby {}, presence_max {})",
            config.max_message_bytes,
            config.max_per_lobby.show(),
            config.presence_max
        );
        let room = config.max_outbound_bytes.0;
        self.require(room >= largest, "max_outbound_bytes", rule);
        let replay = config.largest_replay();
        let rule = format!(
            "must be at least {replay}, the space for what a member that comes back is sent at once: a full history \
             (history_bytes {}), its direct messages (direct_bytes {}) and the presence of a full lobby (max_per_lobby {}, \
             presence_max {}){}; raise it, or lower history_bytes",
            config.history_bytes,
            config.direct_bytes,
            config.max_per_lobby.show(),
            config.presence_max,
            if config.lobby_control {
                format!(
                    " with its data (max_lobby_data {}, max_members_data {})",
                    config.max_lobby_data, config.max_members_data
                )
            } else {
                String::new()
            }
        );
        self.require(room < largest || room >= replay, "max_outbound_bytes", rule);
    }
}
