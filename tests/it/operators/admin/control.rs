//! Operators see and change what lobby control knows of a lobby.

use std::time::Duration;

use lobbyd::Config;
use lobbyd::apps::Relay;
use serde_json::{Value, json};

use super::{Operator, config, get, operator, post, three};
use crate::common::scenario::World;

pub(super) fn with_control() -> Config {
    Config { lobby_control: true, max_empty_ttl: Duration::from_secs(60), ..config() }
}

/// An operator; and ann, the host, and bob in chess.
pub(super) fn chess() -> (World<Relay>, Operator) {
    let mut world = World::new(with_control(), Relay::default());
    world.run(
        "
        ann > connect chess session=page-of-ann-0001
        ann < upgrade, welcome, presence_state, lobby_state seq=0 host=\"s1\"
        bob > connect chess session=page-of-bob-0001
        bob < upgrade, welcome, presence_state, lobby_state seq=1 host=\"s1\"
        ann < presence_diff +bob
        ",
    );
    (world, operator(&with_control()))
}

#[test]
fn a_lobby_is_shown_with_its_data_settings_and_host() {
    let (mut world, mut operator) = chess();
    world.run(
        r#"
        ann > {"type":"set","data":{"map":"dust"}}
        ann < state seq=2
        bob < state seq=2
        bob > {"type":"set","of":"s2","data":{"ready":true}}
        ann < state seq=3
        bob < state seq=3
        ann > {"type":"settings","settings":{"name":"A-B","password":"tulip","listed":true,"tags":{"game":"chess"}}}
        ann < settings seq=4
        bob < settings seq=4
        ann > {"type":"kick","user":"eve","ban":true}
        eve > get /ws/chess?token=eve&role=watch&password=tulip
        eve < upgrade, goodbye, close 4003 banned
        cid > get /ws/chess?token=cid&role=watch&password=tulip
        cid < upgrade, welcome, presence_state, lobby_state watchers=1
        "#,
    );
    let body = operator.ask(&mut world, &get("/lobbies/chess")).body;
    let settings = json!({"max": 10, "locked": false, "listed": true, "name": "A-B", "tags": {"game": "chess"},
        "has_password": true, "write": "host", "watchers": 32, "start": null, "empty_ttl_ms": 0});
    let epoch = &body["epoch"];
    let member = |user: &str, conn: &str, data: Value| {
        json!({"user": user, "conn": conn, "data": data, "away": false, "peer": "127.0.0.1:4000", "address": "127.0.0.1",
            "queued_bytes": 0, "idle_ms": 0})
    };
    let mut watcher = member("cid", "s3", Value::Null);
    let fields = watcher.as_object_mut().expect("an object");
    fields.remove("data");
    fields.insert("role".into(), "watch".into());
    let expected = json!({"lobby": "chess", "members": 2, "away": 0, "locked": false, "epoch": epoch, "seq": 4,
        "watchers": 1, "listed": true, "name": "A-B", "has_password": true, "reserved": 0, "host": "s1", "countdown": null,
        "settings": settings, "data": {"map": "dust"}, "bans": ["eve"], "reserved_users": [], "reserved_ms": null,
        "users": [member("ann", "s1", json!({})), member("bob", "s2", json!({"ready": true})), watcher], "next": null});
    assert_eq!(body, expected);
    assert!(!body.to_string().contains("tulip"));
    let list = operator.ask(&mut world, &get("/lobbies")).body;
    let entry = json!({"lobby": "chess", "members": 2, "away": 0, "locked": false, "epoch": epoch, "seq": 4,
        "watchers": 1, "listed": true, "name": "A-B", "has_password": true, "reserved": 0});
    assert_eq!(list["lobbies"], json!([entry]));
    let seats = operator.ask(&mut world, &get("/users/bob")).body["seats"].clone();
    assert_eq!((&seats[0]["lobby"], &seats[0]["data"]), (&json!("chess"), &json!({"ready": true})));
    operator.check(&mut world, &get("/lobbies/chess/bans"), 200, json!({"lobby": "chess", "bans": ["eve"]}));
    operator.refused(&mut world, &get("/lobbies/go/bans"), 404, "no_such_lobby");
}

