//! Bounds of what a session holds. If a server exceeds one, the client stops reading or closes.

/// Most requests that are not settled.
pub(super) const MAX_KEPT: usize = 64;
/// Most bytes of the requests that are not settled, unless it is a single one.
pub(super) const MAX_KEPT_BYTES: usize = 64 << 10;
/// Most requests without an answer: the server allows no more in a session. Fewer after `rate_limited`.
pub(super) const MAX_IN_FLIGHT: usize = 16;
/// Volatile messages are not sent while more bytes than this wait to be written.
pub(super) const MAX_UNSENT_BYTES: usize = 64 << 10;
/// Weight of the events from which on no message is read. One message may exceed it.
pub(super) const MAX_EVENT_WEIGHT: usize = 4 << 20;
/// Weight of what is known of a lobby, or of the list of lobbies. The server's own bounds are far below: 500 members with
/// 64 KiB of data.
pub(super) const MAX_VIEW_WEIGHT: usize = 16 << 20;
/// Longest reason of a `goodbye` that is read: a close frame has no longer one (RFC 6455 section 5.5). Each request that ends
/// with the lobby has a copy.
pub(super) const MAX_REASON_BYTES: usize = 123;
