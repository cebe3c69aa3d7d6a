//! The engine without sockets: for our tests, and for every game built on this crate.
//!
//! [`wire`] is the other end of a connection, as bytes: what a client sends, and how what it receives is read.

pub mod wire;
