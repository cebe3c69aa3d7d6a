//! What the driver measures: the duration of turns and the figures of the process, and what its other parts count. For
//! `GET /metrics` only: neither the engine nor a journal knows it.

use super::hook::Events;
#[cfg(target_os = "linux")]
use super::process::Process;
use super::proxied::ProxiedSockets;
use super::tls::Tls;
use crate::admin::{DriverMetrics, Exposition};
use crate::base::distribution::Distribution;
use crate::base::time::Time;

/// All parts of the driver that have metrics.
pub(super) struct ServerMetrics<'a> {
    pub(super) of_loop: &'a mut LoopMetrics,
    pub(super) of_proxied: &'a ProxiedSockets,
    pub(super) of_tls: &'a Tls,
    /// `None` if nobody can read events, and no URL is called.
    pub(super) of_events: Option<&'a Events>,
}

impl DriverMetrics for ServerMetrics<'_> {
    fn write_metrics(&mut self, metrics: &mut Exposition) {
        self.of_loop.write_metrics(metrics);
        self.of_tls.write_metrics(metrics);
        self.of_proxied.write_metrics(metrics);
        self.of_events.iter().for_each(|events| events.write_metrics(metrics));
    }
}

/// The duration of turns, and the figures of the process.
pub(super) struct LoopMetrics {
    turns: Distribution,
    /// When the present turn began.
    began: Option<Time>,
    #[cfg(target_os = "linux")]
    process: Process,
}

impl LoopMetrics {
    /// `unix_micros` is the wall time at the start.
    #[cfg_attr(not(target_os = "linux"), expect(unused_variables, reason = "the process has no other figures there"))]
    pub(super) fn new(unix_micros: u64) -> LoopMetrics {
        LoopMetrics {
            turns: Distribution::of_durations(),
            began: None,
            #[cfg(target_os = "linux")]
            process: Process::new(unix_micros),
        }
    }

    /// A turn begins: the wait for events is over.
    pub(super) fn begin_turn(&mut self, now: Time) {
        // Without a wait in between, nothing has ended the last turn.
        self.end_turn(now);
        self.began = Some(now);
    }

    /// The turn ends, if one has begun: its work is done.
    pub(super) fn end_turn(&mut self, now: Time) {
        if let Some(began) = self.began.take() {
            self.turns.record((now - began).as_micros() as u64);
        }
    }

    fn write_metrics(&mut self, metrics: &mut Exposition) {
        let help = "Duration of turns of the event loop, from the end of a wait for events to the next wait.";
        metrics.histogram("lobbyd_turn_seconds", help, &self.turns);
        #[cfg(target_os = "linux")]
        self.process.write_metrics(metrics);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_are_not_part_of_a_turn() {
        let mut metrics = LoopMetrics::new(0);
        let at = Time::from_micros;
        metrics.end_turn(at(5));
        metrics.begin_turn(at(100));
        metrics.end_turn(at(130));
        assert_eq!((metrics.turns.count(), metrics.turns.sum()), (1, 30));
        metrics.begin_turn(at(1_000_000));
        // Unread input: the next turn follows at once.
        metrics.begin_turn(at(1_000_200));
        metrics.end_turn(at(1_000_300));
        assert_eq!((metrics.turns.count(), metrics.turns.sum()), (3, 330));
    }
}
