//! Notifications to a service manager: the test is the manager.

use std::io::ErrorKind;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use super::{PROGRAM, Program, command};
use crate::common::files::File;

/// The manager's end of the notifications.
struct Manager {
    socket: UnixDatagram,
    path: PathBuf,
}

impl Manager {
    /// Binds a socket file in the folder for temporary files: the path of a socket has at most 107 bytes.
    fn listen(name: &str) -> Manager {
        let path = std::env::temp_dir().join(format!("lobbyd-{name}-{}", std::process::id()));
        let _ = std::fs::remove_file(&path);
        let socket = UnixDatagram::bind(&path).expect("a socket file can be bound");
        socket.set_read_timeout(Some(Duration::from_secs(60))).expect("a socket takes it");
        Manager { socket, path }
    }

    /// Starts the program with this manager.
    fn start(&self, variables: &[(&str, &str)], arguments: &[&str]) -> Program {
        let mut command = command(PROGRAM);
        command.env("NOTIFY_SOCKET", &self.path).envs(variables.iter().copied());
        command.args(["--listen", "127.0.0.1:0"]).args(arguments).stderr(Stdio::piped()).stdout(Stdio::null());
        Program::of(command.spawn().expect("the program was built"))
    }

    /// Returns the next notification that is not the watchdog's.
    #[track_caller]
    fn next(&self) -> String {
        loop {
            let message = self.receive();
            if !message.starts_with("WATCHDOG=1\n") {
                return message;
            }
        }
    }

