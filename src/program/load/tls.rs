//! TLS of a member, for `wss://`. Clients may use the buffers of rustls: the generator is no server with idle connections.

use std::fs;
use std::io::{self, ErrorKind, Read, Write};
use std::path::Path;
use std::sync::Arc;

use lobbyd::net::system_certificates;
use mio::net::TcpStream;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore};

/// The certificates that members trust.
#[derive(Clone, Debug)]
pub(super) struct Trust(Arc<ClientConfig>);

impl Trust {
    /// Reads the certificates of a file in PEM, or those that the system trusts.
    ///
    /// # Errors
    ///
    /// A sentence about the file.
    pub(super) fn read(file: Option<&str>) -> Result<Trust, String> {
        let path = match file {
            Some(file) => Path::new(file),
            None => system_certificates().ok_or("the system has no file of certificates: name one with --ca-file")?,
        };
        let shown = path.display();
        let contents = fs::read(path).map_err(|error| format!("--ca-file: {shown}: {error}"))?;
        let mut roots = RootCertStore::empty();
        let certificates = CertificateDer::pem_slice_iter(&contents).filter_map(Result::ok);
        roots.add_parsable_certificates(certificates);
        if roots.is_empty() {
            return Err(format!("--ca-file: {shown}: it has no certificate in PEM form"));
        }
        let provider = Arc::new(aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?;
        let mut config = config.with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        // Each member is a client of its own, and pays for a whole handshake.
        config.resumption = rustls::client::Resumption::disabled();
        Ok(Trust(Arc::new(config)))
    }

    /// Begins TLS on a socket. `host` is the name that the certificate must have.
    pub(super) fn begin(&self, host: &str, socket: TcpStream) -> io::Result<TlsStream> {
        let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
        let session = ClientConnection::new(self.0.clone(), name).map_err(io::Error::other)?;
        Ok(TlsStream { socket, session })
    }
}

/// A connection with TLS. Its socket does not block.
#[derive(Debug)]
pub(super) struct TlsStream {
    socket: TcpStream,
    session: ClientConnection,
}

impl TlsStream {
    pub(super) fn socket(&self) -> &TcpStream {
        &self.socket
    }
}

impl Read for TlsStream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.session.reader().read(buffer) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                result => return result,
            }
            match self.session.read_tls(&mut self.socket) {
                Ok(0) => return Ok(0),
                Ok(_) => {}
                Err(error) => {
                    // What the handshake has to say.
                    self.flush()?;
                    return Err(error);
                }
            }
            if let Err(error) = self.session.process_new_packets() {
                let _ = self.flush();
                return Err(io::Error::other(format!("TLS: {error}")));
            }
        }
    }
}

impl Write for TlsStream {
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
