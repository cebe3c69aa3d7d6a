//! Stands in for TLS in a build without the feature `tls`, which refuses `wss://`.

use std::convert::Infallible;
use std::io::{self, Read, Write};
use std::marker::PhantomData;

/// The certificates that a client trusts. [`Stream`](super::Stream) has an example.
#[derive(Clone, Debug)]
pub struct Trust(Infallible);

impl Trust {
    /// Reads certificates in PEM.
    ///
    /// # Errors
    ///
    /// A sentence: there is no certificate, or the crate was built without the feature `tls`.
    pub fn from_pem(_: &[u8]) -> Result<Trust, String> {
        Err("this build has no TLS for wss://; build lobbyd with the feature `tls`".to_owned())
    }

    pub(super) fn of_system() -> Result<Trust, String> {
        Trust::from_pem(&[])
    }

    /// The same, but each connection has a whole handshake: no session of TLS is resumed. For measurements.
    #[must_use]
    pub fn without_resumption(self) -> Trust {
        self
    }

    pub(super) fn begin<S>(&self, _: &str, _: S) -> io::Result<TlsStream<S>> {
        match self.0 {}
    }
}

/// There is none.
#[derive(Debug)]
pub(super) struct TlsStream<S>(Infallible, PhantomData<S>);

impl<S> TlsStream<S> {
    pub(super) fn socket(&self) -> &S {
        match self.0 {}
    }

    pub(super) fn shake_hands(&mut self) -> io::Result<bool> {
        match self.0 {}
    }
}

impl<S> Read for TlsStream<S> {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        match self.0 {}
    }
}

impl<S> Write for TlsStream<S> {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        match self.0 {}
    }

    fn flush(&mut self) -> io::Result<()> {
        match self.0 {}
    }
}
