//! Damaged and malicious journals.

use lobbyd::apps::Relay;
use lobbyd::journal::{self, Fault, Replay, ReplayFailure, Step};

use super::site::{START, replay, session};
use crate::drivers::fuzzed::journal::{blocks_of, crc32, put_number, written};

/// Replays a journal and returns the fault, if any. A panic fails the test.
fn fault_of(journal: &[u8]) -> Option<Fault> {
    replay(journal).err().map(|failure| {
        assert!(!failure.to_string().is_empty());
        failure.fault
    })
}

#[test]
fn a_truncated_journal_is_replayed_up_to_the_cut() {
    let journal = session();
    let whole = replay(&journal).expect("nothing differs");
    let mut turns = 0;
    for end in 0..journal.len() {
        match replay(&journal[..end]) {
            Ok(summary) => {
                assert!(summary.turn >= turns, "cut at {end}");
                turns = summary.turn;
            }
            // Nothing can be replayed before the first block of the segment is complete.
            Err(ReplayFailure { fault: Fault::Empty, .. }) => assert_eq!(end, 0),
            Err(ReplayFailure { fault: Fault::Broken { .. }, summary: None, .. }) => assert_eq!(turns, 0),
            Err(failure) => panic!("cut at {end}: {failure}"),
        }
    }
    assert_eq!(turns, whole.turn);
}

#[test]
fn every_flipped_bit_is_detected() {
    let journal = session();
    for bit in 0..journal.len() * 8 {
        let mut broken = journal.clone();
        broken[bit / 8] ^= 1 << (bit % 8);
        match fault_of(&broken) {
            Some(Fault::NotAJournal | Fault::OtherVersion(_)) => assert!(bit / 8 < 17, "bit {bit}"),
            Some(Fault::Broken { .. }) => assert!(bit / 8 >= 17, "bit {bit}"),
            other => panic!("bit {bit}: {other:?}"),
        }
    }
}

#[test]
fn a_file_that_is_no_journal_is_reported_as_such() {
    let journal = session();
    assert!(matches!(fault_of(b""), Some(Fault::Empty)));
    assert!(matches!(fault_of(b"{}"), Some(Fault::NotAJournal)));
    assert!(matches!(fault_of(&[0; 100]), Some(Fault::NotAJournal)));
    assert!(matches!(fault_of(&journal[20..]), Some(Fault::NotAJournal)));
    for other in ["2", "9"] {
        let other_version = [format!("lobbyd journal {other}\n").as_bytes(), &journal[17..]].concat();
        let fault = fault_of(&other_version).expect("another version");
        assert!(matches!(&fault, Fault::OtherVersion(version) if version == other));
        let words = format!("it is written in version {other} of the format, and this build reads version 3");
        assert_eq!(fault.to_string(), words);
    }
    // Bytes behind the journal are not taken for a part of it.
    for more in [&b"more"[..], &[0; 64], &journal] {
        assert!(fault_of(&[&journal, more].concat()).is_none_or(|fault| matches!(fault, Fault::Broken { .. })));
    }
    assert!(matches!(fault_of(&[&journal[..], &journal].concat()), Some(Fault::Broken { .. })), "another session");
}

/// Of a block that declares a large length, only the bytes present are read.
#[test]
fn a_declared_length_allocates_no_memory() {
    let journal = session();
    for length in [u32::MAX, 64 << 20, (64 << 20) + 1] {
        // The check of the length is right, but no block of that length follows.
        let check = crc32(0, &length.to_le_bytes());
        let claimed =
            [&b"lobbyd journal 3\n"[..], &length.to_le_bytes(), &check.to_le_bytes(), &[0; 4], &journal[29..]];
        assert!(matches!(fault_of(&claimed.concat()), Some(Fault::Broken { .. })), "{length}");
    }
}

