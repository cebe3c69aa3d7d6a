//! Presence changes of one lobby that have not been sent to its members yet.
//!
//! Changes are merged and sent once per turn. They are sent earlier if a message is about to be delivered, so that no
//! client receives a message from a member that was not announced to it. Changes that cancel out between two updates do
//! not appear in either: a member that joins and leaves, or goes away and comes back.
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
use crate::base::snapshot::{SnapshotError, SnapshotReader, SnapshotWriter, ensure};
use crate::base::time::Time;
use crate::config::Config;

/// A member that left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Departure {
    pub(crate) user: SmolStr,
    pub(crate) seat: SeatId,
    pub(crate) reason: LeaveReason,
}

/// A member that was announced to the others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AnnouncedMember {
    pub(crate) user: SmolStr,
    pub(crate) seat: SeatId,
}

/// The changes to send to the members.
#[derive(Debug)]
pub(crate) struct Changes {
    pub(crate) departures: Vec<Departure>,
    /// Members whose connection dropped, and that may come back.
    pub(crate) away: Vec<AnnouncedMember>,
    /// Members that were away and have a connection again.
    pub(crate) back: Vec<AnnouncedMember>,
    pub(crate) update: PresenceUpdate,
}

/// Unsent presence changes of one lobby. Joins are marked at the seats (`is_announced`) and only counted here.
#[derive(Debug, Default)]
pub(crate) struct Presence {
    departures: Vec<Departure>,
    /// Number of joined seats that have not been announced, without watchers.
    unannounced: u32,
    /// Number of watchers that have not been told who is there.
    new_watchers: u32,
    /// What few lobbies have, so that all others need no memory for it.
    rare: Option<Box<Rare>>,
}

/// The members of a counted lobby are not told who is away, so a lobby needs only one of both.
#[derive(Debug)]
enum Rare {
    /// The lobby is listed, and at least one list is not empty. No seat is in both.
    Absences { away: Vec<AnnouncedMember>, back: Vec<AnnouncedMember> },
    /// The lobby is counted.
    Counted(Counted),
}

/// What the members of a counted lobby know.
#[derive(Debug)]
struct Counted {
    /// Time before which they are not told their number again.
    next_at: Time,
    /// Time at which to tell them again; [`Time::NEVER`] if the number has not changed since.
    update_at: Time,
    /// Whether that time has come.
    is_due: bool,
}

