//! Encoding of blocks and entries, as `FORMAT.md` specifies it. Knows no files and no engine.

pub(super) mod block;
mod checkpoint;
pub(super) mod config_text;
pub(super) mod conn;
pub(super) mod kinds;
pub(super) mod read;
pub(super) mod segment;
pub(super) mod write;
