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
    fresh: usize,
    /// Whether the members know a list (and follow it by diffs) or only a number.
    counted: bool,
}

impl Presence {
    pub(crate) fn joined(&mut self) {
        self.fresh += 1;
    }

    /// A member left. Those who were never `introduced` leave without a trace.
    pub(crate) fn left(&mut self, introduced: bool, departure: Departure) {
        if introduced {
            self.departures.push(departure);
        } else {
            self.fresh -= 1;
        }
    }

    pub(crate) fn is_settled(&self) -> bool {
        self.fresh == 0 && self.departures.is_empty()
    }

    pub(crate) fn fresh(&self) -> usize {
        self.fresh
    }

    /// Everything is being told now, to `members` members. Returns who left, and how the members are to be told.
    pub(crate) fn settle(&mut self, members: usize, presence_max: usize) -> (Vec<Departure>, Telling) {
        self.fresh = 0;
        let was_counted = mem::replace(&mut self.counted, members > presence_max);
        let telling = match (was_counted, self.counted) {
            (false, false) => Telling::Diff,
            (true, true) => Telling::Nothing,
            (false, true) | (true, false) => Telling::State,
        };
        (mem::take(&mut self.departures), telling)
    }

    /// What is untold stays so: while everybody is leaving, or where nobody is told anything. Members still know what they
    /// knew, a list or a number.
    pub(crate) fn settle_untold(&mut self) {
        self.fresh = 0;
        self.departures.clear();
    }

    /// Whether the lobby is too large to be listed.
    pub(crate) fn is_counted(&self) -> bool {
        self.counted
    }
}

/// How those who were there before learn of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Telling {
    /// By a diff.
    Diff,
    /// By the whole state: the lobby has become too large to be listed, or small enough again.
    State,
    /// Not at all: they know only a number, and can ask.
    Nothing,
}
