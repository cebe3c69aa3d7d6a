//! Vocabulary that all other modules use: ids, time, limits, rates, close reasons. Imports no other module of this crate.

pub(crate) mod arena;
pub(crate) mod certificates;
pub(crate) mod checksum;
pub(crate) mod close;
pub(crate) mod codes;
#[cfg(any(feature = "jwt", feature = "tls"))]
pub(crate) mod der;
pub(crate) mod distribution;
pub(crate) mod entry;
pub(crate) mod event_kind;
pub(crate) mod forwarded_header;
pub(crate) mod id;
pub(crate) mod leb128;
pub(crate) mod limit;
pub(crate) mod list_query;
pub(crate) mod network;
pub(crate) mod number;
pub(crate) mod origin;
pub(crate) mod peer;
pub(crate) mod random;
pub(crate) mod rate;
pub(crate) mod session;
pub(crate) mod snapshot;
pub(crate) mod time;
