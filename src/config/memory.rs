//! Worst-case numbers of sockets and bytes that the limits allow, and the size of the largest frame.

use super::fields::Config;
use super::listen::Listen;
use super::types::ByteSize;
use crate::base::limit::{Limit, MAX_FILE_BYTES, MAX_LIST_BYTES};

/// Bytes of one member in a `presence_state`: a user id of 128 bytes, each perhaps escaped, plus the seat and the keys.
const PRESENCE_BYTES_PER_MEMBER: usize = 2 * 128 + 64;
/// Bytes that an envelope adds to its payload: names, numbers, a user id, the frame header and the outbox's overhead.
const ENVELOPE_BYTES: usize = 1024;
/// Cost of a queued frame beside its bytes, so that a flood of tiny frames cannot take many times `max_outbound_bytes`.
pub(crate) const FRAME_OVERHEAD: usize = 64;
/// Longest header of a frame that the server sends (RFC 6455 section 5.2).
const FRAME_HEADER: usize = 10;
/// No numbered frame has a shorter text: the names of its fields, a type and a number.
const SHORTEST_NUMBERED: usize = 24;
/// Most bytes of one member in the `presence_state` of a replay: `{"user":"…","conn":"…","away":true},` with the longest id,
/// each byte escaped, and 21 characters for the seat. [`PRESENCE_BYTES_PER_MEMBER`] is rounded up.
const LISTED_MEMBER_BYTES: usize = 2 * 128 + 56;
/// Bytes of one frame of a history or of a direct message that is kept, without its text: its entry, and the longest `ref`.
const KEPT_FRAME_BYTES: u128 = 176;
/// Bytes of the users that were kicked from a lobby: 64 at most, each with the longest id.
const KICKED_BYTES: u128 = 64 * 200;
/// Most bytes of the settings of a lobby in a `lobby_state`: the name and four tags of 64 bytes each, all escaped, numbers
/// and keys.
const SETTINGS_BYTES: usize = 2048;
/// Bytes of the lobby control of one lobby without its data and bans.
const CONTROL_BYTES: u128 = 1024;
/// Bytes of one banned user: the longest id and its entry.
const BAN_BYTES: u128 = 200;
/// Bytes of one key of data without its own and those of its value: its entry, and that of a deleted key.
const DATA_KEY_BYTES: u128 = 300;
/// Bytes of an idempotency key of 64 bytes, with its entry in a list that may have twice the capacity.
const IDEMPOTENCY_KEY_BYTES: u128 = 192;
/// Bytes of the state of a session, without its direct messages.
const SESSION_BYTES: u128 = 512;
/// Bytes of the slab entry, seat, user, lobby, map entries and timer of one connection.
const CONNECTION_BYTES: u128 = 2048;
/// Bytes of a socket whose header of the PROXY protocol has not arrived yet: the header, whose buffer may have twice the
/// capacity, and its entry.
const AWAITING_HEADER_BYTES: u128 = 2048;
/// Bytes of a connection with TLS beside the others: its session, a record of 18 KiB that has not arrived whole, in a buffer that
/// may have twice the capacity, and one that was not sent.
const TLS_BYTES: u128 = 64 << 10;
/// Bytes of a connection that follows the list of lobbies with a filter of its own: the filter, and the codes that it was
/// told.
const LIST_WATCHER_BYTES: u128 = 16 << 10;
/// Bytes of the remembered rates of one user: the longest name, and the entries in the map and in the order.
const REMEMBERED_USER_BYTES: u128 = 360;
/// Bytes of one remembered rate of an address, with its entries in the map, which may have twice the capacity, and in the order.
const REMEMBERED_ADDRESS_BYTES: u128 = 240;

