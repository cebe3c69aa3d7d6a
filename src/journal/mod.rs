//! Records sessions, and replays them bit for bit.
//!
//! An engine is deterministic. [`record`] writes every input to a journal before the engine acts on it. [`replay`]
//! feeds the recorded inputs to a new engine and compares the bytes that it sends with the checksums in the journal.
//! The module knows no files: a [`Sink`] takes the bytes.
//!
//! ```
//! use lobbyd::apps::Echo;
//! use lobbyd::sim::MemorySockets;
//! use lobbyd::{Config, Engine, Start, Time, journal};
//!
//! let start = Start { unix_micros: 1_700_000_000_000_000, seed: 7 };
//! let mut engine = Engine::new(Config::default(), start, Echo);
//! journal::record(&mut engine, start, Vec::new()).unwrap();
//!
//! // A driver does this, with sockets.
//! let conn = engine.handle_accept(Time::ZERO, "127.0.0.1:4000".parse().unwrap()).unwrap();
//! engine.handle_bytes(Time::ZERO, conn, b"GET / HTTP/1.1\r\nHost: example\r\n\r\n");
//! engine.end_turn(Time::ZERO, &mut MemorySockets::default()).unwrap();
//!
//! let written: Vec<u8> = journal::finish(&mut engine).unwrap();
//! let summary = journal::replay(&*written, Echo).unwrap();
//! assert_eq!((summary.turn, summary.confirmed, summary.stats.counters.accepted), (1, 1, 1));
//! ```
//!
//! # Contents
//!
//! A journal contains each message of each member with its time, addresses, names of users and lobbies, and the
//! commands of operators and other threads. It contains no token, except with `auth = open`, where the token is the
//! user id. Of a request only the lengths of its lines are recorded, the facts that the engine needs, and the
//! application's decisions: no path, query, header or subprotocol. A replay therefore does not ask the application
//! about requests (`route`, `authorize`). The contents given to [`App::on_reload`](crate::App::on_reload) are left out
//! too, unless `journal_secrets` is `keep`.
//!
#![doc = include_str!("FORMAT.md")]

mod error;
mod format;
mod printable;
mod reader;
mod recorder;
mod replay;
mod sink;
#[cfg(test)]
mod specification;
mod summary;
mod trace;

pub use self::error::{Divergence, Fault, ReplayFailure};
pub use self::format::segment::BUILD;
pub(crate) use self::reader::begins_session;
pub use self::recorder::{finish, record};
pub use self::replay::{Replay, Step, replay};
pub use self::sink::Sink;
pub use self::summary::Summary;
pub use self::trace::TraceEvent;
pub use crate::engine::recording::{Recording, RotateHint};
