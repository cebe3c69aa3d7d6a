//! Model of the seats: each join is followed by exactly one leave, and only the member in a seat acts.
//!
//! Fed with joins, takeovers and leaves. Knows no limits and no reasons.

use std::collections::BTreeMap;

use crate::base::id::{ConnId, SeatId};
use crate::base::time::Time;
use crate::engine::app::Member;

/// The occupied seats, and counts of the changes.
#[derive(Debug, Default)]
pub(crate) struct SeatModel {
    seats: BTreeMap<SeatId, Seated>,
    pub(crate) joined: u64,
    pub(crate) taken_over: u64,
    pub(crate) left: u64,
}

/// The member in a seat.
#[derive(Debug)]
pub(crate) struct Seated {
    pub(crate) conn: ConnId,
    pub(crate) user: Box<str>,
    pub(crate) lobby: Box<str>,
    /// Time at which this connection joined or took over the seat.
    pub(crate) since: Time,
}

impl Seated {
    fn new(member: &Member, since: Time) -> Seated {
        Seated { conn: member.conn(), user: member.user().into(), lobby: member.lobby().into(), since }
    }
}

impl SeatModel {
    pub(crate) fn joined(&mut self, member: &Member, at: Time) -> Result<(), String> {
        self.joined += 1;
        match self.seats.insert(member.seat(), Seated::new(member, at)) {
            None => Ok(()),
            Some(_) => Err(format!("second on_join for seat={}", member.seat())),
        }
    }

    /// A newer connection of the user took over the seat. Returns the older connection.
    pub(crate) fn taken_over(&mut self, member: &Member, at: Time) -> Result<ConnId, String> {
        self.taken_over += 1;
        match self.seats.get_mut(&member.seat()) {
            Some(there) if *there.user == *member.user() => Ok(std::mem::replace(there, Seated::new(member, at)).conn),
            _ => Err(format!("on_rejoin for seat={}, which is not a seat of the user", member.seat())),
        }
    }

    pub(crate) fn left(&mut self, member: &Member) -> Result<(), String> {
        self.left += 1;
        let seated = self.check_seated(member, "on_leave");
        self.seats.remove(&member.seat());
        seated
    }

    /// Checks that `member`, named in the callback `call`, is in its seat, on its connection.
    pub(crate) fn check_seated(&self, member: &Member, call: &str) -> Result<(), String> {
        let there = self.seats.get(&member.seat());
        if there.is_some_and(|there| there.conn == member.conn() && *there.user == *member.user()) {
            return Ok(());
        }
        Err(format!("{call} names conn={} seat={}, which is not joined", member.conn(), member.seat()))
    }

    /// Checks, at the end of a run, that every member has left.
    pub(crate) fn check_empty(&self) -> Result<(), String> {
        if self.seats.is_empty() { Ok(()) } else { Err(format!("no on_leave for {:?}", self.seats)) }
    }

    pub(crate) fn get(&self, seat: SeatId) -> Option<&Seated> {
        self.seats.get(&seat)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (SeatId, &Seated)> {
        self.seats.iter().map(|(&seat, seated)| (seat, seated))
    }

    pub(crate) fn of_user(&self, user: &str) -> Vec<SeatId> {
        self.iter().filter(|(_, seated)| *seated.user == *user).map(|(seat, _)| seat).collect()
    }

    pub(crate) fn is_lobby_empty(&self, lobby: &str) -> bool {
        self.seats.values().all(|seated| *seated.lobby != *lobby)
    }
}
