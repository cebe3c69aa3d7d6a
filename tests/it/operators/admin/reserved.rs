//! Lobbies that operators create, with seats that are kept for the players of a match.

use std::time::Duration;

use lobbyd::apps::Relay;
use lobbyd::config::Limit;
use lobbyd::control::LobbyControl;
use lobbyd::{App, Authorization, CloseReason, Config, Context, Member, Message, Protocol, Request};
use serde_json::json;

use super::control::with_control;
use super::{Operator, config, get, operator, post};
use crate::common::scenario::World;

fn site(config: Config) -> (World<Relay>, Operator) {
    let operator = operator(&config);
    (World::new(config, Relay::default()), operator)
}

/// Creates a lobby.
#[track_caller]
fn create(world: &mut World<Relay>, operator: &mut Operator, body: &str) -> String {
    let answer = operator.ask(world, &post("/lobbies", body));
    assert_eq!(answer.status, 201, "{answer:?}");
    answer.body["lobby"].as_str().expect("a code").to_owned()
}

#[test]
fn a_match_has_its_seats_settings_and_data() {
    let (mut world, mut operator) = site(with_control());
    let body = r#"{"code":"match-7","seats":["ann","bob"],"settings":{"max":2,"name":"Final","password":"tulip"},
        "data":{"map":"dust","mode":"duel"},"ttl_ms":30000}"#;
    let answer = operator.ask(&mut world, &post("/lobbies", body));
    assert_eq!((answer.status, &answer.body["lobby"]), (201, &json!("match-7")), "{answer:?}");
    let shown = operator.ask(&mut world, &get("/lobbies/match-7")).body;
    assert_eq!(shown["epoch"], answer.body["epoch"]);
    assert_eq!((&shown["members"], &shown["reserved"], &shown["seq"]), (&json!(0), &json!(2), &json!(0)));
    assert_eq!((&shown["reserved_users"], &shown["reserved_ms"]), (&json!(["ann", "bob"]), &json!(30000)));
    assert_eq!((&shown["data"], &shown["users"]), (&json!({"map": "dust", "mode": "duel"}), &json!([])));
    assert_eq!((&shown["settings"]["name"], &shown["has_password"]), (&json!("Final"), &json!(true)));
    world.run(
        r#"
        eve > connect match-7 password=tulip
        eve < upgrade, goodbye, close 4002 lobby_full
        ann > connect match-7 password=tulip session=page-of-ann-0001
        ann < upgrade, welcome seq=0, presence_state, lobby_state data={"map":"dust","mode":"duel"} host="s1"
        bob > connect match-7 password=tulip create=0
        bob < upgrade, welcome, presence_state, lobby_state
        ann < presence_diff +bob
        "#,
    );
    let shown = operator.ask(&mut world, &get("/lobbies/match-7")).body;
    assert_eq!((&shown["reserved"], &shown["reserved_users"]), (&json!(0), &json!([])));
    // Data from before the first member has not changed since.
    world.run("ann > {\"type\":\"set\",\"data\":{\"map\":\"sand\"},\"if\":0,\"ref\":1}\nann < state seq=2, ack ref=1\nbob < state");
}

