//! The table of fields, and the struct that it defines.

use std::path::PathBuf;
use std::time::Duration;

use super::hook::{HeaderNames, HttpUrl, OnHookFailure};
use super::host_names::HostNames;
use super::listen::{FileMode, Listen};
use super::origins::Origins;
use super::proxy_addresses::ProxyAddresses;
use super::redis_url::{ClusterName, NodeUrl, RedisUrl};
use super::types::{ByteSize, DuplicateLogin, Flush, Form, OnJournalError, PerUser, Secrets};
use super::value::Value;
use crate::base::event_kind::EventKinds;
use crate::base::forwarded_header::ForwardedHeader;
use crate::base::limit::Limit;

/// One field of [`Config`] as text, for the command line, documentation and tests.
///
/// [`Config::FIELDS`] has an example.
pub struct Field {
    /// Name in snake_case.
    pub name: &'static str,
    /// Title of the group that the field belongs to, as in `--help`.
    pub group: &'static str,
    /// Form of the values as text.
    pub form: Form,
    /// Default value, in the form that `set` accepts.
    pub default: &'static str,
    /// Documentation: one or more sentences.
    pub doc: &'static str,
    /// Sets the field from text. Fails with a message that names the expected form.
    pub set: fn(&mut Config, &str) -> Result<(), String>,
    /// Returns the current value as text, in the form that `set` accepts.
    pub show: fn(&Config) -> String,
}

impl Field {
    /// Returns the command-line flag without its leading dashes: `max-connections`.
    pub fn flag(&self) -> String {
        self.name.replace('_', "-")
    }

    /// Returns the name of the environment variable: `LOBBYD_MAX_CONNECTIONS`.
    pub fn variable(&self) -> String {
        format!("LOBBYD_{}", self.name.to_uppercase())
    }
}

