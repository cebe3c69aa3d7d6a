//! The origin of pages, and the addresses of connections.

use lobbyd::Config;
use lobbyd::apps::Relay;
use lobbyd::config::Limit;

use crate::common::scenario::{World, check, set};

const IN: &str = "upgrade, welcome, presence_state";
const FORBIDDEN: &str =
    "upgrade, goodbye code=4003 reason=forbidden_origin reconnect=false, close 4003 forbidden_origin";

/// A configuration with a list of allowed origins.
fn allowing(origins: &str) -> Result<Config, String> {
    let mut config = Config::default();
    set(&mut config, "allowed_origin", origins).map(|()| config)
}

/// Expects the result for a page of `origin` with the configuration `allowed`. The host in the request is `localhost`.
#[track_caller]
fn check_origin(allowed: &str, origin: &str, expected: &str) {
    let config = allowing(allowed).expect("a valid list");
    check(config, &format!("ann > get /ws/chess?token=ann Origin: {origin}\nann < {expected}"));
}

#[test]
fn pages_of_the_servers_own_origin_may_connect() {
    for origin in ["http://localhost", "https://localhost", "HTTP://LOCALHOST"] {
        check_origin("own", origin, IN);
    }
    // A client that is not a page sends no origin.
    check(Config::default(), &format!("ann > get /ws/chess?token=ann\nann < {IN}"));
    for origin in [
        "null",
        "",
        "localhost",
        "http://localhost:80",
        "http://localhost.evil.example",
        "http://evil.example/localhost",
        "http://evil.example",
        "http://evil.example@localhost",
        "file://",
        "http://localhost, http://evil.example",
    ] {
        check_origin("own", origin, FORBIDDEN);
    }
}

#[test]
fn listed_origins_may_connect_beside_the_servers_own() {
    let listed = "https://game.example, http://localhost:8080";
    for origin in ["https://game.example", "http://localhost:8080", "https://GAME.example", "http://localhost"] {
        check_origin(listed, origin, IN);
    }
    for origin in [
        "http://game.example",
        "https://game.example:444",
        "https://game.example.evil.example",
        "https://a.game.example",
        "null",
    ] {
        check_origin(listed, origin, FORBIDDEN);
    }
    // The origin `null` can be allowed explicitly.
    check_origin("null", "null", IN);
    check_origin("null", "http://evil.example", FORBIDDEN);
    for origin in ["null", "http://evil.example", "nonsense"] {
        check_origin("any", origin, IN);
    }
}

#[test]
fn pages_of_this_machine_may_connect_with_loopback() {
    #[track_caller]
    fn check(origin: &str, host: &str, expected: bool) {
        let rules = allowing("loopback, https://game.example").expect("a valid list").allowed_origin;
        assert_eq!(rules.allow(origin, host), expected, "{origin} at {host}");
    }
    let names = ["localhost", "LocalHost:9001", "127.0.0.1", "127.0.0.1:9001", "127.255.3.4:1", "[::1]", "[::1]:65535"];
    for host in names {
        for name in names {
            check(&format!("http://{name}"), host, true);
            check(&format!("HTTPS://{name}"), host, true);
        }
        check("https://game.example", host, true);
    }
    for origin in [
        "null",
        "",
        "localhost",
        "file://",
        "file://localhost",
        "chrome-extension://localhost",
        "http://localhost.evil.example",
        "http://evil.example:80",
        "http://127.0.0.1.evil.example",
        "http://evil.example@localhost",
        "http://user:1@localhost",
        "http://localhost@evil.example:80",
        "http://localhost:80:80",
        "http://localhost:",
        "http://localhost/",
        "http://localhost, http://evil.example",
        "http://128.0.0.1",
        "http://0.0.0.0",
        "http://0x7f.1",
        "http://127.1",
        "http://[::2]",
        "http://[::1",
        "http://::1",
        "http://[::ffff:127.0.0.1]",
    ] {
        check(origin, "localhost:9001", false);
    }
    for host in ["", "evil.example", "evil.example:9001", "localhost.evil.example", "10.0.0.1:9001", "[::2]:1", "[::]"]
    {
        check("http://localhost:5173", host, false);
        check("http://127.0.0.1", host, false);
    }
    check("http://evil.example:9001", "evil.example:9001", true);
    // The engine applies these rules.
    check_origin("loopback", "http://127.0.0.1:5173", IN);
    check_origin("loopback", "null", FORBIDDEN);
    check_origin("own", "http://127.0.0.1:5173", FORBIDDEN);
}

