//! The limit of open files of the process, and the number of descriptors that a configuration needs.

use std::{io, iter};

use log::{info, warn};

use crate::config::{Config, Listen, ListenAddress};

/// Descriptors of the process beside its connections and listeners: three standard streams, the poll and its waker, a
/// timerfd, five of the signal handlers, three of the journal, a file that is being read, and a reserve.
const OWN: u64 = 32;
/// Descriptors of one listener: its socket, the spare descriptor, and the lock of a socket file.
const PER_LISTENER: u64 = 3;

/// Raises the limit of open files (`RLIMIT_NOFILE`) of the process from its soft to its hard value. Returns the limit
/// that is in force then; `None` if there is none, or if the system has no such limit.
///
/// Each connection needs a descriptor, and the soft limit is often 1024, which is less than the default configuration
/// needs. The program does this at its start. A program that embeds a [`Server`](super::Server) calls it before it binds
/// one, unless it calls `select(2)`, which handles only the first 1024 descriptors. Child processes inherit the limit.
///
/// ```
/// let limit = lobbyd::net::raise_descriptor_limit()?;
/// // A second call changes nothing.
/// assert_eq!(lobbyd::net::raise_descriptor_limit()?, limit);
/// # Ok::<(), std::io::Error>(())
/// ```
///
/// # Errors
///
/// Errors of setrlimit(2). The old limit then stays in force.
#[cfg(unix)]
pub fn raise_descriptor_limit() -> io::Result<Option<u64>> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

    let limit = getrlimit(Resource::Nofile);
    if limit.current == limit.maximum {
        return Ok(limit.current);
    }
    match setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }) {
        // macOS refuses soft limits above OPEN_MAX, even if there is no hard limit.
        Err(_) if cfg!(target_vendor = "apple") && limit.current.is_some_and(|current| current < OPEN_MAX) => {
            setrlimit(Resource::Nofile, Rlimit { current: Some(OPEN_MAX), ..limit })?;
        }
        result => result?,
    }
    Ok(getrlimit(Resource::Nofile).current)
}

#[cfg(unix)]
const OPEN_MAX: u64 = 10_240;

/// This system has no such limit.
///
/// On Unix the function raises it, and has an example.
#[cfg(not(unix))]
pub fn raise_descriptor_limit() -> io::Result<Option<u64>> {
    Ok(None)
}

/// Returns the number of file descriptors that the configuration allows the process to have; `None` if `max_connections` is
/// `unlimited`. A name to listen on counts as two addresses.
///
/// ```
/// let config = lobbyd::Config::default();
/// assert_eq!(lobbyd::net::worst_case_descriptors(&config), Some(config.worst_case_sockets().unwrap() + 35));
/// ```
pub fn worst_case_descriptors(config: &Config) -> Option<u64> {
    let addresses = iter::once(&config.listen).chain(&config.admin).flat_map(Listen::addresses);
    let listeners =
        addresses.map(|address| if matches!(address.without_tls(), ListenAddress::Name { .. }) { 2 } else { 1 }).sum();
    needed(config, listeners)
}

/// Returns the largest number of descriptors of a server with so many listeners; `None` if `max_connections` is `unlimited`.
fn needed(config: &Config, listeners: usize) -> Option<u64> {
    Some(config.worst_case_sockets()? + operators(config) + config.most_call_sockets() + own(listeners))
}

/// Logs a warning if the limit of open files is lower than the number of descriptors that the configuration allows.
#[cfg(unix)]
pub(super) fn warn_if_limit_is_low(config: &Config, listeners: usize) {
    use rustix::process::{Resource, getrlimit};

    if let Some(limit) = getrlimit(Resource::Nofile).current {
        match shortage(config, listeners, limit) {
            Shortage::None => {}
            Shortage::Unbounded(sockets) => info!(
                "max_connections is unlimited; the limit of open files, {limit}, leaves descriptors for {sockets} \
                 connections"
            ),
            Shortage::Needed(needed) => warn!(
                "the limit of open files is {limit}, but the configuration needs {needed}: one for each of \
                 max_connections, max_pending{}, max_overflow, max_closing and accept_per_turn{}{}, and {} for the process; \
                 raise the limit (ulimit -n, LimitNOFILE), or lower max_connections",
                if config.proxy_protocol.is_some() { " (twice, with proxy_protocol)" } else { "" },
                if config.admin.is_some() {
                    ", one for each of max_admin_connections and max_admin_pending"
                } else {
                    ""
                },
                match config.most_call_sockets() {
                    0 => String::new(),
                    most => format!(", {most} for calls of the hook and of jwt_jwks_url"),
                },
                own(listeners)
            ),
        }
    }
}

#[cfg(not(unix))]
pub(super) fn warn_if_limit_is_low(_: &Config, _: usize) {}

/// Whether descriptors are missing at a limit.
#[derive(Debug, PartialEq, Eq)]
enum Shortage {
    None,
    /// The configuration needs this many descriptors, more than the limit.
    Needed(u64),
    /// `max_connections` is unlimited, and the limit allows this many connections.
    Unbounded(u64),
}

fn shortage(config: &Config, listeners: usize, limit: u64) -> Shortage {
    match needed(config, listeners) {
        None => {
            Shortage::Unbounded(limit.saturating_sub(operators(config) + config.most_call_sockets() + own(listeners)))
        }
        Some(needed) if needed > limit => Shortage::Needed(needed),
        Some(_) => Shortage::None,
    }
}

/// Descriptors of the operators' connections.
fn operators(config: &Config) -> u64 {
    let most = u64::from(config.max_admin_connections) + u64::from(config.max_admin_pending);
    if config.admin.is_some() { most } else { 0 }
}

/// Descriptors that are no connections.
fn own(listeners: usize) -> u64 {
    OWN + PER_LISTENER * listeners as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Limit;

    #[test]
    fn a_configuration_needs_a_descriptor_for_each_socket_and_some_of_its_own() {
        let config = |max_connections, admin: &str| Config {
            max_connections,
            max_pending: 10,
            max_overflow: 5,
            max_closing: 15,
            accept_per_turn: 0,
            admin: (admin != "off").then(|| admin.parse().expect("an address")),
            max_admin_connections: 4,
            max_admin_pending: 3,
            ..Config::default()
        };
        let hundred = config(Limit::at_most(100), "off");
        assert_eq!(shortage(&hundred, 1, 130 + 35), Shortage::None);
        assert_eq!(shortage(&hundred, 1, 130 + 34), Shortage::Needed(165));
        assert_eq!(shortage(&hundred, 2, 130 + 35), Shortage::Needed(168));
        assert_eq!(shortage(&config(Limit::at_most(100), "127.0.0.1:0"), 2, 165), Shortage::Needed(175));
        let hook = Some("http://127.0.0.1/".parse().expect("a URL"));
        let with_hook = Config { hook: hook.clone(), ..hundred.clone() };
        assert_eq!(shortage(&with_hook, 1, 165), Shortage::Needed(165 + 18));
        let unlimited = Config { hook, ..config(Limit::UNLIMITED, "off") };
        assert_eq!(shortage(&unlimited, 1, 1024), Shortage::Unbounded(1024 - 35 - 18));
        assert_eq!(shortage(&config(Limit::UNLIMITED, "off"), 1, 1024), Shortage::Unbounded(1024 - 35));
        assert_eq!(shortage(&config(Limit::UNLIMITED, "off"), 1, 10), Shortage::Unbounded(0));
        assert!(matches!(shortage(&config(Limit::at_most(u32::MAX), "off"), 1, 1 << 20), Shortage::Needed(_)));
    }
}
