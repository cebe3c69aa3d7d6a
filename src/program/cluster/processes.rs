//! The processes of `lobbyd cluster`: a Redis, and the nodes. What they write and notify is polled, and so are signals.

use std::collections::VecDeque;
use std::fmt;
use std::fs::{self, DirBuilder};
use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::Duration;
use std::{env, process};

use mio::net::{UnixDatagram, UnixStream};
use mio::unix::pipe::Receiver;
use mio::{Events, Interest, Poll, Token};
use rustix::process::{Pid, Signal, kill_process};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::low_level::pipe;

use super::super::logger::{Format, json_error};
use super::super::supervisor::{ADMIN_VARIABLE, LISTEN_VARIABLE};
use super::super::terminal;
use super::arguments::NodePlan;
use super::child;

/// The number of Redis. The nodes follow.
pub(super) const REDIS: usize = 0;
const SIGNALS: Token = Token(usize::MAX);
/// The programs that can be the Redis. The first one that exists is started.
const REDIS_PROGRAMS: &[&str] = &["redis-server", "valkey-server"];
/// Last lines of a process that are kept, in case it ends.
const LAST_LINES: usize = 10;
/// Longest time that a node may take for the answer whether it is ready.
const PATIENCE: Duration = Duration::from_secs(1);

/// What has happened.
pub(super) enum Event {
    /// A process has closed its log: it ends.
    Ended(usize),
    /// SIGINT, SIGTERM, or the terminal was closed.
    Stop,
}

/// The end of a process.
pub(super) struct Ended {
    name: String,
    pub(super) code: Option<i32>,
    status: String,
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} has ended: {}", self.name, self.status)
    }
}

/// All processes, and the folder of their sockets. Both are gone at the end.
pub(super) struct Processes {
    poll: Poll,
    signals: UnixStream,
    folder: PathBuf,
    redis_program: &'static str,
    /// Redis and the nodes.
    all: Vec<Process>,
}

struct Process {
    name: String,
    child: Child,
    is_running: bool,
    log: Receiver,
    /// The beginning of the next line of the log.
    partial: Vec<u8>,
    last_lines: VecDeque<String>,
    format: Format,
    /// Where a node notifies this process.
    notified: Option<UnixDatagram>,
    /// Members' and operators' address, once the node listens.
    addresses: Option<(String, Option<String>)>,
}

impl Processes {
    /// Makes the folder and listens to signals.
    pub(super) fn new() -> Result<Processes, String> {
        let folder = env::temp_dir().join(format!("lobbyd-cluster-{}", process::id()));
        let poll = Poll::new().map_err(|error| format!("sockets cannot be polled: {error}"))?;
        let signals = listen_to_signals(&poll).map_err(|error| format!("signals cannot be handled: {error}"))?;
        // Nobody else may connect to the Redis.
        let made = DirBuilder::new().mode(0o700).create(&folder);
        made.map_err(|error| format!("{}: the folder cannot be created: {error}", folder.display()))?;
        Ok(Processes { poll, signals, folder, redis_program: REDIS_PROGRAMS[0], all: Vec::new() })
    }

    fn redis_socket(&self) -> PathBuf {
        self.folder.join("redis.sock")
    }

    pub(super) fn redis_url(&self) -> String {
        format!("unix:{}", self.redis_socket().display())
    }

