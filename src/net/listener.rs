//! A listening socket, and its behaviour when the system has no file descriptor left.

use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use log::warn;
use mio::net::TcpListener;
#[cfg(unix)]
use mio::net::UnixListener;
use mio::{Interest, Registry, Token};
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use super::listen_socket::ListenSocket;
use super::plain_stream::PlainStream;
#[cfg(unix)]
use super::socket_file::{self, SocketFile};
use super::stream::Stream;
use crate::base::peer::Peer;
use crate::config::{FileMode, ListenAddress};

/// Completed connections that the kernel queues until they are accepted. The kernel uses the smaller of this and
/// `somaxconn`.
const LISTEN_BACKLOG: i32 = 4096;
/// Wait before accepting again when the system lacks memory or descriptors.
pub(super) const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

pub(super) struct Listener {
    socket: ListeningSocket,
    /// A reserved descriptor. It is closed for a moment to accept and drop a connection for which no descriptor is
    /// left. Otherwise the connection would stay in the listen backlog, and edge-triggered polling would not report it
    /// again.
    spare: Option<File>,
    warned: bool,
    /// Whether the socket outlasts this process: see [`ListenSocket`].
    is_given: bool,
    /// Whether its connections begin with TLS.
    is_tls: bool,
}

enum ListeningSocket {
    Tcp(TcpListener),
    #[cfg(unix)]
    Unix {
        socket: UnixListener,
        path: PathBuf,
        /// Present if this process has created it.
        _file: Option<SocketFile>,
    },
}

/// Outcome of one call of accept.
pub(super) enum Outcome {
    Accepted(Accepted),
    /// No connection is waiting. The next one causes a new event.
    Empty,
    /// The system lacks a resource. No event follows: try again later.
    Later,
}

/// A connection that was taken from the backlog.
pub(super) enum Accepted {
    Connection(Stream, Peer),
    /// It was closed, because no descriptor was left for it.
    Shed,
    /// Its peer closed it before it was accepted.
    Aborted,
}

impl Listener {
    /// Listens on `address`; an IPv6 address only takes IPv4 connections if `takes_ipv4`, whatever the system's default
    /// is. `receive_bytes` bounds the kernel's receive buffer of each connection.
    pub(super) fn bind_tcp(
        address: SocketAddr,
        takes_ipv4: bool,
        receive_bytes: Option<usize>,
    ) -> io::Result<Listener> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        // A restart then need not wait for the TIME_WAIT state of old connections.
        #[cfg(unix)]
        socket.set_reuse_address(true)?;
        if address.is_ipv6() {
            socket.set_only_v6(!takes_ipv4)?;
        }
        set_options(&socket, receive_bytes)?;
        socket.bind(&address.into())?;
        socket.listen(LISTEN_BACKLOG)?;
        Ok(Listener::new(ListeningSocket::Tcp(TcpListener::from_std(socket.into()))))
    }

    /// Listens on a new socket file.
    #[cfg(unix)]
    pub(super) fn bind_file(path: &Path, mode: FileMode) -> io::Result<Listener> {
        let (socket, file) = socket_file::listen(path, mode, LISTEN_BACKLOG)?;
        Ok(Listener::new(ListeningSocket::Unix { socket, path: path.to_owned(), _file: Some(file) }))
    }

    #[cfg(not(unix))]
    pub(super) fn bind_file(_: &Path, _: FileMode) -> io::Result<Listener> {
        Err(io::Error::new(io::ErrorKind::Unsupported, "this system has no socket files"))
    }

    /// Uses a socket that already listens.
    pub(super) fn given(socket: ListenSocket, receive_bytes: Option<usize>) -> io::Result<Listener> {
        let socket = match socket {
            ListenSocket::Tcp(socket) => {
                set_options(&SockRef::from(&socket), receive_bytes)?;
                ListeningSocket::Tcp(TcpListener::from_std(socket))
            }
            #[cfg(unix)]
            ListenSocket::Unix(socket) => {
                socket.set_nonblocking(true)?;
                let path = socket.local_addr()?.as_pathname().map(Path::to_owned).unwrap_or_default();
                ListeningSocket::Unix { socket: UnixListener::from_std(socket), path, _file: None }
            }
        };
        Ok(Listener { is_given: true, ..Listener::new(socket) })
    }

    fn new(socket: ListeningSocket) -> Listener {
        Listener { socket, spare: spare(), warned: false, is_given: false, is_tls: false }
    }

    /// The same listener, whose connections begin with TLS if `is_tls`.
    pub(super) fn with_tls(self, is_tls: bool) -> Listener {
        Listener { is_tls, ..self }
    }

    /// Whether the socket continues to listen after this process.
    pub(super) fn is_given(&self) -> bool {
        self.is_given
    }

    pub(super) fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        match &mut self.socket {
            ListeningSocket::Tcp(socket) => registry.register(socket, token, Interest::READABLE),
            #[cfg(unix)]
            ListeningSocket::Unix { socket, .. } => registry.register(socket, token, Interest::READABLE),
        }
    }

    /// Returns the address that the listener is bound to.
    pub(super) fn address(&self) -> io::Result<ListenAddress> {
        let address = match &self.socket {
            ListeningSocket::Tcp(socket) => ListenAddress::Ip(socket.local_addr()?),
            #[cfg(unix)]
            ListeningSocket::Unix { path, .. } => ListenAddress::Unix(path.clone()),
        };
        Ok(if self.is_tls { ListenAddress::Tls(Box::new(address)) } else { address })
    }

    pub(super) fn accept(&mut self) -> Outcome {
        match self.socket.accept() {
            Ok((socket, peer)) => Outcome::Accepted(Accepted::Connection(Stream::new(socket, self.is_tls), peer)),
            Err(error) => match AcceptError::of(&error) {
                AcceptError::Empty => Outcome::Empty,
                AcceptError::Peer => Outcome::Accepted(Accepted::Aborted),
                AcceptError::Descriptors => self.shed(&error),
                AcceptError::System => {
                    self.warn_once(&error);
                    Outcome::Later
                }
            },
        }
    }

    /// Uses the spare descriptor to accept and drop one connection.
    fn shed(&mut self, error: &io::Error) -> Outcome {
        self.warn_once(error);
        if self.spare.take().is_none() {
            self.spare = spare();
            return Outcome::Later;
        }
        let shed = self.socket.accept();
        let was_there = shed.is_ok();
        drop(shed);
        self.spare = spare();
        if was_there { Outcome::Accepted(Accepted::Shed) } else { Outcome::Later }
    }

    fn warn_once(&mut self, error: &io::Error) {
        if !self.warned {
            self.warned = true;
            warn!(
                "cannot accept connections: {error}; raise the limit of open files (ulimit -n, LimitNOFILE) to \
                 the number that `lobbyd check` prints"
            );
        }
    }
}

