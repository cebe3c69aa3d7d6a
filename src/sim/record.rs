//! The run as a journal, and the journal as a run.

use std::io;

use super::limit_model::Leases;
use super::observed_app::ObservedApp;
use super::world::{START_MICROS, World};
use crate::engine::Start;
use crate::engine::app::App;
use crate::journal::{self, Failure, Fault, RotateHint, Sink, Summary};
use crate::random::Random;

/// Segments as short as they may be, so that they end at all sorts of moments.
#[derive(Default)]
struct Segments(Vec<Vec<u8>>);

impl Sink for Segments {
    fn begin(&mut self, number: u64) -> io::Result<()> {
        self.0.push(Vec::new());
        assert_eq!(self.0.len() as u64, number, "segments are counted from 1");
        Ok(())
    }

    fn write(&mut self, block: &[u8], rest: &[u8]) -> io::Result<()> {
        let segment = self.0.last_mut().expect("a segment was begun");
        segment.extend_from_slice(block);
        segment.extend_from_slice(rest);
        Ok(())
    }

    fn rotate_hint(&self) -> RotateHint {
        // A moment at which nobody is there is rare enough to be used always.
        if self.0.last().map_or(0, Vec::len) < 40_000 { RotateHint::WhenEmpty } else { RotateHint::Now }
    }
}

impl<A: App> World<A> {
    pub(super) fn record(&mut self, seed: u64) {
        let start = Start { unix_micros: START_MICROS, seed };
        journal::record(&mut self.engine, start, Segments::default()).expect("what is drawn can be written");
    }

    /// The journal of the whole run leads to where the run ended; and so does what is left of it when all segments are
    /// deleted that can be.
    pub(super) fn replay(&mut self, again: &dyn Fn() -> A) -> Result<(), String> {
        let Segments(segments) = journal::finish(&mut self.engine).ok_or("nothing was recorded")?;
        self.replay_from(&segments, again())?.ok_or("the journal does not begin with its beginning")?;
        for first in (1..segments.len()).rev() {
            if self.replay_from(&segments[first..], again())?.is_some() {
                break;
            }
        }
        Ok(())
    }

    /// `None` when a replay cannot begin there.
    fn replay_from(&self, segments: &[Vec<u8>], again: A) -> Result<Option<Summary>, String> {
        let leases = Leases::new(&self.swarm, self.engine.config(), Random::new(0));
        let app = ObservedApp::new(again, 0, leases, None, Random::new(0));
        let summary = match journal::replay(&*segments.concat(), app) {
            Ok(summary) => summary,
            Err(Failure { fault: Fault::NoStart { .. }, .. }) => return Ok(None),
            Err(failure) => return Err(format!("the replay of {} segments: {failure}", segments.len())),
        };
        if (summary.torn, summary.is_open_ended, summary.segments) != (None, false, segments.len() as u64) {
            return Err(format!("the journal does not end as it should: {summary:?}"));
        }
        if summary.stats != self.engine.stats() {
            let (replayed, recorded) = (summary.stats.line(), self.engine.stats().line());
            return Err(format!("the replay ends in another state:\n{replayed}\n{recorded}"));
        }
        Ok(Some(summary))
    }
}
