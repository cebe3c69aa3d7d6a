//! The part of HTTP/1.1 (RFC 9112) that a WebSocket server needs: finding the end of a request head, responses without
//! an upgrade, and percent-decoding.

use std::borrow::Cow;
use std::time::Duration;

use bytes::Bytes;

use crate::base::rate::Rate;

/// An HTTP response without an upgrade: a status and one sentence. It refuses a request or answers a health check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    status: u16,
    sentence: Cow<'static, str>,
    /// Additional header lines, each with its line end.
    lines: Cow<'static, str>,
    /// Whether it answers a HEAD request, which gets the same head and no body (RFC 9110 section 9.3.2).
    is_bodiless: bool,
}

impl Refusal {
    /// Creates a response with `status` and a sentence that tells the reader what to do. The headers that the status
    /// requires are added, such as `Allow` for 405.
    pub fn new(status: u16, sentence: impl Into<Cow<'static, str>>) -> Refusal {
        let lines = match status {
            200 => "Cache-Control: no-store\r\n",
            401 => "WWW-Authenticate: Bearer\r\n",
            405 => "Allow: GET\r\n",
            // RFC 9110 section 15.5.22 requires Upgrade, RFC 6455 section 4.2.2 the version.
            426 => "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n",
            429 | 503 => "Retry-After: 1\r\n",
            _ => "",
        };
        Refusal { status, sentence: sentence.into(), lines: lines.into(), is_bodiless: false }
    }

    /// Creates a response with status 429, `Retry-After` and the limit (draft-ietf-httpapi-ratelimit-headers, older
    /// form).
    pub(crate) fn too_many(rate: Rate, remaining: u32, retry_after: Duration, full_after: Duration) -> Refusal {
        // RFC 9111 section 1.2.2: recipients may treat larger values as 2^31. With a rate of 0 the wait never ends.
        const FOREVER: u64 = 1 << 31;
        let seconds = |span: Duration| span.as_secs().saturating_add(u64::from(span.subsec_nanos() > 0)).min(FOREVER);
        let lines = format!(
            "Retry-After: {}\r\nX-RateLimit-Limit: {}\r\nX-RateLimit-Remaining: {remaining}\r\nX-RateLimit-Reset: {}\r\n",
            seconds(retry_after),
            rate.burst(),
            seconds(full_after)
        );
        Refusal {
            status: 429,
            sentence: "too many connections from your address; wait a little".into(),
            lines: lines.into(),
            is_bodiless: false,
        }
    }

    /// Returns status, sentence, additional header lines and whether the body is omitted.
    pub(crate) fn parts(&self) -> (u16, &str, &str, bool) {
        (self.status, &self.sentence, &self.lines, self.is_bodiless)
    }

    /// Restores a response from its [`parts`](Self::parts).
    pub(crate) fn from_parts(status: u16, sentence: String, lines: String, is_bodiless: bool) -> Refusal {
        Refusal { status, sentence: sentence.into(), lines: lines.into(), is_bodiless }
    }

    /// Adapts the response to the request that begins with `head`: a HEAD request gets no body.
    pub(crate) fn answering(self, head: &[u8]) -> Refusal {
        Refusal { is_bodiless: head.starts_with(b"HEAD "), ..self }
    }

    /// Returns the HTTP status.
    pub fn status(&self) -> u16 {
        self.status
    }

    /// Returns the sentence in the body.
    pub fn sentence(&self) -> &str {
        &self.sentence
    }

    /// Encodes the response as bytes.
    pub(crate) fn response(&self) -> Bytes {
        let Refusal { status, sentence, lines, is_bodiless } = self;
        // Reason phrases of RFC 9110 section 15. Clients ignore them; they help people who test with a terminal.
        let phrase = match status {
            200 => "OK",
            400 => "Bad Request",
            401 => "Unauthorized",
            403 => "Forbidden",
            404 => "Not Found",
            405 => "Method Not Allowed",
            408 => "Request Timeout",
            426 => "Upgrade Required",
            429 => "Too Many Requests",
            431 => "Request Header Fields Too Large",
            503 => "Service Unavailable",
            505 => "HTTP Version Not Supported",
            _ => "Refused",
        };
        let connection = if *status == 426 { "upgrade, close" } else { "close" };
        let length = sentence.len() + 1;
        let mut response = format!(
            "HTTP/1.1 {status} {phrase}\r\nConnection: {connection}\r\n{lines}\
             Content-Type: text/plain; charset=utf-8\r\nContent-Length: {length}\r\n\r\n"
        );
        if !is_bodiless {
            response.extend([sentence, "\n"]);
        }
        Bytes::from(response)
    }
}

/// Returns the length of a request head, including its empty line, or `None` while the end is missing.
///
/// The first `scanned` bytes were examined in an earlier call and are skipped, so that a head that arrives byte by byte
/// is scanned only once. Bytes beyond `max` are not examined: the result must not depend on how many bytes arrive at
/// once.
///
/// # Errors
///
/// Status 400 if the bytes do not begin with an upper-case letter, or if a line ends in a bare LF.
pub(crate) fn head_end(bytes: &[u8], scanned: usize, max: usize) -> Result<Option<usize>, Refusal> {
    let bytes = &bytes[..bytes.len().min(max)];
    if !bytes.first().is_none_or(u8::is_ascii_uppercase) {
        return Err(Refusal::new(400, "this port speaks HTTP/1.1 and WebSocket, without TLS"));
    }
    for at in scanned..bytes.len() {
        if bytes[at] == b'\n' {
            if at == 0 || bytes[at - 1] != b'\r' {
                return Err(Refusal::new(400, "a line of the request ends in a bare LF; end lines with CR LF"));
            }
            if at >= 3 && bytes[at - 2] == b'\n' {
                return Ok(Some(at + 1));
            }
        }
    }
    Ok(None)
}

/// Decodes percent-encoding (RFC 3986 section 2.1). With `plus_is_space`, `+` is a space, as in form queries.
///
/// Returns `None` for a `%` without two hexadecimal digits, for bytes that are not UTF-8, and for control characters,
/// which are not valid in a path or a token.
pub(crate) fn percent_decode(text: &str, plus_is_space: bool) -> Option<Cow<'_, str>> {
    let is_literal = |c: u8| c != b'%' && !(plus_is_space && c == b'+');
    let decoded = if text.bytes().all(is_literal) {
        Cow::Borrowed(text)
    } else {
        let mut bytes = Vec::with_capacity(text.len());
        let mut rest = text.as_bytes();
        while let Some((&c, tail)) = rest.split_first() {
            rest = tail;
            match c {
                b'%' => {
                    let (&[high, low], tail) = rest.split_first_chunk()?;
                    let digit = |c: u8| char::from(c).to_digit(16);
                    bytes.push((digit(high)? * 16 + digit(low)?) as u8);
                    rest = tail;
                }
                b'+' if plus_is_space => bytes.push(b' '),
                c => bytes.push(c),
            }
        }
        Cow::Owned(String::from_utf8(bytes).ok()?)
    };
    (!decoded.chars().any(char::is_control)).then_some(decoded)
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

    #[test]
    fn percent_decoding_is_strict() {
        assert_eq!(percent_decode("a%20b+c", false).as_deref(), Some("a b+c"));
        assert_eq!(percent_decode("a%20b+c", true).as_deref(), Some("a b c"));
        assert_eq!(percent_decode("%E2%82%ac", false).as_deref(), Some("€"));
        for bad in ["%", "%2", "%zz", "%+1", "%00", "%ff", "%0a", "a%7f"] {
            assert_eq!(percent_decode(bad, true), None, "{bad}");
        }
    }
}