#[test]
fn a_list_of_origins_accepts_only_origins() {
    for wrong in ["game.example", "https://game.example/", "https://", "https://a.example,b", "*"] {
        let problem = allowing(wrong).expect_err(wrong);
        assert!(problem.contains("is not an origin such as https://game.example"), "{problem}");
    }
    for (text, shown) in [
        ("own", "own"),
        ("any", "any"),
        ("", "own"),
        ("own,http://a.example", "http://a.example"),
        ("own, loopback", "loopback"),
        ("http://a.example,loopback", "loopback,http://a.example"),
    ] {
        let config = allowing(text).expect(text);
        let field = Config::FIELDS.iter().find(|field| field.name == "allowed_origin").expect("a field");
        assert_eq!((field.show)(&config), shown);
    }
}

/// The page is told the reason, and `authorize` is not called.
#[test]
fn a_foreign_page_is_refused_before_any_other_check() {
    check(
        Config { max_connections: Limit::at_most(0), ..Config::default() },
        &format!(
            r#"
            ann > get /ws/no%20code Origin: http://evil.example | Sec-WebSocket-Protocol: lobby.v1.json
            ann < {}
            bob > get /ws/no%20code
            bob < upgrade, goodbye, close 4007 bad_lobby_code
            "#,
            FORBIDDEN.replace("upgrade", "upgrade lobby.v1.json")
        ),
    );
}

// ---- addresses ----

fn per_ip(max_per_ip: u32, trusted_proxies: u32) -> Config {
    Config { max_per_ip: Limit::at_most(max_per_ip), trusted_proxies, ..Config::default() }
}

const LIMIT: &str = "upgrade, goodbye code=4002 reason=ip_limit reconnect=false, close 4002 ip_limit";

#[test]
fn connections_of_one_address_are_bounded() {
    check(
        per_ip(2, 0),
        &format!(
            r#"
            from 10.0.0.1
            ann > connect a
            ann < {IN}
            bob > connect b
            bob < {IN}
            cid > connect c
            cid < {LIMIT}
            # Another address has its own limit.
            from 10.0.0.2
            dan > connect d
            dan < {IN}
            # A refused connection counts until it is closed, and so does a closing one.
            from 10.0.0.1
            ann > {{"type":"leave"}}
            ann < goodbye, close 1000 left
            eve > connect e
            eve < {LIMIT}
            ann > hangup
            cid > hangup
            eve > hangup
            fay > connect f
            fay < {IN}
            # A connection without a request does not count yet: its address may come from a header.
            p > open
            q > open
            "#
        ),
    );
    check(per_ip(0, 0), &format!("ann > connect a\nann < {LIMIT}"));
}

/// One customer usually has a network with a prefix of 64 bits.
#[test]
fn an_ipv6_address_counts_as_its_64_bit_network() {
    check(
        per_ip(1, 0),
        &format!(
            r#"
            from 2001:db8:1:2::1
            ann > connect a
            ann < {IN}
            from 2001:db8:1:2:ffff::9
            bob > connect a
            bob < {LIMIT}
            from 2001:db8:1:3::1
            cid > connect c
            cid < {IN}
            # The same IPv4 address in two notations.
            from 10.0.0.1
            dan > connect d
            dan < {IN}
            from ::ffff:10.0.0.1
            eve > connect e
            eve < {LIMIT}
            from ::ffff:10.0.0.2
            fay > connect f
            fay < {IN}
            "#
        ),
    );
}

/// Two connections from the same peer with these headers count as one address or as two.
#[track_caller]
fn check_forwarded(proxies: u32, first: &str, second: &str, same: bool) {
    let expected = if same { LIMIT } else { IN };
    let line = |value: &str| if value.is_empty() { String::new() } else { format!("X-Forwarded-For: {value}") };
    check(
        per_ip(1, proxies),
        &format!(
            "ann > get /ws/a?token=ann {}\nann < {IN}\nbob > get /ws/b?token=bob {}\nbob < {expected}",
            line(first),
            line(second)
        ),
    );
}

