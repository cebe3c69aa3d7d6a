//! Journals of sessions with compressed messages.

use lobbyd::apps::Verbatim;
use lobbyd::config::{ByteSize, Limit};
use lobbyd::journal;
use lobbyd::sim::wire;
use lobbyd::{Config, Random};

use super::{join, long, on, text};
use crate::common::scenario::{START, World};

/// Members that take compressed messages and others, of which some lag, send both kinds.
fn session() -> Vec<u8> {
    let unlimited = Limit::UNLIMITED;
    let config = Config {
        max_outbound_bytes: ByteSize::kib(1024),
        messages_per_second: unlimited,
        bytes_per_second: unlimited,
        ..on()
    };
    let mut world = World::new(config, Verbatim::default());
    journal::record(&mut world.engine, START, Vec::new()).expect("it can be recorded");
    let names = ["ann", "bob", "plain", "cid", "plain2"];
    join(&mut world, "chess", &names);
    let mut random = Random::new(7);
    for _ in 0..200 {
        let name = names[random.below(5) as usize];
        let data = long(random.below(2000) as usize);
        match random.below(10) {
            0 => world.steps(&format!("{name} > window {}", random.below(2000))),
            1 => world.steps(&format!("{name} > read")),
            2..6 if !name.starts_with("plain") => world.send(name, &text(&data)),
            _ => world.send(name, &wire::text(&data)),
        }
        if random.percent(50) {
            world.flush();
        }
        world.engine.check();
    }
    world.flush();
    let counters = world.engine.stats().counters;
    assert!(counters.compressed_frames > 50 && counters.decompressed_messages > 20, "{counters:?}");
    journal::finish(&mut world.engine).expect("it was recorded in memory")
}

#[test]
fn a_replay_compresses_to_the_same_bytes() {
    let recorded = session();
    let summary = journal::replay(&*recorded, Verbatim::default()).expect("a replay sends the same bytes");
    assert!(summary.confirmed > 50 && summary.stats.counters.compressed_frames > 50);
}

/// The pinned version is in the beginning of each segment.
#[test]
fn a_journal_names_the_compressor() {
    let name = format!("zlib-rs {}", pinned_version());
    let contains = |journal: &[u8]| journal.windows(name.len()).any(|part| part == name.as_bytes());
    assert!(contains(&session()));
    let mut world = World::new(Config::default(), Verbatim::default());
    journal::record(&mut world.engine, START, Vec::new()).expect("it can be recorded");
    join(&mut world, "chess", &["ann"]);
    assert!(!contains(&journal::finish::<_, Vec<u8>>(&mut world.engine).expect("it was recorded")));
}

/// The version of the compressor, the only dependency that `Cargo.toml` pins.
fn pinned_version() -> String {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
    let manifest = std::fs::read_to_string(path).expect("the manifest is readable");
    let (before, version) = manifest.split_once("version = \"=").expect("a pinned version");
    assert!(before.lines().rev().take(2).any(|line| line.contains("zlib-rs")), "it is that of the compressor");
    version.split('"').next().expect("a closing quote").to_owned()
}
