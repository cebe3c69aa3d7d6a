//! Counters: numbers that only grow. They are counted where it happens: frames in `engine/sending.rs`, bytes in
//! `engine/input.rs` and `engine/writing.rs`, closes in `engine/teardown.rs`.

use crate::base::close::{CloseReason, Reject};
use crate::base::codes::{AppCounts, CloseCode, ErrorCode};

/// A counter as data, for lists of all counters.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CounterView {
    pub(crate) name: &'static str,
    /// Name of its metric.
    pub(crate) metric: &'static str,
    /// Its documentation, which begins with a space.
    pub(crate) doc: &'static str,
    pub(crate) value: u64,
}

/// Numbers of counters in a checkpoint, by kind.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CounterLayout {
    named: usize,
    closes: usize,
    rejects: usize,
}

impl CounterLayout {
    /// Returns the number of all counters. No two layouts have the same, so it identifies the layout.
    pub(crate) fn count(self) -> usize {
        self.named + self.closes + self.rejects
    }
}

/// Defines [`Counters`] and its lists of all counters. The metric of a counter has its name, unless another one follows.
macro_rules! counters {
    (@metric $name:ident) => { concat!("lobbyd_", stringify!($name), "_total") };
    (@metric $name:ident $metric:literal) => { concat!("lobbyd_", $metric, "_total") };
    ($($(#[doc = $doc:literal])* $name:ident $(as $metric:literal)?,)*) => {
        /// Counters since the start.
        ///
        /// [`Stats`](crate::stats::Stats) has an example.
        #[derive(Clone, Debug, PartialEq, Eq)]
        #[non_exhaustive]
        pub struct Counters {
            $($(#[doc = $doc])* pub $name: u64,)*
            closes: [u64; CloseReason::ALL.len()],
            rejects: [u64; Reject::ALL.len()],
            pub(crate) app_closes: AppCounts<CloseCode>,
            pub(crate) app_rejects: AppCounts<ErrorCode>,
        }

        impl Default for Counters {
            fn default() -> Counters {
                Counters {
                    $($name: 0,)*
                    closes: [0; CloseReason::ALL.len()],
                    rejects: [0; Reject::ALL.len()],
                    app_closes: AppCounts::default(),
                    app_rejects: AppCounts::default(),
                }
            }
        }

        impl Counters {
            /// Returns the name and value of every counter except those of closes and rejects.
            pub fn named(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($name), self.$name)),*]
            }

            /// The same counters with their documentation and the names of their metrics.
            pub(crate) fn views(&self) -> Vec<CounterView> {
                vec![$(CounterView {
                    name: stringify!($name),
                    metric: counters!(@metric $name $($metric)?),
                    doc: concat!($($doc),*),
                    value: self.$name,
                }),*]
            }

            /// All counters in a fixed order, without those of the application's codes, to save and restore them.
            pub(crate) fn all_mut(&mut self) -> impl Iterator<Item = &mut u64> {
                self.all_mut_of(Counters::LAYOUTS[0])
            }

            /// The counters of a checkpoint with this layout, in the same order.
            pub(crate) fn all_mut_of(&mut self, layout: CounterLayout) -> impl Iterator<Item = &mut u64> {
                let Counters { $($name,)* closes, rejects, .. } = self;
                let named = [$($name),*].into_iter().take(layout.named);
                named.chain(closes.iter_mut().take(layout.closes)).chain(rejects.iter_mut().take(layout.rejects))
            }

            /// The layout of this build, and those of earlier ones. A new counter is the last of its kind.
            pub(crate) const LAYOUTS: [CounterLayout; 4] = [
                CounterLayout {
                    named: [$(stringify!($name)),*].len(),
                    closes: CloseReason::ALL.len(),
                    rejects: Reject::ALL.len(),
                },
                // Without compression.
                CounterLayout { named: 16, closes: 37, rejects: 7 },
                // Without lobby control.
                CounterLayout { named: 16, closes: 35, rejects: 4 },
                // Without `peer_gone`.
                CounterLayout { named: 14, closes: 34, rejects: 4 },
            ];
        }
    };
}

counters! {
    /// Connections accepted.
    accepted as "connections_accepted",
    /// Connections dropped without an answer, because no socket or file descriptor was left for them.
    shed as "connections_shed",
    /// Seats taken by new members.
    joined as "joins",
    /// Seats taken over by a newer connection of the same user in the same lobby.
    taken_over as "takeovers",
    /// Seats freed.
    left as "leaves",
    /// Bytes received.
    bytes_in as "received_bytes",
    /// Bytes written.
    bytes_out as "sent_bytes",
    /// Messages received, text and binary.
    messages_in as "received_messages",
    /// Frames queued, one for each receiver: messages, pings and pongs.
    frames_out as "queued_frames",
    /// Frames that were discarded before a byte of them was written, because the connection was cut off or too slow.
    frames_dropped as "dropped_frames",
    /// Latest-wins frames that were replaced by a newer one before they were written.
    frames_replaced as "replaced_frames",
    /// Pings sent to idle connections.
    pings,
    /// Application-level health checks started.
    health_checks,
    /// Health checks that ended without an answer.
    health_checks_failed,
    /// Seats that were kept because the connection of a session was lost.
    seats_kept as "kept_seats",
    /// Sessions that came back to their seat.
    resumed as "resumes",
    /// Broadcasts that the server tried to compress, each once for all its receivers.
    compressed_frames,
    /// Bytes of these broadcasts before they were compressed.
    uncompressed_bytes,
    /// Bytes of these broadcasts after they were compressed.
    compressed_bytes,
    /// Compressed messages received.
    decompressed_messages,
    /// Bytes of these messages after they were decompressed.
    decompressed_bytes,
}

impl Counters {
    /// Returns the number of connections closed for `reason`.
    pub fn closed(&self, reason: CloseReason) -> u64 {
        match reason {
            CloseReason::App(code) => self.app_closes.of(code),
            reason => self.closes[reason.kind() as usize],
        }
    }

    /// Returns the number of connections closed for any reason.
    pub fn closed_in_all(&self) -> u64 {
        self.closes.iter().sum::<u64>() + self.app_closes.iter().map(|(_, count)| count).sum::<u64>()
    }

    /// Returns the number of connections closed for each reason, without the reasons that did not occur.
    ///
    /// At most 256 codes of the application are counted one by one; further ones have the word `other`.
    pub fn closes(&self) -> impl Iterator<Item = (CloseReason, u64)> {
        self.all_closes().filter(|(_, count)| *count > 0)
    }

    /// The same, with the server's reasons that did not occur.
    pub(crate) fn all_closes(&self) -> impl Iterator<Item = (CloseReason, u64)> {
        let own = CloseReason::ALL.iter().copied().zip(self.closes);
        own.chain(self.app_closes.iter().map(|(code, count)| (CloseReason::App(code), count)))
    }

    /// Returns the number of requests refused with `reject`.
    pub fn rejected(&self, reject: Reject) -> u64 {
        match reject.index() {
            Ok(index) => self.rejects[index],
            Err(code) => self.app_rejects.of(code),
        }
    }

    /// Returns the number of requests refused for each reason, without the reasons that did not occur.
    ///
    /// At most 256 codes of the application are counted one by one; further ones are counted as `other`.
    pub fn rejects(&self) -> impl Iterator<Item = (Reject, u64)> {
        self.all_rejects().filter(|(_, count)| *count > 0)
    }

    /// The same, with the server's reasons that did not occur.
    pub(crate) fn all_rejects(&self) -> impl Iterator<Item = (Reject, u64)> {
        let own = Reject::ALL.iter().copied().zip(self.rejects);
        own.chain(self.app_rejects.iter().map(|(code, count)| (Reject::App(code), count)))
    }

    pub(crate) fn count_close(&mut self, reason: CloseReason) {
        match reason {
            CloseReason::App(code) => self.app_closes.add(code),
            reason => self.closes[reason.kind() as usize] += 1,
        }
    }

    pub(crate) fn count_reject(&mut self, reject: Reject) {
        match reject.index() {
            Ok(index) => self.rejects[index] += 1,
            Err(code) => self.app_rejects.add(code),
        }
    }
}
