//! The listening socket, and what to do when the system has no descriptor left.

use std::fs::File;
use std::io;
use std::net::SocketAddr;

use log::warn;
use mio::net::{TcpListener, TcpStream};
use mio::{Interest, Registry, Token};
use socket2::{Domain, Protocol, Socket, Type};

/// Connections the kernel completes before they are accepted; it takes the smaller of this and `somaxconn`.
const BACKLOG: i32 = 4096;
/// `EMFILE` and `ENFILE`: the process, or the system, has no descriptor left. The same numbers on all Unix systems.
const NO_DESCRIPTORS: [i32; 2] = [24, 23];
/// `EPROTO` and those like it: on Linux, accept(2) reports an error that is already pending on the new socket as its own.
#[cfg(target_os = "linux")]
const PENDING_ERRORS: [i32; 8] = [71, 92, 100, 101, 112, 113, 64, 95];
#[cfg(not(target_os = "linux"))]
const PENDING_ERRORS: [i32; 0] = [];

pub(super) struct Listener {
    socket: TcpListener,
    /// Given up for a moment to accept, and drop, a connection for which there is no descriptor. Otherwise it would
    /// stay in the backlog, and with edge-triggered events nobody would be told of it again.
    spare: Option<File>,
    warned: bool,
}

/// What came of trying to accept.
pub(super) enum Accepted {
    Connection(TcpStream, SocketAddr),
    /// There was one, but no descriptor for it: it was closed.
    Shed,
    /// The peer was gone before it was accepted.
    Aborted,
    /// There is no more. A new one brings a new event.
    Empty,
    /// The system is short of something. No event will follow: try again later.
    Later,
}

impl Listener {
    /// Listens on `address`. `receive_bytes` bounds what the kernel keeps of each connection for it to be read.
    pub(super) fn bind(address: SocketAddr, receive_bytes: Option<usize>) -> io::Result<Listener> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        // So that a restart need not wait for the old connections' TIME_WAIT.
        #[cfg(unix)]
        socket.set_reuse_address(true)?;
        // On Linux accepted sockets inherit it, which saves a system call for each.
        socket.set_tcp_nodelay(true)?;
        // Inherited too; and only before listening can it bound the window that a peer is offered.
        if let Some(bytes) = receive_bytes {
            socket.set_recv_buffer_size(bytes)?;
        }
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
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
                    // It fails only for a connection that is gone, which reading will tell.
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

/// What an error of accept(2) says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum AcceptError {
    /// There is nobody to accept.
    Empty,
    /// That connection came to nothing, or the call was interrupted: the next one may be accepted at once.
    Peer,
    /// There is a connection, and no descriptor for it.
    Descriptors,
    /// The system is short of something, `ENOBUFS` or `ENOMEM`, or does not say what it is: better later.
    System,
}

impl AcceptError {
    fn of(error: &io::Error) -> AcceptError {
        use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted, WouldBlock};
        match (error.kind(), error.raw_os_error()) {
            (WouldBlock, _) => AcceptError::Empty,
            (Interrupted | ConnectionAborted | ConnectionReset, _) => AcceptError::Peer,
            (_, Some(code)) if NO_DESCRIPTORS.contains(&code) => AcceptError::Descriptors,
            (_, Some(code)) if PENDING_ERRORS.contains(&code) => AcceptError::Peer,
            _ => AcceptError::System,
        }
    }
}

fn spare() -> Option<File> {
    File::open("/dev/null").ok()
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    /// The errors of accept(2) by their numbers on Linux.
    #[test]
    fn each_error_of_accept_is_taken_for_what_it_is() {
        for (code, name, trouble) in [
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
            (9999, "none that is known", AcceptError::System),
        ] {
            assert_eq!(AcceptError::of(&io::Error::from_raw_os_error(code)), trouble, "{name}");
        }
        assert_eq!(AcceptError::of(&io::ErrorKind::Other.into()), AcceptError::System);
    }
}
