//! What members with TLS notice: nothing, except that it is encrypted.

use std::io::Write;
use std::net::Shutdown;
use std::sync::Arc;
use std::time::Duration;

use lobbyd::apps::Verbatim;
use lobbyd::config::{ByteSize, Limit};
use lobbyd::net::Error;
use lobbyd::sim::wire::{self, Opcode, Received};
use lobbyd::{Config, Exclude, journal};
use rustls::HandshakeKind;
use rustls::version::{TLS12, TLS13};

use super::{TlsClient, bind, client_config, file, newest, plain_address, turns_until, with_tls};
use crate::common::files::Folder;
use crate::common::sockets::{Client, SHORT};

#[test]
fn members_with_and_without_tls_are_in_one_lobby() {
    for certificate in ["first", "rsa"] {
        let mut server = bind(with_tls(certificate));
        assert!(server.local_addrs()[0].is_tls() && !server.local_addrs()[1].is_tls());
        let mut new = TlsClient::join(&mut server, &Arc::new(client_config(&[&TLS13])), "ann");
        let mut old = TlsClient::join(&mut server, &Arc::new(client_config(&[&TLS12])), "bob");
        let mut plain = Client::connect(plain_address(&server), "chess", "cleo");
        assert!(matches!(plain.next(&mut server), Received::Answer(101, _)));
        new.send(&wire::text("of ann"));
        assert_eq!(old.next(&mut server), Received::Text("of ann".into()));
        assert_eq!(plain.next(&mut server), Received::Text("of ann".into()));
        old.send(&wire::text("of bob"));
        assert_eq!(new.next(&mut server), Received::Text("of bob".into()));
        assert_eq!(plain.next(&mut server), Received::Text("of bob".into()));
        plain.send(&wire::text("of cleo"));
        assert_eq!(new.next(&mut server), Received::Text("of cleo".into()));
        assert_eq!(old.next(&mut server), Received::Text("of cleo".into()));
    }
}

#[test]
fn only_http_1_1_is_negotiated() {
    let mut server = bind(with_tls("first"));
    let offering = |protocols: &[&str]| {
        let mut config = client_config(&[&TLS13]);
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        Arc::new(config)
    };
    let client = TlsClient::join(&mut server, &offering(&["h2", "http/1.1"]), "ann");
    assert_eq!(client.tls.alpn_protocol(), Some(&b"http/1.1"[..]));
    let client = TlsClient::join(&mut server, &offering(&[]), "bob");
    assert_eq!(client.tls.alpn_protocol(), None);
    let mut client = TlsClient::connect(&server, &offering(&["h2"]), "cleo");
    let refused = (0..1000).find_map(|_| {
        server.turn(SHORT).expect("the turn succeeds");
        client.pump().err()
    });
    assert_eq!(refused, Some(rustls::Error::AlertReceived(rustls::AlertDescription::NoApplicationProtocol)));
}

/// Messages of several records, in both directions.
#[test]
fn long_messages_arrive_whole() {
    let unlimited = Limit::UNLIMITED;
    let mut server = bind(Config { bytes_per_second: unlimited, ..with_tls("first") });
    let config = newest();
    let mut ann = TlsClient::join(&mut server, &config, "ann");
    let mut bob = TlsClient::join(&mut server, &config, "bob");
    for length in [16_383, 16_384, 16_385, 40_000, 65_536] {
        let text: String = ('a'..='z').cycle().take(length).collect();
        ann.send(&wire::frame(Opcode::TEXT, true, text.as_bytes(), [1, 2, 3, 4]));
        for _ in 0..10 {
            ann.flush();
            server.turn(SHORT).expect("the turn succeeds");
        }
        assert_eq!(bob.next(&mut server), Received::Text(text), "{length}");
    }
}

