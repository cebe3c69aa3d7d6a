//! The Redis of a cluster. These tests start `redis-server` processes of their own.

mod redis;
mod scripts;
