//! Errors before the server runs: one format, on standard error, with exit code 2.

use std::fs;
use std::net::TcpListener;

use super::{PROGRAM, command};
use crate::common::files::Folder;

/// Runs the program with arguments that it refuses, without a log. Its whole error output is `expected`, where `{}` stands
/// for `path`.
#[track_caller]
fn check(arguments: &[&str], path: &str, expected: &str) {
    let refused = command(PROGRAM).args(arguments).env("LOBBYD_LOG", "off").output().expect("the program was built");
    let error = String::from_utf8(refused.stderr).expect("UTF-8");
    assert_eq!(error, format!("lobbyd: {}\n", expected.replace("{}", path)), "{arguments:?}");
    assert_eq!(refused.status.code(), Some(2), "{arguments:?}");
    assert!(refused.stdout.is_empty(), "{arguments:?}");
    let text = error.replace(path, "");
    assert!(!text.contains("os error") && !text.contains("Error") && !text.contains("Some("), "{error}");
}

#[test]
fn wrong_arguments_are_reported_in_one_format() {
    let rows: &[(&[&str], &str)] = &[
        (&["--lisen", "a:1"], "--lisen: there is no such option; do you mean --listen?"),
        (&["--zzzzz"], "--zzzzz: there is no such option; see lobbyd --help"),
        (&["sim"], "sim: there is no such command; do you mean simulate?"),
        (&["zzzzz"], "zzzzz: there is no such command; see lobbyd --help"),
        (&["--app", "chess"], "invalid configuration\n  app: `chess` is none of relay, verbatim, echo"),
        (
            &["--auth", "none"],
            "invalid configuration\n  auth: `none` is none of open, open-to-anybody, tokens, jwt, hook",
        ),
        (&["--listen"], "--listen: its value is missing; see lobbyd --help"),
        (
            &["--listen="],
            "invalid configuration\n  listen: `` is not an address such as 127.0.0.1:9001, [::1]:9001, localhost:9001 or unix:/run/lobbyd.sock",
        ),
        (&["--seed", "x"], "invalid configuration\n  seed: `x` is neither a whole number below 2^64 nor `system`"),
        (&["--log", "a", "--log", "b"], "--log: it is given more than once; give it once"),
        (&["replay"], "FILE: it is missing; see lobbyd replay --help"),
        (&["replay", "x", "--lobby", "a"], "--print: it is missing; see lobbyd replay --help"),
        (&["replay", "x", "--from", "soon", "--print"], "--from: `soon` is not a number of seconds since the start"),
        (&["replay", "x", "y"], "y: it is not expected here; see lobbyd replay --help"),
        (&["simulate", "--seed", "5..1"], "--seed: there is no seed in 5..1"),
        (&["simulate", "--clients", "0"], "--clients: 0 is not in 1..=1000"),
        (&["simulate", "--journal=1"], "--journal: it takes no value; see lobbyd simulate --help"),
    ];
    for (arguments, expected) in rows {
        check(arguments, "", expected);
    }
}

#[test]
fn wrong_values_are_reported_together() {
    check(
        &["--max-pending", "many", "--pong-timeout", "40s", "--log", "loud"],
        "",
        "invalid configuration\n  max_pending: `many` is not a whole number\n  log: `loud` is none of off, error, warn, info, debug, \
         trace\n  pong_timeout = 40s: must be shorter than ping_interval (20s), or a ping is sent while the previous one is \
         unanswered",
    );
}

#[test]
fn files_and_addresses_that_cannot_be_used_are_reported_in_one_format() {
    let folder = Folder::new("start-errors");
    let path = |name: &str| folder.0.join(name).to_str().expect("UTF-8").to_owned();
    let free = ["--listen", "127.0.0.1:0"];
    let with = |more: &[&str]| -> Vec<String> { free.iter().chain(more).map(|word| (*word).to_owned()).collect() };
    let check_with = |more: &[&str], path: &str, expected: &str| {
        let arguments = with(more);
        check(&arguments.iter().map(String::as_str).collect::<Vec<_>>(), path, expected);
    };

    let missing = path("missing");
    let tokens = ["--auth", "tokens", "--tokens-file"];
    check_with(
        &[&tokens[..], &[&missing]].concat(),
        &missing,
        "invalid configuration\n  tokens_file = {}: no such file or directory",
    );
    let folder_path = path("");
    check_with(
        &[&tokens[..], &[&folder_path]].concat(),
        &folder_path,
        "invalid configuration\n  tokens_file = {}: it is not a regular file",
    );
    let admin = ["--admin", "127.0.0.1:0", "--admin-token-file"];
    check_with(&[&admin[..], &[&missing]].concat(), &missing, "admin_token_file = {}: no such file or directory");
    let short = path("short");
    fs::write(&short, "secret").expect("the folder can be written");
    check_with(
        &[&admin[..], &[&short]].concat(),
        &short,
        "admin_token_file = {}: must hold at least 16 characters: `openssl rand -hex 32` makes some",
    );
    fs::write(&short, b"\xff").expect("the folder can be written");
    check_with(&[&admin[..], &[&short]].concat(), &short, "admin_token_file = {}: is not UTF-8");

    let journal = path("no-folder/session");
    check_with(&["--journal", &journal], &journal, "journal = {}: no such file or directory");
    fs::create_dir_all(path("folder")).expect("the folder can be written");
    check_with(&["--journal", &path("folder")], &path("folder"), "journal = {}: it is a folder; name a file in it");
    check(&["replay", &missing], &missing, "{}: no such journal or segment exists");

    let occupied = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = occupied.local_addr().expect("it is bound").to_string();
    check(&["--listen", &address], &address, "cannot listen on {}: address in use; is another lobbyd running?");
    check_with(&["--admin", &address], &address, "cannot listen on {}: address in use; is another lobbyd running?");
    // RFC 5737: an address for documentation.
    check(
        &["--listen", "192.0.2.1:0", "--auth", "open-to-anybody"],
        "",
        "cannot listen on 192.0.2.1:0: the machine does not have this address; name one of its own, or 0.0.0.0 for all",
    );
    check(
        &["--listen", "unknown.invalid:0", "--auth", "open-to-anybody"],
        "",
        "cannot listen on unknown.invalid:0: failed to lookup address information: Name or service not known; check the name",
    );
    let file = path("short");
    check(
        &["--listen", &format!("unix:{file}")],
        &file,
        "cannot listen on unix:{}: the file exists and is no socket; name another file",
    );
    let socket = path("no-folder/a.sock");
    check(
        &["--listen", &format!("unix:{socket}")],
        &socket,
        "cannot listen on unix:{}: no such file or directory; create its folder",
    );
}

/// Otherwise a value could add a line of its own, or control the terminal.
#[test]
fn control_and_invisible_characters_of_values_are_escaped() {
    let tokens = ["--auth", "tokens", "--tokens-file"];
    check(
        &[&tokens[..], &["a\nlobbyd: \u{1b}[31mfake\u{202e} line"]].concat(),
        "",
        "invalid configuration\n  tokens_file = a\\nlobbyd: \\u{1b}[31mfake\\u{202e} line: no such file or directory",
    );
    check(
        &["--seed", "\u{9b}1\r"],
        "",
        "invalid configuration\n  seed: `\\u{9b}1\\r` is neither a whole number below 2^64 nor `system`",
    );
    check(&["a\nb"], "", "a\\nb: there is no such command; see lobbyd --help");
    check(&["replay", "a\tb\n\"ü\""], "", "a\\tb\\n\"ü\": no such journal or segment exists");
    check(&["--journal", "no\n/a"], "", "journal = no\\n/a: no such file or directory");
}
