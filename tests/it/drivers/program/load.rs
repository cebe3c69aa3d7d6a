//! `lobbyd load` against real servers, and against one behind a proxy that drops, doubles, swaps or delays a message, or
//! cuts a connection: each of these must be reported.

#[cfg(target_os = "linux")]
mod hostile;

use std::net::SocketAddr;
use std::process::Output;
use std::thread;

use serde_json::Value;

use super::faulty_proxy::{Fault, behind_a_faulty_proxy};
use super::{PROGRAM, Program, command};
use crate::common::sockets::refusing;

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

fn has_sentence(report: &Value, list: &str, words: &str) -> bool {
    let mut sentences = report[list].as_array().expect("a list").iter().filter_map(Value::as_str);
    sentences.any(|sentence| sentence.contains(words))
}

#[track_caller]
fn check_sentence(report: &Value, list: &str, words: &str) {
    assert!(has_sentence(report, list, words), "{words}: {report:#}");
}

fn counts(report: &Value, names: &[&str]) -> Vec<u64> {
    names.iter().map(|name| report[name].as_u64().unwrap_or_else(|| panic!("{name}: {report:#}"))).collect()
}

// A member sends at most 16 messages without an answer. Runs that must reach their rate are due to send no more for each member,
// or have a rate at which the generator and the server may stop for a second.

const FAULTS: &[&str] = &["lost", "doubled", "out_of_order", "unrecovered", "unanswered", "unknown"];

#[test]
fn a_hundred_members_hear_all_messages_of_each_other() {
    let program = Program::start(PROGRAM, &["--listen", "127.0.0.1:0"]);
    let (report, code) =
        report(program.address, "--members 100 --per-lobby 10 --rate 8 --seconds 2 --ramp 2000 --threads 2");
    assert_eq!(counts(&report, &["joined", "due", "sent", "acked", "delivered"]), [100, 1600, 1600, 1600, 14_400]);
    assert_eq!(counts(&report, FAULTS), [0; 6]);
    assert_eq!(
        (&report["ok"], &report["notes"], code),
        (&Value::Bool(true), &Value::Array(Vec::new()), Some(0)),
        "{report:#}"
    );
    let micros = |of: &str, which: &str| report["micros"][of][which].as_u64().expect("a number");
    assert_eq!((micros("connect", "count"), micros("ack", "count"), micros("delivery", "count")), (100, 1600, 14_400));
    for of in ["connect", "ack", "delivery"] {
        let values = ["p50", "p90", "p99", "p99.9", "max"].map(|which| micros(of, which));
        assert!(values.is_sorted() && values[0] > 0, "{of}: {values:?}");
    }
}

/// Members with event streams and members with WebSockets, in the same lobbies.
#[test]
fn members_read_events_and_post() {
    let program = Program::start(PROGRAM, &["--listen", "127.0.0.1:0"]);
    let run = "--members 60 --per-lobby 10 --rate 8 --seconds 2 --ramp 2000 --threads 2";
    for (sse, streams) in [("--sse", 60), ("--sse=40", 24)] {
        let (report, code) = report(program.address, &format!("{run} {sse}"));
        assert_eq!(counts(&report, &["joined", "due", "sent", "acked", "delivered"]), [60, 960, 960, 960, 8640]);
        assert_eq!((counts(&report, FAULTS), code), (vec![0; 6], Some(0)), "{report:#}");
        assert_eq!(report["plan"]["event_streams"], streams);
        // A message for each of 16 dues, perhaps several in one request, and the leave.
        let posts = report["posts"].as_u64().expect("a number");
        assert!((streams..=streams * 17).contains(&posts), "{report:#}");
        assert_eq!(report["notes"], Value::Array(Vec::new()), "{report:#}");
    }
}