#[test]
fn others_join_only_beyond_the_seats_that_are_kept() {
    let (mut world, mut operator) = site(with_control());
    create(&mut world, &mut operator, r#"{"code":"m","seats":["ann","bob"],"settings":{"max":3},"ttl_ms":9000}"#);
    world.steps(
        "
        eve > connect m
        eve < upgrade, welcome, presence_state, lobby_state
        dan > connect m
        dan < upgrade, goodbye, close 4002 lobby_full
        ann > connect m
        ann < upgrade, welcome, presence_state, lobby_state
        eve < presence_diff +ann
        # Her seat is kept again when she has left.
        ann > {\"type\":\"leave\"}
        ann < goodbye, close 1000 left
        eve < presence_diff -ann:left
        dan:2 > connect m
        dan:2 < upgrade, goodbye, close 4002 lobby_full
        ann:2 > connect m
        ann:2 < upgrade, welcome, presence_state, lobby_state
        eve < presence_diff +ann
        # After the time, the seat that was not taken is free for everybody.
        advance 9s
        dan:3 > connect m
        dan:3 < upgrade, welcome, presence_state, lobby_state
        eve < presence_diff +dan
        ann:2 < presence_diff +dan
        bob > connect m
        bob < upgrade, goodbye, close 4002 lobby_full
        ",
    );
}

#[test]
fn a_match_that_nobody_joins_is_gone() {
    let (mut world, mut operator) = site(with_control());
    create(&mut world, &mut operator, r#"{"code":"m","seats":["ann"],"ttl_ms":1500}"#);
    world.advance(Duration::from_millis(1499));
    assert_eq!(operator.ask(&mut world, &get("/lobbies/m")).body["reserved_ms"], 1);
    world.run("ann > connect m create=0\nann < upgrade, welcome, presence_state, lobby_state");
    world.run("ann > {\"type\":\"leave\"}\nann < goodbye, close 1000 left\nann > close 1000\nann < eof");
    assert_eq!(operator.ask(&mut world, &get("/lobbies/m")).status, 200, "the seat is still kept");
    world.advance(Duration::from_millis(1));
    operator.refused(&mut world, &get("/lobbies/m"), 404, "no_such_lobby");
    world.steps("ann:2 > connect m create=0\nann:2 < upgrade, goodbye, close 4007 lobby_not_found");
    // With members it stays.
    create(&mut world, &mut operator, r#"{"code":"m","seats":["ann"],"ttl_ms":1500}"#);
    world.steps("bob > connect m\nbob < upgrade, welcome, presence_state, lobby_state\nadvance 2s");
    let shown = operator.ask(&mut world, &get("/lobbies/m")).body;
    assert_eq!((&shown["members"], &shown["reserved"], &shown["reserved_ms"]), (&json!(1), &json!(0), &json!(null)));
    // The setting `empty_ttl_ms` keeps it longer.
    let body = r#"{"code":"n","settings":{"empty_ttl_ms":5000},"ttl_ms":1000}"#;
    create(&mut world, &mut operator, body);
    world.advance(Duration::from_millis(5999));
    assert_eq!(operator.ask(&mut world, &get("/lobbies/n")).status, 200);
    world.advance(Duration::from_millis(1));
    operator.refused(&mut world, &get("/lobbies/n"), 404, "no_such_lobby");
}

#[test]
fn a_lobby_without_a_code_gets_one() {
    let (mut world, mut operator) = site(with_control());
    let codes = [(); 3].map(|()| create(&mut world, &mut operator, r#"{"seats":["ann"],"ttl_ms":60000}"#));
    for code in &codes {
        assert!(code.len() == 5 && code.bytes().all(|c| b"bcdfghjklmnpqrstvwxz".contains(&c)), "{code}");
    }
    assert_eq!(operator.ask(&mut world, &get("/lobbies")).body["lobbies"].as_array().map(Vec::len), Some(3));
    world.run(&format!("ann > connect {} create=0\nann < upgrade, welcome, presence_state, lobby_state", codes[1]));
}

#[test]
fn a_new_lobby_is_checked_before_anything_changes() {
    let config = Config { max_lobbies: Limit::at_most(2), max_per_lobby: Limit::at_most(4), ..with_control() };
    let (mut world, mut operator) = site(config);
    world.run("ann > connect chess\nann < upgrade, welcome, presence_state, lobby_state");
    for (body, status, word) in [
        ("{}", 400, "bad_request"),
        (r#"{"ttl_ms":0}"#, 400, "bad_request"),
        (r#"{"ttl_ms":3600001}"#, 400, "bad_request"),
        (r#"{"ttl_ms":-1}"#, 400, "bad_request"),
        (r#"{"code":"a b","ttl_ms":1}"#, 400, "bad_request"),
        (r#"{"code":"","ttl_ms":1}"#, 400, "bad_request"),
        (r#"{"code":"chess","ttl_ms":1}"#, 409, "lobby_exists"),
        (r#"{"pool":"a/b","ttl_ms":1}"#, 400, "bad_request"),
        (r#"{"pool":"ppppppppppppppppppppppppppppppppp","ttl_ms":1}"#, 400, "bad_request"),
        (r#"{"seats":"ann","ttl_ms":1}"#, 400, "bad_request"),
        (r#"{"seats":["ann",""],"ttl_ms":1}"#, 400, "bad_request"),
        (r#"{"seats":["ann","ann"],"ttl_ms":1}"#, 400, "bad_request"),
        (r#"{"seats":["a","b","c","d","e"],"ttl_ms":1}"#, 400, "bad_request"),
        (r#"{"seats":["a","b","c"],"settings":{"max":2},"ttl_ms":1}"#, 400, "bad_request"),
        (r#"{"settings":{"max":9},"ttl_ms":1}"#, 400, "bad_request"),
        (r#"{"settings":[],"ttl_ms":1}"#, 400, "bad_request"),
        (r#"{"data":[1],"ttl_ms":1}"#, 400, "bad_request"),
        (r#"{"data":{"":1},"ttl_ms":1}"#, 400, "bad_request"),
        (r#"{"data":{"a":"\ud800"},"ttl_ms":1}"#, 400, "bad_message"),
        (r#"{"seat":["ann"],"ttl_ms":1}"#, 400, "bad_request"),
    ] {
        operator.refused(&mut world, &post("/lobbies", body), status, word);
    }
    let long = format!(r#"{{"data":{{"x":"{}"}},"ttl_ms":1}}"#, "x".repeat(9000));
    operator.refused(&mut world, &post("/lobbies", &long), 413, "too_large");
    assert_eq!(operator.ask(&mut world, &get("/lobbies")).body["lobbies"].as_array().map(Vec::len), Some(1));
    create(&mut world, &mut operator, r#"{"seats":["a","b","c","d"],"ttl_ms":1000}"#);
    operator.refused(&mut world, &post("/lobbies", r#"{"ttl_ms":1}"#), 503, "lobby_limit");
    world.engine.handle_drain(world.now);
    operator.refused(&mut world, &post("/lobbies", r#"{"ttl_ms":1}"#), 503, "draining");
}

#[test]
fn a_seat_that_is_kept_is_no_other_right() {
    let (mut world, mut operator) = site(with_control());
    create(
        &mut world,
        &mut operator,
        r#"{"code":"m","seats":["ann","bob","cid"],"settings":{"max":3,"locked":true,"password":"p"},"ttl_ms":30000}"#,
    );
    world.run(
        "
        ann > connect m
        ann < upgrade, goodbye, close 4003 wrong_password
        ann:2 > connect m password=p
        ann:2 < upgrade, goodbye, close 4002 lobby_locked
        ",
    );
    operator.ask(&mut world, &post("/lobbies/m/settings", r#"{"settings":{"locked":false,"password":null}}"#));
    // A ban ends it.
    operator.check(&mut world, &post("/lobbies/m/ban", r#"{"user":"bob"}"#), 200, json!({"closing": 0}));
    world.run(
        "
        bob > connect m
        bob < upgrade, goodbye, close 4003 banned
        eve > connect m
        eve < upgrade, welcome, presence_state, lobby_state
        dan > connect m
        dan < upgrade, goodbye, close 4002 lobby_full
        # Watchers take no seat of a player.
        cid > get /ws/m?token=cid&role=watch
        cid < upgrade, welcome, presence_state, lobby_state
        ",
    );
    assert_eq!(operator.ask(&mut world, &get("/lobbies/m")).body["reserved_users"], json!(["ann", "cid"]));
}

#[test]
fn a_closed_match_keeps_no_seats() {
    let (mut world, mut operator) = site(with_control());
    create(&mut world, &mut operator, r#"{"code":"m","seats":["ann","bob"],"ttl_ms":30000}"#);
    create(&mut world, &mut operator, r#"{"code":"n","seats":["ann","bob"],"ttl_ms":30000}"#);
    world.run("ann > connect m\nann < upgrade, welcome, presence_state, lobby_state");
    operator.check(&mut world, &post("/lobbies/m/close", ""), 200, json!({"closing": 1}));
    operator.check(&mut world, &post("/lobbies/n/close", ""), 200, json!({"closing": 0}));
    world.steps("ann < settings, goodbye, close 4006 lobby_closed");
    for code in ["m", "n"] {
        operator.refused(&mut world, &get(&format!("/lobbies/{code}")), 404, "no_such_lobby");
    }
}

#[test]
fn clients_of_a_pool_fill_the_rest_of_a_match() {
    let (mut world, mut operator) = site(with_control());
    let code = create(
        &mut world,
        &mut operator,
        r#"{"seats":["ann","bob"],"settings":{"max":3},"pool":"duel","ttl_ms":30000}"#,
    );
    world.run(&format!(
        "
        eve > get /ws/~quick/duel?seats=3&token=eve
        eve < upgrade, welcome lobby={code}, presence_state, lobby_state
        dan > get /ws/~quick/duel?seats=3&token=dan
        dan < upgrade, welcome !{code}, presence_state users=dan, lobby_state
        ann > connect {code}
        ann < upgrade, welcome, presence_state users=eve,ann, lobby_state
        eve < presence_diff +ann
        "
    ));
}

/// Answers no request at once.
struct Later;

impl App for Later {
    const PROTOCOL: Protocol = Protocol::Json;
    const LOBBY_CONTROL: LobbyControl = LobbyControl::On;

    fn authorize(&mut self, _: &mut Context<'_>, request: &Request<'_>) -> Authorization {
        Authorization::Pending { user: request.token().map(str::to_owned) }
    }

    fn on_message(&mut self, _: &mut Context<'_>, _: &Member, _: Message<'_>) {}
}

#[test]
fn a_connection_that_is_being_authorized_uses_the_seat_that_is_kept() {
    let config = config();
    let (mut world, mut operator) = (World::new(config.clone(), Later), operator(&config));
    let body = r#"{"code":"m","seats":["ann","bob"],"settings":{"max":2},"ttl_ms":9000}"#;
    assert_eq!(operator.ask(&mut world, &post("/lobbies", body)).status, 201);
    let mut reserved =
        |world: &mut World<Later>| operator.ask(world, &get("/lobbies/m")).body["reserved_users"].clone();
    world.run("ann > connect m\nbob > connect m\neve > connect m\neve < upgrade, goodbye, close 4002 lobby_full");
    assert_eq!(reserved(&mut world), json!([]));
    // Bob is refused, and his seat is kept again.
    world.authorize("bob", Authorization::Refuse(CloseReason::Unauthorized));
    world.authorize("ann", Authorization::allow("ann"));
    assert_eq!(reserved(&mut world), json!(["bob"]));
    world.steps("dan > connect m\ndan < upgrade, goodbye, close 4002 lobby_full");
    // The time ends while bob is being authorized: he has his reservation.
    world.steps("bob:2 > connect m\nadvance 9s");
    assert_eq!(reserved(&mut world), json!([]));
    world.authorize("bob:2", Authorization::allow("bob"));
    world.steps("bob:2 < upgrade, welcome, presence_state users=ann,bob, lobby_state");
}
