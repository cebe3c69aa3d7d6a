//! The start of a lobby: members that are ready, and a countdown.
//!
//! ```text
//! waiting --the condition holds--> counting down --the time is over--> started: the lobby is locked, the setting is cleared
//!    ^                                  |
//!    +------it ceases to hold-----------+
//! ```
//!
//! The condition: at least `min` members, all of them present and, if the setting asks for it, ready. New members are
//! refused during the countdown.

use super::settings::SettingsChange;
use crate::base::id::LobbyKey;
use crate::base::time::Time;
use crate::lobby::directory::Directory;

/// Key of a member's data that says whether it is ready.
const READY: &str = "ready";

/// A change of a countdown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StartEvent {
    /// The lobby starts at this time.
    CountingDown(Time),
    Cancelled,
    /// The lobby has started: it is locked now, and its setting `start` is cleared.
    Started,
}

impl Directory {
    /// Begins, cancels or ends the countdown of a lobby if it is time to.
    pub(crate) fn update_start(&mut self, lobby: LobbyKey, now: Time) -> Option<StartEvent> {
        let control = self.control(lobby)?;
        let countdown = control.countdown;
        let Some(rule) = control.settings.start.filter(|_| self.may_start(lobby)) else {
            countdown?;
            self.set_countdown(lobby, None);
            return Some(StartEvent::Cancelled);
        };
        match countdown {
            None if !rule.countdown.is_zero() => {
                let at = now + rule.countdown;
                self.set_countdown(lobby, Some(at));
                Some(StartEvent::CountingDown(at))
            }
            Some(at) if now < at => None,
            _ => {
                self.set_countdown(lobby, None);
                let change = SettingsChange { locked: Some(true), start: Some(None), ..SettingsChange::default() };
                self.set_settings(lobby, &change);
                Some(StartEvent::Started)
            }
        }
    }

    /// Whether the lobby counts down, so that new members are refused.
    pub(crate) fn is_counting_down(&self, lobby: LobbyKey) -> bool {
        self.control(lobby).is_some_and(|control| control.countdown.is_some())
    }

    fn may_start(&self, key: LobbyKey) -> bool {
        let lobby = &self.lobbies[key];
        let Some(rule) = self.control(key).and_then(|control| control.settings.start) else { return false };
        let is_ready = |seat| self.member_data(seat).is_some_and(|data| data.get(READY) == Some("true"));
        lobby.seats_count() >= rule.min as usize
            && self.seats_in(key).all(|seat| !self.seats[seat].is_away && (!rule.needs_ready || is_ready(seat)))
    }

    fn set_countdown(&mut self, lobby: LobbyKey, at: Option<Time>) {
        let controls = self.control.as_mut().expect("the lobby has its control");
        controls.get_mut(lobby).expect("the lobby has its control").countdown = at;
        controls.rearm(lobby);
        self.update_listing(lobby);
    }
}
