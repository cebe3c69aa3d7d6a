//! Configuration: all options of the server in one struct, the check of their values, and the worst-case memory.
//!
//! Each field is defined once, in the table below: name, type, default and documentation. The command line, the
//! environment variables and the README's table are generated from [`Config::FIELDS`]. How values are written as text is
//! in `value`. Reads no file and no environment.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

mod value;

use self::value::Value;
use crate::base::rate::Rate;

/// An upper bound that may be absent.
///
/// ```
/// use lobbyd::Limit;
/// assert!(Limit::at_most(10).has_room(9));
/// assert!(!Limit::at_most(0).has_room(0), "0 means none");
/// assert!(Limit::UNLIMITED.has_room(usize::MAX - 1));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Limit(u32);

impl Limit {
    /// No bound.
    pub const UNLIMITED: Limit = Limit(u32::MAX);

    /// At most `n`; 0 means none.
    pub const fn at_most(n: u32) -> Limit {
        Limit(n)
    }

    /// Returns the bound, or `None` if the limit is unlimited.
    pub const fn bound(self) -> Option<u32> {
        if self.0 == u32::MAX { None } else { Some(self.0) }
    }

    /// Returns whether one more fits when `taken` exist already.
    pub const fn has_room(self, taken: usize) -> bool {
        match self.bound() {
            Some(bound) => taken < bound as usize,
            None => true,
        }
    }
}

/// A limit that applies to one user, over all its connections.
///
/// ```
/// use lobbyd::{Config, Limit};
///
/// let config = Config { messages_per_second: Limit::at_most(10), ..Config::default() };
/// assert_eq!(config.user_messages_per_second.or(config.messages_per_second), Limit::at_most(10));
/// let config = Config { user_messages_per_second: Limit::UNLIMITED.into(), ..config };
/// assert_eq!(config.user_messages_per_second.or(config.messages_per_second), Limit::UNLIMITED);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PerUser<T> {
    /// The limit of one connection applies to the user as well.
    Same,
    /// The user has a limit of its own.
    Own(T),
}

impl<T> PerUser<T> {
    /// Returns the user's limit; `connection` is the limit of one connection.
    pub fn or(self, connection: T) -> T {
        match self {
            PerUser::Same => connection,
            PerUser::Own(limit) => limit,
        }
    }
}

impl<T> From<T> for PerUser<T> {
    fn from(limit: T) -> PerUser<T> {
        PerUser::Own(limit)
    }
}

/// Policy for a user that has a seat and connects again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DuplicateLogin {
    /// The newer connection takes over the seat; the older one is closed with 4004.
    Replace,
    /// The newer connection is refused with 4002 `user_limit`.
    Reject,
    /// Both connections stay, up to `max_per_user` seats.
    Allow,
}

/// When queued frames are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flush {
    /// At the end of each turn of the loop.
    Turn,
    /// At the end of each tick. Replies to one member, pings and goodbyes do not wait.
    Tick,
}

/// Action when the journal cannot be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnJournalError {
    /// The server stops, so that no client is served without being recorded.
    Stop,
    /// The server continues without a journal.
    Continue,
}

/// Whether a journal contains the contents that a reload passes to the application.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Secrets {
    /// Only the length of the contents.
    Omit,
    /// The contents.
    Keep,
}

