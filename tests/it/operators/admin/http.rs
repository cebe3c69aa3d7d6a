//! HTTP as health checkers, proxies, load balancers and old clients send it, on the operators' port.
//!
//! `tests/it/protocol/http_clients.rs` has the same claims for the members' port.

use std::time::Duration;

use lobbyd::apps::Relay;

use super::{config, get, operator, post};
use crate::common::scenario::World;

/// Sends `request` on a connection of its own, in pieces of `step` bytes with a turn after each. Returns all that is
/// answered.
fn ask_in_pieces(request: &[u8], step: usize) -> String {
    let mut world = World::new(config(), Relay::default());
    let mut operator = operator(&config());
    let mut answers = String::new();
    for piece in request.chunks(step) {
        operator.conns.handle_bytes(operator.client, piece);
        answers += &operator.turn(&mut world);
    }
    while operator.conns.poll_timeout() == Some(lobbyd::Time::ZERO) {
        answers += &operator.turn(&mut world);
    }
    answers
}

/// The same, whole and byte by byte, which must give the same answers.
#[track_caller]
fn ask(request: &[u8]) -> String {
    let whole = ask_in_pieces(request, usize::MAX);
    assert_eq!(ask_in_pieces(request, 1), whole, "byte by byte");
    whole
}

#[track_caller]
fn check_bytes(request: &[u8], status: u16, words: &str) {
    let answer = ask(request);
    let shown = request.escape_ascii();
    assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{shown}\n{answer}");
    assert!(answer.contains(words), "{shown}\n{answer}");
}

/// Sends a request of these lines, which are separated by ` | `, and expects the status and words of the answer.
#[track_caller]
fn check(lines: &str, status: u16, words: &str) {
    check_bytes((lines.replace(" | ", "\r\n") + "\r\n\r\n").as_bytes(), status, words);
}

#[test]
fn a_head_request_is_answered_as_a_get_without_the_body() {
    for path in ["/health", "/health/live", "/stats", "/lobbies", "/lobbies/none", "/nothing", "/lobbies?x=1", "/kick"]
    {
        let whole = ask(get(path).as_bytes());
        let head = ask(get(path).replace("GET", "HEAD").as_bytes());
        let (expected, body) = whole.split_once("\r\n\r\n").expect("a head");
        assert_eq!(head, format!("{expected}\r\n\r\n"), "{path}");
        assert!(head.contains(&format!("\r\nContent-Length: {}\r\n", body.len())), "{head}");
    }
    // Also if the request is never completed, or begins with an empty line.
    for request in ["HEAD /stats HTTP/1.1\r\n", "\r\nHEAD /stats HTTP/1.1\r\nno colon\r\n\r\n"] {
        let mut world = World::new(config(), Relay::default());
        let mut operator = operator(&config());
        operator.conns.handle_bytes(operator.client, request.as_bytes());
        let mut answer = operator.turn(&mut world);
        world.advance(Duration::from_secs(30));
        answer += &operator.turn(&mut world);
        assert!(answer.starts_with("HTTP/1.1 40") && answer.ends_with("\r\n\r\n"), "{answer}");
    }
}

/// Load balancers send the address of the server as `Host`, a name of their own, or none.
#[test]
fn a_health_check_needs_no_host_of_this_server() {
    for path in ["/health", "/health/live", "/health/ready"] {
        check(&format!("GET {path} HTTP/1.0"), 200, "\r\nConnection: close\r\n");
        check(&format!("GET {path} HTTP/1.1 | Host: 10.1.2.3:9002"), 200, "");
        check(&format!("GET {path} HTTP/1.1 | Host: balancer.example"), 200, "");
        check(&format!("GET {path} HTTP/1.1 | Host:"), 200, "");
        check(&format!("GET {path} HTTP/1.1"), 400, "Host");
        check(&format!("GET {path} HTTP/1.1 | Host: a | Host: a"), 400, "host");
        check(&format!("GET {path} HTTP/1.1 | Host: localhost | Origin: https://evil.example"), 403, "foreign_origin");
    }
    check("GET /stats HTTP/1.0", 400, "Host");
    check("GET /stats HTTP/1.1 | Host: 10.1.2.3:9002", 403, "foreign_host");
    check("GET /health/nothing HTTP/1.1 | Host: balancer.example", 403, "foreign_host");
    check("GET /healthy HTTP/1.1 | Host: balancer.example", 403, "foreign_host");
}

#[test]
fn a_host_that_is_none_is_refused() {
    for host in ["user@localhost", "a b", "localhost/", "::1", "[::1", "localhost:x", "[]", "a,b c", "%zz"] {
        check(&format!("GET /stats HTTP/1.1 | Host: {host}"), 400, "Host");
        check(&format!("GET /health/live HTTP/1.1 | Host: {host}"), 400, "Host");
    }
    check("GET /stats HTTP/1.1 | Host:", 400, "Host");
    check("GET /stats HTTP/1.1 | Host: [::1]:9002", 200, "");
}

#[test]
fn a_query_on_a_health_check_is_ignored() {
    for query in ["?x=1", "?limit=0", "?verbose", "?%zz"] {
        check(&format!("GET /health/ready{query} HTTP/1.1 | Host: localhost"), 200, "ready");
        check(&format!("GET /health{query} HTTP/1.1 | Host: localhost"), 200, "ready");
        check(&format!("GET /stats{query} HTTP/1.1 | Host: localhost"), 400, "");
    }
}

