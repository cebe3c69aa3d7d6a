//! lobbyd: a single-threaded, deterministic WebSocket lobby server.
//!
//! A game implements [`App`] and passes it to [`net::Server`], which runs it on real sockets. A program with its own
//! I/O drives an [`Engine`] directly: see [`driver`].
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
//! The names that most games need are at the root. The others are in modules by topic:
//!
//! | module | contents |
//! | --- | --- |
//! | [`admission`] | routes, message rates of identities, valid names |
//! | [`config`] | types of the fields of [`Config`], its check, its text form |
//! | [`codes`] | close and error codes of the application |
//! | [`control`] | data, host, settings, bans and start of lobbies |
//! | [`sending`] | what can be sent, and the result of sending |
//! | [`ticks`] | the game clock |
//! | [`stats`] | counters and the current state |
//! | [`apps`] | the built-in applications, and the wrapper that catches panics |
//! | [`net`] | the server on real sockets, and the handle for other threads |
//! | `client` | a client, with its socket and without; with the cargo feature of this name |
//! | [`journal`] | recording and replaying sessions |
//! | [`sim`] | deterministic simulation, for tests |
//! | [`operator`], [`admin`] | operators' commands, and their JSON interface over HTTP |
//! | [`driver`] | the interface between an [`Engine`] and its driver |
//! | [`guide`] | the guide. No code |
//!
//! The crate logs through the `log` crate. No log record, at any level, contains a message body or a token.
//!
//! # Cargo features
//!
//! - `client`: the module `client`, a client for games and bots in Rust, which speaks `wss://` with `tls`. Needs no further crate.
//! - `deflate`: compressed messages, for [`Config::deflate`]. Needs the crate `zlib-rs`.
//! - `tls`: addresses with TLS, of the server and of the client. Needs the crate `rustls` and a C compiler.
//! - `signals`: [`net::Server`] can listen to SIGTERM, SIGINT and SIGHUP. On Unix only. Needs the crate `signal-hook`.
//! - `hook`: calls of URLs, for [`Config::hook`] and [`Config::jwt_jwks_url`]. Needs the crates `ureq`, `rustls` and `aws-lc-rs`,
//!   and a C compiler. `ureq_proto` logs the bytes that are sent, with tokens, at the level trace: leave it out, as the program does.
//! - `jwt`: authentication by JSON Web Tokens, `apps::Jwt`. Needs the crate `jsonwebtoken` and a C compiler.
//! - `bin` (default): the program `lobbyd`, with its command line and log. Implies `client` and `signals`. On Unix only. A
//!   game that embeds the server turns it off: `default-features = false`.

#![forbid(unsafe_code)]
#![warn(missing_docs, unreachable_pub, unnameable_types)]

mod base;
mod cluster;
mod egress;
mod engine;
mod events;
mod hook;
mod http;
mod lobby;
mod pages;
mod protocol;
mod ws;

pub mod admin;
pub mod apps;
#[cfg(feature = "client")]
pub mod client;
// The simulator's clients use it in every build.
#[cfg(not(feature = "client"))]
#[allow(dead_code, unreachable_pub, unused_imports)]
mod client;
pub mod config;
pub mod guide;
pub mod journal;
pub mod net;
pub mod sim;

pub use base::close::{CloseReason, LeaveReason, Reject};
pub use base::id::{ConnId, SeatId};
pub use base::random::Random;
pub use base::time::Time;
pub use config::fields::Config;
pub use engine::Engine;
pub use engine::app::App;
pub use engine::context::Context;
pub use engine::member::{Authorization, Exclude, Identity, Member, Message, Protocol};
pub use ws::frame::Frame;
pub use ws::handshake::Request;

pub mod admission {
    //! Which lobby a request is for, which names are valid, the message rate of an identity, and the remote
    //! end of a request.
    //!
    //! The application decides in [`App::route`](crate::App::route) and [`App::authorize`](crate::App::authorize).

    pub use crate::base::peer::Peer;
    pub use crate::base::rate::Rate;
    pub use crate::engine::member::Route;
    pub use crate::lobby::{is_lobby_code, is_user_id};
}

pub mod codes {
    //! Close and error codes of the application, and what close codes say about reconnecting.
    //!
    //! The server's own are the variants of [`CloseReason`](crate::CloseReason) and [`Reject`](crate::Reject).

    pub use crate::base::close::Reconnect;
    pub use crate::base::codes::{CloseCode, ErrorCode};
}

pub mod control {
    //! Lobby control: data, host, settings, bans and start of a lobby, which its members change without code of the
    //! application.
    //!
    //! The methods are those of [`Context`](crate::Context#lobby-control).

    pub use crate::engine::control::{ControlError, LobbyControl};
}

pub mod driver {
    //! The interface between an [`Engine`](crate::Engine) and its driver, the owner of the sockets and the clock.
    //!
    //! [Driving an engine](crate::Engine#driving-an-engine) lists the steps of a turn.

    pub use crate::engine::driver::{Consumed, Flow, Full, JournalError, Start, Transport};
    pub use crate::engine::state::readiness::Readiness;
}

pub mod operator {
    //! Operators' commands, their answers, and pages of lobbies and members.
    //!
    //! An embedding program passes commands to [`Engine::handle_operator`](crate::Engine::handle_operator).
    //! [`admin`](crate::admin) offers them as JSON over HTTP.

    pub use crate::engine::operator::{
        ControlSummary, KickTarget, LobbyChange, LobbyControlView, LobbyView, NewLobby, OperatorAnswer,
        OperatorCommand, OperatorRefusal, OperatorReport, Order, Page, Payload, PingReport, SeatView, SettingsText,
        SortLobbies, SortMembers,
    };
}

pub mod sending {
    //! What can be sent, what members may have relayed, and the result of sending.
    //!
    //! The methods that send are those of [`Context`](crate::Context#sending), with a table that says when to use which.

    pub use crate::engine::member::{Body, HistoryFrame, Pressure, RelayRequest, Sent};
}

pub mod stats {
    //! The state of a server in numbers: see [`Engine::stats`](crate::Engine::stats) and
    //! [`Context::stats`](crate::Context::stats).

    pub use crate::base::distribution::Distribution;
    pub use crate::engine::state::cluster::ClusterStats;
    pub use crate::engine::state::counters::Counters;
    pub use crate::engine::state::drain::DrainTotals;
    pub use crate::engine::state::measurements::Measurements;
    pub use crate::engine::state::stats::Stats;
    pub use crate::engine::state::ticks::TickStats;
}

pub mod ticks {
    //! The game clock: see [`App::on_tick`](crate::App::on_tick).

    pub use crate::engine::state::ticks::{ClockCommand, ClockView, Tick};
}

/// Compiles the README's examples as doctests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
pub struct Readme;
