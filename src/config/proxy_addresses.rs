//! The proxies whose connections begin with a header of the PROXY protocol.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use crate::base::peer::Peer;

/// Most entries of a list.
const MAX_ENTRIES: usize = 64;
/// Bits of an IPv6 address in front of the IPv4 address that it maps (RFC 4291 section 2.5.5.2).
const MAPPED_BITS: u8 = 96;

/// Addresses of proxies: addresses, networks in CIDR notation (RFC 4632 section 3.1), and `unix:` for the clients of all
/// socket files.
///
/// ```
/// use lobbyd::admission::Peer;
/// use lobbyd::config::ProxyAddresses;
///
/// let proxies: ProxyAddresses = "192.0.2.7,10.0.0.0/8,2001:db8::/32,unix:".parse()?;
/// let of = |text: &str| proxies.contains(text.parse().unwrap());
/// assert!(of("10.200.0.1:4000") && of("192.0.2.7:80") && of("[2001:db8::1]:80"));
/// assert!(!of("11.0.0.1:4000") && proxies.contains(Peer::Unix));
/// # Ok::<(), String>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxyAddresses(Vec<Entry>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Entry {
    /// The addresses whose first `bits` bits are those of `address`.
    Network {
        address: IpAddr,
        bits: u8,
    },
    Unix,
}

impl ProxyAddresses {
    /// Returns whether a connection of `peer` is one of a listed proxy. An IPv4-mapped IPv6 address counts as the IPv4
    /// address.
    pub fn contains(&self, peer: Peer) -> bool {
        self.0.iter().any(|entry| match (entry, peer) {
            (Entry::Unix, Peer::Unix) => true,
            (Entry::Network { address, bits }, Peer::Ip(peer)) => {
                let peer = peer.ip().to_canonical();
                peer.is_ipv4() == address.is_ipv4() && masked(peer, *bits) == masked(*address, *bits)
            }
            _ => false,
        })
    }
}

/// Returns the first `bits` bits of an address, followed by zeros.
fn masked(address: IpAddr, bits: u8) -> IpAddr {
    match address {
        IpAddr::V4(v4) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(bits)).unwrap_or(0);
            Ipv4Addr::from_bits(v4.to_bits() & mask).into()
        }
        IpAddr::V6(v6) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0);
            Ipv6Addr::from_bits(v6.to_bits() & mask).into()
        }
    }
}

