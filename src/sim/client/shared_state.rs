//! State shared by all model clients of a run: who they are, what they may rely on, and the record of their messages.

use super::asked::ControlBook;
use super::sessions::Sessions;
use crate::sim::models::relay::RelayModel;

/// State shared by all model clients of a run.
pub(crate) struct SharedState {
    pub(crate) users: Vec<String>,
    pub(crate) lobbies: Vec<String>,
    /// Index of the user of each link of the run, by the link's number.
    pub(crate) link_users: Vec<usize>,
    /// Whether every message of a member reaches all other members exactly once, as with the built-in applications.
    pub(crate) relays: bool,
    /// Number of messages received from clients, from the operator and from the application.
    pub(crate) messages: u64,
    /// Whether a message may be refused with `rate_limited`: because of a rate, or of a full inbox.
    pub(crate) may_refuse: bool,
    /// Whether the faults have stopped. Clients then send so slowly that no message is refused.
    pub(crate) is_final_phase: bool,
    /// Whether the server drains, and no longer tells members of each other.
    pub(crate) is_draining: bool,
    /// Whether a lobby may be so large that its members are told only their number.
    pub(crate) may_be_counted: bool,
    /// Whether clients have sessions. Then the outcome of a message may remain unknown to its sender.
    pub(crate) has_sessions: bool,
    pub(crate) sessions: Sessions,
    /// `seat_grace` in milliseconds.
    pub(crate) seat_grace_ms: u64,
    /// `None` with lobby control off.
    pub(crate) control: Option<ControlBook>,
    /// The messages of the clients and the operator, compared among all receivers.
    pub(crate) relay: RelayModel,
}

impl SharedState {
    /// Creates the state of a run. `seat_grace_ms` is `None` if no client has a session.
    pub(crate) fn new(
        users: Vec<String>,
        lobbies: Vec<String>,
        relays: bool,
        may_refuse: bool,
        may_be_counted: bool,
        seat_grace_ms: Option<u64>,
    ) -> SharedState {
        let has_sessions = seat_grace_ms.is_some();
        SharedState {
            users,
            lobbies,
            link_users: Vec::new(),
            relays,
            messages: 0,
            may_refuse,
            is_final_phase: false,
            is_draining: false,
            may_be_counted,
            has_sessions,
            sessions: Sessions::default(),
            seat_grace_ms: seat_grace_ms.unwrap_or(0),
            control: None,
            relay: RelayModel::new(may_refuse || has_sessions),
        }
    }
}
