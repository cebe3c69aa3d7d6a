//! The integration tests, through the public API alone. Time is virtual everywhere but in `net`.

mod scenario;

mod protocol;
mod regressions;
mod simulator;
