//! Why a replay ends before the end of its journal.

use std::{fmt, io};

use super::format::block::{FAMILY, VERSION};
use super::format::read::BadEntry;
use super::format::segment::BUILD;
use super::printable::Printable;
use super::summary::Summary;
use crate::base::id::ConnId;
use crate::config::Problems;
use crate::ws::deflate::COMPRESSOR;

/// Why a replay ends before the end of its journal.
///
/// [`Replay`](super::Replay) has an example.
#[derive(Debug)]
#[non_exhaustive]
pub enum Fault {
    /// Reading the journal failed.
    Io(io::Error),
    /// The journal is empty.
    Empty,
    /// The input is not a journal.
    NotAJournal,
    /// The journal is written in another version of the format.
    OtherVersion(String),
    /// The journal was written by another build, whose engine may behave differently.
    OtherBuild(String),
    /// Messages of the session were compressed by another version of the library, or this build cannot compress.
    OtherCompressor(String),
    /// This build refuses the configuration of the session.
    Config(Problems),
    /// The journal begins with a later segment of a session, which has no checkpoint: an earlier segment is needed.
    NoStart {
        /// The number of that segment.
        segment: u64,
    },
    /// The journal is damaged.
    Broken {
        /// Bytes read before the damage was detected.
        offset: u64,
        /// Description of the damage.
        what: &'static str,
    },
    /// The session was changed through a closure, which cannot be recorded.
    Closure,
    /// The replay sent other bytes than the recorded session.
    Diverged(Box<Divergence>),
}

/// The first difference between a session and its replay.
///
/// No example: it occurs only if an engine or an application is not deterministic.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Divergence {
    /// The connection whose bytes differ; `None` when the difference concerns no single connection.
    pub conn: Option<ConnId>,
    /// Offset of the first differing write in the bytes that were sent to the connection.
    pub byte: u64,
    /// Description of the difference.
    pub what: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Io(error) => write!(f, "it cannot be read: {error}"),
            Fault::Empty => f.write_str("it is empty"),
            Fault::NotAJournal => {
                write!(f, "it is no journal: it does not begin with `{}`", String::from_utf8_lossy(FAMILY).trim())
            }
            Fault::OtherVersion(version) => {
                let version = Printable(version);
                write!(f, "it is written in version {version} of the format, and this build reads version {VERSION}")
            }
            Fault::OtherBuild(build) => {
                let build = Printable(build);
                write!(
                    f,
                    "it was written by build {build}, and this is {BUILD}: replay it with the build that wrote it"
                )
            }
            Fault::OtherCompressor(compressor) => {
                let compressor = Printable(compressor);
                let own = COMPRESSOR.map_or("cannot compress; build it with --features deflate".to_owned(), |own| {
                    format!("compresses with {own}, perhaps to other bytes")
                });
                write!(f, "its messages were compressed with {compressor}, and this build {own}")
            }
            Fault::Config(problems) => {
                let problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
                write!(f, "this build refuses its configuration: {}", Printable(&problems.join("; ")))
            }
            Fault::NoStart { segment } => {
                write!(f, "segment {segment} has no checkpoint to begin with: begin with an earlier segment")
            }
            Fault::Broken { offset, what } => write!(f, "it is damaged before byte {offset}: {what}"),
            Fault::Closure => f.write_str(
                "the embedding program changed the application through `act` or `app_mut`, which is not recorded; send a \
                 command instead",
            ),
            Fault::Diverged(divergence) => divergence.fmt(f),
        }
    }
}

impl fmt::Display for Divergence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.conn {
            Some(conn) => write!(f, "conn={conn} is sent something else from its byte {} on: {}", self.byte, self.what),
            None => f.write_str(&self.what),
        }
    }
}

impl std::error::Error for Fault {}

impl From<BadEntry> for Fault {
    fn from(_: BadEntry) -> Fault {
        // at_offset() fills in the offset.
        Fault::Broken { offset: 0, what: "an entry is not well-formed" }
    }
}

/// The error of a replay that did not reach the end of its journal.
///
/// [`Replay`](super::Replay) has an example.
#[derive(Debug)]
#[non_exhaustive]
pub struct ReplayFailure {
    /// The cause.
    pub fault: Fault,
    /// The summary of the part before it; `None` when the replay could not begin.
    pub summary: Option<Box<Summary>>,
}

impl fmt::Display for ReplayFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.summary {
            Some(summary) => {
                write!(f, "turn {} at {:.6}s: {}", summary.turn, summary.span.as_secs_f64(), self.fault)
            }
            None => self.fault.fmt(f),
        }
    }
}

impl std::error::Error for ReplayFailure {}

impl Fault {
    /// Returns the fault with the offset filled in, if it has none yet.
    pub(super) fn at_offset(self, offset: u64) -> Fault {
        match self {
            Fault::Broken { offset: 0, what } => Fault::Broken { offset, what },
            other => other,
        }
    }
}
