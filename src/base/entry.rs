//! What a request says about how its client enters a lobby.

use sha1::{Digest, Sha1};

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
