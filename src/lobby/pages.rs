//! Pages of all lobbies, for operators of this node. They are ordered by key, so other nodes of a cluster have other pages.

use super::directory::Directory;
use crate::base::arena::Key;
use crate::base::id::{LobbyKey, SeatKey};

/// Most keys that one page looks at, used or unused.
const MAX_KEYS: usize = 100_000;
/// Most lobbies whose code and name one page compares with a text.
const MAX_COMPARED: usize = 10_000;

impl Directory {
    /// Returns at most `limit` lobbies with keys above `after` whose code or name contains `text`, and the key after which
    /// to continue if there may be more.
    ///
    /// Looks at no more than `MAX_KEYS` keys, and compares no more than `MAX_COMPARED` lobbies, so that the time for a page
    /// is bounded.
    pub(crate) fn lobbies_after(
        &self,
        after: Option<LobbyKey>,
        limit: usize,
        text: &str,
    ) -> (Vec<LobbyKey>, Option<LobbyKey>) {
        let from = after.map_or(0, |after| after.index() + 1);
        // All keys are below the slab's capacity.
        let end = self.lobbies.capacity();
        let (mut found, mut compared) = (Vec::new(), 0);
        for index in from..end.min(from.saturating_add(MAX_KEYS)) {
            let key = LobbyKey::new(index);
            if !self.lobbies.contains(key) {
                continue;
            }
            if found.len() == limit || compared == MAX_COMPARED {
                return (found, Some(LobbyKey::new(index - 1)));
            }
            if text.is_empty() {
                found.push(key);
                continue;
            }
            compared += 1;
            if self.has_in_name(key, text) {
                found.push(key);
            }
        }
        let next = from.saturating_add(MAX_KEYS);
        (found, (next < end).then(|| LobbyKey::new(next - 1)))
    }

    /// Returns all lobbies whose code or name contains `text`. `None` if there are more than `max` lobbies, or more than `MAX_KEYS`
    /// keys would be looked at.
    pub(crate) fn lobbies_with(&self, text: &str, max: usize) -> Option<Vec<LobbyKey>> {
        if self.lobbies.len() > max || self.lobbies.capacity() > MAX_KEYS {
            return None;
        }
        let keys = self.lobbies.iter().map(|(key, _)| key);
        Some(keys.filter(|&key| text.is_empty() || self.has_in_name(key, text)).collect())
    }

    /// Whether the user id of a seat contains `text`.
    pub(crate) fn has_in_user_id(&self, seat: SeatKey, text: &str) -> bool {
        text.is_empty() || contains(self.user_of(seat), text)
    }

    fn has_in_name(&self, lobby: LobbyKey, text: &str) -> bool {
        let name = self.control(lobby).and_then(|control| control.settings.name.as_deref());
        contains(&self.lobbies[lobby].code, text) || name.is_some_and(|name| contains(name, text))
    }
}

/// Returns whether `text` contains `part`, which is not empty. Upper and lower case of ASCII letters are the same.
fn contains(text: &str, part: &str) -> bool {
    text.as_bytes().windows(part.len()).any(|window| window.eq_ignore_ascii_case(part.as_bytes()))
}
