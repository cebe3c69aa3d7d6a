//! Requests that are upgraded, and those that are refused.

use super::*;
use crate::http::DateLine;

const GOOD: &[&str] = &[
    "GET /ws/chess?token=ann HTTP/1.1",
    "Host: a:1",
    "Upgrade: websocket",
    "Connection: Upgrade",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Version: 13",
];

/// Returns the status of the response and its text: for 101 the subprotocol and the token, otherwise the sentence.
fn answer(lines: &[&str], subprotocols: Subprotocols) -> (u16, String) {
    let head = lines.join("\r\n") + "\r\n\r\n";
    let conn = ConnId::new(0, 0).expect("both fit");
    let peer = Peer::from(([127, 0, 0, 1], 9));
    let forwarded_header = ForwardedHeader::XForwardedFor;
    let params = ReadParams {
        conn,
        peer,
        max_headers: 16,
        trusted_proxies: 0,
        forwarded_header,
        subprotocols,
        has_sessions: true,
        has_entries: true,
        max_body_bytes: Some(100),
        has_list: true,
        has_deflate: true,
    };
    let decided = read(head.as_bytes(), &params, |request, form| {
        // No parameter of a query that cannot be decoded is there.
        assert_eq!(request.query("x").is_some(), head.contains("?x=1"));
        form.map(|form| {
            let Acceptance::WebSocket(upgrade) = form else { return (200, format!("{form:?}")) };
            let response = String::from_utf8(upgrade.response(DateLine::NONE).to_vec()).expect("ASCII");
            assert!(
                response.contains("Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"),
                "RFC 6455 section 1.3"
            );
            (101, format!("{:?} {:?}", upgrade.subprotocol, request.token()))
        })
    });
    match decided.and_then(|inner| inner) {
        Ok(answer) => answer,
        Err(refusal) => (refusal.status(), refusal.sentence().to_owned()),
    }
}

#[track_caller]
fn check_with(change: impl FnOnce(&mut Vec<&'static str>), expected: (u16, &str)) {
    let mut lines = GOOD.to_vec();
    change(&mut lines);
    let (status, text) = answer(&lines, Subprotocols::Only("lobby.v1.json"));
    assert_eq!(status, expected.0, "{text}");
    assert!(text.contains(expected.1), "{text}");
}

#[test]
fn valid_requests_are_upgraded() {
    check_with(|_| {}, (101, r#"None Some("ann")"#));
    check_with(|l| l[2] = "upgrade:   WebSocket  ", (101, ""));
    check_with(|l| l[3] = "connection: keep-alive, UPGRADE", (101, ""));
    check_with(|l| l.insert(3, "Connection: keep-alive"), (101, ""));
    check_with(|l| l[0] = "GET /ws/a%2Db?x=1&token=a%26b+c&token=z HTTP/1.1", (101, r#"Some("a&b c")"#));
}

#[test]
fn invalid_requests_are_refused_with_the_remedy() {
    check_with(|l| l[0] = "POST /ws/a HTTP/1.1", (405, "GET"));
    check_with(|l| l[0] = "GET /ws/a HTTP/1.0", (505, "HTTP/1.1"));
    check_with(|l| l[0] = "GET http://a/ws/a HTTP/1.1", (400, "path"));
    // An upgrade is accepted first.
    check_with(|l| (l[0], l[2]) = ("GET /ws/%zz HTTP/1.1", "X: y"), (400, "percent-encoded"));
    check_with(|l| (l[0], l[2]) = ("GET /ws/%00 HTTP/1.1", "X: y"), (400, "percent-encoded"));
    check_with(|l| (l[0], l[2]) = ("GET /ws/a?token=%ff HTTP/1.1", "X: y"), (400, "query"));
    check_with(|l| l[0] = "GET /ws/a?token=%ff HTTP/1.1", (101, "None None"));
    check_with(|l| l[1] = "X: y", (400, "Host"));
    check_with(|l| l.push("Host: b"), (400, "Host"));
    check_with(|l| l[2] = "X: y", (426, "WebSocket endpoint"));
    check_with(|l| l[3] = "Connection: close", (426, "WebSocket endpoint"));
    check_with(|l| l[4] = "Sec-WebSocket-Key: short", (400, "16 bytes"));
    check_with(|l| l.push("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="), (400, "exactly one"));
    check_with(|l| l[5] = "Sec-WebSocket-Version: 8", (426, "13"));
    check_with(|l| l.push("Sec-WebSocket-Version: 13"), (426, "once"));
    check_with(|l| l.push("Content-Length: 1"), (400, "body"));
    check_with(|l| l.push("Transfer-Encoding: chunked"), (400, "body"));
    check_with(|l| l.extend(["A: b"; 20]), (431, "16 header lines"));
    check_with(|l| l.push("no colon"), (400, "well-formed"));
}

#[test]
fn token_sources_have_an_order_of_precedence() {
    let bearer = "Sec-WebSocket-Protocol: lobby.v1.json, base64url.bearer.lobby.Ym9i";
    check_with(|l| l.push(bearer), (101, r#"Some("lobby.v1.json") Some("bob")"#));
    check_with(|l| l.extend([bearer, "Authorization: bearer cid"]), (101, r#"Some("cid")"#));
    check_with(|l| l.push("Authorization: Basic x"), (101, r#"Some("ann")"#));
}

#[test]
fn only_supported_subprotocols_are_selected() {
    check_with(|l| l.push("Sec-WebSocket-Protocol: chat"), (400, "lobby.v1.json"));
    check_with(|l| l.push("Sec-WebSocket-Protocol: base64url.bearer.lobby.Ym9i"), (400, "lobby.v1.json"));
    check_with(|l| l.push("Sec-WebSocket-Protocol: chat, lobby.v1.json"), (101, r#"Some("lobby.v1.json")"#));
    let mut lines = GOOD.to_vec();
    lines.push("Sec-WebSocket-Protocol: base64url.bearer.lobby.Ym9i, chat");
    assert_eq!(answer(&lines, Subprotocols::Any), (101, r#"Some("chat") Some("bob")"#.into()));
}
