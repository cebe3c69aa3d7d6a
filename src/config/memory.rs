//! Worst-case numbers of sockets and bytes that the limits allow, and the size of the largest frame.

use super::fields::Config;
use crate::base::limit::Limit;

/// Bytes of one member in a `presence_state`: a user id of 128 bytes, each perhaps escaped, plus the seat and the keys.
const PRESENCE_BYTES_PER_MEMBER: usize = 2 * 128 + 64;
/// Bytes that an envelope adds to its payload: names, numbers, a user id, the frame header and the outbox's overhead.
const ENVELOPE_BYTES: usize = 1024;
/// Bytes of the slab entry, seat, user, lobby, map entries and timer of one connection.
const CONNECTION_BYTES: u128 = 2048;
/// Bytes of the remembered rates of one user or address: the longest name, and the entries in the map and in the order.
const REMEMBERED_BYTES: u128 = 360;

/// Most bytes that a newcomer on the admin port may send ahead of its answers, in addition to two request heads.
pub(crate) const ADMIN_AHEAD_BYTES: usize = 64 << 10;
/// Bytes of a response without a page of a list, with its queue.
const RESPONSE_BYTES: u128 = 1024;

impl Config {
    /// Returns the bound on all sockets of clients together, without those beyond `max_pending`.
    pub(crate) fn max_sockets(&self) -> Limit {
        match self.max_connections.bound() {
            None => Limit::UNLIMITED,
            Some(seats) => Limit::at_most(seats.saturating_add(self.max_pending).saturating_add(self.max_closing)),
        }
    }

    /// Returns the size of the largest frame that a client can make the server send, with the outbox's overhead.
    pub(crate) fn largest_frame(&self) -> usize {
        let listed = self.max_per_lobby.bound().unwrap_or(u32::MAX).min(self.presence_max) as usize;
        let presence = listed.saturating_mul(PRESENCE_BYTES_PER_MEMBER);
        let message = self.max_message_bytes.0.saturating_add(ENVELOPE_BYTES);
        message.max(presence).saturating_add(ENVELOPE_BYTES)
    }

    /// Returns the largest number of clients' sockets that are open at the same time, without operators' connections.
    ///
    /// `None` if `max_connections` is `unlimited`. Each of them needs a file descriptor.
    ///
    /// ```
    /// let config = lobbyd::Config::default();
    /// assert_eq!(config.worst_case_sockets(), Some(500 + 256 + 64 + 256 + 16));
    /// ```
    pub fn worst_case_sockets(&self) -> Option<u64> {
        let others = [self.max_pending, self.max_overflow, self.max_closing, self.accept_per_turn];
        Some(u64::from(self.max_connections.bound()?) + others.into_iter().map(u64::from).sum::<u64>())
    }

    /// Returns the worst-case memory in bytes: the largest number of sockets, with every buffer full.
    ///
    /// `None` if `max_connections` is `unlimited`. The kernel's buffers are not included; on Linux each socket may take
    /// up to `tcp_rmem[2] + tcp_wmem[2]` more.
    pub fn worst_case_memory(&self) -> Option<u64> {
        let sockets = u128::from(self.worst_case_sockets()? - u64::from(self.max_overflow));
        let [max_message, max_header, max_identity, receive_buffer, max_outbound, largest_frame, max_inbox] = [
            self.max_message_bytes.0,
            self.max_header_bytes.0,
            self.max_identity_bytes.0,
            self.receive_buffer_bytes.0,
            self.max_outbound_bytes.0,
            self.largest_frame(),
            self.max_inbox_bytes.0,
        ]
        .map(|bytes| bytes as u128);
        // A message that is being received is in memory twice: the current frame and the fragments before it. Growing a
        // buffer can take up to twice its contents.
        let message = 3 * max_message + max_header;
        // If a connection sends more than work_per_receive, up to one receive buffer of its input is kept.
        let inbound = message + receive_buffer;
        let outbound = max_outbound + largest_frame;
        // An inbox always accepts one message, however large.
        let inbox = if self.tick_hz.is_some() { max_inbox.max(max_message) } else { 0 };
        // For each operator connection: two requests written with escapes, and a response with the longest page.
        let request = 7 * max_message + max_header;
        // A connection without the token has little more than a request head after each turn. Growing a buffer can take
        // twice its contents.
        let head = 2 * (receive_buffer + 2 * max_header + ADMIN_AHEAD_BYTES as u128) + RESPONSE_BYTES;
        let connections = |count: u32, each: u128| if self.admin.is_some() { u128::from(count) * each } else { 0 };
        let operators = connections(self.max_admin_connections, 2 * request + (2 << 20))
            + connections(self.max_admin_pending, head);
        // Of a socket beyond max_pending only the request head is read.
        let overflow = u128::from(self.max_overflow) * (2 * max_header + RESPONSE_BYTES + CONNECTION_BYTES);
        let remembered = 2 * u128::from(self.max_remembered_rates) * REMEMBERED_BYTES;
        let fixed = remembered + operators + overflow + 4 * receive_buffer + (4 << 20);
        // At most 2^33 sockets of at most 2^69 bytes, so no step overflows. A result beyond u64 is reported as u64::MAX.
        let bytes = sockets * (inbound + outbound + inbox + max_identity + CONNECTION_BYTES) + fixed;
        Some(u64::try_from(bytes).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::types::ByteSize;

    #[test]
    fn worst_case_memory_grows_with_limits_and_saturates() {
        let with = |max_connections, max_outbound_bytes| {
            let config =
                Config { max_connections, max_outbound_bytes: ByteSize(max_outbound_bytes), ..Config::default() };
            config.worst_case_memory().expect("nothing is unlimited")
        };
        let usual = with(Limit::at_most(500), 1 << 18);
        let many = with(Limit::at_most(u32::MAX - 1), 1 << 18);
        assert!(usual < many && many < with(Limit::at_most(u32::MAX - 1), 1 << 31));
        assert_eq!(with(Limit::at_most(u32::MAX - 1), usize::MAX), u64::MAX);
    }
}
