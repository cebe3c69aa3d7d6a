//! `lobbyd load` against real servers, and against one behind a proxy that drops, doubles, swaps or delays a message, or
//! cuts a connection: each of these must be reported.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Output;
use std::sync::{Arc, Condvar, Mutex};
use std::thread;

use lobbyd::sim::wire::{Reader, Received};
use serde_json::Value;

use super::{PROGRAM, Program, command};

fn load(address: SocketAddr, arguments: &str) -> Output {
    let url = format!("ws://{address}");
    let arguments = arguments.split(' ').filter(|word| !word.is_empty());
    command(PROGRAM).args(["load", &url]).args(arguments).output().expect("the program was built")
}

/// Runs the generator, and returns its report and its exit code.
#[track_caller]
fn report(address: SocketAddr, arguments: &str) -> (Value, Option<i32>) {
    let output = load(address, &format!("--json {arguments}"));
    let (text, problems) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(text.lines().count(), 1, "{text}{problems}");
    (serde_json::from_str(&text).expect("JSON"), output.status.code())
}

#[track_caller]
fn check_sentence(report: &Value, list: &str, words: &str) {
    let sentences: Vec<&str> = report[list].as_array().expect("a list").iter().filter_map(Value::as_str).collect();
    assert!(sentences.iter().any(|sentence| sentence.contains(words)), "{words}: {report:#}");
}

fn counts(report: &Value, names: &[&str]) -> Vec<u64> {
    names.iter().map(|name| report[name].as_u64().unwrap_or_else(|| panic!("{name}: {report:#}"))).collect()
}

const FAULTS: &[&str] = &["lost", "doubled", "out_of_order", "unrecovered", "unanswered", "unknown"];

#[test]
fn a_hundred_members_hear_all_messages_of_each_other() {
    let program = Program::start(PROGRAM, &["--listen", "127.0.0.1:0"]);
    let (report, code) =
        report(program.address, "--members 100 --per-lobby 10 --rate 10 --seconds 2 --ramp 2000 --threads 2");
    assert_eq!(counts(&report, &["joined", "due", "sent", "acked", "delivered"]), [100, 2000, 2000, 2000, 18_000]);
    assert_eq!(counts(&report, FAULTS), [0; 6]);
    assert_eq!(
        (&report["ok"], &report["notes"], code),
        (&Value::Bool(true), &Value::Array(Vec::new()), Some(0)),
        "{report:#}"
    );
    let micros = |of: &str, which: &str| report["micros"][of][which].as_u64().expect("a number");
    assert_eq!((micros("connect", "count"), micros("ack", "count"), micros("delivery", "count")), (100, 2000, 18_000));
    for of in ["connect", "ack", "delivery"] {
        let values = ["p50", "p90", "p99", "p99.9", "max"].map(|which| micros(of, which));
        assert!(values.is_sorted() && values[0] > 0, "{of}: {values:?}");
    }
}

#[cfg(feature = "tls")]
#[test]
fn members_connect_with_tls_if_they_trust_the_certificate() {
    const FILES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/tls/files");
    let (cert, key) = (format!("{FILES}/first.pem"), format!("{FILES}/first.key"));
    let listen = ["--listen", "127.0.0.1:0,tls:127.0.0.1:0", "--tls-cert", &cert, "--tls-key", &key];
    let mut program = Program::start(PROGRAM, &listen);
    let line = program.wait_for("listening on tls:");
    let (_, address) = line.split_once("listening on tls:").expect("the line contains the address");
    let load = |arguments: &str| {
        let url = format!("wss://{address}");
        let members = "--json --members 40 --per-lobby 10 --rate 2 --seconds 1 --ramp 400 --bytes 20000";
        let arguments = members.split(' ').chain(arguments.split(' ').filter(|word| !word.is_empty()));
        let output = command(PROGRAM).args(["load", &url]).args(arguments).output().expect("the program was built");
        let report = serde_json::from_slice::<Value>(&output.stdout).expect("JSON");
        (report, output.status.code())
    };
    let (report, code) = load(&format!("--ca-file {FILES}/ca.pem"));
    assert_eq!(counts(&report, &["joined", "due", "delivered"]), [40, 80, 720], "{report:#}");
    assert_eq!((counts(&report, FAULTS), code), (vec![0; 6], Some(0)), "{report:#}");
    let (report, code) = load("");
    assert_eq!((counts(&report, &["joined"]), code), (vec![0], Some(2)), "{report:#}");
    check_sentence(&report, "notes", "connections failed: TLS: invalid peer certificate: UnknownIssuer");
}

