//! Arguments and results of [`Egress`](super::Egress). Plain data.

use std::ops::Range;

use crate::base::id::ConnId;
/// Order of a frame relative to the corked output of its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Priority {
    /// The frame is corked too.
    Deferred,
    /// The corked output is released, and the frame follows it.
    Normal,
    /// The frame goes out ahead of the corked output, which stays corked.
    Urgent,
}

/// A change in the bytes queued for a member: see [`App::on_pressure`](crate::App::on_pressure).
///
/// No example: it takes a client that reads more slowly than the server sends. See [`App::on_pressure`](crate::App::on_pressure).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pressure {
    /// Above the high-water mark.
    High {
        /// Bytes that wait to be written.
        queued_bytes: usize,
    },
    /// At the low-water mark again.
    Low {
        /// Bytes that wait to be written.
        queued_bytes: usize,
    },
}

/// The queue has no room for the frame. Nothing was queued.
#[derive(Clone, Copy, Debug)]
pub(crate) struct QueueFull;

/// The frame was queued. Contains the watermark that the queue has crossed, if any.
pub(crate) type Queued = Result<Option<Pressure>, QueueFull>;

/// Result of queueing a latest-wins frame.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LatestQueued {
    /// Whether there was room for the frame.
    pub(crate) is_queued: bool,
    /// Whether an older frame was dropped.
    pub(crate) has_replaced: bool,
    pub(crate) crossed: Option<Pressure>,
}

/// Output that was dropped before it was written.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Dropped {
    pub(crate) frames: usize,
    pub(crate) bytes: usize,
}

/// Size of the output that waits for a connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct QueuedSize {
    pub(crate) bytes: usize,
    /// Bytes plus overhead per frame, as counted against `max_outbound_bytes`.
    pub(crate) cost: usize,
}

/// Result of writing to a connection's socket.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Written {
    /// Bytes that the socket took.
    pub(crate) bytes: usize,
    pub(crate) end: WriteEnd,
}

/// How a write ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WriteEnd {
    /// Nothing was queued, only unread frames of the log, and all of them were written.
    UnreadOnly,
    /// Everything that is not corked was written. Contains the watermark that the queue has crossed, if any.
    Drained(Option<Pressure>),
    /// The socket takes no more.
    Blocked(Option<Pressure>),
}

/// A member that gets the unread frames of its lobby and nothing else.
#[derive(Debug)]
pub(crate) struct Target {
    pub(crate) id: ConnId,
    /// Where the frames lie in the lobby's buffer: before and after the member's own frame, if it has one.
    pub(super) frames: [Range<u32>; 2],
}
