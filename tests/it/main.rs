//! The integration tests, through the public API alone. Time is virtual everywhere but in `net`.

mod scenario;

mod admin;
mod documents;
mod drain;
mod faults;
mod limits;
mod net;
mod operating;
mod protocol;
mod tidy;
mod witness;
