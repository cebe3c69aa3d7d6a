//! Queries of operators.

use std::ops::Range;
use std::time::Duration;

use lobbyd::Config;
use lobbyd::apps::{Relay, Verbatim};
use lobbyd::config::Limit;
use lobbyd::operator::{NewLobby, OperatorCommand};
use serde_json::{Value, json};

use super::{config, get, operator, post, three};
use crate::common::scenario::World;

#[test]
fn health_and_statistics_are_shown() {
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
            {"lobby": "chess", "members": 2, "away": 0, "locked": false, "epoch": 1_000_000_000_000_u64, "seq": 1},
            {"lobby": "go", "members": 1, "away": 0, "locked": false, "epoch": 1_000_000_000_001_u64, "seq": 0},
        ], "next": null}),
    );
    let seat = |user: &str, conn: &str| json!({"user": user, "conn": conn, "away": false, "peer": "127.0.0.1:4000", "address": "127.0.0.1", "queued_bytes": 0, "idle_ms": 3000});
    operator.check(
        &mut world,
        &get("/lobbies/chess"),
        200,
        json!({
            "lobby": "chess", "members": 2, "away": 0, "locked": false, "epoch": 1_000_000_000_000_u64, "seq": 1,
            "users": [seat("ann", "s1"), seat("bob", "s2")], "next": null,
        }),
    );
    operator.check(
        &mut world,
        &get("/users/cid"),
        200,
        json!({"user": "cid", "seats": [
            {"lobby": "go", "conn": "s3", "away": false, "peer": "127.0.0.1:4000", "address": "127.0.0.1", "queued_bytes": 0, "idle_ms": 3000},
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

/// A lobby is found by a part of its code or name, in upper or lower case.
#[test]
fn lobbies_are_searched_by_a_part_of_their_code_or_name() {
    let config = Config { lobby_control: true, ..config() };
    let mut world = World::new(config.clone(), Relay::default());
    let mut operator = operator(&config);
    for (code, name) in [("chess-1", "Friday night"), ("Chess-2", "Zoë's"), ("go", "a & b = 50% chess?"), ("-", "x")] {
        let body = json!({"code": code, "ttl_ms": 60_000, "settings": {"name": name}}).to_string();
        assert_eq!(operator.ask(&mut world, &post("/lobbies", &body)).status, 201);
    }
    for (search, expected) in [
        ("", &["chess-1", "Chess-2", "go", "-"][..]),
        ("chess", &["chess-1", "Chess-2", "go"]),
        ("CHESS-", &["chess-1", "Chess-2"]),
        ("friday+NIGHT", &["chess-1"]),
        ("zo%C3%AB", &["Chess-2"]),
        // Only ASCII letters have two cases.
        ("ZO%C3%8B", &[]),
        ("a+%26+b+%3D+50%25", &["go"]),
        ("-", &["chess-1", "Chess-2", "-"]),
        ("nothing", &[]),
    ] {
        let answer = operator.ask(&mut world, &get(&format!("/lobbies?search={search}"))).body;
        let found: Vec<&str> =
            answer["lobbies"].as_array().expect("a list").iter().filter_map(|lobby| lobby["lobby"].as_str()).collect();
        assert_eq!((&found[..], &answer["next"]), (expected, &Value::Null), "{search}");
    }
    for bad in ["search=%zz", "search=%ff", "search=%0a", &format!("search={}", "x".repeat(193))] {
        operator.refused(&mut world, &get(&format!("/lobbies?{bad}")), 400, "bad_request");
    }
    for path in ["/lobbies/go/bans?search=x", "/users/ann?search=x", "/stats?search="] {
        operator.refused(&mut world, &get(path), 400, "bad_request");
    }
}

#[test]
fn members_are_searched_by_a_part_of_their_user_id() {
    let mut world = World::new(config(), Relay::default());
    let mut operator = operator(&config());
    world.run("anna, bob, Joanne, hanna join chess");
    for (query, expected) in [
        ("search=ann", &["anna", "Joanne", "hanna"][..]),
        ("search=ANN&sort=-idle_ms", &["anna", "Joanne", "hanna"]),
        ("search=B", &["bob"]),
        ("search=nobody", &[]),
    ] {
        let (mut found, mut after) = (Vec::new(), json!(0));
        while after != Value::Null {
            let answer = operator.ask(&mut world, &get(&format!("/lobbies/chess?{query}&limit=1&after={after}"))).body;
            assert_eq!(answer["members"], 4, "the lobby itself is shown as always");
            found.extend(answer["users"].as_array().expect("a list").iter().map(|seat| seat["user"].clone()));
            after = answer["next"].clone();
        }
        assert_eq!(found, expected, "{query}");
    }
}

/// The `lobby` or `user` of each entry of all pages.
fn sorted(operator: &mut super::Operator, world: &mut World<Relay>, path: &str) -> Vec<String> {
    let (mut found, mut next) = (Vec::new(), 0);
    loop {
        let page = operator.ask(world, &get(&format!("{path}&limit=2&after={next}"))).body;
        let (list, key) = if page["lobbies"].is_array() { ("lobbies", "lobby") } else { ("users", "user") };
        let list = page[list].as_array().unwrap_or_else(|| panic!("{path}: {page}"));
        assert!(list.len() <= 2);
        found.extend(list.iter().map(|entry| entry[key].as_str().expect("a string").to_owned()));
        match page["next"].as_u64() {
            Some(after) => next = after,
            None => return found,
        }
    }
}

#[test]
fn lobbies_and_members_are_sorted_over_all_pages() {
    let config = Config { seat_grace: Duration::from_secs(60), ..config() };
    let mut world = World::new(config.clone(), Relay::default());
    let mut operator = operator(&config);
    world.steps(
        r#"
        ann, bob, cid join chess
        dan joins go
        advance 1s
        eve, fay join bridge
        gus joins go-2
        fay > {"type":"broadcast","data":1}
        eve < message
        fay > {"type":"broadcast","data":2}
        eve < message
        "#,
    );
    for (path, expected) in [
        ("/lobbies?sort=-members", &["chess", "bridge", "go", "go-2"][..]),
        ("/lobbies?sort=members", &["go", "go-2", "bridge", "chess"]),
        ("/lobbies?sort=-seq", &["bridge", "chess", "go", "go-2"]),
        ("/lobbies?sort=-age", &["chess", "go", "bridge", "go-2"]),
        ("/lobbies?sort=age", &["go-2", "bridge", "go", "chess"]),
        ("/lobbies?sort=-away", &["chess", "go", "bridge", "go-2"]),
        ("/lobbies?sort=-age&search=go", &["go", "go-2"]),
    ] {
        assert_eq!(sorted(&mut operator, &mut world, path), expected, "{path}");
    }
    world.steps(
        r#"
        advance 2s
        bob > {"type":"ping"}
        bob < pong
        advance 1s
        ann > {"type":"ping"}
        ann < pong
        "#,
    );
    for (path, expected) in [
        ("/lobbies/chess?sort=idle_ms", &["ann", "bob", "cid"]),
        ("/lobbies/chess?sort=-idle_ms", &["cid", "bob", "ann"]),
        ("/lobbies/chess?sort=-queued_bytes", &["ann", "bob", "cid"]),
    ] {
        assert_eq!(sorted(&mut operator, &mut world, path), expected, "{path}");
    }
    for bad in [
        "/lobbies?sort=code",
        "/lobbies?sort=",
        "/lobbies/chess?sort=members",
        "/users/ann?sort=idle_ms",
        "/stats?sort=age",
    ] {
        operator.refused(&mut world, &get(bad), 400, "bad_request");
    }
}

/// Room for 30,000 lobbies, which operators create.
fn for_many_lobbies() -> Config {
    Config {
        lobby_control: true,
        max_lobbies: Limit::at_most(30_000),
        max_connections: Limit::at_most(30_000),
        ..config()
    }
}

/// Creates lobbies with these numbers in their codes.
fn create_lobbies(world: &mut World<Relay>, numbers: Range<u32>) {
    for n in numbers {
        let new = NewLobby { code: Some(format!("L{n:05}")), ..NewLobby::new(Duration::from_secs(60)) };
        world.engine.handle_operator(world.now, OperatorCommand::Create(new)).expect("there is room");
    }
}

/// Sorting looks at all lobbies, so there is a bound.
#[test]
fn more_than_20_000_lobbies_are_not_sorted() {
    let config = for_many_lobbies();
    let mut world = World::new(config.clone(), Relay::default());
    let mut operator = operator(&config);
    create_lobbies(&mut world, 0..20_000);
    let page = operator.ask(&mut world, &get("/lobbies?sort=age&limit=1")).body;
    assert_eq!((&page["lobbies"][0]["lobby"], &page["next"]), (&json!("L19999"), &json!(1)));
    create_lobbies(&mut world, 20_000..20_001);
    operator.refused(&mut world, &get("/lobbies?sort=age&limit=1"), 409, "too_many");
}

/// A page looks at 10,000 lobbies, whether they match or not.
#[test]
fn a_search_through_many_lobbies_comes_in_pages_that_may_be_empty() {
    let config = for_many_lobbies();
    let mut world = World::new(config.clone(), Relay::default());
    let mut operator = operator(&config);
    create_lobbies(&mut world, 0..20_100);
    let pages = |operator: &mut super::Operator, world: &mut World<Relay>, search: &str| {
        let (mut pages, mut path) = (Vec::new(), format!("/lobbies?limit=7&search={search}"));
        loop {
            let page = operator.ask(world, &get(&path)).body;
            pages.push(page["lobbies"].as_array().expect("a list").len());
            let Some(next) = page["next"].as_u64() else { break pages };
            path = format!("/lobbies?limit=7&search={search}&after={next}");
        }
    };
    assert_eq!(pages(&mut operator, &mut world, "nothing"), [0, 0, 0]);
    assert_eq!(pages(&mut operator, &mut world, "l20099"), [0, 0, 1]);
    assert_eq!(pages(&mut operator, &mut world, "L0000"), [7, 3, 0, 0]);
}

#[test]
fn names_in_paths_are_decoded() {
    let mut world = World::new(config(), Relay::default());
    world.steps("x > get /ws/chess?token=zo%C3%AB%2Fx");
    let mut operator = operator(&config());
    let answer = operator.ask(&mut world, &get("/users/zo%C3%AB%2Fx"));
    assert_eq!((answer.status, &answer.body["user"]), (200, &json!("zoë/x")));
}

/// Behind a proxy, `peer` is the proxy's socket and `address` the client.
#[test]
fn operators_are_shown_the_address_of_the_client() {
    let config = Config { trusted_proxies: 1, ..config() };
    let mut world = World::new(config.clone(), Relay::default());
    let lines = "X-Forwarded-For: 6.6.6.6, [2001:db8::1]:4711";
    world.run(&format!("ann > get /ws/chess?token=ann {lines}\nann < upgrade, welcome, presence_state"));
    let mut operator = operator(&config);
    let seat = operator.ask(&mut world, &get("/users/ann")).body["seats"][0].clone();
    let member = operator.ask(&mut world, &get("/lobbies/chess")).body["users"][0].clone();
    for shown in [seat, member] {
        assert_eq!((&shown["peer"], &shown["address"]), (&json!("127.0.0.1:4000"), &json!("2001:db8::1")));
    }
}
