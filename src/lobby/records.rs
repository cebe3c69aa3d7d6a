//! Lobbies, users and seats as the [`Directory`](super::directory::Directory) keeps them.

use std::slice;

use smol_str::SmolStr;

use super::presence::Presence;
use super::session_records::LobbySessions;
use crate::base::arena::Key;
use crate::base::entry::{Entry, Role};
use crate::base::id::{AddressKey, ConnId, ConnKey, LobbyKey, SeatId, SeatKey, UserKey};
use crate::base::rate::Bucket;
use crate::base::session::Claim;
use crate::base::time::Time;

#[derive(Debug)]
pub(crate) struct Lobby {
    pub(crate) code: SmolStr,
    /// New for each lobby that is created, even if a lobby with the same code existed before.
    pub(crate) epoch: u64,
    /// Number of the lobby's last `message` or `presence_diff`; counts up by one.
    pub(crate) seq: u64,
    pub(crate) presence: Presence,
    /// Whether new members are refused.
    pub(crate) locked: bool,
    /// The members with a connection, in join order.
    pub(super) members: Vec<LobbyMember>,
    /// Away seats and users that are kept out; `None` while there is neither, nor a seat with a session.
    pub(super) sessions: Option<Box<LobbySessions>>,
    /// Seats of members that are reserved for connections that are being authorized, or kept for users by name.
    pub(super) reserved: u32,
    /// Connections that are being authorized, including those that will take over a seat and reserve none. One more while
    /// seats are kept for users by name.
    pub(super) authorizing: u32,
    /// Number of watchers, present and away. They are among the members with a connection and the away seats.
    pub(super) watchers: u32,
    /// Seats of watchers that are reserved for connections that are being authorized. [`Lobby::reserved`] does not count
    /// them.
    pub(super) reserved_watchers: u16,
}

impl Lobby {
    /// Creates a lobby without members.
    pub(super) fn new(code: SmolStr, epoch: u64) -> Lobby {
        Lobby {
            code,
            epoch,
            seq: 0,
            presence: Presence::default(),
            locked: false,
            members: Vec::new(),
            sessions: None,
            reserved: 0,
            authorizing: 0,
            watchers: 0,
            reserved_watchers: 0,
        }
    }
}

/// A joined seat with a connection, as its lobby lists it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LobbyMember {
    pub(crate) seat: SeatKey,
    /// The seat's connection, so that a broadcast reads only this list and does not look up the seats.
    pub(crate) conn: ConnKey,
}

#[derive(Debug)]
pub(super) struct User {
    pub(super) name: SmolStr,
    pub(super) seats: UserSeats,
    pub(super) reserved: u32,
    pub(super) authorizing: u32,
    pub(super) meter: UserMeter,
}

/// A user's joined seats, oldest first. A single seat, which is the common case, needs no heap memory.
#[derive(Debug)]
pub(super) enum UserSeats {
    None,
    One(SeatKey),
    Many(Vec<SeatKey>),
}

impl UserSeats {
    pub(super) fn as_slice(&self) -> &[SeatKey] {
        match self {
            UserSeats::None => &[],
            UserSeats::One(seat) => slice::from_ref(seat),
            UserSeats::Many(seats) => seats,
        }
    }

    pub(super) fn push(&mut self, seat: SeatKey) {
        match self {
            UserSeats::None => *self = UserSeats::One(seat),
            UserSeats::One(first) => *self = UserSeats::Many(vec![*first, seat]),
            UserSeats::Many(seats) => seats.push(seat),
        }
    }

    pub(super) fn remove(&mut self, seat: SeatKey) {
        match self {
            UserSeats::Many(seats) if seats.len() > 1 => seats.retain(|&other| other != seat),
            UserSeats::None | UserSeats::One(_) | UserSeats::Many(_) => *self = UserSeats::None,
        }
    }
}

/// Rate buckets of a user, shared by all its connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct UserMeter {
    pub(crate) messages: Bucket,
    pub(crate) bytes: Bucket,
}

impl UserMeter {
    /// Returns the time at which both buckets are full again.
    pub(super) fn full_at(&self) -> Time {
        self.messages.full_at().max(self.bytes.full_at())
    }
}

/// What a connection asks for: a seat of a user in a lobby, for a client at an address.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SeatRequest<'a> {
    /// The lobby's code.
    pub(crate) code: &'a str,
    pub(crate) user: &'a str,
    pub(crate) address: AddressKey,
    /// The session that the client names.
    pub(crate) claim: Option<Claim>,
    pub(crate) entry: Entry,
    /// The pool that the lobby belongs to if it is created.
    pub(crate) pool: Option<&'a str>,
}

/// How a connection gets its seat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Plan {
    /// It gets the seat of its session back.
    Resume(SeatKey),
    /// It takes over a seat of its user in the same lobby.
    TakeOver(SeatKey),
    /// It joins, and this seat of its user in another lobby, or in another role, is freed.
    Move(SeatKey),
    /// It joins.
    Join,
}

impl Plan {
    /// Returns the seat that the connection gets or frees.
    pub(crate) fn seat(self) -> Option<SeatKey> {
        match self {
            Plan::Resume(seat) | Plan::TakeOver(seat) | Plan::Move(seat) => Some(seat),
            Plan::Join => None,
        }
    }
}

