//! The addresses of clients, and the limits that count by them.

use lobbyd::apps::Relay;
use lobbyd::config::{DuplicateLogin, ForwardedHeader, Limit};
use lobbyd::{Authorization, Config};

use crate::common::scenario::{World, check, set};
use crate::common::witness::Witness;
use crate::journal::site::{Site, replay, timeline};

const IN: &str = "upgrade, welcome, presence_state";
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
            # Neither a refused connection nor a closing one counts, although both are still connected.
            from 10.0.0.1
            ann > {{"type":"leave"}}
            ann < goodbye, close 1000 left
            eve > connect e
            eve < {IN}
            fay > connect f
            fay < {LIMIT}
            # A connection without a request does not count: its address may come from a header.
            p > open
            q > open
            "#
        ),
    );
    check(per_ip(0, 0), &format!("ann > connect a\nann < {LIMIT}"));
}

/// The newer connection of a user gets the seat of the older one, which does not count.
#[test]
fn a_newer_login_takes_its_own_place_at_the_address() {
    check(
        per_ip(1, 0),
        &format!(
            r#"
            from 10.0.0.1
            ann > connect a
            ann < {IN}
            # In the same lobby, and then in another one.
            ann:2 > connect a
            ann < goodbye code=4004 reason=replaced, close 4004 replaced
            ann:2 < {IN}
            ann:3 > connect b
            ann:2 < goodbye code=4004 reason=replaced, close 4004 replaced
            ann:3 < {IN}
            bob > connect b
            bob < {LIMIT}
            # Her seat moves to another address, and back to one that is full by now.
            from 10.0.0.2
            ann:4 > connect b
            ann:3 < goodbye code=4004 reason=replaced, close 4004 replaced
            ann:4 < {IN}
            from 10.0.0.1
            cid > connect c
            cid < {IN}
            ann:5 > connect b
            ann:5 < {LIMIT}
            # The refused login has replaced nothing.
            ann:4 > {{"type":"presence"}}
            ann:4 < presence_state users=ann
            "#
        ),
    );
}

/// Without `duplicate_login = replace` no connection is replaced, so all of them count.
#[test]
fn duplicate_logins_that_are_allowed_count_for_the_address() {
    let config = Config { duplicate_login: DuplicateLogin::Allow, max_per_user: Limit::at_most(9), ..per_ip(1, 0) };
    check(config, &format!("ann > connect a\nann < {IN}\nann:2 > connect a\nann:2 < {LIMIT}"));
}

/// Connections that were refused for any reason, and are still closing, do not count.
#[test]
fn refused_connections_do_not_count_for_the_address() {
    check(
        Config { max_per_lobby: Limit::at_most(1), ..per_ip(2, 0) },
        &format!(
            r#"
            ann > connect a
            ann < {IN}
            bob > connect a
            bob < upgrade, goodbye, close 4002 lobby_full
            cid > get /ws/no%20code?token=cid
            cid < upgrade, goodbye, close 4007 bad_lobby_code
            dan > get /ws/b?token=dan Origin: http://evil.example
            dan < upgrade, goodbye, close 4003 forbidden_origin
            fay > get /ws/b
            fay < upgrade, goodbye, close 4001 unauthorized
            gus > connect c
            gus < {IN}
            hal > connect c
            hal < {LIMIT}
            "#
        ),
    );
}

