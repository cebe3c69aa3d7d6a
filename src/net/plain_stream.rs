//! A socket of a connection: TCP, or of a socket file.

use std::io::{self, IoSlice, Read, Write};
use std::net::Shutdown;

use mio::event::Source;
use mio::net::TcpStream;
#[cfg(unix)]
use mio::net::UnixStream;
use mio::{Interest, Registry, Token};

#[derive(Debug)]
pub(in crate::net) enum PlainStream {
    Tcp(TcpStream),
    #[cfg(unix)]
    Unix(UnixStream),
}

/// Work of a read in addition to that for its bytes: a system call takes about as long as copying this many bytes.
pub(in crate::net) const READ_WORK: usize = 4096;

/// Outcome of one read.
pub(in crate::net) enum Received {
    /// This many bytes, possibly none: a part of a TLS record, or nothing at all.
    Bytes {
        count: usize,
        left: Left,
        /// Work in addition to that of a read and to the bytes: that of decrypting them. As much as copying this many bytes.
        work: usize,
    },
    /// The peer sends nothing more.
    End,
}

/// Input that a read has left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::net) enum Left {
    /// None, until the next event.
    Nothing,
    /// Usually none: the read was shorter than the buffer. See [`PlainStream::may_read_short`].
    Unlikely,
    /// Probably more.
    More,
}

/// Calls a method of the socket, whichever it is.
macro_rules! on_stream {
    ($socket:expr, $inner:ident => $call:expr) => {
        match $socket {
            PlainStream::Tcp($inner) => $call,
            #[cfg(unix)]
            PlainStream::Unix($inner) => $call,
        }
    };
}

impl Received {
    /// Bytes that were not encrypted.
    pub(in crate::net) fn plain(count: usize, left: Left) -> Received {
        Received::Bytes { count, left, work: 0 }
    }
}

impl PlainStream {
    /// Whether a read that does not fill its buffer may leave bytes in the kernel, without an event about them.
    ///
    /// On Linux this happens to TCP only in front of urgent data, which the poll reports. A read from a socket file also
    /// ends behind bytes with which descriptors were sent (`SCM_RIGHTS`, unix(7)); the kernel closes these descriptors.
    pub(in crate::net) fn may_read_short(&self) -> bool {
        !cfg!(target_os = "linux") || !matches!(self, PlainStream::Tcp(_))
    }

    /// Reads once.
    pub(in crate::net) fn receive(&mut self, buffer: &mut [u8]) -> io::Result<Received> {
        match self.read(buffer) {
            Ok(0) => Ok(Received::End),
            Ok(count) => Ok(Received::plain(count, if count == buffer.len() { Left::More } else { Left::Unlikely })),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Received::plain(0, Left::Nothing)),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(Received::plain(0, Left::More)),
            Err(error) => Err(error),
        }
    }

    /// Whether a socket that was connecting is connected now.
    ///
    /// # Errors
    ///
    /// The reason why it is not connected and never will be.
    pub(in crate::net) fn connected(&self) -> io::Result<bool> {
        if let Some(error) = on_stream!(self, stream => stream.take_error())? {
            return Err(error);
        }
        match on_stream!(self, stream => stream.peer_addr().map(drop)) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(false),
            Err(error) => Err(error),
        }
    }

    pub(in crate::net) fn shutdown(&self, side: Shutdown) -> io::Result<()> {
        on_stream!(self, stream => stream.shutdown(side))
    }
}

impl Read for PlainStream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        on_stream!(self, stream => stream.read(buffer))
    }
}

impl Write for PlainStream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        on_stream!(self, stream => stream.write(bytes))
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        on_stream!(self, stream => stream.write_vectored(slices))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Source for PlainStream {
    fn register(&mut self, registry: &Registry, token: Token, interests: Interest) -> io::Result<()> {
        on_stream!(self, stream => stream.register(registry, token, interests))
    }

    fn reregister(&mut self, registry: &Registry, token: Token, interests: Interest) -> io::Result<()> {
        on_stream!(self, stream => stream.reregister(registry, token, interests))
    }

    fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
        on_stream!(self, stream => stream.deregister(registry))
    }
}
