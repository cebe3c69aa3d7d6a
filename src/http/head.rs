//! Request heads: where they end, and what they contain.

use httparse::Header;

use super::response::PlainResponse;
use crate::base::limit::MAX_HEADER_LINES;

/// First bytes of other protocols, with the status and the sentence of the answer.
const OTHER_PROTOCOLS: [(&[u8], u16, &str); 4] = [
    // A TLS record of a handshake (RFC 8446 section 5.1).
    (b"\x16\x03", 400, "this port speaks HTTP without TLS; TLS ends at a proxy in front of it"),
    (b"PROXY ", 400, NO_PROXY_PROTOCOL),
    (b"\r\n\r\n\0\r\nQUIT\n", 400, NO_PROXY_PROTOCOL),
    // The preface of a client with prior knowledge (RFC 9113 section 3.4).
    (b"PRI * HTTP/2.0", 505, "HTTP/2 is not supported; use HTTP/1.1"),
];
const NO_PROXY_PROTOCOL: &str =
    "the connection begins with a header of the PROXY protocol, which is not supported; turn it off in the proxy";

/// Which parts of a request head are checked while its end is searched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HeadCheck {
    /// The bytes of a client: everything.
    All,
    /// A replay, which knows the line ends only: nothing. The refusals are recorded.
    Nothing,
    /// A replay of the first edition, which did not record these refusals: what follows from the line ends, from the
    /// length, and from whether the first byte is a capital letter. There was no empty line before a request.
    FirstEdition,
}

/// Returns the length of a request head, including its empty line and an empty line before it, or `None` while the end
/// is missing.
///
/// The first `scanned` bytes were examined in an earlier call and are skipped, so that a head that arrives byte by byte
/// is scanned only once. Bytes beyond `max` are not examined: the result must not depend on how many bytes arrive at
/// once.
///
/// # Errors
///
/// Status 400 if the bytes cannot begin a request, or if a line ends in a bare LF; 505 if they begin HTTP/2; 414 or 431 if
/// the request line or the head is longer than `max`.
pub(crate) fn head_end(
    bytes: &[u8],
    scanned: usize,
    max: usize,
    check: HeadCheck,
) -> Result<Option<usize>, PlainResponse> {
    let examined = &bytes[..bytes.len().min(max)];
    // One empty line before a request is ignored (RFC 9112 section 2.2).
    let start = if check == HeadCheck::FirstEdition { 0 } else { examined.len() - request_in(examined).len() };
    let may_begin = match check {
        HeadCheck::All => check_first_bytes(examined)?,
        HeadCheck::Nothing => true,
        HeadCheck::FirstEdition if !examined.first().is_none_or(u8::is_ascii_uppercase) => {
            return Err(PlainResponse::new(400, "this port speaks HTTP/1.1 and WebSocket, without TLS"));
        }
        HeadCheck::FirstEdition => true,
    };
    if may_begin && let Some(end) = find_end(examined, start, scanned, check)? {
        return Ok(Some(end));
    }
    if bytes.len() <= max {
        return Ok(None);
    }
    let has_whole_line = check == HeadCheck::FirstEdition || examined[start..].contains(&b'\n');
    Err(if has_whole_line {
        PlainResponse::new(431, format!("the request head is longer than {max} bytes"))
    } else {
        PlainResponse::new(414, format!("the request line is longer than {max} bytes"))
    })
}

/// Returns the end of the head that begins at `start`, if it is there. The first `scanned` bytes are skipped.
fn find_end(bytes: &[u8], start: usize, scanned: usize, check: HeadCheck) -> Result<Option<usize>, PlainResponse> {
    for at in scanned.max(start)..bytes.len() {
        if bytes[at] == b'\n' {
            if (at == 0 || bytes[at - 1] != b'\r') && check != HeadCheck::Nothing {
                return Err(PlainResponse::new(400, "a line of the request ends in a bare LF; end lines with CR LF"));
            }
            if at >= start + 3 && bytes[at - 2] == b'\n' {
                return Ok(Some(at + 1));
            }
        }
    }
    Ok(None)
}

/// Returns the bytes without an empty line at their beginning.
fn request_in(bytes: &[u8]) -> &[u8] {
    bytes.strip_prefix(b"\r\n").unwrap_or(bytes)
}

/// Returns whether the bytes begin a HEAD request, perhaps after an empty line.
pub(crate) fn is_head_request(bytes: &[u8]) -> bool {
    request_in(bytes).starts_with(b"HEAD ")
}

/// Number of bytes at the front of a request with which [`is_post_request`] knows the method.
pub(crate) const FRONT_BYTES: usize = 7;

/// Returns whether the bytes begin a POST request, perhaps after an empty line. Decides as soon as the bytes can begin no
/// other request.
pub(crate) fn is_post_request(front: &[u8]) -> bool {
    const POST: &[u8] = b"POST ";
    let request = request_in(front);
    !request.is_empty() && (request.starts_with(POST) || POST.starts_with(request))
}

