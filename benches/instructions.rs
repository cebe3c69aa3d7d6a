//! A fixed amount of work for an instruction counter, without a clock.
//!
//!     cargo bench --bench instructions --no-run        # says where the program is
//!     valgrind --tool=callgrind PROGRAM SCENARIO TURNS
//!
//! Instructions, unlike seconds, are the same on every run and next to every neighbour. What a turn costs is the
//! difference between two runs of different lengths, divided by the difference in turns.

use lobbyd::apps::{Relay, Verbatim};
use lobbyd::sim::wire;
use lobbyd::{App, Time};

mod common;

use common::{engine_with, flush};

/// `speakers` of the members of one lobby say `each` messages in every turn.
fn talk<A: App>(app: A, message: &[u8], lobbies: usize, size: usize, speakers: usize, each: usize, turns: usize) {
    let (mut engine, conns) = engine_with(app, lobbies, size);
    let said = message.repeat(each);
    let before = engine.stats().counters;
    for turn in 0..turns {
        let now = Time::from_micros(turn as u64 * 1000);
        for &speaker in &conns[..speakers] {
            engine.handle_bytes(now, speaker, &said);
        }
        flush(&mut engine);
    }
    let sent = engine.stats().counters.frames_out - before.frames_out;
    assert_eq!(sent, (turns * speakers * each * (size - 1)) as u64, "everybody got every message");
}

fn main() {
    // Cargo adds `--bench`.
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let (scenario, turns) = match &arguments[..] {
        [scenario, turns] => (scenario.as_str(), turns.parse().expect("a number of turns")),
        // Run with the other benches, it only shows that it works.
        _ => ("w1", 10),
    };
    let text = wire::text(&"x".repeat(64));
    let json = wire::text(&format!(r#"{{"type":"broadcast","data":"{}"}}"#, "x".repeat(64)));
    match scenario {
        "message-in" => talk(Verbatim::default(), &text, 1000, 1, 1, 1, turns),
        "w1" => talk(Verbatim::default(), &text, 1, 10, 1, 1, turns),
        "w4" => talk(Verbatim::default(), &text, 1, 10, 1, 4, turns),
        "all" => talk(Verbatim::default(), &text, 1, 8, 8, 1, turns),
        "big" => talk(Verbatim::default(), &text, 1, 1000, 1, 4, turns),
        "json" => talk(Relay::default(), &json, 1, 10, 1, 1, turns),
        other => panic!("no scenario {other}: message-in, w1, w4, all, big, json"),
    }
}
