//! The contract between an engine and a driver of one's own: see the documentation of `Engine`.

use std::io::{self, ErrorKind};

use lobbyd::apps::Verbatim;
use lobbyd::config::{ByteSize, OnJournalError};
use lobbyd::driver::{Flow, Start};
use lobbyd::journal::{self, RotateHint, Sink};
use lobbyd::sim::{MemorySockets, wire};
use lobbyd::{CloseReason, Config, ConnId, Engine, Time};

use crate::common::segments::Segments;

const START: Start = Start { unix_micros: 1_700_000_000_000_000, seed: 1 };

fn engine(config: Config) -> Engine<Verbatim> {
    Engine::new(config.check().expect("the configuration is valid"), START, Verbatim::default())
}

fn join(engine: &mut Engine<Verbatim>, user: &str) -> ConnId {
    let conn = engine.handle_accept(Time::ZERO, "127.0.0.1:4000".parse().unwrap()).expect("there is room");
    engine.handle_bytes(Time::ZERO, conn, &wire::upgrade_request(&format!("/ws/a?token={user}"), &[]));
    conn
}

#[test]
fn output_waits_for_a_socket_that_the_driver_does_not_have_yet_and_a_replay_agrees() {
    let mut engine = engine(Config::default());
    journal::record(&mut engine, START, Vec::new()).expect("a vector takes all bytes");
    let conn = join(&mut engine, "ann");
    let mut sockets = MemorySockets::default();
    sockets.remove(conn);
    engine.end_turn(Time::ZERO, &mut sockets).expect("the journal is in memory");
    assert!(sockets.written(conn).is_empty());
    sockets.limit(conn, usize::MAX);
    engine.end_turn(Time::ZERO, &mut sockets).expect("the journal is in memory");
    assert!(sockets.written(conn).is_empty(), "the engine has not been told that there is a socket now");
    engine.handle_writable(Time::ZERO, conn);
    engine.end_turn(Time::ZERO, &mut sockets).expect("the journal is in memory");
    assert!(sockets.written(conn).starts_with(b"HTTP/1.1 101 "));
    let written: Vec<u8> = journal::finish(&mut engine).expect("the session was recorded");
    let summary = journal::replay(&*written, Verbatim::default()).expect("the journal can be replayed");
    assert_eq!(summary.stats, engine.stats());
}

fn of_a_thousand_bytes(segment: &[u8]) -> RotateHint {
    if segment.len() < 1000 { RotateHint::Continue } else { RotateHint::Now }
}

#[test]
fn a_driver_rotates_journals_and_counts_shed_sockets_by_the_public_contract() {
    let mut engine = engine(Config::default());
    journal::record(&mut engine, START, Segments::new(of_a_thousand_bytes)).expect("memory takes all bytes");
    let mut sockets = MemorySockets::default();
    let conn = join(&mut engine, "ann");
    for _ in 0..20 {
        engine.handle_bytes(Time::ZERO, conn, &wire::text(&"x".repeat(200)));
        engine.handle_shed(Time::ZERO);
        engine.end_turn(Time::ZERO, &mut sockets).expect("memory takes all bytes");
    }
    assert_eq!(engine.stats().counters.shed, 20);
    let Segments { segments, .. } = journal::finish(&mut engine).expect("the session was recorded");
    assert!(segments.len() > 3, "{} segments", segments.len());
    let summary = journal::replay(&*segments.concat(), Verbatim::default()).expect("the journal can be replayed");
    assert_eq!((summary.segments, summary.stats), (segments.len() as u64, engine.stats()));
}

