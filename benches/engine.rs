//! Cost of the engine without sockets.
//!
//! `engine/message_in`: one message arrives at an application that ignores it.
//! `engine/broadcast/N`: one message arrives in a lobby of N; the time for each of its N - 1 deliveries, from received bytes
//! to written bytes.
//! `engine/relay/10`: the same in the JSON protocol: parsed, stamped, encoded.
//! `engine/join/N`: a connection is accepted, upgraded and seated in a lobby of N, and hangs up.
//! `engine/metrics/N`: the whole answer to `GET /metrics` with N connections, from the bytes of the request to those of the
//! answer, without the files below `/proc` that the driver reads. It must not grow with N.
//!
//! `crowd/…/N`: N connections in lobbies of 8, nearly all of them idle. They must not make anything more expensive:
//!
//! - `turn`: a turn without events;
//! - `message`: one message arrives and goes to the 7 others of its lobby; always the same lobby;
//! - `message_anywhere`: the same, in another lobby every time;
//! - `all_at_once`: one member of every lobby sends a message in one turn; the time for each delivery;
//! - `join`: a connection is accepted, upgraded, seated, and hangs up;
//! - `ping`: the time for each ping of an idle connection: its timer, the ping and the answer, and the timer that finds the
//!   connection alive.
//!
//! `turn`, `message` and `join` touch no idle connection, and are flat. The others touch connections that have been idle.
//! There the curve rises because of memory and not of work. A connection takes half a kilobyte with its user and its seat:
//! 1,000 of them fit in the processor's cache, 100,000 do not. The instructions are the same: `benches/million.sh` counts
//! them, and the cache misses.
//!
//! `engine/join/N` grows with N, a quarter of a microsecond for each 1,000 members: the members are one array in join order,
//! and a leaving member is searched in it.

use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use lobbyd::admin::AdminConns;
use lobbyd::apps::{Relay, Verbatim};
use lobbyd::sim::wire;
use lobbyd::{App, Authorization, Context, Member, Message, Protocol, Reject, Request};

#[path = "common/each.rs"]
mod bencher;
mod common;

use bencher::each;
use common::{Crowd, ListWritten};

/// Ignores its messages.
struct Silent;

impl App for Silent {
    const PROTOCOL: Protocol = Protocol::Raw;

    fn authorize(&mut self, _: &mut Context<'_>, request: &Request<'_>) -> Authorization {
        Authorization::token_is_user(request)
    }

    fn on_message(&mut self, _: &mut Context<'_>, _: &Member, message: Message<'_>) {
        black_box(message);
    }
}

fn text() -> Vec<u8> {
    wire::text(&"x".repeat(64))
}

fn message_in(c: &mut Criterion) {
    let mut crowd = Crowd::new(Silent, 1, 10);
    let message = text();
    let mut sent = 0;
    c.bench_function("engine/message_in", |b| {
        b.iter(|| {
            crowd.send(0, &message);
            sent += 1;
        });
    });
    let counters = crowd.engine.stats().counters;
    assert_eq!((counters.messages_in, counters.rejected(Reject::RateLimited)), (sent, 0), "every message was accepted");
}

fn lobby_of(c: &mut Criterion) {
    for size in [10, 100, 1000, 10_000] {
        let mut crowd = Crowd::new(Verbatim::default(), 1, size);
        let message = text();
        let receivers = size as u64 - 1;
        let mut sent = 0;
        c.bench_function(&format!("engine/broadcast/{size}"), |b| {
            each(b, || {
                crowd.send(0, &message);
                sent += 1;
                receivers
            });
        });
        assert_eq!(crowd.engine.stats().counters.frames_out, sent * receivers, "every member got every message");
        join(c, &format!("engine/join/{size}"), &mut crowd);
    }
}

/// One more member joins the first lobby, and leaves.
fn join(c: &mut Criterion, name: &str, crowd: &mut Crowd<Verbatim>) {
    let request = wire::upgrade_request("/ws/l0?token=one-more", &[]);
    let before = crowd.engine.stats();
    let mut joins = 0;
    c.bench_function(name, |b| {
        b.iter(|| {
            crowd.join_and_leave(&request);
            joins += 1;
        });
    });
    let after = crowd.engine.stats();
    assert_eq!(after.counters.joined - before.counters.joined, joins, "every connection joined");
    assert_eq!(after.counters.left - before.counters.left, joins, "and left");
    assert_eq!(after.total_connections, before.total_connections);
}

