//! A cluster: several lobbyd processes with one set of users, lobbies and seats.
//!
//! The nodes share one log. A node does not change a lobby when a client asks for it: it appends the request to the log. Redis
//! gives each entry its place. Every node executes the entries in this order, with the same code, and so all of them have
//! the same users, lobbies, seats and numbers. This is state machine replication (Schneider, "Implementing fault-tolerant
//! services using the state machine approach", 1990).
//!
//! ```text
//! client --request--> engine --operations--> Link --append script--> Redis
//!                       ^                                              |
//!                       +--entries, in order-- Link <------publish-----+      (on every node)
//! ```
//!
//! - [`log`] has the vocabulary: entries, and what the engine and the link say to each other. It knows no Redis.
//! - [`link`] speaks with Redis: bytes in, bytes out. It opens no socket and knows no lobby.
//! - [`scripts`] has the scripts that run in Redis, [`resp`] its protocol, [`entry`] the text of entries.
//! - The engine's part is in `engine/cluster`, the socket in `net`.

pub(crate) mod entry;
#[cfg(test)]
pub(crate) mod executed;
pub(crate) mod kept_log;
pub(crate) mod link;
pub(crate) mod log;
pub(crate) mod resp;
pub(crate) mod scripts;