/// Bytes of an event that is kept: a user id of 128 bytes, each byte perhaps escaped as six, and the other fields.
const EVENT_BYTES: u128 = 6 * 128 + 448;
/// Bytes of the set of keys at `jwt_jwks_url`: the last one of up to 1 MiB, another one that arrives, and what is read from
/// both.
const KEY_SET_BYTES: u128 = 4 << 20;
/// Bytes of one call of the hook or of `jwt_jwks_url`: an answer of 64 KiB in a buffer that may have twice the capacity, the
/// buffers of its connection, a session of TLS, and the stack of its thread. The keys themselves are in [`KEY_SET_BYTES`].
const CALL_BYTES: u128 = (128 << 10) + CALL_CONNECTION_BYTES + (128 << 10);
/// Bytes of a connection to the hook: a buffer of 128 KiB for each direction, and a session of TLS.
const CALL_CONNECTION_BYTES: u128 = (2 * 128 + 64) << 10;
/// Bytes of the body of a call with events, which may have twice the capacity.
const BATCH_BYTES: u128 = 2 * (256 << 10);
/// Most connections to the hook and to `jwt_jwks_url` that are kept open between calls.
pub(crate) const MAX_IDLE_CALL_CONNECTIONS: u32 = 16;
/// Bytes of output of one reader of events, in a buffer that may have twice the capacity.
const EVENT_READER_BYTES: u128 = 2 * (64 << 10);
/// Most bytes that a newcomer on the admin port may send ahead of its answers, in addition to two request heads.
pub(crate) const ADMIN_AHEAD_BYTES: usize = 64 << 10;
/// Most bytes of the files of the operators' page together, which are served without the token. Checked when they are
/// compiled in.
pub(crate) const ADMIN_PAGE_BYTES: usize = 40 << 10;
/// Bytes of a response without a page of a list, with its queue.
const RESPONSE_BYTES: u128 = 1024;

impl Config {
    /// Returns the bound on all sockets of clients together, without those beyond `max_pending`.
    pub(crate) fn max_sockets(&self) -> Limit {
        match self.max_connections.bound() {
            None => Limit::UNLIMITED,
            Some(seats) => {
                let others = [self.list_watchers(), self.max_pending, self.max_closing];
                Limit::at_most(others.into_iter().fold(seats, u32::saturating_add))
            }
        }
    }

    /// Returns the largest number of connections that follow the list of lobbies.
    fn list_watchers(&self) -> u32 {
        if self.lobby_control { self.max_list_watchers } else { 0 }
    }

    /// Returns the largest number of sockets whose header of the PROXY protocol has not arrived yet.
    fn awaiting_header(&self) -> u32 {
        if self.proxy_protocol.is_some() { self.max_pending } else { 0 }
    }

    /// Returns the size of the largest frame that a client can make the server send, with the outbox's overhead.
    pub(crate) fn largest_frame(&self) -> usize {
        let message = self.max_message_bytes.0.saturating_add(2 * ENVELOPE_BYTES);
        let presence = self.most_listed().saturating_mul(PRESENCE_BYTES_PER_MEMBER).saturating_add(self.members_data());
        // A `conflict` has no more data than these.
        message.max(presence.saturating_add(ENVELOPE_BYTES)).max(self.largest_lobby_state())
    }

    /// Returns the bytes of data in the presence of a full lobby.
    fn members_data(&self) -> usize {
        if self.lobby_control { self.max_members_data.0 } else { 0 }
    }

    /// Returns the size of a `lobby_state`, with the outbox's overhead. 0 with lobby control off.
    fn largest_lobby_state(&self) -> usize {
        if self.lobby_control { self.max_lobby_data.0.saturating_add(SETTINGS_BYTES + ENVELOPE_BYTES) } else { 0 }
    }

    /// Returns the largest number of members that a `presence_state` lists.
    fn most_listed(&self) -> usize {
        self.max_per_lobby.bound().unwrap_or(u32::MAX).min(self.presence_max) as usize
    }

    /// Returns the size of the `welcome` and of the presence of a full lobby, with the outbox's overhead. It is never above
    /// [`largest_frame`](Self::largest_frame).
    pub(crate) fn largest_welcome(&self) -> usize {
        let members = self.most_listed().saturating_mul(LISTED_MEMBER_BYTES);
        members.saturating_add(ENVELOPE_BYTES).saturating_add(self.members_data())
    }

