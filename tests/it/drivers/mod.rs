//! What drives the engine: the contract of a driver, the server with real sockets, the program, the simulator and the fuzz
//! targets.

mod contract;
pub mod fuzzed;
pub mod net;
#[cfg(feature = "bin")]
mod program;
mod regressions;
mod simulator;
