//! The protocol: requests, frames and JSON messages.

mod addresses;
mod applications;
mod bytewise;
mod connecting;
mod http;
mod http_clients;
mod identity;
mod messages;
mod origins;
mod own_codes;
mod portable;
mod presence;
mod protocol_errors;
mod three;
