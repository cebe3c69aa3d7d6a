//! Records of sessions, as the [`Directory`](super::directory::Directory) keeps them.

use std::collections::{BTreeSet, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use smol_str::SmolStr;

use crate::base::arena::SideTable;
use crate::base::close::LeaveReason;
use crate::base::id::{LobbyKey, SeatId, SeatKey};
use crate::base::peer::Peer;
use crate::base::session::SessionHash;
use crate::base::time::Time;
use crate::config::Config;

/// The session that holds a seat.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) hash: SessionHash,
    pub(super) away: Option<Away>,
}

/// A seat whose connection was lost. [`Seat::conn`](super::records::Seat::conn) is still that connection.
#[derive(Debug)]
pub(crate) struct Away {
    pub(crate) lost: LostConn,
    /// When the other members are told, unless they have been.
    pub(super) tell_at: Time,
    /// When the seat is freed.
    pub(super) ends: Time,
    /// Whether the other members were told.
    pub(crate) is_told: bool,
}

/// A connection that was lost.
#[derive(Clone, Debug)]
pub(crate) struct LostConn {
    /// Why, as the other members see it when the seat is freed.
    pub(crate) reason: LeaveReason,
    pub(crate) peer: Peer,
    pub(crate) address: IpAddr,
    pub(crate) last_heard: Time,
    /// Data of the member's identity.
    pub(crate) data: Option<Arc<[u8]>>,
}

/// The part of a lobby that exists while a seat of it has a session or is elsewhere, or a user is kept out of it.
#[derive(Debug, Default)]
pub(super) struct LobbySessions {
    /// Number of seats with a session.
    pub(super) seats: u32,
    /// Away seats, in join order.
    pub(super) away: Vec<SeatKey>,
    /// Seats that are not away and have no connection here, in join order: their connections are on other nodes of the
    /// cluster.
    pub(super) elsewhere: Vec<SeatKey>,
    /// Users that were kicked, and until when they are kept out.
    pub(super) kicked: VecDeque<(SmolStr, Time)>,
}

impl LobbySessions {
    pub(super) fn is_unused(&self) -> bool {
        self.seats == 0 && self.away.is_empty() && self.elsewhere.is_empty() && self.kicked.is_empty()
    }
}

/// Sessions of all seats, and what is due for the away ones.
#[derive(Debug)]
pub(super) struct Sessions {
    pub(super) grace: Duration,
    pub(super) away_after: Duration,
    /// By the key of a seat.
    pub(super) of_seats: SideTable<SeatKey, Box<Session>>,
    /// Away seats that the other members have still to be told of. Of those with the same time the oldest comes first: its key
    /// would depend on earlier events.
    pub(super) to_tell: BTreeSet<(Time, SeatId, SeatKey)>,
    /// Away seats and when they are freed, in the same order.
    pub(super) ends: BTreeSet<(Time, SeatId, SeatKey)>,
}

/// What is due for an away seat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AwayEvent {
    /// The members of this lobby are to be told. The change is queued in its [`Presence`](super::presence::Presence).
    Tell(LobbyKey),
    /// The time of this seat is over.
    End(SeatKey),
}

impl Sessions {
    pub(super) fn new(config: &Config) -> Sessions {
        Sessions {
            grace: config.seat_grace,
            away_after: config.away_after,
            of_seats: SideTable::default(),
            to_tell: BTreeSet::new(),
            ends: BTreeSet::new(),
        }
    }

    /// Forgets all sessions.
    pub(super) fn clear(&mut self) {
        self.of_seats = SideTable::default();
        self.to_tell.clear();
        self.ends.clear();
    }

    pub(super) fn get(&self, seat: SeatKey) -> Option<&Session> {
        self.of_seats.get(seat).map(Box::as_ref)
    }

    pub(super) fn get_mut(&mut self, seat: SeatKey) -> Option<&mut Session> {
        self.of_seats.get_mut(seat).map(Box::as_mut)
    }

    pub(super) fn set(&mut self, seat: SeatKey, session: Option<SessionHash>) {
        match session {
            Some(hash) => self.of_seats.insert(seat, Box::new(Session { hash, away: None })),
            None => self.of_seats.remove(seat),
        }
    }

    /// Returns when the others are told of a seat that is away from now on, and when it is freed: in a later turn, because
    /// a connection may be lost after the timers of this one have expired.
    pub(super) fn deadlines(&self, now: Time) -> (Time, Time) {
        let after = |span: Duration| now + span.max(Duration::from_micros(1));
        (after(self.away_after), after(self.grace))
    }

    pub(super) fn away_count(&self) -> usize {
        self.ends.len()
    }
}
