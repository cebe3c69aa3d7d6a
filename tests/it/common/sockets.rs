//! Clients with real sockets.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use lobbyd::net::Server;
use lobbyd::sim::wire::{self, Reader, Received};
use lobbyd::{App, Config};

pub const SHORT: Option<Duration> = Some(Duration::from_millis(5));
/// Most turns in which something has to happen. If each of them waits, they take a minute: threads and processes that take
/// part may have to wait for a processor.
pub const TURNS: usize = 12_000;

/// A configuration whose server listens on a free port of this machine.
pub fn on_free_port() -> Config {
    Config { listen: "127.0.0.1:0".parse().expect("an address"), ..Config::default() }
}

/// Returns an address at which connections are refused while the socket exists. Nothing else can listen there.
pub fn refusing() -> (socket2::Socket, SocketAddr) {
    use socket2::{Domain, Socket, Type};
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a descriptor");
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("a free port");
    let address = socket.local_addr().expect("it is bound").as_socket().expect("an address of IPv4");
    (socket, address)
}

/// A client with a non-blocking socket: the test runs the server's turns while the client waits.
pub struct Client<S = TcpStream> {
    pub stream: S,
    pub reader: Reader,
    /// The server has shut down its side.
    pub ended: bool,
}

impl Client {
    pub fn open(address: SocketAddr) -> Client {
        let stream = TcpStream::connect(address).expect("the server listens");
        stream.set_nonblocking(true).expect("a socket can be set non-blocking");
        Client::over(stream)
    }

    pub fn connect(address: SocketAddr, lobby: &str, user: &str) -> Client {
        let mut client = Client::open(address);
        client.send(&wire::upgrade_request(&format!("/ws/{lobby}?token={user}"), &[]));
        client
    }
}

impl<S: Read + Write> Client<S> {
    /// A client over a connected non-blocking stream.
    pub fn over(stream: S) -> Client<S> {
        Client { stream, reader: Reader::default(), ended: false }
    }

    pub fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("the socket takes a small request");
    }

    pub fn poll(&mut self) -> Option<Received> {
        let mut bytes = [0; 65536];
        match self.stream.read(&mut bytes) {
            Ok(0) => self.ended = true,
            Ok(n) => self.reader.push(&bytes[..n]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => panic!("{error}"),
        }
        self.reader.next().expect("the server keeps to the protocol")
    }

    /// Runs turns of the server until the client has received an item.
    #[track_caller]
    pub fn next<A: App>(&mut self, server: &mut Server<A>) -> Received {
        for _ in 0..TURNS {
            if let Some(received) = self.poll() {
                return received;
            }
            server.turn(SHORT).expect("the turn succeeds");
        }
        panic!("nothing was received");
    }

    #[track_caller]
    pub fn json<A: App>(&mut self, server: &mut Server<A>) -> serde_json::Value {
        match self.next(server) {
            Received::Text(text) => serde_json::from_str(&text).expect("the relay speaks JSON"),
            other => panic!("expected a text, got {other:?}"),
        }
    }

    /// Runs turns of the server until it has shut down its side of the connection.
    #[track_caller]
    pub fn end<A: App>(&mut self, server: &mut Server<A>) {
        for _ in 0..TURNS {
            let received = self.poll();
            assert_eq!(received, None, "nothing more was expected");
            if self.ended {
                return;
            }
            server.turn(SHORT).expect("the turn succeeds");
        }
        panic!("the connection did not end");
    }
}

/// A client with a blocking socket, for a server in another process.
pub struct BlockingClient {
    pub stream: TcpStream,
    reader: Reader,
}

impl BlockingClient {
    pub fn open(address: SocketAddr) -> BlockingClient {
        let stream = TcpStream::connect(address).expect("the server listens");
        BlockingClient { stream, reader: Reader::default() }
    }

    /// Connects with a request that the server grants.
    #[track_caller]
    pub fn connect(address: SocketAddr, target: &str, lines: &[&str]) -> BlockingClient {
        let mut client = BlockingClient::open(address);
        client.send(&wire::upgrade_request(target, lines));
        client.expect_upgrade();
        client
    }

    pub fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("the server reads");
    }

    /// Waits for the next item. `None` is the end of the stream, or an error of the socket.
    pub fn poll(&mut self) -> Option<Received> {
        loop {
            if let Some(received) = self.reader.next().expect("the server keeps to the protocol") {
                return Some(received);
            }
            let mut bytes = [0; 4096];
            match self.stream.read(&mut bytes) {
                Ok(n) if n > 0 => self.reader.push(&bytes[..n]),
                // A read with a timeout is not restarted after a signal.
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                _ => return None,
            }
        }
    }

    #[track_caller]
    pub fn next(&mut self) -> Received {
        self.poll().expect("the connection is open")
    }

    #[track_caller]
    pub fn next_text(&mut self) -> String {
        match self.next() {
            Received::Text(text) => text,
            other => panic!("expected a text, got {other:?}"),
        }
    }

    #[track_caller]
    pub fn expect_upgrade(&mut self) {
        assert!(matches!(self.next(), Received::Answer(101, _)));
    }
}
