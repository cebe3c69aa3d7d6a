//! Opening handshake (RFC 6455 section 4.2): parses a request head into a [`Request`] and the facts for the decision.
//!
//! Checks only the form of the request and of its upgrade. Knows no lobby and no user: the engine and the application
//! decide which user joins which lobby.

use std::borrow::Cow;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;

use bytes::Bytes;
use data_encoding::{BASE64, BASE64URL_NOPAD};
use tungstenite::handshake::derive_accept_key;

use crate::base::id::ConnId;
use crate::base::peer::Peer;
use crate::config::Origins;
use crate::http::PlainResponse;
use crate::http::head::{HeadFault, HeaderLines, Headers, RequestHead};
use crate::http::target::{percent_decode, query_value, split_target};

/// Prefix of the subprotocol that carries a token. Browsers need it, since they cannot set `Authorization`.
const BEARER_PREFIX: &str = "base64url.bearer.lobby.";

/// Subprotocols that a server supports (RFC 6455 section 1.9).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Subprotocols {
    /// Only this one. An offer without it is refused; a request without an offer is accepted.
    Only(&'static str),
    /// The first that is offered, since the server does not interpret payloads.
    Any,
}

/// A client's request to connect, before it is accepted or refused.
///
/// Its `Debug` output contains nothing that the client wrote, and neither does the log or a journal: any part of a
/// request may contain a token, even the path.
///
/// [`Route`](crate::admission::Route) and [`Identity`](crate::Identity) have examples of applications that read it.
pub struct Request<'a> {
    pub(crate) conn: ConnId,
    pub(crate) peer: Peer,
    address: IpAddr,
    path: Cow<'a, str>,
    query: &'a str,
    token: Option<Cow<'a, str>>,
    headers: Headers<'a, 'a>,
}

impl Request<'_> {
    /// Returns the id of the connection.
    pub fn conn(&self) -> ConnId {
        self.conn
    }

    /// Returns the remote end of the socket.
    pub fn peer(&self) -> Peer {
        self.peer
    }

    /// Returns the client's address: behind trusted proxies the one in `X-Forwarded-For`, otherwise that of the peer, which
    /// is 127.0.0.1 for a client of a socket file: see [`Peer::ip`].
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// Returns the percent-decoded path; it starts with `/`.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Returns the token from `Authorization: Bearer`, the bearer subprotocol or `?token=`: the first of these that is
    /// present.
    pub fn token(&self) -> Option<&str> {
        self.token.as_deref()
    }

    /// Returns the first non-empty query parameter `name`, decoded.
    pub fn query(&self, name: &str) -> Option<Cow<'_, str>> {
        query_value(self.query, name).expect("read() has decoded the whole query once")
    }

    /// Returns whether `rules` allow the request's origin. Depends only on the headers `Origin` and `Host`. A request
    /// without `Origin` does not come from a page and is allowed.
    pub(crate) fn is_from_allowed_page(&self, rules: &Origins) -> bool {
        match self.origin() {
            Ok(None) => true,
            Ok(Some(origin)) => rules.allow(origin, self.header("host").unwrap_or_default()),
            Err(()) => rules.any,
        }
    }

    /// Returns the values of `Origin` for the log: printable ASCII of bounded length.
    pub(crate) fn origin_for_log(&self) -> String {
        for_log(self.headers.values("origin"))
    }

    /// Returns the value of `Host` for the log: printable ASCII of bounded length.
    pub(crate) fn host_for_log(&self) -> String {
        for_log(self.headers.values("host"))
    }

    /// Returns the origin of the page, or `None` if the request does not come from a page. Fails if there are several
    /// `Origin` lines, or one that is not UTF-8.
    fn origin(&self) -> Result<Option<&str>, ()> {
        let mut origins = self.headers.values("origin");
        match (origins.next(), origins.next()) {
            (None, _) => Ok(None),
            (Some(origin), None) => str::from_utf8(origin).map(Some).map_err(|_| ()),
            (Some(_), Some(_)) => Err(()),
        }
    }

    /// Returns the value of the first header line `name` (in any case) that is UTF-8.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.values(name).find_map(|value| str::from_utf8(value).ok())
    }
}

