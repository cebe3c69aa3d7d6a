//! Model of the latest-wins frames: in the end, each client has read the last value sent to it under each key.
//!
//! Fed with the values sent to each connection.

use std::collections::BTreeMap;

/// Number of keys for latest-wins frames.
pub(crate) const KEYS: usize = 3;

/// The last values sent.
#[derive(Debug, Default)]
pub(crate) struct LatestModel {
    /// Number of values so far. Each value is larger than all before.
    last: u64,
    /// By link, the last value sent under each key. `None` if it may have been dropped.
    sent: BTreeMap<u32, [Option<u64>; KEYS]>,
}

impl LatestModel {
    pub(crate) fn next_value(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    /// `value` was sent to `link`. A connection without room for it loses it and the one that it replaces, so unless
    /// the sending `is_certain`, the value is unknown then.
    pub(crate) fn sent(&mut self, link: u32, key: usize, value: u64, is_certain: bool) {
        self.sent.entry(link).or_default()[key] = Some(value).filter(|_| is_certain);
    }

    /// Checks the values that a client read last.
    pub(crate) fn check(&self, link: u32, read: &[u64; KEYS]) -> Result<(), String> {
        let Some(sent) = self.sent.get(&link) else { return Ok(()) };
        for (key, (&sent, read)) in sent.iter().zip(read).enumerate() {
            if sent.is_some_and(|sent| sent != *read) {
                return Err(format!("client #{link} last read {read} under key {key}, but {sent:?} was sent"));
            }
        }
        Ok(())
    }
}
