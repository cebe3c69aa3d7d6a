//! WebSocket (RFC 6455) of one connection: the opening handshake, and conversion between bytes and messages.
//!
//! Knows no lobby, no user and no clock.

pub(crate) mod claim;
pub(crate) mod connection;
pub(crate) mod frame;
pub(crate) mod handshake;
pub(crate) mod websocket;
