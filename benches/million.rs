//! What a connection costs in memory, with up to 1,000,000 in lobbies of 8, without sockets.
//!
//!     cargo bench --bench million      # bytes for each connection; half a minute, 0.6 GB
//!     benches/million.sh               # instructions and cache misses of the operations below, relative to 1,000
//!
//! - `turn`: a turn without events;
//! - `message`: one message arrives and goes to the 7 others of its lobby; always the same lobby;
//! - `elsewhere`: the same, in another lobby every time;
//! - `ping`: one ping of an idle connection: its timer, the ping and the answer, and the timer that finds it alive;
//! - `join`: a connection is accepted, upgraded, seated in a lobby of 8, and hangs up.
//!
//! With a number of connections as argument, the program runs each operation and prints how often, for the script. The time
//! that they take is measured by `crowd` in `engine.rs`.

use std::hint::black_box;

use lobbyd::apps::Verbatim;

mod common;

use common::Crowd;

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
        let step = crowd.ping_step();
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

fn crowd_of(connections: usize) -> Crowd<Verbatim> {
    let mut crowd = Crowd::new(Verbatim::default(), connections / LOBBY, LOBBY);
    crowd.settle(LOBBY);
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

/// Prints the bytes for each connection, and runs the operations for their assertions.
fn measure(size: usize) {
    let before = resident_bytes();
    let mut crowd = crowd_of(size);
    let bytes = resident_bytes().saturating_sub(before) / size;
    println!("{size:>9} connections: {bytes} bytes each");
    for (_, operation) in OPERATIONS {
        run(operation, &mut crowd);
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
        Some((argument, _)) if argument == "--test" => SIZES[..2].iter().for_each(|&size| measure(size)),
        _ => SIZES.iter().for_each(|&size| measure(size)),
    }
}
