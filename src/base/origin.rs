//! Origins of pages (RFC 6454 section 4), hosts, and how they compare with each other and with a `Host` header.
//!
//! Text is compared by its meaning: in any case of letters, and with the default port of the scheme.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The origin of a page: scheme, host and port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Origin<'a> {
    pub(crate) scheme: &'a str,
    pub(crate) authority: Authority<'a>,
}

/// A host and its port, if one is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Authority<'a> {
    /// A name, an IPv4 address, or an IPv6 address in brackets. Empty in the origin `file://` only.
    pub(crate) host: &'a str,
    pub(crate) port: Option<u16>,
}

/// Why a text is not an origin or an authority.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OriginFault {
    NoScheme,
    /// A space or a control character.
    Space,
    /// A user name, with or without a password.
    UserInfo,
    /// A path, a query or a fragment.
    Path,
    NoHost,
    /// The text in brackets is not an IPv6 address, or something else than a port follows it.
    Brackets,
    /// Not a number from 1 to 65535.
    Port,
}

/// Why a text is not the name of a host, as browsers send it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HostFault {
    /// Browsers send names of other scripts in ASCII (RFC 5891).
    NotAscii,
    /// An empty label, a label of more than 63 characters, or a character other than letters, digits, `-` and `_`.
    Name,
    /// The last label is a number, but the whole is no IPv4 address. Browsers send such a host as an address.
    Number,
}

impl<'a> Origin<'a> {
    /// Parses `scheme://host` with an optional port, or `file://`, which has no host and is sent by some web views.
    pub(crate) fn parse(text: &'a str) -> Result<Origin<'a>, OriginFault> {
        let (scheme, authority) = text.split_once("://").ok_or(OriginFault::NoScheme)?;
        let is_scheme = scheme.starts_with(|c: char| c.is_ascii_alphabetic())
            && scheme.bytes().all(|c| c.is_ascii_alphanumeric() || b"+-.".contains(&c));
        if !is_scheme {
            return Err(OriginFault::NoScheme);
        }
        if authority.is_empty() && scheme.eq_ignore_ascii_case("file") {
            return Ok(Origin { scheme, authority: Authority { host: "", port: None } });
        }
        Ok(Origin { scheme, authority: Authority::parse(authority)? })
    }

    pub(crate) fn is_same(self, other: Origin<'_>) -> bool {
        self.has_scheme_and_port_of(other) && is_same_host(self.authority.host, other.authority.host)
    }

    /// Returns whether the origin is a subdomain, of any depth, of the name in `base`, with its scheme and its port.
    pub(crate) fn is_below(self, base: Origin<'_>) -> bool {
        let (host, base_host) = (self.authority.host.as_bytes(), base.authority.host.as_bytes());
        let is_longer = host.len() > base_host.len() + 1;
        is_longer && self.has_scheme_and_port_of(base) && {
            let (front, end) = host.split_at(host.len() - base_host.len());
            front.ends_with(b".") && end.eq_ignore_ascii_case(base_host)
        }
    }

    /// Returns whether the page was loaded from the server that the header `Host` of its request names.
    ///
    /// Without a port, `Host` means the default port of the page's scheme: the server does not know whether a proxy has
    /// terminated TLS in front of it.
    pub(crate) fn is_served_by(self, host: &str) -> bool {
        let (Some(default), Ok(server)) = (default_port(self.scheme), Authority::of_host(host)) else {
            return false;
        };
        is_same_host(self.authority.host, server.host)
            && self.authority.port.unwrap_or(default) == server.port.unwrap_or(default)
    }

    fn has_scheme_and_port_of(self, other: Origin<'_>) -> bool {
        self.scheme.eq_ignore_ascii_case(other.scheme) && self.port() == other.port()
    }

    fn port(self) -> Option<u16> {
        self.authority.port.or_else(|| default_port(self.scheme))
    }
}

impl<'a> Authority<'a> {
    /// Parses the value of a `Host` header, in which the port may be empty (RFC 3986 section 3.2.3).
    pub(crate) fn of_host(value: &'a str) -> Result<Authority<'a>, OriginFault> {
        let value = value.trim();
        Authority::parse(value.strip_suffix(':').unwrap_or(value))
    }

    /// Parses `host` with an optional port. The characters of a name are not checked: see [`check_host`].
    pub(crate) fn parse(text: &'a str) -> Result<Authority<'a>, OriginFault> {
        if text.contains(|c: char| c.is_whitespace() || c.is_control()) {
            return Err(OriginFault::Space);
        }
        if text.contains(['/', '\\', '?', '#']) {
            return Err(OriginFault::Path);
        }
        if text.contains('@') {
            return Err(OriginFault::UserInfo);
        }
        let (host, port) = if text.starts_with('[') {
            let end = text.find(']').ok_or(OriginFault::Brackets)? + 1;
            let (host, rest) = text.split_at(end);
            address_in_brackets(host).ok_or(OriginFault::Brackets)?;
            match rest.strip_prefix(':') {
                None if rest.is_empty() => (host, None),
                None => return Err(OriginFault::Brackets),
                port => (host, port),
            }
        } else {
            text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port)))
        };
        if host.is_empty() {
            return Err(OriginFault::NoHost);
        }
        Ok(Authority { host, port: port.map(parse_port).transpose()? })
    }

