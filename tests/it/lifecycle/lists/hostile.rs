//! Clients that ask too much of the list of lobbies.

use std::time::Duration;

use lobbyd::Config;
use lobbyd::config::Limit;
use lobbyd::sim::wire;

use super::{View, finish, get, on, open, quiet, recorded, set};

#[test]
fn a_huge_query_is_refused() {
    let mut world = recorded(on());
    let many: String = (0..500).map(|n| format!("tag.k{n}=v&")).collect();
    assert_eq!(get(&mut world, &many).0, 400);
    assert_eq!(get(&mut world, &format!("tag.a={}", "%41".repeat(65))).0, 400);
    assert_eq!(get(&mut world, &"x".repeat(9000)).0, 414);
    finish(world);
}

/// Each of the clients has a filter of its own, so none shares the work of another. One turn looks at a bounded number of
/// lobbies. The rest waits for later turns, and in the end all clients are told.
#[test]
fn many_filters_delay_each_other_and_not_the_server() {
    let mut world = recorded(Config { lists_per_minute: Limit::UNLIMITED, ..quiet() });
    for n in 0..100 {
        let tags = [n, n / 2, n / 3, n / 7].map(|number: u32| number % 5);
        let tags: Vec<String> = tags.iter().enumerate().map(|(key, value)| format!(r#""t{key}":"{value}""#)).collect();
        open(&mut world, &format!("n{n}"), &format!(r#","tags":{{{}}}"#, tags.join(",")));
    }
    let filter = |n: u32| format!("tag.t0={}&tag.t1={}&tag.t2={}&tag.t3={}", n % 5, n / 5 % 5, n / 25 % 5, n / 125 % 5);
    let mut views: Vec<View> = (0..625).map(|_| View::default()).collect();
    for n in 0..625 {
        world.steps(&format!("c{n} > connect ~lobbies {}", filter(n).replace('&', " ")));
    }
    assert_eq!(world.engine.stats().list_watchers, 625);
    world.steps("advance 2s");
    for n in 0..100 {
        set(&mut world, &format!("n{n}"), r#"{"name":"new"}"#);
    }
    world.end_turn();
    let next = world.engine.poll_timeout().expect("there is more to do");
    assert_eq!(next, world.now + Duration::from_millis(100));
    world.steps("advance 1s");
    let mut shown = 0;
    for (n, view) in (0..).zip(&mut views) {
        view.read(&mut world, &format!("c{n}"));
        view.check(&mut world, &filter(n));
        shown += view.lobbies.len();
        assert!(view.lobbies.values().all(|lobby| lobby["name"] == "new"));
    }
    assert_eq!(shown, 100, "each lobby matches one filter");
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
