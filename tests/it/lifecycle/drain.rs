//! Draining and stopping the server, in virtual time.

use std::net::SocketAddr;
use std::time::Duration;

use lobbyd::apps::Relay;
use lobbyd::config::{ByteSize, Limit};
use lobbyd::sim::wire::{self, Reader, Received};
use lobbyd::sim::{MemorySockets, MemoryWrite};
use lobbyd::{CloseReason, Config, ConnId, Engine, Exclude, Frame, Time};

use crate::common::scenario::{START, World};
use crate::common::witness::Witness;

fn world(config: Config) -> World<Witness<true>> {
    World::new(config, Witness::default())
}

#[test]
fn draining_closes_all_members_and_refuses_new_connections() {
    let mut world = World::new(Config::default(), Witness::<true>::default());
    world.run(
        r#"
        ann, bob join chess
        p > open
        w > get /ws/chess?token=w&auth=later
        advance 1s
        drain
        # No member is sent a presence_diff, because all members leave.
        ann < goodbye code=1001 reason=server_shutdown reconnect=true, close 1001 server_shutdown
        bob < goodbye code=1001 reason=server_shutdown reconnect=true, close 1001 server_shutdown
        p < http 503, body the server is shutting down; try again in a moment, eof
        w < http 503, body, eof
        late > connect chess
        late < http 503, body, eof
        # A second drain has no effect.
        drain
        ann < nothing
        ann > close 1001
        ann < eof
        ann > hangup
        p > hangup
        "#,
    );
    assert_eq!(world.engine.stats().total_connections, 0);
    assert_eq!(world.engine.stats().counters.closed(CloseReason::ServerShutdown), 4);
    assert!(!world.engine.is_drained());
    let log = world.engine.app_mut().take();
    assert_eq!(log, ["join ann", "join bob", "drain until 31.000000s", "leave ann shutdown", "leave bob shutdown"]);
    // A peer that does not answer is given close_timeout, and then linger_timeout to read the rest.
    world.run(
        r#"
        advance 2s
        bob < eof
        advance 990ms
        "#,
    );
    assert!(!world.engine.is_drained());
    world.run("advance 10ms");
    assert!(world.engine.is_drained());
    assert_eq!(world.engine.drain_totals().map(|totals| totals.forced), Some(0));
    assert_eq!(world.engine.poll_timeout(), None);
}

#[test]
fn draining_ends_at_its_deadline() {
    let config = Config {
        drain_deadline: Duration::from_millis(500),
        close_timeout: Duration::from_secs(5),
        ..Config::default()
    };
    let mut world = World::new(config, Relay::default());
    world.run(
        r#"
        ann, bob join chess
        bob > window 0
        drain
        ann < goodbye, close 1001 server_shutdown
        advance 499ms
        bob < nothing
        advance 1ms
        ann < cut
        bob < cut
        "#,
    );
    assert!(world.engine.is_drained());
    assert_eq!(world.engine.drain_totals().map(|totals| totals.forced), Some(2));
    assert_eq!(world.engine.stats().counters.closed(CloseReason::ServerShutdown), 2);
}

#[test]
fn draining_an_empty_server_is_over_at_once() {
    let mut world = World::new(Config::default(), Relay::default());
    assert!(!world.engine.is_drained());
    world.run("drain");
    assert!(world.engine.is_drained());
    assert_eq!(world.engine.poll_timeout(), None);
}

