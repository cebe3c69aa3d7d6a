//! `GET /events` of a server on real sockets.

use std::io::{ErrorKind, Read};
use std::net::SocketAddr;
use std::time::Duration;

use lobbyd::Config;
use lobbyd::apps::Relay;
use lobbyd::net::Server;
use lobbyd::sim::wire::{self, Received};
use serde_json::Value;

use crate::common::files::File;
use crate::common::sockets::{Client, SHORT, TURNS, on_free_port};

const TOKEN: &str = "correct-horse-battery";

fn server(config: Config) -> (Server<Relay>, SocketAddr, SocketAddr) {
    let config = Config { admin: Some("127.0.0.1:0".parse().expect("an address")), ..config };
    let server = Server::bind(config, Relay::default()).expect("a free port");
    let (members, operators) = (server.local_addr().expect("an address"), server.admin_addr().expect("admin is on"));
    (server, members, operators)
}

/// A client that reads a stream of events.
struct Stream {
    client: Client,
    received: String,
}

impl Stream {
    fn open(operators: SocketAddr, query: &str, lines: &str) -> Stream {
        let mut client = Client::open(operators);
        client.send(format!("GET /events{query} HTTP/1.1\r\nHost: localhost\r\n{lines}\r\n").as_bytes());
        Stream { client, received: String::new() }
    }

    fn read(&mut self) {
        let mut bytes = [0; 65536];
        match self.client.stream.read(&mut bytes) {
            Ok(0) => self.client.ended = true,
            Ok(n) => self.received.push_str(str::from_utf8(&bytes[..n]).expect("whole characters")),
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
        }
    }

    /// Runs turns until the text has arrived.
    #[track_caller]
    fn wait_for(&mut self, server: &mut Server<Relay>, text: &str) {
        for _ in 0..TURNS {
            self.read();
            if self.received.contains(text) {
                return;
            }
            server.turn(SHORT).expect("the turn succeeds");
        }
        panic!("no {text} in {}", self.received);
    }

    /// The events so far, as objects, and their ids.
    fn events(&self) -> Vec<(Option<String>, Value)> {
        let (_, body) = self.received.split_once("\r\n\r\n").expect("a head");
        let blocks = body.split("\n\n").filter(|block| block.contains("data: "));
        let field = |block: &str, name: &str| block.lines().find_map(|line| line.strip_prefix(name)).map(str::to_owned);
        blocks
            .filter_map(|block| {
                let object = serde_json::from_str(&field(block, "data: ")?).ok()?;
                Some((field(block, "id: "), object))
            })
            .collect()
    }

    fn kinds(&self) -> Vec<String> {
        self.events().iter().map(|(_, event)| event["type"].as_str().expect("a type").to_owned()).collect()
    }
}

/// A member joins the lobby and leaves it.
fn visit(server: &mut Server<Relay>, members: SocketAddr, lobby: &str, user: &str) {
    let mut client = Client::connect(members, lobby, user);
    assert!(matches!(client.next(server), Received::Answer(101, _)));
    client.json(server);
    client.send(&wire::close(1000, ""));
    for _ in 0..TURNS {
        client.poll();
        if client.ended {
            return;
        }
        server.turn(SHORT).expect("the turn succeeds");
    }
    panic!("the server did not close");
}

#[test]
fn a_reader_of_events_sees_what_happens_and_resumes_where_it_was() {
    let (mut server, members, operators) = server(on_free_port());
    let mut all = Stream::open(operators, "?after=0", "");
    let mut left = Stream::open(operators, "?types=left&lobby=chess", "");
    all.wait_for(&mut server, "server_started");
    left.wait_for(&mut server, "hello");
    assert!(
        all.received.starts_with("HTTP/1.1 200 OK\r\n")
            && all.received.contains("\r\nContent-Type: text/event-stream\r\n")
    );
    visit(&mut server, members, "chess", "ann");
    visit(&mut server, members, "go", "bob");
    let seqs =
        |stream: &Stream| -> Vec<u64> { stream.events().iter().filter_map(|(_, it)| it["seq"].as_u64()).collect() };
    all.wait_for(&mut server, "-9\ndata");
    assert_eq!(
        all.kinds(),
        [
            "hello",
            "server_started",
            "lobby_opened",
            "joined",
            "left",
            "lobby_closed",
            "lobby_opened",
            "joined",
            "left",
            "lobby_closed"
        ]
    );
    assert_eq!(seqs(&all), [1, 1, 2, 3, 4, 5, 6, 7, 8, 9], "the first is that of hello");
    let (_, joined) = &all.events()[3];
    assert_eq!(joined["lobby"], "chess");
    assert_eq!((&joined["user"], &joined["role"]), (&"ann".into(), &"member".into()));
    left.wait_for(&mut server, "\"type\":\"left\"");
    assert_eq!(left.kinds(), ["hello", "left"]);
    // A reader that comes back.
    let id = all.events()[7].0.clone().expect("an id");
    let mut again = Stream::open(operators, "", &format!("Last-Event-ID: {id}\r\n"));
    again.wait_for(&mut server, "-9\ndata");
    assert_eq!(seqs(&again), [9, 8, 9]);
    // One of another start of the server.
    let mut stranger = Stream::open(operators, "", "Last-Event-ID: 0123456789abcdef-400\r\n");
    stranger.wait_for(&mut server, "-9\ndata");
    assert_eq!(stranger.kinds()[..3], ["hello", "lost", "server_started"]);
    assert!(stranger.received.contains("\"count\":null"));
}

