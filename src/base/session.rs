//! Sessions: what a client that comes back claims. Only hashes of names are kept, since a name is redacted like a token.

use sha1::{Digest, Sha1};

/// Shortest and longest name of a session, in bytes.
const NAME_BYTES: std::ops::RangeInclusive<usize> = 16..=64;

/// Hash of a session's name: the first 128 bits of its SHA-1.
///
/// A session takes no seat of another user, so a collision that a client finds helps it to nothing. The high half is
/// first. A `u128` would have an alignment of 16 bytes, which wastes memory in each frame of a history.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct SessionHash([u64; 2]);

impl SessionHash {
    /// Returns the hash of a name; `None` unless the name has 16 to 64 of `A-Z a-z 0-9 _ -`.
    pub(crate) fn of(name: &str) -> Option<SessionHash> {
        let is_name =
            NAME_BYTES.contains(&name.len()) && name.bytes().all(|c| c.is_ascii_alphanumeric() || b"_-".contains(&c));
        let digest = Sha1::digest(name.as_bytes());
        let bits = digest.first_chunk().expect("SHA-1 has 20 bytes");
        is_name.then_some(SessionHash::from_bits(u128::from_be_bytes(*bits)))
    }

    pub(crate) fn from_bits(bits: u128) -> SessionHash {
        SessionHash([(bits >> 64) as u64, bits as u64])
    }

    pub(crate) fn bits(self) -> u128 {
        u128::from(self.0[0]) << 64 | u128::from(self.0[1])
    }
}

/// Displays nothing that helps to find the name.
impl std::fmt::Debug for SessionHash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SessionHash({:08x}…)", self.0[0] >> 32)
    }
}

/// Position of a client in the frames of its lobby and in its direct messages: it has read all of them up to here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Position {
    pub(crate) epoch: u64,
    /// Highest `seq` of any frame but the `welcome`.
    pub(crate) seq: u64,
    /// Number of the last direct message.
    pub(crate) n: u64,
}

impl Position {
    /// All three numbers are smaller, so that every JSON parser can hold them.
    pub(crate) const END: u64 = 1 << 53;
}

/// Claim of a request to a session, and to the position of the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Claim {
    pub(crate) session: SessionHash,
    /// The session that this one continues, of a page that was reloaded.
    pub(crate) was: Option<SessionHash>,
    pub(crate) position: Option<Position>,
}

/// The request names a session, and one of `session`, `was`, `epoch`, `seq` and `n` is malformed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BadClaim;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_16_to_64_characters_of_a_small_alphabet() {
        for name in ["0123456789abcdef", "f81d4fae-7dec-11d0-a765-00a0c91e6bf6", &"A_".repeat(32)] {
            assert!(SessionHash::of(name).is_some(), "{name}");
        }
        for name in ["", "0123456789abcde", &"a".repeat(65), "0123456789abcdef.", "0123456789abcdé"] {
            assert!(SessionHash::of(name).is_none(), "{name}");
        }
        // `printf 0123456789abcdef | sha1sum`
        let hash = SessionHash::of("0123456789abcdef").expect("a name");
        assert_eq!(hash, SessionHash::from_bits(0xfe5567e8_d769550852182cdf69d74bb1));
    }
}
