//! Limits: their configuration, and the result when each is reached.

mod bounds;
mod config;
mod extremes;
mod handshakes;
mod outbox;
mod pressure;
mod rates;
mod seats;
mod sockets;
