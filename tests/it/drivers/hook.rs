//! The hook of a server on real sockets, with backends of this test that answer, hang, lie, die and are flooded.

mod crowds;
mod headers;
#[cfg(feature = "jwt")]
mod keys;
mod metrics;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use aws_lc_rs::hmac::{HMAC_SHA256, Key, verify};
use lobbyd::apps::{Auth, Relay};
use lobbyd::net::{Error, Server, Status};
use lobbyd::sim::wire::Received;
use lobbyd::{App, Config, journal};
use serde_json::{Value, json};

use crate::common::files::{File, Folder};
use crate::common::sockets::{Client, SHORT, TURNS, on_free_port, refusing};

const SECRET: &str = "0123456789abcdef0123456789abcdef";
const NEW_SECRET: &str = "fedcba9876543210";

/// What a backend does with a call.
#[derive(Clone, Debug)]
enum Reply {
    /// A status and a body.
    Answer(u16, String),
    /// These bytes, and then the end of the stream.
    Bytes(Vec<u8>),
    /// Nothing, until the test ends.
    Hang,
}

impl Reply {
    fn allow(user: &str) -> Reply {
        Reply::Answer(200, json!({ "allow": true, "user": user }).to_string())
    }
}

/// A call that a backend has received.
#[derive(Clone, Debug)]
struct Call {
    /// Method and target.
    line: String,
    /// The secret with which it is signed, if it is a known one.
    secret: Option<&'static str>,
    body: Value,
}

type Rule = Arc<Mutex<dyn FnMut(&Call) -> Reply + Send>>;

/// A backend on a free port. Each connection has a thread.
struct Backend {
    address: SocketAddr,
    calls: Receiver<Call>,
}

impl Backend {
    fn new(rule: impl FnMut(&Call) -> Reply + Send + 'static) -> Backend {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("an address");
        let (sender, calls) = channel();
        let rule: Rule = Arc::new(Mutex::new(rule));
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (sender, rule) = (sender.clone(), Arc::clone(&rule));
                thread::spawn(move || drop(serve(stream.expect("a connection"), &sender, &rule)));
            }
        });
        Backend { address, calls }
    }

    fn url(&self) -> String {
        format!("http://{}/hook?key=of-the-url", self.address)
    }
}

/// Serves the calls of a connection until it ends or the rule ends it.
fn serve(stream: TcpStream, calls: &Sender<Call>, rule: &Rule) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream);
    loop {
        let (mut lines, mut line) = (Vec::new(), String::new());
        while reader.read_line(&mut line)? > 0 && line != "\r\n" {
            lines.push(std::mem::take(&mut line).trim_end().to_owned());
        }
        let Some(first) = lines.first().cloned() else { return Ok(()) };
        let header = |name: &str| {
            let of = |line: &String| {
                let (key, value) = line.split_once(": ")?;
                key.eq_ignore_ascii_case(name).then(|| value.to_owned())
            };
            lines.iter().find_map(of).unwrap_or_default()
        };
        let mut body = vec![0; header("content-length").parse().unwrap_or(0)];
        reader.read_exact(&mut body)?;
        let signed = [header("x-lobbyd-timestamp").as_bytes(), b".", &body[..]].concat();
        let tag = header("x-lobbyd-signature");
        let tag = data_encoding::HEXLOWER.decode(tag.strip_prefix("sha256=").unwrap_or_default().as_bytes());
        let signs = |secret: &str| {
            let key = Key::new(HMAC_SHA256, secret.as_bytes());
            tag.as_ref().is_ok_and(|tag| verify(&key, &signed, tag).is_ok())
        };
        let secret = [SECRET, NEW_SECRET].into_iter().find(|secret| signs(secret));
        let line = first.trim_end_matches(" HTTP/1.1").to_owned();
        let call = Call { line, secret, body: serde_json::from_slice(&body).unwrap_or(Value::Null) };
        let reply = (rule.lock().expect("no rule panics"))(&call);
        let _ = calls.send(call);
        match reply {
            Reply::Answer(status, body) => {
                let head = format!("HTTP/1.1 {status} Status\r\nContent-Length: {}\r\n\r\n", body.len());
                reader.get_mut().write_all(&[head.as_bytes(), body.as_bytes()].concat())?;
            }
            Reply::Bytes(bytes) => return reader.get_mut().write_all(&bytes),
            Reply::Hang => loop {
                thread::park();
            },
        }
    }
}

