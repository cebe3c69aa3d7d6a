//! What the engine costs without any socket.
//!
//! `engine/broadcast/N`: one message arrives and is queued for and written to the other N - 1 members of a lobby.
//! `engine/message_in`: one message arrives at an application that does nothing with it.
//! `engine/relay/10`: the same as `broadcast/10` in the JSON protocol: parsed, stamped, encoded.
//! `engine/handshake`: a connection is accepted, upgraded, seated, and hangs up.

use std::hint::black_box;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use lobbyd::apps::{Relay, Verbatim};
use lobbyd::sim::wire;
use lobbyd::{App, Authorization, Context, Member, Message, Request, Speech, Time};

mod common;

use common::{engine_with, flush};

/// Takes messages and does nothing.
struct Silent;

impl App for Silent {
    const SPEECH: Speech = Speech::Opaque;

    fn authorize(&mut self, _: &mut Context<'_>, request: &Request<'_>) -> Authorization {
        Authorization::token_is_user(request)
    }

    fn on_message(&mut self, _: &mut Context<'_>, _: &Member, message: Message<'_>) {
        black_box(message);
    }
}

/// A microsecond for each turn, so that the rates are charged as they are in a running server.
#[derive(Default)]
struct Clock(u64);

impl Clock {
    fn tick(&mut self) -> Time {
        self.0 += 1;
        Time::from_micros(self.0)
    }
}

fn broadcast(c: &mut Criterion) {
    let mut group = c.benchmark_group("engine/broadcast");
    for size in [10, 100, 1000] {
        let (mut engine, conns) = engine_with(Verbatim::default(), 1, size);
        let message = wire::text(&"x".repeat(64));
        group.throughput(Throughput::Elements(size as u64 - 1));
        let mut clock = Clock::default();
        group.bench_function(BenchmarkId::from_parameter(size), |b| {
            b.iter(|| {
                engine.handle_bytes(clock.tick(), conns[0], black_box(&message));
                flush(&mut engine);
            });
        });
        let sent = engine.stats().counters;
        assert_eq!(sent.frames_out, sent.messages_in * (size as u64 - 1), "everybody got every message");
    }
    group.finish();
}

fn relay(c: &mut Criterion) {
    let (mut engine, conns) = engine_with(Relay::default(), 1, 10);
    let message = wire::text(&format!(r#"{{"type":"broadcast","data":"{}"}}"#, "x".repeat(64)));
    let mut group = c.benchmark_group("engine/relay");
    group.throughput(Throughput::Elements(9));
    let mut clock = Clock::default();
    group.bench_function("10", |b| {
        b.iter(|| {
            engine.handle_bytes(clock.tick(), conns[0], black_box(&message));
            flush(&mut engine);
        });
    });
    group.finish();
    let counters = engine.stats().counters;
    assert_eq!(counters.rejected(lobbyd::Reject::RateLimited), 0, "nothing was refused");
}

/// One message in, with 10 and with 10,000 connections: idle ones must cost nothing.
fn message_in(c: &mut Criterion) {
    for lobbies in [1, 1000] {
        let (mut engine, conns) = engine_with(Silent, lobbies, 10);
        let message = wire::text(&"x".repeat(64));
        let name =
            if lobbies == 1 { "engine/message_in".into() } else { format!("engine/message_in/of_{}", conns.len()) };
        let mut clock = Clock::default();
        c.bench_function(&name, |b| {
            b.iter(|| {
                engine.handle_bytes(clock.tick(), conns[0], black_box(&message));
                flush(&mut engine);
            });
        });
    }
}

fn handshake(c: &mut Criterion) {
    let (mut engine, _) = engine_with(Verbatim::default(), 100, 10);
    let request = wire::upgrade_request("/ws/l0?token=new", &[]);
    c.bench_function("engine/handshake", |b| {
        b.iter(|| {
            let conn = engine.handle_accept(Time::ZERO, ([127, 0, 0, 1], 4000).into()).expect("unlimited");
            engine.handle_bytes(Time::ZERO, conn, black_box(&request));
            flush(&mut engine);
            engine.handle_hangup(Time::ZERO, conn);
            flush(&mut engine);
        });
    });
}

criterion_group! {
    name = benches;
    config = Criterion::default().warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(3));
    targets = broadcast, relay, message_in, handshake
}
criterion_main!(benches);
