//! Lobby control: data, host, settings, bans and start of a lobby, which its members change without an application.
//!
//! [`Controls`] stands beside the lobbies and seats of the [`Directory`](super::directory::Directory), and only with
//! `lobby_control` on. Values are text that is not looked into. What is to be sent is decided in `engine`.

mod changes;
mod empty;
pub(crate) mod entries;
pub(crate) mod host;
mod joinable;
pub(crate) mod keeping;
pub(crate) mod listed;
pub(crate) mod listing;
mod named;
pub(crate) mod settings;
mod snapshot;
pub(crate) mod start;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use smol_str::SmolStr;

use self::entries::{Entries, EntriesBounds};
use self::listed::ListedLobbies;
use self::listing::{Listing, Pool};
use self::named::NamedSeats;
use self::settings::{Settings, SettingsBounds};
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
    /// Lobbies and the time of their next deadline. Of those with the same time the oldest comes first, by its epoch.
    timers: BTreeSet<(Time, u64, LobbyKey)>,
    /// Lobbies without members, in the order in which they lost the last one.
    pub(super) empty: BTreeMap<u64, LobbyKey>,
    /// Number of times that a lobby has lost its last member and was kept.
    emptied: u64,
    pub(super) listed: ListedLobbies,
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
    /// Epoch of the lobby.
    epoch: u64,
    /// The seat of the host. It may have been freed, while no other member could become the host.
    pub(super) host: Option<(SeatKey, SeatId)>,
    /// When a host that is away ceases to be it. [`Time::ZERO`]: it may cease to be it, as soon as there is another one.
    pub(super) host_until: Time,
    pub(crate) data: Entries,
    /// Bytes of the data of all members.
    pub(super) members_bytes: usize,
    pub(crate) settings: Settings,
    pub(super) bans: VecDeque<SmolStr>,
    /// When the lobby starts, while it counts down.
    pub(crate) countdown: Option<Time>,
    /// When the lobby is removed, while it has no members.
    pub(super) empty_until: Time,
    /// Its number in [`Controls::empty`], while it has none.
    pub(super) empty_number: Option<u64>,
    /// The deadline under which it is in [`Controls::timers`].
    timer: Time,
    /// Whether the host or the countdown may have to change.
    is_dirty: bool,
    /// The pool that created it.
    pool: Option<Pool>,
    /// Seats that are kept for users.
    named: Option<Box<NamedSeats>>,
}

impl Control {
    /// Whether seats are kept for users by name.
    #[cfg(test)]
    pub(super) fn keeps_named_seats(&self) -> bool {
        self.named.is_some()
    }

    /// Whether the lobby exists without members, for a while.
    pub(super) fn is_kept_empty(&self) -> bool {
        self.empty_number.is_some() || self.named.is_some()
    }
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
            empty: BTreeMap::new(),
            emptied: 0,
            listed: ListedLobbies::default(),
            listing: Listing::default(),
        }
    }

    /// Adds a lobby that was created.
    pub(super) fn created(&mut self, lobby: LobbyKey, epoch: u64, pool: Option<Pool>) {
        let control = Control {
            epoch,
            host: None,
            host_until: Time::NEVER,
            data: Entries::default(),
            members_bytes: 0,
            settings: Settings { max: pool.as_ref().and_then(Pool::seats), ..Settings::default() },
            bans: VecDeque::new(),
            countdown: None,
            empty_until: Time::NEVER,
            empty_number: None,
            timer: Time::NEVER,
            is_dirty: false,
            pool,
            named: None,
        };
        self.lobbies.insert(lobby, Box::new(control));
    }

    /// Removes a lobby.
    pub(super) fn removed(&mut self, lobby: LobbyKey, epoch: u64) {
        self.listed.remove(epoch);
        if let Some(control) = self.lobbies.get(lobby) {
            self.listing.set_open(control.pool.as_ref(), epoch, lobby, false);
            self.timers.remove(&(control.timer, epoch, lobby));
            if let Some(number) = control.empty_number {
                self.empty.remove(&number);
            }
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
    pub(super) fn rearm_after(&mut self, lobby: LobbyKey, now: Time) {
        let Some(control) = self.lobbies.get_mut(lobby) else { return };
        let named_until = control.named.as_ref().map_or(Time::NEVER, |named| named.until);
        let deadlines =
            [control.host_until, control.countdown.unwrap_or(Time::NEVER), control.empty_until, named_until];
        let next = deadlines.into_iter().filter(|&at| at > now).min().unwrap_or(Time::NEVER);
        let before = std::mem::replace(&mut control.timer, next);
        if before != next {
            self.timers.remove(&(before, control.epoch, lobby));
            if next != Time::NEVER {
                self.timers.insert((next, control.epoch, lobby));
            }
        }
    }
}
