//! Sockets that a service manager has opened: sd_listen_fds(3).
//!
//! Descriptors with the name `admin` (`FileDescriptorName=`) are the operators', all others the members'. Connections to those
//! with the name `tls` or `admin-tls` begin with TLS. They replace the addresses of `listen` and `admin`.

use std::env;

use listenfd::ListenFd;
use lobbyd::net::ListenSocket;

/// Name of the descriptors for operators.
const ADMIN: &str = "admin";
/// Names of those with TLS, for members and for operators.
const TLS: &str = "tls";
const ADMIN_TLS: &str = "admin-tls";

/// The sockets, and the addresses that `listen` and `admin` then have.
#[derive(Default)]
pub(crate) struct ActivatedSockets {
    pub(crate) sockets: Vec<ListenSocket>,
    /// Texts of the options that the sockets replace, by name.
    pub(crate) options: Vec<(&'static str, String)>,
}

impl ActivatedSockets {
    /// Takes the sockets that `LISTEN_FDS`, `LISTEN_PID` and `LISTEN_FDNAMES` describe. To be called once.
    ///
    /// # Errors
    ///
    /// A sentence about `LISTEN_FDS`, or about a descriptor that cannot be used.
    pub(crate) fn from_environment() -> Result<ActivatedSockets, String> {
        check_count()?;
        let names = env::var("LISTEN_FDNAMES").unwrap_or_default();
        let mut descriptors = ListenFd::from_env();
        let mut names = names.split(':');
        let (mut given, mut listen, mut admin) = (ActivatedSockets::default(), Vec::new(), Vec::new());
        for index in 0..descriptors.len() {
            // systemd numbers them from 3.
            let problem = |error: &dyn std::fmt::Display| format!("LISTEN_FDS: descriptor {}: {error}", index + 3);
            let socket = take(&mut descriptors, index).map_err(|error| problem(&error))?;
            let address = socket.address().map_err(|error| problem(&error))?;
            let name = names.next().unwrap_or_default();
            let list = if [ADMIN, ADMIN_TLS].contains(&name) { &mut admin } else { &mut listen };
            let scheme = if [TLS, ADMIN_TLS].contains(&name) { "tls:" } else { "" };
            list.push(format!("{scheme}{address}"));
            given.sockets.push(socket);
        }
        let options = [("listen", listen), ("admin", admin)];
        given.options = options
            .into_iter()
            .filter(|(_, list)| !list.is_empty())
            .map(|(name, list)| (name, list.join(",")))
            .collect();
        Ok(given)
    }
}

/// Checks that `LISTEN_FDS` is a number, if it is for this process.
fn check_count() -> Result<(), String> {
    let pid = env::var_os("LISTEN_PID").filter(|pid| !pid.is_empty());
    let is_ours = pid.is_none_or(|pid| pid == *std::process::id().to_string());
    match env::var_os("LISTEN_FDS").filter(|count| is_ours && !count.is_empty()) {
        Some(count) if count.to_str().is_none_or(|count| count.parse::<u16>().is_err()) => {
            Err(format!("LISTEN_FDS = {}: must be the number of descriptors", count.to_string_lossy()))
        }
        _ => Ok(()),
    }
}

#[cfg(unix)]
fn take(descriptors: &mut ListenFd, index: usize) -> Result<ListenSocket, String> {
    // A descriptor of the wrong kind stays where it is.
    if let Ok(Some(socket)) = descriptors.take_unix_listener(index) {
        return Ok(ListenSocket::Unix(socket));
    }
    take_tcp(descriptors, index)
}

#[cfg(not(unix))]
fn take(descriptors: &mut ListenFd, index: usize) -> Result<ListenSocket, String> {
    take_tcp(descriptors, index)
}

fn take_tcp(descriptors: &mut ListenFd, index: usize) -> Result<ListenSocket, String> {
    match descriptors.take_tcp_listener(index) {
        Ok(Some(socket)) => Ok(ListenSocket::Tcp(socket)),
        _ => Err("it is no stream socket of TCP or of a socket file".into()),
    }
}
