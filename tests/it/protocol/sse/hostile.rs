//! Clients that break the rules of event streams and POSTs.

use std::time::Duration;

use lobbyd::config::{ByteSize, Limit};
use lobbyd::sim::{MemorySockets, wire};
use lobbyd::{App, Authorization, CloseReason, Config, Context, Engine, Member, Message, Protocol, Request, Time};

use super::{ANN, BOB, Site, post};
use crate::common::scenario::START;

fn target() -> String {
    format!("/sse/chess?token=ann&session={ANN}")
}

/// Sends a POST about which the application is asked. Returns the status, or `None` while no answer is there.
fn ask(site: &mut Site, name: &str, user: &str) -> Option<u16> {
    site.post(name, &format!("/sse/chess?token={user}&auth=later&session={ANN}"), &[], "");
    site.statuses(name).first().copied()
}

fn allow(site: &mut Site, name: &str, user: &str) -> u16 {
    site.engine.handle_authorized(site.now, site.conns[name], Authorization::allow(user));
    site.turn();
    site.status(name)
}

#[test]
fn one_post_of_a_session_is_asked_about_at_a_time() {
    let mut site = Site::new();
    site.join("ann", ANN);
    assert_eq!(ask(&mut site, "first", "ann"), None);
    assert_eq!(ask(&mut site, "second", "ann"), Some(409));
    assert_eq!(allow(&mut site, "first", "ann"), 202);
    assert_eq!(ask(&mut site, "third", "ann"), None);
    site.engine.handle_authorized(site.now, site.conns["third"], Authorization::Refuse(lobbyd::CloseReason::Banned));
    site.turn();
    assert_eq!(site.status("third"), 403);
    // While the body of one is received, the application is not asked about another.
    let whole = post(&target(), &[], "{}");
    site.send("body", &whole.as_bytes()[..whole.len() - 1]);
    assert_eq!(ask(&mut site, "fourth", "ann"), Some(409));
    site.hangup("body");
    // One that is given up makes room.
    assert_eq!(ask(&mut site, "gone", "ann"), None);
    site.hangup("gone");
    assert_eq!(ask(&mut site, "fifth", "ann"), None);
    // Each stream of a name that two users have chosen has a POST of its own.
    site.join("bob", ANN);
    assert_eq!(ask(&mut site, "of bob", "bob"), None);
    assert_eq!(ask(&mut site, "one more", "bob"), Some(409));
    assert_eq!((allow(&mut site, "of bob", "bob"), allow(&mut site, "fifth", "ann")), (202, 202));
    // The stream ends while the application is asked.
    assert_eq!(ask(&mut site, "late", "ann"), None);
    site.hangup("ann");
    assert_eq!(allow(&mut site, "late", "ann"), 404);
}

/// Closes the connection about which it is asked, which no application should do.
struct Closes;

impl App for Closes {
    const PROTOCOL: Protocol = Protocol::Json;

    fn authorize(&mut self, cx: &mut Context<'_>, request: &Request<'_>) -> Authorization {
        if request.query("close").is_none() {
            return Authorization::token_is_user(request);
        }
        cx.close(request.conn(), CloseReason::Kicked);
        Authorization::Pending { user: None }
    }

    fn on_message(&mut self, _: &mut Context<'_>, _: &Member, _: Message<'_>) {}
}

#[test]
fn a_post_that_is_closed_while_it_is_asked_about_is_no_question() {
    let mut engine = Engine::new(Config::default().check().expect("valid"), START, Closes);
    let mut sockets = MemorySockets::default();
    let mut send = |request: &str| {
        let conn = engine.handle_accept(Time::ZERO, ([127, 0, 0, 1], 4000).into()).expect("there is room");
        engine.handle_bytes(Time::ZERO, conn, request.as_bytes());
        engine.check();
        engine.end_turn(Time::ZERO, &mut sockets).expect("it has no journal");
        String::from_utf8_lossy(&sockets.written(conn)).into_owned()
    };
    send(&format!("GET {} HTTP/1.1\r\nHost: a\r\n\r\n", target()));
    send(&post(&format!("{}&close=1", target()), &[], ""));
    let answer = send(&post(&target(), &[], ""));
    assert!(answer.starts_with("HTTP/1.1 202 "), "{answer}");
}

