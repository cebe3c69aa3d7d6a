//! Helpers that the tests of several topics share.

pub mod files;
pub mod scenario;
pub mod scrape;
pub mod segments;
pub mod sockets;
pub mod witness;
