//! The client with sockets. The server's turns and the client's alternate in the thread of the test; other servers are
//! played by hand.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use lobbyd::apps::Relay;
use lobbyd::client::{Closed, Event, Lobby, LobbyOptions, LobbyToken, Session, State};
use lobbyd::net::Server;
use lobbyd::{App, Config};

use crate::common::sockets::{SHORT, TURNS, on_free_port, refusing};

pub fn relay(config: Config) -> Server<Relay> {
    Server::bind(config, Relay::default()).expect("a free port")
}

pub fn with_token(token: impl Into<LobbyToken>) -> LobbyOptions {
    LobbyOptions { token: token.into(), ..LobbyOptions::default() }
}

/// Begins to join a lobby of the server.
pub fn connect(address: SocketAddr, token: &str) -> Lobby {
    Lobby::connect(&format!("ws://{address}/ws/chess"), with_token(token)).expect("a valid address")
}

/// Runs turns of the server and of the clients until `is_done`.
#[track_caller]
pub fn turns<A: App>(
    server: &mut Server<A>,
    lobbies: &mut [&mut Lobby],
    mut is_done: impl FnMut(&mut [&mut Lobby]) -> bool,
) {
    for _ in 0..TURNS {
        for lobby in lobbies.iter_mut() {
            lobby.turn(Duration::ZERO);
        }
        if is_done(lobbies) {
            return;
        }
        server.turn(SHORT).expect("the turn succeeds");
    }
    panic!("it did not happen: {lobbies:?}");
}

/// Runs turns until all clients are open.
#[track_caller]
pub fn open<A: App>(server: &mut Server<A>, lobbies: &mut [&mut Lobby]) {
    turns(server, lobbies, |lobbies| lobbies.iter().all(|lobby| lobby.state() == State::Open));
}

/// Polls all events, and returns the reason of the last one that says that the connection has ended.
pub fn why(lobby: &mut Lobby) -> Option<Closed> {
    std::iter::from_fn(|| lobby.poll_event())
        .filter_map(|event| if let Event::Connection { why, .. } = event { why } else { None })
        .last()
}

/// A server that is played by hand.
struct Stage {
    listener: TcpListener,
    lobby: Lobby,
}

impl Stage {
    fn new() -> Stage {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let lobby = connect(listener.local_addr().expect("an address"), "ann");
        Stage { listener, lobby }
    }

    /// Accepts the next connection, and reads its request.
    #[track_caller]
    fn accept(&mut self) -> (TcpStream, String) {
        self.listener.set_nonblocking(true).expect("a socket can be set non-blocking");
        let mut accepted = None;
        for _ in 0..TURNS {
            self.lobby.turn(Duration::from_millis(5));
            match self.listener.accept() {
                Ok((socket, _)) => {
                    accepted = Some(socket);
                    break;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => panic!("{error}"),
            }
        }
        let mut socket = accepted.expect("the client connects");
        socket.set_nonblocking(true).expect("a socket can be set non-blocking");
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            self.lobby.turn(Duration::from_millis(2));
            read(&mut socket, &mut request);
        }
        (socket, String::from_utf8(request).expect("ASCII"))
    }

    /// Accepts the next connection, and lets the client in. More bytes follow the answer.
    #[track_caller]
    fn let_in(&mut self, more: &[u8]) -> TcpStream {
        let (mut socket, request) = self.accept();
        let key = request.lines().find_map(|line| line.strip_prefix("Sec-WebSocket-Key: ")).expect("a key");
        let answer = format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {}\r\n\r\n",
            tungstenite::handshake::derive_accept_key(key.as_bytes())
        );
        socket.write_all(&[answer.as_bytes(), more].concat()).expect("the client reads");
        socket
    }

    /// Does turns until `is_done`.
    #[track_caller]
    fn until(&mut self, mut is_done: impl FnMut(&mut Lobby) -> bool) {
        for _ in 0..TURNS {
            if is_done(&mut self.lobby) {
                return;
            }
            self.lobby.turn(Duration::from_millis(5));
        }
        panic!("it did not happen: {:?}", self.lobby);
    }

    /// Does turns until the connection has ended. Returns why.
    #[track_caller]
    fn end(&mut self) -> Closed {
        let mut ended = None;
        self.until(|lobby| {
            ended = ended.take().or_else(|| why(lobby));
            ended.is_some()
        });
        ended.expect("a reason")
    }
}

/// Reads what has arrived. Returns false at the end of the stream.
fn read(socket: &mut TcpStream, into: &mut Vec<u8>) -> bool {
    let mut bytes = [0; 4096];
    match socket.read(&mut bytes) {
        Ok(0) => false,
        Ok(count) => {
            into.extend_from_slice(&bytes[..count]);
            true
        }
        Err(error) if error.kind() == ErrorKind::WouldBlock => true,
        Err(_) => false,
    }
}

