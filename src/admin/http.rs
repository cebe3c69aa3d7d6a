//! The part of HTTP/1.1 (RFC 9112) that the admin port needs: parses requests with a body, writes answers. Knows no
//! routes.

use httparse::Header;

use super::json::JsonObject;
use crate::http::head_end;

/// A complete request.
#[derive(Clone, Copy, Debug)]
pub(super) struct HttpRequest<'a> {
    pub(super) method: &'a str,
    /// As in the request line, percent-encoded.
    pub(super) path: &'a str,
    pub(super) query: &'a str,
    pub(super) headers: Headers<'a>,
    pub(super) body: &'a [u8],
    /// Whether the connection stays open for another request.
    pub(super) keep_alive: bool,
}

/// The headers that decisions depend on; `None` when absent. A request that repeats one of them is refused.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Headers<'a> {
    pub(super) host: &'a str,
    pub(super) origin: Option<&'a str>,
    pub(super) authorization: Option<&'a str>,
    pub(super) content_type: Option<&'a str>,
}

/// Result of parsing the front of the received bytes.
#[derive(Debug)]
pub(super) enum Parsed<'a> {
    /// The request is incomplete. `expects_continue`: the client waits for `100 Continue` before it sends the body.
    Partial { expects_continue: bool },
    /// A request and its length in bytes.
    Whole(HttpRequest<'a>, usize),
    /// The request is invalid. The connection is closed after this answer.
    Bad(Answer),
}

/// An answer: a status and one JSON object.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) body: String,
    /// An additional header line with its line end, or empty.
    pub(super) line: &'static str,
}

impl Answer {
    pub(super) fn new(status: u16, object: JsonObject) -> Answer {
        Answer { status, body: object.end(), line: "" }
    }

    /// Creates an error: `word` for programs, `message` for persons.
    pub(super) fn error(status: u16, word: &str, message: &str) -> Answer {
        Answer::new(status, JsonObject::new().string("error", word).string("message", message))
    }

    pub(super) fn with_line(self, line: &'static str) -> Answer {
        Answer { line, ..self }
    }

    /// Appends the answer's bytes to `out`. The answer to a HEAD request has no body.
    pub(super) fn write(&self, out: &mut Vec<u8>, with_body: bool, keep_alive: bool) {
        let Answer { status, body, line } = self;
        let phrase = match status {
            200 => "OK",
            202 => "Accepted",
            400 => "Bad Request",
            401 => "Unauthorized",
            403 => "Forbidden",
            404 => "Not Found",
            405 => "Method Not Allowed",
            408 => "Request Timeout",
            409 => "Conflict",
            411 => "Length Required",
            413 => "Content Too Large",
            415 => "Unsupported Media Type",
            431 => "Request Header Fields Too Large",
            503 => "Service Unavailable",
            _ => "Refused",
        };
        let connection = if keep_alive { "keep-alive" } else { "close" };
        let length = body.len() + 1;
        out.extend_from_slice(
            format!(
                "HTTP/1.1 {status} {phrase}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\
                 Cache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\n{line}Connection: {connection}\r\n\r\n"
            )
            .as_bytes(),
        );
        if with_body {
            out.extend_from_slice(body.as_bytes());
            out.push(b'\n');
        }
    }
}

/// Bounds of one request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    pub(super) max_head: usize,
    pub(super) max_headers: usize,
    pub(super) max_body: usize,
}

/// Capacity for parsed header lines: no `max_headers` is larger.
const HEADERS: usize = 256;

/// Parses the request at the front of `bytes`.
pub(super) fn read<'a>(bytes: &'a [u8], bounds: Bounds) -> Parsed<'a> {
    match try_read(bytes, bounds) {
        Ok(parsed) => parsed,
        Err(answer) => Parsed::Bad(answer),
    }
}

fn try_read<'a>(bytes: &'a [u8], bounds: Bounds) -> Result<Parsed<'a>, Answer> {
    let bad = |message: &str| Answer::error(400, "bad_request", message);
    let head = head_end(bytes, 0, bounds.max_head).map_err(|refusal| bad(refusal.sentence()))?;
    let Some(head) = head else {
        if bytes.len() > bounds.max_head {
            return Err(Answer::error(431, "head_too_long", "the request head is longer than max_header_bytes"));
        }
        return Ok(Parsed::Partial { expects_continue: false });
    };
    let mut storage: [Header<'a>; HEADERS] = [httparse::EMPTY_HEADER; HEADERS];
    let mut parsed = httparse::Request::new(&mut storage[..bounds.max_headers.min(HEADERS)]);
    match parsed.parse(&bytes[..head]) {
        Ok(httparse::Status::Complete(_)) => {}
        Err(httparse::Error::TooManyHeaders) => {
            return Err(Answer::error(431, "too_many_headers", "the request has more than max_headers lines"));
        }
        Ok(httparse::Status::Partial) | Err(_) => return Err(bad("the request is not well-formed HTTP/1.1")),
    }
    let lines: &[Header<'a>] = parsed.headers;
    if single_value(lines, "transfer-encoding")?.is_some() {
        return Err(Answer::error(411, "length_required", "send a Content-Length, not chunks"));
    }
    let length = match single_value(lines, "content-length")? {
        None => 0,
        Some(text) if !text.is_empty() && text.len() <= 9 && text.bytes().all(|c| c.is_ascii_digit()) => {
            text.parse().expect("nine digits")
        }
        Some(_) => return Err(bad("Content-Length must be a number of bytes")),
    };
    if length > bounds.max_body {
        let message =
            format!("a body may be {} bytes long, what max_message_bytes allows and some more", bounds.max_body);
        return Err(Answer::error(413, "too_long", &message));
    }
    if bytes.len() < head + length {
        let expects_continue =
            single_value(lines, "expect")?.is_some_and(|value| value.eq_ignore_ascii_case("100-continue"));
        return Ok(Parsed::Partial { expects_continue: expects_continue && bytes.len() == head });
    }
    let target = parsed.path.unwrap_or_default();
    if !target.starts_with('/') {
        return Err(bad("ask for a path that starts with /, not for a whole URL"));
    }
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let closes = single_value(lines, "connection")?
        .is_some_and(|value| value.split(',').any(|element| element.trim().eq_ignore_ascii_case("close")));
    let headers = Headers {
        host: single_value(lines, "host")?.ok_or_else(|| bad("send exactly one Host header (RFC 9112 section 3.2)"))?,
        origin: single_value(lines, "origin")?,
        authorization: single_value(lines, "authorization")?,
        content_type: single_value(lines, "content-type")?,
    };
    let request = HttpRequest {
        method: parsed.method.unwrap_or_default(),
        path,
        query,
        headers,
        body: &bytes[head..head + length],
        keep_alive: parsed.version == Some(1) && !closes,
    };
    Ok(Parsed::Whole(request, head + length))
}

/// Returns the value of a header, `None` when absent. A repeated header is an error.
fn single_value<'a>(lines: &[Header<'a>], name: &str) -> Result<Option<&'a str>, Answer> {
    let mut values = lines.iter().filter(|line| line.name.eq_ignore_ascii_case(name)).map(|line| line.value);
    let (first, second) = (values.next(), values.next());
    let text = first.map(str::from_utf8).transpose();
    match (text, second) {
        (Ok(text), None) => Ok(text.map(str::trim)),
        _ => Err(Answer::error(400, "bad_request", &format!("send one {name} header, in UTF-8"))),
    }
}