impl Counted {
    fn told(now: Time, rules: CountRules) -> Counted {
        let next_at = rules.interval.map_or(Time::NEVER, |interval| now + interval);
        Counted { next_at, update_at: Time::NEVER, is_due: false }
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
    pub(crate) fn joined(&mut self, is_watcher: bool) {
        let count = if is_watcher { &mut self.new_watchers } else { &mut self.unannounced };
        *count += 1;
    }

    /// Records that a watcher left. Nobody is told.
    pub(crate) fn watcher_left(&mut self, is_announced: bool) {
        self.new_watchers -= u32::from(!is_announced);
    }

    /// Records that a member left. No departure is sent for a member that was not announced.
    pub(crate) fn left(&mut self, is_announced: bool, departure: Departure) {
        if !is_announced {
            self.unannounced -= 1;
            return;
        }
        if let Some(Rare::Absences { away, back }) = self.rare.as_deref_mut() {
            remove(away, departure.seat);
            remove(back, departure.seat);
            self.free_absences();
        }
        self.departures.push(departure);
    }

    /// Records that an announced member is away.
    pub(crate) fn went_away(&mut self, member: AnnouncedMember) {
        if let Some((away, back)) = self.absences()
            && !remove(back, member.seat)
        {
            away.push(member);
        }
        self.free_absences();
    }

    /// Records that an announced member that was away is back.
    pub(crate) fn came_back(&mut self, member: AnnouncedMember) {
        if let Some((away, back)) = self.absences()
            && !remove(away, member.seat)
        {
            back.push(member);
        }
        self.free_absences();
    }

    /// The lists of members that are away and back. `None` in a counted lobby.
    fn absences(&mut self) -> Option<(&mut Vec<AnnouncedMember>, &mut Vec<AnnouncedMember>)> {
        let empty = || Box::new(Rare::Absences { away: Vec::new(), back: Vec::new() });
        match &mut **self.rare.get_or_insert_with(empty) {
            Rare::Absences { away, back } => Some((away, back)),
            Rare::Counted(_) => None,
        }
    }

    /// Frees the lists if all their changes have cancelled out.
    fn free_absences(&mut self) {
        self.rare
            .take_if(|rare| matches!(&**rare, Rare::Absences { away, back } if away.is_empty() && back.is_empty()));
    }

    fn counted(&self) -> Option<&Counted> {
        match self.rare.as_deref()? {
            Rare::Counted(counted) => Some(counted),
            Rare::Absences { .. } => None,
        }
    }

    pub(crate) fn is_flushed(&self) -> bool {
        self.new_watchers == 0 && !self.has_changes()
    }

    /// Whether there is a change that members are told of.
    fn has_changes(&self) -> bool {
        let has_rare_change = |rare: &Rare| match rare {
            Rare::Absences { .. } => true,
            Rare::Counted(counted) => counted.is_due,
        };
        self.unannounced > 0 || !self.departures.is_empty() || self.rare.as_deref().is_some_and(has_rare_change)
    }

    /// Returns the number of members, and of watchers, that have not been announced.
    pub(crate) fn unannounced(&self) -> (usize, usize) {
        (self.unannounced as usize, self.new_watchers as usize)
    }

    /// Takes the unsent changes, for a lobby with `members` members. The caller marks the joined seats as announced.
    pub(super) fn take_changes(&mut self, members: usize, rules: CountRules, now: Time) -> Changes {
        if mem::take(&mut self.new_watchers) > 0 && !self.has_changes() {
            return Changes {
                departures: Vec::new(),
                away: Vec::new(),
                back: Vec::new(),
                update: PresenceUpdate::Nothing,
            };
        }
        self.unannounced = 0;
        let departures = mem::take(&mut self.departures);
        let is_large = members > rules.max;
        let (mut away, mut back) = (Vec::new(), Vec::new());
        let update = match (self.rare.as_deref_mut(), rules.interval) {
            (None, _) if !is_large => PresenceUpdate::Diff,
            (Some(Rare::Absences { away: all_away, back: all_back }), _) if !is_large => {
                (away, back) = (mem::take(all_away), mem::take(all_back));
                self.rare = None;
                PresenceUpdate::Diff
            }
            (Some(Rare::Counted(_)), None) if is_large => PresenceUpdate::Nothing,
            (Some(Rare::Counted(counted)), Some(_)) if now < counted.next_at => {
                counted.update_at = counted.next_at;
                PresenceUpdate::Nothing
            }
            _ => {
                self.rare = is_large.then(|| Box::new(Rare::Counted(Counted::told(now, rules))));
                PresenceUpdate::State
            }
        };
        Changes { departures, away, back, update }
    }

    /// Returns the time at which the members are to be told their number again, or [`Time::NEVER`].
    pub(super) fn update_at(&self) -> Time {
        self.counted().map_or(Time::NEVER, |counted| counted.update_at)
    }

    /// Makes the next flush tell the members their number, because its time has come.
    pub(super) fn update_is_due(&mut self) {
        if let Some(Rare::Counted(counted)) = self.rare.as_deref_mut() {
            (counted.update_at, counted.is_due) = (Time::NEVER, true);
        }
    }

    /// Discards the unsent changes: during a drain, and for protocols without presence. The members still know either
    /// the list or the number.
    pub(crate) fn discard_changes(&mut self) {
        (self.unannounced, self.new_watchers) = (0, 0);
        self.departures.clear();
        match self.rare.as_deref_mut() {
            Some(Rare::Absences { .. }) => self.rare = None,
            Some(Rare::Counted(counted)) => counted.is_due = false,
            None => {}
        }
    }

    /// Writes the unsent changes to a snapshot. The unannounced members and watchers are known from their seats.
    pub(super) fn write(&self, to: &mut SnapshotWriter) {
        to.len(self.departures.len());
        for Departure { user, seat, reason } in &self.departures {
            to.text(user);
            to.number(seat.0);
            to.reason(*reason);
        }
        match self.rare.as_deref() {
            None => to.byte(0),
            Some(Rare::Absences { away, back }) => {
                to.byte(1);
                [away, back].into_iter().for_each(|members| write_members(members, to));
            }
            Some(&Rare::Counted(Counted { next_at, update_at, is_due })) => {
                to.byte(2);
                to.time(next_at);
                to.time(update_at);
                to.flag(is_due);
            }
        }
    }

    /// Reads what [`write`](Self::write) has written.
    pub(super) fn read(from: &mut SnapshotReader<'_>) -> Result<Presence, SnapshotError> {
        let mut presence = Presence::default();
        for _ in 0..from.len()? {
            let user = from.text()?.into();
            presence.departures.push(Departure { user, seat: SeatId(from.count()?), reason: from.reason()? });
        }
        presence.rare = match from.byte()? {
            0 => None,
            1 => {
                let (away, back) = (read_members(from)?, read_members(from)?);
                ensure(!away.is_empty() || !back.is_empty(), "a lobby without absences has none")?;
                Some(Box::new(Rare::Absences { away, back }))
            }
            2 => {
                let (next_at, update_at, is_due) = (from.time()?, from.time()?, from.flag()?);
                Some(Box::new(Rare::Counted(Counted { next_at, update_at, is_due })))
            }
            _ => return Err(SnapshotError::Invalid("a lobby is listed or counted")),
        };
        Ok(presence)
    }

    /// Returns whether the members know only their number.
    pub(crate) fn is_counted(&self) -> bool {
        self.counted().is_some()
    }
}

fn write_members(members: &[AnnouncedMember], to: &mut SnapshotWriter) {
    to.len(members.len());
    for AnnouncedMember { user, seat } in members {
        to.text(user);
        to.number(seat.0);
    }
}

fn read_members(from: &mut SnapshotReader<'_>) -> Result<Vec<AnnouncedMember>, SnapshotError> {
    let len = from.len()?;
    (0..len).map(|_| Ok(AnnouncedMember { user: from.text()?.into(), seat: SeatId(from.count()?) })).collect()
}

/// Removes a seat from a list. Returns whether it was there.
fn remove(members: &mut Vec<AnnouncedMember>, seat: SeatId) -> bool {
    let position = members.iter().position(|member| member.seat == seat);
    position.map(|position| members.remove(position)).is_some()
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::base::random::Random;

    const RULES: CountRules = CountRules { max: 5, interval: None };

    fn member(seat: u64) -> AnnouncedMember {
        AnnouncedMember { user: SmolStr::new(format!("user{seat}")), seat: SeatId(seat) }
    }

    fn departure(seat: u64) -> Departure {
        Departure { user: member(seat).user, seat: SeatId(seat), reason: LeaveReason::Timeout }
    }

    /// Applies steps such as `away 1, back 1, left 2`, and compares the changes with `away: … back: … left: …`.
    #[track_caller]
    fn check(steps: &str, expected: &str) {
        let mut presence = Presence::default();
        for step in steps.split(", ") {
            let (verb, seat) = step.split_once(' ').expect("a verb and a seat");
            let seat = seat.parse().expect("a number");
            match verb {
                "away" => presence.went_away(member(seat)),
                "back" => presence.came_back(member(seat)),
                "left" => presence.left(true, departure(seat)),
                _ => panic!("{verb}"),
            }
        }
        assert_eq!(presence.is_flushed(), expected == "away [], back [], left []", "{steps}");
        let has_absences = presence.rare.is_some();
        let Changes { departures, away, back, update } = presence.take_changes(3, RULES, Time::ZERO);
        assert_eq!(has_absences, !away.is_empty() || !back.is_empty(), "{steps}");
        let seats = |members: Vec<AnnouncedMember>| members.iter().map(|it| it.seat.0).collect::<Vec<_>>();
        let left: Vec<u64> = departures.iter().map(|it| it.seat.0).collect();
        assert_eq!(format!("away {:?}, back {:?}, left {left:?}", seats(away), seats(back)), expected, "{steps}");
        assert_eq!(update, PresenceUpdate::Diff);
        assert!(presence.is_flushed() && presence.rare.is_none());
    }

    #[test]
    fn away_and_back_are_merged_between_two_updates() {
        check("away 1, away 2", "away [1, 2], back [], left []");
        check("away 1, back 1", "away [], back [], left []");
        check("back 1, away 1", "away [], back [], left []");
        check("back 1, away 1, back 1, away 2", "away [2], back [1], left []");
        check("away 1, back 1, away 1", "away [1], back [], left []");
        check("away 1, back 2, away 3, back 3", "away [1], back [2], left []");
    }

    #[test]
    fn a_member_that_leaves_is_only_told_to_have_left() {
        check("away 1, left 1", "away [], back [], left [1]");
        check("back 1, left 1", "away [], back [], left [1]");
        check("away 1, away 2, back 3, left 2, left 3", "away [1], back [], left [2, 3]");
    }

    #[test]
    fn discarded_changes_are_not_told() {
        let mut presence = Presence::default();
        presence.went_away(member(1));
        presence.came_back(member(2));
        presence.discard_changes();
        assert!(presence.is_flushed());
        let Changes { away, back, .. } = presence.take_changes(3, RULES, Time::ZERO);
        assert_eq!((away, back), (vec![], vec![]));
    }

    #[test]
    fn the_members_of_a_counted_lobby_are_not_told_who_is_away() {
        let mut presence = Presence::default();
        presence.went_away(member(1));
        let Changes { away, update, .. } = presence.take_changes(6, RULES, Time::ZERO);
        assert_eq!((away, update), (vec![], PresenceUpdate::State));
        presence.went_away(member(2));
        presence.came_back(member(1));
        assert!(presence.is_counted() && presence.is_flushed());
        // Listed again: the list says who is away.
        presence.left(true, departure(3));
        let Changes { away, back, update, .. } = presence.take_changes(5, RULES, Time::ZERO);
        assert_eq!((away, back, update), (vec![], vec![], PresenceUpdate::State));
        presence.came_back(member(2));
        assert!(!presence.is_counted() && !presence.is_flushed());
    }

    /// What the others believe after each update is what is true.
    #[test]
    fn the_updates_add_up_to_the_absences() {
        let mut random = Random::new(5);
        let mut presence = Presence::default();
        // Whether each announced seat is away, and what the others were told of it.
        let mut seats: BTreeMap<u64, bool> = (0..6).map(|seat| (seat, false)).collect();
        let mut told = seats.clone();
        for step in 0..20_000 {
            let seat = seats.keys().nth(random.below(6) as usize).copied().expect("six seats");
            match random.below(8) {
                0 => {
                    seats.remove(&seat);
                    presence.left(true, departure(seat));
                    // Another member joins and is announced at once.
                    seats.insert(step + 6, false);
                    told.insert(step + 6, false);
                }
                1 | 2 => {
                    let Changes { departures, away, back, .. } = presence.take_changes(5, RULES, Time::ZERO);
                    departures.iter().for_each(|it| assert!(told.remove(&it.seat.0).is_some(), "leaves once"));
                    away.iter().for_each(|it| assert_eq!(told.insert(it.seat.0, true), Some(false)));
                    back.iter().for_each(|it| assert_eq!(told.insert(it.seat.0, false), Some(true)));
                    assert_eq!(told, seats);
                }
                _ => {
                    let is_away = seats.get_mut(&seat).expect("it is a key");
                    *is_away = !*is_away;
                    if *is_away { presence.went_away(member(seat)) } else { presence.came_back(member(seat)) }
                }
            }
        }
    }
}
