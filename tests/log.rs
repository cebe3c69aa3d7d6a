//! Contents of the log: users, addresses and reasons, but no tokens and no messages. In a process of its own, because a
//! process has one logger.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Mutex;
use std::time::Duration;

use lobbyd::admin::AdminConns;
use lobbyd::apps::{Auth, Relay, Tokens};
use lobbyd::config::{ByteSize, ForwardedHeader};
use lobbyd::driver::{Flow, Start};
use lobbyd::net::{Handle, Server};
use lobbyd::sim::{MemorySockets, wire};
use lobbyd::{
    App, Authorization, CloseReason, Config, Context, Engine, Identity, Member, Message, Protocol, Reject, Request,
    Time,
};
use log::{Level, LevelFilter, Log, Metadata, Record};

/// Stores the level, the target and the text of every record.
struct Recorder(Mutex<Vec<(Level, String, String)>>);

static RECORDS: Recorder = Recorder(Mutex::new(Vec::new()));

impl Log for Recorder {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        let records = (record.level(), record.target().to_owned(), record.args().to_string());
        self.0.lock().expect("no thread panics while it holds the lock").push(records);
    }

    fn flush(&self) {}
}

/// Texts that no record may contain: tokens, plain and encoded, names of sessions, and messages.
const TOKENS: &[&str] = &[
    "tok-4f1c",
    "dG9rLTRmMWM",
    "tok-99d0",
    "tok-wrong",
    "tok-2b",
    "tok%2D2b",
    "tok-late",
    "TOK-77",
    "ses-4f1c",
    "ses-99d0",
];
const CONTENT: &str = "said-in-confidence";

/// Recognizes users by their tokens, one of them with a late decision.
struct TokenApp;

impl App for TokenApp {
    const PROTOCOL: Protocol = Protocol::Json;

    fn authorize(&mut self, _: &mut Context<'_>, request: &Request<'_>) -> Authorization {
        // An application may log the request, whose `Debug` form omits the token.
        log::debug!("{request:?}");
        match request.token() {
            Some("tok-4f1c") => Authorization::Allow(Identity::new("ann")),
            Some("tok-99d0") => Authorization::Allow(Identity::new("bob").only_in("chess")),
            Some("tok-2b") => Authorization::Allow(Identity::new("cid").expires_at_unix_millis(1)),
            Some("tok-late") => Authorization::Pending { user: Some("dan".into()) },
            _ => Authorization::Refuse(CloseReason::Unauthorized),
        }
    }

    fn on_message(&mut self, cx: &mut Context<'_>, from: &Member, message: Message<'_>) {
        if let Message::Json { text, .. } = message {
            cx.broadcast_message(from, text);
            cx.reject(Reject::NotAllowed, "not that");
        }
    }
}

/// Writes the output and drops closed connections. Returns the number of bytes written.
fn flush<A: App>(engine: &mut Engine<A>) -> usize {
    let mut sockets = MemorySockets::default();
    engine.flush(&mut sockets).expect("the session is not recorded");
    sent_bytes(&mut sockets)
}

/// Ends a turn. Returns the number of bytes written.
fn end_turn<A: App>(engine: &mut Engine<A>, now: Time) -> usize {
    let mut sockets = MemorySockets::default();
    engine.end_turn(now, &mut sockets).expect("the session is not recorded");
    sent_bytes(&mut sockets)
}

fn sent_bytes(sockets: &mut MemorySockets) -> usize {
    let writes = sockets.take_writes();
    assert!(writes.iter().all(|write| matches!(write.outcome, Ok(flow) if flow != Flow::Blocked)), "{writes:?}");
    writes.iter().map(|write| write.bytes.len()).sum()
}

