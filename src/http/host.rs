//! The syntax of `Host`.

use std::net::Ipv6Addr;

/// Returns whether `value` is a host with an optional port (RFC 9112 section 3.2, RFC 3986 section 3.2.2): a registered
/// name, an IPv4 address, or an IPv6 address in brackets.
///
/// The host must not be empty (RFC 9110 section 4.2.1). Literals of future IP versions, which nothing uses, are refused.
pub(crate) fn is_host(value: &str) -> bool {
    let bytes = value.as_bytes();
    let end = if bytes.first() == Some(&b'[') {
        bytes.iter().position(|&c| c == b']').map_or(0, |at| at + 1)
    } else {
        bytes.iter().position(|&c| c == b':').unwrap_or(bytes.len())
    };
    let (host, port) = value.split_at(end);
    // An empty port is the default one (RFC 3986 section 3.2.3).
    let is_port = matches!(port, "" | ":")
        || port
            .strip_prefix(':')
            .is_some_and(|port| port.bytes().all(|c| c.is_ascii_digit()) && port.parse::<u16>().is_ok());
    is_port
        && match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
            Some(address) => address.parse::<Ipv6Addr>().is_ok(),
            None => !host.is_empty() && is_registered_name(host.as_bytes()),
        }
}

/// Whether `name` consists of unreserved characters, sub-delimiters and percent-encoded bytes.
fn is_registered_name(mut name: &[u8]) -> bool {
    while let Some((&c, rest)) = name.split_first() {
        name = match (c, rest) {
            (b'%', [high, low, rest @ ..]) if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => rest,
            (b'%', _) => return false,
            _ if c.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=".contains(&c) => rest,
            _ => return false,
        };
    }
    true
}
