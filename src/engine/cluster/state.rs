//! The state that a node that attaches gets from another one.

use super::super::core::Core;
use super::super::state::cluster::SharedOrigin;
use crate::base::snapshot::SnapshotError;
use crate::base::time::Time;

impl Core {
    /// Returns the state that all nodes share. Called while an entry is executed, at the time of the log.
    pub(super) fn write_state(&self) -> Vec<u8> {
        let cluster = self.cluster.as_ref().expect("the engine is a node of a cluster");
        self.write_snapshot(self.now(), cluster.origin)
    }

    /// Loads the state that all nodes share. There are no users and lobbies. `now` is this node's own time.
    ///
    /// # Errors
    ///
    /// As [`load_snapshot`](Self::load_snapshot).
    pub(super) fn load_state(&mut self, state: &[u8], now: Time) -> Result<(), SnapshotError> {
        let unix_micros = self.load_snapshot(state, now, None)?;
        let cluster = self.in_cluster();
        (cluster.unix_micros, cluster.origin) = (unix_micros, SharedOrigin::at(now, unix_micros));
        Ok(())
    }
}
