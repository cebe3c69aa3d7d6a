//! Commands of operators.

use std::time::Duration;

use lobbyd::apps::{Relay, Verbatim};
use lobbyd::config::{DuplicateLogin, Limit};
use lobbyd::sim::wire::{self, Opcode};
use lobbyd::{Authorization, CloseReason, Config};
use serde_json::json;

use super::{THREE, config, get, operator, post, read, three};
use crate::common::scenario::World;
use crate::common::witness::Witness;

#[test]
fn operator_messages_have_no_sender() {
    let (mut world, mut operator) = three();
    let data = r#"{"notice": [1.50, "ü"]}"#;
    operator.check(
        &mut world,
        &post("/lobbies/chess/publish", &format!(r#"{{"data": {data}}}"#)),
        200,
        json!({"seq": 2, "queued": 2, "dropped": 0}),
    );
    // The JSON is passed on as it was written.
    let as_written = format!(r#"{{"type":"message","from":null,"seq":2,"data":{data}}}"#);
    assert_eq!(world.take("ann"), [&*as_written]);
    assert_eq!(world.take("bob"), [&*as_written]);
    operator.check(
        &mut world,
        &post("/users/cid/send", r#"{"data":"for you"}"#),
        200,
        json!({"queued": 1, "dropped": 0}),
    );
    assert_eq!(world.take("cid"), [r#"{"type":"direct","from":null,"data":"for you"}"#]);
    world.run("bob > {\"type\":\"move\"}\nann < message from=bob seq=3");

    operator.refused(&mut world, &post("/lobbies/bridge/publish", r#"{"data":1}"#), 404, "no_such_lobby");
    operator.refused(&mut world, &post("/users/dan/send", r#"{"data":1}"#), 404, "no_such_user");
    operator.refused(&mut world, &post("/users/ann/send", r#"{"text":"hi"}"#), 409, "not_json");
    for body in ["", "{}", r#"{"data":1,"text":"x"}"#, r#"{"text":1}"#, "null", "[1]", "{", r#"{"data":1,"to":2}"#] {
        operator.refused(&mut world, &post("/lobbies/chess/publish", body), 400, "bad_request");
    }
    for data in [r#""\ud800""#, &format!("{}{}", "[".repeat(128), "]".repeat(128))] {
        let body = format!(r#"{{"data":{data}}}"#);
        operator.refused(&mut world, &post("/lobbies/chess/publish", &body), 400, "bad_message");
        operator.refused(&mut world, &post("/users/ann/send", &body), 400, "bad_message");
    }
    let long = format!(r#"{{"data":"{}"}}"#, "x".repeat(65_536));
    operator.refused(&mut world, &post("/lobbies/chess/publish", &long), 413, "too_long");
    world.run("ann < nothing\nbob < nothing");
}

#[test]
fn raw_members_get_the_text_unchanged() {
    let mut world = World::new(config(), Verbatim::default());
    world.run("ann > connect chess\nann < upgrade");
    let mut operator = operator(&config());
    let sent = json!({"queued": 1, "dropped": 0});
    operator.check(&mut world, &post("/lobbies/chess/publish", r#"{"text":"say \"hi\""}"#), 200, sent.clone());
    assert_eq!(world.take("ann"), [r#"say "hi""#]);
    operator.check(&mut world, &post("/users/ann/send", r#"{"data":{"a": 1}}"#), 200, sent);
    assert_eq!(world.take("ann"), [r#"{"a": 1}"#]);
}

#[test]
fn a_ping_is_answered_when_the_user_answers() {
    let (mut world, mut operator) = three();
    operator.conns.handle_bytes(operator.client, post("/users/ann/ping", "").as_bytes());
    assert_eq!(operator.turn(&mut world), "", "the answer comes later");
    world.steps("advance 120500us\nann > {\"type\":\"health_pong\",\"timestamp\":1000000000}");
    assert_eq!(world.take("ann").len(), 1, "the health_ping");
    let answer = read(&operator.turn(&mut world));
    let expected = json!({"user": "ann", "healthy": true, "latency_ms": 120.5,
        "conns": [{"conn": "s1", "latency_ms": 120.5}]});
    assert_eq!((answer.status, answer.body), (200, expected));

    // The first ping is not answered in time. In the second case the connection closes before it answers.
    let unhealthy = |user: &str, conn: &str| json!({"user": user, "healthy": false, "latency_ms": null, "conns": [{"conn": conn, "latency_ms": null}]});
    operator.conns.handle_bytes(operator.client, post("/users/bob/ping", r#"{"timeout_ms":300}"#).as_bytes());
    assert_eq!(operator.turn(&mut world), "");
    world.advance(Duration::from_millis(299));
    assert_eq!(operator.turn(&mut world), "");
    world.advance(Duration::from_millis(1));
    assert_eq!(read(&operator.turn(&mut world)).body, unhealthy("bob", "s2"));
    operator.conns.handle_bytes(operator.client, post("/users/cid/ping", "{}").as_bytes());
    assert_eq!(operator.turn(&mut world), "");
    world.hangup("cid");
    assert_eq!(read(&operator.turn(&mut world)).body, unhealthy("cid", "s3"));

    operator.refused(&mut world, &post("/users/dan/ping", ""), 404, "no_such_user");
    for timeout in ["0", "60001", "1.5", "\"1\"", "-1"] {
        let body = format!(r#"{{"timeout_ms":{timeout}}}"#);
        operator.refused(&mut world, &post("/users/ann/ping", &body), 400, "bad_request");
    }
}

#[test]
fn numbers_compare_by_value_and_null_means_absent() {
    let config = Config { tick_hz: Some(10), ..config() };
    let mut world = World::new(config.clone(), Relay::default());
    world.steps("ann > connect chess");
    world.take("ann");
    let mut operator = operator(&config);
    operator.check(&mut world, &post("/clock/pause", ""), 200, json!({"tick": 0, "paused": true, "slowdown": 1}));
    for (field, slowdown) in [("20.0", 20), ("2e1", 20), ("300e-1", 30)] {
        let body = json!({"tick": 0, "paused": true, "slowdown": slowdown});
        operator.check(&mut world, &post("/clock/slow", &format!(r#"{{"factor":{field}}}"#)), 200, body);
    }
    for bad in ["null", "2.5", "-1", "\"2\"", "1e99", "4294967297"] {
        operator.refused(&mut world, &post("/clock/slow", &format!(r#"{{"factor":{bad}}}"#)), 400, "bad_request");
    }
    operator.check(
        &mut world,
        &post("/clock/step", r#"{"ticks":null}"#),
        200,
        json!({"tick": 0, "paused": true, "slowdown": 30}),
    );
    operator.conns.handle_bytes(operator.client, post("/users/ann/ping", r#"{"timeout_ms":3.0e2}"#).as_bytes());
    assert_eq!(operator.turn(&mut world), "");
    world.advance(Duration::from_millis(300));
    assert_eq!(read(&operator.turn(&mut world)).body["healthy"], false);
    operator.check(&mut world, &post("/lobbies/chess/lock", r#"{"locked":null}"#), 200, json!({"locked": true}));
    operator.check(&mut world, &post("/users/ann/kick", r#"{"reconnect":null}"#), 200, json!({"closing": 1}));
    world.steps("ann < health_ping, goodbye, close 4003 kicked");
}

#[test]
fn every_seat_of_a_user_is_pinged() {
    let config = Config { duplicate_login: DuplicateLogin::Allow, max_per_user: Limit::at_most(2), ..config() };
    let mut world = World::new(config.clone(), Verbatim::default());
    world.run("ann > connect chess\nann < upgrade\nann:2 > connect go\nann:2 < upgrade");
    let mut operator = operator(&config);
    operator.conns.handle_bytes(operator.client, post("/users/ann/ping", "").as_bytes());
    assert_eq!(operator.turn(&mut world), "");
    world.take("ann:2");
    world.advance(Duration::from_millis(1));
    // The nonce of the check is the wall time in milliseconds at its start.
    let nonce = 1_000_000_000_u64.to_be_bytes();
    world.send("ann:2", &wire::frame(Opcode::PONG, true, &nonce, [1; 4]));
    assert_eq!(operator.turn(&mut world), "", "one answer is awaited");
    world.advance(Duration::from_secs(2));
    let answer = read(&operator.turn(&mut world));
    assert_eq!(
        answer.body,
        json!({"user": "ann", "healthy": true, "latency_ms": 1.0,
            "conns": [{"conn": "s1", "latency_ms": null}, {"conn": "s2", "latency_ms": 1.0}]})
    );
    world.take("ann");
    let seats = operator.ask(&mut world, &get("/users/ann")).body;
    assert_eq!(seats["seats"][1]["lobby"], "go");
}

#[test]
fn too_many_pings_at_once_are_refused() {
    let config = Config { max_admin_connections: 100, ..config() };
    let mut world = World::new(config.clone(), Relay::default());
    world.steps(THREE);
    let mut first = operator(&config);
    for n in 0..65 {
        let client = first.conns.handle_accept(world.now, ([127, 0, 0, 1], 6000).into()).expect("room");
        first.conns.handle_bytes(client, post("/users/ann/ping", "").as_bytes());
        first.conns.work(world.now, &mut world.engine);
        let answer = String::from_utf8_lossy(first.conns.pending(client)).into_owned();
        assert_eq!(answer.starts_with("HTTP/1.1 503 "), n == 64, "{n}: {answer}");
    }
    world.flush();
}

#[test]
fn members_are_kicked_with_or_without_a_reconnect() {
    let (mut world, mut operator) = three();
    operator.check(&mut world, &post("/users/ann/kick", ""), 200, json!({"closing": 1}));
    world.run(
        r#"
        ann < goodbye code=4003 reason=kicked reconnect=false, close 4003 kicked
        bob < presence_diff -ann:kicked
        "#,
    );
    operator.check(&mut world, &post("/lobbies/chess/kick", r#"{"reconnect":true}"#), 200, json!({"closing": 1}));
    world.run("bob < goodbye code=4103 reason=reconnect reconnect=true, close 4103 reconnect");
    world.run("dan > connect bridge\ndan < upgrade, welcome, presence_state");
    operator.check(&mut world, &post("/kick", r#"{"reconnect":false}"#), 200, json!({"closing": 2}));
    world.run("cid < goodbye, close 4003 kicked\ndan < goodbye, close 4003 kicked");
    operator.check(&mut world, &post("/kick", ""), 200, json!({"closing": 0}));
    operator.refused(&mut world, &post("/users/ann/kick", ""), 404, "no_such_user");
    operator.refused(&mut world, &post("/lobbies/chess/kick", ""), 404, "no_such_lobby");
    operator.refused(&mut world, &post("/kick", r#"{"reconnect":1}"#), 400, "bad_request");
    assert_eq!(world.engine.stats().counters.closed(CloseReason::Kicked), 3);
}

#[test]
fn many_members_are_closed_in_batches() {
    let config =
        Config { max_per_lobby: Limit::at_most(20), drain_batch: 4, max_connections: Limit::at_most(20), ..config() };
    let mut world = World::new(config.clone(), Verbatim::default());
    for n in 0..10 {
        world.steps(&format!("u{n} > connect chess\nu{n} < upgrade"));
    }
    let mut operator = operator(&config);
    operator.check(&mut world, &post("/lobbies/chess/close", ""), 200, json!({"closing": 10}));
    let count = |world: &World<Verbatim>| world.engine.stats().total_connections;
    assert_eq!(count(&world), 6);
    // A second command closes no member twice, and the lobby stays locked until it is empty.
    operator.check(&mut world, &post("/kick", ""), 200, json!({"closing": 6}));
    assert_eq!(count(&world), 6);
    world.run(
        r#"
        u0 < close 4006 lobby_closed
        u1 < close 4006 lobby_closed
        u2 < close 4006 lobby_closed
        u3 < close 4006 lobby_closed
        eve > connect chess
        eve < upgrade, close 4002 lobby_locked
        u4 < nothing
        advance 100ms
        u4 < close 4006 lobby_closed
        u5 < close 4006 lobby_closed
        u6 < close 4006 lobby_closed
        u7 < close 4006 lobby_closed
        advance 100ms
        u8 < close 4006 lobby_closed
        u9 < close 4006 lobby_closed
        "#,
    );
    assert_eq!(world.engine.stats().active_lobbies, 0);
}

#[test]
fn a_locked_lobby_admits_no_new_member() {
    let (mut world, mut operator) = three();
    operator.check(&mut world, &post("/lobbies/chess/lock", ""), 200, json!({"locked": true}));
    assert_eq!(operator.ask(&mut world, &get("/lobbies/chess")).body["locked"], true);
    world.run(
        r#"
        dan > connect chess
        dan < upgrade, goodbye code=4002 reason=lobby_locked reconnect=false, close 4002 lobby_locked
        # A member may take over its own seat.
        ann:2 > connect chess
        ann < goodbye, close 4004 replaced
        ann:2 < upgrade, welcome, presence_state
        "#,
    );
    operator.check(&mut world, &post("/lobbies/chess/lock", r#"{"locked":false}"#), 200, json!({"locked": false}));
    world.run(
        r#"
        eve > connect chess
        eve < upgrade, welcome, presence_state
        bob < presence_diff +eve
        ann:2 < presence_diff +eve
        "#,
    );
    operator.refused(&mut world, &post("/lobbies/bridge/lock", ""), 404, "no_such_lobby");
    operator.check(&mut world, &post("/lobbies/chess/close", ""), 200, json!({"closing": 3}));
    world.run(
        r#"
        bob < goodbye code=4006 reconnect=false, close 4006 lobby_closed
        ann:2 < goodbye, close 4006 lobby_closed
        eve < goodbye, close 4006 lobby_closed
        # A lobby created again under the name is not locked.
        fay > connect chess
        fay < upgrade, welcome seq=0, presence_state
        "#,
    );
    operator.refused(&mut world, &post("/lobbies/bridge/close", ""), 404, "no_such_lobby");
}

/// An application can lock, announce and close through its context, as an operator can.
#[test]
fn the_application_locks_and_announces_too() {
    let mut world = World::new(config(), Witness::<true>::default());
    world.run("ann joins chess");
    assert!(world.app(|_, cx| {
        assert_eq!(cx.announce("chess", "\"closing soon\"").queued, 1);
        assert_eq!(cx.announce("go", "1").queued, 0);
        assert!(!cx.lock_lobby("go", true));
        cx.lock_lobby("chess", true)
    }));
    assert_eq!(world.app(|_, cx| cx.can_accept_connection("chess")), Err(CloseReason::LobbyLocked));
    assert_eq!(world.take("ann"), [r#"{"type":"message","from":null,"seq":1,"data":"closing soon"}"#]);
    // A connection whose authorization was pending when the lobby was locked is refused too.
    assert!(world.app(|_, cx| cx.lock_lobby("chess", false)));
    world.run("bob > get /ws/chess?token=bob&auth=later");
    assert!(world.app(|_, cx| cx.lock_lobby("chess", true)));
    world.authorize("bob", Authorization::allow("bob"));
    world.run("bob < upgrade, goodbye, close 4002 lobby_locked");
}

#[test]
fn the_operator_drains_the_server() {
    let (mut world, mut operator) = three();
    let answer = operator.ask(&mut world, &post("/drain", ""));
    assert_eq!((answer.status, &answer.body["status"]), (202, &json!("draining")));
    world.run(
        r#"
        ann < goodbye code=1001, close 1001 server_shutdown
        bob < goodbye, close 1001 server_shutdown
        cid < goodbye, close 1001 server_shutdown
        dan > connect chess
        dan < http 503, body the server is shutting down; try again in a moment, eof
        ann > close 1001
        ann < eof
        ann > hangup
        "#,
    );
    operator.check(&mut world, &get("/health/ready"), 503, json!({"status": "draining"}));
    operator.check(&mut world, &get("/health/live"), 200, json!({"status": "live"}));
    let stats = operator.ask(&mut world, &get("/stats")).body;
    assert_eq!((&stats["status"], &stats["drain"]["closed"]), (&json!("draining"), &json!(1)));
    // A second request does not change the drain.
    assert_eq!(operator.ask(&mut world, &post("/drain", "{}")).body["closed"], 1);
    world.run("bob > hangup\ncid > hangup");
    assert!(world.engine.is_drained());
}

/// Health checks on both ports say that connections are dropped, until none was dropped for ten seconds.
#[test]
fn a_server_without_descriptors_is_not_ready() {
    let (mut world, mut operator) = three();
    let message = "new connections are dropped because no file descriptor is free";
    world.engine.handle_shed(world.now);
    world.run("advance 9999ms");
    operator.check(&mut world, &get("/health/ready"), 503, json!({"status": "shedding", "message": message}));
    operator.check(&mut world, &get("/health/live"), 200, json!({"status": "live"}));
    assert_eq!(operator.ask(&mut world, &get("/stats")).body["status"], "shedding");
    world.run(&format!(
        r"
        probe > open
        probe > raw GET /health/ready HTTP/1.1\r\nHost: a\r\n\r\n
        probe < http 503, body shedding: {message}, eof
        advance 1ms
        probe:2 > open
        probe:2 > raw GET /health/ready HTTP/1.1\r\nHost: a\r\n\r\n
        probe:2 < http 200, body ready, eof
        "
    ));
    operator.check(&mut world, &get("/health/ready"), 200, json!({"status": "ready"}));
}
