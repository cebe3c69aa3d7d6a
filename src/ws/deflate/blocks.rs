//! Counts the blocks of compressed data (RFC 1951 section 3.2.3), from what the decompressor reads and writes between them.
//!
//! A block with codes of its own can be empty, and yet takes as long as kilobytes of contents, because its codes are read
//! first. Other blocks take little. The decompressor does not tell which is which. But the type of a block is known if the block
//! begins with a byte: at the beginning, and behind a stored block. So it is known for a client that flushes its compressor
//! often, since a flush ends with an empty stored block.

use super::work::Blocks;

/// Types of blocks.
const STORED: u8 = 0;
const WITH_CODES: u8 = 2;
/// Most bytes that are read for a block without codes of its own, if the type of the block is unknown. The shortest block with
/// them has 90 bits, of which 7 may have been read before.
const MAX_WITHOUT_CODES: usize = 10;

/// Counts the blocks of a message, one after the other.
#[derive(Debug, Default)]
pub(super) struct BlockCounter {
    blocks: Blocks,
    /// Type of the current block, if it is known.
    kind: Option<u8>,
    /// Bytes read and written for the current block.
    read: usize,
    written: usize,
}

impl BlockCounter {
    /// Begins a stream with this data.
    pub(super) fn begin_stream(&mut self, data: &[u8]) {
        *self = BlockCounter { blocks: self.blocks, kind: first_kind(data), ..BlockCounter::default() };
    }

    /// Counts bytes that were read and written for the current block.
    pub(super) fn advance(&mut self, read: usize, written: usize) {
        self.read += read;
        self.written += written;
    }

    /// Notes that the current block may have ended, and another one may have begun.
    pub(super) fn lose_track(&mut self) {
        self.kind = None;
    }

    /// Ends the current block. `rest` follows it.
    pub(super) fn end_block(&mut self, rest: &[u8]) {
        if self.read == 0 {
            return;
        }
        let has_codes = self.kind.map_or(self.read > MAX_WITHOUT_CODES, |kind| kind == WITH_CODES);
        self.blocks.with_codes += usize::from(has_codes);
        self.blocks.others += usize::from(!has_codes);
        let is_stored = match self.kind {
            Some(kind) => kind == STORED && self.read == 5 + self.written,
            // An empty block with shared codes has 10 bits, and a stored one 32 and its header of 3.
            None => self.written == 0 && matches!(self.read, 4 | 5),
        };
        // The end of a stored block is that of a byte.
        self.kind = if is_stored { first_kind(rest) } else { None };
        (self.read, self.written) = (0, 0);
    }

    pub(super) fn blocks(&self) -> Blocks {
        self.blocks
    }
}

/// The type of the block that begins with these bytes.
fn first_kind(data: &[u8]) -> Option<u8> {
    data.first().map(|byte| byte >> 1 & 3)
}
