//! The events of this server in one total order, for the hook and for the operators' event stream.
//!
//! The log keeps the last events as JSON. Each reader has a position in it and no queue of its own, so a slow reader costs
//! nothing: when the log has overrun its position, the reader is told how many events it has lost. Knows neither HTTP nor a
//! clock.
//!
//! ```text
//! engine/feeding --FeedEvent--> EventLog --+--> EventReader: one client of GET /events
//!                                          +--> hook/batches: the hook
//! ```

pub(crate) mod log;
pub(crate) mod reader;
mod text;
