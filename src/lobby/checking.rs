//! Asserts the invariants of the directory.

use super::directory::Directory;
use super::records::{AddressSeats, LobbyMember};
use crate::base::entry::Role;
use crate::base::id::AddressKey;
use crate::base::time::Time;
use crate::config::DuplicateLogin;

impl Directory {
    /// Asserts all invariants. Recomputes every counter.
    pub(crate) fn check(&self) {
        assert!(self.max_connections.bound().is_none_or(|bound| self.taken() <= bound as usize), "server limit");
        assert!(self.max_lobbies.bound().is_none_or(|bound| self.lobbies.len() <= bound as usize), "lobbies limit");
        assert_eq!(self.users.len(), self.user_keys.len());
        assert_eq!(self.lobbies.len(), self.lobby_keys.len());
        for (key, lobby) in self.lobbies.iter() {
            assert_eq!(self.lobby_keys.get(&lobby.code), Some(&key), "a lobby is found under its code");
            for (role, bound) in [(Role::Play, self.max_per_lobby), (Role::Watch, self.max_watchers())] {
                assert!(bound.bound().is_none_or(|bound| lobby.taken(role) <= bound as usize), "lobby limit");
            }
            let watchers = self.all_seats_in(key).filter(|&seat| self.seats[seat].is_watcher).count();
            assert_eq!(lobby.watchers() as usize, watchers, "watchers are counted");
            assert_eq!(lobby.seats_count(), self.seats_in(key).count(), "members are counted without watchers");
            let is_kept = self.control(key).is_some_and(|control| control.empty_until != Time::NEVER);
            assert!(!lobby.has_no_seats() || lobby.authorizing > 0 || is_kept, "an empty lobby is removed");
            assert!(
                lobby.members.iter().all(|member| self.seats[member.seat].lobby == key),
                "members have seats of their lobby"
            );
            let has_its_conn = |member: &LobbyMember| self.seats[member.seat].conn.key() == member.conn;
            assert!(lobby.members.iter().all(has_its_conn), "a lobby's connections are those of its members");
            let unannounced = || self.all_seats_in(key).filter(|&seat| !self.seats[seat].is_announced);
            let members = unannounced().filter(|&seat| !self.seats[seat].is_watcher).count();
            let expected = (members, unannounced().count() - members);
            assert_eq!(lobby.presence.unannounced(), expected, "presence counts the unannounced members");
            let update_at = lobby.presence.update_at();
            let is_planned = self.count_updates.contains(&(update_at, lobby.epoch, key));
            assert_eq!(is_planned, update_at != Time::NEVER, "each update has its time");
        }
        let planned = self.lobbies.iter().filter(|(_, lobby)| lobby.presence.update_at() != Time::NEVER);
        assert_eq!(self.count_updates.len(), planned.count(), "each time has its lobby");
        for (key, user) in self.users.iter() {
            assert_eq!(self.user_keys.get(&user.name), Some(&key), "a user is found under its name");
            let seats = user.seats.as_slice();
            assert!(!seats.is_empty() || user.authorizing > 0, "a user without a seat is removed");
            assert!(seats.iter().all(|&seat| self.seats[seat].user == key), "seats belong to their user");
            let joined = seats.len();
            match self.duplicate_login {
                DuplicateLogin::Replace => assert!(joined <= 1, "one seat for each user"),
                DuplicateLogin::Reject => assert!(user.taken() <= 1, "one seat for each user"),
                DuplicateLogin::Allow => {
                    let bound = self.max_per_user.bound();
                    assert!(bound.is_none_or(|bound| user.taken() <= bound as usize), "user limit");
                }
            }
        }
        let mut joined = AddressSeats::default();
        self.seats.iter().for_each(|(_, seat)| joined.add(seat.address));
        for (address, count) in self.seats_of_addresses.iter() {
            assert!(self.max_per_ip.bound().is_none_or(|bound| count <= bound as usize), "address limit");
            assert!(joined.count(address) <= count, "every seat counts for its address");
        }
        let sum = |counts: &mut dyn Iterator<Item = usize>| counts.sum::<usize>();
        assert_eq!(sum(&mut self.lobbies.iter().map(|(_, lobby)| lobby.all_seats_count())), self.seats.len());
        assert_eq!(sum(&mut self.users.iter().map(|(_, user)| user.seats.as_slice().len())), self.seats.len());
        let reserved = sum(&mut self
            .lobbies
            .iter()
            .map(|(_, lobby)| lobby.reserved as usize + usize::from(lobby.reserved_watchers)));
        assert!(sum(&mut self.users.iter().map(|(_, user)| user.reserved as usize)) <= reserved);
        let authorizing = sum(&mut self.lobbies.iter().map(|(_, lobby)| lobby.authorizing as usize));
        let of_addresses = sum(&mut self.seats_of_addresses.iter().map(|(_, count)| count));
        let with_address = self.seats.iter().filter(|(_, seat)| seat.address != AddressKey::NONE).count();
        let joined_or_reserved = with_address..=with_address + authorizing;
        assert!(joined_or_reserved.contains(&of_addresses), "addresses count joined and reserved seats");
        for (lobby, count) in self.published.counts() {
            assert!(self.lobbies.contains(lobby) && count <= self.published.max_keys(), "max_idempotency_keys");
        }
        self.check_sessions();
        self.check_control();
        assert!(self.reserved <= reserved, "each reservation of the server is one of a lobby");
    }
}
