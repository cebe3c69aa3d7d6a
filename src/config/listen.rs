//! Addresses to listen on: their text, and the rules for a list of them. Resolves no names.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

/// Most addresses in a list.
const MAX_ADDRESSES: usize = 16;
/// Longest path of a socket file in bytes: that of `sun_path` on macOS without its final zero. Linux has four more.
const MAX_PATH: usize = 103;
/// Longest name of a host (RFC 1035 section 2.3.4).
const MAX_HOST: usize = 253;

/// The addresses to accept connections on.
///
/// ```
/// use lobbyd::Config;
///
/// let listen = "127.0.0.1:9001,unix:/run/lobbyd.sock".parse()?;
/// let config = Config { listen, ..Config::default() };
/// assert!(config.listen.is_local());
/// assert_eq!(config.listen.addresses().len(), 2);
/// # Ok::<(), String>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listen(Vec<ListenAddress>);

/// One address to accept connections on.
///
/// ```
/// use lobbyd::config::ListenAddress;
///
/// let address: ListenAddress = "game.example:9001".parse()?;
/// assert_eq!(address, ListenAddress::Name { host: "game.example".into(), port: 9001 });
/// assert!("unix:/run/lobbyd.sock".parse::<ListenAddress>()?.is_local());
/// let secure: ListenAddress = "tls:[::]:443".parse()?;
/// assert_eq!((secure.is_tls(), secure.without_tls().to_string()), (true, "[::]:443".into()));
/// # Ok::<(), String>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ListenAddress {
    /// An IP address and a port. `[::]` accepts IPv6 and IPv4, unless the list also has `0.0.0.0` with the same port:
    /// then only IPv6.
    Ip(SocketAddr),
    /// A host name, which is resolved once, when the server starts. The server listens on all of its addresses that the
    /// machine has. `localhost` is 127.0.0.1 and `::1` (RFC 6761 section 6.3).
    Name {
        /// The name.
        host: String,
        /// The port. With port 0, all addresses of the name get the same free port.
        port: u16,
    },
    /// A socket file. It is created when the server starts and removed when it ends.
    Unix(PathBuf),
    /// One of the above, whose connections begin with TLS. It needs the cargo feature `tls`, `tls_cert` and `tls_key`.
    Tls(Box<ListenAddress>),
}

impl Listen {
    /// Returns the addresses in the order of the list.
    pub fn addresses(&self) -> &[ListenAddress] {
        &self.0
    }

    /// Whether only clients of this machine reach these addresses.
    pub fn is_local(&self) -> bool {
        self.0.iter().all(ListenAddress::is_local)
    }

    /// Whether all of these addresses are IP addresses of the loopback interface, or `localhost`.
    pub fn is_loopback(&self) -> bool {
        self.is_local() && !self.has_socket_file()
    }

    /// Whether one of these addresses is a socket file.
    pub(crate) fn has_socket_file(&self) -> bool {
        self.0.iter().any(|address| matches!(address.without_tls(), ListenAddress::Unix(_)))
    }

    /// Whether connections to one of these addresses begin with TLS.
    pub(crate) fn has_tls(&self) -> bool {
        self.0.iter().any(ListenAddress::is_tls)
    }

    /// Returns the rule that the list breaks, if any.
    pub(super) fn broken_rule(&self) -> Option<String> {
        if self.0.is_empty() || self.0.len() > MAX_ADDRESSES {
            return Some(format!("must name from 1 to {MAX_ADDRESSES} addresses"));
        }
        if self.0.iter().any(|address| address.without_tls().is_tls()) {
            return Some("must name tls: at most once for each address".into());
        }
        let too_long = |address: &&ListenAddress| matches!(address.without_tls(), ListenAddress::Unix(path) if path.as_os_str().len() > MAX_PATH);
        if self.0.iter().any(|address| too_long(&address)) {
            return Some(format!("the path of a socket file must have at most {MAX_PATH} bytes"));
        }
        let endpoints: Vec<Endpoint<'_>> = self.endpoints().collect();
        for (at, first) in endpoints.iter().enumerate() {
            for second in &endpoints[at + 1..] {
                if first == second && first.has_port() {
                    return Some(format!("must not contain {first} twice"));
                }
                if first.overlaps(second) && !(first.is_unspecified() && second.is_unspecified()) {
                    return Some(format!("must not contain both {first} and {second}, which is a part of the other"));
                }
            }
        }
        None
    }

