//! The driver on real sockets: 127.0.0.1, port 0, and a loop in this very thread.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::time::Duration;

use lobbyd::apps::{Relay, Verbatim};
use lobbyd::net::{Error, Server, Status};
use lobbyd::sim::wire::{self, Reader, Received};
use lobbyd::{App, Authorization, Config, ConnId, Context, Member, Message, Request, Speech};

use crate::scenario::blocking;

const SHORT: Option<Duration> = Some(Duration::from_millis(5));

fn config() -> Config {
    Config { listen: "127.0.0.1:0".parse().expect("an address"), ..Config::default() }
}

/// A client whose socket never blocks the test: it reads while the server turns.
pub struct Client {
    stream: TcpStream,
    reader: Reader,
    /// Whether the server has shut down its side.
    pub ended: bool,
}

impl Client {
    fn open(address: SocketAddr) -> Client {
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

    /// Turns the server until the client has received something. A thousand turns are some seconds.
    #[track_caller]
    pub fn next<A: App>(&mut self, server: &mut Server<A>) -> Received {
        for _ in 0..1000 {
            if let Some(received) = self.poll() {
                return received;
            }
            server.turn(SHORT).expect("the loop goes on");
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

    /// Turns the server until it has shut the connection down.
    #[track_caller]
    fn end<A: App>(&mut self, server: &mut Server<A>) {
        for _ in 0..1000 {
            let received = self.poll();
            assert_eq!(received, None, "nothing more was expected");
            if self.ended {
                return;
            }
            server.turn(SHORT).expect("the loop goes on");
        }
        panic!("the connection did not end");
    }
}

#[test]
fn two_clients_talk_over_real_sockets() {
    let mut server = Server::bind(config(), Relay::default()).expect("a free port");
    let address = server.local_addr().expect("it listens");
    let mut ann = Client::connect(address, "chess", "ann");
    assert!(matches!(ann.next(&mut server), Received::Answer(101, _)));
    assert_eq!(ann.json(&mut server)["type"], "welcome");
    assert_eq!(ann.json(&mut server)["users"][0]["user"], "ann");

    let mut bob = Client::connect(address, "chess", "bob");
    assert!(matches!(bob.next(&mut server), Received::Answer(101, _)));
    assert_eq!(bob.json(&mut server)["type"], "welcome");
    assert_eq!(bob.json(&mut server)["users"][1]["user"], "bob");
    assert_eq!(ann.json(&mut server)["joins"][0]["user"], "bob");

    let long = "ü".repeat(30_000);
    bob.send(&wire::text(&format!(r#"{{"type":"broadcast","data":"{long}"}}"#)));
    assert_eq!(ann.json(&mut server)["data"], long.as_str());

    bob.send(&wire::close(1000, "bye"));
    assert_eq!(bob.next(&mut server), Received::Close(1000, "bye".into()));
    bob.end(&mut server);
    drop(bob);
    assert_eq!(ann.json(&mut server)["leaves"][0]["reason"], "left");
    assert_eq!(server.engine().stats().total_connections, 1);
}

#[test]
fn more_than_a_receive_buffer_is_read_to_its_end() {
    // Edge-triggered: what one read leaves behind brings no second event.
    let unlimited = lobbyd::Limit::UNLIMITED;
    let small = Config { receive_buffer_bytes: lobbyd::Bytes(1024), bytes_per_second: unlimited, ..config() };
    let mut server = Server::bind(small, Verbatim::default()).expect("a free port");
    let address = server.local_addr().expect("it listens");
    let (mut ann, mut bob) = (Client::connect(address, "a", "ann"), Client::connect(address, "a", "bob"));
    assert!(matches!(ann.next(&mut server), Received::Answer(101, _)));
    assert!(matches!(bob.next(&mut server), Received::Answer(101, _)));
    for n in 0..40u8 {
        let message = String::from(char::from(b'a' + n % 26)).repeat(1 + usize::from(n) * 300);
        ann.send(&wire::text(&message));
        assert_eq!(bob.next(&mut server), Received::Text(message));
    }
}

#[test]
fn the_accept_budget_leaves_nobody_waiting() {
    let few = Config { accept_per_turn: 1, events_per_turn: 1, ..config() };
    let mut server = Server::bind(few, Verbatim::default()).expect("a free port");
    let address = server.local_addr().expect("it listens");
    let mut clients: Vec<Client> = (0..10).map(|n| Client::connect(address, "a", &format!("user{n}"))).collect();
    for client in &mut clients {
        assert!(matches!(client.next(&mut server), Received::Answer(101, _)));
    }
}

#[test]
fn a_vanished_client_leaves_its_seat() {
    let mut server = Server::bind(config(), Relay::default()).expect("a free port");
    let address = server.local_addr().expect("it listens");
    let mut ann = Client::connect(address, "chess", "ann");
    assert!(matches!(ann.next(&mut server), Received::Answer(101, _)));
    drop(ann);
    for _ in 0..1000 {
        if server.engine().stats().total_connections == 0 {
            break;
        }
        server.turn(SHORT).expect("the loop goes on");
    }
    assert_eq!(server.engine().stats().active_lobbies, 0);
    server.engine().check();
}

/// Lets nobody in by itself, and tells everybody what it was commanded.
#[derive(Default)]
struct Asking {
    asked: Vec<ConnId>,
}

impl App for Asking {
    const SPEECH: Speech = Speech::Opaque;

    fn authorize(&mut self, _: &mut Context<'_>, request: &Request<'_>) -> Authorization {
        self.asked.push(request.conn());
        Authorization::Pending { user: None }
    }

    fn on_message(&mut self, _: &mut Context<'_>, _: &Member, _: Message<'_>) {}

    fn on_command(&mut self, cx: &mut Context<'_>, command: &[u8]) {
        cx.broadcast_to_lobby("a", lobbyd::Exclude::None, &lobbyd::Frame::binary(command));
    }
}

#[test]
fn other_threads_answer_command_and_stop() {
    let mut server = Server::bind(config(), Asking::default()).expect("a free port");
    let handle = server.handle();
    let mut ann = Client::connect(server.local_addr().expect("it listens"), "a", "ann");
    while server.engine().app().asked.is_empty() {
        server.turn(SHORT).expect("the loop goes on");
    }
    let conn = server.engine().app().asked[0];
    let other = std::thread::spawn(move || {
        handle.authorized(conn, Authorization::allow("ann")).expect("the queue has room");
        handle.send("go").expect("the queue has room");
        handle
    });
    assert!(matches!(ann.next(&mut server), Received::Answer(101, _)));
    assert_eq!(ann.next(&mut server), Received::Binary(b"go".to_vec()));
    let handle = other.join().expect("the thread ends");
    handle.stop();
    assert_eq!(ann.next(&mut server), Received::Close(1001, "server_shutdown".into()));
    ann.send(&wire::close(1001, ""));
    ann.end(&mut server);
    drop(ann);
    for _ in 0..1000 {
        if let Status::Stopped(totals) = server.turn(SHORT).expect("the loop goes on") {
            assert_eq!((totals.closed, totals.dropped_bytes, totals.forced), (1, 0, 0));
            return;
        }
    }
    panic!("the server did not stop");
}

#[test]
fn a_full_queue_of_commands_returns_them() {
    let server = Server::bind(Config { max_commands: 2, ..config() }, Verbatim::default()).expect("a free port");
    let handle = server.handle();
    assert!(handle.send("1").is_ok() && handle.send("2").is_ok());
    assert_eq!(handle.send("3"), Err(lobbyd::net::Busy));
}

#[test]
fn a_server_that_cannot_start_says_why() {
    let server = Server::bind(config(), Relay::default()).expect("a free port");
    let taken = Config { listen: server.local_addr().expect("it listens"), ..config() };
    let error = Server::bind(taken, Relay::default()).err().expect("the port is taken");
    assert!(error.to_string().ends_with("address in use; is another lobbyd running?"), "{error}");
    let wrong = Config { max_pending: 0, pong_timeout: Duration::from_secs(60), ..config() };
    match Server::bind(wrong, Relay::default()).err().expect("it is wrong") {
        Error::Config(problems) => assert_eq!(problems.len(), 2),
        other => panic!("{other}"),
    }
}

#[test]
fn the_example_embeds_the_server_in_a_loop_of_its_own() {
    // `cargo test` has built the examples; `cargo test --test it` has not.
    let built = Command::new(env!("CARGO")).args(["build", "--quiet", "--example", "embed"]).status();
    assert!(built.expect("cargo runs").success());
    let tests = std::env::current_exe().expect("a path");
    let target = tests.ancestors().nth(3).expect("target/PROFILE/deps/it");
    let example = target.join("debug/examples/embed");
    let mut child = Command::new(example).arg("127.0.0.1:0").stdout(Stdio::piped()).spawn().expect("it was built");
    let mut said = std::io::BufRead::lines(std::io::BufReader::new(child.stdout.take().expect("it is piped")));
    let line = said.next().expect("it says where it listens").expect("UTF-8");
    let address: SocketAddr = line.strip_prefix("listening on ").expect("it says where").parse().expect("an address");

    let mut stream = TcpStream::connect(address).expect("it listens");
    stream.write_all(&wire::upgrade_request("/ws/arena?token=ann", &[])).expect("it reads");
    let mut reader = Reader::default();
    assert!(matches!(blocking(&mut stream, &mut reader), Received::Answer(101, _)));
    let Received::Text(first) = blocking(&mut stream, &mut reader) else { panic!("it sends texts") };
    let place: i32 = first.strip_prefix("ann=").expect("ann is there").parse().expect("a number");
    stream.write_all(&wire::text("right")).expect("it reads");
    let moved = Received::Text(format!("ann={}", place + 1));
    assert!((0..100).any(|_| blocking(&mut stream, &mut reader) == moved), "the move is seen in a later frame");
    child.kill().expect("it runs until it is killed");
    child.wait().expect("it can be waited for");
}

/// All that five members say in one turn is more than an outbox holds; but nobody has tried yet whether its reader is slow.
#[test]
fn many_who_speak_in_one_turn_fill_nobodys_outbox() {
    let mut server = Server::bind(config(), Verbatim::default()).expect("a free port");
    let address = server.local_addr().expect("it listens");
    let mut clients: Vec<Client> = (0..9).map(|n| Client::connect(address, "a", &format!("user{n}"))).collect();
    for client in &mut clients {
        assert!(matches!(client.next(&mut server), Received::Answer(101, _)));
    }
    let long = "x".repeat(60_000);
    // Into the sockets' own buffers, before the server looks at any of them.
    clients[1..].iter_mut().for_each(|client| client.send(&wire::text(&long)));
    for _ in 1..9 {
        assert_eq!(clients[0].next(&mut server), Received::Text(long.clone()));
    }
}
