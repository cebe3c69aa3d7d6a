//! What the tests of several topics share.

pub mod scenario;
pub mod witness;
