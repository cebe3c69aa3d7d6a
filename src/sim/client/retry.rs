//! A patient client that was refused for a rate waits as long as the server asked for, then tries again once.

use crate::base::time::Time;

/// A retry of a refused client: scheduled, or sent and not answered yet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Retry {
    pub(crate) until: Time,
    /// Bytes that the client had sent when the retry was scheduled.
    pub(crate) sent: u64,
    /// Connections that the user had made by then.
    pub(crate) connections: usize,
    /// The `ref` of the retry, once it was sent.
    pub(crate) retried: Option<u32>,
}
