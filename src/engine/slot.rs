//! One connection as the engine holds it.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use super::health::Health;
use super::rates::{AddressKey, Meter};
use crate::close::CloseReason;
use crate::config::Config;
use crate::id::ConnId;
use crate::lobby::directory::{LobbyKey, Reservation, SeatKey};
use crate::time::Time;
use crate::wire::broadcast_log::Cursor;
use crate::wire::connection::Connection;

/// What a connection counts as.
///
/// ```text
/// Pending --seat()--> Seated --end()--> Closing --release()--> Gone
///    +-------------------------------------release()------------^
/// ```
#[derive(Debug)]
pub(crate) enum ConnState {
    /// Holds no seat; perhaps it waits for the application to say whether it gets one.
    Pending(Option<Box<PendingAuth>>),
    /// Holds this seat, in this lobby.
    Seated(u32, u32),
    /// Had a seat; says goodbye. The number orders those that do by age.
    Closing(u64),
    /// The driver has still to drop the socket.
    Closed,
}

/// A connection that is being authorized.
#[derive(Debug)]
pub(crate) struct PendingAuth {
    /// The lobby it asked for.
    pub(crate) code: Box<str>,
    /// The seat held for it, if it is known whom it claims to be.
    pub(crate) reservation: Option<Reservation>,
}

/// Every idle connection pays for what stands here, so what few need is in a box.
///
/// With thousands of members no slot is in the processor's cache when its turn comes to be written to. So what that needs
/// stands together, at the front. Not aligned to the cache's lines: then the slab could not grow in place, which leaves
/// holes behind that cost more memory than the slots.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct Slot {
    pub(crate) id: ConnId,
    pub(crate) state: ConnState,
    /// How much of what its lobby said it has taken.
    pub(crate) cursor: Cursor,
    /// Whether what its lobby says is queued for it frame by frame: its socket takes nothing, or much is queued already.
    pub(crate) is_lagging: bool,
    /// Whether it stands in the list of those with something to write.
    pub(crate) dirty: bool,
    /// Whether the socket took less than it was given, and has not said that it takes more.
    pub(crate) blocked: bool,
    /// Whether the application was told that much is queued.
    pub(crate) above_high_mark: bool,
    /// Whether the driver was told to shut down the write side.
    pub(crate) shut_down: bool,
    /// The reason to close it, while it is queued to be closed in a batch.
    pub(crate) queued_close: Option<CloseReason>,
    /// Whether the deadline of being here is that of its age, and not of its token.
    pub(crate) retires: bool,
    /// Why the connection ends. Set once.
    pub(crate) close_reason: Option<CloseReason>,
    /// What is queued, and the state of the protocol.
    pub(crate) wire: Connection,
    pub(crate) health: Health,
    pub(crate) meter: Meter,
    /// Bytes at the front of what is handed in next that were counted and charged before, when they were handed in and not
    /// taken.
    pub(crate) untaken: u32,
    pub(crate) strikes: u32,
    /// When what it is doing must be over: the handshake, authorization, being here, the close handshake, lingering.
    pub(crate) deadline: Time,
    /// The address it counts for, once it is known.
    pub(crate) address: Option<AddressKey>,
    /// Bytes received since the connection ended.
    pub(crate) lingered: u32,
    pub(crate) peer: Peer,
}

/// The other end of a socket, in the eighteen bytes it takes: IPv4 as IPv6 writes it (RFC 4291 section 2.5.5.2).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Peer {
    ip: Ipv6Addr,
    port: u16,
}

impl Peer {
    pub(crate) fn address(self) -> SocketAddr {
        SocketAddr::new(IpAddr::V6(self.ip).to_canonical(), self.port)
    }
}

impl From<SocketAddr> for Peer {
    fn from(address: SocketAddr) -> Peer {
        let ip = match address.ip() {
            IpAddr::V4(ip) => ip.to_ipv6_mapped(),
            IpAddr::V6(ip) => ip,
        };
        Peer { ip, port: address.port() }
    }
}

impl Slot {
    pub(crate) fn new(id: ConnId, peer: SocketAddr, now: Time) -> Slot {
        Slot {
            id,
            wire: Connection::new(),
            state: ConnState::Pending(None),
            deadline: Time::NEVER,
            health: Health::new(now),
            meter: Meter::default(),
            cursor: Cursor::default(),
            address: None,
            strikes: 0,
            lingered: 0,
            untaken: 0,
            peer: peer.into(),
            close_reason: None,
            retires: false,
            is_lagging: false,
            above_high_mark: false,
            dirty: false,
            blocked: false,
            shut_down: false,
            queued_close: None,
        }
    }

    pub(crate) fn seat(&self) -> Option<SeatKey> {
        match self.state {
            ConnState::Seated(seat, _) => Some(seat as SeatKey),
            _ => None,
        }
    }

    /// The lobby in which it has a seat.
    pub(crate) fn lobby(&self) -> Option<LobbyKey> {
        match self.state {
            ConnState::Seated(_, lobby) => Some(lobby as LobbyKey),
            _ => None,
        }
    }

    pub(crate) fn is_closed(&self) -> bool {
        matches!(self.state, ConnState::Closed)
    }

    /// When this connection must be looked at next, unless something happens before.
    pub(crate) fn deadline(&self, config: &Config) -> Time {
        match &self.state {
            ConnState::Closed => Time::NEVER,
            ConnState::Seated(..) => {
                let path = self.health.path_deadline(config.ping_interval, config.pong_timeout);
                path.min(self.health.check_deadline()).min(self.deadline)
            }
            ConnState::Pending(_) | ConnState::Closing(_) => self.deadline,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::mem::offset_of;
    use std::net::SocketAddr;

    use super::*;

    /// Every idle connection pays for this, so growth is a decision. What stands in it, in bytes:
    ///
    /// id 8; standing 16; place 8; six flags, why it ended and why it is to be told to go 8; the box of what is queued 8, with which ends what
    /// writing needs; the protocol's state 24 (a head that has begun to arrive); health 24: when it was heard, when it
    /// was pinged, the box of checks; meter 40: three buckets, bytes owed, the box of what few need; untaken and strikes 8;
    /// deadline 8; address 8; lingered 4; peer 18; and 2 that are left over.
    #[test]
    fn a_slot_stays_small() {
        assert_eq!(size_of::<Connection>(), 32);
        assert_eq!(size_of::<ConnState>(), 16);
        assert_eq!(size_of::<Health>(), 24);
        assert_eq!(size_of::<Meter>(), 40);
        assert_eq!(size_of::<Slot>(), 184);
        assert_eq!(offset_of!(Slot, wire) + size_of::<usize>(), 48, "what writing needs stands together");
    }

    #[test]
    fn a_peer_is_what_it_was() {
        for address in ["127.0.0.1:80", "[::1]:65535", "[2001:db8::7]:1"] {
            let address: SocketAddr = address.parse().expect("an address");
            assert_eq!(Peer::from(address).address(), address);
        }
        let mapped: SocketAddr = "[::ffff:10.0.0.1]:9".parse().expect("an address");
        assert_eq!(Peer::from(mapped).address().to_string(), "10.0.0.1:9");
    }
}
