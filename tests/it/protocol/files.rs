//! Files that the members' port serves: the browser client and the playground.

use std::collections::BTreeMap;
use std::time::Duration;

use lobbyd::apps::{Echo, Relay, Verbatim};
use lobbyd::config::{ByteSize, Limit};
use lobbyd::sim::{MemorySockets, wire};
use lobbyd::{App, CloseReason, Config, ConnId, Engine, Time};

use crate::common::scenario::START;

const CLIENT: [&str; 3] = ["/lobby.js", "/lobby.d.ts", "/react.js"];
const PLAYGROUND: [&str; 3] = ["/", "/playground.js", "/playground.css"];

fn config(serve_client: bool, playground: bool) -> Config {
    Config { serve_client, playground, ..Config::default() }
}

/// An engine, and what it has answered.
struct Site<A: App> {
    engine: Engine<A>,
    sockets: MemorySockets,
}

impl<A: App> Site<A> {
    fn new(config: Config, app: A) -> Site<A> {
        let engine = Engine::new(config.check().expect("the configuration is valid"), START, app);
        Site { engine, sockets: MemorySockets::default() }
    }

    fn accept(&mut self) -> ConnId {
        self.engine.handle_accept(Time::ZERO, ([127, 0, 0, 1], 4000).into()).expect("there is room")
    }

    /// Sends a request in pieces of `step` bytes. Returns its answer.
    fn answer_to(&mut self, request: &str, step: usize) -> Answer {
        let conn = self.accept();
        for piece in request.as_bytes().chunks(step) {
            self.engine.handle_bytes(Time::ZERO, conn, piece);
        }
        self.engine.end_turn(Time::ZERO, &mut self.sockets).expect("the session is not recorded");
        self.engine.check();
        assert!(self.sockets.is_shut_down(conn), "nothing follows the answer");
        Answer::parse(&self.sockets.written(conn))
    }

    fn get(&mut self, target: &str) -> Answer {
        self.answer_to(&format!("GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n"), usize::MAX)
    }
}

#[derive(Debug, PartialEq)]
struct Answer {
    status: u16,
    headers: BTreeMap<String, String>,
    body: String,
}

impl Answer {
    fn parse(bytes: &[u8]) -> Answer {
        let text = std::str::from_utf8(bytes).expect("all files are UTF-8");
        let (head, body) = text.split_once("\r\n\r\n").expect("the head has an end");
        let mut lines = head.split("\r\n");
        let status = lines.next().and_then(|line| line.split(' ').nth(1)).and_then(|status| status.parse().ok());
        let named = |line: &str| line.split_once(": ").map(|(name, value)| (name.to_lowercase(), value.to_owned()));
        let headers: Vec<_> = lines.map(|line| named(line).expect("a header line")).collect();
        let count = headers.len();
        let headers: BTreeMap<_, _> = headers.into_iter().collect();
        assert_eq!(headers.len(), count, "no header is repeated: {head}");
        Answer { status: status.expect("a status"), headers, body: body.to_owned() }
    }

    #[track_caller]
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).unwrap_or_else(|| panic!("there is no {name} in {:?}", self.headers))
    }
}

#[track_caller]
fn check_statuses<A: App>(site: &mut Site<A>, paths: &[&str], status: u16) {
    for path in paths {
        assert_eq!(site.get(path).status, status, "{path}");
    }
}

#[test]
fn files_are_served_only_if_the_configuration_says_so() {
    assert_eq!(Config::default(), config(false, false), "a program of one's own serves nothing");
    let mut site = Site::new(config(false, false), Relay::default());
    check_statuses(&mut site, &[CLIENT, PLAYGROUND].concat(), 404);
    let mut site = Site::new(config(true, false), Relay::default());
    check_statuses(&mut site, &CLIENT, 200);
    check_statuses(&mut site, &PLAYGROUND, 404);
    for serve_client in [true, false] {
        let mut site = Site::new(config(serve_client, true), Relay::default());
        check_statuses(&mut site, &[CLIENT, PLAYGROUND].concat(), 200);
        check_statuses(&mut site, &["/index.html", "/favicon.ico", "/lobby.js/", "/client/lobby.js", "/ws"], 404);
        check_statuses(&mut site, &["/ws/chess", "/ws/lobby.js"], 426);
    }
}