fn text(text: &str) -> Vec<u8> {
    let length = u16::try_from(text.len()).expect("a short text");
    let mut frame = vec![0x81];
    match u8::try_from(length) {
        Ok(length @ 0..=125) => frame.push(length),
        _ => {
            frame.push(126);
            frame.extend(length.to_be_bytes());
        }
    }
    frame.extend(text.bytes());
    frame
}

const WELCOME: &str =
    r#"{"type":"welcome","conn":"s1","user":"ann","lobby":"chess","epoch":7,"resumed":false,"recovered":false}"#;
const LIST: &str = r#"{"type":"presence_state","seq":0,"users":[{"user":"ann","conn":"s1"}]}"#;

fn greeting() -> Vec<u8> {
    [text(WELCOME), text(LIST)].concat()
}

/// Engines that run systems in threads keep it as a resource.
#[test]
fn threads_can_share_a_lobby() {
    fn check<T: Send + Sync + 'static>() {}
    check::<Lobby>();
    check::<LobbyOptions>();
}

#[test]
fn members_hear_each_other_and_leave() {
    let mut server = relay(on_free_port());
    let address = server.local_addr().expect("the server listens");
    let (mut ann, mut bob) = (connect(address, "ann"), connect(address, "bob"));
    open(&mut server, &mut [&mut ann, &mut bob]);
    turns(&mut server, &mut [&mut ann, &mut bob], |lobbies| lobbies.iter().all(|lobby| lobby.count() == 2));
    while ann.poll_event().is_some() || bob.poll_event().is_some() {}
    let request = ann.request("move", serde_json::json!({"to": "e4"})).expect("a valid payload");
    let (mut settled, mut heard) = (None, None);
    turns(&mut server, &mut [&mut ann, &mut bob], |lobbies| {
        settled = settled.take().or(lobbies[0].poll_event());
        heard = heard.take().or(lobbies[1].poll_event());
        settled.is_some() && heard.is_some()
    });
    assert!(matches!(settled, Some(Event::Settled { id, result: Ok(_) }) if id == request), "{settled:?}");
    let Some(Event::Message(message)) = heard else { panic!("{heard:?}") };
    assert_eq!((message.from.as_deref(), message.kind.as_deref()), (Some("ann"), Some("move")));
    ann.leave();
    turns(&mut server, &mut [&mut ann, &mut bob], |lobbies| lobbies[0].is_finished() && lobbies[1].count() == 1);
    let left = std::iter::from_fn(|| bob.poll_event()).find(|event| matches!(event, Event::Leave { .. }));
    assert!(matches!(&left, Some(Event::Leave { reason, .. }) if reason == "left"), "{left:?}");
}

#[test]
fn a_game_that_never_waits_opens_and_hears() {
    let mut server = relay(on_free_port());
    let mut ann = connect(server.local_addr().expect("the server listens"), "ann");
    for _ in 0..TURNS {
        if ann.turn(Duration::ZERO) == State::Open {
            return;
        }
        server.turn(SHORT).expect("the turn succeeds");
    }
    panic!("it did not open");
}

#[test]
fn a_refusal_for_ever_ends_with_its_reason() {
    let mut server = relay(Config { max_per_lobby: lobbyd::config::Limit::at_most(1), ..on_free_port() });
    let address = server.local_addr().expect("the server listens");
    let (mut ann, mut bob) = (connect(address, "ann"), connect(address, "bob"));
    open(&mut server, &mut [&mut ann]);
    turns(&mut server, &mut [&mut bob], |lobbies| lobbies[0].is_finished());
    let why = why(&mut bob).expect("a reason");
    assert_eq!((why.code, &*why.reason, why.wait), (4002, "lobby_full", None));
}

#[test]
fn names_are_resolved_and_tokens_are_fetched_for_each_attempt() {
    let mut server = relay(on_free_port());
    let port = server.local_addr().expect("the server listens").port();
    let calls = std::sync::atomic::AtomicU32::new(0);
    // The first two attempts have no token.
    let token = LobbyToken::fetched(move || {
        let call = calls.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        (call >= 2).then(|| format!("ann-{call}"))
    });
    let url = format!("ws://localhost:{port}/ws/chess");
    let mut ann = Lobby::connect(&url, with_token(token)).expect("a valid address");
    open(&mut server, &mut [&mut ann]);
    assert_eq!(ann.me().map(|me| me.user()), Some("ann-2"));
}

#[test]
fn a_token_function_that_panics_fails_the_attempt() {
    let options = with_token(LobbyToken::fetched(|| std::panic::resume_unwind(Box::new("no token"))));
    let mut ann = Lobby::connect("ws://127.0.0.1:9/ws/chess", options).expect("a valid address");
    let waits = |session: &Session| session.state() == State::Waiting;
    assert!(ann.wait(Duration::from_secs(60), waits), "{ann:?}");
}

