//! Sockets that already listen when the server starts: those of a service manager, or of the process before a restart.

use std::io;
use std::net::TcpListener;
#[cfg(unix)]
use std::os::unix::net::UnixListener;

use super::error::Error;
use crate::config::{Listen, ListenAddress};

/// A socket that already listens, for [`Server::bind_with_sockets`](super::Server::bind_with_sockets).
///
/// ```
/// use lobbyd::apps::Relay;
/// use lobbyd::net::{ListenSocket, Server};
/// use lobbyd::{Config, Time};
///
/// let socket = ListenSocket::Tcp(std::net::TcpListener::bind("127.0.0.1:0")?);
/// let listen = [socket.address()?].into_iter().collect();
/// let config = Config { listen, ..Config::default() }.check()?;
/// let server = Server::bind_with_sockets(config, Relay::default(), None, vec![socket])?;
/// assert_eq!(server.local_addrs(), server.engine().config().listen.addresses());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub enum ListenSocket {
    /// A socket of an IP address.
    Tcp(TcpListener),
    /// A socket file. The server does not remove it.
    #[cfg(unix)]
    Unix(UnixListener),
}

impl ListenSocket {
    /// Returns the address that the socket listens on.
    ///
    /// # Errors
    ///
    /// Errors of the operating system, and `InvalidInput` for an abstract socket, which has no path.
    pub fn address(&self) -> io::Result<ListenAddress> {
        match self {
            ListenSocket::Tcp(socket) => socket.local_addr().map(ListenAddress::Ip),
            #[cfg(unix)]
            ListenSocket::Unix(socket) => {
                let address = socket.local_addr()?;
                let path = address.as_pathname().ok_or_else(|| {
                    io::Error::new(io::ErrorKind::InvalidInput, "a unix socket without a path cannot be used")
                })?;
                Ok(ListenAddress::Unix(path.to_owned()))
            }
        }
    }
}

/// The sockets that were given to a server, by their addresses.
pub(super) struct GivenSockets(Vec<(ListenAddress, ListenSocket)>);

impl GivenSockets {
    /// # Errors
    ///
    /// [`Error::Listen`] if the address of a socket is not in one of `lists`: it would never be accepted from.
    pub(super) fn new<'a>(
        sockets: Vec<ListenSocket>,
        lists: impl Iterator<Item = &'a Listen> + Clone,
    ) -> Result<GivenSockets, Error> {
        let named = sockets.into_iter().map(|socket| {
            let address = socket.address().map_err(Error::Poll)?;
            let is_listed = |list: &Listen| list.addresses().iter().any(|listed| listed.without_tls() == &address);
            if !lists.clone().any(is_listed) {
                let problem =
                    io::Error::new(io::ErrorKind::InvalidInput, "a socket was given for it, but it is not listed");
                return Err(Error::Listen(address, problem));
            }
            Ok((address, socket))
        });
        named.collect::<Result<_, _>>().map(GivenSockets)
    }

    /// Removes and returns the socket of this address, if there is one.
    pub(super) fn take(&mut self, address: &ListenAddress) -> Option<ListenSocket> {
        let at = self.0.iter().position(|(given, _)| given == address.without_tls())?;
        Some(self.0.swap_remove(at).1)
    }
}
