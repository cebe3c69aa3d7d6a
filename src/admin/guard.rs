//! Access checks of the admin port: `Host`, `Origin` and the token. Knows the headers of a request, not its path or
//! body.
//!
//! A web page can make its visitor's browser send requests to a loopback address. With DNS rebinding they look like
//! requests of the same origin, but `Host` contains the page's name. Cross-site requests carry the page's `Origin`.
//! They cannot be `application/json` without a CORS preflight request, which this server does not grant.

use std::fmt;
use std::net::IpAddr;

use crate::base::origin::{Authority, Origin};
use crate::config::{Config, HostNames, Listen, ListenAddress};
use crate::http::request::SingleHeaders;
use crate::http::response::JsonResponse;

/// Shortest token that is accepted, in bytes.
const MIN_TOKEN: usize = 16;

/// The token with which operators authenticate. It is never displayed.
///
/// ```
/// use lobbyd::admin::Token;
///
/// assert!(Token::read("correct-horse-battery").is_ok());
/// assert!(Token::read("").is_err());
/// ```
pub struct Token(Box<[u8]>);

impl Token {
    /// Parses the contents of a token file: one line of at least 16 visible ASCII characters.
    ///
    /// # Errors
    ///
    /// The rule that the contents break.
    pub fn read(text: &str) -> Result<Token, &'static str> {
        let token = text.trim_ascii_end();
        match token {
            _ if token.len() < MIN_TOKEN => Err("must hold at least 16 characters: `openssl rand -hex 32` makes some"),
            _ if !token.bytes().all(|c| c.is_ascii_graphic()) => {
                Err("must hold one line of visible ASCII characters and nothing else")
            }
            _ => Ok(Token(token.as_bytes().into())),
        }
    }

    /// Compares in constant time: the duration reveals at most the token's length.
    fn is(&self, shown: &[u8]) -> bool {
        let differences = self.0.iter().zip(shown).fold(0, |sum, (own, shown)| sum | (own ^ shown));
        self.0.len() == shown.len() && std::hint::black_box(differences) == 0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

/// The access checks and their configuration.
#[derive(Debug)]
pub(super) struct Guard {
    /// IP addresses of the admin listeners.
    listens_on: Vec<IpAddr>,
    /// Names that the admin listeners were given.
    listen_names: Vec<String>,
    /// Additional hosts that are accepted in `Host`.
    names: HostNames,
    token: Option<Token>,
}

impl Guard {
    pub(super) fn new(config: &Config, token: Option<Token>) -> Guard {
        let addresses = config.admin.iter().flat_map(Listen::addresses);
        let names = addresses.clone().filter_map(|address| match address.without_tls() {
            ListenAddress::Name { host, .. } => Some(host.clone()),
            _ => None,
        });
        Guard {
            listen_names: names.collect(),
            listens_on: addresses.flat_map(ListenAddress::known_addresses).map(|address| address.ip()).collect(),
            names: config.admin_host.clone(),
            token,
        }
    }

    /// Replaces the token, if there is one. Returns whether it has changed.
    pub(super) fn set_token(&mut self, token: Token) -> bool {
        let is_new = self.token.as_ref().is_some_and(|old| !old.is(&token.0));
        if is_new {
            self.token = Some(token);
        }
        is_new
    }

    /// Checks that the request was not sent by a web page of another origin. The name in `Host` does not matter for a
    /// health check: its answer is no secret, and load balancers send the address or a name of their own.
    pub(super) fn check_source(&self, headers: SingleHeaders<'_>, is_health_check: bool) -> Result<(), JsonResponse> {
        let host = headers.host.unwrap_or_default();
        if !is_health_check && !self.is_ours(host) {
            let message = "this server is not known under the name in Host; use its address, or set admin_host";
            return Err(JsonResponse::error(403, "foreign_host", message));
        }
        match headers.origin {
            Some(origin) if !Origin::parse(origin).is_ok_and(|page| page.is_served_by(host)) => Err(foreign_origin()),
            _ => Ok(()),
        }
    }

    /// Checks that the request is not one that a page of another origin may send without naming its origin. Such a page cannot
    /// read the answer, but could hold all streams of events.
    pub(super) fn check_site(&self, headers: SingleHeaders<'_>) -> Result<(), JsonResponse> {
        match headers.fetch_site {
            Some("cross-site" | "same-site") => Err(foreign_origin()),
            _ => Ok(()),
        }
    }

    /// Checks the token, if one is configured.
    pub(super) fn check_token(&self, headers: SingleHeaders<'_>) -> Result<(), JsonResponse> {
        let Some(token) = &self.token else { return Ok(()) };
        let shown = headers.authorization.and_then(|value| value.split_once(' '));
        match shown {
            Some((scheme, shown)) if scheme.eq_ignore_ascii_case("bearer") && token.is(shown.trim().as_bytes()) => {
                Ok(())
            }
            _ => Err(JsonResponse::error(
                401,
                "unauthorized",
                "send Authorization: Bearer with the token of admin_token_file",
            )
            .with_line("WWW-Authenticate: Bearer\r\n")),
        }
    }

    /// Returns whether `host` is an address or name of this server. The port is ignored: a tunnel may use another one.
    fn is_ours(&self, host: &str) -> bool {
        let Ok(authority) = Authority::of_host(host) else { return false };
        // DNS rebinding needs a name, so addresses are safe on which the server can be reached.
        let is_address_of_ours = authority.address().is_some_and(|address| {
            self.listens_on.iter().any(IpAddr::is_unspecified) || self.listens_on.contains(&address)
        });
        let is_name_of_ours = self.listen_names.iter().any(|own| own.eq_ignore_ascii_case(authority.host));
        authority.is_loopback() || is_address_of_ours || is_name_of_ours || self.names.contains(authority.host)
    }
}

fn foreign_origin() -> JsonResponse {
    JsonResponse::error(403, "foreign_origin", "pages of other origins may not ask anything here")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_host(admin: &str, host: &str, ours: bool) {
        let config = Config {
            admin: Some(admin.parse().expect("an address")),
            admin_host: HostNames { listed: vec!["lobby.internal".into(), "192.0.2.9".into(), "[2001:db8::9]".into()] },
            ..Config::default()
        };
        assert_eq!(Guard::new(&config, None).is_ours(host), ours, "{host} at {admin}");
    }

    #[test]
    fn only_hosts_that_cannot_be_rebound_are_accepted() {
        for host in ["localhost", "LocalHost:9002", "127.0.0.1", "127.0.0.1:1", "127.8.9.1:9002", "[::1]", "[::1]:9002"]
        {
            check_host("127.0.0.1:9002", host, true);
        }
        for listed in ["lobby.internal:9002", "LOBBY.internal", "192.0.2.9", "192.0.2.9:1", "[2001:db8:0::9]:9002"] {
            check_host("127.0.0.1:9002", listed, true);
        }
        check_host("10.0.0.7:9002", "10.0.0.7:9002", true);
        check_host("10.0.0.7:9002", "localhost:", true);
        check_host("0.0.0.0:9002", "192.168.0.1:9002", true);
        check_host("127.0.0.1:9002,10.0.0.7:9002,admin.example:9002", "10.0.0.7", true);
        check_host("127.0.0.1:9002,10.0.0.7:9002,admin.example:9002", "Admin.Example:9002", true);
        check_host("127.0.0.1:9002,10.0.0.7:9002,admin.example:9002", "10.0.0.8", false);
        check_host("unix:/run/admin.sock", "localhost", true);
        check_host("unix:/run/admin.sock", "evil.example", false);
        for host in [
            "",
            ":",
            ":9002",
            "evil.example",
            "evil.example:9002",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "10.0.0.8",
            "[::2]:9002",
            "::1",
            "[::1",
            "0177.0.0.1",
            "2130706433",
            "localhost:9002:9002",
            "a@localhost",
            "localhost:65536",
            "localhost/",
        ] {
            check_host("10.0.0.7:9002", host, false);
        }
    }

    #[test]
    fn only_the_whole_token_matches() {
        let token = Token::read("0123456789abcdef\n").expect("a token");
        assert!(token.is(b"0123456789abcdef"));
        for wrong in ["", "0123456789abcde", "0123456789abcdef0", "0123456789abcdeg"] {
            assert!(!token.is(wrong.as_bytes()), "{wrong}");
        }
        assert!(Token::read("short").is_err() && Token::read("0123456789 abcdef").is_err());
        assert_eq!(format!("{token:?}"), "Token(…)");
    }
}
