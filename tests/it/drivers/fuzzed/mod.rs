//! The fuzz targets: the use of the input bytes and the properties checked for every input. A test replays the corpus, the
//! inputs that fuzzing found and that are kept.
//!
//! `fuzz/` builds these functions for libFuzzer. A target is a module with a function `run`, a line in [`TARGETS`], an archive
//! in `tests/corpus`, and a file in `fuzz/fuzz_targets`. Everything goes through the public API. `tar` lists the inputs of an
//! archive, `fuzz/unpack` and `fuzz/pack` change it.

pub mod admin;
#[cfg(feature = "deflate")]
pub mod compressed;
pub mod engine;
pub mod envelope;
pub mod frames;
pub mod handshake;
pub mod journal;
pub mod proxy_header;

use lobbyd::config::Limit;
use lobbyd::driver::Start;
use lobbyd::{App, Authorization, Config, Context, Exclude, Member, Message, Protocol, Request};

/// Runs one input. Panics if a property does not hold.
pub type Target = fn(&[u8]);

/// All targets, by name.
pub const TARGETS: &[(&str, Target)] = &[
    ("admin", admin::run),
    #[cfg(feature = "deflate")]
    ("compressed", compressed::run),
    ("engine", engine::run),
    ("envelope", envelope::run),
    ("frames", frames::run),
    ("handshake", handshake::run),
    ("journal", journal::run),
    ("proxy_header", proxy_header::run),
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

/// A message: whether it is a text, and its bytes.
type Delivered = (bool, Vec<u8>);

/// Keeps the messages that it receives.
#[derive(Default)]
struct Recorder {
    delivered: Vec<Delivered>,
    /// Whether it also sends them to all members.
    broadcasts: bool,
}

impl App for Recorder {
    const PROTOCOL: Protocol = Protocol::Raw;

    fn authorize(&mut self, _: &mut Context<'_>, request: &Request<'_>) -> Authorization {
        Authorization::token_is_user(request)
    }

    fn on_message(&mut self, cx: &mut Context<'_>, from: &Member, message: Message<'_>) {
        self.delivered.push(match message {
            Message::Text(text) => (true, text.as_bytes().to_vec()),
            Message::Binary(bytes) => (false, bytes.to_vec()),
            Message::Json { .. } => unreachable!("it reads no JSON"),
        });
        if self.broadcasts {
            cx.broadcast_to_lobby(from.lobby(), Exclude::None, message);
        }
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

/// The inputs of an archive, by name.
#[cfg(test)]
fn inputs(archive: &std::path::Path) -> Vec<(String, Vec<u8>)> {
    let file = std::fs::File::open(archive).unwrap_or_else(|error| panic!("{}: {error}", archive.display()));
    let mut archive = tar::Archive::new(file);
    let read = |entry: std::io::Result<tar::Entry<'_, std::fs::File>>| {
        let mut entry = entry.expect("an entry is complete");
        let name = entry.path().expect("an entry has a name").display().to_string();
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(&mut entry, &mut bytes).expect("an entry is complete");
        (name, bytes)
    };
    archive.entries().expect("an archive").map(read).collect()
}

#[test]
fn the_fuzzing_corpus_passes() {
    let corpus = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus");
    let mut failed = Vec::new();
    for (target, run) in TARGETS {
        let inputs = inputs(&corpus.join(format!("{target}.tar")));
        assert!(inputs.len() > 100, "{target} has {} inputs", inputs.len());
        assert!(inputs.is_sorted_by(|one, next| one.0 < next.0), "{target}.tar: pack it with fuzz/pack");
        let fails = |input: &[u8]| std::panic::catch_unwind(|| run(input)).is_err();
        failed.extend(inputs.iter().filter(|(_, input)| fails(input)).map(|(name, _)| format!("{target}.tar {name}")));
    }
    assert!(failed.is_empty(), "these inputs fail: {failed:#?}");
}

/// An archive without a target would not be replayed.
#[test]
fn every_corpus_has_a_target() {
    let corpus = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus");
    let files = std::fs::read_dir(corpus).expect("the folder of the corpora");
    let mut names: Vec<_> =
        files.map(|file| file.expect("an entry").file_name().into_string().expect("UTF-8")).collect();
    names.sort();
    // Built with a feature only.
    names.retain(|name| cfg!(feature = "deflate") || name != "compressed.tar");
    let expected: Vec<_> = TARGETS.iter().map(|(target, _)| format!("{target}.tar")).collect();
    assert_eq!(names, expected);
}