#[test]
fn the_table_shows_what_the_json_has() {
    let folder = crate::common::files::Folder::new("load-refused");
    let list = folder.0.join("tokens");
    std::fs::write(&list, "secret ann\n").expect("the folder is ours");
    let list = list.to_str().expect("UTF-8");
    let program = Program::start(PROGRAM, &["--listen", "127.0.0.1:0", "--auth", "tokens", "--tokens-file", list]);
    let output = load(program.address, "--members 3 --seconds 1");
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(2), "{text}");
    for words in [
        "members         0 of 3 joined",
        "p99.9",
        "failed:\n",
        "  3 connections were closed with 4001 unauthorized: the tokens",
    ] {
        assert!(text.contains(words), "{words}: {text}");
    }
    let program = Program::start(PROGRAM, &["--listen", "127.0.0.1:0"]);
    let output = load(program.address, "--members 3 --seconds 1 --per-lobby 3");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.ends_with("\nok: nothing was lost, and the rate was reached\n"), "{text}");
    assert!(text.contains("sent            3 of 3 due"), "{text}");
}

/// Members in no lobby of their own: tokens from a file, and lobbies by name.
#[test]
fn tokens_come_from_a_file() {
    let folder = crate::common::files::Folder::new("load-tokens");
    let [list, tokens] = ["list", "tokens"].map(|name| folder.0.join(name));
    std::fs::write(&list, "secret-one ann\nsecret-two bob\n").expect("the folder is ours");
    std::fs::write(&tokens, "secret-one\n\nsecret-two\n").expect("the folder is ours");
    let list = list.to_str().expect("UTF-8");
    let program = Program::start(PROGRAM, &["--listen", "127.0.0.1:0", "--auth", "tokens", "--tokens-file", list]);
    let with = format!("--token-file {} --seconds 1 --rate 5 --per-lobby 2", tokens.display());
    let (report, code) = report(program.address, &format!("{with} --members 2"));
    assert_eq!((counts(&report, &["joined", "delivered"]), code), (vec![2, 10], Some(0)));
    let output = load(program.address, &format!("{with} --members 3"));
    let problem = String::from_utf8_lossy(&output.stderr);
    assert_eq!(problem, "lobbyd: --token-file has 2 tokens, and 3 members need one each\n");
    assert_eq!(output.status.code(), Some(2));
    std::fs::write(&tokens, "secret-one\nother\n\nsecret-one\n").expect("the folder is ours");
    let output = load(program.address, &format!("{with} --members 3"));
    let problem = String::from_utf8_lossy(&output.stderr);
    assert_eq!(problem, "lobbyd: --token-file: lines 1 and 4 have the same token: each member needs its own\n");
    assert_eq!(output.status.code(), Some(2));
}

/// A run with fewer members than were asked for would measure something else.
#[test]
fn no_member_talks_if_a_token_is_refused() {
    let folder = crate::common::files::Folder::new("load-refused-tokens");
    let [list, tokens] = ["list", "tokens"].map(|name| folder.0.join(name));
    let accepted: Vec<String> = (0..20).map(|user| format!("secret-{user} user-{user}\n")).collect();
    std::fs::write(&list, accepted.concat()).expect("the folder is ours");
    let lines: Vec<String> = (0..34)
        .map(|line| if line % 2 == 0 { format!("secret-{}\n", line / 2) } else { format!("other-{line}\n") })
        .collect();
    std::fs::write(&tokens, lines.concat()).expect("the folder is ours");
    let list = list.to_str().expect("UTF-8");
    let program = Program::start(PROGRAM, &["--listen", "127.0.0.1:0", "--auth", "tokens", "--tokens-file", list]);
    let with = format!("--token-file {} --seconds 60 --rate 5 --per-lobby 10 --threads 2", tokens.display());
    let (few, code) = report(program.address, &format!("{with} --members 4"));
    assert_eq!(
        (counts(&few, &["joined", "refused_tokens", "due", "sent"]), code),
        (vec![2, 2, 0, 0], Some(2)),
        "{few:#}"
    );
    check_sentence(&few, "problems", "2 of 4 tokens were refused, so no member has talked: line 2, line 4");
    check_sentence(&few, "notes", "2 connections were closed with 4001 unauthorized");
    let (many, code) = report(program.address, &format!("{with} --members 34"));
    assert_eq!((counts(&many, &["joined", "refused_tokens", "sent"]), code), (vec![17, 17, 0], Some(2)), "{many:#}");
    check_sentence(&many, "problems", "17 of 34 tokens were refused, so no member has talked: line 2, line 4, line 6");
    check_sentence(&many, "problems", "line 20 and 7 more");
}

