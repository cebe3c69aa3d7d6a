//! Requests of clients for the list of lobbies.

use smol_str::SmolStr;

/// Longest name of a pool, in bytes.
pub(crate) const MAX_POOL_BYTES: usize = 32;
/// Longest key and value of a tag, in bytes.
pub(crate) const MAX_TAG_BYTES: usize = 64;
/// Most tags of a lobby, and so of a filter.
pub(crate) const MAX_TAGS: usize = 4;

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
        self.pool.as_ref().is_none_or(|pool| (1..=MAX_POOL_BYTES).contains(&pool.len()))
            && self.tags.len() <= MAX_TAGS
            && self.tags.iter().all(|(key, value)| is_tag(key) && is_tag(value))
            && self.tags.is_sorted_by(|(before, _), (after, _)| before < after)
    }
}
