//! The program as it is run: arguments, signals, exit codes and what it logs. On 127.0.0.1, port 0.

use std::io::{BufRead, BufReader, Lines, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, ChildStderr, Command, Stdio};

use lobbyd::sim::wire::{self, Reader, Received};

use crate::scenario::blocking;

/// The program itself, on a free port. It is killed when the test is over, however it ends.
struct Program {
    child: Child,
    address: SocketAddr,
    log: Lines<BufReader<ChildStderr>>,
}

impl Program {
    fn start(path: &str, arguments: &[&str]) -> Program {
        let mut child = Command::new(path)
            .args(arguments)
            .stderr(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .expect("the program was built");
        let mut log = BufReader::new(child.stderr.take().expect("it is piped")).lines();
        let address = log
            .by_ref()
            .map(|line| line.expect("the log is UTF-8"))
            .find_map(|line| line.split_once("listening on ").map(|(_, address)| address.to_owned()))
            .expect("it says where it listens");
        Program { child, address: address.parse().expect("an address"), log }
    }

    fn signal(&self, name: &str) {
        let status = Command::new("kill").args([name, &self.child.id().to_string()]).status();
        assert!(status.expect("there is a kill").success());
    }

    fn exit_code(&mut self) -> Option<i32> {
        self.log.by_ref().for_each(drop);
        self.child.wait().expect("it can be waited for").code()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn sigterm_says_goodbye_and_exits_0() {
    let mut program = Program::start(env!("CARGO_BIN_EXE_lobbyd"), &["--listen", "127.0.0.1:0", "--app", "verbatim"]);
    let mut stream = TcpStream::connect(program.address).expect("it listens");
    stream.write_all(&wire::upgrade_request("/ws/a?token=ann", &[])).expect("it reads");
    let mut reader = Reader::default();
    assert!(matches!(blocking(&mut stream, &mut reader), Received::Answer(101, _)));
    program.signal("-TERM");
    assert_eq!(blocking(&mut stream, &mut reader), Received::Close(1001, "server_shutdown".into()));
    drop(stream);
    assert_eq!(program.exit_code(), Some(0));
}

#[test]
fn a_second_signal_ends_at_once_and_a_bad_configuration_does_not_start() {
    let mut program = Program::start(env!("CARGO_BIN_EXE_lobbyd"), &["--listen", "127.0.0.1:0"]);
    let mut stream = TcpStream::connect(program.address).expect("it listens");
    stream.write_all(&wire::upgrade_request("/ws/a?token=ann", &[])).expect("it reads");
    let mut reader = Reader::default();
    assert!(matches!(blocking(&mut stream, &mut reader), Received::Answer(101, _)));
    program.signal("-INT");
    // This client never answers the close frame, so the server waits for it.
    while !matches!(blocking(&mut stream, &mut reader), Received::Close(1001, _)) {}
    program.signal("-INT");
    assert_eq!(program.exit_code(), Some(3), "one connection was cut off");

    let refused = Command::new(env!("CARGO_BIN_EXE_lobbyd"))
        .args(["--max-pending", "many", "--pong-timeout", "1h"])
        .output()
        .expect("the program was built");
    let said = String::from_utf8(refused.stderr).expect("UTF-8");
    assert_eq!(refused.status.code(), Some(2));
    assert!(said.contains("max_pending") && said.contains("pong_timeout = 1h"), "{said}");
}