/// While a turn reads, output above the watermark is written before the next read, so that a member that reads is not
/// closed as too slow.
#[test]
fn a_flush_between_two_reads_makes_room() {
    let small =
        Config { outbound_high_mark: ByteSize::kib(2), outbound_low_mark: ByteSize::kib(1), ..Config::default() };
    let mut engine =
        engine(Config { max_outbound_bytes: ByteSize::kib(80), history_bytes: ByteSize::kib(16), ..small });
    let (ann, bob) = (join(&mut engine, "ann"), join(&mut engine, "bob"));
    let mut sockets = MemorySockets::default();
    let (mut flushes, mut received) = (0, 0);
    for _ in 0..100 {
        engine.handle_bytes(Time::ZERO, ann, &wire::text(&"x".repeat(1000)));
        if engine.wants_flush() {
            flushes += 1;
            engine.flush(&mut sockets).expect("nothing is recorded");
            received += sockets.take_writes().iter().filter(|write| write.conn == bob).count();
        }
    }
    assert!(flushes > 10 && received > 10, "{flushes} flushes, {received} writes to bob");
    assert_eq!(engine.ending(bob), None);
}

/// Takes the first bytes only.
struct FullDisk(usize);

impl Sink for FullDisk {
    fn begin(&mut self, _: u64) -> io::Result<()> {
        Ok(())
    }

    fn write(&mut self, block: &[u8], rest: &[u8]) -> io::Result<()> {
        let length = block.len() + rest.len();
        self.0 = self.0.checked_sub(length).ok_or(ErrorKind::StorageFull)?;
        Ok(())
    }
}

#[test]
fn errors_of_sockets_and_of_the_journal_are_told_apart() {
    let mut engine = engine(Config { journal_on_error: OnJournalError::Stop, ..Config::default() });
    journal::record(&mut engine, START, FullDisk(10_000)).expect("the disk takes the beginning");
    let (ann, bob) = (join(&mut engine, "ann"), join(&mut engine, "bob"));
    let mut sockets = MemorySockets::default();
    sockets.fail(ann, ErrorKind::BrokenPipe);
    engine.end_turn(Time::ZERO, &mut sockets).expect("an error of a socket is none of the journal");
    assert_eq!(sockets.take_closed(), [(ann, CloseReason::WriteFailed)]);
    let outcomes: Vec<_> = sockets.take_writes().into_iter().map(|write| (write.conn, write.outcome)).collect();
    assert_eq!(outcomes, [(ann, Err(ErrorKind::BrokenPipe)), (bob, Ok(Flow::Drained))]);
    engine.handle_bytes(Time::ZERO, bob, &wire::text(&"x".repeat(20_000)));
    engine.handle_bytes(Time::ZERO, bob, &wire::frame(wire::Opcode::PING, true, b"hi", [1; 4]));
    let error = engine.end_turn(Time::ZERO, &mut sockets).expect_err("the disk is full");
    assert_eq!(error.0.kind(), ErrorKind::StorageFull);
    assert_eq!(sockets.take_writes(), [], "nothing is sent that is not recorded");
    assert_eq!(engine.ending(bob), None, "the connection is not to blame");
}

/// Counts its writes.
#[derive(Default)]
struct CountingSink(usize);

impl Sink for CountingSink {
    fn begin(&mut self, _: u64) -> io::Result<()> {
        Ok(())
    }

    fn write(&mut self, _: &[u8], _: &[u8]) -> io::Result<()> {
        self.0 += 1;
        Ok(())
    }
}

/// With `journal_sync` every write of the journal waits for the disk, so a flush in the middle of a turn costs one.
#[test]
fn a_flush_in_the_middle_of_a_turn_writes_the_journal_once() {
    let mut engine = engine(Config::default());
    journal::record(&mut engine, START, CountingSink::default()).expect("the sink takes all bytes");
    let (ann, _) = (join(&mut engine, "ann"), join(&mut engine, "bob"));
    let mut sockets = MemorySockets::default();
    for _ in 0..100 {
        engine.handle_bytes(Time::ZERO, ann, &wire::text("x"));
        engine.flush(&mut sockets).expect("the sink takes all bytes");
    }
    engine.end_turn(Time::ZERO, &mut sockets).expect("the sink takes all bytes");
    let CountingSink(writes) = journal::finish(&mut engine).expect("the session was recorded");
    assert!((100..=104).contains(&writes), "{writes} writes for 100 flushes");
}
