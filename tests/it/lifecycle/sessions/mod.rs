//! Clients with a session come back to their seat and miss nothing.
//!
//! The first lobby of a test has the epoch 1000000000000, the time of its start in microseconds.

mod application;
mod limits;
mod missed;
mod requests;
mod seats;
mod strays;
