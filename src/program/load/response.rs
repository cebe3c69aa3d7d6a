//! Responses of HTTP/1.1 on one connection: their heads, and their bodies without framing.
//!
//! A proxy may frame a body in another way than the server, so all three forms are read (RFC 9112 section 6.3): a length,
//! chunks, and everything until the end of the connection.

use super::input::Input;

/// Most bytes of a head, and of a line of a chunked body.
pub(super) const MAX_HEAD: usize = 64 << 10;
pub(super) const ENDLESS_HEAD: &str = "a head without an end";

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Piece {
    /// The status and the whole head.
    Head(u16, String),
    Body(Vec<u8>),
    /// The response is complete.
    End,
}

/// Parser of the bytes that a server sends. They may be split at any position.
#[derive(Debug, Default)]
pub(super) struct Responses {
    input: Input,
    state: State,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Head,
    /// So many bytes are left.
    Length(u64),
    /// The line with the length of a chunk is next.
    ChunkSize,
    /// So many bytes of a chunk are left, with the line end behind them.
    Chunk(u64),
    Trailers,
    UntilEnd,
}

impl Responses {
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.input.push(bytes);
    }

    /// Whether no response has begun, or the last one is complete.
    pub(super) fn is_between(&self) -> bool {
        self.state == State::Head && self.input.bytes().is_empty()
    }

    /// Returns the next piece, or `None` if more bytes are needed. Fails, with a description, if it is no HTTP.
    pub(super) fn next(&mut self) -> Result<Option<Piece>, String> {
        loop {
            let next = match self.state {
                State::Head => return self.next_head(),
                State::Length(0) => {
                    self.state = State::Head;
                    Some(Piece::End)
                }
                State::Length(left) => self.take(left).map(|bytes| {
                    self.state = State::Length(left - bytes.len() as u64);
                    Piece::Body(bytes)
                }),
                State::UntilEnd => self.take(u64::MAX).map(Piece::Body),
                State::ChunkSize => {
                    let Some(line) = self.line()? else { return Ok(None) };
                    let digits = line.split(';').next().unwrap_or_default().trim();
                    let size = u64::from_str_radix(digits, 16).map_err(|_| format!("a chunk of {digits:?} bytes"))?;
                    self.state = if size == 0 { State::Trailers } else { State::Chunk(size) };
                    continue;
                }
                State::Chunk(0) => {
                    let Some(line) = self.line()? else { return Ok(None) };
                    if !line.is_empty() {
                        return Err("a chunk that is longer than its size".to_owned());
                    }
                    self.state = State::ChunkSize;
                    continue;
                }
                State::Chunk(left) => self.take(left).map(|bytes| {
                    self.state = State::Chunk(left - bytes.len() as u64);
                    Piece::Body(bytes)
                }),
                State::Trailers => match self.line()? {
                    Some(line) if line.is_empty() => {
                        self.state = State::Head;
                        Some(Piece::End)
                    }
                    Some(_) => continue,
                    None => None,
                },
            };
            return Ok(next);
        }
    }

    fn next_head(&mut self) -> Result<Option<Piece>, String> {
        loop {
            let unread = self.input.bytes();
            let Some(end) = unread.windows(4).position(|window| window == b"\r\n\r\n") else {
                return if unread.len() > MAX_HEAD { Err(ENDLESS_HEAD.to_owned()) } else { Ok(None) };
            };
            let head = String::from_utf8(self.input.take(end + 4));
            let head = head.map_err(|_| "a head that is not UTF-8".to_owned())?;
            let status =
                head.strip_prefix("HTTP/1.").and_then(|rest| rest.get(2..5)).and_then(|code| code.parse().ok());
            let status: u16 = status.ok_or("a response without a status line")?;
            if (100..200).contains(&status) && status != 101 {
                // An interim response.
                continue;
            }
            let is_chunked = header(&head, "transfer-encoding").is_some_and(|value| {
                value.rsplit(',').next().is_some_and(|last| last.trim().eq_ignore_ascii_case("chunked"))
            });
            self.state = match header(&head, "content-length").map(str::parse) {
                _ if [101, 204, 304].contains(&status) => State::Length(0),
                _ if is_chunked => State::ChunkSize,
                Some(Ok(length)) => State::Length(length),
                Some(Err(_)) => return Err("a Content-Length that is no number".to_owned()),
                None => State::UntilEnd,
            };
            return Ok(Some(Piece::Head(status, head)));
        }
    }

    /// Takes what has arrived of so many bytes.
    fn take(&mut self, left: u64) -> Option<Vec<u8>> {
        let count = self.input.bytes().len().min(usize::try_from(left).unwrap_or(usize::MAX));
        (count > 0).then(|| self.input.take(count))
    }

    /// Takes a line of the framing.
    fn line(&mut self) -> Result<Option<String>, String> {
        let unread = self.input.bytes();
        let Some(end) = unread.windows(2).position(|pair| pair == b"\r\n") else {
            return if unread.len() > MAX_HEAD { Err("a line without an end".to_owned()) } else { Ok(None) };
        };
        let line = self.input.take(end + 2);
        Ok(Some(String::from_utf8_lossy(&line[..end]).into_owned()))
    }
}

