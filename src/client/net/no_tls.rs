//! Stands in for TLS in a build without the feature `tls`, which refuses `wss://`.

use std::convert::Infallible;
use std::io::{self, Read, Write};

use mio::net::TcpStream;

#[derive(Clone, Debug)]
pub(super) struct Trust(Infallible);

impl Trust {
    pub(super) fn read(_: Option<&[u8]>) -> Result<Trust, String> {
        Err("this build has no TLS for wss://; build lobbyd with the feature `tls`".to_owned())
    }

    pub(super) fn begin(&self, _: &str, _: TcpStream) -> io::Result<TlsStream> {
        match self.0 {}
    }
}

/// There is none.
#[derive(Debug)]
pub(super) struct TlsStream(Infallible);

impl TlsStream {
    pub(super) fn socket(&self) -> &TcpStream {
        match self.0 {}
    }

    pub(super) fn shake_hands(&mut self) -> io::Result<bool> {
        match self.0 {}
    }
}

impl Read for TlsStream {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        match self.0 {}
    }
}

impl Write for TlsStream {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        match self.0 {}
    }

    fn flush(&mut self) -> io::Result<()> {
        match self.0 {}
    }
}
