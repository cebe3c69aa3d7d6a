//! HTTP answers to requests that are not valid WebSocket upgrades.

use lobbyd::apps::{Echo, Relay};
use lobbyd::sim::MemorySockets;
use lobbyd::sim::wire::{self, Reader, Received};
use lobbyd::{App, Config};

use crate::common::scenario::World;

pub(super) const GOOD: &[&str] = &[
    "GET /ws/chess?token=ann HTTP/1.1",
    "Host: localhost",
    "Upgrade: websocket",
    "Connection: Upgrade",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
];

/// Sends `bytes` in pieces of `step`. Returns the answer and whether the server has finished with the connection.
pub(super) fn answer<A: App>(app: A, bytes: &[u8], step: usize) -> (Vec<u8>, bool) {
    let mut engine = lobbyd::Engine::new(
        Config::default().check().expect("the configuration is valid"),
        crate::common::scenario::START,
        app,
    );
    let now = lobbyd::Time::ZERO;
    let conn = engine.handle_accept(now, ([127, 0, 0, 1], 4000).into()).expect("there is room");
    let mut sockets = MemorySockets::default();
    for piece in bytes.chunks(step) {
        engine.handle_bytes(now, conn, piece);
        engine.flush(&mut sockets).expect("the session is not recorded");
    }
    engine.check();
    (sockets.written(conn), sockets.is_shut_down(conn))
}

