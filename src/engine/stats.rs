//! Counters. All of them only grow, but for those that say how many there are now.

use super::tick::TickStats;
use crate::close::{CloseReason, Reject};

/// What the server has done so far and holds now.
#[derive(Clone, Debug, PartialEq)]
pub struct Stats {
    /// Connections that hold a seat now.
    pub total_connections: usize,
    /// Seats there may be; `None` when unlimited.
    pub max_connections: Option<u32>,
    /// Seats taken, in percent of `max_connections` with one decimal. 0 when unlimited, 100 when none are allowed.
    pub capacity_percent: f64,
    /// Lobbies that exist now.
    pub active_lobbies: usize,

    /// Sockets that hold no seat yet.
    pub pending: usize,
    /// Sockets that are saying goodbye.
    pub closing: usize,
    /// The game's clock; `None` when `tick_hz` is off.
    pub ticks: Option<TickStats>,
    /// What has happened since the start.
    pub counters: Counters,
}

/// What has happened since the start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counters {
    /// Connections accepted.
    pub accepted: u64,
    /// Connections turned away without an answer because every socket there may be was in use.
    pub shed: u64,
    /// Seats taken by a new member.
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
    /// Frames of which the receiver was cut off before a byte was written.
    pub frames_dropped: u64,
    /// Latest-wins frames that gave way to a newer one before they were written.
    pub frames_replaced: u64,
    /// Pings sent to idle connections.
    pub pings: u64,
    /// Application-level health checks begun.
    pub health_checks: u64,
    /// Those that were not answered in time.
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
    /// Connections that ended for `reason`.
    pub fn closed(&self, reason: CloseReason) -> u64 {
        self.closes[reason as usize]
    }

    /// Connections that ended, for any reason.
    pub fn closed_in_all(&self) -> u64 {
        self.closes.iter().sum()
    }

    /// Requests that were refused with `reject`.
    pub fn rejected(&self, reject: Reject) -> u64 {
        self.rejects[reject as usize]
    }

    /// Every counter but those of closes and errors, under its name.
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

    /// All of them in a fixed order, to be written down and read again.
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

    pub(super) fn count_close(&mut self, reason: CloseReason) {
        self.closes[reason as usize] += 1;
    }

    pub(super) fn count_reject(&mut self, reject: Reject) {
        self.rejects[reject as usize] += 1;
    }
}

impl Stats {
    /// One line for a log: what is there now, and every counter that is not 0.
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
