//! Integration tests. They use the public API only. Time is virtual, except in `net`, `operating` and `program`.

mod scenario;

mod admin;
mod admin_answers;
mod baseline;
mod bounds;
mod bytewise;
mod closes;
mod config;
mod documents;
mod drain;
mod driver;
mod faults;
mod fuzzed;
mod health;
mod http;
mod identity;
mod journal;
mod limits;
mod net;
mod operating;
mod orders;
mod origins;
mod panics;
mod pressure;
#[cfg(feature = "bin")]
mod program;
mod protocol;
mod protocol_errors;
mod rates;
mod regressions;
mod simulator;
mod stalls;
mod ticks;
mod tidy;
mod witness;
