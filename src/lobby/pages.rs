//! Pages of all lobbies, for operators of this node. They are ordered by key, so other nodes of a cluster have other pages.

use super::directory::Directory;
use crate::base::arena::Key;
use crate::base::id::LobbyKey;

impl Directory {
    /// Returns at most `limit` lobbies with keys above `after`, and the key after which to continue if there may be
    /// more.
    ///
    /// Looks at no more than `MAX_KEYS` keys, used or unused, so that the time for a page is bounded.
    pub(crate) fn lobbies_after(&self, after: Option<LobbyKey>, limit: usize) -> (Vec<LobbyKey>, Option<LobbyKey>) {
        const MAX_KEYS: usize = 100_000;
        let from = after.map_or(0, |after| after.index() + 1);
        // All keys are below the slab's capacity.
        let end = self.lobbies.capacity();
        let mut found = Vec::new();
        for index in from..end.min(from.saturating_add(MAX_KEYS)) {
            let key = LobbyKey::new(index);
            if self.lobbies.contains(key) {
                if found.len() == limit {
                    return (found, Some(LobbyKey::new(index - 1)));
                }
                found.push(key);
            }
        }
        let next = from.saturating_add(MAX_KEYS);
        (found, (next < end).then(|| LobbyKey::new(next - 1)))
    }
}
