//! The current state of the server in numbers, for operators and the log.

use super::counters::Counters;
use super::ticks::TickStats;
use crate::base::close::{CloseReason, Reject};

/// The current state of the server and its counters.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
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
