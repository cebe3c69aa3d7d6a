//! Records as they arrive: where they end, what they cost, and how many may be empty.

/// Longest plaintext of a record (RFC 8446 section 5.1).
pub(super) const MAX_PLAINTEXT: usize = 1 << 14;
/// Longest record (RFC 5246 section 6.2.3), which is also the most that a handshake message may have.
pub(super) const MAX_RECORD: usize = MAX_PLAINTEXT + 2048 + HEADER;
const HEADER: usize = 5;

/// Most records that are decrypted before their number is charged.
pub(super) const MAX_AT_ONCE: usize = 64;

/// Work of a record in addition to its bytes, as in [`Received`](super::super::plain_stream::Received).
const RECORD_WORK: usize = 512;
/// The same of a record without data. It may be a new key, which takes several derivations.
const EMPTY_WORK: usize = 8192;

/// Records with data for each one without, beside the first ones.
const DATA_PER_EMPTY: u32 = 16;
/// Records without data that are allowed at once.
const MAX_EMPTY: u32 = 64;

/// Whether the first record in `held` and `new` together has not arrived whole, so that nothing can be done with it. What is no
/// record, or a longer one than any, is not waited for.
pub(super) fn is_incomplete(held: &[u8], new: &[u8]) -> bool {
    let count = held.len() + new.len();
    let mut bytes = held.iter().chain(new).copied();
    let mut header = [0; HEADER];
    let is_whole = header.iter_mut().all(|to| bytes.next().map(|byte| *to = byte).is_some());
    let [kind, major, _, _, _] = header;
    let record = length(header);
    // A change of ciphers, an alert, a handshake message or data (RFC 8446 section 5.1).
    let is_record = (20..=23).contains(&kind) && (major == 3 || count == 1) && record <= MAX_RECORD;
    is_record && (!is_whole || count < record)
}

/// Returns the number of whole records at the beginning of `bytes`, at most [`MAX_AT_ONCE`], and where the last of them ends.
pub(super) fn first_whole(bytes: &[u8]) -> (usize, usize) {
    let (mut count, mut end) = (0, 0);
    while count < MAX_AT_ONCE
        && let Some(&header) = bytes[end..].first_chunk()
        && let next = end + length(header)
        && next <= bytes.len()
    {
        (count, end) = (count + 1, next);
    }
    (count, end)
}

/// Length of a record with its header.
fn length([_, _, _, high, low]: [u8; HEADER]) -> usize {
    HEADER + usize::from(u16::from_be_bytes([high, low]))
}

/// How many records without data a peer may still send.
///
/// Such records, most of all new keys, cost the server far more than the peer, and no limit of messages or bytes concerns
/// them. A peer that uses TLS as it is meant sends next to none.
pub(super) struct EmptyRecords {
    /// In parts of one record.
    credit: u32,
}

impl Default for EmptyRecords {
    fn default() -> EmptyRecords {
        EmptyRecords { credit: MAX_EMPTY * DATA_PER_EMPTY }
    }
}

impl EmptyRecords {
    /// Charges records, of which some have data. Returns their work; `None` if too many had none.
    pub(super) fn charge(&mut self, records: usize, with_data: usize) -> Option<usize> {
        let empty = records.saturating_sub(with_data);
        let gained = self.credit.saturating_add(u32::try_from(with_data).unwrap_or(u32::MAX));
        let spent = u32::try_from(empty).unwrap_or(u32::MAX).saturating_mul(DATA_PER_EMPTY);
        self.credit = gained.min(MAX_EMPTY * DATA_PER_EMPTY).checked_sub(spent)?;
        Some(records * RECORD_WORK + empty * EMPTY_WORK)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_incomplete_until_its_last_byte() {
        let record = [23, 3, 3, 1, 2].into_iter().chain([0; 258]).collect::<Vec<u8>>();
        for total in 1..record.len() {
            for held in [0, 1, 3, 4, 5, 100].into_iter().filter(|&held| held < total) {
                assert!(is_incomplete(&record[..held], &record[held..total]), "{held} {total}");
            }
        }
        assert!(!is_incomplete(&record[..5], &record[5..]));
        for bytes in [&[23, 3, 3, 255, 255][..], b"GET / HTTP/1.1", &[0], &[22, 2], &[0, 0, 0, 0, 0]] {
            assert!(!is_incomplete(bytes, &[]) && !is_incomplete(&bytes[..1], &bytes[1..]), "it is refused at once");
        }
    }

    #[test]
    fn whole_records_are_counted_up_to_a_bound() {
        let record = [23, 3, 3, 0, 2, 7, 7];
        for count in [0, 1, 2, MAX_AT_ONCE - 1] {
            let mut bytes = record.repeat(count);
            assert_eq!(first_whole(&bytes), (count, 7 * count));
            for byte in &record[..6] {
                bytes.push(*byte);
                assert_eq!(first_whole(&bytes), (count, 7 * count), "the last one is not whole");
            }
        }
        assert_eq!(first_whole(&record.repeat(2 * MAX_AT_ONCE)), (MAX_AT_ONCE, 7 * MAX_AT_ONCE));
    }

    #[test]
    fn empty_records_are_bounded_by_those_with_data() {
        let mut empty = EmptyRecords::default();
        assert!(empty.charge(64, 0).is_some() && empty.charge(0, 0) == Some(0));
        assert_eq!(empty.charge(1, 0), None);
        let mut empty = EmptyRecords::default();
        for _ in 0..1000 {
            assert_eq!(empty.charge(17, 16), Some(17 * RECORD_WORK + EMPTY_WORK));
        }
        for _ in 0..1000 {
            assert!(empty.charge(64, 64).is_some(), "no more credit than at the beginning");
        }
        assert!(empty.charge(65, 0).is_none());
    }
}
