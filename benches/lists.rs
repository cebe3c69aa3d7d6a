//! Cost of the list of lobbies, without sockets.
//!
//! `lists/second/N`: one second of a server with 10,000 listed lobbies of which 1,000 change, spread over all of them, while
//! N connections follow the list. N = 0 is what the changes themselves cost: the difference is the cost of those that
//! follow. It must be below 50 ms, 5 % of a core.
//! `lists/window/N`: the same, but all changes are among the 100 lobbies that are told, the worst case.
//! `lists/request`: the answer to one `GET /lobbies`, of 100 entries.
//!
//! Each of them also checks the bytes that a connection is sent: at most 20 KB a second.

use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use lobbyd::ConnId;
use lobbyd::apps::Relay;
use lobbyd::config::{ByteSize, Limit};
use lobbyd::sim::wire;

mod common;

use common::Crowd;

const LOBBIES: usize = 10_000;
const CHANGES: usize = 1000;
const SECOND: Duration = Duration::from_secs(1);

/// Lobbies with one member each, all of them listed.
fn lobbies() -> Crowd<Relay> {
    let mut crowd = Crowd::with_query(
        Relay::default(),
        LOBBIES,
        1,
        |config| {
            config.lobby_control = true;
            config.lists_per_minute = Limit::UNLIMITED;
            // No pings during the measurement; room for the data that lobbies may have with lobby control.
            config.ping_interval = Duration::from_secs(24 * 60 * 60);
            config.max_outbound_bytes = ByteSize(1 << 20);
        },
        |_| {},
        |_| "&session=page-of-somebody-1".to_owned(),
    );
    for lobby in 0..LOBBIES {
        let tags = ["chess", "go"][lobby % 2];
        let settings = format!(r#""listed":true,"name":"Lobby {lobby}","tags":{{"game":"{tags}"}}"#);
        crowd.send(lobby, &wire::text(&format!(r#"{{"type":"settings","settings":{{{settings}}}}}"#)));
    }
    crowd
}

/// Renames lobbies during one second, of the first `among` ones.
fn second(crowd: &mut Crowd<Relay>, names: &mut usize, among: usize) {
    for _ in 0..CHANGES {
        *names += 1;
        // A prime: successive lobbies are far apart in memory.
        let lobby = (*names * 7919) % among;
        let change = format!(r#"{{"type":"settings","settings":{{"name":"Lobby {lobby}, game {names}"}}}}"#);
        crowd.send(lobby, &wire::text(&change));
    }
    crowd.now = crowd.now + SECOND;
    crowd.end_turn();
}

fn lists(c: &mut Criterion) {
    let mut crowd = lobbies();
    let mut names = 0;
    for (name, among) in [("second", LOBBIES), ("window", 100)] {
        for watchers in [0, 1, 10, 100] {
            let request = wire::upgrade_request("/ws/~lobbies", &[]);
            let conns: Vec<ConnId> = (0..watchers).map(|_| crowd.connect(&request)).collect();
            crowd.flush();
            assert_eq!(crowd.engine.stats().list_watchers, watchers);
            let (mut seconds, before) = (0, crowd.engine.stats().counters);
            c.bench_function(&format!("lists/{name}/{watchers}"), |b| {
                b.iter(|| {
                    second(&mut crowd, &mut names, among);
                    seconds += 1;
                });
            });
            let after = crowd.engine.stats().counters;
            let frames = after.frames_out - before.frames_out - (seconds * CHANGES) as u64;
            assert_eq!(frames, (seconds * watchers) as u64, "each of them was told once a second");
            conns.into_iter().for_each(|conn| crowd.engine.handle_hangup(crowd.now, conn));
            crowd.flush();
        }
    }
    let request = b"GET /lobbies HTTP/1.1\r\nHost: localhost\r\n\r\n";
    c.bench_function("lists/request", |b| {
        b.iter(|| crowd.join_and_leave(request));
    });
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
        .nresamples(10_000)
        .sample_size(10);
    targets = lists
}
criterion_main!(benches);
