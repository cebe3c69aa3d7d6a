//! The state that a node that attaches gets from another one.

use super::super::core::Core;
use crate::base::time::Time;

impl Core {
    /// Returns the state that all nodes share.
    pub(super) fn write_state(&self) -> Vec<u8> {
        Vec::new()
    }

    /// Loads the state that all nodes share.
    pub(super) fn load_state(&mut self, _state: &[u8], _now: Time) -> Result<(), String> {
        Err("not yet".to_owned())
    }
}
