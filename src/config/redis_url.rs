//! The address of the Redis of a cluster, and names in a cluster.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// Port of Redis if the URL names none.
const PORT: u16 = 6379;
/// Longest name of a node or namespace in bytes.
const MAX_NAME: usize = 64;
/// Longest host and port of a node, in bytes: that of a host name (RFC 1035 section 2.3.4) and of a port.
const MAX_AUTHORITY: usize = 255 + 6;

/// The address of a Redis, with user, password and number of the database.
///
/// It is displayed without the password.
///
/// ```
/// use lobbyd::config::{RedisServer, RedisUrl};
///
/// let url: RedisUrl = "redis://lobby:secret@redis.internal:6380/2".parse()?;
/// assert_eq!(url.server, RedisServer::Tcp { host: "redis.internal".into(), port: 6380 });
/// assert_eq!((url.user.as_deref(), url.password.as_deref(), url.database), (Some("lobby"), Some("secret"), 2));
/// assert_eq!(url.to_string(), "redis://lobby:***@redis.internal:6380/2");
/// # Ok::<(), String>(())
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct RedisUrl {
    /// Where it listens.
    pub server: RedisServer,
    /// User of an access control list; without it the user `default`.
    pub user: Option<String>,
    /// Password, if Redis requires one.
    pub password: Option<String>,
    /// Number of the database.
    pub database: u32,
}

/// Where a Redis listens.
///
/// [`RedisUrl`] has an example.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RedisServer {
    /// A host and a port.
    Tcp {
        /// Name or IP address, without brackets. Resolved each time that the server starts.
        host: String,
        /// Port.
        port: u16,
    },
    /// A socket file.
    Unix(PathBuf),
}

impl FromStr for RedisUrl {
    type Err = String;

    /// Fails with a message that does not contain the text, since it may have a password.
    fn from_str(text: &str) -> Result<RedisUrl, String> {
        if let Some(path) = text.strip_prefix("unix:").filter(|path| path.starts_with('/')) {
            let server = RedisServer::Unix(path.into());
            return Ok(RedisUrl { server, user: None, password: None, database: 0 });
        }
        if text.starts_with("rediss://") {
            return Err("TLS (rediss://) is not supported yet: use redis:// in a private network, or a local TLS proxy such as stunnel".into());
        }
        let form = || "must be redis://[user[:password]@]host[:port][/database] or unix:/path".to_owned();
        let rest = text.strip_prefix("redis://").ok_or_else(form)?;
        let (login, address) = rest.rsplit_once('@').map_or((None, rest), |(login, rest)| (Some(login), rest));
        let (address, database) = address.split_once('/').unwrap_or((address, ""));
        let database = if database.is_empty() { 0 } else { database.parse().map_err(|_| form())? };
        let (host, port) = match address.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((host, port)) if host.parse::<std::net::Ipv6Addr>().is_ok() => (host, port.strip_prefix(':')),
            Some(_) => return Err(form()),
            None => address.split_once(':').map_or((address, None), |(host, port)| (host, Some(port))),
        };
        let port = port.map_or(Ok(PORT), |port| port.parse().map_err(|_| form()))?;
        let is_host = !host.is_empty() && host.bytes().all(|c| c.is_ascii_graphic() && !b"/?#@[]".contains(&c));
        if !is_host || port == 0 {
            return Err(form());
        }
        let (user, password) = login.map_or((None, None), |login| match login.split_once(':') {
            Some((user, password)) => (Some(user), Some(password)),
            None => (Some(login), None),
        });
        let decoded = |part: Option<&str>| match part.filter(|part| !part.is_empty()) {
            Some(part) => decode(part).map(Some).ok_or_else(form),
            None => Ok(None),
        };
        let server = RedisServer::Tcp { host: host.to_owned(), port };
        Ok(RedisUrl { server, user: decoded(user)?, password: decoded(password)?, database })
    }
}

/// Decodes `%40` and the like (RFC 3986 section 2.1).
fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        rest = after;
        if first == b'%' {
            let (digits, after) = rest.split_at_checked(2)?;
            bytes.push(u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?);
            rest = after;
        } else {
            bytes.push(first);
        }
    }
    String::from_utf8(bytes).ok()
}

/// Encodes what would end a user name.
fn encode(text: &str) -> String {
    let encoded = |c: char| if "%:@/ ".contains(c) { format!("%{:02X}", u32::from(c)) } else { c.to_string() };
    text.chars().map(encoded).collect()
}

