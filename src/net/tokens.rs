//! The tokens of the poll, all in one file, because no two may be equal.
//!
//! The token of a connection is its [`ConnId::index`](crate::base::id::ConnId::index), a small number. Sockets whose header
//! of the PROXY protocol has not arrived begin at a quarter, connections of the admin port in the middle. All other tokens count down from the largest: those of single sources first, then
//! the listeners of each port.

use mio::Token;

pub(super) const WAKER: Token = Token(usize::MAX);
#[cfg(all(feature = "signals", unix))]
pub(super) const STOP: Token = Token(usize::MAX - 1);
#[cfg(all(feature = "signals", unix))]
pub(super) const RELOAD: Token = Token(usize::MAX - 2);
#[cfg(target_os = "linux")]
pub(super) const TIMERFD: Token = Token(usize::MAX - 3);

/// The socket to the Redis of a cluster.
pub(super) const CLUSTER: Token = Token(usize::MAX - 4);

/// Most listeners of each port.
pub(super) const MAX_LISTENERS: usize = 64;

/// The tokens of the listeners of one port: [`MAX_LISTENERS`], from this one on.
#[derive(Clone, Copy, Debug)]
pub(super) struct ListenerTokens(usize);

pub(super) const LISTENERS: ListenerTokens = ListenerTokens(usize::MAX - 4 - MAX_LISTENERS);
pub(super) const ADMIN_LISTENERS: ListenerTokens = ListenerTokens(usize::MAX - 4 - 2 * MAX_LISTENERS);

impl ListenerTokens {
    pub(super) fn token(self, index: usize) -> Token {
        assert!(index < MAX_LISTENERS, "bind() refuses more listeners");
        Token(self.0 + index)
    }

    /// Returns the index of the listener with this token, if it is one of this port.
    pub(super) fn index(self, token: Token) -> Option<usize> {
        token.0.checked_sub(self.0).filter(|&index| index < MAX_LISTENERS)
    }
}

/// The token of the first socket whose header of the PROXY protocol has not arrived, far above all keys of the engine's
/// connections.
pub(super) const FIRST_AWAITING_HEADER: usize = usize::MAX / 4 + 1;
/// The token of the first connection of the admin port, far above all keys of the engine's connections.
pub(super) const FIRST_ADMIN: usize = usize::MAX / 2 + 1;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_tokens_are_equal() {
        let listeners = |tokens: ListenerTokens| (0..MAX_LISTENERS).map(move |index| tokens.token(index));
        let mut all: Vec<usize> = listeners(LISTENERS).chain(listeners(ADMIN_LISTENERS)).map(|token| token.0).collect();
        all.extend([WAKER.0, CLUSTER.0]);
        #[cfg(all(feature = "signals", unix))]
        all.extend([STOP.0, RELOAD.0]);
        #[cfg(target_os = "linux")]
        all.push(TIMERFD.0);
        let count = all.len();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), count);
        assert!(all[0] > FIRST_ADMIN + (1 << 20));
        assert_eq!(LISTENERS.index(LISTENERS.token(5)), Some(5));
        assert_eq!(LISTENERS.index(ADMIN_LISTENERS.token(5)), None);
        assert_eq!(ADMIN_LISTENERS.index(LISTENERS.token(5)), None);
        assert_eq!(LISTENERS.index(WAKER), None);
    }
}
