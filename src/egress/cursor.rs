//! Positions in a broadcast log.

/// Position of a member in its lobby's log: the number of frames read, of all frames ever appended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Cursor(pub(super) u64);

impl Cursor {
    pub(super) const START: Cursor = Cursor(0);
}
