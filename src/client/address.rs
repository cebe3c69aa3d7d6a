//! Addresses of WebSocket servers: what an application gives, and what an attempt asks for.
//!
//! Reads what browsers accept for `new WebSocket(url)`, without names or passwords before the host.

use std::collections::BTreeMap;

use super::error::LobbyError;

/// Which lobbies to list. The [module](crate::client#the-list-of-lobbies) has an example.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filters {
    /// Only lobbies that quick joins of this pool have created.
    pub pool: Option<String>,
    /// Only lobbies with all of these tags.
    pub tags: BTreeMap<String, String>,
}

impl Filters {
    fn fields(&self, after: Option<&str>) -> Vec<(String, String)> {
        let pool = self.pool.as_deref().map(|pool| ("pool", pool));
        let own = pool.into_iter().chain(after.map(|after| ("after", after)));
        let own = own.map(|(name, value)| (name.to_owned(), value.to_owned()));
        own.chain(self.tags.iter().map(|(name, value)| (format!("tag.{name}"), value.clone()))).collect()
    }
}

/// Where a server is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Origin {
    pub(super) is_secure: bool,
    /// The host, with a port if it is not the usual one. An IPv6 address is in brackets.
    pub(super) authority: String,
}

impl Origin {
    /// Reads the origin of an address. Returns the rest, too.
    pub(super) fn split(url: &str) -> Result<(Origin, &str), LobbyError> {
        let bad = |why: &str| LobbyError::with_message("bad_url", why);
        let (scheme, rest) = url.split_once("://").ok_or_else(|| bad("an address begins with ws:// or wss://"))?;
        let is_secure = match scheme.to_ascii_lowercase().as_str() {
            "ws" | "http" => false,
            "wss" | "https" => true,
            _ => return Err(bad("an address begins with ws:// or wss://")),
        };
        let (authority, rest) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
        let origin = Origin { is_secure, authority: authority.to_ascii_lowercase() };
        let is_host = |c: char| c.is_ascii_alphanumeric() || "-._~:[]".contains(c);
        if authority.is_empty() || !authority.chars().all(is_host) || origin.host().is_empty() {
            return Err(bad("an address has a host of ASCII characters, and no user before it"));
        }
        if origin.explicit_port().is_some_and(|port| port.parse::<u16>().is_err()) {
            return Err(bad("the port of an address is from 0 to 65535"));
        }
        Ok((origin, rest))
    }

    /// Returns the host, without the brackets of an IPv6 address.
    pub(super) fn host(&self) -> &str {
        self.parts().0
    }

    pub(super) fn port(&self) -> u16 {
        let usual = if self.is_secure { 443 } else { 80 };
        self.explicit_port().and_then(|port| port.parse().ok()).unwrap_or(usual)
    }

    fn explicit_port(&self) -> Option<&str> {
        self.parts().1
    }

    fn parts(&self) -> (&str, Option<&str>) {
        let (host, rest) = match self.authority.strip_prefix('[').and_then(|inner| inner.split_once(']')) {
            Some((host, rest)) => (host, rest),
            None => self.authority.split_at(self.authority.find(':').unwrap_or(self.authority.len())),
        };
        (host, (!rest.is_empty()).then(|| rest.strip_prefix(':').unwrap_or(rest)))
    }
}

/// An address in its parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Address {
    pub(super) origin: Origin,
    /// Begins with a slash. Percent-encoded, as are the pairs of the query.
    path: String,
    query: Vec<String>,
}

impl Address {
    pub(super) fn parse(url: &str) -> Result<Address, LobbyError> {
        let (origin, rest) = Origin::split(url)?;
        let rest = rest.split('#').next().unwrap_or_default();
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        if !may_name_lobby(path) {
            let why = "a lobby's name has 1 to 64 letters, digits, _ or -";
            return Err(LobbyError::with_message("bad_lobby_code", why));
        }
        let path = if path.is_empty() { "/".to_owned() } else { encode_others(path) };
        let query = query.split('&').filter(|pair| !pair.is_empty()).map(encode_others).collect();
        Ok(Address { origin, path, query })
    }

    /// Adds fields to the query, in place of those with the same names.
    pub(super) fn with(mut self, fields: &[(String, String)]) -> Address {
        for (name, value) in fields {
            let name = form_encode(name);
            self.query.retain(|pair| pair.split('=').next() != Some(&name));
            self.query.push(format!("{name}={}", form_encode(value)));
        }
        self
    }

    pub(super) fn with_filters(self, filters: &Filters, after: Option<&str>) -> Address {
        self.with(&filters.fields(after))
    }

    /// Asks for a lobby by its code, in place of `~new`, `~quick/{pool}` or another code, and without `create=0`: the lobby may
    /// be gone with its server, and its members come back nevertheless.
    pub(super) fn in_lobby(mut self, code: &str) -> Address {
        let before = self.path.rsplit_once('/').map_or("", |(before, _)| before);
        let before = before.strip_suffix("/~quick").unwrap_or(before);
        self.path = format!("{before}/{}", encode_segment(code));
        self.query.retain(|pair| pair.split('=').next() != Some("create"));
        self
    }

    /// Whether the client asks to watch.
    pub(super) fn watches(&self) -> bool {
        self.query.iter().any(|pair| pair == "role=watch")
    }

    /// Returns the path with the query: the target of a request.
    pub(super) fn target(&self) -> String {
        let query = self.query.join("&");
        let mark = if query.is_empty() { "" } else { "?" };
        format!("{}{mark}{query}", self.path)
    }
}