/// Checks the beginning of the received bytes. Returns whether they begin a request; false while that is not known.
fn check_first_bytes(bytes: &[u8]) -> Result<bool, PlainResponse> {
    for (beginning, status, sentence) in OTHER_PROTOCOLS {
        if bytes.starts_with(beginning) {
            return Err(PlainResponse::new(status, sentence));
        }
        if beginning.starts_with(bytes) {
            return Ok(false);
        }
    }
    let request = request_in(bytes);
    match request.first() {
        Some(first) if first.is_ascii_uppercase() => Ok(true),
        Some(_) if request.starts_with(b"\r\n") => {
            Err(PlainResponse::new(400, "send at most one empty line before a request"))
        }
        Some(_) => Err(PlainResponse::new(400, "the bytes are not a request; this port speaks HTTP/1.1")),
        None => Ok(false),
    }
}

/// Room for the header lines of one request.
pub(crate) struct HeaderLines<'b>([Header<'b>; MAX_HEADER_LINES as usize]);

impl HeaderLines<'_> {
    pub(crate) const EMPTY: Self = HeaderLines([httparse::EMPTY_HEADER; MAX_HEADER_LINES as usize]);
}

/// A request head, parsed. Borrows its text from the received bytes.
#[derive(Debug)]
pub(crate) struct RequestHead<'h, 'b> {
    pub(crate) method: &'b str,
    pub(crate) target: &'b str,
    /// False for HTTP/1.0. A later minor version counts as 1.1 (RFC 9110 section 2.5).
    pub(crate) is_http_1_1: bool,
    pub(crate) headers: Headers<'h, 'b>,
}

/// The head is not a valid request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HeadFault {
    TooManyHeaders,
    /// The major version is not 1.
    Version,
    Malformed,
}

impl<'h, 'b> RequestHead<'h, 'b> {
    /// Parses a complete head of at most `max_headers` header lines.
    pub(crate) fn parse(
        head: &'b [u8],
        lines: &'h mut HeaderLines<'b>,
        max_headers: u32,
    ) -> Result<RequestHead<'h, 'b>, HeadFault> {
        let head = request_in(head);
        let capacity = lines.0.len().min(max_headers as usize);
        let mut parsed = httparse::Request::new(&mut lines.0[..capacity]);
        match parsed.parse(head) {
            Ok(httparse::Status::Complete(_)) => Ok(RequestHead {
                method: parsed.method.unwrap_or_default(),
                target: parsed.path.unwrap_or_default(),
                is_http_1_1: parsed.version == Some(1),
                headers: Headers(parsed.headers),
            }),
            Err(httparse::Error::Version) => {
                let (method, target, rest) = later_request_line(head)?;
                let headers = match httparse::parse_headers(rest, parsed.headers) {
                    Ok(httparse::Status::Complete((_, headers))) => Headers(headers),
                    other => return Err(fault_of(other.err())),
                };
                Ok(RequestHead { method, target, is_http_1_1: true, headers })
            }
            other => Err(fault_of(other.err())),
        }
    }
}

fn fault_of(error: Option<httparse::Error>) -> HeadFault {
    match error {
        Some(httparse::Error::TooManyHeaders) => HeadFault::TooManyHeaders,
        _ => HeadFault::Malformed,
    }
}

/// Parses a request line whose version is 1.2 to 1.9, which httparse does not accept. Returns the method, the target and
/// the header lines.
fn later_request_line(head: &[u8]) -> Result<(&str, &str, &[u8]), HeadFault> {
    let end = head.windows(2).position(|window| window == b"\r\n").ok_or(HeadFault::Malformed)?;
    let (line, rest) = (&head[..end], &head[end + 2..]);
    let Some((before, &[b' ', b'H', b'T', b'T', b'P', b'/', major, b'.', minor])) = line.split_last_chunk() else {
        return Err(HeadFault::Malformed);
    };
    match (major, minor) {
        (b'1', b'2'..=b'9') => {}
        (b'0'..=b'9', b'0'..=b'9') => return Err(HeadFault::Version),
        _ => return Err(HeadFault::Malformed),
    }
    // The same line with version 1.1 must be valid.
    let line = [before, b" HTTP/1.1\r\n\r\n"].concat();
    if !httparse::Request::new(&mut []).parse(&line).is_ok_and(|status| status.is_complete()) {
        return Err(HeadFault::Malformed);
    }
    let text = str::from_utf8(before).map_err(|_| HeadFault::Malformed)?;
    let (method, target) = text.split_once(' ').ok_or(HeadFault::Malformed)?;
    Ok((method, target, rest))
}

/// The header lines of a request. Names are compared in any case.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Headers<'h, 'b>(&'h [Header<'b>]);

/// Returns the text without the optional whitespace around it (RFC 9110 section 5.6.3). Other white space of Unicode is part
/// of a value.
fn without_whitespace(text: &str) -> &str {
    text.trim_matches([' ', '\t'])
}

/// A header that may occur once occurs several times, or is not UTF-8.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NotSingle;