#[test]
fn posts_beyond_the_byte_rate_are_not_asked_about() {
    let config = Config {
        bytes_per_second: Limit::at_most(1000),
        byte_burst: ByteSize(2000),
        max_message_bytes: ByteSize(1000),
        ..Config::default()
    };
    let mut site = Site::with(config, |_, _, _| {});
    site.join("ann", ANN);
    site.advance(Duration::from_secs(5));
    for n in 0..7 {
        assert_eq!(ask(&mut site, "post", "ann"), None, "{n}");
        assert_eq!(allow(&mut site, "post", "ann"), 202, "{n}");
    }
    assert_eq!(ask(&mut site, "post", "ann"), Some(429));
    site.advance(Duration::from_millis(300));
    assert_eq!(ask(&mut site, "post", "ann"), None, "the check has cost nothing");
    assert_eq!(allow(&mut site, "post", "ann"), 202);
}

#[test]
fn posts_that_are_given_up_count_as_attempts() {
    let config = Config { attempts_per_minute: Limit::at_most(1), attempt_burst: 4, ..Config::default() };
    let mut site = Site::with(config, |_, _, _| {});
    site.join("ann", ANN);
    for n in 0..3 {
        assert_eq!(ask(&mut site, "post", "ann"), None, "{n}");
        site.hangup("post");
    }
    assert_eq!(ask(&mut site, "post", "ann"), Some(429), "the application is not asked without end");
}

#[test]
fn a_body_is_framed_by_one_content_length() {
    let mut site = Site::new();
    site.join("ann", ANN);
    let inner = "GET /sse/chess?token=hush HTTP/1.1\r\nHost: a\r\n\r\n";
    for (lines, body, status) in [
        (vec![], inner, 411),
        (vec!["Transfer-Encoding: chunked"], "0\r\n\r\n", 411),
        (vec!["Content-Length: 5", "Transfer-Encoding: chunked"], "0\r\n\r\n", 400),
        (vec!["Content-Length: 5", "Content-Length: 6"], "xxxxxx", 400),
        (vec!["Content-Length: 5", "Content-Length: 5"], "xxxxx", 400),
        (vec!["Content-Length: 5, 5"], "xxxxx", 400),
        (vec!["Content-Length: +5"], "xxxxx", 400),
        (vec!["Content-Length: 0x5"], "xxxxx", 400),
        (vec!["Content-Length: -1"], "", 400),
        (vec!["Content-Length:"], "", 400),
        (vec!["Content-Length: 99999999999999999999999"], "", 413),
        (vec!["Content-Length: 131073"], "", 413),
    ] {
        let name = format!("{lines:?}");
        let lines: String = lines.iter().map(|line| format!("{line}\r\n")).collect();
        let request = format!("POST {} HTTP/1.1\r\nHost: a\r\n{lines}\r\n{body}", target());
        site.send(&name, request.as_bytes());
        assert_eq!(site.statuses(&name), [status], "{name}: nothing behind it is read as a request");
        assert!(site.has_ended(&name), "{name}");
    }
}

#[test]
fn a_post_is_the_same_byte_by_byte() {
    let play = |step: usize| {
        let mut site = Site::new();
        site.join("ann", ANN);
        site.websocket("bob");
        site.step = step;
        let two = post(&target(), &[], "{\"type\":\"broadcast\",\"data\":1,\"ref\":1}\r\n{\"type\":\"move\"}")
            + "\r\n"
            + &post(&target(), &["Expect: 100-continue"], "\n{\"type\":\"ping\",\"ref\":\"x\"}\n\n");
        site.send("post", two.as_bytes());
        site.send("long", post(&target(), &[], &"x".repeat(70_000)).as_bytes());
        site.send(
            "utf8",
            &[post(&target(), &[], "{}\n...").trim_end_matches('.').as_bytes(), b"\xff\xff\xff"].concat(),
        );
        site.send("other", post(&format!("/sse/chess?token=eve&session={BOB}"), &[], "{}").as_bytes());
        let answers: Vec<String> =
            ["ann", "post", "long", "utf8", "other"].iter().map(|name| site.bytes(name)).collect();
        (answers, site.engine.app().log.clone())
    };
    let whole = play(usize::MAX);
    assert_eq!(whole.0.iter().map(|text| text.matches("HTTP/1.1 ").count()).collect::<Vec<_>>(), [1, 3, 1, 1, 1]);
    assert!(whole.0[2].starts_with("HTTP/1.1 413 ") && whole.0[3].starts_with("HTTP/1.1 400 "), "{:?}", whole.0);
    for step in [1, 2, 7, 100, 1000] {
        assert_eq!(play(step), whole, "in pieces of {step}");
    }
}