/// Returns the value of a header.
pub(super) fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let mut lines = head.lines().filter_map(|line| line.split_once(':'));
    lines.find(|(of, _)| of.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the statuses and bodies of responses that arrive in pieces of `step` bytes, and whether the last is complete.
    fn read(bytes: &str, step: usize) -> Result<(Vec<(u16, String)>, bool), String> {
        let (mut responses, mut found, mut ends) = (Responses::default(), Vec::new(), 0);
        for piece in bytes.as_bytes().chunks(step) {
            responses.push(piece);
            while let Some(piece) = responses.next()? {
                match (piece, found.last_mut()) {
                    (Piece::Head(status, _), _) => found.push((status, String::new())),
                    (Piece::Body(bytes), Some((_, body))) => body.push_str(str::from_utf8(&bytes).expect("ASCII")),
                    (Piece::Body(_), None) => panic!("a body without a head"),
                    (Piece::End, _) => ends += 1,
                }
            }
        }
        let is_complete = ends == found.len();
        assert_eq!(responses.is_between(), is_complete, "{responses:?}");
        Ok((found, is_complete))
    }

    #[test]
    fn bodies_are_framed_in_three_ways() {
        let kept = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n\
                    HTTP/1.1 404 Not Found\r\ncontent-length: 3\r\n\r\nabc";
        let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n\
                       3\r\nabc\r\nA;x=y\r\n0123456789\r\n0\r\nTrailer: 1\r\n\r\nHTTP/1.0 204 No Content\r\n\r\n";
        let until_end = "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nretry: 1\n\nHTTP/1.1";
        for step in 1..60 {
            let is = |bytes: &str, expected: &[(u16, &str)], is_complete| {
                let expected = expected.iter().map(|&(status, body)| (status, body.to_owned())).collect();
                assert_eq!(read(bytes, step), Ok((expected, is_complete)), "by {step}");
            };
            is(kept, &[(202, ""), (404, "abc")], true);
            is(chunked, &[(200, "abc0123456789"), (204, "")], true);
            is(until_end, &[(200, "retry: 1\n\nHTTP/1.1")], false);
        }
    }

    #[test]
    fn what_is_no_response_is_refused() {
        let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        for bytes in [
            "SSH-2.0\r\n\r\n",
            "HTTP/1.1 OK\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
            &format!("{chunked}x\r\n"),
            &format!("{chunked}1\r\nab\r\n"),
            &"x".repeat(MAX_HEAD + 1),
        ] {
            assert!(read(bytes, 4096).is_err(), "{bytes:?}");
        }
    }
}
