//! Compares the model of lobby control with the engine after a turn: its lobbies exist as long as they must, have the host
//! that they must have, and count down when they must.

use std::collections::BTreeSet;

use super::control::{ControlModel, Lobby, Members};
use super::lobby_view::{LobbyView, read_values};
use crate::base::id::SeatId;
use crate::base::time::Time;
use crate::config::Limit;
use crate::engine::control::inspect::InspectedControl;

/// A lobby of the engine: its epoch, and its lobby control.
pub(crate) type Inspected = (u64, InspectedControl);

impl ControlModel {
    /// Checks all lobbies. `inspect` returns a lobby of the engine, `is_draining` whether it drains, and `is_wall_stepped`
    /// whether the wall clock was ever set.
    pub(crate) fn check(
        &mut self,
        inspect: impl Fn(&str) -> Option<Inspected>,
        members: Members<'_>,
        now: Time,
        is_draining: bool,
        is_wall_stepped: bool,
    ) -> Result<(), String> {
        self.end_turn();
        let mut gone = Vec::new();
        let grace = self.host_grace();
        for (code, lobby) in &mut self.lobbies {
            let seats = members.of(code);
            let Some((_, inspected)) = inspect(code).filter(|(epoch, _)| *epoch == lobby.epoch) else {
                gone.push(code.clone());
                continue;
            };
            let context = |error: String| format!("lobby {code}: {error}");
            if !is_draining {
                check_host(&inspected, &seats, members, now, grace).map_err(context)?;
            }
            // Nobody was told of a host among members that are all new.
            let are_new = seats.iter().all(|seat| *seat > self.newest_seat);
            let host = inspected.host.map(|host| host.to_string().into());
            if are_new {
                lobby.view.host = host;
            }
            check_view(lobby, &inspected, is_wall_stepped).map_err(context)?;
            if !is_draining {
                check_countdown(code, lobby, members, now).map_err(context)?;
            }
            if let Some(since) = lobby.empty_since
                && !self.may_reserve
                && now >= since + lobby.empty_ttl()
            {
                return Err(context(format!("it is empty since {since}, for longer than its ttl")));
            }
        }
        self.check_gone(&gone, members, now, is_draining)?;
        gone.iter().for_each(|code| drop(self.lobbies.remove(code)));
        self.newest_seat = self.newest_seat.max(members.seats.iter().map(|(seat, _)| seat).max().unwrap_or(SeatId(0)));
        Ok(())
    }

    /// Checks that lobbies that do not exist any more had no members for their ttl, or gave way to others.
    fn check_gone(&self, gone: &[Box<str>], members: Members<'_>, now: Time, is_draining: bool) -> Result<(), String> {
        for code in gone {
            let lobby = &self.lobbies[code];
            if !members.of(code).is_empty() {
                return Err(format!("lobby {code} has members, and does not exist"));
            }
            let Some(since) = lobby.empty_since else { continue };
            if now >= since + lobby.empty_ttl() || is_draining || self.may_reserve {
                continue;
            }
            if self.max_lobbies == Limit::UNLIMITED {
                return Err(format!("lobby {code}, empty since {since}, does not exist before the end of its ttl"));
            }
            let is_older = |other: &str, lobby: &Lobby| {
                !gone.iter().any(|code| **code == *other) && lobby.empty_since.is_some_and(|other| other < since)
            };
            if self.lobbies.iter().any(|(other, lobby)| is_older(other, lobby)) {
                return Err(format!("lobby {code} gave way to another one, and was not empty for the longest time"));
            }
        }
        Ok(())
    }
}

/// Checks that there is a host, if a member can be it.
fn check_host(
    inspected: &InspectedControl,
    seats: &[SeatId],
    members: Members<'_>,
    now: Time,
    grace: std::time::Duration,
) -> Result<(), String> {
    let sessions = members.sessions;
    let keeps = inspected.host.filter(|host| seats.contains(host) && sessions.has_session(*host));
    let keeps = keeps.is_some_and(|host| sessions.away_since(host).is_none_or(|since| now < since + grace));
    match seats.iter().find(|seat| members.is_candidate(**seat)) {
        Some(candidate) if !keeps => Err(format!("the host is {:?}, and {candidate} must be it", inspected.host)),
        _ => Ok(()),
    }
}

/// Compares what was said of a lobby with what it is.
fn check_view(lobby: &mut Lobby, inspected: &InspectedControl, is_wall_stepped: bool) -> Result<(), String> {
    let mut members = std::collections::BTreeMap::new();
    for (seat, data) in &inspected.members {
        members.insert(seat.to_string().into(), read_values(data)?);
    }
    let now = LobbyView {
        host: inspected.host.map(|host| host.to_string().into()),
        settings: read_values(&inspected.settings)?,
        data: read_values(&inspected.data)?,
        members,
        countdown: inspected.countdown,
    };
    if is_wall_stepped && lobby.view.countdown.is_some() && now.countdown.is_some() {
        lobby.view.countdown = now.countdown;
    }
    if lobby.view == now { Ok(()) } else { Err(format!("it has said {:?}, and is {now:?}", lobby.view)) }
}

/// Checks that a lobby counts down while it may start, and not any longer.
fn check_countdown(code: &str, lobby: &Lobby, members: Members<'_>, now: Time) -> Result<(), String> {
    let settled = Members { unflushed: &BTreeSet::new(), ..members };
    let may_start = lobby.may_start(code, settled) == Some(true);
    if lobby.empty_since.is_none() && may_start != lobby.starts_at.is_some() {
        return Err(format!("may start: {may_start}; starts at {:?}", lobby.starts_at));
    }
    match lobby.starts_at {
        Some(starts_at) if now >= starts_at => Err(format!("it had to start at {starts_at}")),
        _ => Ok(()),
    }
}
