//! The driver of a session: its socket, its clock and its random numbers. The only part of the client that does I/O.
//!
//! It moves messages between a socket and a [`Session`](super::Session), and knows nothing of lobbies. One turn:
//!
//! 1. Wait for the socket, for the next timer, and for the thread that prepares an attempt.
//! 2. Read the clock, then the socket, until it is empty or the turn's budget is spent. Each message is handled at once.
//! 3. Expire timers.
//! 4. Do what the session asks for, and write.
//!
//! ```text
//! Preparing --token, addresses--> Connecting --> Encrypting --> Upgrading --101--> Open --close--> Closing --> gone
//! ```
//!
//! Everything but *Preparing* happens in the turns, and never blocks. Names and tokens come from a thread that ends with its
//! answer; an address without a name, with a fixed token or without one, needs none.
//!
//! Frames are read and written here, with the headers of tungstenite: its own sockets log messages, and its own handshake
//! logs tokens.

mod clock;
mod commands;
mod connection;
mod frames;
mod lobby;
#[cfg(not(feature = "tls"))]
mod no_tls;
mod options;
mod preparing;
mod stream;
#[cfg(feature = "tls")]
mod tls;
mod upgrade;

pub use self::lobby::{Lobby, Traced};
#[cfg(not(feature = "tls"))]
use self::no_tls as tls;
pub use self::options::{LobbyOptions, LobbyToken};
pub use self::stream::Stream;
pub use self::tls::Trust;
