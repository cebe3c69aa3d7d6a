//! A stream: TCP, or of a socket file.

use std::io::{self, IoSlice, Read, Write};
use std::net::Shutdown;

use mio::event::Source;
use mio::net::TcpStream;
#[cfg(unix)]
use mio::net::UnixStream;
use mio::{Interest, Registry, Token};

#[derive(Debug)]
pub(super) enum Stream {
    Tcp(TcpStream),
    #[cfg(unix)]
    Unix(UnixStream),
}

/// Calls a method of the stream, whichever it is.
macro_rules! on_stream {
    ($stream:expr, $inner:ident => $call:expr) => {
        match $stream {
            Stream::Tcp($inner) => $call,
            #[cfg(unix)]
            Stream::Unix($inner) => $call,
        }
    };
}

impl Stream {
    /// Whether a read that does not fill its buffer may leave bytes in the kernel, without an event about them.
    ///
    /// On Linux this happens to TCP only in front of urgent data, which the poll reports. A read from a socket file also
    /// ends behind bytes with which descriptors were sent (`SCM_RIGHTS`, unix(7)); the kernel closes these descriptors.
    pub(super) fn may_read_short(&self) -> bool {
        !cfg!(target_os = "linux") || !matches!(self, Stream::Tcp(_))
    }

    /// Whether a stream that was connecting is connected now.
    ///
    /// # Errors
    ///
    /// The reason why it is not connected and never will be.
    pub(super) fn connected(&self) -> io::Result<bool> {
        if let Some(error) = on_stream!(self, stream => stream.take_error())? {
            return Err(error);
        }
        match on_stream!(self, stream => stream.peer_addr().map(drop)) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(false),
            Err(error) => Err(error),
        }
    }

    pub(super) fn shutdown(&self, side: Shutdown) -> io::Result<()> {
        on_stream!(self, stream => stream.shutdown(side))
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        on_stream!(self, stream => stream.read(buffer))
    }
}

impl Write for Stream {
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

impl Source for Stream {
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
