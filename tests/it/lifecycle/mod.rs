//! The life of a connection and of a server: liveness, ticks, pauses, closes, panics and the drain.

mod closes;
mod control;
mod drain;
mod entering;
mod faults;
mod health;
mod lists;
mod panics;
mod pings;
mod sessions;
mod stalls;
mod ticks;
