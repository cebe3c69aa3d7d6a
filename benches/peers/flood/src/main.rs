//! Hostile clients of a server on 127.0.0.1, as fast as one core allows: `flood KIND CLIENTS PORT CROWD SECONDS`.
//!
//! CROWD silent members fill a lobby. The flooding clients join it too, and reconnect at once when they are closed. With the kind
//! `compressed`, all of them take compressed messages, each flooding client has a lobby of its own, among which the silent members
//! are divided, and the payload of the flood's messages is read from standard input.
//! Standard library only, one thread, and no waiting: the sockets are tried in turn.

use std::collections::VecDeque;
use std::env;
use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

/// Bytes that a flooding client sends on one connection, by kind.
const KINDS: &[(&str, fn() -> Script)] = &[
    ("pings", || endless(frame(0x89, b""))),
    ("pongs", || endless(frame(0x8a, b"pong"))),
    ("empty-fragments", || Script { first: frame(0x01, b""), again: frame(0x00, b"") }),
    ("byte-fragments", || Script { first: frame(0x01, b"x"), again: frame(0x00, b"x") }),
    ("tiny-messages", || endless(frame(0x82, b"x"))),
    ("json-messages", || endless(frame(0x81, br#"{"type":"broadcast","data":1}"#))),
    ("64k-messages", || endless(frame(0x82, &[b'x'; 65_536]))),
    ("no-json", || endless(frame(0x81, b"no"))),
    ("rubbish", || endless(vec![0xff; 1024])),
    ("compressed", || {
        let mut payload = Vec::new();
        io::stdin().read_to_end(&mut payload).expect("a payload");
        endless(frame(0xc2, &payload))
    }),
];

struct Script {
    first: Vec<u8>,
    again: Vec<u8>,
}

fn endless(again: Vec<u8>) -> Script {
    Script { first: Vec::new(), again }
}

/// A masked frame with this first byte.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    match payload.len() {
        n @ 0..=125 => bytes.push(0x80 | n as u8),
        n @ 126..=65_535 => {
            bytes.push(0xfe);
            bytes.extend((n as u16).to_be_bytes());
        }
        n => {
            bytes.push(0xff);
            bytes.extend((n as u64).to_be_bytes());
        }
    }
    // A mask of zeros leaves the payload as it is.
    bytes.extend([0; 4]);
    bytes.extend(payload);
    bytes
}

fn request(user: &str, lobby: usize, offer: &str) -> Vec<u8> {
    format!(
        "GET /ws/crowd{lobby}?token={user} HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n{offer}\r\n"
    )
    .into_bytes()
}

fn connect(port: u16) -> Option<TcpStream> {
    let stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_nonblocking(true).ok()?;
    Some(stream)
}

/// Reads and discards. Returns false when the connection has ended.
fn drain(stream: &mut TcpStream, buffer: &mut [u8]) -> bool {
    match stream.read(buffer) {
        Ok(0) => false,
        Ok(_) => true,
        Err(error) => error.kind() == ErrorKind::WouldBlock,
    }
}

/// A flooding client, which reconnects whenever it is closed.
struct Flooder {
    request: Vec<u8>,
    stream: Option<TcpStream>,
    /// Bytes to send before `again` is sent once more, of which `sent` are sent.
    rest: Vec<u8>,
    sent: usize,
}

impl Flooder {
    /// Sends as much as the socket takes at once. Returns the number of bytes.
    fn flood(&mut self, port: u16, script: &Script, again: &[u8], connections: &mut u64) -> u64 {
        if self.stream.is_none() {
            let Some(stream) = connect(port) else { return 0 };
            *connections += 1;
            self.stream = Some(stream);
            // Request and flood in one write.
            self.rest = [&self.request[..], &script.first, again].concat();
            self.sent = 0;
        }
        let stream = self.stream.as_mut().expect("it was just connected");
        let outcome = stream.write(&self.rest[self.sent..]);
        match outcome {
            Ok(n) => {
                self.sent += n;
                if self.sent == self.rest.len() {
                    self.rest = again.to_vec();
                    self.sent = 0;
                }
                n as u64
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
            Err(_) => {
                self.stream = None;
                0
            }
        }
    }
}

fn main() {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [kind, clients, port, crowd, seconds] = &arguments[..] else {
        panic!("flood KIND CLIENTS PORT CROWD SECONDS");
    };
    let number = |text: &String| text.parse::<usize>().expect("a number");
    let (clients, port, crowd) = (number(clients), number(port) as u16, number(crowd));
    let offer = if kind == "compressed" { "Sec-WebSocket-Extensions: permessage-deflate\r\n" } else { "" };
    let lobbies = if kind == "compressed" { clients } else { 1 };
    let mut buffer = vec![0; 65_536];
    let mut members: Vec<TcpStream> = Vec::new();
    for n in 0..crowd {
        let mut stream = connect(port).expect("the server listens");
        stream.write_all(&request(&format!("member{n}"), n % lobbies, offer)).expect("a request fits in the socket");
        members.push(stream);
        for member in &mut members {
            drain(member, &mut buffer);
        }
    }
    println!("ready");
    let end = Instant::now() + Duration::from_secs(number(seconds) as u64);
    let (mut bytes, mut connections) = (0, 0);
    let mut step: Box<dyn FnMut(&mut [u8])> = match kind.as_str() {
        "connects" => Box::new(|_| {
            for _ in 0..clients {
                connections += u64::from(connect(port).is_some());
            }
        }),
        "half-handshakes" => {
            let mut open = VecDeque::new();
            let connections = &mut connections;
            Box::new(move |_| {
                for _ in 0..clients {
                    if let Some(mut stream) = connect(port) {
                        *connections += 1;
                        let _ = stream.write(b"GET /ws/crowd?token=late HTTP/1.1\r\nHost: 127.0.0.1\r\n");
                        open.push_back(stream);
                    }
                    if open.len() > clients * 10 {
                        open.pop_front();
                    }
                }
            })
        }
        kind => {
            let (_, script) = KINDS.iter().find(|(name, _)| *name == kind).expect("a known kind");
            let script = script();
            let again = script.again.repeat(131_072_usize.div_ceil(script.again.len()));
            let flooder = |n| {
                let request = request(&format!("flooder{n}"), n % lobbies, offer);
                Flooder { request, stream: None, rest: Vec::new(), sent: 0 }
            };
            let mut flooders: Vec<Flooder> = (0..clients).map(flooder).collect();
            let (bytes, connections) = (&mut bytes, &mut connections);
            Box::new(move |buffer| {
                for flooder in &mut flooders {
                    *bytes += flooder.flood(port, &script, &again, connections);
                    if flooder.stream.as_mut().is_some_and(|stream| !drain(stream, buffer)) {
                        flooder.stream = None;
                    }
                }
            })
        }
    };
    while Instant::now() < end {
        step(&mut buffer);
        for member in &mut members {
            drain(member, &mut buffer);
        }
    }
    drop(step);
    println!("sent {bytes} bytes on {connections} connections");
}
