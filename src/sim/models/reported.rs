//! Model of the events that operators and the hook get: seats and lobbies as somebody knows them who reads nothing else.
//!
//! Fed with the events of each turn, and with what the application was told in it.

use std::collections::{BTreeMap, BTreeSet};

use smol_str::SmolStr;

use super::seats::SeatModel;
use crate::base::close::LeaveReason;
use crate::base::event_kind::EventKind;
use crate::base::id::SeatId;
use crate::engine::observer::ObservedEvent;
use crate::engine::state::feed::{FeedEvent, FeedMember};

/// A seat, as the events have reported it.
#[derive(Debug)]
struct ReportedSeat {
    user: SmolStr,
    lobby: SmolStr,
    is_watcher: bool,
    is_away: bool,
}

/// What happened to a seat, and why.
type SeatChange = (EventKind, SeatId, Option<LeaveReason>);

#[derive(Debug, Default)]
pub(crate) struct ReportedModel {
    seats: BTreeMap<SeatId, ReportedSeat>,
    lobbies: BTreeSet<SmolStr>,
    hosts: BTreeMap<SmolStr, SeatId>,
    is_draining: bool,
    /// What the application was told in this turn.
    told: Vec<SeatChange>,
}

impl ReportedModel {
    /// The application was told of an event.
    pub(crate) fn told(&mut self, event: &ObservedEvent) {
        let change = match event {
            ObservedEvent::Joined(member) => (EventKind::Joined, member.seat(), None),
            ObservedEvent::TookOver(member) => (EventKind::Rejoined, member.seat(), None),
            ObservedEvent::Away(member, reason) => (EventKind::Away, member.seat(), Some(*reason)),
            ObservedEvent::Back(member) => (EventKind::Back, member.seat(), None),
            ObservedEvent::Left(member, reason) => (EventKind::Left, member.seat(), Some(*reason)),
            _ => return,
        };
        self.told.push(change);
    }

    /// Checks the events of a turn: each change of a seat that the application was told, in the same order, and no other one.
    pub(crate) fn check_turn(&mut self, events: &[FeedEvent]) -> Result<(), String> {
        let changes: Vec<SeatChange> = events
            .iter()
            .filter(|event| event.kind != EventKind::Host)
            .filter_map(|event| Some((event.kind, event.member.as_ref()?.seat, event.reason)))
            .collect();
        let told = std::mem::take(&mut self.told);
        if changes != told {
            return Err(format!("the events of seats are {changes:?}, and the application was told {told:?}"));
        }
        for event in events {
            self.take(event).map_err(|problem| format!("{event:?}: {problem}"))?;
        }
        Ok(())
    }

    fn take(&mut self, event: &FeedEvent) -> Result<(), &'static str> {
        match (event.kind, &event.lobby, &event.member) {
            (EventKind::Draining, None, None) => match std::mem::replace(&mut self.is_draining, true) {
                false if event.deadline_millis.is_some() => Ok(()),
                _ => Err("a drain begins once, and has a deadline"),
            },
            (EventKind::LobbyOpened, Some(lobby), None) if self.lobbies.insert(lobby.clone()) => Ok(()),
            (EventKind::LobbyClosed, Some(lobby), None) => {
                self.hosts.remove(lobby);
                match self.lobbies.remove(lobby) && self.seats.values().all(|seat| seat.lobby != *lobby) {
                    true => Ok(()),
                    false => Err("the lobby is not open, or has members"),
                }
            }
            (EventKind::Started, Some(lobby), None) if self.lobbies.contains(lobby) => Ok(()),
            (EventKind::Host, Some(lobby), Some(member)) => {
                if self.hosts.insert(lobby.clone(), member.seat) == Some(member.seat) {
                    return Err("it is the host already");
                }
                match self.seats.get(&member.seat) {
                    Some(seat) if seat.lobby == *lobby && seat.user == member.user && !seat.is_watcher => Ok(()),
                    _ => Err("it is no member of the lobby"),
                }
            }
            (kind, Some(lobby), Some(member)) => self.take_member(kind, lobby, member),
            _ => Err("it is not expected, or lacks a lobby or a member"),
        }
    }

    fn take_member(&mut self, kind: EventKind, lobby: &SmolStr, member: &FeedMember) -> Result<(), &'static str> {
        let FeedMember { user, seat, is_watcher } = member;
        let is_watcher = is_watcher.ok_or("it does not say whether the member watches")?;
        if kind == EventKind::Joined {
            let reported = ReportedSeat { user: user.clone(), lobby: lobby.clone(), is_watcher, is_away: false };
            let is_new = self.seats.insert(*seat, reported).is_none();
            return if is_new && self.lobbies.contains(lobby) {
                Ok(())
            } else {
                Err("the seat is taken, or the lobby not open")
            };
        }
        let is_known =
            |known: &&mut ReportedSeat| (&known.user, &known.lobby, known.is_watcher) == (user, lobby, is_watcher);
        let known = self.seats.get_mut(seat).filter(is_known).ok_or("nobody has joined so")?;
        match kind {
            EventKind::Rejoined | EventKind::Back => known.is_away = false,
            EventKind::Away if !known.is_away => known.is_away = true,
            EventKind::Left => drop(self.seats.remove(seat)),
            _ => return Err("the member is away already"),
        }
        Ok(())
    }

    /// Checks, after a turn, that nothing has happened that was not reported. `lobbies` are those of the server, in any order.
    pub(crate) fn check_state(&self, seats: &SeatModel, lobbies: impl Iterator<Item = String>) -> Result<(), String> {
        let reported = self.seats.iter().map(|(&seat, it)| (seat, &*it.user, &*it.lobby, it.is_watcher, it.is_away));
        let there = seats.iter().map(|(seat, it)| (seat, &*it.user, &*it.lobby, it.is_watcher, it.is_away));
        if !reported.eq(there) {
            return Err(format!("the events have reported other seats: {:?}", self.seats));
        }
        let lobbies: BTreeSet<SmolStr> = lobbies.map(SmolStr::from).collect();
        if lobbies != self.lobbies {
            return Err(format!("the events have reported the lobbies {:?}, and there are {lobbies:?}", self.lobbies));
        }
        Ok(())
    }
}
