//! Responses with a file that is part of the program.

use bytes::Bytes;

use super::date::DateLine;
use super::status::reason_phrase;
use crate::base::limit::MAX_FILE_BYTES;

/// Byte that stands for each byte of a file whose contents are not known.
const UNKNOWN: u8 = b'x';

/// Response to a request for a file that is part of the program.
///
/// The contents change from build to build. A journal therefore records the head and the length of the body, and the bytes
/// of the body count as `x`: a later build replays them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FileResponse {
    status: u16,
    /// Additional header lines, each with its line end.
    lines: String,
    body: Bytes,
}

impl FileResponse {
    /// Creates a response with status 200 and a body.
    pub(crate) fn found(media_type: &str, lines: &str, body: &'static str) -> FileResponse {
        let lines = format!("Content-Type: {media_type}\r\nContent-Length: {}\r\n{lines}", body.len());
        FileResponse { status: 200, lines, body: Bytes::from_static(body.as_bytes()) }
    }

    /// Creates a response with status 304: the client has the file (RFC 9110 section 15.4.5).
    pub(crate) fn not_modified(lines: &str) -> FileResponse {
        FileResponse { status: 304, lines: lines.to_owned(), body: Bytes::new() }
    }

    /// Returns status, additional header lines and the length of the body.
    pub(crate) fn parts(&self) -> (u16, &str, usize) {
        (self.status, &self.lines, self.body.len())
    }

    /// Restores a response from its [`parts`](Self::parts), with a body of `x`. Returns `None` if the body is too long.
    pub(crate) fn from_parts(status: u16, lines: String, length: u64) -> Option<FileResponse> {
        let length = usize::try_from(length).ok().filter(|length| *length <= MAX_FILE_BYTES)?;
        Some(FileResponse { status, lines, body: vec![UNKNOWN; length].into() })
    }

    pub(crate) fn status(&self) -> u16 {
        self.status
    }

    /// Encodes the response. Returns its bytes, and the length of its head. The response to a HEAD request has no body.
    pub(crate) fn encode(&self, date: DateLine, with_body: bool) -> (Bytes, usize) {
        let FileResponse { status, lines, body } = self;
        let mut response = Vec::with_capacity(512 + lines.len() + if with_body { body.len() } else { 0 });
        response.extend_from_slice(format!("HTTP/1.1 {status} {}\r\n", reason_phrase(*status)).as_bytes());
        response.extend_from_slice(date.as_bytes());
        response.extend_from_slice(b"Connection: close\r\n");
        response.extend_from_slice(lines.as_bytes());
        response.extend_from_slice(b"\r\n");
        let head = response.len();
        if with_body {
            response.extend_from_slice(body);
        }
        (response.into(), head)
    }
}
