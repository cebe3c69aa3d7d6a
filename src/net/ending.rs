//! What a server waits for when its drain is over, before it stops.

use super::server::Server;
use super::stopping::Stopping;
use crate::base::time::Time;
use crate::engine::app::App;

impl<A: App> Server<A> {
    /// Leaves the cluster. Stopping at once does not wait for the answer.
    pub(super) fn has_left_cluster(&mut self, now: Time) -> bool {
        let has_left = self.cluster.as_mut().is_none_or(|cluster| cluster.leave(now));
        has_left || self.stopping == Stopping::AtOnce
    }

    /// Whether the hook has the last events, or had the time for them. Readers of events are sent them, if their sockets take
    /// them now.
    pub(super) fn has_told_hook(&mut self, now: Time) -> bool {
        let Some(events) = &mut self.server_events else { return true };
        let may_stop = events.may_stop(now, &mut self.engine) || self.stopping == Stopping::AtOnce;
        if may_stop && let Some(operators) = &mut self.operators {
            operators.write(now, Some(&*events), &mut self.sockets.tls);
        }
        may_stop
    }
}
