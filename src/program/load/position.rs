//! How far a member has read its session.

/// The seat of a session, and how far its messages were read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Position {
    /// `conn` of the last `welcome`.
    pub(super) seat: String,
    pub(super) epoch: String,
    pub(super) seq: u64,
    pub(super) n: u64,
    /// Whether the first `presence_state` has come. Before, the member has no position, and sends no numbered request.
    pub(super) is_known: bool,
}

impl Position {
    /// Returns the parameters of a request that claim this position.
    pub(super) fn parameters(&self) -> String {
        let Position { epoch, seq, n, is_known, .. } = self;
        if *is_known { format!("&epoch={epoch}&seq={seq}&n={n}") } else { String::new() }
    }
}
