//! Clients with real sockets.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use lobbyd::App;
use lobbyd::net::Server;
use lobbyd::sim::wire::{self, Reader, Received};

pub const SHORT: Option<Duration> = Some(Duration::from_millis(5));

/// A client with a non-blocking socket: the test runs the server's turns while the client waits.
pub struct Client {
    pub stream: TcpStream,
    pub reader: Reader,
    /// The server has shut down its side.
    pub ended: bool,
}

impl Client {
    pub fn open(address: SocketAddr) -> Client {
        let stream = TcpStream::connect(address).expect("the server listens");
        stream.set_nonblocking(true).expect("a socket can be set non-blocking");
        Client { stream, reader: Reader::default(), ended: false }
    }

    pub fn connect(address: SocketAddr, lobby: &str, user: &str) -> Client {
        let mut client = Client::open(address);
        client.send(&wire::upgrade_request(&format!("/ws/{lobby}?token={user}"), &[]));
        client
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

    /// Runs turns of the server until the client has received an item. A thousand turns take some seconds.
    #[track_caller]
    pub fn next<A: App>(&mut self, server: &mut Server<A>) -> Received {
        for _ in 0..1000 {
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
        for _ in 0..1000 {
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

/// Blocks on a real socket until an item is received.
pub fn blocking(stream: &mut TcpStream, reader: &mut Reader) -> Received {
    loop {
        if let Some(received) = reader.next().expect("the server keeps to the protocol") {
            return received;
        }
        let mut bytes = [0; 4096];
        let n = stream.read(&mut bytes).expect("the connection is open");
        assert!(n > 0, "the connection ended");
        reader.push(&bytes[..n]);
    }
}
