//! Compression and decompression of one payload, with `zlib-rs`.

use std::fmt;

use zlib_rs::{Deflate, DeflateFlush, Inflate, InflateFlush, Status};

use super::blocks::BlockCounter;
use super::offer::WINDOW_BITS;
use super::work::Blocks;

/// Name and version of the library, as `Cargo.toml` pins it.
pub(super) const COMPRESSOR: &str = "zlib-rs 0.6.8";

/// The fastest level that finds repeated text at a distance.
const LEVEL: i32 = 2;
/// What follows the data of each message and is not sent (RFC 7692 section 7.2.1): an empty block without its header.
const TAIL: [u8; 4] = [0, 0, 0xff, 0xff];
/// The same, and an empty block that ends the stream. It can be read only where a block begins, so it shows that the data is
/// complete.
const END: [u8; 9] = [0, 0, 0xff, 0xff, 1, 0, 0, 0xff, 0xff];
/// Most blocks of a message of either kind, beside those that its length allows.
const FREE_BLOCKS: usize = 256;
/// Fewest bytes that a message contains for each block with codes of its own. Compressors begin a new one after 127 symbols at
/// the earliest, or to flush. Those for few bytes would be shorter with the shared codes.
const BLOCK_BYTES: usize = 64;
/// Fewest bytes of compressed data for each other block. A single byte of contents and the flush after it take 7, in two blocks.
const OTHER_BLOCK_BYTES: usize = 3;
/// Size of the first buffer for the output, if the data is not longer.
const FIRST_ROOM: usize = 4096;

/// The window of the decompressor: a client may use the largest. [`Inflate::reset`] sets the same, whichever was set before.
const MAX_WINDOW_BITS: u8 = 15;

/// Compresses payloads, each by itself. Its memory, of some 300 KB, is allocated at the first one.
#[derive(Default)]
pub(super) struct Deflater(Option<Box<Deflate>>);

impl fmt::Debug for Deflater {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Deflater").field(&self.0.is_some()).finish()
    }
}

impl Deflater {
    /// Compresses `payload` to the beginning of `output`, which has at least `room_for` it. Returns the
    /// number of bytes; `None` if they are not fewer.
    pub(super) fn deflate(&mut self, payload: &[u8], output: &mut [u8]) -> Option<usize> {
        let deflate = self.0.get_or_insert_with(|| Box::new(Deflate::new(LEVEL, false, WINDOW_BITS)));
        deflate.reset();
        let status = deflate.compress(payload, output, DeflateFlush::SyncFlush);
        let written = usize::try_from(deflate.total_out()).expect("it is at most the length of the output");
        if status != Ok(Status::Ok) || written == output.len() {
            // Output that was not written stays in the stream, even after a reset.
            self.0 = None;
            return None;
        }
        let length = written.checked_sub(TAIL.len()).filter(|&length| length < payload.len())?;
        debug_assert_eq!(output[length..written], TAIL, "a flush ends with an empty block");
        Some(length)
    }
}

/// Why a payload cannot be decompressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum InflateFault {
    /// It is not compressed data, or it is cut off.
    Invalid,
    /// The message is longer than allowed.
    TooLong,
}

/// Decompresses payloads, each by itself. Its memory, of some 50 KB, is allocated at the first one.
#[derive(Default)]
pub(super) struct Inflater(Option<Box<Inflate>>);

impl fmt::Debug for Inflater {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Inflater").field(&self.0.is_some()).finish()
    }
}

