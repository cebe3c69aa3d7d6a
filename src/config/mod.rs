//! Configuration: all options of the server in one struct, the check of their values, and the worst-case memory.
//!
//! Each field is defined once, in the table in `fields`: group, name, type, default and documentation. The command line,
//! the environment variables, the configuration file and the guide's table are generated from [`Config::FIELDS`]. How values are written as text is
//! in `value`. Reads no file and no environment.

mod check;
mod cluster;
mod deflate;
pub(crate) mod fields;
mod hook;
mod hook_rules;
mod host_names;
mod listen;
pub(crate) mod memory;
mod origins;
mod proxy_addresses;
pub(crate) mod rates;
mod redis_url;
mod room;
mod tls;
mod types;
mod value;
mod without_effect;

pub use self::check::{CheckedConfig, Problem, Problems};
pub(crate) use self::fields::Config;
pub use self::fields::Field;
pub use self::hook::{HeaderNames, HttpUrl, OnHookFailure};
pub use self::host_names::HostNames;
pub use self::listen::{FileMode, Listen, ListenAddress};
pub use self::origins::Origins;
pub use self::proxy_addresses::ProxyAddresses;
pub use self::redis_url::{ClusterName, NodeUrl, RedisServer, RedisUrl};
pub use self::types::{ByteSize, DuplicateLogin, Flush, Form, OnJournalError, PerUser, Secrets};
pub use self::value::parse_duration;
pub use crate::base::event_kind::EventKinds;
pub use crate::base::forwarded_header::ForwardedHeader;
pub use crate::base::limit::Limit;
