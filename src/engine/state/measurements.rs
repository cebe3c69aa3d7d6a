//! What the engine measures for monitoring. Neither the application nor a journal has access to it, so a replay that
//! begins in the middle of a session may measure less.

use crate::base::distribution::Distribution;

/// Measurements of an engine since its start, for monitoring, in addition to [`Stats`](crate::stats::Stats).
///
/// ```
/// use lobbyd::apps::Echo;
/// use lobbyd::driver::Start;
/// use lobbyd::{Config, Engine};
///
/// let engine = Engine::new(Config::default().check()?, Start { unix_micros: 0, seed: 1 }, Echo);
/// let measured = engine.measurements();
/// assert_eq!((measured.lagging, measured.ping_latency.count(), measured.tick_lateness), (0, 0, None));
/// # Ok::<(), lobbyd::config::Problems>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Measurements {
    /// Members that lag now: their sockets take no more, or more than half of `max_outbound_bytes` or
    /// `outbound_high_mark` is queued for them.
    pub lagging: usize,
    /// Bytes left in the queue of a connection, each time that its socket took less than was queued.
    pub blocked_bytes: Distribution,
    /// Time from a ping to an idle connection until its next bytes arrive, usually the pong.
    pub ping_latency: Distribution,
    /// Time from a health check to its answer.
    pub health_latency: Distribution,
    /// Lateness of the ticks, without stepped ticks; `None` when `tick_hz` is off.
    pub tick_lateness: Option<Distribution>,
}

/// Latencies of connections.
#[derive(Debug)]
pub(crate) struct Latencies {
    pub(crate) pings: Distribution,
    pub(crate) health_checks: Distribution,
}

impl Default for Latencies {
    fn default() -> Latencies {
        Latencies { pings: Distribution::of_durations(), health_checks: Distribution::of_durations() }
    }
}
