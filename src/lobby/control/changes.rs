//! Changes of data, settings and bans, and the deadlines of lobbies.

use smol_str::SmolStr;

use super::entries::{Change, Entries, EntriesBounds};
use super::settings::SettingsChange;
use super::{Bounds, Control, Refused};
use crate::base::id::{LobbyKey, SeatId, SeatKey};
use crate::base::time::Time;
use crate::lobby::directory::Directory;

impl EntriesBounds {
    /// Checks the number of keys and bytes that the lobby, or a member, would have.
    fn check(self, after: EntriesBounds, whose: &str) -> Result<(), Refused> {
        for (what, count, most) in [("keys", after.keys, self.keys), ("bytes", after.bytes, self.bytes)] {
            if count > most {
                let why = format!("{whose} would have {count} {what} of data: at most {most} are allowed");
                return Err(Refused::TooLarge(why));
            }
        }
        Ok(())
    }
}

impl Directory {
    // ---- lobby control ----

    /// Returns the lobby control of a lobby; `None` with `lobby_control` off.
    #[inline]
    pub(crate) fn control(&self, lobby: LobbyKey) -> Option<&Control> {
        self.control.as_ref()?.get(lobby)
    }

    pub(crate) fn control_mut(&mut self, lobby: LobbyKey) -> Option<&mut Control> {
        self.control.as_mut()?.get_mut(lobby)
    }

    /// Returns the bounds of lobby control; `None` with `lobby_control` off.
    pub(crate) fn control_bounds(&self) -> Option<Bounds> {
        self.control.as_ref().map(|controls| controls.bounds)
    }

    /// Returns the data of a member.
    #[inline]
    pub(crate) fn member_data(&self, seat: SeatKey) -> Option<&Entries> {
        self.control.as_ref()?.data_of_members.get(seat).map(Box::as_ref)
    }

    /// Returns the seat with this id in a lobby.
    pub(crate) fn find_seat(&self, lobby: LobbyKey, id: SeatId) -> Option<SeatKey> {
        self.seats_in(lobby).find(|&seat| self.seats[seat].id == id)
    }

