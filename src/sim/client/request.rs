//! Upgrade requests of model clients: valid ones, and ones that the server must refuse.
//!
//! Produces bytes only.

use data_encoding::BASE64URL_NOPAD;

use crate::base::random::Random;
use crate::sim::wire;

/// User names with characters that need escaping in JSON, in a query, or in both.
const AWKWARD: &[&str] = &["a\"b\\c", "zoë & co", "100%+1", "\u{1f3b2}"];

pub(crate) fn user_name(index: usize) -> String {
    match index.checked_sub(4).and_then(|index| AWKWARD.get(index)) {
        Some(&name) => name.into(),
        None => format!("user{index}"),
    }
}

/// Returns an upgrade request that the server may accept.
pub(crate) fn request(user: &str, lobby: &str, is_json: bool, random: &mut Random) -> Vec<u8> {
    let mut lines = Vec::new();
    let mut target = format!("/ws/{lobby}");
    match random.below(3) {
        0 if user.is_ascii() && !user.contains(' ') => lines.push(format!("Authorization: Bearer {user}")),
        1 if is_json => lines.push(format!(
            "Sec-WebSocket-Protocol: lobby.v1.json, base64url.bearer.lobby.{}",
            BASE64URL_NOPAD.encode(user.as_bytes())
        )),
        _ => {
            target.push_str("?token=");
            user.bytes().for_each(|byte| target.push_str(&format!("%{byte:02X}")));
        }
    }
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    wire::upgrade_request(&target, &lines)
}

/// Returns a request for `/health/ready` or `/health/live`.
pub(crate) fn health_request(is_ready: bool) -> Vec<u8> {
    let path = if is_ready { "ready" } else { "live" };
    format!("GET /health/{path} HTTP/1.1\r\nHost: a\r\n\r\n").into_bytes()
}

/// Returns an upgrade request that must be refused, and whether the server may accept the upgrade first and then refuse
/// with a close code, which a web page can read.
pub(crate) fn bad_request(random: &mut Random) -> (Vec<u8>, bool) {
    let bytes = match random.below(9) {
        0 => return (wire::upgrade_request("/ws/chess", &[]), true),
        1 => return (wire::upgrade_request("/ws/no!code?token=user0", &[]), true),
        2 => return (wire::upgrade_request("/ws/chess?token=%01", &[]), false),
        3 => wire::upgrade_request("/elsewhere?token=user0", &[]),
        4 => b"GET / HTTP/1.1\r\nHost: a\r\n\r\n".to_vec(),
        5 => b"POST /ws/chess HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc".to_vec(),
        6 => wire::upgrade_request("/ws/chess?token=user0", &["Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="]),
        7 => b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(),
        _ => wire::upgrade_request(&format!("/ws/chess?token={}", "x".repeat(20_000)), &[]),
    };
    (bytes, false)
}