#[test]
fn members_are_closed_in_batches_oldest_first() {
    let config = Config { drain_batch: 2, ..Config::default() };
    let mut world = world(config);
    world.steps("ann > connect chess\nbob > connect go\ncid > connect chess\ndan > connect go\neve > connect go");
    for name in ["ann", "bob", "cid", "dan", "eve"] {
        world.take(name);
    }
    world.run(
        r#"
        drain
        ann < goodbye code=1001 reason=server_shutdown reconnect=true, close 1001 server_shutdown
        bob < goodbye, close 1001 server_shutdown
        cid < nothing
        # A member not closed yet continues as before, but is sent no leaves.
        cid > {"type":"ping","ref":1}
        cid < pong ref=1
        advance 99ms
        cid < nothing
        advance 1ms
        cid < goodbye, close 1001 server_shutdown
        dan < goodbye, close 1001 server_shutdown
        eve < nothing
        ann > close 1001
        ann < eof
        advance 100ms
        eve < goodbye, close 1001 server_shutdown
        bob > close 1001
        bob < eof
        cid > close 1001
        cid < eof
        dan > close 1001
        dan < eof
        "#,
    );
    assert!(!world.engine.is_drained(), "one is left");
    world.run("eve > close 1001\neve < eof");
    assert!(world.engine.is_drained());
    let totals = world.engine.drain_totals().expect("a drain has begun");
    assert_eq!((totals.closed, totals.dropped_bytes, totals.forced), (5, 0, 0));
    assert!(totals.flushed_bytes > 0);
}

#[test]
fn new_connections_are_refused_and_health_reports_draining() {
    let mut world = world(Config::default());
    world.run(
        r#"
        probe > open
        probe > raw GET /health/ready HTTP/1.1\r\nHost: a\r\n\r\n
        probe < http 200, body ready, eof
        ann > connect chess
        ann < upgrade, welcome, presence_state
        # Half a request, and a request whose authorization is pending.
        bob > open
        bob > raw GET /ws/chess?token=bob HTTP/1.1\r\n
        cid > get /ws/chess?token=cid&auth=later
        drain
        ann < goodbye, close 1001 server_shutdown
        bob < http 503, body the server is shutting down; try again in a moment, eof
        cid < http 503, body the server is shutting down; try again in a moment, eof
        dan > connect chess
        dan < http 503, body the server is shutting down; try again in a moment, eof
        probe:2 > open
        probe:2 > raw GET /health/ready HTTP/1.1\r\nHost: a\r\n\r\n
        probe:2 < http 503, body draining, eof
        probe:3 > open
        probe:3 > raw GET /health/live HTTP/1.1\r\nHost: a\r\n\r\n
        probe:3 < http 200, body live, eof
        ann > hangup
        bob > hangup
        cid > hangup
        "#,
    );
    // The drain does not wait for dan or for the probes opened after it.
    assert!(!world.engine.is_drained(), "the first probe lingers");
    world.run("probe > hangup");
    assert!(world.engine.is_drained());
}

#[test]
fn every_refusal_while_draining_has_retry_after() {
    let mut engine =
        Engine::new(Config::default().check().expect("the configuration is valid"), START, Witness::<true>::default());
    let peer = SocketAddr::from(([127, 0, 0, 1], 4000));
    let waiting = engine.handle_accept(Time::ZERO, peer.into()).expect("room");
    engine.handle_drain(Time::ZERO);
    let late = engine.handle_accept(Time::ZERO, peer.into()).expect("the listener stays");
    engine.handle_bytes(Time::ZERO, late, &wire::upgrade_request("/ws/chess?token=ann", &[]));
    let mut sockets = MemorySockets::default();
    engine.flush(&mut sockets).expect("the session is not recorded");
    let writes = sockets.take_writes();
    assert_eq!(writes.iter().map(|write| write.conn).collect::<Vec<_>>(), [waiting, late]);
    for write in writes {
        let answer = String::from_utf8(write.bytes).expect("ASCII");
        assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("\r\nRetry-After: 1\r\n"), "{answer}");
    }
}

