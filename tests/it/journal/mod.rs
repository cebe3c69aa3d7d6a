//! Recording and replay.

mod baseline;
mod recording;