/// Requests with tokens in every place, messages of all kinds, and every way to be refused or closed.
fn sessions_of_an_engine() {
    let config = Config { max_message_bytes: ByteSize(2000), token_grace: Duration::ZERO, ..Config::default() };
    let mut engine =
        Engine::new(config.check().expect("the configuration is valid"), Start { unix_micros: 0, seed: 1 }, TokenApp);
    let header = "Authorization: Bearer tok-4f1c";
    let subprotocol = "Sec-WebSocket-Protocol: lobby.v1.json, base64url.bearer.lobby.dG9rLTRmMWM";
    let requests: [(&str, &[&str]); 25] = [
        ("/ws/chess?token=tok-99d0", &[]),
        ("/ws/chess?token=tok%2D2b", &[]),
        ("/ws/go?token=tok-99d0", &[]),
        ("/ws/chess?token=tok-wrong", &[]),
        ("/ws/chess?token=tok-late", &[]),
        ("/ws/chess", &[header]),
        ("/ws/chess", &[subprotocol]),
        // Requests that are invalid in various ways.
        ("/ws/chess?session=ses-4f1c-0123456789&was=ses-99d0-0123456789", &[header]),
        ("/ws/chess?session=ses-4f1c-0123456789&epoch=ses-99d0&seq=1&n=1", &[header]),
        ("/ws/chess?session=ses-4f1c", &[header]),
        ("/ws/chess?session=ses-4f1c%zz", &[header]),
        ("/nowhere?token=tok-4f1c", &[]),
        ("/ws/no%20code?token=tok-4f1c", &[]),
        ("/ws/chess?token=tok-4f1c%zz", &[]),
        ("/ws/chess?token=tok-4f1c", &["Origin: http://evil.example"]),
        ("/ws/chess?token=tok-4f1c", &["Content-Length: 5"]),
        ("/ws/chess?token=tok-4f1c", &["Sec-WebSocket-Protocol: base64url.bearer.lobby.dG9rLTRmMWM"]),
        ("/ws/chess?token=tok-4f1c", &[" folded"]),
        ("http://a/ws/chess?token=tok-4f1c", &[header]),
        // A token in an unexpected place.
        ("/ws/chess&token=tok-4f1c", &[header]),
        ("/ws/chess%3Ftoken=tok%2D2b", &[header]),
        ("/ws/chess/tok-4f1c", &[header]),
        ("/tok-4f1c", &[header]),
        ("/ws/chess", &[header, "Cookie: tok-4f1c", "User-Agent: tok-4f1c", "Referer: tok-4f1c", "X: tok-4f1c"]),
        ("/ws/chess", &["Authorization: Basic tok-4f1c", "Sec-WebSocket-Protocol: tok-4f1c, lobby.v1.json"]),
    ];
    let messages = [
        wire::text(&format!(r#"{{"type":"broadcast","data":"{CONTENT}","ref":1}}"#)),
        wire::text(&format!(r#"{{"type":"direct","to":"bob","data":"{CONTENT}","ref":"{CONTENT}"}}"#)),
        wire::text(&format!(r#"{{"type":"{CONTENT}"}}"#)),
        wire::text(CONTENT),
        wire::frame(wire::Opcode::BINARY, true, CONTENT.as_bytes(), [1; 4]),
        wire::frame(wire::Opcode::PING, true, CONTENT.as_bytes(), [1; 4]),
        wire::frame(wire::Opcode::PONG, true, CONTENT.as_bytes(), [1; 4]),
    ];
    let endings = [
        wire::close(1000, CONTENT),
        wire::close(1005, CONTENT),
        [&[0x81, CONTENT.len() as u8], CONTENT.as_bytes()].concat(),
        wire::text(&CONTENT.repeat(200)),
        wire::frame(wire::Opcode::TEXT, true, &[CONTENT.as_bytes(), b"\xff"].concat(), [1; 4]),
        wire::text(&format!(r#"{{"type":"leave","why":"{CONTENT}"}}"#)),
        // Far above the rate.
        wire::text(&format!(r#"{{"type":"{CONTENT}"}}"#)).repeat(200),
    ];
    let mut now = Time::ZERO + Duration::from_secs(1);
    for (target, lines) in requests {
        for ending in &endings {
            let peer = ([127, 0, 0, 1], 4000).into();
            let conn = engine.handle_accept(now, peer).expect("there is room");
            engine.handle_bytes(now, conn, &wire::upgrade_request(target, lines));
            engine.handle_authorized(now, conn, Authorization::allow("dan"));
            assert!(flush(&mut engine) > 0, "an answer");
            for message in messages.iter().chain([ending]) {
                engine.handle_bytes(now, conn, message);
                flush(&mut engine);
            }
            now = now + Duration::from_secs(1);
            end_turn(&mut engine, now);
            engine.handle_hangup(now, conn);
            flush(&mut engine);
        }
    }
    let stats = engine.stats();
    let closed = |reason| stats.counters.closed(reason);
    for reason in [
        CloseReason::Left,
        CloseReason::PeerClosed,
        CloseReason::ProtocolError,
        CloseReason::BadUtf8,
        CloseReason::MessageTooBig,
        CloseReason::Unauthorized,
        CloseReason::TokenExpired,
        CloseReason::ForbiddenOrigin,
        CloseReason::BadLobbyCode,
        CloseReason::RateLimited,
        CloseReason::HttpRefused,
    ] {
        assert!(closed(reason) > 0, "{reason} was not among the sessions");
    }
    log::info!("{}", stats.line());
}

/// Characters that disguise a log line: direction overrides, invisible characters, line separators and a quotation mark.
const HOSTILE: &str = "ann\u{202e}\u{2066}\u{200b}\u{feff}\u{2028}\u{ad}\u{e0001}\" healthy";

/// Clients without a valid request write these characters everywhere they can.
fn sessions_of_hostile_strangers() {
    let config = Config {
        health_interval: Some(Duration::from_secs(3)),
        trusted_proxies: 1,
        admin: Some("127.0.0.1:9002".parse().expect("an address")),
        ..Config::default()
    };
    let mut engine = Engine::new(
        config.clone().check().expect("the configuration is valid"),
        Start { unix_micros: 0, seed: 1 },
        Relay::default(),
    );
    let mut now = Time::ZERO;
    let percent = |text: &str| text.bytes().map(|byte| format!("%{byte:02X}")).collect::<String>();
    let name = percent(HOSTILE);
    let lines: [&[String]; 5] = [
        &[],
        &[format!("X-Forwarded-For: {HOSTILE}, 10.0.0.1")],
        &[format!("Origin: http://{HOSTILE}")],
        &[format!("User-Agent: {HOSTILE}\u{1b}[31m")],
        &[format!("Sec-WebSocket-Protocol: {HOSTILE}")],
    ];
    let paths =
        ["/ws/chess".into(), format!("/ws/{name}"), format!("/{name}"), format!("/{HOSTILE}"), "/\u{1b}".into()];
    let forwarded = "X-Forwarded-For: 10.0.0.1";
    for (lines, path) in lines.iter().flat_map(|lines| paths.iter().map(move |path| (lines, path))) {
        let conn = engine.handle_accept(now, ([127, 0, 0, 1], 4000).into()).expect("there is room");
        let target = format!("{path}?token={name}");
        let mut all: Vec<&str> = lines.iter().map(String::as_str).collect();
        if !lines.iter().any(|line| line.starts_with("X-Forwarded-For")) {
            all.push(forwarded);
        }
        engine.handle_bytes(now, conn, &wire::upgrade_request(&target, &all));
        flush(&mut engine);
        for text in
            [HOSTILE, "\u{1b}[2J", &format!("{{\"type\":\"{HOSTILE}\",\"ref\":\"{HOSTILE}\"}}"), r#"{"type":"ping"}"#]
        {
            engine.handle_bytes(now, conn, &wire::text(text));
            flush(&mut engine);
        }
        // The client is health-checked. It answers once, and then no more.
        for _ in 0..3 {
            now = now + Duration::from_secs(3);
            end_turn(&mut engine, now);
            let pong = format!(r#"{{"type":"health_pong","timestamp":{}}}"#, now.as_micros() / 1000);
            engine.handle_bytes(now, conn, &wire::text(&pong));
            now = now + Duration::from_secs(2);
            end_turn(&mut engine, now);
        }
        now = now + Duration::from_secs(4);
        end_turn(&mut engine, now);
        engine.handle_bytes(now, conn, &wire::close(4000, HOSTILE));
        flush(&mut engine);
        engine.handle_hangup(now, conn);
        flush(&mut engine);
    }
    // The operators' port, which other clients may reach too.
    let mut conns = AdminConns::new(&config, None);
    for path in [
        format!("/{HOSTILE}"),
        format!("/users/{name}/kick"),
        format!("/users/{HOSTILE}/kick"),
        format!("/kick?{HOSTILE}"),
    ] {
        for method in ["GET", "POST", "\u{1b}[1m", "TOK-77"] {
            let client = conns.handle_accept(now, ([127, 0, 0, 1], 5000).into()).expect("room");
            let head = format!("{method} {} HTTP/1.1\r\nHost: localhost:9002\r\n", path.replace(' ', ""));
            let body = "Content-Type: application/json\r\nContent-Length: 2\r\n\r\n{}";
            conns.handle_bytes(client, format!("{head}{body}").as_bytes());
            conns.work(now, &mut engine);
            let answer = conns.pending(client).len();
            assert!(answer > 0, "an answer");
            conns.handle_written(now, client, answer);
            conns.handle_hangup(client);
            while conns.poll_closed().is_some() {}
        }
    }
}

/// Behind a proxy: the client's address is logged beside the peer's, and an entry that names none is a warning.
fn sessions_behind_a_proxy() {
    let config = Config { trusted_proxies: 2, forwarded_header: ForwardedHeader::Forwarded, ..Config::default() };
    let start = Start { unix_micros: 0, seed: 1 };
    let mut engine = Engine::new(config.check().expect("the configuration is valid"), start, Relay::default());
    for _ in 0..3 {
        for line in [
            "Forwarded: for=192.0.2.77, for=10.0.0.1",
            "Forwarded: for=10.0.0.1",
            "Forwarded: for=unknown, for=10.0.0.1",
            "Forwarded: for=tok-4f1c, for=10.0.0.1",
        ] {
            let conn = engine.handle_accept(Time::ZERO, ([127, 0, 0, 1], 4000).into()).expect("there is room");
            let lines = [line, "Origin: http://evil.example"];
            let lines = if line.contains("192.0.2.77") { &lines[..] } else { &lines[..1] };
            engine.handle_bytes(Time::ZERO, conn, &wire::upgrade_request("/ws/proxied?token=ann", lines));
            flush(&mut engine);
            engine.handle_hangup(Time::ZERO, conn);
            flush(&mut engine);
        }
        // The proxy itself checks whether the server is running. That is no client.
        let conn = engine.handle_accept(Time::ZERO, ([127, 0, 0, 1], 4000).into()).expect("there is room");
        engine.handle_bytes(Time::ZERO, conn, b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n");
        flush(&mut engine);
        engine.handle_hangup(Time::ZERO, conn);
        flush(&mut engine);
    }
    let conn = engine.handle_accept(Time::ZERO, ([127, 0, 0, 1], 4000).into()).expect("there is room");
    let lines = ["Forwarded: for=192.0.2.78, for=10.0.0.1"];
    engine.handle_bytes(Time::ZERO, conn, &wire::upgrade_request("/ws/proxied?token=ann", &lines));
    flush(&mut engine);
    engine.handle_hangup(Time::ZERO, conn);
    flush(&mut engine);
}

/// A drain that ends when its last connection has closed, and one that ends at its deadline.
fn drains_of_an_engine() {
    for (deadline, closes_at) in [(30, 1204), (2, 5000)] {
        let config = Config { drain_deadline: Duration::from_secs(deadline), ..Config::default() };
        let config = Config { close_timeout: Duration::from_secs(60), ..config };
        let start = Start { unix_micros: 0, seed: 1 };
        let mut engine = Engine::new(config.check().expect("the configuration is valid"), start, Relay::default());
        let conn = engine.handle_accept(Time::ZERO, ([127, 0, 0, 1], 4000).into()).expect("there is room");
        engine.handle_bytes(Time::ZERO, conn, &wire::upgrade_request("/ws/a?token=ann", &[]));
        engine.handle_drain(Time::ZERO);
        let mut sockets = MemorySockets::default();
        for millis in [0, 1000, 1204, 2000, 5000] {
            let now = Time::ZERO + Duration::from_millis(millis);
            if millis == closes_at {
                engine.handle_hangup(now, conn);
            }
            engine.end_turn(now, &mut sockets).expect("memory takes all bytes");
        }
        assert!(engine.is_drained());
        let seconds = if deadline == 2 { 2000 } else { 1204 };
        let totals = engine.drain_totals().expect("the drain has begun");
        assert_eq!(totals.elapsed, Duration::from_millis(seconds), "it does not grow after the end");
    }
}

/// A session on a socket, with a list of tokens that is reloaded.
fn session_of_a_server() {
    let config = Config { listen: "127.0.0.1:0".parse().expect("an address"), ..Config::default() };
    let tokens = Tokens::parse("tok-4f1c ann\ntok-99d0 bob").expect("a good list");
    log::info!("{tokens:?}");
    let mut server = Server::bind(config, Relay::new(Auth::Tokens(tokens))).expect("a free port");
    server.reload(b"tok-4f1c ann\ntok-99d0 bob lobby=go\ntok-late dan");
    server.reload(b"tok-4f1c\nann tok-4f1c\nbob bob tok-99d0\nbob bob expires=tok-99d0\nann tok-4f1c");
    let address = server.local_addr().expect("it listens");
    let handle: Handle = server.handle();
    let client = std::thread::spawn(move || {
        let mut stream = TcpStream::connect(address).expect("it listens");
        stream.write_all(&wire::upgrade_request("/ws/chess", &["Authorization: Bearer tok-4f1c"])).expect("it reads");
        let message = wire::text(&format!(r#"{{"type":"{CONTENT}","ref":1}}"#));
        stream.write_all(&[message, wire::close(1000, CONTENT)].concat()).expect("it reads");
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).expect("it ends in good order");
        handle.stop();
        answer
    });
    server.run().expect("it stops");
    let answer = client.join().expect("the client ends");
    assert!(String::from_utf8_lossy(&answer).contains(r#""user":"ann""#));
}

#[test]
fn no_record_contains_a_token_a_message_or_an_unescaped_character() {
    log::set_logger(&RECORDS).expect("the first logger");
    log::set_max_level(LevelFilter::Trace);
    sessions_of_an_engine();
    sessions_of_hostile_strangers();
    session_of_a_server();
    sessions_behind_a_proxy();
    drains_of_an_engine();
    let records = std::mem::take(&mut *RECORDS.0.lock().expect("no thread panicked"));

    // The log contains joins, close reasons, HTTP answers and the problems of the list.
    for (level, words) in [
        (Level::Info, "user=\"ann\" lobby=chess joined"),
        (Level::Info, "user=\"ann\" lobby=chess closed: 1000 left: the client said leave"),
        (Level::Info, "3 tokens read"),
        (Level::Warn, "line 1: a token is followed by its user; "),
        (Level::Debug, "closed: 4001 unauthorized"),
        (Level::Debug, "closed: 4005 bad_message"),
        (Level::Warn, "a page of the origin http://evil.example is refused at localhost: "),
        (Level::Debug, "answered 400"),
        (Level::Warn, "peer=127.0.0.1:4000 address=192.0.2.77 a page of the origin http://evil.example is refused"),
        (Level::Debug, "peer=127.0.0.1:4000 address=192.0.2.77 closed: 4003 forbidden_origin"),
        (Level::Info, "peer=127.0.0.1:4000 address=192.0.2.78 user=\"ann\" lobby=proxied joined"),
        (Level::Info, "peer=127.0.0.1:4000 address=192.0.2.78 user=\"ann\" lobby=proxied closed: 1006 hangup"),
        (Level::Debug, "Request { conn: "),
        (Level::Info, " user=\"ann\\u{202e}"),
        (Level::Info, " healthy latency_ms=0.000"),
        (Level::Info, " unhealthy"),
        (Level::Info, "/kick 404"),
        (Level::Info, "draining: connections=1 within 30s"),
        (Level::Info, "drained in 1.204s: closed=1 flushed_bytes="),
        (Level::Warn, "cut off connections=1: drain_deadline has passed"),
        (Level::Info, "drained in 2.000s: closed=0 flushed_bytes="),
        (Level::Info, "stopping: the connections are drained; a second signal cuts them off"),
        (Level::Debug, "POST - "),
    ] {
        let is_logged = records.iter().any(|(logged, _, text)| *logged == level && text.contains(words));
        assert!(is_logged, "no {level} record contains {words}");
    }
    let refused = records.iter().filter(|(_, _, text)| text.contains("a page of the origin http://evil.example"));
    assert_eq!(refused.count(), 2, "a refused origin is logged once a minute, by each of two engines");
    for cause in [
        "Forwarded has no entry 2 from the right",
        "entry 2 of Forwarded from the right hides the address",
        "entry 2 of Forwarded from the right is not an address",
    ] {
        let logged = records.iter().filter(|(level, _, text)| *level == Level::Warn && text.contains(cause));
        assert_eq!(logged.count(), 1, "{cause} is logged once");
    }
    assert!(records.iter().any(|(level, _, _)| *level == Level::Trace), "records of other crates are captured too");
    for (level, target, text) in &records {
        for token in TOKENS {
            assert!(!text.contains(token), "{level} {target}: {text}");
        }
        assert!(!text.contains(CONTENT), "{level} {target}: {text}");
        // `escape_debug` leaves visible characters as they are, except for quotation marks and the backslash.
        let hidden = text.chars().find(|c| !matches!(c, '"' | '\'' | '\\') && c.escape_debug().len() > 1);
        assert_eq!(hidden, None, "{level} {target}: {text:?}");
        // A quotation mark in a name does not end the quoted name.
        assert!(!text.contains("\" healthy") || text.contains("\\\" healthy"), "{level} {target}: {text}");
    }
}
