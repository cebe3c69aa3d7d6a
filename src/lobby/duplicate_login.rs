//! What happens when a user who has a seat connects again: the rule of `duplicate_login`.

use super::directory::{Directory, SeatRequest};
use crate::base::close::CloseReason;
use crate::base::id::{LobbyKey, SeatKey, UserKey};
use crate::config::DuplicateLogin;

impl Directory {
    /// Checks whether a user may have one more seat. The seat `replaced` will be freed for it, or is taken over.
    ///
    /// # Errors
    ///
    /// [`CloseReason::UserLimit`].
    pub(super) fn allows_login(&self, user: Option<UserKey>, replaced: Option<SeatKey>) -> Result<(), CloseReason> {
        let taken = user.map_or(0, |user| self.users[user].taken() - usize::from(replaced.is_some()));
        let is_allowed = match self.duplicate_login {
            DuplicateLogin::Replace => true,
            DuplicateLogin::Reject => taken == 0,
            DuplicateLogin::Allow => self.max_per_user.has_room(taken),
        };
        if is_allowed { Ok(()) } else { Err(CloseReason::UserLimit) }
    }

    /// Returns the seat that a new connection of `user` takes over or replaces, if it gets one in `lobby`.
    ///
    /// With `replace` that is the user's seat. Otherwise it is an away seat of the user, and only if a limit has no room
    /// without it: away seats never count against their own user.
    ///
    /// # Errors
    ///
    /// The close reason of the limit or lock that refuses the seat.
    pub(super) fn replaced_seat(
        &self,
        lobby: Option<LobbyKey>,
        request: &SeatRequest<'_>,
    ) -> Result<Option<SeatKey>, CloseReason> {
        let &SeatRequest { user, address, entry, .. } = request;
        let user = self.user_keys.get(user).copied();
        let fits = |replaced| self.fits(lobby, user, Some(address), replaced, entry.role);
        if self.duplicate_login == DuplicateLogin::Replace {
            let replaced = user.and_then(|user| self.users[user].seats.as_slice().first().copied());
            return fits(replaced).map(|()| replaced);
        }
        let Err(reason) = fits(None) else { return Ok(None) };
        let mut away = self.away_seats_of(user, lobby).into_iter();
        let replaced = away.find(|&seat| fits(Some(seat)).is_ok());
        replaced.map(Some).ok_or(reason)
    }
}
