//! All listening sockets of one port: the addresses of `listen`, or those of `admin`. They take turns.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};

use log::warn;
use mio::Registry;

use super::error::Error;
use super::listen_socket::GivenSockets;
use super::listener::{ACCEPT_PAUSE, Accepted, Listener, Outcome};
use super::tokens::{ListenerTokens, MAX_LISTENERS};
use crate::base::time::Time;
use crate::config::{FileMode, Listen, ListenAddress};

/// Free ports that are tried for a name with several addresses and port 0.
const MAX_FREE_PORTS: usize = 32;

pub(super) struct Listeners {
    listeners: Vec<Waiting>,
    addresses: Vec<ListenAddress>,
    /// Index of the listener whose turn it is.
    next: usize,
}

struct Waiting {
    listener: Listener,
    /// When to accept next, if a connection may be waiting.
    accept_at: Option<Time>,
    /// Connections are left to the process that gets the socket next.
    is_paused: bool,
}

impl Listeners {
    /// Resolves the names and listens on all addresses, on `given` sockets where there are any. `receive_bytes` bounds the
    /// kernel's receive buffer of each TCP connection.
    ///
    /// # Errors
    ///
    /// [`Error::Listen`] with the first address on which listening failed.
    pub(super) fn bind(
        listen: &Listen,
        mode: FileMode,
        receive_bytes: Option<usize>,
        given: &mut GivenSockets,
    ) -> Result<Listeners, Error> {
        let mut listeners = Vec::new();
        for address in listen.addresses() {
            let bound = match (given.take(address), address.without_tls()) {
                (Some(socket), _) => Listener::given(socket, receive_bytes).map(|listener| vec![listener]),
                (None, ListenAddress::Ip(ip)) => bind_ip(*ip, listen, receive_bytes).map(|listener| vec![listener]),
                (None, ListenAddress::Name { host, port }) => {
                    resolve(address, host, *port).and_then(|addresses| bind_name(&addresses, listen, receive_bytes))
                }
                (None, ListenAddress::Unix(path)) => Listener::bind_file(path, mode).map(|listener| vec![listener]),
                (None, ListenAddress::Tls(_)) => unreachable!("the check of the configuration refuses tls: twice"),
            };
            let bound = bound.map_err(|error| Error::Listen(address.clone(), error))?;
            listeners.extend(bound.into_iter().map(|listener| listener.with_tls(address.is_tls())));
            if listeners.len() > MAX_LISTENERS {
                let problem = format!("the names have more than {MAX_LISTENERS} addresses");
                return Err(Error::Listen(address.clone(), io::Error::new(io::ErrorKind::InvalidInput, problem)));
            }
        }
        let addresses = listeners.iter().map(Listener::address).collect::<io::Result<_>>().map_err(Error::Poll)?;
        let listeners =
            listeners.into_iter().map(|listener| Waiting { listener, accept_at: None, is_paused: false }).collect();
        Ok(Listeners { listeners, addresses, next: 0 })
    }

    pub(super) fn register(&mut self, registry: &Registry, tokens: ListenerTokens) -> io::Result<()> {
        for (index, waiting) in self.listeners.iter_mut().enumerate() {
            waiting.listener.register(registry, tokens.token(index))?;
        }
        Ok(())
    }

    /// The addresses, with the ports that were chosen.
    pub(super) fn addresses(&self) -> &[ListenAddress] {
        &self.addresses
    }

    /// The first IP address.
    pub(super) fn first_ip(&self) -> Option<SocketAddr> {
        self.addresses.iter().find_map(|address| match address.without_tls() {
            ListenAddress::Ip(address) => Some(*address),
            _ => None,
        })
    }

    /// The poll reported that connections wait at a listener.
    pub(super) fn handle_ready(&mut self, now: Time, index: usize) {
        if let Some(waiting) = self.listeners.get_mut(index).filter(|waiting| !waiting.is_paused) {
            waiting.accept_at = Some(now);
        }
    }

    /// Accepts no more connections from sockets that outlast this process. The kernel queues them for the next one.
    /// Returns whether there are such sockets.
    pub(super) fn pause_given(&mut self) -> bool {
        for waiting in self.listeners.iter_mut().filter(|waiting| waiting.listener.is_given()) {
            (waiting.is_paused, waiting.accept_at) = (true, None);
        }
        self.listeners.iter().any(|waiting| waiting.is_paused)
    }

