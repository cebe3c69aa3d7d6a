//! The whole server over loopback: the time from sending a message until it is received.
//!
//! `loopback/echo`: one client, one message in flight, the echo application.
//! `loopback/relay/8`: one of eight members of a lobby sends; the time until all others have received the message.
//!
//! Server and clients share one thread here, so the figures include the clients' system calls. They show changes
//! of the server, not its capacity; `benches/peers` measures the capacity, from another process.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use lobbyd::apps::{Echo, Verbatim};
use lobbyd::config::{ByteSize, Limit};
use lobbyd::net::Server;
use lobbyd::sim::wire::{self, Reader, Received};
use lobbyd::{App, Config};

fn server<A: App>(app: A) -> Server<A> {
    let listen = "127.0.0.1:0".parse().expect("an address");
    // Rates are on, but so high that no message is refused.
    let rate = Limit::at_most(1_000_000_000);
    let rates = Config { messages_per_second: rate, message_burst: 1_000_000_000, ..Config::default() };
    let config = Config { listen, bytes_per_second: rate, byte_burst: ByteSize(1_000_000_000), ..rates };
    Server::bind(config, app).expect("a free port")
}

fn connect<A: App>(server: &mut Server<A>, target: &str) -> TcpStream {
    let mut stream = TcpStream::connect(server.local_addr().expect("the server listens")).expect("the server listens");
    stream.set_nodelay(true).expect("TCP has TCP_NODELAY");
    stream.write_all(&wire::upgrade_request(target, &[])).expect("a small request");
    let mut reader = Reader::default();
    let answer = receive(server, &mut stream, &mut reader);
    assert!(matches!(answer, Received::Answer(101, _)));
    stream
}

/// Runs turns of the server until the client has received a frame or an HTTP answer.
fn receive<A: App>(server: &mut Server<A>, stream: &mut TcpStream, reader: &mut Reader) -> Received {
    stream.set_nonblocking(true).expect("a socket can be set non-blocking");
    let mut bytes = [0; 4096];
    loop {
        if let Some(received) = reader.next().expect("the server follows the protocol") {
            return received;
        }
        match stream.read(&mut bytes) {
            Ok(n) => reader.push(&bytes[..n]),
            Err(_) => drop(server.turn(Some(Duration::ZERO)).expect("the loop goes on")),
        }
    }
}

fn echo(c: &mut Criterion) {
    let mut server = server(Echo);
    let mut stream = connect(&mut server, "/");
    let (text, mut reader) = ("x".repeat(64), Reader::default());
    reader.push(b"HTTP/1.1 101 \r\n\r\n");
    assert!(matches!(reader.next(), Ok(Some(Received::Answer(101, _)))));
    let message = wire::text(&text);
    c.bench_function("loopback/echo", |b| {
        b.iter(|| {
            stream.write_all(&message).expect("a small message fits in the socket");
            assert_eq!(receive(&mut server, &mut stream, &mut reader), Received::Text(text.clone()));
        });
    });
}

fn relay(c: &mut Criterion) {
    let mut server = server(Verbatim::default());
    let mut members: Vec<(TcpStream, Reader)> = Vec::new();
    for n in 0..8 {
        let stream = connect(&mut server, &format!("/ws/lobby?token=u{n}"));
        let mut reader = Reader::default();
        reader.push(b"HTTP/1.1 101 \r\n\r\n");
        assert!(matches!(reader.next(), Ok(Some(Received::Answer(101, _)))));
        members.push((stream, reader));
    }
    let text = "x".repeat(64);
    let message = wire::text(&text);
    let mut group = c.benchmark_group("loopback/relay");
    group.throughput(Throughput::Elements(7));
    group.bench_function("8", |b| {
        b.iter(|| {
            members[0].0.write_all(&message).expect("a small message fits in the socket");
            for (stream, reader) in &mut members[1..] {
                assert_eq!(receive(&mut server, stream, reader), Received::Text(text.clone()));
            }
        });
    });
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(4));
    targets = echo, relay
}
criterion_main!(benches);
