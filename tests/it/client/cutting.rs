//! Requests are executed at most once, whatever connections do.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use lobbyd::client::{Event, Lobby, State};

use super::sockets::{connect, open, relay};
use crate::common::sockets::{SHORT, on_free_port};

/// Passes bytes between the client and the server, and cuts connections after some of them, in the middle of frames.
struct Proxy {
    listener: TcpListener,
    server: SocketAddr,
    pairs: Vec<[TcpStream; 2]>,
    /// Bytes until the next cut.
    rest: usize,
    cuts: u32,
}

impl Proxy {
    fn new(server: SocketAddr) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        listener.set_nonblocking(true).expect("a socket can be set non-blocking");
        Proxy { listener, server, pairs: Vec::new(), rest: usize::MAX, cuts: 0 }
    }

    fn address(&self) -> SocketAddr {
        self.listener.local_addr().expect("an address")
    }

    fn pump(&mut self) {
        if let Ok((client, _)) = self.listener.accept() {
            let server = TcpStream::connect(self.server).expect("the server listens");
            for socket in [&client, &server] {
                socket.set_nonblocking(true).expect("a socket can be set non-blocking");
            }
            self.pairs.push([client, server]);
        }
        let mut at = 0;
        while at < self.pairs.len() {
            if self.pass(at) { at += 1 } else { drop(self.pairs.swap_remove(at)) }
        }
    }

    /// Returns false if the connection has ended.
    fn pass(&mut self, at: usize) -> bool {
        for (from, to) in [(0, 1), (1, 0)] {
            let mut bytes = [0; 512];
            let count = match self.pairs[at][from].read(&mut bytes) {
                Ok(0) => return false,
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => continue,
                Err(_) => return false,
            };
            let passed = count.min(self.rest);
            self.rest -= passed;
            if self.pairs[at][to].write_all(&bytes[..passed]).is_err() {
                return false;
            }
            if passed < count {
                self.cuts += 1;
                // Another place each time.
                self.rest = 700 + 211 * (self.cuts as usize % 7);
                return false;
            }
        }
        true
    }
}

#[test]
fn requests_are_executed_exactly_once_and_in_order_over_connections_that_are_cut() {
    const REQUESTS: u64 = 60;
    let mut server = relay(on_free_port());
    let address = server.local_addr().expect("the server listens");
    let mut proxy = Proxy::new(address);
    let (mut ann, mut bob) = (connect(proxy.address(), "ann"), connect(address, "bob"));
    let (mut asked, mut settled, mut heard) = (0, 0, Vec::new());
    let seat = |lobby: &Lobby| lobby.me().map(|me| me.conn().to_owned());
    for turn in 0.. {
        assert!(turn < 20_000, "{asked} asked, {settled} settled, {} heard, {} cuts", heard.len(), proxy.cuts);
        proxy.pump();
        let is_open = ann.turn(Duration::ZERO) == State::Open && bob.turn(Duration::ZERO) == State::Open;
        // The waits grow with each cut, beyond the time that a request has.
        if ann.state() == State::Waiting {
            ann.wake(true);
        }
        if is_open && asked == 0 {
            proxy.rest = 900;
        }
        if is_open && asked < REQUESTS && asked < settled + 8 {
            ann.request("count", serde_json::json!({"number": asked})).expect("there is room");
            asked += 1;
        }
        while let Some(event) = ann.poll_event() {
            assert!(!matches!(event, Event::Gap), "nothing is missed");
            if let Event::Settled { result, .. } = event {
                result.expect("it is executed");
                settled += 1;
            }
        }
        while let Some(event) = bob.poll_event() {
            if let Event::Message(message) = event {
                heard.push(message.data::<serde_json::Value>().expect("JSON")["number"].as_u64().expect("a number"));
            }
        }
        if settled == REQUESTS && heard.len() as u64 >= REQUESTS {
            break;
        }
        server.turn(SHORT).expect("the turn succeeds");
    }
    assert_eq!(heard, (0..REQUESTS).collect::<Vec<_>>());
    assert!(proxy.cuts >= 5, "{} cuts", proxy.cuts);
    proxy.rest = usize::MAX;
    let before = seat(&bob);
    open(&mut server, &mut [&mut bob]);
    assert_eq!(seat(&bob), before);
}
