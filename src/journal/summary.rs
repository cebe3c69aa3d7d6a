//! Progress and totals of a replay.

use std::fmt;
use std::time::Duration;

use super::format::segment::Segment;
use crate::base::close::CloseReason;
use crate::engine::state::stats::Stats;

/// Progress and totals of a replay.
///
/// The [module documentation](crate::journal) has an example.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Summary {
    /// The build that wrote the journal.
    pub build: String,
    /// The type name of the recorded application.
    pub app: String,
    /// The wall time at the start of the session, in microseconds since the Unix epoch.
    pub unix_micros: u64,
    /// The session's time up to the last replayed entry.
    pub span: Duration,
    /// The number of the last turn. A turn is all input between two flushes.
    pub turn: u64,
    /// Segments read.
    pub segments: u64,
    /// Turns in which bytes were sent, and all of them matched the recording.
    pub confirmed: u64,
    /// Whether the journal ends before the checksum of the last turn, which is then unconfirmed.
    pub is_open_ended: bool,
    /// Bytes of an incomplete block at the end, which was being written when the server ended.
    pub torn: Option<u64>,
    /// Reloads whose contents were not recorded. The replay leaves them out.
    pub omitted_reloads: u64,
    /// The engine's statistics.
    pub stats: Stats,
}

impl Summary {
    /// The summary of a replay that begins with the segment `first`.
    pub(super) fn new(first: &Segment, stats: Stats) -> Summary {
        Summary {
            build: first.build.clone(),
            app: first.app.clone(),
            unix_micros: first.unix_micros,
            span: Duration::ZERO,
            turn: first.turn,
            segments: 1,
            confirmed: 0,
            is_open_ended: false,
            torn: None,
            omitted_reloads: 0,
            stats,
        }
    }

    /// Returns the number of connections closed for each reason, without the reasons that did not occur.
    pub fn closes(&self) -> impl Iterator<Item = (CloseReason, u64)> {
        self.stats.counters.closes()
    }
}

/// A table with one line for each number.
impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut line = |name: &str, value: &dyn fmt::Display| writeln!(f, "{name:<24}{:>16}", value.to_string());
        let counters = &self.stats.counters;
        line("recorded", &format_args!("{:.3}s", self.span.as_secs_f64()))?;
        line("turns", &self.turn)?;
        line("turns confirmed", &self.confirmed)?;
        line("segments", &self.segments)?;
        line("connections", &counters.accepted)?;
        line("messages in", &counters.messages_in)?;
        line("frames out", &counters.frames_out)?;
        line("bytes in", &counters.bytes_in)?;
        line("bytes out", &counters.bytes_out)?;
        for (reason, count) in self.closes() {
            line(&format!("closed {}", reason.count_name()), &count)?;
        }
        if let Some(bytes) = self.torn {
            line("torn bytes at the end", &bytes)?;
        }
        if self.is_open_ended {
            line("last turn", &"unconfirmed")?;
        }
        if self.omitted_reloads > 0 {
            line("reloads left out", &self.omitted_reloads)?;
        }
        Ok(())
    }
}
