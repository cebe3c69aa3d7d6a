//! Networks of clients, each of which counts as one address, and which of them gives way when there is no room.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};

/// The network that counts as one address: the /64 of an IPv6 address, or a whole IPv4 address.
pub(crate) fn network_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & (!0 << 64))),
        v4 => v4,
    }
}

/// Returns the entry that gives way to a new one of `address`, and the number of entries of its network.
///
/// It is the oldest entry of the network that has most of them, if that one has more than the network of `address` would
/// then have. So a client that adds one entry after the other can only displace its own. `entries` has the oldest one first.
pub(crate) fn displaced_by<T>(address: IpAddr, entries: impl Iterator<Item = (IpAddr, T)>) -> Option<(T, usize)> {
    let mut networks: BTreeMap<IpAddr, (T, usize)> = BTreeMap::new();
    for (address, entry) in entries {
        networks.entry(network_of(address)).or_insert((entry, 0)).1 += 1;
    }
    let own = networks.get(&network_of(address)).map_or(0, |&(_, count)| count);
    networks.into_values().max_by_key(|&(_, count)| count).filter(|&(_, most)| most > own + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(new: &str, entries: &[&str], expected: Option<(usize, usize)>) {
        let address = |text: &str| text.parse::<IpAddr>().expect("an address");
        let displaced = displaced_by(address(new), entries.iter().enumerate().map(|(at, text)| (address(text), at)));
        assert_eq!(displaced, expected, "{new} and {entries:?}");
    }

    #[test]
    fn a_new_entry_displaces_the_oldest_one_of_a_larger_network() {
        check("1.1.1.1", &[], None);
        check("1.1.1.1", &["2.2.2.2"], None);
        check("1.1.1.1", &["3.3.3.3", "2.2.2.2", "2.2.2.2"], Some((1, 2)));
        check("1.1.1.1", &["1.1.1.1", "2.2.2.2", "2.2.2.2"], None);
        check("2.2.2.2", &["2.2.2.2", "2.2.2.2", "2.2.2.2"], None);
        check("1.1.1.1", &["3.3.3.3", "2001:db8::1", "2001:db8::2", "2001:db8:0:1::"], Some((1, 2)));
        check("2001:db8::3", &["2001:db8::1", "::ffff:1.1.1.1", "1.1.1.1", "1.1.1.1"], Some((1, 3)));
    }
}