#[test]
fn refusals_are_reported_with_what_to_do() {
    let program = Program::start(PROGRAM, &["--listen", "127.0.0.1:0", "--max-connections", "4"]);
    let (full, code) = report(program.address, "--members 6 --seconds 1 --rate 5 --per-lobby 6");
    assert_eq!((counts(&full, &["joined", "delivered"]), code), (vec![4, 4 * 3 * 5], Some(1)));
    check_sentence(&full, "problems", "2 members did not join");
    check_sentence(&full, "problems", "the rate was not reached");
    check_sentence(&full, "notes", "2 connections were closed with 4002 server_full: raise max_connections");
    let limits = ["--listen", "127.0.0.1:0", "--messages-per-second", "5", "--message-burst", "5"];
    let program = Program::start(PROGRAM, &limits);
    let (fast, code) = report(program.address, "--members 2 --seconds 1 --rate 50 --per-lobby 2");
    assert_eq!((counts(&fast, &FAULTS[..4]), code), (vec![0; 4], Some(1)), "{fast:#}");
    check_sentence(&fast, "problems", "messages were refused with rate_limited: messages_per_second");
    check_sentence(&fast, "problems", "the rate was not reached");
    let program =
        Program::start(PROGRAM, &["--listen", "127.0.0.1:0", "--attempts-per-minute", "1", "--attempt-burst", "2"]);
    let output = load(program.address, "--members 1 --seconds 1");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

#[test]
fn a_run_that_cannot_begin_ends_with_2() {
    let free = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port");
    let (nobody, code) = report(free, "--members 2 --seconds 1");
    assert_eq!((counts(&nobody, &["joined"]), code), (vec![0], Some(2)));
    check_sentence(&nobody, "notes", "no server listens there");
    let wrong =
        if cfg!(feature = "tls") { "--ca-file: Cargo.toml: it has no certificate" } else { "this build has no TLS" };
    let load = ["load", "wss://127.0.0.1:1", "--ca-file", "Cargo.toml"];
    let output = command(PROGRAM).args(load).output().expect("the program was built");
    let problem = String::from_utf8_lossy(&output.stderr);
    assert!(problem.starts_with("lobbyd: ") && problem.contains(wrong), "{problem}");
    assert_eq!(output.status.code(), Some(2));
}

/// What the proxy does with one frame that the server sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Drop,
    Double,
    /// Sends it after the next message.
    Swap,
    /// Ends the connection in front of it.
    Cut,
    /// Stops all output of the server to one member, until the others have received 200 messages more.
    Stall,
}

/// Number of messages that have been passed on, of all connections.
#[derive(Default)]
struct PassedOn {
    messages: Mutex<usize>,
    has_changed: Condvar,
}

impl PassedOn {
    /// Returns the number before this message.
    fn add(&self) -> usize {
        let mut messages = self.messages.lock().expect("no thread panics with it");
        *messages += 1;
        self.has_changed.notify_all();
        *messages - 1
    }

    fn wait_for(&self, count: usize) {
        let messages = self.messages.lock().expect("no thread panics with it");
        drop(self.has_changed.wait_while(messages, |messages| *messages < count));
    }
}

/// A server behind a proxy that does something to the 20th `message`. Returns the address of the proxy.
fn behind_a_faulty_proxy(server: SocketAddr, fault: Fault) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("it listens");
    let passed_on = Arc::new(PassedOn::default());
    // The threads end with their connections, and that of the listener with the process.
    thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            let upstream = TcpStream::connect(server).expect("the server listens");
            let (mut from, mut to) = (client.try_clone().expect("a socket"), upstream.try_clone().expect("a socket"));
            thread::spawn(move || drop(std::io::copy(&mut from, &mut to)));
            let passed_on = passed_on.clone();
            thread::spawn(move || pass_on(upstream, client, fault, &passed_on));
        }
    });
    address
}