/// The client speaks JSON, and so does the playground.
#[test]
fn raw_applications_serve_no_files() {
    let all = [CLIENT, PLAYGROUND].concat();
    for path in all {
        assert_ne!(Site::new(config(true, true), Echo).get(path).status, 200, "{path}");
        assert_ne!(Site::new(config(true, true), Verbatim::default()).get(path).status, 200, "{path}");
    }
}

#[test]
fn the_client_is_open_to_all_pages_and_kept_under_its_version() {
    let mut site = Site::new(config(true, false), Relay::default());
    for path in CLIENT {
        let answer = site.get(path);
        assert_eq!(answer.status, 200);
        assert_eq!(answer.header("access-control-allow-origin"), "*");
        assert_eq!(answer.header("x-content-type-options"), "nosniff");
        assert_eq!(answer.header("cache-control"), "public, max-age=300");
        assert_eq!(answer.header("connection"), "close");
        assert_eq!(answer.header("content-length"), answer.body.len().to_string());
        assert!(answer.header("date").ends_with(" GMT"));
        let expected = if path.ends_with(".js") { "text/javascript" } else { "application/typescript" };
        assert_eq!(answer.header("content-type"), format!("{expected}; charset=utf-8"));
        let version = answer.header("etag").trim_matches('"').to_owned();
        assert!(version.len() == 16 && version.bytes().all(|c| c.is_ascii_hexdigit()), "{version}");
        let kept = site.get(&format!("{path}?v={version}"));
        assert_eq!(kept.header("cache-control"), "public, max-age=31536000, immutable");
        assert_eq!(kept.body, answer.body);
        // A page of yesterday still works with the client of today.
        let other = site.get(&format!("{path}?v=0000000000000000"));
        assert_eq!((other.status, other.header("cache-control")), (200, "public, max-age=300"));
    }
    let source = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/src/client/browser/lobby.js"));
    assert_eq!(site.get("/lobby.js").body, source.expect("the source is readable"));
}

#[test]
fn a_client_that_has_the_file_gets_304() {
    let mut site = Site::new(config(true, true), Relay::default());
    for path in ["/lobby.js", "/"] {
        let etag = site.get(path).header("etag").to_owned();
        let request =
            |tag: &str| format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nIf-None-Match: \"a\", {tag}\r\n\r\n");
        let answer = site.answer_to(&request(&etag), usize::MAX);
        assert_eq!((answer.status, &*answer.body), (304, ""));
        assert_eq!(answer.header("etag"), etag);
        assert!(!answer.headers.contains_key("content-length"), "{answer:?}");
        answer.header("cache-control");
        assert_eq!(site.answer_to(&request("\"0000000000000000\""), usize::MAX).status, 200);
    }
}

