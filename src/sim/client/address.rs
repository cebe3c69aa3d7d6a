//! Addresses of the model clients, each with the network that it counts for.

use std::net::{IpAddr, Ipv6Addr};

use crate::base::peer::Peer;
use crate::base::random::Random;
use crate::sim::models::addresses::NETWORKS;
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
    (None, NETWORKS - 1),
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
