//! Requests with a body, on connections that stay open.

use super::head::{HeadCheck, HeadFault, HeaderLines, Headers, RequestHead, head_end};
use super::host::is_host;
use super::probe::Probe;
use super::response::{JsonResponse, PlainResponse};
use super::target::split_target;

/// A complete request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HttpRequest<'a> {
    pub(crate) method: &'a str,
    /// As in the request line, percent-encoded.
    pub(crate) path: &'a str,
    pub(crate) query: &'a str,
    pub(crate) headers: SingleHeaders<'a>,
    pub(crate) body: &'a [u8],
    /// Whether the connection stays open for another request.
    pub(crate) keep_alive: bool,
}

/// The headers that decisions depend on; `None` when absent. A request that repeats one of them is refused.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct SingleHeaders<'a> {
    /// Valid; empty or absent only in the request of a health check.
    pub(crate) host: Option<&'a str>,
    pub(crate) origin: Option<&'a str>,
    pub(crate) authorization: Option<&'a str>,
    pub(crate) content_type: Option<&'a str>,
    pub(crate) last_event_id: Option<&'a str>,
    /// By browsers: whether the request is by a page of the same origin (Fetch Metadata Request Headers).
    pub(crate) fetch_site: Option<&'a str>,
}

/// Result of parsing the front of the received bytes.
#[derive(Debug)]
pub(crate) enum Parsed<'a> {
    /// The request is incomplete. `head`: the request without its body, and the length of the body, once the head is
    /// complete. `expects_continue`: the client waits for `100 Continue` before it sends the body.
    Partial { head: Option<(HttpRequest<'a>, usize)>, expects_continue: bool },
    /// A request and its length in bytes.
    Whole(HttpRequest<'a>, usize),
    /// The request is invalid. The connection is closed after this response.
    Bad(JsonResponse),
}

/// Bounds of one request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    pub(crate) max_head: usize,
    pub(crate) max_headers: u32,
    pub(crate) max_body: usize,
}

/// Parses the request at the front of `bytes`.
pub(crate) fn read(bytes: &[u8], bounds: Bounds) -> Parsed<'_> {
    try_read(bytes, bounds).unwrap_or_else(Parsed::Bad)
}

fn try_read(bytes: &[u8], bounds: Bounds) -> Result<Parsed<'_>, JsonResponse> {
    let end =
        head_end(bytes, 0, bounds.max_head, HeadCheck::All).map_err(|refusal| JsonResponse::refusing(&refusal))?;
    let Some(end) = end else { return Ok(Parsed::Partial { head: None, expects_continue: false }) };
    let (head, rest) = bytes.split_at(end);
    let mut lines = HeaderLines::EMPTY;
    let head = RequestHead::parse(head, &mut lines, bounds.max_headers).map_err(|fault| match fault {
        HeadFault::TooManyHeaders => {
            JsonResponse::error(431, "too_many_headers", "the request has more than max_headers lines")
        }
        HeadFault::Version => JsonResponse::refusing(&PlainResponse::new(505, "use HTTP/1.1")),
        HeadFault::Malformed => JsonResponse::bad_request("the request is not well-formed HTTP/1.1"),
    })?;
    let length = body_length(head.headers, bounds.max_body)?;
    let (path, query) = split_target(head.target)
        .ok_or_else(|| JsonResponse::bad_request("ask for a path that starts with /, not for a whole URL"))?;
    let headers = SingleHeaders {
        host: host(&head, path)?,
        origin: single(head.headers, "origin")?,
        authorization: single(head.headers, "authorization")?,
        content_type: single(head.headers, "content-type")?,
        last_event_id: single(head.headers, "last-event-id")?,
        fetch_site: single(head.headers, "sec-fetch-site")?,
    };
    let keep_alive = head.is_http_1_1 && !head.headers.has_token("connection", "close");
    let request = HttpRequest { method: head.method, path, query, headers, body: &[], keep_alive };
    let Some(body) = rest.get(..length) else {
        let expects_continue = head.headers.has_token("expect", "100-continue") && rest.is_empty();
        return Ok(Parsed::Partial { head: Some((request, length)), expects_continue });
    };
    Ok(Parsed::Whole(HttpRequest { body, ..request }, end + length))
}

/// Returns the value of `Host`. Only a health check may have an empty one, or none if it is HTTP/1.0.
fn host<'b>(head: &RequestHead<'_, 'b>, path: &str) -> Result<Option<&'b str>, JsonResponse> {
    let is_health_check = Probe::at(path).is_some();
    match single(head.headers, "host")? {
        None if is_health_check && !head.is_http_1_1 => Ok(None),
        None => Err(JsonResponse::bad_request("send exactly one Host header (RFC 9112 section 3.2)")),
        Some(host) if is_host(host) || (host.is_empty() && is_health_check) => Ok(Some(host)),
        Some(_) => Err(JsonResponse::bad_request("Host must be a host name or an address, and perhaps a port")),
    }
}

/// Returns the length of the body. Only `Content-Length` is understood.
fn body_length(headers: Headers<'_, '_>, max_body: usize) -> Result<usize, JsonResponse> {
    if headers.values("transfer-encoding").next().is_some() {
        return Err(JsonResponse::error(411, "length_required", "send a Content-Length, not chunks"));
    }
    let length = match single(headers, "content-length")? {
        None => 0,
        Some(text) if !text.is_empty() && text.len() <= 9 && text.bytes().all(|c| c.is_ascii_digit()) => {
            text.parse().expect("nine digits")
        }
        Some(_) => return Err(JsonResponse::bad_request("Content-Length must be a number of bytes")),
    };
    if length > max_body {
        let message = format!("a body may be {max_body} bytes long, what max_message_bytes allows and some more");
        return Err(JsonResponse::error(413, "too_long", &message));
    }
    Ok(length)
}

/// Returns the value of a header that may occur once.
fn single<'b>(headers: Headers<'_, 'b>, name: &str) -> Result<Option<&'b str>, JsonResponse> {
    headers.single(name).map_err(|_| JsonResponse::bad_request(&format!("send one {name} header, in UTF-8")))
}