    /// Returns the size of all that a member is sent at once that comes back to its seat: the `welcome`, a full history, its
    /// direct messages and the presence of a full lobby, with the outbox's overhead. 0 if no seat is kept.
    pub(crate) fn largest_replay(&self) -> usize {
        if self.seat_grace.is_zero() {
            return 0;
        }
        let kept = |bytes: ByteSize, frames: u32| {
            // A queue of few bytes never has all its frames.
            let frames = (frames as usize).min(bytes.0 / SHORTEST_NUMBERED);
            bytes.0.saturating_add(frames.saturating_mul(FRAME_OVERHEAD + FRAME_HEADER))
        };
        let history = kept(self.history_bytes, self.history_frames);
        let directs = kept(self.direct_bytes, self.direct_frames);
        history
            .saturating_add(directs)
            .saturating_add(self.largest_welcome())
            .saturating_add(self.largest_lobby_state())
    }

    /// Returns the worst-case bytes of the lobby control of all lobbies.
    fn control_memory(&self, seats: u32) -> u128 {
        if !self.lobby_control {
            return 0;
        }
        let lobbies = u128::from(self.max_lobbies.bound().unwrap_or(u32::MAX));
        // Lobbies without members are kept, if at all, up to the same number.
        let lobbies = if self.max_empty_ttl.is_zero() { lobbies.min(u128::from(seats)) } else { lobbies };
        let keys = u128::from(self.max_lobby_keys) * DATA_KEY_BYTES;
        let bans = u128::from(self.max_bans) * BAN_BYTES;
        // Keys and values are in memory once, and twice while they change.
        let data = 2 * (self.max_lobby_data.0 as u128 + self.max_members_data.0 as u128);
        let of_members = u128::from(seats) * u128::from(self.max_member_keys) * DATA_KEY_BYTES;
        lobbies * (CONTROL_BYTES + keys + bans + data) + of_members
    }

    /// Returns the largest number of lobbies: each has a seat.
    fn most_lobbies(&self) -> u32 {
        let most = |limit: Limit| limit.bound().unwrap_or(u32::MAX);
        most(self.max_lobbies).min(most(self.max_connections))
    }

    /// Returns the worst-case bytes of all sessions: each seat has one, and as many lobbies as possible a full history.
    fn sessions_memory(&self, seats: u32) -> u128 {
        if self.seat_grace.is_zero() {
            return 0;
        }
        let kept = |bytes: ByteSize, frames: u32| bytes.0 as u128 + u128::from(frames) * KEPT_FRAME_BYTES;
        let history = kept(self.history_bytes, self.history_frames);
        let directs = kept(self.direct_bytes, self.direct_frames);
        u128::from(self.most_lobbies()) * (history + KICKED_BYTES) + u128::from(seats) * (directs + SESSION_BYTES)
    }

    /// Returns the largest number of calls at the same time: those with a question and one with events, if there is a hook,
    /// and one to `jwt_jwks_url`.
    fn most_calls(&self) -> u32 {
        let of_hook = if self.hook.is_some() { self.max_hook_calls.saturating_add(1) } else { 0 };
        of_hook.saturating_add(u32::from(self.jwt_jwks_url.is_some()))
    }

    /// Returns the largest number of connections to the hook and to `jwt_jwks_url` that wait for another call.
    fn most_idle_call_connections(&self) -> u32 {
        self.most_calls().min(MAX_IDLE_CALL_CONNECTIONS)
    }

    /// Returns the largest number of sockets of the hook and of `jwt_jwks_url`.
    pub(crate) fn most_call_sockets(&self) -> u64 {
        u64::from(self.most_calls()) + u64::from(self.most_idle_call_connections())
    }