fn relay(c: &mut Criterion) {
    let mut crowd = Crowd::new(Relay::default(), 1, 10);
    let message = wire::text(&format!(r#"{{"type":"broadcast","data":"{}"}}"#, "x".repeat(64)));
    let before = crowd.engine.stats().counters;
    let mut sent = 0;
    c.bench_function("engine/relay/10", |b| {
        each(b, || {
            crowd.send(0, &message);
            sent += 1;
            9
        });
    });
    let after = crowd.engine.stats().counters;
    assert_eq!(after.frames_out - before.frames_out, sent * 9, "every member got every message");
}

fn metrics(c: &mut Criterion) {
    for connections in [80, 10_000] {
        let mut crowd = Crowd::new(Verbatim::default(), connections / LOBBY, LOBBY);
        let mut admin = AdminConns::new(crowd.engine.config(), None);
        let client = admin.handle_accept(crowd.now, ([127, 0, 0, 1], 5000).into()).expect("there is room");
        c.bench_function(&format!("engine/metrics/{connections}"), |b| {
            b.iter(|| {
                admin.handle_bytes(client, black_box(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n"));
                admin.work(crowd.now, &mut crowd.engine);
                let length = admin.pending(client).len();
                assert!(length > 10_000, "the answer is complete");
                admin.handle_written(crowd.now, client, length);
            });
        });
    }
}

const LOBBY: usize = 8;

fn crowd(c: &mut Criterion) {
    for connections in [1_000, 10_000, 100_000, 1_000_000] {
        // All benches share one crowd, because building it takes longer than any of them.
        let mut crowd = Crowd::new(Verbatim::default(), connections / LOBBY, LOBBY);
        crowd.settle(LOBBY);
        let name = |bench: &str| format!("crowd/{bench}/{connections}");
        // First, while the timers are still spread evenly.
        ping(c, &name("ping"), &mut crowd);
        turn(c, &name("turn"), &mut crowd);
        message(c, &name("message"), &mut crowd, 0);
        // A prime, so that every lobby is used, and successive ones are far apart in memory.
        message(c, &name("message_anywhere"), &mut crowd, 7919);
        all_at_once(c, &name("all_at_once"), &mut crowd);
        join(c, &name("join"), &mut crowd);
        assert_eq!(crowd.engine.stats().counters.closed_in_all(), crowd.engine.stats().counters.left);
        assert_eq!(crowd.engine.stats().total_connections, connections, "no connection was lost");
    }
}

fn ping(c: &mut Criterion, name: &str, crowd: &mut Crowd<Verbatim>) {
    let step = crowd.ping_step();
    let before = crowd.engine.stats().counters.pings;
    let (mut written, mut all) = (ListWritten::default(), 0);
    c.bench_function(name, |b| {
        each(b, || {
            let pings = crowd.answer_pings(step, &mut written);
            all += pings;
            pings
        });
    });
    let stats = crowd.engine.stats();
    assert_eq!(
        (stats.counters.pings - before, stats.total_connections),
        (all, crowd.conns.len()),
        "every ping was answered, so no connection was closed"
    );
}

fn turn(c: &mut Criterion, name: &str, crowd: &mut Crowd<Verbatim>) {
    // Handles the timers that became due in the meantime.
    crowd.end_turn();
    let Crowd { engine, now, .. } = crowd;
    let before = engine.stats();
    let mut written = ListWritten::default();
    c.bench_function(name, |b| {
        b.iter(|| {
            engine.end_turn(black_box(*now), &mut written).expect("the engine is not recorded");
            engine.poll_timeout()
        });
    });
    assert_eq!(written.0, [], "the turns wrote nothing");
    assert_eq!(engine.stats(), before, "the turns did nothing");
}

/// Each message is sent in the lobby `stride` lobbies after the last one.
fn message(c: &mut Criterion, name: &str, crowd: &mut Crowd<Verbatim>, stride: usize) {
    let message = text();
    let lobbies = crowd.conns.len() / LOBBY;
    let before = crowd.engine.stats().counters;
    let (mut lobby, mut sent) = (0, 0);
    c.bench_function(name, |b| {
        b.iter(|| {
            lobby = (lobby + stride) % lobbies;
            crowd.send(lobby * LOBBY, &message);
            sent += 1;
        });
    });
    let after = crowd.engine.stats().counters;
    assert_eq!(after.frames_out - before.frames_out, sent * (LOBBY as u64 - 1), "every member got every message");
}

fn all_at_once(c: &mut Criterion, name: &str, crowd: &mut Crowd<Verbatim>) {
    let message = text();
    let before = crowd.engine.stats().counters;
    let mut deliveries = 0;
    c.bench_function(name, |b| {
        each(b, || {
            for lobby in crowd.conns.chunks(LOBBY) {
                crowd.engine.handle_bytes(crowd.now, lobby[0], black_box(&message));
            }
            crowd.flush();
            let delivered = (crowd.conns.len() / LOBBY * (LOBBY - 1)) as u64;
            deliveries += delivered;
            delivered
        });
    });
    assert_eq!(
        crowd.engine.stats().counters.frames_out - before.frames_out,
        deliveries,
        "every member got every message"
    );
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
        .nresamples(10_000);
    targets = message_in, lobby_of, relay, metrics, crowd
}
criterion_main!(benches);
