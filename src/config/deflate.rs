//! The rule of `deflate`, and what compression takes at most.

use super::check::Rules;
use super::fields::Config;

/// Bound of the memory of the compressor, some 300 KB, and of the decompressor, some 50 KB. All connections share them.
const CODEC_BYTES: u128 = 512 << 10;

impl Config {
    /// Returns the bytes of the longest compressed message that is received. A compressor that works with little memory makes
    /// incompressible data longer by a twentieth.
    pub(crate) fn max_compressed_bytes(max_message_bytes: usize) -> usize {
        max_message_bytes.saturating_add(max_message_bytes / 8 + 64)
    }

    /// Returns the bytes of the longest message as it is received.
    pub(super) fn max_received_bytes(&self) -> usize {
        let max_bytes = self.max_message_bytes.0;
        if self.deflate { Config::max_compressed_bytes(max_bytes) } else { max_bytes }
    }

    /// Returns the bytes that compression takes for all connections together.
    pub(super) fn compression_memory(&self) -> u128 {
        // Growing the buffer of the decompressed message can take up to twice its contents.
        if self.deflate { CODEC_BYTES + 2 * self.max_message_bytes.0 as u128 } else { 0 }
    }
}

impl Rules<'_> {
    pub(super) fn check_deflate(&mut self) {
        let rule = "compresses messages, and this build cannot; build it with --features deflate";
        self.require(!self.config.deflate || cfg!(feature = "deflate"), "deflate", rule);
    }
}