impl Inflater {
    /// Decompresses `payload` into `to`, which then contains the message. Returns of which blocks it consists.
    pub(super) fn inflate(
        &mut self,
        payload: &[u8],
        to: &mut Vec<u8>,
        max_bytes: usize,
    ) -> Result<Blocks, InflateFault> {
        to.clear();
        // Some clients send an empty message as no data at all.
        if payload.is_empty() {
            return Ok(Blocks::default());
        }
        let inflate = self.0.get_or_insert_with(|| Box::new(Inflate::new(false, MAX_WINDOW_BITS)));
        inflate.reset(false);
        let max_others = FREE_BLOCKS + payload.len() / OTHER_BLOCK_BYTES;
        let mut output = Output { to, length: 0, max_bytes, counter: BlockCounter::default(), max_others };
        let mut rest = payload;
        output.counter.begin_stream(rest);
        // A block may say that it is the last one. What follows it is another stream (RFC 7692 section 7.2.3.4).
        while output.inflate(inflate, &mut rest)? == Status::StreamEnd {
            if rest.is_empty() {
                return Ok(output.finish());
            }
            inflate.reset(false);
            output.counter.begin_stream(rest);
        }
        let mut end = &END[..];
        let before = output.length;
        let status = output.inflate(inflate, &mut end)?;
        // The data may end with an empty block that is the last one of its stream, but for these four bytes.
        let is_complete = end.is_empty() || end.len() == END.len() - TAIL.len();
        if status != Status::StreamEnd || !is_complete || output.length != before {
            return Err(InflateFault::Invalid);
        }
        Ok(output.finish())
    }
}

/// The message so far, in a buffer that has room behind it.
struct Output<'a> {
    to: &'a mut Vec<u8>,
    length: usize,
    max_bytes: usize,
    counter: BlockCounter,
    /// Most blocks without codes of their own.
    max_others: usize,
}

impl Output<'_> {
    /// Decompresses `rest`, until all of it is consumed or a stream ends.
    fn inflate(&mut self, inflate: &mut Inflate, rest: &mut &[u8]) -> Result<Status, InflateFault> {
        loop {
            if self.length == self.to.len() {
                // One byte more than allowed shows that the message is too long.
                let room = (2 * self.length).max(FIRST_ROOM.max(4 * rest.len())).min(self.max_bytes + 1);
                if self.length >= room {
                    return Err(InflateFault::TooLong);
                }
                // Growing by itself, the buffer could become twice as large as the message may be.
                self.to.reserve_exact(room - self.length);
                self.to.resize(room, 0);
            }
            let (consumed, produced) = (inflate.total_in(), inflate.total_out());
            // Stops at the end of each block.
            let status = inflate
                .decompress(rest, &mut self.to[self.length..], InflateFlush::Block)
                .map_err(|_| InflateFault::Invalid)?;
            let (consumed, produced) =
                ((inflate.total_in() - consumed) as usize, (inflate.total_out() - produced) as usize);
            *rest = &rest[consumed..];
            self.length += produced;
            if self.length > self.max_bytes {
                return Err(InflateFault::TooLong);
            }
            self.counter.advance(consumed, produced);
            // It may have stopped because the buffer is full.
            if self.length == self.to.len() {
                self.counter.lose_track();
            } else {
                self.counter.end_block(rest);
            }
            let Blocks { with_codes, others } = self.counter.blocks();
            if with_codes > FREE_BLOCKS + self.length / BLOCK_BYTES || others > self.max_others {
                return Err(InflateFault::Invalid);
            }
            match status {
                Status::StreamEnd => return Ok(status),
                // Nothing was read or written. If the buffer is full, some of the output may wait in the stream.
                Status::BufError if self.length < self.to.len() => {
                    return if rest.is_empty() { Ok(Status::Ok) } else { Err(InflateFault::Invalid) };
                }
                _ => {}
            }
        }
    }

    fn finish(self) -> Blocks {
        self.to.truncate(self.length);
        self.counter.blocks()
    }
}

