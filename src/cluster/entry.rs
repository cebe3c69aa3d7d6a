//! Entries as text, as the scripts write them (see `scripts/prelude.lua`), and what the link hands to the engine.

use bytes::Bytes;

use super::log::{ClusterInput, EntryBody, Incarnation, LogEntry};
use super::resp::decimal;

/// Parses an entry. Returns it with the number of its batch, which is 0 for everything but operations.
pub(crate) fn parse(index: u64, text: &[u8]) -> Option<(LogEntry<'_>, u64)> {
    let mut rest = text;
    let mut word = || {
        let end = rest.iter().position(|byte| *byte == b' ').unwrap_or(rest.len());
        let (word, after) = rest.split_at(end);
        rest = after.strip_prefix(b" ").unwrap_or(after);
        word
    };
    let kind = word();
    let unix_micros = decimal(word())?;
    let mut batch = 0;
    let body = match kind {
        b"F" => EntryBody::Founded,
        b"A" => {
            let node = Incarnation(decimal(word())?);
            EntryBody::Attached { node, name: std::str::from_utf8(rest).ok()? }
        }
        b"E" => EntryBody::Ended { node: Incarnation(decimal(word())?) },
        b"O" => {
            let node = Incarnation(decimal(word())?);
            batch = decimal(word())?;
            EntryBody::Operations { node, bytes: rest }
        }
        _ => return None,
    };
    Some((LogEntry { index, unix_micros, body }, batch))
}

/// A [`ClusterInput`] that owns its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum LinkInput {
    Attached {
        node: Incarnation,
        index: u64,
        state: Option<Vec<u8>>,
    },
    /// An entry, whose text was parsed before.
    Entry {
        index: u64,
        text: Bytes,
    },
    Reachable(bool),
    Detached,
}

impl LinkInput {
    pub(crate) fn as_input(&self) -> ClusterInput<'_> {
        match self {
            LinkInput::Attached { node, index, state } => {
                ClusterInput::Attached { node: *node, index: *index, state: state.as_deref() }
            }
            LinkInput::Entry { index, text } => {
                let (entry, _) = parse(*index, text).expect("the link hands out entries that it has parsed");
                ClusterInput::Entry(entry)
            }
            LinkInput::Reachable(is_reachable) => ClusterInput::Reachable(*is_reachable),
            LinkInput::Detached => ClusterInput::Detached,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: Option<(EntryBody<'_>, u64)>) {
        let parsed = parse(7, text.as_bytes()).map(|(entry, batch)| {
            assert_eq!((entry.index, entry.unix_micros), (7, 12));
            (entry.body, batch)
        });
        assert_eq!(parsed, expected, "{text}");
    }

    #[test]
    fn entries_are_parsed() {
        let node = Incarnation(3);
        check("F 12", Some((EntryBody::Founded, 0)));
        check("A 12 3 a-node", Some((EntryBody::Attached { node, name: "a-node" }, 0)));
        check("E 12 3", Some((EntryBody::Ended { node }, 0)));
        check("O 12 3 5 a b  c", Some((EntryBody::Operations { node, bytes: b"a b  c" }, 5)));
        check("O 12 3 5 ", Some((EntryBody::Operations { node, bytes: b"" }, 5)));
        for text in ["", "F", "F x", "G 12", "A 12", "A 12 x n", "E 12 -1", "O 12 3", "O 12 3 x y"] {
            check(text, None);
        }
    }
}
