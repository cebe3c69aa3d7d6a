//! The driver with real sockets on 127.0.0.1, port 0. The server's loop runs in the thread of the test.

use std::io::Write;
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::time::Duration;

use lobbyd::apps::{Relay, Verbatim};
use lobbyd::net::{Error, Server, Status};
use lobbyd::sim::wire::{self, Opcode, Received};
use lobbyd::{App, Authorization, Config, ConnId, Context, Member, Message, Protocol, Request};

use crate::common::sockets::{BlockingClient, Client, SHORT, TURNS, on_free_port};

/// Reads until the server's end of stream, which follows all its output. A reset fails the test. Returns the last item.
#[track_caller]
fn read_to_the_end<A: App>(client: &mut Client, server: &mut Server<A>) -> Received {
    let mut last = None;
    for _ in 0..TURNS {
        while let Some(received) = client.poll() {
            last = Some(received);
        }
        if client.ended {
            return last.expect("the server sent an item");
        }
        server.turn(SHORT).expect("the turn succeeds");
    }
    panic!("the connection did not end, after {last:?}");
}

/// After a protocol error the peer reads the close frame and then the end of stream, however much it sent behind the error.
/// Without lingering, the kernel would answer unread bytes with a reset, which overtakes the close frame.
#[test]
fn a_close_frame_is_not_lost_to_unread_input() {
    let config = Config { bytes_per_second: lobbyd::config::Limit::UNLIMITED, max_fragments: 10, ..on_free_port() };
    let mut server = Server::bind(config, Relay::default()).expect("a free port");
    let address = server.local_addr().expect("the server listens");
    let frame = |opcode, is_final, payload: &[u8]| wire::frame(opcode, is_final, payload, [1, 2, 3, 4]);
    let fragments = [frame(Opcode::BINARY, false, b""), frame(Opcode::CONTINUATION, false, b"").repeat(10)].concat();
    for (broken, code) in [
        (frame(Opcode(3), true, b""), 1002),
        (frame(Opcode::TEXT, true, b"\xff"), 1007),
        (fragments, 1008),
        (frame(Opcode::BINARY, true, &[0; 65_537]), 1009),
    ] {
        let mut client = Client::connect(address, "chess", "ann");
        assert!(matches!(client.next(&mut server), Received::Answer(101, _)));
        // More bytes than the loop reads at once, and more after the server has shut down its side.
        client.send(&[broken, vec![0; 100_000]].concat());
        server.turn(SHORT).expect("the turn succeeds");
        client.send(&vec![0; 100_000]);
        assert!(matches!(read_to_the_end(&mut client, &mut server), Received::Close(got, _) if got == code), "{code}");
        client.send(b"and still something");
        server.turn(SHORT).expect("the turn succeeds");
        drop(client);
    }
    // An HTTP refusal is delivered just as reliably.
    let mut client = Client::open(address);
    client.send(&[&b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"[..], &[0; 100_000]].concat());
    assert!(matches!(read_to_the_end(&mut client, &mut server), Received::Body(_)));
}

/// Largest number of bytes read at once, and per turn.
const READ: usize = 65_536;

/// A client that sends `bytes`, more than is read in a turn, receives a close frame with code 1000.
#[track_caller]
fn check_goodbye_to(bytes: &[&[u8]]) {
    let config = Config {
        bytes_per_second: lobbyd::config::Limit::UNLIMITED,
        work_per_turn: lobbyd::config::ByteSize(READ),
        ..on_free_port()
    };
    let mut server = Server::bind(config, Relay::default()).expect("a free port");
    let mut client = Client::connect(server.local_addr().expect("the server listens"), "chess", "ann");
    assert!(matches!(client.next(&mut server), Received::Answer(101, _)));
    client.send(&bytes.concat());
    assert!(matches!(read_to_the_end(&mut client, &mut server), Received::Close(1000, _)));
}

/// A binary message with a payload of the given size.
fn message(payload: usize) -> Vec<u8> {
    wire::frame(Opcode::BINARY, true, &vec![0; payload], [1, 2, 3, 4])
}

/// The same if a leave is followed by a message that is refused by its header, and a read ends with that header.
#[test]
fn a_goodbye_is_not_lost_to_an_oversized_message() {
    let leave = wire::text(r#"{"type":"leave"}"#);
    // The last bytes of one read are the header of the second message.
    let fits = message(READ - leave.len() - 8 - 14);
    check_goodbye_to(&[&leave, &fits, &message(65_537), &[0; 50_000]]);
}

/// The same if the client sends more bytes behind its close frame, and some of them are read with it.
#[test]
fn an_answer_to_a_close_is_not_lost_to_input_behind_it() {
    let close = wire::close(1000, "");
    // One byte behind the close frame is read with it, the others later.
    check_goodbye_to(&[&message(READ - close.len() - 8 - 1), &close, &[0; 120_000]]);
}

/// A request or a close frame arrives together with the end of the stream. Both ports answer before they drop the socket.
#[test]
fn input_with_the_end_of_the_stream_is_answered_on_both_ports() {
    let admin = Some("127.0.0.1:0".parse().expect("an address"));
    let mut server = Server::bind(Config { admin, ..on_free_port() }, Relay::default()).expect("a free port");
    let members = server.local_addr().expect("the server listens");
    let operators = server.admin_addr().expect("admin is on");
    let request = b"GET /health/live HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".to_vec();
    let closing = [wire::upgrade_request("/ws/chess?token=ann", &[]), wire::close(1000, "")].concat();
    for _ in 0..20 {
        for (address, bytes) in [(members, &request), (operators, &request), (members, &closing)] {
            let mut client = Client::open(address);
            client.send(bytes);
            client.stream.shutdown(std::net::Shutdown::Write).expect("the socket is open");
            let last = read_to_the_end(&mut client, &mut server);
            assert!(
                matches!(last, Received::Answer(200, _) | Received::Body(_) | Received::Close(1000, _)),
                "{last:?}"
            );
        }
    }
    assert_eq!(server.engine().stats().total_connections, 0);
}

/// The number of bytes read after a close is bounded.
#[test]
fn a_peer_that_keeps_sending_after_the_close_is_dropped() {
    let max_linger_bytes = lobbyd::config::ByteSize(100_000);
    // Its bound in time is not what ends the connection.
    let config = Config { max_linger_bytes, linger_timeout: Duration::from_secs(60), ..on_free_port() };
    let mut server = Server::bind(config, Relay::default()).expect("a free port");
    let mut client = Client::connect(server.local_addr().expect("the server listens"), "chess", "ann");
    assert!(matches!(client.next(&mut server), Received::Answer(101, _)));
    client.send(b"\x83\x80....");
    let mut sent = 0;
    while server.engine().stats().closing > 0 || server.engine().stats().total_connections > 0 {
        server.turn(SHORT).expect("the turn succeeds");
        sent += client.stream.write(&[0; 10_000]).unwrap_or(0);
        assert!(sent < 10_000_000, "the input is read without a bound");
    }
    assert!(sent > 90_000, "the input is read up to the bound: {sent}");
}

#[test]
fn two_clients_talk_over_real_sockets() {
    let mut server = Server::bind(on_free_port(), Relay::default()).expect("a free port");
    let address = server.local_addr().expect("the server listens");
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
    // Edge-triggered: bytes that a read leaves behind cause no second event.
    let unlimited = lobbyd::config::Limit::UNLIMITED;
    let small =
        Config { receive_buffer_bytes: lobbyd::config::ByteSize(1024), bytes_per_second: unlimited, ..on_free_port() };
    let mut server = Server::bind(small, Verbatim::default()).expect("a free port");
    let address = server.local_addr().expect("the server listens");
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
fn the_accept_budget_leaves_no_connection_waiting() {
    let few = Config { accept_per_turn: 1, events_per_turn: 1, ..on_free_port() };
    let mut server = Server::bind(few, Verbatim::default()).expect("a free port");
    let address = server.local_addr().expect("the server listens");
    let mut clients: Vec<Client> = (0..10).map(|n| Client::connect(address, "a", &format!("user{n}"))).collect();
    for client in &mut clients {
        assert!(matches!(client.next(&mut server), Received::Answer(101, _)));
    }
}

/// Twenty members send two hundred messages each at once, and then another member sends one. Its message is delivered among
/// the first. In the end all messages are delivered, in order.
#[test]
fn a_flood_delays_only_its_senders() {
    let unlimited = lobbyd::config::Limit::UNLIMITED;
    let config = Config {
        messages_per_second: unlimited,
        bytes_per_second: unlimited,
        max_per_lobby: lobbyd::config::Limit::at_most(30),
        work_per_turn: lobbyd::config::ByteSize(32_768),
        work_per_receive: lobbyd::config::ByteSize(16_384),
        ..on_free_port()
    };
    let mut server = Server::bind(config, Verbatim::default()).expect("a free port");
    let address = server.local_addr().expect("the server listens");
    let mut join = |user: &str| {
        let mut client = Client::connect(address, "a", user);
        assert!(matches!(client.next(&mut server), Received::Answer(101, _)));
        client
    };
    let (mut modest, mut receiver) = (join("modest"), join("hearer"));
    let mut flooders: Vec<Client> = (0..20).map(|n| join(&format!("flooder{n}"))).collect();
    // Shows that this member sends little.
    modest.send(&wire::text("first"));
    assert_eq!(receiver.next(&mut server), Received::Text("first".into()));
    for (n, flooder) in flooders.iter_mut().enumerate() {
        let flood: Vec<u8> = (0..200).flat_map(|m| wire::text(&format!("{n} {m}"))).collect();
        flooder.send(&flood);
    }
    // These turns read all input and handle a small part of it.
    for _ in 0..20 {
        server.turn(Some(Duration::ZERO)).expect("the turn succeeds");
    }
    let before = server.engine().stats().counters.messages_in;
    modest.send(&wire::text("word"));
    let mut delivered = Vec::new();
    while delivered.len() < 4001 {
        let Received::Text(text) = receiver.next(&mut server) else { panic!("texts only") };
        delivered.push(text);
    }
    let index = delivered.iter().position(|text| text == "word").expect("the message is delivered") as u64;
    assert!(
        index < before + 10,
        "{before} messages were handled before the word was sent, and {index} delivered before it"
    );
    delivered.remove(index as usize);
    for n in 0..20 {
        let of = format!("{n} ");
        let texts: Vec<&str> = delivered.iter().filter_map(|text| text.strip_prefix(&of)).collect();
        assert!(texts.iter().enumerate().all(|(m, text)| *text == m.to_string()), "in order");
        assert_eq!(texts.len(), 200, "nothing is lost or doubled");
    }
}

/// Clients send messages in the packet of their upgrade request. All of them join before their messages are handled.
#[test]
fn new_connections_join_before_their_messages_are_handled() {
    let few = Config {
        work_per_turn: lobbyd::config::ByteSize(1024),
        accept_per_turn: 20,
        max_per_lobby: lobbyd::config::Limit::at_most(20),
        ..on_free_port()
    };
    let mut server = Server::bind(few, Verbatim::default()).expect("a free port");
    let address = server.local_addr().expect("the server listens");
    let mut clients: Vec<Client> = (0..20)
        .map(|n| {
            let mut client = Client::open(address);
            let request = wire::upgrade_request(&format!("/ws/a?token=user{n}"), &[]);
            client.send(&[request, wire::text(&n.to_string()), wire::text("again")].concat());
            client
        })
        .collect();
    for _ in 0..3 {
        server.turn(Some(Duration::ZERO)).expect("the turn succeeds");
    }
    assert_eq!(server.engine().stats().counters.joined, 20);
    assert!(server.engine().stats().counters.messages_in < 20, "not all messages are handled yet");
    for (n, client) in clients.iter_mut().enumerate() {
        assert!(matches!(client.next(&mut server), Received::Answer(101, _)));
        let mut delivered: Vec<Received> = (0..38).map(|_| client.next(&mut server)).collect();
        delivered.retain(|text| *text != Received::Text("again".into()));
        assert_eq!(delivered.len(), 19, "user{n} received two messages of each other user");
    }
}

/// The number of bytes a peer can send to a server that does not read.
#[test]
fn socket_receive_bytes_bounds_unread_input() {
    let sent = |socket_receive_bytes| {
        let config = Config { socket_receive_bytes, ..on_free_port() };
        let server = Server::bind(config, Verbatim::default()).expect("a free port");
        let mut client = Client::open(server.local_addr().expect("the server listens"));
        let mut sent = 0;
        while let Ok(n) = client.stream.write(&[0; 65_536]) {
            sent += n;
        }
        sent
    };
    let (bounded, unbounded) = (sent(Some(lobbyd::config::ByteSize(16_384))), sent(None));
    assert!(bounded < unbounded, "{bounded} and {unbounded} bytes, the client's own buffer included");
}

#[test]
fn a_lost_client_frees_its_seat() {
    let mut server = Server::bind(on_free_port(), Relay::default()).expect("a free port");
    let address = server.local_addr().expect("the server listens");
    let mut ann = Client::connect(address, "chess", "ann");
    assert!(matches!(ann.next(&mut server), Received::Answer(101, _)));
    drop(ann);
    for _ in 0..TURNS {
        if server.engine().stats().total_connections == 0 {
            break;
        }
        server.turn(SHORT).expect("the turn succeeds");
    }
    assert_eq!(server.engine().stats().active_lobbies, 0);
    server.engine().check();
}

/// Leaves every authorization pending, and broadcasts each command.
#[derive(Default)]
struct Asking {
    asked: Vec<ConnId>,
}

impl App for Asking {
    const PROTOCOL: Protocol = Protocol::Raw;

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
fn other_threads_can_authorize_command_and_stop() {
    let long = Duration::from_secs(60);
    let config = Config { auth_timeout: long, close_timeout: long, drain_deadline: 2 * long, ..on_free_port() };
    let mut server = Server::bind(config, Asking::default()).expect("a free port");
    let handle = server.handle();
    let mut ann = Client::connect(server.local_addr().expect("the server listens"), "a", "ann");
    while server.engine().app().asked.is_empty() {
        server.turn(SHORT).expect("the turn succeeds");
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
    for _ in 0..TURNS {
        if let Status::Stopped(totals) = server.turn(SHORT).expect("the turn succeeds") {
            assert_eq!((totals.closed, totals.dropped_bytes, totals.forced), (1, 0, 0));
            return;
        }
    }
    panic!("the server did not stop");
}

#[test]
fn a_full_queue_of_commands_returns_them() {
    let server = Server::bind(Config { max_commands: 2, ..on_free_port() }, Verbatim::default()).expect("a free port");
    let handle = server.handle();
    assert!(handle.send("1").is_ok() && handle.send("2").is_ok());
    assert_eq!(handle.send("3"), Err(lobbyd::net::Busy));
}

#[test]
fn a_server_that_cannot_start_reports_the_reason() {
    let server = Server::bind(on_free_port(), Relay::default()).expect("a free port");
    let occupied = Config { listen: server.local_addr().expect("the server listens").into(), ..on_free_port() };
    let error = Server::bind(occupied, Relay::default()).err().expect("the port is taken");
    assert!(error.to_string().ends_with("address in use; is another lobbyd running?"), "{error}");
    let wrong = Config { max_pending: 0, pong_timeout: Duration::from_secs(60), ..on_free_port() };
    match Server::bind(wrong, Relay::default()).err().expect("the configuration is invalid") {
        Error::Config(problems) => assert_eq!(problems.len(), 2),
        other => panic!("{other}"),
    }
}

#[test]
fn the_example_embeds_the_server_in_a_loop_of_its_own() {
    // `cargo test` has built the examples, `cargo test --test it` has not.
    let tests = std::env::current_exe().expect("a path");
    let target = tests.ancestors().nth(3).expect("target/PROFILE/deps/it");
    // With the features of the tests the library is built already.
    let features = [
        ("deflate", cfg!(feature = "deflate")),
        ("hook", cfg!(feature = "hook")),
        ("jwt", cfg!(feature = "jwt")),
        ("tls", cfg!(feature = "tls")),
    ];
    let features: Vec<&str> = features.into_iter().filter_map(|(name, is_on)| is_on.then_some(name)).collect();
    let build = ["build", "--quiet", "--example", "embed", "--features", &features.join(",")];
    let built = Command::new(env!("CARGO")).args(build).arg("--target-dir").arg(target).status();
    assert!(built.expect("cargo runs").success());
    let example = target.join("debug/examples/embed");
    let mut command = Command::new(example);
    command.args(["--listen", "127.0.0.1:0"]).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().expect("the example was built");
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(child.stdout.take().expect("the stream is piped")));
    let line = lines.next().expect("it prints its address").expect("UTF-8");
    let address: SocketAddr =
        line.strip_prefix("listening on ").expect("the address line").parse().expect("an address");

    let mut client = BlockingClient::connect(address, "/ws/arena?token=ann", &[]);
    let first = client.next_text();
    let position: i32 = first.strip_prefix("ann=").expect("ann is there").parse().expect("a number");
    client.send(&wire::text("right"));
    let moved = Received::Text(format!("ann={}", position + 1));
    // Thirty frames come each second.
    assert!((0..2000).any(|_| client.next() == moved), "the move is seen in a later frame");
    let status = Command::new("kill").args(["-TERM", &child.id().to_string()]).status();
    assert!(status.expect("kill can be started").success());
    let close = Received::Close(1001, "server_shutdown".into());
    assert!((0..2000).any(|_| client.next() == close), "it says goodbye");
    drop(client);
    assert_eq!(child.wait().expect("the child can be waited for").code(), Some(0));
}

/// The messages of all members in one turn exceed the outbox. This does not make the receiver slow: no write to it has been
/// attempted yet.
#[test]
fn many_messages_in_one_turn_do_not_overflow_an_outbox() {
    let mut server = Server::bind(on_free_port(), Verbatim::default()).expect("a free port");
    let address = server.local_addr().expect("the server listens");
    let mut clients: Vec<Client> = (0..9).map(|n| Client::connect(address, "a", &format!("user{n}"))).collect();
    for client in &mut clients {
        assert!(matches!(client.next(&mut server), Received::Answer(101, _)));
    }
    let long = "x".repeat(60_000);
    // The messages are in the sockets' buffers before the server reads any of them.
    clients[1..].iter_mut().for_each(|client| client.send(&wire::text(&long)));
    for _ in 1..9 {
        assert_eq!(clients[0].next(&mut server), Received::Text(long.clone()));
    }
}

/// A read ends at the urgent mark (`MSG_OOB`, RFC 6093), although more bytes follow. The server reads on, and takes the
/// urgent byte as part of the stream.
#[cfg(target_os = "linux")]
#[test]
fn urgent_data_does_not_stall_what_follows_it() {
    let admin = Some("127.0.0.1:0".parse().expect("an address"));
    let mut server = Server::bind(Config { admin, ..on_free_port() }, Verbatim::default()).expect("a free port");
    let operators = server.admin_addr().expect("admin is on");
    let (mut ann, mut bob) = two_members(&mut server);
    let urgent = |client: &Client, bytes: &[u8]| {
        let sent = socket2::SockRef::from(&client.stream).send_out_of_band(bytes);
        assert_eq!(sent.expect("the socket takes a small message"), bytes.len());
    };
    for round in 0..3 {
        ann.send(&wire::text(&format!("before {round}")));
        // The last byte is the urgent one.
        urgent(&ann, &wire::text(&format!("urgent {round}")));
        ann.send(&wire::text(&format!("after {round}")));
        for part in ["before", "urgent", "after"] {
            assert_eq!(bob.next(&mut server), Received::Text(format!("{part} {round}")));
        }
    }
    let mut operator = Client::open(operators);
    operator.send(b"GET /health/live HTTP/1.1\r\n");
    urgent(&operator, b"Host: localhost\r\n");
    operator.send(b"Connection: close\r\n\r\n");
    assert!(matches!(operator.next(&mut server), Received::Answer(200, _)));
}

/// Two members of one lobby.
fn two_members<A: App>(server: &mut Server<A>) -> (Client, Client) {
    let address = server.local_addr().expect("the server listens");
    let mut members = ["ann", "bob"].map(|user| Client::connect(address, "chess", user));
    for member in &mut members {
        assert!(matches!(member.next(server), Received::Answer(101, _)));
    }
    let [ann, bob] = members;
    (ann, bob)
}
