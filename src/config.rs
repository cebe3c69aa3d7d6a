//! Every number that an operator can set, in one struct.
//!
//! A field exists once, in the table below: its name, its default and its documentation. The command line, the
//! environment, the README's table and the printed limits all come from [`Config::FIELDS`].

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

mod value;

use self::value::Value;
use crate::rate::Rate;

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
    /// No bound at all.
    pub const UNLIMITED: Limit = Limit(u32::MAX);

    /// At most `n`; 0 means none.
    pub const fn at_most(n: u32) -> Limit {
        Limit(n)
    }

    /// The bound, or `None` when there is none.
    pub const fn bound(self) -> Option<u32> {
        if self.0 == u32::MAX { None } else { Some(self.0) }
    }

    /// Whether one more fits when there are `taken` already.
    pub const fn has_room(self, taken: usize) -> bool {
        match self.bound() {
            Some(bound) => taken < bound as usize,
            None => true,
        }
    }
}

/// A limit of one user, over all its connections.
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
    /// The same as for one connection.
    Same,
    /// One of its own.
    Own(T),
}

impl<T> PerUser<T> {
    /// The limit, where that of one connection is `connection`.
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

/// What happens when a user who holds a seat connects again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DuplicateLogin {
    /// The newer connection takes the seat over; the older one is closed with 4004.
    Replace,
    /// The newer connection is refused with 4002 `user_limit`.
    Reject,
    /// Both stay, up to `max_per_user` seats.
    Allow,
}

/// When frames go out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flush {
    /// At the end of each turn of the loop.
    Turn,
    /// At the end of each tick; what answers one member, pings and goodbyes do not wait.
    Tick,
}

/// What happens when a journal cannot be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnJournalError {
    /// The server ends: nobody is served unrecorded.
    Stop,
    /// The server goes on, and the journal ends.
    Continue,
}

/// Whether a journal holds what the application reads again on a reload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Secrets {
    /// Only its length.
    Omit,
    /// All of it.
    Keep,
}

/// One field of [`Config`], as text: for command lines, documentation and tests.
pub struct Field {
    /// Its name, in snake_case.
    pub name: &'static str,
    /// Its default, written as it would be set.
    pub default: &'static str,
    /// What it means; the first line stands alone.
    pub doc: &'static str,
    /// Sets the field from text.
    pub set: fn(&mut Config, &str) -> Result<(), String>,
    /// The field's present value as text, such that `set` takes it back.
    pub show: fn(&Config) -> String,
}

impl Field {
    /// The command-line flag without its dashes: `max-connections`.
    pub fn flag(&self) -> String {
        self.name.replace('_', "-")
    }

    /// The environment variable: `LOBBYD_MAX_CONNECTIONS`.
    pub fn variable(&self) -> String {
        format!("LOBBYD_{}", self.name.to_uppercase())
    }
}

