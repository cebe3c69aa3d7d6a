//! What operators wait for at a node.

use std::collections::BTreeMap;

#[derive(Debug, Default)]
pub(super) struct Asked {
    /// By ticket: the data that is to be published, if any is.
    open: BTreeMap<u64, Option<String>>,
}

impl Asked {
    pub(super) fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    pub(super) fn begin(&mut self, ticket: u64, data: Option<String>) {
        self.open.insert(ticket, data);
    }

    /// The command with this ticket was answered. `None`: nobody waits for the answer.
    pub(super) fn end(&mut self, ticket: u64) -> Option<Option<String>> {
        self.open.remove(&ticket)
    }
}
