//! GET: the stream of events, its ids, its end, and how a client comes back.

use std::time::Duration;

use lobbyd::config::{Limit, Origins};
use lobbyd::operator::{KickTarget, OperatorCommand};
use lobbyd::sim::wire;
use lobbyd::{Authorization, Config, Exclude, Frame};

use super::{ANN, BOB, Site};

fn kick(site: &mut Site, user: &str, reconnect: bool) {
    let command = OperatorCommand::Kick { target: KickTarget::User(user.into()), reconnect };
    site.engine.handle_operator(site.now, command).expect("the user is there");
    site.turn();
}

#[test]
fn a_stream_has_the_head_that_browsers_and_proxies_need() {
    let mut site = Site::new();
    site.join("ann", ANN);
    let text = site.bytes("ann");
    let (head, body) = text.split_once("\r\n\r\n").expect("a head");
    assert!(head.starts_with("HTTP/1.1 200 OK\r\nDate: "), "{head}");
    for line in
        ["Content-Type: text/event-stream", "Cache-Control: no-store", "X-Accel-Buffering: no", "Connection: close"]
    {
        assert!(format!("{head}\r\n").contains(&format!("\r\n{line}\r\n")), "{line} is missing in {head}");
    }
    assert!(
        !head.contains("Content-Length") && !head.contains("Transfer-Encoding"),
        "the body ends with the connection"
    );
    assert!(!head.contains("Access-Control"), "no page of another origin asked");
    let retry = body.strip_prefix("retry: ").and_then(|rest| rest.split_once("\n\n")).expect("a retry first").0;
    assert!((1000..6000).contains(&retry.parse::<u64>().expect("a number")), "{retry}");
}

