//! Counters: numbers that only grow. They are counted where it happens: frames in `engine/sending.rs`, bytes in
//! `engine/input.rs` and `engine/writing.rs`, closes in `engine/teardown.rs`.

use crate::base::close::{CloseReason, Reject};

/// Defines [`Counters`] and its lists of all counters.
macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Counters since the start.
        #[derive(Clone, Debug, PartialEq, Eq)]
        #[non_exhaustive]
        pub struct Counters {
            $($(#[$doc])* pub $name: u64,)*
            closes: [u64; CloseReason::ALL.len()],
            rejects: [u64; Reject::ALL.len()],
        }

        impl Default for Counters {
            fn default() -> Counters {
                Counters { $($name: 0,)* closes: [0; CloseReason::ALL.len()], rejects: [0; Reject::ALL.len()] }
            }
        }

        impl Counters {
            /// Returns the name and value of every counter except those of closes and rejects.
            pub fn named(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($name), self.$name)),*]
            }

            /// All counters in a fixed order, to save and restore them.
            pub(crate) fn all_mut(&mut self) -> impl Iterator<Item = &mut u64> {
                let Counters { $($name,)* closes, rejects } = self;
                [$($name),*].into_iter().chain(closes).chain(rejects)
            }
        }
    };
}

counters! {
    /// Connections accepted.
    accepted,
    /// Connections dropped without an answer, because no socket or file descriptor was left for them.
    shed,
    /// Seats taken by new members.
    joined,
    /// Seats taken over by a newer connection of the same user in the same lobby.
    taken_over,
    /// Seats freed.
    left,
    /// Bytes received.
    bytes_in,
    /// Bytes written.
    bytes_out,
    /// Messages received, text and binary.
    messages_in,
    /// Frames queued, one for each receiver: messages, pings and pongs.
    frames_out,
    /// Frames that were discarded before a byte of them was written, because the connection was cut off or too slow.
    frames_dropped,
    /// Latest-wins frames that were replaced by a newer one before they were written.
    frames_replaced,
    /// Pings sent to idle connections.
    pings,
    /// Application-level health checks started.
    health_checks,
    /// Health checks that ended without an answer.
    health_checks_failed,
}

impl Counters {
    /// Returns the number of connections closed for `reason`.
    pub fn closed(&self, reason: CloseReason) -> u64 {
        self.closes[reason as usize]
    }

    /// Returns the number of connections closed for any reason.
    pub fn closed_in_all(&self) -> u64 {
        self.closes.iter().sum()
    }

    /// Returns the number of requests refused with `reject`.
    pub fn rejected(&self, reject: Reject) -> u64 {
        self.rejects[reject as usize]
    }

    pub(crate) fn count_close(&mut self, reason: CloseReason) {
        self.closes[reason as usize] += 1;
    }

    pub(crate) fn count_reject(&mut self, reject: Reject) {
        self.rejects[reject as usize] += 1;
    }
}