/// Changes the valid request and expects the status `status`, the header `lines` and a one-line body that contains `words`.
/// The answer must be the same for the whole request and byte by byte.
#[track_caller]
fn check(change: impl FnOnce(&mut Vec<&'static str>), status: u16, lines: &[&str], words: &str) {
    let mut request = GOOD.to_vec();
    change(&mut request);
    check_bytes((request.join("\r\n") + "\r\n\r\n").as_bytes(), status, lines, words);
}

fn without(lines: &mut Vec<&str>, line: usize) {
    lines.remove(line);
}

#[track_caller]
fn check_bytes(request: &[u8], status: u16, lines: &[&str], words: &str) {
    let (whole, finished) = answer(Relay::default(), request, usize::MAX);
    assert_eq!(answer(Relay::default(), request, 1), (whole.clone(), finished), "byte by byte");
    assert!(finished, "nothing follows an answer");
    let mut reader = Reader::default();
    reader.push(&whole);
    let (head, body) = match (reader.next(), reader.next()) {
        (Ok(Some(Received::Answer(got, head))), Ok(Some(Received::Body(body)))) => {
            assert_eq!(got, status, "{head}{body}");
            (head, body)
        }
        other => panic!("no answer: {other:?}"),
    };
    for line in lines {
        assert!(head.contains(&format!("\r\n{line}\r\n")), "{line} is missing in {head}");
    }
    assert!(head.contains("\r\nContent-Type: text/plain; charset=utf-8\r\n"), "{head}");
    assert!(head.contains(&format!("\r\nContent-Length: {}\r\n", body.len())), "{head}");
    assert!(body.contains(words) && body.ends_with('\n') && body.lines().count() == 1, "{body:?}");
}

#[test]
fn a_valid_upgrade_request_is_accepted() {
    #[track_caller]
    fn check_granted(change: impl FnOnce(&mut Vec<&'static str>)) {
        let mut request = GOOD.to_vec();
        change(&mut request);
        let request = request.join("\r\n") + "\r\n\r\n";
        let (whole, finished) = answer(Relay::default(), request.as_bytes(), usize::MAX);
        let head = "HTTP/1.1 101 Switching Protocols\r\nDate: Mon, 12 Jan 1970 13:46:40 GMT\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                    Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
        assert!(whole.starts_with(head.as_bytes()), "{}", String::from_utf8_lossy(&whole));
        assert!(!finished);
        for step in 1..5 {
            assert_eq!(answer(Relay::default(), request.as_bytes(), step).0, whole);
        }
    }
    check_granted(|_| {});
    check_granted(|lines| lines[2] = "uPGRADE: WebSocket");
    check_granted(|lines| lines[3] = "Connection: keep-alive, upgrade");
    check_granted(|lines| lines.push("Connection: keep-alive"));
    check_granted(|lines| lines.push("Sec-WebSocket-Extensions: permessage-deflate"));
    check_granted(|lines| lines[0] = "GET /ws/%63hess?token=ann HTTP/1.1");
    // Tabs and spaces around a value are not part of it.
    check_granted(|lines| lines[5] = "Sec-WebSocket-Key:\t dGhlIHNhbXBsZSBub25jZQ== ");
}

#[test]
fn a_request_without_upgrade_gets_426() {
    let upgrade = ["Upgrade: websocket", "Sec-WebSocket-Version: 13", "Connection: upgrade, close"];
    check(|lines| without(lines, 2), 426, &upgrade, "WebSocket");
    check(|lines| without(lines, 3), 426, &upgrade, "WebSocket");
    check(|lines| lines[2] = "Upgrade: h2c", 426, &upgrade, "WebSocket");
    check(|lines| lines[3] = "Connection: keep-alive", 426, &upgrade, "WebSocket");
    check(|lines| without(lines, 4), 426, &upgrade, "13");
    check(|lines| lines[4] = "Sec-WebSocket-Version: 8", 426, &upgrade, "13");
    check(|lines| lines[4] = "Sec-WebSocket-Version: 13, 8", 426, &upgrade, "13");
    check_bytes(b"GET /ws/chess HTTP/1.1\r\nHost: a\r\n\r\n", 426, &upgrade, "WebSocket");
}

#[test]
fn a_bad_key_is_refused() {
    let close = ["Connection: close"];
    check(|lines| without(lines, 5), 400, &close, "Sec-WebSocket-Key");
    for key in [
        "Sec-WebSocket-Key: ",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZQ==",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ",
        "Sec-WebSocket-Key: !GhlIHNhbXBsZSBub25jZQ==",
    ] {
        check(|lines| lines[5] = key, 400, &close, "Sec-WebSocket-Key");
    }
    check(|lines| lines.push(GOOD[5]), 400, &close, "Sec-WebSocket-Key");
}

#[test]
fn other_paths_and_methods_are_refused() {
    let close = ["Connection: close"];
    // An unknown path gets 404 and not 426.
    check_bytes(b"GET /favicon.ico HTTP/1.1\r\nHost: a\r\n\r\n", 404, &close, "nothing here");
    for method in ["POST", "OPTIONS", "PUT", "DELETE", "TRACE", "PATCH", "get", "GETT"] {
        let request = format!("{method} /ws/chess HTTP/1.1\r\nHost: a\r\n\r\n");
        check_bytes(request.as_bytes(), if method == "get" { 400 } else { 405 }, &[], "");
    }
    check_bytes(b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", 405, &["Allow: GET, HEAD"], "GET");
    check_bytes(b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n", 405, &["Allow: GET, HEAD"], "GET");
}

/// The head is the same as for a GET. No answer has a body, whatever its status (RFC 9110 section 9.3.2).
#[test]
fn a_head_request_is_answered_without_a_body() {
    for (request, status) in [
        ("HEAD /ws/chess HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(), 426),
        ("HEAD /health/live HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(), 200),
        ("HEAD / HTTP/1.1\r\nno colon\r\n\r\n".to_owned(), 400),
        (format!("HEAD / HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(101)), 431),
    ] {
        let (whole, finished) = answer(Relay::default(), request.as_bytes(), usize::MAX);
        assert_eq!(answer(Relay::default(), request.as_bytes(), 1), (whole.clone(), finished), "byte by byte");
        let whole = String::from_utf8(whole).expect("ASCII");
        assert!(finished && whole.starts_with(&format!("HTTP/1.1 {status} ")), "{whole}");
        assert!(whole.contains("\r\nContent-Length: ") && whole.ends_with("\r\n\r\n"), "{whole}");
        assert_eq!(whole.matches("\r\n\r\n").count(), 1, "{whole}");
    }
}

/// A head of the maximum length, and one byte more; a head with the maximum number of lines, and one more.
#[test]
fn heads_are_bounded_in_bytes_and_in_lines() {
    let close = ["Connection: close"];
    let head = |length: usize| {
        let front = GOOD.join("\r\n") + "\r\nX: ";
        [front.as_bytes(), &vec![b'y'; length - front.len() - 4], b"\r\n\r\n"].concat()
    };
    assert!(answer(Relay::default(), &head(8192), usize::MAX).0.starts_with(b"HTTP/1.1 101 "));
    check_bytes(&head(8193), 431, &close, "8192 bytes");
    check_bytes(&[b'G'; 10_000], 414, &close, "8192 bytes");
    // Bytes beyond the bound are not parsed, however many arrive at once.
    check_bytes(&[&[b'G'; 9000][..], b"\n"].concat(), 414, &close, "8192 bytes");
    check(|lines| lines.extend(["A: b"; 96]), 431, &close, "100 header lines");
    let most = [GOOD, &["A: b"; 95]].concat().join("\r\n") + "\r\n\r\n";
    assert!(answer(Relay::default(), most.as_bytes(), usize::MAX).0.starts_with(b"HTTP/1.1 101 "));
}

#[test]
fn malformed_requests_are_refused() {
    let close = ["Connection: close"];
    check(|lines| lines[0] = "GET /ws/chess HTTP/1.0", 505, &close, "HTTP/1.1");
    check(|lines| lines[0] = "GET /ws/chess HTTP/2.0", 505, &close, "HTTP/1.1");
    check(|lines| lines[0] = "GET http://localhost/ws/chess HTTP/1.1", 400, &close, "path");
    check(|lines| (lines[0], lines[2]) = ("GET /ws/%c HTTP/1.1", "X: y"), 400, &close, "percent-encoded");
    check(|lines| (lines[0], lines[2]) = ("GET /ws/%ff HTTP/1.1", "X: y"), 400, &close, "percent-encoded");
    check(|lines| (lines[0], lines[2]) = ("GET /ws/chess?token=%00 HTTP/1.1", "X: y"), 400, &close, "query");
    check(|lines| (lines[0], lines[2]) = ("GET /ws/chess?%zz=1&token=ann HTTP/1.1", "X: y"), 400, &close, "query");
    check(|lines| without(lines, 1), 400, &close, "Host");
    check(|lines| lines.push("Host: other"), 400, &close, "Host");
    check(|lines| lines.push("Content-Length: 5"), 400, &close, "body");
    check(|lines| lines.push("Transfer-Encoding: chunked"), 400, &close, "body");
    check(|lines| lines.push("no colon"), 400, &close, "well-formed");
    check(|lines| lines.push(" folded: line"), 400, &close, "well-formed");
    check(|lines| lines.push("Sp ace: x"), 400, &close, "well-formed");
    check(|lines| lines[0] = "GET", 400, &close, "well-formed");
    check(|lines| lines[1] = "Host : localhost", 400, &close, "well-formed");
    check(|lines| lines[1] = "Host: local\rhost", 400, &close, "well-formed");
    check(|lines| lines[0] = "GET  /ws/chess HTTP/1.1", 400, &close, "well-formed");
    check(|lines| lines[0] = "GET /ws/chess#part HTTP/1.1", 400, &close, "fragment");
    for path in [&b"/ws/\0"[..], b"/ws/\xff", b"/ws/\xc3\x28", b"/ws/a\x7f", b"/ws/a\tb"] {
        let rest = GOOD[1..].join("\r\n");
        let request = [b"GET ", path, b" HTTP/1.1\r\n", rest.as_bytes(), b"\r\n\r\n"].concat();
        check_bytes(&request, 400, &close, "");
    }
    check_bytes(b"GET /ws/a HTTP/1.1\r\nHost: \0\r\n\r\n", 400, &close, "well-formed");
    check(|lines| lines[0] = "GET /ws/chess", 400, &close, "well-formed");
}

#[test]
fn bytes_that_are_not_http_are_answered_at_once() {
    let close = ["Connection: close"];
    // A TLS hello is answered with an explanation. It does not wait for the timeout.
    check_bytes(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400, &close, "without TLS");
    check_bytes(b"\x81\x85aaaa", 400, &close, "HTTP/1.1");
    check_bytes(b"\0", 400, &close, "HTTP/1.1");
    check_bytes(b"\r\n\r\nG", 400, &close, "empty line");
    check_bytes(b"hello?\r\n", 400, &close, "HTTP/1.1");
    check_bytes(b"GET / HTTP/1.1\nHost: a\n\n", 400, &close, "bare LF");
    check_bytes(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505, &close, "HTTP/1.1");
}

#[test]
fn a_busy_server_sends_retry_after() {
    let config = Config { max_pending: 1, ..Config::default() };
    let mut engine = lobbyd::Engine::new(
        config.check().expect("the configuration is valid"),
        crate::common::scenario::START,
        Relay::default(),
    );
    let (now, peer) = (lobbyd::Time::ZERO, ([127, 0, 0, 1], 4000).into());
    engine.handle_accept(now, peer).expect("there is room");
    let late = engine.handle_accept(now, peer).expect("there is room for a refusal");
    let mut sockets = MemorySockets::default();
    engine.flush(&mut sockets).expect("the session is not recorded");
    assert_eq!(sockets.take_writes(), [], "the answer depends on the request");
    engine.handle_bytes(now, late, &wire::upgrade_request("/ws/chess?token=ann", &[]));
    engine.flush(&mut sockets).expect("the session is not recorded");
    let [write] = <[_; 1]>::try_from(sockets.take_writes()).expect("one write");
    assert_eq!((write.conn, write.outcome), (late, Ok(lobbyd::driver::Flow::Finished)));
    let answer = String::from_utf8(write.bytes).expect("ASCII");
    assert!(answer.starts_with("HTTP/1.1 503 Service Unavailable\r\n"), "{answer}");
    assert!(answer.contains("\r\nRetry-After: 1\r\n"), "{answer}");
    engine.handle_bytes(now, late, &wire::upgrade_request("/ws/chess?token=ann", &[]));
    engine.flush(&mut sockets).expect("the session is not recorded");
    assert_eq!(sockets.take_writes(), []);
}

#[test]
fn bytes_after_a_refused_request_are_ignored() {
    let request = [b"GET / HTTP/1.1\r\nHost: a\r\n\r\n".to_vec(), wire::upgrade_request("/ws/chess?token=ann", &[])];
    let (whole, _) = answer(Relay::default(), &request.concat(), usize::MAX);
    let text = String::from_utf8(whole).expect("ASCII");
    assert_eq!(text.matches("HTTP/1.1 ").count(), 1, "{text}");
    assert!(text.starts_with("HTTP/1.1 404 Not Found\r\n"));
}

/// A second request is not a frame: the first byte of `GET` has a reserved bit set.
#[test]
fn bytes_after_an_accepted_request_are_frames() {
    let request = wire::upgrade_request("/ws/chess?token=ann", &[]);
    let (whole, finished) = answer(Relay::default(), &[&request[..], &request].concat(), usize::MAX);
    let mut reader = Reader::default();
    reader.push(&whole);
    let mut received = std::iter::from_fn(|| reader.next().expect("the server keeps to the protocol"));
    assert!(matches!(received.next(), Some(Received::Answer(101, _))));
    assert_eq!(received.last(), Some(Received::Close(1002, "protocol_error".into())));
    assert!(finished);
}

#[test]
fn a_connection_lost_before_its_request_leaves_nothing() {
    let mut world = World::new(Config::default(), Relay::default());
    for sent in ["", "raw G", "raw GET /ws/chess HTTP/1.1\\r\\n"] {
        world.run("ann > open");
        if !sent.is_empty() {
            world.run(&format!("ann > {sent}"));
        }
        world.run("ann > hangup");
    }
    let stats = world.engine.stats();
    assert_eq!((stats.pending, stats.closing, stats.counters.closed(lobbyd::CloseReason::Hangup)), (0, 0, 3));
}

/// A mutated request is either answered or waited for.
#[test]
fn a_mutated_request_is_answered_or_waited_for() {
    for seed in 0..300 {
        let mut random = lobbyd::Random::new(seed);
        let mut bytes = wire::upgrade_request("/ws/chess?token=ann", &[]);
        for _ in 0..1 + random.below(4) {
            let at = random.below(bytes.len() as u64) as usize;
            match random.below(3) {
                0 => bytes[at] = random.next_u64() as u8,
                1 => drop(bytes.remove(at)),
                _ => bytes.insert(at, random.next_u64() as u8),
            }
        }
        let (whole, finished) = answer(Relay::default(), &bytes, usize::MAX);
        let (pieces, _) = answer(Relay::default(), &bytes, 1);
        let status = |answer: &[u8]| answer.get(..12).map(<[u8]>::to_vec);
        assert_eq!(status(&whole), status(&pieces), "seed {seed}");
        assert!(whole.is_empty() || whole.starts_with(b"HTTP/1.1 "), "seed {seed}");
        let upgraded = whole.starts_with(b"HTTP/1.1 101");
        assert!(upgraded || finished != whole.is_empty(), "seed {seed}: answered and over, or waiting");
    }
    assert!(answer(Echo, &wire::upgrade_request("/", &[]), 1).0.starts_with(b"HTTP/1.1 101"));
}

/// Each status that this port sends, with its whole head.
#[test]
fn the_heads_of_answers_are_fixed() {
    #[track_caller]
    fn check(request: &str, status_line: &str, other_lines: &str) {
        let request = request.replace(' ', "\r\n").replace('~', " ") + "\r\n\r\n";
        let (whole, _) = answer(Relay::default(), request.as_bytes(), usize::MAX);
        let whole = String::from_utf8(whole).expect("UTF-8");
        let (head, _) = whole.split_once("\r\n\r\n").expect("a head");
        let lines: Vec<&str> = head.split("\r\n").collect();
        let expected: Vec<&str> = status_line.lines().chain(other_lines.lines()).collect();
        let length = lines.iter().rposition(|line| line.starts_with("Content-Length: ")).expect("a length");
        assert_eq!(length, lines.len() - 1, "{head}");
        assert_eq!(lines[1], "Date: Mon, 12 Jan 1970 13:46:40 GMT");
        assert_eq!([&lines[..1], &lines[2..length]].concat(), expected, "{request}");
    }
    const CLOSE: &str = "Connection: close\nContent-Type: text/plain; charset=utf-8";
    let close = |line: &str| format!("Connection: close\n{line}\nContent-Type: text/plain; charset=utf-8");
    check("GET~/health/live~HTTP/1.1 Host:a", "HTTP/1.1 200 OK", &close("Cache-Control: no-store"));
    check("HEAD~/health/live~HTTP/1.1 Host:a", "HTTP/1.1 200 OK", &close("Cache-Control: no-store"));
    check("GET~/health/live~HTTP/1.1", "HTTP/1.1 400 Bad Request", CLOSE);
    check("GET~/elsewhere~HTTP/1.1 Host:a", "HTTP/1.1 404 Not Found", CLOSE);
    check("POST~/ws/chess~HTTP/1.1 Host:a", "HTTP/1.1 405 Method Not Allowed", &close("Allow: GET, HEAD"));
    check(
        "GET~/ws/chess~HTTP/1.1 Host:a",
        "HTTP/1.1 426 Upgrade Required",
        "Connection: upgrade, close\nUpgrade: websocket\nSec-WebSocket-Version: 13\n\
         Content-Type: text/plain; charset=utf-8",
    );
    let many = format!("GET~/ws/chess~HTTP/1.1{}", " A:b".repeat(101));
    check(&many, "HTTP/1.1 431 Request Header Fields Too Large", CLOSE);
    let long = format!("GET~/ws/chess~HTTP/1.1 A:{}", "b".repeat(8192));
    check(&long, "HTTP/1.1 431 Request Header Fields Too Large", CLOSE);
    check("GET~/ws/chess~HTTP/2.0 Host:a", "HTTP/1.1 505 HTTP Version Not Supported", CLOSE);
}

/// The statuses that depend on the state of the server.
#[test]
fn the_heads_of_answers_of_a_busy_server_are_fixed() {
    let config =
        Config { attempts_per_minute: lobbyd::config::Limit::at_most(1), attempt_burst: 1, ..Config::default() };
    let mut engine = lobbyd::Engine::new(
        config.check().expect("the configuration is valid"),
        crate::common::scenario::START,
        Relay::default(),
    );
    let mut sockets = MemorySockets::default();
    let mut ask = |seconds: u64, request: &[u8]| {
        let now = lobbyd::Time::from_micros(seconds * 1_000_000);
        if seconds == 20 {
            engine.handle_drain(now);
        }
        engine.end_turn(now, &mut sockets).expect("the session is not recorded");
        let conn = engine.handle_accept(now, ([127, 0, 0, 1], 4000).into()).expect("there is room");
        engine.handle_bytes(now, conn, request);
        engine.flush(&mut sockets).expect("the session is not recorded");
    };
    // The second request is one too many, the third stays incomplete, and the last arrives during the drain.
    ask(0, b"GET /ws/chess HTTP/1.1\r\nHost: a\r\n\r\n");
    ask(1, b"GET /ws/chess HTTP/1.1\r\nHost: a\r\n\r\n");
    ask(2, b"GET");
    ask(10, b"GET /health/ready HTTP/1.1\r\nHost: a\r\n\r\n");
    ask(20, b"GET /health/ready HTTP/1.1\r\nHost: a\r\n\r\n");
    let mut heads = String::new();
    for write in sockets.take_writes() {
        let answer = String::from_utf8(write.bytes).expect("UTF-8");
        heads.extend(answer.split("\r\n\r\n").next());
        heads.push('\n');
    }
    assert_eq!(heads.replace("\r\n", "\n"), BUSY_HEADS);
}

const BUSY_HEADS: &str = "\
HTTP/1.1 426 Upgrade Required
Date: Mon, 12 Jan 1970 13:46:40 GMT
Connection: upgrade, close
Upgrade: websocket
Sec-WebSocket-Version: 13
Content-Type: text/plain; charset=utf-8
Content-Length: 71
HTTP/1.1 429 Too Many Requests
Date: Mon, 12 Jan 1970 13:46:41 GMT
Connection: close
Retry-After: 59
X-RateLimit-Limit: 1
X-RateLimit-Remaining: 0
X-RateLimit-Reset: 59
Content-Type: text/plain; charset=utf-8
Content-Length: 54
HTTP/1.1 408 Request Timeout
Date: Mon, 12 Jan 1970 13:46:50 GMT
Connection: close
Content-Type: text/plain; charset=utf-8
Content-Length: 31
HTTP/1.1 200 OK
Date: Mon, 12 Jan 1970 13:46:50 GMT
Connection: close
Cache-Control: no-store
Content-Type: text/plain; charset=utf-8
Content-Length: 6
HTTP/1.1 503 Service Unavailable
Date: Mon, 12 Jan 1970 13:47:00 GMT
Connection: close
Retry-After: 1
Content-Type: text/plain; charset=utf-8
Content-Length: 9
";
