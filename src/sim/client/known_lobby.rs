//! What a client knows of its lobby, and when each key of the data has changed.

use std::collections::BTreeMap;

use crate::sim::models::lobby_view::{LobbyFrame, LobbyView};

/// A lobby, as a client knows it.
#[derive(Clone, Debug, Default)]
pub(crate) struct KnownLobby {
    pub(super) now: Snapshot,
    /// Before the last frame.
    pub(super) before: Snapshot,
    /// The last frame and its `seq`.
    pub(super) last: Option<(u64, LobbyFrame)>,
}

/// What a client knows of its lobby at one time.
#[derive(Clone, Debug, Default)]
pub(crate) struct Snapshot {
    pub(crate) view: LobbyView,
    /// `seq` of the last change of each key, of the lobby or of the member in a seat.
    pub(super) changed: BTreeMap<(Option<Box<str>>, Box<str>), u64>,
    /// Changes up to this `seq` are not known one by one.
    pub(super) since: u64,
}

impl Snapshot {
    /// Returns the `seq` of the newest change of these keys that is known.
    pub(super) fn newest<'a>(&self, of: Option<&str>, keys: impl Iterator<Item = &'a Box<str>>) -> Option<u64> {
        keys.filter_map(|key| self.changed.get(&(of.map(Into::into), key.clone())).copied()).max()
    }

    /// Applies a frame.
    pub(super) fn apply(&mut self, seq: u64, frame: &LobbyFrame) {
        if let LobbyFrame::State { conn, data, .. } = frame {
            self.changed.extend(data.keys().map(|key| ((conn.clone(), key.clone()), seq)));
        }
        self.view.apply(frame);
    }

    /// A member has left.
    pub(super) fn member_left(&mut self, conn: &str) {
        self.view.members.remove(conn);
        self.changed.retain(|(of, _), _| of.as_deref() != Some(conn));
    }
}