fn address_bits(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

impl FromStr for ProxyAddresses {
    type Err = String;

    /// Fails with a sentence that names the entry, the rule that it breaks, and what to write instead.
    fn from_str(text: &str) -> Result<ProxyAddresses, String> {
        let entries: Vec<Entry> = text
            .split(',')
            .map(str::trim)
            .filter(|word| !word.is_empty())
            .map(parse_entry)
            .collect::<Result<_, _>>()?;
        match entries.len() {
            0 => Err("must name an address, a network or `unix:`".into()),
            1..=MAX_ENTRIES => Ok(ProxyAddresses(entries)),
            _ => Err(format!("must have at most {MAX_ENTRIES} entries")),
        }
    }
}

fn parse_entry(word: &str) -> Result<Entry, String> {
    let shown = word.escape_debug();
    let fail = |rule: &str| Err(format!("`{shown}` {rule}"));
    if let Some(path) = word.strip_prefix("unix:") {
        return if path.is_empty() {
            Ok(Entry::Unix)
        } else {
            fail("names a socket file, whose clients have no address: write `unix:`, which stands for all of them")
        };
    }
    let (address, bits) = word.split_once('/').map_or((word, None), |(address, bits)| (address, Some(bits)));
    let Ok(address) = address.parse::<IpAddr>() else {
        return fail("is neither an address such as 192.0.2.7, nor a network such as 10.0.0.0/8, nor `unix:`");
    };
    let most = address_bits(address);
    let is_number = |bits: &&str| bits.bytes().all(|c| c.is_ascii_digit());
    let bits = match bits {
        None => most,
        Some(bits) => match bits.parse::<u8>() {
            Ok(count) if count <= most && is_number(&bits) => count,
            _ => return fail(&format!("needs a number of bits from 0 to {most} after the `/`")),
        },
    };
    if address != masked(address, bits) {
        let network = Entry::Network { address: masked(address, bits), bits };
        return fail(&format!(
            "has bits behind the first {bits}: write {network} for the network, or the address alone"
        ));
    }
    if address.to_canonical() == address {
        return Ok(Entry::Network { address, bits });
    }
    match bits.checked_sub(MAPPED_BITS) {
        Some(bits) => Ok(Entry::Network { address: address.to_canonical(), bits }),
        None => fail("is a part of the IPv4-mapped addresses: write IPv4 networks as 10.0.0.0/8"),
    }
}

impl fmt::Display for ProxyAddresses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, entry) in self.0.iter().enumerate() {
            write!(f, "{}{entry}", if at > 0 { "," } else { "" })?;
        }
        Ok(())
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Entry::Network { address, bits } if *bits == address_bits(*address) => address.fmt(f),
            Entry::Network { address, bits } => write!(f, "{address}/{bits}"),
            Entry::Unix => f.write_str("unix:"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_parsed_and_shown() {
        for (text, shown) in [
            ("192.0.2.7", "192.0.2.7"),
            ("192.0.2.7/32", "192.0.2.7"),
            (" 10.0.0.0/8 , unix:, ", "10.0.0.0/8,unix:"),
            ("0.0.0.0/0,::/0", "0.0.0.0/0,::/0"),
            ("2001:DB8::/32,::1", "2001:db8::/32,::1"),
            ("::ffff:10.0.0.0/104,::ffff:192.0.2.7", "10.0.0.0/8,192.0.2.7"),
        ] {
            let parsed: Result<ProxyAddresses, _> = text.parse();
            assert_eq!(parsed.map(|proxies| proxies.to_string()), Ok(shown.into()), "{text}");
        }
    }

    #[test]
    fn a_refusal_names_the_entry_and_what_to_write_instead() {
        for (text, words) in [
            ("", "must name an address"),
            (" , ", "must name an address"),
            ("10.0.0.1/8", "write 10.0.0.0/8 for the network"),
            ("2001:db8::1/32", "write 2001:db8::/32"),
            ("10.0.0.0/33", "from 0 to 32"),
            ("::/129", "from 0 to 128"),
            ("10.0.0.0/+8", "from 0 to 32"),
            ("10.0.0.0/", "from 0 to 32"),
            ("10.0.0.1:80", "neither an address"),
            ("[::1]", "neither an address"),
            ("proxy.example", "neither an address"),
            ("unix:/run/a.sock", "write `unix:`"),
            ("::ffff:0.0.0.0/80", "has bits behind"),
            (&["::1"; 65].join(","), "at most 64"),
        ] {
            let refused = text.parse::<ProxyAddresses>().expect_err(text);
            assert!(refused.contains(words), "{text}: {refused}");
        }
    }

    #[test]
    fn a_network_contains_its_addresses_of_one_family() {
        let check = |list: &str, peer: &str, expected: bool| {
            let proxies: ProxyAddresses = list.parse().expect("a list");
            assert_eq!(proxies.contains(peer.parse().expect("an address")), expected, "{list} {peer}");
        };
        check("10.0.0.0/8", "10.255.255.255:1", true);
        check("10.0.0.0/8", "11.0.0.0:1", false);
        check("10.0.0.0/8", "[::ffff:10.1.2.3]:1", true);
        check("192.0.2.6/31", "192.0.2.7:1", true);
        check("192.0.2.6/31", "192.0.2.8:1", false);
        check("192.0.2.7", "192.0.2.6:1", false);
        check("0.0.0.0/0", "192.0.2.7:1", true);
        check("0.0.0.0/0", "[2001:db8::1]:1", false);
        check("::/0", "[2001:db8::1]:1", true);
        check("::/0", "192.0.2.7:1", false);
        check("2001:db8::/33", "[2001:db8:7fff::1]:1", true);
        check("2001:db8::/33", "[2001:db8:8000::1]:1", false);
        let only_files: ProxyAddresses = "unix:".parse().expect("a list");
        assert!(only_files.contains(Peer::Unix) && !only_files.contains("127.0.0.1:1".parse().expect("an address")));
        let loopback: ProxyAddresses = "127.0.0.1".parse().expect("a list");
        assert!(!loopback.contains(Peer::Unix), "a socket file is listed by `unix:` only");
    }
}
