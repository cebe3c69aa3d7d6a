//! The parts of the engine's state: data, and the rules that concern this data alone. None of them knows `Core`.

pub(crate) mod call_guard;
pub(crate) mod clock;
pub(crate) mod close_queue;
pub(crate) mod conn;
pub(crate) mod conns;
pub(crate) mod counters;
#[allow(dead_code)]
pub(crate) mod directs;
pub(crate) mod drain;
pub(crate) mod events;
mod health;
mod histogram;
#[allow(dead_code)]
pub(crate) mod history;
pub(crate) mod identity_data;
pub(crate) mod inbox;
pub(crate) mod measurements;
pub(crate) mod meters;
pub(crate) mod origins;
pub(crate) mod pings;
pub(crate) mod readiness;
pub(crate) mod record_mode;
#[allow(dead_code)]
pub(crate) mod replay;
pub(crate) mod stats;
#[allow(dead_code)]
mod text_ring;
pub(crate) mod ticks;
pub(crate) mod timers;
mod unread;
#[allow(dead_code)]
pub(crate) mod upstream;
pub(crate) mod wheel;
