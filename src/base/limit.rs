//! Upper bounds that may be absent, and the bounds that modules share.

/// Largest value of `max_headers`: header lines for which the parser of request heads has room.
pub(crate) const MAX_HEADER_LINES: u32 = 256;

/// Largest file that the members' port serves. A test compares it with the files.
pub(crate) const MAX_FILE_BYTES: usize = 64 << 10;

/// Largest answer with a part of the list of lobbies: 100 entries with the longest code, name and tags, each byte of which
/// may be escaped. A test compares it with such a list.
pub(crate) const MAX_LIST_BYTES: usize = 144 << 10;

/// An upper bound that may be absent.
///
/// ```
/// use lobbyd::config::Limit;
///
/// assert!(Limit::at_most(10).has_room(9));
/// assert!(!Limit::at_most(0).has_room(0), "0 means none");
/// assert!(Limit::UNLIMITED.has_room(usize::MAX - 1));
/// assert_eq!(Limit::at_most(u32::MAX).bound(), Some(u32::MAX), "the largest number is a bound like any other");
/// assert!(Limit::at_most(u32::MAX) < Limit::UNLIMITED);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Limit(Bound);

/// Ordered: unlimited is above every number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Bound {
    AtMost(u32),
    Unlimited,
}

impl Limit {
    /// No bound.
    pub const UNLIMITED: Limit = Limit(Bound::Unlimited);

    /// At most `n`; 0 means none.
    pub const fn at_most(n: u32) -> Limit {
        Limit(Bound::AtMost(n))
    }

    /// Returns the bound, or `None` if the limit is unlimited.
    pub const fn bound(self) -> Option<u32> {
        match self.0 {
            Bound::AtMost(n) => Some(n),
            Bound::Unlimited => None,
        }
    }

    /// Returns whether one more fits when `taken` exist already.
    pub const fn has_room(self, taken: usize) -> bool {
        match self.bound() {
            Some(bound) => taken < bound as usize,
            None => true,
        }
    }
}
