//! The protocol: requests, frames and JSON messages.

mod addresses;
mod applications;
mod bytewise;
mod claims;
mod connecting;
#[cfg(feature = "deflate")]
mod deflate;
mod files;
mod http;
mod http_clients;
mod identity;
#[cfg(feature = "jwt")]
mod jwt;
mod messages;
mod origins;
mod own_codes;
mod portable;
mod presence;
mod protocol_errors;
mod sse;
mod three;
mod volatile;
