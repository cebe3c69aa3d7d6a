//! SIGHUP without a file to read again: a terminal was closed, or the signal is ignored.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::process::Stdio;

use lobbyd::sim::wire::{self, Received};
use rustix::fs::OFlags;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

use super::{PROGRAM, Program, command};
use crate::common::sockets::BlockingClient;

/// Starts the program by a command in a new session whose terminal is the returned one.
fn start_in_terminal(arguments: &[&str]) -> (Program, OwnedFd) {
    // A child that inherited it would keep the terminal open.
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let terminal = openpt(flags).expect("the system has pseudoterminals");
    grantpt(&terminal).and_then(|()| unlockpt(&terminal)).expect("it is new");
    let name = ptsname(&terminal, Vec::new()).expect("it has a name").into_string().expect("ASCII");
    let mut options = OpenOptions::new();
    options.read(true).write(true).custom_flags(OFlags::NOCTTY.bits() as i32);
    let end: File = options.open(name).expect("it is unlocked");
    // The tests may run under `nohup`, whose children ignore the signal.
    let child = command("setsid")
        .args(["--ctty", "env", "--default-signal=HUP"])
        .args(arguments)
        .args(["--listen", "127.0.0.1:0"])
        .stdin(end)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn();
    (Program::of(child.expect("setsid is installed")), terminal)
}

#[test]
fn a_closed_terminal_drains_the_server() {
    let (mut program, terminal) = start_in_terminal(&[PROGRAM]);
    let mut client = BlockingClient::connect(program.address, "/ws/a?token=ann", &[]);
    // The kernel then sends SIGHUP to the process.
    drop(terminal);
    while !matches!(client.next(), Received::Close(1001, _)) {}
    drop(client);
    assert_eq!(program.exit_code(), Some(0));
    let log = program.log_lines.join("\n");
    assert!(log.contains("SIGHUP: the terminal was closed, and there is no file to read again"), "{log}");
    assert!(log.contains("drained in "), "{log}");
}

/// The kernel sends it to the leader of the session and to the group in the foreground, and this process is in both.
#[test]
fn a_second_sighup_does_not_cut_off_the_drain() {
    let (mut program, _terminal) = start_in_terminal(&[PROGRAM, "--close-timeout", "25s"]);
    let mut client = BlockingClient::connect(program.address, "/ws/a?token=ann", &[]);
    program.signal("-HUP");
    while !matches!(client.next(), Received::Close(1001, _)) {}
    program.signal("-HUP");
    // Until here the client has answered no close frame. The process waits for its answer.
    client.stream.write_all(&wire::close(1001, "")).expect("the connection is open");
    assert_eq!(program.exit_code(), Some(0), "{:?}", program.log_lines);
    assert!(!program.log_lines.iter().any(|line| line.contains("stopping at once")), "{:?}", program.log_lines);
}

/// Without a terminal, and with `nohup`, the signal is ignored.
#[test]
fn sighup_is_ignored_without_a_terminal() {
    let without = Program::start("setsid", &[PROGRAM, "--listen", "127.0.0.1:0"]);
    let (outlasting, terminal) = start_in_terminal(&["nohup", PROGRAM]);
    for (mut program, terminal) in [(without, None), (outlasting, Some(terminal))] {
        program.signal("-HUP");
        program.wait_for("SIGHUP is ignored: there is no file to read again");
        drop(terminal);
        BlockingClient::connect(program.address, "/ws/a?token=ann", &[]);
        program.signal("-TERM");
        assert_eq!(program.exit_code(), Some(0));
    }
}
