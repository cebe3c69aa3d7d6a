//! Wire protocol of one connection: converts between bytes and messages, and queues outgoing frames.
//!
//! The only module that knows the clients' HTTP and RFC 6455. It knows lobbies only as keys, and no user and no clock.

pub(crate) mod broadcast_log;
pub(crate) mod connection;
pub(crate) mod frame;
pub(crate) mod handshake;
pub(crate) mod http;
pub(crate) mod outbox;
pub(crate) mod websocket;