/// One field of [`Config`] as text, for the command line, documentation and tests.
pub struct Field {
    /// Name in snake_case.
    pub name: &'static str,
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
    ($( $(#[doc = $doc:literal])* $name:ident: $kind:ty = $default:literal; )*) => {
        /// All limits, timeouts and budgets. In text, `0` means none, `unlimited` removes a limit, and `off` switches
        /// a feature off.
        ///
        /// ```
        /// use lobbyd::{Config, Limit};
        ///
        /// let config = Config { max_per_lobby: Limit::at_most(64), ..Config::default() };
        /// assert!(config.check().is_ok());
        /// ```
        #[derive(Clone, Debug, PartialEq)]
        pub struct Config {
            $( $(#[doc = $doc])* pub $name: $kind, )*
        }

        impl Default for Config {
            fn default() -> Config {
                Config {
                    $( $name: <$kind as Value>::parse($default).expect("every default in the table is valid"), )*
                }
            }
        }

        impl Config {
            /// All fields, in the order of the documentation.
            pub const FIELDS: &'static [Field] = &[ $( Field {
                name: stringify!($name),
                default: $default,
                doc: concat!($( $doc, "\n", )*),
                set: |config, text| {
                    config.$name = <$kind as Value>::parse(text)?;
                    Ok(())
                },
                show: |config| config.$name.show(),
            }, )* ];
        }
    };
}

config! {
    /// Address to accept WebSocket connections on; port 0 selects a free port.
    listen: SocketAddr = "127.0.0.1:9001";
    /// Address of the admin API (JSON over HTTP); an address that is not loopback requires `admin_token_file`.
    admin: Switch<SocketAddr> = "off";
    /// File with the token that operators send as `Authorization: Bearer`; without the option the admin API needs no token.
    admin_token_file: Switch<PathBuf> = "off";
    /// Host name by which operators reach the server, in addition to `localhost` and its address; requests for other names are refused.
    admin_host: Switch<String> = "off";
    /// Operator connections. A further one replaces an idle or unauthenticated one; if there is none, it is dropped.
    max_admin_connections: u32 = "16";
    /// Time for an operator's request to arrive, for its response to be read, and for an idle connection to stay open.
    admin_timeout: Duration = "30s";

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
    /// Connections from one address (with IPv6, from one /64); a further one is closed with 4002 `ip_limit`.
    max_per_ip: Limit = "unlimited";
    /// Sockets without a seat. A further one is answered with HTTP status 503, unless another address has more of them: then the oldest socket of that address is closed instead.
    max_pending: u32 = "256";
    /// Sockets that may be closing, in addition to one for each free seat; beyond it the oldest of them is dropped.
    max_closing: u32 = "256";

    /// Origins of pages that may connect, separated by commas, in addition to the server's `own`; `loopback` allows pages of this machine, `any` allows all. Pages of other origins are closed with 4003 `forbidden_origin`. If the option is not given, `--auth open` on a loopback address without `trusted_proxies` sets it to `loopback`.
    allowed_origin: Origins = "own";
    /// Number of proxies in front of the server. If it is not 0, the client address is the entry of `X-Forwarded-For` at this position from the right.
    trusted_proxies: u32 = "0";
    /// Connection attempts per minute from one address; more are answered with HTTP status 429.
    attempts_per_minute: Limit = "unlimited";
    /// Largest burst of connection attempts from one address.
    attempt_burst: u32 = "60";

    /// Time for the request head to arrive; then HTTP status 408.
    handshake_timeout: Duration = "5s";
    /// Time for the application to answer a pending authorization; then 4101 `auth_timeout`.
    auth_timeout: Duration = "10s";
    /// Age at which a connection is closed with 4202 `max_lifetime`; its client reconnects at once, possibly to another server.
    max_lifetime: Switch<Duration> = "off";
    /// Time that a connection may stay open after its token has expired; then it is closed with 4001 `token_expired`.
    token_grace: Duration = "10s";
    /// Bytes of a request head, and of the data that a client sends before its upgrade is accepted; more is answered with HTTP status 431.
    max_header_bytes: ByteSize = "8KiB";
    /// Header lines of a request; more are answered with HTTP status 431.
    max_headers: u32 = "64";

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
    byte_burst: u32 = "131072";
    /// Bytes per second from one user, over all its connections and across reconnects; `same` as one connection.
    user_bytes_per_second: PerUser<Limit> = "same";
    /// Largest burst of bytes from one user; `same` as one connection.
    user_byte_burst: PerUser<u32> = "same";
    /// Pings, pongs and `health_pong`s per second from one connection.
    control_per_second: Limit = "20";
    /// Largest burst of pings, pongs and `health_pong`s from one connection.
    control_burst: u32 = "60";
    /// Messages over the rate that are refused before the connection is closed with 4009 `rate_limited`; one is forgiven per second.
    max_rate_strikes: u32 = "32";
    /// Disconnected users, and as many addresses, whose used rates are remembered until their buckets are full again; beyond it, the entry whose buckets are full first is forgotten.
    max_remembered_rates: u32 = "65536";
    /// Ticks per second of the game clock, 1 to 1000; with `off`, the application receives messages as they arrive.
    tick_hz: Switch<u32> = "off";
    /// When frames are sent: at the end of each `turn` of the loop or, with ticks, at the end of each `tick`.
    flush: Flush = "turn";
    /// Late ticks that are run before the one that is due; older ones are skipped.
    max_catch_up_ticks: u32 = "5";
    /// Bytes of messages from one connection that wait for the next tick, plus 64 for each message; more get `error rate_limited`.
    max_inbox_bytes: ByteSize = "64KiB";
    /// Malformed messages before the connection is closed with 4005 `bad_message`.
    max_strikes: u32 = "32";
    /// Largest lobby whose presence lists all members; above it only their number is sent.
    presence_max: u32 = "500";

    /// Time without received bytes after which a connection is sent a ping (RFC 6455).
    ping_interval: Duration = "20s";
    /// Time for any byte to arrive after a ping; then the connection is closed with 4201 `stale`.
    pong_timeout: Duration = "10s";
    /// Interval at which each member's page is sent a `health_ping`; with `off`, only the application and operators send them.
    health_interval: Switch<Duration> = "off";
    /// Time for a page to answer a `health_ping` of `health_interval`.
    health_timeout: Duration = "2s";
    /// Unanswered `health_ping`s tracked per connection; a further one reports the oldest as unanswered.
    max_health_pings: u32 = "8";
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

    /// Connections accepted in one turn of the loop; the rest wait for the next turn.
    accept_per_turn: u32 = "16";
    /// Sockets read in one turn of the loop, for each of two classes: light senders, and connections that have sent only their request; the rest wait.
    events_per_turn: u32 = "1024";
    /// Work of one turn: bytes read, bytes of messages and of the frames they cause, and 256 for each message and frame; the rest waits for the next turn. Light senders have four times this budget.
    work_per_turn: ByteSize = "2MiB";
    /// Work for one connection before other connections have their turn; the rest of its input waits, behind connections that send less.
    work_per_receive: ByteSize = "64KiB";
    /// Turns for which a due timer is deferred while its connection has unread input.
    max_deferred_turns: u32 = "1000";
    /// Receive buffer shared by all connections. Input beyond `work_per_receive` is copied out of it and kept for its connection.
    receive_buffer_bytes: ByteSize = "64KiB";
    /// Kernel receive buffer of each connection; with `off` the kernel chooses the size, which can be several megabytes.
    socket_receive_bytes: Switch<ByteSize> = "128KiB";
    /// Commands from other threads that may wait; a further one is returned to its sender.
    max_commands: u32 = "1024";
    /// Resolution of all timeouts.
    wheel_granule: Duration = "10ms";
    /// File in which all input of the server is recorded for replay; its segments append `.000001` and so on to this name.
    journal: Switch<PathBuf> = "off";
    /// Size at which a new segment of the journal begins. If a segment begins while the server is empty, the segments before it can be deleted.
    journal_max_bytes: Switch<ByteSize> = "off";
    /// Whether the journal is synced to disk, instead of only handed to the operating system, before the output that depends on it is sent.
    journal_sync: bool = "off";
    /// Action if the journal cannot be written: `stop` ends the server, `continue` goes on without a journal.
    journal_on_error: OnJournalError = "stop";
    /// Whether the journal contains the contents of reloads, such as the list of tokens: `omit` or `keep`.
    journal_secrets: Secrets = "omit";
    /// Interval of the statistics line in the log.
    stats_interval: Switch<Duration> = "60s";
}

/// Origins of the pages that may connect.
///
/// A request without an `Origin` header does not come from a page and is always allowed. A page whose origin has the
/// same authority as the request's `Host` header is always allowed, too.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origins {
    /// Allows pages of every origin.
    pub any: bool,
    /// Allows pages of loopback origins (`http://localhost:5173`, `http://127.0.0.1`, `https://[::1]:8443`), if the
    /// `Host` header of the request is a loopback name, too. With another name in `Host`, DNS rebinding may have sent
    /// the browser here.
    pub loopback: bool,
    /// Allowed origins, as browsers write them: `https://game.example`, in lower case, without a path; or `null`, which
    /// browsers send for a page without an origin.
    pub listed: Vec<String>,
}

