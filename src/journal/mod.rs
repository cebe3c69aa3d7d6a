//! Records sessions, and replays them bit for bit.
//!
//! An engine is deterministic. [`record`] writes every input to a journal before the engine acts on it. [`replay`]
//! feeds the recorded inputs to a new engine and compares the bytes that it sends with the checksums in the journal.
//! The module knows no files: a [`Sink`] takes the bytes.
//!
//! ```
//! use lobbyd::apps::Echo;
//! use lobbyd::sim::MemorySockets;
//! use lobbyd::driver::Start;
//! use lobbyd::{Config, Engine, Time, journal};
//!
//! let start = Start { unix_micros: 1_700_000_000_000_000, seed: 7 };
//! let config = Config::default().check().unwrap();
//! let mut engine = Engine::new(config, start, Echo);
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
//! # Stepping through a replay
//!
//! [`Replay`] stops between the entries of a journal. The application can be inspected there, for example to find the
//! turn after which an invariant no longer holds:
//!
//! ```
//! use lobbyd::apps::Echo;
//! use lobbyd::driver::Start;
//! use lobbyd::journal::{self, Replay, Step};
//! use lobbyd::{Config, Engine, Time};
//!
//! let start = Start { unix_micros: 0, seed: 1 };
//! let mut engine = Engine::new(Config::default().check().unwrap(), start, Echo);
//! journal::record(&mut engine, start, Vec::new()).unwrap();
//! engine.handle_accept(Time::ZERO, "127.0.0.1:4000".parse().unwrap()).unwrap();
//! let recorded: Vec<u8> = journal::finish(&mut engine).unwrap();
//!
//! let mut replay = Replay::open(&*recorded, Echo, false)?;
//! replay.trace_events();
//! while replay.step()? != Step::End {}
//! assert_eq!(replay.events()[0].to_string(), "0.000000s conn=0.1 connects from 127.0.0.1:4000");
//! # Ok::<(), lobbyd::journal::ReplayFailure>(())
//! ```
//!
//! # Contents
//!
//! A journal contains each message of each member with its time, addresses, names of users and lobbies, and the
//! commands of operators and other threads. It contains the data that the application attaches to identities:
//! [`Identity::data`](crate::Identity::data). It contains no token, except with `auth = open`, where the token is the
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

/// `FORMAT.md` agrees with the code.
#[cfg(test)]
mod tests {
    use std::io;

    use super::format::kinds;
    use super::format::segment::{BUILD, Segment};
    use super::recorder::{JournalRecorder, finish};
    use super::replay::{Replay, Step};
    use crate::base::close::{CloseReason, Reject};
    use crate::base::id::ConnId;
    use crate::base::time::Time;
    use crate::config::{Config, Limit};
    use crate::engine::Engine;
    use crate::engine::app::{App, Authorization, Context, Member, Message, Protocol};
    use crate::engine::driver::{Flow, Start, Transport};
    use crate::engine::recording::Edition;
    use crate::engine::state::counters::Counters;
    use crate::ws::deflate::COMPRESSOR;
    use crate::ws::frame::Frame;
    use crate::ws::handshake::Request;

    const FORMAT: &str = include_str!("FORMAT.md");

