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

/// Counters since the start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counters {
    /// Connections accepted.
    pub accepted: u64,
    /// Connections dropped without an answer, because no socket or file descriptor was left for them.
    pub shed: u64,
    /// Seats taken by new members.
    pub joined: u64,
    /// Seats taken over by a newer connection of the same user in the same lobby.
    pub taken_over: u64,
    /// Seats freed.
    pub left: u64,
    /// Bytes received.
    pub bytes_in: u64,
    /// Bytes written.
    pub bytes_out: u64,
    /// Messages received, text and binary.
    pub messages_in: u64,
    /// Frames queued, one for each receiver: messages, pings and pongs.
    pub frames_out: u64,
    /// Frames that were discarded before a byte of them was written, because the connection was cut off or too slow.
    pub frames_dropped: u64,
    /// Latest-wins frames that were replaced by a newer one before they were written.
    pub frames_replaced: u64,
    /// Pings sent to idle connections.
    pub pings: u64,
    /// Application-level health checks started.
    pub health_checks: u64,
    /// Health checks that ended without an answer.
    pub health_checks_failed: u64,
    closes: [u64; CloseReason::ALL.len()],
    rejects: [u64; Reject::ALL.len()],
}

impl Default for Counters {
    fn default() -> Counters {
        Counters {
            accepted: 0,
            shed: 0,
            joined: 0,
            taken_over: 0,
            left: 0,
            bytes_in: 0,
            bytes_out: 0,
            messages_in: 0,
            frames_out: 0,
            frames_dropped: 0,
            frames_replaced: 0,
            pings: 0,
            health_checks: 0,
            health_checks_failed: 0,
            closes: [0; CloseReason::ALL.len()],
            rejects: [0; Reject::ALL.len()],
        }
    }
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

    /// Returns the name and value of every counter except those of closes and rejects.
    pub fn named(&self) -> Vec<(&'static str, u64)> {
        let c = self;
        vec![
            ("accepted", c.accepted),
            ("shed", c.shed),
            ("joined", c.joined),
            ("taken_over", c.taken_over),
            ("left", c.left),
            ("bytes_in", c.bytes_in),
            ("bytes_out", c.bytes_out),
            ("messages_in", c.messages_in),
            ("frames_out", c.frames_out),
            ("frames_dropped", c.frames_dropped),
            ("frames_replaced", c.frames_replaced),
            ("pings", c.pings),
            ("health_checks", c.health_checks),
            ("health_checks_failed", c.health_checks_failed),
        ]
    }

    /// All counters in a fixed order, to save and restore them.
    pub(crate) fn all_mut(&mut self) -> impl Iterator<Item = &mut u64> {
        let Counters {
            accepted,
            shed,
            joined,
            taken_over,
            left,
            bytes_in,
            bytes_out,
            messages_in,
            frames_out,
            frames_dropped,
            frames_replaced,
            pings,
            health_checks,
            health_checks_failed,
            closes,
            rejects,
        } = self;
        let named = [
            accepted,
            shed,
            joined,
            taken_over,
            left,
            bytes_in,
            bytes_out,
            messages_in,
            frames_out,
            frames_dropped,
            frames_replaced,
            pings,
            health_checks,
            health_checks_failed,
        ];
        named.into_iter().chain(closes).chain(rejects)
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