impl fmt::Display for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (host, port) = match &self.server {
            RedisServer::Unix(path) => return write!(f, "unix:{}", path.display()),
            RedisServer::Tcp { host, port } => (host, port),
        };
        f.write_str("redis://")?;
        if let Some(user) = &self.user {
            f.write_str(&encode(user))?;
        }
        if self.password.is_some() {
            f.write_str(":***")?;
        }
        if self.user.is_some() || self.password.is_some() {
            f.write_str("@")?;
        }
        if host.contains(':') {
            write!(f, "[{host}]:{port}")?
        } else {
            write!(f, "{host}:{port}")?
        }
        if self.database == 0 { Ok(()) } else { write!(f, "/{}", self.database) }
    }
}

impl fmt::Debug for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// The name of a node, or of the keys of a cluster: 1 to 64 letters, digits, `_`, `.` and `-`.
///
/// ```
/// use lobbyd::config::ClusterName;
///
/// let name: ClusterName = "game-1.eu".parse()?;
/// assert_eq!(name.as_str(), "game-1.eu");
/// assert!("game 1".parse::<ClusterName>().is_err());
/// # Ok::<(), String>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterName(String);

impl ClusterName {
    /// Returns the name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ClusterName {
    type Err = String;

    fn from_str(text: &str) -> Result<ClusterName, String> {
        let is_allowed = |c: u8| c.is_ascii_alphanumeric() || b"_.-".contains(&c);
        if (1..=MAX_NAME).contains(&text.len()) && text.bytes().all(is_allowed) && text != "off" {
            Ok(ClusterName(text.to_owned()))
        } else {
            Err(format!("`{}` is not a name of 1 to {MAX_NAME} letters, digits, `_`, `.` and `-`", text.escape_debug()))
        }
    }
}

/// The URL of a node, where clients of its lobbies connect: `ws://` or `wss://` with a host, and a port if it is not the usual
/// one.
///
/// ```
/// use lobbyd::config::NodeUrl;
///
/// let url: NodeUrl = "wss://eu2.example.com:9001".parse()?;
/// assert_eq!(url.as_str(), "wss://eu2.example.com:9001");
/// assert!("wss://eu2.example.com/ws".parse::<NodeUrl>().is_err());
/// # Ok::<(), String>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeUrl(String);

impl NodeUrl {
    /// Returns the URL.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for NodeUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<NodeUrl, String> {
        let authority = text.strip_prefix("wss://").or_else(|| text.strip_prefix("ws://")).unwrap_or_default();
        let is_allowed = |c: u8| c.is_ascii_alphanumeric() || b".-:[]".contains(&c);
        if (1..=MAX_AUTHORITY).contains(&authority.len()) && authority.bytes().all(is_allowed) {
            Ok(NodeUrl(text.to_owned()))
        } else {
            Err(format!("`{}` is not `ws://` or `wss://` with a host and perhaps a port", text.escape_debug()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, shown: Option<&str>) {
        let parsed = text.parse::<RedisUrl>();
        assert_eq!(parsed.as_ref().map(ToString::to_string).ok().as_deref(), shown, "{text}: {parsed:?}");
        if let Err(message) = parsed {
            assert!(!message.contains("secret"), "{message}");
        }
    }

    #[test]
    fn urls_are_parsed_and_shown_without_the_password() {
        check("redis://localhost", Some("redis://localhost:6379"));
        check("redis://localhost:1/", Some("redis://localhost:1"));
        check("redis://[::1]:7/3", Some("redis://[::1]:7/3"));
        check("redis://[::1]", Some("redis://[::1]:6379"));
        check("redis://:secret@h:1", Some("redis://:***@h:1"));
        check("redis://ann:secret@h:1", Some("redis://ann:***@h:1"));
        check("redis://a%3Ann@h:1", Some("redis://a%3Ann@h:1"));
        check("unix:/run/redis.sock", Some("unix:/run/redis.sock"));
        for text in [
            "",
            "off",
            "redis:",
            "redis://",
            "redis://:secret@",
            "redis://:secret@h:0",
            "redis://:secret@h:x",
            "redis://:secret@h/secret",
            "redis://:secret%4@h",
            "redis://[secret]:1",
            "rediss://:secret@h",
            "http://secret",
            "unix:secret",
        ] {
            check(text, None);
        }
        let url: RedisUrl = "redis://:p%40ss%3A@h".parse().expect("a URL");
        assert_eq!((url.user, url.password.as_deref()), (None, Some("p@ss:")));
    }
}
