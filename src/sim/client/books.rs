//! What a client knows of its lobby, and how far it has read. A session keeps these books over its connections.

use super::known_lobby::KnownLobby;
use super::payload::LastReceived;
use crate::sim::models::relay::MessageId;

/// A member of the lobby, as the client knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KnownMember {
    pub(crate) user: Box<str>,
    pub(crate) conn: Box<str>,
    pub(crate) is_away: bool,
}

/// How far a client has read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ReadPosition {
    pub(crate) epoch: u64,
    /// Highest `seq` of any frame but the `welcome`.
    pub(crate) seq: u64,
    /// Number of the last direct message. 0 without a session.
    pub(crate) n: u64,
}

/// The lobby as one client knows it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Books {
    /// `conn` of the `welcome`, which names the client's seat.
    pub(super) conn: Box<str>,
    pub(super) position: ReadPosition,
    /// Whether there is a position: a `presence_state` was read in this session.
    pub(super) has_position: bool,
    /// The members in join order. `None` if the server sends only their number.
    pub(crate) members: Option<Vec<KnownMember>>,
    /// The last number of members received in place of a list.
    pub(super) count: u64,
    /// Number of the last operator's message received.
    pub(super) last_operator_message: u32,
    /// Messages of other clients that were skipped.
    pub(super) gaps: Vec<MessageId>,
    pub(super) last_messages: LastReceived,
    pub(super) last_directs: LastReceived,
    pub(super) last_volatiles: LastReceived,
    /// Data, host and settings of the lobby. `None` with lobby control off, and until it is known.
    pub(super) lobby: Option<KnownLobby>,
}

impl Books {
    /// Returns the number of members that the client knows of.
    pub(crate) fn count_known(&self) -> u64 {
        self.members.as_ref().map_or(self.count, |members| members.len() as u64)
    }

    /// Messages were lost, as the server has said: no gap is one from here on.
    pub(super) fn allow_gaps(&mut self) {
        self.last_messages.allow_gaps();
        self.gaps.clear();
    }

    /// Marks a known member as away, or as back.
    pub(super) fn set_away(&mut self, user: &str, conn: &str, is_away: bool) -> Result<(), String> {
        let members = self.members.as_mut().ok_or("a presence_diff to a client that received only a count")?;
        let member = members.iter_mut().find(|there| *there.conn == *conn && *there.user == *user);
        let member = member.ok_or_else(|| format!("{user} is away or back and is not a member"))?;
        if std::mem::replace(&mut member.is_away, is_away) == is_away {
            return Err(format!("{user} is away, or back, twice"));
        }
        Ok(())
    }
}
