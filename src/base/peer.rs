//! The remote end of a connection.

use std::fmt;
use std::net::{AddrParseError, IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

/// The remote end of a connection.
///
/// ```
/// use lobbyd::admission::Peer;
///
/// let peer: Peer = "192.0.2.7:4000".parse()?;
/// assert_eq!((peer.to_string(), peer.ip().to_string()), ("192.0.2.7:4000".into(), "192.0.2.7".into()));
/// assert_eq!((Peer::Unix.to_string(), Peer::Unix.ip().to_string()), ("unix".into(), "127.0.0.1".into()));
/// # Ok::<(), std::net::AddrParseError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// A TCP connection from this address.
    Ip(SocketAddr),
    /// A connection to a socket file. Its client is a process of this machine and has no address.
    Unix,
}

impl Peer {
    /// Stands for the peer of a connection that is on another node of a cluster.
    pub(crate) const UNKNOWN: Peer = Peer::Ip(SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0));

    /// Returns the address that the peer counts for. All clients of socket files count for 127.0.0.1: they share the
    /// limits per address, unless a trusted proxy names the address of its client.
    pub fn ip(self) -> IpAddr {
        match self {
            Peer::Ip(address) => address.ip(),
            Peer::Unix => Ipv4Addr::LOCALHOST.into(),
        }
    }
}

impl<T: Into<SocketAddr>> From<T> for Peer {
    fn from(address: T) -> Peer {
        Peer::Ip(address.into())
    }
}

impl FromStr for Peer {
    type Err = AddrParseError;

    /// Parses the address of a TCP connection.
    fn from_str(text: &str) -> Result<Peer, AddrParseError> {
        text.parse().map(Peer::Ip)
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Peer::Ip(address) => address.fmt(f),
            Peer::Unix => f.write_str("unix"),
        }
    }
}

/// A [`Peer`] in 20 bytes, for the many connections of an engine. IPv4 is stored as an IPv4-mapped IPv6 address (RFC
/// 4291 section 2.5.5.2). The flow information and the scope of IPv6 are not kept.
#[derive(Clone, Copy, Debug)]
pub(crate) enum CompactPeer {
    Ip { ip: Ipv6Addr, port: u16 },
    Unix,
}

impl CompactPeer {
    pub(crate) fn peer(self) -> Peer {
        match self {
            CompactPeer::Ip { ip, port } => Peer::Ip(SocketAddr::new(IpAddr::V6(ip).to_canonical(), port)),
            CompactPeer::Unix => Peer::Unix,
        }
    }
}

impl From<Peer> for CompactPeer {
    fn from(peer: Peer) -> CompactPeer {
        match peer {
            Peer::Ip(address) => {
                let ip = match address.ip() {
                    IpAddr::V4(ip) => ip.to_ipv6_mapped(),
                    IpAddr::V6(ip) => ip,
                };
                CompactPeer::Ip { ip, port: address.port() }
            }
            Peer::Unix => CompactPeer::Unix,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_compact_peer_round_trips() {
        for address in ["127.0.0.1:80", "[::1]:65535", "[2001:db8::7]:1", "0.0.0.0:0", "[::]:0"] {
            let peer: Peer = address.parse().expect("an address");
            assert_eq!(CompactPeer::from(peer).peer(), peer);
        }
        let mapped: Peer = "[::ffff:10.0.0.1]:9".parse().expect("an address");
        assert_eq!(CompactPeer::from(mapped).peer().to_string(), "10.0.0.1:9");
        assert_eq!(CompactPeer::from(Peer::Unix).peer(), Peer::Unix);
    }
}