    /// Returns an address of this list that overlaps with one of `other`.
    pub(super) fn overlap(&self, other: &Listen) -> Option<String> {
        let others: Vec<Endpoint<'_>> = other.endpoints().collect();
        self.endpoints().find(|own| others.iter().any(|other| own.overlaps(other))).map(|own| own.to_string())
    }

    fn endpoints(&self) -> impl Iterator<Item = Endpoint<'_>> {
        self.0.iter().flat_map(ListenAddress::endpoints)
    }
}

impl ListenAddress {
    /// Whether only clients of this machine reach the address: it is a loopback address, `localhost` or a socket file.
    /// Another name does not count, whatever it resolves to.
    pub fn is_local(&self) -> bool {
        match self {
            ListenAddress::Ip(address) => address.ip().to_canonical().is_loopback(),
            ListenAddress::Name { host, .. } => is_localhost(host),
            ListenAddress::Unix(_) => true,
            ListenAddress::Tls(address) => address.is_local(),
        }
    }

    /// Whether its connections begin with TLS.
    pub fn is_tls(&self) -> bool {
        matches!(self, ListenAddress::Tls(_))
    }

    /// Returns the address itself: the one behind `tls:`.
    pub fn without_tls(&self) -> &ListenAddress {
        match self {
            ListenAddress::Tls(address) => address,
            address => address,
        }
    }

    /// Returns the IP addresses of the address that are known without a name service.
    pub(crate) fn known_addresses(&self) -> Vec<SocketAddr> {
        match self.without_tls() {
            ListenAddress::Ip(address) => vec![*address],
            ListenAddress::Name { host, port } if is_localhost(host) => {
                vec![(Ipv4Addr::LOCALHOST, *port).into(), (Ipv6Addr::LOCALHOST, *port).into()]
            }
            _ => Vec::new(),
        }
    }

    fn endpoints(&self) -> Vec<Endpoint<'_>> {
        let known = self.known_addresses();
        if known.is_empty() {
            vec![Endpoint::Other(self.without_tls())]
        } else {
            known.into_iter().map(Endpoint::Ip).collect()
        }
    }
}

fn is_localhost(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost")
}

/// One address of a list, to be compared with others.
#[derive(Debug, PartialEq, Eq)]
enum Endpoint<'a> {
    Ip(SocketAddr),
    Other(&'a ListenAddress),
}

impl Endpoint<'_> {
    /// Whether the two cannot be used at the same time. Port 0 is a different port each time.
    fn overlaps(&self, other: &Endpoint<'_>) -> bool {
        match (self, other) {
            (Endpoint::Ip(first), Endpoint::Ip(second)) => {
                let is_covered = covers(first.ip(), second.ip()) || covers(second.ip(), first.ip());
                first.port() != 0 && first.port() == second.port() && is_covered
            }
            _ => self == other && self.has_port(),
        }
    }

    fn has_port(&self) -> bool {
        match self {
            Endpoint::Ip(address) => address.port() != 0,
            Endpoint::Other(ListenAddress::Name { port, .. }) => *port != 0,
            Endpoint::Other(_) => true,
        }
    }

    fn is_unspecified(&self) -> bool {
        matches!(self, Endpoint::Ip(address) if address.ip().is_unspecified())
    }
}

impl fmt::Display for Endpoint<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Endpoint::Ip(address) => address.fmt(f),
            Endpoint::Other(address) => address.fmt(f),
        }
    }
}

/// Whether a socket that listens on `first` accepts connections to `second`.
fn covers(first: IpAddr, second: IpAddr) -> bool {
    first == second || first.is_unspecified() && (first.is_ipv6() || second.is_ipv4())
}

