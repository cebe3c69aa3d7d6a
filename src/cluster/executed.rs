//! A state machine for tests of links: its state is the list of operations that were executed, and of the attached nodes.

use super::log::{ClusterInput, ClusterOutput, EntryBody, Incarnation};

#[derive(Debug, Default)]
pub(crate) struct Executed {
    pub(crate) node: Option<Incarnation>,
    pub(crate) index: u64,
    pub(crate) nodes: Vec<Incarnation>,
    pub(crate) executed: Vec<String>,
    pub(crate) is_reachable: bool,
    /// Operations that were pushed since the node was attached.
    pub(crate) pushed: u32,
    pub(crate) detached: u32,
}

impl Executed {
    /// Handles what the link says. Returns what the link is to be told.
    pub(crate) fn handle(&mut self, input: ClusterInput<'_>) -> Option<ClusterOutput> {
        match input {
            ClusterInput::Attached { node, index, state } => {
                assert_eq!(self.node, None);
                let (nodes, executed): (Vec<u64>, Vec<String>) =
                    state.map_or_else(Default::default, |state| serde_json::from_slice(state).expect("a state"));
                self.nodes = nodes.into_iter().map(Incarnation).collect();
                (self.node, self.index, self.executed, self.is_reachable) = (Some(node), index, executed, true);
                self.pushed = 0;
            }
            ClusterInput::Entry(entry) => {
                assert_eq!(entry.index, self.index + 1, "entries come without gaps");
                self.index = entry.index;
                return self.execute(entry.body);
            }
            ClusterInput::Reachable(is_reachable) => {
                assert_ne!(self.is_reachable, is_reachable);
                self.is_reachable = is_reachable;
            }
            ClusterInput::Detached => {
                assert!(self.node.is_some());
                (self.node, self.is_reachable) = (None, false);
                self.detached += 1;
            }
        }
        None
    }

    fn execute(&mut self, body: EntryBody<'_>) -> Option<ClusterOutput> {
        match body {
            EntryBody::Founded => {
                self.nodes.clear();
                self.executed.clear();
            }
            EntryBody::Attached { node, .. } => {
                self.nodes.push(node);
                if self.nodes.len() > 1 && self.node == Some(self.nodes[0]) {
                    let nodes: Vec<u64> = self.nodes.iter().map(|node| node.0).collect();
                    let bytes = serde_json::to_vec(&(nodes, &self.executed)).expect("JSON");
                    return Some(ClusterOutput::State { node, index: self.index, bytes });
                }
            }
            EntryBody::Ended { node } => {
                assert_ne!(self.node, Some(node), "a node that has ended gets no entries");
                self.nodes.retain(|other| *other != node);
            }
            EntryBody::Operations { node, bytes } => {
                assert!(self.nodes.contains(&node), "{node} is attached");
                self.executed.push(String::from_utf8_lossy(bytes).into_owned());
            }
        }
        None
    }
}
