//! The protocol: requests, frames and JSON messages.

mod applications;
mod bytewise;
mod connecting;
mod http;
mod identity;
#[cfg(feature = "jwt")]
mod jwt;
mod messages;
mod origins;
mod own_codes;
mod presence;
mod protocol_errors;
mod three;
