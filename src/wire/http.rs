//! The little HTTP/1.1 (RFC 9112) that a WebSocket server needs: where a request head ends, and how to refuse one.

use std::borrow::Cow;
use std::time::Duration;

use bytes::Bytes;

use crate::rate::Rate;

/// A request that is answered with a status and one sentence instead of an upgrade: refused, or a health check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    status: u16,
    sentence: Cow<'static, str>,
    /// Complete header lines beside the usual ones.
    lines: Cow<'static, str>,
    /// Whether it answers a HEAD, which gets the same head and no body (RFC 9110 section 9.3.2).
    is_bodiless: bool,
}

impl Refusal {
    /// `status` with a sentence that tells the reader what to do.
    pub fn new(status: u16, sentence: impl Into<Cow<'static, str>>) -> Refusal {
        let lines = match status {
            200 => "Cache-Control: no-store\r\n",
            401 => "WWW-Authenticate: Bearer\r\n",
            405 => "Allow: GET\r\n",
            // RFC 9110 section 15.5.22 asks for Upgrade, RFC 6455 section 4.2.2 for the version.
            426 => "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n",
            429 | 503 => "Retry-After: 1\r\n",
            _ => "",
        };
        Refusal { status, sentence: sentence.into(), lines: lines.into(), is_bodiless: false }
    }

    /// Status 429, with when to come back and what the limit is (draft-ietf-httpapi-ratelimit-headers, in its older form).
    pub(crate) fn too_many(rate: Rate, remaining: u32, retry_after: Duration, full_after: Duration) -> Refusal {
        // RFC 9111 section 1.2.2: no recipient need understand more seconds. A rate of 0 lets nobody in at any time.
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

    /// All it consists of: status, sentence and further header lines.
    pub(crate) fn parts(&self) -> (u16, &str, &str, bool) {
        (self.status, &self.sentence, &self.lines, self.is_bodiless)
    }

    /// What [`parts`](Self::parts) gave.
    pub(crate) fn from_parts(status: u16, sentence: String, lines: String, is_bodiless: bool) -> Refusal {
        Refusal { status, sentence: sentence.into(), lines: lines.into(), is_bodiless }
    }

    /// The same as the answer to a request that begins with `head`.
    pub(super) fn answering(self, head: &[u8]) -> Refusal {
        Refusal { is_bodiless: head.starts_with(b"HEAD "), ..self }
    }

    /// The HTTP status.
    pub fn status(&self) -> u16 {
        self.status
    }

    /// What the reader is told.
    pub fn sentence(&self) -> &str {
        &self.sentence
    }

    pub(super) fn response(&self) -> Bytes {
        let Refusal { status, sentence, lines, is_bodiless } = self;
        // The reason phrase of RFC 9110 section 15; clients ignore it, people with a terminal do not.
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

/// Finds the end of a request head, that is the length up to and with the empty line.
///
/// `scanned` bytes at the front were looked at before, so that a head that arrives byte by byte costs no more than one
/// that arrives whole. None beyond `max` is looked at: what is said of a head must not depend on how much of it arrives
/// at once. Returns `None` while the end is missing.
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

/// Undoes percent-encoding (RFC 3986 section 2.1); with `plus_is_space` as in a query of a form.
///
/// Returns `None` for a `%` without two hexadecimal digits, for what is not UTF-8, and for control characters, none of
/// which has a place in a path or a token.
pub(crate) fn percent_decode(text: &str, plus_is_space: bool) -> Option<Cow<'_, str>> {
    let plain = |c: u8| c != b'%' && !(plus_is_space && c == b'+');
    let decoded = if text.bytes().all(plain) {
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
    fn head_end_is_found_however_the_head_arrives() {
        let head = b"GET / HTTP/1.1\r\nHost: a\r\n\r\nrest";
        for cut in 0..head.len() {
            let found = head_end(&head[..cut], 0, 100).expect("well-formed");
            assert_eq!(found.is_some(), cut >= 27, "{cut}");
            assert_eq!(head_end(head, cut.min(26), 100).expect("well-formed"), Some(27));
        }
    }

    #[test]
    fn what_lies_beyond_the_bound_is_not_looked_at() {
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
    fn percent_encoding_is_undone_strictly() {
        assert_eq!(percent_decode("a%20b+c", false).as_deref(), Some("a b+c"));
        assert_eq!(percent_decode("a%20b+c", true).as_deref(), Some("a b c"));
        assert_eq!(percent_decode("%E2%82%ac", false).as_deref(), Some("€"));
        for bad in ["%", "%2", "%zz", "%+1", "%00", "%ff", "%0a", "a%7f"] {
            assert_eq!(percent_decode(bad, true), None, "{bad}");
        }
    }
}
