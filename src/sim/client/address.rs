//! Addresses of the model clients, each with the network that it counts for.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::base::forwarded_header::ForwardedHeader;
use crate::base::peer::Peer;
use crate::base::random::Random;
use crate::sim::models::addresses::PROXY_NETWORK;
use crate::sim::swarm::pick::pick;

/// Addresses of the clients, each with the index of its network. Limits count per network: an IPv4 address, an IPv6 /64,
/// or all socket files together. `None` is a client of a socket file.
const ADDRESSES: &[(Option<IpAddr>, usize)] = &[
    (Some(v4([0, 0, 0, 0, 0, 0xffff, 0x0a00, 1])), 0),
    (Some(v4([0, 0, 0, 0, 0, 0xffff, 0x0a00, 2])), 1),
    (Some(v6([0, 0, 0, 0, 0, 0xffff, 0x0a00, 1])), 0),
    (Some(v6([0x2001, 0xdb8, 0, 1, 0, 0, 0, 1])), 2),
    (Some(v6([0x2001, 0xdb8, 0, 1, 0x8000, 0, 0, 2])), 2),
    (Some(v6([0x2001, 0xdb8, 0, 2, 0, 0, 0, 1])), 3),
    (None, PROXY_NETWORK - 1),
];

const fn v6(parts: [u16; 8]) -> IpAddr {
    let [a, b, c, d, e, f, g, h] = parts;
    IpAddr::V6(Ipv6Addr::new(a, b, c, d, e, f, g, h))
}

const fn v4(mapped: [u16; 8]) -> IpAddr {
    match v6(mapped) {
        IpAddr::V6(address) => match address.to_ipv4_mapped() {
            Some(address) => IpAddr::V4(address),
            None => panic!("not an IPv4-mapped address"),
        },
        address => address,
    }
}

/// Draws the peer of a client with this port. Returns it with the index of its network.
pub(crate) fn draw_peer(random: &mut Random, port: u16) -> (Peer, usize) {
    let (address, network) = pick(random, ADDRESSES);
    (address.map_or(Peer::Unix, |address| (address, port).into()), network)
}

/// Address of the proxy through which all clients of a run connect, if there is one.
pub(crate) const PROXY: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 9, 9, 9));

/// Returns the header line in which the proxy names the client at `address`. What precedes the entry was sent by the
/// client.
pub(crate) fn forwarded_line(header: ForwardedHeader, address: IpAddr, random: &mut Random) -> String {
    let node = match (address, random.below(3)) {
        (IpAddr::V4(_), 0) | (IpAddr::V6(_), 1) => address.to_string(),
        (IpAddr::V4(_), _) => format!("{address}:{}", 1024 + random.below(1000)),
        (IpAddr::V6(_), 0) => format!("[{address}]"),
        (IpAddr::V6(_), _) => format!("[{address}]:{}", 1024 + random.below(1000)),
    };
    let forged = pick(random, &["", "6.6.6.6, ", "\", ", "for=\"6.6.6.6, for=_a, ", ", ,unknown,"]);
    match header {
        ForwardedHeader::XForwardedFor => format!("X-Forwarded-For: {forged}{node}"),
        ForwardedHeader::Forwarded => format!("Forwarded: {forged}proto=https;for=\"{node}\""),
        ForwardedHeader::XRealIp => format!("X-Real-IP: {node}"),
    }
}
