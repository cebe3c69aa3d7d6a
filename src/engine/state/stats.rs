//! Counters, which only grow, and gauges, which show the current state.

use super::ticks::TickStats;
use crate::base::close::{CloseReason, Reject};

/// The current state of the server and its counters.
#[derive(Clone, Debug, PartialEq)]
pub struct Stats {
    /// Connections that have a seat.
    pub total_connections: usize,
    /// Limit of seats; `None` when unlimited.
    pub max_connections: Option<u32>,
    /// Taken seats in percent of `max_connections`, with one decimal. 0 when unlimited, 100 when the limit is 0.
    pub capacity_percent: f64,
    /// Lobbies that exist.
    pub active_lobbies: usize,

    /// Connections that have no seat yet.
    pub pending: usize,
    /// Connections that are closing.
    pub closing: usize,
    /// The game clock; `None` when `tick_hz` is off.
    pub ticks: Option<TickStats>,
    /// Counters since the start.
    pub counters: Counters,
}

/// Defines [`Counters`] and its lists of all counters.
macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Counters since the start.
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub struct Counters {
            $($(#[$doc])* pub $name: u64,)*
            closes: [u64; CloseReason::ALL.len()],
            rejects: [u64; Reject::ALL.len()],
        }

        impl Default for Counters {
            fn default() -> Counters {
                Counters { $($name: 0,)* closes: [0; CloseReason::ALL.len()], rejects: [0; Reject::ALL.len()] }
            }
        }

        impl Counters {
            /// Returns the name and value of every counter except those of closes and rejects.
            pub fn named(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($name), self.$name)),*]
            }

            /// All counters in a fixed order, to save and restore them.
            pub(crate) fn all_mut(&mut self) -> impl Iterator<Item = &mut u64> {
                let Counters { $($name,)* closes, rejects } = self;
                [$($name),*].into_iter().chain(closes).chain(rejects)
            }
        }
    };
}

counters! {
    /// Connections accepted.
    accepted,
    /// Connections dropped without an answer, because no socket or file descriptor was left for them.
    shed,
    /// Seats taken by new members.
    joined,
    /// Seats taken over by a newer connection of the same user in the same lobby.
    taken_over,
    /// Seats freed.
    left,
    /// Bytes received.
    bytes_in,
    /// Bytes written.
    bytes_out,
    /// Messages received, text and binary.
    messages_in,
    /// Frames queued, one for each receiver: messages, pings and pongs.
    frames_out,
    /// Frames that were discarded before a byte of them was written, because the connection was cut off or too slow.
    frames_dropped,
    /// Latest-wins frames that were replaced by a newer one before they were written.
    frames_replaced,
    /// Pings sent to idle connections.
    pings,
    /// Application-level health checks started.
    health_checks,
    /// Health checks that ended without an answer.
    health_checks_failed,
}

impl Counters {
    /// Returns the number of connections closed for `reason`.
    pub fn closed(&self, reason: CloseReason) -> u64 {
        self.closes[reason as usize]
    }

    /// Returns the number of connections closed for any reason.
    pub fn closed_in_all(&self) -> u64 {
        self.closes.iter().sum()
    }

    /// Returns the number of requests refused with `reject`.
    pub fn rejected(&self, reject: Reject) -> u64 {
        self.rejects[reject as usize]
    }

    pub(crate) fn count_close(&mut self, reason: CloseReason) {
        self.closes[reason as usize] += 1;
    }

    pub(crate) fn count_reject(&mut self, reject: Reject) {
        self.rejects[reject as usize] += 1;
    }
}

impl Stats {
    /// Returns one line for the log: the current state, and every counter that is not 0.
    pub fn line(&self) -> String {
        let c = &self.counters;
        let mut line = format!(
            "connections={} capacity={}% lobbies={} pending={} closing={}",
            self.total_connections, self.capacity_percent, self.active_lobbies, self.pending, self.closing
        );
        let closes = CloseReason::ALL.iter().map(|&reason| (reason.word(), c.closed(reason)));
        let rejects = Reject::ALL.iter().map(|&reject| (reject.word(), c.rejected(reject)));
        if let Some(ticks) = &self.ticks {
            line.push_str(&format!(" {ticks}"));
        }
        let mut add = |prefix: &str, name: &str, count: u64| {
            if count > 0 {
                line.push_str(&format!(" {prefix}{name}={count}"));
            }
        };
        c.named().into_iter().for_each(|(name, count)| add("", name, count));
        closes.for_each(|(name, count)| add("closed.", name, count));
        rejects.for_each(|(name, count)| add("error.", name, count));
        line
    }
}
