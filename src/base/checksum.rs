//! Checksum of a byte stream. It is the same on every machine and does not depend on how the stream is split.

use std::hash::Hasher;

use twox_hash::XxHash64;

/// XXH64. Detects accidental changes only: it is not cryptographic and does not resist deliberate collisions.
///
/// Has no methods for numbers: those of [`Hasher`], such as `write_u64`, use the byte order of the machine. Callers write
/// the little-endian bytes.
#[derive(Clone, Debug)]
pub(crate) struct Checksum(XxHash64);

impl Checksum {
    pub(crate) fn new(seed: u64) -> Checksum {
        Checksum(XxHash64::with_seed(seed))
    }

    #[inline]
    pub(crate) fn write(&mut self, bytes: &[u8]) {
        self.0.write(bytes);
    }

    #[inline]
    pub(crate) fn finish(&self) -> u64 {
        self.0.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::Checksum;

    fn of(seed: u64, pieces: &[&[u8]]) -> u64 {
        let mut checksum = Checksum::new(seed);
        pieces.iter().for_each(|piece| checksum.write(piece));
        checksum.finish()
    }

    #[test]
    fn checksum_does_not_depend_on_splits() {
        let stream: Vec<u8> = (0..100).collect();
        let whole = of(7, &[&stream]);
        for first in 0..=stream.len() {
            for second in first..=stream.len() {
                let split = of(7, &[&stream[..first], &stream[first..second], &stream[second..]]);
                assert_eq!(split, whole, "split at {first} and {second}");
            }
        }
    }

    /// The expected values are those of the reference implementation.
    #[test]
    fn checksum_is_xxh64() {
        assert_eq!(of(0, &[]), 0xef46_db37_51d8_e999);
        assert_eq!(of(0, &[b"lobbyd"]), 0x4a0c_a80e_70f6_0c33);
        assert_eq!(of(1 << 40 | 3, &[&[b'x'; 100]]), 0xf7a5_b417_7723_8bc3);
    }
}
