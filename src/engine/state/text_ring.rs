//! The last texts of a numbered sequence, bounded in number and in bytes.
//!
//! The texts are in one circular buffer, so that a full ring takes one more text without an allocation. Numbers are
//! without gaps: a text is found by its number, and no number is stored.

use std::borrow::Cow;
use std::collections::VecDeque;

use crate::base::snapshot::{SnapshotError, SnapshotReader, SnapshotWriter, ensure, ensure_setting};

/// Capacity in bytes that an emptied ring keeps.
const IDLE_BYTES: usize = 512;

/// Texts with a `T` for each.
#[derive(Debug)]
pub(super) struct TextRing<T> {
    max_texts: usize,
    max_bytes: usize,
    /// Number of the last text that was pushed, also if the ring does not hold it.
    last: u64,
    /// The texts held, one after the other.
    bytes: VecDeque<u8>,
    entries: VecDeque<Entry<T>>,
}

#[derive(Debug)]
struct Entry<T> {
    /// Length of the text in bytes.
    len: usize,
    about: T,
}

/// A text of the ring.
#[derive(Debug)]
pub(super) struct NumberedText<'a, T> {
    pub(super) number: u64,
    pub(super) about: &'a T,
    /// Owned for the one text that may lie at both ends of the buffer.
    pub(super) text: Cow<'a, str>,
}

impl<T> TextRing<T> {
    /// Creates an empty ring. The first text should have the number `last + 1`.
    pub(super) fn new(last: u64, max_texts: usize, max_bytes: usize) -> TextRing<T> {
        TextRing { max_texts, max_bytes, last, bytes: VecDeque::new(), entries: VecDeque::new() }
    }

    /// Creates an empty ring with the same bounds.
    pub(super) fn emptied(&self, last: u64) -> TextRing<T> {
        TextRing::new(last, self.max_texts, self.max_bytes)
    }

    /// Appends a text, and drops the oldest ones that leave no room for it. A text that no ring of this size holds
    /// empties the ring, as does a number that does not follow the last one: the texts held are always the last ones,
    /// without gaps.
    pub(super) fn push(&mut self, number: u64, about: T, text: &str) {
        if number != self.last + 1 {
            self.drop_first(self.entries.len());
        }
        self.last = number;
        if text.len() > self.max_bytes || self.max_texts == 0 {
            return self.drop_first(self.entries.len());
        }
        self.make_room(text.len());
        self.bytes.extend(text.as_bytes());
        self.entries.push_back(Entry { len: text.len(), about });
    }

    /// Drops old texts and grows the buffers, within their bounds.
    fn make_room(&mut self, len: usize) {
        let mut dropped = 0;
        while self.entries.len() >= self.max_texts || self.bytes.len() - dropped + len > self.max_bytes {
            dropped += self.entries.pop_front().expect("a text is held").len;
        }
        self.bytes.drain(..dropped);
        // VecDeque would double its capacity beyond the bound.
        if self.bytes.capacity() - self.bytes.len() < len {
            let capacity = (self.bytes.len() + len).max(2 * self.bytes.capacity()).min(self.max_bytes);
            self.bytes.reserve_exact(capacity - self.bytes.len());
        }
        if self.entries.capacity() == self.entries.len() {
            let capacity = (2 * self.entries.len()).clamp(1, self.max_texts);
            self.entries.reserve_exact(capacity - self.entries.len());
        }
    }

    /// Drops the oldest texts.
    fn drop_first(&mut self, count: usize) {
        let bytes: usize = self.entries.drain(..count).map(|entry| entry.len).sum();
        self.bytes.drain(..bytes);
    }

    /// Drops the texts with numbers up to `number`. An emptied ring gives its memory back.
    pub(super) fn drop_to(&mut self, number: u64) {
        self.drop_first(self.count_to(number));
        if self.entries.is_empty() {
            self.bytes.shrink_to(IDLE_BYTES);
            self.entries.shrink_to(IDLE_BYTES / size_of::<Entry<T>>());
        }
    }

    /// Writes the ring to a snapshot: its texts in one piece. `write_about` writes what was pushed with each.
    pub(super) fn write(&self, to: &mut SnapshotWriter, write_about: impl Fn(&T, &mut SnapshotWriter)) {
        to.number(self.last);
        to.len(self.entries.len());
        for Entry { len, about } in &self.entries {
            to.len(*len);
            write_about(about, to);
        }
        let (front, back) = self.bytes.as_slices();
        to.raw(front);
        to.raw(back);
    }

    /// Reads a ring with these bounds.
    pub(super) fn read<'a>(
        (max_texts, max_bytes): (usize, usize),
        setting: &'static str,
        from: &mut SnapshotReader<'a>,
        mut read_about: impl FnMut(&mut SnapshotReader<'a>) -> Result<T, SnapshotError>,
    ) -> Result<TextRing<T>, SnapshotError> {
        let mut ring = TextRing::new(from.count()?, max_texts, max_bytes);
        let len = from.len()?;
        ensure_setting(len <= max_texts, setting)?;
        ensure(len as u64 <= ring.last, "texts are numbered from 1")?;
        let mut bytes: usize = 0;
        for _ in 0..len {
            let len = from.len()?;
            bytes = bytes.saturating_add(len);
            ring.entries.push_back(Entry { len, about: read_about(from)? });
        }
        ensure_setting(bytes <= max_bytes, setting)?;
        let texts = from.raw(bytes)?;
        let mut rest = str::from_utf8(texts).map_err(|_| SnapshotError::Invalid("a text is UTF-8"))?;
        for entry in &ring.entries {
            let (_, after) = rest.split_at_checked(entry.len).ok_or(SnapshotError::Invalid("a text is UTF-8"))?;
            rest = after;
        }
        ring.bytes.extend(texts);
        Ok(ring)
    }

