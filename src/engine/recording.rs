//! The engine's inputs as data, and the interface of a recorder.
//!
//! A replay computes the same session from the inputs, except for the application's decisions about requests: those
//! depend on tokens, which are not recorded. So the decisions are recorded too, and a replay uses them instead of asking
//! the application.
//!
//! Knows neither the journal's format nor its files: see [`journal`](crate::journal).

use std::any::Any;
use std::io;
use std::net::IpAddr;

use smol_str::SmolStr;

use super::member::{Authorization, Route};
use super::operator::OperatorCommand;
use super::state::counters::Counters;
use crate::base::checksum::Checksum;
use crate::base::close::CloseReason;
use crate::base::distribution::Distribution;
use crate::base::entry::RequestedLobby;
use crate::base::id::ConnId;
use crate::base::list_query::{ListFilter, is_pool};
use crate::base::peer::Peer;
use crate::base::rate::Bucket;
use crate::base::time::Time;
use crate::cluster::log::{ClusterInput, ClusterOutput};
use crate::http::PlainResponse;
use crate::lobby::is_lobby_code;
use crate::ws::handshake::{Facts, Request};

/// An input of the engine.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Input<'a> {
    Accept(Peer),
    /// Received bytes. The first `head` of them belong to a request or are ignored: only their number and the ends of
    /// their lines matter. `max_work` bounds how many bytes are consumed.
    Bytes {
        conn: ConnId,
        head: usize,
        bytes: &'a [u8],
        max_work: usize,
    },
    Hangup(ConnId),
    Writable(ConnId),
    Timeout,
    /// The complete list of connections that may have received bytes which are not read yet.
    Unread(&'a [ConnId]),
    /// The time of the wall clock, in microseconds since the Unix epoch.
    WallTime(u64),
    Authorized(ConnId, &'a Authorization),
    Command(&'a [u8]),
    Reload(&'a [u8]),
    Operator(&'a OperatorCommand),
    /// The report of an operator's ping was taken.
    ReportTaken,
    Drain,
    Stop,
    /// The driver dropped a new connection, because no file descriptor was free.
    Shed,
    /// The embedding program has accessed the application or acted through a closure. That is not data, so the session
    /// cannot be replayed beyond it.
    Closure,
    /// The engine becomes a node of a cluster.
    JoinCluster,
    /// The link to the cluster says this.
    Cluster(ClusterInput<'a>),
    /// The link has taken this from the engine.
    ClusterTaken(&'a ClusterOutput),
}

/// Edition of the answers that do not follow from recorded entries alone. A journal names the edition in which it was
/// recorded, and a replay answers as that edition did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Edition {
    /// Answers have no `Date`. Bytes that cannot begin a request are refused because of their shape, and the refusal is
    /// not recorded. No empty line may precede a request. An upgrade to an unknown path is answered 404.
    First,
    /// Answers have a `Date`. All refusals of request heads are recorded. An upgrade to an unknown path is accepted and
    /// closed.
    Second,
    /// The facts of a request have the claim of a session. A peer's close frame without a code, or with 1001, has a close
    /// reason of its own.
    Third,
}

impl Edition {
    /// The edition of this build.
    pub(crate) const CURRENT: Edition = Edition::Third;

    /// Returns the number of the edition in journals.
    pub(crate) fn number(self) -> u64 {
        match self {
            Edition::First => 1,
            Edition::Second => 2,
            Edition::Third => 3,
        }
    }

    pub(crate) fn from_number(number: u64) -> Option<Edition> {
        [Edition::First, Edition::Second, Edition::Third].into_iter().find(|edition| edition.number() == number)
    }
}

/// Destination of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Destination {
    /// Nothing that exists here.
    Nowhere,
    /// The lobby with this valid code.
    Lobby(String),
    /// A lobby whose code is not valid. The text in place of the code is not kept: it may contain a token.
    BadCode,
    /// A lobby with a new code.
    New,
    /// An open lobby of this valid pool, or a new one.
    Quick(String),
    /// The list of lobbies, as long as it is followed, with the lobbies asked for. `None`: the query breaks a rule.
    Lobbies(Option<ListFilter>),
}

impl Destination {
    /// Returns the destination of a route. With lobby control, codes that begin with `~` have a meaning.
    pub(crate) fn of(route: Route, has_lobby_control: bool, request: &Request<'_>) -> Destination {
        let Route::Lobby(code) = route else { return Destination::Nowhere };
        if is_lobby_code(&code) {
            return Destination::Lobby(code);
        }
        match code.strip_prefix('~').filter(|_| has_lobby_control) {
            Some("new") => Destination::New,
            Some("lobbies") => Destination::Lobbies(request.list_filter()),
            Some(name) => match name.strip_prefix("quick/") {
                Some(pool) if is_pool(pool) => Destination::Quick(pool.to_owned()),
                _ => Destination::BadCode,
            },
            None => Destination::BadCode,
        }
    }

    /// Returns the lobby that it names.
    ///
    /// # Errors
    ///
    /// [`CloseReason::BadLobbyCode`] if it names none.
    pub(crate) fn requested_lobby(self) -> Result<RequestedLobby, CloseReason> {
        match self {
            Destination::Lobby(code) => Ok(RequestedLobby::Lobby(code)),
            Destination::New => Ok(RequestedLobby::New),
            Destination::Quick(pool) => Ok(RequestedLobby::Quick(pool)),
            Destination::BadCode | Destination::Nowhere | Destination::Lobbies(_) => Err(CloseReason::BadLobbyCode),
        }
    }
}

/// The application's decisions about a request. Those that the engine did not ask for are `None`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Decisions {
    pub(crate) destination: Option<Destination>,
    pub(crate) authorization: Option<Authorization>,
    /// State of the random generator afterwards, if the application drew from it.
    pub(crate) random: Option<[u64; 4]>,
}

/// A request and the decisions about it, as they were recorded.
#[derive(Debug)]
pub(crate) struct RecordedDecision {
    pub(crate) asked: Result<Facts, PlainResponse>,
    pub(crate) decisions: Decisions,
}

/// Result of one call of `write_to`: bytes that the socket took, their checksum, and how the call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct WriteRecord {
    pub(crate) taken: u64,
    pub(crate) checksum: u64,
    pub(crate) end: WriteEnd,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WriteEnd {
    Whole,
    Blocked,
    Failed,
}

/// The complete state of an engine without connections. An engine that is restored from it continues identically.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Checkpoint {
    pub(crate) now: Time,
    pub(crate) unix_at_zero: u64,
    /// State of the random generator.
    pub(crate) random: [u64; 4],
    /// Position of the timer wheel.
    pub(crate) wheel: u64,
    pub(crate) seats_created: u64,
    pub(crate) last_epoch: u64,
    pub(crate) closes_started: u64,
    pub(crate) last_ticket: u64,
    /// Number of connections that the current batch may still close, and the time of the next batch: see
    /// [`CloseQueue`](super::state::close_queue::CloseQueue).
    pub(crate) batch: (u32, Time),
    pub(crate) counters: Counters,
    /// State of the game clock; empty when ticks are off.
    pub(crate) ticks: Vec<u64>,
    /// Rate-limit buckets of users (messages, bytes) and addresses without a connection. The bucket that is full first
    /// comes first.
    pub(crate) users: Vec<(SmolStr, [Bucket; 2])>,
    pub(crate) addresses: Vec<(IpAddr, Bucket)>,
    /// Buckets of addresses for wrong passwords and unknown codes.
    pub(crate) guesses: Vec<(IpAddr, Bucket)>,
    /// Buckets of addresses for requests for the list of lobbies.
    pub(crate) lists: Vec<(IpAddr, Bucket)>,
    /// Whether the engine is a node of a cluster. It is not attached then.
    pub(crate) is_node: bool,
}

/// Whether a new journal segment should begin, because the current one is long.
///
/// [`Sink`](crate::journal::Sink) has an example.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RotateHint {
    /// Continue the current segment.
    Continue,
    /// Rotate when a checkpoint can be written, which takes an engine without connections.
    WhenEmpty,
    /// Rotate now, with or without a checkpoint.
    Now,
}

/// Statistics of a recording. They depend on the machine, so the application has no access to them.
///
/// [`net::Server::stats_line`](crate::net::Server::stats_line) shows it; it has no example of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Recording {
    /// Bytes recorded.
    pub bytes: u64,
    /// Calls to the operating system that wrote these bytes.
    pub writes: u64,
    /// Microseconds spent in these calls, and in waiting for the disk.
    pub micros: u64,
    /// Duration of the longest of them, in microseconds.
    pub slowest_micros: u64,
    /// Whether an error has ended the recording.
    pub has_failed: bool,
    /// Durations of the calls.
    pub durations: Distribution,
    /// Bytes that each successful call wrote.
    pub sizes: Distribution,
}

