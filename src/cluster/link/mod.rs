//! The link of a node to Redis: a state machine without I/O and without a clock.
//!
//! `net` opens the socket when [`Link::connection`] says so, passes in what it reads and takes what is to be written. The engine takes
//! [inputs](Link::poll_input), entries in the order of the log, and [pushes](Link::push) what is to be appended.
//!
//! Two things have states of their own. The **connection**:
//!
//! ```text
//! Down --connecting--> Connecting --connected, HELLO--> Greeting --SUBSCRIBE--> Subscribing --scripts, hello--> Ready
//!  ^                                                                                                      |
//!  +--disconnected-- Closing <-- error, timeout, lost probe (any state) ----------------------------------+
//! ```
//!
//! And the **attachment** of the node, which outlives connections:
//!
//! ```text
//! none --attach--> fetching the state of another node --> live --FORK, TRIMMED, GONE--> none (`Detached`)
//!   ^                        |                             ^  |
//!   +--no state in time------+        connected again: `since` until all entries are known, then the unapplied batches are sent again
//! ```
//!
//! Entries are taken from what is published and from `since`, each only if it has the next index and its hash continues the chain. Everything
//! else only leads to a call of `since`, whose script decides what the log is. A batch is sent until its entry is applied here; the script
//! appends it once. Where Redis is behind (`AHEAD`), the link restores the missing entries from its [`KeptLog`](super::kept_log::KeptLog).
//!
//! All memory is bounded. What happens at a bound:
//!
//! | bound | consequence |
//! | --- | --- |
//! | batches that are not applied: `queue_bytes` | [`Link::is_congested`] from half of it on; beyond it the node is detached (`Detached`) |
//! | one batch: [`MAX_BATCH_BYTES`](config::MAX_BATCH_BYTES) | panic: the engine divides what is larger |
//! | output: [`OUTPUT_BYTES`](config::OUTPUT_BYTES) | batches, parts of a state and restored entries wait |
//! | requests without a reply: [`MAX_PENDING_REQUESTS`](config::MAX_PENDING_REQUESTS) | batches wait |
//! | kept entries: `log_entries`, `log_bytes` | a Redis whose copy is older than them is a fork |
//! | a state that is received or sent: `state_bytes` | it is dropped: the new node cannot attach |
//! | input of one [`Link::received`]: that of the caller | the queue of inputs holds at most what it contained, and an answer of `since` |
//! | a value of RESP3: [`VALUE_BYTES`](config::VALUE_BYTES) | the connection is closed |

mod attachment;
mod backoff;
mod config;
mod core;
mod pump;
mod replies;
mod requests;

pub(crate) use self::config::LinkConfig;
pub(crate) use self::core::{Connection, Link};