    #[track_caller]
    fn receive(&self) -> String {
        let mut bytes = [0; 1024];
        let length = loop {
            match self.socket.recv(&mut bytes) {
                // A read with a timeout is not restarted after a signal.
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                received => break received.expect("a notification arrives"),
            }
        };
        String::from_utf8(bytes[..length].to_vec()).expect("UTF-8")
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

#[test]
fn the_manager_is_told_when_the_server_is_ready_reloads_and_stops() {
    let manager = Manager::listen("supervisor");
    let tokens = File::new("supervisor-tokens", "secret ann\n");
    let arguments = ["--auth", "tokens", "--tokens-file", tokens.path()];
    let mut program = manager.start(&[], &arguments);
    let listen = format!("X_LISTEN={}", program.address);
    assert_eq!(manager.next(), format!("READY=1\nSTATUS=0 members in 0 lobbies\n{listen}"));
    let (client, welcome) = super::connect(&program, "secret");
    assert_eq!(welcome["user"], "ann");
    program.signal("-HUP");
    let reloading = manager.next();
    let micros = reloading.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").expect("the time of the reload");
    assert!(micros.parse::<u64>().is_ok_and(|micros| micros > 0), "{reloading}");
    assert_eq!(manager.next(), "READY=1\nSTATUS=1 members in 1 lobbies");
    program.signal("-TERM");
    assert_eq!(manager.next(), "STOPPING=1\nSTATUS=draining, 1 members left");
    drop(client);
    assert_eq!(program.exit_code(), Some(0));
}

#[test]
fn the_watchdog_hears_from_an_idle_loop_and_not_from_a_stopped_one() {
    let manager = Manager::listen("watchdog");
    let program = manager.start(&[("WATCHDOG_USEC", "20000")], &["--stats-interval", "off"]);
    assert!(manager.receive().starts_with("READY=1\n"));
    for _ in 0..5 {
        assert_eq!(manager.receive(), "WATCHDOG=1\nSTATUS=0 members in 0 lobbies");
    }
    program.signal("-STOP");
    manager.socket.set_read_timeout(Some(Duration::from_millis(200))).expect("a socket takes it");
    // What was sent before the process stopped is still queued. One that goes on never pauses for so long.
    let mut bytes = [0; 1024];
    let late = std::iter::from_fn(|| manager.socket.recv(&mut bytes).ok()).take(1000).count();
    assert!(late < 1000, "it notifies after the stop");
    program.signal("-CONT");
    manager.socket.set_read_timeout(Some(Duration::from_secs(60))).expect("a socket takes it");
    assert!(manager.receive().starts_with("WATCHDOG=1\n"));
}

#[test]
fn the_status_of_a_drain_stays_while_the_watchdog_is_served() {
    let manager = Manager::listen("watchdog-drain");
    // The queue of a socket has room for ten notifications: those of two seconds.
    let arguments = ["--stats-interval", "off", "--close-timeout", "25s"];
    let mut program = manager.start(&[("WATCHDOG_USEC", "400000")], &arguments);
    let (client, _) = super::connect(&program, "ann");
    program.signal("-TERM");
    while !manager.receive().starts_with("STOPPING=1\n") {}
    for _ in 0..3 {
        assert_eq!(manager.receive(), "WATCHDOG=1\nSTATUS=draining, 1 members left");
    }
    drop(client);
    assert_eq!(program.exit_code(), Some(0));
}

#[test]
fn the_status_says_which_files_were_refused() {
    let manager = Manager::listen("reload-refused");
    let tokens = File::new("reload-refused-tokens", "secret ann\n");
    let token = File::new("reload-refused-operators", "0123456789abcdef");
    let files = ["--auth", "tokens", "--tokens-file", tokens.path(), "--admin-token-file", token.path()];
    let program = manager.start(&[], &[&files[..], &["--admin", "127.0.0.1:0"]].concat());
    assert!(manager.next().starts_with("READY=1\n"));
    let idle = "READY=1\nSTATUS=0 members in 0 lobbies";
    let reload = || {
        program.signal("-HUP");
        assert!(manager.next().starts_with("RELOADING=1\n"));
        manager.next()
    };
    for invalid in ["secret", "", "\u{1}"] {
        std::fs::write(tokens.path(), invalid).expect("the folder can be written");
        assert_eq!(reload(), format!("{idle}; the old tokens stay in force"), "{invalid:?}");
    }
    std::fs::remove_file(tokens.path()).expect("it exists");
    std::fs::write(token.path(), "short").expect("the folder can be written");
    assert_eq!(reload(), format!("{idle}; the old tokens stay in force; the old operators' token stays in force"));
    std::fs::write(tokens.path(), "secret bob").expect("the folder can be written");
    std::fs::write(token.path(), "fedcba9876543210").expect("the folder can be written");
    assert_eq!(reload(), idle);
}

#[test]
fn a_watchdog_of_another_process_is_not_served() {
    let manager = Manager::listen("watchdog-of-another");
    let variables = [("WATCHDOG_USEC", "1000"), ("WATCHDOG_PID", "1")];
    let program = manager.start(&variables, &[]);
    assert!(manager.receive().starts_with("READY=1\n"));
    program.signal("-TERM");
    assert_eq!(manager.receive(), "STOPPING=1\nSTATUS=draining, 0 members left");
}

#[test]
fn a_manager_that_does_not_read_or_is_gone_does_not_stop_the_server() {
    let manager = Manager::listen("manager-gone");
    let mut program = manager.start(&[("WATCHDOG_USEC", "200")], &["--stats-interval", "off"]);
    program.wait_for("the service manager cannot be notified");
    drop(manager);
    let (_client, welcome) = super::connect(&program, "ann");
    assert_eq!(welcome["type"], "welcome");
    let warnings = program.log_lines.iter().filter(|line| line.contains("cannot be notified")).count();
    assert_eq!(warnings, 1);
}

#[test]
fn a_notify_socket_that_is_no_address_is_refused_at_start() {
    let refused = command(PROGRAM).env("NOTIFY_SOCKET", "vsock:2:1").args(["--listen", "127.0.0.1:0"]).output();
    let refused = refused.expect("the program was built");
    assert_eq!(refused.status.code(), Some(2));
    let text = String::from_utf8(refused.stderr).expect("UTF-8");
    assert!(text.contains("NOTIFY_SOCKET = vsock:2:1: neither an absolute path nor an abstract name"), "{text}");
}
