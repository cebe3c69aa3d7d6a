//! The stream of one connection: a socket, perhaps with TLS.

use std::io::{self, IoSlice, Read, Write};
use std::net::Shutdown;

use mio::event::Source;
use mio::{Interest, Registry, Token};

use super::plain_stream::{PlainStream, Received};
use super::tls::{Tls, TlsStream};

pub(super) enum Stream {
    Plain(PlainStream),
    Tls(TlsStream),
}

impl Stream {
    /// A stream of an accepted socket. With `is_tls`, nothing is encrypted before [`start_tls`](Self::start_tls).
    #[cfg_attr(not(feature = "tls"), expect(unreachable_code, reason = "no stream with TLS can exist"))]
    pub(super) fn new(socket: PlainStream, is_tls: bool) -> Stream {
        if is_tls { Stream::Tls(TlsStream::new(socket)) } else { Stream::Plain(socket) }
    }

    pub(super) fn is_tls(&self) -> bool {
        matches!(self, Stream::Tls(_))
    }

    /// Whether a TLS handshake is under way.
    pub(super) fn is_handshaking(&self) -> bool {
        match self {
            Stream::Plain(_) => false,
            Stream::Tls(stream) => stream.is_handshaking(),
        }
    }

    /// From now on a stream with TLS expects a handshake. The certificate is the present one.
    pub(super) fn start_tls(&mut self, tls: &mut Tls) -> io::Result<()> {
        match self {
            Stream::Plain(_) => Ok(()),
            Stream::Tls(stream) => stream.start(tls),
        }
    }

    /// See [`PlainStream::may_read_short`].
    pub(super) fn may_read_short(&self) -> bool {
        match self {
            Stream::Plain(socket) => socket.may_read_short(),
            Stream::Tls(stream) => stream.socket().may_read_short(),
        }
    }

    /// Reads once, and decrypts. Of a stream without TLS, at most `max` bytes are read. With TLS, everything that was read is
    /// decrypted, which fits into `buffer`.
    pub(super) fn receive(&mut self, tls: &mut Tls, buffer: &mut [u8], max: usize) -> io::Result<Received> {
        match self {
            Stream::Plain(socket) => {
                let max = max.min(buffer.len());
                socket.receive(&mut buffer[..max])
            }
            Stream::Tls(stream) => stream.receive(tls, buffer),
        }
    }

    /// The socket takes bytes again: writes records that it has not taken.
    pub(super) fn handle_writable(&mut self) {
        if let Stream::Tls(stream) = self {
            stream.handle_writable();
        }
    }

    /// Ends the output, with TLS in an orderly way (`close_notify`).
    pub(super) fn shut_down_output(&mut self) {
        match self {
            // This fails only if the peer has gone, which the next read detects.
            Stream::Plain(socket) => drop(socket.shutdown(Shutdown::Write)),
            Stream::Tls(stream) => stream.shut_down_output(),
        }
    }

    /// Closes the stream.
    pub(super) fn close(self, tls: &mut Tls) {
        match self {
            Stream::Plain(socket) => drop(socket),
            Stream::Tls(stream) => stream.close(tls),
        }
    }
}

/// Reads from the socket itself: what precedes TLS.
impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Plain(socket) => socket.read(buffer),
            Stream::Tls(stream) => stream.socket_mut().read(buffer),
        }
    }
}

impl Write for Stream {
    #[inline]
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Plain(socket) => socket.write(bytes),
            Stream::Tls(stream) => stream.write(&[IoSlice::new(bytes)]),
        }
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Stream::Plain(socket) => socket.write_vectored(slices),
            Stream::Tls(stream) => stream.write(slices),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Source for Stream {
    fn register(&mut self, registry: &Registry, token: Token, interests: Interest) -> io::Result<()> {
        match self {
            Stream::Plain(socket) => socket.register(registry, token, interests),
            Stream::Tls(stream) => stream.socket_mut().register(registry, token, interests),
        }
    }

    fn reregister(&mut self, registry: &Registry, token: Token, interests: Interest) -> io::Result<()> {
        match self {
            Stream::Plain(socket) => socket.reregister(registry, token, interests),
            Stream::Tls(stream) => stream.socket_mut().reregister(registry, token, interests),
        }
    }

    fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
        match self {
            Stream::Plain(socket) => socket.deregister(registry),
            Stream::Tls(stream) => stream.socket_mut().deregister(registry),
        }
    }
}