/// Number of joined and reserved seats of each address, by its key. Addresses are reused only when they have no
/// connection, and so no seat. [`AddressKey::NONE`] is not counted.
#[derive(Debug, Default)]
pub(super) struct AddressSeats(Vec<u32>);

impl AddressSeats {
    pub(super) fn add(&mut self, address: AddressKey) {
        if address == AddressKey::NONE {
            return;
        }
        if address.index() >= self.0.len() {
            self.0.resize(address.index() + 1, 0);
        }
        self.0[address.index()] += 1;
    }

    pub(super) fn remove(&mut self, address: AddressKey) {
        if address != AddressKey::NONE {
            self.0[address.index()] -= 1;
        }
    }

    pub(super) fn count(&self, address: AddressKey) -> usize {
        self.0.get(address.index()).map_or(0, |&count| count as usize)
    }

    /// The counts of all keys.
    pub(super) fn iter(&self) -> impl Iterator<Item = (AddressKey, usize)> {
        self.0.iter().enumerate().map(|(index, &count)| (AddressKey::new(index), count as usize))
    }
}

#[derive(Debug)]
pub(crate) struct Seat {
    pub(crate) id: SeatId,
    /// The connection, or while the seat is away the one that it had. [`ConnId::ELSEWHERE`] if it is on another node.
    pub(crate) conn: ConnId,
    /// Address that the seat counts for: that of its connection, or an earlier one while that has no room.
    pub(crate) address: AddressKey,
    pub(crate) lobby: LobbyKey,
    /// Whether the join has been sent to the other members.
    pub(crate) is_announced: bool,
    pub(crate) has_session: bool,
    /// Whether the connection was lost.
    pub(crate) is_away: bool,
    /// Whether it only watches: it receives what the lobby is sent, and is no member for the others.
    pub(crate) is_watcher: bool,
    pub(crate) user: UserKey,
}

/// A seat reserved for a connection that is being authorized. Must be passed back to [`Directory::cancel`](super::directory::Directory::cancel) or
/// [`Directory::release`](super::directory::Directory::release).
#[must_use]
#[derive(Debug)]
pub(crate) struct Reservation {
    pub(super) lobby: LobbyKey,
    pub(super) user: UserKey,
    pub(super) role: Role,
    /// The address whose limit it counts toward. `None` if it replaces a seat of the user with the same address.
    pub(super) address: Option<AddressKey>,
    /// Whether it counts toward the limit of the lobby. False if it takes over the user's seat in this lobby.
    pub(super) in_lobby: bool,
    /// Whether it counts toward the limit of the user.
    pub(super) in_user: bool,
    /// Whether it counts toward the limit of the server. False if it replaces a seat that the user has, in this lobby
    /// or in another.
    pub(super) in_server: bool,
}

impl Lobby {
    /// Returns the number of joined, away and reserved seats of members or of watchers.
    pub(super) fn taken(&self, role: Role) -> usize {
        match role {
            Role::Play => self.seats_count() + self.reserved as usize,
            Role::Watch => self.watchers as usize + usize::from(self.reserved_watchers),
        }
    }

    /// Changes the number of reserved seats by one.
    pub(super) fn reserve(&mut self, role: Role, is_more: bool) {
        match role {
            Role::Play if is_more => self.reserved += 1,
            Role::Play => self.reserved -= 1,
            Role::Watch if is_more => self.reserved_watchers += 1,
            Role::Watch => self.reserved_watchers -= 1,
        }
    }

    /// Returns a member's position in join order.
    pub(super) fn position_of(&self, seat: SeatKey) -> usize {
        self.members.iter().position(|member| member.seat == seat).expect("every seat of a lobby is in its member list")
    }

    /// Returns whether the lobby is removed when its member, or its watcher, leaves.
    pub(super) fn has_one_member(&self) -> bool {
        self.all_seats_count() == 1 && self.authorizing == 0
    }

    /// Returns whether the lobby has neither members nor watchers.
    pub(super) fn has_no_seats(&self) -> bool {
        self.all_seats_count() == 0
    }

    /// Frees the part for sessions if nothing is in it.
    pub(super) fn drop_unused_sessions(&mut self) {
        self.sessions.take_if(|sessions| sessions.is_unused());
    }
}

impl Seat {
    /// Whether it is not away, and its connection is on another node of the cluster.
    #[inline]
    pub(crate) fn is_elsewhere(&self) -> bool {
        self.conn == ConnId::ELSEWHERE && !self.is_away
    }

    pub(super) fn role(&self) -> Role {
        if self.is_watcher { Role::Watch } else { Role::Play }
    }
}

impl User {
    /// Returns the number of joined and reserved seats.
    pub(super) fn taken(&self) -> usize {
        self.seats.as_slice().len() + self.reserved as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each member needs a `User` and a `Seat`, and small lobbies need about one `Lobby` per member. A change of these
    /// sizes must be deliberate.
    #[test]
    fn memory_per_member_stays_small() {
        // Name 24, which stores up to 23 bytes inline; seats 24, counts 8, buckets 16.
        assert_eq!(size_of::<User>(), 72);
        // Id 8, connection 8, address 4, lobby 4, user 4, flags 4.
        assert_eq!(size_of::<Seat>(), 32);
        // Code 24, epoch and seq 16, presence 40, members 24, sessions 8, counts 14, flag 1.
        assert_eq!(size_of::<Lobby>(), 128);
        assert_eq!(size_of::<LobbyMember>(), 8);
    }
}