/// A socket that takes no more leaves a record that is partly sent. What follows stays in order, and nothing is lost or doubled.
#[test]
fn a_reader_that_pauses_receives_all_in_order() {
    let config = Config { max_outbound_bytes: ByteSize(64 << 20), ..with_tls("first") };
    let mut server = bind(config);
    let mut ann = TlsClient::join(&mut server, &newest(), "ann");
    turns_until(&mut server, |server| server.engine().stats().total_connections == 1);
    let before = server.engine().stats().counters.bytes_out;
    let (mut sent, mut received, mut bytes, mut was_full) = (0, 0, 0, false);
    for round in 0..40 {
        // More than the kernel's buffers hold, in frames of all sizes.
        for _ in 0..200 {
            let frame = lobbyd::Frame::text(&format!("{sent} {}", "x".repeat(sent * 37 % 5000)));
            server.act(|_, cx| cx.broadcast_to_lobby("chess", Exclude::None, &frame));
            bytes += frame.as_bytes().len() as u64;
            sent += 1;
        }
        server.turn(SHORT).expect("the turn succeeds");
        was_full |= server.engine().stats().counters.bytes_out < before + bytes;
        if round > 30 && round % 4 == 3 {
            for _ in 0..100 {
                check_numbered(ann.next(&mut server), received);
                received += 1;
            }
        }
    }
    assert!(was_full, "the socket was never full");
    while received < sent {
        check_numbered(ann.next(&mut server), received);
        received += 1;
    }
    assert_eq!(server.engine().stats().counters.bytes_out, before + bytes);
}

#[track_caller]
fn check_numbered(message: Received, number: usize) {
    match message {
        Received::Text(text) => {
            let (shown, rest) = text.split_once(' ').expect("a number comes first");
            assert_eq!((shown, rest.len()), (&*number.to_string(), number * 37 % 5000));
        }
        other => panic!("expected message {number}, got {other:?}"),
    }
}

/// The close frame follows what was partly sent, although the rest of the queue is dropped.
#[test]
fn a_slow_consumer_with_tls_is_closed_with_a_reason() {
    let mut server = bind(Config { close_timeout: Duration::from_secs(60), ..with_tls("first") });
    let mut ann = TlsClient::join(&mut server, &newest(), "ann");
    turns_until(&mut server, |server| server.engine().stats().total_connections == 1);
    let frame = lobbyd::Frame::text(&"x".repeat(60_000));
    for _ in 0..1000 {
        server.act(|_, cx| cx.broadcast_to_lobby("chess", Exclude::None, &frame));
        server.turn(Some(Duration::ZERO)).expect("the turn succeeds");
        if server.engine().stats().total_connections == 0 {
            break;
        }
    }
    assert_eq!(server.engine().stats().total_connections, 0, "the queue has a bound");
    let last = loop {
        match ann.next(&mut server) {
            Received::Text(text) => assert_eq!(text.len(), 60_000),
            other => break other,
        }
    };
    assert!(matches!(last, Received::Close(4102, _)), "{last:?}");
    ann.send(&wire::close(4102, ""));
    assert_eq!(ann.end(&mut server), []);
    assert!(ann.has_close_notify);
}