#[test]
fn input_on_a_stream_is_ignored_and_bounded() {
    let mut site = Site::new();
    site.join("ann", ANN);
    site.bytes("ann");
    let ignored = post(&target(), &[], r#"{"type":"ping","ref":"hush"}"#);
    site.send("ann", ignored.as_bytes());
    assert_eq!(site.names("ann"), [""; 0]);
    for _ in 0..150 {
        let conn = site.conns["ann"];
        site.engine.handle_bytes(site.now, conn, &[b'x'; 65_536]);
        site.turn();
    }
    let conn = site.conns["ann"];
    let reason = site.closed.iter().find(|(closed, _)| *closed == conn).map(|(_, reason)| reason.word().to_owned());
    assert!(site.has_ended("ann"), "{reason:?}");
}

#[test]
fn a_slow_reader_is_closed_and_comes_back() {
    let mut site = Site::new();
    site.join("ann", ANN);
    site.websocket("bob");
    let last = site.events("ann").pop().and_then(|event| event.id).expect("an id");
    site.sockets.limit(site.conns["ann"], 50);
    let message = wire::text(&format!(r#"{{"type":"broadcast","data":"{}"}}"#, "x".repeat(40_000)));
    for _ in 0..7 {
        site.advance(Duration::from_secs(1));
        site.send("bob", &message);
    }
    site.sockets.limit(site.conns["ann"], usize::MAX);
    site.engine.handle_writable(site.now, site.conns["ann"]);
    site.turn();
    let text = site.bytes("ann");
    assert!(
        text.contains("slow_consumer") && text.ends_with("\n\n"),
        "the event that was begun is whole, then the goodbye"
    );
    assert!(site.has_ended("ann"));
    let events: Vec<&str> = text.split("\n\n").filter(|event| !event.is_empty()).collect();
    assert!(events.last().is_some_and(|event| event.starts_with("retry: ")), "{events:?}");
    site.get("ann again", &target(), &[&format!("Last-Event-ID: {last}")]);
    let events = site.events("ann again");
    assert_eq!(
        (&events[0].data["resumed"], &events[0].data["recovered"]),
        (&true.into(), &false.into()),
        "the history has overrun"
    );
}

#[test]
fn line_ends_do_not_make_an_event_longer() {
    let mut site = Site::new();
    site.join("ann", ANN);
    site.websocket("bob");
    site.bytes("ann");
    let message = format!("{{\"type\":\"broadcast\",\"data\":[{}]}}", "\n".repeat(60_000));
    site.send("bob", &wire::text(&message));
    let text = site.bytes("ann");
    assert!((60_000..61_000).contains(&text.len()), "{}", text.len());
    assert!(!site.has_ended("ann"));
}

#[test]
fn idle_connections_give_way_to_newcomers() {
    let config = Config { max_pending: 4, max_overflow: 0, max_connections: Limit::at_most(10), ..Config::default() };
    let mut site = Site::with(config, |_, _, _| {});
    site.join("ann", ANN);
    for n in 0..4 {
        assert_eq!(site.say(&format!("idle {n}"), ""), 202);
    }
    assert_eq!(site.engine.stats().pending, 4);
    for n in 0..4 {
        site.open(&format!("user{n}"));
        site.turn();
        let ended: Vec<bool> = (0..4).map(|idle| site.has_ended(&format!("idle {idle}"))).collect();
        assert_eq!(ended, (0..4).map(|idle| idle <= n).collect::<Vec<_>>(), "the oldest first");
    }
    for n in 0..4 {
        site.websocket(&format!("user{n}"));
        assert_eq!(site.engine.stats().total_connections, 2 + n, "a newcomer is served");
    }
}

#[test]
fn a_client_that_reads_no_answers_is_cut_off() {
    let config = Config {
        max_outbound_bytes: ByteSize(100_000),
        history_bytes: ByteSize(1000),
        direct_bytes: ByteSize(1000),
        history_frames: 10,
        direct_frames: 10,
        max_connections: Limit::at_most(10),
        max_per_lobby: Limit::at_most(10),
        ..Config::default()
    };
    let mut site = Site::with(config, |_, _, _| {});
    site.join("ann", ANN);
    let one = post(&target(), &[], "");
    let conn = site.open("post");
    site.sockets.limit(conn, 0);
    for _ in 0..1000 {
        site.send("post", one.as_bytes());
        site.advance(Duration::from_millis(10));
        if site.has_ended("post") {
            return;
        }
    }
    panic!("its answers are queued without a bound");
}

#[test]
fn a_drain_ends_connections_of_posts() {
    let mut site = Site::new();
    site.join("ann", ANN);
    assert_eq!(site.say("idle", ""), 202);
    let whole = post(&target(), &[], "{\"type\":\"ping\"}");
    site.send("body", &whole.as_bytes()[..whole.len() - 1]);
    site.engine.handle_drain(site.now);
    site.turn();
    assert!(site.has_ended("idle") && site.bytes("idle").is_empty());
    assert_eq!((site.status("body"), site.has_ended("body")), (503, true));
    site.post("late", &target(), &[], "{}");
    assert_eq!(site.status("late"), 503);
}
