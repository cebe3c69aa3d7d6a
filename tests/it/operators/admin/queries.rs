//! Queries of operators.

use lobbyd::Config;
use lobbyd::apps::{Relay, Verbatim};
use lobbyd::config::Limit;
use serde_json::{Value, json};

use super::{config, get, operator, three};
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
