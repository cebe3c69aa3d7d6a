//! Access to the API, and malformed requests.

use lobbyd::admin::{AdminConns, Token};
use lobbyd::apps::Relay;
use lobbyd::{Config, Time};

use super::{Operator, config, get, operator, post, three};
use crate::common::scenario::{World, set};

#[test]
fn foreign_pages_are_refused() {
    let (mut world, mut operator) = three();
    let with = |lines: &str| format!("GET /stats HTTP/1.1\r\n{lines}\r\n\r\n");
    for host in ["evil.example", "evil.example:9002", "10.0.0.1:9002"] {
        operator.refused(&mut world, &with(&format!("Host: {host}")), 403, "foreign_host");
    }
    for origin in ["null", "http://evil.example", "http://127.0.0.1:9001", "http://localhost:9002.evil.example"] {
        let lines = format!("Host: localhost:9002\r\nOrigin: {origin}");
        operator.refused(&mut world, &with(&lines), 403, "foreign_origin");
    }
    // A page may ask in a way in which the browser does not name its origin, if the page does not read the answer.
    for site in ["cross-site", "same-site"] {
        let lines = format!("Host: localhost:9002\r\nSec-Fetch-Site: {site}\r\nSec-Fetch-Mode: no-cors");
        operator.refused(&mut world, &with(&lines), 403, "foreign_origin");
        for (path, status) in [("/events", 403), ("/health", 200)] {
            let request = format!("GET {path} HTTP/1.1\r\n{lines}\r\n\r\n");
            assert_eq!(operator.ask(&mut world, &request).status, status, "{path}");
        }
    }
    for site in ["same-origin", "none"] {
        let lines = format!("Host: localhost:9002\r\nSec-Fetch-Site: {site}");
        assert_eq!(operator.ask(&mut world, &with(&lines)).status, 200);
    }
    let own = with("Host: 127.0.0.1:9002\r\nOrigin: http://127.0.0.1:9002");
    assert_eq!(operator.ask(&mut world, &own).status, 200);
    // A browser leaves the default port out of `Origin`; a proxy may add it to `Host`.
    let own = with("Host: localhost:443\r\nOrigin: https://LOCALHOST");
    assert_eq!(operator.ask(&mut world, &own).status, 200);
    // The requests that a form on another page can send.
    for kind in ["", "Content-Type: text/plain\r\n", "Content-Type: application/x-www-form-urlencoded\r\n"] {
        let request = format!("POST /kick HTTP/1.1\r\nHost: localhost\r\n{kind}Content-Length: 2\r\n\r\n{{}}");
        operator.refused(&mut world, &request, 415, "not_json");
    }
    let with_charset = post("/kick", "{}").replace("/json", "/json; charset=utf-8");
    assert_eq!(operator.ask(&mut world, &with_charset).status, 200);
}

#[test]
fn operators_may_use_any_of_several_hosts() {
    let mut config = config();
    set(&mut config, "admin_host", "lobby.internal, 192.0.2.1,[2001:db8::1],").expect("a list of hosts");
    let mut world = World::new(config.clone(), Relay::default());
    let mut operator = operator(&config);
    let with = |host: &str| format!("GET /stats HTTP/1.1\r\nHost: {host}\r\n\r\n");
    for host in ["lobby.internal", "LOBBY.internal:8443", "192.0.2.1:9002", "[2001:db8:0::1]:9002", "localhost"] {
        assert_eq!(operator.ask(&mut world, &with(host)).status, 200, "{host}");
    }
    for host in ["lobby", "a.lobby.internal", "192.0.2.2", "[2001:db8::2]", "lobby.internal,192.0.2.1"] {
        operator.refused(&mut world, &with(host), 403, "foreign_host");
    }
}

/// The flag and `Config::check` refuse the same entries, with the same sentence.
#[test]
fn hosts_of_operators_that_no_request_names_are_refused_at_the_start() {
    for (entry, rule) in [
        ("lobby.internal:9002", "has a port, which is not compared: write lobby.internal"),
        ("[2001:db8::1]:9002", "has a port, which is not compared: write [2001:db8::1]"),
        ("https://lobby.internal", "has a scheme: write the host alone, such as lobby.internal"),
        ("lobby.internal/", "is not a host: write a name or an address alone"),
        ("lobby.internal/stats", "is not a host"),
        ("ops@lobby.internal", "is not a host"),
        ("lobby internal", "is not a host"),
        ("lobby.internal:", "is not a host"),
        ("[lobby]", "is not a host"),
        ("off", "is the word that leaves the list empty"),
        ("2001:db8::1", "is an IPv6 address without brackets: write [2001:db8::1]"),
        ("*.internal", "has a `*`: write each name, separated by commas"),
        ("192.0.2.256", "is not an IPv4 address"),
        ("b\u{fc}cher.internal", "is not ASCII: browsers send such a name in punycode"),
        ("lobby..internal", "is not a name"),
    ] {
        let mut config = config();
        let refused = set(&mut config, "admin_host", &format!("a.internal,{entry}")).expect_err(entry);
        assert!(refused.starts_with(&format!("`{entry}` {rule}")), "{refused}");
        config.admin_host.listed = vec!["a.internal".into(), entry.into()];
        let problems = config.check().expect_err(entry);
        assert_eq!((problems.len(), problems[0].field, &problems[0].rule), (1, "admin_host", &refused));
    }
    for empty in ["", " , "] {
        set(&mut config(), "admin_host", empty).expect_err("no host");
    }
}

