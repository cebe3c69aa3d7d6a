//! The nodes on which lobbies are, in a cluster whose application keeps state of its own.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use smol_str::SmolStr;

use crate::base::id::ConnId;
use crate::cluster::log::{ClusterOutput, Incarnation};
use crate::engine::member::Identity;
use crate::engine::state::cluster::{MAX_OPERATIONS_BYTES, take_batch};

/// A node, as the others know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NodeInfo {
    pub(crate) name: SmolStr,
    /// Where its clients connect, such as `wss://eu2.example.com`.
    pub(crate) url: Option<SmolStr>,
}

impl NodeInfo {
    /// Reads what a node says of itself when it attaches: its name, and its URL after a space.
    pub(crate) fn read(text: &str) -> NodeInfo {
        match text.split_once(' ') {
            Some((name, url)) => NodeInfo { name: name.into(), url: Some(url.into()) },
            None => NodeInfo { name: text.into(), url: None },
        }
    }
}

#[derive(Debug, Default)]
pub(crate) struct Homes {
    /// `None` while this node is not attached to the cluster.
    pub(crate) node: Option<Incarnation>,
    pub(crate) is_reachable: bool,
    pub(crate) nodes: BTreeMap<Incarnation, NodeInfo>,
    /// The node of each lobby that exists, by its code.
    pub(crate) of_lobbies: BTreeMap<SmolStr, Incarnation>,
    /// Lobbies of this node that were removed. The others do not know it yet.
    pub(crate) releasing: BTreeSet<SmolStr>,
    /// Connections that wait until it is known where their lobby is.
    pub(crate) waiting: BTreeMap<ConnId, (SmolStr, Identity)>,
    /// Operations that are not appended yet.
    pub(crate) operations: Vec<u8>,
    pub(crate) outputs: VecDeque<ClusterOutput>,
    /// Index of the last entry that was executed.
    pub(crate) index: u64,
}

/// Where a lobby is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Home {
    Here,
    /// On a node with this URL, if it has told one.
    At(Option<SmolStr>),
    /// Nowhere yet, or no longer.
    Unknown,
}

impl Homes {
    /// Whether this node is not attached and has nothing that another one lacks. All else is as in a new node then.
    pub(crate) fn is_blank(&self) -> bool {
        let has_work = !self.operations.is_empty() || !self.outputs.is_empty() || !self.waiting.is_empty();
        self.node.is_none() && !self.is_reachable && !has_work
    }

    /// Takes what is to be passed to the link next.
    pub(crate) fn take_output(&mut self) -> Option<ClusterOutput> {
        let append = |operations: &mut Vec<u8>| ClusterOutput::Append(take_batch(operations));
        let output = self.outputs.pop_front();
        output.or_else(|| (!self.operations.is_empty()).then(|| append(&mut self.operations)))
    }

    /// Whether a client's request may be appended now.
    pub(crate) fn has_room(&self) -> bool {
        self.node.is_some() && self.is_reachable && self.operations.len() < MAX_OPERATIONS_BYTES
    }

    /// Returns where the lobby `code` is. `exists_here` says whether this node has it.
    pub(crate) fn find(&self, code: &str, exists_here: bool) -> Home {
        match self.of_lobbies.get(code) {
            _ if self.releasing.contains(code) => Home::Unknown,
            Some(node) if Some(*node) == self.node => Home::Here,
            // This node has one, too, if both have created it at the same time. The first claim counts.
            Some(node) => Home::At(self.nodes.get(node).and_then(|info| info.url.clone())),
            None if exists_here => Home::Here,
            None => Home::Unknown,
        }
    }

    /// The connections that wait for the lobby `code`, oldest first.
    pub(crate) fn take_waiting(&mut self, code: &str) -> Vec<(ConnId, Identity)> {
        let mut conns: Vec<ConnId> =
            self.waiting.iter().filter(|(_, (own, _))| own == code).map(|(&conn, _)| conn).collect();
        conns.sort_unstable_by_key(|conn| conn.generation());
        let take = |conn| self.waiting.remove(&conn).map(|(_, identity)| (conn, identity));
        conns.into_iter().filter_map(take).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_claim_counts_also_where_another_lobby_of_the_code_exists() {
        let mut homes = Homes { node: Some(Incarnation(1)), ..Homes::default() };
        homes.nodes.insert(Incarnation(2), NodeInfo::read("b ws://b"));
        let at_b = Home::At(Some("ws://b".into()));
        assert_eq!((homes.find("chess", true), homes.find("chess", false)), (Home::Here, Home::Unknown));
        homes.of_lobbies.insert("chess".into(), Incarnation(2));
        assert_eq!((homes.find("chess", true), homes.find("chess", false)), (at_b.clone(), at_b));
        homes.of_lobbies.insert("chess".into(), Incarnation(1));
        assert_eq!((homes.find("chess", true), homes.find("chess", false)), (Home::Here, Home::Here));
        homes.releasing.insert("chess".into());
        assert_eq!(homes.find("chess", false), Home::Unknown, "others may claim it before this node does again");
    }
}
