//! The integration tests, through the public API alone. Time is virtual everywhere but in `net`.

mod scenario;
mod witness;

mod faults;
mod limits;
mod protocol;
