//! The client without I/O: the conformance vectors, this server, and hostile ones.

mod by_hand;
mod hostile;
mod server;
mod told;
mod transcript;
mod vectors;