impl fmt::Debug for Request<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request").field("conn", &self.conn).field("peer", &self.peer).finish_non_exhaustive()
    }
}

/// A health check on the members' port, answered without an upgrade.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Probe {
    /// Whether the process is running.
    Live,
    /// Whether new members are admitted.
    Ready,
}

/// Facts about a request that are determined before the application authorizes it. They are recorded, and a replay
/// starts from them.
///
/// A token may occur anywhere in a request. Therefore the facts contain no text of the client except the subprotocol in
/// the upgrade, of which recorders keep only the length: see [`Upgrade::echo`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Facts {
    /// Set when the path is that of a health check.
    pub(crate) probe: Option<Probe>,
    pub(crate) address: IpAddr,
    /// Whether `allowed_origin` permits the request.
    pub(crate) is_origin_allowed: bool,
    pub(crate) upgrade: Result<Upgrade, PlainResponse>,
}

impl Request<'_> {
    /// Returns the health check that the path names, if any.
    pub(crate) fn probe(&self) -> Option<Probe> {
        match &*self.path {
            "/health/live" => Some(Probe::Live),
            "/health/ready" => Some(Probe::Ready),
            _ => None,
        }
    }
}

/// Contents of the response to a valid upgrade request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Upgrade {
    pub(crate) accept_key: String,
    pub(crate) subprotocol: Option<String>,
}

impl Upgrade {
    /// Returns the byte range of the subprotocol in the response. The client wrote it, and with [`Subprotocols::Any`]
    /// it can be any text.
    pub(crate) fn echo(&self) -> Option<Range<u64>> {
        let name = self.subprotocol.as_ref()?.len() as u64;
        // Only CR LF and the empty line follow it.
        let end = self.response().len() as u64 - 4;
        Some(end - name..end)
    }

    /// Encodes the 101 response (RFC 6455 section 4.2.2).
    pub(crate) fn response(&self) -> Bytes {
        let protocol = match &self.subprotocol {
            Some(name) => format!("Sec-WebSocket-Protocol: {name}\r\n"),
            None => String::new(),
        };
        Bytes::from(format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: {}\r\n{protocol}\r\n",
            self.accept_key
        ))
    }
}

/// Parameters for reading a request: its connection and the limits of the configuration.
pub(crate) struct ReadParams {
    pub(crate) conn: ConnId,
    pub(crate) peer: Peer,
    pub(crate) max_headers: u32,
    /// Number of proxies whose `X-Forwarded-For` entries are trusted.
    pub(crate) trusted_proxies: u32,
    pub(crate) subprotocols: Subprotocols,
}

