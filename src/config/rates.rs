//! Rates that the limits define.

use std::time::Duration;

use super::check::{Purpose, Rules};
use super::fields::Config;
use super::types::{ByteSize, PerUser};
use crate::base::limit::Limit;
use crate::base::rate::Rate;

/// Bytes that a POST to an event stream is charged beside those of its messages: for its head, and for asking who sent it.
pub(crate) const POST_BYTES: usize = 256;
/// Longest header of a frame that a client sends (RFC 6455 section 5.2).
pub(crate) const CLIENT_FRAME_HEADER: usize = 14;

const SECOND: Duration = Duration::from_secs(1);

impl Config {
    /// Returns the rate of `limit` in each `period` with `burst`, or `None` if `limit` is unlimited.
    fn rate(limit: Limit, period: Duration, burst: u32) -> Option<Rate> {
        limit.bound().map(|count| Rate::new(count, period, burst))
    }

    /// The same for bytes in each second.
    fn byte_rate_of(limit: Limit, burst: ByteSize) -> Option<Rate> {
        // A larger burst does not pass the check.
        Config::rate(limit, SECOND, u32::try_from(burst.0).unwrap_or(u32::MAX))
    }

    /// Returns the message limit of a user and its burst.
    pub(super) fn user_messages(&self) -> (Limit, u32) {
        let limit = self.user_messages_per_second.or(self.messages_per_second);
        (limit, self.user_message_burst.or(self.message_burst))
    }

    /// Returns the byte limit of a user and its burst.
    pub(super) fn user_bytes(&self) -> (Limit, ByteSize) {
        (self.user_bytes_per_second.or(self.bytes_per_second), self.user_byte_burst.or(self.byte_burst))
    }

    /// Returns the most bytes that a message of `max_message_bytes` is charged: in a frame, perhaps compressed, or if `posts` is
    /// true in a POST to an event stream.
    pub(super) fn most_charged(&self, posts: bool) -> usize {
        let post = if posts { POST_BYTES } else { 0 };
        let posted = self.max_message_bytes.0.saturating_add(post);
        self.max_received_bytes().max(posted).saturating_add(CLIENT_FRAME_HEADER)
    }

    pub(crate) fn message_rate(&self) -> Option<Rate> {
        Config::rate(self.messages_per_second, SECOND, self.message_burst)
    }

    pub(crate) fn user_message_rate(&self) -> Option<Rate> {
        let (limit, burst) = self.user_messages();
        Config::rate(limit, SECOND, burst)
    }

    pub(crate) fn byte_rate(&self) -> Option<Rate> {
        Config::byte_rate_of(self.bytes_per_second, self.byte_burst)
    }

    pub(crate) fn user_byte_rate(&self) -> Option<Rate> {
        let (limit, burst) = self.user_bytes();
        Config::byte_rate_of(limit, burst)
    }

    pub(crate) fn control_rate(&self) -> Option<Rate> {
        Config::rate(self.control_per_second, SECOND, self.control_burst)
    }

    pub(crate) fn attempt_rate(&self) -> Option<Rate> {
        Config::rate(self.attempts_per_minute, Duration::from_secs(60), self.attempt_burst)
    }

    /// Rate of requests for the list of lobbies. The burst is what one minute allows.
    pub(crate) fn list_rate(&self) -> Option<Rate> {
        let lists = self.lists_per_minute.bound()?;
        Some(Rate::new(lists, Duration::from_secs(60), lists))
    }

    /// Rate of wrong passwords and unknown codes. The burst is what one minute allows.
    pub(crate) fn guess_rate(&self) -> Option<Rate> {
        let guesses = self.guesses_per_minute.bound()?;
        Some(Rate::new(guesses, Duration::from_secs(60), guesses))
    }
}

impl Rules<'_> {
    pub(super) fn check_bursts(&mut self) {
        let config = self.config;
        // A user limit that is the same as that of a connection is checked for the connection, and is skipped here.
        let own_limit = |is_same: bool, rate: Limit| if is_same { Limit::UNLIMITED } else { rate };
        let (user_messages, user_message_burst) = config.user_messages();
        let is_same = (config.user_messages_per_second, config.user_message_burst) == (PerUser::Same, PerUser::Same);
        let user_messages = own_limit(is_same, user_messages);
        let (user_bytes, user_byte_burst) = config.user_bytes();
        let is_same = (config.user_bytes_per_second, config.user_byte_burst) == (PerUser::Same, PerUser::Same);
        let user_bytes = own_limit(is_same, user_bytes);
        for (field, rate, burst_field, burst) in [
            ("messages_per_second", config.messages_per_second, "message_burst", config.message_burst),
            ("user_messages_per_second", user_messages, "user_message_burst", user_message_burst),
            ("control_per_second", config.control_per_second, "control_burst", config.control_burst),
            ("attempts_per_minute", config.attempts_per_minute, "attempt_burst", config.attempt_burst),
        ] {
            let is_limited = rate.bound().is_some();
            self.require(!is_limited || burst > 0, burst_field, format!("must be at least 1 while {field} is limited"));
        }
        let max_message = config.max_message_bytes;
        let posts = !config.seat_grace.is_zero() && self.purpose == Purpose::Service;
        let received = config.most_charged(posts);
        let way = match (config.deflate, posts) {
            (true, _) => " that compression makes longer",
            (false, true) => " that is posted to an event stream",
            (false, false) => "",
        };
        for (field, rate, burst_field, burst) in [
            ("bytes_per_second", config.bytes_per_second, "byte_burst", config.byte_burst),
            ("user_bytes_per_second", user_bytes, "user_byte_burst", user_byte_burst),
        ] {
            let is_limited = rate.bound().is_some();
            let rule = format!(
                "must be at least {received} while {field} is limited, or a message of max_message_bytes ({max_message}){way} \
                 would always be refused"
            );
            self.require(!is_limited || burst.0 >= received, burst_field, rule);
        }
    }
}
