//! The program itself: arguments, signals, exit codes and log. It listens on 127.0.0.1, port 0.

mod start;
mod system;
mod tokens;

use std::io::{BufRead, BufReader, Lines, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::time::Duration;

use lobbyd::sim::wire::{self, Reader, Received};

use crate::common::sockets::blocking;

/// A running program on a free port. It is killed at the end of the test, whether the test passes or fails.
struct Program {
    child: Child,
    address: SocketAddr,
    log: Lines<BufReader<ChildStderr>>,
    /// The log lines read so far.
    log_lines: Vec<String>,
}

/// A command without the environment variables that configure the tests.
fn command(path: &str) -> Command {
    let mut command = Command::new(path);
    command.env_remove("LOBBYD_SEEDS").env_remove("LOBBYD_BLESS");
    command
}

impl Program {
    fn start(path: &str, arguments: &[&str]) -> Program {
        let child = command(path).args(arguments).stderr(Stdio::piped()).stdout(Stdio::null()).spawn();
        Program::of(child.expect("the program was built"))
    }

    /// Wraps a child that was started with its standard error on a pipe.
    fn of(mut child: Child) -> Program {
        let log = BufReader::new(child.stderr.take().expect("the stream is piped")).lines();
        let nowhere = ([0, 0, 0, 0], 0).into();
        let mut program = Program { child, address: nowhere, log, log_lines: Vec::new() };
        let line = program.wait_for("listening on ");
        let (_, address) = line.split_once("listening on ").expect("the line contains the address");
        program.address = address.parse().expect("an address");
        program
    }

    /// Reads the log until a line contains `words`.
    #[track_caller]
    fn wait_for(&mut self, words: &str) -> String {
        for line in self.log.by_ref() {
            let line = line.expect("the log is UTF-8");
            self.log_lines.push(line.clone());
            if line.contains(words) {
                return line;
            }
        }
        panic!("the log never contains {words}, but {:?}", self.log_lines);
    }

    fn signal(&self, name: &str) {
        let status = Command::new("kill").args([name, &self.child.id().to_string()]).status();
        assert!(status.expect("kill can be started").success());
    }

    fn exit_code(&mut self) -> Option<i32> {
        self.log_lines.extend(self.log.by_ref().map(|line| line.expect("the log is UTF-8")));
        self.child.wait().expect("the child can be waited for").code()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

const PROGRAM: &str = env!("CARGO_BIN_EXE_lobbyd");

/// Connects with a token. Returns the first message, a `welcome` or a `goodbye`.
fn connect(program: &Program, token: &str) -> (TcpStream, Reader, serde_json::Value) {
    let mut stream = TcpStream::connect(program.address).expect("the server listens");
    let line = format!("Authorization: Bearer {token}");
    stream.write_all(&wire::upgrade_request("/ws/a", &[&line])).expect("the server reads");
    let mut reader = Reader::default();
    assert!(matches!(blocking(&mut stream, &mut reader), Received::Answer(101, _)));
    let Received::Text(first) = blocking(&mut stream, &mut reader) else { panic!("the relay speaks JSON") };
    (stream, reader, serde_json::from_str(&first).expect("JSON"))
}

#[track_caller]
fn check_token(program: &Program, token: &str, user: Option<&str>) {
    let (_, _, first) = connect(program, token);
    match user {
        Some(user) => assert_eq!((&first["type"], &first["user"]), (&"welcome".into(), &user.into()), "{first}"),
        None => assert_eq!((&first["type"], &first["code"]), (&"goodbye".into(), &4001.into()), "{first}"),
    }
}

/// Opens a connection that is either upgraded or dropped without an answer.
fn try_connect(program: &Program, user: usize) -> Option<(TcpStream, Reader)> {
    let mut stream = TcpStream::connect(program.address).expect("the backlog has room");
    stream.set_read_timeout(Some(Duration::from_secs(5))).expect("a socket takes it");
    // The connection may be dropped already.
    let _ = stream.write_all(&wire::upgrade_request(&format!("/ws/a?token=u{user}"), &[]));
    let (mut reader, mut bytes) = (Reader::default(), [0; 4096]);
    match stream.read(&mut bytes) {
        Ok(n) if n > 0 => reader.push(&bytes[..n]),
        _ => return None,
    }
    assert!(matches!(blocking(&mut stream, &mut reader), Received::Answer(101, _)));
    Some((stream, reader))
}