/// Parses a complete request head and calls `decide` with the [`Request`] and its upgrade.
///
/// A well-formed request that is not a valid upgrade reaches `decide`, too, so that an unknown path is answered 404
/// even without an upgrade.
///
/// # Errors
///
/// The response to a request that is malformed or not supported; `decide` is not called.
pub(crate) fn read<R>(
    head: &[u8],
    params: &ReadParams,
    decide: impl FnOnce(&Request<'_>, Result<Upgrade, PlainResponse>) -> R,
) -> Result<R, PlainResponse> {
    try_read(head, params, decide).map_err(|refusal| refusal.answering(head))
}

fn try_read<R>(
    head: &[u8],
    params: &ReadParams,
    decide: impl FnOnce(&Request<'_>, Result<Upgrade, PlainResponse>) -> R,
) -> Result<R, PlainResponse> {
    let &ReadParams { conn, peer, max_headers, trusted_proxies, subprotocols } = params;
    let mut lines = HeaderLines::EMPTY;
    let parsed = RequestHead::parse(head, &mut lines, max_headers).map_err(|fault| match fault {
        HeadFault::TooManyHeaders => {
            PlainResponse::new(431, format!("the request has more than {max_headers} header lines"))
        }
        HeadFault::Version => PlainResponse::new(505, "use HTTP/1.1"),
        HeadFault::Malformed => PlainResponse::new(400, "the request is not well-formed HTTP/1.1"),
    })?;
    let RequestHead { method, target, is_http_1_1, headers } = parsed;

    if method != "GET" {
        return Err(PlainResponse::new(405, "only GET is understood here"));
    }
    if !is_http_1_1 {
        return Err(PlainResponse::new(505, "use HTTP/1.1"));
    }
    if headers.values("host").count() != 1 {
        return Err(PlainResponse::new(400, "send exactly one Host header (RFC 9112 section 3.2)"));
    }
    if headers.values("content-length").chain(headers.values("transfer-encoding")).next().is_some() {
        return Err(PlainResponse::new(400, "a request with a body is not understood here"));
    }
    let (path, query) = split_target(target)
        .ok_or_else(|| PlainResponse::new(400, "ask for a path that starts with /, not for a whole URL"))?;
    if target.contains('#') {
        return Err(PlainResponse::new(400, "a request names no fragment: leave out what follows the #"));
    }
    let path = percent_decode(path, false)
        .ok_or_else(|| PlainResponse::new(400, "the path is not properly percent-encoded UTF-8"))?;
    let query_token = query_value(query, "token")
        .map_err(|()| PlainResponse::new(400, "the query is not properly percent-encoded UTF-8"))?;

    let token =
        header_token(headers).map(Cow::Borrowed).or_else(|| subprotocol_token(headers).map(Cow::Owned)).or(query_token);
    let address = forwarded_for(headers, trusted_proxies).unwrap_or(peer.ip());
    let request = Request { conn, peer, address, path, query, token, headers };
    Ok(decide(&request, upgrade(headers, subprotocols)))
}

/// Checks the headers of an upgrade request (RFC 6455 section 4.2.1).
fn upgrade(headers: Headers<'_, '_>, subprotocols: Subprotocols) -> Result<Upgrade, PlainResponse> {
    if !headers.has_token("upgrade", "websocket") || !headers.has_token("connection", "upgrade") {
        return Err(PlainResponse::new(426, "this is a WebSocket endpoint: connect with ws:// and an Upgrade header"));
    }
    let mut versions = headers.values("sec-websocket-version");
    if versions.next().is_none_or(|version| version.trim_ascii() != b"13") || versions.next().is_some() {
        return Err(PlainResponse::new(426, "send Sec-WebSocket-Version: 13, once"));
    }
    let mut keys = headers.values("sec-websocket-key");
    let key = match (keys.next(), keys.next()) {
        (Some(key), None) => key.trim_ascii(),
        _ => return Err(PlainResponse::new(400, "send exactly one Sec-WebSocket-Key")),
    };
    if BASE64.decode(key).is_ok_and(|nonce| nonce.len() == 16) {
        Ok(Upgrade { accept_key: derive_accept_key(key), subprotocol: choose(headers, subprotocols)? })
    } else {
        Err(PlainResponse::new(400, "Sec-WebSocket-Key must be 16 bytes in base64"))
    }
}

/// Selects the subprotocol for the response. If a browser offers subprotocols and the response selects none, the
/// browser fails the connection; so such a request is refused here with a reason.
fn choose(headers: Headers<'_, '_>, subprotocols: Subprotocols) -> Result<Option<String>, PlainResponse> {
    let mut offers = headers.list("sec-websocket-protocol").peekable();
    if offers.peek().is_none() {
        return Ok(None);
    }
    let mut names = offers.filter(|offer| !offer.starts_with(BEARER_PREFIX));
    let chosen = match subprotocols {
        Subprotocols::Only(supported) => names.find(|&name| name == supported),
        Subprotocols::Any => names.next(),
    };
    match (chosen, subprotocols) {
        (Some(name), _) => Ok(Some(name.to_owned())),
        (None, Subprotocols::Only(supported)) => {
            Err(PlainResponse::new(400, format!("offer the subprotocol {supported}, or none at all")))
        }
        (None, Subprotocols::Any) => {
            Err(PlainResponse::new(400, "offer a subprotocol beside the bearer token, or none at all"))
        }
    }
}

/// Returns the client address that the outermost of `proxies` trusted proxies appended. Clients can forge the entries
/// to the left of it.
fn forwarded_for(headers: Headers<'_, '_>, proxies: u32) -> Option<IpAddr> {
    // Split first, decode afterwards: forged entries that are not UTF-8 must not invalidate the proxies' entries.
    let lines = headers.values("x-forwarded-for");
    let entries: Vec<&[u8]> =
        lines.flat_map(|line| line.split(|&c| c == b',')).map(<[u8]>::trim_ascii).filter(|e| !e.is_empty()).collect();
    let entry = entries.len().checked_sub(proxies as usize).filter(|_| proxies > 0).map(|index| entries[index])?;
    let entry = str::from_utf8(entry).ok()?;
    // Some proxies append the port.
    entry.parse().ok().or_else(|| entry.parse::<SocketAddr>().ok().map(|address| address.ip()))
}

/// Returns the token of `Authorization: Bearer`.
fn header_token<'a>(headers: Headers<'_, 'a>) -> Option<&'a str> {
    let value = str::from_utf8(headers.values("authorization").next()?).ok()?;
    let (scheme, token) = value.trim().split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim()).filter(|token| !token.is_empty())
}

/// Returns the token of the bearer subprotocol.
fn subprotocol_token(headers: Headers<'_, '_>) -> Option<String> {
    let encoded = headers.list("sec-websocket-protocol").find_map(|offer| offer.strip_prefix(BEARER_PREFIX))?;
    let token = BASE64URL_NOPAD.decode(encoded.as_bytes()).ok()?;
    String::from_utf8(token).ok().filter(|token| !token.is_empty())
}

/// Formats untrusted header values for the log: printable ASCII of bounded length.
fn for_log<'a>(values: impl Iterator<Item = &'a [u8]>) -> String {
    const MAX: usize = 200;
    let joined = values.collect::<Vec<_>>().join(&b", "[..]);
    let shown = joined[..joined.len().min(MAX)].escape_ascii();
    if joined.len() > MAX { format!("{shown}…") } else { shown.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &[&str] = &[
        "GET /ws/chess?token=ann HTTP/1.1",
        "Host: a:1",
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        "Sec-WebSocket-Version: 13",
    ];

    /// Returns the status of the response and its text: for 101 the subprotocol and the token, otherwise the sentence.
    fn answer(lines: &[&str], subprotocols: Subprotocols) -> (u16, String) {
        let head = lines.join("\r\n") + "\r\n\r\n";
        let conn = ConnId::new(0, 0).expect("both fit");
        let peer = Peer::from(([127, 0, 0, 1], 9));
        let params = ReadParams { conn, peer, max_headers: 16, trusted_proxies: 0, subprotocols };
        let decided = read(head.as_bytes(), &params, |request, upgrade| {
            upgrade.map(|upgrade| {
                let response = String::from_utf8(upgrade.response().to_vec()).expect("ASCII");
                assert!(
                    response.contains("Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"),
                    "RFC 6455 section 1.3"
                );
                (101, format!("{:?} {:?}", upgrade.subprotocol, request.token()))
            })
        });
        match decided.and_then(|inner| inner) {
            Ok(answer) => answer,
            Err(refusal) => (refusal.status(), refusal.sentence().to_owned()),
        }
    }

    #[track_caller]
    fn check_with(change: impl FnOnce(&mut Vec<&'static str>), expected: (u16, &str)) {
        let mut lines = GOOD.to_vec();
        change(&mut lines);
        let (status, text) = answer(&lines, Subprotocols::Only("lobby.v1.json"));
        assert_eq!(status, expected.0, "{text}");
        assert!(text.contains(expected.1), "{text}");
    }

    #[test]
    fn valid_requests_are_upgraded() {
        check_with(|_| {}, (101, r#"None Some("ann")"#));
        check_with(|l| l[2] = "upgrade:   WebSocket  ", (101, ""));
        check_with(|l| l[3] = "connection: keep-alive, UPGRADE", (101, ""));
        check_with(|l| l.insert(3, "Connection: keep-alive"), (101, ""));
        check_with(|l| l[0] = "GET /ws/a%2Db?x=1&token=a%26b+c&token=z HTTP/1.1", (101, r#"Some("a&b c")"#));
    }

    #[test]
    fn invalid_requests_are_refused_with_the_remedy() {
        check_with(|l| l[0] = "POST /ws/a HTTP/1.1", (405, "GET"));
        check_with(|l| l[0] = "GET /ws/a HTTP/1.0", (505, "HTTP/1.1"));
        check_with(|l| l[0] = "GET http://a/ws/a HTTP/1.1", (400, "path"));
        check_with(|l| l[0] = "GET /ws/%zz HTTP/1.1", (400, "percent-encoded"));
        check_with(|l| l[0] = "GET /ws/%00 HTTP/1.1", (400, "percent-encoded"));
        check_with(|l| l[0] = "GET /ws/a?token=%ff HTTP/1.1", (400, "query"));
        check_with(|l| l[1] = "X: y", (400, "Host"));
        check_with(|l| l.push("Host: b"), (400, "Host"));
        check_with(|l| l[2] = "X: y", (426, "WebSocket endpoint"));
        check_with(|l| l[3] = "Connection: close", (426, "WebSocket endpoint"));
        check_with(|l| l[4] = "Sec-WebSocket-Key: short", (400, "16 bytes"));
        check_with(|l| l.push("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="), (400, "exactly one"));
        check_with(|l| l[5] = "Sec-WebSocket-Version: 8", (426, "13"));
        check_with(|l| l.push("Sec-WebSocket-Version: 13"), (426, "once"));
        check_with(|l| l.push("Content-Length: 0"), (400, "body"));
        check_with(|l| l.push("Transfer-Encoding: chunked"), (400, "body"));
        check_with(|l| l.extend(["A: b"; 20]), (431, "16 header lines"));
        check_with(|l| l.push("no colon"), (400, "well-formed"));
    }

    #[test]
    fn token_sources_have_an_order_of_precedence() {
        let bearer = "Sec-WebSocket-Protocol: lobby.v1.json, base64url.bearer.lobby.Ym9i";
        check_with(|l| l.push(bearer), (101, r#"Some("lobby.v1.json") Some("bob")"#));
        check_with(|l| l.extend([bearer, "Authorization: bearer cid"]), (101, r#"Some("cid")"#));
        check_with(|l| l.push("Authorization: Basic x"), (101, r#"Some("ann")"#));
    }

    #[test]
    fn forwarded_addresses_are_counted_from_the_right() {
        #[track_caller]
        fn check(lines: &[&str], proxies: u32, expected: Option<&str>) {
            let lines: Vec<String> = lines.iter().map(|value| format!("X-Forwarded-For: {value}\r\n")).collect();
            assert_eq!(forwarded(lines.concat().as_bytes(), proxies).as_deref(), expected);
        }
        /// Returns the address that the header lines name.
        fn forwarded(lines: &[u8], proxies: u32) -> Option<String> {
            let head = [b"GET / HTTP/1.1\r\n", lines, b"\r\n"].concat();
            let mut lines = HeaderLines::EMPTY;
            let head = RequestHead::parse(&head, &mut lines, 16).expect("well-formed");
            forwarded_for(head.headers, proxies).map(|address| address.to_string())
        }
        check(&["6.6.6.6, 1.1.1.1", "2.2.2.2"], 0, None);
        check(&["6.6.6.6, 1.1.1.1", "2.2.2.2"], 1, Some("2.2.2.2"));
        check(&["6.6.6.6, 1.1.1.1", "2.2.2.2"], 2, Some("1.1.1.1"));
        check(&["1.1.1.1"], 2, None);
        check(&["[::1]:80"], 1, Some("::1"));
        check(&["1.1.1.1:80"], 1, Some("1.1.1.1"));
        check(&["unknown"], 1, None);
        // The client sent bytes that are not UTF-8, and the proxy appended to the same line.
        assert_eq!(forwarded(b"X-Forwarded-For: \xff, 9.9.9.9\r\n", 1).as_deref(), Some("9.9.9.9"));
    }

    #[test]
    fn only_supported_subprotocols_are_selected() {
        check_with(|l| l.push("Sec-WebSocket-Protocol: chat"), (400, "lobby.v1.json"));
        check_with(|l| l.push("Sec-WebSocket-Protocol: base64url.bearer.lobby.Ym9i"), (400, "lobby.v1.json"));
        check_with(|l| l.push("Sec-WebSocket-Protocol: chat, lobby.v1.json"), (101, r#"Some("lobby.v1.json")"#));
        let mut lines = GOOD.to_vec();
        lines.push("Sec-WebSocket-Protocol: base64url.bearer.lobby.Ym9i, chat");
        assert_eq!(answer(&lines, Subprotocols::Any), (101, r#"Some("chat") Some("bob")"#.into()));
    }
}
