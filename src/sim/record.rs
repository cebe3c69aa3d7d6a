//! Records a run in a journal in memory, and replays the journal.

use std::io;

use super::limit_model::IdentityModel;
use super::observed_app::ObservedApp;
use super::world::{START_MICROS, World};
use crate::base::random::Random;
use crate::engine::app::App;
use crate::engine::driver::Start;
use crate::journal::{self, Fault, ReplayFailure, RotateHint, Sink, Summary};

/// A journal in memory. Its segments are short, so that a run rotates often and in many different states.
#[derive(Default)]
struct Segments(Vec<Vec<u8>>);

impl Sink for Segments {
    fn begin(&mut self, number: u64) -> io::Result<()> {
        self.0.push(Vec::new());
        assert_eq!(self.0.len() as u64, number, "segments are numbered from 1");
        Ok(())
    }

    fn write(&mut self, block: &[u8], rest: &[u8]) -> io::Result<()> {
        let segment = self.0.last_mut().expect("begin() is called before write()");
        segment.extend_from_slice(block);
        segment.extend_from_slice(rest);
        Ok(())
    }

    fn rotate_hint(&self) -> RotateHint {
        // An empty server is rare in a run, so every such moment is used to rotate.
        if self.0.last().map_or(0, Vec::len) < 40_000 { RotateHint::WhenEmpty } else { RotateHint::Now }
    }
}

impl<A: App> World<A> {
    pub(super) fn record(&mut self, seed: u64) {
        let start = Start { unix_micros: START_MICROS, seed };
        journal::record(&mut self.engine, start, Segments::default()).expect("a drawn configuration can be recorded");
    }

    /// Checks that a replay of the whole journal ends in the state in which the run ended. Checks the same for the
    /// shortest tail of segments from which a replay can start.
    pub(super) fn replay(&mut self, make_app: &dyn Fn() -> A) -> Result<(), String> {
        let Segments(segments) = journal::finish(&mut self.engine).ok_or("the run was not recorded")?;
        self.replay_from(&segments, make_app())?.ok_or("the journal's first segment has no start")?;
        for first in (1..segments.len()).rev() {
            if self.replay_from(&segments[first..], make_app())?.is_some() {
                break;
            }
        }
        Ok(())
    }

    /// Replays `segments` and compares the final state. Returns `None` if a replay cannot start with the first of them.
    fn replay_from(&self, segments: &[Vec<u8>], app: A) -> Result<Option<Summary>, String> {
        let identity_model = IdentityModel::new(&self.swarm, self.engine.config(), Random::new(0));
        let observed_app = ObservedApp::new(app, 0, identity_model, None, Random::new(0));
        let summary = match journal::replay(&*segments.concat(), observed_app) {
            Ok(summary) => summary,
            Err(ReplayFailure { fault: Fault::NoStart { .. }, .. }) => return Ok(None),
            Err(failure) => return Err(format!("the replay of {} segments failed: {failure}", segments.len())),
        };
        if (summary.torn, summary.is_open_ended, summary.segments) != (None, false, segments.len() as u64) {
            return Err(format!("the journal is torn, open-ended or incomplete: {summary:?}"));
        }
        if summary.stats != self.engine.stats() {
            let (replayed, recorded) = (summary.stats.line(), self.engine.stats().line());
            return Err(format!(
                "the replay ended in another state (replayed, then recorded):\n{replayed}\n{recorded}"
            ));
        }
        Ok(Some(summary))
    }
}
