//! The current state of the server in numbers, for operators and the log.

use super::cluster::ClusterStats;
use super::counters::Counters;
use super::ticks::TickStats;

/// The current state of the server and its counters.
///
/// ```
/// use lobbyd::apps::Echo;
/// use lobbyd::driver::Start;
/// use lobbyd::{CloseReason, Config, Engine, Time};
///
/// let config = Config { tick_hz: Some(60), ..Config::default() }.check()?;
/// let mut engine = Engine::new(config, Start { unix_micros: 0, seed: 1 }, Echo);
/// let conn = engine.handle_accept(Time::ZERO, "127.0.0.1:4000".parse().unwrap()).unwrap();
/// engine.handle_hangup(Time::ZERO, conn);
/// let stats = engine.stats();
/// assert_eq!((stats.total_connections, stats.counters.accepted), (0, 1));
/// assert_eq!(stats.counters.closed(CloseReason::Hangup), 1);
/// assert_eq!(stats.ticks.map(|ticks| ticks.hz), Some(60));
/// assert!(stats.cluster.is_none());
///
/// engine.handle_drain(Time::ZERO);
/// assert_eq!(engine.drain_totals().map(|totals| totals.forced), Some(0));
/// # Ok::<(), lobbyd::config::Problems>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Stats {
    /// Connections that have a seat, in a cluster on any node.
    pub total_connections: usize,
    /// Members whose connection was lost and whose seat is kept.
    pub away: usize,
    /// Limit of seats; `None` when unlimited.
    pub max_connections: Option<u32>,
    /// Taken seats in percent of `max_connections`, with one decimal. 0 when unlimited, 100 when the limit is 0.
    pub capacity_percent: f64,
    /// Lobbies that exist.
    pub active_lobbies: usize,

    /// Connections that have no seat yet, also those beyond `max_pending` whose request is still read.
    pub pending: usize,
    /// Connections that are closing.
    pub closing: usize,
    /// Connections that follow the list of lobbies.
    pub list_watchers: usize,
    /// The game clock; `None` when `tick_hz` is off.
    pub ticks: Option<TickStats>,
    /// This node's part in its cluster; `None` without one. The members and lobbies are those of the whole cluster.
    pub cluster: Option<ClusterStats>,
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
        if self.away > 0 {
            line.push_str(&format!(" away={}", self.away));
        }
        if self.list_watchers > 0 {
            line.push_str(&format!(" list_watchers={}", self.list_watchers));
        }
        if let Some(ticks) = &self.ticks {
            line.push_str(&format!(" {ticks}"));
        }
        if let Some(ClusterStats { nodes, connections, index, .. }) = self.cluster {
            line.push_str(&format!(" nodes={nodes} own_connections={connections} index={index}"));
        }
        let mut add = |prefix: &str, name: &str, count: u64| {
            if count > 0 {
                line.push_str(&format!(" {prefix}{name}={count}"));
            }
        };
        c.named().into_iter().for_each(|(name, count)| add("", name, count));
        c.closes().for_each(|(reason, count)| add("closed.", &reason.count_name(), count));
        c.rejects().for_each(|(reject, count)| add("error.", reject.word(), count));
        line
    }
}
