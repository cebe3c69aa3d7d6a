//! TLS for `wss://`, by rustls.

use std::fs;
use std::io::{self, ErrorKind, Read, Write};
use std::path::Path;
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore};

use crate::base::certificates::SYSTEM_FILES;

/// The certificates that a client trusts. [`Stream`](super::Stream) has an example.
#[derive(Clone, Debug)]
pub struct Trust(Arc<ClientConfig>);

impl Trust {
    /// Reads certificates in PEM.
    ///
    /// # Errors
    ///
    /// A sentence: there is no certificate, or the crate was built without the feature `tls`.
    pub fn from_pem(pem: &[u8]) -> Result<Trust, String> {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(CertificateDer::pem_slice_iter(pem).filter_map(Result::ok));
        if roots.is_empty() {
            return Err("it has no certificate in PEM form".to_owned());
        }
        let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?;
        let mut config = config.with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Trust(Arc::new(config)))
    }

    /// Reads the certificates that the system trusts.
    pub(super) fn of_system() -> Result<Trust, String> {
        let path = SYSTEM_FILES.iter().map(Path::new).find(|path| path.is_file());
        let path = path.ok_or("the system has no file of certificates: set `certificates`")?;
        Trust::from_pem(&fs::read(path).map_err(|error| format!("{}: {error}", path.display()))?)
    }

    /// The same, but each connection has a whole handshake: no session of TLS is resumed. For measurements.
    #[must_use]
    pub fn without_resumption(self) -> Trust {
        let mut config = Arc::unwrap_or_clone(self.0);
        config.resumption = Resumption::disabled();
        Trust(Arc::new(config))
    }

    /// Begins TLS on a socket. `host` is the name, or the address, that the certificate must have.
    pub(super) fn begin<S>(&self, host: &str, socket: S) -> io::Result<TlsStream<S>> {
        let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
        let session = ClientConnection::new(self.0.clone(), name).map_err(io::Error::other)?;
        Ok(TlsStream { socket, session })
    }
}

/// A connection with TLS.
#[derive(Debug)]
pub(super) struct TlsStream<S> {
    socket: S,
    session: ClientConnection,
}

impl<S: Read + Write> TlsStream<S> {
    pub(super) fn socket(&self) -> &S {
        &self.socket
    }

    /// Returns whether the handshake is complete.
    pub(super) fn shake_hands(&mut self) -> io::Result<bool> {
        while self.session.is_handshaking() {
            self.flush()?;
            match self.receive() {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        self.flush()?;
        Ok(true)
    }

    /// Reads records from the socket. Returns the number of their bytes.
    fn receive(&mut self) -> io::Result<usize> {
        let count = match self.session.read_tls(&mut self.socket) {
            Ok(count) => count,
            Err(error) => {
                // What the handshake has to say.
                self.flush()?;
                return Err(error);
            }
        };
        if let Err(error) = self.session.process_new_packets() {
            // The alert says why.
            let _ = self.flush();
            return Err(io::Error::other(format!("TLS: {error}")));
        }
        Ok(count)
    }
}

impl<S: Read + Write> Read for TlsStream<S> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.session.reader().read(buffer) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                result => return result,
            }
            if self.receive()? == 0 {
                return Ok(0);
            }
        }
    }
}

impl<S: Read + Write> Write for TlsStream<S> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.session.writer().write(bytes)?;
        self.flush()?;
        // The buffers of rustls are full until the socket takes more.
        if count == 0 && !bytes.is_empty() { Err(ErrorKind::WouldBlock.into()) } else { Ok(count) }
    }

    fn flush(&mut self) -> io::Result<()> {
        while self.session.wants_write() {
            match self.session.write_tls(&mut self.socket) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}
