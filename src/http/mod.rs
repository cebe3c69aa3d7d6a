//! The part of HTTP/1.1 (RFC 9112) that the members' and the operators' port need: request heads, requests with a body,
//! and responses. Knows no WebSocket, and no paths but those of health checks.

pub(crate) mod cors;
pub(crate) mod date;
pub(crate) mod file;
pub(crate) mod forwarded;
pub(crate) mod head;
pub(crate) mod host;
pub(crate) mod probe;
pub(crate) mod request;
pub(crate) mod response;
mod status;
pub(crate) mod target;

pub(crate) use self::cors::Cors;
pub(crate) use self::date::DateLine;
pub(crate) use self::head::{HeadCheck, head_end};
pub(crate) use self::response::PlainResponse;
