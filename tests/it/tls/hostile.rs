//! Clients that break TLS, or only begin it.

use std::io::Write;
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use lobbyd::Config;
use lobbyd::apps::Verbatim;
use lobbyd::config::Limit;
use lobbyd::net::Server;
use lobbyd::sim::wire::{self, Received};
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, ClientConnection};

use super::{TlsClient, bind, client_config, newest, plain_address, raw, raw_end, turns_until, with_tls};
use crate::common::sockets::{Client, SHORT};

/// A fatal alert in a record that is not encrypted (RFC 8446 section 6).
fn is_alert(bytes: &[u8]) -> bool {
    matches!(bytes, [21, 3, _, 0, 2, 2, _])
}

/// Returns the first bytes that a client sends.
fn hello(config: ClientConfig) -> Vec<u8> {
    let name = "localhost".try_into().expect("a name");
    let mut client = ClientConnection::new(Arc::new(config), name).expect("a valid configuration");
    let mut bytes = Vec::new();
    client.write_tls(&mut bytes).expect("a vector takes it");
    bytes
}

/// What the server answers to bytes that are no handshake.
#[track_caller]
fn check_refused(server: &mut Server<Verbatim>, bytes: &[u8]) {
    let mut socket = raw(server).expect("the server listens");
    socket.write_all(bytes).expect("the socket takes it");
    let answer = raw_end(server, &mut socket);
    assert!(is_alert(&answer), "{answer:?} to {:?}", &bytes[..5]);
    turns_until(server, |server| server.engine().stats().pending == 0);
}

