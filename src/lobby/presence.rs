//! What a lobby's members have not been told yet about who came and who left.
//!
//! Changes are merged: they are told once per turn, or earlier when somebody is about to speak, so that nobody hears
//! from a member it does not know. Whoever joins and leaves in between was never there.

use std::mem;

use smol_str::SmolStr;

use crate::close::LeaveReason;
use crate::id::SeatId;

/// A member that left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Departure {
    pub(crate) user: SmolStr,
    pub(crate) seat: SeatId,
    pub(crate) reason: LeaveReason,
}

/// One lobby's untold changes. Who joined is marked at the seat itself.
#[derive(Debug, Default)]
pub(crate) struct Presence {
    departures: Vec<Departure>,
    /// Joined seats that nobody has been told of.
    unannounced: usize,
    /// Whether the members know a list (and follow it by diffs) or only a number.
    counted: bool,
}

impl Presence {
    pub(crate) fn joined(&mut self) {
        self.unannounced += 1;
    }

    /// A member left. Those who were never `introduced` leave without a trace.
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

    /// Everything is being told now, to `members` members. Returns who left, and how the members are to be told.
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

    /// What is untold stays so: while everybody is leaving, or where nobody is told anything. Members still know what they
    /// knew, a list or a number.
    pub(crate) fn discard_changes(&mut self) {
        self.unannounced = 0;
        self.departures.clear();
    }

    /// Whether the lobby is too large to be listed.
    pub(crate) fn is_counted(&self) -> bool {
        self.counted
    }
}

/// How those who were there before learn of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PresenceUpdate {
    /// By a diff.
    Diff,
    /// By the whole state: the lobby has become too large to be listed, or small enough again.
    State,
    /// Not at all: they know only a number, and can ask.
    Nothing,
}
