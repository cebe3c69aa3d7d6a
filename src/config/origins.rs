//! Which pages may connect.

use std::net::Ipv4Addr;

use crate::base::origin::{Authority, HostFault, Origin, OriginFault, check_host};

/// Origins of the pages that may connect.
///
/// A request without an `Origin` header does not come from a page and is always allowed. A page that was loaded from the
/// server that the request's `Host` header names is always allowed, too.
///
/// Origins are compared as in RFC 6454: scheme, host and port, in any case of letters, and with the default ports of
/// `http` and `https`.
///
/// ```
/// use lobbyd::config::Origins;
///
/// let listed = vec!["https://game.example".into(), "https://*.beta.example".into()];
/// let origins = Origins { listed, ..Origins::default() };
/// assert!(origins.allow("https://game.example", "server.example"));
/// assert!(origins.allow("https://a.beta.example", "server.example"));
/// assert!(!origins.allow("https://beta.example", "server.example"), "the name itself is not a subdomain");
/// assert!(origins.allow("https://server.example", "server.example:443"), "the server's own page");
/// assert!(!origins.allow("https://other.example", "server.example"));
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origins {
    /// Allows pages of every origin.
    pub any: bool,
    /// Allows pages of loopback origins (`http://localhost:5173`, `http://127.0.0.1`, `https://[::1]:8443`), if the
    /// `Host` header of the request is a loopback name, too. With another name in `Host`, DNS rebinding may have sent
    /// the browser here.
    pub loopback: bool,
    /// Allowed origins. An entry is one of:
    ///
    /// - an origin as browsers write it: `https://game.example`, without a path;
    /// - `https://*.game.example`: all subdomains of this name, of any depth, but not the name itself. Scheme and port
    ///   must be equal. The name has at least two labels, or is `localhost`;
    /// - `null`, which browsers send for a page without an origin.
    ///
    /// [`Config::check`](crate::Config::check) refuses entries that match no page.
    pub listed: Vec<String>,
}

/// An entry of [`Origins::listed`].
#[derive(Clone, Copy)]
enum Entry<'a> {
    /// A page without an origin.
    Null,
    Exactly(Origin<'a>),
    /// The subdomains of this origin's host.
    Below(Origin<'a>),
}

impl Origins {
    /// Returns whether a page of this origin may connect; `host` is the request's `Host` header.
    pub fn allow(&self, origin: &str, host: &str) -> bool {
        let parsed = Origin::parse(origin).ok();
        let is_listed = |entry: &String| match (Entry::parse(entry), parsed) {
            (Ok(Entry::Null), _) => origin.eq_ignore_ascii_case("null"),
            (Ok(Entry::Exactly(listed)), Some(page)) => page.is_same(listed),
            (Ok(Entry::Below(base)), Some(page)) => page.is_below(base),
            _ => false,
        };
        self.any
            || parsed.is_some_and(|page| page.is_served_by(host))
            || (self.loopback && parsed.is_some_and(is_loopback_page) && is_loopback_host(host))
            || self.listed.iter().any(is_listed)
    }

    /// Returns a sentence for each entry that no page can match, and one if `any` makes the others useless.
    pub(super) fn problems(&self) -> Vec<String> {
        let is_mixed = self.any && (self.loopback || !self.listed.is_empty());
        let mixed = is_mixed.then(|| "`any` allows pages of every origin: leave the others out".to_owned());
        mixed.into_iter().chain(self.listed.iter().filter_map(|entry| Entry::parse(entry).err())).collect()
    }
}

fn is_loopback_page(page: Origin<'_>) -> bool {
    ["http", "https"].iter().any(|known| page.scheme.eq_ignore_ascii_case(known)) && page.authority.is_loopback()
}

fn is_loopback_host(host: &str) -> bool {
    Authority::parse(host).is_ok_and(Authority::is_loopback)
}

impl Entry<'_> {
    /// Parses an entry. Fails with a sentence that names the entry, the rule that it breaks, and what to write instead.
    fn parse(text: &str) -> Result<Entry<'_>, String> {
        if text.eq_ignore_ascii_case("null") {
            return Ok(Entry::Null);
        }
        // A slash at the end is not part of an origin, but address bars show it.
        let trimmed = text.strip_suffix('/').filter(|front| !front.ends_with('/')).unwrap_or(text);
        let fail = |rule: &str| Err(format!("`{}` {rule}", text.escape_debug()));
        let origin = match Origin::parse(trimmed) {
            Ok(origin) => origin,
            Err(_) if text == "*" || trimmed.ends_with("://*") => {
                return fail("allows pages of every origin: write `any`, and nothing else");
            }
            Err(fault) => return fail(&explain(fault, trimmed)),
        };
        if ["ws", "wss"].iter().any(|scheme| origin.scheme.eq_ignore_ascii_case(scheme)) {
            return fail("is the address of a server, not the origin of a page: write http:// or https://");
        }
        let Authority { host, port } = origin.authority;
        match host.strip_prefix("*.") {
            None if host == "*" => fail("allows pages of every origin: write `any`, and nothing else"),
            None if host.is_empty() => Ok(Entry::Exactly(origin)),
            None if host.contains('*') => {
                fail("has `*` in a wrong place: it stands for subdomains, as in https://*.game.example")
            }
            None => match check_host(host) {
                Ok(()) => Ok(Entry::Exactly(origin)),
                Err(fault) => fail(explain_host(fault)),
            },
            Some(name) => match check_host(name) {
                Ok(()) if has_subdomains(name) => {
                    Ok(Entry::Below(Origin { authority: Authority { host: name, port }, ..origin }))
                }
                Ok(()) => fail(
                    "allows too many hosts, or none: `*.` is followed by a name of at least two labels, as in \
                     https://*.game.example, or by localhost",
                ),
                Err(_) if name.contains('*') => fail("has more than one `*`: one stands for subdomains of any depth"),
                Err(fault) => fail(explain_host(fault)),
            },
        }
    }
}

