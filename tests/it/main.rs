//! The integration tests, through the public API alone. Time is virtual everywhere but in `net`.

mod scenario;
mod witness;

mod bytewise;
mod faults;
mod health;
mod http;
mod limits;
mod protocol;
mod protocol_errors;
