//! `GET /lobbies`.

use lobbyd::config::Limit;
use lobbyd::{Config, Time};
use serde_json::json;

use super::{codes, finish, get, on, open, recorded, set};
use crate::common::scenario::World;

/// Sends a request in pieces of `step` bytes and returns the whole answer.
fn ask(world: &mut World<lobbyd::apps::Relay>, request: &str, step: usize) -> String {
    world.open("asker");
    let conn = world.conn("asker");
    for piece in request.replace('\n', "\r\n").as_bytes().chunks(step) {
        world.engine.handle_bytes(world.now, conn, piece);
    }
    world.engine.end_turn(world.now, &mut world.sockets).expect("the journal is in memory");
    let answer = String::from_utf8(world.sockets.written(conn)).expect("UTF-8");
    world.steps("asker > hangup");
    world.take("asker");
    answer
}

#[test]
fn a_page_shows_what_others_may_know_of_a_lobby() {
    let mut world = recorded(on());
    open(&mut world, "chess", r#","name":"Zoë's","tags":{"game":"chess"},"password":"rose","max":4"#);
    open(&mut world, "go", "");
    world.steps("zoe > connect go");
    // Neither listed, nor open.
    world.steps("x > connect hidden");
    open(&mut world, "locked", r#","locked":true"#);
    open(&mut world, "full", r#","max":1"#);
    let (status, page) = get(&mut world, "");
    let chess = json!({"code": "chess", "name": "Zoë's", "tags": {"game": "chess"}, "members": 1, "max": 4, "has_password": true});
    let go = json!({"code": "go", "name": null, "tags": {}, "members": 2, "max": 10, "has_password": false});
    assert_eq!((status, page), (200, json!({"lobbies": [chess, go], "next": null})));
    // Operators lock lobbies, too.
    let lock = lobbyd::operator::OperatorCommand::Lock { lobby: "go".into(), locked: true };
    world.engine.handle_operator(world.now, lock).expect("the lobby exists");
    assert_eq!(codes(&get(&mut world, "").1["lobbies"]), ["chess"]);
    set(&mut world, "chess", r#"{"start":{"min":1,"ready":false,"countdown_ms":5000}}"#);
    world.steps("advance 0s");
    assert_eq!(get(&mut world, "").1["lobbies"], json!([]), "it counts down");
    for name in ["chess", "go", "zoe", "x", "locked", "full"] {
        world.take(name);
    }
    finish(world);
}

#[test]
fn the_head_says_that_the_page_is_json_and_not_to_be_kept() {
    let mut world = recorded(on());
    open(&mut world, "chess", "");
    let request = "GET /lobbies?tag.game=&x=y HTTP/1.1\nHost: a.example\n\n";
    let answer = ask(&mut world, request, usize::MAX);
    assert_eq!(ask(&mut world, request, 1), answer, "byte by byte");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    let expected = [
        "HTTP/1.1 200 OK",
        "Date: Mon, 12 Jan 1970 13:46:40 GMT",
        "Content-Type: application/json",
        &format!("Content-Length: {}", body.len()),
        "Cache-Control: no-store",
        "X-Content-Type-Options: nosniff",
        "Connection: close",
    ];
    assert_eq!(head.split("\r\n").collect::<Vec<_>>(), expected);
    let head_request = ask(&mut world, &request.replace("GET", "HEAD"), usize::MAX);
    assert_eq!(head_request, format!("{head}\r\n\r\n"));
    world.take("chess");
    finish(world);
}

#[test]
fn a_page_of_an_allowed_origin_may_read_it() {
    let mut config = on();
    crate::common::scenario::set(&mut config, "allowed_origin", "https://game.example").expect("an origin");
    let mut world = recorded(config);
    let from = |method: &str, query: &str, origin: &str| {
        format!("{method} /lobbies{query} HTTP/1.1\nHost: lobby.example\nOrigin: {origin}\n\n")
    };
    let allows = "\r\nAccess-Control-Allow-Origin: https://game.example\r\nVary: Origin\r\n";
    let answer = ask(&mut world, &from("GET", "", "https://game.example"), usize::MAX);
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains(allows), "{answer}");
    let answer = ask(&mut world, &from("GET", "?after=x", "https://game.example"), usize::MAX);
    assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains(allows), "{answer}");
    let answer = ask(&mut world, &from("OPTIONS", "", "https://game.example"), 1);
    assert!(answer.starts_with("HTTP/1.1 204 ") && answer.contains(allows), "{answer}");
    assert!(answer.contains("\r\nAccess-Control-Allow-Methods: GET, HEAD\r\n"), "{answer}");
    // Programs and other pages get the answer, but a browser shows it to none of these pages.
    let answer = ask(&mut world, &from("GET", "", "https://evil.example"), usize::MAX);
    assert!(answer.starts_with("HTTP/1.1 200 ") && !answer.contains("Access-Control"), "{answer}");
    finish(world);
}

#[test]
fn pages_make_up_the_whole_list() {
    let mut world = recorded(on());
    for n in 0..250 {
        open(&mut world, &format!("n{n}"), if n % 2 == 0 { r#","tags":{"even":"yes"}"# } else { "" });
    }
    for (filter, step) in [("", 1), ("tag.even=yes&", 2)] {
        let (mut found, mut after) = (Vec::new(), String::new());
        loop {
            let (status, page) = get(&mut world, &format!("{filter}after={after}"));
            assert_eq!(status, 200, "{page}");
            found.extend(codes(&page["lobbies"]).into_iter().map(str::to_owned));
            match page["next"].as_str() {
                Some(next) => next.clone_into(&mut after),
                None => break,
            }
            assert!(found.len().is_multiple_of(100));
        }
        let expected: Vec<String> = (0..250).step_by(step).map(|n| format!("n{n}")).collect();
        assert_eq!(found, expected, "{filter}");
    }
    finish(world);
}

#[test]
fn a_bad_query_is_answered_with_the_rule() {
    let mut world = recorded(on());
    for (query, rule) in [
        ("after=x", "after must be the next of an earlier answer"),
        ("pool=a.b", "pool must have 1 to 32 of the characters A-Z a-z 0-9 _ -"),
        ("tag.=x", "keys and values of tags must have 1 to 64 bytes"),
        ("tag.a=1&tag.a=2", "a tag occurs twice in the query"),
        ("x=%ff", "the query is not properly percent-encoded UTF-8"),
    ] {
        assert_eq!(get(&mut world, query), (400, json!(rule)));
    }
    for (request, status) in [
        ("POST /lobbies HTTP/1.1\nHost: a\n\n", "405"),
        ("GET /lobbies/ HTTP/1.1\nHost: a\n\n", "404"),
        ("GET /lobbies HTTP/1.0\nHost: a\n\n", "505"),
        ("OPTIONS /ws/chess HTTP/1.1\nHost: a\n\n", "405"),
        ("GET /lobbies HTTP/1.1\nHost: a\nContent-Length: 1\n\nx", "400"),
    ] {
        let answer = ask(&mut world, request, usize::MAX);
        assert_eq!(&answer[9..12], status, "{request}: {answer}");
    }
    world.steps("a > get /lobbies\na < upgrade, goodbye, close 4007 bad_lobby_code");
    finish(world);
}

#[test]
fn an_address_may_ask_a_number_of_times_per_minute() {
    let mut world = recorded(Config { lists_per_minute: Limit::at_most(3), ..on() });
    for _ in 0..3 {
        assert_eq!(get(&mut world, "").0, 200);
    }
    let answer = ask(&mut world, "GET /lobbies HTTP/1.1\nHost: a\n\n", usize::MAX);
    assert!(answer.starts_with("HTTP/1.1 429 ") && answer.contains("\r\nRetry-After: 20\r\n"), "{answer}");
    assert!(answer.ends_with("you ask for the list of lobbies too often; wait a little\n"), "{answer}");
    // A bad query does not count, and neither does a preflight.
    assert_eq!(get(&mut world, "after=x").0, 400);
    world.steps("from 10.0.0.2");
    assert_eq!(get(&mut world, "").0, 200, "another address");
    world.steps("from 127.0.0.1\nadvance 20s");
    assert_eq!((get(&mut world, "").0, get(&mut world, "").0), (200, 429));
    finish(world);
}

#[test]
fn a_draining_server_shows_no_list() {
    let mut world = recorded(on());
    world.steps("ann > connect chess");
    world.engine.handle_drain(world.now);
    world.end_turn();
    assert_eq!(get(&mut world, "").0, 503);
    world.take("ann");
    finish(world);
}

/// A replay may begin with a segment that has a checkpoint, where the used rates of addresses are known.
#[test]
fn used_rates_survive_a_checkpoint() {
    let mut world = recorded(Config { lists_per_minute: Limit::at_most(1), ..on() });
    assert_eq!(get(&mut world, "").0, 200);
    assert_eq!(get(&mut world, "").0, 429);
    assert!(world.now == Time::ZERO);
    finish(world);
}
