//! Data of a lobby or of a member: values under keys, each with the `seq` of its last change.
//!
//! A value is text that is not looked into. A deleted key is remembered for a while, so that a conditional change also
//! notices a deletion.

use std::collections::BTreeMap;

use crate::base::snapshot::{SnapshotError, SnapshotReader, SnapshotWriter, ensure, ensure_setting};

/// Longest key, in bytes.
pub(crate) const MAX_KEY_BYTES: usize = 64;
/// Bytes that an entry takes in JSON beside its key and its value: two quotes, a colon and a comma.
const KEY_OVERHEAD: usize = 4;

/// A change of one key: its new value, or `None` to delete it.
pub(crate) type Change<'a> = (&'a str, Option<&'a str>);

#[derive(Debug, Default)]
pub(crate) struct Entries {
    entries: BTreeMap<Box<str>, Entry>,
    /// Number of keys that have a value.
    len: usize,
    bytes: usize,
    /// `seq` of the newest deletion that is no longer remembered.
    forgotten: u64,
}

#[derive(Debug)]
struct Entry {
    /// `None`: deleted.
    value: Option<Box<str>>,
    seq: u64,
}

/// The largest number of keys and bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct EntriesBounds {
    pub(crate) keys: usize,
    pub(crate) bytes: usize,
}

/// Bytes of an entry in JSON, where quotes and backslashes of a key are escaped. A key has no control characters.
fn size(key: &str, value: &str) -> usize {
    let escapes = key.bytes().filter(|&c| c == b'"' || c == b'\\').count();
    key.len() + escapes + value.len() + KEY_OVERHEAD
}

impl Entries {
    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Returns the number of bytes, as the bounds count them.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The keys that have a value, in the order of their bytes.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.entries.iter().filter_map(|(key, entry)| Some((&**key, entry.value.as_deref()?)))
    }

    pub(crate) fn get(&self, key: &str) -> Option<&str> {
        self.entries.get(key)?.value.as_deref()
    }

    /// Returns the `seq` of the newest change of any of these keys; 0 if none was ever set.
    pub(crate) fn newest<'a>(&self, keys: impl Iterator<Item = &'a str>) -> u64 {
        keys.map(|key| self.entries.get(key).map_or(self.forgotten, |entry| entry.seq)).max().unwrap_or(0)
    }

    /// Returns the number of keys and bytes after these changes.
    pub(crate) fn after(&self, changes: &[Change<'_>]) -> EntriesBounds {
        let (mut keys, mut bytes) = (self.len, self.bytes);
        for &(key, value) in changes {
            if let Some(old) = self.get(key) {
                (keys, bytes) = (keys - 1, bytes - size(key, old));
            }
            if let Some(value) = value {
                (keys, bytes) = (keys + 1, bytes + size(key, value));
            }
        }
        EntriesBounds { keys, bytes }
    }

    /// Applies changes, no two of which are for the same key. At most `max_deleted` deleted keys are remembered.
    pub(crate) fn apply(&mut self, changes: &[Change<'_>], seq: u64, max_deleted: usize) {
        let EntriesBounds { keys, bytes } = self.after(changes);
        for &(key, value) in changes {
            self.entries.insert(key.into(), Entry { value: value.map(Into::into), seq });
        }
        (self.len, self.bytes) = (keys, bytes);
        while self.entries.len() - self.len > max_deleted {
            let deleted = self.entries.iter().filter(|(_, entry)| entry.value.is_none());
            let oldest = deleted.min_by_key(|(_, entry)| entry.seq).map(|(key, entry)| (key.clone(), entry.seq));
            let (key, seq) = oldest.expect("there are deleted keys");
            self.entries.remove(&key);
            self.forgotten = self.forgotten.max(seq);
        }
    }

    /// Writes the data to a snapshot, with the deletions that are remembered.
    pub(in crate::lobby) fn write(&self, to: &mut SnapshotWriter) {
        to.number(self.forgotten);
        to.len(self.entries.len());
        for (key, Entry { value, seq }) in &self.entries {
            to.text(key);
            to.number(*seq);
            to.option_text(value.as_deref());
        }
    }

    /// Reads data within these bounds.
    pub(in crate::lobby) fn read(
        from: &mut SnapshotReader<'_>,
        bounds: EntriesBounds,
    ) -> Result<Entries, SnapshotError> {
        let mut data = Entries { forgotten: from.count()?, ..Entries::default() };
        for _ in 0..from.len()? {
            let (key, seq) = (from.text()?, from.count()?);
            let value = from.option_text()?;
            ensure(data.entries.last_key_value().is_none_or(|(last, _)| **last < *key), "keys of data are sorted")?;
            if let Some(value) = value {
                (data.len, data.bytes) = (data.len + 1, data.bytes + size(key, value));
            }
            data.entries.insert(key.into(), Entry { value: value.map(Into::into), seq });
        }
        let deleted = data.entries.len() - data.len;
        let fits = data.len <= bounds.keys && data.bytes <= bounds.bytes && deleted <= bounds.keys;
        ensure_setting(fits, "the bounds of data")?;
        Ok(data)
    }

    pub(super) fn check(&self, bounds: EntriesBounds) {
        let keys = self.iter().count();
        let bytes: usize = self.iter().map(|(key, value)| size(key, value)).sum();
        assert_eq!((self.len, self.bytes), (keys, bytes), "keys and bytes are counted");
        assert!(keys <= bounds.keys && bytes <= bounds.bytes, "data is within its bounds");
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::base::random::Random;

    #[test]
    fn a_deleted_key_has_changed() {
        let mut entries = Entries::default();
        entries.apply(&[("a", Some("1")), ("b", Some("2"))], 3, 1);
        entries.apply(&[("a", None)], 4, 1);
        assert_eq!(entries.iter().collect::<Vec<_>>(), [("b", "2")]);
        assert_eq!(entries.newest(["a"].into_iter()), 4);
        assert_eq!((entries.newest(["b"].into_iter()), entries.newest(["c"].into_iter())), (3, 0));
        // Only one deletion is remembered: any key without an entry may be the one that was forgotten.
        entries.apply(&[("b", None)], 5, 1);
        assert_eq!(entries.newest(["c"].into_iter()), 4);
        assert_eq!((entries.len, entries.bytes), (0, 0));
    }

    /// No change is ever missed. With room for all deletions none is invented, either.
    #[test]
    fn a_conditional_change_notices_every_change() {
        for (max_deleted, is_exact) in [(100, true), (2, false)] {
            let mut random = Random::new(7);
            let (mut entries, mut newest) = (Entries::default(), HashMap::<String, u64>::new());
            for seq in 1..3000 {
                let key = format!("k{}", random.below(20));
                let value = (random.below(3) > 0).then(|| "x".repeat(random.below(9) as usize));
                entries.apply(&[(&key, value.as_deref())], seq, max_deleted);
                newest.insert(key, seq);
                for key in (0..25).map(|number| format!("k{number}")) {
                    let (found, expected) = (entries.newest([&*key].into_iter()), newest.get(&key).copied());
                    let expected = expected.unwrap_or(0);
                    assert!(if is_exact { found == expected } else { found >= expected }, "{key}");
                }
                entries.check(EntriesBounds { keys: 20, bytes: 20 * 15 });
                assert!(entries.entries.len() - entries.len <= max_deleted);
            }
        }
    }
}
