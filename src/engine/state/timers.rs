//! Timers of connections, and what moves or defers them.

use std::collections::BTreeMap;

use super::unread::UnreadInput;
use super::wheel::TimerWheel;
use crate::base::id::ConnKey;
use crate::base::time::Time;
use crate::config::Config;

#[derive(Debug)]
pub(crate) struct Timers {
    /// One timer for each connection that is not closed.
    pub(crate) wheel: TimerWheel,
    /// Connections with unread input, and their due timers, which wait.
    pub(crate) unread: UnreadInput,
    /// Members whose identity expires.
    pub(crate) expiries: BTreeMap<ConnKey, Expiry>,
}

/// Expiry of a member's identity.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Expiry {
    /// Milliseconds since the Unix epoch.
    pub(crate) unix_millis: u64,
    /// Time at which `max_lifetime` ends the connection.
    pub(crate) max_lifetime_end: Time,
}

impl Timers {
    pub(crate) fn new(config: &Config) -> Timers {
        Timers {
            wheel: TimerWheel::new(config.wheel_granule),
            unread: UnreadInput::default(),
            expiries: BTreeMap::new(),
        }
    }

    /// Time of the next timer of a connection.
    pub(crate) fn next(&self) -> Option<Time> {
        [self.wheel.next(), self.unread.next()].into_iter().flatten().min()
    }
}
