//! The Redis of a cluster. These tests start `redis-server` processes of their own.

pub(crate) mod redis;
mod scripts;