impl Origins {
    /// Returns whether a page of this origin may connect; `host` is the request's `Host` header.
    pub fn allow(&self, origin: &str, host: &str) -> bool {
        let authority = origin.split_once("://").map(|(_, authority)| authority);
        self.any
            || authority.is_some_and(|authority| authority.eq_ignore_ascii_case(host))
            || (self.loopback && is_loopback_page(origin) && is_loopback(host))
            || self.listed.iter().any(|listed| listed.eq_ignore_ascii_case(origin))
    }
}

fn is_loopback_page(origin: &str) -> bool {
    origin.split_once("://").is_some_and(|(scheme, authority)| {
        ["http", "https"].iter().any(|known| scheme.eq_ignore_ascii_case(known)) && is_loopback(authority)
    })
}

/// Returns whether an authority (host and optional port) names `localhost` or a loopback address.
fn is_loopback(authority: &str) -> bool {
    let host = match authority.rsplit_once(':') {
        Some((host, port)) if !port.is_empty() && port.bytes().all(|c| c.is_ascii_digit()) => host,
        _ => authority,
    };
    match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(v6) => v6.parse::<Ipv6Addr>().is_ok_and(|address| address.is_loopback()),
        None => {
            host.eq_ignore_ascii_case("localhost")
                || host.parse::<Ipv4Addr>().is_ok_and(|address| address.is_loopback())
        }
    }
}

