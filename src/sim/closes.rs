//! Numbers of closed connections, by close reason. Counted apart from the engine's own counters.

use std::collections::BTreeMap;

use crate::base::close::CloseReason;
use crate::base::codes::CloseCode;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Closes {
    /// By position in [`CloseReason::ALL`]; may be shorter.
    own: Vec<u64>,
    /// By the application's code.
    app: BTreeMap<CloseCode, u64>,
}

impl Closes {
    pub(super) fn add(&mut self, reason: CloseReason, count: u64) {
        *match reason {
            CloseReason::App(code) => self.app.entry(code).or_default(),
            reason => {
                self.own.resize(CloseReason::ALL.len(), 0);
                &mut self.own[reason.kind() as usize]
            }
        } += count;
    }

    /// Returns the number for each reason, without the reasons that did not occur.
    pub(super) fn iter(&self) -> impl Iterator<Item = (CloseReason, u64)> {
        let own = CloseReason::ALL.iter().copied().zip(self.own.iter().copied()).filter(|(_, count)| *count > 0);
        own.chain(self.app.iter().map(|(&code, &count)| (CloseReason::App(code), count)))
    }
}