    /// Lets [`accept`](Self::accept) try listeners, too, for which no event was reported yet.
    pub(super) fn try_all(&mut self, now: Time) {
        for waiting in self.listeners.iter_mut().filter(|waiting| !waiting.is_paused) {
            waiting.accept_at.get_or_insert(now);
        }
    }

    /// Time at which to accept again; `None` if no connection waits.
    pub(super) fn poll_timeout(&self) -> Option<Time> {
        self.listeners.iter().filter_map(|waiting| waiting.accept_at).min()
    }

    /// Accepts a connection. Returns `None` when no listener has one now. The listeners take turns, so that a flood at
    /// one of them does not keep the others waiting.
    pub(super) fn accept(&mut self, now: Time) -> Option<Accepted> {
        let count = self.listeners.len();
        for step in 0..count {
            let index = (self.next + step) % count;
            let waiting = &mut self.listeners[index];
            if waiting.accept_at.is_none_or(|at| at > now) {
                continue;
            }
            match waiting.listener.accept() {
                Outcome::Accepted(accepted) => {
                    // More may wait, and no second event follows.
                    self.next = (index + 1) % count;
                    return Some(accepted);
                }
                Outcome::Empty => waiting.accept_at = None,
                Outcome::Later => waiting.accept_at = Some(now + ACCEPT_PAUSE),
            }
        }
        None
    }
}

fn bind_ip(address: SocketAddr, listen: &Listen, receive_bytes: Option<usize>) -> io::Result<Listener> {
    let has_ipv4 = listen.addresses().iter().any(|other| {
        matches!(other.without_tls(), ListenAddress::Ip(SocketAddr::V4(v4)) if v4.ip().is_unspecified() && v4.port() == address.port())
    });
    let takes_ipv4 = address.is_ipv6() && address.ip().is_unspecified() && !has_ipv4;
    Listener::bind_tcp(address, takes_ipv4, receive_bytes)
}

/// Returns the addresses of a name, each once. Asks the name service, which blocks, unless they are known.
fn resolve(address: &ListenAddress, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    let known = address.known_addresses();
    let found = if known.is_empty() { (host, port).to_socket_addrs()?.collect() } else { known };
    let mut addresses: Vec<SocketAddr> = Vec::new();
    for address in found {
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    if addresses.is_empty() {
        return Err(io::Error::new(io::ErrorKind::NotFound, "the name has no address"));
    }
    Ok(addresses)
}

/// Listens on all addresses of a name that the machine has. If their port is 0, all get the same free port.
fn bind_name(addresses: &[SocketAddr], listen: &Listen, receive_bytes: Option<usize>) -> io::Result<Vec<Listener>> {
    for _ in 1..MAX_FREE_PORTS {
        match try_bind_name(addresses, listen, receive_bytes) {
            // The free port of one address is taken at another one.
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && addresses[0].port() == 0 => {}
            result => return result,
        }
    }
    try_bind_name(addresses, listen, receive_bytes)
}

fn try_bind_name(addresses: &[SocketAddr], listen: &Listen, receive_bytes: Option<usize>) -> io::Result<Vec<Listener>> {
    let (mut bound, mut missing) = (Vec::new(), None);
    let mut port = addresses[0].port();
    for address in addresses {
        let address = SocketAddr::new(address.ip(), port);
        match bind_ip(address, listen, receive_bytes) {
            Ok(listener) => {
                if port == 0
                    && let ListenAddress::Ip(bound) = listener.address()?
                {
                    port = bound.port();
                }
                bound.push(listener);
            }
            Err(error) if is_missing(&error) => missing = Some((address, error)),
            Err(error) => return Err(error),
        }
    }
    match missing {
        Some((_, error)) if bound.is_empty() => Err(error),
        Some((address, error)) => {
            warn!("not listening on {address}, an address of the name: {error}");
            Ok(bound)
        }
        None => Ok(bound),
    }
}

/// Whether the machine does not have the address, or no addresses of its family.
fn is_missing(error: &io::Error) -> bool {
    #[cfg(unix)]
    let has_no_family = rustix::io::Errno::from_io_error(error) == Some(rustix::io::Errno::AFNOSUPPORT);
    #[cfg(not(unix))]
    let has_no_family = false;
    has_no_family || error.kind() == io::ErrorKind::AddrNotAvailable
}