#[cfg(test)]
mod tests {
    use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress};

    use super::super::Compressor;
    use super::*;
    use crate::base::random::Random;
    use crate::ws::frame::{Frame, header_length};

    const MAX: usize = 300_000;

    /// A text with repetitions near and far, or bytes without any.
    fn message(random: &mut Random) -> Vec<u8> {
        let longest = [200, 2000, 2000, 20_000, MAX as u64][random.below(5) as usize];
        let length = random.below(longest) as usize;
        let mut bytes = Vec::new();
        while bytes.len() < length {
            match random.below(4) {
                0 => bytes.extend_from_slice(&random.next_u64().to_le_bytes()),
                1 => bytes.extend(std::iter::repeat_n(b'x', random.below(400) as usize)),
                _ => bytes.extend_from_slice(format!("{{\"x\":{}}}", random.below(1000)).as_bytes()),
            }
        }
        bytes.truncate(MAX);
        bytes
    }

    /// A stream that has not written all of its output keeps room for it, also after a reset, until it has none.
    #[test]
    fn messages_that_become_no_shorter_leave_nothing_behind() {
        let (mut compressor, mut random) = (Compressor::default(), Random::new(1));
        for length in [256, 300, 1000, 5000, 70_000] {
            for _ in 0..300 {
                let noise: Vec<u8> = (0..length).map(|_| random.next_u64() as u8).collect();
                let frame = Frame::binary(&noise);
                assert!(compressor.compress(&frame) == frame);
            }
        }
        let frame = Frame::binary(&[7; 1000]);
        assert_eq!(compressor.compress(&frame), Compressor::default().compress(&frame));
    }

    /// Decompresses with the other implementation.
    fn decompressed(payload: &[u8], length: usize) -> Vec<u8> {
        let mut read = Vec::with_capacity(length + 1);
        let payload = [payload, &TAIL].concat();
        Decompress::new(false).decompress_vec(&payload, &mut read, FlushDecompress::Sync).expect("valid data");
        read
    }

    /// Compresses with the other implementation.
    fn compressed(message: &[u8], level: u32) -> Vec<u8> {
        let mut written = Vec::with_capacity(2 * message.len() + 1000);
        let level = Compression::new(level);
        Compress::new(level, false).compress_vec(message, &mut written, FlushCompress::Sync).expect("there is room");
        assert!(written.ends_with(&TAIL));
        written.truncate(written.len() - TAIL.len());
        written
    }

    #[test]
    fn another_implementation_reads_what_is_compressed() {
        let (mut compressor, mut shorter, mut unchanged) = (Compressor::default(), 0, 0);
        for seed in 0..400 {
            let mut random = Random::new(seed);
            let message = message(&mut random);
            let plain = Frame::binary(&message);
            compressor.begin_turn();
            let frame = compressor.compress(&plain);
            let bytes = frame.as_bytes();
            if frame == plain {
                unchanged += 1;
                continue;
            }
            assert!(bytes.len() < plain.as_bytes().len() && message.len() >= 256, "seed {seed}");
            assert_eq!(bytes[0], 0xc2, "RSV1, the last frame, binary");
            let payload = &bytes[header_length(bytes)..];
            let length = Frame::binary(payload);
            assert_eq!(length.as_bytes()[1..], bytes[1..], "the length is in its shortest form");
            assert!(decompressed(payload, message.len()) == message, "seed {seed}");
            // The same bytes by a compressor that has compressed nothing before.
            assert_eq!(Compressor::default().compress(&plain), frame);
            shorter += 1;
        }
        assert!(shorter > 200 && unchanged > 40, "{shorter} {unchanged}");
        let totals = compressor.take_totals();
        assert!(totals.frames >= shorter && totals.bytes_after < totals.bytes_before, "{totals:?}");
    }

    #[test]
    fn what_another_implementation_compresses_is_read() {
        let (mut inflater, mut read) = (Inflater::default(), Vec::new());
        for seed in 0..400 {
            let mut random = Random::new(seed);
            let message = message(&mut random);
            let payload = compressed(&message, random.below(10) as u32);
            assert!(inflater.inflate(&payload, &mut read, MAX).is_ok(), "seed {seed}");
            assert!(read == message, "seed {seed}");
            assert!(inflater.inflate(&payload, &mut read, message.len()).is_ok());
            if let Some(less) = message.len().checked_sub(1) {
                assert_eq!(inflater.inflate(&payload, &mut read, less), Err(InflateFault::TooLong), "seed {seed}");
                let cut = random.below(payload.len() as u64) as usize;
                if cut > 0 {
                    // A part may end where a block does.
                    let part = inflater.inflate(&payload[..cut], &mut read, MAX);
                    assert!(part.is_err() || message.starts_with(&read), "seed {seed}");
                }
            }
        }
    }

    /// The examples of RFC 7692 sections 7.2.3.1 to 7.2.3.6, as whole payloads.
    #[test]
    fn the_examples_of_the_specification_are_read() {
        for (payload, message) in [
            (&b"\xf2\x48\xcd\xc9\xc9\x07\x00"[..], &b"Hello"[..]),
            (b"\x00\x05\x00\xfa\xff\x48\x65\x6c\x6c\x6f\x00", b"Hello"),
            (b"\xf3\x48\xcd\xc9\xc9\x07\x00\x00", b"Hello"),
            (b"\xf3\x48\xcd\xc9\xc9\x07\x00", b"Hello"),
            (b"\xf2\x48\x05\x00\x00\x00\xff\xff\xca\xc9\xc9\x07\x00", b"Hello"),
            // The same, and an empty block that ends the stream: a flush, and then the end of the stream.
            (b"\xf2\x48\xcd\xc9\xc9\x07\x00\x00\x00\xff\xff\x01", b"Hello"),
            (b"\x00", b""),
            (b"\x01", b""),
            (b"\x02\x00", b""),
            (b"", b""),
        ] {
            let (mut inflater, mut read) = (Inflater::default(), b"former".to_vec());
            assert!(inflater.inflate(payload, &mut read, 5).is_ok(), "{payload:x?}");
            assert_eq!(read, message);
        }
        // The second message of section 7.2.3.2 refers to the first one.
        let (mut inflater, mut read) = (Inflater::default(), Vec::new());
        assert!(inflater.inflate(b"\xf2\x48\xcd\xc9\xc9\x07\x00", &mut read, 5).is_ok());
        assert_eq!(inflater.inflate(b"\xf2\x00\x11\x00\x00", &mut read, 5), Err(InflateFault::Invalid));
    }

    #[test]
    fn data_that_is_none_or_is_cut_off_is_invalid() {
        let whole = compressed(&b"a text that is compressed, a text that is compressed".repeat(20), 6);
        let (mut inflater, mut read) = (Inflater::default(), Vec::new());
        for cut in 1..whole.len() {
            assert_eq!(inflater.inflate(&whole[..cut], &mut read, MAX), Err(InflateFault::Invalid), "{cut}");
        }
        for payload in [&b"\x07"[..], b"\xff\xff\xff", b"\x00\x05\x00\xfa\xfe\x48", b"\xf2\x48\xcd\xc9\xc9\x07"] {
            assert_eq!(inflater.inflate(payload, &mut read, MAX), Err(InflateFault::Invalid), "{payload:x?}");
        }
        // What was wrong has no effect on the next message.
        assert!(inflater.inflate(&whole, &mut read, MAX).is_ok());
    }

    /// Bits from the first one on, as RFC 1951 section 3.1.1 packs them.
    fn packed(bits: &str) -> Vec<u8> {
        let bits: Vec<u8> = bits.bytes().map(|bit| bit - b'0').collect();
        bits.chunks(8).map(|byte| byte.iter().rev().fold(0, |all, bit| all << 1 | bit)).collect()
    }

    /// An empty block that is not the last one, with as many codes as possible.
    fn block_of_codes() -> String {
        // Numbers begin with the lowest bit, codes with the highest.
        let number = |value: u32, bits: u32| (0..bits).map(move |at| char::from(b'0' + (value >> at & 1) as u8));
        // Sixteen codes of four bits each for the lengths 1 to 15, and for many zeros.
        let lengths = [16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15];
        let code = |symbol: u32| format!("{:04b}", if symbol == 18 { 15 } else { symbol - 1 });
        let mut block = String::from("001");
        block.extend(number(0, 5).chain(number(0, 5)).chain(number(15, 4)));
        block.extend(lengths.iter().flat_map(|&it| number(if matches!(it, 0 | 16 | 17) { 0 } else { 4 }, 3)));
        // The literals 0 to 14 have codes of 2 to 15 bits, and the end of the block has one of a single bit.
        block.extend((2..=15).chain([15]).map(code));
        for zeros in [138, 103] {
            block += &code(18);
            block.extend(number(zeros - 11, 7));
        }
        block += &code(1);
        // One code for a distance, and the end of the block.
        block + &code(1) + "0"
    }

    #[test]
    fn the_blocks_of_a_message_are_bounded() {
        let (mut inflater, mut read) = (Inflater::default(), Vec::new());
        let mut message = |payload: Vec<u8>| inflater.inflate(&payload, &mut read, MAX);
        // Empty blocks, each the last one of its stream, and the beginning of the empty block at the end.
        let streams = |number: usize| [b"\x03\x00".repeat(number), vec![0]].concat();
        // Empty blocks with the shared codes.
        let shared = |number: usize| [packed(&"0100000000".repeat(4 * number)), vec![0]].concat();
        let codes = |number: usize| [packed(&block_of_codes().repeat(8 * number)), vec![0]].concat();
        assert!(codes(1).len() < 8 * 22);
        // The same, each with a flush behind it.
        let flush = [packed(&(block_of_codes() + "000")), TAIL.to_vec()].concat();
        let flushed = |number: usize| [flush.repeat(number), vec![0]].concat();
        for (few, many) in [
            (streams(100), streams(1000)),
            (shared(100), shared(200)),
            (codes(30), codes(40)),
            (flushed(240), flushed(270)),
        ] {
            assert!(message(few.clone()).is_ok(), "{few:x?}");
            assert_eq!(message(many), Err(InflateFault::Invalid));
        }
    }

    /// Compresses a text piece by piece, and flushes after each one.
    fn flushed(text: &[u8], piece: usize, level: u8) -> Vec<u8> {
        let mut stream = Deflate::new(level.into(), false, 15);
        let mut written = Vec::new();
        for piece in text.chunks(piece) {
            let (start, before) = (written.len(), stream.total_out());
            written.resize(start + 2 * piece.len() + 1000, 0);
            stream.compress(piece, &mut written[start..], DeflateFlush::SyncFlush).expect("there is room");
            written.truncate(start + (stream.total_out() - before) as usize);
        }
        written.truncate(written.len() - TAIL.len());
        written
    }

    /// Such a client sends a part of its message in each frame.
    #[test]
    fn a_client_may_flush_often() {
        let (mut inflater, mut read, mut random) = (Inflater::default(), Vec::new(), Random::new(1));
        let mut repeated = b"{\"x\":123,\"y\":456}".repeat(3000);
        let mut digits: Vec<u8> = (0..60_000).map(|_| b'0' + random.below(10) as u8).collect();
        let mut noise: Vec<u8> = (0..60_000).map(|_| random.next_u64() as u8).collect();
        for text in [&mut repeated, &mut digits, &mut noise] {
            for (piece, most) in [(1, 9000), (5, 40_000), (20, 60_000), (60, 60_000), (200, 60_000), (2000, 60_000)] {
                for level in [0, 1, 6, 9] {
                    let text = &text[..text.len().min(most)];
                    let payload = flushed(text, piece, level);
                    assert!(inflater.inflate(&payload, &mut read, MAX).is_ok(), "{piece} at level {level}");
                    assert!(read == text);
                }
            }
        }
    }

    /// 1 KB that would become 1 MB, and 1 MB that would become 1 GB.
    #[test]
    fn the_output_is_bounded_however_much_the_data_would_become() {
        let (mut inflater, mut read) = (Inflater::default(), Vec::new());
        let million = compressed(&vec![0; 1 << 20], 9);
        assert!(million.len() < 1100);
        let thousand = [&million[..], &TAIL].concat().repeat(1000);
        let bombs = [million.clone(), thousand[..thousand.len() - TAIL.len()].to_vec()];
        for bomb in &bombs {
            for max_bytes in [0, 1, 125, 64 * 1024, (1 << 20) - 1] {
                assert_eq!(inflater.inflate(bomb, &mut read, max_bytes), Err(InflateFault::TooLong));
                assert!(read.capacity() <= (max_bytes + 1).max(8), "{} for {max_bytes}", read.capacity());
                read = Vec::new();
            }
        }
        assert!(inflater.inflate(&million, &mut read, 1 << 20).is_ok());
    }
}
