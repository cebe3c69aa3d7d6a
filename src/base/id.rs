//! Ids of connections and seats.

use std::fmt;

use slab::Slab;

/// Id of a connection, unique within the lifetime of the engine.
///
/// `index` is the key of the connection in the engine's slab, which the driver also uses as its token in the poll. Indices
/// are reused. `generation` counts accepted connections, so an id that is kept after its connection was freed never
/// matches a later connection. Ids are ordered by index, then by generation.
///
/// The index has 24 bits and the generation has 40: enough for 16 million sockets at once, and for 100,000 accepted
/// connections per second during four months. After that the engine accepts no further connection.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnId(u64);

const GENERATION_BITS: u32 = 40;

impl ConnId {
    /// Returns `None` if the index or the generation is too large.
    pub(crate) const fn new(index: usize, generation: u64) -> Option<ConnId> {
        if index >> (u64::BITS - GENERATION_BITS) == 0 && generation >> GENERATION_BITS == 0 {
            Some(ConnId((index as u64) << GENERATION_BITS | generation))
        } else {
            None
        }
    }

    /// Returns the slab key: a small number, reused after the connection is freed.
    pub fn index(self) -> usize {
        (self.0 >> GENERATION_BITS) as usize
    }

    /// Returns the slab key as `u32`, the width in which lists of connections store it.
    pub(crate) fn key(self) -> u32 {
        (self.0 >> GENERATION_BITS) as u32
    }

    /// Returns the number of connections accepted so far, including this one.
    pub(crate) fn generation(self) -> u64 {
        self.0 & ((1 << GENERATION_BITS) - 1)
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SeatId(pub(crate) u64);

impl fmt::Display for SeatId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "s{}", self.0)
    }
}

/// Removes an entry from a slab, and resets the slab's free list when the slab becomes empty, so that keys start again
/// at 0. A replay can begin at a point where the server is empty; therefore keys, and orders that follow from them,
/// must not depend on earlier events.
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
    fn ids_keep_both_parts_and_refuse_parts_that_are_too_large() {
        for (index, generation) in [(0, 0), (1, u64::from(u32::MAX)), (7, 1 << 32), ((1 << 24) - 1, (1 << 40) - 1)] {
            let id = ConnId::new(index, generation).expect("both fit");
            assert_eq!((id.index(), id.key() as usize, id.generation()), (index, index, generation));
            assert_eq!(id.to_string(), format!("{index}.{generation}"));
        }
        assert_eq!((ConnId::new(1 << 24, 0), ConnId::new(0, 1 << 40)), (None, None));
        assert!(ConnId::new(1, 9) < ConnId::new(2, 3), "ordered by index");
    }
}