impl From<SocketAddr> for Listen {
    fn from(address: SocketAddr) -> Listen {
        Listen(vec![ListenAddress::Ip(address)])
    }
}

impl FromIterator<ListenAddress> for Listen {
    fn from_iter<I: IntoIterator<Item = ListenAddress>>(addresses: I) -> Listen {
        Listen(addresses.into_iter().collect())
    }
}

impl FromStr for Listen {
    type Err = String;

    fn from_str(text: &str) -> Result<Listen, String> {
        text.split(',').map(|word| word.trim().parse()).collect()
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, address) in self.0.iter().enumerate() {
            write!(f, "{}{address}", if at > 0 { "," } else { "" })?;
        }
        Ok(())
    }
}

impl FromStr for ListenAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<ListenAddress, String> {
        if let Some(address) = text.strip_prefix("tls:") {
            return match address.parse()? {
                ListenAddress::Tls(_) => Err(format!("`{text}` names tls: twice")),
                address => Ok(ListenAddress::Tls(Box::new(address))),
            };
        }
        if let Some(path) = text.strip_prefix("unix:").filter(|path| !path.is_empty()) {
            return Ok(ListenAddress::Unix(path.into()));
        }
        if let Ok(address) = text.parse() {
            return Ok(ListenAddress::Ip(address));
        }
        let (host, port) = text.rsplit_once(':').unwrap_or_default();
        match port.parse() {
            Ok(port) if is_host(host) => Ok(ListenAddress::Name { host: host.into(), port }),
            _ => Err(format!(
                "`{text}` is not an address such as 127.0.0.1:9001, [::1]:9001, localhost:9001 or unix:/run/lobbyd.sock"
            )),
        }
    }
}

/// Whether the text is a host name (RFC 1123 section 2.1), and cannot be a mistyped IPv4 address.
fn is_host(text: &str) -> bool {
    let labels = text.strip_suffix('.').unwrap_or(text).split('.');
    let is_label = |label: &str| {
        let is_inner = |c: u8| c.is_ascii_alphanumeric() || c == b'-' || c == b'_';
        !label.is_empty() && label.bytes().all(is_inner) && !label.starts_with('-') && !label.ends_with('-')
    };
    let is_number = labels.clone().next_back().is_some_and(|last| last.bytes().all(|c| c.is_ascii_digit()));
    text.len() <= MAX_HOST && labels.clone().all(is_label) && !is_number
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ListenAddress::Ip(address) => address.fmt(f),
            ListenAddress::Name { host, port } => write!(f, "{host}:{port}"),
            ListenAddress::Unix(path) => write!(f, "unix:{}", path.display()),
            ListenAddress::Tls(address) => write!(f, "tls:{address}"),
        }
    }
}

