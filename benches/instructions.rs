//! A fixed amount of work for an instruction counter, without a clock.
//!
//!     benches/instructions.sh            # counts, and compares with benches/instructions.txt
//!     benches/instructions.sh --bless    # counts, and writes it
//!
//! Instructions, unlike seconds, are nearly the same on every run and next to every neighbour: only the secret keys of the
//! hash maps differ. What a turn costs is the difference between two runs of different lengths, divided by the difference
//! in turns, so that coming together costs nothing.
//!
//! Run with a scenario and a number of turns, the program says how many deliveries those were; with `--list`, what
//! scenarios there are, each with the turns that make it long enough to be counted.

use std::time::Duration;

use lobbyd::apps::{Relay, Verbatim};
use lobbyd::journal::{Sink, record};
use lobbyd::sim::wire::{self, Opcode};
use lobbyd::{App, Config, Engine, Flush};

mod common;

use common::Crowd;

/// One kind of work, in any number of turns.
struct Scenario {
    name: &'static str,
    /// As many as make it long beside what the coming together of its crowd varies by.
    turns: usize,
    /// Does so many turns. Returns the deliveries they led to.
    run: fn(usize) -> u64,
}

const SCENARIOS: &[Scenario] = &[
    // Nothing happens.
    Scenario { name: "turn", turns: 20_000, run: |turns| idle(1000, turns) },
    // A message that nobody else hears.
    Scenario {
        name: "message-in",
        turns: 10_000,
        run: |turns| talk(Verbatim::default(), &text(), [1000, 1], 1, 1, turns),
    },
    // A lobby of 10; one speaks, one message a turn and four.
    Scenario { name: "w1", turns: 2_000, run: |turns| talk(Verbatim::default(), &text(), [1, 10], 1, 1, turns) },
    Scenario { name: "w4", turns: 1_000, run: |turns| talk(Verbatim::default(), &text(), [1, 10], 1, 4, turns) },
    // A lobby of 8; everybody speaks.
    Scenario { name: "all", turns: 1_000, run: |turns| talk(Verbatim::default(), &text(), [1, 8], 8, 1, turns) },
    // A lobby of 1,000; one speaks.
    Scenario { name: "big", turns: 50, run: |turns| talk(Verbatim::default(), &text(), [1, 1000], 1, 4, turns) },
    // The same as w1 in the JSON protocol.
    Scenario { name: "json", turns: 1_000, run: |turns| talk(Relay::default(), &json(), [1, 10], 1, 1, turns) },
    // A JSON broadcast to the 999 other members of a lobby.
    Scenario { name: "json-999", turns: 50, run: |turns| talk(Relay::default(), &json(), [1, 1000], 1, 1, turns) },
    // A tick at 60 Hz in which each of 8 members speaks, with everything flushed at the tick.
    Scenario { name: "tick-flush", turns: 500, run: |turns| ticks(turns) },
    // The same as all, with a journal in memory that is thrown away.
    Scenario { name: "journal", turns: 500, run: |turns| recorded(turns) },
    // One lobby of 8, alone and beside 2,499 others: the same.
    Scenario { name: "alone", turns: 2_000, run: |turns| talk(Verbatim::default(), &text(), [1, 8], 1, 1, turns) },
    Scenario { name: "crowd", turns: 10_000, run: |turns| talk(Verbatim::default(), &text(), [2500, 8], 1, 1, turns) },
    // A connection comes and goes.
    Scenario { name: "join", turns: 500, run: join },
    // The deliveries are pings to members who have long been silent, and who answer.
    Scenario { name: "ping", turns: 200, run: |turns| ping(1000, turns) },
];

fn text() -> Vec<u8> {
    wire::text(&"x".repeat(64))
}

