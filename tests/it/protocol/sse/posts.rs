//! POST: messages for a stream, and the answers.

use std::time::Duration;

use lobbyd::config::{Limit, Origins};
use lobbyd::sim::wire;
use lobbyd::{Authorization, Config};

use super::{ANN, BOB, Site, post};

fn target() -> String {
    format!("/sse/chess?token=ann&session={ANN}")
}

#[test]
fn messages_are_served_as_if_they_came_on_the_stream() {
    let mut site = Site::new();
    site.join("ann", ANN);
    site.websocket("bob");
    site.bytes("ann");
    site.post("post", &target(), &[], r#"{"type":"broadcast","data":1,"ref":1}"#);
    let answer = site.bytes("post");
    assert!(answer.starts_with("HTTP/1.1 202 Accepted\r\nDate: "), "{answer}");
    assert!(answer.contains("\r\nContent-Length: 0\r\n") && answer.ends_with("\r\n\r\n"), "{answer}");
    let events = site.events("ann");
    assert_eq!(
        (&events[0].data["type"], &events[0].data["ref"], &events[0].data["delivered"]),
        (&"ack".into(), &1.into(), &1.into())
    );
    // One message a line: CR LF, empty lines, and no line feed at the end.
    let body = "\r\n{\"type\":\"move\",\"to\":\"e4\"}\r\n\n  \n{\"type\":\"ping\",\"ref\":2}\n{\"type\":\"ping\",\"ref\":\"x\"}";
    assert_eq!(site.say("post", body), 202);
    assert_eq!(site.names("ann"), ["pong", "pong"]);
    assert!(site.engine.app().log.contains(&r#"json ann move {"type":"move","to":"e4"}"#.to_owned()));
    // An error is an event, too.
    assert_eq!(site.say("post", "no JSON"), 202);
    assert_eq!(site.events("ann")[0].data["code"], "bad_message");
    assert_eq!(site.say("post", r#"{"type":"direct","to":"nobody","data":1,"ref":3}"#), 202);
    assert_eq!(site.events("ann")[0].data["code"], "user_not_found");
    assert_eq!(site.say("post", ""), 202);
}

#[test]
fn a_connection_stays_open_for_further_posts() {
    let mut site = Site::new();
    site.join("ann", ANN);
    let ping = |n: u32| post(&target(), &[], &format!(r#"{{"type":"ping","ref":"{n}"}}"#));
    site.send("post", ping(1).as_bytes());
    site.advance(Duration::from_secs(4));
    site.send("post", ping(2).as_bytes());
    assert_eq!(site.statuses("post"), [202, 202]);
    // Several at once are answered in order.
    let pipelined: String = (3..9).map(ping).collect();
    site.send("post", pipelined.as_bytes());
    assert_eq!(site.statuses("post"), [202; 6]);
    let refs: Vec<String> =
        site.events("ann").iter().filter_map(|event| event.data["ref"].as_str().map(str::to_owned)).collect();
    assert_eq!(refs, ["1", "2", "3", "4", "5", "6", "7", "8"]);
    // A client that asks for it gets the end.
    site.post("post", &target(), &["Connection: close"], "");
    assert!(site.bytes("post").contains("\r\nConnection: close\r\n"));
    assert!(site.has_ended("post"));
}

#[test]
fn an_idle_connection_is_closed_without_an_answer() {
    let mut site = Site::new();
    site.join("ann", ANN);
    assert_eq!(site.say("post", ""), 202);
    site.advance(Duration::from_secs(6));
    assert!(site.has_ended("post"));
    assert_eq!(site.bytes("post"), "", "an answer would be taken for that of the next request");
    // In the middle of a request there is one.
    assert_eq!(site.say("head", ""), 202);
    site.send("head", b"POST /sse");
    let whole = post(&target(), &[], "{\"type\"");
    site.send("body", &whole.as_bytes()[..whole.len() - 1]);
    site.advance(Duration::from_secs(6));
    assert_eq!((site.status("head"), site.statuses("body").len()), (408, 1));
}

#[test]
fn a_post_needs_the_open_stream_of_its_session() {
    let mut site = Site::new();
    site.join("ann", ANN);
    site.websocket("bob");
    site.bytes("ann");
    for (target, status) in [
        (format!("/sse/chess?token=ann&session={BOB}"), 404),
        (format!("/sse/chess?token=bob&session={ANN}"), 404),
        (format!("/sse/go?token=ann&session={ANN}"), 404),
        (format!("/sse/b%20d?token=ann&session={ANN}"), 404),
        ("/sse/chess?token=ann".to_owned(), 400),
        ("/sse/chess?token=ann&session=short".to_owned(), 400),
        (format!("/sse/chess?session={ANN}"), 401),
        (format!("/sse/chess?token=ann&auth=banned&session={ANN}"), 403),
        (format!("/sse/chess?token=ann&auth=token_expired&session={ANN}"), 401),
        (format!("/sse/chess?token=ann&auth=internal_error&session={ANN}"), 500),
    ] {
        site.post(&target, &target, &[], r#"{"type":"broadcast","data":1}"#);
        assert_eq!(site.status(&target), status, "{target}");
        assert!(site.has_ended(&target));
    }
    assert_eq!(site.names("ann"), [""; 0]);
    // A stream without a session is an ordinary seat: it reads only.
    site.get("cid", "/sse/chess?token=cid", &[]);
    site.post("none", &format!("/sse/chess?token=cid&session={BOB}"), &[], "");
    assert_eq!(site.status("none"), 404);
    site.hangup("ann");
    assert_eq!(site.say("away", ""), 404);
}

#[test]
fn one_post_at_a_time_for_each_session() {
    let mut site = Site::new();
    site.join("ann", ANN);
    let whole = post(&target(), &[], r#"{"type":"ping","ref":"a"}"#);
    site.send("slow", &whole.as_bytes()[..whole.len() - 3]);
    assert_eq!(site.say("fast", r#"{"type":"ping","ref":"b"}"#), 409);
    site.send("slow", &whole.as_bytes()[whole.len() - 3..]);
    assert_eq!(site.status("slow"), 202);
    assert_eq!(site.say("later", r#"{"type":"ping","ref":"c"}"#), 202);
    // A POST whose connection ends makes room at once.
    site.send("slow", &whole.as_bytes()[..whole.len() - 3]);
    site.hangup("slow");
    assert_eq!(site.say("later", ""), 202);
    let refs: Vec<_> = site.events("ann").iter().map(|event| event.data["ref"].clone()).skip(2).collect();
    assert_eq!(refs, ["a", "c"], "half a message is none");
}

#[test]
fn a_pending_authorization_keeps_the_body() {
    let mut site = Site::new();
    site.join("ann", ANN);
    site.bytes("ann");
    let later = format!("/sse/chess?token=ann&auth=later&session={ANN}");
    let body = format!(r#"{{"type":"ping","ref":"a","x":"{}"}}"#, "x".repeat(20_000));
    let request = post(&later, &[], &body);
    for cut in [request.len(), request.len() - 10_000] {
        site.send("post", &request.as_bytes()[..cut]);
        assert_eq!(site.bytes("post"), "");
        site.engine.handle_authorized(site.now, site.conns["post"], Authorization::allow("ann"));
        site.turn();
        site.send("post", &request.as_bytes()[cut..]);
        assert_eq!(site.status("post"), 202);
        assert_eq!(site.names("ann"), ["pong"]);
    }
    // What follows the body while the answer is pending is not read: the connection ends with this answer.
    let both = post(&later, &[], r#"{"type":"ping","ref":"b"}"#) + &post("/sse/chess?token=hush", &[], "");
    site.send("post", both.as_bytes());
    site.engine.handle_authorized(site.now, site.conns["post"], Authorization::allow("ann"));
    site.turn();
    assert_eq!(
        (site.names("ann"), site.statuses("post"), site.has_ended("post")),
        (vec!["pong".to_owned()], vec![202], true)
    );
    site.post("refused", &later, &[], "{}");
    site.engine.handle_authorized(site.now, site.conns["refused"], Authorization::Refuse(lobbyd::CloseReason::Banned));
    site.turn();
    assert_eq!(site.status("refused"), 403);
    site.post("late", &later, &[], "{}");
    site.advance(Duration::from_secs(11));
    assert_eq!(site.status("late"), 503);
}

#[test]
fn a_client_that_asks_is_told_to_continue() {
    let mut site = Site::new();
    site.join("ann", ANN);
    let request = post(&target(), &["Expect: 100-continue"], r#"{"type":"ping","ref":"a"}"#);
    let (head, body) = request.split_at(request.find("\r\n\r\n").expect("a head") + 4);
    site.send("post", head.as_bytes());
    assert_eq!(site.bytes("post"), "HTTP/1.1 100 Continue\r\n\r\n");
    site.send("post", body.as_bytes());
    assert_eq!(site.status("post"), 202);
    site.post("refused", "/sse/chess", &["Expect: 100-continue"], "");
    assert_eq!(site.status("refused"), 400);
}

#[test]
fn messages_are_charged_to_the_session() {
    let config = Config {
        messages_per_second: Limit::at_most(1),
        message_burst: 2,
        attempts_per_minute: Limit::at_most(1),
        attempt_burst: 1,
        ..Config::default()
    };
    let mut site = Site::with(config, |_, _, _| {});
    site.join("ann", ANN);
    site.bytes("ann");
    // No POST is an attempt to connect.
    for _ in 0..5 {
        assert_eq!(site.say("post", ""), 202);
    }
    site.advance(Duration::from_secs(60));
    for _ in 0..3 {
        assert_eq!(site.say("post", r#"{"type":"ping","ref":"a"}"#), 202);
    }
    let codes: Vec<_> =
        site.events("ann").iter().map(|event| event.data["code"].as_str().unwrap_or("pong").to_owned()).collect();
    assert_eq!(codes, ["pong", "pong", "rate_limited"]);
}

#[test]
fn refused_posts_count_as_attempts() {
    let config = Config { attempts_per_minute: Limit::at_most(1), attempt_burst: 4, ..Config::default() };
    let mut site = Site::with(config, |_, _, _| {});
    site.join("ann", ANN);
    let guess = |site: &mut Site, n: u32| {
        let name = format!("guess {n}");
        site.post(&name, &format!("/sse/chess?token=guess{n}&session={ANN}"), &[], "{}");
        site.status(&name)
    };
    let statuses: Vec<u16> = (0..5).map(|n| guess(&mut site, n)).collect();
    assert_eq!(statuses, [404, 404, 404, 429, 429], "tokens cannot be guessed");
}

#[test]
fn the_byte_rate_holds_for_posts() {
    let config = Config {
        bytes_per_second: Limit::at_most(1000),
        byte_burst: lobbyd::config::ByteSize(2000),
        max_message_bytes: lobbyd::config::ByteSize(1000),
        ..Config::default()
    };
    let mut site = Site::with(config, |_, _, _| {});
    site.join("ann", ANN);
    site.advance(Duration::from_secs(5));
    let statuses: Vec<u16> = (0..10).map(|n| site.say(&format!("empty {n}"), "")).collect();
    assert_eq!(statuses, [[202; 7].as_slice(), &[429; 3]].concat(), "a POST without messages costs, too");
}

#[test]
fn the_longest_message_fits_into_a_post_under_the_smallest_burst() {
    let with = |byte_burst| Config {
        max_message_bytes: lobbyd::config::ByteSize(1000),
        bytes_per_second: Limit::at_most(1),
        byte_burst: lobbyd::config::ByteSize(byte_burst),
        ..Config::default()
    };
    let least = 1000 + 14 + 256;
    let problems = with(least - 1).check().expect_err("the burst is too small");
    let fields: Vec<&str> = problems.iter().map(|problem| problem.field).collect();
    assert_eq!(fields, ["byte_burst"], "{problems}");
    assert!(problems[0].rule.contains("1270") && problems[0].rule.contains("posted to an event stream"), "{problems}");
    let mut site = Site::with(with(least), |_, _, _| {});
    site.join("ann", ANN);
    site.advance(Duration::from_secs(1000));
    site.bytes("ann");
    let message = |padding| format!(r#"{{"type":"broadcast","ref":1,"data":"{}"}}"#, "x".repeat(padding));
    let longest = message(1000 - message(0).len());
    assert_eq!(site.say("post", &longest), 202);
    let events = site.events("ann");
    assert_eq!((&events[0].data["type"], &events[0].data["seq"]), (&"ack".into(), &1.into()), "{events:?}");
    // Without sessions there are no POSTs.
    let without = Config { seat_grace: Duration::ZERO, ..with(1014) };
    assert_eq!(without.check().err(), None);
}

#[test]
fn preflights_are_answered() {
    let origins = Origins { listed: vec!["https://*.page.example".into()], ..Origins::default() };
    let mut site = Site::with(Config { allowed_origin: origins, ..Config::default() }, |_, _, _| {});
    site.join("ann", ANN);
    let options = |origin: &str| {
        format!(
            "OPTIONS /sse/chess HTTP/1.1\r\nHost: a.example\r\nOrigin: {origin}\r\nAccess-Control-Request-Method: POST\r\n\r\n"
        )
    };
    site.send("page", options("https://hush.page.example").as_bytes());
    let answer = site.bytes("page");
    assert!(answer.starts_with("HTTP/1.1 204 "), "{answer}");
    for line in [
        "Access-Control-Allow-Origin: https://hush.page.example",
        "Access-Control-Allow-Methods: GET, POST",
        "Access-Control-Allow-Headers: authorization, cache-control, content-type, last-event-id",
        "Access-Control-Max-Age: 7200",
    ] {
        assert!(answer.contains(&format!("\r\n{line}\r\n")), "{line} is missing in {answer}");
    }
    site.send("evil", options("https://evil.example").as_bytes());
    assert_eq!(site.status("evil"), 403);
    site.post("evil post", &target(), &["Origin: https://evil.example"], "");
    assert_eq!(site.status("evil post"), 403);
    // A page reads refusals, too.
    for (target, status) in [(target(), 202), (format!("/sse/chess?token=ann&session={BOB}"), 404)] {
        site.post(&target, &target, &["Origin: https://hush.page.example"], "");
        let answer = site.bytes(&target);
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
        assert!(answer.contains("\r\nAccess-Control-Allow-Origin: https://hush.page.example\r\n"), "{answer}");
    }
}

#[test]
fn a_post_may_end_its_own_stream() {
    let mut site = Site::new();
    site.join("ann", ANN);
    site.bytes("ann");
    let body = "{\"type\":\"leave\",\"ref\":\"a\"}\n{\"type\":\"ping\"}";
    assert_eq!(site.say("post", body), 404, "a message was not read");
    assert_eq!(site.names("ann"), ["ack", "goodbye end"]);
}

#[test]
fn the_rest_of_a_body_is_not_read_when_its_stream_has_ended() {
    let mut site = Site::new();
    site.join("ann", ANN);
    let body = "{\"type\":\"leave\"}\n{\"type\":\"ping\"}\n{\"type\":\"ping\"}\n";
    let whole = post(&target(), &[], body) + &post(&target(), &[], "hush");
    let (begin, rest) =
        whole.split_at(whole.len() - "{\"type\":\"ping\"}\n".len() - post(&target(), &[], "hush").len());
    site.send("post", begin.as_bytes());
    assert_eq!(site.statuses("post"), [404], "before the body has ended");
    assert!(site.has_ended("post"));
    site.engine.handle_bytes(site.now, site.conns["post"], rest.as_bytes());
    site.turn();
    assert_eq!(site.statuses("post"), [0; 0], "neither the rest nor the next request is read");
    // The body has waited for the authorization.
    site.join("ann", ANN);
    let later = format!("/sse/chess?token=ann&auth=later&session={ANN}");
    site.post("late", &later, &[], body);
    site.engine.handle_authorized(site.now, site.conns["late"], Authorization::allow("ann"));
    site.turn();
    assert_eq!(site.statuses("late"), [404]);
}

#[test]
fn messages_of_a_post_wait_for_the_tick() {
    let mut site = Site::with(Config { tick_hz: Some(10), ..Config::default() }, |_, _, _| {});
    site.join("ann", ANN);
    site.advance(Duration::from_millis(100));
    site.bytes("ann");
    assert_eq!(site.say("post", r#"{"type":"move","ref":1}"#), 202);
    assert_eq!(site.names("ann"), [""; 0]);
    site.advance(Duration::from_millis(100));
    assert_eq!(site.names("ann"), ["ack"]);
}

#[test]
fn numbered_requests_are_executed_once() {
    let mut site = Site::new();
    site.join("ann", ANN);
    site.bytes("ann");
    for _ in 0..2 {
        assert_eq!(site.say("post", r#"{"type":"broadcast","data":1,"ref":1}"#), 202);
    }
    let events = site.events("ann");
    assert_eq!((&events[0].data["seq"], &events[1].data["repeated"]), (&1.into(), &true.into()), "{events:?}");
}

#[test]
fn a_websocket_may_follow_a_post_on_the_same_connection() {
    let mut site = Site::new();
    site.join("ann", ANN);
    assert_eq!(site.say("post", ""), 202);
    site.get("post", &format!("/sse/chess?token=bob&session={BOB}"), &[]);
    assert_eq!(site.events("post")[0].data["type"], "welcome");
    assert_eq!(site.say("next", ""), 202);
    site.send("next", &wire::upgrade_request("/ws/chess?token=cid", &[]));
    let bytes = site.sockets.written(site.conns["next"]);
    assert!(bytes.windows(9).any(|part| part == b"\"welcome\""));
}
