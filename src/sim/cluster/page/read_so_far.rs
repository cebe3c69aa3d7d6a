//! What a page has read of its lobby, and what its session must claim.

use crate::sim::cluster::books::Epoch;

/// What a page has read of its lobby.
#[derive(Debug, Default)]
pub(super) struct ReadSoFar {
    pub(super) epoch: Option<Epoch>,
    /// Epoch and `seq` of the last numbered frame.
    pub(super) position: Option<(u64, u64)>,
    /// Number of the last direct message, which the next one follows.
    pub(super) n: Option<u64>,
    /// Highest number of a direct message on this seat.
    pub(super) highest_n: u64,
    pub(super) seat: Option<String>,
    pub(super) has_list: bool,
    /// Whether the page claims the session of another one.
    pub(super) has_was: bool,
    /// Whether the session may know more than was read, or less.
    pub(super) is_vague: bool,
}

impl ReadSoFar {
    /// The session must claim the position that the page has read.
    pub(super) fn check_claim(&self, target: &str) -> Result<(), String> {
        let (_, query) = target.split_once('?').unwrap_or_default();
        let number = |name: &str| {
            let pair = query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
            pair.and_then(|value| value.parse::<u64>().ok())
        };
        let claimed = (number("epoch"), number("seq"), number("n"));
        let read = match self.position {
            Some((epoch, seq)) => (Some(epoch), Some(seq), Some(self.highest_n)),
            None => (None, None, None),
        };
        if claimed == read || self.is_vague {
            return Ok(());
        }
        Err(format!("the session claims {claimed:?}, and has read {read:?}"))
    }
}
