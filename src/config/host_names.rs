//! Names of this server, as they occur in `Host` headers.

use crate::base::origin::{Authority, HostFault, check_host, is_same_host};

/// Hosts by which clients may call the server: names, IPv4 addresses, or IPv6 addresses in brackets.
///
/// ```
/// use lobbyd::config::HostNames;
///
/// let names = HostNames { listed: vec!["lobby.internal".into(), "[2001:db8::1]".into()] };
/// assert!(names.contains("Lobby.Internal"));
/// assert!(!names.contains("elsewhere.example"));
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostNames {
    /// The hosts, without ports. [`Config::check`](crate::Config::check) refuses other texts.
    pub listed: Vec<String>,
}

impl HostNames {
    /// Returns whether `host`, without a port, is listed: as the same name in any case, or as the same address.
    pub fn contains(&self, host: &str) -> bool {
        self.listed.iter().any(|listed| is_same_host(listed, host))
    }

    /// Returns a sentence for each entry that is not a host.
    pub(super) fn problems(&self) -> Vec<String> {
        self.listed.iter().filter_map(|entry| check_entry(entry).err()).collect()
    }
}

/// Fails with a sentence that names the entry, the rule that it breaks, and what to write instead.
fn check_entry(entry: &str) -> Result<(), String> {
    let fail = |rule: &str| Err(format!("`{}` {rule}", entry.escape_debug()));
    if entry == "off" {
        return fail("is the word that leaves the list empty, and not a host");
    }
    if entry.contains("://") {
        return fail("has a scheme: write the host alone, such as lobby.internal");
    }
    if entry.parse::<std::net::Ipv6Addr>().is_ok() {
        return fail(&format!("is an IPv6 address without brackets: write [{entry}]"));
    }
    if entry.contains('*') {
        return fail("has a `*`: write each name, separated by commas");
    }
    match Authority::parse(entry) {
        Ok(Authority { host, port: Some(_) }) => {
            fail(&format!("has a port, which is not compared: write {}", host.escape_debug()))
        }
        Ok(Authority { host, port: None }) => match check_host(host) {
            Ok(()) => Ok(()),
            Err(HostFault::NotAscii) => {
                fail("is not ASCII: browsers send such a name in punycode, as in xn--bcher-kva.example")
            }
            Err(HostFault::Number) => fail("is not an IPv4 address: write it as in 192.0.2.1"),
            Err(HostFault::Name) => {
                fail("is not a name: labels of 1 to 63 letters, digits, `-` and `_`, with dots between")
            }
        },
        Err(_) => {
            fail("is not a host: write a name or an address alone, such as lobby.internal, 192.0.2.1 or [2001:db8::1]")
        }
    }
}
