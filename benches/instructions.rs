//! A fixed amount of work, for counting instructions. Uses no clock.
//!
//!     benches/instructions.sh            # counts and compares with benches/instructions.txt
//!     benches/instructions.sh --bless    # counts and writes that file
//!
//! Unlike seconds, instruction counts are nearly the same on every run and beside any other load: only the random keys of the
//! hash maps differ. The cost of a turn is the difference between two runs of different lengths, divided by the difference
//! in turns, so that the setup is not counted.
//!
//! With a scenario and a number of turns as arguments, the program prints the number of deliveries. With `--list` it prints
//! the scenarios, each with a number of turns that is enough for counting.

use std::time::Duration;

use lobbyd::apps::{Relay, Verbatim};
use lobbyd::config::Flush;
use lobbyd::journal::{Sink, record};
use lobbyd::sim::wire;
use lobbyd::{App, Config, Engine};

mod common;

use common::{Crowd, ListWritten};

/// One kind of work, for any number of turns.
struct Scenario {
    name: &'static str,
    /// Enough turns that variations of the setup are small beside them.
    turns: usize,
    /// Runs this number of turns. Returns the number of deliveries.
    run: fn(usize) -> u64,
}

const SCENARIOS: &[Scenario] = &[
    // Turns without events.
    Scenario { name: "turn", turns: 20_000, run: |turns| idle(1000, turns) },
    // A message without receivers.
    Scenario {
        name: "message-in",
        turns: 10_000,
        run: |turns| talk(Verbatim::default(), &text(), [1000, 1], 1, 1, turns),
    },
    // A lobby of 10; one member sends one message a turn, or four.
    Scenario { name: "w1", turns: 2_000, run: |turns| talk(Verbatim::default(), &text(), [1, 10], 1, 1, turns) },
    Scenario { name: "w4", turns: 1_000, run: |turns| talk(Verbatim::default(), &text(), [1, 10], 1, 4, turns) },
    // A lobby of 8; every member sends.
    Scenario { name: "all", turns: 1_000, run: |turns| talk(Verbatim::default(), &text(), [1, 8], 8, 1, turns) },
    // A lobby of 1,000; one member sends.
    Scenario { name: "big", turns: 50, run: |turns| talk(Verbatim::default(), &text(), [1, 1000], 1, 4, turns) },
    // The same as w1 in the JSON protocol.
    Scenario { name: "json", turns: 1_000, run: |turns| talk(Relay::default(), &json(), [1, 10], 1, 1, turns) },
    // The same with a session for each member, in a lobby whose history is full.
    Scenario { name: "json-session", turns: 1_000, run: with_sessions },
    // A JSON broadcast to the 999 other members of a lobby.
    Scenario { name: "json-999", turns: 50, run: |turns| talk(Relay::default(), &json(), [1, 1000], 1, 1, turns) },
    // A direct message in JSON, to one member of a lobby of 10: through its outbox.
    Scenario { name: "direct", turns: 1_000, run: direct },
    // A tick at 60 Hz in which each of 8 members sends; all output is flushed at the tick.
    Scenario { name: "tick-flush", turns: 500, run: |turns| ticks(turns) },
    // The same as all, with a journal whose bytes are discarded.
    Scenario { name: "journal", turns: 500, run: |turns| recorded(turns) },
    // One lobby of 8, alone and beside 2,499 others: must cost the same.
    Scenario { name: "alone", turns: 2_000, run: |turns| talk(Verbatim::default(), &text(), [1, 8], 1, 1, turns) },
    Scenario { name: "crowd", turns: 10_000, run: |turns| talk(Verbatim::default(), &text(), [2500, 8], 1, 1, turns) },
    // A connection joins and leaves.
    Scenario { name: "join", turns: 500, run: join },
    // The deliveries are pings to idle members, which answer them.
    Scenario { name: "ping", turns: 200, run: |turns| ping(1000, turns) },
];

fn text() -> Vec<u8> {
    wire::text(&"x".repeat(64))
}

