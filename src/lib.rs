//! lobbyd: a single-threaded, deterministic WebSocket lobby server.
//!
//! A game implements [`App`] and passes it to [`net::Server`], which runs it on real sockets. A program with its own
//! I/O drives an [`Engine`] directly.
//!
//! ```
//! use lobbyd::apps::Relay;
//! use lobbyd::net::Server;
//! use lobbyd::Config;
//! use std::time::Duration;
//!
//! # fn main() -> Result<(), lobbyd::net::Error> {
//! let config = Config { listen: "127.0.0.1:0".parse().unwrap(), ..Config::default() };
//! let mut server = Server::bind(config, Relay::default())?;
//! for _turn in 0..3 {
//!     server.turn(Some(Duration::from_millis(1)))?; // sockets, timers and callbacks; the game's own code may follow
//! }
//! assert_eq!(server.engine().stats().total_connections, 0);
//! # Ok(())
//! # }
//! ```
//!
//! The [`guide`] has a page for each topic: the protocol, operating, embedding, testing, and more.
//!
//! The crate logs through the `log` crate. No log record, at any level, contains a message body or a token.

#![forbid(unsafe_code)]
#![warn(missing_docs, unreachable_pub)]

mod base;
mod config;
mod egress;
mod engine;
mod http;
mod lobby;
mod protocol;
mod ws;

pub mod admin;
pub mod apps;
pub mod guide;
pub mod journal;
pub mod net;
pub mod sim;

pub use base::close::{CloseReason, LeaveReason, Reconnect, Reject};
pub use base::id::{ConnId, SeatId};
pub use base::random::Random;
pub use base::rate::{Bucket, Denied, Rate};
pub use base::time::Time;
pub use config::{
    ByteSize, Config, DuplicateLogin, Field, Flush, Limit, OnJournalError, Origins, PerUser, Problem, Secrets, Switch,
};
pub use engine::Engine;
pub use engine::app::App;
pub use engine::context::Context;
pub use engine::driver::{Consumed, Flow, Full, JournalError, Start, Transport};
pub use engine::member::{
    Authorization, Exclude, Identity, Member, Message, Pressure, Protocol, RelayRequest, Route, Sent,
};
pub use engine::operator::{
    KickTarget, LobbyView, OperatorAnswer, OperatorCommand, OperatorRefusal, Page, Payload, PingReport, SeatView,
};
pub use engine::state::counters::Counters;
pub use engine::state::drain::DrainTotals;
pub use engine::state::stats::Stats;
pub use engine::state::ticks::{ClockCommand, ClockView, Tick, TickStats};
pub use engine::state::wheel::TimerWheel;
pub use http::Refusal;
pub use lobby::{is_lobby_code, is_user_id};
pub use ws::frame::Frame;
pub use ws::handshake::{Request, Subprotocols};

/// Compiles the README's examples as doctests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
pub struct Readme;