    /// Returns the text after `start` and before the next `end`.
    fn between<'a>(text: &'a str, start: &str, end: &str) -> &'a str {
        let (_, rest) = text.split_once(start).unwrap_or_else(|| panic!("{start} is missing"));
        rest.split_once(end).unwrap_or_else(|| panic!("{end} is missing")).0
    }

    /// Returns the words in backticks.
    fn quoted(text: &str) -> Vec<&str> {
        text.split('`').skip(1).step_by(2).collect()
    }

    #[test]
    fn all_kinds_of_entries_are_specified() {
        let table = between(FORMAT, "| kind | name | fields | |\n", "\n\n");
        let cells = |line: &str| line.split('|').skip(1).take(2).map(|cell| cell.trim().to_owned()).collect::<Vec<_>>();
        let listed: Vec<_> = table.lines().skip(1).map(cells).collect();
        let kinds = kinds::ALL.iter().map(|(kind, name)| vec![kind.to_string(), name.to_lowercase().replace('_', " ")]);
        assert_eq!(listed, kinds.collect::<Vec<_>>());
        assert_eq!(kinds::ALL.len(), 39);
    }

    #[test]
    fn all_counters_are_specified_in_their_order() {
        let listed = quoted(between(FORMAT, "<!-- counters -->", "<!-- end -->"));
        let named = Counters::default().named();
        let rejects = Reject::ALL.iter().map(|reject| reject.word());
        assert_eq!(listed, named.iter().map(|(name, _)| *name).chain(rejects).collect::<Vec<_>>());
        let count = Counters::default().all_mut().count();
        assert_eq!(count, named.len() + CloseReason::ALL.len() + Reject::ALL.len());
    }

    #[test]
    fn all_close_reasons_are_specified_with_their_numbers() {
        let line =
            |&reason: &CloseReason| format!("| {} | {} | {} |\n", reason.kind() as u8, reason.code(), reason.word());
        let expected: String = CloseReason::ALL.iter().map(line).collect();
        let table =
            between(FORMAT, "<!-- closes -->\n| number | code | reason |\n| ---: | ---: | --- |\n", "<!-- end -->");
        assert_eq!(table, expected, "the table should be:\n{expected}");
    }

    /// Sends every text back.
    struct Mirror;

    impl App for Mirror {
        const PROTOCOL: Protocol = Protocol::Raw;

        fn authorize(&mut self, _: &mut Context<'_>, request: &Request<'_>) -> Authorization {
            Authorization::token_is_user(request)
        }

        fn on_message(&mut self, cx: &mut Context<'_>, from: &Member, message: Message<'_>) {
            if let Message::Text(text) = message {
                cx.send_to_conn(from.conn(), &Frame::text(text));
            }
        }
    }

    /// Keeps the bytes of each write.
    #[derive(Default)]
    struct Writes(Vec<Vec<u8>>);

    impl Transport for Writes {
        type Socket<'a> = &'a mut Vec<u8>;

        fn socket(&mut self, _: ConnId) -> Option<&mut Vec<u8>> {
            self.0.push(Vec::new());
            self.0.last_mut()
        }

        fn wrote(&mut self, _: ConnId, _: &io::Result<Flow>) {}

        fn closed(&mut self, _: ConnId, _: CloseReason) {}
    }

    /// The first segment of a session of this build, with the default configuration.
    fn first_segment(start: Start) -> Segment {
        Segment {
            session: 5,
            number: 0,
            chain: 0,
            build: BUILD.to_owned(),
            app: "Mirror".to_owned(),
            unix_micros: start.unix_micros,
            seed: start.seed,
            config: String::new(),
            turn: 0,
            start: None,
            edition: Edition::CURRENT.number(),
            compressor: None,
        }
    }

    /// Records the session of the example. Returns the journal and the writes.
    fn example() -> (Vec<u8>, Vec<Vec<u8>>) {
        let config = Config { max_connections: Limit::at_most(2), ..Config::default() }.check().expect("valid");
        let start = Start { unix_micros: 1_000_000, seed: 7 };
        let config_text = "max_connections=2\n".to_owned();
        let segment = Segment { build: "0.1.0-example".to_owned(), config: config_text, ..first_segment(start) };
        let recorder = JournalRecorder::begin(segment, &config, Vec::new()).expect("memory takes all bytes");
        let mut engine = Engine::new(config, start, Mirror);
        engine.record(Box::new(recorder));
        let (mut writes, millisecond) = (Writes::default(), Time::from_micros(1000));
        let conn = engine.handle_accept(Time::ZERO, ([127, 0, 0, 1], 4000).into()).expect("there is room");
        let request = "GET /ws/a?token=u HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                       Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
                       Sec-WebSocket-Protocol: abc\r\n\r\n";
        engine.handle_bytes(millisecond, conn, request.as_bytes());
        engine.end_turn(millisecond, &mut writes).expect("memory takes all bytes");
        let now = Time::from_micros(2000);
        engine.handle_bytes(now, conn, &[0x81, 0x82, 0, 0, 0, 0, b'h', b'i']);
        engine.end_turn(now, &mut writes).expect("memory takes all bytes");
        (finish(&mut engine).expect("the engine was recorded"), writes.0)
    }

    /// Returns the bytes of a dump. Two spaces precede the explanation in a line.
    fn bytes_of(dump: &str) -> Vec<u8> {
        let hex = dump.lines().flat_map(|line| line.split("  ").next().unwrap_or_default().split_whitespace());
        hex.map(|byte| u8::from_str_radix(byte, 16).unwrap_or_else(|_| panic!("{byte} is no byte"))).collect()
    }

    /// Opens a journal whose messages were compressed with `compressor`.
    fn open_compressed(compressor: &str) -> Result<(), String> {
        let config = Config::default().check().expect("valid");
        let compressor = Some(compressor.to_owned());
        let segment = Segment { compressor, ..first_segment(Start { unix_micros: 0, seed: 7 }) };
        let mut recorder = JournalRecorder::begin(segment, &config, Vec::new()).expect("memory takes all bytes");
        let journal = recorder.take_sink();
        Replay::open(&*journal, Mirror, true).map(|_| ()).map_err(|failure| failure.to_string())
    }

    #[test]
    fn a_journal_with_another_compressor_is_refused() {
        let refusal = open_compressed("zlib-rs 0.5.0").expect_err("another version");
        assert!(refusal.starts_with("its messages were compressed with zlib-rs 0.5.0, and this build "), "{refusal}");
        match COMPRESSOR {
            Some(own) => {
                assert!(refusal.ends_with(&format!("compresses with {own}, perhaps to other bytes")), "{refusal}");
                assert_eq!(open_compressed(own), Ok(()));
            }
            None => assert!(refusal.ends_with("cannot compress; build it with --features deflate"), "{refusal}"),
        }
    }

    #[test]
    fn the_example_is_what_the_recorder_writes() {
        let (journal, writes) = example();
        let (_, section) = FORMAT.split_once("## Example\n").expect("the section is there");
        let listed: Vec<&str> = section.split("```").skip(1).step_by(2).map(|block| &block["text\n".len()..]).collect();
        let [response, frame, dump] = listed[..] else { panic!("three blocks") };
        assert_eq!([response.replace('\n', "\r\n").into_bytes(), bytes_of(frame)], *writes);
        let hex: Vec<String> = journal.iter().map(|byte| format!("{byte:02x}")).collect();
        assert!(bytes_of(dump) == journal, "the bytes should be: {}", hex.join(" "));
        let mut replay = Replay::open(&*journal, Mirror, true).expect("the example can be replayed");
        while replay.step().expect("nothing differs") != Step::End {}
        assert_eq!(replay.summary().confirmed, 2);
    }
}