    /// Returns the host if it is an address.
    pub(crate) fn address(self) -> Option<IpAddr> {
        match address_in_brackets(self.host) {
            Some(v6) => Some(IpAddr::V6(v6)),
            None => self.host.parse().ok().map(IpAddr::V4),
        }
    }

    /// Returns whether the host is `localhost` or a loopback address.
    pub(crate) fn is_loopback(self) -> bool {
        self.host.eq_ignore_ascii_case("localhost") || self.address().is_some_and(|address| address.is_loopback())
    }
}

fn parse_port(text: &str) -> Result<u16, OriginFault> {
    let is_number = !text.is_empty() && text.bytes().all(|c| c.is_ascii_digit());
    text.parse().ok().filter(|&port| is_number && port != 0).ok_or(OriginFault::Port)
}

/// Returns the port that a URL with this scheme means if it names none.
fn default_port(scheme: &str) -> Option<u16> {
    let is = |known: &[&str]| known.iter().any(|known| scheme.eq_ignore_ascii_case(known));
    match () {
        () if is(&["http", "ws"]) => Some(80),
        () if is(&["https", "wss"]) => Some(443),
        () => None,
    }
}

fn address_in_brackets(host: &str) -> Option<Ipv6Addr> {
    host.strip_prefix('[')?.strip_suffix(']')?.parse().ok()
}

/// Returns whether two hosts are the same name, in any case, or the same address.
pub(crate) fn is_same_host(one: &str, other: &str) -> bool {
    one.eq_ignore_ascii_case(other)
        || address_in_brackets(one).is_some_and(|address| address_in_brackets(other) == Some(address))
}

/// Checks the form of a host: a name in ASCII, an IPv4 address, or an IPv6 address in brackets.
///
/// # Errors
///
/// Why no browser sends this host.
pub(crate) fn check_host(host: &str) -> Result<(), HostFault> {
    if address_in_brackets(host).is_some() {
        return Ok(());
    }
    if !host.is_ascii() {
        return Err(HostFault::NotAscii);
    }
    // One dot at the end is part of the name: it makes the name absolute.
    let mut labels = host.strip_suffix('.').unwrap_or(host).split('.');
    let is_label = |label: &str| {
        (1..=63).contains(&label.len()) && label.bytes().all(|c| c.is_ascii_alphanumeric() || b"-_".contains(&c))
    };
    if !labels.clone().all(is_label) {
        return Err(HostFault::Name);
    }
    let last = labels.next_back().unwrap_or_default();
    let hex = last.strip_prefix("0x").or_else(|| last.strip_prefix("0X"));
    let is_number = last.bytes().all(|c| c.is_ascii_digit())
        || hex.is_some_and(|digits| digits.bytes().all(|c| c.is_ascii_hexdigit()));
    if is_number && host.parse::<Ipv4Addr>().is_err() { Err(HostFault::Number) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_have_one_form() {
        for (text, host, port) in [
            ("https://game.example", "game.example", None),
            ("http://localhost:8080", "localhost", Some(8080)),
            ("https://[2001:db8::1]:1", "[2001:db8::1]", Some(1)),
            ("chrome-extension://abc", "abc", None),
            ("file://", "", None),
        ] {
            let origin = Origin::parse(text).expect(text);
            assert_eq!((origin.authority.host, origin.authority.port), (host, port), "{text}");
        }
        for (text, fault) in [
            ("game.example", OriginFault::NoScheme),
            ("://game.example", OriginFault::NoScheme),
            ("1s://a", OriginFault::NoScheme),
            ("https://", OriginFault::NoHost),
            ("https://:443", OriginFault::NoHost),
            ("https://::1", OriginFault::NoHost),
            ("https://a b", OriginFault::Space),
            ("https://a/", OriginFault::Path),
            ("https://a?b", OriginFault::Path),
            ("https://u@a", OriginFault::UserInfo),
            ("https://[::1", OriginFault::Brackets),
            ("https://[a]", OriginFault::Brackets),
            ("https://[::1]1", OriginFault::Brackets),
            ("https://a:", OriginFault::Port),
            ("https://a:0", OriginFault::Port),
            ("https://a:+1", OriginFault::Port),
            ("https://a:65536", OriginFault::Port),
            ("https://a:1:1", OriginFault::Port),
        ] {
            assert_eq!(Origin::parse(text), Err(fault), "{text}");
        }
    }

    #[test]
    fn hosts_are_those_that_browsers_send() {
        for host in
            ["game.example", "a_b-c.example.", "localhost", "127.0.0.1", "[::1]", "xn--mnchen-3ya.example", "1a"]
        {
            assert_eq!(check_host(host), Ok(()), "{host}");
        }
        for (host, fault) in [
            ("münchen.example", HostFault::NotAscii),
            ("a..b", HostFault::Name),
            ("*.a", HostFault::Name),
            ("a%20b", HostFault::Name),
            ("127.1", HostFault::Number),
            ("1.2.3.256", HostFault::Number),
            ("0x7f.1", HostFault::Number),
            ("a.0x1", HostFault::Number),
        ] {
            assert_eq!(check_host(host), Err(fault), "{host}");
        }
        assert_eq!(check_host(&"a".repeat(64)), Err(HostFault::Name));
    }
}
