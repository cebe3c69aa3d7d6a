//! Which pages may connect.

use std::net::{Ipv4Addr, Ipv6Addr};

/// Origins of the pages that may connect.
///
/// A request without an `Origin` header does not come from a page and is always allowed. A page whose origin has the
/// same authority as the request's `Host` header is always allowed, too.
///
/// ```
/// use lobbyd::config::Origins;
///
/// let origins = Origins { listed: vec!["https://game.example".into()], ..Origins::default() };
/// assert!(origins.allow("https://game.example", "server.example"));
/// assert!(origins.allow("https://server.example", "server.example"), "the server's own page");
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
    /// Allowed origins, as browsers write them: `https://game.example`, in lower case, without a path; or `null`, which
    /// browsers send for a page without an origin.
    pub listed: Vec<String>,
}

impl Origins {
    /// Returns whether a page of this origin may connect; `host` is the request's `Host` header.
    pub fn allow(&self, origin: &str, host: &str) -> bool {
        let authority = origin.split_once("://").map(|(_, authority)| authority);
        self.any
            || authority.is_some_and(|authority| authority.eq_ignore_ascii_case(host))
            || (self.loopback && is_loopback_page(origin) && is_loopback(host))
            || self.listed.iter().any(|listed| listed.eq_ignore_ascii_case(origin))
    }
}

fn is_loopback_page(origin: &str) -> bool {
    origin.split_once("://").is_some_and(|(scheme, authority)| {
        ["http", "https"].iter().any(|known| scheme.eq_ignore_ascii_case(known)) && is_loopback(authority)
    })
}

/// Returns whether an authority (host and optional port) names `localhost` or a loopback address.
fn is_loopback(authority: &str) -> bool {
    let host = match authority.rsplit_once(':') {
        Some((host, port)) if !port.is_empty() && port.bytes().all(|c| c.is_ascii_digit()) => host,
        _ => authority,
    };
    match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(v6) => v6.parse::<Ipv6Addr>().is_ok_and(|address| address.is_loopback()),
        None => {
            host.eq_ignore_ascii_case("localhost")
                || host.parse::<Ipv4Addr>().is_ok_and(|address| address.is_loopback())
        }
    }
}
