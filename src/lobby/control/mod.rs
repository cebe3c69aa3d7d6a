//! Lobby control: data, host, settings, bans and start of a lobby, which its members change without an application.
//!
//! [`Controls`] stands beside the lobbies and seats of the [`Directory`](super::directory::Directory), and only with
//! `lobby_control` on. Values are text that is not looked into. What is to be sent is decided in `engine`.

mod empty;
pub(crate) mod entries;
pub(crate) mod host;
pub(crate) mod listing;
pub(crate) mod named;
pub(crate) mod settings;
pub(crate) mod start;

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use smol_str::SmolStr;

use self::entries::{Change, Entries, EntriesBounds};
use self::listing::{Listing, Pool};
use self::named::NamedSeats;
use self::settings::{Settings, SettingsBounds, SettingsChange};
use super::directory::Directory;
use crate::base::arena::SideTable;
use crate::base::id::{LobbyKey, SeatId, SeatKey};
use crate::base::time::Time;
use crate::config::Config;

/// Lobby control of all lobbies.
#[derive(Debug)]
pub(crate) struct Controls {
    pub(crate) bounds: Bounds,
    pub(super) lobbies: SideTable<LobbyKey, Box<Control>>,
    pub(super) data_of_members: SideTable<SeatKey, Box<Entries>>,
    /// Lobbies and the time of their next deadline.
    timers: BTreeSet<(Time, LobbyKey)>,
    /// Lobbies without members, and since when they have none.
    pub(super) empty: BTreeSet<(Time, LobbyKey)>,
    listing: Listing,
}

/// The bounds that the configuration sets.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    pub(crate) lobby_data: EntriesBounds,
    pub(crate) member_data: EntriesBounds,
    pub(crate) members_bytes: usize,
    pub(crate) bans: usize,
    pub(crate) host_grace: Duration,
    pub(crate) settings: SettingsBounds,
}

/// Lobby control of one lobby.
#[derive(Debug)]
pub(crate) struct Control {
    /// The seat of the host. It may have been freed, while no other member could become the host.
    pub(super) host: Option<(SeatKey, SeatId)>,
    /// When a host that is away ceases to be it.
    pub(super) host_until: Time,
    pub(crate) data: Entries,
    /// Bytes of the data of all members.
    members_bytes: usize,
    pub(crate) settings: Settings,
    pub(super) bans: VecDeque<SmolStr>,
    /// When the lobby starts, while it counts down.
    pub(crate) countdown: Option<Time>,
    /// When the lobby is removed, while it has no members.
    pub(super) empty_until: Time,
    /// Since when it has none.
    pub(super) empty_since: Time,
    /// The deadline under which it is in [`Controls::timers`].
    timer: Time,
    /// Whether the host or the countdown may have to change.
    is_dirty: bool,
    /// The pool that created it.
    pool: Option<Pool>,
    /// Seats that are kept for users.
    named: Option<Box<NamedSeats>>,
}

/// Why data was not changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// A sentence with the bound.
    TooLarge(String),
}

impl Controls {
    pub(super) fn new(config: &Config) -> Controls {
        let bounds = |keys: u32, bytes: usize| EntriesBounds { keys: keys as usize, bytes };
        Controls {
            bounds: Bounds {
                lobby_data: bounds(config.max_lobby_keys, config.max_lobby_data.0),
                member_data: bounds(config.max_member_keys, config.max_member_data.0),
                members_bytes: config.max_members_data.0,
                bans: config.max_bans as usize,
                host_grace: config.host_grace,
                settings: SettingsBounds::new(config),
            },
            lobbies: SideTable::default(),
            data_of_members: SideTable::default(),
            timers: BTreeSet::new(),
            empty: BTreeSet::new(),
            listing: Listing::default(),
        }
    }

