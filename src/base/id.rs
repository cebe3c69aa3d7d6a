//! Ids of connections and seats, and typed keys of tables.

use std::fmt;
use std::num::NonZeroU32;

use super::arena::Key;

/// Id of a connection, unique within the lifetime of the engine.
///
/// `index` is the key of the connection in the engine's slab, which the driver also uses as its token in the poll. Indices
/// are reused. `generation` counts accepted connections, so an id that is kept after its connection was freed never
/// matches a later connection. Ids are ordered by index, then by generation.
///
/// The index has 24 bits and the generation has 40: enough for 16 million sockets at once, and for 100,000 accepted
/// connections per second during four months. After that the engine accepts no further connection.
///
/// ```
/// use lobbyd::apps::Echo;
/// use lobbyd::driver::Start;
/// use lobbyd::{Config, Engine, Time};
///
/// let mut engine = Engine::new(Config::default().check()?, Start { unix_micros: 0, seed: 1 }, Echo);
/// let conn = engine.handle_accept(Time::ZERO, "127.0.0.1:4000".parse().unwrap()).unwrap();
/// assert_eq!((conn.index(), conn.to_string()), (0, "0.1".to_owned()));
/// # Ok::<(), lobbyd::config::Problems>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnId(u64);

const GENERATION_BITS: u32 = 40;

impl ConnId {
    /// The id of no connection: generations start at 1.
    pub(crate) const NONE: ConnId = ConnId(0);

    /// Stands for all connections of members that are on other nodes of a cluster. No connection gets this index.
    pub(crate) const ELSEWHERE: ConnId = ConnId(u64::MAX << GENERATION_BITS);

    /// Returns `None` if the index or the generation is too large.
    pub(crate) const fn new(index: usize, generation: u64) -> Option<ConnId> {
        let is_index = index >> (u64::BITS - GENERATION_BITS) == 0 && index != ConnId::ELSEWHERE.index();
        if is_index && generation >> GENERATION_BITS == 0 {
            Some(ConnId((index as u64) << GENERATION_BITS | generation))
        } else {
            None
        }
    }

    /// Returns the slab key: a small number, reused after the connection is freed.
    pub const fn index(self) -> usize {
        (self.0 >> GENERATION_BITS) as usize
    }

    /// Returns the key of the connection in the tables of the engine.
    pub(crate) fn key(self) -> ConnKey {
        ConnKey::new(self.index())
    }

    /// Returns the number of connections accepted so far, including this one.
    pub(crate) fn generation(self) -> u64 {
        self.0 & ((1 << GENERATION_BITS) - 1)
    }

    /// Returns the id with these [`bits`](Self::bits).
    pub(crate) const fn from_bits(bits: u64) -> ConnId {
        ConnId(bits)
    }

    /// Returns both parts as one number, unique for each connection.
    pub(crate) fn bits(self) -> u64 {
        self.0
    }
}

impl fmt::Debug for ConnId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ConnId({self})")
    }
}

impl fmt::Display for ConnId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.index(), self.generation())
    }
}

/// Id of a seat: the `conn` field of the protocol.
///
/// It stays the same when a newer connection takes over the seat, and is new for each join.
///
/// [`Member::seat`](crate::Member::seat) returns it; the example of [`OperatorCommand`](crate::operator::OperatorCommand) shows one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SeatId(pub(crate) u64);

impl SeatId {
    /// Reads an id as it is displayed: `s3`.
    pub(crate) fn read(text: &str) -> Option<SeatId> {
        let digits = text.strip_prefix('s')?;
        let is_number = !digits.is_empty() && digits.bytes().all(|c| c.is_ascii_digit());
        digits.parse().ok().filter(|_| is_number).map(SeatId)
    }
}

impl fmt::Display for SeatId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "s{}", self.0)
    }
}

/// Defines the key of a table. Four bytes, also as an `Option`: the index plus one.
macro_rules! keys {
    ($($(#[$doc:meta])* $name:ident)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub(crate) struct $name(NonZeroU32);

        impl Key for $name {
            #[inline]
            fn new(index: usize) -> $name {
                // Tables are far smaller than 2^32 entries. The last index wraps to the first value, not to zero.
                $name(NonZeroU32::new((index as u32).wrapping_add(1)).unwrap_or(NonZeroU32::MIN))
            }

            #[inline]
            fn index(self) -> usize {
                self.0.get() as usize - 1
            }
        }
    )*};
}

keys! {
    /// Key of a connection. Reused after the connection is freed, unlike [`ConnId`].
    ConnKey
    /// Key of a seat. Reused, unlike [`SeatId`].
    SeatKey
    /// Key of a lobby. Reused for another lobby.
    LobbyKey
    /// Key of a user. Reused for another user.
    UserKey
    /// Key of a remote address that has connections. Reused for another address.
    AddressKey
    /// Key of the connections that follow the list of lobbies with the same filter. Reused for another filter.
    ListKey
}

impl AddressKey {
    /// Key of no address: that of a seat whose connection is not one of this engine.
    pub(crate) const NONE: AddressKey = AddressKey(NonZeroU32::MAX);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_keep_both_parts_and_refuse_parts_that_are_too_large() {
        for (index, generation) in [(0, 0), (1, u64::from(u32::MAX)), (7, 1 << 32), ((1 << 24) - 2, (1 << 40) - 1)] {
            let id = ConnId::new(index, generation).expect("both fit");
            assert_eq!((id.index(), id.key().index(), id.generation()), (index, index, generation));
            assert_eq!(id.to_string(), format!("{index}.{generation}"));
        }
        assert_eq!((ConnId::new((1 << 24) - 1, 0), ConnId::new(0, 1 << 40)), (None, None));
        assert_eq!((ConnId::ELSEWHERE.index(), ConnId::ELSEWHERE.generation()), ((1 << 24) - 1, 0), "of no connection");
        assert!(ConnId::new(1, 9) < ConnId::new(2, 3), "ordered by index");
        assert_eq!((ConnKey::new(0).index(), ConnKey::new(7).index(), size_of::<Option<ConnKey>>()), (0, 7, 4));
    }
}