/// A seat that is reserved for a named user counts for the address. A request whose user is not known yet reserves none:
/// it is judged when it is admitted.
#[test]
fn reserved_seats_count_for_the_address() {
    let mut world = World::new(per_ip(1, 0), Witness::<true>::default());
    world.run(
        r#"
        ann > get /ws/a?token=ann&auth=later
        bob > connect a
        bob < upgrade, goodbye, close 4002 ip_limit
        ann > hangup
        ann < http 400, body, eof
        bob:2 > connect a
        bob:2 < upgrade, welcome, presence_state
        # The newer connection of a user that is named takes the place of the older one, if that is still there.
        bob:3 > get /ws/a?token=bob&auth=later
        cid > connect a
        cid < upgrade, goodbye, close 4002 ip_limit
        bob:2 > {"type":"leave"}
        bob:2 < goodbye, close 1000 left
        dan > connect a
        dan < upgrade, welcome, presence_state
        # Two users that are not named.
        from 10.0.0.2
        eve > get /ws/a?token=eve&auth=unnamed
        fay > get /ws/a?token=fay&auth=unnamed
        "#,
    );
    world.authorize("bob:3", Authorization::allow("bob"));
    world.run("bob:3 < upgrade, goodbye, close 4002 ip_limit");
    world.authorize("fay", Authorization::allow("fay"));
    world.run("fay < upgrade, welcome, presence_state\ndan < presence_diff +fay");
    world.authorize("eve", Authorization::allow("eve"));
    world.run("eve < upgrade, goodbye, close 4002 ip_limit");
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

/// The client's address in each form of each header, and what the operators see of it.
#[test]
fn the_client_is_the_one_that_the_outermost_trusted_proxy_names() {
    use ForwardedHeader::{Forwarded, XForwardedFor, XRealIp};
    for (forwarded_header, trusted_proxies, lines, address) in [
        (XForwardedFor, 1, "X-Forwarded-For: \"[2001:db8::1]:4711\"", "2001:db8::1"),
        (XForwardedFor, 1, "X-Forwarded-For: ::ffff:192.0.2.1", "192.0.2.1"),
        (XForwardedFor, 2, "x-forwarded-for: 6.6.6.6, 192.0.2.1:80 , , | X-FORWARDED-FOR: 10.0.0.9", "192.0.2.1"),
        (XForwardedFor, 1, "Forwarded: for=192.0.2.1 | X-Real-IP: 192.0.2.1", "127.0.0.1"),
        (Forwarded, 1, "Forwarded: for=6.6.6.6, For=\"[2001:db8::1]:4711\";proto=https", "2001:db8::1"),
        (Forwarded, 2, "Forwarded: for=\" | Forwarded: for=192.0.2.1, for=10.0.0.9;by=\"a,b\"", "192.0.2.1"),
        (Forwarded, 1, "Forwarded: for=unknown | X-Forwarded-For: 192.0.2.1", "127.0.0.1"),
        (Forwarded, 1, "Forwarded: for=_obfuscated", "127.0.0.1"),
        (XRealIp, 1, "X-Real-IP: 192.0.2.1 | X-Forwarded-For: 10.0.0.9", "192.0.2.1"),
        (XRealIp, 1, "X-Forwarded-For: 192.0.2.1", "127.0.0.1"),
        (XRealIp, 0, "X-Real-IP: 192.0.2.1", "127.0.0.1"),
    ] {
        let config = Config { forwarded_header, trusted_proxies, ..Config::default() };
        let mut world = World::new(config, Relay::default());
        world.run(&format!("ann > get /ws/chess?token=ann {lines}\nann < {IN}"));
        let seat = &world.engine.user_seats("ann", None, 1).items[0];
        assert_eq!(
            (seat.address.map(|address| address.to_string()), seat.peer.map(|peer| peer.to_string())),
            (Some(address.into()), Some("127.0.0.1:4000".into())),
            "{lines}"
        );
    }
}

/// It is not the address of an earlier connection in the same slot.
#[test]
fn a_connection_without_a_header_has_the_address_of_its_peer() {
    let mut world = World::new(Config { trusted_proxies: 1, ..Config::default() }, Relay::default());
    world.run(&format!(
        "ann > get /ws/a?token=ann X-Forwarded-For: 192.0.2.1\nann < {IN}\nann > hangup\nbob > connect a\nbob < {IN}"
    ));
    assert_eq!(world.engine.user_seats("bob", None, 1).items[0].address, "127.0.0.1".parse().ok());
}

#[test]
fn x_real_ip_names_the_client_of_one_proxy_only() {
    let several = Config { forwarded_header: ForwardedHeader::XRealIp, trusted_proxies: 2, ..Config::default() };
    let problems = several.check().expect_err("the header has one entry");
    assert_eq!(problems[0].field, "trusted_proxies");
    assert!(problems[0].to_string().contains("must be 1 with forwarded_header = x-real-ip"), "{problems}");
    let unused = Config { forwarded_header: ForwardedHeader::Forwarded, ..Config::default() };
    assert_eq!(
        unused.without_effect()[0].to_string(),
        "forwarded_header = forwarded: has no effect while trusted_proxies is 0"
    );
    let mut config = Config::default();
    let refused = set(&mut config, "forwarded_header", "x-client-ip").expect_err("another header");
    assert_eq!(refused, "`x-client-ip` is none of x-forwarded-for, forwarded, x-real-ip");
}

/// The decision is recorded, so a replay counts by the same addresses although it has no header.
#[test]
fn a_replay_counts_by_the_same_addresses() {
    for forwarded_header in [ForwardedHeader::XForwardedFor, ForwardedHeader::Forwarded] {
        let config = Config { forwarded_header, ..per_ip(1, 1) };
        let mut site = Site::new(config, Relay::default());
        for (user, address) in [("ann", "192.0.2.1"), ("bob", "192.0.2.1"), ("cid", "192.0.2.2"), ("dan", "unknown")] {
            let line = match forwarded_header {
                ForwardedHeader::Forwarded => format!("Forwarded: for={address}"),
                _ => format!("X-Forwarded-For: {address}"),
            };
            site.connect(&format!("/ws/chess?token={user}"), &[&line]);
            site.turn();
        }
        let stats = site.engine.stats();
        assert_eq!((stats.counters.joined, stats.counters.closed(lobbyd::CloseReason::IpLimit)), (3, 1));
        let journal = site.journal();
        assert_eq!(replay(&journal).expect("nothing differs").stats, stats);
        let events = timeline(&journal, Relay::default());
        for asked in ["192.0.2.1", "192.0.2.2", "127.0.0.1"] {
            assert!(events.contains(&format!("asks for lobby chess, address={asked}\n")), "{events}");
        }
    }
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
    }
}

#[test]
fn refused_addresses_are_counted() {
    let mut world = World::new(per_ip(1, 0), Relay::default());
    world.run(&format!("ann > connect a\nann < {IN}\nbob > connect a\nbob < {LIMIT}"));
    assert_eq!(world.engine.stats().counters.closed(lobbyd::CloseReason::IpLimit), 1);
    assert_eq!(world.engine.stats().counters.joined, 1);
}