fn json() -> Vec<u8> {
    wire::text(&format!(r#"{{"type":"broadcast","data":"{}"}}"#, "x".repeat(64)))
}

/// In every turn, `senders` members of one lobby send `each` messages; the next turn is in another lobby.
fn talk<A: App>(app: A, message: &[u8], [lobbies, size]: [usize; 2], senders: usize, each: usize, turns: usize) -> u64 {
    talk_in(&mut Crowd::new(app, lobbies, size), message, [lobbies, size], senders, each, turns)
}

fn with_sessions(turns: usize) -> u64 {
    let query = |user| format!("&session=session-of-user-{user}");
    let mut crowd = Crowd::with_query(Relay::default(), 1, 10, |_| {}, |_| {}, query);
    talk_in(&mut crowd, &json(), [1, 10], 1, 1, 300);
    talk_in(&mut crowd, &json(), [1, 10], 1, 1, turns)
}

fn talk_in<A: App>(
    crowd: &mut Crowd<A>,
    message: &[u8],
    [lobbies, size]: [usize; 2],
    senders: usize,
    each: usize,
    turns: usize,
) -> u64 {
    let sent_bytes = message.repeat(each);
    let before = crowd.engine.stats().counters;
    for turn in 0..turns {
        // Multiplied by a prime, so that every lobby is used.
        let lobby = turn * 7919 % lobbies;
        for &sender in &crowd.conns[lobby * size..][..senders] {
            crowd.engine.handle_bytes(crowd.now, sender, &sent_bytes);
        }
        crowd.flush();
    }
    let after = crowd.engine.stats().counters;
    assert_eq!(after.messages_in - before.messages_in, (turns * senders * each) as u64, "every message was accepted");
    let sent = after.frames_out - before.frames_out;
    assert_eq!(sent, (turns * senders * each * (size - 1)) as u64, "every member got every message");
    sent
}

fn direct(turns: usize) -> u64 {
    let mut crowd = Crowd::new(Relay::default(), 1, 10);
    let message = wire::text(&format!(r#"{{"type":"direct","to":"u0-1","data":"{}"}}"#, "x".repeat(64)));
    let before = crowd.engine.stats().counters;
    for _ in 0..turns {
        crowd.send(0, &message);
    }
    let after = crowd.engine.stats().counters;
    assert_eq!(
        after.frames_out - before.frames_out,
        turns as u64,
        "its receiver got every message, and nobody an answer"
    );
    turns as u64
}

/// Every member of a lobby of 8 sends once before each tick, and all output is written at the tick.
fn ticks(turns: usize) -> u64 {
    let configure = |config: &mut Config| (config.tick_hz, config.flush) = (Some(60), Flush::Tick);
    let mut crowd = Crowd::with(Verbatim::default(), 1, 8, configure, |_| {});
    let sent_bytes = text();
    crowd.end_turn();
    let before = crowd.engine.stats().counters;
    for _ in 0..turns {
        for &sender in &crowd.conns {
            crowd.engine.handle_bytes(crowd.now, sender, &sent_bytes);
        }
        crowd.flush();
        crowd.now = crowd.engine.poll_timeout().expect("the clock runs");
        crowd.end_turn();
    }
    let after = crowd.engine.stats().counters;
    // There are no pings of idle members, because every member sends.
    assert_eq!(after.frames_out - before.frames_out, (turns * 8 * 7) as u64, "every member got every message");
    after.frames_out - before.frames_out
}

/// Discards the journal.
struct DiscardSink;

impl Sink for DiscardSink {
    fn begin(&mut self, _: u64) -> std::io::Result<()> {
        Ok(())
    }

    fn write(&mut self, _: &[u8], _: &[u8]) -> std::io::Result<()> {
        Ok(())
    }
}

fn recorded(turns: usize) -> u64 {
    let prepare =
        |engine: &mut Engine<Verbatim>| record(engine, common::START, DiscardSink).expect("the sink takes all bytes");
    let mut crowd = Crowd::with(Verbatim::default(), 1, 8, |_| {}, prepare);
    let sent_bytes = text();
    let before = crowd.engine.stats().counters;
    for _ in 0..turns {
        for &sender in &crowd.conns {
            crowd.engine.handle_bytes(crowd.now, sender, &sent_bytes);
        }
        crowd.flush();
    }
    let after = crowd.engine.stats().counters;
    assert_eq!(after.frames_out - before.frames_out, (turns * 8 * 7) as u64, "every member got every message");
    assert!(crowd.engine.recording().is_some_and(|recording| !recording.has_failed));
    after.frames_out - before.frames_out
}

fn idle(lobbies: usize, turns: usize) -> u64 {
    let mut crowd = Crowd::new(Verbatim::default(), lobbies, 8);
    // Handles the timers that became due during the setup.
    crowd.end_turn();
    let before = crowd.engine.stats();
    for _ in 0..turns {
        crowd.end_turn_at_once();
    }
    assert_eq!(crowd.engine.stats(), before, "the turns did nothing");
    0
}

fn join(turns: usize) -> u64 {
    let mut crowd = Crowd::new(Verbatim::default(), 125, 8);
    let request = wire::upgrade_request("/ws/l0?token=one-more", &[]);
    let before = crowd.engine.stats().counters;
    for _ in 0..turns {
        crowd.join_and_leave(&request);
    }
    let after = crowd.engine.stats().counters;
    assert_eq!(
        (after.joined - before.joined, after.left),
        (turns as u64, turns as u64),
        "every connection joined and left"
    );
    0
}

fn ping(members: usize, turns: usize) -> u64 {
    let mut crowd = Crowd::new(Verbatim::default(), members / 8, 8);
    let mut written = ListWritten::default();
    for _ in 0..turns {
        crowd.answer_pings(Duration::from_secs(1), &mut written);
    }
    let (stats, conns) = (crowd.engine.stats(), &crowd.conns);
    assert_eq!(stats.total_connections, conns.len(), "every member answered");
    // Every member is idle for 20 seconds at a time; with the granularity of the wheel that may be 21 turns of a second.
    let rounds = (turns / 21) as u64..=(turns / 20 + 1) as u64;
    assert!(rounds.contains(&(stats.counters.pings / conns.len() as u64)), "all members are pinged");
    stats.counters.pings
}

fn main() {
    // Cargo adds `--bench`.
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["--list"] => SCENARIOS.iter().for_each(|scenario| println!("{} {}", scenario.name, scenario.turns)),
        [name, turns] => {
            let scenario = SCENARIOS.iter().find(|scenario| scenario.name == name).expect("a scenario from --list");
            println!("{}", (scenario.run)(turns.parse().expect("a number of turns")));
        }
        // Among the other benches: a short run of each scenario, for its assertions.
        _ => {
            for scenario in SCENARIOS {
                (scenario.run)(20);
            }
        }
    }
}
