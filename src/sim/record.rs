//! Records a run in a journal in memory, and replays the journal.
//!
//! Knows nothing of what happens in the run.

use std::io;

use super::app::authorizer::Authorizer;
use super::app::under_test::AppUnderTest;
use super::server::{Server, start};
use crate::engine::app::App;
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

/// Records all inputs of `server` from now on.
pub(super) fn record<A: App>(server: &mut Server<A>, seed: u64) {
    let segments = Segments::default();
    server.call(|engine, _| {
        journal::record(engine, start(seed), segments).expect("a drawn configuration can be recorded");
    });
}

/// Checks that a replay of the whole journal ends in the state in which the run ended. Checks the same for the shortest
/// tail of segments from which a replay can start.
pub(super) fn replay<A: App>(server: &mut Server<A>, make_app: &dyn Fn() -> A) -> Result<(), String> {
    let recorded = server.call(|engine, _| journal::finish(engine));
    let Segments(segments) = recorded.ok_or("the run was not recorded")?;
    replay_from(server, &segments, make_app())?.ok_or("the journal's first segment has no start")?;
    for first in (1..segments.len()).rev() {
        if replay_from(server, &segments[first..], make_app())?.is_some() {
            break;
        }
    }
    Ok(())
}

/// Replays `segments` and compares the final state. Returns `None` if a replay cannot start with the first of them.
fn replay_from<A: App>(server: &Server<A>, segments: &[Vec<u8>], app: A) -> Result<Option<Summary>, String> {
    let app = AppUnderTest::new(app, Authorizer::unused());
    let summary = match journal::replay(&*segments.concat(), app) {
        Ok(summary) => summary,
        Err(ReplayFailure { fault: Fault::NoStart { .. }, .. }) => return Ok(None),
        Err(failure) => return Err(format!("the replay of {} segments failed: {failure}", segments.len())),
    };
    if (summary.torn, summary.is_open_ended, summary.segments) != (None, false, segments.len() as u64) {
        return Err(format!("the journal is torn, open-ended or incomplete: {summary:?}"));
    }
    let stats = server.engine().stats();
    if summary.stats != stats {
        let (replayed, recorded) = (summary.stats.line(), stats.line());
        return Err(format!("the replay ended in another state (replayed, then recorded):\n{replayed}\n{recorded}"));
    }
    Ok(Some(summary))
}
