//! Recorded inputs, and a replay that sends the same bytes.

use std::time::Duration;

use lobbyd::apps::Relay;
use lobbyd::config::ByteSize;
use lobbyd::journal;
use lobbyd::operator::{LobbyChange, NewLobby, OperatorCommand, SettingsText};
use lobbyd::sim::wire;
use lobbyd::{CloseReason, Config, Engine};

use super::site::{START, Site, replay, session, timeline};

#[test]
fn a_replay_sends_the_same_bytes() {
    let summary = replay(&session()).expect("nothing differs");
    assert_eq!((summary.turn, summary.is_open_ended, summary.torn, summary.omitted_reloads), (5, false, None, 1));
    let counters = &summary.stats.counters;
    assert_eq!((counters.accepted, counters.joined, counters.messages_in), (4, 2, 1));
    assert_eq!(counters.closed(CloseReason::ForbiddenOrigin), 1);
    assert_eq!(summary.span, Duration::from_millis(50));
}

/// If too many answers wait to be polled, a further ping is refused. Polling is not a command, so it is recorded separately.
#[test]
fn polling_an_operators_answer_is_recorded() {
    let mut site = Site::new(Config::default(), Relay::default());
    site.connect("/ws/chess?token=ann", &[]);
    site.turn();
    let ping = || OperatorCommand::Ping { user: "ann".into(), timeout: Duration::from_millis(10) };
    while site.engine.handle_operator(site.now, ping()).is_ok() {}
    (0..20).for_each(|_| site.turn());
    assert!(site.engine.handle_operator(site.now, ping()).is_err(), "no answer has been polled");
    while site.engine.poll_operator().is_some() {}
    assert!(site.engine.handle_operator(site.now, ping()).is_ok());
    site.turn();
    let stats = site.engine.stats();
    assert_eq!(replay(&site.journal()).expect("nothing differs").stats, stats);
}

#[test]
fn a_configuration_that_cannot_be_written_is_refused() {
    let config = Config { auth_timeout: Duration::from_nanos(10_000_001_234), ..Config::default() };
    let mut engine = Engine::new(config.check().expect("the configuration is valid"), START, Relay::default());
    let error = journal::record(&mut engine, START, Vec::new())
        .expect_err("the duration is not a whole number of milliseconds");
    assert!(error.to_string().contains("a part of a millisecond"), "{error}");
}

/// An input larger than the buffer is written whole, as one block.
#[test]
fn large_inputs_are_recorded_whole() {
    let mut site = Site::new(Config::default(), Relay::default());
    let ann = site.connect("/ws/a?token=ann", &[]);
    site.turn();
    for length in [200_000, 262_000, 262_144, 300_000, 1_000_000] {
        site.engine.handle_command(site.now, &vec![b'c'; length]);
        site.bytes(ann, &vec![0xff; length]);
        site.turn();
    }
    let stats = site.engine.stats();
    assert_eq!(replay(&site.journal()).expect("nothing differs").stats, stats);
}

