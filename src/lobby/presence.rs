//! Presence changes of one lobby that have not been sent to its members yet.
//!
//! Changes are merged and sent once per turn. They are sent earlier if a message is about to be delivered, so that no
//! client receives a message from a member that was not announced to it. A member that joins and leaves between two
//! updates does not appear in either.

use std::mem;

use smol_str::SmolStr;

use crate::base::close::LeaveReason;
use crate::base::id::SeatId;

/// A member that left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Departure {
    pub(crate) user: SmolStr,
    pub(crate) seat: SeatId,
    pub(crate) reason: LeaveReason,
}

/// Unsent presence changes of one lobby. Joins are marked at the seats (`is_announced`) and only counted here.
#[derive(Debug, Default)]
pub(crate) struct Presence {
    departures: Vec<Departure>,
    /// Number of joined seats that have not been announced.
    unannounced: usize,
    /// Whether the members know only the number of members. Otherwise they know the list and receive diffs.
    counted: bool,
}

impl Presence {
    /// Records that a member joined. It is not announced yet.
    pub(crate) fn joined(&mut self) {
        self.unannounced += 1;
    }

    /// Records that a member left. No departure is sent for a member that was not announced.
    pub(crate) fn left(&mut self, is_announced: bool, departure: Departure) {
        if is_announced {
            self.departures.push(departure);
        } else {
            self.unannounced -= 1;
        }
    }

    pub(crate) fn is_flushed(&self) -> bool {
        self.unannounced == 0 && self.departures.is_empty()
    }

    pub(crate) fn unannounced(&self) -> usize {
        self.unannounced
    }

    /// Takes the unsent changes, for a lobby with `members` members. Returns the departures and the kind of update to
    /// send. The caller marks the joined seats as announced.
    pub(crate) fn take_changes(&mut self, members: usize, presence_max: usize) -> (Vec<Departure>, PresenceUpdate) {
        self.unannounced = 0;
        let was_counted = mem::replace(&mut self.counted, members > presence_max);
        let update = match (was_counted, self.counted) {
            (false, false) => PresenceUpdate::Diff,
            (true, true) => PresenceUpdate::Nothing,
            (false, true) | (true, false) => PresenceUpdate::State,
        };
        (mem::take(&mut self.departures), update)
    }

    /// Discards the unsent changes: during a drain, and for protocols without presence. The members still know either
    /// the list or the number.
    pub(crate) fn discard_changes(&mut self) {
        self.unannounced = 0;
        self.departures.clear();
    }

    /// Returns whether the lobby is too large for a list of its members.
    pub(crate) fn is_counted(&self) -> bool {
        self.counted
    }
}

/// Kind of update that announces a change to the members that were in the lobby before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PresenceUpdate {
    /// A `presence_diff`.
    Diff,
    /// A `presence_state`: the lobby has become too large for a list, or small enough again.
    State,
    /// No update: the members know only the number, and can request it.
    Nothing,
}
