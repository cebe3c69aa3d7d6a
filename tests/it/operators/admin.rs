//! Operators' requests and answers as bytes, with the engine behind them. In virtual time.

use std::time::Duration;

use lobbyd::admin::{AdminConns, Token};
use lobbyd::apps::{Relay, Verbatim};
use lobbyd::sim::wire::{self, Opcode};
use lobbyd::{App, Authorization, ByteSize, CloseReason, Config, DuplicateLogin, Limit, Time};
use serde_json::{Value, json};

use crate::scenario::World;
use crate::witness::Witness;

/// An operator with one connection.
struct Operator {
    conns: AdminConns,
    client: usize,
}

/// A parsed answer.
#[derive(Debug)]
struct Answer {
    status: u16,
    head: String,
    body: Value,
}

fn config() -> Config {
    Config { admin: Some("127.0.0.1:9002".parse().expect("an address")), ..Config::default() }
}

fn operator(config: &Config) -> Operator {
    let mut conns = AdminConns::new(config, None);
    let client = conns.handle_accept(Time::ZERO, ([127, 0, 0, 1], 5000).into()).expect("room");
    Operator { conns, client }
}

/// After a pause of the process, the rest of the request may be in the kernel.
#[test]
fn unread_input_does_not_time_a_request_out() {
    let mut world = World::new(config(), Relay::default());
    let mut operator = operator(&config());
    let request = get("/health/live");
    operator.conns.handle_bytes(operator.client, &request.as_bytes()[..10]);
    assert_eq!(operator.turn(&mut world), "");
    world.now = world.now + Duration::from_secs(3600);
    operator.conns.handle_unread(operator.client);
    assert_eq!(operator.turn(&mut world), "");
    operator.conns.handle_bytes(operator.client, &request.as_bytes()[10..]);
    assert!(operator.turn(&mut world).starts_with("HTTP/1.1 200"));
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: localhost:9002\r\n\r\n")
}

fn post(path: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "POST {path} HTTP/1.1\r\nHost: localhost:9002\r\nContent-Type: application/json\r\n\
         Content-Length: {length}\r\n\r\n{body}"
    )
}

impl Operator {
    /// Performs the driver's work of a turn and takes the bytes to be written.
    fn turn<A: App>(&mut self, world: &mut World<A>) -> String {
        self.conns.work(world.now, &mut world.engine);
        world.flush();
        world.engine.check();
        let bytes = self.conns.pending(self.client).to_vec();
        self.conns.handle_written(world.now, self.client, bytes.len());
        String::from_utf8(bytes).expect("UTF-8")
    }

    #[track_caller]
    fn ask<A: App>(&mut self, world: &mut World<A>, request: &str) -> Answer {
        self.conns.handle_bytes(self.client, request.as_bytes());
        read(&self.turn(world))
    }

    /// Sends a request and expects a status and a body.
    #[track_caller]
    fn check<A: App>(&mut self, world: &mut World<A>, request: &str, status: u16, body: Value) {
        let answer = self.ask(world, request);
        assert_eq!((answer.status, answer.body), (status, body), "{request}");
    }

    /// Sends a request and expects an error.
    #[track_caller]
    fn refused<A: App>(&mut self, world: &mut World<A>, request: &str, status: u16, word: &str) -> Answer {
        let answer = self.ask(world, request);
        assert_eq!((answer.status, &answer.body["error"]), (status, &json!(word)), "{request}\n{answer:?}");
        assert!(answer.body["message"].is_string());
        answer
    }

    fn is_closed(&mut self) -> bool {
        self.conns.poll_closed() == Some(self.client)
    }
}

#[track_caller]
fn read(text: &str) -> Answer {
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {text:?}"));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
    let length = format!("\r\nContent-Length: {}\r\n", body.len());
    assert!(head.contains(&length), "{head}\n{} bytes", body.len());
    assert!(head.contains("\r\nContent-Type: application/json\r\n") && body.ends_with("}\n"), "{text}");
    Answer { status, head: head.to_owned(), body: serde_json::from_str(body).expect("JSON") }
}

/// Ann and bob in chess, cid in go.
const THREE: &str = r#"
    ann > connect chess
    ann < upgrade, welcome, presence_state
    bob > connect chess
    bob < upgrade, welcome, presence_state
    ann < presence_diff +bob
    cid > connect go
    cid < upgrade, welcome, presence_state
"#;

fn three() -> (World<Relay>, Operator) {
    let mut world = World::new(config(), Relay::default());
    world.run(THREE);
    (world, operator(&config()))
}

// ---- queries ----

