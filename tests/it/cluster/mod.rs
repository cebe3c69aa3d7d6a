//! The Redis of a cluster. These tests start `redis-server` processes of their own.

mod pair;
pub(crate) mod redis;
mod scripts;
