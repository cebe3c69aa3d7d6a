//! Removal of lobbies and users that nothing has a use for.

use smol_str::SmolStr;

use super::directory::Directory;
use crate::base::id::{LobbyKey, UserKey};
use crate::base::time::Time;

impl Directory {
    /// Removes the lobby and the user if they have neither seats nor connections that are being authorized.
    pub(super) fn remove_if_empty(&mut self, lobby: LobbyKey, user: UserKey, now: Time) {
        self.remove_lobby_if_empty(lobby, now);
        self.remove_user_if_unused(user, now);
    }

    pub(super) fn remove_lobby_if_empty(&mut self, lobby: LobbyKey, now: Time) {
        let is_empty = self.lobbies.get(lobby).is_some_and(|lobby| lobby.has_no_seats() && lobby.authorizing == 0);
        if is_empty && !self.begin_emptiness(lobby, now) {
            self.remove_lobby(lobby);
        }
    }

    pub(super) fn remove_user_if_unused(&mut self, user: UserKey, now: Time) {
        if self.users.get(user).is_some_and(|user| user.seats.as_slice().is_empty() && user.authorizing == 0) {
            let user = self.users.remove(user);
            self.user_keys.remove(&user.name);
            self.remembered.put(now, user.name, user.meter, user.meter.full_at());
        }
    }

    /// Notes from now on which lobbies are created and removed.
    pub(crate) fn note_changed_lobbies(&mut self) {
        self.changed_lobbies = Some(Vec::new());
    }

    /// Notes that a lobby may have to be created or may be missing.
    pub(crate) fn note_changed_lobby(&mut self, code: &str) {
        if let Some(changed) = &mut self.changed_lobbies {
            changed.push(code.into());
        }
    }

    /// The same for all lobbies that exist.
    pub(crate) fn note_all_lobbies(&mut self) {
        let Directory { changed_lobbies, lobbies, .. } = self;
        if let Some(changed) = changed_lobbies {
            let mut all: Vec<_> = lobbies.iter().map(|(_, lobby)| (lobby.epoch, lobby.code.clone())).collect();
            all.sort_unstable();
            changed.extend(all.into_iter().map(|(_, code)| code));
        }
    }

    /// Takes the codes of the lobbies that were created or removed since the last call. A code may occur several times.
    pub(crate) fn take_changed_lobbies(&mut self) -> Vec<SmolStr> {
        self.changed_lobbies.as_mut().map_or(Vec::new(), std::mem::take)
    }

    /// Notes from now on which lobbies are opened and closed, in order.
    pub(crate) fn note_opened_lobbies(&mut self) {
        self.opened_lobbies.get_or_insert_default();
    }

    /// Takes the codes of the lobbies that were opened (`true`) or closed (`false`) since the last call.
    pub(crate) fn take_opened_lobbies(&mut self) -> Vec<(bool, SmolStr)> {
        self.opened_lobbies.as_mut().map_or(Vec::new(), std::mem::take)
    }

    /// Removes a lobby without seats.
    pub(super) fn remove_lobby(&mut self, key: LobbyKey) {
        let lobby = self.lobbies.remove(key);
        self.lobby_keys.remove(&lobby.code);
        self.note_changed_lobby(&lobby.code);
        if let Some(opened) = &mut self.opened_lobbies {
            opened.push((false, lobby.code.clone()));
        }
        self.published.remove(key);
        self.count_updates.remove(&(lobby.presence.update_at(), lobby.epoch, key));
        if let Some(controls) = &mut self.control {
            controls.removed(key, lobby.epoch);
        }
    }
}
