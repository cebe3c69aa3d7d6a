//! Recorded inputs, and a replay that sends the same bytes.

use std::time::Duration;

use lobbyd::apps::Relay;
use lobbyd::journal;
use lobbyd::operator::OperatorCommand;
use lobbyd::{CloseReason, Config, Engine};

use super::site::{START, Site, replay, session};

#[test]
fn a_replay_sends_the_same_bytes() {
    let summary = replay(&session()).expect("nothing differs");
    assert_eq!((summary.turn, summary.is_open_ended, summary.torn, summary.omitted_reloads), (5, false, None, 1));
    let counters = &summary.stats.counters;
    assert_eq!((counters.accepted, counters.joined, counters.messages_in), (4, 2, 1));
    assert_eq!(counters.closed(CloseReason::ForbiddenOrigin), 1);
    assert_eq!(summary.span, Duration::from_millis(50));
}

/// If too many answers wait to be polled, a further ping is refused. Polling is not a command, so it is recorded separately.
#[test]
fn polling_an_operators_answer_is_recorded() {
    let mut site = Site::new(Config::default(), Relay::default());
    site.connect("/ws/chess?token=ann", &[]);
    site.turn();
    let ping = || OperatorCommand::Ping { user: "ann".into(), timeout: Duration::from_millis(10) };
    while site.engine.handle_operator(site.now, ping()).is_ok() {}
    (0..20).for_each(|_| site.turn());
    assert!(site.engine.handle_operator(site.now, ping()).is_err(), "no answer has been polled");
    while site.engine.poll_operator().is_some() {}
    assert!(site.engine.handle_operator(site.now, ping()).is_ok());
    site.turn();
    let stats = site.engine.stats();
    assert_eq!(replay(&site.journal()).expect("nothing differs").stats, stats);
}

#[test]
fn a_configuration_that_cannot_be_written_is_refused() {
    let config = Config { auth_timeout: Duration::from_nanos(10_000_001_234), ..Config::default() };
    let mut engine = Engine::new(config.check().expect("the configuration is valid"), START, Relay::default());
    let error = journal::record(&mut engine, START, Vec::new())
        .expect_err("the duration is not a whole number of milliseconds");
    assert!(error.to_string().contains("a part of a millisecond"), "{error}");
}

/// An input larger than the buffer is written whole, as one block.
#[test]
fn large_inputs_are_recorded_whole() {
    let mut site = Site::new(Config::default(), Relay::default());
    let ann = site.connect("/ws/a?token=ann", &[]);
    site.turn();
    for length in [200_000, 262_000, 262_144, 300_000, 1_000_000] {
        site.engine.handle_command(site.now, &vec![b'c'; length]);
        site.bytes(ann, &vec![0xff; length]);
        site.turn();
    }
    let stats = site.engine.stats();
    assert_eq!(replay(&site.journal()).expect("nothing differs").stats, stats);
}
