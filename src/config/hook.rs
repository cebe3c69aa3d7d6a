//! Types of the fields of the hook.

use std::fmt;
use std::str::FromStr;

/// Header fields that belong to the connection between two proxies or to the upgrade, and say nothing of the client.
const HOP_HEADERS: [&str; 6] = ["connection", "upgrade", "host", "content-length", "transfer-encoding", "te"];

/// An address of HTTP: `http://` or `https://`, a host, perhaps a port, a path and a query.
///
/// It is displayed without its query, which may contain a secret. A user and a password in it are refused: calls are signed.
///
/// ```
/// use lobbyd::config::HttpUrl;
///
/// let url: HttpUrl = "https://game.example/lobby?key=secret".parse()?;
/// assert_eq!((url.to_string(), url.is_tls()), ("https://game.example/lobby?***".to_owned(), true));
/// assert!("ftp://game.example".parse::<HttpUrl>().is_err());
/// # Ok::<(), String>(())
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct HttpUrl(String);

impl HttpUrl {
    /// Returns the whole address, with its query.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it is an address of HTTPS.
    pub fn is_tls(&self) -> bool {
        self.0.starts_with("https://")
    }

    /// Whether the host is an address of this machine, so that nobody else reads what is sent.
    pub fn is_loopback(&self) -> bool {
        let authority = self.0.split("://").nth(1).and_then(|rest| rest.split(['/', '?']).next()).unwrap_or_default();
        let host = match authority.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((host, _)) => host,
            None => authority.split(':').next().unwrap_or_default(),
        };
        host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
    }
}

impl FromStr for HttpUrl {
    type Err = String;

    /// Fails with a message that does not contain the text, since it may have a secret.
    fn from_str(text: &str) -> Result<HttpUrl, String> {
        let form = || "must be http:// or https://, a host, and perhaps a port and a path".to_owned();
        let rest = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://")).ok_or_else(form)?;
        let authority = rest.split(['/', '?']).next().unwrap_or_default();
        if authority.contains('@') {
            return Err("must have no user and no password: calls are signed with hook_secret_file".into());
        }
        let is_text = text.bytes().all(|c| c.is_ascii_graphic() && !b"\"<>\\^`{|}#".contains(&c));
        let (host, port) = match authority.strip_prefix('[') {
            Some(rest) => {
                let (host, port) = rest.split_once(']').ok_or_else(form)?;
                host.parse::<std::net::Ipv6Addr>().map_err(|_| form())?;
                (host, port.strip_prefix(':').or_else(|| port.is_empty().then_some("80")))
            }
            None => match authority.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (authority, Some("80")),
            },
        };
        let is_port = port.is_some_and(|port| port.parse::<u16>().is_ok_and(|port| port > 0));
        if host.is_empty() || !is_text || !is_port || text.len() > 2048 {
            return Err(form());
        }
        Ok(HttpUrl(text.to_owned()))
    }
}

impl fmt::Display for HttpUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.split_once('?') {
            Some((url, _)) => write!(f, "{url}?***"),
            None => f.write_str(&self.0),
        }
    }
}

impl fmt::Debug for HttpUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// Answer to a client when the hook does not answer.
///
/// No example of its own: it is a field of [`Config`](crate::Config).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnHookFailure {
    /// 4101 `auth_timeout`: it comes back after a growing wait.
    Retry,
    /// 4001 `unauthorized`: it does not come back by itself.
    Refuse,
}

/// Names of header fields, in lower case.
///
/// ```
/// use lobbyd::config::HeaderNames;
///
/// let names: HeaderNames = "Cookie,user-agent".parse().unwrap();
/// assert_eq!(names.listed, ["cookie", "user-agent"]);
/// assert!("a b".parse::<HeaderNames>().is_err());
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeaderNames {
    /// The names.
    pub listed: Vec<String>,
}

impl FromStr for HeaderNames {
    type Err = String;

    /// Fails with a message that quotes the name.
    fn from_str(text: &str) -> Result<HeaderNames, String> {
        if text == "off" {
            return Ok(HeaderNames::default());
        }
        let mut listed = Vec::new();
        for name in text.split(',').map(|name| name.trim().to_ascii_lowercase()) {
            // RFC 9110 section 5.6.2: a token.
            let is_token =
                !name.is_empty() && name.bytes().all(|c| c.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&c));
            if !is_token || HOP_HEADERS.contains(&&*name) {
                return Err(format!("`{}` is not the name of a header of the client, or `off`", name.escape_debug()));
            }
            if !listed.contains(&name) {
                listed.push(name);
            }
        }
        Ok(HeaderNames { listed })
    }
}

impl fmt::Display for HeaderNames {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.listed.is_empty() { f.write_str("off") } else { f.write_str(&self.listed.join(",")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_http_url_has_a_scheme_and_a_host_and_no_password() {
        for good in
            ["http://a", "https://a.example:8443/x/y?z=1", "http://[::1]:80/", "http://127.0.0.1:1", "http://[::1]"]
        {
            assert_eq!(good.parse::<HttpUrl>().map(|url| url.as_str().to_owned()), Ok(good.to_owned()));
        }
        for bad in [
            "",
            "a",
            "http://",
            "http:///x",
            "http://a:0",
            "http://a:x",
            "http://a:70000",
            "https://a b",
            "http://[x]/",
            "http://u:hunter2@a/",
            "http://a/#x",
            "HTTP://a",
            "unix:/x",
            "http://a/\u{e4}",
            "http://[::1",
        ] {
            let error = bad.parse::<HttpUrl>().expect_err(bad);
            assert!(!error.contains("hunter2"), "{error}");
        }
        let is_loopback = |text: &str| text.parse::<HttpUrl>().expect(text).is_loopback();
        assert!(["http://localhost:1/x", "http://127.1.2.3", "https://[::1]:4/"].into_iter().all(is_loopback));
        assert!(!["http://localhost.example", "http://10.0.0.1?x=127.0.0.1"].into_iter().any(is_loopback));
    }
}
