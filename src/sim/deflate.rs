//! Compression of the client's side (RFC 1951): reads all that a server may send, and writes blocks of the simple forms.
//!
//! Shares no code with the server's side, so that each checks the other. It is slow.

use crate::base::random::Random;

/// Most bytes that a message may have when it is read.
const MAX_BYTES: usize = 1 << 24;
/// Longest code, in bits.
const MAX_BITS: usize = 15;
/// Shortest length of a match for each code from 257 on, and its extra bits.
const LENGTHS: [(u16, u8); 29] = [
    (3, 0),
    (4, 0),
    (5, 0),
    (6, 0),
    (7, 0),
    (8, 0),
    (9, 0),
    (10, 0),
    (11, 1),
    (13, 1),
    (15, 1),
    (17, 1),
    (19, 2),
    (23, 2),
    (27, 2),
    (31, 2),
    (35, 3),
    (43, 3),
    (51, 3),
    (59, 3),
    (67, 4),
    (83, 4),
    (99, 4),
    (115, 4),
    (131, 5),
    (163, 5),
    (195, 5),
    (227, 5),
    (258, 0),
];
/// Order in which the lengths of the codes for lengths are sent.
const ORDER: [usize; 19] = [16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15];

/// Decompresses the payload of a message (RFC 7692 section 7.2.2).
///
/// # Errors
///
/// What is wrong with the payload.
pub(crate) fn decompress(payload: &[u8]) -> Result<Vec<u8>, &'static str> {
    let bytes = [payload, &[0, 0, 0xff, 0xff]].concat();
    let mut bits = Bits { bytes: &bytes, at: 0 };
    let mut output = Vec::new();
    while bits.left() > 0 {
        // A block that is the last one may be followed by another stream. The server sends none.
        if bits.take(1)? == 1 {
            return Err("a last block");
        }
        match bits.take(2)? {
            0 => stored_block(&mut bits, &mut output)?,
            1 => {
                let (literals, distances) = fixed_codes();
                compressed_block(&mut bits, &mut output, &literals, &distances)?;
            }
            2 => {
                let (literals, distances) = dynamic_codes(&mut bits)?;
                compressed_block(&mut bits, &mut output, &literals, &distances)?;
            }
            _ => return Err("a block of the reserved type"),
        }
    }
    Ok(output)
}

/// The bits of a stream. The lowest bit of a byte comes first.
struct Bits<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Bits<'_> {
    fn left(&self) -> usize {
        self.bytes.len() * 8 - self.at
    }

    fn take(&mut self, count: u8) -> Result<u16, &'static str> {
        let mut value = 0;
        for shift in 0..count {
            let byte = self.bytes.get(self.at / 8).ok_or("the data is cut off")?;
            value |= u16::from(byte >> (self.at % 8) & 1) << shift;
            self.at += 1;
        }
        Ok(value)
    }

    fn align(&mut self) {
        self.at = self.at.next_multiple_of(8);
    }
}

