//! Responses: one sentence for a client, or one JSON object for a program.

use std::borrow::Cow;
use std::ops::Range;
use std::time::Duration;

use bytes::Bytes;
use serde::Serialize;

use super::cors::Cors;
use super::date::DateLine;
use super::status::reason_phrase;
use crate::base::rate::Rate;

/// An HTTP response without an upgrade: a status and one sentence. It refuses a request or answers a health check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PlainResponse {
    status: u16,
    sentence: Cow<'static, str>,
    /// Additional header lines, each with its line end.
    lines: Cow<'static, str>,
    /// Whether it answers a HEAD request, which gets the same head and no body (RFC 9110 section 9.3.2).
    is_bodiless: bool,
    /// Which page may read it. Not among the [`parts`](Self::parts), since it contains text of the client.
    cors: Option<Cors>,
}

impl PlainResponse {
    /// Creates a response with `status` and a sentence that tells the reader what to do. The headers that the status
    /// requires are added, such as `Allow` for 405.
    pub(crate) fn new(status: u16, sentence: impl Into<Cow<'static, str>>) -> PlainResponse {
        let lines = match status {
            200 => "Cache-Control: no-store\r\n",
            401 => "WWW-Authenticate: Bearer\r\n",
            405 => "Allow: GET, HEAD\r\n",
            // RFC 9110 section 15.5.22 requires Upgrade, RFC 6455 section 4.2.2 the version.
            426 => "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n",
            429 | 503 => "Retry-After: 1\r\n",
            _ => "",
        };
        PlainResponse { status, sentence: sentence.into(), lines: lines.into(), is_bodiless: false, cors: None }
    }

    /// Creates a response with status 429, `Retry-After` and the limit (draft-ietf-httpapi-ratelimit-headers, older
    /// form).
    pub(crate) fn too_many(rate: Rate, remaining: u32, retry_after: Duration, full_after: Duration) -> PlainResponse {
        // RFC 9111 section 1.2.2: recipients may treat larger values as 2^31. With a rate of 0 the wait never ends.
        const FOREVER: u64 = 1 << 31;
        let seconds = |span: Duration| span.as_secs().saturating_add(u64::from(span.subsec_nanos() > 0)).min(FOREVER);
        let lines = format!(
            "Retry-After: {}\r\nX-RateLimit-Limit: {}\r\nX-RateLimit-Remaining: {remaining}\r\nX-RateLimit-Reset: {}\r\n",
            seconds(retry_after),
            rate.burst(),
            seconds(full_after)
        );
        PlainResponse {
            status: 429,
            sentence: "too many connections from your address; wait a little".into(),
            lines: lines.into(),
            is_bodiless: false,
            cors: None,
        }
    }

    /// Returns the response with another sentence.
    pub(crate) fn with_sentence(self, sentence: &'static str) -> PlainResponse {
        PlainResponse { sentence: sentence.into(), ..self }
    }

    /// Returns status, sentence, additional header lines and whether the body is omitted.
    pub(crate) fn parts(&self) -> (u16, &str, &str, bool) {
        (self.status, &self.sentence, &self.lines, self.is_bodiless)
    }

    /// Restores a response from its [`parts`](Self::parts).
    pub(crate) fn from_parts(status: u16, sentence: String, lines: String, is_bodiless: bool) -> PlainResponse {
        PlainResponse { status, sentence: sentence.into(), lines: lines.into(), is_bodiless, cors: None }
    }

    /// Keeps the body or leaves it out, as in the answer to a HEAD request.
    pub(crate) fn with_body(self, with_body: bool) -> PlainResponse {
        PlainResponse { is_bodiless: !with_body, ..self }
    }

    /// Replaces the additional header lines, each with its line end.
    pub(crate) fn with_lines(self, lines: &'static str) -> PlainResponse {
        PlainResponse { lines: lines.into(), ..self }
    }

    /// Lets a page of another origin read the response.
    pub(crate) fn with_cors(self, cors: Option<Cors>) -> PlainResponse {
        PlainResponse { cors, ..self }
    }

    /// Returns where the encoded response repeats text of the client.
    pub(crate) fn echo(&self, response: &[u8]) -> Option<Range<u64>> {
        self.cors.as_ref()?.echo(response)
    }

    /// Returns the HTTP status.
    pub(crate) fn status(&self) -> u16 {
        self.status
    }

    /// Returns the sentence in the body.
    pub(crate) fn sentence(&self) -> &str {
        &self.sentence
    }

