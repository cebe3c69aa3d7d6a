//! Sockets that a service manager has opened: the test is the manager.

use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::process::{Command, Stdio};

use super::{PROGRAM, Program, command};

/// Starts the program with a socket as descriptor 3. Descriptors are passed on by a shell: it gets the socket as its
/// standard input, and becomes the program, whose process id is then its own.
fn with_socket(socket: OwnedFd, names: &str, arguments: &[&str]) -> Command {
    let mut command = command("sh");
    let script = "exec 3<&0 </dev/null && LISTEN_PID=$$ exec \"$0\" \"$@\"";
    command.args(["-c", script, PROGRAM]).args(arguments).stdin(Stdio::from(socket));
    command.env("LISTEN_FDS", "1").env("LISTEN_FDNAMES", names).stderr(Stdio::piped()).stdout(Stdio::null());
    command
}

fn start(socket: OwnedFd, names: &str, arguments: &[&str]) -> Program {
    Program::of(with_socket(socket, names, arguments).spawn().expect("a shell"))
}

#[test]
fn members_are_accepted_from_the_socket_of_the_manager() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("an address");
    // One that the program would refuse to bind.
    let mut program = start(listener.into(), "lobbyd.socket", &["--listen", "192.0.2.1:9001"]);
    assert_eq!(program.address, address);
    let warned = format!("listen has no effect: the service manager has opened the sockets, {address}");
    assert!(program.log_lines.iter().any(|line| line.contains(&warned)), "{:?}", program.log_lines);
    let (client, welcome) = super::connect(&program, "ann");
    assert_eq!(welcome["user"], "ann");
    program.signal("-TERM");
    drop(client);
    assert_eq!(program.exit_code(), Some(0));
}

#[test]
fn operators_are_accepted_from_the_socket_that_is_named_for_them() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("an address");
    let mut program = start(listener.into(), "admin", &["--listen", "127.0.0.1:0"]);
    assert_ne!(program.address, address);
    program.wait_for(&format!("admin API on http://{address}"));
}

#[test]
fn the_rules_for_addresses_apply_to_the_sockets_of_the_manager() {
    let listener = TcpListener::bind("0.0.0.0:0").expect("a free port");
    let refused = with_socket(listener.into(), "", &[]).output().expect("a shell");
    assert_eq!(refused.status.code(), Some(2));
    let text = String::from_utf8(refused.stderr).expect("UTF-8");
    assert!(text.contains("every client could log in as any user on 0.0.0.0:"), "{text}");
}

#[test]
fn a_socket_file_of_the_manager_stays() {
    let path = std::env::temp_dir().join(format!("lobbyd-given-{}", std::process::id()));
    let _ = std::fs::remove_file(&path);
    let listener = UnixListener::bind(&path).expect("a socket file");
    let command = with_socket(listener.into(), "", &["--admin", "127.0.0.1:0"]).spawn();
    let mut program = Program::unread(command.expect("a shell"));
    program.wait_for(&format!("listening on unix:{}", path.display()));
    program.signal("-TERM");
    assert_eq!(program.exit_code(), Some(0));
    assert!(path.exists(), "it belongs to the manager");
    std::fs::remove_file(&path).expect("it exists");
}

#[test]
fn a_descriptor_that_is_no_socket_is_refused() {
    let file = std::fs::File::open("/dev/null").expect("it exists");
    let refused = with_socket(file.into(), "", &[]).output().expect("a shell");
    assert_eq!(refused.status.code(), Some(2));
    let text = String::from_utf8(refused.stderr).expect("UTF-8");
    assert_eq!(text, "lobbyd: LISTEN_FDS: descriptor 3: it is no stream socket of TCP or of a socket file\n");
}

#[test]
fn a_number_of_sockets_that_is_none_is_refused() {
    let refused = |arguments: &[&str], pid: &str, count: &str| {
        // It never listens, even if the number is accepted.
        let never = ["--max-pending", "0"];
        let output =
            command(PROGRAM).args(never).args(arguments).env("LISTEN_PID", pid).env("LISTEN_FDS", count).output();
        let output = output.expect("the program was built");
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        String::from_utf8(output.stderr).expect("UTF-8")
    };
    for count in ["one", "-1", "1 ", "99999999999999999999"] {
        let text = refused(&[], "", count);
        assert_eq!(text, format!("lobbyd: LISTEN_FDS = {count}: must be the number of descriptors\n"));
    }
    let json = refused(&["--log-format", "json"], "", "one\n");
    let line: serde_json::Value = serde_json::from_str(&json).expect("one object");
    assert_eq!(line["message"], "LISTEN_FDS = one\n: must be the number of descriptors");
    // Those of another process are ignored.
    let other = refused(&[], "1", "one");
    assert!(other.contains("max_pending = 0") && !other.contains("LISTEN_FDS"), "{other}");
}
