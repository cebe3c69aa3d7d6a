//! Clients that ask too much of the list of lobbies.

use std::time::Duration;

use lobbyd::Config;
use lobbyd::config::Limit;
use lobbyd::sim::wire;

use super::{View, finish, get, on, open, recorded, set};

#[test]
fn a_huge_query_is_refused() {
    let mut world = recorded(on());
    let many: String = (0..500).map(|n| format!("tag.k{n}=v&")).collect();
    assert_eq!(get(&mut world, &many).0, 400);
    assert_eq!(get(&mut world, &format!("tag.a={}", "%41".repeat(65))).0, 400);
    assert_eq!(get(&mut world, &"x".repeat(9000)).0, 414);
    finish(world);
}

/// Each of the clients has a filter of its own, so none shares the work of another. A turn looks at a bounded number of
/// lobbies, and all clients are told in the end.
#[test]
fn many_filters_delay_each_other_and_not_the_server() {
    const CLIENTS: u32 = 400;
    let config =
        Config { lists_per_minute: Limit::UNLIMITED, max_pending: 1000, max_connections: Limit::at_most(500), ..on() };
    let mut world = recorded(config);
    for n in 0..100 {
        open(&mut world, &format!("n{n}"), r#","tags":{"game":"chess","other":"x"}"#);
    }
    // No lobby has the second tag with this value, so all lobbies with the first one are looked at.
    open(&mut world, "rare", r#","tags":{"game":"chess","other":"y"}"#);
    for n in 0..CLIENTS {
        world.steps(&format!("c{n} > connect ~lobbies tag.game=chess pool= x{n}=y tag.k{n}="));
        world.steps(&format!("c{n} < upgrade, lobbies"));
    }
    for n in CLIENTS..2 * CLIENTS {
        world.steps(&format!("c{n} > connect ~lobbies tag.other=x tag.game=chess{n}"));
        world.steps(&format!("c{n} < upgrade, lobbies lobbies=[]"));
    }
    assert_eq!(world.engine.stats().list_watchers, 800);
    world.steps("advance 2s");
    set(&mut world, "n0", r#"{"name":"new"}"#);
    world.steps("advance 3s");
    for n in 0..CLIENTS {
        world.steps(&format!("c{n} < lobbies_diff"));
    }
    finish(world);
}

#[test]
fn clients_that_never_read_cost_one_list_each() {
    let mut world = recorded(Config { lists_per_minute: Limit::UNLIMITED, ..on() });
    for n in 0..50 {
        open(&mut world, &format!("n{n}"), "");
    }
    for n in 0..50 {
        let name = format!("c{n}");
        world.open(&name);
        let conn = world.conn(&name);
        world.sockets.limit(conn, 0);
        world.send(&name, &wire::upgrade_request("/ws/~lobbies", &[]));
    }
    let frames = world.engine.stats().counters.frames_out;
    for n in 0..9 {
        set(&mut world, "n0", &format!(r#"{{"name":"{n}"}}"#));
        world.steps("advance 1s");
    }
    // The host alone is told.
    assert_eq!(world.engine.stats().counters.frames_out, frames + 9);
    world.advance(Duration::from_secs(30));
    assert_eq!(world.engine.stats().list_watchers, 0, "they are stale");
    finish(world);
}

#[test]
fn floods_are_refused_and_closed() {
    let config = Config { messages_per_second: Limit::at_most(5), message_burst: 5, max_rate_strikes: 3, ..on() };
    let mut world = recorded(config);
    for (name, frame) in [
        ("pings", wire::text(r#"{"type":"ping"}"#)),
        ("control", wire::frame(wire::Opcode::PING, true, b"", [1; 4])),
        ("binary", wire::frame(wire::Opcode::BINARY, true, b"x", [1; 4])),
    ] {
        world.steps(&format!("{name} > connect ~lobbies\n{name} < upgrade, lobbies"));
        for _ in 0..100 {
            world.send(name, &frame);
        }
        world.steps("advance 0s");
        let got = world.take(name);
        let end = got.iter().position(|text| text == "close 4009 rate_limited");
        assert!(end.is_some_and(|end| end < 80), "{name}: {got:?}");
    }
    finish(world);
}

/// A client that comes and goes gets a list each time, which its address may have a number of times per minute.
#[test]
fn a_client_cannot_get_the_list_by_reconnecting() {
    let mut world = recorded(on());
    open(&mut world, "chess", "");
    for n in 0..100 {
        let name = format!("c{n}");
        world.steps(&format!("{name} > connect ~lobbies"));
        let expected = if n < 60 { "upgrade, lobbies" } else { "http 429, body, eof" };
        world.steps(&format!("{name} < {expected}"));
        if n < 60 {
            world.steps(&format!("{name} > hangup"));
        }
    }
    let mut view = View::default();
    world.steps("advance 1s\neve > connect ~lobbies");
    view.read(&mut world, "eve");
    assert_eq!(view.frames, (1, 0));
    finish(world);
}
