//! The fuzz targets. `cargo test` replays the corpus with the same functions.

#[allow(dead_code)] // The replay uses the list of targets; the fuzzer does not.
#[path = "../../tests/it/drivers/fuzzed/mod.rs"]
mod fuzzed;

pub use fuzzed::{admin, compressed, engine, envelope, frames, handshake, journal, proxy_header};
