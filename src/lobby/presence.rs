//! Presence changes of one lobby that have not been sent to its members yet.
//!
//! Changes are merged and sent once per turn. They are sent earlier if a message is about to be delivered, so that no
//! client receives a message from a member that was not announced to it. A member that joins and leaves between two
//! updates does not appear in either.
//!
//! ```text
//! listed --more than presence_max members--> counted --no longer, and presence_count_interval has passed--> listed
//! ```
//!
//! The members of a listed lobby know each other and receive diffs. Those of a counted lobby know their number. When it
//! has changed they are told it again, or the list, at most once in each `presence_count_interval`.

use std::mem;
use std::time::Duration;

use smol_str::SmolStr;

use crate::base::close::LeaveReason;
use crate::base::id::SeatId;
use crate::base::time::Time;
use crate::config::Config;

/// A member that left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Departure {
    pub(crate) user: SmolStr,
    pub(crate) seat: SeatId,
    pub(crate) reason: LeaveReason,
}

/// A member whose connection was lost or has come back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SeatUser {
    pub(crate) user: SmolStr,
    pub(crate) seat: SeatId,
}

/// Unsent presence changes of one lobby. Joins are marked at the seats (`is_announced`) and only counted here.
#[derive(Debug, Default)]
pub(crate) struct Presence {
    departures: Vec<Departure>,
    /// Number of joined seats that have not been announced.
    unannounced: usize,
    /// Present while the lobby is counted.
    counted: Option<Box<Counted>>,
}

/// What the members of a counted lobby know.
#[derive(Debug)]
struct Counted {
    /// Time at which all members were last told their number.
    told_at: Time,
    /// Time at which to tell them again; [`Time::NEVER`] if the number has not changed since.
    update_at: Time,
    /// Whether that time has come.
    is_due: bool,
}

impl Counted {
    fn told(now: Time) -> Option<Box<Counted>> {
        Some(Box::new(Counted { told_at: now, update_at: Time::NEVER, is_due: false }))
    }
}

/// When a lobby is counted, and how often the number is told.
#[derive(Clone, Copy, Debug)]
pub(super) struct CountRules {
    max: usize,
    /// `None`: the number is told to members that join or ask.
    interval: Option<Duration>,
}

impl CountRules {
    pub(super) fn new(config: &Config) -> CountRules {
        CountRules { max: config.presence_max as usize, interval: config.presence_count_interval }
    }
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

    /// Records that the connection of a member was lost.
    pub(super) fn went_away(&mut self, _member: SeatUser) {}

    /// Records that a member that was told to be away has a connection again.
    pub(super) fn came_back(&mut self, _member: SeatUser) {}

    pub(crate) fn is_flushed(&self) -> bool {
        self.unannounced == 0 && self.departures.is_empty() && !self.counted.as_ref().is_some_and(|it| it.is_due)
    }

    pub(crate) fn unannounced(&self) -> usize {
        self.unannounced
    }

    /// Takes the unsent changes, for a lobby with `members` members. Returns the departures and the kind of update to
    /// send. The caller marks the joined seats as announced.
    pub(super) fn take_changes(
        &mut self,
        members: usize,
        rules: CountRules,
        now: Time,
    ) -> (Vec<Departure>, PresenceUpdate) {
        self.unannounced = 0;
        let departures = mem::take(&mut self.departures);
        let is_large = members > rules.max;
        let update = match (&mut self.counted, rules.interval) {
            (None, _) if !is_large => PresenceUpdate::Diff,
            (Some(_), None) if is_large => PresenceUpdate::Nothing,
            (Some(counted), Some(interval)) if now < counted.told_at + interval => {
                counted.update_at = counted.told_at + interval;
                PresenceUpdate::Nothing
            }
            (counted, _) => {
                *counted = if is_large { Counted::told(now) } else { None };
                PresenceUpdate::State
            }
        };
        (departures, update)
    }

    /// Returns the time at which the members are to be told their number again, or [`Time::NEVER`].
    pub(super) fn update_at(&self) -> Time {
        self.counted.as_ref().map_or(Time::NEVER, |counted| counted.update_at)
    }

    /// Makes the next flush tell the members their number, because its time has come.
    pub(super) fn update_is_due(&mut self) {
        if let Some(counted) = &mut self.counted {
            (counted.update_at, counted.is_due) = (Time::NEVER, true);
        }
    }

    /// Discards the unsent changes: during a drain, and for protocols without presence. The members still know either
    /// the list or the number.
    pub(crate) fn discard_changes(&mut self) {
        self.unannounced = 0;
        self.departures.clear();
        self.counted.iter_mut().for_each(|counted| counted.is_due = false);
    }

    /// Returns whether the members know only their number.
    pub(crate) fn is_counted(&self) -> bool {
        self.counted.is_some()
    }
}

/// Kind of update that announces a change to the members that were in the lobby before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PresenceUpdate {
    /// A `presence_diff`.
    Diff,
    /// A `presence_state`: the lobby has become too large for a list, or small enough again, or its number has changed.
    State,
    /// No update now: the members know only their number, and can request it.
    Nothing,
}