impl ListeningSocket {
    fn accept(&self) -> io::Result<(PlainStream, Peer)> {
        match self {
            ListeningSocket::Tcp(socket) => {
                let (stream, peer) = socket.accept()?;
                if !cfg!(target_os = "linux") {
                    // This fails only for a closed connection, which the first read detects.
                    let _ = stream.set_nodelay(true);
                }
                Ok((PlainStream::Tcp(stream), peer.into()))
            }
            #[cfg(unix)]
            ListeningSocket::Unix { socket, .. } => {
                let (stream, _) = socket.accept()?;
                // Socket files hand no options down. This cannot fail for an open socket.
                let _ = SockRef::from(&stream).set_out_of_band_inline(true);
                Ok((PlainStream::Unix(stream), Peer::Unix))
            }
        }
    }
}

/// Sets the options of a TCP listener. On Linux accepted sockets inherit them, which saves system calls for each.
fn set_options(socket: &Socket, receive_bytes: Option<usize>) -> io::Result<()> {
    socket.set_tcp_nodelay(true)?;
    // TCP has no data out of band: the urgent byte is part of the stream (RFC 6093 section 4).
    socket.set_out_of_band_inline(true)?;
    // It limits the TCP window only if it is set before listening. A socket that listens already has another window.
    if let Some(bytes) = receive_bytes {
        socket.set_recv_buffer_size(bytes)?;
    }
    socket.set_nonblocking(true)
}

/// Classes of errors of accept(2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum AcceptError {
    /// No connection is waiting.
    Empty,
    /// The connection failed, or the call was interrupted. The next connection may be accepted at once.
    Peer,
    /// A connection is waiting, but no descriptor is left for it.
    Descriptors,
    /// The system lacks memory (`ENOBUFS`, `ENOMEM`), or the error is unknown. Try again later.
    System,
}

impl AcceptError {
    fn of(error: &io::Error) -> AcceptError {
        use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted, WouldBlock};
        match error.kind() {
            WouldBlock => AcceptError::Empty,
            Interrupted | ConnectionAborted | ConnectionReset => AcceptError::Peer,
            _ => AcceptError::of_errno(error),
        }
    }

    #[cfg(unix)]
    fn of_errno(error: &io::Error) -> AcceptError {
        use rustix::io::Errno;
        match Errno::from_io_error(error) {
            Some(Errno::MFILE | Errno::NFILE) => AcceptError::Descriptors,
            // On Linux, accept(2) returns a network error that is already pending on the new socket.
            #[cfg(target_os = "linux")]
            Some(
                Errno::PROTO
                | Errno::NOPROTOOPT
                | Errno::NETDOWN
                | Errno::NETUNREACH
                | Errno::HOSTDOWN
                | Errno::HOSTUNREACH
                | Errno::NONET
                | Errno::OPNOTSUPP,
            ) => AcceptError::Peer,
            _ => AcceptError::System,
        }
    }

    #[cfg(not(unix))]
    fn of_errno(_: &io::Error) -> AcceptError {
        AcceptError::System
    }
}

fn spare() -> Option<File> {
    File::open("/dev/null").ok()
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    /// Numbers are those of Linux.
    #[test]
    fn errors_of_accept_are_classified() {
        for (code, name, expected) in [
            (11, "EAGAIN", AcceptError::Empty),
            (4, "EINTR", AcceptError::Peer),
            (103, "ECONNABORTED", AcceptError::Peer),
            (104, "ECONNRESET", AcceptError::Peer),
            (71, "EPROTO", AcceptError::Peer),
            (92, "ENOPROTOOPT", AcceptError::Peer),
            (100, "ENETDOWN", AcceptError::Peer),
            (101, "ENETUNREACH", AcceptError::Peer),
            (112, "EHOSTDOWN", AcceptError::Peer),
            (113, "EHOSTUNREACH", AcceptError::Peer),
            (64, "ENONET", AcceptError::Peer),
            (95, "EOPNOTSUPP", AcceptError::Peer),
            (24, "EMFILE", AcceptError::Descriptors),
            (23, "ENFILE", AcceptError::Descriptors),
            (105, "ENOBUFS", AcceptError::System),
            (12, "ENOMEM", AcceptError::System),
            (1, "EPERM", AcceptError::System),
            (9999, "unknown", AcceptError::System),
        ] {
            assert_eq!(AcceptError::of(&io::Error::from_raw_os_error(code)), expected, "{name}");
        }
        assert_eq!(AcceptError::of(&io::ErrorKind::Other.into()), AcceptError::System);
    }
}
