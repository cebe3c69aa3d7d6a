//! Protocols of one connection: WebSocket (RFC 6455) with its opening handshake and compression (RFC 7692), and
//! server-sent events with POST.
//! Converts between bytes and messages.
//!
//! Knows no lobby, no user and no clock.

pub(crate) mod claim;
pub(crate) mod connection;
pub(crate) mod deflate;
pub(crate) mod event_stream;
mod facts;
pub(crate) mod frame;
pub(crate) mod handshake;
mod list_query;
pub(crate) mod post;
pub(crate) mod websocket;
