//! Requests of model clients: upgrades that are valid or that the server must refuse, and health checks.
//!
//! Produces bytes only.

use data_encoding::BASE64URL_NOPAD;

use super::books::ReadPosition;
use super::link::HealthProbe;
use super::sessions::session_name;
use crate::base::random::Random;
use crate::sim::swarm::pick::pick;
use crate::sim::wire;

/// User names with characters that need escaping in JSON, in a query, or in both.
const AWKWARD: &[&str] = &["a\"b\\c", "zoë & co", "100%+1", "\u{1f3b2}"];

pub(crate) fn user_name(index: usize) -> String {
    match index.checked_sub(4).and_then(|index| AWKWARD.get(index)) {
        Some(&name) => name.into(),
        None => format!("user{index}"),
    }
}

/// Draws a line that offers to receive compressed messages, in one of the forms that browsers and libraries use.
pub(crate) fn draw_offer(random: &mut Random) -> String {
    let offer = pick(
        random,
        &[
            "permessage-deflate",
            "permessage-deflate; client_max_window_bits",
            "permessage-deflate; server_max_window_bits=12; client_max_window_bits=12",
            "permessage-deflate; server_max_window_bits=9",
            "permessage-deflate; server_no_context_takeover; client_no_context_takeover",
            "x-unknown; a=\"b\", permessage-deflate; unknown, permessage-deflate",
        ],
    );
    format!("Sec-WebSocket-Extensions: {offer}")
}

/// Returns an upgrade request that the server may accept, with these header lines and more. `claim` is the parameters that claim
/// a session, if any.
pub(crate) fn request(
    user: &str,
    lobby: &str,
    is_json: bool,
    mut lines: Vec<String>,
    claim: Option<&str>,
    random: &mut Random,
) -> Vec<u8> {
    let mut query: Vec<String> = claim.map(str::to_owned).into_iter().collect();
    match random.below(3) {
        0 if user.is_ascii() && !user.contains(' ') => lines.push(format!("Authorization: Bearer {user}")),
        1 if is_json => lines.push(format!(
            "Sec-WebSocket-Protocol: lobby.v1.json, base64url.bearer.lobby.{}",
            BASE64URL_NOPAD.encode(user.as_bytes())
        )),
        _ => {
            let token = user.bytes().map(|byte| format!("%{byte:02X}")).collect::<String>();
            query.push(format!("token={token}"));
        }
    }
    let mut target = format!("/ws/{lobby}");
    if !query.is_empty() {
        target.push('?');
        target.push_str(&query.join("&"));
    }
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    wire::upgrade_request(&target, &lines)
}

/// Returns a request for an event stream. A client that claims a position names it in the URL, or as the last event that it
/// has read, as an `EventSource` does.
pub(crate) fn events_request(
    user: &str,
    lobby: &str,
    proxied: Option<String>,
    claim: Option<&str>,
    random: &mut Random,
) -> Vec<u8> {
    let token = user.bytes().map(|byte| format!("%{byte:02X}")).collect::<String>();
    let mut lines: Vec<String> = proxied.into_iter().collect();
    let mut target = format!("/sse/{lobby}?token={token}");
    let (session, position) = match claim.map(|claim| claim.split_once("&epoch=").ok_or(claim)) {
        None => ("", None),
        Some(Err(session)) => (session, None),
        Some(Ok((session, position))) => (session, Some(position)),
    };
    if !session.is_empty() {
        target.push_str(&format!("&{session}"));
    }
    match position {
        Some(position) if random.percent(50) => target.push_str(&format!("&epoch={position}")),
        Some(position) => {
            let id = position.replace("&seq=", ".").replace("&n=", ".");
            lines.push(format!("Last-Event-ID: {id}"));
            // The URL stays the same when an EventSource connects again.
            if random.percent(50) {
                target.push_str("&epoch=1&seq=0&n=0");
            }
        }
        None => {}
    }
    let lines: String = lines.iter().map(|line| format!("{line}\r\n")).collect();
    format!("GET {target} HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n{lines}\r\n").into_bytes()
}

