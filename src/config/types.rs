//! Types of fields, apart from those that other modules define.

use std::fmt;

/// A limit that applies to one user, over all its connections.
///
/// ```
/// use lobbyd::Config;
/// use lobbyd::config::Limit;
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

/// Form of the values of a field as text, for completions and configuration files.
///
/// ```
/// use lobbyd::Config;
/// use lobbyd::config::Form;
///
/// let form = |name| Config::FIELDS.iter().find(|field| field.name == name).map(|field| field.form);
/// assert_eq!(form("flush"), Some(Form::Words(&["turn", "tick"])));
/// assert_eq!(form("journal"), Some(Form::Path));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Form {
    /// A number, a duration, a size, an address or a name.
    Text,
    /// `on` or `off`.
    Switch,
    /// One of these words.
    Words(&'static [&'static str]),
    /// Several values, separated by commas.
    List,
    /// The path of a file, or `off`.
    Path,
}

/// Policy for a user that has a seat and connects again.
///
/// No example of its own: it is a field of [`Config`](crate::Config).
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
///
/// No example of its own: it is a field of [`Config`](crate::Config).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flush {
    /// At the end of each turn of the loop.
    Turn,
    /// At the end of each tick. Replies to one member, pings and goodbyes do not wait.
    Tick,
}

/// Action when the journal cannot be written.
///
/// No example of its own: it is a field of [`Config`](crate::Config).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnJournalError {
    /// The server stops, so that no client is served without being recorded.
    Stop,
    /// The server continues without a journal.
    Continue,
}

/// Whether a journal contains the contents that a reload passes to the application.
///
/// No example of its own: it is a field of [`Config`](crate::Config).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Secrets {
    /// Only the length of the contents.
    Omit,
    /// The contents.
    Keep,
}

/// A size in bytes.
///
/// ```
/// use lobbyd::config::ByteSize;
///
/// assert_eq!(ByteSize::kib(64), ByteSize(65_536));
/// assert_eq!(ByteSize(65_536).to_string(), "64KiB");
/// ```
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
