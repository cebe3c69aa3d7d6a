//! The listening socket, and its behaviour when the system has no file descriptor left.

use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use log::warn;
use mio::net::{TcpListener, TcpStream};
use mio::{Interest, Registry, Token};
use socket2::{Domain, Protocol, Socket, Type};

/// Completed connections that the kernel queues until they are accepted. The kernel uses the smaller of this and
/// `somaxconn`.
const LISTEN_BACKLOG: i32 = 4096;
/// Wait before accepting again when the system lacks memory or descriptors.
pub(super) const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

pub(super) struct Listener {
    socket: TcpListener,
    /// A reserved descriptor. It is closed for a moment to accept and drop a connection for which no descriptor is
    /// left. Otherwise the connection would stay in the listen backlog, and edge-triggered polling would not report it
    /// again.
    spare: Option<File>,
    warned: bool,
}

/// Outcome of one call of accept.
pub(super) enum Accepted {
    Connection(TcpStream, SocketAddr),
    /// A connection was accepted and closed, because no descriptor was left for it.
    Shed,
    /// The peer closed the connection before it was accepted.
    Aborted,
    /// No connection is waiting. The next one causes a new event.
    Empty,
    /// The system lacks a resource. No event follows: try again later.
    Later,
}

impl Listener {
    /// Listens on `address`. `receive_bytes` bounds the kernel's receive buffer of each connection.
    pub(super) fn bind(address: SocketAddr, receive_bytes: Option<usize>) -> io::Result<Listener> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        // A restart then need not wait for the TIME_WAIT state of old connections.
        #[cfg(unix)]
        socket.set_reuse_address(true)?;
        // On Linux accepted sockets inherit this option, which saves a system call for each.
        socket.set_tcp_nodelay(true)?;
        // Inherited too. TCP has no data out of band: the urgent byte is part of the stream (RFC 6093 section 4).
        socket.set_out_of_band_inline(true)?;
        // Inherited too. It limits the TCP window only if it is set before listening.
        if let Some(bytes) = receive_bytes {
            socket.set_recv_buffer_size(bytes)?;
        }
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        socket.listen(LISTEN_BACKLOG)?;
        Ok(Listener { socket: TcpListener::from_std(socket.into()), spare: spare(), warned: false })
    }

    pub(super) fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        registry.register(&mut self.socket, token, Interest::READABLE)
    }

    pub(super) fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    pub(super) fn accept(&mut self) -> Accepted {
        match self.socket.accept() {
            Ok((stream, peer)) => {
                if !cfg!(target_os = "linux") {
                    // This fails only for a closed connection, which the first read detects.
                    let _ = stream.set_nodelay(true);
                }
                Accepted::Connection(stream, peer)
            }
            Err(error) => match AcceptError::of(&error) {
                AcceptError::Empty => Accepted::Empty,
                AcceptError::Peer => Accepted::Aborted,
                AcceptError::Descriptors => self.shed(&error),
                AcceptError::System => {
                    self.warn_once(&error);
                    Accepted::Later
                }
            },
        }
    }

    /// Uses the spare descriptor to accept and drop one connection.
    fn shed(&mut self, error: &io::Error) -> Accepted {
        self.warn_once(error);
        if self.spare.take().is_none() {
            self.spare = spare();
            return Accepted::Later;
        }
        let shed = self.socket.accept();
        let was_there = shed.is_ok();
        drop(shed);
        self.spare = spare();
        if was_there { Accepted::Shed } else { Accepted::Later }
    }

    fn warn_once(&mut self, error: &io::Error) {
        if !self.warned {
            self.warned = true;
            warn!(
                "cannot accept connections: {error}; raise the limit of open files (ulimit -n) above max_connections"
            );
        }
    }
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