#[test]
fn the_server_says_that_it_sends_nothing_more() {
    let mut server = bind(Config { close_timeout: Duration::from_secs(60), ..with_tls("first") });
    let mut ann = TlsClient::join(&mut server, &newest(), "ann");
    ann.send(&wire::close(1000, ""));
    let received = ann.end(&mut server);
    assert!(matches!(received[..], [Received::Close(..)]), "{received:?}");
    assert!(ann.has_close_notify, "close_notify came before the end of the stream");
    // An answer to a request is followed by it too.
    let mut reader = TlsClient::open(&server, &newest());
    reader.send(b"GET /nothing HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let received = reader.end(&mut server);
    assert!(matches!(received[..], [Received::Answer(404, _), Received::Body(_)]), "{received:?}");
    assert!(reader.has_close_notify);
    // A member that is closed by the server, and answers late, can still be read.
    let mut bob = TlsClient::join(&mut server, &newest(), "bob");
    turns_until(&mut server, |server| server.engine().stats().total_connections == 1);
    server.handle().stop();
    assert!(matches!(bob.next(&mut server), Received::Close(..)));
    bob.send(&wire::close(1001, ""));
    assert_eq!(bob.end(&mut server), []);
    assert!(bob.has_close_notify);
}

#[test]
fn a_member_leaves_when_its_stream_ends_with_or_without_close_notify() {
    let mut server = bind(with_tls("first"));
    for says_so in [true, false] {
        let mut ann = TlsClient::join(&mut server, &newest(), "ann");
        turns_until(&mut server, |server| server.engine().stats().total_connections == 1);
        if says_so {
            ann.tls.send_close_notify();
            ann.flush();
        } else {
            // In the middle of a record.
            ann.socket.write_all(&[23, 3, 3, 0, 100, 1, 2, 3]).expect("the socket takes it");
            ann.socket.shutdown(Shutdown::Write).expect("the socket is open");
        }
        turns_until(&mut server, |server| server.engine().stats().total_connections == 0);
    }
}

#[test]
fn a_message_and_the_end_in_one_packet_are_both_handled() {
    let mut server = bind(with_tls("first"));
    let config = newest();
    let mut bob = TlsClient::join(&mut server, &config, "bob");
    let mut ann = TlsClient::join(&mut server, &config, "ann");
    ann.tls.writer().write_all(&wire::text("last words")).expect("the buffer has room");
    ann.tls.send_close_notify();
    ann.flush();
    assert_eq!(bob.next(&mut server), Received::Text("last words".into()));
    turns_until(&mut server, |server| server.engine().stats().total_connections == 1);
}

/// The tickets of a client stay valid when the certificate is replaced, and no early data is ever accepted.
#[test]
fn sessions_are_resumed_also_after_a_reload() {
    let folder = Folder::new("tls-resumed");
    let (cert, key) = (folder.0.join("cert.pem"), folder.0.join("key.pem"));
    let install = |name: &str| {
        std::fs::copy(file(&format!("{name}.pem")), &cert).expect("the folder can be written");
        std::fs::copy(file(&format!("{name}.key")), &key).expect("the folder can be written");
    };
    install("first");
    let config = Config { tls_cert: Some(cert.clone()), tls_key: Some(key.clone()), ..with_tls("first") };
    let mut server = bind(config);
    for version in [&TLS13, &TLS12] {
        let mut config = client_config(&[version]);
        config.enable_early_data = true;
        let config = Arc::new(config);
        let kind = |server: &mut lobbyd::net::Server<Verbatim>, user| {
            let mut client = TlsClient::join(server, &config, user);
            assert!(!client.tls.is_early_data_accepted());
            // The tickets come after the answer.
            client.send(&wire::frame(Opcode::PING, true, b"", [0; 4]));
            client.next(server);
            client.tls.handshake_kind()
        };
        assert_eq!(kind(&mut server, "ann"), Some(HandshakeKind::Full));
        assert_eq!(kind(&mut server, "bob"), Some(HandshakeKind::Resumed));
        install("second");
        server.reload_certificate().expect("a valid pair");
        assert_eq!(kind(&mut server, "cleo"), Some(HandshakeKind::Resumed));
    }
}

#[test]
fn a_new_certificate_is_for_new_connections_only() {
    let folder = Folder::new("tls-reload");
    let (cert, key) = (folder.0.join("cert.pem"), folder.0.join("key.pem"));
    let copy = |from: &str, to| std::fs::copy(file(from), to).expect("the folder can be written");
    copy("first.pem", &cert);
    copy("first.key", &key);
    let config = Config { tls_cert: Some(cert.clone()), tls_key: Some(key.clone()), ..with_tls("first") };
    let mut server = bind(config);
    let shown = |client: &TlsClient| client.tls.peer_certificates().expect("the handshake is over")[0].to_vec();
    let mut ann = TlsClient::join(&mut server, &newest(), "ann");
    // The key does not fit: the old pair stays.
    copy("second.pem", &cert);
    assert!(matches!(server.reload_certificate(), Err(Error::Key(path, _)) if path == key));
    let bob = TlsClient::join(&mut server, &newest(), "bob");
    assert_eq!(shown(&bob), shown(&ann));
    copy("second.key", &key);
    server.reload_certificate().expect("a valid pair");
    let mut cleo = TlsClient::join(&mut server, &newest(), "cleo");
    assert_ne!(shown(&cleo), shown(&ann));
    std::fs::write(&cert, "").expect("the folder can be written");
    assert!(matches!(server.reload_certificate(), Err(Error::Certificate(path, _)) if path == cert));
    cleo.send(&wire::text("still here"));
    assert_eq!(ann.next(&mut server), Received::Text("still here".into()));
}

/// The journal has what was inside the records. The replay has neither TLS nor sockets, and sends the same plaintext.
#[test]
fn the_journal_has_the_plaintext_and_replays() {
    let folder = Folder::new("tls-journal");
    let mut server = bind(Config { journal: Some(folder.journal()), ..with_tls("first") });
    let config = newest();
    let mut ann = TlsClient::join(&mut server, &config, "ann");
    let mut bob = TlsClient::join(&mut server, &config, "bob");
    ann.send(&wire::text("plain words"));
    assert_eq!(bob.next(&mut server), Received::Text("plain words".into()));
    ann.send(&wire::close(1000, ""));
    ann.end(&mut server);
    let stats = server.engine().stats();
    drop((bob, server));
    let recorded = std::fs::read(&folder.segments()[0]).expect("the journal was written");
    let words = wire::text("plain words");
    assert!(recorded.windows(words.len()).any(|window| window == words), "the frame as it was inside TLS");
    let summary = journal::replay(&*recorded, Verbatim::default()).expect("nothing differs");
    assert_eq!((summary.is_open_ended, summary.torn, &summary.stats), (false, None, &stats));
    assert!(summary.confirmed >= 3, "two upgrades, the message and the close frame were sent: {summary}");
    assert!(stats.counters.bytes_in > 0 && stats.counters.bytes_out > 0);
}

/// A proxy that passes TLS on puts its header in front of it.
#[test]
fn tls_follows_the_header_of_a_proxy() {
    let config = Config { proxy_protocol: Some("127.0.0.1".parse().expect("an address")), ..with_tls("first") };
    let mut server = bind(config);
    for (number, waits) in [(1, false), (2, true)] {
        let mut client = TlsClient::open(&server, &newest());
        let header = format!("PROXY TCP4 192.0.2.{number} 127.0.0.1 4000 443\r\n");
        client.socket.write_all(header.as_bytes()).expect("the socket takes it");
        if waits {
            for _ in 0..3 {
                server.turn(SHORT).expect("the turn succeeds");
            }
        }
        client.send(&wire::upgrade_request(&format!("/ws/chess?token=u{number}"), &[]));
        client.expect_upgrade(&mut server);
    }
}

#[test]
fn operators_are_served_with_tls() {
    let config = Config { admin: Some("tls:127.0.0.1:0".parse().expect("an address")), ..with_tls("first") };
    let mut server = bind(config);
    let _member = TlsClient::join(&mut server, &newest(), "ann");
    let mut operator = TlsClient::open_as_operator(&server, &newest());
    operator.send(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert!(matches!(operator.next(&mut server), Received::Answer(200, _)));
    let Received::Body(text) = operator.next(&mut server) else { panic!("the metrics") };
    for line in [
        "lobbyd_tls_handshakes_total{result=\"full\"} 2",
        "lobbyd_tls_handshakes_total{result=\"resumed\"} 0",
        "lobbyd_tls_handshakes_total{result=\"failed\"} 0",
        "lobbyd_tls_handshakes_total{result=\"refused\"} 0",
    ] {
        assert!(text.lines().any(|shown| shown == line), "{line} is missing in {text}");
    }
    let expiry = text.lines().find_map(|line| line.strip_prefix("lobbyd_tls_certificate_expiry_seconds "));
    assert!(expiry.expect("the metric").parse::<f64>().expect("a number") > 90.0 * 365.0 * 86_400.0);
}
