//! Names for things that come and go.

use std::fmt;

use slab::Slab;

/// Names one connection for as long as the process lives.
///
/// `index` is the connection's key in the engine's slab, and so the driver's `mio::Token`; indices are used again.
/// `generation` counts accepted connections, so that an id kept after its connection has ended never means another one.
/// Ids are ordered by index.
///
/// The index has 24 bits and the generation 40: enough for 16 million sockets at once and for 100,000 accepts a second
/// during four months. An engine that has used them up accepts no further connection.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnId(u64);

const GENERATION_BITS: u32 = 40;

impl ConnId {
    /// `None` when one of the two is too large.
    pub(crate) const fn new(index: usize, generation: u64) -> Option<ConnId> {
        if index >> (u64::BITS - GENERATION_BITS) == 0 && generation >> GENERATION_BITS == 0 {
            Some(ConnId((index as u64) << GENERATION_BITS | generation))
        } else {
            None
        }
    }

    /// The slab key: dense, and used again once the connection is gone.
    pub fn index(self) -> usize {
        (self.0 >> GENERATION_BITS) as usize
    }

    /// The same as a number of the width in which lists of connections store it.
    pub(crate) fn key(self) -> u32 {
        (self.0 >> GENERATION_BITS) as u32
    }

    /// How many connections had been accepted with this one.
    pub(crate) fn generation(self) -> u64 {
        self.0 & ((1 << GENERATION_BITS) - 1)
    }

    /// Both parts in one number, which no other connection has.
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

/// Names one seat: the `conn` field of the protocol.
///
/// It stays the same when a newer connection takes the seat over, and is new with every join.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SeatId(pub(crate) u64);

impl fmt::Display for SeatId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "s{}", self.0)
    }
}

/// Removes an entry from a slab. The keys of a slab that has become empty start again at 0: keys, and orders that follow
/// from them, must not depend on what happened before the server was empty, because a replay can begin there.
pub(crate) fn remove_keyed<T>(slab: &mut Slab<T>, key: usize) -> T {
    let removed = slab.remove(key);
    if slab.is_empty() {
        slab.clear();
    }
    removed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_keeps_both_parts_and_refuses_what_it_cannot_hold() {
        for (index, generation) in [(0, 0), (1, u64::from(u32::MAX)), (7, 1 << 32), ((1 << 24) - 1, (1 << 40) - 1)] {
            let id = ConnId::new(index, generation).expect("both fit");
            assert_eq!((id.index(), id.key() as usize, id.generation()), (index, index, generation));
            assert_eq!(id.to_string(), format!("{index}.{generation}"));
        }
        assert_eq!((ConnId::new(1 << 24, 0), ConnId::new(0, 1 << 40)), (None, None));
        assert!(ConnId::new(1, 9) < ConnId::new(2, 3), "ordered by index");
    }
}
