//! Opening handshake (RFC 6455 section 4.2): parses a request head into a [`Request`] and the facts for the decision.
//!
//! Checks only the form of the request and of its upgrade. Knows no lobby and no user: the engine and the application
//! decide which user joins which lobby.

use std::borrow::Cow;
use std::fmt;
use std::net::IpAddr;

use data_encoding::BASE64URL_NOPAD;
use tungstenite::handshake::derive_accept_key;

use super::claim::{read_claim, read_entry};
use super::deflate::{MalformedExtensions, choose_offer};
use super::event_stream;
pub(crate) use super::facts::{Acceptance, Facts, Page, Upgrade};
use super::list_query::read_list_query;
use crate::base::entry::{BadEntry, Entry};
use crate::base::id::ConnId;
use crate::base::list_query::{ListFilter, ListQuery};
use crate::base::peer::Peer;
use crate::base::session::{BadClaim, Claim};
use crate::config::{ForwardedHeader, Origins};
use crate::http::forwarded::{ForwardedFault, forwarded_address};
use crate::http::head::{HeadFault, HeaderLines, Headers, RequestHead, is_head_request};
use crate::http::host::is_host;
use crate::http::probe::Probe;
use crate::http::target::{percent_decode, query_value, split_target};
use crate::http::{Cors, PlainResponse};

