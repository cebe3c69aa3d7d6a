//! Addresses with `tls:`, with clients of rustls on real sockets of 127.0.0.1.

mod configuration;
mod hostile;
mod serving;

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use lobbyd::apps::Verbatim;
use lobbyd::net::Server;
use lobbyd::sim::wire::{self, Reader, Received};
use lobbyd::{App, Config};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, ClientConnection, RootCertStore};

use crate::common::sockets::{SHORT, TURNS};

/// Returns the path of a file in `tests/it/tls/files`.
fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/tls/files").join(name)
}

/// A configuration with one address with TLS and one without.
fn with_tls(certificate: &str) -> Config {
    Config {
        listen: "tls:127.0.0.1:0,127.0.0.1:0".parse().expect("addresses"),
        tls_cert: Some(file(&format!("{certificate}.pem"))),
        tls_key: Some(file(&format!("{certificate}.key"))),
        ..Config::default()
    }
}

fn bind(config: Config) -> Server<Verbatim> {
    Server::bind(config, Verbatim::default()).expect("free ports")
}

/// Returns the address without TLS.
fn plain_address<A: App>(server: &Server<A>) -> SocketAddr {
    server.local_addrs()[1].to_string().parse().expect("the second address is without TLS")
}

/// What a client of these tests accepts and offers.
fn client_config(versions: &[&'static rustls::SupportedProtocolVersion]) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    let authority = CertificateDer::from_pem_file(file("ca.pem")).expect("a certificate");
    roots.add(authority).expect("an authority");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .expect("versions that exist")
        .with_root_certificates(roots)
        .with_no_client_auth()
}

fn newest() -> Arc<ClientConfig> {
    Arc::new(client_config(rustls::ALL_VERSIONS))
}

/// A client with a non-blocking socket: the test runs the server's turns while the client waits.
struct TlsClient {
    socket: TcpStream,
    tls: ClientConnection,
    reader: Reader,
    /// The server has said that it sends nothing more.
    has_close_notify: bool,
    /// The server has shut down its side.
    has_ended: bool,
}

impl TlsClient {
    fn open<A: App>(server: &Server<A>, config: &Arc<ClientConfig>) -> TlsClient {
        TlsClient::open_at(server.local_addr().expect("the first address has TLS"), config)
    }

    /// Opens a connection to the operators' port.
    fn open_as_operator<A: App>(server: &Server<A>, config: &Arc<ClientConfig>) -> TlsClient {
        TlsClient::open_at(server.admin_addr().expect("an address"), config)
    }

    fn open_at(address: SocketAddr, config: &Arc<ClientConfig>) -> TlsClient {
        let socket = TcpStream::connect(address).expect("the server listens");
        socket.set_nonblocking(true).expect("a socket can be set non-blocking");
        let name = "localhost".try_into().expect("a name");
        let mut tls = ClientConnection::new(config.clone(), name).expect("a valid configuration");
        tls.set_buffer_limit(None);
        TlsClient { socket, tls, reader: Reader::default(), has_close_notify: false, has_ended: false }
    }

    /// Connects to a lobby. The handshake runs with the next turns.
    fn connect<A: App>(server: &Server<A>, config: &Arc<ClientConfig>, user: &str) -> TlsClient {
        let mut client = TlsClient::open(server, config);
        client.send(&wire::upgrade_request(&format!("/ws/chess?token={user}"), &[]));
        client
    }

    /// Connects, and waits until the upgrade is accepted.
    #[track_caller]
    fn join<A: App>(server: &mut Server<A>, config: &Arc<ClientConfig>, user: &str) -> TlsClient {
        let mut client = TlsClient::connect(server, config, user);
        client.expect_upgrade(server);
        client
    }

    #[track_caller]
    fn expect_upgrade<A: App>(&mut self, server: &mut Server<A>) {
        let received = self.next(server);
        assert!(matches!(received, Received::Answer(101, _)), "{received:?}");
    }

    fn send(&mut self, bytes: &[u8]) {
        self.tls.writer().write_all(bytes).expect("the buffer of the client has room");
        self.flush();
    }

    /// Sends what TLS has to send, as far as the socket takes it.
    fn flush(&mut self) {
        while self.tls.wants_write() {
            match self.tls.write_tls(&mut self.socket) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(_) => return,
            }
        }
    }

    /// Exchanges records with the server. Fails when TLS does.
    fn pump(&mut self) -> Result<(), rustls::Error> {
        self.flush();
        loop {
            match self.tls.read_tls(&mut self.socket) {
                Ok(0) => {
                    self.has_ended = true;
                    return Ok(());
                }
                Ok(_) => {
                    let state = self.tls.process_new_packets()?;
                    self.has_close_notify |= state.peer_has_closed();
                    let mut bytes = [0; 16384];
                    while let Ok(count @ 1..) = self.tls.reader().read(&mut bytes) {
                        self.reader.push(&bytes[..count]);
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(_) => {
                    self.has_ended = true;
                    return Ok(());
                }
            }
        }
        self.flush();
        Ok(())
    }

    fn poll(&mut self) -> Option<Received> {
        self.pump().expect("the server keeps to TLS");
        self.reader.next().expect("the server keeps to the protocol")
    }

    /// Runs turns of the server until the client has received an item.
    #[track_caller]
    fn next<A: App>(&mut self, server: &mut Server<A>) -> Received {
        for _ in 0..TURNS {
            if let Some(received) = self.poll() {
                return received;
            }
            assert!(!self.has_ended, "the connection has ended");
            server.turn(SHORT).expect("the turn succeeds");
        }
        panic!("nothing was received");
    }

    /// Runs turns of the server until it has ended the connection. Returns what was received before.
    #[track_caller]
    fn end<A: App>(&mut self, server: &mut Server<A>) -> Vec<Received> {
        let mut all = Vec::new();
        for _ in 0..TURNS {
            while let Some(received) = self.poll() {
                all.push(received);
            }
            if self.has_ended {
                return all;
            }
            server.turn(SHORT).expect("the turn succeeds");
        }
        panic!("the connection did not end");
    }
}

/// Runs turns of the server until `is_done`.
#[track_caller]
fn turns_until<A: App>(server: &mut Server<A>, mut is_done: impl FnMut(&Server<A>) -> bool) {
    for _ in 0..TURNS {
        if is_done(server) {
            return;
        }
        server.turn(SHORT).expect("the turn succeeds");
    }
    panic!("it did not happen");
}

/// Runs turns of the server until it has shut down its side of a raw socket. Returns what was received.
#[track_caller]
fn raw_end<A: App>(server: &mut Server<A>, socket: &mut TcpStream) -> Vec<u8> {
    socket.set_nonblocking(true).expect("a socket can be set non-blocking");
    let (mut all, mut bytes) = (Vec::new(), [0; 4096]);
    for _ in 0..TURNS {
        match socket.read(&mut bytes) {
            Ok(0) => return all,
            Ok(count) => all.extend_from_slice(&bytes[..count]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => drop(server.turn(SHORT).expect("the turn succeeds")),
            Err(error) => panic!("{error}"),
        }
    }
    panic!("the connection did not end");
}

fn raw<A: App>(server: &Server<A>) -> io::Result<TcpStream> {
    TcpStream::connect(server.local_addr().expect("the first address has TLS"))
}
