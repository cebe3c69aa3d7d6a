//! Numbers with seven bits in each byte, the lowest bits first (LEB128). The highest bit of a byte says that another one follows.

/// Most bytes of a number of 64 bits.
const MAX_BYTES: usize = 10;

/// Why bytes are no number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BadNumber {
    /// The bytes end within the number.
    Truncated,
    /// The number has more than 64 bits, or more than 10 bytes.
    TooLarge,
}

/// Reads a number from the front of `bytes`. Returns the number and how many bytes it has, which may be more than it needs.
#[inline]
pub(crate) fn read(bytes: &[u8]) -> Result<(u64, usize), BadNumber> {
    let mut number = 0;
    for (index, byte) in bytes.iter().take(MAX_BYTES).enumerate() {
        let (bits, shift) = (u64::from(byte & 0x7f), 7 * index);
        number |= bits << shift;
        if *byte < 0x80 {
            // The tenth byte has one significant bit; more would be shifted out.
            return if bits << shift >> shift == bits { Ok((number, index + 1)) } else { Err(BadNumber::TooLarge) };
        }
    }
    Err(if bytes.len() < MAX_BYTES { BadNumber::Truncated } else { BadNumber::TooLarge })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_and_longer_ones_refused() {
        let ones = [0xff; MAX_BYTES + 1];
        let with_last = |byte| [&ones[..MAX_BYTES - 1], &[byte]].concat();
        for (bytes, expected) in [
            (&[0][..], Ok((0, 1))),
            (&[0x7f, 1], Ok((0x7f, 1))),
            (&[0x80, 1], Ok((0x80, 2))),
            (&[0x85, 0x80, 0, 9], Ok((5, 3))),
            (&with_last(1), Ok((u64::MAX, 10))),
            (&with_last(2), Err(BadNumber::TooLarge)),
            (&ones, Err(BadNumber::TooLarge)),
            (&ones[..MAX_BYTES], Err(BadNumber::TooLarge)),
            (&ones[..MAX_BYTES - 1], Err(BadNumber::Truncated)),
            (&[], Err(BadNumber::Truncated)),
        ] {
            assert_eq!(read(bytes), expected, "{bytes:02x?}");
        }
    }
}
