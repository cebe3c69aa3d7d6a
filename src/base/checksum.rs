//! Fast checksum of a byte stream. It is the same on every machine and does not depend on how the stream is split.

/// Processes 16 bytes per step by multiplying and folding, as in wyhash (Wang, "Modern non-cryptographic hash
/// function", 2019).
///
/// Detects accidental changes only: it is not cryptographic and does not resist deliberate collisions.
#[derive(Clone, Debug)]
pub(crate) struct Checksum {
    state: u64,
    /// Bytes of an incomplete step.
    tail: [u8; STEP],
    tail_length: usize,
    length: u64,
}

const STEP: usize = 16;
/// Constants of wyhash.
const SECRETS: [u64; 3] = [0xa076_1d64_78bd_642f, 0xe703_7ed1_a0b4_28db, 0x8ebc_6af0_9c88_c6e3];

impl Checksum {
    pub(crate) fn new(seed: u64) -> Checksum {
        Checksum { state: fold(seed ^ SECRETS[0], SECRETS[1]), tail: [0; STEP], tail_length: 0, length: 0 }
    }

    pub(crate) fn write(&mut self, mut bytes: &[u8]) {
        self.length += bytes.len() as u64;
        if self.tail_length > 0 {
            let (first, rest) = bytes.split_at(bytes.len().min(STEP - self.tail_length));
            self.tail[self.tail_length..self.tail_length + first.len()].copy_from_slice(first);
            self.tail_length += first.len();
            if self.tail_length < STEP {
                return;
            }
            self.state = step(self.state, &self.tail);
            self.tail_length = 0;
            bytes = rest;
        }
        let (steps, rest) = bytes.as_chunks();
        self.state = steps.iter().fold(self.state, step);
        self.tail[..rest.len()].copy_from_slice(rest);
        self.tail_length = rest.len();
    }

    pub(crate) fn write_u64(&mut self, word: u64) {
        self.write(&word.to_le_bytes());
    }

    pub(crate) fn finish(&self) -> u64 {
        let mut last = [0; STEP];
        last[..self.tail_length].copy_from_slice(&self.tail[..self.tail_length]);
        fold(step(self.state, &last) ^ SECRETS[1], self.length ^ SECRETS[2])
    }
}

fn step(state: u64, bytes: &[u8; STEP]) -> u64 {
    let word = u128::from_le_bytes(*bytes);
    fold(word as u64 ^ SECRETS[0], (word >> 64) as u64 ^ state)
}

fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    product as u64 ^ (product >> 64) as u64
}

#[cfg(test)]
mod tests {
    use super::Checksum;

    fn of(pieces: &[&[u8]]) -> u64 {
        let mut checksum = Checksum::new(7);
        pieces.iter().for_each(|piece| checksum.write(piece));
        checksum.finish()
    }

    #[test]
    fn checksum_does_not_depend_on_splits() {
        let stream: Vec<u8> = (0..100).collect();
        let whole = of(&[&stream]);
        for first in 0..=stream.len() {
            for second in first..=stream.len() {
                let split = of(&[&stream[..first], &stream[first..second], &stream[second..]]);
                assert_eq!(split, whole, "split at {first} and {second}");
            }
        }
    }

    #[test]
    fn checksum_depends_on_every_bit_and_the_length() {
        let mut stream = vec![0; 50];
        let mut seen = vec![of(&[&stream]), of(&[&stream[..49]]), of(&[&stream[..48]])];
        for bit in 0..stream.len() * 8 {
            stream[bit / 8] ^= 1 << (bit % 8);
            seen.push(of(&[&stream]));
            stream[bit / 8] ^= 1 << (bit % 8);
        }
        let count = seen.len();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), count, "all checksums differ");
    }

    /// The checksum must never change, so that later versions can replay a journal.
    #[test]
    fn checksum_never_changes() {
        assert_eq!(of(&[b"lobbyd"]), 0x83a3_0145_8eed_fb21);
    }
}
