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
//! # The format, version 2
//!
//! A journal is a sequence of segments. Each is a file; several may also be concatenated in one stream. A segment
//! begins with the line `lobbyd journal 2`. Blocks follow:
//!
//! | bytes | |
//! | --- | --- |
//! | 4 | length of the payload, from 1 byte to 64 MiB; all fixed-size numbers are little-endian |
//! | 4 | CRC-32 of these four bytes, started with the check of the previous block (0 for the first of a segment) |
//! | 4 | check of the block: CRC-32 of the payload, started in the same way |
//! | | payload: whole entries |
//!
//! The checks detect a damaged, missing or misplaced block, and distinguish it from a torn block at the end. An entry
//! is one byte for its kind and then its fields. Numbers are in LEB128, and slices and texts follow their length. A
//! field marked `?` is optional: a byte 0 (absent) or 1 (present) precedes it. A connection is a number: twice its
//! index, plus one if its generation follows. The generation applies to that index until the end of the segment or
//! until another follows.
//!
//! | kind | fields | |
//! | ---: | --- | --- |
//! | 1 | session, number, check of the previous block, wall time, seed, turn, build, type of the application, configuration, start? | the first entry of a segment, and only there. The configuration is one line `name=value` for each field. A start is the checkpoint of an engine without connections and a slice with the application's snapshot. The checkpoint: time, wall time at time zero, position of the timer wheel, four numbers (seats so far, last lobby epoch, connections that began to close so far, last ping ticket), the four words of the random generator, closes left in the current batch of the close queue and the time of its next batch, counters, the game clock, and the rate buckets that are not full: of users without a seat (name, messages, bytes), then of addresses without a connection, in the order in which they become full; each list follows its length |
//! | 2 | microseconds | time advances by this much; the following entries happen at the new time |
//! | 3 | address (4 or 6, octets, port; with 6 flow and scope) | a socket was accepted |
//! | 4 | connection, slice | bytes were received |
//! | 5 | connection, shape | bytes were received that belong to a request, or that the engine ignores. The shape is their number, whether the first is a capital letter, and the positions of CR and LF |
//! | 6 | facts | these bytes completed a request. The facts: 1 for a liveness probe, 2 for a readiness probe, else 0; the address; whether its origin is allowed; and either 1, the accept key and the length of the subprotocol?, or 0 and the refusal |
//! | 7 | refusal | these bytes are not a valid request. The refusal: status, sentence, header lines, whether it has no body |
//! | 8 | destination?, authorization?, generator's state? | the application's decisions about the request. A destination is 0 for a path that does not exist, 1 and a lobby's code, or 2 for an invalid code |
//! | 9, 10 | slice or shape | bytes that followed the request in the same receive; 10 and a shape if the engine ignores them |
//! | 11, 12 | connection | the peer hung up; the socket is writable again |
//! | 13 | | due timers and ticks were run |
//! | 14 | connection, authorization | the answer to a pending authorization |
//! | 15 | slice | a command to the application |
//! | 16, 17 | slice or number | a reload; 17 and its length if the contents are left out |
//! | 18, 19 | command; – | a command of an operator; the report of an operator's ping was taken |
//! | 20, 21, 22 | | drain; stop; a connection was shed |
//! | 23 | | a closure changed the application: a replay ends here |
//! | 24 | | the input of a turn ends, and the flush begins: no input follows until 28 or 29. The block is written before a byte is sent |
//! | 25 | 2 bytes | the socket took all queued bytes; the 2 bytes are the lower 16 bits of the write's checksum |
//! | 26, 27 | number, 2 bytes | the socket took this many bytes, and then would block (26) or failed (27) |
//! | 28 | 8 bytes | the flush ends; a checksum over the checksums of all writes since the segment began |
//! | 29 | | the flush ends, and nothing was sent in it |
//! | 30 | number | from now on, the limit on the work of one receive |
//! | 31 | slice of connections | exactly these connections may have unread input |
//! | 32 | microseconds | the wall time, since the Unix epoch |
//!
//! The shape in 5, the fields of 6 to 10, the authorization in 14, the command in 18 and the connections in 31 are each
//! wrapped in a slice. Checksums are those of `src/base/checksum.rs`. Where the answer to a request echoes the client's
//! subprotocol, each byte of the name counts as `x`.

mod error;
mod format;
mod printable;
mod reader;
mod recorder;
mod replay;
mod sink;
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
