//! One socket of a member, with the bytes that wait to be written. Knows no protocol.

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr};

use lobbyd::client::Stream;
use mio::net::TcpStream;
use mio::{Interest, Registry, Token};

/// Which of the sockets of a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// The one on which it receives messages.
    Main,
    /// The one for its POSTs.
    Posts,
}

impl Part {
    /// Returns the token of this socket of the member at an index.
    pub(super) fn token(self, at: usize) -> Token {
        Token(at << 1 | usize::from(self == Part::Posts))
    }

    /// Returns which socket of which member has the token.
    pub(super) fn of(token: Token) -> (usize, Part) {
        (token.0 >> 1, if token.0 & 1 == 0 { Part::Main } else { Part::Posts })
    }
}

#[derive(Debug)]
pub(super) struct Socket {
    stream: Stream<TcpStream>,
    is_open: bool,
    out: Vec<u8>,
    /// Bytes of `out` that were written.
    written: usize,
}

impl Socket {
    /// Takes a socket that connects, and registers it.
    pub(super) fn new(
        mut socket: TcpStream,
        tls: Option<(&lobbyd::client::Trust, &str)>,
        registry: &Registry,
        token: Token,
    ) -> io::Result<Socket> {
        let _ = socket.set_nodelay(true);
        registry.register(&mut socket, token, Interest::READABLE | Interest::WRITABLE)?;
        Ok(Socket { stream: Stream::new(socket, tls)?, is_open: false, out: Vec::new(), written: 0 })
    }

    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.out.extend_from_slice(bytes);
    }

    /// Returns the number of bytes that wait to be written.
    pub(super) fn unwritten(&self) -> usize {
        self.out.len() - self.written
    }

    /// Writes what waits, once the socket is connected.
    pub(super) fn handle_writable(&mut self) -> io::Result<()> {
        if !self.is_open {
            if let Some(error) = self.stream.socket().take_error()? {
                return Err(error);
            }
            if self.stream.socket().peer_addr().is_err() {
                return Ok(());
            }
            self.is_open = true;
        }
        self.flush()
    }

    /// Writes as much as the socket takes.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        if !self.is_open {
            return Ok(());
        }
        while self.written < self.out.len() {
            match self.stream.write(&self.out[self.written..]) {
                Ok(count) => self.written += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    // A slow reader may never take everything.
                    self.out.drain(..std::mem::take(&mut self.written));
                    return Ok(());
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.out.clear();
        self.written = 0;
        self.stream.flush()
    }

    /// Reads once. Returns the number of bytes, 0 at the end of the stream; `None` if there is nothing to read.
    pub(super) fn read(&mut self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        if !self.is_open {
            return Ok(None);
        }
        loop {
            match self.stream.read(buffer) {
                Ok(count) => return Ok(Some(count)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// Begins a connection, from the address `source` if there is one.
pub(super) fn connect(address: SocketAddr, source: Option<IpAddr>) -> io::Result<TcpStream> {
    let Some(source) = source else { return TcpStream::connect(address) };
    let socket = socket2::Socket::new(socket2::Domain::for_address(address), socket2::Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.bind(&SocketAddr::new(source, 0).into())?;
    match socket.connect(&address.into()) {
        Err(error) if !is_in_progress(&error) => Err(error),
        _ => Ok(TcpStream::from_std(socket.into())),
    }
}

fn is_in_progress(error: &io::Error) -> bool {
    #[cfg(unix)]
    let is_unix = rustix::io::Errno::from_io_error(error) == Some(rustix::io::Errno::INPROGRESS);
    #[cfg(not(unix))]
    let is_unix = false;
    is_unix || error.kind() == io::ErrorKind::WouldBlock
}