    /// Checks whether data of a lobby, or of a member of it, can be changed.
    ///
    /// # Errors
    ///
    /// [`Refused`] with the bound that has no room.
    pub(crate) fn fits_data(
        &self,
        lobby: LobbyKey,
        member: Option<SeatKey>,
        changes: &[Change<'_>],
    ) -> Result<(), Refused> {
        let controls = self.control.as_ref().expect("lobby control is on");
        let Bounds { lobby_data, member_data, members_bytes, .. } = controls.bounds;
        let control = controls.get(lobby).expect("the lobby exists");
        let empty = Entries::default();
        let (entries, bounds, whose) = match member {
            None => (&control.data, lobby_data, "the lobby"),
            Some(seat) => (self.member_data(seat).unwrap_or(&empty), member_data, "a member"),
        };
        let after = entries.after(changes);
        bounds.check(after, whose)?;
        if member.is_some() {
            let all = control.members_bytes - entries.bytes() + after.bytes;
            if all > members_bytes {
                return Err(Refused::TooLarge(format!(
                    "all members together would have {all} bytes of data: at most {members_bytes} are allowed"
                )));
            }
        }
        Ok(())
    }

    /// Checks whether a lobby can be created with this data.
    ///
    /// # Errors
    ///
    /// As [`fits_data`](Self::fits_data).
    pub(crate) fn fits_new_data(&self, changes: &[Change<'_>]) -> Result<(), Refused> {
        let bounds = self.control.as_ref().expect("lobby control is on").bounds.lobby_data;
        bounds.check(Entries::default().after(changes), "the lobby")
    }

    /// Changes data of a lobby, or of a member of it, for which there is [room](Self::fits_data).
    pub(crate) fn set_data(&mut self, lobby: LobbyKey, member: Option<SeatKey>, changes: &[Change<'_>], seq: u64) {
        let controls = self.control.as_mut().expect("lobby control is on");
        let Bounds { lobby_data, member_data, .. } = controls.bounds;
        let control = controls.lobbies.get_mut(lobby).expect("the lobby exists");
        match member {
            None => control.data.apply(changes, seq, lobby_data.keys),
            Some(seat) => {
                if controls.data_of_members.get(seat).is_none() {
                    controls.data_of_members.insert(seat, Box::default());
                }
                let entries = controls.data_of_members.get_mut(seat).expect("inserted above");
                control.members_bytes -= entries.bytes();
                entries.apply(changes, seq, member_data.keys);
                control.members_bytes += entries.bytes();
            }
        }
        control.is_dirty = true;
    }

    /// Forgets the data of a member whose seat is freed.
    pub(in crate::lobby) fn forget_data(&mut self, lobby: LobbyKey, seat: SeatKey) {
        let Some(controls) = &mut self.control else { return };
        let bytes = controls.data_of_members.get(seat).map_or(0, |entries| entries.bytes());
        controls.data_of_members.remove(seat);
        if let Some(control) = controls.get_mut(lobby) {
            control.members_bytes -= bytes;
        }
    }

    /// Changes settings whose values were [checked](SettingsChange::check).
    pub(crate) fn set_settings(&mut self, lobby: LobbyKey, change: &SettingsChange) {
        if let Some(locked) = change.locked {
            self.lobbies[lobby].locked = locked;
        }
        if let Some(control) = self.control_mut(lobby) {
            control.settings.apply(change);
            control.is_dirty = true;
        }
        self.update_listing(lobby);
    }

    // ---- bans ----

    /// Bans a user from a lobby. The oldest ban ends if there are too many.
    pub(crate) fn ban(&mut self, lobby: LobbyKey, user: &str) {
        let Some(controls) = &mut self.control else { return };
        let max = controls.bounds.bans;
        let bans = &mut controls.get_mut(lobby).expect("the lobby exists").bans;
        bans.retain(|other| other != user);
        bans.push_back(user.into());
        while bans.len() > max {
            bans.pop_front();
        }
    }

    /// Ends the ban of a user. Returns false if there was none.
    pub(crate) fn unban(&mut self, lobby: LobbyKey, user: &str) -> bool {
        let Some(control) = self.control_mut(lobby) else { return false };
        let before = control.bans.len();
        control.bans.retain(|other| other != user);
        control.bans.len() < before
    }

    pub(crate) fn is_banned(&self, lobby: LobbyKey, user: &str) -> bool {
        self.control(lobby).is_some_and(|control| control.bans.iter().any(|other| other == user))
    }

    /// The users that are banned from a lobby, oldest ban first.
    pub(crate) fn bans(&self, lobby: LobbyKey) -> impl Iterator<Item = &SmolStr> {
        self.control(lobby).into_iter().flat_map(|control| &control.bans)
    }

    // ---- changes and deadlines ----

    /// Notes that the members of a lobby have changed, so that its host or its countdown may have to.
    #[inline]
    pub(in crate::lobby) fn note_members_changed(&mut self, lobby: LobbyKey, now: Time) {
        if self.control.is_some() {
            self.update_host_deadline(lobby, now);
            if let Some(control) = self.control_mut(lobby) {
                control.is_dirty = true;
            }
        }
    }

    /// Whether the host or the countdown of a lobby may have to change.
    #[inline]
    pub(crate) fn is_control_dirty(&self, lobby: LobbyKey) -> bool {
        self.control.is_some() && self.control(lobby).is_some_and(|control| control.is_dirty)
    }

    /// Notes that host and countdown are as they must be.
    pub(crate) fn set_control_clean(&mut self, lobby: LobbyKey) {
        if let Some(control) = self.control_mut(lobby) {
            control.is_dirty = false;
        }
    }

    /// Returns the time of the next deadline of any lobby.
    pub(crate) fn next_control_event(&self) -> Option<Time> {
        self.control.as_ref()?.timers.first().map(|&(at, ..)| at)
    }

    /// Takes the next lobby with a deadline that is due by `now`. Its host and its countdown may have to change. A lobby that has
    /// been empty for long enough is removed.
    pub(crate) fn take_control_event(&mut self, now: Time) -> Option<LobbyKey> {
        let controls = self.control.as_mut()?;
        controls.timers.first().filter(|&&(at, ..)| at <= now)?;
        let (.., lobby) = controls.timers.pop_first()?;
        let control = controls.get_mut(lobby).expect("a lobby with a deadline exists");
        control.timer = Time::NEVER;
        control.is_dirty = true;
        if control.host_until <= now {
            control.host_until = Time::ZERO;
        }
        let is_over = control.empty_until <= now;
        let is_named_over = control.named.as_ref().is_some_and(|named| named.until <= now);
        controls.rearm_after(lobby, now);
        if is_over {
            self.remove_lobby(lobby);
        } else if is_named_over {
            self.end_named_seats(lobby, now);
        }
        Some(lobby)
    }

    /// Asserts the invariants of lobby control.
    pub(in crate::lobby) fn check_control(&self) {
        let Some(controls) = &self.control else { return };
        let Bounds { lobby_data, member_data, members_bytes, bans, .. } = controls.bounds;
        let of_lobbies = controls.lobbies.keys().count();
        assert_eq!(of_lobbies, self.lobbies.len(), "every lobby has its control");
        for (key, lobby) in self.lobbies.iter() {
            let control = controls.get(key).expect("every lobby has its control");
            control.data.check(lobby_data);
            let data = self.seats_in(key).filter_map(|seat| self.member_data(seat));
            assert_eq!(control.members_bytes, data.map(Entries::bytes).sum::<usize>(), "data of members is counted");
            assert!(control.members_bytes <= members_bytes && control.bans.len() <= bans, "bounds");
            let is_empty = lobby.has_no_seats() && lobby.authorizing == 0;
            assert_eq!(is_empty, control.empty_number.is_some(), "empty lobbies are known");
            let is_listed = control.empty_number.is_some_and(|number| controls.empty.get(&number) == Some(&key));
            assert_eq!(is_empty, is_listed);
            let is_armed = controls.timers.contains(&(control.timer, lobby.epoch, key));
            assert_eq!(control.epoch, lobby.epoch);
            assert_eq!(is_armed, control.timer != Time::NEVER, "every deadline has its timer");
            assert!(self.check_named(key) <= lobby.reserved as usize, "seats that are kept count as reserved");
        }
        self.check_listing();
        self.check_list();
        for seat in controls.data_of_members.keys() {
            let seat = self.seats.get(seat).expect("data belongs to a member");
            assert!(!seat.is_watcher, "watchers have no data");
        }
        self.seats.iter().filter_map(|(seat, _)| self.member_data(seat)).for_each(|data| data.check(member_data));
    }
}
