//! Which member is the host of a lobby.
//!
//! The host is the first member to join that has a session. It stays the host while it is away for less than
//! `host_grace`. Then, or when it has left, the present member with a session that joined first becomes the host. While
//! there is none, the host does not change.

use crate::base::id::{LobbyKey, SeatId, SeatKey};
use crate::base::time::Time;
use crate::lobby::control::Control;
use crate::lobby::directory::Directory;

impl Directory {
    /// Returns the id of the host's seat, which may have been freed.
    pub(crate) fn host(&self, lobby: LobbyKey) -> Option<SeatId> {
        self.control(lobby)?.host.map(|(_, id)| id)
    }

    /// Whether a seat is that of its lobby's host.
    pub(crate) fn is_host(&self, seat: SeatKey) -> bool {
        self.host(self.seats[seat].lobby) == Some(self.seats[seat].id)
    }

    /// Whether the member in a seat can be the host: it is present, plays, and can send the requests of a host.
    pub(crate) fn can_be_host(&self, seat: SeatKey) -> bool {
        let seat = &self.seats[seat];
        seat.has_session && !seat.is_away && !seat.is_watcher
    }

    /// Makes a member the host.
    pub(crate) fn set_host(&mut self, seat: SeatKey) {
        let (lobby, id) = (self.seats[seat].lobby, self.seats[seat].id);
        let Some(controls) = &mut self.control else { return };
        if let Some(control) = controls.get_mut(lobby) {
            (control.host, control.host_until) = (Some((seat, id)), Time::NEVER);
            controls.rearm(lobby);
        }
    }

    /// Makes another member the host if it is time to. Returns its seat.
    pub(crate) fn move_host(&mut self, lobby: LobbyKey, now: Time) -> Option<SeatKey> {
        let control = self.control(lobby)?;
        if self.keeps_host(control.host, control.host_until, now) {
            return None;
        }
        let next = self.seats_in(lobby).find(|&seat| self.can_be_host(seat))?;
        self.set_host(next);
        Some(next)
    }

    fn keeps_host(&self, host: Option<(SeatKey, SeatId)>, until: Time, now: Time) -> bool {
        let Some((seat, id)) = host else { return false };
        self.is_current_seat(seat, id)
            && (self.can_be_host(seat) || (self.seats[seat].is_away && self.seats[seat].has_session && now < until))
    }

    /// Begins or ends the time for which a host that is away stays the host.
    pub(super) fn update_host_deadline(&mut self, lobby: LobbyKey, now: Time) {
        let Some(&(seat, id)) = self.control(lobby).and_then(|control| control.host.as_ref()) else { return };
        let is_away = self.is_current_seat(seat, id) && self.seats[seat].is_away;
        let controls = self.control.as_mut().expect("the lobby has its control");
        let grace = controls.bounds.host_grace;
        let control = controls.get_mut(lobby).expect("the lobby has its control");
        match (is_away, control.host_until) {
            (true, Time::NEVER) => control.host_until = if grace.is_zero() { Time::ZERO } else { now + grace },
            (false, _) => control.host_until = Time::NEVER,
            (true, _) => return,
        }
        controls.rearm(lobby);
    }

    /// Asserts that a lobby whose changes were sent has a host, if a member can be it. A deadline that is due is handled at
    /// the end of the turn.
    pub(crate) fn check_host(&self, lobby: LobbyKey, now: Time) {
        let is_settled = |control: &&Control| !control.is_dirty && control.timer > now;
        let Some(control) = self.control(lobby).filter(is_settled) else { return };
        let has_host = self.keeps_host(control.host, control.host_until, now);
        let has_candidate = self.seats_in(lobby).any(|seat| self.can_be_host(seat));
        assert!(has_host || !has_candidate, "a lobby with a member that can be the host has one");
    }
}
