//! HTTP as health checkers, proxies, load balancers and old clients send it, on the members' port.
//!
//! `tests/it/operators/admin/http.rs` has the same claims for the operators' port.

use lobbyd::Config;
use lobbyd::apps::{Relay, Verbatim};
use lobbyd::config::Origins;

use super::http::{GOOD, answer};
use crate::common::scenario::{World, check};

/// Returns the answer to `request`, which is the same whole and byte by byte.
#[track_caller]
fn ask(request: &[u8]) -> String {
    let whole = answer(Relay::default(), request, usize::MAX);
    assert_eq!(answer(Relay::default(), request, 1), whole, "byte by byte");
    String::from_utf8(whole.0).unwrap_or_else(|error| {
        // Frames follow the head.
        let bytes = error.into_bytes();
        let end = bytes.windows(4).position(|window| window == b"\r\n\r\n").expect("a head") + 4;
        String::from_utf8_lossy(&bytes[..end]).into_owned()
    })
}

/// Sends a request of these lines, which are separated by ` | `, and expects the status and words of the answer.
#[track_caller]
fn check_lines(lines: &str, status: u16, words: &str) {
    check_bytes((lines.replace(" | ", "\r\n") + "\r\n\r\n").as_bytes(), status, words);
}

#[track_caller]
fn check_bytes(request: &[u8], status: u16, words: &str) {
    let shown = request.escape_ascii();
    let answer = ask(request);
    assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{shown}\n{answer}");
    assert!(answer.contains(words), "{shown}\n{answer}");
}