fn config(backend: &Backend, secret: &File) -> Config {
    Config {
        hook: Some(backend.url().parse().expect("a URL")),
        hook_secret_file: Some(secret.path().into()),
        hook_timeout: Duration::from_secs(10),
        auth_timeout: Duration::from_secs(30),
        hook_batch_wait: Duration::from_millis(10),
        admin: Some("127.0.0.1:0".parse().expect("an address")),
        ..on_free_port()
    }
}

/// For backends that do not answer: the server waits for them.
fn impatient(config: Config) -> Config {
    Config { hook_timeout: Duration::from_millis(200), ..config }
}

/// For backends that answer most calls.
fn less_patient(config: Config) -> Config {
    Config { hook_timeout: Duration::from_secs(3), ..config }
}

fn bind(config: Config) -> (Server<Relay>, SocketAddr) {
    let server = Server::bind(config, Relay::new(Auth::Hook)).expect("a free port");
    let address = server.local_addr().expect("the server listens");
    (server, address)
}

fn is_question(call: &Call) -> bool {
    call.body["type"] == "connect"
}

/// Runs turns until the condition holds.
#[track_caller]
fn wait_until<A: App>(server: &mut Server<A>, mut holds: impl FnMut() -> bool) {
    for _ in 0..TURNS {
        if holds() {
            return;
        }
        server.turn(SHORT).expect("the turn succeeds");
    }
    panic!("it did not happen");
}

/// Connects, and returns the close code and word, or the user of the `welcome`.
#[track_caller]
fn try_to_join(server: &mut Server<Relay>, address: SocketAddr, token: &str) -> Result<String, (u16, String)> {
    let mut client = Client::connect(address, "chess", token);
    assert!(matches!(client.next(server), Received::Answer(101, _)));
    loop {
        match client.next(server) {
            Received::Close(code, word) => return Err((code, word)),
            Received::Text(text) => {
                let object: Value = serde_json::from_str(&text).expect("JSON");
                if object["type"] == "welcome" {
                    return Ok(object["user"].as_str().expect("a user").to_owned());
                }
            }
            other => panic!("{other:?}"),
        }
    }
}

fn come_back() -> Result<String, (u16, String)> {
    Err((4101, "auth_timeout".to_owned()))
}

/// Returns the answer to `GET /metrics`.
fn metrics(server: &mut Server<Relay>) -> String {
    let mut client = Client::open(server.admin_addr().expect("admin is on"));
    client.send(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    let (mut text, mut bytes) = (String::new(), [0; 65536]);
    wait_until(server, || {
        match client.stream.read(&mut bytes) {
            Ok(0) => return true,
            Ok(n) => text.push_str(str::from_utf8(&bytes[..n]).expect("ASCII")),
            Err(_) => {}
        }
        false
    });
    text
}

/// Reads one number of `GET /metrics`.
fn metric(server: &mut Server<Relay>, name: &str) -> f64 {
    let text = metrics(server);
    let line = text.lines().find(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(' ')));
    let line = line.unwrap_or_else(|| panic!("no {name} in {text}"));
    line.rsplit(' ').next().expect("a value").parse().expect("a number")
}

#[test]
fn the_backend_decides_who_may_connect_and_is_told_what_it_needs() {
    let secret = File::new("hook-secret-decides", SECRET);
    let backend = Backend::new(|call| match call.body["token"].as_str() {
        Some("t-ann") => Reply::allow("ann"),
        Some("t-eve") => Reply::Answer(200, json!({ "allow": false, "reason": "banned" }).to_string()),
        Some("t-own") => {
            Reply::Answer(200, json!({ "allow": false, "code": 4501, "reason": "maintenance" }).to_string())
        }
        Some(_) => Reply::Answer(200, json!({ "allow": true, "user": "bob", "lobby": "other" }).to_string()),
        None => Reply::Answer(200, "{}".into()),
    });
    let headers = "user-agent,cookie".parse().expect("names");
    let (mut server, address) = bind(Config { hook_headers: headers, ..config(&backend, &secret) });
    assert_eq!(try_to_join(&mut server, address, "t-ann"), Ok("ann".into()));
    assert_eq!(try_to_join(&mut server, address, "t-eve"), Err((4003, "banned".into())));
    assert_eq!(try_to_join(&mut server, address, "t-own"), Err((4501, "maintenance".into())));
    assert_eq!(try_to_join(&mut server, address, "t-bob"), Err((4001, "unauthorized".into())), "of another lobby");
    let calls: Vec<Call> = backend.calls.try_iter().collect();
    assert!(
        calls.iter().all(|call| call.secret == Some(SECRET) && call.line == "POST /hook?key=of-the-url"),
        "{calls:?}"
    );
    let question = &calls.iter().find(|call| is_question(call)).expect("a question").body;
    let expected = json!({
        "type": "connect", "boot": question["boot"], "id": question["id"], "path": "/ws/chess", "lobby": "chess",
        "token": "t-ann", "user": null, "address": "127.0.0.1", "origin": null, "headers": {},
    });
    assert_eq!(question, &expected);
    let count = |server: &mut Server<Relay>, result: &str| {
        metric(server, &format!("lobbyd_hook_questions_total{{result=\"{result}\"}}"))
    };
    assert_eq!((count(&mut server, "allowed"), count(&mut server, "refused")), (2.0, 2.0));
}

