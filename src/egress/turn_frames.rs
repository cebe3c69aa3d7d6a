//! The frames of one lobby in one turn, while its members are written to.
//!
//! Most members have read none of them. Such a member gets the whole buffer, or the whole buffer without its own frame.
//! So the exclusions are listed once for the lobby, and not searched again for each member.

use std::ops::Range;

use super::cursor::Cursor;
use crate::base::id::{ConnKey, LobbyKey};

#[derive(Debug, Default)]
pub(super) struct TurnFrames {
    /// The lobby; `None` if its members need other checks.
    pub(super) lobby: Option<LobbyKey>,
    /// Cursor of a member that has read none of the frames, and of one that has read all.
    pub(super) first: Cursor,
    pub(super) end: Cursor,
    pub(super) buffer: u32,
    pub(super) length: u32,
    /// Frames that exclude one connection.
    pub(super) excluded: Vec<(ConnKey, Range<u32>)>,
}

impl TurnFrames {
    #[inline]
    pub(super) fn are_unread(&self, lobby: Option<LobbyKey>, cursor: Cursor) -> bool {
        lobby.is_some() && lobby == self.lobby && cursor == self.first
    }

    /// Where the frames for a member lie: before and after the one frame that excludes it. `None` if several do.
    #[inline]
    pub(super) fn frames_for(&self, conn: ConnKey) -> Option<[Range<u32>; 2]> {
        let mut own = self.excluded.iter().filter(|(excluded, _)| *excluded == conn).map(|(_, frame)| frame);
        match (own.next(), own.next()) {
            (None, _) => Some([0..self.length, 0..0]),
            (Some(frame), None) => Some([0..frame.start, frame.end..self.length]),
            (Some(_), Some(_)) => None,
        }
    }
}
