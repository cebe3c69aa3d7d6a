//! Model of the seats: each join is followed by exactly one leave, and only the member in a seat acts.
//!
//! Fed with joins, takeovers and leaves. A seat whose connection was lost counts like any other. Knows no reasons.

use std::collections::BTreeMap;

use crate::base::id::{ConnId, SeatId};
use crate::base::time::Time;
use crate::config::{Config, DuplicateLogin, Limit};
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
    /// The connections before, of a session that came back. They may have had other addresses.
    pub(crate) earlier: Vec<ConnId>,
    pub(crate) user: Box<str>,
    pub(crate) lobby: Box<str>,
    /// Time at which this connection joined or took over the seat.
    pub(crate) since: Time,
    /// Whether the connection was lost, and the seat is kept for its session.
    pub(crate) is_away: bool,
    /// Whether it watches, and is no member.
    pub(crate) is_watcher: bool,
}

impl Seated {
    fn new(member: &Member, since: Time) -> Seated {
        Seated {
            conn: member.conn(),
            earlier: Vec::new(),
            user: member.user().into(),
            lobby: member.lobby().into(),
            since,
            is_away: false,
            is_watcher: member.is_watcher(),
        }
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

    /// The connection of a session was lost. Its seat is kept, and `member` still names the connection.
    pub(crate) fn went_away(&mut self, member: &Member) -> Result<(), String> {
        self.check_seated(member, "on_away")?;
        let seated = self.seats.get_mut(&member.seat()).expect("just checked");
        if std::mem::replace(&mut seated.is_away, true) {
            return Err(format!("second on_away for seat={}", member.seat()));
        }
        Ok(())
    }

    /// Checks that no limit is exceeded by the seats, present and away.
    pub(crate) fn check_limits(&self, config: &Config) -> Result<(), String> {
        let check = |name: &str, count: usize, limit: Limit| match count {
            1.. if !limit.has_room(count - 1) => Err(format!("{count} seats, present and away, exceed {name}")),
            _ => Ok(()),
        };
        check("max_connections", self.seats.len(), config.max_connections)?;
        let per_user = match config.duplicate_login {
            DuplicateLogin::Allow => config.max_per_user,
            DuplicateLogin::Replace | DuplicateLogin::Reject => Limit::at_most(1),
        };
        let count = |fits: &dyn Fn(&Seated) -> bool| self.seats.values().filter(|seated| fits(seated)).count();
        for seated in self.seats.values() {
            check("max_per_lobby", count(&|other| other.lobby == seated.lobby), config.max_per_lobby)?;
            check("max_per_user", count(&|other| other.user == seated.user), per_user)?;
        }
        Ok(())
    }

    /// The session in the seat came back. Returns the older connection.
    pub(crate) fn back(&mut self, member: &Member, at: Time) -> Result<ConnId, String> {
        let mut earlier = self.get(member.seat()).map_or(Vec::new(), |seated| seated.earlier.clone());
        let older = self.taken_over(member, at)?;
        earlier.push(older);
        self.seats.get_mut(&member.seat()).expect("it was just taken over").earlier = earlier;
        Ok(older)
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

    /// The connection in a seat, if there is one.
    pub(crate) fn conn_of(&self, seat: SeatId) -> Option<ConnId> {
        self.get(seat).filter(|seated| !seated.is_away).map(|seated| seated.conn)
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