/// The permissions of a file, as for `chmod`.
///
/// ```
/// use lobbyd::Config;
/// use lobbyd::config::FileMode;
///
/// assert_eq!(Config::default().listen_mode, FileMode(0o660));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileMode(pub u32);

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_text(text: &str, shown: Option<&str>) {
        let parsed = text.parse::<Listen>().map(|listen| listen.to_string());
        assert_eq!(parsed.as_deref().ok(), shown, "{text}: {parsed:?}");
    }

    #[test]
    fn lists_are_parsed_and_shown() {
        for text in [
            "127.0.0.1:9001",
            "[::]:0",
            "localhost:9001",
            "game.example:9001",
            "my_host:1",
            "a-b.example.:65535",
            "unix:/run/lobbyd.sock",
            "unix:lobbyd.sock",
            "127.0.0.1:9001,[::1]:9001,unix:/a b",
            "tls:0.0.0.0:443,tls:[::]:443,tls:game.example:443,tls:unix:/run/lobbyd.sock",
        ] {
            check_text(text, Some(text));
        }
        check_text(" 127.0.0.1:1 , localhost:2 ", Some("127.0.0.1:1,localhost:2"));
        for text in [
            "",
            ",",
            "127.0.0.1:9001,",
            "127.0.0.1",
            "9001",
            ":9001",
            "localhost",
            "localhost:",
            "localhost:65536",
            "localhost:http",
            "127.0.0:9001",
            "127.0.0.256:9001",
            "::1:9001",
            "[::1]",
            "-a.example:1",
            "a..example:1",
            "ws://localhost:9001",
            "user@host:1",
            "unix:",
            "unix",
            "tls:",
            "tls:443",
            "tls:tls:127.0.0.1:443",
            "TLS:127.0.0.1:443",
        ] {
            check_text(text, None);
        }
        check_text(&format!("{}:1", ["a"; 127].join(".")), Some(&format!("{}:1", ["a"; 127].join("."))));
        check_text(&format!("{}:1", ["a"; 128].join(".")), None);
    }

    #[track_caller]
    fn check_rule(text: &str, words: Option<&str>) {
        let rule = text.parse::<Listen>().expect("a list").broken_rule();
        match words {
            Some(words) => assert!(rule.as_ref().is_some_and(|rule| rule.contains(words)), "{text}: {rule:?}"),
            None => assert_eq!(rule, None, "{text}"),
        }
    }

    #[test]
    fn lists_must_not_overlap() {
        for text in [
            "127.0.0.1:0,127.0.0.1:0",
            "0.0.0.0:1,[::]:1",
            "127.0.0.1:1,[::1]:1,127.0.0.1:2",
            "0.0.0.0:1,[::1]:1",
            "0.0.0.0:1,127.0.0.1:2",
            "a.example:1,b.example:1,a.example:2,a.example:0,a.example:0",
            "unix:a,unix:b",
        ] {
            check_rule(text, None);
        }
        check_rule("127.0.0.1:1,127.0.0.1:1", Some("127.0.0.1:1 twice"));
        check_rule("localhost:1,[::1]:1", Some("[::1]:1 twice"));
        check_rule("0.0.0.0:1,127.0.0.1:1", Some("both 0.0.0.0:1 and 127.0.0.1:1"));
        check_rule("127.0.0.1:1,[::]:1", Some("both 127.0.0.1:1 and [::]:1"));
        check_rule("[::]:1,[::1]:1", Some("both [::]:1 and [::1]:1"));
        check_rule("a.example:1,a.example:1", Some("a.example:1 twice"));
        check_rule("unix:a,unix:a", Some("unix:a twice"));
        check_rule("unix:a,tls:unix:a", Some("unix:a twice"));
        check_rule("127.0.0.1:1,tls:127.0.0.1:1", Some("127.0.0.1:1 twice"));
        check_rule("127.0.0.1:1,tls:127.0.0.1:2", None);
        let twice = ListenAddress::Tls(Box::new("tls:127.0.0.1:1".parse().expect("an address")));
        assert!(Listen(vec![twice]).broken_rule().is_some());
        check_rule(&["127.0.0.1:0"; 16].join(","), None);
        check_rule(&["127.0.0.1:0"; 17].join(","), Some("from 1 to 16"));
        check_rule(&format!("unix:{}", "a".repeat(103)), None);
        check_rule(&format!("unix:{}", "a".repeat(104)), Some("at most 103 bytes"));
        assert!(Listen(Vec::new()).broken_rule().is_some());
    }

    #[test]
    fn only_loopback_addresses_and_socket_files_are_local() {
        let is_local = |text: &str| {
            let listen: Listen = text.parse().expect("a list");
            (listen.is_local(), listen.is_loopback())
        };
        for text in [
            "127.0.0.1:1",
            "127.9.9.9:1",
            "[::1]:1",
            "localhost:1",
            "LocalHost:0",
            "[::ffff:127.0.0.1]:1",
            "tls:[::1]:1",
        ] {
            assert_eq!(is_local(text), (true, true), "{text}");
        }
        assert_eq!(is_local("unix:/run/lobbyd.sock"), (true, false));
        for text in
            ["0.0.0.0:1", "[::]:1", "192.0.2.1:1", "game.example:1", "tls:192.0.2.1:1", "127.0.0.1:1,192.0.2.1:1"]
        {
            assert_eq!(is_local(text), (false, false), "{text}");
        }
    }
}
