//! Names for things that come and go.

use std::fmt;

use slab::Slab;

/// Names one connection for as long as the process lives.
///
/// `index` is the connection's key in the engine's slab, and so the driver's `mio::Token`; indices are used again.
/// `generation` counts accepted connections, so that an id kept after its connection has ended never means another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnId {
    pub(crate) index: u32,
    pub(crate) generation: u32,
}

impl ConnId {
    /// The slab key: dense, and used again once the connection is gone.
    pub fn index(self) -> usize {
        self.index as usize
    }
}

impl fmt::Display for ConnId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.index, self.generation)
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
