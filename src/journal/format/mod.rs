//! Encoding of blocks and entries. An entry is one byte for the kind, then the fields. Numbers are in LEB128, and slices
//! and texts follow their length. Knows no files and no engine; the [parent module](super) documents the entries.

pub(super) mod block;
mod checkpoint;
pub(super) mod config_text;
pub(super) mod conn;
pub(super) mod kinds;
pub(super) mod read;
pub(super) mod segment;
pub(super) mod write;
