//! Pauses of the process, steps of the wall clock, and half-closed sockets. In virtual time.

use std::time::Duration;

use lobbyd::apps::Relay;
use lobbyd::sim::wire::{self, Opcode};
use lobbyd::{Authorization, CloseReason, Config, Identity};

use crate::common::scenario::World;
use crate::common::witness::Witness;

const HOUR: Duration = Duration::from_secs(3600);

type Server = World<Witness<true>>;

/// Stops the server for an hour. Then the input of `name` is reported as unread for `turns` turns, and read. Returns whether
/// the connection is still open.
fn survives(world: &mut Server, name: &str, turns: u32, input: &[u8]) -> bool {
    let conn = world.conn(name);
    world.now = world.now + HOUR;
    for _ in 0..turns {
        world.now = world.now + Duration::from_micros(10);
        assert!(world.engine.has_due_timers(world.now));
        world.engine.handle_unread(world.now, &[conn]);
        world.end_turn();
        world.engine.check();
    }
    world.now = world.now + Duration::from_micros(10);
    if world.is_open(name) {
        world.send(name, input);
    }
    world.engine.handle_unread(world.now, &[]);
    world.end_turn();
    world.engine.check();
    world.is_open(name) && world.engine.stats().counters.closed_in_all() == 0
}

/// A function that brings a connection into a state with a deadline; the input that arrives during the pause; and the close
/// reason if it does not arrive.
type Row = (fn(&mut Server), &'static [u8], CloseReason);

const ROWS: &[Row] = &[
    (
        |world| world.run("ann > connect chess\nann < upgrade, welcome, presence_state\nadvance 20s\nann < ping"),
        &[0x8a, 0x80, 0, 0, 0, 0],
        CloseReason::Stale,
    ),
    (
        |world| world.run("ann > open"),
        b"GET /ws/chess?token=ann HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\
          Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n",
        CloseReason::HandshakeTimeout,
    ),
];

fn world(max_deferred_turns: u32) -> Server {
    World::new(Config { max_deferred_turns, ..Config::default() }, Witness::default())
}

#[test]
fn timers_wait_for_unread_input() {
    for &(prepare, input, reason) in ROWS {
        for (turns, is_kept) in [(0, true), (1, true), (7, true), (8, true), (9, false)] {
            let mut world = world(8);
            prepare(&mut world);
            assert_eq!(survives(&mut world, "ann", turns, input), is_kept, "{reason}, {turns} turns");
        }
        // If no input arrives, the deferred timer fires.
        let mut world = world(8);
        prepare(&mut world);
        assert!(!survives(&mut world, "ann", 3, b""), "{reason}");
        assert_eq!(world.engine.stats().counters.closed(reason), 1);
    }
}

/// The decision is in the queue of commands, which a driver empties before it expires timers.
#[test]
fn an_authorization_delayed_by_a_server_pause_is_in_time() {
    let mut world = world(8);
    world.run("ann > get /ws/chess?token=ann&auth=later\nann < nothing");
    world.now = world.now + HOUR;
    world.authorize("ann", Authorization::Allow(Identity::new("ann")));
    world.run("ann < upgrade, welcome, presence_state\nadvance 1s\nann < ping");
    assert!(world.is_open("ann"));
}

/// A deferred timer does not keep the loop busy, and is removed if its connection closes for another reason.
#[test]
fn a_deferred_timer_ends_with_its_connection() {
    let mut world = world(1000);
    world.run("ann > connect chess\nann < upgrade, welcome, presence_state\nadvance 20s\nann < ping");
    let conn = world.conn("ann");
    world.now = world.now + HOUR;
    world.engine.handle_unread(world.now, &[conn]);
    world.end_turn();
    assert_eq!(world.engine.poll_timeout(), Some(world.now + Duration::from_micros(1)));
    world.act("ann", "close");
    world.flush();
    world.take("ann");
    world.run("bob > connect chess\nbob < upgrade, welcome, presence_state");
    assert_eq!(world.conn("bob").index(), conn.index(), "the slot is used again");
    world.run("advance 1s");
    assert!(world.is_open("bob") && world.engine.poll_timeout() > Some(world.now));
}

// ---- wall time ----

/// Steps the wall clock by `by` microseconds, forward or back.
fn step(world: &mut Server, by: i64) {
    let shown = world.app(|_, cx| cx.unix_millis() * 1000);
    world.engine.handle_wall_time(world.now, shown.checked_add_signed(by).expect("in range"));
    world.engine.check();
}

fn authorized(expires_in: Duration) -> Server {
    let mut world = World::new(
        Config { token_grace: Duration::ZERO, ping_interval: HOUR, ..Config::default() },
        Witness::default(),
    );
    world.run("ann > get /ws/chess?token=ann&auth=later");
    let expires = world.app(|_, cx| cx.unix_millis()) + expires_in.as_millis() as u64;
    world.authorize("ann", Authorization::Allow(Identity::new("ann").expires_at_unix_millis(expires)));
    world
}

#[test]
fn tokens_are_checked_against_the_current_wall_clock() {
    for (by, in_time) in [(0, true), (59_000_000, true), (60_000_000, false), (-3_600_000_000, true)] {
        let mut world = World::new(Config::default(), Witness::<true>::default());
        world.run("ann > get /ws/chess?token=ann&auth=later");
        let expires = world.app(|_, cx| cx.unix_millis()) + 60_000;
        step(&mut world, by);
        world.authorize("ann", Authorization::Allow(Identity::new("ann").expires_at_unix_millis(expires)));
        let got = world.take("ann").concat();
        assert_eq!(got.contains("welcome"), in_time, "{by}: {got}");
        assert_eq!(got.contains("token_expired"), !in_time, "{by}: {got}");
    }
}

#[test]
fn members_tokens_expire_by_the_current_wall_clock() {
    let minute = Duration::from_secs(60);
    for (by, ends_after) in [(0, 60), (30_000_000, 30), (-30_000_000, 90), (3_600_000_000, 0)] {
        let mut world = authorized(minute);
        world.take("ann");
        step(&mut world, by);
        let slack = Duration::from_millis(20);
        world.advance(Duration::from_secs(ends_after).saturating_sub(slack));
        if ends_after > 0 {
            assert_eq!(world.take("ann").iter().filter(|got| got.contains("goodbye")).count(), 0, "{by}");
        }
        world.advance(2 * slack);
        let got = world.take("ann").concat();
        assert!(got.contains("token_expired"), "{by}: {got}");
    }
}

/// A step of the clock may put the end of a token before the start of the server.
#[test]
fn the_grace_after_a_token_begins_at_its_end() {
    let mut world =
        World::new(Config { token_grace: Duration::from_secs(20), ..Config::default() }, Witness::<true>::default());
    world.run("ann > get /ws/chess?token=ann&auth=later");
    let expires = world.app(|_, cx| cx.unix_millis()) + 60_000;
    world.authorize("ann", Authorization::Allow(Identity::new("ann").expires_at_unix_millis(expires)));
    world.take("ann");
    step(&mut world, 75_000_000);
    world.run("advance 4990ms\nann < nothing\nadvance 20ms\nann < goodbye, close 4001 token_expired");
}

/// A step moves the expiry of tokens, but no timeout.
#[test]
fn a_wall_clock_step_moves_no_timeout() {
    for by in [-3_600_000_000, 3_600_000_000_i64] {
        let mut world = World::new(Config::default(), Witness::<true>::default());
        world.run("ann joins chess");
        step(&mut world, by);
        world.run("advance 19999ms\nann < nothing\nadvance 1ms\nann < ping");
        // `server_time` shows the new wall time.
        world.act("ann", r#"{"type":"ping"}"#);
        world.flush();
        let server_time = 1_000_000_000 + 20_000 + by / 1000;
        let pong = world.take("ann").concat();
        assert!(pong.contains(&format!("\"server_time\":{server_time}")), "{pong}");
    }
}

// ---- half-closed sockets ----

/// Input that arrives in one packet with the end of the stream is answered.
#[test]
fn input_with_the_end_of_the_stream_is_answered() {
    let close = wire::close(1000, "");
    let ping = wire::frame(Opcode::PING, true, b"x", [1; 4]);
    let connect = |name: &str| wire::upgrade_request(&format!("/ws/chess?token={name}"), &[]);
    for (bytes, answer) in [
        (b"GET /health/live HTTP/1.1\r\nHost: a\r\n\r\n".to_vec(), "http 200|body live|eof"),
        (
            b"GET / HTTP/1.1\r\nHost: a\r\n\r\n".to_vec(),
            "http 404|body there is nothing here; lobbies are at /ws/{lobby_code}|eof",
        ),
        (b"nonsense\r\n\r\n".to_vec(), "http 400|body the bytes are not a request; this port speaks HTTP/1.1|eof"),
        ([connect("ann"), close].concat(), "upgrade|welcome|close 1000 |eof"),
        ([connect("ann"), ping].concat(), "upgrade|welcome|pong x|eof"),
    ] {
        let mut world = World::new(Config::default(), Relay::default());
        world.run("ann > open");
        world.send("ann", &bytes);
        world.hangup("ann");
        world.flush();
        assert_eq!(shape(&world.take("ann")), answer);
        assert!(!world.is_open("ann"), "{answer}: the connection is closed at once");
        assert_eq!(world.engine.stats().total_connections, 0);
        world.engine.check();
    }
}

/// A request that waits for its authorization is answered too, and its reserved seat is free.
#[test]
fn a_request_that_waits_for_its_authorization_is_answered_at_the_end_of_the_stream() {
    let mut world = World::new(Config::default(), Witness::<true>::default());
    world.run("ann > get /ws/chess?token=ann&auth=later\nann < nothing");
    world.hangup("ann");
    world.flush();
    let got = world.take("ann").join("|");
    assert_eq!(got, "http 400|body the connection was closed before it was known whether you may come in|eof");
    assert!(!world.is_open("ann"), "the connection ends in this turn");
    assert_eq!(world.engine.stats().active_lobbies, 0);
    world.engine.check();
}

/// The types of the received items.
fn shape(got: &[String]) -> String {
    let kind = |text: &String| match serde_json::from_str::<serde_json::Value>(text) {
        Ok(value) => value["type"].as_str().expect("a type").to_owned(),
        Err(_) => text.split(": ").next().expect("split returns at least one part").to_owned(),
    };
    got.iter().map(kind).collect::<Vec<_>>().join("|")
}

#[test]
fn a_half_closed_peer_that_does_not_read_is_dropped() {
    let mut world = World::new(Config::default(), Relay::default());
    world.run("ann > connect chess\nann < upgrade, welcome, presence_state\nann > window 0");
    world.run("bob > connect chess\nbob < upgrade, welcome, presence_state");
    world.hangup("ann");
    world.flush();
    world.run("bob < presence_diff -ann:dropped");
    assert!(world.is_open("ann"), "queued output may still be read");
    world.run("advance 2010ms");
    assert!(!world.is_open("ann"));
    // The same for a broken socket, once a write shows it.
    world.run("cid > connect chess\nbob < presence_diff +cid\ncid < upgrade, welcome, presence_state\ncid > window 0");
    world.run(r#"bob > {"type":"broadcast","data":1}"#);
    world.run("cid > break");
    world.hangup("cid");
    world.act("cid", "read");
    world.flush();
    assert!(!world.is_open("cid"));
}

/// A slow peer read while the server was stopped: the goodbye is written before the connection's timer acts.
#[test]
fn a_goodbye_is_written_when_the_socket_takes_bytes_again() {
    let kick: fn(&mut World<Relay>) = |world| {
        let conn = world.conn("ann");
        world.app(|_, cx| cx.close(conn, CloseReason::Kicked));
    };
    let end: fn(&mut World<Relay>) = |world| world.hangup("ann");
    for (is_room, prepare) in [(true, kick), (false, kick), (true, end), (false, end)] {
        let mut world = World::new(Config::default(), Relay::default());
        world.run("ann > connect chess\nann < upgrade, welcome, presence_state\nann > window 0");
        world.run("bob > connect chess\nbob < upgrade, welcome, presence_state");
        prepare(&mut world);
        world.flush();
        world.now = world.now + HOUR;
        if is_room {
            world.act("ann", "read");
        }
        world.end_turn();
        world.engine.check();
        let got = world.take("ann").concat();
        assert_eq!(got.contains("bob"), is_room, "{got}");
        world.advance(Duration::from_secs(10));
        assert!(!world.is_open("ann"));
    }
}
