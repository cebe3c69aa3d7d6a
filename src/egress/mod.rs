//! Outbound delivery: everything between a frame to send and the bytes for a socket.
//!
//! A broadcast is appended once to the lobby's [log](broadcast_log), and each member reads it from its own cursor. All
//! other frames are queued per connection, in an [outbox]. Queues are bounded and are written at the end of the turn.
//!
//! A member's unread frames are taken from the log when its connection is written to. If another frame must be queued
//! for that connection first, the unread frames are queued in front of it.
//!
//! A broadcast does not check each member's bound, because two rules keep it within all bounds. The frames that a lobby
//! appends in one turn cost at most half of the smallest bound (`max_outbound_bytes` or `outbound_high_mark`). The
//! queue of a member costs at most that half too, unless the member is *lagging*: its queue costs more, or its socket
//! is blocked. Broadcasts are queued for lagging members frame by frame, so that each frame is checked against the
//! bound.
//!
//! ```text
//! reading the log --socket blocks, or queue above half the bound--> lagging
//!        ^------------------everything queued is written---------------+
//! ```
//!
//! Broadcasts to a whole lobby are compressed for the members that take compressed frames, once for all of them. A frame for one
//! receiver is not, unless it contains only what that receiver has sent: it may mix its secrets with a text that another member
//! has chosen, who could guess them by the length of the result.
//!
//! A connection that receives server-sent [events] is treated as if it always lagged.
//!
//! With `flush = tick`, output is *corked*: it waits for the end of the next tick.
//!
//! Knows connections and lobbies by their keys, and no users, seats or close reasons. Closes nothing: a result tells
//! the engine that a queue is full or has crossed a watermark.

mod broadcast_log;
mod checking;
mod cursor;
mod event_positions;
mod events;
mod flush;
mod lagging;
mod outbox;
mod output;
mod queue;
mod results;
mod turn_frames;

pub(crate) use self::output::Egress;
pub(crate) use self::queue::{Compressible, SharedFrame};
pub use self::results::Pressure;
pub(crate) use self::results::{Priority, Queued, Target, WriteEnd, Written};