#[test]
fn what_is_no_handshake_is_answered_with_an_alert() {
    let mut server = bind(with_tls("first"));
    check_refused(&mut server, b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n");
    check_refused(&mut server, &[0; 1000]);
    check_refused(&mut server, &[255; 100_000]);
    // Data before the handshake, and a handshake message of another kind.
    check_refused(&mut server, &[23, 3, 3, 0, 1, 0]);
    check_refused(&mut server, &[22, 3, 1, 0, 4, 20, 0, 0, 0]);
    // A record that is longer than any, refused before the rest of it arrives; and a version of SSL 3.
    check_refused(&mut server, &[22, 3, 1, 255, 255]);
    check_refused(&mut server, &[22, 3, 0, 0, 4, 1, 0, 0, 0]);
    let mut client = TlsClient::join(&mut server, &newest(), "ann");
    client.send(&wire::close(1000, ""));
    client.end(&mut server);
}

/// A message of a handshake may have many records. The server keeps no more of it than one record can have.
#[test]
fn an_endless_hello_is_cut_off() {
    let mut server = bind(with_tls("first"));
    let mut socket = raw(&server).expect("the server listens");
    let record = [&[22, 3, 1, 0x40, 0][..], &[1, 0, 255, 255], &[0; 0x4000 - 4]].concat();
    socket.write_all(&record).expect("the socket takes it");
    let next = [&[22, 3, 1, 0x40, 0][..], &[0; 0x4000]].concat();
    socket.write_all(&next).expect("the socket takes it");
    raw_end(&mut server, &mut socket);
    turns_until(&mut server, |server| server.engine().stats().pending == 0);
}

/// Also the hello with which clients begin an exchange that is safe against quantum computers: it comes in two packets.
#[test]
fn a_hello_in_single_bytes_is_understood() {
    let mut server = bind(with_tls("first"));
    for version in [&TLS12, &TLS13] {
        let mut client = TlsClient::open(&server, &Arc::new(client_config(&[version])));
        let mut bytes = Vec::new();
        client.tls.write_tls(&mut bytes).expect("a vector takes it");
        for byte in bytes {
            client.socket.write_all(&[byte]).expect("the socket takes it");
            server.turn(Some(Duration::ZERO)).expect("the turn succeeds");
        }
        client.send(&wire::upgrade_request("/ws/chess?token=ann", &[]));
        client.expect_upgrade(&mut server);
        // A frame in single bytes of its record.
        client.tls.writer().write_all(&wire::close(1000, "")).expect("the buffer has room");
        let mut bytes = Vec::new();
        client.tls.write_tls(&mut bytes).expect("a vector takes it");
        for byte in bytes {
            client.socket.write_all(&[byte]).expect("the socket takes it");
            server.turn(Some(Duration::ZERO)).expect("the turn succeeds");
        }
        assert!(matches!(client.end(&mut server)[..], [Received::Close(1000, _)]));
    }
}

/// A record that was changed on its way ends the connection. The member leaves.
#[test]
fn a_forged_record_ends_the_connection() {
    let mut server = bind(with_tls("first"));
    let mut ann = TlsClient::join(&mut server, &newest(), "ann");
    turns_until(&mut server, |server| server.engine().stats().total_connections == 1);
    ann.socket.write_all(&[23, 3, 3, 0, 20]).expect("the socket takes it");
    ann.socket.write_all(&[7; 20]).expect("the socket takes it");
    let error = (0..1000).find_map(|_| {
        server.turn(SHORT).expect("the turn succeeds");
        ann.pump().err()
    });
    assert_eq!(error, Some(rustls::Error::AlertReceived(rustls::AlertDescription::BadRecordMac)));
    turns_until(&mut server, |server| server.engine().stats().total_connections == 0);
}

#[test]
fn clients_that_go_in_the_middle_of_a_handshake_leave_nothing() {
    let mut server = bind(with_tls("first"));
    let hello = hello(client_config(&[&TLS13]));
    for length in [0, 1, 5, 100, hello.len() - 1, hello.len()] {
        for resets in [false, true] {
            let mut socket = raw(&server).expect("the server listens");
            socket.write_all(&hello[..length]).expect("the socket takes it");
            server.turn(SHORT).expect("the turn succeeds");
            if resets {
                let options = socket2::SockRef::from(&socket);
                options.set_linger(Some(Duration::ZERO)).expect("a socket takes it");
            } else {
                socket.shutdown(Shutdown::Write).expect("the socket is open");
            }
            drop(socket);
        }
    }
    turns_until(&mut server, |server| server.engine().stats().counters.accepted == 12);
    turns_until(&mut server, |server| server.engine().stats().pending == 0);
}

/// `max_pending` counts handshakes as it counts requests, and `handshake_timeout` is for both together.
#[test]
fn handshakes_that_never_end_are_bounded_in_number_and_time() {
    let config =
        Config { max_pending: 8, max_overflow: 2, handshake_timeout: Duration::from_millis(300), ..with_tls("first") };
    let mut server = bind(config);
    let hello = hello(client_config(&[&TLS13]));
    let mut sockets: Vec<TcpStream> = (0..40).map(|_| raw(&server).expect("the server listens")).collect();
    for (number, socket) in sockets.iter_mut().enumerate() {
        // Those that were refused are closed already.
        let _ = socket.write_all(&hello[..number * hello.len() / 40]);
        server.turn(Some(Duration::ZERO)).expect("the turn succeeds");
        assert!(server.engine().stats().pending <= 10);
    }
    turns_until(&mut server, |server| server.engine().stats().counters.accepted == 40);
    turns_until(&mut server, |server| server.engine().stats().pending == 0);
    for mut socket in sockets {
        raw_end(&mut server, &mut socket);
    }
    TlsClient::join(&mut server, &newest(), "ann");
}

/// However many hellos have arrived, a turn answers `tls_handshakes_per_turn` of them, and passes on the messages of the others.
#[test]
fn a_flood_of_hellos_leaves_the_others_their_turns() {
    let config = Config { tls_handshakes_per_turn: 1, accept_per_turn: 100, ..with_tls("first") };
    let mut server = bind(config);
    let mut members = ["ann", "bob"].map(|user| {
        let mut client = Client::connect(plain_address(&server), "chess", user);
        client.stream.set_nodelay(true).expect("the socket is open");
        assert!(matches!(client.next(&mut server), Received::Answer(101, _)));
        client
    });
    let config = newest();
    let mut flood: Vec<TlsClient> =
        (0..50).map(|number| TlsClient::connect(&server, &config, &format!("u{number}"))).collect();
    turns_until(&mut server, |server| server.engine().stats().counters.accepted == 52);
    let (mut turns, mut done) = (0, 0);
    for number in 0..10 {
        members[0].send(&wire::text(&number.to_string()));
        loop {
            server.turn(SHORT).expect("the turn succeeds");
            turns += 1;
            flood.iter_mut().for_each(|client| client.pump().expect("the server keeps to TLS"));
            done = flood.iter().filter(|client| !client.tls.is_handshaking()).count();
            assert!(done <= turns, "{done} handshakes in {turns} turns");
            if let Some(received) = members[1].poll() {
                assert_eq!(received, Received::Text(number.to_string()));
                break;
            }
        }
    }
    assert!(done < flood.len(), "the members did not wait for the flood");
    // None is forgotten.
    turns_until(&mut server, |_| {
        flood.iter_mut().for_each(|client| client.pump().expect("the server keeps to TLS"));
        flood.iter().all(|client| !client.tls.is_handshaking())
    });
}

/// New keys cost the server as much as dozens of messages, and are neither messages nor bytes to be charged.
#[test]
fn new_keys_without_end_close_the_connection() {
    let config = Config {
        admin: Some("tls:127.0.0.1:0".parse().expect("an address")),
        messages_per_second: Limit::UNLIMITED,
        user_messages_per_second: Limit::UNLIMITED.into(),
        bytes_per_second: Limit::UNLIMITED,
        user_bytes_per_second: Limit::UNLIMITED.into(),
        ..with_tls("first")
    };
    let mut server = bind(config);
    let mut bob = TlsClient::join(&mut server, &newest(), "bob");
    let mut ann = TlsClient::join(&mut server, &newest(), "ann");
    // A few are allowed at any time, and more of them to a client that says something.
    for round in 0..100 {
        for _ in 0..if round == 0 { 30 } else { 1 } {
            ann.tls.refresh_traffic_keys().expect("the connection is open");
        }
        for _ in 0..if round == 0 { 1 } else { 17 } {
            ann.send(&wire::text("hello"));
            assert_eq!(bob.next(&mut server), Received::Text("hello".into()));
        }
    }
    let mut stranger = TlsClient::open_as_operator(&server, &newest());
    turns_until(&mut server, |_| {
        stranger.pump().expect("the server keeps to TLS");
        !stranger.tls.is_handshaking()
    });
    for (client, data) in [(&mut ann, &b"\x89\x80\0\0\0\0"[..]), (&mut stranger, b"G")] {
        for _ in 0..300 {
            for _ in 0..20 {
                client.tls.refresh_traffic_keys().expect("the connection is open");
            }
            // With some data in between, each new key is one of few.
            client.send(data);
        }
        let left = client.tls.write_tls(&mut std::io::sink());
        assert!(left.is_ok());
        let mut turns = 0;
        while !client.has_ended {
            server.turn(SHORT).expect("the turn succeeds");
            client.has_ended |= client.pump().is_err();
            turns += 1;
            assert!(turns < 100, "the connection is still open");
        }
    }
    turns_until(&mut server, |server| server.engine().stats().total_connections == 1);
}

/// Sockets that are read in every turn do not use up the handshakes of the others.
#[test]
fn handshakes_of_operators_take_turns() {
    let config = Config {
        admin: Some("tls:127.0.0.1:0".parse().expect("an address")),
        tls_handshakes_per_turn: 1,
        ..with_tls("first")
    };
    let mut server = bind(config);
    let address = server.admin_addr().expect("an address");
    let mut slow = TcpStream::connect(address).expect("the server listens");
    slow.set_nodelay(true).expect("the socket is open");
    let hello = hello(client_config(&[&TLS13]));
    slow.write_all(&hello[..1]).expect("the socket takes it");
    server.turn(SHORT).expect("the turn succeeds");
    let mut operator = TlsClient::open_as_operator(&server, &newest());
    for byte in &hello[1..200] {
        slow.write_all(&[*byte]).expect("the socket takes it");
        operator.pump().expect("the server keeps to TLS");
        server.turn(Some(Duration::ZERO)).expect("the turn succeeds");
    }
    assert!(!operator.tls.is_handshaking());
}

#[test]
fn handshakes_of_operators_are_charged_apart_from_those_of_members() {
    let config = Config {
        attempts_per_minute: Limit::at_most(1),
        attempt_burst: 2,
        admin: Some("tls:127.0.0.1:0".parse().expect("an address")),
        ..with_tls("first")
    };
    let mut server = bind(config);
    let address = server.admin_addr().expect("an address");
    let _members: Vec<TlsClient> =
        (0..2).map(|number| TlsClient::join(&mut server, &newest(), &format!("u{number}"))).collect();
    for _ in 0..2 {
        let mut operator = TlsClient::open_as_operator(&server, &newest());
        operator.send(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n");
        assert!(matches!(operator.next(&mut server), Received::Answer(200, _)));
    }
    let mut third = TcpStream::connect(address).expect("the server listens");
    assert!(raw_end(&mut server, &mut third).is_empty(), "it is closed unread");
}

#[test]
fn handshakes_are_charged_before_they_cost_anything() {
    let config = Config {
        attempts_per_minute: Limit::at_most(1),
        attempt_burst: 3,
        admin: Some("127.0.0.1:0".parse().expect("an address")),
        ..with_tls("first")
    };
    let mut server = bind(config);
    let _members: Vec<TlsClient> =
        (0..3).map(|number| TlsClient::join(&mut server, &newest(), &format!("u{number}"))).collect();
    let mut socket = raw(&server).expect("the server listens");
    assert!(raw_end(&mut server, &mut socket).is_empty(), "it is closed unread");
    assert_eq!(server.engine().stats().counters.accepted, 3);
    let mut operator = Client::open(server.admin_addr().expect("an address"));
    operator.send(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert!(matches!(operator.next(&mut server), Received::Answer(200, _)));
    let Received::Body(text) = operator.next(&mut server) else { panic!("the metrics") };
    assert!(text.contains("\nlobbyd_tls_handshakes_total{result=\"refused\"} 1\n"), "{text}");
    // Behind a proxy, which makes the attempts of all clients, only the requests are charged.
    let config =
        Config { attempts_per_minute: Limit::at_most(1), attempt_burst: 1, trusted_proxies: 1, ..with_tls("first") };
    let mut server = bind(config);
    for address in ["192.0.2.1", "192.0.2.2"] {
        let mut client = TlsClient::open(&server, &newest());
        client.send(&wire::upgrade_request(
            &format!("/ws/chess?token={address}"),
            &[&format!("X-Forwarded-For: {address}")],
        ));
        client.expect_upgrade(&mut server);
    }
}

/// What comes with the request in one record is limited as without TLS.
#[test]
fn more_than_a_request_in_one_record_is_limited_to_max_header_bytes() {
    let mut server = bind(with_tls("first"));
    let mut bob = TlsClient::join(&mut server, &newest(), "bob");
    let mut ann = TlsClient::open(&server, &newest());
    let mut bytes = wire::upgrade_request("/ws/chess?token=ann", &[]);
    for number in 0..100 {
        bytes.extend(wire::text(&format!("{number} {}", "x".repeat(100))));
    }
    ann.send(&bytes);
    ann.expect_upgrade(&mut server);
    for number in 0..100 {
        assert_eq!(bob.next(&mut server), Received::Text(format!("{number} {}", "x".repeat(100))));
    }
}