/// A size in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(pub usize);

impl ByteSize {
    /// Returns a size of `n` KiB (1024 bytes each).
    pub const fn kib(n: usize) -> ByteSize {
        ByteSize(n.saturating_mul(1024))
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            n if n != 0 && n % (1 << 20) == 0 => write!(f, "{}MiB", n >> 20),
            n if n != 0 && n % (1 << 10) == 0 => write!(f, "{}KiB", n >> 10),
            n => write!(f, "{n}"),
        }
    }
}

/// A value that can be switched off; `None` means off.
pub type Switch<T> = Option<T>;

/// A configuration value that breaks a rule or has no effect. Displayed as one line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Name of the field.
    pub field: &'static str,
    /// Current value of the field.
    pub value: String,
    /// The rule that the value breaks, with the reason.
    pub rule: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} = {}: {}", self.field, self.value, self.rule)
    }
}

impl Config {
    /// Checks that each value is in range and that the values work together.
    ///
    /// # Errors
    ///
    /// All problems at once, each with field, value, rule and reason.
    pub fn check(&self) -> Result<(), Vec<Problem>> {
        let mut problems = Vec::new();
        let mut require = |holds: bool, field: &'static str, rule: String| {
            if !holds {
                problems.push(Problem { field, value: self.value_of(field), rule });
            }
        };