#[test]
fn the_application_can_send_before_the_goodbye() {
    let mut world = World::new(
        Config::default(),
        Witness::<true>::reacting(|cx, _, event| {
            if event.starts_with("drain") {
                cx.broadcast_to_lobby("chess", Exclude::None, &Frame::text(r#"{"type":"saved"}"#));
            }
        }),
    );
    world.run(
        r#"
        ann > connect chess
        ann < upgrade, welcome, presence_state
        drain
        ann < saved, goodbye, close 1001 server_shutdown
        drain
        ann < nothing
        "#,
    );
    let events: Vec<String> = world.app(|app, _| app.take());
    assert_eq!(events, ["join ann", "drain until 30.000000s", "leave ann shutdown"]);
}

/// A slow reader has until the deadline of the drain, not only close_timeout.
#[test]
fn queued_frames_are_flushed_to_slow_readers() {
    let mut world = world(Config::default());
    world.run(
        r#"
        ann > connect chess
        ann < upgrade, welcome, presence_state
        ann > window 0
        "#,
    );
    let ann = world.conn("ann");
    assert!(world.app(|_, cx| cx.send_to_conn(ann, &Frame::text(r#"{"type":"last"}"#))));
    world.run(
        r#"
        drain
        advance 29s
        ann < nothing
        ann > read
        ann < last, goodbye, close 1001 server_shutdown
        ann > close 1001
        ann < eof
        ann > hangup
        "#,
    );
    let totals = world.engine.drain_totals().expect("a drain has begun");
    assert!(world.engine.is_drained());
    assert_eq!((totals.closed, totals.dropped_bytes, totals.forced), (1, 0, 0));
}

#[test]
fn the_deadline_drops_the_remaining_connections() {
    let mut world = world(Config::default());
    world.run(
        r#"
        ann > connect chess
        ann < upgrade, welcome, presence_state
        bob > connect go
        bob < upgrade, welcome, presence_state
        ann > window 0
        drain
        bob < goodbye, close 1001 server_shutdown
        # bob reads but never answers. It loses nothing, and is dropped after close_timeout and linger_timeout.
        advance 3100ms
        bob < eof
        advance 26s
        ann < nothing
        advance 900ms
        ann < cut
        "#,
    );
    let totals = world.engine.drain_totals().expect("a drain has begun");
    assert!(world.engine.is_drained());
    assert_eq!((totals.closed, totals.forced), (1, 1));
    assert!(totals.dropped_bytes > 100, "goodbye and the close frame: {totals}");
    assert_eq!(world.engine.stats().counters.closed(CloseReason::ServerShutdown), 2);
}

#[test]
fn a_second_request_drops_all_connections_at_once() {
    let mut world = world(Config { drain_batch: 1, max_connections: Limit::at_most(2), ..Config::default() });
    world.steps("ann > connect chess\nbob > connect chess\ndrain");
    let now = world.now;
    world.engine.handle_stop(now);
    world.flush();
    assert!(world.engine.is_drained());
    let totals = world.engine.drain_totals().expect("a drain has begun");
    assert_eq!((totals.closed, totals.forced), (0, 2));
    world.engine.check();
}

#[test]
fn a_drain_deadline_too_short_for_its_batches_is_refused() {
    let config = Config { max_connections: Limit::at_most(1_000_000), ..Config::default() };
    let problems = config.check().expect_err("2,000 batches take 200 s");
    assert_eq!(problems[0].field, "drain_deadline");
}

/// A client, found by the index of its connection.
struct Peer {
    conn: ConnId,
    reader: Reader,
    got: Vec<Received>,
}

const CROWD: u32 = 5000;

/// Ends a turn. A peer that reads the close frame answers it and hangs up. Returns the number of such peers.
fn end_turn(engine: &mut Engine<Witness<true>>, sockets: &mut MemorySockets, peers: &mut [Peer], now: Time) -> usize {
    engine.end_turn(now, sockets).expect("the session is not recorded");
    let mut closed = 0;
    for MemoryWrite { conn, bytes, .. } in sockets.take_writes() {
        let peer = &mut peers[conn.index()];
        peer.reader.push(&bytes);
        while let Some(received) = peer.reader.next().expect("the server keeps to the protocol") {
            let is_close = matches!(received, Received::Close(..));
            peer.got.push(received);
            if is_close {
                closed += 1;
                engine.handle_bytes(now, conn, &wire::close(1001, ""));
                engine.handle_hangup(now, conn);
            }
        }
    }
    engine.flush(sockets).expect("the session is not recorded");
    closed
}

#[test]
fn five_thousand_members_get_every_queued_message() {
    let config = Config {
        max_connections: Limit::at_most(CROWD),
        max_pending: CROWD,
        max_outbound_bytes: ByteSize::kib(256),
        ..Config::default()
    };
    let mut engine = Engine::new(
        config.check().expect("the configuration is valid"),
        START,
        Witness::<true>::reacting(|cx, _, event| {
            if event.starts_with("drain") {
                for lobby in 0..CROWD / 10 {
                    let sent = cx.broadcast_to_lobby(
                        &format!("lobby-{lobby}"),
                        Exclude::None,
                        &Frame::text(r#"{"type":"saved"}"#),
                    );
                    assert_eq!(sent.queued, 10);
                }
            }
        }),
    );
    let mut now = Time::ZERO;
    let address = SocketAddr::from(([127, 0, 0, 1], 4000));
    let mut peers: Vec<Peer> = (0..CROWD)
        .map(|n| {
            let conn = engine.handle_accept(now, address.into()).expect("room");
            let request = wire::upgrade_request(&format!("/ws/lobby-{}?token=user-{n}", n / 10), &[]);
            engine.handle_bytes(now, conn, &request);
            Peer { conn, reader: Reader::default(), got: Vec::new() }
        })
        .collect();
    let mut sockets = MemorySockets::default();
    end_turn(&mut engine, &mut sockets, &mut peers, now);
    assert_eq!(engine.stats().total_connections, CROWD as usize);
    let drained_at = now + Duration::from_secs(1);
    for (n, peer) in peers.iter_mut().enumerate() {
        peer.got.clear();
        // Every fifth peer does not read for a while.
        if n % 5 == 0 {
            sockets.limit(peer.conn, 0);
        }
    }

    engine.handle_drain(drained_at);
    now = drained_at;
    let mut closed = end_turn(&mut engine, &mut sockets, &mut peers, now);
    assert_eq!(closed, 400, "the first batch, except for peers that do not read");
    while !engine.is_drained() {
        let next = engine.poll_timeout().expect("the drain has a deadline");
        let reading = drained_at + Duration::from_secs(7);
        if now < reading && next >= reading {
            now = reading;
            for peer in &peers {
                sockets.limit(peer.conn, usize::MAX);
                engine.handle_writable(now, peer.conn);
            }
        } else {
            now = next;
        }
        let closing = end_turn(&mut engine, &mut sockets, &mut peers, now);
        assert!(closing <= 500 || now == reading, "{closing} at {now}");
        closed += closing;
    }
    engine.check();
    assert_eq!(closed, CROWD as usize);

    let mut waits = Vec::new();
    for peer in &peers {
        let [Received::Text(saved), Received::Text(goodbye), Received::Close(1001, _)] = &peer.got[..] else {
            panic!("{:?}", peer.got);
        };
        assert_eq!(saved, r#"{"type":"saved"}"#);
        let goodbye: serde_json::Value = serde_json::from_str(goodbye).expect("JSON");
        waits.push(goodbye["retry_after_ms"].as_u64().expect("a wait"));
    }
    // The waits are spread evenly: about a thousand per second.
    assert!(waits.iter().all(|wait| (1000..6000).contains(wait)));
    for second in 1..6 {
        let count = waits.iter().filter(|&&wait| wait / 1000 == second).count();
        assert!((900..1100).contains(&count), "{count} reconnect in second {second}");
    }
    let totals = engine.drain_totals().expect("a drain has begun");
    assert_eq!((totals.closed, totals.dropped_bytes, totals.forced), (u64::from(CROWD), 0, 0));
    assert!(totals.flushed_bytes > u64::from(CROWD) * 100);
    assert_eq!(now - drained_at, Duration::from_secs(7), "the last to read end it");
}

#[test]
fn a_member_joining_just_before_the_drain_is_announced() {
    let config = Config { drain_batch: 1, drain_deadline: Duration::from_secs(60), ..Config::default() };
    let mut world = World::new(config, lobbyd::apps::Relay::default());
    world.run(
        r#"
        zoe > connect other
        zoe < upgrade, welcome, presence_state
        ann > connect chess
        ann < upgrade, welcome, presence_state
        turn begins
        bob > connect chess
        drain
        bob > {"type":"broadcast","data":"am I known?"}
        turn ends
        bob < upgrade, welcome, presence_state users=ann,bob
        ann < presence_diff +bob, message from=bob
        zoe < goodbye, close 1001 server_shutdown
        "#,
    );
}