#[test]
fn health_and_stats() {
    let (mut world, mut operator) = three();
    operator.check(&mut world, &get("/health/live"), 200, json!({"status": "live"}));
    operator.check(&mut world, &get("/health/ready"), 200, json!({"status": "ready"}));
    let stats = operator.ask(&mut world, &get("/stats")).body;
    assert_eq!(stats["status"], "ready");
    assert_eq!(stats["total_connections"], 3);
    assert_eq!(stats["max_connections"], 500);
    assert_eq!(stats["capacity_percent"], 0.6);
    assert_eq!(stats["active_lobbies"], 2);
    assert_eq!(stats["counters"]["joined"], 3);
    assert_eq!(stats["closed"], json!({}));
    assert_eq!(stats["drain"], Value::Null);
    world.run("bob > {\"type\":\"leave\"}\nbob < goodbye, close 1000 left\nann < presence_diff -bob:left");
    assert_eq!(operator.ask(&mut world, &get("/stats")).body["closed"], json!({"left": 1}));
}

#[test]
fn lobbies_and_users_are_described() {
    let (mut world, mut operator) = three();
    world.run("advance 3s");
    operator.check(
        &mut world,
        &get("/lobbies"),
        200,
        json!({"lobbies": [
            {"lobby": "chess", "members": 2, "locked": false, "epoch": 1_000_000_000_000_u64, "seq": 1},
            {"lobby": "go", "members": 1, "locked": false, "epoch": 1_000_000_000_001_u64, "seq": 0},
        ], "next": null}),
    );
    let seat = |user: &str, conn: &str| json!({"user": user, "conn": conn, "peer": "127.0.0.1:4000", "queued_bytes": 0, "idle_ms": 3000});
    operator.check(
        &mut world,
        &get("/lobbies/chess"),
        200,
        json!({
            "lobby": "chess", "members": 2, "locked": false, "epoch": 1_000_000_000_000_u64, "seq": 1,
            "users": [seat("ann", "s1"), seat("bob", "s2")], "next": null,
        }),
    );
    operator.check(
        &mut world,
        &get("/users/cid"),
        200,
        json!({"user": "cid", "seats": [
            {"lobby": "go", "conn": "s3", "peer": "127.0.0.1:4000", "queued_bytes": 0, "idle_ms": 3000},
        ], "next": null}),
    );
    operator.refused(&mut world, &get("/lobbies/bridge"), 404, "no_such_lobby");
    operator.refused(&mut world, &get("/users/dan"), 404, "no_such_user");
}

#[test]
fn large_lists_come_in_pages() {
    let config = Config { max_per_lobby: Limit::at_most(30), ..config() };
    let mut world = World::new(config.clone(), Verbatim::default());
    for n in 0..25 {
        world.steps(&format!("u{n} > connect lobby-{n}"));
        world.steps(&format!("m{n} > connect big"));
    }
    let mut operator = operator(&config);
    // Two lobbies are removed while the pages are read, and a new one uses the slot of a removed one.
    let mut seen = Vec::new();
    let mut path = "/lobbies?limit=7".to_owned();
    for turn in 0.. {
        let page = operator.ask(&mut world, &get(&path)).body;
        let lobbies = page["lobbies"].as_array().expect("an array");
        assert!(lobbies.len() <= 7);
        seen.extend(lobbies.iter().map(|lobby| lobby["lobby"].as_str().expect("a string").to_owned()));
        if turn == 1 {
            world.hangup("u0");
            world.hangup("u24");
            world.flush();
            world.steps("v > connect new");
        }
        match page["next"].as_u64() {
            Some(next) => path = format!("/lobbies?limit=7&after={next}"),
            None => break,
        }
    }
    seen.sort();
    let mut expected: Vec<String> = (1..24).map(|n| format!("lobby-{n}")).collect();
    expected.push("big".into());
    expected.sort();
    assert!(expected.iter().all(|code| seen.iter().filter(|&other| other == code).count() == 1), "{seen:?}");

    let first = operator.ask(&mut world, &get("/lobbies/big?limit=20")).body;
    assert_eq!(first["members"], 25);
    assert_eq!(first["users"].as_array().map(Vec::len), Some(20));
    assert_eq!(first["users"][19]["user"], "m19");
    // The last member of a page may leave before the next page is read.
    world.hangup("m19");
    world.flush();
    let second = operator.ask(&mut world, &get(&format!("/lobbies/big?limit=20&after={}", first["next"]))).body;
    let users = second["users"].as_array().expect("an array").iter().map(|user| &user["user"]);
    assert_eq!(users.collect::<Vec<_>>(), ["m20", "m21", "m22", "m23", "m24"]);
    assert_eq!(second["next"], Value::Null);
    operator.check(&mut world, &get("/lobbies?after=99999999999999999999999"), 400, {
        json!({"error": "bad_request", "message": "after must be the `next` of an earlier page"})
    });
    let beyond = format!("/lobbies?after={}", u64::MAX);
    operator.check(&mut world, &get(&beyond), 200, json!({"lobbies": [], "next": null}));
}