        for (field, span) in [
            ("handshake_timeout", self.handshake_timeout),
            ("auth_timeout", self.auth_timeout),
            ("ping_interval", self.ping_interval),
            ("pong_timeout", self.pong_timeout),
            ("close_timeout", self.close_timeout),
            ("linger_timeout", self.linger_timeout),
            ("health_timeout", self.health_timeout),
            ("drain_deadline", self.drain_deadline),
            ("admin_timeout", self.admin_timeout),
            ("drain_batch_interval", self.drain_batch_interval),
        ] {
            let granule = self.wheel_granule;
            require(
                span >= granule,
                field,
                format!("must be at least wheel_granule ({granule:?}), the resolution of all timeouts"),
            );
            let day = Duration::from_secs(86_400);
            require(span <= day, field, "must be at most 24h".into());
        }
        require(
            (Duration::from_millis(1)..=Duration::from_secs(1)).contains(&self.wheel_granule),
            "wheel_granule",
            "must be from 1ms to 1s".into(),
        );
        require(
            self.pong_timeout < self.ping_interval,
            "pong_timeout",
            format!(
                "must be shorter than ping_interval ({:?}), or a ping is sent while the previous one is unanswered",
                self.ping_interval
            ),
        );
        if let Some(interval) = self.health_interval {
            require(
                interval >= self.health_timeout,
                "health_interval",
                format!("must be at least health_timeout ({:?}), or checks of a page overlap", self.health_timeout),
            );
        }
        require(
            self.max_lifetime.is_none_or(|age| age >= SECOND),
            "max_lifetime",
            "must be at least 1s, or off".into(),
        );
        for (field, span) in [
            ("max_lifetime", self.max_lifetime),
            ("token_grace", Some(self.token_grace)),
            ("health_interval", self.health_interval),
            ("stats_interval", self.stats_interval),
        ] {
            require(span.is_none_or(|span| span <= YEAR), field, "must be at most 8760h (one year)".into());
        }
        require(
            self.tick_hz.is_none_or(|hz| (1..=1000).contains(&hz)),
            "tick_hz",
            "must be from 1 to 1000, or off".into(),
        );
        require(
            self.flush == Flush::Turn || self.tick_hz.is_some(),
            "flush",
            "must be turn while tick_hz is off, since no tick would send the frames".into(),
        );
        require(
            self.max_catch_up_ticks <= 1000,
            "max_catch_up_ticks",
            "must be at most 1000, since late ticks run in one turn of the loop".into(),
        );
        require(self.stats_interval != Some(Duration::ZERO), "stats_interval", "must be above 0, or off".into());
        for (field, count) in [
            ("max_pending", self.max_pending),
            ("max_closing", self.max_closing),
            ("max_headers", self.max_headers),
            ("accept_per_turn", self.accept_per_turn),
            ("events_per_turn", self.events_per_turn),
            ("max_commands", self.max_commands),
            ("max_health_pings", self.max_health_pings),
            ("drain_batch", self.drain_batch),
            ("max_admin_connections", self.max_admin_connections),
        ] {
            require(
                (1..=1 << 20).contains(&count),
                field,
                "must be from 1 to 1048576; with 0 the server could not work".into(),
            );
        }
        for (field, count, most) in [
            // No request head has room for more entries.
            ("trusted_proxies", self.trusted_proxies, 1 << 16),
            // Each remembered entry takes up to REMEMBERED_BYTES.
            ("max_remembered_rates", self.max_remembered_rates, 1 << 24),
        ] {
            require(count <= most, field, format!("must be at most {most}"));
        }
        for (field, bytes) in [
            ("max_outbound_bytes", self.max_outbound_bytes),
            ("outbound_high_mark", self.outbound_high_mark),
            ("max_inbox_bytes", self.max_inbox_bytes),
            ("max_linger_bytes", self.max_linger_bytes),
        ] {
            require(bytes.0 <= 2 << 30, field, "must be at most 2048MiB".into());
        }
        require(self.max_admin_connections <= 1024, "max_admin_connections", "must be at most 1024".into());
        let is_exposed = self.admin.is_some_and(|address| !address.ip().is_loopback());
        require(
            !is_exposed || self.admin_token_file.is_some(),
            "admin",
            "must be a loopback address such as 127.0.0.1:9002, or admin_token_file must be set: without a token, every \
             client that reaches the address can kick all members"
                .into(),
        );
        require(
            self.admin != Some(self.listen) || self.listen.port() == 0,
            "admin",
            "must differ from listen: the admin API needs an address of its own".into(),
        );
        require(self.max_headers <= 256, "max_headers", "must be at most 256".into());
        require(
            (256..=1 << 20).contains(&self.max_header_bytes.0),
            "max_header_bytes",
            "must be from 256 to 1MiB; a browser's request head has about 600 bytes".into(),
        );
        require(
            (125..=1 << 30).contains(&self.max_message_bytes.0),
            "max_message_bytes",
            "must be from 125, the longest control frame, to 1GiB".into(),
        );
        require(
            (1 << 10..=1 << 30).contains(&self.receive_buffer_bytes.0),
            "receive_buffer_bytes",
            "must be from 1KiB to 1GiB".into(),
        );
        for (field, work) in [("work_per_turn", self.work_per_turn), ("work_per_receive", self.work_per_receive)] {
            require((1 << 10..=1 << 30).contains(&work.0), field, "must be from 1KiB to 1GiB".into());
        }
        require(
            self.socket_receive_bytes.is_none_or(|bytes| (1 << 12..=1 << 30).contains(&bytes.0)),
            "socket_receive_bytes",
            "must be from 4KiB to 1GiB, or off".into(),
        );
        require(
            self.journal.is_none() || self.receive_buffer_bytes <= ByteSize(16 << 20),
            "receive_buffer_bytes",
            "must be at most 16MiB while journal is on".into(),
        );
        let names_file = |path: &PathBuf| {
            let last = path.as_os_str().as_encoded_bytes().last();
            path.file_name().is_some() && !last.is_some_and(|&last| std::path::is_separator(last.into()))
        };
        require(
            self.journal.as_ref().is_none_or(names_file),
            "journal",
            "must name a file, not a folder: the segments of a journal `session` are session.000001 and so on".into(),
        );
        require(
            self.journal_max_bytes.is_none_or(|max| max >= ByteSize::kib(16)),
            "journal_max_bytes",
            "must be at least 16KiB, or off: the header of each segment takes part of it".into(),
        );
        require(
            self.outbound_low_mark < self.outbound_high_mark,
            "outbound_low_mark",
            format!("must be below outbound_high_mark ({}), or a frame could cross both", self.outbound_high_mark),
        );
        // A user limit that is the same as that of a connection is checked for the connection, and is skipped here.
        let own_limit = |is_same: bool, rate: Limit| if is_same { Limit::UNLIMITED } else { rate };
        let (user_messages, user_message_burst) = self.user_messages();
        let is_same = (self.user_messages_per_second, self.user_message_burst) == (PerUser::Same, PerUser::Same);
        let user_messages = own_limit(is_same, user_messages);
        let (user_bytes, user_byte_burst) = self.user_bytes();
        let is_same = (self.user_bytes_per_second, self.user_byte_burst) == (PerUser::Same, PerUser::Same);
        let user_bytes = own_limit(is_same, user_bytes);
        for (field, rate, burst_field, burst) in [
            ("messages_per_second", self.messages_per_second, "message_burst", self.message_burst),
            ("user_messages_per_second", user_messages, "user_message_burst", user_message_burst),
            ("control_per_second", self.control_per_second, "control_burst", self.control_burst),
            ("attempts_per_minute", self.attempts_per_minute, "attempt_burst", self.attempt_burst),
        ] {
            let limited = rate.bound().is_some();
            require(!limited || burst > 0, burst_field, format!("must be at least 1 while {field} is limited"));
        }
        let received = u32::try_from(self.max_message_bytes.0.saturating_add(14)).unwrap_or(u32::MAX);
        for (field, rate, burst_field, burst) in [
            ("bytes_per_second", self.bytes_per_second, "byte_burst", self.byte_burst),
            ("user_bytes_per_second", user_bytes, "user_byte_burst", user_byte_burst),
        ] {
            let limited = rate.bound().is_some();
            require(
                !limited || burst >= received,
                burst_field,
                format!(
                    "must be at least {received} while {field} is limited, or a message of max_message_bytes ({}) would \
                     always be refused",
                    self.max_message_bytes
                ),
            );
        }
        let batches = self.max_connections.bound().unwrap_or(0).div_ceil(self.drain_batch.max(1));
        let batches_span = self.drain_batch_interval.saturating_mul(batches.saturating_sub(1));
        require(
            batches_span < self.drain_deadline,
            "drain_deadline",
            format!(
                "must be longer than {batches_span:?}, the time to close max_connections ({}) in batches of \
                 drain_batch ({}) every drain_batch_interval ({:?})",
                self.max_connections.show(),
                self.drain_batch,
                self.drain_batch_interval
            ),
        );
        let largest = self.largest_frame();
        require(
            self.max_outbound_bytes.0 >= largest,
            "max_outbound_bytes",
            format!(
                "must be at least {largest}, the space for the largest frame: a message of max_message_bytes ({}), or \
                 the presence of a full lobby (max_per_lobby {}, presence_max {})",
                self.max_message_bytes,
                self.max_per_lobby.show(),
                self.presence_max
            ),
        );
        if problems.is_empty() { Ok(()) } else { Err(problems) }
    }

    /// Returns the fields that differ from their default but have no effect, because another field switches their
    /// feature off. [`Server::bind`](crate::net::Server::bind) logs a warning for each of them.
    ///
    /// ```
    /// use lobbyd::Config;
    ///
    /// let config = Config { journal_sync: true, ..Config::default() };
    /// assert_eq!(config.without_effect()[0].to_string(), "journal_sync = on: has no effect while journal is off");
    /// ```
    pub fn without_effect(&self) -> Vec<Problem> {
        let unlimited = |limit: Limit| limit == Limit::UNLIMITED;
        let dependencies: &[(bool, &str, &[&'static str])] = &[
            (
                self.admin.is_none(),
                "admin is off",
                &["admin_token_file", "admin_host", "max_admin_connections", "admin_timeout"],
            ),
            (
                self.journal.is_none(),
                "journal is off",
                &["journal_max_bytes", "journal_sync", "journal_on_error", "journal_secrets"],
            ),
            (self.tick_hz.is_none(), "tick_hz is off", &["max_catch_up_ticks", "max_inbox_bytes"]),
            (self.health_interval.is_none(), "health_interval is off", &["health_timeout"]),
            (self.duplicate_login != DuplicateLogin::Allow, "duplicate_login is not allow", &["max_per_user"]),
            (unlimited(self.attempts_per_minute), "attempts_per_minute is unlimited", &["attempt_burst"]),
            (unlimited(self.messages_per_second), "messages_per_second is unlimited", &["message_burst"]),
            (
                unlimited(self.user_messages_per_second.or(self.messages_per_second)),
                "user_messages_per_second is unlimited",
                &["user_message_burst"],
            ),
            (unlimited(self.bytes_per_second), "bytes_per_second is unlimited", &["byte_burst"]),
            (
                unlimited(self.user_bytes_per_second.or(self.bytes_per_second)),
                "user_bytes_per_second is unlimited",
                &["user_byte_burst"],
            ),
            (unlimited(self.control_per_second), "control_per_second is unlimited", &["control_burst"]),
        ];
        let unused = dependencies.iter().filter(|(is_off, ..)| *is_off);
        unused
            .flat_map(|(_, cause, fields)| fields.iter().map(move |field| (cause, *field)))
            .map(|(cause, field)| Problem {
                field,
                value: self.value_of(field),
                rule: format!("has no effect while {cause}"),
            })
            .filter(|problem| problem.value != Config::default().value_of(problem.field))
            .collect()
    }

    /// Returns the size of the largest frame that a client can make the server send, with the outbox's overhead.
    pub(crate) fn largest_frame(&self) -> usize {
        let listed = self.max_per_lobby.bound().unwrap_or(u32::MAX).min(self.presence_max) as usize;
        let presence = listed.saturating_mul(PRESENCE_BYTES_PER_MEMBER);
        let message = self.max_message_bytes.0.saturating_add(ENVELOPE_BYTES);
        message.max(presence).saturating_add(ENVELOPE_BYTES)
    }

    /// Returns the rate of `limit` in each `period` with `burst`, or `None` if `limit` is unlimited.
    fn rate(limit: Limit, period: Duration, burst: u32) -> Option<Rate> {
        limit.bound().map(|count| Rate::new(count, period, burst))
    }

    /// Returns the message limit of a user and its burst.
    fn user_messages(&self) -> (Limit, u32) {
        let limit = self.user_messages_per_second.or(self.messages_per_second);
        (limit, self.user_message_burst.or(self.message_burst))
    }

    /// Returns the byte limit of a user and its burst.
    fn user_bytes(&self) -> (Limit, u32) {
        (self.user_bytes_per_second.or(self.bytes_per_second), self.user_byte_burst.or(self.byte_burst))
    }

    pub(crate) fn message_rate(&self) -> Option<Rate> {
        Config::rate(self.messages_per_second, SECOND, self.message_burst)
    }

    pub(crate) fn user_message_rate(&self) -> Option<Rate> {
        let (limit, burst) = self.user_messages();
        Config::rate(limit, SECOND, burst)
    }

    pub(crate) fn byte_rate(&self) -> Option<Rate> {
        Config::rate(self.bytes_per_second, SECOND, self.byte_burst)
    }

    pub(crate) fn user_byte_rate(&self) -> Option<Rate> {
        let (limit, burst) = self.user_bytes();
        Config::rate(limit, SECOND, burst)
    }

    pub(crate) fn control_rate(&self) -> Option<Rate> {
        Config::rate(self.control_per_second, SECOND, self.control_burst)
    }

    pub(crate) fn attempt_rate(&self) -> Option<Rate> {
        Config::rate(self.attempts_per_minute, Duration::from_secs(60), self.attempt_burst)
    }

    /// Returns the worst-case memory in bytes: the largest number of sockets, with every buffer full.
    ///
    /// `None` if `max_connections` is `unlimited`. The kernel's buffers are not included; on Linux each socket may take
    /// up to `tcp_rmem[2] + tcp_wmem[2]` more.
    pub fn worst_case_memory(&self) -> Option<u64> {
        let seats = u128::from(self.max_connections.bound()?);
        let [max_message, max_header, receive_buffer, max_outbound, largest_frame, max_inbox] = [
            self.max_message_bytes.0,
            self.max_header_bytes.0,
            self.receive_buffer_bytes.0,
            self.max_outbound_bytes.0,
            self.largest_frame(),
            self.max_inbox_bytes.0,
        ]
        .map(|bytes| bytes as u128);
        let others = [self.max_pending, self.max_closing, self.accept_per_turn].map(u128::from);
        let sockets = seats + others.iter().sum::<u128>();
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
        let operators =
            if self.admin.is_some() { u128::from(self.max_admin_connections) * (2 * request + (2 << 20)) } else { 0 };
        let remembered = 2 * u128::from(self.max_remembered_rates) * REMEMBERED_BYTES;
        let fixed = remembered + operators + 4 * receive_buffer + (4 << 20);
        // At most 2^33 sockets of at most 2^69 bytes, so no step overflows. A result beyond u64 is reported as u64::MAX.
        let bytes = sockets * (inbound + outbound + inbox + CONNECTION_BYTES) + fixed;
        Some(u64::try_from(bytes).unwrap_or(u64::MAX))
    }

    fn value_of(&self, name: &str) -> String {
        let field =
            Config::FIELDS.iter().find(|field| field.name == name).expect("only fields of the table are looked up");
        (field.show)(self)
    }
}

const SECOND: Duration = Duration::from_secs(1);
const YEAR: Duration = Duration::from_secs(8760 * 3600);
/// Bytes of one member in a `presence_state`: a user id of 128 bytes, each perhaps escaped, plus the seat and the keys.
const PRESENCE_BYTES_PER_MEMBER: usize = 2 * 128 + 64;
/// Bytes that an envelope adds to its payload: names, numbers, a user id, the frame header and the outbox's overhead.
const ENVELOPE_BYTES: usize = 1024;
/// Bytes of the slab entry, seat, user, lobby, map entries and timer of one connection.
const CONNECTION_BYTES: u128 = 2048;

/// Bytes of the remembered rates of one user or address: the longest name, and the entries in the map and in the order.
const REMEMBERED_BYTES: u128 = 360;

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

    #[test]
    fn check_returns_all_problems_at_once() {
        let config = Config {
            pong_timeout: Duration::from_secs(40),
            max_outbound_bytes: ByteSize(1000),
            max_pending: 0,
            ..Config::default()
        };
        let problems = config.check().expect_err("three fields are wrong");
        let fields: Vec<&str> = problems.iter().map(|problem| problem.field).collect();
        assert_eq!(fields, ["pong_timeout", "max_pending", "max_outbound_bytes"]);
        assert!(problems[0].to_string().starts_with("pong_timeout = 40s: must be shorter than ping_interval (20s)"));
    }
}