    /// Encodes the response as bytes.
    pub(crate) fn response(&self, date: DateLine) -> Bytes {
        let PlainResponse { status, sentence, lines, is_bodiless, cors } = self;
        let phrase = reason_phrase(*status);
        let connection = if *status == 426 { "upgrade, close" } else { "close" };
        let length = sentence.len() + 1;
        let mut response = format!("HTTP/1.1 {status} {phrase}\r\n").into_bytes();
        response.extend_from_slice(date.as_bytes());
        response.extend_from_slice(format!("Connection: {connection}\r\n{lines}").as_bytes());
        cors.iter().for_each(|cors| cors.put_lines(&mut response));
        // RFC 9110 section 8.6 forbids Content-Length with 204.
        if *status == 204 {
            response.extend_from_slice(b"\r\n");
            return Bytes::from(response);
        }
        response.extend_from_slice(
            format!("Content-Type: text/plain; charset=utf-8\r\nContent-Length: {length}\r\n\r\n").as_bytes(),
        );
        if !is_bodiless {
            response.extend_from_slice(sentence.as_bytes());
            response.push(b'\n');
        }
        Bytes::from(response)
    }
}

/// A response with one JSON object as its body, or with text of another type.
#[derive(Debug)]
pub(crate) struct JsonResponse {
    pub(crate) status: u16,
    media_type: &'static str,
    body: String,
    /// An additional header line with its line end, or empty.
    line: &'static str,
    /// Which page of another origin may read it.
    cors: Option<Cors>,
}

impl JsonResponse {
    pub(crate) fn new(status: u16, object: &impl Serialize) -> JsonResponse {
        let body = serde_json::to_string(object).expect("strings, numbers and their lists always serialize");
        JsonResponse { status, media_type: "application/json", body, line: "", cors: None }
    }

    /// Creates a response with status 200 and text instead of JSON, without its last line feed.
    pub(crate) fn text(media_type: &'static str, body: String) -> JsonResponse {
        JsonResponse { status: 200, media_type, body, line: "", cors: None }
    }

    /// Creates the answer to a request that means nothing.
    pub(crate) fn bad_request(message: &str) -> JsonResponse {
        JsonResponse::error(400, "bad_request", message)
    }

    /// Creates an error: `error` is a word for programs, `message` a sentence for people.
    pub(crate) fn error(status: u16, error: &str, message: &str) -> JsonResponse {
        #[derive(Serialize)]
        struct ErrorObject<'a> {
            error: &'a str,
            message: &'a str,
        }
        JsonResponse::new(status, &ErrorObject { error, message })
    }

    /// Creates the error that refuses a request head.
    pub(crate) fn refusing(refusal: &PlainResponse) -> JsonResponse {
        let error = match refusal.status() {
            414 => "target_too_long",
            431 => "head_too_long",
            505 => "version_not_supported",
            _ => "bad_request",
        };
        JsonResponse::error(refusal.status(), error, refusal.sentence())
    }

    pub(crate) fn with_line(self, line: &'static str) -> JsonResponse {
        JsonResponse { line, ..self }
    }

    /// Lets a page of another origin read the response.
    pub(crate) fn with_cors(self, cors: Option<Cors>) -> JsonResponse {
        JsonResponse { cors, ..self }
    }

    /// Returns where the encoded response repeats text of the client.
    pub(crate) fn echo(&self, response: &[u8]) -> Option<Range<u64>> {
        self.cors.as_ref()?.echo(response)
    }

    /// Appends the response's bytes to `out`. The response to a HEAD request has no body.
    pub(crate) fn write(&self, out: &mut Vec<u8>, date: DateLine, with_body: bool, keep_alive: bool) {
        let JsonResponse { status, media_type, body, line, cors } = self;
        let phrase = reason_phrase(*status);
        let connection = if keep_alive { "keep-alive" } else { "close" };
        let length = body.len() + 1;
        out.extend_from_slice(format!("HTTP/1.1 {status} {phrase}\r\n").as_bytes());
        out.extend_from_slice(date.as_bytes());
        out.extend_from_slice(
            format!(
                "Content-Type: {media_type}\r\nContent-Length: {length}\r\n\
                 Cache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\n{line}Connection: {connection}\r\n"
            )
            .as_bytes(),
        );
        cors.iter().for_each(|cors| cors.put_lines(out));
        out.extend_from_slice(b"\r\n");
        if with_body {
            out.extend_from_slice(body.as_bytes());
            out.push(b'\n');
        }
    }
}