#[test]
fn a_head_request_for_a_file_has_no_body() {
    let mut site = Site::new(config(true, true), Relay::default());
    for path in [CLIENT, PLAYGROUND].concat() {
        let request = format!("HEAD {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
        let (head, get) = (site.answer_to(&request, usize::MAX), site.get(path));
        assert_eq!(head, site.answer_to(&request, 1), "byte by byte");
        assert_eq!((head.status, &head.headers, &*head.body), (200, &get.headers, ""));
    }
}

#[test]
fn the_playground_is_a_strict_page() {
    let mut site = Site::new(config(false, true), Relay::default());
    for (path, media_type) in PLAYGROUND.iter().zip(["text/html", "text/javascript", "text/css"]) {
        let answer = site.get(path);
        assert_eq!(answer.header("content-type"), format!("{media_type}; charset=utf-8"));
        assert_eq!(answer.header("cache-control"), "no-cache");
        assert_eq!(answer.header("x-content-type-options"), "nosniff");
        assert!(!answer.headers.contains_key("access-control-allow-origin"), "no other page reads it");
        let policy = answer.header("content-security-policy");
        for part in
            ["default-src 'none'", "script-src 'self'", "style-src 'self'", "frame-ancestors 'none'", "base-uri 'none'"]
        {
            assert!(policy.split("; ").any(|found| found == part), "{part} is not in {policy}");
        }
        assert!(!policy.contains("unsafe") && !policy.contains('*'), "{policy}");
        assert!(!answer.body.contains("style=\"") && !answer.body.contains("<style"), "the policy forbids it: {path}");
        assert!(!answer.body.contains("<script>"), "the policy forbids it: {path}");
    }
}

#[test]
fn an_upgrade_to_the_path_of_a_file_goes_to_the_application() {
    let mut site = Site::new(config(true, true), Relay::default());
    for path in ["/", "/lobby.js"] {
        let conn = site.accept();
        site.engine.handle_bytes(Time::ZERO, conn, &wire::upgrade_request(path, &[]));
        site.engine.end_turn(Time::ZERO, &mut site.sockets).expect("the session is not recorded");
        let written = String::from_utf8_lossy(&site.sockets.written(conn)).into_owned();
        assert!(written.starts_with("HTTP/1.1 101 ") && written.contains("bad_lobby_code"), "{written}");
    }
}

#[test]
fn other_methods_and_bodies_are_refused() {
    let mut site = Site::new(config(true, true), Relay::default());
    let post = site.answer_to("POST / HTTP/1.1\r\nHost: a\r\n\r\n", usize::MAX);
    assert_eq!((post.status, post.header("allow")), (405, "GET, HEAD"));
    let body = "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx";
    assert_eq!(site.answer_to(body, usize::MAX).status, 400);
    assert_eq!(site.answer_to("GET / HTTP/1.0\r\nHost: a\r\n\r\n", usize::MAX).status, 505);
    assert_eq!(site.answer_to("GET / HTTP/1.1\r\n\r\n", usize::MAX).status, 400);
}

#[test]
fn files_are_charged_as_connection_attempts() {
    let limited = Config { attempts_per_minute: Limit::at_most(1), attempt_burst: 2, ..config(true, true) };
    let mut site = Site::new(limited, Relay::default());
    check_statuses(&mut site, &["/", "/lobby.js"], 200);
    check_statuses(&mut site, &["/playground.js", "/lobby.js"], 429);
}

#[test]
fn a_file_takes_no_place_beyond_max_pending() {
    let mut site = Site::new(Config { max_pending: 1, ..config(true, true) }, Relay::default());
    // Another address: it is not closed in favour of the one that asks.
    site.engine.handle_accept(Time::ZERO, ([127, 0, 0, 2], 4000).into()).expect("there is room");
    assert_eq!(site.get("/lobby.js").status, 503);
}

#[test]
fn a_draining_server_serves_no_files() {
    let mut site = Site::new(config(true, true), Relay::default());
    site.accept();
    site.engine.handle_drain(Time::ZERO);
    let conn = site.engine.handle_accept(Time::ZERO, ([127, 0, 0, 1], 4001).into()).expect("there is room");
    site.engine.handle_bytes(Time::ZERO, conn, b"GET /lobby.js HTTP/1.1\r\nHost: a\r\n\r\n");
    site.engine.end_turn(Time::ZERO, &mut site.sockets).expect("the session is not recorded");
    assert_eq!(Answer::parse(&site.sockets.written(conn)).status, 503);
}

/// The bound of a file is its own length: a reader that takes no byte is dropped after `close_timeout`.
#[test]
fn a_file_may_be_larger_than_max_outbound_bytes() {
    let small = Config {
        max_outbound_bytes: ByteSize(2200),
        outbound_high_mark: ByteSize(200),
        outbound_low_mark: ByteSize(100),
        max_message_bytes: ByteSize(125),
        max_per_lobby: Limit::at_most(1),
        seat_grace: Duration::ZERO,
        ..config(true, false)
    };
    let mut site = Site::new(small, Relay::default());
    let conn = site.accept();
    site.sockets.limit(conn, 1);
    site.engine.handle_bytes(Time::ZERO, conn, b"GET /lobby.js HTTP/1.1\r\nHost: a\r\n\r\n");
    site.engine.end_turn(Time::ZERO, &mut site.sockets).expect("the session is not recorded");
    site.engine.check();
    let late = Time::ZERO + Config::default().close_timeout + Duration::from_secs(1);
    site.engine.end_turn(late, &mut site.sockets).expect("the session is not recorded");
    site.engine.check();
    assert_eq!(site.sockets.close_reason(conn), Some(CloseReason::HttpRefused));
}
