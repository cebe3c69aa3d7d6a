//! How clients enter lobbies: which lobby a request means, and what it must know to be let in.

use std::borrow::Cow;

use super::control::listing::Pool;
use super::directory::{Directory, Released};
use super::records::SeatRequest;
use crate::base::close::CloseReason;
use crate::base::entry::{Entry, RequestedLobby, Role};
use crate::base::id::{AddressKey, LobbyKey, SeatKey};
use crate::base::random::Random;
use crate::base::session::Claim;
use crate::base::time::Time;

/// Letters of a new code: no vowels, so that it is no word, and no letter that looks like another one.
const LETTERS: &[u8; 20] = b"bcdfghjklmnpqrstvwxz";
/// Letters in a new code, and in one that is drawn when most short ones are in use.
const CODE_LETTERS: usize = 5;
const LONG_CODE_LETTERS: usize = 12;
/// Tries to draw a short code that is not in use.
const SHORT_CODES: u64 = 32;

/// What a client asks for, before it is known which lobby that is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted<'a> {
    pub(crate) requested: &'a RequestedLobby,
    pub(crate) claim: Option<Claim>,
    pub(crate) entry: Entry,
    /// The lobby in which a seat was reserved for it.
    pub(crate) reserved: Option<LobbyKey>,
}

impl<'a> Wanted<'a> {
    /// The pool that it names.
    fn pool(&self) -> Option<Pool> {
        self.pool_name().map(|name| Pool::new(name, self.entry.seats))
    }

    pub(crate) fn pool_name(&self) -> Option<&'a str> {
        match self.requested {
            RequestedLobby::Quick(pool) => Some(pool),
            RequestedLobby::Lobby(_) | RequestedLobby::New => None,
        }
    }
}

impl Directory {
    /// Returns the code of the lobby that a request of `user` means. Valid until the directory changes.
    pub(crate) fn resolve<'a>(&self, wanted: &Wanted<'a>, user: &str, now: Time) -> Cow<'a, str> {
        if let RequestedLobby::Lobby(code) = wanted.requested {
            return Cow::Borrowed(code);
        }
        let is_allowed = |lobby| self.kept_out(lobby, user, now).is_none();
        let own = wanted.claim.as_ref().and_then(|claim| self.seat_to_resume(user, claim, is_allowed));
        let found = own.map(|seat| self.seats[seat].lobby).or_else(|| match wanted.pool() {
            None => wanted.reserved,
            Some(pool) => {
                let reserved = wanted.reserved.filter(|&lobby| self.is_open_for(lobby, &pool, user, now));
                reserved.or_else(|| self.open_lobby_of(pool, user, now))
            }
        });
        Cow::Owned(found.map_or_else(|| self.new_code(), |lobby| self.lobbies[lobby].code.to_string()))
    }

    /// Lets the codes that are drawn from now on follow from this number, too.
    pub(crate) fn set_code_salt(&mut self, salt: u64) {
        self.code_salt = salt.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    /// Returns a code that no lobby has. It follows from the numbers of the directory, so a replay draws the same, and no
    /// number of the application's generator is used up.
    pub(crate) fn new_code(&self) -> String {
        let mut random = Random::new(self.last_epoch ^ self.seats_created.rotate_left(40) ^ self.code_salt);
        let mut draw = |letters: usize| -> String {
            (0..letters).map(|_| char::from(LETTERS[random.below(LETTERS.len() as u64) as usize])).collect()
        };
        let short = (0..SHORT_CODES).map(|_| draw(CODE_LETTERS)).find(|code| !self.lobby_keys.contains_key(&**code));
        short.unwrap_or_else(|| {
            loop {
                let code = draw(LONG_CODE_LETTERS);
                if !self.lobby_keys.contains_key(&*code) {
                    return code;
                }
            }
        })
    }

    /// Checks whether a client may enter a lobby, apart from its limits and locks.
    ///
    /// # Errors
    ///
    /// [`CloseReason::LobbyNotFound`] or [`CloseReason::WrongPassword`].
    pub(super) fn may_enter(&self, lobby: Option<LobbyKey>, user: &str, entry: &Entry) -> Result<(), CloseReason> {
        let Some(lobby) = lobby else {
            return if entry.create { Ok(()) } else { Err(CloseReason::LobbyNotFound) };
        };
        match self.control(lobby).and_then(|control| control.settings.password) {
            Some(password) if entry.password != Some(password) && !self.has_seat(user, lobby, entry.role) => {
                Err(CloseReason::WrongPassword)
            }
            _ => Ok(()),
        }
    }

    /// Whether a user has a seat in a lobby in this role.
    fn has_seat(&self, user: &str, lobby: LobbyKey, role: Role) -> bool {
        self.seats_of(user).iter().any(|&seat| self.is_of(seat, Some(lobby), role))
    }

    /// Whether a seat is one of this lobby and this role.
    pub(super) fn is_of(&self, seat: SeatKey, lobby: Option<LobbyKey>, role: Role) -> bool {
        let seat = &self.seats[seat];
        Some(seat.lobby) == lobby && seat.role() == role
    }

    /// Returns why a user is kept out of a lobby, if it is.
    pub(super) fn kept_out(&self, lobby: LobbyKey, user: &str, now: Time) -> Option<CloseReason> {
        if self.is_banned(lobby, user) {
            return Some(CloseReason::Banned);
        }
        self.is_kicked(lobby, user, now).then_some(CloseReason::Kicked)
    }
}

impl Released {
    /// Returns the lobby in which the seat was reserved.
    pub(crate) fn lobby(&self) -> LobbyKey {
        self.lobby
    }
}

impl<'a> SeatRequest<'a> {
    /// Returns the request for a seat in the lobby `code`, which was [resolved](Directory::resolve).
    pub(crate) fn new(code: &'a str, user: &'a str, address: AddressKey, wanted: &Wanted<'a>) -> SeatRequest<'a> {
        let &Wanted { claim, entry, .. } = wanted;
        SeatRequest { code, user, address, claim, entry, pool: wanted.pool_name() }
    }
}