#[test]
fn operators_change_data() {
    let (mut world, mut operator) = chess();
    let set = |body: &str| post("/lobbies/chess/data", body);
    operator.check(&mut world, &set(r#"{"data":{"map":"dust","round":1}}"#), 200, json!({"seq": 2}));
    operator.check(&mut world, &set(r#"{"data":{"team":"red"},"of":"s2"}"#), 200, json!({"seq": 3}));
    operator.check(&mut world, &set(r#"{"data":{"map":null},"if":2,"of":null}"#), 200, json!({"seq": 4}));
    world.run(
        r#"
        ann < state seq=2 by=null data={"map":"dust","round":1}, state seq=3 by=null conn="s2" data={"team":"red"}
        ann < state seq=4 data={"map":null}
        bob < state seq=2, state seq=3, state seq=4
        "#,
    );
    let answer = operator.refused(&mut world, &set(r#"{"data":{"map":"sand","round":2},"if":3}"#), 409, "conflict");
    assert_eq!((&answer.body["seq"], &answer.body["data"]), (&json!(4), &json!({"map": null, "round": 1})));
    for (body, status, word) in [
        (r#"{"data":{"x":1},"of":"s9"}"#, 404, "no_such_member"),
        (r#"{"data":{"x":1},"of":3}"#, 400, "bad_request"),
        (r#"{"data":{"x":1},"of":"s+2"}"#, 400, "bad_request"),
        (r#"{"data":{"x":1},"if":"3"}"#, 400, "bad_request"),
        (r#"{"data":{"x":1},"by":"ann"}"#, 400, "bad_request"),
        (r#"{"data":[1]}"#, 400, "bad_request"),
        (r#"{"data":{}}"#, 400, "bad_request"),
        (r#"{"data":null}"#, 400, "bad_request"),
        ("{}", 400, "bad_request"),
        (r#"{"data":{"x":"\ud800"}}"#, 400, "bad_message"),
    ] {
        operator.refused(&mut world, &set(body), status, word);
    }
    let long = format!(r#"{{"data":{{"x":"{}"}}}}"#, "x".repeat(9000));
    let answer = operator.refused(&mut world, &set(&long), 413, "too_large");
    assert!(answer.body["message"].as_str().is_some_and(|why| why.contains("at most 8192")), "{answer:?}");
    operator.refused(&mut world, &post("/lobbies/go/data", r#"{"data":{"x":1}}"#), 404, "no_such_lobby");
    world.run("ann < nothing\nbob < nothing");
}

#[test]
fn operators_change_settings_and_the_host() {
    let (mut world, mut operator) = chess();
    let settings = |body: &str| post("/lobbies/chess/settings", body);
    let body = r#"{"settings":{"max":2,"password":"tulip","write":"all"}}"#;
    operator.check(&mut world, &settings(body), 200, json!({"seq": 2}));
    operator.check(&mut world, &post("/lobbies/chess/host", r#"{"conn":"s2"}"#), 200, json!({"seq": 3}));
    world.run(
        r#"
        ann < settings seq=2 by=null settings={"max":2,"has_password":true,"write":"all"}, host seq=3 conn="s2"
        bob < settings seq=2, host seq=3
        cid > connect chess password=tulip
        cid < upgrade, goodbye, close 4002 lobby_full
        "#,
    );
    for body in
        [r#"{"settings":{"max":0}}"#, r#"{"settings":{"maximum":2}}"#, r#"{"settings":{}}"#, r#"{"max":2}"#, "{}"]
    {
        operator.refused(&mut world, &settings(body), 400, "bad_request");
    }
    let answer = operator.refused(&mut world, &settings(r#"{"settings":{"max":11}}"#), 400, "bad_request");
    assert_eq!(answer.body["message"], "max is 11: it must be from 1 to 10");
    operator.refused(&mut world, &post("/lobbies/chess/host", r#"{"conn":"s7"}"#), 404, "no_such_member");
    for body in ["{}", r#"{"conn":null}"#, r#"{"conn":2}"#] {
        operator.refused(&mut world, &post("/lobbies/chess/host", body), 400, "bad_request");
    }
    // The lock of the operators is the setting.
    operator.check(&mut world, &post("/lobbies/chess/lock", ""), 200, json!({"locked": true}));
    world.run("ann < settings seq=4 settings={\"locked\":true}\nbob < settings seq=4");
}

#[test]
fn operators_ban_and_unban() {
    let (mut world, mut operator) = chess();
    operator.check(&mut world, &post("/lobbies/chess/ban", r#"{"user":"bob"}"#), 200, json!({"closing": 1}));
    operator.check(&mut world, &post("/lobbies/chess/ban", r#"{"user":"eve"}"#), 200, json!({"closing": 0}));
    world.run(
        "
        bob < goodbye, close 4003 banned
        ann < presence_diff -bob:kicked
        eve > connect chess
        eve < upgrade, goodbye, close 4003 banned
        ",
    );
    operator.check(&mut world, &post("/lobbies/chess/unban", r#"{"user":"eve"}"#), 200, json!({"banned": false}));
    operator.refused(&mut world, &post("/lobbies/chess/unban", r#"{"user":"eve"}"#), 404, "not_banned");
    for body in ["{}", r#"{"user":1}"#, r#"{"user":""}"#, r#"{"user":null}"#] {
        operator.refused(&mut world, &post("/lobbies/chess/ban", body), 400, "bad_request");
    }
    world.run("eve:2 > connect chess\neve:2 < upgrade, welcome, presence_state, lobby_state\nann < presence_diff +eve");
}

#[test]
fn without_lobby_control_the_routes_are_refused() {
    let (mut world, mut operator) = three();
    for (path, body) in [
        ("/lobbies/chess/data", r#"{"data":{"a":1}}"#),
        ("/lobbies/chess/settings", r#"{"settings":{"max":2}}"#),
        ("/lobbies/chess/host", r#"{"conn":"s1"}"#),
        ("/lobbies/chess/ban", r#"{"user":"ann"}"#),
        ("/lobbies/chess/unban", r#"{"user":"ann"}"#),
        ("/lobbies", r#"{"ttl_ms":1000}"#),
    ] {
        operator.refused(&mut world, &post(path, body), 409, "lobby_control_off");
    }
    operator.refused(&mut world, &get("/lobbies/chess/bans"), 409, "lobby_control_off");
    let body = operator.ask(&mut world, &get("/lobbies/chess")).body;
    for field in ["settings", "data", "host", "watchers", "bans", "reserved"] {
        assert_eq!(body.get(field), None, "{body}");
    }
    assert_eq!(body["users"][0].get("data"), None);
    let put = get("/lobbies").replace("GET", "PUT");
    let answer = operator.refused(&mut world, &put, 405, "method_not_allowed");
    assert!(answer.head.contains("\r\nAllow: GET, HEAD, POST\r\n"), "{}", answer.head);
    world.run("ann < nothing\nbob < nothing");
}
