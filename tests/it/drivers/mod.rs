//! Drivers of the engine: their contract, the server with real sockets, the program, the simulator and the fuzz targets.

mod announcements;
mod contract;
mod events;
mod failure_reports;
pub mod fuzzed;
#[cfg(feature = "hook")]
mod hook;
#[cfg(unix)]
mod listeners;
mod net;
mod operators;
#[cfg(feature = "bin")]
mod program;
mod proxied;
mod regressions;
mod simulator;
