//! A stream of frames on an open WebSocket, compared with tungstenite. The first byte selects how the stream is cut.

use std::io::{self, Read, Write};

use lobbyd::config::ByteSize;
use lobbyd::sim::MemorySockets;
use lobbyd::sim::wire::{self, Reader, Received};
use lobbyd::{CloseReason, Config, Engine, Time};
use tungstenite::protocol::{Role, WebSocketConfig, WebSocketContext};

use super::{Delivered, Recorder, START, pieces, without_rates};

const MAX_MESSAGE: usize = 300;

/// The messages, the bytes sent back, and the close reason.
#[derive(Debug, PartialEq)]
struct Outcome {
    delivered: Vec<Delivered>,
    answered: Vec<u8>,
    ended: Option<CloseReason>,
}

pub fn run(data: &[u8]) {
    let Some((&seed, stream)) = data.split_first() else { return };
    let whole = run_engine(stream, 0);
    assert_eq!(run_engine(stream, 1), whole, "byte by byte");
    assert_eq!(run_engine(stream, seed), whole, "in pieces");

    let mut reader = Reader::default();
    reader.push(b"HTTP/1.1 101 Switching Protocols\r\n\r\n");
    reader.push(&whole.answered);
    let mut closed = None;
    while let Some(received) = reader.next().expect("the server keeps to the protocol") {
        if let Received::Close(code, _) = received {
            closed = Some(code);
        }
    }
    assert_eq!(closed.is_some(), whole.ended.is_some(), "every close has a close frame");

    let (delivered, answered, failed) = run_tungstenite(stream);
    match whole.ended {
        // tungstenite does not know this code, which IANA has registered.
        Some(CloseReason::PeerClosed) if closed == Some(1014) => assert_eq!(whole.delivered, delivered),
        None | Some(CloseReason::PeerClosed | CloseReason::PeerGone) => {
            let is_gone = whole.ended == Some(CloseReason::PeerGone);
            assert_eq!(is_gone, matches!(closed, Some(1001 | 1005)), "{closed:?}");
            assert!(!failed, "tungstenite refuses frames that the engine accepted");
            assert_eq!((whole.delivered, whole.answered), (delivered, answered));
        }
        Some(reason) => {
            let code = closed.expect("checked above");
            assert_eq!(code, reason.code());
            assert!([1002, 1007, 1008, 1009].contains(&code), "{code}");
            // The engine may fail earlier than tungstenite, which checks a frame once it is complete.
            assert_eq!(delivered.get(..whole.delivered.len()), Some(&whole.delivered[..]));
        }
    }
}

fn run_engine(stream: &[u8], seed: u8) -> Outcome {
    let config = Config { max_message_bytes: ByteSize(MAX_MESSAGE), ..without_rates() };
    let mut engine = Engine::new(config.check().expect("the configuration is valid"), START, Recorder::default());
    let conn = engine.handle_accept(Time::ZERO, ([127, 0, 0, 1], 4000).into()).expect("there is room");
    engine.handle_bytes(Time::ZERO, conn, &wire::upgrade_request("/ws/a?token=ann", &[]));
    engine.flush(&mut MemorySockets::default()).expect("the session is not recorded");
    let mut sockets = MemorySockets::default();
    for piece in pieces(stream, seed) {
        engine.handle_bytes(Time::ZERO, conn, piece);
        engine.flush(&mut sockets).expect("the session is not recorded");
    }
    engine.check();
    let stats = engine.stats();
    let ended = CloseReason::ALL.iter().copied().find(|&reason| stats.counters.closed(reason) > 0);
    Outcome { delivered: std::mem::take(&mut engine.app_mut().delivered), answered: sockets.written(conn), ended }
}

/// Feeds the stream to tungstenite. Returns the messages, the bytes sent back, and whether it failed.
fn run_tungstenite(stream: &[u8]) -> (Vec<Delivered>, Vec<u8>, bool) {
    let config = WebSocketConfig::default()
        .read_buffer_size(128)
        .write_buffer_size(0)
        .max_message_size(Some(MAX_MESSAGE))
        .max_frame_size(Some(MAX_MESSAGE));
    let mut context = WebSocketContext::new(Role::Server, Some(config));
    let mut socket = Socket(stream, Vec::new());
    let mut delivered = Vec::new();
    let failed = loop {
        let read = context.read(&mut socket);
        let _ = context.flush(&mut socket);
        match read {
            Ok(tungstenite::Message::Text(text)) => delivered.push((true, text.as_bytes().to_vec())),
            Ok(tungstenite::Message::Binary(bytes)) => delivered.push((false, bytes.to_vec())),
            Ok(tungstenite::Message::Close(_)) => break false,
            Ok(_) => {}
            Err(tungstenite::Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => break false,
            Err(_) => break true,
        }
    };
    (delivered, socket.1, failed)
}

/// The bytes to read, and the bytes written.
struct Socket<'a>(&'a [u8], Vec<u8>);

impl Read for Socket<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.0.is_empty() { Err(io::ErrorKind::WouldBlock.into()) } else { self.0.read(buffer) }
    }
}

impl Write for Socket<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.1.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
