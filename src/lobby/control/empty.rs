//! Lobbies without members, which the setting `empty_ttl` keeps for a while.

use crate::base::id::LobbyKey;
use crate::base::time::Time;
use crate::lobby::directory::Directory;

impl Directory {
    /// Returns the number of lobbies that count toward `max_lobbies`. One without members gives way to a new one.
    pub(crate) fn used_lobbies(&self) -> usize {
        self.lobbies.len() - self.control.as_ref().map_or(0, |controls| controls.empty.len())
    }

    /// Keeps a lobby that has no members any more. Returns false if it is to be removed.
    pub(in crate::lobby) fn begin_emptiness(&mut self, lobby: LobbyKey, now: Time) -> bool {
        let Some(controls) = &mut self.control else { return false };
        let Some(control) = controls.lobbies.get_mut(lobby).filter(|control| !control.settings.empty_ttl.is_zero())
        else {
            return false;
        };
        if control.empty_number.is_none() {
            controls.emptied += 1;
            (control.empty_number, control.empty_until) = (Some(controls.emptied), now + control.settings.empty_ttl);
            controls.empty.insert(controls.emptied, lobby);
            controls.rearm(lobby);
        }
        true
    }

    /// Notes that a lobby is about to have a member, or a connection that is being authorized.
    pub(in crate::lobby) fn end_emptiness(&mut self, lobby: LobbyKey) {
        let Some(controls) = &mut self.control else { return };
        let Some(control) = controls.get_mut(lobby) else { return };
        let Some(number) = control.empty_number.take() else { return };
        control.empty_until = Time::NEVER;
        controls.empty.remove(&number);
        controls.rearm(lobby);
    }

    /// Removes the lobby that has had no members for the longest time.
    pub(in crate::lobby) fn remove_oldest_empty(&mut self) {
        let oldest = self.control.as_ref().and_then(|controls| controls.empty.first_key_value());
        if let Some((_, &lobby)) = oldest {
            self.remove_lobby(lobby);
        }
    }
}