/// A journal with correct checks and invalid entries. Only a faulty build writes one, but it must not cause a panic.
#[test]
fn invalid_entries_give_a_fault_and_never_panic() {
    let journal = session();
    let blocks = blocks_of(&journal);
    assert!(blocks.len() > 5);
    let mut faults = 0;
    for block in 1..blocks.len() {
        for at in 0..blocks[block].len() {
            for byte in [0, 1, 0x7f, 0x80, 0xff, blocks[block][at] ^ 1, blocks[block][at].wrapping_add(1)] {
                let mut blocks = blocks.clone();
                blocks[block][at] = byte;
                match fault_of(&written(&blocks)) {
                    None => {}
                    Some(Fault::Broken { .. } | Fault::Diverged(_) | Fault::Closure) => faults += 1,
                    Some(other) => panic!("byte {at} of block {block}: {other}"),
                }
            }
        }
    }
    assert!(faults > 1000, "{faults}");
}

/// The first block of a segment. `numbers` are session, number, check, wall time, seed and turn.
fn first_block(numbers: [u64; 6], build: &str, config: &str, start: &[u8]) -> Vec<u8> {
    let mut block = vec![1];
    numbers.iter().for_each(|&number| put_number(&mut block, number));
    for text in [build, "an application", config] {
        put_number(&mut block, text.len() as u64);
        block.extend_from_slice(text.as_bytes());
    }
    block.extend_from_slice(start);
    block
}

/// This includes numbers far out of range and configurations that the server refuses.
#[test]
fn an_invalid_first_block_is_refused() {
    #[track_caller]
    fn check(numbers: [u64; 6], config: &str, start: &[u8], entries: &[u8]) {
        let blocks = [first_block(numbers, journal::BUILD, config, start), entries.to_vec()];
        let fault = fault_of(&written(&blocks));
        assert!(matches!(fault, Some(Fault::Broken { .. })), "{config}: {fault:?}");
    }
    const TIMEOUT: u8 = 13;
    let numbers = [1, 1, 0, START.unix_micros, 1, 0];
    let none = &[0];
    for config in ["wheel_granule=2s", "tick_hz=1001", "max_message_bytes=1", "max_headers=0"] {
        let fault = fault_of(&written(&[first_block(numbers, journal::BUILD, config, none), vec![TIMEOUT]]));
        assert!(matches!(fault, Some(Fault::Config(_))), "{config}: {fault:?}");
    }
    let most = u64::MAX;
    check([1, most, 0, 0, 1, 0], "", none, &[TIMEOUT]);
    check([1, 1, 0, most, 1, 0], "", none, &[2, 1, TIMEOUT]);
    check([1, 1, 0, 0, 1, most], "", none, &[24, 29]);
    let mut late = vec![2];
    put_number(&mut late, most);
    check(numbers, "", none, &[&*late, &[TIMEOUT]].concat());
    late = vec![2];
    put_number(&mut late, 1 << 62);
    check(numbers, "", none, &[&*late, &[TIMEOUT], &late, &[TIMEOUT]].concat());

    // A start state with one number too large.
    let ahead = [5_000_000, 1_000_000, 500, 3, 9, 2, 1, 1, 2, 3, 4, 0, 0];
    let ticks = [300, 0, 0, 1, 0, 0, 300, 0, 0, 0, 0, 0];
    let entries = [2, 0x80, 0x80, 4, TIMEOUT];
    let first_counter = ahead.len() + 1;
    for wrong in
        [0, 1, 2, 3, 4, 5, 6, 11, 12, 13, first_counter, first_counter + COUNTERS - 1, first_counter + COUNTERS]
    {
        let start = start_block(ahead, &ticks, &[], Some((wrong, most)));
        check(numbers, "tick_hz=60", &start, &entries);
    }
    // Start states that are valid in themselves: a repeated user, more users than are remembered, a wheel ahead of time.
    for (config, users) in
        [("max_remembered_rates=1", &["ann", "ann", "bob"][..]), ("wheel_granule=100ms", &["", "ann"])]
    {
        let start = start_block([7, 0, 1 << 61, 3, 9, 2, 1, 0, 0, 0, 0, 1, 1 << 62], &[], users, None);
        let blocks = [first_block(numbers, journal::BUILD, config, &start), entries.to_vec()];
        assert!(fault_of(&written(&blocks)).is_none(), "{config}");
    }
}

/// Number of counters of an engine.
const COUNTERS: usize = lobbyd::CloseReason::ALL.len() + lobbyd::Reject::ALL.len() + 21;