#[test]
fn an_address_of_ipv6_needs_no_name() {
    let config = Config { listen: "[::1]:0".parse().expect("an address"), ..Config::default() };
    // Some machines have no IPv6.
    let Ok(mut server) = Server::bind(config, Relay::default()) else { return };
    let mut ann = connect(server.local_addr().expect("the server listens"), "ann");
    open(&mut server, &mut [&mut ann]);
}

#[test]
fn nobody_listens() {
    let (_socket, address) = refusing();
    let mut ann = connect(address, "ann");
    assert!(ann.wait(Duration::from_secs(60), |session| session.state() == State::Waiting));
    let why = why(&mut ann).expect("a reason");
    assert_eq!((why.code, &*why.reason), (1006, "no_connection"));
}

#[test]
fn a_refused_upgrade_tells_its_status_and_when_to_come_back() {
    let mut stage = Stage::new();
    let (mut socket, request) = stage.accept();
    assert!(
        request.contains("\r\nSec-WebSocket-Protocol: lobby.v1.json, base64url.bearer.lobby.YW5u\r\n"),
        "{request}"
    );
    socket.write_all(b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 7\r\n\r\nbusy").expect("the client reads");
    let why = stage.end();
    assert_eq!((why.code, &*why.reason), (1006, "http_503"));
    assert!(why.wait.is_some_and(|wait| wait >= Duration::from_secs(7)), "{why:?}");
}

#[test]
fn a_server_that_ends_the_connection_in_the_handshake_is_asked_again() {
    let mut stage = Stage::new();
    let (mut socket, _) = stage.accept();
    socket.write_all(b"HTTP/1.1 101 Switching").expect("the client reads");
    drop(socket);
    assert_eq!(stage.end().code, 1006);
    let (socket, _) = stage.accept();
    drop(socket);
    assert_eq!(stage.end().code, 1006);
}

#[test]
fn a_server_that_hangs_in_the_handshake_can_be_left_at_once() {
    let mut stage = Stage::new();
    let (mut socket, _) = stage.accept();
    assert!(!stage.lobby.wait(Duration::from_millis(50), |session| session.state() != State::Connecting));
    stage.lobby.leave();
    assert!(stage.lobby.is_finished(), "there is no connection to end");
    let mut rest = Vec::new();
    for _ in 0..TURNS {
        if !read(&mut socket, &mut rest) {
            assert!(rest.is_empty());
            return;
        }
        stage.lobby.turn(Duration::from_millis(5));
    }
    panic!("the socket stays open");
}

#[test]
fn what_follows_the_answer_is_read_and_half_a_frame_is_not() {
    let mut stage = Stage::new();
    let socket = stage.let_in(
        &[greeting(), text(r#"{"type":"message","from":"bob","seq":1,"data":7}"#), vec![0x81, 5, b'x']].concat(),
    );
    stage.until(|lobby| lobby.state() == State::Open);
    drop(socket);
    let mut messages = 0;
    let mut ended = None;
    stage.until(|lobby| {
        while let Some(event) = lobby.poll_event() {
            match event {
                Event::Message(_) => messages += 1,
                Event::Connection { why: Some(why), .. } => ended = Some(why),
                _ => {}
            }
        }
        ended.is_some()
    });
    assert_eq!((messages, ended.map(|why| why.code)), (1, Some(1006)));
}

#[test]
fn a_close_frame_is_answered_and_its_code_decides() {
    let mut stage = Stage::new();
    let mut socket = stage.let_in(&[greeting(), b"\x88\x08\x0f\xa3kicked".to_vec()].concat());
    let why = stage.end();
    assert_eq!((why.code, &*why.reason, why.wait), (4003, "kicked", None));
    assert!(!stage.lobby.is_finished(), "the server ends the connection");
    let mut received = Vec::new();
    while !received.ends_with(&[0x0f, 0xa3]) {
        assert!(read(&mut socket, &mut received), "{received:?}");
        stage.lobby.turn(Duration::from_millis(2));
    }
    drop(socket);
    stage.until(|lobby| lobby.is_finished());
}

#[test]
fn a_message_that_is_too_large_is_refused_when_it_is_announced() {
    let mut stage = Stage::new();
    let socket = stage.let_in(&[greeting(), b"\x82\x7f\x00\x00\x00\x00\x01\x00\x00\x00".to_vec()].concat());
    let why = stage.end();
    assert_eq!((why.code, &*why.reason, why.wait), (1009, "too_large", None));
    drop(socket);
}

#[test]
fn a_server_that_breaks_the_protocol_is_lost() {
    let mut stage = Stage::new();
    let socket = stage.let_in(&[greeting(), b"\xc1\x00".to_vec()].concat());
    let why = stage.end();
    assert_eq!((why.code, why.wait.is_some()), (1006, true));
    drop(socket);
}

/// A server that sends pings and does not read cannot fill the client's memory: it is not read any more.
#[test]
fn a_flood_of_pings_ends_with_the_room_for_pongs() {
    let mut stage = Stage::new();
    let mut socket = stage.let_in(&greeting());
    stage.until(|lobby| lobby.state() == State::Open);
    let ping = [&[0x89, 125][..], &[0; 125]].concat().repeat(1000);
    let (mut sent, mut at, mut blocked) = (0, 0, 0);
    // The kernel's buffers in both directions hold some megabytes.
    while blocked < 200 {
        assert!(sent < 256 << 20, "the client reads on");
        match socket.write(&ping[at..]) {
            Ok(count) => {
                (sent, at, blocked) = (sent + count, (at + count) % ping.len(), 0);
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => blocked += 1,
            Err(error) => panic!("{error}"),
        }
        stage.lobby.turn(Duration::ZERO);
    }
}

/// A game that polls no events is not flooded: the socket is not read while there is no room.
#[test]
fn a_game_that_polls_no_events_reads_no_more_and_misses_nothing() {
    let mut stage = Stage::new();
    let mut socket = stage.let_in(&greeting());
    let message = text(&format!(r#"{{"type":"message","from":"bob","data":"{}"}}"#, "x".repeat(60_000)));
    let (mut sent, mut at, mut blocked) = (0, 0, 0);
    while blocked < 200 {
        assert!(sent < 256 << 20, "the client reads on");
        match socket.write(&message[at..]) {
            Ok(count) => (sent, at, blocked) = (sent + count, (at + count) % message.len(), 0),
            Err(error) if error.kind() == ErrorKind::WouldBlock => blocked += 1,
            Err(error) => panic!("{error}"),
        }
        stage.lobby.turn(Duration::ZERO);
    }
    assert!(!stage.lobby.has_room());
    let (whole, mut heard) = (sent / message.len(), 0);
    stage.until(|lobby| {
        heard += std::iter::from_fn(|| lobby.poll_event()).filter(|event| matches!(event, Event::Message(_))).count();
        heard >= whole
    });
    assert_eq!((heard, stage.lobby.state()), (whole, State::Open));
}

#[test]
fn scripts_wait_for_the_lobby_and_for_answers() {
    let mut server = relay(on_free_port());
    let url = format!("ws://{}/ws/chess", server.local_addr().expect("the server listens"));
    let script = std::thread::spawn(move || {
        let mut ann = Lobby::join(&url, with_token("ann"), Duration::from_secs(60)).expect("the lobby is open");
        let ack = ann.request_and_wait("chat", "hello").expect("it is executed");
        assert!(ack.seq().is_some());
        assert!(ann.poll_event().is_some(), "the events of before can be polled");
        ann.leave();
        let mut last = None;
        while let Some(event) = ann.next_event() {
            last = Some(event);
        }
        assert!(matches!(last, Some(Event::Connection { state: State::Closed, .. })), "{last:?}");
        assert_eq!(ann.request_and_wait("chat", "again").expect_err("it is closed").code(), "closed");
        let why = Lobby::join(&url, LobbyOptions::default(), Duration::from_secs(60)).expect_err("there is no user");
        assert_eq!((why.code(), &why.details()["code"]), ("unauthorized", &4001.into()));
    });
    while !script.is_finished() {
        server.turn(SHORT).expect("the turn succeeds");
    }
    script.join().expect("the script succeeds");
}

#[cfg(not(feature = "tls"))]
#[test]
fn without_tls_a_secure_address_is_an_error() {
    let error = Lobby::connect("wss://127.0.0.1:1/ws/chess", LobbyOptions::default()).expect_err("there is no TLS");
    assert_eq!(error.code(), "no_tls");
    assert!(error.message().is_some_and(|message| message.contains("feature `tls`")), "{error}");
}

#[track_caller]
fn check_failure(token: impl Fn() -> LobbyToken, url: &str, reason: &str) {
    let message = format!("the last attempt has failed: {reason}");
    // On a busy machine an attempt may take longer than the first of these times.
    let is_said = [200, 2000, 20_000].into_iter().any(|millis| {
        let joined = Lobby::join(url, with_token(token()), Duration::from_millis(millis));
        let error = joined.map(drop).expect_err("there is no server");
        assert_eq!(error.code(), "timeout");
        error.message() == Some(&*message)
    });
    assert!(is_said, "{message}");
}

#[test]
fn a_join_that_times_out_says_why_the_last_attempt_has_failed() {
    let (_socket, address) = refusing();
    let url = format!("ws://{address}/ws/chess");
    check_failure(|| "ann".into(), &url, "no_connection");
    check_failure(|| LobbyToken::fetched(|| None), &url, "no_token");
}
