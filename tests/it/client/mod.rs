//! The client: without I/O, the conformance vectors, this server, and hostile ones; then with its socket.

mod bot;
mod by_hand;
mod claims;
mod cutting;
mod heartbeat;
mod hostile;
mod server;
mod sockets;
#[cfg(feature = "tls")]
mod tls;
mod told;
mod transcript;
mod vectors;
