//! Configuration and constants of the link.

use std::time::Duration;

/// Bytes of one batch of operations. The engine bounds those of a turn to less.
pub(crate) const MAX_BATCH_BYTES: usize = 8 << 20;
/// Bytes of unsent output beyond which nothing that may wait is added.
pub(crate) const OUTPUT_BYTES: usize = 256 * 1024;
/// Requests that may wait for their reply before further batches wait.
pub(crate) const MAX_PENDING_REQUESTS: usize = 64;
/// Bytes of one value of RESP3: an answer of `since`, which ends with at most one batch beyond [`CALL_BYTES`].
pub(crate) const VALUE_BYTES: usize = 16 << 20;
/// Bytes of entries that one call of `since` or `restore` carries, and bytes of a part of a state. Redis serves nobody else meanwhile.
pub(super) const CALL_BYTES: usize = 256 * 1024;

/// How many times as many bytes of entries as a node Redis keeps. From there, a node gets what it has missed.
pub(super) const KEPT_BY_REDIS: usize = 4;

/// Time between two tries to get the next part of a state.
pub(super) const STATE_POLL: Duration = Duration::from_millis(50);
/// Time without a part of a state after which the node attaches anew.
pub(super) const STATE_TIMEOUT: Duration = Duration::from_secs(3);
/// Time between two calls of `since` on a link that seems to work.
pub(super) const SINCE_INTERVAL: Duration = Duration::from_secs(30);
/// Time after which a node tries again whose configuration differs from that of the cluster.
pub(super) const REFUSED_DELAY: Duration = Duration::from_secs(5);

/// What a [`Link`](super::Link) must know.
#[derive(Clone)]
pub(crate) struct LinkConfig {
    /// Name of the node. The nodes of a cluster have different names.
    pub(crate) node: String,
    pub(crate) namespace: String,
    pub(crate) database: u32,
    pub(crate) user: Option<String>,
    pub(crate) password: Option<String>,
    /// The configuration that all nodes must share: lines `field=value`.
    pub(crate) fingerprint: String,
    pub(crate) lease: Duration,
    /// Entries that Redis and this node keep.
    pub(crate) log_entries: u32,
    /// Bytes of the entries that this node keeps.
    pub(crate) log_bytes: usize,
    /// Bytes of batches that are not applied yet.
    pub(crate) queue_bytes: usize,
    /// Bytes of a state.
    pub(crate) state_bytes: usize,
    /// Seed of the delays between attempts.
    pub(crate) seed: u64,
}

impl LinkConfig {
    /// Time between two heartbeats.
    pub(super) fn heartbeat(&self) -> Duration {
        self.lease / 3
    }

    /// For how long a Redis that the log does not know suspends appends: 1 s with the default lease.
    pub(super) fn freeze(&self) -> Duration {
        self.lease / 6
    }

    /// Time for a reply, for a probe, and for each step of connecting.
    pub(super) fn timeout(&self) -> Duration {
        self.lease / 2
    }
}
