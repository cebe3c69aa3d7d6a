//! The client without I/O: the conformance vectors, and hostile servers.

mod told;
mod transcript;
mod vectors;
