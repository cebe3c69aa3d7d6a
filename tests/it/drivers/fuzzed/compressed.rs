//! Frames on a connection that may send compressed messages, compared with another implementation of DEFLATE. The first byte
//! selects how the stream is cut, and the others choose the frames and their payloads. Some payloads are what the other
//! implementation makes of them.

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};
use lobbyd::config::ByteSize;
use lobbyd::sim::MemorySockets;
use lobbyd::sim::wire::{self, Opcode, Reader};
use lobbyd::{CloseReason, Config, Engine, Time};

use super::{Delivered, Input, Recorder, START, pieces, without_rates};

const MAX_MESSAGE: usize = 1000;
const OFFER: &str = "Sec-WebSocket-Extensions: permessage-deflate";

pub fn run(data: &[u8]) {
    let mut input = Input(data);
    let seed = input.byte();
    let Frames { stream, messages: expected, certain } = frames(&mut input);
    let (delivered, ended) = run_engine(&stream, 0);
    for seed in [1, seed] {
        assert_eq!(run_engine(&stream, seed), (delivered.clone(), ended), "in pieces");
    }
    // The model reads what the engine refuses if its data is cut off, since it does not notice that, or has odd codes.
    assert!(expected.starts_with(&delivered), "{delivered:?} {expected:?}");
    assert!(delivered.len() >= certain, "{delivered:?} {expected:?}");
    match ended {
        None => assert_eq!(delivered, expected),
        Some(reason) => assert!([1002, 1007, 1008, 1009].contains(&reason.code()), "{reason}"),
    }
}

struct Frames {
    stream: Vec<u8>,
    /// The messages up to the first that must not be delivered.
    messages: Vec<Delivered>,
    /// How many of them must be delivered: those before the first whose compressed data the input has chosen.
    certain: usize,
}

/// The frames that the input chooses.
fn frames(input: &mut Input<'_>) -> Frames {
    let (mut stream, mut messages, mut is_valid) = (Vec::new(), Vec::new(), true);
    let mut chosen_at = None;
    let mut begun: Option<(bool, bool, Vec<u8>)> = None;
    while !input.0.is_empty() {
        let bits = input.byte();
        let (is_marked, is_final, is_text, is_control) = (bits & 1 != 0, bits & 2 == 0, bits & 4 != 0, bits & 24 == 24);
        let length = usize::from(input.byte()) * if bits & 32 == 0 { 1 } else { 8 };
        let payload = input.take(length);
        let is_written = is_marked && is_final && !is_control && begun.is_none() && bits & 128 != 0;
        let written = is_written.then(|| compress(payload, bits & 64 != 0));
        let payload = written.as_deref().unwrap_or(payload);
        let opcode = match &begun {
            _ if is_control => Opcode::PING,
            Some(_) => Opcode::CONTINUATION,
            None if is_text => Opcode::TEXT,
            None => Opcode::BINARY,
        };
        let mut frame = wire::frame(opcode, is_final || (is_control && bits & 64 == 0), payload, [bits, 2, 3, 4]);
        frame[0] |= u8::from(is_marked) << 6;
        stream.extend(frame);
        if is_control {
            is_valid &= !is_marked && payload.len() <= 125 && (is_final || bits & 64 == 0);
            continue;
        }
        is_valid &= !is_marked || begun.is_none();
        let (is_text, is_compressed, mut message) = begun.take().unwrap_or((is_text, is_marked, Vec::new()));
        message.extend_from_slice(payload);
        if !is_final {
            begun = Some((is_text, is_compressed, message));
            continue;
        }
        if is_compressed && !is_written {
            chosen_at.get_or_insert(messages.len());
        }
        let message = if is_compressed { decompress(&message) } else { Some(message) };
        let message = message.filter(|message| message.len() <= MAX_MESSAGE);
        match message.filter(|message| !is_text || str::from_utf8(message).is_ok()) {
            Some(message) if is_valid => messages.push((is_text, message)),
            _ => is_valid = false,
        }
    }
    let certain = chosen_at.unwrap_or(messages.len());
    Frames { stream, messages, certain }
}

/// Compresses a message. `is_closed`: the compressor is flushed, and then its stream is ended by an empty block.
fn compress(message: &[u8], is_closed: bool) -> Vec<u8> {
    let mut written = Vec::with_capacity(message.len() + 1000);
    let mut stream = Compress::new(Compression::fast(), false);
    stream.compress_vec(message, &mut written, FlushCompress::Sync).expect("there is room");
    if is_closed {
        written.push(1);
    } else {
        written.truncate(written.len() - 4);
    }
    written
}

/// Decompresses a payload; `None` if it is not valid.
fn decompress(payload: &[u8]) -> Option<Vec<u8>> {
    if payload.is_empty() {
        return Some(Vec::new());
    }
    let (mut message, mut rest) = (Vec::with_capacity(MAX_MESSAGE + 1), payload);
    loop {
        let mut stream = Decompress::new(false);
        let tail = [rest, &[0, 0, 0xff, 0xff]].concat();
        let status = stream.decompress_vec(&tail, &mut message, FlushDecompress::Sync).ok()?;
        let read = stream.total_in() as usize;
        if status != Status::StreamEnd || read >= rest.len() {
            // More than it has room for is too long anyway.
            return (read <= rest.len() + 4).then_some(message);
        }
        rest = &rest[read..];
    }
}

/// The messages of the only member, and why its connection ended. It receives what it has sent.
fn run_engine(stream: &[u8], seed: u8) -> (Vec<Delivered>, Option<CloseReason>) {
    let max_message_bytes = ByteSize(MAX_MESSAGE);
    let config = Config { max_message_bytes, deflate: true, ..without_rates() };
    let app = Recorder { broadcasts: true, ..Recorder::default() };
    let mut engine = Engine::new(config.check().expect("the configuration is valid"), START, app);
    let conn = engine.handle_accept(Time::ZERO, ([127, 0, 0, 1], 4000).into()).expect("there is room");
    engine.handle_bytes(Time::ZERO, conn, &wire::upgrade_request("/ws/a?token=ann", &[OFFER]));
    let mut sockets = MemorySockets::default();
    for piece in pieces(stream, seed) {
        engine.handle_bytes(Time::ZERO, conn, piece);
        engine.flush(&mut sockets).expect("the session is not recorded");
    }
    engine.flush(&mut sockets).expect("the session is not recorded");
    engine.check();
    let mut reader = Reader::default();
    reader.push(&sockets.written(conn));
    let mut received = Vec::new();
    while let Some(unit) = reader.next().expect("the server keeps to the protocol") {
        match unit {
            wire::Received::Text(text) => received.push((true, text.into_bytes())),
            wire::Received::Binary(bytes) => received.push((false, bytes)),
            _ => {}
        }
    }
    let counters = engine.stats().counters;
    let ended = CloseReason::ALL.iter().copied().find(|&reason| counters.closed(reason) > 0);
    let delivered = std::mem::take(&mut engine.app_mut().delivered);
    assert!(delivered.starts_with(&received), "what was sent back is what was received");
    assert!(ended.is_some() || received == delivered);
    (delivered, ended)
}