impl<'h, 'b> Headers<'h, 'b> {
    /// Returns the values of all lines `name`.
    pub(crate) fn values(self, name: &str) -> impl Iterator<Item = &'b [u8]> {
        self.0.iter().filter(move |header| header.name.eq_ignore_ascii_case(name)).map(|header| header.value)
    }

    /// Returns the value of the only line `name`, without the spaces around it; `None` if there is no such line.
    pub(crate) fn single(self, name: &str) -> Result<Option<&'b str>, NotSingle> {
        let mut values = self.values(name);
        let (first, second) = (values.next(), values.next());
        match (first.map(str::from_utf8).transpose(), second) {
            (Ok(text), None) => Ok(text.map(without_whitespace)),
            _ => Err(NotSingle),
        }
    }

    /// Returns the elements of a comma-separated header over all its lines (RFC 9110 section 5.6.1).
    pub(crate) fn list(self, name: &str) -> impl Iterator<Item = &'b str> {
        self.values(name)
            .filter_map(|value| str::from_utf8(value).ok())
            .flat_map(|value| value.split(','))
            .map(without_whitespace)
            .filter(|element| !element.is_empty())
    }

    /// Returns whether a comma-separated header contains `token`, in any case.
    pub(crate) fn has_token(self, name: &str, token: &str) -> bool {
        self.list(name).any(|element| element.eq_ignore_ascii_case(token))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn end(bytes: &[u8], scanned: usize, max: usize) -> Result<Option<usize>, PlainResponse> {
        head_end(bytes, scanned, max, HeadCheck::All)
    }

    /// Returns what is found in `bytes`, which arrive one by one.
    fn found(bytes: &[u8], check: HeadCheck) -> Result<Option<usize>, PlainResponse> {
        (0..bytes.len())
            .map(|at| head_end(&bytes[..=at], at, 100, check))
            .find(|found| *found != Ok(None))
            .unwrap_or(Ok(None))
    }

    #[test]
    fn head_end_is_found_at_every_split() {
        for head in [&b"GET / HTTP/1.1\r\nHost: a\r\n\r\nrest"[..], b"\r\nG / HTTP/1.1\r\nHost: a\r\n\r\nrest"] {
            for cut in 0..head.len() {
                assert_eq!(end(&head[..cut], 0, 100).expect("well-formed").is_some(), cut >= 27, "{cut}");
                assert_eq!(end(head, cut.min(26), 100).expect("well-formed"), Some(27));
            }
        }
    }

    #[test]
    fn bytes_beyond_the_bound_are_not_examined() {
        let head = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
        assert_eq!(end(head, 0, head.len()), Ok(Some(head.len())));
        assert_eq!(end(head, 0, head.len() - 1).expect_err("too long").status(), 431);
        assert_eq!(end(b"GET / HTTP/1.1\r\n\n", 0, 16).expect_err("too long").status(), 431);
        assert_eq!(end(b"GET / HTTP/1.1\r\n\n", 0, 15).expect_err("too long").status(), 414);
        assert_eq!(end(b"\r\nGET / HTTP/1.1\r\n\n", 0, 17).expect_err("too long").status(), 414);
    }

    #[test]
    fn bare_line_feeds_and_other_protocols_are_refused() {
        for bytes in [
            &b"GET / HTTP/1.1\nHost: a\n\n"[..],
            b"\x16\x03\x01\x02\x00",
            b"\n",
            b"\r\n\r\nG",
            b"\rG",
            b"\r\n\n",
            b"\r\n\r\n\0\r\nQUIT\n",
            b"PROXY U",
            b"PRI * HTTP/2.0",
        ] {
            let whole = end(bytes, 0, 100).expect_err("no request");
            assert!([400, 505].contains(&whole.status()));
            assert_eq!(found(bytes, HeadCheck::All), Err(whole), "byte by byte: {}", bytes.escape_ascii());
        }
    }

    /// A replay has `x` in place of each byte that ends no line.
    #[test]
    fn a_replay_finds_the_same_end_in_the_line_ends_alone() {
        for head in [&b"G / HTTP/1.1\r\nHost: a\r\n\r\n"[..], b"\r\nG / HTTP/1.1\r\n\r\n", b"\r\nPRX\r\n\r\n"] {
            let shape: Vec<u8> = head.iter().map(|&c| if c == b'\r' || c == b'\n' { c } else { b'x' }).collect();
            assert_eq!(found(&shape, HeadCheck::Nothing), Ok(Some(head.len())));
            assert_eq!(found(head, HeadCheck::All), Ok(Some(head.len())));
        }
        for waits in [&b"\r\n\r\n"[..], b"\r\n\r\n\0\r\nQUIT", b"PROXY"] {
            assert_eq!((found(waits, HeadCheck::Nothing), found(waits, HeadCheck::All)), (Ok(None), Ok(None)));
        }
    }

    #[test]
    fn the_first_edition_is_replayed_as_it_was() {
        let end = |bytes: &[u8]| head_end(bytes, 0, 20, HeadCheck::FirstEdition).map_err(|refusal| refusal.status());
        assert_eq!(end(b"Xxx\r\n\r\n"), Ok(Some(7)));
        assert_eq!((end(b"\r\nXxx\r\n\r\n"), end(b"xxx"), end(b"X\nX")), (Err(400), Err(400), Err(400)));
        assert_eq!(end(&[b'X'; 21]), Err(431));
    }
}