    /// Most texts that the ring holds.
    pub(super) fn max_texts(&self) -> usize {
        self.max_texts
    }

    /// Number of the last text that was pushed.
    pub(super) fn last(&self) -> u64 {
        self.last
    }

    /// Highest number of a text that is not held, among those up to [`last`](Self::last). All later ones are held.
    pub(super) fn forgotten(&self) -> u64 {
        self.last - self.entries.len() as u64
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Length of all texts held.
    pub(super) fn bytes(&self) -> usize {
        self.bytes.len()
    }

    /// What was pushed with the texts held, newest first.
    pub(super) fn newest_first(&mut self) -> impl Iterator<Item = &mut T> {
        self.entries.iter_mut().rev().map(|entry| &mut entry.about)
    }

    /// Number of texts held whose numbers are at most `number`.
    fn count_to(&self, number: u64) -> usize {
        (number.saturating_sub(self.forgotten()) as usize).min(self.entries.len())
    }

    /// The texts held whose numbers are above `number`, in order.
    pub(super) fn after(&self, number: u64) -> impl Iterator<Item = NumberedText<'_, T>> {
        let skipped = self.count_to(number);
        let mut start: usize = self.entries.range(..skipped).map(|entry| entry.len).sum();
        self.entries.range(skipped..).zip(self.forgotten() + skipped as u64 + 1..).map(move |(entry, number)| {
            let text = self.text(start, entry.len);
            start += entry.len;
            NumberedText { number, about: &entry.about, text }
        })
    }

    fn text(&self, start: usize, len: usize) -> Cow<'_, str> {
        let end = start + len;
        let (front, back) = self.bytes.as_slices();
        let of_bytes = |bytes| str::from_utf8(bytes).expect("texts are stored whole");
        if end <= front.len() {
            Cow::Borrowed(of_bytes(&front[start..end]))
        } else if start >= front.len() {
            Cow::Borrowed(of_bytes(&back[start - front.len()..end - front.len()]))
        } else {
            let bytes = [&front[start..], &back[..end - front.len()]].concat();
            Cow::Owned(String::from_utf8(bytes).expect("texts are stored whole"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::random::Random;

    fn held(ring: &TextRing<char>, after: u64) -> Vec<(u64, char, String)> {
        ring.after(after).map(|it| (it.number, *it.about, it.text.into_owned())).collect()
    }

    #[test]
    fn the_last_texts_are_held_as_far_as_both_bounds_allow() {
        let mut random = Random::new(1);
        let mut split = 0;
        for (max_texts, max_bytes) in [(0, 100), (1, 0), (1, 9), (3, 40), (7, 100), (100, 64), (256, 1000)] {
            let mut ring = TextRing::new(40, max_texts, max_bytes);
            let mut all: Vec<(u64, char, String)> = Vec::new();
            let mut forgotten = 40;
            for number in 41..1500 {
                // Letters of one to three bytes, so that texts are split within them.
                let letter = ['a', 'é', '→'][random.below(3) as usize];
                let max = if random.below(20) == 0 { max_bytes as u64 + 3 } else { 12 };
                let text: String = std::iter::repeat_n(letter, random.below(max + 1) as usize).collect();
                ring.push(number, letter, &text);
                all.push((number, letter, text));
                // By hand: the longest run at the end within both bounds, and never one that was forgotten before.
                let mut bytes = 0;
                let mut is_held = |&(number, _, ref text): &(u64, char, String)| {
                    bytes += text.len();
                    bytes <= max_bytes && number > forgotten
                };
                let count = all.iter().rev().take(max_texts).take_while(|&it| is_held(it)).count();
                if random.below(50) == 0 {
                    let to = number - random.below(6);
                    ring.drop_to(to);
                    forgotten = forgotten.max(to).max(number - count as u64);
                } else {
                    forgotten = number - count as u64;
                }
                let expected = &all[(forgotten - 40) as usize..];
                assert_eq!(held(&ring, 0), expected);
                assert_eq!(held(&ring, number - 1), &expected[expected.len().saturating_sub(1)..]);
                assert_eq!((ring.last(), ring.forgotten(), ring.len()), (number, forgotten, expected.len()));
                assert_eq!(ring.bytes(), expected.iter().map(|(_, _, text)| text.len()).sum::<usize>());
                split += ring.after(0).filter(|it| matches!(it.text, Cow::Owned(_))).count();
            }
        }
        assert!(split > 100, "{split} texts at both ends of the buffer");
    }

    #[test]
    fn a_gap_in_the_numbers_empties_the_ring() {
        let mut ring = TextRing::new(0, 5, 50);
        (1..4).for_each(|number| ring.push(number, 'a', "text"));
        ring.push(5, 'b', "more");
        assert_eq!(held(&ring, 0), [(5, 'b', "more".to_owned())]);
    }

    #[test]
    fn a_full_ring_allocates_nothing_and_stays_within_its_bounds() {
        let mut ring = TextRing::new(0, 100, 1000);
        let text = "0123456789".repeat(3);
        let mut grown = 0;
        let mut capacity = (0, 0);
        for number in 1..10_000 {
            ring.push(number, 'a', &text[..1 + number as usize % 30]);
            let now = (ring.bytes.capacity(), ring.entries.capacity());
            grown += u32::from(now != capacity);
            capacity = now;
            assert!(now.0 <= 1000 && now.1 <= 100, "{now:?}");
        }
        assert!((2..=16).contains(&grown), "grown {grown} times");
        ring.drop_to(u64::MAX);
        assert!(ring.bytes.capacity() <= IDLE_BYTES && ring.len() == 0);
    }
}
