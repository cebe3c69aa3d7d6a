//! The tokens of the poll, all in one file, because no two may be equal.
//!
//! The token of a connection is its [`ConnId::index`](crate::base::id::ConnId::index), a small number. Connections of
//! the admin port begin in the middle. All other tokens count down from the largest.

use mio::Token;

pub(super) const LISTENER: Token = Token(usize::MAX);
pub(super) const WAKER: Token = Token(usize::MAX - 1);
#[cfg(all(feature = "signals", unix))]
pub(super) const STOP: Token = Token(usize::MAX - 2);
#[cfg(all(feature = "signals", unix))]
pub(super) const RELOAD: Token = Token(usize::MAX - 3);
pub(super) const ADMIN_LISTENER: Token = Token(usize::MAX - 4);
#[cfg(target_os = "linux")]
pub(super) const TIMERFD: Token = Token(usize::MAX - 5);

/// The token of the first connection of the admin port, far above all keys of the engine's connections.
pub(super) const FIRST_ADMIN: usize = usize::MAX / 2 + 1;
