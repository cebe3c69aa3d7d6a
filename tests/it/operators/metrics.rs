//! `GET /metrics`: the format, the values, and what it must not contain.

use std::io;

use lobbyd::admin::{AdminConns, Token};
use lobbyd::apps::{Relay, Verbatim};
use lobbyd::codes::CloseCode;
use lobbyd::config::{ByteSize, Limit};
use lobbyd::journal::{self, Recording, Sink};
use lobbyd::sim::wire::{self, Opcode};
use lobbyd::stats::Distribution;
use lobbyd::{App, CloseReason, Config, Exclude, Frame, Reject};

use crate::common::scenario::{START, World};
use crate::common::scrape::Scrape;

/// The whole answer to a request of a new operator's connection.
#[track_caller]
fn exchange<A: App>(world: &mut World<A>, conns: &mut AdminConns, request: &str) -> String {
    let client = conns.handle_accept(world.now, ([127, 0, 0, 1], 5000).into()).expect("room");
    conns.handle_bytes(client, request.as_bytes());
    conns.work(world.now, &mut world.engine);
    let answer = String::from_utf8(conns.pending(client).to_vec()).expect("UTF-8");
    conns.handle_hangup(client);
    assert_eq!(conns.poll_closed(), Some(client));
    answer
}

#[track_caller]
fn scrape_text<A: App>(world: &mut World<A>) -> String {
    let mut conns = AdminConns::new(world.engine.config(), None);
    let answer = exchange(world, &mut conns, "GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    assert!(head.contains("\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\n"), "{head}");
    assert!(head.contains(&format!("\r\nContent-Length: {}\r\n", body.len())), "{head}");
    body.to_owned()
}

#[track_caller]
fn scrape<A: App>(world: &mut World<A>) -> Scrape {
    Scrape::parse(&scrape_text(world))
}

#[test]
fn all_reasons_and_codes_are_present_at_zero_from_the_start() {
    let mut world = World::new(Config::default(), Relay::default());
    let scrape = scrape(&mut world);
    for reason in CloseReason::ALL {
        let key = format!("lobbyd_closes_total{{code=\"{}\",reason=\"{}\"}}", reason.code(), reason.word());
        assert_eq!(scrape.get(&key), 0.0, "{key}");
    }
    for reject in Reject::ALL {
        assert_eq!(scrape.get(&format!("lobbyd_refusals_total{{code=\"{}\"}}", reject.word())), 0.0);
    }
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(scrape.get(&format!("lobbyd_build_info{{version=\"{version}\"}}")), 1.0);
    for histogram in ["lobbyd_ping_latency_seconds", "lobbyd_health_latency_seconds", "lobbyd_blocked_queue_bytes"] {
        assert_eq!(scrape.sum_and_count(histogram), (0.0, 0.0), "{histogram}");
    }
    assert_eq!(scrape.get("lobbyd_drain_closed_connections_total"), 0.0);
    assert!(!scrape.samples.keys().any(|key| key.contains("tick") || key.contains("journal")), "both are off");
}

#[test]
fn metrics_equal_what_the_clients_did() {
    let mut world = World::new(Config { max_connections: Limit::at_most(8), ..Config::default() }, Relay::default());
    world.run("ann, bob join chess\ncid > connect go\ncid < upgrade, welcome, presence_state");
    let before = scrape(&mut world);
    world.run(
        r#"
        bob > {"type":"broadcast","data":1}
        ann < message from=bob
        cid > {"type":"direct","to":"x","data":1}
        cid < error code=user_not_found
        cid > [1]
        cid < error code=bad_message
        bob > {"type":"leave"}
        bob < goodbye, close 1000 left
        ann < presence_diff -bob:left
        "#,
    );
    let after = scrape(&mut world);
    after.check_follows(&before);
    let grown = |key: &str| after.get(key) - before.get(key);
    assert_eq!(grown("lobbyd_received_messages_total"), 4.0);
    assert_eq!((after.get("lobbyd_joins_total"), grown("lobbyd_leaves_total")), (3.0, 1.0));
    assert_eq!(grown("lobbyd_closes_total{code=\"1000\",reason=\"left\"}"), 1.0);
    assert_eq!(grown("lobbyd_refusals_total{code=\"user_not_found\"}"), 1.0);
    assert_eq!(grown("lobbyd_refusals_total{code=\"bad_message\"}"), 1.0);
    assert_eq!((before.get("lobbyd_connections"), after.get("lobbyd_connections")), (3.0, 2.0));
    assert_eq!((after.get("lobbyd_max_connections"), after.get("lobbyd_capacity_ratio")), (8.0, 0.25));
    assert_eq!(after.get("lobbyd_lobbies"), 2.0);
    let counters = world.engine.stats().counters;
    assert_eq!(after.get("lobbyd_received_bytes_total"), counters.bytes_in as f64);
    assert_eq!(after.get("lobbyd_sent_bytes_total"), counters.bytes_out as f64);
}

#[test]
fn a_server_that_drops_connections_or_drains_is_not_ready() {
    let mut world = World::new(Config::default(), Relay::default());
    let state = |world: &mut World<Relay>| {
        let scrape = scrape(world);
        (scrape.get("lobbyd_ready"), scrape.get("lobbyd_draining"), scrape.get("lobbyd_connections_shed_total"))
    };
    assert_eq!(state(&mut world), (1.0, 0.0, 0.0));
    world.engine.handle_shed(world.now);
    assert_eq!(state(&mut world), (0.0, 0.0, 1.0));
    world.run("ann > connect chess\nann < upgrade, welcome, presence_state\nadvance 10s");
    assert_eq!(state(&mut world), (1.0, 0.0, 1.0));
    world.run("drain\nann < goodbye code=1001, close 1001 server_shutdown\nturn after 2s\nann < eof");
    assert_eq!(state(&mut world), (0.0, 1.0, 1.0));
    let before = scrape(&mut world).get("lobbyd_drain_duration_seconds");
    assert!(before >= 2.0, "{before}: the closed connection still has a socket");
}

#[test]
fn an_unlimited_number_of_connections_is_infinite() {
    let mut world = World::new(Config { max_connections: Limit::UNLIMITED, ..Config::default() }, Relay::default());
    let scrape = scrape(&mut world);
    assert_eq!((scrape.get("lobbyd_max_connections"), scrape.get("lobbyd_capacity_ratio")), (f64::INFINITY, 0.0));
}

#[test]
fn latencies_are_counted_from_ping_to_pong() {
    let mut world = World::new(Config::default(), Relay::default());
    world.run("ann > connect chess\nann < upgrade, welcome, presence_state");
    world.run("advance 20s\nann < ping\nadvance 70ms");
    world.send("ann", &wire::frame(Opcode::PONG, true, b"", [1; 4]));
    world.app(|_, cx| cx.ping_user("ann", std::time::Duration::from_secs(1)));
    world.steps("turn after 1ms");
    let health_ping = world.take("ann").pop().expect("a health ping");
    world.run("advance 29ms");
    world.send("ann", &wire::text(&health_ping.replace("health_ping", "health_pong")));
    // Bytes that answer no ping are no latency.
    world.run("ann > {\"type\":\"presence\"}\nann < presence_state");
    let scrape = scrape(&mut world);
    let (sum, count) = scrape.sum_and_count("lobbyd_ping_latency_seconds");
    assert!(count == 1.0 && (0.07..0.09).contains(&sum), "{sum} {count}");
    assert_eq!(scrape.sum_and_count("lobbyd_health_latency_seconds"), (0.03, 1.0));
    assert_eq!(scrape.get("lobbyd_health_latency_seconds_bucket{le=\"0.025\"}"), 0.0);
    assert_eq!(scrape.get("lobbyd_health_latency_seconds_bucket{le=\"0.05\"}"), 1.0);
    assert_eq!((scrape.get("lobbyd_pings_total"), scrape.get("lobbyd_health_checks_total")), (1.0, 1.0));
}

#[test]
fn queues_of_blocked_sockets_and_lagging_members_are_counted() {
    let mut world = World::new(Config::default(), Verbatim::default());
    world.run("ann > connect chess\nann < upgrade\nbob > connect chess\nbob < upgrade\nann > window 100");
    let frame = Frame::text(&"x".repeat(998));
    world.app(|_, cx| cx.broadcast_to_lobby("chess", Exclude::None, &frame));
    world.end_turn();
    let text = &world.take("bob");
    assert_eq!(text.len(), 1);
    let blocked = scrape(&mut world);
    assert_eq!(blocked.get("lobbyd_lagging_connections"), 1.0);
    let left = (frame.as_bytes().len() - 100) as f64;
    assert_eq!(blocked.sum_and_count("lobbyd_blocked_queue_bytes"), (left, 1.0));
    world.act("ann", "window 100000");
    let ann = world.conn("ann");
    world.engine.handle_writable(world.now, ann);
    world.flush();
    world.take("ann");
    let drained = scrape(&mut world);
    assert_eq!(drained.get("lobbyd_lagging_connections"), 0.0);
    assert_eq!(drained.sum_and_count("lobbyd_blocked_queue_bytes"), (left, 1.0));
    world.act("ann", "window 0");
    world.app(|_, cx| cx.broadcast_to_lobby("chess", Exclude::None, &frame));
    world.end_turn();
    world.take("bob");
    assert_eq!(scrape(&mut world).get("lobbyd_lagging_connections"), 1.0);
    world.steps("ann > hangup\nadvance 60s");
    assert_eq!(scrape(&mut world).get("lobbyd_lagging_connections"), 0.0, "a closed connection does not lag");
}

#[test]
fn late_ticks_are_counted_and_stepped_ones_are_not() {
    let config = Config { tick_hz: Some(10), max_catch_up_ticks: 1, ..Config::default() };
    let mut world = World::new(config, Relay::default());
    world.run("turn after 105ms\nturn after 400ms\nclock pause\nclock step 2\nturn after 1ms");
    let scrape = scrape(&mut world);
    assert_eq!((scrape.get("lobbyd_tick_number"), scrape.get("lobbyd_ticks_run_total")), (7.0, 5.0));
    assert_eq!((scrape.get("lobbyd_ticks_skipped_total"), scrape.get("lobbyd_clock_paused")), (2.0, 1.0));
    let (sum, count) = scrape.sum_and_count("lobbyd_tick_lateness_seconds");
    assert!((sum - 0.115).abs() < 1e-9 && count == 3.0, "{sum} {count}");
    assert_eq!(scrape.get("lobbyd_tick_lateness_max_seconds"), 0.105);
}

/// Takes each write in 300 µs, until `left` are done.
struct Disk {
    left: usize,
    recording: Recording,
}

impl Sink for Disk {
    fn begin(&mut self, _: u64) -> io::Result<()> {
        Ok(())
    }

    fn write(&mut self, block: &[u8], rest: &[u8]) -> io::Result<()> {
        let written = self.left > 0;
        self.left = self.left.saturating_sub(1);
        self.recording.add_write(written.then_some(block.len() + rest.len()), 300);
        if written { Ok(()) } else { Err(io::ErrorKind::StorageFull.into()) }
    }

    fn recording(&self) -> Recording {
        self.recording
    }
}

#[test]
fn writes_of_the_journal_are_counted() {
    let config = Config { journal_on_error: lobbyd::config::OnJournalError::Continue, ..Config::default() };
    let mut world = World::new(config, Relay::default());
    journal::record(&mut world.engine, START, Disk { left: 3, recording: Recording::default() }).expect("room");
    world.run("ann > connect chess\nann < upgrade, welcome, presence_state");
    let recording = world.engine.recording().expect("it is recorded");
    assert_eq!((recording.writes, recording.has_failed), (3, false));
    let written = scrape(&mut world);
    assert_eq!(written.sum_and_count("lobbyd_journal_write_seconds"), (0.0009, 3.0));
    assert_eq!(written.sum_and_count("lobbyd_journal_write_bytes"), (recording.bytes as f64, 3.0));
    assert_eq!(written.get("lobbyd_journal_slowest_write_seconds"), 0.0003);
    assert_eq!(written.get("lobbyd_journal_failed"), 0.0);
    world.run("ann > {\"type\":\"ping\"}\nann < pong");
    let failed = scrape(&mut world);
    assert_eq!(failed.sum_and_count("lobbyd_journal_write_seconds"), (0.0012, 4.0));
    assert_eq!(failed.sum_and_count("lobbyd_journal_write_bytes"), (recording.bytes as f64, 3.0));
    assert_eq!(failed.get("lobbyd_journal_failed"), 1.0);
}

/// The number of time series is bounded whatever the members and the application do, and names are no labels.
#[test]
fn the_number_of_series_is_bounded_and_no_name_or_token_is_shown() {
    let config = Config { max_lobbies: Limit::UNLIMITED, ..Config::default() };
    let mut world = World::new(config, Relay::default());
    let before = scrape(&mut world).samples.len();
    for n in 0..600_u16 {
        world.steps(&format!("zaphod{n} > connect heartofgold{n}"));
        let code = CloseCode::new(4400 + n % 300, &format!("word_{n}")).expect("a code of the application");
        let conn = world.conn(&format!("zaphod{n}"));
        world.app(|_, cx| cx.close(conn, CloseReason::App(code)));
        world.steps("advance 10s");
    }
    let text = scrape_text(&mut world);
    assert!(!text.contains("zaphod") && !text.contains("heartofgold"));
    let after = Scrape::parse(&text);
    assert_eq!(after.get("lobbyd_closes_total{code=\"4400\",reason=\"word_0\"}"), 1.0);
    assert_eq!(after.get("lobbyd_closes_total{code=\"4400\",reason=\"other\"}"), 1.0);
    let added = after.samples.len() - before;
    assert!(added <= 256 + 300, "{added} series were added");
}

#[test]
fn metrics_need_the_token_and_follow_the_rules_of_other_paths() {
    let config = Config { max_admin_connections: 4, max_message_bytes: ByteSize(1000), ..Config::default() };
    let mut world = World::new(config, Relay::default());
    let mut conns =
        AdminConns::new(world.engine.config(), Some(Token::read("correct-horse-battery").expect("a token")));
    let mut ask = |line: &str, lines: &str| {
        exchange(&mut world, &mut conns, &format!("{line} HTTP/1.1\r\nHost: localhost\r\n{lines}\r\n"))
    };
    let right = "Authorization: Bearer correct-horse-battery\r\n";
    assert!(ask("GET /metrics", "").starts_with("HTTP/1.1 401 "));
    assert!(ask("GET /metrics", "Authorization: Bearer wrong-horse-battery\r\n").starts_with("HTTP/1.1 401 "));
    let whole = ask("GET /metrics", right);
    assert!(whole.starts_with("HTTP/1.1 200 ") && !whole.contains("horse"));
    // As Prometheus 2.42 asks.
    let prometheus = "Accept: application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5,*/*;q=0.1\r\n\
                      Accept-Encoding: gzip\r\nUser-Agent: Prometheus/2.42.0\r\n\
                      X-Prometheus-Scrape-Timeout-Seconds: 10\r\n";
    assert_eq!(ask("GET /metrics", &[prometheus, right].concat()), whole);
    let (head, _) = whole.split_once("\r\n\r\n").expect("a head");
    assert_eq!(ask("HEAD /metrics", right), head.to_owned() + "\r\n\r\n");
    // `params:` of a scrape configuration.
    assert_eq!(ask("GET /metrics?x=1&limit=%zz", right), whole);
    assert!(ask("GET /stats?x=1", right).starts_with("HTTP/1.1 400 "));
    assert!(ask("POST /metrics", right).starts_with("HTTP/1.1 405 "));
    assert!(ask("GET /metrics/x", right).starts_with("HTTP/1.1 404 "));
    let foreign = format!("Origin: http://elsewhere.example\r\n{right}");
    assert!(ask("GET /metrics", &foreign).starts_with("HTTP/1.1 403 "));
}

/// What the engine measures is neither in a journal nor in its replay's way.
#[test]
fn scrapes_and_measurements_do_not_change_a_session() {
    let run = |scrapes: bool| {
        let config = Config { tick_hz: Some(10), ..Config::default() };
        let mut world = World::new(config, Relay::default());
        journal::record(&mut world.engine, START, Vec::new()).expect("a Vec takes everything");
        for line in ["ann, bob join chess", "advance 20s", "ann > {\"type\":\"ping\"}", "bob > hangup", "advance 1s"] {
            world.steps(line);
            if scrapes {
                scrape(&mut world);
            }
        }
        let measured = world.engine.measurements();
        (journal::finish::<_, Vec<u8>>(&mut world.engine).expect("it was recorded"), measured)
    };
    let (journal, measured) = run(true);
    assert_eq!(run(false), (journal.clone(), measured));
    assert_eq!(measured.tick_lateness.as_ref().map(Distribution::count), Some(210));
    journal::replay(&journal[..], Relay::default()).expect("the journal replays");
}
