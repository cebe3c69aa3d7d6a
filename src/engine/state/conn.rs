//! The engine's state of one connection, except its pending output.
//!
//! Plain data: it does not know the directory, the timer wheel or other connections.

use super::health::Health;
use super::meters::Meter;
use crate::base::close::CloseKind;
use crate::base::entry::{Entry, RequestedLobby};
use crate::base::id::{AddressKey, ConnId, ListKey, SeatKey};
use crate::base::peer::{CompactPeer, Peer};
use crate::base::session::Claim;
use crate::base::time::Time;
use crate::config::Config;
use crate::lobby::directory::Reservation;
use crate::ws::connection::Connection;

/// Lifecycle state of a connection.
///
/// ```text
/// Pending --seat()--> Seated --leave_seat(), or replaced--> Closing --mark_closed()--> Closed --poll_closed()--> freed
///    ^  | |                                                    ^ ^                       ^
///    |  | +--follow_list()--> Listing --leave_seat()-----------+ |                       |
///    |  +-------------------------------------mark_closed()------+-----------------------+
///    |                                                         |                         |
///    |                          +----------refused unread------+                         |
/// Overflow ---------------------+-------------------------mark_closed()------------------+
/// ```
///
/// A socket beyond `max_pending` begins as `Overflow`. It becomes `Pending` if there is room when its request is
/// complete.
#[derive(Debug)]
pub(crate) enum ConnState {
    /// Has no seat. The box is there while the application's authorization is pending.
    Pending(Option<Box<PendingAuth>>),
    /// Was accepted beyond `max_pending`. Its request is read; only a health check is served.
    Overflow,
    /// Has this seat.
    Seated(SeatKey),
    /// Follows the list of lobbies, in this group, and has no seat.
    Listing(ListKey),
    /// Has left its seat, or was refused because `max_pending` was reached. The number orders connections by the time
    /// at which they began to close.
    Closing(u64),
    /// The driver has still to drop the socket.
    Closed,
}

/// A connection whose authorization is pending.
#[derive(Debug)]
pub(crate) struct PendingAuth {
    /// The requested lobby.
    pub(crate) requested: RequestedLobby,
    pub(crate) claim: Option<Claim>,
    pub(crate) entry: Entry,
    /// The reserved seat, if the user that the client claims to be is known.
    pub(crate) reservation: Option<Reservation>,
}

/// State of one connection. Every idle connection pays for each field, so rarely used state is in a box.
///
/// The type is not aligned to cache lines: a slab of aligned slots cannot grow in place, and the holes that it leaves in
/// memory cost more than the slots.
#[derive(Debug)]
pub(crate) struct Slot {
    pub(crate) id: ConnId,
    pub(crate) state: ConnState,
    pub(crate) wire: Connection,
    pub(crate) health: Health,
    pub(crate) meter: Meter,
    /// End of the current stage: the handshake, authorization, the stay in a seat, the close handshake, or lingering.
    pub(crate) deadline: Time,
    /// Key of the address that the connection counts for, once it is known.
    pub(crate) address: Option<AddressKey>,
    /// Bytes at the front of the next input that were counted and charged before, when they were passed in and not
    /// consumed.
    pub(crate) unconsumed: u32,
    pub(crate) strikes: u32,
    /// Bytes received since the close reason was recorded.
    pub(crate) lingering_bytes: u32,
    pub(crate) peer: CompactPeer,
    /// Whether [`Flow::Finished`](crate::Flow::Finished) was returned, so that the driver shuts down the write side.
    pub(crate) shut_down: bool,
    /// Whether the deadline of a seated connection is that of `max_lifetime`, and not of its token.
    pub(crate) ends_at_max_lifetime: bool,
    /// The close reason, while the connection waits in the close queue.
    pub(crate) queued_close: Option<CloseKind>,
    /// The close reason, without the code of the application: see [`Conns::close_reason`](super::conns::Conns::close_reason).
    pub(crate) close_kind: Option<CloseKind>,
}

impl Slot {
    pub(crate) fn new(id: ConnId, peer: Peer, now: Time) -> Slot {
        Slot {
            id,
            wire: Connection::new(),
            state: ConnState::Pending(None),
            deadline: Time::NEVER,
            health: Health::new(now),
            meter: Meter::default(),
            address: None,
            strikes: 0,
            lingering_bytes: 0,
            unconsumed: 0,
            peer: peer.into(),
            close_kind: None,
            ends_at_max_lifetime: false,
            shut_down: false,
            queued_close: None,
        }
    }

    pub(crate) fn seat(&self) -> Option<SeatKey> {
        match self.state {
            ConnState::Seated(seat) => Some(seat),
            _ => None,
        }
    }

    /// Whether it follows the list of lobbies.
    pub(crate) fn is_listing(&self) -> bool {
        matches!(self.state, ConnState::Listing(_))
    }

    /// Whether it has a seat or follows the list of lobbies, so that it is kept alive and receives messages.
    pub(crate) fn is_admitted(&self) -> bool {
        matches!(self.state, ConnState::Seated(_) | ConnState::Listing(_))
    }

    pub(crate) fn is_closed(&self) -> bool {
        matches!(self.state, ConnState::Closed)
    }

    /// Time at which the connection's timer must fire.
    pub(crate) fn deadline(&self, config: &Config) -> Time {
        match &self.state {
            ConnState::Closed => Time::NEVER,
            ConnState::Seated(..) | ConnState::Listing(_) => {
                let path = self.health.path_deadline(config.ping_interval, config.pong_timeout);
                path.min(self.health.check_deadline()).min(self.deadline)
            }
            ConnState::Pending(_) | ConnState::Overflow | ConnState::Closing(_) => self.deadline,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every idle connection pays for this size, so growth is a decision. The fields, in bytes:
    ///
    /// id 8; state 16; protocol state 16; health 24: last heard, ping sent, the box of checks; meter 40: three buckets,
    /// the box of rarely used state, bytes owed; deadline 8; address 4; unconsumed, strikes and lingering bytes 12; peer
    /// 20; two flags and two close reasons 4. The pending output is 32 bytes more.
    #[test]
    fn a_slot_stays_small() {
        assert_eq!(size_of::<Connection>(), 16);
        assert_eq!(size_of::<ConnState>(), 16);
        assert_eq!(size_of::<Health>(), 24);
        assert_eq!(size_of::<Meter>(), 40);
        assert_eq!(size_of::<Slot>(), 152);
    }
}
