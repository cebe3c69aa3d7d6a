//! Requests of clients for the list of lobbies, and the rules for pools and tags.

use smol_str::SmolStr;

/// Longest name of a pool, in bytes.
const MAX_POOL_BYTES: usize = 32;
/// Longest key and value of a tag, in bytes.
pub(crate) const MAX_TAG_BYTES: usize = 64;
/// Most tags of a lobby, and so of a filter.
pub(crate) const MAX_TAGS: usize = 4;

/// Returns whether `text` is a valid name of a pool: 1 to 32 of `A-Z a-z 0-9 _ -`.
pub(crate) fn is_pool(text: &str) -> bool {
    (1..=MAX_POOL_BYTES).contains(&text.len()) && has_only_code_characters(text)
}

/// Returns whether `text` consists of the characters of lobby codes and pools: `A-Z a-z 0-9 _ -`.
pub(crate) fn has_only_code_characters(text: &str) -> bool {
    text.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'_' || c == b'-')
}

/// Which lobbies of the list a client asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ListFilter {
    /// Only lobbies that this pool has created.
    pub(crate) pool: Option<SmolStr>,
    /// Only lobbies with all of these tags. Ordered by key; no key occurs twice.
    pub(crate) tags: Vec<(SmolStr, SmolStr)>,
}

/// A request for a part of the list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ListQuery {
    pub(crate) filter: ListFilter,
    /// Only lobbies that were created after the one with this epoch.
    pub(crate) after: u64,
}

impl ListFilter {
    /// Returns whether the filter is one that a client can ask for.
    pub(crate) fn is_valid(&self) -> bool {
        let is_tag = |text: &SmolStr| (1..=MAX_TAG_BYTES).contains(&text.len());
        self.pool.as_ref().is_none_or(|pool| is_pool(pool))
            && self.tags.len() <= MAX_TAGS
            && self.tags.iter().all(|(key, value)| is_tag(key) && is_tag(value))
            && self.tags.is_sorted_by(|(before, _), (after, _)| before < after)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pool_has_1_to_32_characters_of_codes() {
        let longest = "x".repeat(MAX_POOL_BYTES);
        for pool in ["a", "Fun_1-", &longest] {
            assert!(is_pool(pool), "{pool}");
        }
        for text in ["", "two words", "café", "a/b", &format!("{longest}x")] {
            assert!(!is_pool(text), "{text}");
        }
        let filter = ListFilter { pool: Some("two words".into()), tags: Vec::new() };
        assert!(!filter.is_valid());
    }
}
