//! Bounds: their configuration, and what happens when each is reached.

mod bounds;
mod config;
mod pressure;
mod rates;
mod seats;
