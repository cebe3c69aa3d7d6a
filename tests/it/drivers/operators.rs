//! Both ports of a server on real sockets, while strangers hold, hang up or flood connections.

use std::fs;
use std::io::{ErrorKind, Read};
use std::net::{Shutdown, SocketAddr};
use std::time::Duration;

use lobbyd::Config;
use lobbyd::apps::Relay;
use lobbyd::net::{Error, Server};

use crate::common::files::{File, Folder};
use crate::common::sockets::{Client, SHORT, TURNS, on_free_port};

const TOKEN: &str = "correct-horse-battery";
const HEALTH: &str = "GET /health/ready HTTP/1.1\r\nHost: localhost\r\n\r\n";

/// A server whose admin port requires [`TOKEN`], with few slots.
fn server(token: &File, config: Config) -> (Server<Relay>, SocketAddr, SocketAddr) {
    let config = Config {
        admin: Some("127.0.0.1:0".parse().expect("an address")),
        admin_token_file: Some(token.path().into()),
        max_admin_connections: 2,
        // Behind a proxy, all sockets come from one address.
        trusted_proxies: 1,
        ..config
    };
    let server = Server::bind(config, Relay::default()).expect("a free port");
    let members = server.local_addr().expect("the server listens");
    let operators = server.admin_addr().expect("admin is on");
    (server, members, operators)
}

fn ask(path: &str, token: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n\r\n")
}

/// A client that reads HTTP responses on a connection that stays open.
struct Asker {
    client: Client,
    received: Vec<u8>,
}

impl Asker {
    fn open(address: SocketAddr) -> Asker {
        Asker { client: Client::open(address), received: Vec::new() }
    }

    fn send(&mut self, request: &str) {
        self.client.send(request.as_bytes());
    }

    /// Returns the status of the next response that has arrived whole.
    fn poll(&mut self) -> Option<u16> {
        let mut bytes = [0; 65536];
        match self.client.stream.read(&mut bytes) {
            Ok(n) => self.received.extend_from_slice(&bytes[..n]),
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
        }
        let end = self.received.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
        let head = String::from_utf8(self.received[..end].to_vec()).expect("ASCII");
        let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: ")).expect("a length");
        let length = end + length.parse::<usize>().expect("a number");
        (self.received.len() >= length).then(|| {
            self.received.drain(..length);
            head[9..12].parse().expect("a status")
        })
    }

    /// Runs turns of the server until a response has arrived.
    #[track_caller]
    fn status(&mut self, server: &mut Server<Relay>) -> u16 {
        for _ in 0..TURNS {
            if let Some(status) = self.poll() {
                return status;
            }
            server.turn(SHORT).expect("the turn succeeds");
        }
        panic!("no response has arrived")
    }

    #[track_caller]
    fn ask(&mut self, server: &mut Server<Relay>, request: &str) -> u16 {
        self.send(request);
        self.status(server)
    }
}

/// What strangers send before they hang.
const HOSTILE: &[&str] = &[
    "",
    "GET /health",
    "POST /kick HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{",
    "GET /stats HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer wrong-horse-battery\r\n\r\n",
    HEALTH,
    "\x16\x03\x01",
];

#[test]
fn strangers_that_hang_keep_out_neither_operators_nor_health_checks() {
    let token = File::new("admin-token-hang", TOKEN);
    for request in HOSTILE {
        for ends in [false, true] {
            let config = Config { max_pending: 4, max_overflow: 4, max_admin_pending: 4, ..on_free_port() };
            let (mut server, members, operators) = server(&token, config);
            let mut operator = Asker::open(operators);
            assert_eq!(operator.ask(&mut server, &ask("/stats", TOKEN)), 200);
            let mut strangers = Vec::new();
            for _ in 0..15 {
                for address in [members, operators] {
                    let mut stranger = Client::open(address);
                    stranger.send(request.as_bytes());
                    if ends {
                        stranger.stream.shutdown(Shutdown::Write).expect("the socket is open");
                    }
                    strangers.push(stranger);
                }
                server.turn(SHORT).expect("the turn succeeds");
            }
            for address in [members, operators] {
                assert_eq!(Asker::open(address).ask(&mut server, HEALTH), 200, "{request}");
            }
            assert_eq!(Asker::open(operators).ask(&mut server, &ask("/lobbies", TOKEN)), 200, "{request}");
            assert_eq!(operator.ask(&mut server, &ask("/stats", TOKEN)), 200, "{request}");
        }
    }
}