/// Passes on what the server sends.
fn pass_on(mut upstream: TcpStream, mut client: TcpStream, fault: Fault, passed_on: &PassedOn) {
    let (mut reader, mut bytes, mut held) = (Reader::default(), [0; 65_536], None);
    while let Ok(count) = upstream.read(&mut bytes)
        && count > 0
    {
        reader.push(&bytes[..count]);
        while let Some(received) = reader.next().expect("the server keeps to the protocol") {
            let (frame, text) = match received {
                Received::Answer(_, head) => (head.into_bytes(), String::new()),
                Received::Text(text) => (frame(0x81, text.as_bytes()), text),
                Received::Ping(payload) => (frame(0x89, &payload), String::new()),
                Received::Close(code, reason) => {
                    (frame(0x88, &[&code.to_be_bytes(), reason.as_bytes()].concat()), String::new())
                }
                other => panic!("{other:?}"),
            };
            let is_message = text.starts_with(r#"{"type":"message""#);
            let is_it = is_message && passed_on.add() == 20;
            let sent = match fault {
                Fault::Drop if is_it => continue,
                Fault::Double if is_it => [&frame[..], &frame].concat(),
                Fault::Swap if is_it => {
                    held = Some(frame);
                    continue;
                }
                Fault::Cut if is_it => {
                    let _ = client.shutdown(std::net::Shutdown::Both);
                    let _ = upstream.shutdown(std::net::Shutdown::Both);
                    return;
                }
                Fault::Stall if is_it => {
                    passed_on.wait_for(220);
                    frame
                }
                _ if is_message => [frame, held.take().unwrap_or_default()].concat(),
                _ => frame,
            };
            if client.write_all(&sent).is_err() {
                return;
            }
        }
    }
    let _ = client.shutdown(std::net::Shutdown::Write);
}

/// A frame as a server sends it.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(payload.len()).expect("a short frame");
    let header =
        if length < 126 { vec![first, length as u8] } else { vec![first, 126, (length >> 8) as u8, length as u8] };
    [&header[..], payload].concat()
}

#[track_caller]
fn run_behind(fault: Fault, arguments: &str) -> (Value, Option<i32>) {
    let program = Program::start(PROGRAM, &["--listen", "127.0.0.1:0"]);
    let proxy = behind_a_faulty_proxy(program.address, fault);
    report(proxy, &format!("--members 4 --per-lobby 4 --seconds 1 {arguments}"))
}

#[test]
fn a_lost_doubled_or_swapped_message_is_reported() {
    for (fault, expected, words) in [
        (Fault::Drop, [1, 0, 0, 0, 0, 0], "1 messages were lost"),
        (Fault::Double, [0, 1, 0, 0, 0, 0], "1 messages were received twice"),
        (Fault::Swap, [0, 0, 1, 0, 0, 0], "1 messages were received out of order"),
    ] {
        let (report, code) = run_behind(fault, "--rate 20");
        assert_eq!((counts(&report, FAULTS), code), (expected.to_vec(), Some(1)), "{fault:?}: {report:#}");
        check_sentence(&report, "problems", words);
        let expected = 4 * 20 * 3 - u64::from(fault == Fault::Drop);
        assert_eq!(counts(&report, &["acked", "delivered"]), [80, expected], "{fault:?}");
    }
}

/// A member whose connection is cut comes back to its seat, and has missed nothing.
#[test]
fn a_member_that_is_cut_resumes_its_session() {
    let (report, code) = run_behind(Fault::Cut, "--rate 20");
    assert_eq!((counts(&report, FAULTS), code), (vec![0; 6], Some(0)), "{report:#}");
    assert_eq!(counts(&report, &["joined", "resumed", "rejoined", "acked", "delivered"]), [4, 1, 0, 80, 240]);
    check_sentence(&report, "notes", "1 connections were closed with 1006 end of the stream");
}

/// The latency of a message begins when it was due, so a server that stops for some half a second shows it in all messages
/// that were due meanwhile, and not only in the one that waits.
#[test]
fn a_stall_is_seen_by_every_message_that_was_due() {
    let (report, code) = run_behind(Fault::Stall, "--rate 50");
    assert_eq!((counts(&report, FAULTS), code), (vec![0; 6], Some(0)), "{report:#}");
    // One of four members hears nothing for half of the time: the others receive some 350 messages a second.
    let p90 = report["micros"]["delivery"]["p90"].as_u64().expect("a number");
    assert!(p90 > 50_000, "{p90} us: {report:#}");
}
