//! Rates that the limits define.

use std::time::Duration;

use super::fields::Config;
use super::types::ByteSize;
use crate::base::limit::Limit;
use crate::base::rate::Rate;

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