/// The start state of a segment without connections. The numbers `ahead` precede the counters. One number can be `wrong`.
fn start_block(ahead: [u64; 13], ticks: &[u64], users: &[&str], wrong: Option<(usize, u64)>) -> Vec<u8> {
    let mut start = vec![1];
    let counters = std::iter::once(COUNTERS as u64).chain(vec![0; COUNTERS]);
    let numbers = ahead.into_iter().chain(counters).chain([ticks.len() as u64]).chain(ticks.iter().copied());
    for (at, number) in numbers.enumerate() {
        put_number(&mut start, wrong.filter(|(wrong, _)| *wrong == at).map_or(number, |(_, number)| number));
    }
    put_number(&mut start, users.len() as u64);
    for user in users {
        put_number(&mut start, user.len() as u64);
        start.extend_from_slice(user.as_bytes());
        put_number(&mut start, u64::MAX);
        put_number(&mut start, 1);
    }
    put_number(&mut start, 1);
    start.extend_from_slice(&[4, 127, 0, 0, 1]);
    put_number(&mut start, u64::MAX);
    // The application's own state, empty.
    put_number(&mut start, 0);
    start
}

/// A clock near its maximum is resumed.
#[test]
fn a_clock_at_its_maximum_does_not_panic() {
    const MOST: u64 = 1 << 62;
    // The clock: the last tick, a reference time and the clock's value then, slowdown, paused, and one pending step; then
    // counters.
    let clock = [MOST, 0, 0, 1, 1, 1, MOST, 0, 0, 0];
    let start = start_block([0, 0, 0, 3, 9, 2, 1, 1, 2, 3, 4, 0, 0], &clock, &[], None);
    let resume = [18, 3, 7, 1, 0];
    let entries = [&[13][..], &resume, &[2, 1, 13]].concat();
    let blocks = [first_block([1, 1, 0, 0, 1, 0], journal::BUILD, "tick_hz=1", &start), entries];
    assert!(fault_of(&written(&blocks)).is_none_or(|fault| matches!(fault, Fault::Broken { .. })));
}

/// This covers characters that reverse or hide the rest of the line.
#[test]
fn journal_text_cannot_reorder_a_line() {
    for c in ['\u{202e}', '\u{2066}', '\u{200b}', '\u{2028}'] {
        let build = first_block([1, 1, 0, 0, 1, 0], &format!("1{c}2"), "", &[0]);
        let shown = replay(&written(&[build])).expect_err("another build").to_string();
        assert!(!shown.contains(c), "{shown:?}");
    }
}

/// Printed text may reach a terminal.
#[test]
fn journal_text_is_shown_without_control_characters() {
    let build = first_block([1, 1, 0, 0, 1, 0], "\x1b[2J", "", &[0]);
    let shown = replay(&written(&[build])).expect_err("another build").to_string();
    assert!(shown.contains("\\u{1b}[2J"), "{shown}");
    let shown = replay(b"lobbyd journal \x1b\n").expect_err("another version").to_string();
    assert!(shown.contains("\\u{1b}"), "{shown}");

    let mut blocks = blocks_of(&session());
    let code = b"chess";
    let answered = blocks[1].windows(code.len()).position(|window| window == code).expect("a request names the lobby");
    blocks[1][answered] = 0x1b;
    let journal = written(&blocks);
    let mut replay = Replay::open(&*journal, Relay::default(), false).expect("the first block is complete");
    replay.trace_events();
    while !matches!(replay.step(), Err(_) | Ok(Step::End)) {}
    let shown: Vec<String> = replay.events().iter().map(ToString::to_string).collect();
    assert!(shown.iter().any(|line| line.contains("asks for lobby \\u{1b}hess")), "{shown:?}");
    assert!(!shown.concat().contains(char::is_control), "{shown:?}");
}

#[test]
fn another_build_is_named_and_can_be_allowed() {
    let mut blocks = blocks_of(&session());
    assert_eq!(written(&blocks), session(), "the test writes the journal's format");
    let at = blocks[0].windows(journal::BUILD.len()).position(|window| window == journal::BUILD.as_bytes());
    blocks[0][at.expect("the block names its build")] ^= 1;
    let other = written(&blocks);
    assert!(matches!(fault_of(&other), Some(Fault::OtherBuild(build)) if build != journal::BUILD));
    assert!(Replay::open(&*other, Relay::default(), true).is_ok());
}
