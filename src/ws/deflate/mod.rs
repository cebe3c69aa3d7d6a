//! Compression of messages: the extension `permessage-deflate` (RFC 7692), without context takeover in either direction.
//!
//! Each message is compressed by itself. So one [`Compressor`] and one [`Decompressor`] serve all connections, a connection
//! owns no memory for it, and the same compressed frame is right for all its receivers.
//!
//! Knows frames and messages, and neither lobbies nor receivers. The library that compresses is hidden in `codec`, which a
//! build without the feature `deflate` replaces by one that compresses nothing.

#[cfg(feature = "deflate")]
mod blocks;
#[cfg(feature = "deflate")]
mod codec;
#[cfg(not(feature = "deflate"))]
mod no_codec;
mod offer;
mod work;

pub(crate) use self::offer::{Deflate, MalformedExtensions, choose_offer};

#[cfg(feature = "deflate")]
use self::codec::{Deflater, InflateFault, Inflater};
#[cfg(not(feature = "deflate"))]
use self::no_codec::{Deflater, InflateFault, Inflater};
use self::work::Work;
use super::frame::{Frame, compressed_header, header_length};
use crate::base::close::CloseReason;

/// Name and version of the library that compresses; `None` in a build that does not compress. Another version may compress
/// to other bytes.
#[cfg(feature = "deflate")]
pub(crate) const COMPRESSOR: Option<&str> = Some(codec::COMPRESSOR);
/// Name and version of the library that compresses; `None` in a build that does not compress. Another version may compress
/// to other bytes.
#[cfg(not(feature = "deflate"))]
pub(crate) const COMPRESSOR: Option<&str> = None;

/// The shortest message that is compressed. A shorter one often becomes no smaller, and fits into a packet anyway.
const MIN_BYTES: usize = 256;

/// Bytes of an uncompressed message that take about as long as compressing one byte that does not repeat. Level 2 of zlib-rs takes
/// 9 ns for a random digit, 0.6 ms for 64 KiB (x86-64).
const COMPRESSION_BYTE_WORK: usize = 16;
/// The same for a message besides its bytes: resetting the compressor takes 4 to 6 µs.
const COMPRESSION_MESSAGE_WORK: usize = 8 * 1024;
/// Most work of compression in one turn: some 40 ms if nothing repeats, and usually a third of that. What the rest of the turn sends is
/// not compressed. So the messages of many members that wait for one tick do not hold up everybody.
const MAX_WORK_PER_TURN: usize = 64 << 20;

/// What was compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct CompressionTotals {
    pub(crate) frames: u64,
    /// Bytes of these frames before and after.
    pub(crate) bytes_before: u64,
    pub(crate) bytes_after: u64,
}

/// Returns how much work it is to compress a frame, as the number of bytes of an uncompressed message that take as long; 0 for a
/// frame that is too short to be compressed.
pub(crate) fn compression_work(frame_len: usize) -> usize {
    if frame_len < MIN_BYTES {
        return 0;
    }
    COMPRESSION_MESSAGE_WORK + frame_len.saturating_mul(COMPRESSION_BYTE_WORK)
}

/// Compresses the messages of frames to be sent. Takes no memory until the first one.
#[derive(Debug, Default)]
pub(crate) struct Compressor {
    deflater: Deflater,
    totals: CompressionTotals,
    /// Work in this turn.
    work: usize,
}

impl Compressor {
    /// Appends a message in one frame, as servers send it, to `to`: compressed if that makes it smaller and the turn has work left
    /// for it, and otherwise as it is.
    pub(crate) fn append(&mut self, frame: &[u8], to: &mut Vec<u8>) {
        let (header, payload) = frame.split_at(header_length(frame));
        let work = compression_work(frame.len());
        if payload.len() < MIN_BYTES || work > MAX_WORK_PER_TURN - self.work {
            return to.extend_from_slice(frame);
        }
        self.work += work;
        let (start, at) = (to.len(), to.len() + header.len());
        to.resize(at + room_for(payload), 0);
        match self.deflater.deflate(payload, &mut to[at..]) {
            Some(length) => {
                // The header of a shorter frame may be shorter.
                let (new_header, header_len) = compressed_header(frame, length);
                to.copy_within(at..at + length, start + header_len);
                to[start..start + header_len].copy_from_slice(&new_header[..header_len]);
                to.truncate(start + header_len + length);
            }
            None => {
                to.truncate(start);
                to.extend_from_slice(frame);
            }
        }
        self.totals.frames += 1;
        self.totals.bytes_before += frame.len() as u64;
        self.totals.bytes_after += (to.len() - start) as u64;
    }

    /// Returns a message in one frame in the same form.
    pub(crate) fn compress(&mut self, frame: &Frame) -> Frame {
        let mut bytes = Vec::new();
        self.append(frame.as_bytes(), &mut bytes);
        if bytes == frame.as_bytes() {
            return frame.clone();
        }
        bytes.shrink_to_fit();
        Frame::from_encoded(bytes)
    }

    /// A new turn begins.
    pub(crate) fn begin_turn(&mut self) {
        self.work = 0;
    }

    /// Takes the totals since the last call.
    pub(crate) fn take_totals(&mut self) -> CompressionTotals {
        std::mem::take(&mut self.totals)
    }

    /// Whether anything was compressed since then.
    #[inline]
    pub(crate) fn has_totals(&self) -> bool {
        self.totals.frames > 0
    }
}

/// Decompresses received messages. Takes no memory until the first one.
#[derive(Debug, Default)]
pub(crate) struct Decompressor {
    inflater: Inflater,
}

impl Decompressor {
    /// Decompresses the payload of a message into `to`, whose former contents are lost. Returns how much work it was.
    ///
    /// # Errors
    ///
    /// The reason to close the connection: the payload is not valid, or the message has more than `max_bytes`. No more than
    /// these are decompressed.
    pub(crate) fn decompress(
        &mut self,
        payload: &[u8],
        to: &mut Vec<u8>,
        max_bytes: usize,
    ) -> Result<Work, CloseReason> {
        match self.inflater.inflate(payload, to, max_bytes) {
            Ok(blocks) => Ok(Work::of(payload, blocks)),
            Err(InflateFault::Invalid) => Err(CloseReason::BadCompression),
            Err(InflateFault::TooLong) => Err(CloseReason::MessageTooBig),
        }
    }
}

/// Bytes of output that suffice for any payload of this length: codes of 9 bits for each byte, and the headers of blocks.
fn room_for(payload: &[u8]) -> usize {
    payload.len() + payload.len() / 4 + 64
}
