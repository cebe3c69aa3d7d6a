//! The parts of the engine's state: data, and the rules that concern this data alone. None of them knows `Core`.

pub(crate) mod call_guard;
pub(crate) mod clock;
pub(crate) mod close_queue;
pub(crate) mod conn;
pub(crate) mod conns;
pub(crate) mod counters;
pub(crate) mod drain;
pub(crate) mod events;
mod health;
mod histogram;
pub(crate) mod identity_data;
pub(crate) mod inbox;
pub(crate) mod measurements;
pub(crate) mod meters;
pub(crate) mod origins;
pub(crate) mod pings;
pub(crate) mod posts;
pub(crate) mod readiness;
pub(crate) mod record_mode;
pub(crate) mod stats;
pub(crate) mod ticks;
pub(crate) mod timers;
mod unread;
pub(crate) mod wheel;