/// Prefix of the subprotocol that carries a token. Browsers need it, since they cannot set `Authorization`.
const BEARER_PREFIX: &str = "base64url.bearer.lobby.";
/// What the paths of event streams begin with.
const EVENTS_PATH: &str = "/sse/";
/// Path of the list of lobbies.
const LIST_PATH: &str = "/lobbies";

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
    pub(crate) probe: Option<Probe>,
    pub(crate) is_head_request: bool,
    /// Whether it asks for an event stream, or belongs to one: see [`event_stream`].
    pub(crate) is_for_events: bool,
    /// Whether it asks for a part of the list of lobbies.
    pub(crate) is_for_list: bool,
    address: IpAddr,
    forwarded_fault: Option<ForwardedFault>,
    path: Cow<'a, str>,
    query: &'a str,
    /// Whether it has a query that cannot be decoded. Then `query` is empty.
    has_bad_query: bool,
    token: Option<Cow<'a, str>>,
    /// The session of the client. `Err`: the request has one that is not valid.
    pub(crate) claim: Result<Option<Claim>, BadClaim>,
    /// How the client enters its lobby. `Err`: a parameter for it is not valid.
    pub(crate) entry: Result<Entry, BadEntry>,
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

    /// Returns the client's address: behind trusted proxies the one that they name in `forwarded_header`, otherwise that
    /// of the peer, which is 127.0.0.1 for a client of a socket file: see [`Peer::ip`]. An IPv4-mapped IPv6 address is
    /// returned as the IPv4 address.
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// Returns why the trusted proxies have named no address; [`address`](Self::address) is that of the peer then.
    pub(crate) fn forwarded_fault(&self) -> Option<ForwardedFault> {
        self.forwarded_fault
    }

    /// Returns the percent-decoded path, or the path as it was sent if it cannot be decoded; it starts with `/`.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Returns the token from `Authorization: Bearer`, the bearer subprotocol or `?token=`: the first of these that is
    /// present.
    pub fn token(&self) -> Option<&str> {
        self.token.as_deref()
    }

    /// Returns the first non-empty query parameter `name`, decoded. A query of which any part cannot be decoded has no
    /// parameters.
    ///
    /// In a JSON application, `session` and `was` are names of sessions. Like a token, such a name proves who asks: it
    /// belongs neither in a log nor in an answer. Nor does `password`, with lobby control.
    pub fn query(&self, name: &str) -> Option<Cow<'_, str>> {
        query_value(self.query, name).expect("read() has decoded the whole query")
    }

    /// Returns which part of the list of lobbies the request asks for, or the rule that its query breaks.
    pub(crate) fn list_query(&self) -> Result<ListQuery, &'static str> {
        if self.has_bad_query {
            return Err("the query is not properly percent-encoded UTF-8");
        }
        read_list_query(self.query)
    }

    /// Returns which lobbies of the list the request asks for; `None` if its query breaks a rule.
    pub(crate) fn list_filter(&self) -> Option<ListFilter> {
        self.list_query().ok().map(|query| query.filter)
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

    /// Returns what the page that sent the request may read of the answer, if `rules` allow its origin.
    pub(crate) fn cors(&self, rules: &Origins) -> Option<Cors> {
        let origin = self.origin().ok().flatten()?;
        self.is_from_allowed_page(rules).then(|| Cors::of(origin, rules.any))
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

    /// Returns whether there are several header lines `name` (in any case).
    pub(crate) fn repeats_header(&self, name: &str) -> bool {
        self.headers.values(name).nth(1).is_some()
    }

    /// Returns the cookies of all `Cookie` lines that are UTF-8, as one line would have them (RFC 9113 section 8.2.3).
    pub(crate) fn cookies(&self) -> Option<String> {
        let lines: Vec<&str> = self.headers.values("cookie").filter_map(|value| str::from_utf8(value).ok()).collect();
        (!lines.is_empty()).then(|| lines.join("; "))
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

/// Parameters for reading a request: its connection and the limits of the configuration.
pub(crate) struct ReadParams {
    pub(crate) conn: ConnId,
    pub(crate) peer: Peer,
    pub(crate) max_headers: u32,
    /// Number of proxies whose entries in `forwarded_header` are trusted.
    pub(crate) trusted_proxies: u32,
    pub(crate) forwarded_header: ForwardedHeader,
    pub(crate) subprotocols: Subprotocols,
    /// Whether the application has sessions, so that `session` in the query names one.
    pub(crate) has_sessions: bool,
    /// Whether parameters of the query say how the client enters its lobby.
    pub(crate) has_entries: bool,
    /// Longest body of a POST; `None` if there are no event streams.
    pub(crate) max_body_bytes: Option<usize>,
    /// Whether there is a list of lobbies.
    pub(crate) has_list: bool,
    /// Whether offers of compression are accepted.
    pub(crate) has_deflate: bool,
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
    decide: impl FnOnce(&Request<'_>, Result<Acceptance, PlainResponse>) -> R,
) -> Result<R, PlainResponse> {
    try_read(head, params, decide).map_err(|refusal| refusal.with_body(!is_head_request(head)))
}

fn try_read<R>(
    head: &[u8],
    params: &ReadParams,
    decide: impl FnOnce(&Request<'_>, Result<Acceptance, PlainResponse>) -> R,
) -> Result<R, PlainResponse> {
    let &ReadParams { conn, peer, max_headers, .. } = params;
    let mut lines = HeaderLines::EMPTY;
    let parsed = RequestHead::parse(head, &mut lines, max_headers).map_err(|fault| refusal_of(fault, max_headers))?;
    let RequestHead { method, target, is_http_1_1, headers } = parsed;

    let is_head_request = method == "HEAD";
    let asks_upgrade = || headers.has_token("upgrade", "websocket");
    let max_body_bytes = params.max_body_bytes.filter(|_| target.starts_with(EVENTS_PATH) && !asks_upgrade());
    let is_for_events = max_body_bytes.is_some();
    let is_for_list = params.has_list && target.split('?').next() == Some(LIST_PATH) && !asks_upgrade();
    let is_preflight = is_for_list && method == "OPTIONS";
    if method != "GET" && !is_head_request && !is_for_events && !is_preflight {
        return Err(PlainResponse::new(405, "only GET is understood here"));
    }
    let (path, query) = path_and_query(target)?;
    let probe = Probe::at(path);
    if !is_http_1_1 && probe.is_none() {
        return Err(PlainResponse::new(505, "use HTTP/1.1"));
    }
    check_host(headers, is_http_1_1, probe)?;
    if (!is_for_events || method != "POST") && !has_no_body(headers) {
        return Err(PlainResponse::new(400, "a request with a body is not understood here"));
    }
    if target.contains('#') {
        return Err(PlainResponse::new(400, "a request names no fragment: leave out what follows the #"));
    }
    let form = match max_body_bytes {
        Some(max_bytes) => event_stream::read(method, headers, max_bytes).map(Acceptance::for_events),
        None if is_preflight => Err(list_methods()),
        None if is_head_request || !is_http_1_1 => Err(needs_upgrade()),
        None => upgrade(headers, params).map(Acceptance::WebSocket),
    };
    let is_upgrade = matches!(form, Ok(Acceptance::WebSocket(_)));
    // An upgrade is accepted and then refused, so that a page can read why: a path with a `%` is no lobby.
    let path = match percent_decode(path, false) {
        Some(path) => path,
        None if is_upgrade => Cow::Borrowed(path),
        None => return Err(PlainResponse::new(400, "the path is not properly percent-encoded UTF-8")),
    };
    // The query of a health check is ignored.
    let query = if probe.is_some() && !is_upgrade { "" } else { query };
    let mut claim = if params.has_sessions { read_claim(query) } else { Ok(None) };
    if let (Ok(Acceptance::Events), Ok(Some(claimed))) = (&form, claim) {
        claim = event_stream::continued(claimed, headers).map(Some);
    }
    let entry = if params.has_entries { read_entry(query) } else { Ok(Entry::ORDINARY) };
    let (query, query_token, has_bad_query) = match query_value(query, "token") {
        Ok(token) => (query, token, false),
        // The application finds no parameters in it.
        Err(()) if is_upgrade => ("", None, true),
        Err(()) => return Err(PlainResponse::new(400, "the query is not properly percent-encoded UTF-8")),
    };

    let token =
        header_token(headers).map(Cow::Borrowed).or_else(|| subprotocol_token(headers).map(Cow::Owned)).or(query_token);
    let (address, forwarded_fault) = client_address(headers, params);
    let request = Request {
        conn,
        peer,
        probe,
        is_head_request,
        is_for_events,
        is_for_list,
        address,
        forwarded_fault,
        path,
        query,
        has_bad_query,
        token,
        claim,
        entry,
        headers,
    };
    Ok(decide(&request, form))
}

fn refusal_of(fault: HeadFault, max_headers: u32) -> PlainResponse {
    match fault {
        HeadFault::TooManyHeaders => {
            PlainResponse::new(431, format!("the request has more than {max_headers} header lines"))
        }
        HeadFault::Version => PlainResponse::new(505, "use HTTP/1.1"),
        HeadFault::Malformed => PlainResponse::new(400, "the request is not well-formed HTTP/1.1"),
    }
}

fn path_and_query(target: &str) -> Result<(&str, &str), PlainResponse> {
    let parts = split_target(target);
    parts.ok_or_else(|| PlainResponse::new(400, "ask for a path that starts with /, not for a whole URL"))
}

/// Returns the client's address, and why the trusted proxies have named none.
fn client_address(headers: Headers<'_, '_>, params: &ReadParams) -> (IpAddr, Option<ForwardedFault>) {
    match params.trusted_proxies {
        0 => (params.peer.ip(), None),
        proxies => match forwarded_address(headers, params.forwarded_header, proxies) {
            Ok(address) => (address, None),
            Err(fault) => (params.peer.ip(), Some(fault)),
        },
    }
}

/// Checks that there is one valid `Host`. Only a health check may have an empty one, or none if it is HTTP/1.0.
fn check_host(headers: Headers<'_, '_>, is_http_1_1: bool, probe: Option<Probe>) -> Result<(), PlainResponse> {
    match headers.single("host") {
        Ok(None) if probe.is_some() && !is_http_1_1 => Ok(()),
        Ok(Some(host)) if is_host(host) || (host.is_empty() && probe.is_some()) => Ok(()),
        Ok(Some(_)) => Err(PlainResponse::new(400, "Host must be a host name or an address, and perhaps a port")),
        Ok(None) | Err(_) => Err(PlainResponse::new(400, "send exactly one Host header (RFC 9112 section 3.2)")),
    }
}

/// Returns whether the request has no body, or an empty one.
fn has_no_body(headers: Headers<'_, '_>) -> bool {
    let mut lengths = headers.values("content-length");
    let is_zero = |length: &[u8]| (1..=9).contains(&length.len()) && length.iter().all(|&c| c == b'0');
    lengths.next().is_none_or(|length| is_zero(length.trim_ascii()))
        && lengths.next().is_none()
        && headers.values("transfer-encoding").next().is_none()
}

/// The answer to a browser that asks whether a page of another origin may read the list of lobbies.
fn list_methods() -> PlainResponse {
    PlainResponse::new(204, "GET and HEAD are allowed").with_lines(
        "Allow: GET, HEAD, OPTIONS\r\nAccess-Control-Allow-Methods: GET, HEAD\r\n\
         Access-Control-Allow-Headers: authorization, cache-control\r\nAccess-Control-Max-Age: 7200\r\n",
    )
}

fn needs_upgrade() -> PlainResponse {
    PlainResponse::new(426, "this is a WebSocket endpoint: connect with ws:// and an Upgrade header")
}

/// Checks the headers of an upgrade request (RFC 6455 section 4.2.1).
fn upgrade(headers: Headers<'_, '_>, params: &ReadParams) -> Result<Upgrade, PlainResponse> {
    if !headers.has_token("upgrade", "websocket") || !headers.has_token("connection", "upgrade") {
        return Err(needs_upgrade());
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
    if !is_key(key) {
        return Err(PlainResponse::new(400, "Sec-WebSocket-Key must be 16 bytes in base64"));
    }
    let deflate = if params.has_deflate { choose_offer(headers) } else { Ok(None) };
    let deflate = deflate.map_err(|MalformedExtensions| {
        PlainResponse::new(400, "Sec-WebSocket-Extensions is not a list of extensions (RFC 6455 section 9.1)")
    })?;
    let subprotocol = choose(headers, params.subprotocols)?;
    Ok(Upgrade { accept_key: derive_accept_key(key), subprotocol, deflate })
}

/// Returns whether `key` is 16 bytes in base64. The unused bits of its last letter may be set: RFC 6455 section 4.2.1 asks
/// for the length only, and some clients draw the letters at random.
fn is_key(key: &[u8]) -> bool {
    let letters = key.strip_suffix(b"==").unwrap_or_default();
    letters.len() == 22 && letters.iter().all(|c| c.is_ascii_alphanumeric() || b"+/".contains(c))
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
mod tests;
