//! The address of a server: `ws://host:9001` or `wss://host`, perhaps with a path in front of `/ws/{lobby}`. As for
//! `lobby.js`, `http` and `https` mean the same.

use std::net::{SocketAddr, ToSocketAddrs};

/// A server that members connect to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    /// Host and port as the URL has them, for `Host`.
    pub(super) authority: String,
    /// Path in front of `/ws/` and `/sse/`, without a slash at its end.
    pub(super) prefix: String,
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) is_tls: bool,
}

impl Target {
    /// Parses a URL.
    ///
    /// # Errors
    ///
    /// A sentence that names the URL, what is wrong, and what to write.
    pub(super) fn parse(url: &str) -> Result<Target, String> {
        let fail = |rule: &str| Err(format!("`{}` {rule}", url.escape_debug()));
        let Some((scheme, rest)) = url.split_once("://") else {
            return fail("has no scheme: write ws://host:9001");
        };
        let is_tls = match scheme.to_ascii_lowercase().as_str() {
            "ws" | "http" => false,
            "wss" | "https" => true,
            _ => return fail("is no address of a server: write ws://host:9001"),
        };
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        if rest.contains(['?', '#', '@']) {
            return fail("has a query, a fragment or a user name: write ws://host:9001, and use --token");
        }
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => match port.parse() {
                Ok(port) => (host, port),
                Err(_) => return fail("has no valid port: write ws://host:9001"),
            },
            _ if is_tls => (authority, 443),
            _ => (authority, 80),
        };
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        if host.is_empty() || !path.is_ascii() || rest.contains(|c: char| c.is_whitespace() || c.is_control()) {
            return fail("names no host: write ws://host:9001");
        }
        Ok(Target {
            authority: authority.to_owned(),
            prefix: path.trim_end_matches('/').to_owned(),
            host: host.to_owned(),
            port,
            is_tls,
        })
    }

    /// Asks the name service for an address. It blocks.
    ///
    /// # Errors
    ///
    /// Why there is none.
    pub(super) fn resolve(&self) -> Result<SocketAddr, String> {
        let mut found = (self.host.as_str(), self.port).to_socket_addrs().map_err(|error| error.to_string())?;
        found.next().ok_or_else(|| "the name has no address".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_parsed() {
        let check = |url: &str, authority: &str, host: &str, port: u16, prefix: &str| {
            let [authority, prefix, host] = [authority, prefix, host].map(str::to_owned);
            let is_tls = url.starts_with("wss") || url.starts_with("https");
            assert_eq!(Target::parse(url), Ok(Target { authority, prefix, host, port, is_tls }), "{url}");
        };
        check("ws://127.0.0.1:9001", "127.0.0.1:9001", "127.0.0.1", 9001, "");
        check("WS://game.example/", "game.example", "game.example", 80, "");
        check("ws://game.example:81/a/b/", "game.example:81", "game.example", 81, "/a/b");
        check("ws://[::1]:9001", "[::1]:9001", "::1", 9001, "");
        check("ws://[::1]", "[::1]", "::1", 80, "");
        check("wss://game.example/a", "game.example", "game.example", 443, "/a");
        check("http://game.example/a", "game.example", "game.example", 80, "/a");
        check("https://game.example", "game.example", "game.example", 443, "");
        check("wss://127.0.0.1:9443", "127.0.0.1:9443", "127.0.0.1", 9443, "");
    }

    #[test]
    fn a_refusal_says_what_to_write() {
        for (url, words) in [
            ("127.0.0.1:9001", "has no scheme"),
            ("tcp://127.0.0.1:9001", "is no address of a server"),
            ("ws://", "names no host"),
            ("ws://:9001", "names no host"),
            ("ws://host:port", "has no valid port"),
            ("ws://host:9001/?token=ann", "use --token"),
            ("ws://ann@host:9001", "use --token"),
            ("ws://ho st:9001", "names no host"),
        ] {
            let refused = Target::parse(url).expect_err(url);
            assert!(refused.contains(words), "{url}: {refused}");
        }
    }
}
