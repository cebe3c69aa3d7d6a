//! Compressed messages (RFC 7692).

mod receiving;
mod recording;
mod sending;

use flate2::{Compress, Compression, FlushCompress};
use lobbyd::sim::wire::{self, Opcode};
use lobbyd::{App, Config};

use crate::common::scenario::World;

const OFFER: &str = "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits";
const MASK: [u8; 4] = [0x11, 0x22, 0x33, 0x44];

/// Compression is on.
fn on() -> Config {
    Config { deflate: true, ..Config::default() }
}

/// Compresses a message as a client does, with another implementation.
fn payload(message: &[u8]) -> Vec<u8> {
    let mut written = Vec::with_capacity(message.len() + 1000);
    let mut stream = Compress::new(Compression::best(), false);
    stream.compress_vec(message, &mut written, FlushCompress::Sync).expect("there is room");
    written.truncate(written.len() - 4);
    written
}

/// Empty blocks, each with as many codes as possible and with an empty stored block behind it, so that it ends with a byte.
fn codes(count: usize) -> Vec<u8> {
    // The codes for the lengths 1 to 15 and for zeros have four bits each. The literals 0 to 14 have codes of 2 to 15 bits.
    const BLOCKS: [u8; 25] =
        *b"\x04\xe0\x01\x82\x24\x49\x92\x24\x49\x22\xb1\xa8\x79\x64\xf5\xec\xdd\xff\x9f\x0b\0\0\0\xff\xff";
    BLOCKS.repeat(count)
}

/// A frame with the bit RSV1.
fn marked(opcode: Opcode, is_final: bool, payload: &[u8]) -> Vec<u8> {
    let mut bytes = wire::frame(opcode, is_final, payload, MASK);
    bytes[0] |= 0x40;
    bytes
}

/// A text in one compressed frame.
fn text(text: &str) -> Vec<u8> {
    marked(Opcode::TEXT, true, &payload(text.as_bytes()))
}

/// Connects clients to a lobby, one after the other, which take compressed messages unless their name begins with `plain`.
/// Discards what they receive.
fn join<A: App>(world: &mut World<A>, lobby: &str, names: &[&str]) {
    for name in names {
        let user = name.split(':').next().expect("a name");
        let offer = if name.starts_with("plain") { "" } else { OFFER };
        world.steps(&format!("{name} > get /ws/{lobby}?token={user} {offer}"));
    }
    for name in names {
        assert!(world.take(name).first().is_some_and(|first| first == "upgrade"), "{name} is connected");
    }
}

/// A JSON text of this many bytes, which compresses well.
fn long(bytes: usize) -> String {
    let mut text: String = (0..bytes / 8).map(|n| format!("\"{:04}\",", n % 100)).collect();
    text.truncate(bytes.saturating_sub(4));
    let cut = text.rfind(',').unwrap_or(0);
    format!("[{}]", &text[..cut])
}