macro_rules! config {
    ($( [$group:literal] $( $(#[doc = $doc:literal])* $name:ident: $kind:ty = $default:literal; )* )*) => {
        /// All limits, timeouts and budgets.
        ///
        /// `None` switches a feature off. In text, `0` means none, `unlimited` removes a limit, and `off` switches a
        /// feature off.
        ///
        /// ```
        /// use lobbyd::Config;
        /// use lobbyd::config::Limit;
        ///
        /// let config = Config { max_per_lobby: Limit::at_most(64), ..Config::default() };
        /// assert!(config.check().is_ok());
        /// ```
        #[derive(Clone, Debug, PartialEq)]
        pub struct Config {
            $( $( $(#[doc = $doc])* pub $name: $kind, )* )*
        }

        impl Default for Config {
            fn default() -> Config {
                Config {
                    $( $( $name: <$kind as Value>::parse($default).expect("every default in the table is valid"), )* )*
                }
            }
        }

        impl Config {
            /// All fields, in the order of the documentation.
            pub const FIELDS: &'static [Field] = &[ $( $( Field {
                name: stringify!($name),
                group: $group,
                form: <$kind as Value>::FORM,
                default: $default,
                doc: concat!($( $doc, "\n", )*),
                set: |config, text| {
                    config.$name = <$kind as Value>::parse(text)?;
                    Ok(())
                },
                show: |config| config.$name.show(),
            }, )* )* ];
        }
    };
}

config! {
    ["Listening"]
    /// Addresses to accept WebSocket connections on, separated by commas: `127.0.0.1:9001`, `[::1]:9001`, a name such as `localhost:9001`, or `unix:/path` for a socket file. Port 0 selects a free port. With `tls:` in front, as in `tls:[::]:443`, its clients connect with TLS.
    listen: Listen = "127.0.0.1:9001";
    /// Permissions of the socket files of `listen` and `admin`, in octal. Clients need the permission to write.
    listen_mode: FileMode = "660";
    /// File with the certificate for addresses with `tls:`, followed by the certificates between it and the authority, in PEM; read again on SIGHUP. The cargo feature `tls` must be on.
    tls_cert: Option<PathBuf> = "off";
    /// File with the private key of the certificate, in PEM and not encrypted; read again on SIGHUP.
    tls_key: Option<PathBuf> = "off";

    ["Operators"]
    /// Addresses of the admin API (JSON over HTTP), as for `listen`; one that is neither loopback nor a socket file requires `admin_token_file`.
    admin: Option<Listen> = "off";
    /// File with the token that operators send as `Authorization: Bearer`; read again on SIGHUP. Without the option the admin API needs no token.
    admin_token_file: Option<PathBuf> = "off";
    /// Hosts by which operators reach the server, separated by commas, in addition to `localhost` and its address; requests for other hosts are refused. Without ports, which are not compared.
    admin_host: HostNames = "off";
    /// Operator connections that have shown the token, or, without `admin_token_file`, have asked for more than `/health`. A further one replaces an idle or stalled one; if there is none, its request is answered with HTTP status 503.
    max_admin_connections: u32 = "16";
    /// Further connections to the admin port, which may ask for `/health` only until they have shown the token. The next one replaces the oldest of the address that has most of them.
    max_admin_pending: u32 = "64";
    /// Time for an operator's request to arrive, for its response to be read, and for an idle connection to stay open.
    admin_timeout: Duration = "30s";
    /// Longest time for which an operator may keep seats of a new lobby for users (`POST /lobbies`).
    max_seats_ttl: Duration = "1h";
    /// Idempotency keys of published messages that are kept for each lobby; a further one replaces the oldest.
    max_idempotency_keys: u32 = "64";

    ["Seats and sockets"]
    /// Seats in the whole server; a further connection is closed with 4002 `server_full`.
    max_connections: Limit = "500";
    /// Seats in one lobby; a further connection is closed with 4002 `lobby_full`.
    max_per_lobby: Limit = "10";
    /// Lobbies that exist at the same time; a connection that would create a further one is closed with 4002 `lobby_limit`.
    max_lobbies: Limit = "10000";
    /// Effect of a second connection of the same user: `replace` the first, `reject` the second (4002 `user_limit`), or `allow` both.
    duplicate_login: DuplicateLogin = "replace";
    /// Seats of one user if duplicate logins are allowed; a further connection is closed with 4002 `user_limit`.
    max_per_user: Limit = "1";
    /// Seats of one address (with IPv6, of one /64); a further connection is closed with 4002 `ip_limit`. A connection that replaces an older one of its user takes over the place of that one. As many connections of the address may follow the list of lobbies.
    max_per_ip: Limit = "unlimited";
    /// Sockets without a seat. The request of a further one is answered with HTTP status 503, unless another address has more of them: then the oldest socket of that address is closed instead. As many more may wait for their header with `proxy_protocol`; a further one replaces the oldest.
    max_pending: u32 = "256";
    /// Sockets beyond `max_pending` whose request is still read, so that `/health` is always answered. A further one takes the place of the oldest, which is answered with HTTP status 503 at once. With 0, all sockets beyond `max_pending` are answered unread.
    max_overflow: u32 = "64";
    /// Sockets that may be closing, in addition to one for each free seat; beyond it the oldest of them is dropped.
    max_closing: u32 = "256";

    ["Sessions"]
    /// Time for which the seat of a client with a `session` is kept after its connection was lost; with 0, there are no sessions.
    seat_grace: Duration = "30s";
    /// Time after which the other members are told that such a member is away.
    away_after: Duration = "1s";
    /// Most frames of a lobby that are kept for members that come back.
    history_frames: u32 = "256";
    /// Bytes of the frames that are kept for each lobby that has a session. Together with the direct messages of a session and the presence of a full lobby they must fit into `max_outbound_bytes`.
    history_bytes: ByteSize = "64KiB";
    /// Most direct messages of a session that are kept until they are known to have arrived.
    direct_frames: u32 = "32";
    /// Bytes of the direct messages that are kept for each session.
    direct_bytes: ByteSize = "16KiB";
    /// Requests with a number as `ref` that may wait for the next tick in one session; a further one gets `error rate_limited`.
    max_unanswered: u32 = "16";

    ["Lobby control"]
    /// Whether members with a session can change their lobby without an application: data, host, kick and ban, settings, start. Clients can create lobbies with a new code, join quickly, watch, and list lobbies. It needs `seat_grace`. An application can set it with `App::LOBBY_CONTROL`.
    lobby_control: bool = "off";
    /// Time for which a host that is away stays the host; then the member that joined next becomes it.
    host_grace: Duration = "5s";
    /// Keys of the data of one lobby; a further one gets `error too_large`.
    max_lobby_keys: u32 = "32";
    /// Bytes of the data of one lobby as JSON; more get `error too_large`.
    max_lobby_data: ByteSize = "8KiB";
    /// Keys of the data of one member; a further one gets `error too_large`.
    max_member_keys: u32 = "16";
    /// Bytes of the data of one member as JSON; more get `error too_large`.
    max_member_data: ByteSize = "2KiB";
    /// Bytes of the data of all members of one lobby together; more get `error too_large`. With the presence of a full lobby and the data of the lobby they must fit into `max_outbound_bytes`.
    max_members_data: ByteSize = "64KiB";
    /// Users that are banned from one lobby; with a further one, the ban that is oldest ends.
    max_bans: u32 = "64";
    /// Clients that watch one lobby; a further one is closed with 4002 `lobby_full`.
    max_watchers: u32 = "32";
    /// Longest time for which the setting `empty_ttl_ms` keeps a lobby without members. At `max_lobbies`, the one that has been empty for the longest time is removed for a new one.
    max_empty_ttl: Duration = "0s";
    /// Wrong passwords and unknown lobby codes per minute from one address; further tries are answered with HTTP status 429.
    guesses_per_minute: Limit = "10";
    /// Requests for the list of lobbies per minute from one address; more are answered with HTTP status 429.
    lists_per_minute: Limit = "60";
    /// Connections that follow the list of lobbies; a further one is closed with 4002 `server_full`.
    max_list_watchers: u32 = "1000";

    ["Admission"]
    /// Origins of pages that may connect, separated by commas, in addition to the server's `own`; `https://*.game.example` allows the subdomains of a name, `loopback` allows pages of this machine, `any` allows all. Pages of other origins are closed with 4003 `forbidden_origin`. If the option is not given, `--auth open` on a loopback address without proxies sets it to `loopback`; a program of your own does not.
    allowed_origin: Origins = "own";
    /// Proxies whose connections to `listen` begin with a header of the PROXY protocol, version 1 or 2, separated by commas: addresses, networks such as `10.0.0.0/8`, and `unix:` for all socket files. The client's address is that in the header. A connection of a listed proxy without a header is closed; from any other peer the header is refused.
    proxy_protocol: Option<ProxyAddresses> = "off";
    /// Number of proxies in front of the server that write `forwarded_header`. If it is not 0, the client's address is the entry of `forwarded_header` at this position from the right.
    trusted_proxies: u32 = "0";
    /// Header in which the trusted proxies name the client's address: `x-forwarded-for`, `forwarded` (RFC 7239), or `x-real-ip`, which has one entry.
    forwarded_header: ForwardedHeader = "x-forwarded-for";
    /// Connection attempts per minute from one address; more are answered with HTTP status 429.
    attempts_per_minute: Limit = "unlimited";
    /// Largest burst of connection attempts from one address.
    attempt_burst: u32 = "60";

    ["Pages"]
    /// Whether the browser client is served: `/lobby.js`, its types `/lobby.d.ts`, and `/react.js`. Only applications that speak JSON serve it. If the option is not given, the program sets it to `on`; a program of your own does not.
    serve_client: bool = "off";
    /// Whether `/` is the playground, a page to try the server out; the client is served, too. If the option is not given, a loopback address without proxies sets it to `on`; a program of your own does not.
    playground: bool = "off";

    ["Handshake and identity"]
    /// Time for the request head to arrive; then HTTP status 408. Before it, the same time for the header of a proxy in `proxy_protocol`; then the connection is closed.
    handshake_timeout: Duration = "5s";
    /// Time for the application to answer a pending authorization; then 4101 `auth_timeout`.
    auth_timeout: Duration = "10s";
    /// Age at which a connection is closed with 4202 `max_lifetime`; its client reconnects at once, possibly to another server.
    max_lifetime: Option<Duration> = "off";
    /// Time that a connection may stay open after its token has expired; then it is closed with 4001 `token_expired`.
    token_grace: Duration = "10s";
    /// Bytes of data that the application attaches to an identity; with more, the client is refused with 1011 `internal_error`.
    max_identity_bytes: ByteSize = "4KiB";
    /// Bytes of a request head, and of the data that a client sends before its upgrade is accepted; more is answered with HTTP status 431, or 414 if the request line alone is longer.
    max_header_bytes: ByteSize = "8KiB";
    /// Header lines of a request; more are answered with HTTP status 431.
    max_headers: u32 = "100";

    ["Messages and queues"]
    /// Bytes of one message, counted over all its fragments; a larger message closes the connection with 1009.
    max_message_bytes: ByteSize = "64KiB";
    /// Frames of one message; more close the connection with 1008.
    max_fragments: u32 = "65536";
    /// Bytes queued for one connection, plus 64 for each frame; beyond it the connection is closed with 4102 `slow_consumer`.
    max_outbound_bytes: ByteSize = "256KiB";
    /// High-water mark: when more bytes are queued for a connection, the application is notified of pressure.
    outbound_high_mark: ByteSize = "64KiB";
    /// Low-water mark: when the queue has shrunk to this size, the application is notified that the pressure is over.
    outbound_low_mark: ByteSize = "16KiB";
    /// Whether messages may be compressed (RFC 7692): those of clients, and broadcasts of at least 256 bytes, each once for all its receivers. The cargo feature `deflate` must be on.
    deflate: bool = "off";

    ["Rates"]
    /// Messages per second from one connection, unless its identity has a rate of its own; more get `error rate_limited`.
    messages_per_second: Limit = "60";
    /// Largest burst of messages from one connection.
    message_burst: u32 = "120";
    /// Messages per second from one user, over all its connections and across reconnects, unless its identity has a rate of its own; `same` as one connection.
    user_messages_per_second: PerUser<Limit> = "same";
    /// Largest burst of messages from one user; `same` as one connection.
    user_message_burst: PerUser<u32> = "same";
    /// Bytes per second from one connection, charged before they are parsed; messages beyond the rate get `error rate_limited`.
    bytes_per_second: Limit = "65536";
    /// Largest burst of bytes from one connection.
    byte_burst: ByteSize = "128KiB";
    /// Bytes per second from one user, over all its connections and across reconnects; `same` as one connection.
    user_bytes_per_second: PerUser<Limit> = "same";
    /// Largest burst of bytes from one user; `same` as one connection.
    user_byte_burst: PerUser<ByteSize> = "same";
    /// Pings, pongs and `health_pong`s per second from one connection.
    control_per_second: Limit = "20";
    /// Largest burst of pings, pongs and `health_pong`s from one connection.
    control_burst: u32 = "60";
    /// Messages over the rate that came before the wait of the last refusal was over, before the connection is closed with 4009 `rate_limited`; one is forgiven per second.
    max_rate_strikes: u32 = "32";
    /// Disconnected users, and as many addresses, whose used rates are remembered until their buckets are full again; beyond it, the entry whose buckets are full first is forgotten.
    max_remembered_rates: u32 = "65536";

    ["Ticks"]
    /// Ticks per second of the game clock, 1 to 1000; with `off`, the application receives messages as they arrive.
    tick_hz: Option<u32> = "off";
    /// When frames are sent: at the end of each `turn` of the loop or, with ticks, at the end of each `tick`.
    flush: Flush = "turn";
    /// Late ticks that are run before the one that is due; older ones are skipped.
    max_catch_up_ticks: u32 = "5";
    /// Bytes of messages from one connection that wait for the next tick, plus 64 for each message; more get `error rate_limited`.
    max_inbox_bytes: ByteSize = "64KiB";

    ["JSON protocol"]
    /// Malformed messages before the connection is closed with 4005 `bad_message`.
    max_strikes: u32 = "32";
    /// Arrays and objects nested in one JSON message, its own object included; a deeper message gets `error bad_message`.
    max_json_depth: Limit = "128";
    /// Largest lobby whose presence lists all members; above it only their number is sent.
    presence_max: u32 = "500";
    /// Shortest interval at which the members of a lobby above `presence_max` are told their number when it has changed; with `off`, only those that join or ask are told.
    presence_count_interval: Option<Duration> = "1s";
    /// Whether `relay` puts the sender in front of each binary message that it passes on: one byte with the length of the user id, then the id; otherwise the message is unchanged.
    binary_sender: bool = "off";

    ["Liveness"]
    /// Time without received bytes after which a connection is sent a ping (RFC 6455).
    ping_interval: Duration = "20s";
    /// Time for any byte to arrive after a ping; then the connection is closed with 4201 `stale`.
    pong_timeout: Duration = "10s";
    /// Interval at which each member's page is sent a `health_ping`; with `off`, only the application and operators send them.
    health_interval: Option<Duration> = "off";
    /// Time for a page to answer a `health_ping` of `health_interval`.
    health_timeout: Duration = "2s";
    /// Unanswered `health_ping`s tracked per connection; a further one reports the oldest as unanswered.
    max_health_pings: u32 = "8";

    ["Closing"]
    /// Time for the peer to answer a close frame.
    close_timeout: Duration = "2s";
    /// Time to read and discard input after the last byte was sent, so that a TCP reset does not destroy the close frame.
    linger_timeout: Duration = "1s";
    /// Bytes read and discarded from a peer that keeps sending after its connection has ended; beyond it the socket is dropped.
    max_linger_bytes: ByteSize = "1MiB";
    /// Time to close all connections at shutdown; those still open afterwards are dropped.
    drain_deadline: Duration = "30s";
    /// Members closed in one batch when many are closed: at shutdown, or when an operator kicks all members.
    drain_batch: u32 = "500";
    /// Time between two batches of `drain_batch`.
    drain_batch_interval: Duration = "100ms";

    ["Event loop"]
    /// Connections accepted in one turn of the loop; the rest wait for the next turn.
    accept_per_turn: u32 = "16";
    /// Sockets read in one turn of the loop that have not completed their TLS handshake; the rest wait. A handshake takes about 0.1 ms with an ECDSA key and 0.5 ms with RSA.
    tls_handshakes_per_turn: u32 = "8";
    /// Sockets read in one turn of the loop, for each of two classes: light senders, and connections that have sent only their request; the rest wait.
    events_per_turn: u32 = "1024";
    /// Work of one turn: bytes read, bytes of messages and of the frames they cause, 256 for each message and frame, 8 for each byte to decompress, and 16 for each byte to compress; the rest waits for the next turn. Light senders have four times this budget.
    work_per_turn: ByteSize = "2MiB";
    /// Work for one connection before other connections have their turn; the rest of its input waits, behind connections that send less.
    work_per_receive: ByteSize = "64KiB";
    /// Turns for which a due timer is deferred while its connection has unread input.
    max_deferred_turns: u32 = "1000";
    /// Receive buffer shared by all connections. Input beyond `work_per_receive` is copied out of it and kept for its connection.
    receive_buffer_bytes: ByteSize = "64KiB";
    /// Kernel receive buffer of each connection; with `off` the kernel chooses the size, which can be several megabytes.
    socket_receive_bytes: Option<ByteSize> = "128KiB";
    /// Commands from other threads that may wait; a further one is returned to its sender.
    max_commands: u32 = "1024";
    /// Resolution of all timeouts.
    wheel_granule: Duration = "10ms";

    ["Journal"]
    /// File in which all input of the server is recorded for replay; its segments append `.000001` and so on to this name.
    journal: Option<PathBuf> = "off";
    /// Size at which a new segment of the journal begins. If a segment begins while the server is empty, the segments before it can be deleted.
    journal_max_bytes: Option<ByteSize> = "off";
    /// Whether the journal is synced to disk, instead of only handed to the operating system, before the output that depends on it is sent.
    journal_sync: bool = "off";
    /// Action if the journal cannot be written: `stop` ends the server, `continue` goes on without a journal.
    journal_on_error: OnJournalError = "stop";
    /// Whether the journal contains the contents of reloads, such as the list of tokens: `omit` or `keep`.
    journal_secrets: Secrets = "omit";

    ["Cluster"]
    /// Redis that the nodes of a cluster share: `redis://[user[:password]@]host[:port][/database]` or `unix:/path`. All nodes have the same users and lobbies. The name is resolved once, when the server starts.
    cluster: Option<RedisUrl> = "off";
    /// Name of this node, from 1 to 64 letters, digits, `_`, `.` and `-`. Each node of a cluster needs another one: a node ends the one that has attached under its name before.
    node: Option<ClusterName> = "off";
    /// Address at which clients reach this node: `ws://` or `wss://`, a host and perhaps a port. If the application keeps state of its own, clients of its lobbies are sent here from other nodes.
    node_url: Option<NodeUrl> = "off";
    /// Prefix of the names of all keys and channels in Redis. Clusters with different namespaces can share a Redis.
    cluster_namespace: ClusterName = "lobbyd";
    /// Time after which a node that Redis does not hear of has ended: its members are away then. A node renews its lease three times as often.
    cluster_lease: Duration = "6s";
    /// Entries of the log that Redis keeps at least, and a node at most. A node that was away for longer, or a copy of Redis that is older, has another log: the node's members are asked to reconnect.
    cluster_log_entries: u32 = "16384";
    /// Bytes of the entries of the log that a node keeps. Redis keeps at most four times as many.
    cluster_log_bytes: ByteSize = "16MiB";
    /// Bytes of requests that wait for Redis. From half of it on, further requests get `error unavailable`; beyond it the node is detached, and its members are asked to reconnect.
    cluster_queue_bytes: ByteSize = "16MiB";
    /// Bytes of the state that a node gets when it attaches. With a larger state, no further node can attach.
    cluster_state_bytes: ByteSize = "256MiB";

    ["Events and the hook"]
    /// Backend that is asked whether clients may connect (`auth = hook`) and is sent events: `http://` or `https://`, a host and perhaps a port and a path (cargo feature hook). Requires `hook_secret_file`.
    hook: Option<HttpUrl> = "off";
    /// File with the secret with which calls of the hook are signed: one line of at least 16 characters; read again on SIGHUP.
    hook_secret_file: Option<PathBuf> = "off";
    /// File with the certificates, in PEM form, that may sign those of the backend and of `jwt_jwks_url`; with `off`, those that the system trusts. Read again on SIGHUP.
    hook_ca_file: Option<PathBuf> = "off";
    /// Events that the backend is sent, separated by commas: `server_started`, `joined`, `rejoined`, `away`, `back`, `left`, `lobby_opened`, `lobby_closed`, `host`, `started`, `draining`, `server_stopped`; or `all`.
    hook_events: EventKinds = "all";
    /// Headers of the client's request that the backend is sent with a question, separated by commas, such as `cookie`. A request that repeats one of them is refused with HTTP status 400; only several `cookie` are joined.
    hook_headers: HeaderNames = "off";
    /// Longest duration of a call of the hook. A question waits for as long at most until its call begins. If either takes longer, the question is answered by `hook_on_failure`. Must be shorter than half of `auth_timeout`.
    hook_timeout: Duration = "1s";
    /// Answer to a client when the hook does not answer: `retry` closes its connection with 4101 `auth_timeout`, after which it comes back; `refuse` with 4001 `unauthorized`.
    hook_on_failure: OnHookFailure = "retry";
    /// Questions of the hook that wait for a call, and tokens that wait for a key; with a further one, the oldest of the address that has most of them is answered by `hook_on_failure`. Together with `max_hook_calls` less than `max_pending`.
    max_hook_questions: u32 = "128";
    /// Questions of the hook that are asked at the same time, each by a thread of its own.
    max_hook_calls: u32 = "8";
    /// Most events in one call of the hook.
    hook_batch_events: u32 = "100";
    /// Longest time for which an event waits for others before the backend is sent it.
    hook_batch_wait: Duration = "100ms";
    /// Events that are kept for the hook and for readers of `GET /events`; what is older is lost to a backend or reader that has not received it.
    max_kept_events: u32 = "4096";
    /// Readers of `GET /events` at the same time; a further one is answered with HTTP status 503.
    max_event_readers: u32 = "8";
    /// Address from which the keys of tokens are fetched, a JWKS, with `auth = jwt` (cargo features jwt and hook): at the start, every `jwt_jwks_refresh`, and at most once in 30 s for a token with an unknown key.
    jwt_jwks_url: Option<HttpUrl> = "off";
    /// Time after which the keys are fetched again.
    jwt_jwks_refresh: Duration = "1h";

    ["Log"]
    /// Interval of the statistics line in the log.
    stats_interval: Option<Duration> = "60s";
}

impl Config {
    /// Returns whether proxies connect for their clients, which may be on other machines.
    pub fn is_proxied(&self) -> bool {
        self.trusted_proxies > 0 || self.proxy_protocol.is_some()
    }

    /// Returns the value of a field as text.
    pub(super) fn value_of(&self, name: &str) -> String {
        let field =
            Config::FIELDS.iter().find(|field| field.name == name).expect("only fields of the table are looked up");
        (field.show)(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_shown_as_written() {
        for field in Config::FIELDS {
            assert_eq!((field.show)(&Config::default()), field.default, "{}", field.name);
        }
    }

    #[test]
    fn every_word_of_a_form_is_accepted_and_a_refusal_names_all_words() {
        let mut config = Config::default();
        for field in Config::FIELDS {
            let words = match field.form {
                Form::Words(words) => words,
                Form::Switch => &["on", "off"],
                Form::Text | Form::List | Form::Path => continue,
            };
            for word in words {
                assert_eq!((field.set)(&mut config, word), Ok(()), "{} = {word}", field.name);
                assert_eq!((field.show)(&config), *word, "{}", field.name);
            }
            let refusal = (field.set)(&mut config, "no such word").expect_err("it is not a word of the field");
            assert!(words.iter().all(|word| refusal.contains(word)), "{}: {refusal}", field.name);
        }
    }
}