    /// Returns the worst-case bytes of the calls of the hook and of `jwt_jwks_url`.
    fn calls_memory(&self) -> u128 {
        // In one queue the questions with their bodies, in another one tokens that wait for a key.
        let queues = u128::from(self.hook.is_some()) + u128::from(self.jwt_jwks_url.is_some());
        let asked = if self.hook.is_some() { self.max_hook_calls } else { 0 };
        let bodies = queues * u128::from(self.max_hook_questions) + u128::from(asked);
        bodies * 7 * self.max_header_bytes.0 as u128
            + u128::from(self.most_calls()) * CALL_BYTES
            + u128::from(self.most_idle_call_connections()) * CALL_CONNECTION_BYTES
            + if self.hook.is_some() { BATCH_BYTES } else { 0 }
            + if self.jwt_jwks_url.is_some() { KEY_SET_BYTES } else { 0 }
    }

    /// Returns the worst-case bytes of the rates that are remembered: of users, and of addresses their attempts, with lobby
    /// control also their guesses and requests for the list of lobbies, and their attempts on each port with TLS.
    fn remembered_memory(&self) -> u128 {
        let is_used = [
            self.attempts_per_minute.bound().is_some(),
            self.lobby_control && self.guesses_per_minute.bound().is_some(),
            self.lobby_control && self.lists_per_minute.bound().is_some(),
            self.attempts_per_minute.bound().is_some() && self.listen.has_tls(),
            self.attempts_per_minute.bound().is_some() && self.admin.as_ref().is_some_and(Listen::has_tls),
        ];
        let of_addresses = is_used.into_iter().filter(|&is_used| is_used).count() as u128;
        u128::from(self.max_remembered_rates) * (REMEMBERED_USER_BYTES + of_addresses * REMEMBERED_ADDRESS_BYTES)
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
        let others = [
            self.list_watchers(),
            self.max_pending,
            self.max_overflow,
            self.max_closing,
            self.accept_per_turn,
            self.awaiting_header(),
        ];
        Some(u64::from(self.max_connections.bound()?) + others.into_iter().map(u64::from).sum::<u64>())
    }