    pub(super) fn redis_program(&self) -> &'static str {
        self.redis_program
    }

    pub(super) fn redis_id(&self) -> u32 {
        self.all[REDIS].child.id()
    }

    /// Starts the first program that exists, without persistence and without a port.
    pub(super) fn start_redis(&mut self) -> Result<(), String> {
        for program in REDIS_PROGRAMS {
            if !is_in_path(program) {
                continue;
            }
            let mut command = child::command(program.as_ref()).map_err(|error| format!("{program}: {error}"))?;
            command.args([
                "--port",
                "0",
                "--save",
                "",
                "--appendonly",
                "no",
                "--loglevel",
                "warning",
                "--logfile",
                "/dev/stderr",
                "--unixsocket",
            ]);
            command.arg(self.redis_socket()).arg("--dir").arg(&self.folder);
            self.redis_program = program;
            return self.start(program, command, Format::Text, None).map_err(|error| format!("{program}: {error}"));
        }
        Err("redis-server: it is not in PATH, nor is valkey-server; install Debian's package redis-server, or the like"
            .into())
    }

    pub(super) fn redis_answers(&self) -> bool {
        std::os::unix::net::UnixStream::connect(self.redis_socket()).is_ok()
    }

    /// Starts a node, which notifies this process of its addresses.
    pub(super) fn start_node(&mut self, plan: &NodePlan) -> Result<(), String> {
        let file = self.folder.join(format!("{}.notify", plan.name));
        let started = UnixDatagram::bind(&file).and_then(|notified| {
            let mut command = child::command(env::current_exe()?.as_os_str())?;
            command.args(&plan.arguments).env("NOTIFY_SOCKET", &file);
            for variable in ["WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"] {
                command.env_remove(variable);
            }
            self.start(&plan.name, command, plan.format, Some(notified))
        });
        started.map_err(|error| format!("{}: it cannot be started: {error}", plan.name))
    }

    fn start(
        &mut self,
        name: &str,
        mut command: process::Command,
        format: Format,
        mut notified: Option<UnixDatagram>,
    ) -> io::Result<()> {
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
        let mut log = Receiver::from(child.stderr.take().expect("the stream is piped"));
        log.set_nonblocking(true)?;
        let token = Token(self.all.len());
        self.poll.registry().register(&mut log, token, Interest::READABLE)?;
        if let Some(notified) = &mut notified {
            self.poll.registry().register(notified, token, Interest::READABLE)?;
        }
        self.all.push(Process {
            name: name.to_owned(),
            child,
            is_running: true,
            log,
            partial: Vec::new(),
            last_lines: VecDeque::new(),
            format,
            notified,
            addresses: None,
        });
        Ok(())
    }

    /// Waits for something to happen, at most so long. Passes on the logs of the nodes.
    pub(super) fn poll(&mut self, timeout: Option<Duration>) -> Vec<Event> {
        let mut ready = Events::with_capacity(64);
        let mut happened = Vec::new();
        // An interrupted poll is one without events.
        let _ = self.poll.poll(&mut ready, timeout);
        for event in &ready {
            match event.token() {
                SIGNALS => {
                    let mut byte = [0];
                    while self.signals.read(&mut byte).is_ok_and(|length| length > 0) {
                        happened.push(Event::Stop);
                    }
                }
                Token(number) => {
                    let process = &mut self.all[number];
                    process.read_notifications();
                    if process.is_running && process.read_log(number != REDIS) {
                        process.is_running = false;
                        happened.push(Event::Ended(number));
                    }
                }
            }
        }
        happened
    }

    /// Waits for a process whose log was closed.
    pub(super) fn ended(&mut self, number: usize) -> Ended {
        let process = &mut self.all[number];
        let status = process.child.wait();
        let code = status.as_ref().ok().and_then(|status| status.code());
        let status = status.map_or_else(|error| error.to_string(), |status| status.to_string());
        Ended { name: process.name.clone(), code, status }
    }

    /// Returns the last lines of Redis, whose log is not passed on. Nothing for a node.
    pub(super) fn last_words(&self, number: usize) -> String {
        let redis = self.all.first().filter(|_| number == REDIS);
        redis.iter().flat_map(|redis| &redis.last_lines).map(|line| format!("; {}", line.trim())).collect()
    }

    fn nodes(&self) -> impl Iterator<Item = &Process> {
        self.all.iter().skip(1)
    }

    /// Writes a line of this process to the log.
    pub(super) fn report(&self, text: &str) {
        let format = self.nodes().next().map_or(Format::Text, |node| node.format);
        match format {
            Format::Text => write_log(&format!("cluster | {text}")),
            Format::Json => write_log(json_error(text).trim_end()),
        }
    }

    /// Whether all nodes admit members.
    pub(super) fn nodes_are_ready(&self) -> bool {
        self.nodes().all(|node| node.addresses.as_ref().is_some_and(|(listen, _)| is_ready(listen)))
    }

    /// Returns the members' address, the operators' address and the id of the process of a node, counted from 0.
    pub(super) fn addresses_of(&self, number: usize) -> (&str, Option<&str>, u32) {
        let node = &self.all[number + 1];
        let (listen, admin) = node.addresses.as_ref().expect("it listens");
        (listen, admin.as_deref(), node.child.id())
    }

    /// Whether a node runs.
    pub(super) fn has_nodes(&self) -> bool {
        self.nodes().any(|node| node.is_running)
    }

    /// Drains the first node that runs. The others follow when it has ended.
    pub(super) fn drain_next(&self) {
        if let Some(node) = self.nodes().find(|node| node.is_running) {
            self.report(&format!("{} drains", node.name));
            let _ = kill_process(Pid::from_child(&node.child), Signal::TERM);
        }
    }

    pub(super) fn kill_nodes(&mut self) {
        for node in self.all.iter_mut().skip(1).filter(|node| node.is_running) {
            let _ = node.child.kill();
        }
    }
}