/// Returns the address of a GET request that asks for the lobbies that can be joined, once. `url` is that of
/// `/ws/~lobbies` or `/lobbies`; `after` is [`next`](crate::client::Found::next) of the answer before. The
/// [module](crate::client#the-list-of-lobbies) has an example.
///
/// # Errors
///
/// `bad_url` or `bad_lobby_code`.
pub fn find_address(url: &str, filters: &Filters, after: Option<&str>) -> Result<String, LobbyError> {
    let mut address = Address::parse(url)?.with_filters(filters, after);
    address.path = address.path.replacen("/ws/~", "/", 1);
    let scheme = if address.origin.is_secure { "https" } else { "http" };
    Ok(format!("{scheme}://{}{}", address.origin.authority, address.target()))
}

/// Whether the path names a lobby, if it is that of one: `/ws/{code}`, or with `~` what the server makes of it. The server would
/// refuse another name for good. An application may have routes of its own.
fn may_name_lobby(path: &str) -> bool {
    let Some((before, name)) = path.rsplit_once('/') else { return true };
    let is_code =
        (1..=64).contains(&name.len()) && name.bytes().all(|c| c.is_ascii_alphanumeric() || b"_-".contains(&c));
    is_code || name.starts_with('~') || before.rsplit('/').next() != Some("ws")
}

fn push_encoded(out: &mut String, byte: u8) {
    out.push('%');
    for digit in [byte >> 4, byte & 15] {
        out.push(char::from_digit(u32::from(digit), 16).expect("four bits are a digit").to_ascii_uppercase());
    }
}

fn encode(text: &str, is_literal: impl Fn(u8) -> bool) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if is_literal(byte) { out.push(char::from(byte)) } else { push_encoded(&mut out, byte) }
    }
    out
}

/// Encodes what must not occur in a target. What is encoded already stays as it is.
fn encode_others(text: &str) -> String {
    encode(text, |byte| byte.is_ascii_graphic() && !b"\"<>\\^`{|}".contains(&byte))
}

/// Encodes a segment of a path. A code has letters, digits, `_` and `-`; another name, of a hostile server, leads nowhere else.
fn encode_segment(text: &str) -> String {
    encode(text, |byte| byte.is_ascii_alphanumeric() || b"_-~".contains(&byte))
}

/// Encodes a name or value as forms do (application/x-www-form-urlencoded).
fn form_encode(text: &str) -> String {
    encode(text, |byte| byte.is_ascii_alphanumeric() || b"*-._ ".contains(&byte)).replace(' ', "+")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(url: &str, is_secure: bool, host: &str, port: u16, target: &str) {
        let address = Address::parse(url).expect(url);
        let Origin { is_secure: secure, .. } = address.origin;
        assert_eq!((secure, address.origin.host(), address.origin.port()), (is_secure, host, port), "{url}");
        assert_eq!(address.target(), target, "{url}");
    }

    #[test]
    fn addresses_have_a_host_a_port_and_a_target() {
        check("ws://Game.Example/ws/chess", false, "game.example", 80, "/ws/chess");
        check("wss://game.example:9001", true, "game.example", 9001, "/");
        check("https://[::1]/ws/a?password=x y&&b#frag", true, "::1", 443, "/ws/a?password=x%20y&b");
        check("http://[2001:db8::1]:81?x=%C3%A4&y=ä", false, "2001:db8::1", 81, "/?x=%C3%A4&y=%C3%A4");
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for url in ["", "/ws/chess", "ftp://a/", "ws:///ws", "ws://:80/", "ws://a b/", "ws://u@a/", "ws://a:99999/"] {
            assert_eq!(Address::parse(url).expect_err(url).code(), "bad_url", "{url}");
        }
        assert!(Address::parse("ws://[::1]x/").is_err());
        let long = format!("ws://a/ws/{}", "x".repeat(65));
        for url in ["ws://a/ws/", "ws://a/ws/two words", "ws://a/ws/a.b", "ws://a/x/ws/caf%C3%A9?x", &long] {
            assert_eq!(Address::parse(url).expect_err(url).code(), "bad_lobby_code", "{url}");
        }
    }

    #[test]
    fn an_application_may_have_other_paths() {
        for url in
            ["ws://a/ws", "ws://a/ws/~new", "ws://a/ws/~quick/a.b", "ws://a/play/v1.2", "ws://a/ws/ws/chess", "ws://a/"]
        {
            assert!(Address::parse(url).is_ok(), "{url}");
        }
    }

    #[test]
    fn a_lobby_takes_the_place_of_the_last_segment() {
        let at = |url: &str, code: &str| Address::parse(url).expect(url).in_lobby(code).target();
        assert_eq!(at("ws://a/ws/~new?x=1", "bcdfg"), "/ws/bcdfg?x=1");
        assert_eq!(at("ws://a/ws/~quick/duel?seats=2", "bcdfg"), "/ws/bcdfg?seats=2");
        assert_eq!(at("ws://a", "bcdfg"), "/bcdfg");
        assert_eq!(at("ws://a/ws/chess?create=0&x=created", "chess"), "/ws/chess?x=created");
        assert_eq!(at("ws://a/ws/chess", "../x?y#z"), "/ws/%2E%2E%2Fx%3Fy%23z", "of a hostile server");
    }

    #[test]
    fn fields_replace_those_of_the_address() {
        let fields = [("session".to_owned(), "a b&c".to_owned()), ("n".to_owned(), "0".to_owned())];
        let address = Address::parse("ws://a/?session=old&role=watch&n").expect("an address").with(&fields);
        assert_eq!(address.target(), "/?role=watch&session=a+b%26c&n=0");
        assert!(address.watches());
    }
}