/// Changes the valid upgrade request and expects the status and words of the answer.
#[track_caller]
fn check_upgrade(change: impl FnOnce(&mut Vec<&'static str>), status: u16, words: &str) {
    let mut lines = GOOD.to_vec();
    change(&mut lines);
    check_bytes((lines.join("\r\n") + "\r\n\r\n").as_bytes(), status, words);
}

#[test]
fn a_head_request_is_answered_as_a_get_without_the_body() {
    for path in ["/health", "/health/live", "/health/ready", "/ws/chess", "/elsewhere", "/ws/%zz", "/"] {
        let get = ask(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes());
        let head = ask(format!("HEAD {path} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes());
        let (expected, body) = get.split_once("\r\n\r\n").expect("a head");
        assert_eq!(head, format!("{expected}\r\n\r\n"), "{path}");
        assert!(head.contains(&format!("\r\nContent-Length: {}\r\n", body.len())), "{head}");
    }
    // Only a GET can be upgraded (RFC 6455 section 4.2.1), so a HEAD request is one without an upgrade.
    check_upgrade(|lines| lines[0] = "HEAD /ws/chess?token=ann HTTP/1.1", 426, "");
    check_lines("POST /health/live HTTP/1.1 | Host: a", 405, "\r\nAllow: GET, HEAD\r\n");
    let long = format!("HEAD / HTTP/1.1\r\nA: {}\r\n\r\n", "b".repeat(9000));
    assert!(ask(long.as_bytes()).ends_with("\r\n\r\n"), "a head that is too long is answered without a body too");
}

/// The statuses that the state of the server decides about.
#[test]
fn a_head_request_to_a_draining_server_gets_no_body() {
    let mut world = World::new(Config::default(), Relay::default());
    world.steps("drain\nann > open");
    world.steps("ann > raw HEAD /health/ready HTTP/1.1\\r\\nHost: a\\r\\n\\r\\n");
    assert_eq!(world.take("ann"), ["http 503", "eof"]);
    world.steps("bob > open\nbob > raw HEAD /ws/chess HTTP/1.1\\r\\nHost: a\\r\\n\\r\\n");
    assert_eq!(world.take("bob"), ["http 503", "eof"]);
}

#[test]
fn a_health_check_may_be_http_1_0_without_a_host() {
    for path in ["/health", "/health/live", "/health/ready"] {
        check_lines(&format!("GET {path} HTTP/1.0"), 200, "\r\nConnection: close\r\n");
        check_lines(&format!("HEAD {path} HTTP/1.0"), 200, "");
        check_lines(&format!("GET {path} HTTP/1.0 | Host: a"), 200, "");
        // A client that knows no name of the server sends an empty Host (RFC 9112 section 3.2).
        check_lines(&format!("GET {path} HTTP/1.1 | Host:"), 200, "");
        check_lines(&format!("GET {path} HTTP/1.1"), 400, "Host");
        check_lines(&format!("GET {path} HTTP/1.0 | Host: a | Host: a"), 400, "Host");
    }
    check_lines("GET /ws/chess HTTP/1.0 | Host: a", 505, "HTTP/1.1");
    check_lines("GET /elsewhere HTTP/1.0", 505, "HTTP/1.1");
}

#[test]
fn a_query_on_a_health_check_is_ignored() {
    for query in ["?", "?x=1", "?verbose", "?a=%zz&b=%00", "?token=ann"] {
        for path in ["/health", "/health/live", "/health/ready"] {
            check_lines(&format!("GET {path}{query} HTTP/1.1 | Host: a"), 200, "");
        }
    }
}

#[test]
fn a_later_minor_version_counts_as_1_1() {
    check_upgrade(|lines| lines[0] = "GET /ws/chess?token=ann HTTP/1.2", 101, "");
    check_upgrade(|lines| lines[0] = "GET /ws/chess?token=ann HTTP/1.9", 101, "");
    check_lines("HEAD /health/live HTTP/1.7 | Host: a", 200, "");
    check_lines("GET /health/live HTTP/1.2", 400, "Host");
    check_lines("GET /health/live HTTP/1.2 | no colon", 400, "well-formed");
    check_lines("GET  /health/live HTTP/1.2 | Host: a", 400, "well-formed");
    check_lines("GET /health/l\x7five HTTP/1.2 | Host: a", 400, "well-formed");
    check_lines("G,T /health/live HTTP/1.2 | Host: a", 400, "well-formed");
    for version in ["2.0", "0.9", "3.1", "9.9"] {
        check_lines(&format!("GET /health/live HTTP/{version} | Host: a"), 505, "HTTP/1.1");
    }
    for version in ["1.10", "1", "1.", "1.x", "01.1", "1.1x"] {
        check_lines(&format!("GET /health/live HTTP/{version} | Host: a"), 400, "well-formed");
    }
}

#[test]
fn one_empty_line_before_a_request_is_ignored() {
    let good = GOOD.join("\r\n") + "\r\n\r\n";
    check_bytes(format!("\r\n{good}").as_bytes(), 101, "");
    check_bytes(b"\r\nGET /health/live HTTP/1.1\r\nHost: a\r\n\r\n", 200, "");
    check_bytes(b"\r\nHEAD /health/live HTTP/1.1\r\nHost: a\r\n\r\n", 200, "");
    check_bytes(format!("\r\n\r\n{good}").as_bytes(), 400, "empty line");
    check_bytes(b"\n", 400, "HTTP/1.1");
    check_bytes(format!("\n{good}").as_bytes(), 400, "HTTP/1.1");
    check_bytes(format!("\r{good}").as_bytes(), 400, "HTTP/1.1");
    check_bytes(b"\r\n\r\r", 400, "HTTP/1.1");
    // Nothing is answered before it is known what follows.
    for incomplete in [&b"\r"[..], b"\r\n", b"\r\n\r", b"\r\n\r\n", b"\x16", b"PROX"] {
        assert_eq!(answer(Relay::default(), incomplete, usize::MAX), (Vec::new(), false));
    }
}

#[test]
fn the_first_bytes_of_other_protocols_are_named() {
    for hello in [&b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..], b"\x16\x03\x03"] {
        check_bytes(hello, 400, "TLS");
    }
    check_bytes(b"PROXY TCP4 192.0.2.1 192.0.2.2 56324 443\r\n", 400, "PROXY protocol");
    check_bytes(b"PROXY UNKNOWN\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", 400, "PROXY protocol");
    check_bytes(b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c\x7f\0\0\x01\x7f\0\0\x01\0\x50\0\x50", 400, "PROXY protocol");
    check_bytes(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505, "HTTP/2");
    for other in [&b"\x16\x02\x01"[..], b"\0", b"\x81\x85aaaa", b"hello?\r\n", b"\r\n\r\n\0\r\nQUIET"] {
        let text = ask(other);
        assert!(text.starts_with("HTTP/1.1 400 "), "{text}");
        assert!(!text.contains("TLS") && !text.contains("PROXY") && !text.contains("HTTP/2"), "{text}");
    }
    check_lines("PROXYING /ws/chess HTTP/1.1 | Host: a", 405, "");
}

/// Returns the values of the lines `Date`.
fn dates(answer: &str) -> Vec<&str> {
    answer.split("\r\n").filter_map(|line| line.strip_prefix("Date: ")).collect()
}

/// [`START`](crate::common::scenario::START) is 1,000,000 seconds after the epoch.
#[test]
fn every_answer_has_a_date() {
    let good = GOOD.join("\r\n") + "\r\n\r\n";
    let long = format!("GET /{} HTTP/1.1\r\n", "x".repeat(9000));
    for request in [
        &good,
        "GET /health/live HTTP/1.1\r\nHost: a\r\n\r\n",
        "HEAD /health/live HTTP/1.0\r\n\r\n",
        "GET /elsewhere HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /ws/chess HTTP/1.1\r\nHost: a\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET / HTTP/3.0\r\n\r\n",
        "\x16\x03\x01",
        "hello",
        &long,
    ] {
        assert_eq!(dates(&ask(request.as_bytes())), ["Mon, 12 Jan 1970 13:46:40 GMT"], "{request}");
    }
}

#[test]
fn the_date_follows_the_wall_clock() {
    let mut world = World::new(Config::default(), Relay::default());
    let date = |world: &mut World<Relay>, seconds: u64| {
        world.engine.handle_wall_time(world.now, seconds * 1_000_000 + 999_999);
        world.open("x");
        world.send("x", b"GET /health/live HTTP/1.1\r\nHost: a\r\n\r\n");
        world.engine.flush(&mut world.sockets).expect("the session is not recorded");
        let bytes: Vec<u8> = world.sockets.take_writes().into_iter().flat_map(|write| write.bytes).collect();
        world.hangup("x");
        world.flush();
        let text = String::from_utf8(bytes).expect("ASCII");
        dates(&text).join(" ")
    };
    // The example of RFC 9110 section 5.6.7, leap days, and the last second of a year.
    for (seconds, expected) in [
        (784_111_777, "Sun, 06 Nov 1994 08:49:37 GMT"),
        (951_782_400, "Tue, 29 Feb 2000 00:00:00 GMT"),
        (1_709_164_799, "Wed, 28 Feb 2024 23:59:59 GMT"),
        (4_107_542_399, "Sun, 28 Feb 2100 23:59:59 GMT"),
        (4_107_542_400, "Mon, 01 Mar 2100 00:00:00 GMT"),
        (253_402_300_799, "Fri, 31 Dec 9999 23:59:59 GMT"),
        // The format has four digits for the year.
        (253_402_300_800, ""),
        (0, "Thu, 01 Jan 1970 00:00:00 GMT"),
    ] {
        assert_eq!(date(&mut world, seconds), expected, "{seconds}");
    }
}

/// The request line has the bound of the whole head, `max_header_bytes`.
#[test]
fn a_target_that_is_too_long_gets_414_and_long_headers_431() {
    let line = |length: usize| format!("GET /{} HTTP/1.1\r\n", "x".repeat(length - 16));
    check_bytes(line(8193).as_bytes(), 414, "8192 bytes");
    check_bytes(line(100_000).as_bytes(), 414, "8192 bytes");
    check_bytes(format!("\r\n{}", line(8191)).as_bytes(), 414, "8192 bytes");
    check_bytes((line(8000) + "Host: a\r\nA: " + &"b".repeat(400)).as_bytes(), 431, "8192 bytes");
    check_bytes(format!("GET / HTTP/1.1\r\nA: {}", "b".repeat(8192)).as_bytes(), 431, "8192 bytes");
    check_bytes((line(8192 - 11) + "Host: a\r\n\r\n").as_bytes(), 404, "");
}

#[test]
fn a_host_that_is_none_is_refused() {
    for host in [
        "game.example",
        "game.example:9001",
        "game.example:",
        "127.0.0.1:9001",
        "[::1]",
        "[2001:db8::7]:9001",
        "a_b-c.~d",
        "%C3%BC.example",
        "x!$&'()*+,;=y",
    ] {
        check_lines(&format!("GET /ws/a HTTP/1.1 | Host: {host}"), 426, "");
    }
    for host in [
        "",
        " ",
        ":9001",
        "a b",
        "user@a",
        "a/b",
        "a?b",
        "a#b",
        "http://a",
        "a:b",
        "a:1:2",
        "a:+1",
        "::1",
        "[::1",
        "[::1]9001",
        "[127.0.0.1]",
        "[]",
        "a[b]",
        "%zz",
        "a%2",
        "zoë",
        "\u{a0}a",
        "a\"b",
        "a<b>",
        "a\\b",
    ] {
        check_lines(&format!("GET /ws/a HTTP/1.1 | Host: {host}"), 400, "Host");
        if !host.trim().is_empty() {
            check_lines(&format!("GET /health/live HTTP/1.1 | Host: {host}"), 400, "Host");
        }
    }
}

#[test]
fn a_list_may_be_spread_over_several_lines() {
    check_upgrade(|lines| lines.insert(3, "Connection: keep-alive"), 101, "");
    check_upgrade(|lines| lines.push("Connection: close"), 101, "");
    check_upgrade(|lines| lines.insert(2, "Upgrade: h2c"), 101, "");
    check_lines("GET /health/live HTTP/1.1 | Host: a | Connection: keep-alive | Connection: close", 200, "");
}

#[test]
fn an_empty_body_is_no_body() {
    check_upgrade(|lines| lines.push("Content-Length: 0"), 101, "");
    check_upgrade(|lines| lines.push("Content-Length: 00"), 101, "");
    check_lines("GET /health/live HTTP/1.1 | Host: a | Content-Length: 0", 200, "");
    check_lines("GET /ws/chess HTTP/1.1 | Host: a | Content-Length: 0", 426, "");
    for value in ["1", "-0", "+0", "0, 0", "0x0", "", "0 0", "0;", "00000000000000000000000000000001"] {
        check_lines(&format!("GET /health/live HTTP/1.1 | Host: a | Content-Length: {value}"), 400, "body");
    }
    check_lines("GET /health/live HTTP/1.1 | Host: a | Content-Length: 0 | Content-Length: 0", 400, "body");
    check_lines("GET /health/live HTTP/1.1 | Host: a | Content-Length: 0 | Transfer-Encoding: chunked", 400, "body");
}

/// The value of `Sec-WebSocket-Accept` is computed from the key as it was sent.
#[test]
fn a_key_with_stray_bits_in_its_last_letter_is_accepted() {
    for key in ["dGhlIHNhbXBsZSBub25jZR==", "dGhlIHNhbXBsZSBub25jZf==", "AAAAAAAAAAAAAAAAAAAAAP=="] {
        let accept = tungstenite::handshake::derive_accept_key(key.as_bytes());
        let request = GOOD[..5].join("\r\n") + "\r\nSec-WebSocket-Key: " + key + "\r\n\r\n";
        check_bytes(request.as_bytes(), 101, &format!("\r\nSec-WebSocket-Accept: {accept}\r\n"));
    }
    for key in
        ["dGhlIHNhbXBsZSBub25jZR=", "dGhlIHNhbXBsZSBub25jZR===", "dGhlIHNhbXBsZSBub25jZ===", "dGhl=HNhbXBsZSBub25jZQ=="]
    {
        let request = GOOD[..5].join("\r\n") + "\r\nSec-WebSocket-Key: " + key + "\r\n\r\n";
        check_bytes(request.as_bytes(), 400, "Sec-WebSocket-Key");
    }
}

#[test]
fn a_request_may_have_100_header_lines() {
    check_upgrade(|lines| lines.extend(["A: b"; 95]), 101, "");
    check_upgrade(|lines| lines.extend(["A: b"; 96]), 431, "100 header lines");
}

/// A browser hides the status of a refused upgrade, so a page could not read a 404.
#[test]
fn an_upgrade_to_an_unknown_path_is_closed_with_a_code() {
    // Browsers send a `%` as it was written.
    for target in
        ["/", "/ws", "/ws/a/b", "/favicon.ico", "/WS/chess?token=ann", "/ws/100%?token=ann", "/ws/%ff", "/%00"]
    {
        check(
            Config::default(),
            &format!(
                "ann > get {target} Sec-WebSocket-Protocol: lobby.v1.json\n\
                 ann < upgrade lobby.v1.json, goodbye code=4007 reason=bad_lobby_code reconnect=false, close 4007 bad_lobby_code"
            ),
        );
    }
    // Without a query that can be decoded there is no token in it.
    check(
        Config::default(),
        "ann > get /ws/chess?token=50%\nann < upgrade, goodbye code=4001, close 4001 unauthorized",
    );
    // Applications without JSON get the close code alone.
    let mut world = World::new(Config::default(), Verbatim::default());
    world.run("ann > get /elsewhere\nann < upgrade, close 4007 bad_lobby_code");
    // A page of a foreign origin does not learn which paths exist.
    let config = Config { allowed_origin: Origins::default(), ..Config::default() };
    check(
        config,
        "ann > get /elsewhere Origin: https://evil.example\nann < upgrade, goodbye code=4003, close 4003 forbidden_origin",
    );
    // What is no valid upgrade keeps its status.
    check_lines("GET /elsewhere HTTP/1.1 | Host: a", 404, "nothing here");
    check_upgrade(|lines| (lines[0], lines[5]) = ("GET /elsewhere HTTP/1.1", "Sec-WebSocket-Key: x"), 404, "");
    check_upgrade(
        |lines| {
            lines[0] = "GET /elsewhere HTTP/1.1";
            lines.push("Sec-WebSocket-Protocol: chat");
        },
        404,
        "",
    );
}
