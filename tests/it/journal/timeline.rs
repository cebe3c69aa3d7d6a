//! The printed events of a replay.

use std::time::Duration;

use lobbyd::apps::{Relay, Verbatim};
use lobbyd::config::{ByteSize, Secrets};
use lobbyd::journal::{Replay, Step};
use lobbyd::operator::OperatorCommand;
use lobbyd::sim::MemorySockets;
use lobbyd::sim::wire;
use lobbyd::{App, Config};

use super::site::{START, Site, timeline};

#[test]
fn a_timeline_shows_joins_messages_leaves_and_reasons() {
    let mut site = Site::new(Config::default(), Relay::default());
    let ann = site.connect("/ws/chess?token=ann", &[]);
    let bob = site.connect("/ws/chess?token=bob%1b", &[]);
    site.turn();
    site.bytes(ann, &wire::text(r#"{"type":"broadcast","data":"hello\u001b[2J"}"#));
    site.bytes(ann, &wire::text("{\"type\":\"move\",\"to\":\"\u{7f}\"}"));
    site.turn();
    site.engine.handle_hangup(site.now, bob);
    site.turn();
    while site.engine.ending(ann).is_none() {
        site.now = site.engine.poll_timeout().expect("ann is pinged");
        site.turn();
    }
    let journal = site.journal();
    let mut replay = Replay::open(&*journal, Relay::default(), false).expect("the journal is complete");
    replay.trace_events();
    while replay.step().expect("nothing differs") != Step::End {}
    let lines: Vec<String> = replay.events().iter().map(ToString::to_string).collect();
    let text = lines.join("\n");
    for words in [
        "conn=0.1 connects from 127.0.0.1:4000",
        "conn=0.1 asks for lobby chess",
        "conn=0.1 user=\"ann\" lobby=chess joins",
        "conn=1.2 ends: 4001 unauthorized",
        "user=\"ann\" lobby=chess broadcasts \\\"hello\\\\u001b[2J\\\"",
        "says {\\\"type\\\":\\\"move\\\",\\\"to\\\":\\\"\\u{7f}\\\"}",
        "user=\"ann\" lobby=chess leaves: 4201 stale",
    ] {
        assert!(text.contains(words), "{words} is not in\n{text}");
    }
    assert!(!text.chars().any(|c| c.is_control() && c != '\n'));
    let ends = replay.state();
    assert!(ends.starts_with("turn ") && ends.contains("connections=0"), "{ends}");
}

/// Ends a turn, and returns the timestamp of the `health_ping` among the bytes that it writes.
fn health_ping<A: App>(site: &mut Site<A>) -> String {
    let mut sockets = MemorySockets::default();
    site.engine.end_turn(site.now, &mut sockets).expect("memory can be written to");
    let output: Vec<u8> = sockets.take_writes().into_iter().flat_map(|write| write.bytes).collect();
    let output = String::from_utf8_lossy(&output).into_owned();
    let after = output.split(r#""health_ping","timestamp":"#).nth(1).expect("a health_ping");
    after.split('}').next().expect("split returns at least one part").to_owned()
}

#[test]
fn the_text_of_each_event_of_a_json_session_is_fixed() {
    let mut site = Site::new(
        Config {
            tick_hz: Some(100),
            max_catch_up_ticks: 1,
            health_interval: Some(Duration::from_secs(1)),
            health_timeout: Duration::from_millis(100),
            outbound_high_mark: ByteSize(2000),
            outbound_low_mark: ByteSize(1000),
            ..Config::default()
        },
        Relay::default(),
    );
    // Two users join, and one of them connects again.
    site.engine.handle_wall_time(site.now, START.unix_micros + 5_000_000);
    site.connect("/ws/chess?token=ann", &[]);
    let bob = site.connect("/ws/chess?token=bob", &[]);
    let ann = site.connect("/ws/chess?token=ann", &[]);
    site.turn();
    // Requests that get no seat.
    for (target, lines) in [
        ("/ws/b%20d?token=eve", &[][..]),
        ("/elsewhere", &[]),
        ("/ws/chess?token=eve", &["Origin: https://evil.example"]),
        ("/ws/chess", &[]),
    ] {
        site.connect(target, lines);
    }
    site.connect_raw(b"GET /%zz HTTP/1.1\r\nHost: a\r\n\r\n");
    site.connect_raw(b"GET /health/live HTTP/1.1\r\nHost: a\r\n\r\n");
    site.turn();
    // Messages; the last one is longer than what is shown.
    site.bytes(ann, &wire::text(r#"{"type":"broadcast","data":"\u001b"}"#));
    site.bytes(ann, &wire::text(r#"{"type":"direct","to":"bob\"","data":[1]}"#));
    site.bytes(ann, &wire::text("{\"type\":\"move\",\"to\":\"\u{7f}\"}"));
    site.turn();
    // Bob's socket blocks, and is writable again later.
    for _ in 0..3 {
        site.bytes(ann, &wire::text(&format!(r#"{{"type":"broadcast","data":"{}"}}"#, "é".repeat(400))));
    }
    site.now = site.now + Duration::from_millis(10);
    let mut blocked = MemorySockets::default();
    site.conns.iter().for_each(|&conn| blocked.limit(conn, 0));
    site.engine.end_turn(site.now, &mut blocked).expect("memory can be written to");
    site.turn();
    [ann, bob].iter().for_each(|&conn| site.engine.handle_writable(site.now, conn));
    site.turn();
    site.engine.handle_command(site.now, b"anything");
    site.engine.handle_reload(site.now, b"a list");
    let payload = lobbyd::operator::Payload::Json(r#"{"a":1}"#.into());
    let publish = OperatorCommand::publish("chess", payload);
    site.engine.handle_operator(site.now, publish).expect("the lobby exists");
    site.turn();
    // Ticks are late and skipped. One of two members answers the health check.
    site.now = site.now + Duration::from_millis(990);
    let timestamp = health_ping(&mut site);
    site.now = site.now + Duration::from_micros(12_345);
    site.bytes(ann, &wire::text(&format!(r#"{{"type":"health_pong","timestamp":{timestamp}}}"#)));
    site.now = site.now + Duration::from_millis(100);
    site.turn();
    site.engine.handle_hangup(site.now, bob);
    site.engine.handle_drain(site.now);
    site.engine.handle_drain(site.now);
    site.turn();
    assert_eq!(timeline(&site.journal(), Relay::default()), JSON_TIMELINE);
}

const JSON_TIMELINE: &str = r#"0.000000s server sets the wall time to 1700000005000000 us
0.000000s conn=0.1 connects from 127.0.0.1:4000
0.000000s conn=0.1 asks for lobby chess
0.000000s conn=0.1 user="ann" lobby=chess joins
0.000000s conn=1.2 connects from 127.0.0.1:4000
0.000000s conn=1.2 asks for lobby chess
0.000000s conn=1.2 user="bob" lobby=chess joins
0.000000s conn=2.3 connects from 127.0.0.1:4000
0.000000s conn=2.3 asks for lobby chess
0.000000s conn=2.3 user="ann" lobby=chess takes over the user's seat
0.000000s conn=0.1 user="ann" lobby=chess leaves: 4004 replaced: a newer connection of the same user took the seat
0.010000s conn=3.4 connects from 127.0.0.1:4000
0.010000s conn=3.4 asks for a lobby with an invalid code
0.010000s conn=3.4 ends: 4007 bad_lobby_code: the path names no lobby; a code is 1 to 64 letters, digits, _ or -
0.010000s conn=4.5 connects from 127.0.0.1:4000
0.010000s conn=4.5 asks for a path that does not exist
0.010000s conn=4.5 ends: 4007 bad_lobby_code: the path names no lobby; a code is 1 to 64 letters, digits, _ or -
0.010000s conn=5.6 connects from 127.0.0.1:4000
0.010000s conn=5.6 asks for lobby chess, from a page of a forbidden origin
0.010000s conn=5.6 ends: 4003 forbidden_origin: the page's origin is not allowed
0.010000s conn=6.7 connects from 127.0.0.1:4000
0.010000s conn=6.7 asks for lobby chess
0.010000s conn=6.7 ends: 4001 unauthorized: there was no token, or it was refused
0.010000s conn=7.8 connects from 127.0.0.1:4000
0.010000s conn=7.8 sends an invalid request: the path is not properly percent-encoded UTF-8
0.010000s conn=7.8 ends: 0 http_refused: the request was answered with an HTTP status
0.010000s conn=8.9 connects from 127.0.0.1:4000
0.010000s conn=8.9 asks for a health check
0.010000s conn=8.9 ends: 0 http_refused: the request was answered with an HTTP status
0.030000s conn=2.3 user="ann" lobby=chess broadcasts \"\\u001b\"
0.030000s conn=2.3 user="ann" lobby=chess says [1] to "bob\""
0.030000s conn=2.3 user="ann" lobby=chess says {\"type\":\"move\",\"to\":\"\u{7f}\"}
0.040000s conn=2.3 user="ann" lobby=chess broadcasts \"ééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééé…
0.040000s conn=2.3 user="ann" lobby=chess broadcasts \"ééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééé…
0.040000s conn=2.3 user="ann" lobby=chess broadcasts \"ééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééé…
0.040000s conn=1.2 user="bob" lobby=chess is above the high-water mark: 2559 bytes are queued
0.060000s conn=1.2 user="bob" lobby=chess is below the low-water mark again: 0 bytes are queued
0.060000s server receives a command of 8 bytes
0.060000s server receives a reload of 6 bytes, which are not recorded
0.060000s server receives an operator command: Publish { lobby: "chess", payload: Json("{\"a\":1}"), exclude: [], idempotency_key: None }
1.060000s server runs tick 105 10.000 ms late, after 97 skipped ticks
1.072345s conn=2.3 user="ann" lobby=chess answers a health check after 12.345 ms
1.182345s conn=1.2 user="bob" lobby=chess does not answer a health check
1.182345s server runs tick 117 12.345 ms late, after 10 skipped ticks
1.182345s server runs tick 118 2.345 ms late, after 0 skipped ticks
1.182345s conn=1.2 user="bob" lobby=chess leaves: 1006 hangup: the connection ended without a close frame
1.182345s server drains
1.182345s conn=2.3 user="ann" lobby=chess leaves: 1001 server_shutdown: the server is shutting down
1.192345s server runs tick 119 2.345 ms late, after 0 skipped ticks
turn 11 at 1.192345s
connections=0 capacity=0% lobbies=0 pending=4 closing=2 tick=119 ticks_ran=12 late_us=0/12345/12345 caught_up=2 skipped=107 accepted=9 joined=2 taken_over=1 left=2 bytes_in=3928 bytes_out=6298 messages_in=7 frames_out=22 health_checks=2 health_checks_failed=1 closed.hangup=1 closed.server_shutdown=1 closed.unauthorized=1 closed.forbidden_origin=1 closed.replaced=1 closed.bad_lobby_code=2 closed.http_refused=2 error.user_not_found=1
"#;

#[test]
fn a_timeline_shows_who_is_away_comes_back_or_does_not() {
    const ANN: &str = "/ws/chess?token=ann&session=0123456789abcdef";
    let mut site = Site::new(Config { seat_grace: Duration::from_secs(5), ..Config::default() }, Relay::default());
    site.connect("/ws/chess?token=bob", &[]);
    let first = site.connect(ANN, &[]);
    site.turn();
    // The second connection comes while the first one is still open, and is lost. The third says that it goes away.
    let second = site.connect(ANN, &[]);
    site.turn();
    assert!(site.engine.ending(first).is_some());
    site.engine.handle_hangup(site.now, second);
    site.turn();
    let third = site.connect(ANN, &[]);
    site.turn();
    site.bytes(third, &wire::close(1001, ""));
    site.turn();
    while site.engine.lobby_members("chess", None, 10).items.len() > 1 {
        site.now = site.now + Duration::from_secs(1);
        site.turn();
    }
    let shown = timeline(&site.journal(), Relay::default());
    let of_ann: Vec<&str> =
        shown.lines().filter_map(|line| line.split_once(" user=\"ann\" lobby=chess ")).map(|(_, what)| what).collect();
    let expected = [
        "joins",
        "is back",
        "leaves: 4004 replaced: a newer connection of the same user took the seat",
        "is away: dropped",
        "ends: 1006 hangup: the connection ended without a close frame",
        "is back",
        "is away: left",
        "ends: 1001 peer_gone: the peer's close frame says that it went away, or has no code",
        "leaves: left",
    ];
    assert_eq!(of_ann, expected, "{shown}");
}

#[test]
fn the_text_of_each_event_of_a_raw_session_is_fixed() {
    let config = Config {
        attempts_per_minute: lobbyd::config::Limit::at_most(1),
        attempt_burst: 1,
        journal_secrets: Secrets::Keep,
        ..Config::default()
    };
    let mut site = Site::new(config, Verbatim::default());
    let ann = site.connect("/ws/chess?token=ann", &[]);
    site.connect("/ws/chess?token=bob", &[]);
    site.turn();
    site.bytes(ann, &wire::text("to \"bob\"\n"));
    site.bytes(ann, &wire::frame(wire::Opcode::BINARY, true, &[0; 300], [1; 4]));
    site.engine.handle_reload(site.now, b"a list");
    site.turn();
    site.bytes(ann, &wire::close(1000, ""));
    site.turn();
    assert_eq!(timeline(&site.journal(), Verbatim::default()), RAW_TIMELINE);
}

const RAW_TIMELINE: &str = r#"0.000000s conn=0.1 connects from 127.0.0.1:4000
0.000000s conn=0.1 asks for lobby chess
0.000000s conn=0.1 user="ann" lobby=chess joins
0.000000s conn=1.2 connects from 127.0.0.1:4000
0.000000s conn=1.2 asks for a seat
0.000000s conn=1.2 ends: 0 http_refused: the request was answered with an HTTP status
0.010000s conn=0.1 user="ann" lobby=chess says to \"bob\"\n
0.010000s conn=0.1 user="ann" lobby=chess sends 300 bytes
0.010000s server receives a reload of 6 bytes
0.020000s conn=0.1 user="ann" lobby=chess leaves: 1000 peer_closed: the peer sent a close frame
turn 3 at 0.030000s
connections=0 capacity=0% lobbies=0 pending=1 closing=0 accepted=2 joined=1 left=1 bytes_in=663 bytes_out=463 messages_in=2 closed.peer_closed=1 closed.http_refused=1
"#;
