//! The client's TLS, with the certificates of the tests.

use std::path::Path;
use std::time::Duration;

use lobbyd::client::{Lobby, LobbyOptions, State};
use lobbyd::{Config, net::Server};

use super::sockets::{open, relay, turns, why};

fn file(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/tls/files").join(name)
}

fn server() -> Server<lobbyd::apps::Relay> {
    relay(Config {
        listen: "tls:127.0.0.1:0".parse().expect("an address"),
        tls_cert: Some(file("first.pem")),
        tls_key: Some(file("first.key")),
        ..Config::default()
    })
}

fn connect(server: &Server<lobbyd::apps::Relay>, host: &str, certificates: &str) -> Lobby {
    let port = server.local_addr().expect("the server listens").port();
    let pem = std::fs::read(file(certificates)).expect("a certificate");
    let options = LobbyOptions { token: "ann".into(), certificates: Some(pem), ..LobbyOptions::default() };
    Lobby::connect(&format!("wss://{host}:{port}/ws/chess"), options).expect("TLS")
}

/// By a name and by an address, both of which the certificate has.
#[test]
fn a_trusted_certificate_opens_the_lobby() {
    let mut server = server();
    for host in ["localhost", "127.0.0.1"] {
        let mut ann = connect(&server, host, "ca.pem");
        open(&mut server, &mut [&mut ann]);
        // More than the buffers of TLS take at once.
        for _ in 0..3 {
            ann.request("chat", "x".repeat(20_000)).expect("there is room");
        }
        let mut settled = 0;
        turns(&mut server, &mut [&mut ann], |lobbies| {
            settled += std::iter::from_fn(|| lobbies[0].poll_event())
                .filter(|event| matches!(event, lobbyd::client::Event::Settled { result: Ok(_), .. }))
                .count();
            settled == 3
        });
        ann.leave();
        turns(&mut server, &mut [&mut ann], |lobbies| lobbies[0].is_finished());
    }
}

#[test]
fn another_certificate_is_refused_before_the_request_is_written() {
    let mut server = server();
    let mut ann = connect(&server, "127.0.0.1", "rsa.pem");
    turns(&mut server, &mut [&mut ann], |lobbies| lobbies[0].state() == State::Waiting);
    assert_eq!(why(&mut ann).map(|why| why.code), Some(1006));
    assert_eq!(server.engine().stats().total_connections, 0, "no request has come");
}

#[test]
fn a_file_without_certificates_is_an_error() {
    let options = LobbyOptions { certificates: Some(b"none".to_vec()), ..LobbyOptions::default() };
    let error = Lobby::connect("wss://127.0.0.1:1/ws/chess", options).expect_err("there is no certificate");
    assert_eq!(error.code(), "no_tls");
    let options = LobbyOptions { certificates: Some(b"none".to_vec()), ..LobbyOptions::default() };
    assert!(
        Lobby::join("ws://127.0.0.1:1/ws/chess", options, Duration::ZERO).is_err_and(|why| why.code() == "timeout")
    );
}
