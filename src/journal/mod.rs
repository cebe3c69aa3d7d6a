//! Sessions written down as they happen, and replayed bit for bit.
//!
//! An engine does what follows from its inputs. [`record`] has all of them written down before anything comes of them, and
//! [`replay`] has them enter an engine again and compares what goes out with checks of what went out then:
//!
//! ```
//! use lobbyd::apps::Echo;
//! use lobbyd::{Config, Engine, Start, Time, journal};
//!
//! let start = Start { unix_micros: 1_700_000_000_000_000, seed: 7 };
//! let mut engine = Engine::new(Config::default(), start, Echo);
//! journal::record(&mut engine, start, Vec::new()).unwrap();
//!
//! // A driver does this, with sockets.
//! let conn = engine.handle_accept(Time::ZERO, "127.0.0.1:4000".parse().unwrap()).unwrap();
//! engine.handle_bytes(Time::ZERO, conn, b"GET / HTTP/1.1\r\nHost: example\r\n\r\n");
//! while let Some(conn) = engine.poll_writable() {
//!     engine.write_to(conn, &mut std::io::sink()).unwrap();
//! }
//!
//! let written: Vec<u8> = journal::finish(&mut engine).unwrap();
//! let summary = journal::replay(&*written, Echo).unwrap();
//! assert_eq!((summary.turn, summary.confirmed, summary.stats.counters.accepted), (1, 1, 1));
//! ```
//!
//! # What is in it
//!
//! Everything: each message of each member, with its time; addresses, names of users, lobbies, `Origin` and `Host`; what
//! operators and other threads said to do. But no token: of a request only the lengths of its lines are written, and beside
//! them what the engine needs to know and what the application answered. So a replay asks the application nothing about
//! requests (`route`, `authorize`). What [`App::on_reload`](crate::App::on_reload) was given is left out too, unless
//! `journal_secrets` is `keep`.
//!
//! # The format, version 2
//!
//! A journal is a stream of segments, each a file; they may stand one behind the other in one stream. A segment begins with
//! the line `lobbyd journal 2`, and goes on with blocks:
//!
//! | bytes | |
//! | --- | --- |
//! | 4 | the length of the payload, from 1 to 64 MiB; all fixed numbers are little-endian |
//! | 4 | CRC-32 of these four bytes, begun with the check of the block before (0 for the first of a segment) |
//! | 4 | the check of the block: CRC-32 of the payload, begun in the same way |
//! | | the payload: entries, none of which goes on in another block |
//!
//! So a block that is damaged, missing or elsewhere is noticed, and a torn one at the end is told from it. Entries are a byte
//! for the kind and then fields: numbers in LEB128, slices and texts behind their length, `?` what a byte 1 says is there. A
//! connection is twice its index; or one more, and then its generation follows, which holds for that index from then on in
//! the segment.
//!
//! | kind | fields | |
//! | ---: | --- | --- |
//! | 1 | session, number, check of the block before, wall time, seed, turn, build, type of the application, configuration, start? | the first of a segment and only there. The configuration is a line `name=value` for each field. A start is the state of an engine without connections and a slice of the application's own. The state: time, wall time at its start, position of the timer wheel, four numbers, the generator's four words, how many goodbyes may be said and when the next batch is due, counters, the clock of ticks, the spent rates of users (name, messages, bytes) and of addresses that have left, the oldest first; each list behind its length |
//! | 2 | microseconds | time has passed; what follows happens then |
//! | 3 | address (4 or 6, octets, port; with 6 flow and scope) | a socket was accepted |
//! | 4 | connection, slice | bytes were received |
//! | 5 | connection, shape | bytes were received that belong to a request or to nothing: their number, whether they begin with a capital, and where CR and LF stand |
//! | 6 | facts | these bytes completed a request: 1 or 2 if it checks whether the server is alive or ready, else 0; address; whether its origin is allowed; and either the accept key and the length of the subprotocol?, or the refusal |
//! | 7 | refusal | or what is none: status, sentence, header lines |
//! | 8 | destination?, authorization?, generator's state? | what the application said to it. A destination is 0 for nowhere, 1 and a lobby's code, or 2 for a code that is not valid |
//! | 9, 10 | slice or shape | what followed the request in the same bytes; 10 if nobody read it |
//! | 11, 12 | connection | the peer's end is gone; the socket can be written to again |
//! | 13 | | timers were looked at |
//! | 14 | connection, authorization | an answer that was pending |
//! | 15 | slice | a command |
//! | 16, 17 | slice or number | a reload; 17 if only its length was kept |
//! | 18, 19 | command; – | an operator's; the answer to an operator's ping was taken |
//! | 20, 21, 22 | | drain; stop; a connection was shed |
//! | 23 | | the owner has acted by a closure: a replay ends here |
//! | 24 | | flush: nothing enters until 28 or 29. A turn ends here, and its block is written before a byte goes out |
//! | 25 | 2 bytes | a write took everything; the check is the lower half of the lowest word of the write's checksum |
//! | 26, 27 | number, 2 bytes | a write took so many bytes and was blocked; or failed |
//! | 28 | 8 bytes | the flush is over: a rolling checksum of all that was sent since the segment began |
//! | 29 | | the flush is over, and nothing was sent in it |
//! | 30 | number | from now on, at most so much work is done for each receive |
//! | 31 | slice of connections | these connections, and no others, may have input that was not read |
//! | 32 | microseconds | the wall clock shows so many microseconds since the Unix epoch |
//!
//! Entries 6 to 10 stand in a slice of their own. Checksums are those of `src/checksum.rs`; they take each byte of a subprotocol in
//! an answer for `x`.

