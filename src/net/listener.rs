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
    pub(super) fn bind(address: SocketAddr) -> io::Result<Listener> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        // So that a restart need not wait for the old connections' TIME_WAIT.
        #[cfg(unix)]
        socket.set_reuse_address(true)?;
        // On Linux accepted sockets inherit it, which saves a system call for each.
        socket.set_tcp_nodelay(true)?;
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
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Accepted::Empty,
            Err(error) if error.raw_os_error().is_some_and(|code| NO_DESCRIPTORS.contains(&code)) => self.shed(&error),
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::Interrupted | io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset
                ) =>
            {
                Accepted::Aborted
            }
            Err(error) => {
                self.warn_once(&error);
                Accepted::Later
            }
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

fn spare() -> Option<File> {
    File::open("/dev/null").ok()
}
