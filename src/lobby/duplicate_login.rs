//! What happens when a user who has a seat connects again: the rule of `duplicate_login`.

use super::directory::Directory;
use crate::base::close::CloseReason;
use crate::base::id::{SeatKey, UserKey};
use crate::config::DuplicateLogin;

impl Directory {
    /// Checks whether a user may have one more seat. A seat that will be replaced does not count.
    ///
    /// # Errors
    ///
    /// [`CloseReason::UserLimit`].
    pub(super) fn allows_login(&self, user: Option<UserKey>) -> Result<(), CloseReason> {
        let taken = user.map_or(0, |user| self.users[user].taken());
        let is_allowed = match self.duplicate_login {
            DuplicateLogin::Replace => true,
            DuplicateLogin::Reject => taken == 0,
            DuplicateLogin::Allow => self.max_per_user.has_room(taken),
        };
        if is_allowed { Ok(()) } else { Err(CloseReason::UserLimit) }
    }

    /// Returns the seat that a new connection of `user` would take over or replace. `None` unless `duplicate_login` is
    /// `replace`.
    pub(super) fn replaceable_seat(&self, user: Option<UserKey>) -> Option<SeatKey> {
        match self.duplicate_login {
            DuplicateLogin::Replace => self.users[user?].seats.as_slice().first().copied(),
            DuplicateLogin::Reject | DuplicateLogin::Allow => None,
        }
    }

    /// Returns the seat that a new connection of `user` would take over or replace.
    pub(crate) fn seat_to_replace(&self, user: &str) -> Option<SeatKey> {
        self.replaceable_seat(self.user_keys.get(user).copied())
    }

    /// Returns the seat in the lobby `code` that a new connection of `user` would take over.
    pub(crate) fn seat_to_take_over(&self, code: &str, user: &str) -> Option<SeatKey> {
        let seat = self.replaceable_seat(self.user_keys.get(user).copied())?;
        (*self.lobbies[self.seats[seat].lobby].code == *code).then_some(seat)
    }
}
