//! The client without I/O: the conformance vectors, its own interface, this server, and hostile ones.

mod by_hand;
mod claims;
mod hostile;
mod server;
mod told;
mod transcript;
mod vectors;