fn json() -> Vec<u8> {
    wire::text(&format!(r#"{{"type":"broadcast","data":"{}"}}"#, "x".repeat(64)))
}

/// `speakers` of the members of one lobby say `each` messages in every turn, and every turn it is another lobby.
fn talk<A: App>(
    app: A,
    message: &[u8],
    [lobbies, size]: [usize; 2],
    speakers: usize,
    each: usize,
    turns: usize,
) -> u64 {
    let mut crowd = Crowd::new(app, lobbies, size);
    let said = message.repeat(each);
    let before = crowd.engine.stats().counters;
    for turn in 0..turns {
        // Times a prime, so that all lobbies have their turn.
        let lobby = turn * 7919 % lobbies;
        for &speaker in &crowd.conns[lobby * size..][..speakers] {
            crowd.engine.handle_bytes(crowd.now, speaker, &said);
        }
        crowd.end_turn();
    }
    let after = crowd.engine.stats().counters;
    assert_eq!(after.messages_in - before.messages_in, (turns * speakers * each) as u64, "every message was taken");
    let sent = after.frames_out - before.frames_out;
    assert_eq!(sent, (turns * speakers * each * (size - 1)) as u64, "everybody got every message");
    sent
}

/// Everybody in a lobby of 8 speaks once before each tick, and everything goes out at the tick.
fn ticks(turns: usize) -> u64 {
    let configure = |config: &mut Config| (config.tick_hz, config.flush) = (Some(60), Flush::Tick);
    let mut crowd = Crowd::with(Verbatim::default(), 1, 8, configure, |_| {});
    let said = text();
    crowd.engine.handle_timeout(crowd.now);
    crowd.end_turn();
    let before = crowd.engine.stats().counters;
    for _ in 0..turns {
        for &speaker in &crowd.conns {
            crowd.engine.handle_bytes(crowd.now, speaker, &said);
        }
        crowd.end_turn();
        crowd.now = crowd.engine.poll_timeout().expect("the clock runs");
        crowd.engine.handle_timeout(crowd.now);
        crowd.end_turn();
    }
    let after = crowd.engine.stats().counters;
    // Pings of silent members do not come: everybody speaks.
    assert_eq!(after.frames_out - before.frames_out, (turns * 8 * 7) as u64, "everybody got every message");
    after.frames_out - before.frames_out
}

/// Everything that is recorded goes nowhere.
struct Nowhere;

impl Sink for Nowhere {
    fn begin(&mut self, _: u64) -> std::io::Result<()> {
        Ok(())
    }

    fn write(&mut self, _: &[u8], _: &[u8]) -> std::io::Result<()> {
        Ok(())
    }
}

fn recorded(turns: usize) -> u64 {
    let prepare = |engine: &mut Engine<Verbatim>| record(engine, common::START, Nowhere).expect("it takes everything");
    let mut crowd = Crowd::with(Verbatim::default(), 1, 8, |_| {}, prepare);
    let said = text();
    let before = crowd.engine.stats().counters;
    for _ in 0..turns {
        for &speaker in &crowd.conns {
            crowd.engine.handle_bytes(crowd.now, speaker, &said);
        }
        crowd.end_turn();
    }
    let after = crowd.engine.stats().counters;
    assert_eq!(after.frames_out - before.frames_out, (turns * 8 * 7) as u64, "everybody got every message");
    assert!(crowd.engine.recording().is_some_and(|recording| !recording.has_failed));
    after.frames_out - before.frames_out
}

fn idle(lobbies: usize, turns: usize) -> u64 {
    let mut crowd = Crowd::new(Verbatim::default(), lobbies, 8);
    let now = crowd.now;
    // What has become due while they came together.
    crowd.engine.handle_timeout(now);
    crowd.end_turn();
    let before = crowd.engine.stats();
    for _ in 0..turns {
        crowd.engine.handle_timeout(now);
        crowd.end_turn();
    }
    assert_eq!(crowd.engine.stats(), before, "nothing happened");
    0
}

fn join(turns: usize) -> u64 {
    let mut crowd = Crowd::new(Verbatim::default(), 125, 8);
    let request = wire::upgrade_request("/ws/l0?token=one-more", &[]);
    let before = crowd.engine.stats().counters;
    for _ in 0..turns {
        let conn = crowd.connect(&request);
        crowd.end_turn();
        crowd.engine.handle_hangup(crowd.now, conn);
        crowd.end_turn();
    }
    let after = crowd.engine.stats().counters;
    assert_eq!((after.joined - before.joined, after.left), (turns as u64, turns as u64), "everybody came and left");
    0
}

fn ping(members: usize, turns: usize) -> u64 {
    let Crowd { mut engine, conns, mut now } = Crowd::new(Verbatim::default(), members / 8, 8);
    let pong = wire::frame(Opcode::PONG, true, b"", [1, 2, 3, 4]);
    let mut pinged = Vec::new();
    for _ in 0..turns {
        now = now + Duration::from_secs(1);
        engine.handle_timeout(now);
        while let Some(conn) = engine.poll_writable() {
            engine.write_to(conn, &mut std::io::sink()).expect("nothing takes everything");
            pinged.push(conn);
        }
        for conn in pinged.drain(..) {
            engine.handle_bytes(now, conn, &pong);
        }
    }
    let stats = engine.stats();
    assert_eq!(stats.total_connections, conns.len(), "everybody answered");
    // Everybody is silent for 20 seconds at a time, of which the wheel may make 21 turns of a second.
    let rounds = (turns / 21) as u64..=(turns / 20 + 1) as u64;
    assert!(rounds.contains(&(stats.counters.pings / conns.len() as u64)), "all are pinged");
    stats.counters.pings
}

fn main() {
    // Cargo adds `--bench`.
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["--list"] => SCENARIOS.iter().for_each(|scenario| println!("{} {}", scenario.name, scenario.turns)),
        [name, turns] => {
            let scenario = SCENARIOS.iter().find(|scenario| scenario.name == name).expect("one of those listed");
            println!("{}", (scenario.run)(turns.parse().expect("a number of turns")));
        }
        // Run with the other benches, it only shows that it works.
        _ => {
            for scenario in SCENARIOS {
                (scenario.run)(20);
            }
        }
    }
}
