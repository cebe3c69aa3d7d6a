//! What clients and the server send: requests, frames and JSON messages.

mod bytewise;
mod http;
mod identity;
mod messages;
mod origins;
mod protocol_errors;