    /// Adds a lobby that was created.
    pub(super) fn created(&mut self, lobby: LobbyKey, pool: Option<Pool>) {
        let control = Control {
            host: None,
            host_until: Time::NEVER,
            data: Entries::default(),
            members_bytes: 0,
            settings: Settings { max: pool.as_ref().and_then(Pool::seats), ..Settings::default() },
            bans: VecDeque::new(),
            countdown: None,
            empty_until: Time::NEVER,
            empty_since: Time::NEVER,
            timer: Time::NEVER,
            is_dirty: false,
            pool,
            named: None,
        };
        self.lobbies.insert(lobby, Box::new(control));
    }

    /// Removes a lobby.
    pub(super) fn removed(&mut self, lobby: LobbyKey, epoch: u64) {
        if let Some(control) = self.lobbies.get(lobby) {
            self.listing.set_open(control.pool.as_ref(), epoch, lobby, false);
            self.timers.remove(&(control.timer, lobby));
            self.empty.remove(&(control.empty_since, lobby));
        }
        self.lobbies.remove(lobby);
    }

    pub(super) fn get(&self, lobby: LobbyKey) -> Option<&Control> {
        self.lobbies.get(lobby).map(Box::as_ref)
    }

    pub(super) fn get_mut(&mut self, lobby: LobbyKey) -> Option<&mut Control> {
        self.lobbies.get_mut(lobby).map(Box::as_mut)
    }

    /// Updates the time of a lobby's next deadline.
    pub(super) fn rearm(&mut self, lobby: LobbyKey) {
        self.rearm_after(lobby, Time::ZERO);
    }

    /// The same without the deadlines until `now`, which are being handled.
    fn rearm_after(&mut self, lobby: LobbyKey, now: Time) {
        let Some(control) = self.lobbies.get_mut(lobby) else { return };
        let named_until = control.named.as_ref().map_or(Time::NEVER, |named| named.until);
        let deadlines =
            [control.host_until, control.countdown.unwrap_or(Time::NEVER), control.empty_until, named_until];
        let next = deadlines.into_iter().filter(|&at| at > now).min().unwrap_or(Time::NEVER);
        let before = std::mem::replace(&mut control.timer, next);
        if before != next {
            self.timers.remove(&(before, lobby));
            if next != Time::NEVER {
                self.timers.insert((next, lobby));
            }
        }
    }
}

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
    pub(super) fn forget_data(&mut self, lobby: LobbyKey, seat: SeatKey) {
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
    pub(super) fn note_members_changed(&mut self, lobby: LobbyKey, now: Time) {
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
        self.control.as_ref()?.timers.first().map(|&(at, _)| at)
    }

    /// Takes the next lobby with a deadline that is due by `now`. Its host and its countdown may have to change. A lobby that has
    /// been empty for long enough is removed.
    pub(crate) fn take_control_event(&mut self, now: Time) -> Option<LobbyKey> {
        let controls = self.control.as_mut()?;
        let &(at, lobby) = controls.timers.first().filter(|&&(at, _)| at <= now)?;
        controls.timers.remove(&(at, lobby));
        let control = controls.get_mut(lobby).expect("a lobby with a deadline exists");
        control.timer = Time::NEVER;
        control.is_dirty = true;
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
    pub(super) fn check_control(&self) {
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
            assert_eq!(is_empty, control.empty_since != Time::NEVER, "empty lobbies are known");
            assert_eq!(is_empty, controls.empty.contains(&(control.empty_since, key)));
            let is_armed = controls.timers.contains(&(control.timer, key));
            assert_eq!(is_armed, control.timer != Time::NEVER, "every deadline has its timer");
            assert!(self.check_named(key) <= lobby.reserved as usize, "seats that are kept count as reserved");
        }
        self.check_listing();
        for seat in controls.data_of_members.keys() {
            let seat = self.seats.get(seat).expect("data belongs to a member");
            assert!(!seat.is_watcher, "watchers have no data");
        }
        self.seats.iter().filter_map(|(seat, _)| self.member_data(seat)).for_each(|data| data.check(member_data));
    }
}
