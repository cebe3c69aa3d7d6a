//! How far a server has been asked to stop.

use log::info;

/// Each signal, and each call of [`Handle::stop`](super::Handle::stop), is one step.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Stopping {
    No,
    Draining,
    AtOnce,
}

impl Stopping {
    pub(super) fn advance(&mut self) {
        *self = match self {
            Stopping::No => {
                info!("stopping: the connections are drained; a second signal cuts them off");
                Stopping::Draining
            }
            Stopping::Draining => {
                info!("stopping at once, at the second signal");
                Stopping::AtOnce
            }
            Stopping::AtOnce => Stopping::AtOnce,
        }
    }
}