impl Process {
    /// Passes on the lines of the log. Returns whether it has ended.
    fn read_log(&mut self, is_passed_on: bool) -> bool {
        let mut bytes = [0; 16384];
        loop {
            match self.log.read(&mut bytes) {
                Ok(0) => return true,
                Ok(length) => self.partial.extend_from_slice(&bytes[..length]),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return error.kind() != ErrorKind::WouldBlock,
            }
            while let Some(end) = self.partial.iter().position(|&byte| byte == b'\n') {
                let line = String::from_utf8_lossy(&self.partial[..end]).into_owned();
                self.partial.drain(..=end);
                if is_passed_on {
                    write_log(&named(&self.name, self.format, &line));
                }
                self.last_lines.push_back(line);
                if self.last_lines.len() > LAST_LINES {
                    self.last_lines.pop_front();
                }
            }
        }
    }

    /// Notes the addresses of a node. Also what is of no interest is read: a full socket would be a warning in the node's log.
    fn read_notifications(&mut self) {
        let Some(socket) = &self.notified else { return };
        let mut bytes = [0; 4096];
        while let Ok(length) = socket.recv(&mut bytes) {
            let text = String::from_utf8_lossy(&bytes[..length]);
            let value = |name: &str| {
                let mut lines = text.lines().filter_map(|line| line.split_once('='));
                // The first of several addresses.
                lines.find(|(key, _)| *key == name).and_then(|(_, value)| value.split(',').next()).map(str::to_owned)
            };
            if let Some(listen) = value(LISTEN_VARIABLE) {
                self.addresses = Some((listen, value(ADMIN_VARIABLE)));
            }
        }
    }
}

impl Drop for Processes {
    fn drop(&mut self) {
        // Redis keeps nothing, and need not be asked.
        for process in &mut self.all {
            let _ = process.child.kill();
            let _ = process.child.wait();
        }
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// Puts the name of a node before a line of its log, or into it, if it is JSON.
fn named(name: &str, format: Format, line: &str) -> String {
    match (format, line.strip_prefix('{')) {
        (Format::Json, Some(rest)) => format!("{{\"node\":\"{name}\",{rest}"),
        _ => format!("{name} | {line}"),
    }
}

/// Whether a program is in a folder of `PATH`.
fn is_in_path(program: &str) -> bool {
    env::var_os("PATH").is_some_and(|path| env::split_paths(&path).any(|folder| folder.join(program).is_file()))
}

fn write_log(line: &str) {
    // Nobody may read it any more.
    let _ = io::stderr().write_all(format!("{line}\n").as_bytes());
}

fn listen_to_signals(poll: &Poll) -> io::Result<UnixStream> {
    let (receiver, sender) = std::os::unix::net::UnixStream::pair()?;
    receiver.set_nonblocking(true)?;
    sender.set_nonblocking(true)?;
    let signals = [SIGINT, SIGTERM].into_iter().chain(Some(SIGHUP).filter(|_| terminal::ends_with_terminal()));
    for signal in signals {
        pipe::register(signal, sender.try_clone()?)?;
    }
    let mut receiver = UnixStream::from_std(receiver);
    poll.registry().register(&mut receiver, SIGNALS, Interest::READABLE)?;
    Ok(receiver)
}

/// Asks a node whether it admits members. A node of a cluster does once it knows the others.
fn is_ready(address: &str) -> bool {
    let Ok(mut stream) = TcpStream::connect(address) else { return false };
    let _ = stream.set_read_timeout(Some(PATIENCE));
    let request = format!("GET /health/ready HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    let mut status = [0; 12];
    stream.write_all(request.as_bytes()).is_ok() && stream.read_exact(&mut status).is_ok() && status.ends_with(b" 200")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_have_the_name_of_their_node() {
        assert_eq!(named("node-1", Format::Text, "INFO a {b}"), "node-1 | INFO a {b}");
        assert_eq!(named("node-1", Format::Json, r#"{"level":"INFO"}"#), r#"{"node":"node-1","level":"INFO"}"#);
        assert_eq!(named("node-1", Format::Json, "panicked"), "node-1 | panicked");
    }
}
