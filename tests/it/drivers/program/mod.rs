//! The program itself: arguments, signals, exit codes and log. It listens on 127.0.0.1, port 0.

mod certificate;
mod cluster;
mod commands;
mod config_file;
mod deploying;
mod errors;
mod faulty_proxy;
mod given_sockets;
#[cfg(target_os = "linux")]
mod hangup;
#[cfg(feature = "hook")]
mod hook;
mod json_log;
mod jwt;
mod load;
mod start;
mod supervisor;
mod system;
mod tokens;

use std::io::{BufRead, BufReader, Lines, Write};
use std::net::SocketAddr;
use std::process::{Child, ChildStderr, Command, Stdio};
use std::time::Duration;

use lobbyd::sim::wire::{self, Received};

use crate::common::sockets::BlockingClient;

const PROGRAM: &str = env!("CARGO_BIN_EXE_lobbyd");

/// A child process. It is killed at the end of the test, whether the test passes or fails.
struct Process(Child);

impl Process {
    fn signal(&self, name: &str) {
        let status = Command::new("kill").args([name, &self.0.id().to_string()]).status();
        assert!(status.expect("kill can be started").success());
    }

    fn exit_code(&mut self) -> Option<i32> {
        self.0.wait().expect("the child can be waited for").code()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A running program on a free port.
struct Program {
    process: Process,
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
    fn of(child: Child) -> Program {
        let mut program = Program::unread(child);
        let line = program.wait_for("listening on ");
        let (_, address) = line.split_once("listening on ").expect("the line contains the address");
        // A line of JSON goes on.
        program.address = address.trim_end_matches(['"', '}']).parse().expect("an address");
        program
    }

    /// Wraps a child whose log was not read yet, so that its address is not known.
    fn unread(mut child: Child) -> Program {
        let log = BufReader::new(child.stderr.take().expect("the stream is piped")).lines();
        let nowhere = ([0, 0, 0, 0], 0).into();
        Program { process: Process(child), address: nowhere, log, log_lines: Vec::new() }
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
        self.process.signal(name);
    }

    /// Reads the rest of the log and waits for the end of the program.
    fn exit_code(&mut self) -> Option<i32> {
        self.log_lines.extend(self.log.by_ref().map(|line| line.expect("the log is UTF-8")));
        self.process.exit_code()
    }
}

/// Connects with a token. Returns the first message, a `welcome` or a `goodbye`.
fn connect(program: &Program, token: &str) -> (BlockingClient, serde_json::Value) {
    let line = format!("Authorization: Bearer {token}");
    let mut client = BlockingClient::connect(program.address, "/ws/a", &[&line]);
    let first = serde_json::from_str(&client.next_text()).expect("the relay speaks JSON");
    (client, first)
}

#[track_caller]
fn check_token(program: &Program, token: &str, user: Option<&str>) {
    let (_, first) = connect(program, token);
    match user {
        Some(user) => assert_eq!((&first["type"], &first["user"]), (&"welcome".into(), &user.into()), "{first}"),
        None => assert_eq!((&first["type"], &first["code"]), (&"goodbye".into(), &4001.into()), "{first}"),
    }
}

/// Opens a connection that is either upgraded or dropped without an answer.
fn try_connect(program: &Program, user: usize) -> Option<BlockingClient> {
    let mut client = BlockingClient::open(program.address);
    client.stream.set_read_timeout(Some(Duration::from_secs(60))).expect("a socket takes it");
    // The connection may be dropped already.
    let _ = client.stream.write_all(&wire::upgrade_request(&format!("/ws/a?token=u{user}"), &[]));
    let answer = client.poll()?;
    assert!(matches!(answer, Received::Answer(101, _)), "{answer:?}");
    Some(client)
}
