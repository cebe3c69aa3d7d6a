//! The fuzz targets: the use of the input bytes and the properties checked for every input. A test replays the corpus, the
//! inputs that fuzzing found and that are kept.
//!
//! `fuzz/` builds these functions for libFuzzer. A target is a module with a function `run`, a line in [`TARGETS`], a folder in
//! `tests/corpus`, and a file in `fuzz/fuzz_targets`. Everything goes through the public API.

pub mod admin;
pub mod engine;
pub mod envelope;
pub mod frames;
pub mod handshake;
pub mod journal;

use lobbyd::Config;
use lobbyd::config::Limit;
use lobbyd::driver::Start;

/// Runs one input. Panics if a property does not hold.
pub type Target = fn(&[u8]);

/// All targets, by name.
pub const TARGETS: &[(&str, Target)] = &[
    ("admin", admin::run),
    ("engine", engine::run),
    ("envelope", envelope::run),
    ("frames", frames::run),
    ("handshake", handshake::run),
    ("journal", journal::run),
];
const START: Start = Start { unix_micros: 1_000_000_000_000, seed: 1 };

/// The bytes of a run, read from the front. Missing bytes read as zero.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn byte(&mut self) -> u8 {
        match self.0.split_first() {
            Some((&byte, rest)) => {
                self.0 = rest;
                byte
            }
            None => 0,
        }
    }

    /// Returns a number below `end`.
    fn below(&mut self, end: usize) -> usize {
        usize::from(self.byte()) % end
    }

    fn take(&mut self, n: usize) -> &'a [u8] {
        let (bytes, rest) = self.0.split_at(n.min(self.0.len()));
        self.0 = rest;
        bytes
    }
}

/// Cuts `bytes` into pieces whose lengths follow from `seed`. 0 gives one piece, 1 gives single bytes.
fn pieces(bytes: &[u8], seed: u8) -> impl Iterator<Item = &[u8]> {
    let mut random = lobbyd::Random::new(u64::from(seed));
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let length = match seed {
            0 => rest.len(),
            1 => 1,
            _ => 1 + random.below(40) as usize,
        };
        let (piece, after) = rest.split_at(length.min(rest.len()));
        rest = after;
        (!piece.is_empty()).then_some(piece)
    })
}

/// No rates: each piece is charged when it arrives, so a rate would give different outcomes.
fn without_rates() -> Config {
    let unlimited = Limit::UNLIMITED;
    Config {
        messages_per_second: unlimited,
        bytes_per_second: unlimited,
        control_per_second: unlimited,
        ..Config::default()
    }
}

#[test]
fn the_fuzzing_corpus_passes() {
    let corpus = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus");
    for (name, run) in TARGETS {
        let inputs = std::fs::read_dir(corpus.join(name)).expect("every target has a corpus");
        let paths: Vec<_> = inputs.map(|input| input.expect("an input").path()).collect();
        assert!(paths.len() > 10, "{name} has {} inputs", paths.len());
        for path in paths {
            let input = std::fs::read(&path).expect("an input is readable");
            // The test harness shows this output only if the test fails.
            println!("{}", path.display());
            run(&input);
        }
    }
}