#[test]
fn a_reader_that_reads_nothing_costs_nothing_and_is_told_what_it_lost() {
    let (mut server, members, operators) = server(Config { max_kept_events: 8, ..on_free_port() });
    let mut reader = Stream::open(operators, "?after=0", "");
    reader.wait_for(&mut server, "server_started");
    let mut late = Stream::open(operators, "?after=1", "");
    (0..10).for_each(|_| visit(&mut server, members, "chess", "ann"));
    late.wait_for(&mut server, "-41\ndata");
    reader.wait_for(&mut server, "-41\ndata");
    assert_eq!(reader.events().iter().filter(|(_, event)| event["type"] == "lost").count(), 0, "it kept up");
    let mut latest = Stream::open(operators, "?after=1", "");
    latest.wait_for(&mut server, "-41\ndata");
    let events = latest.events();
    assert_eq!(
        (&events[1].1["type"], &events[1].1["count"], &events[2].1["seq"]),
        (&"lost".into(), &32.into(), &34.into())
    );
}

#[test]
fn events_need_the_token_and_have_a_bound_on_readers() {
    let token = File::new("events-token", TOKEN);
    let config = Config { admin_token_file: Some(token.path().into()), max_event_readers: 1, ..on_free_port() };
    let (mut server, _, operators) = server(config);
    let mut stranger = Stream::open(operators, "", "");
    stranger.wait_for(&mut server, "\r\n\r\n");
    assert!(stranger.received.starts_with("HTTP/1.1 401 "), "{}", stranger.received);
    let bearer = format!("Authorization: Bearer {TOKEN}\r\n");
    let mut first = Stream::open(operators, "", &bearer);
    first.wait_for(&mut server, "hello");
    let mut second = Stream::open(operators, "", &bearer);
    second.wait_for(&mut server, "\r\n\r\n");
    assert!(second.received.starts_with("HTTP/1.1 503 ") && second.received.contains("Retry-After: 1\r\n"));
    drop(first);
    for _ in 0..100 {
        server.turn(SHORT).expect("the turn succeeds");
        let mut third = Stream::open(operators, "", &bearer);
        third.wait_for(&mut server, "\r\n\r\n");
        if third.received.starts_with("HTTP/1.1 200 ") {
            return;
        }
    }
    panic!("the place of the first was not given back");
}

#[test]
fn a_drain_is_an_event_and_streams_do_not_hold_it_up() {
    let (mut server, _, operators) = server(Config { drain_deadline: Duration::from_secs(30), ..on_free_port() });
    let mut reader = Stream::open(operators, "", "");
    reader.wait_for(&mut server, "hello");
    server.handle().stop();
    let mut stopped = false;
    for _ in 0..TURNS {
        if let lobbyd::net::Status::Stopped(_) = server.turn(SHORT).expect("the turn succeeds") {
            stopped = true;
            break;
        }
    }
    reader.read();
    assert!(stopped && reader.kinds() == ["hello", "draining", "server_stopped"], "{}", reader.received);
    assert!(reader.received.contains("\"deadline_ms\":30000}"));
}

#[test]
fn a_bad_query_is_answered_with_400_and_other_methods_with_405() {
    let (mut server, _, operators) = server(on_free_port());
    for (request, status) in
        [("GET /events?types=entered", 400), ("GET /events?since=1", 400), ("HEAD /events", 405), ("POST /events", 405)]
    {
        let mut client = Stream { client: Client::open(operators), received: String::new() };
        client.client.send(format!("{request} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n").as_bytes());
        client.wait_for(&mut server, "\r\n\r\n");
        assert!(client.received.starts_with(&format!("HTTP/1.1 {status} ")), "{request}: {}", client.received);
    }
}