#[test]
fn numbered_frames_and_presence_state_have_an_id() {
    let mut site = Site::new();
    site.join("ann", ANN);
    let events = site.events("ann");
    let names: Vec<&str> = events.iter().map(|event| event.data["type"].as_str().expect("a type")).collect();
    assert_eq!(names, ["welcome", "presence_state"]);
    assert_eq!(events[0].id, None);
    let epoch = &events[0].data["epoch"];
    assert_eq!(events[1].id, Some(format!("{epoch}.0.0")));
    site.websocket("bob");
    assert_eq!(site.names("ann"), [format!("presence_diff {epoch}.1.0")]);
    site.send("bob", &wire::text(r#"{"type":"broadcast","data":1}"#));
    assert_eq!(site.names("ann"), [format!("message {epoch}.2.0")]);
    site.send("bob", &wire::text(r#"{"type":"direct","to":"ann","data":1}"#));
    assert_eq!(site.names("ann"), [format!("direct {epoch}.2.1")]);
    site.send("bob", &wire::text(r#"{"type":"broadcast","data":1,"volatile":true}"#));
    assert_eq!(site.names("ann"), ["message"], "it has no number");
    // An own message is confirmed with its number; other answers have none.
    assert_eq!(site.say("post", r#"{"type":"broadcast","data":2,"ref":1}"#), 202);
    assert_eq!(site.names("ann"), [format!("ack {epoch}.3.1")]);
    assert_eq!(site.say("post", r#"{"type":"ping","ref":"a"}"#), 202);
    assert_eq!(site.names("ann"), ["pong"]);
}

#[test]
fn an_event_source_resumes_by_itself() {
    let mut site = Site::new();
    site.websocket("bob");
    site.join("ann", ANN);
    let last = site.events("ann").pop().expect("an event").id.expect("an id");
    site.hangup("ann");
    site.send("bob", &wire::text(r#"{"type":"broadcast","data":"missed"}"#));
    site.send("bob", &wire::text(r#"{"type":"direct","to":"ann","data":"for you"}"#));
    site.send("bob", &wire::text(r#"{"type":"broadcast","data":"missed too"}"#));
    // The URL is the same as before. An older position in it would not matter.
    let target = format!("/sse/chess?token=ann&session={ANN}&epoch=1&seq=0&n=0");
    site.get("ann", &target, &[&format!("Last-Event-ID: {last}")]);
    let events = site.events("ann");
    let welcome = &events[0].data;
    assert_eq!(
        (&welcome["resumed"], &welcome["recovered"], &welcome["replay"]),
        (&true.into(), &true.into(), &3.into())
    );
    let epoch = &welcome["epoch"];
    let rest: Vec<String> = events[1..].iter().map(super::Event::name).collect();
    let expected = ["message E.2.0", "direct E.2.1", "message E.3.1", "presence_state E.3.1"];
    assert_eq!(rest, expected.map(|name| name.replace('E', &epoch.to_string())));
    // Nothing comes twice.
    let last = events.last().and_then(|event| event.id.clone()).expect("an id");
    site.hangup("ann");
    site.join("other", BOB);
    site.get("ann", &target, &[&format!("Last-Event-ID: {last}")]);
    let events = site.events("ann");
    assert_eq!(events[0].data["recovered"], true, "{events:?}");
    assert!(!events.iter().any(|event| event.data["type"] == "message"), "{events:?}");
}

#[test]
fn a_stream_and_a_websocket_take_over_each_other() {
    let mut site = Site::new();
    site.join("ann", ANN);
    site.bytes("ann");
    let target = format!("/ws/chess?token=ann&session={ANN}");
    site.send("socket", &wire::upgrade_request(&target, &[]));
    let events = site.events("ann");
    assert_eq!(events.len(), 1);
    assert_eq!((&events[0].data["code"], events[0].id.as_deref()), (&4004.into(), Some("end")));
    assert!(site.has_ended("ann"));
    site.get("again", &format!("/sse/chess?token=ann&session={ANN}"), &[]);
    assert_eq!(site.events("again")[0].data["resumed"], true);
    assert!(site.sockets.is_shut_down(site.conns["socket"]) || !site.sockets.written(site.conns["socket"]).is_empty());
}

#[test]
fn a_final_goodbye_ends_the_stream_for_good() {
    let mut site = Site::new();
    site.join("ann", ANN);
    site.bytes("ann");
    kick(&mut site, "ann", false);
    let events = site.events("ann");
    assert_eq!(events.len(), 1, "{events:?}");
    assert_eq!((&events[0].data["type"], &events[0].data["code"]), (&"goodbye".into(), &4003.into()));
    assert_eq!((events[0].id.as_deref(), events[0].retry), (Some("end"), None));
    assert!(site.has_ended("ann"));
    site.get("again", &format!("/sse/chess?token=ann&session={ANN}"), &["Last-Event-ID: end"]);
    let answer = site.bytes("again");
    assert!(answer.starts_with("HTTP/1.1 204 No Content\r\n") && answer.ends_with("\r\n\r\n"), "{answer}");
    assert!(!answer.contains("Content-Length"), "RFC 9110 section 8.6: {answer}");
}

#[test]
fn a_temporary_goodbye_says_when_to_come_back() {
    let mut site = Site::with(Config { max_per_lobby: Limit::at_most(2), ..Config::default() }, |_, _, _| {});
    site.join("ann", ANN);
    site.bytes("ann");
    kick(&mut site, "ann", true);
    let events = site.events("ann");
    assert_eq!((&events[0].data["code"], events[0].id.as_deref()), (&4103.into(), None));
    assert!(events[0].retry.is_some_and(|retry| (1000..6000).contains(&retry)), "{events:?}");
    // A lobby that is full only because of a seat that is away.
    site.websocket("bob");
    site.websocket("cid");
    site.get("dan", "/sse/chess?token=dan", &[]);
    let events = site.events("dan");
    assert_eq!(events.last().expect("a goodbye").data["code"], 4002);
}

#[test]
fn the_status_is_200_whatever_the_reason() {
    let mut site = Site::new();
    for (target, code) in [
        ("/sse/chess", 4001),
        ("/sse/chess?token=ann&auth=banned", 4003),
        ("/sse/b%20d?token=ann", 4007),
        ("/sse/chess?token=ann&session=short", 4005),
        ("/sse/chess?token=ann&session=0123456789abcdef&epoch=1", 4005),
    ] {
        let name = format!("{target} {code}");
        site.get(&name, target, &[]);
        let events = site.events(&name);
        assert_eq!(events.len(), 1, "{name}");
        assert_eq!((&events[0].data["code"], events[0].id.as_deref()), (&code.into(), Some("end")), "{name}");
        assert!(site.has_ended(&name));
    }
    let huge = format!("Last-Event-ID: {}", "1".repeat(6000));
    for line in [&*huge, "Last-Event-ID: 1.2", "Last-Event-ID: 1.2.x"] {
        site.get(line, &format!("/sse/chess?token=ann&session={ANN}"), &[line]);
        assert_eq!(site.events(line)[0].data["code"], 4005, "a position that no server sends");
    }
    // Without a session the position means nothing.
    site.get("plain", "/sse/chess?token=ann", &["Last-Event-ID: 1.2.x"]);
    assert_eq!(site.events("plain")[0].data["type"], "welcome");
}

#[test]
fn a_client_beyond_the_attempts_is_told_to_wait() {
    let config = Config { attempts_per_minute: Limit::at_most(6), attempt_burst: 1, ..Config::default() };
    let mut site = Site::with(config, |_, _, _| {});
    site.join("ann", ANN);
    site.join("bob", BOB);
    let events = site.events("bob");
    assert_eq!((&events[0].data["code"], &events[0].data["reconnect"]), (&4009.into(), &true.into()));
    assert_eq!((events[0].retry, events[0].id.as_deref()), (Some(10_000), None));
}

#[test]
fn a_pending_authorization_begins_the_stream_when_it_is_answered() {
    let mut site = Site::new();
    let target = format!("/sse/chess?token=ann&session={ANN}&auth=later");
    site.get("ann", &target, &[]);
    assert_eq!(site.bytes("ann"), "");
    site.engine.handle_authorized(site.now, site.conns["ann"], Authorization::allow("ann"));
    site.turn();
    assert_eq!(site.events("ann")[0].data["type"], "welcome");
    assert_eq!(site.say("post", r#"{"type":"ping","ref":1}"#), 202);
    // No answer in time.
    site.get("late", "/sse/chess?token=bob&auth=later", &[]);
    site.advance(Duration::from_secs(11));
    let events = site.events("late");
    assert_eq!((&events[0].data["code"], events[0].id.as_deref()), (&4101.into(), None));
    assert!(events[0].retry.is_some());
}

#[test]
fn a_drain_ends_streams_with_a_goodbye() {
    let mut site = Site::new();
    site.join("ann", ANN);
    site.get("undecided", "/sse/chess?token=bob&auth=later", &[]);
    site.bytes("ann");
    site.engine.handle_drain(site.now);
    site.turn();
    for name in ["ann", "undecided"] {
        let events = site.events(name);
        assert_eq!(events.last().expect("a goodbye").data["code"], 1001, "{name}");
        assert!(events.last().expect("a goodbye").retry.is_some_and(|retry| retry >= 1000), "{name}");
        assert!(site.has_ended(name), "{name}");
    }
    site.get("late", "/sse/chess?token=cid", &[]);
    let events = site.events("late");
    assert_eq!((&events[0].data["code"], events[0].id.as_deref()), (&1001.into(), None));
}

#[test]
fn a_comment_is_sent_every_ping_interval() {
    let mut site = Site::new();
    site.join("ann", ANN);
    site.websocket("bob");
    site.bytes("ann");
    for _ in 0..3 {
        site.advance(Duration::from_secs(12));
        site.send("bob", &wire::frame(wire::Opcode::PONG, true, b"", [1, 2, 3, 4]));
        site.advance(Duration::from_secs(8));
        assert!(site.bytes("ann").contains(":\n\n"), "a stream is not stale by silence");
    }
    // The socket takes nothing more.
    site.sockets.limit(site.conns["ann"], 0);
    site.advance(Duration::from_secs(20));
    assert!(!site.has_ended("ann"));
    site.send("bob", &wire::frame(wire::Opcode::PONG, true, b"", [1, 2, 3, 4]));
    site.advance(Duration::from_secs(11));
    site.advance(Duration::from_secs(5));
    let conn = site.conns["ann"];
    assert_eq!(
        site.closed.iter().find(|(closed, _)| *closed == conn).map(|(_, reason)| reason.word().to_owned()).as_deref(),
        Some("stale")
    );
}

#[test]
fn binary_messages_and_control_frames_do_not_reach_a_stream() {
    let mut site = Site::with(Config::default(), |cx, member, event| {
        if event.starts_with("binary") {
            let from = member.expect("a sender");
            cx.broadcast_from(from, &Frame::binary(b"\x00\xff"));
            cx.broadcast_latest(from.lobby(), Exclude::None, 7, &Frame::binary(b"\x00\xff"));
            cx.broadcast_latest(from.lobby(), Exclude::None, 8, &Frame::text(r#"{"type":"snapshot"}"#));
        }
    });
    site.join("ann", ANN);
    site.websocket("bob");
    site.bytes("ann");
    site.send("bob", &wire::frame(wire::Opcode::BINARY, true, b"x", [0; 4]));
    assert_eq!(site.names("ann"), ["snapshot"]);
}

#[test]
fn line_ends_in_json_become_spaces() {
    let mut site = Site::new();
    site.join("ann", ANN);
    site.websocket("bob");
    site.bytes("ann");
    site.send("bob", &wire::text("{\"type\":\"broadcast\",\r\n\"data\":{\r\"a\":\n\n\"x\\ny\"\n}}"));
    let text = site.bytes("ann");
    assert_eq!(text.matches("data: ").count(), 1, "{text}");
    assert!(text.contains(r#""data":{ "a":  "x\ny" }"#), "{text}");
}

#[test]
fn pages_of_allowed_origins_may_read_a_stream() {
    let listed = vec!["https://*.page.example".into()];
    let origins = Origins { listed, ..Origins::default() };
    let mut site = Site::with(Config { allowed_origin: origins, ..Config::default() }, |_, _, _| {});
    let target = format!("/sse/chess?token=ann&session={ANN}");
    site.get("ann", &target, &["Origin: https://hush.page.example"]);
    let head = site.head("ann");
    assert!(head.contains("\r\nAccess-Control-Allow-Origin: https://hush.page.example\r\nVary: Origin\r\n"), "{head}");
    assert!(head.contains("\r\nAccess-Control-Allow-Credentials: true"), "{head}");
    site.get("evil", &target, &["Origin: https://evil.example"]);
    let text = site.bytes("evil");
    assert!(text.contains("forbidden_origin") && text.contains("id: end\n"), "{text}");
    assert!(!text.contains("Access-Control"), "{text}");
    // The answer that ends an EventSource is readable, too.
    site.get("ended", &target, &["Origin: https://hush.page.example", "Last-Event-ID: end"]);
    assert!(site.bytes("ended").contains("Access-Control-Allow-Origin: https://hush.page.example\r\n"));
    let mut site = Site::with(
        Config { allowed_origin: Origins { any: true, ..Origins::default() }, ..Config::default() },
        |_, _, _| {},
    );
    site.get("ann", &target, &["Origin: https://hush.page.example"]);
    let head = site.head("ann");
    assert!(head.contains("\r\nAccess-Control-Allow-Origin: *\r\n") && !head.contains("Credentials"), "{head}");
}

#[test]
fn a_stream_is_a_member_as_any_other() {
    let mut site = Site::new();
    site.websocket("bob");
    site.join("ann", ANN);
    site.bytes("ann");
    let stats = site.engine.stats();
    assert_eq!((stats.total_connections, stats.pending), (2, 0));
    assert_eq!(site.say("post", r#"{"type":"leave"}"#), 202);
    let events = site.events("ann");
    assert_eq!((&events[0].data["code"], events[0].id.as_deref()), (&1000.into(), Some("end")));
    assert_eq!(site.engine.app().log.last().map(String::as_str), Some("leave ann left"));
}

#[test]
fn raw_applications_and_upgrades_have_no_streams() {
    let answer = |bytes: &str| {
        let app = lobbyd::apps::Verbatim::default();
        String::from_utf8(crate::protocol::http::answer(app, bytes.as_bytes(), usize::MAX).0).expect("text")
    };
    assert!(answer("GET /sse/chess?token=ann HTTP/1.1\r\nHost: a\r\n\r\n").starts_with("HTTP/1.1 404 "));
    assert!(
        answer("POST /sse/chess?token=ann HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n")
            .starts_with("HTTP/1.1 405 ")
    );
    let mut site = Site::new();
    site.send("ann", &wire::upgrade_request("/sse/chess?token=ann", &[]));
    assert!(site.sockets.written(site.conns["ann"]).windows(14).any(|part| part == b"bad_lobby_code"));
    for (request, status) in [
        ("HEAD /sse/chess HTTP/1.1\r\nHost: a\r\n\r\n", 405),
        ("PUT /sse/chess HTTP/1.1\r\nHost: a\r\n\r\n", 405),
        ("GET /sse/chess HTTP/1.0\r\nHost: a\r\n\r\n", 505),
        ("GET /sse/chess HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx", 400),
        ("GET /ssesse/chess HTTP/1.1\r\nHost: a\r\n\r\n", 404),
    ] {
        site.send(request, request.as_bytes());
        assert_eq!(site.status(request), status, "{request}");
    }
}
