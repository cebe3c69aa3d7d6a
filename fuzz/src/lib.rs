//! The targets of the fuzzer: those that `cargo test` replays the corpus with.

#[allow(dead_code)] // The list of them is the replay's.
#[path = "../../tests/it/fuzzed/mod.rs"]
mod fuzzed;

pub use fuzzed::{admin, engine, envelope, frames, handshake, journal};