/// The server ends connections for POSTs that are idle, and those that it has no room for.
#[test]
fn a_post_has_a_connection_of_its_own_if_the_last_one_has_ended() {
    let limits = ["--handshake-timeout", "400ms", "--max-pending", "4"];
    let program = Program::start(PROGRAM, &[&["--listen", "127.0.0.1:0"], &limits[..]].concat());
    // If the machine stops for a moment, more POSTs come together than there is room for, and those refused come back.
    let is_undisturbed = (0..5).any(|_| {
        let (report, code) =
            report(program.address, "--members 10 --per-lobby 10 --rate 1 --seconds 4 --handshakes 2 --sse");
        assert_eq!((counts(&report, FAULTS), code), (vec![0; 6], Some(0)), "{report:#}");
        assert_eq!(counts(&report, &["joined", "acked", "delivered"]), [10, 40, 360], "{report:#}");
        counts(&report, &["resumed"]) == [0]
    });
    assert!(is_undisturbed, "POSTs were refused each time");
}

#[test]
fn refusals_of_event_streams_are_reported() {
    let program = Program::start(PROGRAM, &["--listen", "127.0.0.1:0", "--max-connections", "4"]);
    let (full, code) = report(program.address, "--members 6 --seconds 1 --rate 5 --per-lobby 6 --sse");
    assert_eq!((counts(&full, &["joined", "delivered"]), code), (vec![4, 4 * 3 * 5], Some(1)), "{full:#}");
    check_sentence(&full, "notes", "2 connections were closed with 4002 server_full: raise max_connections");
    let limits = ["--listen", "127.0.0.1:0", "--max-message-bytes", "1000"];
    let program = Program::start(PROGRAM, &limits);
    let (long, code) = report(program.address, "--members 2 --seconds 1 --rate 1 --per-lobby 2 --bytes 2000 --sse");
    assert_eq!(code, Some(1), "{long:#}");
    check_sentence(&long, "notes", "POSTs were answered with HTTP status 413: lower --bytes");
    let folder = crate::common::files::Folder::new("load-sse-tokens");
    let list = folder.0.join("tokens");
    std::fs::write(&list, "secret ann\n").expect("the folder is ours");
    let list = list.to_str().expect("UTF-8");
    let program = Program::start(PROGRAM, &["--listen", "127.0.0.1:0", "--auth", "tokens", "--tokens-file", list]);
    let (refused, code) = report(program.address, "--members 3 --seconds 1 --sse");
    assert_eq!((counts(&refused, &["joined", "refused_tokens"]), code), (vec![0, 3], Some(2)), "{refused:#}");
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
    let load = |scheme: &str, arguments: &str| {
        let url = format!("{scheme}://{address}");
        let members = "--json --members 40 --per-lobby 10 --rate 2 --seconds 1 --ramp 400 --bytes 20000";
        let arguments = members.split(' ').chain(arguments.split(' ').filter(|word| !word.is_empty()));
        let output = command(PROGRAM).args(["load", &url]).args(arguments).output().expect("the program was built");
        let report = serde_json::from_slice::<Value>(&output.stdout).expect("JSON");
        (report, output.status.code())
    };
    for (scheme, sse) in [("wss", ""), ("https", " --sse")] {
        let (report, code) = load(scheme, &format!("--ca-file {FILES}/ca.pem{sse}"));
        assert_eq!(counts(&report, &["joined", "due", "delivered"]), [40, 80, 720], "{report:#}");
        assert_eq!((counts(&report, FAULTS), code), (vec![0; 6], Some(0)), "{report:#}");
    }
    let (report, code) = load("wss", "");
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
    // If the machine stops for a moment, the members send faster after it, and are closed for that.
    let is_slow = (0..5).any(|_| {
        let (fast, code) = report(program.address, "--members 2 --seconds 1 --rate 50 --per-lobby 2");
        assert_eq!((counts(&fast, &FAULTS[..4]), code), (vec![0; 4], Some(1)), "{fast:#}");
        check_sentence(&fast, "problems", "messages were refused with rate_limited: messages_per_second");
        has_sentence(&fast, "problems", "the rate was not reached")
    });
    assert!(is_slow, "the rate was reached each time");
    let program =
        Program::start(PROGRAM, &["--listen", "127.0.0.1:0", "--attempts-per-minute", "1", "--attempt-burst", "2"]);
    let output = load(program.address, "--members 1 --seconds 1");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

#[test]
fn a_run_that_cannot_begin_ends_with_2() {
    let (_socket, free) = refusing();
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

#[track_caller]
fn run_behind(fault: Fault, arguments: &str) -> (Value, Option<i32>) {
    let program = Program::start(PROGRAM, &["--listen", "127.0.0.1:0"]);
    let proxy = behind_a_faulty_proxy(program.address, fault);
    report(proxy, &format!("--members 4 --per-lobby 4 {arguments}"))
}

/// Checks runs with WebSockets and runs with event streams, all at the same time: they mostly wait.
fn check_at_once<T: Sync>(runs: &[T], check: impl Fn(&T, &str) + Sync) {
    let check = &check;
    thread::scope(|scope| {
        for run in runs {
            for sse in ["", "--sse"] {
                scope.spawn(move || check(run, sse));
            }
        }
    });
}

#[test]
fn a_lost_doubled_or_swapped_message_is_reported() {
    let runs = [
        (Fault::Drop, [1, 0, 0, 0, 0, 0], "1 messages were lost"),
        (Fault::Double, [0, 1, 0, 0, 0, 0], "1 messages were received twice"),
        (Fault::Swap, [0, 0, 1, 0, 0, 0], "1 messages were received out of order"),
    ];
    check_at_once(&runs, |(fault, expected, words), sse| {
        let (report, code) = run_behind(*fault, &format!("--seconds 1 --rate 16 {sse}"));
        assert_eq!((counts(&report, FAULTS), code), (expected.to_vec(), Some(1)), "{fault:?} {sse}: {report:#}");
        check_sentence(&report, "problems", words);
        let expected = 4 * 16 * 3 - u64::from(*fault == Fault::Drop);
        assert_eq!(counts(&report, &["acked", "delivered"]), [64, expected], "{fault:?} {sse}");
    });
}

/// A member whose connection is cut comes back to its seat, and has missed nothing.
#[test]
fn a_member_that_is_cut_resumes_its_session() {
    check_at_once(&[()], |(), sse| {
        let (report, code) = run_behind(Fault::Cut, &format!("--seconds 4 --rate 4 {sse}"));
        assert_eq!((counts(&report, FAULTS), code), (vec![0; 6], Some(0)), "{sse}: {report:#}");
        assert_eq!(counts(&report, &["joined", "resumed", "rejoined", "acked", "delivered"]), [4, 1, 0, 64, 192]);
        check_sentence(&report, "notes", "1 connections were closed with 1006 unexpected end of the stream");
    });
}

/// The server has executed the messages of this POST, and executes them once. Nothing is wrong with the event stream.
#[test]
fn a_post_without_an_answer_is_repeated() {
    let (report, code) = run_behind(Fault::CutPost, "--seconds 1 --rate 16 --sse");
    assert_eq!((counts(&report, FAULTS), code), (vec![0; 6], Some(0)), "{report:#}");
    assert_eq!(counts(&report, &["joined", "resumed", "rejoined", "acked", "delivered"]), [4, 0, 0, 64, 192]);
}

/// The latency of a message begins when it was due, so a server that stops for two seconds shows it in all messages that were
/// due meanwhile, and not only in the one that waits.
#[test]
fn a_stall_is_seen_by_every_message_that_was_due() {
    check_at_once(&[()], |(), sse| {
        let (report, code) = run_behind(Fault::Stall, &format!("--seconds 3 --rate 5 {sse}"));
        assert_eq!((counts(&report, FAULTS), code), (vec![0; 6], Some(0)), "{sse}: {report:#}");
        // One of four members hears nothing for most of the time: the others receive 45 messages a second.
        let p90 = report["micros"]["delivery"]["p90"].as_u64().expect("a number");
        assert!(p90 > 500_000, "{sse}: {p90} us: {report:#}");
    });
}
