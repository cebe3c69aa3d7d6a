//! The state that a node that attaches gets from another one: what the cluster knows of its nodes, and the users, lobbies and
//! seats.

use serde::{Deserialize, Serialize};
use smol_str::SmolStr;

use super::super::core::Core;
use super::super::state::cluster::SharedOrigin;
use crate::base::time::Time;
use crate::cluster::log::Incarnation;

/// What a state begins with, as JSON in one line.
#[derive(Serialize, Deserialize)]
struct Header {
    unix_micros: u64,
    executed: u64,
    nodes: Vec<(u64, String)>,
}

impl Core {
    /// Returns the state that all nodes share.
    pub(super) fn write_state(&self) -> Vec<u8> {
        let cluster = self.cluster.as_ref().expect("the engine is a node of a cluster");
        let nodes = cluster.nodes.iter().map(|(node, name)| (node.0, name.to_string())).collect();
        let header = Header { unix_micros: cluster.unix_micros, executed: cluster.executed, nodes };
        let mut state = serde_json::to_vec(&header).expect("a header can be written");
        state.push(b'\n');
        state
    }

    /// Loads the state that all nodes share. There are no users and lobbies.
    pub(super) fn load_state(&mut self, state: &[u8], now: Time) -> Result<(), String> {
        let end = state.iter().position(|&byte| byte == b'\n').ok_or("it has no header")?;
        let header: Header = serde_json::from_slice(&state[..end]).map_err(|error| error.to_string())?;
        let cluster = self.in_cluster();
        cluster.unix_micros = header.unix_micros;
        cluster.origin = SharedOrigin::at(now, header.unix_micros);
        cluster.executed = header.executed;
        cluster.nodes = header.nodes.into_iter().map(|(node, name)| (Incarnation(node), SmolStr::from(name))).collect();
        Ok(())
    }
}