    /// Returns the worst-case memory in bytes: the largest number of sockets, with every buffer full.
    ///
    /// `None` if `max_connections` is `unlimited`. The kernel's buffers are not included; on Linux each socket may take
    /// up to `tcp_rmem[2] + tcp_wmem[2]` more. Every member counts as having a session.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use lobbyd::Config;
    /// use lobbyd::config::ByteSize;
    ///
    /// let without = Config { seat_grace: Duration::ZERO, ..Config::default() }.worst_case_memory().unwrap();
    /// let config = Config { history_bytes: ByteSize::kib(16), ..Config::default() };
    /// let sessions = config.worst_case_memory().unwrap() - without;
    /// // Of each of 500 lobbies with a single member 16 KiB of frames, and 16 KiB of direct messages for each member.
    /// assert!(sessions > 500 * (16 + 16) * 1024 && sessions < 500 * (16 + 16) * 4 * 1024);
    /// ```
    pub fn worst_case_memory(&self) -> Option<u64> {
        let [overflow, waiting] = [self.max_overflow, self.awaiting_header()].map(u64::from);
        let sockets = u128::from(self.worst_case_sockets()? - overflow - waiting);
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
        let message = 3 * self.max_received_bytes() as u128 + max_header;
        // If a connection sends more than work_per_receive, up to one receive buffer of its input is kept.
        let inbound = message + receive_buffer;
        // A file is sent before a connection could have a seat, and so a queue.
        let file = if self.serve_client || self.playground { MAX_FILE_BYTES as u128 } else { 0 };
        // So is a part of the list of lobbies. For those that follow it, it comes on top.
        let list = if self.lobby_control { MAX_LIST_BYTES as u128 } else { 0 };
        let outbound = (max_outbound + largest_frame).max(file).max(list);
        let lists = u128::from(self.list_watchers()) * (list + LIST_WATCHER_BYTES);
        // An inbox always accepts one message, however large.
        let inbox = if self.tick_hz.is_some() { max_inbox.max(max_message) } else { 0 };
        // For each operator connection: two requests written with escapes, and a response with the longest page.
        let request = 7 * max_message + max_header;
        // A connection without the token has little more than a request head after each turn. Growing a buffer can take
        // twice its contents.
        let ahead = receive_buffer + 2 * max_header + ADMIN_AHEAD_BYTES as u128;
        let head = 2 * (ahead + ADMIN_PAGE_BYTES as u128) + RESPONSE_BYTES;
        let connections = |count: u32, each: u128| if self.admin.is_some() { u128::from(count) * each } else { 0 };
        let tls = |listen: &Listen| if listen.has_tls() { TLS_BYTES } else { 0 };
        let (tls, admin_tls) = (tls(&self.listen), self.admin.as_ref().map_or(0, tls));
        let keys = connections(self.most_lobbies(), u128::from(self.max_idempotency_keys) * IDEMPOTENCY_KEY_BYTES);
        let operators = connections(self.max_admin_connections, 2 * request + (2 << 20) + admin_tls)
            + connections(self.max_admin_pending, head + admin_tls)
            + keys;
        // Of a socket beyond max_pending only the request head is read.
        let overflow = u128::from(overflow) * (2 * max_header + RESPONSE_BYTES + CONNECTION_BYTES + tls);
        let waiting = u128::from(waiting) * AWAITING_HEADER_BYTES;
        // The events that are kept, and what readers of events have not read.
        let has_events = self.admin.is_some() || self.hook.is_some();
        let events = if has_events { u128::from(self.max_kept_events) * EVENT_BYTES } else { 0 };
        let events = events + connections(self.max_event_readers, EVENT_READER_BYTES);
        let fixed = self.remembered_memory()
            + operators
            + overflow
            + waiting
            + events
            + self.calls_memory()
            + self.compression_memory()
            + 4 * receive_buffer
            + (4 << 20);
        let sessions = self.max_connections.bound().map_or(0, |seats| self.sessions_memory(seats));
        // At most 2^33 sockets of at most 2^69 bytes, so no step overflows. A result beyond u64 is reported as u64::MAX.
        let control = self.max_connections.bound().map_or(0, |seats| self.control_memory(seats)) + lists;
        let bytes =
            sockets * (inbound + outbound + inbox + max_identity + CONNECTION_BYTES + tls) + sessions + control + fixed;
        Some(u64::try_from(bytes).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        let (small, tiny) = (ByteSize::kib(4), ByteSize(100));
        let least = Config { max_outbound_bytes: small, max_message_bytes: tiny, presence_max: 1, ..Config::default() };
        let serving = Config { serve_client: true, ..least.clone() };
        assert!(serving.worst_case_memory() > least.worst_case_memory(), "a file is larger than these queues");
    }

    #[test]
    fn records_count_for_each_socket_if_its_address_has_tls() {
        let memory = |listen: &str, admin: &str| {
            let (listen, admin) = (listen.parse().expect("an address"), admin.parse().ok());
            Config { listen, admin, ..Config::default() }.worst_case_memory().expect("nothing is unlimited")
        };
        let none = memory("127.0.0.1:1", "127.0.0.1:2");
        assert_eq!(memory("127.0.0.1:1", "tls:127.0.0.1:2") - none, (16 + 64) * 64 * 1024);
        let sockets = Config::default().worst_case_sockets().expect("nothing is unlimited");
        assert_eq!(memory("tls:127.0.0.1:1", "127.0.0.1:2") - none, sockets * 64 * 1024);
    }

    #[test]
    fn calls_of_urls_count_with_what_waits_for_them() {
        let config = |hook: Option<&str>, keys: Option<&str>, max_hook_calls| {
            let url = |url: &str| url.parse().expect("a URL");
            // On the operators' port, so that events are kept in any case.
            let admin = Some("127.0.0.1:2".parse().expect("an address"));
            let (hook, jwt_jwks_url) = (hook.map(url), keys.map(url));
            Config { admin, hook, jwt_jwks_url, max_hook_calls, ..Config::default() }
        };
        let memory = |config: Config| config.worst_case_memory().expect("nothing is unlimited");
        let (hook, keys) = (Some("http://a/"), Some("http://b/"));
        let (none, kib) = (memory(config(None, None, 8)), 1024);
        let (body, call, connection) = (7 * 8 * kib, (128 + 320 + 128) * kib, 320 * kib);
        let of_hook = (128 + 8) * body + 9 * (call + connection) + 512 * kib;
        let of_keys = 128 * body + call + connection + 4096 * kib;
        assert_eq!(memory(config(hook, None, 8)) - none, of_hook);
        assert_eq!(memory(config(None, keys, 8)) - none, of_keys);
        assert_eq!(memory(config(hook, keys, 8)) - none, of_hook + of_keys);
        // With more than 16 calls, 16 connections are kept open.
        let of_many = (128 + 256) * body + 257 * call + 16 * connection + 512 * kib;
        assert_eq!(memory(config(hook, None, 256)) - none, of_many);
        let sockets = |hook, keys, calls| config(hook, keys, calls).most_call_sockets();
        assert_eq!([sockets(None, None, 8), sockets(hook, None, 8), sockets(None, keys, 8)], [0, 18, 2]);
        assert_eq!(sockets(hook, keys, 256), 258 + 16);
    }

    #[test]
    fn remembered_rates_count_for_each_purpose_that_the_configuration_has() {
        let memory = |config: &Config| config.remembered_memory() / u128::from(config.max_remembered_rates);
        assert_eq!(memory(&Config::default()), 360);
        let plain = Config { attempts_per_minute: Limit::at_most(60), ..Config::default() };
        assert_eq!(memory(&plain), 360 + 240);
        let control = Config { lobby_control: true, ..plain.clone() };
        assert_eq!(memory(&control), 360 + 3 * 240);
        let address = |text: &str| text.parse().expect("an address");
        let (listen, admin) = (address("tls:127.0.0.1:1"), Some(address("tls:127.0.0.1:2")));
        let all = Config { listen, admin, ..control };
        assert_eq!(memory(&all), 360 + 5 * 240);
        let none = Limit::UNLIMITED;
        let unlimited = Config { attempts_per_minute: none, guesses_per_minute: none, lists_per_minute: none, ..all };
        assert_eq!(memory(&unlimited), 360);
    }

    #[test]
    fn lobby_control_counts_only_if_it_is_on() {
        let off = Config { max_lobby_data: ByteSize::kib(1000), ..Config::default() };
        assert_eq!(off.worst_case_memory(), Config::default().worst_case_memory());
        assert_eq!(off.largest_replay(), Config::default().largest_replay());
        let on = Config { lobby_control: true, ..Config::default() };
        on.clone().check().expect("the default outbox has room for the data of a lobby and its members");
        assert_eq!(on.largest_replay() - off.largest_replay(), (64 + 8 + 2 + 1) * 1024);
        // 500 lobbies, each with 8 KiB of its own and 64 KiB of its members.
        assert!(on.worst_case_memory().unwrap() - off.worst_case_memory().unwrap() > 500 * 72 * 1024);
        assert!(Config { max_lobby_data: ByteSize::kib(1000), ..on }.check().is_err());
    }

    #[test]
    fn a_lobby_without_a_bound_fits_into_the_default_outbox() {
        let config = Config { max_per_lobby: Limit::UNLIMITED, ..Config::default() };
        assert!(config.largest_replay() > config.largest_frame());
        config.check().expect("the default outbox has room for presence_max members and both histories");
    }

    #[test]
    fn histories_count_for_as_many_lobbies_as_can_exist() {
        let with = |max_lobbies, history_bytes, direct_bytes| {
            let config = Config { max_lobbies, history_bytes, direct_bytes, ..Config::default() };
            config.worst_case_memory().expect("nothing is unlimited")
        };
        let (none, some) = (ByteSize(0), ByteSize(1000));
        for (max_lobbies, lobbies) in [(Limit::at_most(3), 3), (Limit::at_most(501), 500), (Limit::UNLIMITED, 500)] {
            assert_eq!(with(max_lobbies, some, none) - with(max_lobbies, none, none), lobbies * 1000);
            assert_eq!(with(max_lobbies, none, some) - with(max_lobbies, none, none), 500 * 1000);
        }
    }
}
