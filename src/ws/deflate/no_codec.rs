//! The codec of a build without the feature `deflate`. It is never used, since nothing is negotiated.

use super::work::Blocks;

/// Compresses nothing.
#[derive(Debug, Default)]
pub(super) struct Deflater;

impl Deflater {
    pub(super) fn deflate(&mut self, _: &[u8], _: &mut [u8]) -> Option<usize> {
        None
    }
}

/// Why a payload cannot be decompressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum InflateFault {
    Invalid,
    #[expect(dead_code, reason = "nothing is decompressed")]
    TooLong,
}

/// Decompresses nothing.
#[derive(Debug, Default)]
pub(super) struct Inflater;

impl Inflater {
    pub(super) fn inflate(&mut self, _: &[u8], _: &mut Vec<u8>, _: usize) -> Result<Blocks, InflateFault> {
        Err(InflateFault::Invalid)
    }
}