macro_rules! config {
    ($( $(#[doc = $doc:literal])* $name:ident: $kind:ty = $default:literal; )*) => {
        /// All limits, timeouts and budgets. `0` means none, `unlimited` means unlimited, `off` means off.
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
                    $( $name: <$kind as Value>::parse($default).expect("the table's defaults are written correctly"), )*
                }
            }
        }

        impl Config {
            /// Every field, in the order of the documentation.
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
    /// Address to accept WebSocket connections on; port 0 takes a free one.
    listen: SocketAddr = "127.0.0.1:9001";
    /// Address to answer operators on: JSON over HTTP; one that is not loopback needs `admin_token_file`.
    admin: Switch<SocketAddr> = "off";
    /// File that holds the token which operators send as `Authorization: Bearer`; without it anybody who reaches the address may ask.
    admin_token_file: Switch<PathBuf> = "off";
    /// Name under which operators reach the server, beside `localhost` and its address; requests for other names are refused.
    admin_host: Switch<String> = "off";
    /// Operators' connections; a further one takes the place of an idle one or of a stranger's, or is dropped.
    max_admin_connections: u32 = "16";
    /// Time for an operator's request to arrive, for its answer to be read, and for an idle connection to stay open.
    admin_timeout: Duration = "30s";

    /// Seats in the whole server; the next connection is closed with 4002 `server_full`.
    max_connections: Limit = "500";
    /// Seats in one lobby; the next connection is closed with 4002 `lobby_full`.
    max_per_lobby: Limit = "10";
    /// Lobbies that exist at once; a connection to one more is closed with 4002 `lobby_limit`.
    max_lobbies: Limit = "10000";
    /// What a second connection of a user does: `replace`, `reject` (4002 `user_limit`) or `allow`.
    duplicate_login: DuplicateLogin = "replace";
    /// Seats of one user when duplicate logins are allowed; the next is closed with 4002 `user_limit`.
    max_per_user: Limit = "1";
    /// Connections of one address (of one /64 with IPv6); the next is closed with 4002 `ip_limit`.
    max_per_ip: Limit = "unlimited";
    /// Sockets that hold no seat yet; further ones are answered with HTTP status 503, unless another address holds more.
    max_pending: u32 = "256";
    /// Room, beside free seats, for sockets that are still saying goodbye; beyond it the oldest of them is cut off.
    max_closing: u32 = "256";

    /// Origins of pages that may connect beside the server's `own`, separated by commas; `loopback` stands for pages of this
    /// machine, `any` for all. Others are closed with 4003 `forbidden_origin`. When not given, `--auth open` on a loopback
    /// address without `trusted_proxies` makes it `loopback`.
    allowed_origin: Origins = "own";
    /// Proxies in front of the server. With any, the address is taken from `X-Forwarded-For`, so many entries from the right.
    trusted_proxies: u32 = "0";
    /// Connection attempts of one address per minute; more are answered with HTTP status 429.
    attempts_per_minute: Limit = "unlimited";
    /// Attempts of one address at once.
    attempt_burst: u32 = "60";

    /// Time for the request head to arrive; then HTTP status 408.
    handshake_timeout: Duration = "5s";
    /// Time for the application to answer a pending authorization; then 4101 `auth_timeout`.
    auth_timeout: Duration = "10s";
    /// Age at which a connection is closed with 4202 `max_lifetime`, to come back at once: so that a fleet can be drained.
    max_lifetime: Switch<Duration> = "off";
    /// How long a connection may outlive its token; then it is closed with 4001 `token_expired`.
    token_grace: Duration = "10s";
    /// Bytes of a request head, and of what a client sends before it is let in; more is answered with HTTP status 431.
    max_header_bytes: ByteSize = "8KiB";
    /// Header lines of a request; more is answered with HTTP status 431.
    max_headers: u32 = "64";

    /// Bytes of one message, however it is fragmented; a larger one is closed with 1009.
    max_message_bytes: ByteSize = "64KiB";
    /// Frames of one message; more are closed with 1008.
    max_fragments: u32 = "65536";
    /// Bytes queued for one connection, counting 64 for each frame; beyond it the peer is closed with 4102 `slow_consumer`.
    max_outbound_bytes: ByteSize = "256KiB";
    /// Bytes queued above which the application is told of pressure.
    outbound_high_mark: ByteSize = "64KiB";
    /// Bytes queued at which the application is told that the pressure is over.
    outbound_low_mark: ByteSize = "16KiB";
    /// Messages per second of one connection, unless its identity has a rate of its own; more get `error rate_limited`.
    messages_per_second: Limit = "60";
    /// Messages at once of one connection.
    message_burst: u32 = "120";
    /// Messages per second of one user, over all its connections and across reconnects, unless its identity has a rate of its own; `same` as one connection.
    user_messages_per_second: PerUser<Limit> = "same";
    /// Messages at once of one user; `same` as one connection.
    user_message_burst: PerUser<u32> = "same";
    /// Bytes per second of one connection, charged before they are looked at; messages beyond get `error rate_limited`.
    bytes_per_second: Limit = "65536";
    /// Bytes at once of one connection.
    byte_burst: u32 = "131072";
    /// Bytes per second of one user, over all its connections and across reconnects; `same` as one connection.
    user_bytes_per_second: PerUser<Limit> = "same";
    /// Bytes at once of one user; `same` as one connection.
    user_byte_burst: PerUser<u32> = "same";
    /// Pings, pongs and `health_pong`s per second of one connection.
    control_per_second: Limit = "20";
    /// Pings, pongs and `health_pong`s at once of one connection.
    control_burst: u32 = "60";
    /// Refused messages at once, one a second in the long run, before the connection is closed with 4009 `rate_limited`.
    max_rate_strikes: u32 = "32";
    /// Users, and as many addresses, that are gone and whose spent rates are remembered until they are made up; beyond it those that are made up first are forgotten.
    max_remembered_rates: u32 = "65536";
    /// Ticks per second of the game's clock, 1 to 1000; `off`: the application is told of messages as they arrive.
    tick_hz: Switch<u32> = "off";
    /// When frames go out: at the end of every `turn` of the loop, or, with ticks, of every `tick`.
    flush: Flush = "turn";
    /// Late ticks that are made up for before the one that is due; older ones are skipped.
    max_catch_up_ticks: u32 = "5";
    /// Bytes of one connection that wait for the next tick, counting 64 for each message; more get `error rate_limited`.
    max_inbox_bytes: ByteSize = "64KiB";
    /// Malformed messages before the connection is closed with 4005 `bad_message`.
    max_strikes: u32 = "32";
    /// Members up to which a lobby's presence is listed; above it only their number is told.
    presence_max: u32 = "500";

    /// Silence after which a connection is pinged (RFC 6455 ping).
    ping_interval: Duration = "20s";
    /// Time for any sign of life after a ping; then the connection is closed with 4201 `stale`.
    pong_timeout: Duration = "10s";
    /// Period at which every member's page is sent a `health_ping`; `off` leaves it to the application.
    health_interval: Switch<Duration> = "off";
    /// Time for the answer to such a `health_ping`.
    health_timeout: Duration = "2s";
    /// Unanswered `health_ping`s kept per connection; a further one ends the oldest as unanswered.
    max_health_pings: u32 = "8";
    /// Time for the peer to answer a close frame.
    close_timeout: Duration = "2s";
    /// Time to read and drop what a peer still sends after the last byte to it, so that no reset eats the close frame.
    linger_timeout: Duration = "1s";
    /// Bytes read and dropped from a peer that goes on sending after its end; beyond it the connection is cut off.
    max_linger_bytes: ByteSize = "1MiB";
    /// Time to say goodbye to everybody at the end; what is left then is cut off.
    drain_deadline: Duration = "30s";
    /// Members told goodbye at once when many are: at the end, or because an operator kicks them all.
    drain_batch: u32 = "500";
    /// Time between two such batches.
    drain_batch_interval: Duration = "100ms";

    /// Connections accepted in one turn of the loop; the rest wait for the next.
    accept_per_turn: u32 = "16";
    /// Sockets read in one turn of the loop, of those who say little, and of those who have just come; the rest wait.
    events_per_turn: u32 = "1024";
    /// Work of one turn: bytes read, of messages and of the frames they bring about, and 256 for each; the rest waits for the next. Those who say little have four times as much.
    work_per_turn: ByteSize = "2MiB";
    /// Work of one connection before others have theirs; what it sends beyond waits, and goes behind those who send less.
    work_per_receive: ByteSize = "64KiB";
    /// Turns for which a due timer waits while its connection has input that was not read yet.
    max_deferred_turns: u32 = "1000";
    /// The receive buffer shared by all connections; what is left in it is kept for a connection that sends more than its work.
    receive_buffer_bytes: ByteSize = "64KiB";
    /// What the kernel keeps of each connection until it is read; `off` leaves it to the kernel, which may keep some megabytes.
    socket_receive_bytes: Switch<ByteSize> = "128KiB";
    /// Commands from other threads that may wait; a further one is returned to its sender.
    max_commands: u32 = "1024";
    /// Resolution of all timeouts.
    wheel_granule: Duration = "10ms";
    /// Where everything that enters the server is recorded, to be replayed: segments of this name with `.000001` and so on behind it.
    journal: Switch<PathBuf> = "off";
    /// Size at which a new segment of the journal begins. Those before one that begins with nobody there can be deleted.
    journal_max_bytes: Switch<ByteSize> = "off";
    /// Whether the journal is on the disk, and not only with the operating system, before what follows from it goes out.
    journal_sync: bool = "off";
    /// What happens when the journal cannot be written: the server ends (`stop`), or goes on without (`continue`).
    journal_on_error: OnJournalError = "stop";
    /// Whether the journal holds the contents of reloads, such as the list of tokens: `omit` or `keep`.
    journal_secrets: Secrets = "omit";
    /// Period of the statistics line in the log.
    stats_interval: Switch<Duration> = "60s";
}

/// Which pages may connect.
///
/// A request without an `Origin` comes from no page and is always allowed, and so is one whose origin's authority is the
/// request's own `Host`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origins {
    /// Whether all may.
    pub any: bool,
    /// Whether pages of loopback origins may (`http://localhost:5173`, `http://127.0.0.1`, `https://[::1]:8443`), if the
    /// request calls the server by a loopback name, too. With another name in `Host` the browser may have been led here by
    /// DNS rebinding.
    pub loopback: bool,
    /// Those that may, as browsers write them: `https://game.example`, in lower case, without a path; or `null`, which is
    /// what a page without an origin says.
    pub listed: Vec<String>,
}