mod format;
mod reader;
mod recorder;
mod replay;
mod trace;

use std::io;

use crc32fast::Hasher;

use crate::config::Config;

pub use self::recorder::{finish, record};
pub use self::replay::{Divergence, Failure, Fault, Replay, Step, Summary, replay};
pub use self::trace::TraceEvent;
pub use crate::engine::recording::{Recording, RotateHint};

/// The build whose journals this one replays: its version, and a hash of its sources.
pub const BUILD: &str = concat!(env!("CARGO_PKG_VERSION"), "-", env!("SOURCES_OF_LOBBYD"));

/// Where a journal is written.
pub trait Sink: 'static {
    /// What comes from now on belongs to segment `number`; the first is 1.
    ///
    /// # Errors
    ///
    /// When it cannot be begun.
    fn begin(&mut self, number: u64) -> io::Result<()>;

    /// Writes `block`, and `rest` right behind it; when this returns, the end of the process loses nothing of them.
    ///
    /// # Errors
    ///
    /// When it could not all be written. Nothing more is written then.
    fn write(&mut self, block: &[u8], rest: &[u8]) -> io::Result<()>;

    /// Whether the segment has become long.
    fn rotate_hint(&self) -> RotateHint {
        RotateHint::Continue
    }

    /// What was written so far.
    fn recording(&self) -> Recording {
        Recording::default()
    }
}

/// In memory, all segments one behind the other. For tests.
impl Sink for Vec<u8> {
    fn begin(&mut self, _: u64) -> io::Result<()> {
        Ok(())
    }

    fn write(&mut self, block: &[u8], rest: &[u8]) -> io::Result<()> {
        self.extend_from_slice(block);
        self.extend_from_slice(rest);
        Ok(())
    }
}

/// Whether a segment is the first of its session. One that cannot be read is none that goes on with another.
pub(crate) fn begins_session(segment: &mut impl io::Read) -> bool {
    let mut block = Vec::new();
    let first = reader::Blocks::new(segment).read(&mut block).is_ok();
    !first || replay::segment_number(&block).is_none_or(|number| number == 1)
}

/// CRC-32 of what stands in `parts`, begun with another check.
fn check_of(before: u32, parts: &[&[u8]]) -> u32 {
    let mut hasher = Hasher::new_with_initial(before);
    parts.iter().for_each(|part| hasher.update(part));
    hasher.finalize()
}

/// The configuration that [`record`] has written down as text.
fn config_from_text(text: &str) -> Result<Config, ()> {
    let mut config = Config::default();
    for line in text.lines() {
        let (name, value) = line.split_once('=').ok_or(())?;
        let field = Config::FIELDS.iter().find(|field| field.name == name).ok_or(())?;
        (field.set)(&mut config, value).map_err(|_| ())?;
    }
    Ok(config)
}
