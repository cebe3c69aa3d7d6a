//! The bytes of a connection, with or without TLS.

use std::io::{self, Read, Write};

use super::tls::{TlsStream, Trust};

/// A connection of a client over a socket that does not block, with or without TLS. For programs that drive a
/// [`Session`](crate::client::Session) with sockets of their own.
///
/// TLS shakes hands while something is read or written. What is written before waits in a buffer.
///
/// ```no_run
/// use std::io::{Read, Write};
/// use std::net::TcpStream;
///
/// use lobbyd::client::{Stream, Trust};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let trust = Trust::from_pem(&std::fs::read("ca.pem")?)?;
/// let socket = TcpStream::connect("game.example:443")?;
/// socket.set_nonblocking(true)?;
/// let mut stream = Stream::new(socket, Some((&trust, "game.example")))?;
/// stream.write_all(b"GET /ws/chess HTTP/1.1\r\n")?;
/// stream.flush()?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Stream<S>(Kind<S>);

#[derive(Debug)]
enum Kind<S> {
    Plain(S),
    Tls(Box<TlsStream<S>>),
}

impl<S: Read + Write> Stream<S> {
    /// Takes a socket that is connected or connects. With `tls`, to a server with a certificate for this name or address.
    ///
    /// # Errors
    ///
    /// No certificate can have this name.
    pub fn new(socket: S, tls: Option<(&Trust, &str)>) -> io::Result<Stream<S>> {
        Ok(Stream(match tls {
            Some((trust, host)) => Kind::Tls(Box::new(trust.begin(host, socket)?)),
            None => Kind::Plain(socket),
        }))
    }

    /// Returns the socket.
    pub fn socket(&self) -> &S {
        match &self.0 {
            Kind::Plain(socket) => socket,
            Kind::Tls(stream) => stream.socket(),
        }
    }

    /// Continues the handshake of TLS. Returns whether it is complete.
    ///
    /// # Errors
    ///
    /// The socket has failed, or the server is not trusted.
    pub fn encrypt(&mut self) -> io::Result<bool> {
        match &mut self.0 {
            Kind::Plain(_) => Ok(true),
            Kind::Tls(stream) => stream.shake_hands(),
        }
    }
}

impl<S: Read + Write> Read for Stream<S> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match &mut self.0 {
            Kind::Plain(socket) => socket.read(buffer),
            Kind::Tls(stream) => stream.read(buffer),
        }
    }
}

impl<S: Read + Write> Write for Stream<S> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.0 {
            Kind::Plain(socket) => socket.write(bytes),
            Kind::Tls(stream) => stream.write(bytes),
        }
    }

    /// Writes what TLS has encrypted. What the socket does not take now is written with a later call.
    fn flush(&mut self) -> io::Result<()> {
        match &mut self.0 {
            Kind::Plain(_) => Ok(()),
            Kind::Tls(stream) => stream.flush(),
        }
    }
}