#[test]
fn forwarded_addresses_are_read_from_trusted_proxies_only() {
    // No proxy is trusted: the header is ignored.
    check_forwarded(0, "10.0.0.1", "10.0.0.2", true);
    check_forwarded(1, "10.0.0.1", "10.0.0.2", false);
    check_forwarded(1, "10.0.0.1", "10.0.0.1", true);
    // Entries further left come from the client and are ignored.
    check_forwarded(1, "6.6.6.6, 10.0.0.1", "7.7.7.7, 10.0.0.1", true);
    check_forwarded(2, "6.6.6.6, 10.0.0.1, 10.9.9.9", "7.7.7.7, 10.0.0.1, 10.8.8.8", true);
    check_forwarded(2, "6.6.6.6, 10.0.0.1, 10.9.9.9", "6.6.6.6, 10.0.0.2, 10.9.9.9", false);
    check_forwarded(1, "10.0.0.1 | X-Forwarded-For: 10.0.0.3", "10.0.0.2 | X-Forwarded-For: 10.0.0.3", true);
    check_forwarded(1, "10.0.0.1:1234", "10.0.0.1:4321", true);
    check_forwarded(1, "2001:db8::1", "[2001:db8::2]:80", true);
    // A missing entry, or one that is no address: the proxy's own address counts.
    check_forwarded(1, "", "", true);
    check_forwarded(2, "10.0.0.1", "10.0.0.2", true);
    check_forwarded(1, "unknown", "_hidden", true);
}

/// The application sees the client's address and the peer's.
#[test]
fn an_application_sees_both_addresses() {
    use lobbyd::{App, Authorization, Context, Member, Message, Protocol, Request};

    #[derive(Default)]
    struct Seen(Vec<(String, String)>);

    impl App for Seen {
        const PROTOCOL: Protocol = Protocol::Raw;

        fn authorize(&mut self, _: &mut Context<'_>, request: &Request<'_>) -> Authorization {
            self.0.push((request.peer().to_string(), request.address().to_string()));
            Authorization::token_is_user(request)
        }

        fn on_message(&mut self, _: &mut Context<'_>, _: &Member, _: Message<'_>) {}
    }

    for (proxies, address) in [(0, "127.0.0.1"), (1, "10.0.0.2"), (2, "10.0.0.1"), (3, "127.0.0.1")] {
        let mut world = World::new(Config { trusted_proxies: proxies, ..Config::default() }, Seen::default());
        world.run("ann > get /ws/chess?token=ann X-Forwarded-For: 10.0.0.1, 10.0.0.2\nann < upgrade");
        assert_eq!(world.engine.app().0, [("127.0.0.1:4000".into(), address.into())]);
        let mut world = World::new(Config { trusted_proxies: proxies, ..Config::default() }, Seen::default());
        world.run("from unix\nann > get /ws/chess?token=ann X-Forwarded-For: 10.0.0.1, 10.0.0.2\nann < upgrade");
        assert_eq!(world.engine.app().0, [("unix".into(), address.into())]);
    }
}

/// Clients of a socket file have no address. They share the limits of 127.0.0.1, unless a trusted proxy names theirs.
#[test]
fn clients_of_a_socket_file_share_one_address() {
    check(
        per_ip(2, 0),
        &format!(
            "from unix\nann > connect a\nann < {IN}\nfrom 127.0.0.1\nbob > connect b\nbob < {IN}\n\
             from unix\ncid > connect c\ncid < {LIMIT}\nfrom 10.0.0.1\ndan > connect d\ndan < {IN}"
        ),
    );
    check(
        per_ip(1, 1),
        &format!(
            "from unix\nann > get /ws/a?token=ann X-Forwarded-For: 10.0.0.1\nann < {IN}\n\
             bob > get /ws/b?token=bob X-Forwarded-For: 10.0.0.2\nbob < {IN}\n\
             cid > get /ws/c?token=cid X-Forwarded-For: 10.0.0.1\ncid < {LIMIT}\n\
             dan > get /ws/d?token=dan\ndan < {IN}\neve > get /ws/e?token=eve\neve < {LIMIT}"
        ),
    );
}

#[test]
fn refused_addresses_are_counted() {
    let mut world = World::new(per_ip(1, 0), Relay::default());
    world.run(&format!("ann > connect a\nann < {IN}\nbob > connect a\nbob < {LIMIT}"));
    assert_eq!(world.engine.stats().counters.closed(lobbyd::CloseReason::IpLimit), 1);
    assert_eq!(world.engine.stats().counters.joined, 1);
}

/// An origin that is malformed or sent twice is not treated as absent.
#[test]
fn a_malformed_or_repeated_origin_is_refused() {
    check(
        Config::default(),
        &format!(
            "ann > get /ws/chess?token=ann Origin: http://localhost | Origin: http://evil.example\nann < {FORBIDDEN}"
        ),
    );
    let mut world = World::new(Config::default(), Relay::default());
    world.open("ann");
    let mut request = lobbyd::sim::wire::upgrade_request("/ws/chess?token=ann", &["Origin: http://localhost#"]);
    let at = request.iter().position(|&c| c == b'#').expect("the request has a number sign");
    request[at] = 0xff;
    world.send("ann", &request);
    world.flush();
    world.run(&format!("ann < {FORBIDDEN}"));
}
