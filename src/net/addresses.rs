//! The addresses that a server listens on.

use std::io;
use std::net::SocketAddr;

use super::server::Server;
use crate::config::ListenAddress;
use crate::engine::app::App;

impl<A: App> Server<A> {
    /// Returns the first IP address that the server listens on, with its port.
    ///
    /// # Errors
    ///
    /// `AddrNotAvailable` when the server listens on socket files only.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        let error = || io::Error::new(io::ErrorKind::AddrNotAvailable, "the server listens on socket files only");
        self.listeners.first_ip().ok_or_else(error)
    }

    /// Returns all addresses that the server listens on: IP addresses with their ports, and socket files. Names are
    /// replaced by their addresses.
    pub fn local_addrs(&self) -> &[ListenAddress] {
        self.listeners.addresses()
    }

    /// Returns the first IP address of the admin listeners, with its port; `None` when there is none, or `admin` is
    /// off.
    pub fn admin_addr(&self) -> Option<SocketAddr> {
        self.operators.as_ref().and_then(|operators| operators.listeners().first_ip())
    }

    /// Returns all addresses of the admin listeners, as [`local_addrs`](Self::local_addrs); none when `admin` is off.
    pub fn admin_addrs(&self) -> &[ListenAddress] {
        self.operators.as_ref().map_or(&[], |operators| operators.listeners().addresses())
    }
}
