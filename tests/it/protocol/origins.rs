//! The origin of pages.

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
    for origin in ["http://localhost", "https://localhost", "HTTP://LOCALHOST", "http://localhost:80"] {
        check_origin("own", origin, IN);
    }
    // A client that is not a page sends no origin.
    check(Config::default(), &format!("ann > get /ws/chess?token=ann\nann < {IN}"));
    for origin in [
        "null",
        "",
        "localhost",
        "http://localhost:443",
        "https://localhost:80",
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
    for origin in [
        "https://game.example",
        "https://game.example:443",
        "http://localhost:8080",
        "https://GAME.example",
        "HTTPS://game.example",
        "http://localhost",
    ] {
        check_origin(listed, origin, IN);
    }
    for origin in [
        "http://game.example",
        "https://game.example:444",
        "https://game.example:80",
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

/// Whether a page of `origin` may connect to the server that the request's `Host` calls `host`.
#[track_caller]
fn check_rule(allowed: &str, origin: &str, host: &str, expected: bool) {
    let rules = allowing(allowed).expect("a valid list").allowed_origin;
    assert_eq!(rules.allow(origin, host), expected, "{origin} at {host} with {allowed}");
}

/// The server does not know whether a proxy has terminated TLS in front of it.
#[test]
fn the_servers_own_origin_is_compared_with_default_ports() {
    for (origin, host, is_own) in [
        ("https://game.example", "game.example", true),
        ("https://game.example", "game.example:443", true),
        ("https://game.example:443", "GAME.example", true),
        ("http://game.example", "game.example:80", true),
        ("http://game.example:8080", "game.example:8080", true),
        ("https://[2001:db8::1]", "[2001:DB8:0::1]:443", true),
        ("https://game.example", "game.example:80", false),
        ("https://game.example", "game.example:8443", false),
        ("http://game.example", "game.example:443", false),
        ("https://game.example:8443", "game.example", false),
        ("https://game.example:8443", "game.example:443", false),
        // Only a page that was loaded from a web server has the server's origin.
        ("file://", "", false),
        ("chrome-extension://game.example", "game.example", false),
        ("https://game.example", "", false),
        ("https://game.example", "game.example:", true),
        ("https://game.example", "user@game.example", false),
    ] {
        check_rule("own", origin, host, is_own);
    }
}

#[test]
fn listed_origins_are_compared_by_meaning() {
    for (listed, origin, is_listed) in [
        ("https://game.example:443", "https://game.example", true),
        ("https://game.example", "https://game.example:443", true),
        ("http://game.example:80/", "http://game.example", true),
        ("HTTPS://Game.Example/", "https://game.example", true),
        ("https://[2001:DB8:0::1]:8443", "https://[2001:db8::1]:8443", true),
        ("chrome-extension://abcdefghijklmnop", "chrome-extension://abcdefghijklmnop", true),
        ("capacitor://localhost", "capacitor://localhost", true),
        ("file://", "file://", true),
        ("file://", "null", false),
        ("https://game.example:443", "http://game.example:443", false),
        ("https://game.example", "https://game.example/", false),
        ("https://game.example", "https://game.example.", false),
        ("https://game.example", "https://user@game.example", false),
        ("https://game.example", "https://game.example:0443x", false),
    ] {
        check_rule(listed, origin, "server.example", is_listed);
    }
}

#[test]
fn a_wildcard_stands_for_subdomains_of_any_depth() {
    for (listed, origin, is_listed) in [
        ("https://*.game.example", "https://www.game.example", true),
        ("https://*.game.example", "https://a.b.game.example:443", true),
        ("https://*.GAME.example/", "https://WWW.game.EXAMPLE", true),
        ("https://*.game.example:8443", "https://www.game.example:8443", true),
        ("http://*.localhost:5173", "http://app.localhost:5173", true),
        ("https://*.game.example", "https://game.example", false),
        ("https://*.game.example", "https://.game.example", false),
        ("https://*.game.example", "https://evilgame.example", false),
        ("https://*.game.example", "https://www.game.example.evil.example", false),
        ("https://*.game.example", "http://www.game.example", false),
        ("https://*.game.example", "https://www.game.example:8443", false),
        ("https://*.game.example:8443", "https://www.game.example", false),
        ("https://*.game.example", "https://evil.example/.game.example", false),
        ("https://*.game.example", "https://evil.example#.game.example", false),
        ("https://*.game.example", "https://evil.example@www.game.example", false),
        ("https://*.game.example", "null", false),
    ] {
        check_rule(listed, origin, "server.example", is_listed);
    }
    check_origin("https://*.game.example", "https://a.b.game.example", IN);
    check_origin("https://*.game.example", "https://game.example", FORBIDDEN);
}

/// The flag and `Config::check` refuse the same entries, with the same sentence: the entry, the rule and the remedy.
#[test]
fn origins_that_no_page_has_are_refused_at_the_start() {
    for (entry, rule) in [
        ("game.example", "is not an origin such as https://game.example or http://localhost:8080: it has no scheme"),
        ("//game.example", "it has no scheme"),
        ("1http://game.example", "it has no scheme"),
        ("https://", "has no host"),
        ("https://:443", "has no host"),
        (
            "https://user:password@game.example",
            "has a user name, which browsers do not send in Origin: write https://game.example",
        ),
        (
            "https://game.example/chess",
            "has a path, a query or a fragment, which browsers do not send in Origin: write https://game.example",
        ),
        ("https://game.example//", "write https://game.example"),
        ("https://game.example?a=b", "write https://game.example"),
        ("https://game.example#a", "write https://game.example"),
        ("https://game.example:0", "has a port that is not a number from 1 to 65535"),
        ("https://game.example:65536", "has a port that is not a number from 1 to 65535"),
        ("https://game.example:", "has a port that is not a number from 1 to 65535"),
        ("https://game.example:*", "has a port that is not a number from 1 to 65535"),
        ("https://game.example http://a.example", "has a space or a control character: write one origin, and a comma"),
        ("https://b\u{fc}cher.example", "has a host that is not ASCII: browsers send such a name in punycode"),
        ("https://*.b\u{fc}cher.example", "in punycode"),
        ("https://game..example", "has a host that is not a name"),
        ("https://game%20.example", "has a host that is not a name"),
        ("http://127.1", "has a host that browsers send as an IPv4 address"),
        ("https://[::1", "has no IPv6 address in its brackets"),
        ("wss://game.example", "is the address of a server, not the origin of a page: write http:// or https://"),
        ("*", "write `any`, and nothing else"),
        ("https://*", "write `any`, and nothing else"),
        ("any://*", "write `any`, and nothing else"),
        ("https://game.*", "has `*` in a wrong place: it stands for subdomains, as in https://*.game.example"),
        ("https://a.*.example", "has `*` in a wrong place"),
        ("https://*game.example", "has `*` in a wrong place"),
        ("*://game.example", "it has no scheme"),
        ("https://*.*.example", "has more than one `*`"),
        ("https://*.example", "allows too many hosts, or none: `*.` is followed by a name of at least two labels"),
        ("https://*.127.0.0.1", "allows too many hosts, or none"),
        ("https://*.", "has a host that is not a name"),
    ] {
        let shown = format!("`{entry}` ");
        let refused = allowing(&format!("http://a.example, {entry}")).expect_err(entry);
        assert!(refused.starts_with(&shown) && refused.contains(rule), "{refused}");
        let mut config = Config::default();
        config.allowed_origin.listed = vec!["http://a.example".into(), entry.into()];
        let problems = config.check().expect_err(entry);
        assert_eq!((problems.len(), problems[0].field, &problems[0].rule), (1, "allowed_origin", &refused));
    }
    // Words of the option are not entries.
    for word in ["any", "own", "loopback", "", "a.example,b.example"] {
        let mut config = Config::default();
        config.allowed_origin.listed = vec![word.into()];
        config.check().expect_err(word);
    }
    let mixed = allowing("any, http://a.example").expect_err("both");
    assert_eq!(mixed, "`any` allows pages of every origin: leave the others out");
    let mut config = Config::default();
    (config.allowed_origin.any, config.allowed_origin.loopback) = (true, true);
    assert_eq!(config.check().expect_err("both")[0].rule, mixed);
    let both = allowing("a.example, wss://b.example").expect_err("two problems");
    assert!(both.contains("`a.example` is not") && both.contains("; `wss://b.example` is the address"), "{both}");
}

#[test]
fn a_list_of_origins_is_shown_as_it_was_written() {
    for (text, shown) in [
        ("own", "own"),
        ("any", "any"),
        ("", "own"),
        ("own,http://a.example", "http://a.example"),
        ("own, loopback", "loopback"),
        (" any ,own", "any"),
        ("http://a.example,loopback", "loopback,http://a.example"),
        ("https://*.A.example:443/, null", "https://*.A.example:443/,null"),
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