/// In each turn more connections arrive than there are slots.
#[test]
fn a_flood_of_connections_keeps_out_neither_operators_nor_health_checks() {
    let token = File::new("admin-token-flood", TOKEN);
    let config = Config { max_pending: 4, max_overflow: 40, max_admin_pending: 4, ..on_free_port() };
    let (mut server, members, operators) = server(&token, config);
    let mut operator = Asker::open(operators);
    assert_eq!(operator.ask(&mut server, &ask("/stats", TOKEN)), 200);
    let mut strangers = std::collections::VecDeque::new();
    let mut askers: Vec<Asker> = Vec::new();
    for turn in 0..60 {
        for request in HOSTILE {
            for address in [members, operators] {
                let mut stranger = Client::open(address);
                stranger.send(request.as_bytes());
                strangers.push_back(stranger);
            }
        }
        if turn % 10 == 0 {
            for (address, request) in [(members, HEALTH), (operators, HEALTH), (operators, &*ask("/lobbies", TOKEN))] {
                let mut asker = Asker::open(address);
                asker.send(request);
                askers.push(asker);
            }
        }
        server.turn(Some(Duration::ZERO)).expect("the turn succeeds");
        // The last ones of the flood stay open; a reset of the others is one more way to hang up.
        strangers.drain(..strangers.len().saturating_sub(100));
        // A client that has its answer hangs up.
        askers.retain_mut(|asker| asker.poll().inspect(|&status| assert_eq!(status, 200)).is_none());
    }
    for mut asker in askers {
        assert_eq!(asker.status(&mut server), 200);
    }
    assert_eq!(operator.ask(&mut server, &ask("/stats", TOKEN)), 200);
}

/// Operators that send many requests and read no answer do not keep out another one.
#[test]
fn operators_that_hang_keep_out_no_other() {
    let token = File::new("admin-token-stalled", TOKEN);
    let (mut server, _, operators) = server(&token, on_free_port());
    let mut stalled: Vec<Client> = (0..2).map(|_| Client::open(operators)).collect();
    for client in &mut stalled {
        // None of the answers is read.
        client.send(ask("/stats", TOKEN).repeat(1000).as_bytes());
    }
    for _ in 0..1000 {
        server.turn(Some(Duration::ZERO)).expect("the turn succeeds");
    }
    assert_eq!(Asker::open(operators).ask(&mut server, HEALTH), 200);
    for _ in 0..3 {
        assert_eq!(Asker::open(operators).ask(&mut server, &ask("/stats", TOKEN)), 200);
    }
}

#[test]
fn the_operators_token_is_read_again() {
    let token = File::new("admin-token-reload", TOKEN);
    let folder = Folder::new("admin-token-journal");
    let config = Config { journal: Some(folder.journal()), ..on_free_port() };
    let (mut server, _, operators) = server(&token, config);
    let mut operator = Asker::open(operators);
    assert_eq!(operator.ask(&mut server, &ask("/stats", TOKEN)), 200);
    let newer = "battery-horse-correct";
    fs::write(token.path(), format!("{newer}\n")).expect("the file can be written");
    assert_eq!(operator.ask(&mut server, &ask("/stats", TOKEN)), 200, "the file was not read again yet");
    server.reload_admin_token().expect("the token is valid");
    assert_eq!(operator.ask(&mut server, &ask("/stats", TOKEN)), 401);
    assert_eq!(operator.ask(&mut server, &ask("/stats", newer)), 200);
    for contents in ["short", "two words are no token", "\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}"] {
        fs::write(token.path(), contents).expect("the file can be written");
        let refused = server.reload_admin_token().expect_err("no valid token");
        assert!(matches!(refused, Error::Token(..)), "{refused}");
        assert!(!refused.to_string().contains(contents), "{refused}");
    }
    fs::remove_file(token.path()).expect("the file exists");
    assert!(server.reload_admin_token().is_err());
    assert_eq!(operator.ask(&mut server, &ask("/stats", newer)), 200, "the old token stays in force");
    // A command is recorded without the token with which it came.
    let command =
        "POST /kick HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}";
    for shown in [TOKEN, newer] {
        let command = command.replace("\r\n\r\n", &format!("\r\nAuthorization: Bearer {shown}\r\n\r\n"));
        let expected = if shown == newer { 200 } else { 401 };
        let mut client = Asker::open(operators);
        assert_eq!(client.ask(&mut server, &command), expected);
    }
    drop(server);
    let recorded = fs::read(&folder.segments()[0]).expect("the session was recorded");
    assert!(recorded.len() > 1000);
    for word in [TOKEN, newer, "Bearer"] {
        assert!(!recorded.windows(word.len()).any(|window| window == word.as_bytes()), "{word}");
    }
}