impl Origins {
    /// Whether a page of this origin may connect to a server it calls `host`.
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

/// Whether an authority, a host and perhaps a port, is `localhost` or a loopback address.
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

/// A number of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(pub usize);

impl ByteSize {
    /// `n` times 1024 bytes.
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

/// Something that can be switched off.
pub type Switch<T> = Option<T>;

/// What the operator set does not hold together. Displayed as one line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The field at fault.
    pub field: &'static str,
    /// The value it has.
    pub value: String,
    /// What it must be instead, and why.
    pub rule: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} = {}: {}", self.field, self.value, self.rule)
    }
}

impl Config {
    /// Checks that the values can work together. Returns all problems at once.
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
                "must be shorter than ping_interval ({:?}), or a ping goes out while the last one still waits",
                self.ping_interval
            ),
        );
        if let Some(interval) = self.health_interval {
            require(
                interval >= self.health_timeout,
                "health_interval",
                format!("must be at least health_timeout ({:?}), or checks of one page overlap", self.health_timeout),
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
            require(span.is_none_or(|span| span <= YEAR), field, "must be at most 8760h, which is a year".into());
        }
        require(
            self.tick_hz.is_none_or(|hz| (1..=1000).contains(&hz)),
            "tick_hz",
            "must be from 1 to 1000, or off".into(),
        );
        require(
            self.flush == Flush::Turn || self.tick_hz.is_some(),
            "flush",
            "must be turn when tick_hz is off: there is no tick to wait for".into(),
        );
        require(
            self.max_catch_up_ticks <= 1000,
            "max_catch_up_ticks",
            "must be at most 1000: they run in one turn of the loop".into(),
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
                "must be from 1 to 1048576: with none nobody could be served".into(),
            );
        }
        for (field, count, most) in [
            // More entries than fit into a request head.
            ("trusted_proxies", self.trusted_proxies, 1 << 16),
            // What is remembered takes 360 bytes each.
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
            "must be a loopback address such as 127.0.0.1:9002, or admin_token_file must be set: whoever reaches it may \
             kick everybody"
                .into(),
        );
        require(
            self.admin != Some(self.listen) || self.listen.port() == 0,
            "admin",
            "must differ from listen: operators have an address of their own".into(),
        );
        require(self.max_headers <= 256, "max_headers", "must be at most 256".into());
        require(
            (256..=1 << 20).contains(&self.max_header_bytes.0),
            "max_header_bytes",
            "must be from 256 to 1MiB; a browser's request takes some 600".into(),
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
            "must be at most 16MiB while a journal is written".into(),
        );
        let names_file = |path: &PathBuf| {
            let ends = path.as_os_str().as_encoded_bytes().last();
            path.file_name().is_some() && !ends.is_some_and(|&end| std::path::is_separator(end.into()))
        };
        require(
            self.journal.as_ref().is_none_or(names_file),
            "journal",
            "must name a file, not a folder: segments of the journal session are called session.000001 and so on"
                .into(),
        );
        require(
            self.journal_max_bytes.is_none_or(|max| max >= ByteSize::kib(16)),
            "journal_max_bytes",
            "must be at least 16KiB, or off: what each segment begins with takes some of it".into(),
        );
        require(
            self.outbound_low_mark < self.outbound_high_mark,
            "outbound_low_mark",
            format!("must be below outbound_high_mark ({}), or every frame would cross both", self.outbound_high_mark),
        );
        // A limit that is the same as a connection's is checked there.
        let own = |is_same: bool, rate: Limit| if is_same { Limit::UNLIMITED } else { rate };
        let (user_messages, user_message_burst) = self.user_messages();
        let is_same = (self.user_messages_per_second, self.user_message_burst) == (PerUser::Same, PerUser::Same);
        let user_messages = own(is_same, user_messages);
        let (user_bytes, user_byte_burst) = self.user_bytes();
        let is_same = (self.user_bytes_per_second, self.user_byte_burst) == (PerUser::Same, PerUser::Same);
        let user_bytes = own(is_same, user_bytes);
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
                    "must be at least {received} while {field} is limited, or a message of max_message_bytes ({}) could \
                     never be sent",
                    self.max_message_bytes
                ),
            );
        }
        let batches = self.max_connections.bound().unwrap_or(0).div_ceil(self.drain_batch.max(1));
        let goodbyes = self.drain_batch_interval.saturating_mul(batches.saturating_sub(1));
        require(
            goodbyes < self.drain_deadline,
            "drain_deadline",
            format!(
                "must be longer than the {goodbyes:?} that saying goodbye to max_connections ({}) takes in batches of \
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
                "must be at least {largest}, which is what the largest single frame takes: a message of \
                 max_message_bytes ({}), or the presence of a full lobby (max_per_lobby {}, presence_max {})",
                self.max_message_bytes,
                self.max_per_lobby.show(),
                self.presence_max
            ),
        );
        if problems.is_empty() { Ok(()) } else { Err(problems) }
    }

    /// Fields that are set to something else than their default although nothing looks at them, because another field
    /// switches off what they belong to. [`Server::bind`](crate::net::Server::bind) warns of them.
    ///
    /// ```
    /// use lobbyd::Config;
    ///
    /// let config = Config { journal_sync: true, ..Config::default() };
    /// assert_eq!(config.without_effect()[0].to_string(), "journal_sync = on: has no effect while journal is off");
    /// ```
    pub fn without_effect(&self) -> Vec<Problem> {
        let unlimited = |limit: Limit| limit == Limit::UNLIMITED;
        let owners: &[(bool, &str, &[&'static str])] = &[
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
        let idle = owners.iter().filter(|(is_off, ..)| *is_off);
        idle.flat_map(|(_, why, fields)| fields.iter().map(move |field| (why, *field)))
            .map(|(why, field)| Problem {
                field,
                value: self.value_of(field),
                rule: format!("has no effect while {why}"),
            })
            .filter(|problem| problem.value != Config::default().value_of(problem.field))
            .collect()
    }

    /// The largest frame the server itself can be made to send, with its bookkeeping.
    pub(crate) fn largest_frame(&self) -> usize {
        let listed = self.max_per_lobby.bound().unwrap_or(u32::MAX).min(self.presence_max) as usize;
        let presence = listed.saturating_mul(PRESENCE_BYTES_PER_MEMBER);
        let message = self.max_message_bytes.0.saturating_add(ENVELOPE_BYTES);
        message.max(presence).saturating_add(ENVELOPE_BYTES)
    }

    /// `limit` in each `period`, with a burst; `None` when unlimited.
    fn rate(limit: Limit, period: Duration, burst: u32) -> Option<Rate> {
        limit.bound().map(|count| Rate::new(count, period, burst))
    }

    fn user_messages(&self) -> (Limit, u32) {
        let limit = self.user_messages_per_second.or(self.messages_per_second);
        (limit, self.user_message_burst.or(self.message_burst))
    }

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

    /// Bytes of memory that the limits allow at the very worst: every socket there may be, with every buffer full.
    ///
    /// `None` when a limit that matters is `unlimited`. The kernel's own buffers are not included; on Linux each
    /// socket may take up to `tcp_rmem[2] + tcp_wmem[2]` more.
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
        // A message under way is held twice: the frame being received and the fragments before it; growing a buffer
        // can take up to twice what is in it.
        let message = 3 * max_message + max_header;
        // Whoever sends more than its work has the rest kept.
        let inbound = message + receive_buffer;
        let outbound = max_outbound + largest_frame;
        // One message is always kept, however large.
        let kept = if self.tick_hz.is_some() { max_inbox.max(max_message) } else { 0 };
        // Of each operator what two requests take, written with escapes, and an answer of the longest page.
        let request = 7 * max_message + max_header;
        let operators =
            if self.admin.is_some() { u128::from(self.max_admin_connections) * (2 * request + (2 << 20)) } else { 0 };
        let remembered = 2 * u128::from(self.max_remembered_rates) * REMEMBERED_BYTES;
        let fixed = remembered + operators + 4 * receive_buffer + (4 << 20);
        // At most 2^33 sockets of at most 2^69 bytes: no step of it wraps. More than can be addressed counts as all of it.
        let bytes = sockets * (inbound + outbound + kept + CONNECTION_BYTES) + fixed;
        Some(u64::try_from(bytes).unwrap_or(u64::MAX))
    }

    fn value_of(&self, name: &str) -> String {
        let field = Config::FIELDS.iter().find(|field| field.name == name).expect("check() names fields of the table");
        (field.show)(self)
    }
}

const SECOND: Duration = Duration::from_secs(1);
const YEAR: Duration = Duration::from_secs(8760 * 3600);
/// A member in a `presence_state`: a user id of 128 bytes of which each may need a backslash, the seat and the keys.
const PRESENCE_BYTES_PER_MEMBER: usize = 2 * 128 + 64;
/// What an envelope adds to its payload: names, numbers and a user id, the frame header and the outbox's bookkeeping.
const ENVELOPE_BYTES: usize = 1024;
/// Slab entry, seat, user, lobby, map entries and timer of one connection.
const CONNECTION_BYTES: u128 = 2048;

/// A user's or an address's spent rates: the longest name, and its places in the map and in the order.
const REMEMBERED_BYTES: u128 = 360;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_default_is_shown_as_it_is_written() {
        for field in Config::FIELDS {
            assert_eq!((field.show)(&Config::default()), field.default, "{}", field.name);
        }
    }

    #[test]
    fn the_worst_case_of_memory_grows_with_its_limits_and_never_wraps() {
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
    fn all_problems_are_named_at_once() {
        let config = Config {
            pong_timeout: Duration::from_secs(40),
            max_outbound_bytes: ByteSize(1000),
            max_pending: 0,
            ..Config::default()
        };
        let problems = config.check().expect_err("three fields are wrong");
        let named: Vec<&str> = problems.iter().map(|problem| problem.field).collect();
        assert_eq!(named, ["pong_timeout", "max_pending", "max_outbound_bytes"]);
        assert!(problems[0].to_string().starts_with("pong_timeout = 40s: must be shorter than ping_interval (20s)"));
    }
}
