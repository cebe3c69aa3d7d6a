//! Helpers that the tests of several topics share.

pub mod files;
#[cfg(feature = "jwt")]
pub mod jwt;
pub mod scenario;
pub mod scrape;
pub mod segments;
pub mod sockets;
pub mod warnings;
pub mod witness;
