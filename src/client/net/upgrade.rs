//! The opening handshake (RFC 6455 section 4.1): the request, and the server's answer to it.

use std::time::Duration;

use tungstenite::handshake::client::generate_key;
use tungstenite::handshake::derive_accept_key;

use crate::client::action::Attempt;

/// Most bytes of the answer, and most header lines.
const MAX_HEAD: usize = 16 << 10;
const MAX_LINES: usize = 64;

/// A request that waits for its answer.
pub(super) struct Upgrade {
    accept: String,
    subprotocols: Vec<String>,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// The connection is open. The answer takes this many bytes.
    Accepted(usize),
    /// With this status, and `Retry-After` if it is a number.
    Refused(u16, Option<Duration>),
    /// It is no answer to the request.
    Invalid,
}

impl Upgrade {
    /// Returns the request with its bytes.
    pub(super) fn request(attempt: &Attempt, token: Option<&str>) -> (Upgrade, Vec<u8>) {
        Upgrade::with_key(attempt, token, &generate_key())
    }

    fn with_key(attempt: &Attempt, token: Option<&str>, key: &str) -> (Upgrade, Vec<u8>) {
        let subprotocols = attempt.subprotocols(token);
        let request = format!(
            "GET {} HTTP/1.1\r\nHost: {}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Protocol: {}\r\n\r\n",
            attempt.target(),
            attempt.authority(),
            subprotocols.join(", "),
        );
        (Upgrade { accept: derive_accept_key(key.as_bytes()), subprotocols }, request.into_bytes())
    }

    /// Reads the answer. `None`: it has not arrived whole.
    pub(super) fn answer(&self, input: &[u8]) -> Option<Answer> {
        let mut lines = [httparse::EMPTY_HEADER; MAX_LINES];
        let mut head = httparse::Response::new(&mut lines);
        let length = match head.parse(input) {
            Ok(httparse::Status::Complete(length)) => length,
            Ok(httparse::Status::Partial) if input.len() < MAX_HEAD => return None,
            _ => return Some(Answer::Invalid),
        };
        let values = |name: &'static str| {
            let lines = head.headers.iter().filter(move |line| line.name.eq_ignore_ascii_case(name));
            lines.map(|line| str::from_utf8(line.value).unwrap_or_default().trim())
        };
        let status = head.code.unwrap_or_default();
        if status != 101 {
            let seconds = values("retry-after").next().and_then(|value| value.parse::<u32>().ok());
            return Some(Answer::Refused(status, seconds.map(|seconds| Duration::from_secs(seconds.into()))));
        }
        let has_word = |name, word: &str| {
            values(name).flat_map(|value| value.split(',')).any(|found| found.trim().eq_ignore_ascii_case(word))
        };
        let is_answer = has_word("upgrade", "websocket")
            && has_word("connection", "upgrade")
            && values("sec-websocket-accept").eq([&*self.accept])
            && values("sec-websocket-extensions").next().is_none()
            && values("sec-websocket-protocol").all(|chosen| self.subprotocols.iter().any(|offered| offered == chosen));
        Some(if is_answer { Answer::Accepted(length) } else { Answer::Invalid })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Time;
    use crate::client::{Action, Options, Session};

    fn upgrade() -> (Upgrade, String) {
        let url = "ws://game.example:81/ws/chess?password=x y";
        let mut session = Session::new(url, Options::default(), || 7).expect("an address");
        session.connect(Time::ZERO);
        let Some(Action::Connect(attempt)) = session.poll_action() else { panic!("an attempt") };
        // The key of RFC 6455 section 1.3.
        let (upgrade, request) = Upgrade::with_key(&attempt, Some("ann"), "dGhlIHNhbXBsZSBub25jZQ==");
        (upgrade, String::from_utf8(request).expect("ASCII"))
    }

    const ACCEPTED: &str = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: WebSocket\r\nConnection: keep-alive, upgrade\r\n\
         Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nSec-WebSocket-Protocol: lobby.v1.json\r\n\r\n";

    #[track_caller]
    fn check(answer: &str, expected: Option<Answer>) {
        assert_eq!(upgrade().0.answer(answer.as_bytes()), expected, "{answer}");
    }

    #[test]
    fn the_request_asks_for_the_lobby_with_the_token_as_a_subprotocol() {
        let (_, request) = upgrade();
        assert!(
            request.starts_with("GET /ws/chess?password=x%20y&session=00000000000000070000000000000007 HTTP/1.1\r\n")
        );
        for line in [
            "Host: game.example:81",
            "Connection: Upgrade",
            "Upgrade: websocket",
            "Sec-WebSocket-Version: 13",
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
            "Sec-WebSocket-Protocol: lobby.v1.json, base64url.bearer.lobby.YW5u",
        ] {
            assert!(request.contains(&format!("\r\n{line}\r\n")), "{line}: {request}");
        }
        assert!(request.ends_with("\r\n\r\n"));
    }

    #[test]
    fn an_answer_is_accepted_when_it_is_whole_and_what_follows_is_left() {
        for length in 0..ACCEPTED.len() {
            check(&ACCEPTED[..length], None);
        }
        check(&format!("{ACCEPTED}\u{1}\u{1}"), Some(Answer::Accepted(ACCEPTED.len())));
    }

    #[test]
    fn a_refusal_has_a_status_and_perhaps_a_time() {
        check("HTTP/1.1 404 Not Found\r\n\r\nno", Some(Answer::Refused(404, None)));
        let seven = Some(Duration::from_secs(7));
        check("HTTP/1.1 503 Busy\r\nretry-after: 7\r\n\r\n", Some(Answer::Refused(503, seven)));
        check(
            "HTTP/1.0 429 Busy\r\nRetry-After: Fri, 31 Dec 1999 23:59:59 GMT\r\n\r\n",
            Some(Answer::Refused(429, None)),
        );
    }

    #[test]
    fn what_does_not_answer_the_request_is_invalid() {
        for (from, to) in [
            ("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=", "s3pPLMBiTxaQ9kYGzzhZRbK+xOO="),
            ("Sec-WebSocket-Accept", "X"),
            ("Upgrade: WebSocket", "Upgrade: h2c"),
            ("keep-alive, upgrade", "keep-alive"),
            ("lobby.v1.json", "chat"),
            ("Sec-WebSocket-Protocol: lobby.v1.json", "Sec-WebSocket-Extensions: permessage-deflate"),
            ("HTTP/1.1", "SSH-2.0"),
        ] {
            check(&ACCEPTED.replace(from, to), Some(Answer::Invalid));
        }
        check(&format!("HTTP/1.1 101 OK\r\nX: {}", "x".repeat(MAX_HEAD)), Some(Answer::Invalid));
        check(&format!("HTTP/1.1 101 OK\r\n{}\r\n", "X: y\r\n".repeat(MAX_LINES + 1)), Some(Answer::Invalid));
    }
}