#[test]
fn a_backend_that_hangs_lies_or_dies_asks_clients_to_come_back() {
    let secret = File::new("hook-secret-lies", SECRET);
    let huge = format!("{{\"allow\":true,\"user\":\"ann\",\"data\":\"{}\"}}", "x".repeat(100_000));
    let moved = b"HTTP/1.1 307 Moved\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n".to_vec();
    let endless = [b"HTTP/1.1 200 OK\r\n".to_vec(), b"A: b\r\n".repeat(50_000)].concat();
    for (reply, result) in [
        (Reply::Hang, "timeout"),
        (Reply::Bytes(Vec::new()), "failed"),
        (Reply::Bytes(b"\x16\x03\x01 what?\r\n\r\n".to_vec()), "failed"),
        (Reply::Bytes(moved), "failed"),
        (Reply::Answer(500, json!({ "allow": true, "user": "ann" }).to_string()), "failed"),
        (Reply::Answer(200, "<html>".into()), "invalid"),
        (Reply::Answer(200, json!({ "allow": "yes", "user": "ann" }).to_string()), "invalid"),
        (Reply::Answer(200, json!([true]).to_string()), "invalid"),
        (Reply::Answer(200, huge), "invalid"),
        (Reply::Bytes(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{\"allow\":".to_vec()), "failed"),
    ] {
        let shown = format!("{reply:?}").chars().take(80).collect::<String>();
        let backend =
            Backend::new(move |call| if is_question(call) { reply.clone() } else { Reply::Answer(200, "{}".into()) });
        let config = config(&backend, &secret);
        let (mut server, address) = bind(if result == "timeout" { impatient(config) } else { config });
        assert_eq!(try_to_join(&mut server, address, "ann"), come_back(), "{shown}");
        let name = format!("lobbyd_hook_questions_total{{result=\"{result}\"}}");
        assert_eq!(metric(&mut server, &name), 1.0, "{shown}");
        assert_eq!(server.engine().stats().pending, 0, "{shown}");
    }
    let backend = Backend::new(move |_| Reply::Bytes(endless.clone()));
    let (mut server, address) = bind(config(&backend, &secret));
    assert_eq!(try_to_join(&mut server, address, "ann"), come_back());
    // Nobody listens.
    let (_socket, free) = refusing();
    let dead = Config { hook: Some(format!("http://{free}/").parse().expect("a URL")), ..config(&backend, &secret) };
    let (mut server, address) = bind(dead);
    assert_eq!(try_to_join(&mut server, address, "ann"), come_back());
}

#[test]
fn a_flood_of_clients_while_the_backend_hangs_is_bounded_and_answered() {
    let secret = File::new("hook-secret-flood", SECRET);
    let backend = Backend::new(|call| if is_question(call) { Reply::Hang } else { Reply::Answer(200, "{}".into()) });
    let config = Config { max_hook_questions: 8, max_hook_calls: 2, ..impatient(config(&backend, &secret)) };
    // All clients ask in one turn: no question is given up before the others are asked.
    let (mut server, address) = bind(Config { accept_per_turn: 100, ..config });
    let mut clients: Vec<Client> = (0..60).map(|user| Client::connect(address, "chess", &format!("u{user}"))).collect();
    let mut codes = Vec::new();
    wait_until(&mut server, || {
        for client in &mut clients {
            while !client.ended
                && let Some(received) = client.poll()
            {
                if let Received::Close(code, _) = received {
                    codes.push(code);
                }
            }
        }
        codes.len() == 60
    });
    assert!(codes.iter().all(|&code| code == 4101));
    assert!(metric(&mut server, "lobbyd_hook_questions_total{result=\"overflow\"}") >= 40.0);
    assert_eq!(metric(&mut server, "lobbyd_hook_questions_pending"), 0.0);
    assert!(backend.calls.try_iter().filter(is_question).count() <= 12, "at most two at a time");
}

#[test]
fn events_arrive_once_and_in_order_although_the_backend_fails() {
    let secret = File::new("hook-secret-events", SECRET);
    let mut tries = 0;
    let backend = Backend::new(move |call| {
        if is_question(call) {
            return Reply::allow(call.body["token"].as_str().expect("a token"));
        }
        tries += 1;
        match tries {
            1 => Reply::Answer(500, String::new()),
            2 => Reply::Bytes(Vec::new()),
            3 => Reply::Hang,
            _ => Reply::Answer(204, String::new()),
        }
    });
    let (mut server, address) = bind(less_patient(config(&backend, &secret)));
    (0..5).for_each(|user| assert!(try_to_join(&mut server, address, &format!("u{user}")).is_ok()));
    let (mut seen, mut lost) = (Vec::new(), 0);
    let mut batches = Vec::new();
    wait_until(&mut server, || {
        batches.extend(backend.calls.try_iter().filter(|call| !is_question(call)));
        let last = batches.last().and_then(|call| call.body["events"].as_array()?.last()?["seq"].as_u64());
        // The first three calls fail.
        batches.len() >= 4 && last >= Some(17)
    });
    let is_taken = |call: &Call| call.secret == Some(SECRET) && call.body["boot"].is_string();
    assert!(batches.iter().all(is_taken));
    // The first three tries failed. The second one was repeated at once on another connection.
    for call in &batches {
        let seqs: Vec<u64> = call.body["events"]
            .as_array()
            .expect("a list")
            .iter()
            .map(|it| it["seq"].as_u64().expect("a seq"))
            .collect();
        lost += call.body["lost"].as_u64().expect("a number");
        let first = seen.last().map_or(1, |last| last + 1);
        assert!(seqs[0] == first || seqs[0] == 1, "{seqs:?} after {seen:?}");
        seen = if seqs[0] == 1 { seqs } else { [seen, seqs].concat() };
    }
    assert_eq!(seen[..17], (1..=17).collect::<Vec<u64>>()[..]);
    assert_eq!(lost, 0);
    assert!(metric(&mut server, "lobbyd_hook_retries_total") >= 2.0);
}

#[test]
fn the_last_events_are_sent_before_the_server_stops_and_a_dead_backend_does_not_hold_it() {
    let secret = File::new("hook-secret-stops", SECRET);
    for reply in [Reply::Answer(200, "{}".into()), Reply::Hang, Reply::Answer(500, String::new())] {
        let takes = matches!(reply, Reply::Answer(200, _));
        let backend = Backend::new(move |_| reply.clone());
        let config = config(&backend, &secret);
        let (mut server, _) = bind(if takes { config } else { impatient(config) });
        server.turn(SHORT).expect("the turn succeeds");
        server.handle().stop();
        let mut is_stopped = false;
        for _ in 0..TURNS {
            if let Status::Stopped(_) = server.turn(SHORT).expect("the turn succeeds") {
                is_stopped = true;
                break;
            }
        }
        assert!(is_stopped);
        let events: Vec<Value> = backend
            .calls
            .try_iter()
            .flat_map(|call| call.body["events"].as_array().cloned().unwrap_or_default())
            .collect();
        let kinds: Vec<&str> = events.iter().filter_map(|event| event["type"].as_str()).collect();
        assert!(!takes || kinds == ["server_started", "draining", "server_stopped"], "{kinds:?}");
    }
}

fn is_of_the_stop(call: &Call) -> bool {
    call.body["events"].as_array().is_some_and(|events| events.iter().any(|event| event["type"] == "server_stopped"))
}

#[test]
fn the_last_events_are_sent_at_once_although_the_backend_has_failed_before() {
    // They have 400 ms, in which a busy machine may do something else.
    assert!((0..5).any(|_| last_events_are_sent_after_failures()));
}

fn last_events_are_sent_after_failures() -> bool {
    let secret = File::new("hook-secret-fails-first", SECRET);
    let backend = Backend::new(|call| Reply::Answer(if is_of_the_stop(call) { 200 } else { 500 }, String::new()));
    let (mut server, _) = bind(impatient(config(&backend, &secret)));
    // Now it waits for a second, and after the drain for no longer than twice hook_timeout, 400 ms.
    let mut failed = 0;
    wait_until(&mut server, || {
        failed += backend.calls.try_iter().count();
        failed >= 3
    });
    server.handle().stop();
    for _ in 0..TURNS {
        if let Status::Stopped(_) = server.turn(SHORT).expect("the turn succeeds") {
            break;
        }
    }
    backend.calls.try_iter().filter(is_of_the_stop).count() == 1
}

#[test]
fn a_recorded_session_with_a_hook_replays_without_one() {
    let (secret, folder) = (File::new("hook-secret-replay", SECRET), Folder::new("hook-replay"));
    let backend = Backend::new(|call| match call.body["token"].as_str() {
        Some("t-ann") => {
            Reply::Answer(200, json!({ "allow": true, "user": "ann", "role": "host", "data": { "n": 1 } }).to_string())
        }
        Some("t-slow") => Reply::Hang,
        Some(_) => Reply::Answer(200, "lies".into()),
        None => Reply::Answer(200, "{}".into()),
    });
    let config = less_patient(config(&backend, &secret));
    let (mut server, address) = bind(Config { journal: Some(folder.journal()), ..config });
    let mut ann = Client::connect(address, "chess", "t-ann");
    assert!(matches!(ann.next(&mut server), Received::Answer(101, _)));
    assert_eq!(ann.json(&mut server)["user"], "ann");
    assert_eq!(try_to_join(&mut server, address, "t-slow"), come_back());
    assert_eq!(try_to_join(&mut server, address, "t-eve"), come_back());
    let stats = server.engine().stats();
    server.turn(SHORT).expect("the turn succeeds");
    drop(server);
    let recorded = std::fs::read(&folder.segments()[0]).expect("the journal");
    let summary = journal::replay(&*recorded, Relay::default()).expect("nothing differs");
    assert_eq!((summary.stats.counters.joined, stats.counters.joined), (1, 1));
    let contains = |word: &str| recorded.windows(word.len()).any(|window| window == word.as_bytes());
    assert!(contains("\"role\":\"host\""), "the identity is recorded");
    assert!(!contains("t-ann") && !contains(SECRET) && !contains("of-the-url"), "no secret is");
}

#[test]
fn a_hook_that_cannot_work_is_refused_at_the_start() {
    let backend = Backend::new(|_| Reply::Hang);
    let short = File::new("hook-secret-short", "short\n");
    let error = |config: Config| match Server::bind(config, Relay::new(Auth::Hook)) {
        Err(error) => error.to_string(),
        Ok(_) => panic!("it has started"),
    };
    let found = error(config(&backend, &short));
    assert_eq!(found, "hook_secret_file: must hold at least 16 characters: `openssl rand -hex 32` makes some");
    let good = File::new("hook-secret-good", SECRET);
    let empty = File::new("hook-ca-empty", "no certificate\n");
    let https = Config {
        hook: Some("https://127.0.0.1:1/".parse().expect("a URL")),
        hook_ca_file: Some(empty.path().into()),
        ..config(&backend, &good)
    };
    assert_eq!(error(https), "hook_ca_file: it has no certificate in PEM form");
    let unsigned = Config { hook_secret_file: None, ..config(&backend, &good) };
    assert!(matches!(Server::bind(unsigned, Relay::new(Auth::Hook)), Err(Error::Config(_))));
}

#[test]
fn a_new_secret_is_for_new_calls_and_a_bad_one_changes_nothing() {
    let secret = File::new("hook-secret-new", SECRET);
    let backend = Backend::new(|call| match call.body["token"].as_str() {
        Some(user) => Reply::allow(user),
        None => Reply::Answer(200, "{}".into()),
    });
    let (mut server, address) = bind(config(&backend, &secret));
    let check_signed = |server: &mut Server<Relay>, user: &str, secret: &str| {
        assert_eq!(try_to_join(server, address, user), Ok(user.into()));
        let questions: Vec<Call> = backend.calls.try_iter().filter(is_question).collect();
        assert_eq!(questions.last().expect("it was asked").secret, Some(secret), "{user}");
    };
    check_signed(&mut server, "ann", SECRET);
    for (user, contents) in [("bob", Some("short")), ("cid", Some("0123456789 0123456789")), ("dan", None)] {
        match contents {
            Some(contents) => std::fs::write(secret.path(), contents).expect("the folder can be written"),
            None => std::fs::remove_file(secret.path()).expect("the file exists"),
        }
        let refused = server.reload_hook();
        assert!(matches!(refused, Err(Error::Hook("hook_secret_file", _))), "{contents:?}: {refused:?}");
        check_signed(&mut server, user, SECRET);
    }
    std::fs::write(secret.path(), format!("{NEW_SECRET}\n")).expect("the folder can be written");
    server.reload_hook().expect("a valid secret");
    check_signed(&mut server, "eve", NEW_SECRET);
    // Without a hook there is nothing to read.
    Server::bind(on_free_port(), Relay::default()).expect("a free port").reload_hook().expect("no file is read");
}
