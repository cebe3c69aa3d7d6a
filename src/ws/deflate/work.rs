//! How much work it is to decompress a message, from the length of its payload and the number of its blocks.

/// Bytes of an uncompressed message that take about as long as decompressing one byte of a payload: 5 ns (x86-64).
const PAYLOAD_BYTE_WORK: usize = 8;
/// Blocks with codes of their own that are not counted as work: more than a client sends that flushes seldom.
const USUAL_BLOCKS: usize = 16;
/// Bytes of an uncompressed message that take about as long as the codes of a block: 1.1 to 1.6 µs (x86-64).
const CODES_WORK: usize = 3072;
/// The same for a block without codes of its own: 26 to 60 ns.
const BLOCK_WORK: usize = 64;

/// How much work it was to decompress a message, beside reading it, as the number of bytes of an uncompressed message that take as
/// long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Work {
    /// For the codes of its blocks. Neither the length of the message nor that of the payload bounds it.
    pub(crate) codes: usize,
    /// For all of it.
    pub(crate) total: usize,
}

impl Work {
    pub(super) fn of(payload: &[u8], blocks: Blocks) -> Work {
        let codes = blocks.with_codes.saturating_sub(USUAL_BLOCKS).saturating_mul(CODES_WORK);
        let others = blocks.others.saturating_mul(BLOCK_WORK);
        let bytes = payload.len().saturating_mul(PAYLOAD_BYTE_WORK);
        Work { codes, total: bytes.saturating_add(others).saturating_add(codes) }
    }
}

/// The blocks of a message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Blocks {
    /// Number of blocks that may have codes of their own.
    pub(super) with_codes: usize,
    /// Number of the others: stored blocks, and those with the codes that all streams share.
    pub(super) others: usize,
}
