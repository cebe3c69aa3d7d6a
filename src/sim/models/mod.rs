//! Models of the server: what it must do, worked out independently of the engine.
//!
//! Each model is fed with events and checked against the engine, or asked whether an event is allowed. A model knows
//! neither the world nor the clients: what it needs is passed to it.

pub(crate) mod addresses;
pub(crate) mod close_reasons;
pub(crate) mod control;
pub(crate) mod control_check;
pub(crate) mod counters;
pub(crate) mod feed;
pub(crate) mod health;
pub(crate) mod latest;
pub(crate) mod lobby_view;
pub(crate) mod locks;
pub(crate) mod missed;
pub(crate) mod operators;
pub(crate) mod pressure;
pub(crate) mod published;
pub(crate) mod rates;
pub(crate) mod relay;
pub(crate) mod reported;
pub(crate) mod seats;
pub(crate) mod sessions;
pub(crate) mod ticks;
pub(crate) mod tokens;
pub(crate) mod user_rates;
pub(crate) mod wall_clock;
