//! Integration tests, by topic. They use the public API only. Time is virtual, except in `client::cutting`, `client::sockets`, `client::tls`, `drivers::net`, `drivers::program`,
//! `operators::operating`, `journal::segments` and `tls`.

#[cfg(feature = "client")]
mod client;
#[cfg(unix)]
mod cluster;
mod common;

mod drivers;
mod journal;
mod lifecycle;
mod limits;
mod meta;
mod operators;
mod protocol;
#[cfg(feature = "tls")]
mod tls;
