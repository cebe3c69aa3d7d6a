//! A server with 1,000,000 connections in lobbies of 8, beside smaller ones, without sockets: memory for each connection,
//! and what nearly all of them being idle costs the others.
//!
//!     cargo bench --bench million      # memory and time; two minutes, 0.6 GB
//!     benches/million.sh               # instructions and cache misses
//!
//! - `turn`: a turn without events;
//! - `message`: one message arrives and goes to the 7 others of its lobby; always the same lobby;
//! - `elsewhere`: the same, in another lobby every time;
//! - `ping`: one ping of an idle connection: its timer, the ping and the answer, and the timer that finds it alive;
//! - `join`: a connection is accepted, upgraded, seated in a lobby of 8, and hangs up.
//!
//! With a number of connections as argument, the program runs each of them once and prints the number of operations, for
//! `benches/million.sh`.

use std::hint::black_box;

use criterion::measurement::{Measurement, WallTime};
use lobbyd::apps::Verbatim;
use lobbyd::sim::wire;

mod common;

use common::{Crowd, ListWritten};

const LOBBY: usize = 8;
const SIZES: [usize; 4] = [1_000, 10_000, 100_000, 1_000_000];

/// The measured functions. `benches/million.sh` finds them by this path.
mod measured {
    use lobbyd::apps::Verbatim;
    use lobbyd::sim::wire;

    use super::LOBBY;
    use super::common::{Crowd, ListWritten};

    const COUNT: u64 = 20_000;

    #[inline(never)]
    pub(super) fn turn(crowd: &mut Crowd<Verbatim>) -> u64 {
        for _ in 0..COUNT {
            crowd.end_turn_at_once();
        }
        COUNT
    }

    #[inline(never)]
    pub(super) fn message(crowd: &mut Crowd<Verbatim>) -> u64 {
        let message = wire::text(&"x".repeat(64));
        for _ in 0..COUNT {
            crowd.send(0, &message);
        }
        COUNT
    }

    #[inline(never)]
    pub(super) fn elsewhere(crowd: &mut Crowd<Verbatim>) -> u64 {
        let message = wire::text(&"x".repeat(64));
        let lobbies = crowd.conns.len() / LOBBY;
        for number in 0..COUNT as usize {
            // A prime, so that every lobby is used, and successive ones are far apart in memory.
            crowd.send(number * 7919 % lobbies * LOBBY, &message);
        }
        COUNT
    }

    #[inline(never)]
    pub(super) fn ping(crowd: &mut Crowd<Verbatim>) -> u64 {
        // Some 50 connections are due in each turn, whatever their number.
        let step = crowd.engine.config().ping_interval * 50 / crowd.conns.len() as u32;
        let (mut written, mut pings) = (ListWritten::default(), 0);
        while pings < COUNT {
            pings += crowd.answer_pings(step, &mut written);
        }
        pings
    }

    #[inline(never)]
    pub(super) fn join(crowd: &mut Crowd<Verbatim>) -> u64 {
        let request = wire::upgrade_request("/ws/l0?token=one-more", &[]);
        for _ in 0..COUNT / 4 {
            crowd.join_and_leave(&request);
        }
        COUNT / 4
    }
}

type Operation = fn(&mut Crowd<Verbatim>) -> u64;

/// Pings are first, while the timers are still spread evenly.
const OPERATIONS: [(&str, Operation); 5] = [
    ("ping", measured::ping),
    ("turn", measured::turn),
    ("message", measured::message),
    ("elsewhere", measured::elsewhere),
    ("join", measured::join),
];

/// Memory of this process in bytes: its resident pages, from proc(5).
fn resident_bytes() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("Linux");
    let pages: usize = statm.split(' ').nth(1).and_then(|pages| pages.parse().ok()).expect("the second number");
    pages * 4096
}

/// A server that has run for a while: every connection has answered a ping, and every lobby has had a message.
fn crowd_of(connections: usize) -> Crowd<Verbatim> {
    let mut crowd = Crowd::new(Verbatim::default(), connections / LOBBY, LOBBY);
    let step = crowd.engine.config().ping_interval * 50 / connections as u32;
    let (mut written, mut pings) = (ListWritten::default(), 0);
    while pings < connections as u64 {
        pings += crowd.answer_pings(step, &mut written);
    }
    let message = wire::text("first");
    for lobby in 0..connections / LOBBY {
        crowd.send(lobby * LOBBY, &message);
    }
    crowd
}

/// Runs an operation. Returns how many there were; checks that no connection was lost.
fn run(operation: Operation, crowd: &mut Crowd<Verbatim>) -> u64 {
    let before = crowd.engine.stats();
    let count = operation(black_box(crowd));
    let after = crowd.engine.stats();
    assert_eq!(after.total_connections, before.total_connections, "no connection was lost");
    assert_eq!(after.counters.closed_in_all(), after.counters.left, "only those that hung up were closed");
    count
}

/// Median time of an operation, in nanoseconds.
fn time(operation: Operation, crowd: &mut Crowd<Verbatim>) -> f64 {
    let mut times: Vec<f64> = (0..7)
        .map(|_| {
            let start = WallTime.start();
            let count = run(operation, crowd);
            WallTime.end(start).as_nanos() as f64 / count as f64
        })
        .collect();
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

fn table(sizes: &[usize]) {
    print!("{:>11} {:>10}", "connections", "bytes each");
    OPERATIONS.iter().for_each(|(name, _)| print!(" {:>18}", format!("{name}, ns")));
    println!();
    let mut first: Vec<f64> = Vec::new();
    for &size in sizes {
        let before = resident_bytes();
        let mut crowd = crowd_of(size);
        let bytes = resident_bytes().saturating_sub(before) / size;
        let times: Vec<f64> = OPERATIONS.iter().map(|&(_, operation)| time(operation, &mut crowd)).collect();
        if first.is_empty() {
            first.clone_from(&times);
        }
        print!("{size:>11} {bytes:>10}");
        times
            .iter()
            .zip(&first)
            .for_each(|(time, first)| print!(" {:>18}", format!("{time:.0} ({:.2})", time / first)));
        println!();
    }
}

fn main() {
    // Cargo adds `--bench`.
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    match arguments.first().map(|argument| (argument, argument.parse::<usize>())) {
        Some((_, Ok(connections))) => {
            let mut crowd = crowd_of(connections);
            OPERATIONS.iter().for_each(|&(name, operation)| println!("{name} {}", run(operation, &mut crowd)));
        }
        // Among the other benches, a short run for the assertions.
        Some((argument, _)) if argument == "--test" => table(&SIZES[..2]),
        _ => table(&SIZES),
    }
}
