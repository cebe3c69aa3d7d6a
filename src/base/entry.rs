//! Parameters of a request with which its client enters a lobby.

use sha1::{Digest, Sha1};

use super::limit::Limit;

/// Longest password of a lobby, in bytes.
pub(crate) const MAX_PASSWORD_BYTES: usize = 64;

/// Hash of a lobby's password: the first 128 bits of its SHA-1. The text is redacted like a token.
#[derive(Clone, Copy)]
pub(crate) struct PasswordHash(u128);

impl PasswordHash {
    /// Returns the hash of a password; `None` if it is empty or too long.
    pub(crate) fn of(password: &str) -> Option<PasswordHash> {
        let digest = Sha1::digest(password.as_bytes());
        let bits = digest.first_chunk().expect("SHA-1 has 20 bytes");
        (1..=MAX_PASSWORD_BYTES)
            .contains(&password.len())
            .then_some(PasswordHash::from_bits(u128::from_be_bytes(*bits)))
    }

    pub(crate) fn from_bits(bits: u128) -> PasswordHash {
        PasswordHash(bits)
    }

    pub(crate) fn bits(self) -> u128 {
        self.0
    }
}

/// Takes the same time for every pair of hashes, as all their bits are compared at once.
impl PartialEq for PasswordHash {
    fn eq(&self, other: &PasswordHash) -> bool {
        self.0 ^ other.0 == 0
    }
}

impl Eq for PasswordHash {}

/// Displays nothing that helps to find the password.
impl std::fmt::Debug for PasswordHash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PasswordHash(…)")
    }
}

/// The lobby that a request is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum RequestedLobby {
    /// The lobby with this code.
    Lobby(String),
    /// A lobby with a new code.
    New,
    /// The oldest open lobby of this pool, or a new one.
    Quick(String),
}

impl RequestedLobby {
    /// Returns whether it is the lobby with this code.
    pub(crate) fn is_lobby(&self, code: &str) -> bool {
        matches!(self, RequestedLobby::Lobby(own) if own == code)
    }

    /// Returns whether a client with a seat in the lobby `code` may mean that one. The sessions of clients that come back to
    /// a new lobby or to a pool are looked for in all lobbies.
    pub(crate) fn may_be(&self, code: &str) -> bool {
        match self {
            RequestedLobby::Lobby(own) => own == code,
            RequestedLobby::New | RequestedLobby::Quick(_) => true,
        }
    }
}

/// Role of a client in its lobby.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Role {
    /// A member.
    #[default]
    Play,
    /// A watcher: it receives what the members receive, and no member is told of it.
    Watch,
}

/// Parameters with which a client enters a lobby.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Whether the lobby is created if it does not exist.
    pub(crate) create: bool,
    pub(crate) role: Role,
    pub(crate) password: Option<PasswordHash>,
    /// Number of seats of the lobbies of a pool.
    pub(crate) seats: Option<u32>,
}

impl Entry {
    /// The entry of a request without parameters for it.
    pub(crate) const ORDINARY: Entry = Entry { create: true, role: Role::Play, password: None, seats: None };

    /// Returns whether a refusal tells the client something about a lobby: whether it exists, or what its password is not.
    pub(crate) fn is_guess(&self) -> bool {
        !self.create || self.password.is_some()
    }

    /// Returns whether its parameters make sense for this lobby. A new lobby cannot exist before, and nobody could be watched
    /// in it. The lobbies of a pool have at most `max_seats`.
    pub(crate) fn suits(&self, requested: &RequestedLobby, max_seats: Limit) -> bool {
        let has_room = |&seats: &u32| max_seats.bound().is_none_or(|max| seats <= max);
        match requested {
            RequestedLobby::Lobby(_) => true,
            RequestedLobby::New => self.create && self.role == Role::Play,
            RequestedLobby::Quick(_) => self.role == Role::Play && self.seats.as_ref().is_none_or(has_room),
        }
    }
}

/// The request has a malformed parameter for entering a lobby.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BadEntry;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_has_1_to_64_bytes() {
        assert!(PasswordHash::of("").is_none() && PasswordHash::of(&"x".repeat(65)).is_none());
        assert!(PasswordHash::of(&"x".repeat(64)).is_some() && PasswordHash::of(&"é".repeat(33)).is_none());
        // `printf tulip | sha1sum`
        let hash = PasswordHash::of("tulip").expect("a password");
        assert_ne!(PasswordHash::of("Tulip"), Some(hash));
        assert_eq!(format!("{hash:?}"), "PasswordHash(…)");
    }
}