#[test]
fn a_later_minor_version_counts_as_1_1() {
    check("GET /stats HTTP/1.2 | Host: localhost", 200, "\r\nConnection: keep-alive\r\n");
    check("GET /stats HTTP/1.2", 400, "Host");
    check("GET /stats HTTP/1.2 | no colon", 400, "well-formed");
    check("GET /stats HTTP/2.0 | Host: localhost", 505, "HTTP/1.1");
    check("GET /stats HTTP/1.10 | Host: localhost", 400, "well-formed");
}

#[test]
fn one_empty_line_before_each_request_is_ignored() {
    let three = format!("\r\n{}\r\n{}\r\n{}", get("/health/live"), post("/kick", "{}"), get("/lobbies"));
    let answers = ask(three.as_bytes());
    assert_eq!(answers.matches("HTTP/1.1 200 OK\r\n").count(), 3, "{answers}");
    check_bytes(format!("\r\n\r\n{}", get("/stats")).as_bytes(), 400, "empty line");
    let again = ask(format!("{}\r\n\r\n{}", get("/stats"), get("/stats")).as_bytes());
    assert!(again.contains("HTTP/1.1 400 ") && again.matches("HTTP/1.1 ").count() == 2, "{again}");
}

/// Some old clients send an empty line after a body. It begins no request.
#[test]
fn an_idle_connection_with_an_empty_line_is_closed_without_an_answer() {
    let mut world = World::new(config(), Relay::default());
    let mut operator = operator(&config());
    operator.ask(&mut world, &get("/health/live"));
    operator.conns.handle_bytes(operator.client, b"\r\n");
    assert_eq!(operator.turn(&mut world), "");
    world.advance(Duration::from_secs(31));
    assert_eq!(operator.turn(&mut world), "");
    assert!(operator.is_closed());
}

#[test]
fn the_first_bytes_of_other_protocols_are_named() {
    check_bytes(b"\x16\x03\x01\x02\x00", 400, "TLS");
    check_bytes(b"PROXY TCP4 192.0.2.1 192.0.2.2 56324 443\r\n", 400, "PROXY protocol");
    check_bytes(b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c", 400, "PROXY protocol");
    check_bytes(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505, "HTTP/2");
    for other in [&b"\x16\x02"[..], b"\0", b"hello\r\n", b"\n"] {
        let answer = ask(other);
        assert!(answer.starts_with("HTTP/1.1 400 ") && !answer.contains("TLS"), "{answer}");
    }
}

#[test]
fn every_answer_has_a_date() {
    let long = format!("GET /{} HTTP/1.1\r\n", "x".repeat(9000));
    for request in [
        &get("/health/live"),
        &get("/nothing"),
        &get("/health/live").replace("GET", "HEAD"),
        &post("/lobbies/none/lock", ""),
        "GET /stats HTTP/1.1\r\n\r\n",
        "\x16\x03\x01",
        &long,
    ] {
        let answer = ask(request.as_bytes());
        assert_eq!(answer.matches("\r\nDate: Mon, 12 Jan 1970 13:46:40 GMT\r\n").count(), 1, "{answer}");
    }
    // The answer to a request that was not completed in time has the date of the answer.
    let mut world = World::new(config(), Relay::default());
    let mut operator = operator(&config());
    operator.conns.handle_bytes(operator.client, b"GET /sta");
    assert_eq!(operator.turn(&mut world), "");
    world.advance(Duration::from_secs(30));
    let answer = operator.turn(&mut world);
    assert!(answer.contains("408 ") && answer.contains("\r\nDate: Mon, 12 Jan 1970 13:47:10 GMT\r\n"), "{answer}");
}

#[test]
fn a_target_that_is_too_long_gets_414_and_long_headers_431() {
    check_bytes(format!("GET /{} HTTP/1.1\r\n", "x".repeat(8192)).as_bytes(), 414, "8192 bytes");
    check_bytes(format!("GET / HTTP/1.1\r\nA: {}", "b".repeat(8192)).as_bytes(), 431, "8192 bytes");
}

#[test]
fn a_list_may_be_spread_over_several_lines() {
    let closes = "\r\nConnection: close\r\n";
    check("GET /stats HTTP/1.1 | Host: localhost | Connection: keep-alive | Connection: close", 200, closes);
    check("GET /stats HTTP/1.1 | Host: localhost | Connection: keep-alive | Connection: x, CLOSE", 200, closes);
    check("GET /stats HTTP/1.1 | Host: localhost | Connection: x | Connection: keep-alive", 200, "keep-alive");
    check("GET /stats HTTP/1.1 | Host: localhost | Transfer-Encoding: gzip | Transfer-Encoding: chunked", 411, "");
}

#[test]
fn an_empty_body_is_no_body() {
    check("GET /stats HTTP/1.1 | Host: localhost | Content-Length: 0", 200, "");
    check("HEAD /stats HTTP/1.1 | Host: localhost | Content-Length: 0", 200, "");
}

#[test]
fn a_request_may_have_100_header_lines() {
    check(&format!("GET /stats HTTP/1.1 | Host: localhost{}", " | A: b".repeat(99)), 200, "");
    check(&format!("GET /stats HTTP/1.1 | Host: localhost{}", " | A: b".repeat(100)), 431, "");
}