// ---- commands ----

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
    world.run("ann > connect chess\nann < upgrade, welcome, presence_state");
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
    let (now, bob) = (world.now, world.conn("bob"));
    world.engine.handle_authorized(now, bob, Authorization::allow("bob"));
    world.flush();
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

// ---- access and malformed requests ----

#[test]
fn foreign_pages_are_refused() {
    let (mut world, mut operator) = three();
    let with = |lines: &str| format!("GET /stats HTTP/1.1\r\n{lines}\r\n\r\n");
    for host in ["evil.example", "evil.example:9002", "10.0.0.1:9002", ""] {
        operator.refused(&mut world, &with(&format!("Host: {host}")), 403, "foreign_host");
    }
    for origin in ["null", "http://evil.example", "http://127.0.0.1:9001", "http://localhost:9002.evil.example"] {
        let lines = format!("Host: localhost:9002\r\nOrigin: {origin}");
        operator.refused(&mut world, &with(&lines), 403, "foreign_origin");
    }
    let own = with("Host: 127.0.0.1:9002\r\nOrigin: http://127.0.0.1:9002");
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
    let problems = open.check().expect_err("a token is required");
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
    check(&mut world, &get("/"), 404);
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
    check(&mut world, &format!("GET /{} HTTP/1.1\r\nHost: localhost\r\n\r\n", "x".repeat(8192)), 431);
    check(&mut world, &format!("GET / HTTP/1.1\r\nHost: localhost\r\n{}\r\n", "A: b\r\n".repeat(64)), 431);
}

#[test]
fn names_in_paths_are_decoded() {
    let mut world = World::new(config(), Relay::default());
    world.steps("x > get /ws/chess?token=zo%C3%AB%2Fx");
    let mut operator = operator(&config());
    let answer = operator.ask(&mut world, &get("/users/zo%C3%AB%2Fx"));
    assert_eq!((answer.status, &answer.body["user"]), (200, &json!("zoë/x")));
}

// ---- connections ----