/// Returns whether a wildcard may stand for the subdomains of `name`. Names of one label are top-level domains, except
/// `localhost` (RFC 6761 section 6.3). Addresses have no subdomains.
fn has_subdomains(name: &str) -> bool {
    let is_address = name.starts_with('[') || name.parse::<Ipv4Addr>().is_ok();
    let name = name.strip_suffix('.').unwrap_or(name);
    !is_address && (name.contains('.') || name.eq_ignore_ascii_case("localhost"))
}

fn explain(fault: OriginFault, text: &str) -> String {
    match fault {
        OriginFault::NoScheme => {
            "is not an origin such as https://game.example or http://localhost:8080: it has no scheme".into()
        }
        OriginFault::Space => {
            "has a space or a control character: write one origin, and a comma before the next".into()
        }
        OriginFault::UserInfo => {
            format!(
                "has a user name, which browsers do not send in Origin: {}",
                without(text, |rest| { rest.rsplit_once('@').map_or(rest, |(_, host)| host) })
            )
        }
        OriginFault::Path => {
            format!(
                "has a path, a query or a fragment, which browsers do not send in Origin: {}",
                without(text, |rest| { rest.split(['/', '\\', '?', '#']).next().unwrap_or(rest) })
            )
        }
        OriginFault::NoHost => "has no host: write an origin such as https://game.example".into(),
        OriginFault::Brackets => {
            "has no IPv6 address in its brackets: write it as in https://[2001:db8::1]:8443".into()
        }
        OriginFault::Port => {
            "has a port that is not a number from 1 to 65535: leave it out for the default port".into()
        }
    }
}

/// Returns what to write instead of `text`, if the part that `keep` selects of the text after the scheme is an authority.
fn without(text: &str, keep: impl FnOnce(&str) -> &str) -> String {
    let shorter = text.split_once("://").map(|(scheme, rest)| format!("{scheme}://{}", keep(rest)));
    match shorter.filter(|shorter| Origin::parse(shorter).is_ok()) {
        Some(shorter) => format!("write {}", shorter.escape_debug()),
        None => "write an origin such as https://game.example".into(),
    }
}

fn explain_host(fault: HostFault) -> &'static str {
    match fault {
        HostFault::NotAscii => {
            "has a host that is not ASCII: browsers send such a name in punycode, so write it as in \
             https://xn--bcher-kva.example"
        }
        HostFault::Name => {
            "has a host that is not a name: labels of 1 to 63 letters, digits, `-` and `_`, with dots between"
        }
        HostFault::Number => "has a host that browsers send as an IPv4 address: write it as in http://127.0.0.1:8080",
    }
}
