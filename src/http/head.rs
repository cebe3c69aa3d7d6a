//! Request heads: where they end, and what they contain.

use httparse::Header;

use super::response::PlainResponse;
use crate::base::limit::MAX_HEADER_LINES;

/// Returns the length of a request head, including its empty line, or `None` while the end is missing.
///
/// The first `scanned` bytes were examined in an earlier call and are skipped, so that a head that arrives byte by byte
/// is scanned only once. Bytes beyond `max` are not examined: the result must not depend on how many bytes arrive at
/// once.
///
/// # Errors
///
/// Status 400 if the bytes do not begin with an upper-case letter, or if a line ends in a bare LF.
pub(crate) fn head_end(bytes: &[u8], scanned: usize, max: usize) -> Result<Option<usize>, PlainResponse> {
    let bytes = &bytes[..bytes.len().min(max)];
    if !bytes.first().is_none_or(u8::is_ascii_uppercase) {
        return Err(PlainResponse::new(400, "this port speaks HTTP/1.1 and WebSocket, without TLS"));
    }
    for at in scanned..bytes.len() {
        if bytes[at] == b'\n' {
            if at == 0 || bytes[at - 1] != b'\r' {
                return Err(PlainResponse::new(400, "a line of the request ends in a bare LF; end lines with CR LF"));
            }
            if at >= 3 && bytes[at - 2] == b'\n' {
                return Ok(Some(at + 1));
            }
        }
    }
    Ok(None)
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
    /// False for HTTP/1.0.
    pub(crate) is_http_1_1: bool,
    pub(crate) headers: Headers<'h, 'b>,
}

/// The head is not a valid request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HeadFault {
    TooManyHeaders,
    /// The version is not 1.0 or 1.1.
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
        let capacity = lines.0.len().min(max_headers as usize);
        let mut parsed = httparse::Request::new(&mut lines.0[..capacity]);
        match parsed.parse(head) {
            Ok(httparse::Status::Complete(_)) => Ok(RequestHead {
                method: parsed.method.unwrap_or_default(),
                target: parsed.path.unwrap_or_default(),
                is_http_1_1: parsed.version == Some(1),
                headers: Headers(parsed.headers),
            }),
            Err(httparse::Error::TooManyHeaders) => Err(HeadFault::TooManyHeaders),
            Err(httparse::Error::Version) => Err(HeadFault::Version),
            Ok(httparse::Status::Partial) | Err(_) => Err(HeadFault::Malformed),
        }
    }
}

/// The header lines of a request. Names are compared in any case.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Headers<'h, 'b>(&'h [Header<'b>]);

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
            (Ok(text), None) => Ok(text.map(str::trim)),
            _ => Err(NotSingle),
        }
    }

    /// Returns the elements of a comma-separated header over all its lines (RFC 9110 section 5.6.1).
    pub(crate) fn list(self, name: &str) -> impl Iterator<Item = &'b str> {
        self.values(name)
            .filter_map(|value| str::from_utf8(value).ok())
            .flat_map(|value| value.split(','))
            .map(str::trim)
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

    #[test]
    fn head_end_is_found_at_every_split() {
        let head = b"GET / HTTP/1.1\r\nHost: a\r\n\r\nrest";
        for cut in 0..head.len() {
            let found = head_end(&head[..cut], 0, 100).expect("well-formed");
            assert_eq!(found.is_some(), cut >= 27, "{cut}");
            assert_eq!(head_end(head, cut.min(26), 100).expect("well-formed"), Some(27));
        }
    }

    #[test]
    fn bytes_beyond_the_bound_are_not_examined() {
        let head = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
        assert_eq!(head_end(head, 0, head.len()).expect("well-formed"), Some(head.len()));
        assert_eq!(head_end(head, 0, head.len() - 1).expect("well-formed"), None);
        assert_eq!(head_end(b"GET / HTTP/1.1\r\n\n", 0, 16).expect("well-formed so far"), None);
    }

    #[test]
    fn bare_line_feeds_and_other_protocols_are_refused() {
        assert_eq!(head_end(b"GET / HTTP/1.1\nHost: a\n\n", 0, 100).expect_err("bare LF").status(), 400);
        assert_eq!(head_end(b"\x16\x03\x01\x02\x00", 0, 100).expect_err("TLS").status(), 400);
        assert_eq!(head_end(b"\n", 0, 100).expect_err("empty line").status(), 400);
    }
}
