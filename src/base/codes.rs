//! Close and error codes that an application defines.
//!
//! Both carry a word for the wire, the log and the statistics. It is stored in place, so that reasons stay `Copy` and a
//! replay can read them from a journal.

use std::collections::BTreeMap;
use std::fmt;

/// A close code of the application: a number and a word, sent in the close frame and in `goodbye`.
///
/// [`CloseReason::app`](crate::CloseReason::app) creates one in a constant. The number also tells clients whether to
/// reconnect, as the protocol's own codes do:
///
/// | code | reconnect |
/// | --- | --- |
/// | 4400 to 4499 | no |
/// | 4500 to 4599 | after a growing, jittered wait |
/// | 4600 to 4699 | at once |
///
/// ```
/// use lobbyd::codes::CloseCode;
///
/// let code = CloseCode::new(4400, "cheater").unwrap();
/// assert_eq!((code.number(), code.word()), (4400, "cheater"));
/// assert_eq!(CloseCode::new(4003, "cheater"), None, "a code of the protocol");
/// assert_eq!(CloseCode::new(4400, "a cheater!"), None, "no word");
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CloseCode {
    number: u16,
    word: Word,
}

impl CloseCode {
    /// Returns `None` unless `number` is from 4400 to 4699 and `word` has 1 to 32 lower-case letters, digits and
    /// underscores.
    pub const fn new(number: u16, word: &str) -> Option<CloseCode> {
        match Word::new(word) {
            Some(word) if 4400 <= number && number <= 4699 => Some(CloseCode { number, word }),
            _ => None,
        }
    }

    /// Returns the number.
    pub const fn number(self) -> u16 {
        self.number
    }

    /// Returns the word.
    pub fn word(&self) -> &str {
        self.word.as_str()
    }
}

impl fmt::Debug for CloseCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CloseCode({} {})", self.number, self.word())
    }
}

/// An error code of the application: the `code` of an `error`.
///
/// [`Reject::app`](crate::Reject::app) creates one in a constant.
///
/// ```
/// use lobbyd::codes::ErrorCode;
///
/// assert_eq!(ErrorCode::new("not_your_turn").unwrap().word(), "not_your_turn");
/// assert_eq!(ErrorCode::new("rate_limited"), None, "a code of the protocol");
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ErrorCode(Word);

/// Error codes of the protocol, also those for parts of it that the server does not implement.
const RESERVED: &[&str] = &[
    "bad_message",
    "user_not_found",
    "rate_limited",
    "not_allowed",
    "conflict",
    "too_large",
    "refused",
    "unavailable",
];

impl ErrorCode {
    /// Returns `None` unless `word` has 1 to 32 lower-case letters, digits and underscores, and is no error code of the
    /// protocol: `bad_message`, `user_not_found`, `rate_limited`, `not_allowed`, `conflict`, `too_large`, `refused` or
    /// `unavailable`.
    pub const fn new(word: &str) -> Option<ErrorCode> {
        let mut at = 0;
        while at < RESERVED.len() {
            if are_equal(RESERVED[at].as_bytes(), word.as_bytes()) {
                return None;
            }
            at += 1;
        }
        match Word::new(word) {
            Some(word) => Some(ErrorCode(word)),
            None => None,
        }
    }

    /// Returns the word.
    pub fn word(&self) -> &str {
        self.0.as_str()
    }
}

impl fmt::Debug for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ErrorCode({})", self.word())
    }
}

/// A word of 1 to 32 lower-case letters, digits and underscores, filled up with zeros.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Word([u8; 32]);

impl Word {
    /// Counts the codes for which [`AppCounts`] has no room.
    const OTHER: Word = Word::new("other").expect("a word");

    const fn new(text: &str) -> Option<Word> {
        let text = text.as_bytes();
        let mut bytes = [0; 32];
        if text.is_empty() || text.len() > bytes.len() {
            return None;
        }
        let mut at = 0;
        while at < text.len() {
            if !matches!(text[at], b'a'..=b'z' | b'0'..=b'9' | b'_') {
                return None;
            }
            bytes[at] = text[at];
            at += 1;
        }
        Some(Word(bytes))
    }