#[test]
fn a_configured_token_is_required() {
    let mut world = World::new(config(), Relay::default());
    let token = Token::read("correct-horse-battery\n").expect("a token");
    let mut conns = AdminConns::new(&config(), Some(token));
    let client = conns.handle_accept(Time::ZERO, ([127, 0, 0, 1], 5000).into()).expect("room");
    let mut operator = Operator { conns, client };
    let with = |line: &str| format!("GET /stats HTTP/1.1\r\nHost: localhost\r\n{line}\r\n");
    for line in ["", "Authorization: Bearer wrong-horse-battery\r\n", "Authorization: Basic correct-horse-battery\r\n"]
    {
        let answer = operator.refused(&mut world, &with(line), 401, "unauthorized");
        assert!(answer.head.contains("\r\nWWW-Authenticate: Bearer\r\n"));
    }
    assert_eq!(operator.ask(&mut world, &with("authorization: bearer correct-horse-battery\r\n")).status, 200);
    // Without the token the answer does not show which paths exist. Health requests need no token.
    operator.refused(&mut world, &get("/nothing"), 401, "unauthorized");
    assert_eq!(operator.ask(&mut world, &get("/health/ready")).status, 200);
}

#[test]
fn a_public_admin_address_requires_a_token() {
    let open = Config { admin: Some("0.0.0.0:9002".parse().expect("an address")), ..Config::default() };
    let problems = open.clone().check().expect_err("a token is required");
    assert_eq!(problems[0].field, "admin");
    let guarded = Config { admin_token_file: Some("/etc/lobbyd/token".into()), ..open };
    guarded.check().expect("a token is configured");
}

#[test]
fn malformed_requests_get_an_error() {
    let mut world = World::new(config(), Relay::default());
    #[track_caller]
    fn check(world: &mut World<Relay>, request: &str, status: u16) {
        let mut operator = operator(&config());
        let answer = operator.ask(world, request);
        assert_eq!(answer.status, status, "{request}\n{answer:?}");
        assert!(answer.body["message"].is_string());
    }
    check(&mut world, &get("/nothing"), 404);
    check(&mut world, &get("/lobbies/"), 404);
    check(&mut world, &get("/lobbies/%zz"), 400);
    check(&mut world, &get("/lobbies?limit=0"), 400);
    check(&mut world, &get("/lobbies?limit=1001"), 400);
    check(&mut world, &get("/lobbies?sort=asc"), 400);
    check(&mut world, &get("/kick"), 405);
    check(&mut world, &post("/stats", ""), 405);
    check(&mut world, "OPTIONS /stats HTTP/1.1\r\nHost: localhost\r\n\r\n", 405);
    check(&mut world, "GET /stats HTTP/1.1\r\n\r\n", 400);
    check(&mut world, "GET /stats HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n", 400);
    check(&mut world, "GET http://localhost/stats HTTP/1.1\r\nHost: localhost\r\n\r\n", 400);
    check(&mut world, "GET /stats\r\n\r\n", 400);
    check(&mut world, "GET /stats HTTP/1.1\nHost: localhost\n\n", 400);
    check(&mut world, "\x16\x03\x01", 400);
    check(&mut world, "POST /kick HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n", 411);
    for length in ["-1", "+1", "1, 1", "", "9999999999"] {
        let request = format!("POST /kick HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n");
        check(&mut world, &request, 400);
    }
    check(&mut world, "POST /kick HTTP/1.1\r\nHost: localhost\r\nContent-Length: 999999999\r\n\r\n", 413);
    check(&mut world, &format!("GET /{} HTTP/1.1\r\nHost: localhost\r\n\r\n", "x".repeat(8192)), 414);
    check(&mut world, &format!("GET / HTTP/1.1\r\nHost: localhost\r\n{}\r\n", "A: b\r\n".repeat(100)), 431);
}
