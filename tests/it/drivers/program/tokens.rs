//! The list of tokens, read at the start and on SIGHUP.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::Command;

use lobbyd::sim::wire;

use super::start::refused;
use super::{PROGRAM, Program, check_token, connect};
use crate::common::files::File;

#[test]
fn the_list_of_tokens_is_read_again_on_sighup() {
    let list = File::new("tokens", "# who\nsecret-1 ann\nsecret-2 bob\n");
    let arguments = ["--listen", "127.0.0.1:0", "--auth", "tokens", "--tokens-file", list.path()];
    // Log at the most verbose level.
    let all = ["--log", "trace,tungstenite=trace,tungstenite::protocol=trace"];
    let mut program = Program::start(PROGRAM, &[&arguments[..], &all].concat());
    let (mut client, first) = connect(&program, "secret-1");
    assert_eq!(first["user"], "ann");
    check_token(&program, "secret-2", Some("bob"));
    check_token(&program, "secret-3", None);
    check_token(&program, "ann", None);

    fs::write(list.path(), "secret-2 robert\nsecret-3 cid").expect("the file can be written");
    program.signal("-HUP");
    program.wait_for("2 tokens read");
    check_token(&program, "secret-1", None);
    check_token(&program, "secret-2", Some("robert"));
    check_token(&program, "secret-3", Some("cid"));

    // An invalid list, or a missing one, changes nothing.
    fs::write(list.path(), "secret-4 dan\nsecret-5").expect("the file can be written");
    program.signal("-HUP");
    assert!(program.wait_for("the old tokens stay in force").contains("line 2: a token is followed by its user"));
    check_token(&program, "secret-4", None);
    check_token(&program, "secret-3", Some("cid"));
    fs::remove_file(list.path()).expect("the file exists");
    program.signal("-HUP");
    assert!(program.wait_for("the old tokens stay in force").contains(list.path()));
    check_token(&program, "secret-3", Some("cid"));

    // Members that are already connected are not affected.
    client.send(&wire::text(r#"{"type":"ping","ref":"said-in-confidence"}"#));
    while !client.next_text().contains("said-in-confidence") {}
    drop(client);
    program.wait_for("user=\"ann\" lobby=a");
    program.signal("-TERM");
    program.signal("-TERM");
    assert!(matches!(program.exit_code(), Some(0 | 3)));
    for line in &program.log_lines {
        assert!(!line.contains("secret-") && !line.contains("said-in-confidence"), "{line}");
    }
    assert!(program.log_lines.iter().any(|line| line.contains("TRACE")), "trace records are logged");
}

/// Returns the status of the answer to a request with `token`.
fn ask(operator: &mut BufReader<TcpStream>, token: &str) -> String {
    let request = format!("HEAD /stats HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n\r\n");
    operator.get_mut().write_all(request.as_bytes()).expect("the server reads");
    let mut lines = operator.by_ref().lines().map(|line| line.expect("the connection is open"));
    let status = lines.next().expect("a status line")[9..12].to_owned();
    assert!(lines.by_ref().any(|line| line.is_empty()), "the end of the head");
    status
}

#[test]
fn the_operators_token_is_read_again_on_sighup() {
    let file = File::new("operators-token", "secret-horse-battery");
    let arguments = ["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--admin-token-file", file.path()];
    let mut program = Program::start(PROGRAM, &[&arguments[..], &["--log", "trace"]].concat());
    let output = program.wait_for("admin API on http://");
    let (_, address) = output.split_once("http://").expect("the line contains the address");
    let connect = || BufReader::new(TcpStream::connect(address.trim()).expect("the server listens"));
    let mut operator = connect();
    assert_eq!(ask(&mut operator, "secret-horse-battery"), "200");

    fs::write(file.path(), "secret-battery-horse\n").expect("the file can be written");
    program.signal("-HUP");
    program.wait_for("the operators' token was read again");
    assert_eq!(ask(&mut operator, "secret-horse-battery"), "401");
    assert_eq!(ask(&mut operator, "secret-battery-horse"), "200");

    // An invalid token, or a missing file, changes nothing.
    for contents in [Some("secret-2"), Some("secret horse battery"), None] {
        match contents {
            Some(contents) => fs::write(file.path(), contents),
            None => fs::remove_file(file.path()),
        }
        .expect("the folder can be written");
        program.signal("-HUP");
        let line = program.wait_for("the old operators' token stays in force");
        assert!(line.contains("WARN") && line.contains(file.path()), "{line}");
        assert_eq!(ask(&mut operator, "secret-battery-horse"), "200");
        assert_eq!(ask(&mut connect(), "secret-2"), "401");
    }
    fs::write(file.path(), "").expect("the folder can be written");
    program.signal("-TERM");
    assert_eq!(program.exit_code(), Some(0));
    for line in &program.log_lines {
        assert!(!line.contains("secret"), "{line}");
    }
}

/// Opening a FIFO blocks until it has a writer, and would block the whole server.
#[cfg(unix)]
#[test]
fn a_token_list_must_be_a_regular_file_of_bounded_size() {
    let list = File::new("irregular", "secret-1 ann");
    let arguments = ["--listen", "127.0.0.1:0", "--auth", "tokens", "--tokens-file", list.path()];
    let mut program = Program::start(PROGRAM, &arguments);
    check_token(&program, "secret-1", Some("ann"));

    let fifo = File::new("fifo", "");
    fs::remove_file(fifo.path()).expect("the file exists");
    assert!(Command::new("mkfifo").arg(fifo.path()).status().expect("mkfifo can be started").success());
    let tokens = ["--listen", "127.0.0.1:0", "--auth", "tokens", "--tokens-file"];
    assert!(refused(&[&tokens[..], &[fifo.path()]].concat()).contains("it is not a regular file"));
    assert!(refused(&[&tokens[..], &["/dev/zero"]].concat()).contains("it is not a regular file"));
    let folder = env!("CARGO_TARGET_TMPDIR");
    assert!(refused(&[&tokens[..], &[folder]].concat()).contains("it is not a regular file"));
    let operators = ["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--admin-token-file"];
    assert!(refused(&[&operators[..], &[fifo.path()]].concat()).contains("it is not a regular file"));
    let large = File::new("large", &"x".repeat(5000));
    assert!(refused(&[&operators[..], &[large.path()]].concat()).contains("it is larger than 4096 bytes"));
    let replayed = Command::new(PROGRAM).args(["replay", fifo.path()]).output().expect("the program was built");
    assert_eq!(replayed.status.code(), Some(2));

    // The same on SIGHUP: the server continues with the old tokens.
    fs::rename(fifo.path(), list.path()).expect("the folder can be written");
    program.signal("-HUP");
    assert!(program.wait_for("the old tokens stay in force").contains("it is not a regular file"));
    check_token(&program, "secret-1", Some("ann"));
    fs::remove_file(list.path()).expect("the file exists");
    let mut contents = "secret-2 bob\n".to_owned();
    contents.push_str(&"#".repeat(16 << 20));
    fs::write(list.path(), contents).expect("the file can be written");
    program.signal("-HUP");
    assert!(program.wait_for("the old tokens stay in force").contains("it is larger than 16777216 bytes"));
    check_token(&program, "secret-2", None);
    fs::write(list.path(), "\u{feff}secret-3 cid").expect("the file can be written");
    program.signal("-HUP");
    assert!(program.wait_for("the old tokens stay in force").contains("byte order mark"));
}