/// The refusals of request heads follow from their contents, which are not recorded, so the refusals are. The same requests
/// are in `tests/baseline/requests.journal`, answered by the first edition.
#[test]
fn answers_to_all_kinds_of_requests_are_replayed() {
    let config = Config { max_pending: 40, max_header_bytes: ByteSize(400), ..Config::default() };
    let mut site = Site::new(config, Relay::default());
    let long = format!("GET /ws/{} HTTP/1.1\r\n", "x".repeat(500));
    let tall = format!("GET /ws/a HTTP/1.1\r\nA: {}\r\n", "x".repeat(500));
    let upgrade = |target: &str, lines: &[&str]| wire::upgrade_request(target, lines);
    let all: Vec<Vec<u8>> = vec![
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(),
        b"\r\nGET /health/live HTTP/1.1\r\nHost: a\r\n\r\n".to_vec(),
        b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c".to_vec(),
        b"get / HTTP/1.1\r\n\r\n".to_vec(),
        b"PROXY TCP4 1.1.1.1 2.2.2.2 1 2\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n".to_vec(),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
        b"GET / HTTP/1.1\nHost: a\n\n".to_vec(),
        long.into_bytes(),
        tall.into_bytes(),
        b"HEAD /health/live HTTP/1.1\r\nHost: a\r\n\r\n".to_vec(),
        b"GET /health/ready HTTP/1.1\r\nHost: a\r\n\r\n".to_vec(),
        b"GET /elsewhere HTTP/1.1\r\nHost: a\r\n\r\n".to_vec(),
        b"GET /ws/a HTTP/1.2\r\nHost: a\r\n\r\n".to_vec(),
        upgrade("/elsewhere", &[]),
        upgrade("/ws/no!code", &[]),
        upgrade("/ws/chess?token=ann", &["Sec-WebSocket-Protocol: lobby.v1.json"]),
        upgrade("/ws/chess?token=bob", &["Content-Length: 0"]),
        upgrade("/ws/chess", &[]),
    ];
    for (index, bytes) in all.iter().enumerate() {
        let conn = site.engine.handle_accept(site.now, ([127, 0, 0, 1], 5000 + index as u16).into()).expect("room");
        match index % 3 {
            0 => site.bytes(conn, bytes),
            1 => bytes.chunks(7).for_each(|piece| site.bytes(conn, piece)),
            _ => bytes.chunks(1).for_each(|piece| site.bytes(conn, piece)),
        }
        site.turn();
    }
    let waiting = site.engine.handle_accept(site.now, ([127, 0, 0, 1], 6000).into()).expect("room");
    site.bytes(waiting, b"GET /ws");
    for _ in 0..30 {
        site.now = site.now + Duration::from_millis(700);
        site.turn();
    }
    site.engine.handle_drain(site.now);
    let late = site.engine.handle_accept(site.now, ([127, 0, 0, 1], 6001).into()).expect("room");
    site.bytes(late, b"GET /health/ready HTTP/1.1\r\nHost: a\r\n\r\n");
    let late = site.engine.handle_accept(site.now, ([127, 0, 0, 1], 6002).into()).expect("room");
    site.bytes(late, &upgrade("/ws/chess?token=cid", &[]));
    for _ in 0..10 {
        site.now = site.now + Duration::from_millis(700);
        site.turn();
    }
    let stats = site.engine.stats();
    let journal = site.journal();
    assert_eq!(replay(&journal).expect("nothing differs").stats, stats);
    for word in [&b"elsewhere"[..], b"PROXY TCP4", b"QUIT", b"xxxxxxxxxxxxxxxx"] {
        assert!(!journal.windows(word.len()).any(|window| window == word), "{}", word.escape_ascii());
    }
}

/// Data, settings, bans and lobbies with seats are commands as any other. Passwords are not printed.
#[test]
fn operators_commands_of_lobby_control_are_replayed() {
    let config = Config { lobby_control: true, ..Config::default() };
    let mut site = Site::new(config, Relay::default());
    let command = |site: &mut Site<Relay>, command| site.engine.handle_operator(site.now, command);
    for code in [Some("match"), None, None] {
        let new = NewLobby {
            code: code.map(str::to_owned),
            seats: vec!["ann".into(), "bob".into()],
            settings: Some(SettingsText(r#"{"max":3,"password":"secret-tulip"}"#.into())),
            data: Some(r#"{"map":"dust"}"#.into()),
            pool: Some("duel".into()),
            ..NewLobby::new(Duration::from_millis(60))
        };
        command(&mut site, OperatorCommand::Create(new)).expect("a new lobby");
    }
    site.connect("/ws/match?token=ann&session=page-of-ann-0001&password=secret-tulip", &[]);
    site.connect("/ws/match?token=eve&session=page-of-eve-0001&password=secret-tulip", &[]);
    site.turn();
    let ann = site.engine.lobby_members("match", None, 1).items[0].seat;
    let eve = site.engine.lobby_members("match", None, 2).items[1].seat;
    for change in [
        LobbyChange::Data { of: None, if_seq: Some(0), data: r#"{"map":null}"#.into() },
        LobbyChange::Data { of: Some(ann), if_seq: None, data: r#"{"ready":true}"#.into() },
        LobbyChange::Settings(SettingsText(r#"{"password":null,"name":"A"}"#.into())),
        LobbyChange::Host(eve),
        LobbyChange::Ban("eve".into()),
        LobbyChange::Unban("eve".into()),
    ] {
        let changed = command(&mut site, OperatorCommand::Change { lobby: "match".into(), change: change.clone() });
        assert!(changed.is_ok(), "{change:?}: {changed:?}");
    }
    (0..10).for_each(|_| site.turn());
    let stats = site.engine.stats();
    assert_eq!(stats.active_lobbies, 1, "the others are over");
    let journal = site.journal();
    assert_eq!(replay(&journal).expect("nothing differs").stats, stats);
    let timeline = timeline(&journal, Relay::default());
    assert!(timeline.contains("receives an operator command: Create(NewLobby"), "{timeline}");
    assert!(!timeline.contains("secret-tulip"), "{timeline}");
}