/// Returns a POST of messages for the event stream of a session.
pub(crate) fn post_request(user: &str, lobby: &str, session: &str, keeps: bool, body: &str) -> Vec<u8> {
    let token = user.bytes().map(|byte| format!("%{byte:02X}")).collect::<String>();
    let connection = if keeps { "" } else { "Connection: close\r\n" };
    format!(
        "POST /sse/{lobby}?token={token}&session={session} HTTP/1.1\r\nHost: a\r\n{connection}Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

/// Returns the parameters of a request that claim a session.
pub(crate) fn claim(session: u32, was: Option<u32>, position: Option<ReadPosition>) -> String {
    let mut claim = format!("session={}", session_name(session));
    if let Some(was) = was {
        claim.push_str(&format!("&was={}", session_name(was)));
    }
    if let Some(ReadPosition { epoch, seq, n }) = position {
        claim.push_str(&format!("&epoch={epoch}&seq={seq}&n={n}"));
    }
    claim
}

/// Returns parameters that claim a session and must be refused.
pub(crate) fn bad_claim(random: &mut Random) -> &'static str {
    pick(
        random,
        &[
            "session=short",
            "session=page-%2E%2E%2E%2E%2E%2E%2E%2E%2E%2E%2E",
            "session=page-00000000001&was=x",
            "session=page-00000000001&epoch=1&seq=2",
            "session=page-00000000001&epoch=1&seq=-2&n=0",
            "session=page-00000000001&epoch=9007199254740992&seq=2&n=0",
        ],
    )
}

/// Returns a valid upgrade request, written in another way that HTTP allows too.
pub(crate) fn oddly_written(request: &[u8], random: &mut Random) -> Vec<u8> {
    let mut text = String::from_utf8(request.to_vec()).expect("requests are ASCII");
    for (usual, odd) in [
        ("GET ", "\r\nGET "),
        (" HTTP/1.1\r\n", " HTTP/1.2\r\n"),
        ("Connection: Upgrade\r\n", "Connection: keep-alive\r\nconnection: x, UPGRADE\r\n"),
        ("Upgrade: websocket\r\n", "Upgrade: h2c\r\nUpgrade:WebSocket\t\r\n"),
        // The last letter has bits that belong to no byte.
        ("ZQ==\r\n", "Zf==\r\n"),
        ("\r\n\r\n", "\r\nContent-Length: 0\r\n\r\n"),
    ] {
        if random.percent(40) {
            text = text.replacen(usual, odd, 1);
        }
    }
    text.into_bytes()
}

/// Returns a health check, as load balancers send it.
pub(crate) fn probe(random: &mut Random) -> (Vec<u8>, HealthProbe) {
    let is_head_request = random.percent(50);
    let method = if is_head_request { "HEAD" } else { "GET" };
    let path = pick(random, &["/health", "/health/live", "/health/ready", "/health/ready?x=%zz"]);
    let rest = pick(random, &["HTTP/1.0\r\n", "HTTP/1.1\r\nHost: \r\n", "HTTP/1.9\r\nHost: [::1]:9001\r\n"]);
    let probe = HealthProbe { is_head_request, asks_ready: path != "/health/live" };
    (format!("{method} {path} {rest}\r\n").into_bytes(), probe)
}

/// Returns a request for a file of the program, which the server answers if it is configured to.
pub(crate) fn file_request(random: &mut Random) -> Vec<u8> {
    let path = pick(random, &["/", "/", "/lobby.js", "/lobby.js?v=1", "/playground.css"]);
    let line = pick(random, &["", "", "If-None-Match: *\r\n", "If-None-Match: \"1\"\r\n"]);
    format!("GET {path} HTTP/1.1\r\nHost: a\r\n{line}\r\n").into_bytes()
}

/// Returns an upgrade request that must be refused, and whether the server may accept the upgrade first and then refuse
/// with a close code, which a web page can read.
pub(crate) fn bad_request(random: &mut Random) -> (Vec<u8>, bool) {
    let bytes = match random.below(11) {
        0 => return (wire::upgrade_request("/ws/chess", &[]), true),
        1 => return (wire::upgrade_request("/ws/no!code?token=user0", &[]), true),
        2 => return (wire::upgrade_request("/ws/chess?token=%01", &[]), true),
        3 => return (wire::upgrade_request("/elsewhere?token=user0", &[]), true),
        4 => b"POST /ws/chess HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc".to_vec(),
        5 => wire::upgrade_request("/ws/chess?token=user0", &["Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="]),
        6 => b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(),
        7 => b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c".to_vec(),
        8 => b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
        9 => b"GET /ws/chess?token=user0 HTTP/1.1\r\nHost: user@a\r\n\r\n".to_vec(),
        _ => wire::upgrade_request(&format!("/ws/chess?token={}", "x".repeat(20_000)), &[]),
    };
    (bytes, false)
}
