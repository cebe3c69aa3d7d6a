//! The result of a call of the hook, on its way from a thread to the loop.

use crate::hook::{CallId, HttpResult};

/// A call that was performed, and by which thread.
#[cfg_attr(not(feature = "hook"), expect(dead_code, reason = "nothing performs calls"))]
#[derive(Debug)]
pub(super) struct HttpReport {
    /// Index of the thread; `usize::MAX` if none could perform it.
    pub(super) thread: usize,
    pub(super) of: CallId,
    pub(super) result: HttpResult,
}