    fn as_str(&self) -> &str {
        let length = self.0.iter().position(|&byte| byte == 0).unwrap_or(self.0.len());
        str::from_utf8(&self.0[..length]).expect("new() accepts only ASCII")
    }
}

const fn are_equal(a: &[u8], b: &[u8]) -> bool {
    if a.len() != b.len() {
        return false;
    }
    let mut at = 0;
    while at < a.len() {
        if a[at] != b[at] {
            return false;
        }
        at += 1;
    }
    true
}

/// A code of the application, as it is counted.
pub(crate) trait AppCode: Copy + Ord {
    /// Number of codes that [`other`](Self::other) returns.
    const OTHERS: usize;

    /// Returns the code under which this one is counted if too many different codes were counted before.
    fn other(self) -> Self;
}

impl AppCode for CloseCode {
    const OTHERS: usize = 300;

    fn other(self) -> CloseCode {
        CloseCode { word: Word::OTHER, ..self }
    }
}

impl AppCode for ErrorCode {
    const OTHERS: usize = 1;

    fn other(self) -> ErrorCode {
        ErrorCode(Word::OTHER)
    }
}

/// Counts by code. Their number is bounded, because an application may make up words without end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AppCounts<C>(BTreeMap<C, u64>);

impl<C> Default for AppCounts<C> {
    fn default() -> AppCounts<C> {
        AppCounts(BTreeMap::new())
    }
}

impl<C: AppCode> AppCounts<C> {
    /// Most codes that are counted one by one. Further ones are counted as `other`.
    pub(crate) const MAX: usize = 256;

    pub(crate) fn add(&mut self, code: C) {
        let has_room = self.0.len() < Self::MAX || self.0.contains_key(&code);
        *self.0.entry(if has_room { code } else { code.other() }).or_default() += 1;
    }

    /// Sets the count of a code, to restore it. Returns false if the code has a count already, or if
    /// [`add`](Self::add) never counts as many codes.
    #[must_use]
    pub(crate) fn restore(&mut self, code: C, count: u64) -> bool {
        self.0.len() < Self::MAX + C::OTHERS && self.0.insert(code, count).is_none()
    }

    pub(crate) fn of(&self, code: C) -> u64 {
        self.0.get(&code).copied().unwrap_or(0)
    }

    /// Returns the codes that were counted, in their order, with the counts.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (C, u64)> {
        self.0.iter().map(|(&code, &count)| (code, count))
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_have_a_bounded_length_and_few_characters() {
        for word in ["a", "not_your_turn", "2fa", &"x".repeat(32)] {
            assert_eq!(Word::new(word).expect(word).as_str(), word);
            assert_eq!(ErrorCode::new(word).expect(word).word(), word);
        }
        for word in ["", "Cheater", "no word", "no-word", "ä", "a\0", &"x".repeat(33)] {
            assert!(Word::new(word).is_none(), "{word:?}");
        }
    }

    #[test]
    fn only_the_applications_range_is_accepted() {
        let accepted: Vec<u16> = (0..=u16::MAX).filter(|&number| CloseCode::new(number, "x").is_some()).collect();
        assert_eq!(accepted, (4400..=4699).collect::<Vec<u16>>());
    }

    #[test]
    fn the_number_of_counts_is_bounded() {
        let mut counts = AppCounts::default();
        let code = |number: u32| ErrorCode::new(&format!("code_{number}")).expect("a word");
        for number in (0..1000).chain(0..1000) {
            counts.add(code(number));
        }
        assert_eq!((counts.len(), counts.of(code(0)), counts.of(code(999))), (257, 2, 0));
        assert_eq!(counts.of(code(0).other()), 2 * (1000 - 256));
        assert_eq!(counts.iter().map(|(_, count)| count).sum::<u64>(), 2000);
        let mut restored = AppCounts::default();
        assert!(counts.iter().all(|(code, count)| restored.restore(code, count)));
        assert_eq!(restored, counts);
        assert!(!restored.restore(code(999), 1), "one more than a server counts");
        assert!(!AppCounts::restore(&mut AppCounts(BTreeMap::from([(code(1), 1)])), code(1), 1), "twice");
    }
}
