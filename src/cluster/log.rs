//! The vocabulary of the cluster's log.

use std::fmt;

/// Name of one attachment of a node to a cluster. Redis counts them; a node that was detached comes back under a new one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Incarnation(pub(crate) u64);

impl fmt::Display for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// An entry of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LogEntry<'a> {
    /// Its position, counted from 1 without gaps.
    pub(crate) index: u64,
    /// When it was appended by the clock of Redis, in microseconds since the Unix epoch. May go back after a failover.
    pub(crate) unix_micros: u64,
    pub(crate) body: EntryBody<'a>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EntryBody<'a> {
    /// The log begins, or begins anew after all nodes have ended. There are no users and no lobbies.
    Founded,
    /// A node has attached. The node with the lowest incarnation of those before provides it with the state.
    Attached { node: Incarnation, name: &'a str },
    /// A node has ended: it has left, or its lease has expired. It appends nothing any more.
    Ended { node: Incarnation },
    /// Operations of a node. Their format is the engine's.
    Operations { node: Incarnation, bytes: &'a [u8] },
}

/// Inputs from the link to the engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ClusterInput<'a> {
    /// This node is attached, and has this state from another node, as it was after the entry `index`. The entries after it follow.
    /// `None`: the entry that [founded](EntryBody::Founded) the log follows.
    Attached { node: Incarnation, index: u64, state: Option<&'a [u8]> },
    /// The next entry.
    Entry(LogEntry<'a>),
    /// The connection to Redis was lost, or works again. This node stays attached.
    Reachable(bool),
    /// This node is no longer attached: its lease has expired, or its log differs from that of Redis. It attaches anew.
    Detached,
}

/// Outputs of the engine for the link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ClusterOutput {
    /// Append these operations. Each call is one entry. It is appended exactly once, and in order, unless this node is detached before.
    Append(Vec<u8>),
    /// The state after the entry `index`, for a node that has attached.
    State { node: Incarnation, index: u64, bytes: Vec<u8> },
}