fn stored_block(bits: &mut Bits<'_>, output: &mut Vec<u8>) -> Result<(), &'static str> {
    bits.align();
    let (length, complement) = (bits.take(16)?, bits.take(16)?);
    if length != !complement {
        return Err("a stored block with a wrong length");
    }
    let start = bits.at / 8;
    let stored = bits.bytes.get(start..start + usize::from(length)).ok_or("a stored block is cut off")?;
    output.extend_from_slice(stored);
    bits.at += stored.len() * 8;
    Ok(())
}

/// A canonical Huffman code: the number of codes of each length, and the symbols in the order of their codes.
struct Code {
    counts: [u16; MAX_BITS + 1],
    symbols: Vec<u16>,
}

impl Code {
    fn new(lengths: &[u8]) -> Code {
        let mut counts = [0; MAX_BITS + 1];
        let mut symbols = Vec::new();
        for (length, count) in counts.iter_mut().enumerate().skip(1) {
            for (symbol, _) in lengths.iter().enumerate().filter(|(_, other)| usize::from(**other) == length) {
                *count += 1;
                symbols.push(symbol as u16);
            }
        }
        Code { counts, symbols }
    }

    fn read(&self, bits: &mut Bits<'_>) -> Result<u16, &'static str> {
        let (mut code, mut first, mut index) = (0, 0, 0);
        for &count in &self.counts[1..] {
            code |= i32::from(bits.take(1)?);
            let count = i32::from(count);
            if code - count < first {
                return Ok(self.symbols[(index + code - first) as usize]);
            }
            index += count;
            first = (first + count) << 1;
            code <<= 1;
        }
        Err("a code that stands for nothing")
    }
}

fn fixed_codes() -> (Code, Code) {
    let lengths: Vec<u8> = (0..288).map(fixed_length).collect();
    (Code::new(&lengths), Code::new(&[5; 30]))
}

/// Length of the code of a symbol in a block with fixed codes.
fn fixed_length(symbol: u16) -> u8 {
    match symbol {
        0..144 => 8,
        144..256 => 9,
        256..280 => 7,
        _ => 8,
    }
}

fn dynamic_codes(bits: &mut Bits<'_>) -> Result<(Code, Code), &'static str> {
    let literals = usize::from(bits.take(5)?) + 257;
    let distances = usize::from(bits.take(5)?) + 1;
    let count = usize::from(bits.take(4)?) + 4;
    if literals > 286 || distances > 30 {
        return Err("more codes than there are");
    }
    let mut code_lengths = [0; 19];
    for &at in &ORDER[..count] {
        code_lengths[at] = bits.take(3)? as u8;
    }
    let code = Code::new(&code_lengths);
    let mut lengths: Vec<u8> = Vec::new();
    while lengths.len() < literals + distances {
        let (length, repeats) = match code.read(bits)? {
            symbol @ 0..16 => (symbol as u8, 1),
            16 => (*lengths.last().ok_or("nothing to repeat")?, 3 + bits.take(2)?),
            17 => (0, 3 + bits.take(3)?),
            _ => (0, 11 + bits.take(7)?),
        };
        lengths.extend(std::iter::repeat_n(length, repeats.into()));
    }
    if lengths.len() > literals + distances {
        return Err("more lengths than there are codes");
    }
    Ok((Code::new(&lengths[..literals]), Code::new(&lengths[literals..])))
}

fn compressed_block(
    bits: &mut Bits<'_>,
    output: &mut Vec<u8>,
    literals: &Code,
    distances: &Code,
) -> Result<(), &'static str> {
    loop {
        match literals.read(bits)? {
            literal @ 0..256 => output.push(literal as u8),
            256 => return Ok(()),
            symbol => {
                let &(shortest, extra) = LENGTHS.get(usize::from(symbol) - 257).ok_or("a reserved length")?;
                let length = shortest + bits.take(extra)?;
                let symbol = distances.read(bits)?;
                let extra = (symbol / 2).saturating_sub(1) as u8;
                let nearest = if symbol < 4 { symbol + 1 } else { ((2 + symbol % 2) << extra) + 1 };
                let distance = usize::from(nearest) + usize::from(bits.take(extra)?);
                let start = output.len().checked_sub(distance).ok_or("a match before the beginning")?;
                (start..start + usize::from(length)).for_each(|at| output.push(output[at]));
            }
        }
        if output.len() > MAX_BYTES {
            return Err("a message that is too long");
        }
    }
}

/// Compresses a message: stored blocks, and blocks with fixed codes in which runs of a byte are shortened. Some of them say that
/// they are the last one, which a client may do (RFC 7692 section 7.2.3.4), and so may the empty block at the end.
pub(crate) fn compress(message: &[u8], random: &mut Random) -> Vec<u8> {
    let mut output = BitWriter::default();
    let (mut rest, mut is_end_last) = (message, false);
    while !rest.is_empty() {
        let (part, after) = rest.split_at(1 + random.below(rest.len().min(60_000) as u64) as usize);
        let percent = random.below(100);
        is_end_last = percent < 5 && after.is_empty();
        let is_last = percent < 10 && !is_end_last;
        output.put(u16::from(is_last), 1);
        if random.percent(30) {
            output.put(0, 2);
            output.align();
            output.put(part.len() as u16, 16);
            output.put(!(part.len() as u16), 16);
            output.bytes.extend_from_slice(part);
        } else {
            output.put(1, 2);
            write_fixed(part, &mut output);
        }
        if is_last {
            output.align();
        }
        rest = after;
    }
    // The header of the empty block at the end. The rest of it is not sent.
    output.put(u16::from(is_end_last), 3);
    output.align();
    output.bytes
}

fn write_fixed(part: &[u8], output: &mut BitWriter) {
    let mut at = 0;
    while at < part.len() {
        let run = part[at..].iter().take(259).take_while(|byte| **byte == part[at]).count();
        output.put_symbol(part[at].into());
        at += 1;
        if run > 3 {
            let length = (run - 1) as u16;
            // 258 has a code of its own.
            let code = LENGTHS.iter().rposition(|(shortest, _)| *shortest <= length).expect("a run of at least 3");
            output.put_symbol(257 + code as u16);
            output.put(length - LENGTHS[code].0, LENGTHS[code].1);
            // The distance 1.
            output.put(0, 5);
            at += run - 1;
        }
    }
    output.put_symbol(256);
}

#[derive(Default)]
struct BitWriter {
    bytes: Vec<u8>,
    /// Bits of the last byte that are in use.
    used: u8,
}

impl BitWriter {
    fn put(&mut self, value: u16, count: u8) {
        for shift in 0..count {
            if self.used == 0 {
                self.bytes.push(0);
            }
            *self.bytes.last_mut().expect("a byte was pushed") |= ((value >> shift & 1) as u8) << self.used;
            self.used = (self.used + 1) % 8;
        }
    }

    /// Writes a symbol of the fixed code. Its highest bit comes first.
    fn put_symbol(&mut self, symbol: u16) {
        let code = match symbol {
            0..144 => 0x30 + symbol,
            144..256 => 0x190 + symbol - 144,
            256..280 => symbol - 256,
            _ => 0xc0 + symbol - 280,
        };
        let length = fixed_length(symbol);
        (0..length).rev().for_each(|shift| self.put(code >> shift & 1, 1));
    }

    fn align(&mut self) {
        self.used = 0;
    }
}

#[cfg(test)]
mod tests {
    use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress};

    use super::*;

    /// A text with repetitions near and far, or bytes without any.
    fn message(random: &mut Random) -> Vec<u8> {
        let longest = if random.percent(20) { 100_000 } else { 2000 };
        let length = random.below(longest) as usize;
        let mut bytes = Vec::new();
        while bytes.len() < length {
            match random.below(3) {
                0 => bytes.extend_from_slice(&random.next_u64().to_le_bytes()),
                1 => bytes.extend(std::iter::repeat_n(b'x', random.below(400) as usize)),
                _ => bytes.extend_from_slice(format!("{{\"x\":{}}}", random.below(1000)).as_bytes()),
            }
        }
        bytes
    }

    #[test]
    fn agrees_with_another_implementation() {
        for seed in 0..300 {
            let mut random = Random::new(seed);
            let message = message(&mut random);
            let level = Compression::new(random.below(10) as u32);
            let mut compressed = Vec::with_capacity(2 * message.len() + 1000);
            Compress::new(level, false).compress_vec(&message, &mut compressed, FlushCompress::Sync).expect("room");
            assert!(compressed.ends_with(&[0, 0, 0xff, 0xff]));
            compressed.truncate(compressed.len() - 4);
            assert!(decompress(&compressed) == Ok(message), "seed {seed}");
        }
    }

    #[test]
    fn another_implementation_reads_what_is_written() {
        let mut streams = 0;
        for seed in 0..300 {
            let mut random = Random::new(seed);
            let message = message(&mut random);
            let compressed = [compress(&message, &mut random), vec![0, 0, 0xff, 0xff]].concat();
            let (mut read, mut rest) = (Vec::with_capacity(message.len() + 1), &compressed[..]);
            while !rest.is_empty() {
                let mut stream = Decompress::new(false);
                stream.decompress_vec(rest, &mut read, FlushDecompress::Sync).expect("valid data");
                rest = &rest[stream.total_in() as usize..];
                streams += 1;
            }
            assert!(read == message, "seed {seed}");
        }
        assert!(streams > 400, "some messages consist of several streams");
    }
}
