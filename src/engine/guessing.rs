//! Guesses: requests from which a client learns whether a lobby exists, or what its password is not. The failed ones of an
//! address are limited.

use std::time::Duration;

use super::core::Core;
use crate::base::close::CloseReason;
use crate::base::entry::Entry;
use crate::base::id::ConnKey;
use crate::http::PlainResponse;
use crate::lobby::directory::Plan;

impl Core {
    /// Checks whether the address of a request may guess once more.
    ///
    /// # Errors
    ///
    /// HTTP 429 if it has guessed too often, and the wait until it may.
    pub(super) fn check_guesses(&self, key: ConnKey) -> Result<(), (PlainResponse, Duration)> {
        let rate = self.rates.guess.filter(|_| self.has_lobby_control());
        rate.map_or(Ok(()), |rate| self.addresses.check_guesses(self.address_of(key), self.clock.own(), rate))
    }

    /// Judges how a client that may guess gets its seat. While its authorization was pending, its address may have guessed
    /// too often; then it does not learn whether it was right. A client that gets a seat of its user has guessed nothing.
    ///
    /// # Errors
    ///
    /// The close reason of the plan, or [`CloseReason::RateLimited`].
    pub(super) fn judge_guess(
        &mut self,
        key: ConnKey,
        plan: Result<Plan, CloseReason>,
        entry: Entry,
    ) -> Result<Plan, CloseReason> {
        if self.has_guessed_too_often(key, plan, entry) {
            return Err(CloseReason::RateLimited);
        }
        plan.inspect_err(|&reason| self.note_guess(key, reason, entry))
    }

    /// Whether a client must not learn whether its guess is right, because its address has guessed too often since its request
    /// was read.
    pub(super) fn has_guessed_too_often(&self, key: ConnKey, plan: Result<Plan, CloseReason>, entry: Entry) -> bool {
        let is_own = matches!(plan, Ok(Plan::Resume(_) | Plan::TakeOver(_)));
        entry.is_guess() && !is_own && self.check_guesses(key).is_err()
    }

    /// Charges a guess that was wrong.
    pub(super) fn note_guess(&mut self, key: ConnKey, reason: CloseReason, entry: Entry) {
        let is_wrong = matches!(reason, CloseReason::WrongPassword | CloseReason::LobbyNotFound);
        if let Some(rate) = self.rates.guess.filter(|_| is_wrong && entry.is_guess()) {
            self.addresses.charge_guess(self.address_of(key), self.clock.own(), rate);
        }
    }

    /// Whether lobbies have a host, data and settings, and clients say how they enter them.
    pub(super) fn has_lobby_control(&self) -> bool {
        self.config.lobby_control
    }
}
