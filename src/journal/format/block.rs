//! Segments and blocks: the first line of a segment, and the checks before each payload.

use crc32fast::Hasher;

/// First line of a segment. It contains the version of the format.
pub(crate) const MAGIC: &[u8] = b"lobbyd journal 3\n";
/// Beginning of that line in all versions.
pub(crate) const FAMILY: &[u8] = b"lobbyd journal ";
/// Version of the format that this build writes and reads.
pub(crate) const VERSION: u32 = 3;

/// Bytes before each payload: its length, a check of the length, and a check of the block.
pub(crate) const BLOCK_HEADER: usize = 12;
/// Longest payload of a block. It bounds the memory of a reader when a length is damaged.
pub(crate) const MAX_BLOCK: usize = 64 << 20;

/// Returns the CRC-32 of the concatenated `parts`, started with the check of the previous block.
pub(crate) fn check_of(before: u32, parts: &[&[u8]]) -> u32 {
    let mut hasher = Hasher::new_with_initial(before);
    parts.iter().for_each(|part| hasher.update(part));
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_names_the_version() {
        assert_eq!(MAGIC, [FAMILY, format!("{VERSION}\n").as_bytes()].concat());
    }
}