impl Default for Recording {
    fn default() -> Recording {
        Recording {
            bytes: 0,
            writes: 0,
            micros: 0,
            slowest_micros: 0,
            has_failed: false,
            durations: Distribution::of_durations(),
            sizes: Distribution::of_sizes(),
        }
    }
}

impl Recording {
    /// Counts a write that took `micros` microseconds; `bytes` is `None` if it failed.
    pub fn add_write(&mut self, bytes: Option<usize>, micros: u64) {
        self.writes += 1;
        self.micros += micros;
        self.slowest_micros = self.slowest_micros.max(micros);
        self.durations.record(micros);
        if let Some(bytes) = bytes {
            self.bytes += bytes as u64;
            self.sizes.record(bytes as u64);
        }
    }
}

/// Records an engine's inputs, and checksums of its output.
pub(crate) trait Recorder: Any {
    /// Records an input, before the engine acts on it.
    fn input(&mut self, now: Time, input: &Input<'_>);
    /// The bytes that were recorded last completed a request, with these facts, or were refused.
    fn request(&mut self, asked: Result<&Facts, &PlainResponse>);
    /// Records the decisions about that request.
    fn decisions(&mut self, decisions: &Decisions);
    /// Records bytes that followed the request in the same input. If `is_read` is false, the engine ignores their
    /// content.
    fn rest(&mut self, bytes: &[u8], is_read: bool);
    /// The driver is about to write the queued output.
    fn flush(&mut self);
    /// Hands the recorded inputs to the operating system. Called before output that follows from them is written.
    fn commit(&mut self) -> io::Result<()>;
    fn wrote(&mut self, conn: ConnId, wrote: &WriteRecord);
    /// No output is left to be written.
    fn flushed(&mut self);
    fn rotate_hint(&self) -> RotateHint;
    /// Whether enough was recorded since the last checkpoint to write another one.
    fn may_write_checkpoint(&self) -> bool;
    /// Begins a new segment. With `start`, a checkpoint and the application's snapshot, a replay can begin there.
    fn rotate_segment(&mut self, start: Option<(&Checkpoint, &[u8])>);
    fn recording(&self) -> Recording;
}

/// Replaces, in checksums, each byte that a replay does not know.
pub(crate) const REDACTED: u8 = b'x';

/// A checksum that depends on the connection too, so that the same bytes on two connections yield different checksums.
pub(crate) fn checksum_for(conn: ConnId) -> Checksum {
    Checksum::new(conn.bits())
}

/// Checksum over the checksums of all writes of a segment.
#[derive(Debug)]
pub(crate) struct WritesChecksum {
    checksum: Checksum,
    /// Checksums that are not added yet: adding many in one piece takes fewer instructions.
    pending: Vec<u8>,
}

impl WritesChecksum {
    const MAX_PENDING: usize = 1024;

    pub(crate) fn new() -> WritesChecksum {
        WritesChecksum { checksum: Checksum::new(0), pending: Vec::with_capacity(Self::MAX_PENDING) }
    }

    /// Adds the checksum of a write.
    #[inline]
    pub(crate) fn add(&mut self, checksum: u64) {
        self.pending.extend_from_slice(&checksum.to_le_bytes());
        if self.pending.len() >= Self::MAX_PENDING {
            self.add_pending();
        }
    }

    /// Returns the checksum so far.
    pub(crate) fn value(&mut self) -> u64 {
        self.add_pending();
        self.checksum.finish()
    }

    fn add_pending(&mut self) {
        self.checksum.write(&self.pending);
        self.pending.clear();
    }
}