#[test]
fn requests_arrive_in_any_pieces_and_are_answered_in_order() {
    let (mut world, mut operator) = three();
    let requests = [post("/lobbies/go/lock", r#"{"locked":true}"#), get("/health/live"), get("/lobbies/go")].concat();
    let mut answers = String::new();
    for byte in requests.bytes() {
        operator.conns.handle_bytes(operator.client, &[byte]);
        answers += &operator.turn(&mut world);
    }
    let whole = answers.clone();
    assert_eq!(answers.matches("HTTP/1.1 200 OK").count(), 3);

    // The same requests at once: one is handled per turn, and the next turn is due at once.
    operator.conns.handle_bytes(operator.client, requests.as_bytes());
    answers.clear();
    for _ in 0..3 {
        assert_eq!(operator.conns.poll_timeout(), Some(Time::ZERO));
        let answer = operator.turn(&mut world);
        assert_eq!(answer.matches("HTTP/1.1 200 OK").count(), 1);
        answers += &answer;
    }
    operator.turn(&mut world);
    assert_eq!(answers, whole);
    assert_eq!(operator.conns.poll_timeout(), Some(Time::ZERO + Duration::from_secs(30)));
}

#[test]
fn the_client_decides_about_keep_alive() {
    let mut world = World::new(config(), Relay::default());
    for (request, goes_on) in [
        (get("/health/live"), true),
        (get("/health/live").replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n"), false),
        (get("/health/live").replace("HTTP/1.1", "HTTP/1.0"), false),
        (get("/nothing"), true),
        ("nonsense\r\n\r\n".into(), false),
    ] {
        let mut operator = operator(&config());
        let answer = operator.ask(&mut world, &request);
        let connection = if goes_on { "\r\nConnection: keep-alive" } else { "\r\nConnection: close" };
        assert!(answer.head.ends_with(connection), "{request}{}", answer.head);
        assert_eq!(operator.conns.is_finished(operator.client), !goes_on);
        assert!(!operator.is_closed(), "further input is read, since a reset would destroy the answer");
        operator.conns.handle_end(operator.client);
        operator.turn(&mut world);
        assert!(operator.is_closed());
    }
}

#[test]
fn a_half_closed_client_is_still_answered() {
    let (mut world, mut operator) = three();
    operator.conns.handle_bytes(operator.client, post("/users/ann/ping", "").as_bytes());
    operator.conns.handle_end(operator.client);
    assert_eq!(operator.turn(&mut world), "");
    world.advance(Duration::from_secs(2));
    world.take("ann");
    assert_eq!(read(&operator.turn(&mut world)).body["healthy"], false);
    operator.turn(&mut world);
    assert!(operator.is_closed());
}

#[test]
fn a_head_request_gets_the_head_alone() {
    let (mut world, mut operator) = three();
    let request = get("/health/live").replace("GET", "HEAD");
    operator.conns.handle_bytes(operator.client, request.as_bytes());
    let answer = operator.turn(&mut world);
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("\r\n\r\n"), "{answer}");
    assert!(answer.contains("\r\nContent-Length: 18\r\n"), "{answer}");
}

#[test]
fn expect_100_continue_is_answered() {
    let (mut world, mut operator) = three();
    let request = post("/lobbies/go/publish", r#"{"data":1}"#).replace("\r\n\r\n", "\r\nExpect: 100-continue\r\n\r\n");
    let (head, body) = request.split_at(request.len() - 10);
    operator.conns.handle_bytes(operator.client, head.as_bytes());
    assert_eq!(operator.turn(&mut world), "HTTP/1.1 100 Continue\r\n\r\n");
    assert_eq!(operator.ask(&mut world, body).body["queued"], 1);
    world.take("cid");
}

#[test]
fn idle_clients_make_room_and_slow_ones_are_dropped() {
    let config = Config { max_admin_connections: 2, ..config() };
    let mut world = World::new(config.clone(), Relay::default());
    let mut conns = AdminConns::new(&config, None);
    let peer = ([127, 0, 0, 1], 5000).into();
    let mut asks = |conns: &mut AdminConns, client: usize| {
        conns.handle_bytes(client, get("/stats").as_bytes());
        conns.work(world.now, &mut world.engine);
        let answered = conns.pending(client).len();
        assert!(answered > 0);
        conns.handle_written(world.now, client, answered);
    };
    let busy = conns.handle_accept(world.now, peer).expect("room");
    asks(&mut conns, busy);
    conns.handle_bytes(busy, b"GET /health/live HTTP/1.1\r\n");
    let idle = conns.handle_accept(world.now, peer).expect("room");
    asks(&mut conns, idle);
    let third = conns.handle_accept(world.now, peer).expect("the idle one makes room");
    assert_eq!(conns.poll_closed(), Some(idle));
    asks(&mut conns, third);
    conns.handle_bytes(third, b"G");
    assert_eq!(conns.handle_accept(world.now, peer), None, "no connection is idle");

    // The deadline does not move while the request trickles in.
    for second in 1..=29 {
        world.now = Time::from_micros(second * 1_000_000);
        conns.handle_bytes(busy, b"A");
        conns.work(world.now, &mut world.engine);
        assert_eq!(conns.pending(busy), b"");
    }
    world.now = Time::from_micros(30_000_000);
    conns.work(world.now, &mut world.engine);
    assert!(conns.pending(busy).starts_with(b"HTTP/1.1 408 "));
    // The deadline also applies to an answer that is not read.
    world.now = Time::from_micros(60_000_000);
    conns.work(world.now, &mut world.engine);
    assert_eq!(conns.poll_closed(), Some(busy));
    assert_eq!(conns.poll_closed(), Some(third));
}

/// Clients without a token can open connections and begin requests. An operator with the token is accepted all the same.
#[test]
fn unauthenticated_requests_make_room_for_an_operator() {
    let config = Config { max_admin_connections: 2, ..config() };
    let mut world = World::new(config.clone(), Relay::default());
    let mut conns = AdminConns::new(&config, Some(Token::read("correct-horse-battery").expect("a token")));
    let peer = ([127, 0, 0, 1], 5000).into();
    for _ in 0..10 {
        let stranger = conns.handle_accept(world.now, peer).expect("an older stranger makes room");
        conns.handle_bytes(stranger, b"G");
        while conns.poll_closed().is_some() {}
    }
    let operator = conns.handle_accept(world.now, peer).expect("a stranger makes room");
    let request = get("/stats").replace("\r\n\r\n", "\r\nAuthorization: Bearer correct-horse-battery\r\n\r\n");
    conns.handle_bytes(operator, request.as_bytes());
    conns.work(world.now, &mut world.engine);
    assert!(conns.pending(operator).starts_with(b"HTTP/1.1 200 "));
}

#[test]
fn a_client_that_pipelines_too_much_is_closed() {
    let config = Config { max_message_bytes: ByteSize(1024), ..config() };
    let (mut world, mut operator) = (World::new(config.clone(), Relay::default()), operator(&config));
    let request = get("/health/live");
    for _ in 0..5000 {
        operator.conns.handle_bytes(operator.client, request.as_bytes());
    }
    operator.conns.work(world.now, &mut world.engine);
    assert!(operator.is_closed());
}
