//! JSON Web Tokens: which are accepted, which are refused and why, and what their claims do.

mod accepted;
mod hostile;
mod keys;
mod sessions;

/// The wall time at the start of a [`World`](crate::common::scenario::World), in milliseconds.
const NOW: u64 = 1_000_000_000;
