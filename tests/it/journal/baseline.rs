//! Recorded sessions of real clients. A replay with this build must send the same bytes as the build that recorded them.
//!
//! A change of behaviour makes these tests fail. If the change is intended, record the sessions again with
//! `tests/clients/baseline.py`.

use std::fs;
use std::path::Path;

use lobbyd::apps::Relay;
use lobbyd::journal::{Replay, Step};

#[track_caller]
fn check(name: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/baseline").join(format!("{name}.journal"));
    let journal = fs::read(path).expect("the journal is part of the repository");
    let mut replay = Replay::open(&*journal, Relay::default(), true).expect("a journal");
    while replay.step().unwrap_or_else(|failure| panic!("{name}: {failure}")) != Step::End {}
    let summary = replay.summary();
    assert!(summary.confirmed > 0 && summary.torn.is_none() && !summary.is_open_ended, "{name}: {summary:?}");
}

#[test]
fn a_recorded_soak_is_replayed() {
    check("soak");
}

#[test]
fn a_recorded_session_with_ticks_is_replayed() {
    check("ticks");
}

#[test]
fn a_recorded_session_with_operators_is_replayed() {
    check("operators");
}

#[test]
fn a_recorded_flood_is_replayed() {
    check("floods");
}

/// Recorded before answers had a `Date`, while all bytes that are no request were refused alike, and an upgrade to an
/// unknown path got 404. The session consists of such requests, whole and in pieces.
#[test]
fn answers_of_the_first_edition_are_replayed() {
    check("requests");
}

/// A session of a build that judged `max_per_ip` before it asked the application, and counted closing connections.
#[test]
fn a_recorded_session_with_an_earlier_limit_of_addresses_is_replayed() {
    check("addresses");
}
