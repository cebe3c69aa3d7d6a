//! A Redis, and nodes without an engine that are attached to it.

use std::io::{ErrorKind, Read, Write};
use std::ops::Deref;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use std::{env, fs, process};

use crate::base::time::Time;
use crate::cluster::executed::Executed;
use crate::cluster::link::{Connection, Link, LinkConfig};
use crate::cluster::log::ClusterOutput;
use crate::cluster::resp::write_request;
use crate::net::clock::Clock;

/// A node that does nothing for two thirds of it, because the machine does something else, keeps its place.
const LEASE: Duration = Duration::from_secs(6);
/// A test fails if something takes longer.
const PATIENCE: Duration = Duration::from_secs(60);

/// A Redis without persistence, on a socket file in a folder of its own.
pub(super) struct Redis {
    process: Option<Child>,
    folder: PathBuf,
    /// More options of `redis-server`.
    options: &'static [&'static str],
}

impl Redis {
    pub(super) fn start(name: &str, options: &'static [&'static str]) -> Redis {
        let folder = env::temp_dir().join(format!("lobbyd-link-{}-{name}", process::id()));
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).expect("a folder for the socket file");
        let mut redis = Redis { process: None, folder, options };
        redis.spawn();
        redis
    }

    fn socket(&self) -> PathBuf {
        self.folder.join("s")
    }

    pub(super) fn spawn(&mut self) {
        let mut command = Command::new("redis-server");
        command.args(["--port", "0", "--save", "", "--appendonly", "no", "--unixsocket"]).arg(self.socket());
        command.args(self.options).arg("--dir").arg(&self.folder).stdout(Stdio::null()).stderr(Stdio::null());
        let process = command.spawn();
        self.process = Some(process.expect("redis-server, of Debian's package redis-server, must be installed"));
        let (clock, _) = Clock::start(0);
        while UnixStream::connect(self.socket()).is_err() {
            assert!(clock.now() - Time::ZERO < PATIENCE, "redis-server does not listen");
            std::thread::yield_now();
        }
    }

    /// Ends the process as a crash does.
    pub(super) fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().expect("it runs");
            process.wait().expect("it has ended");
        }
    }

    /// Calls one command. Returns the whole reply.
    pub(super) fn call(&self, words: &[&str]) -> String {
        self.call_all(&[words])
    }

    /// Calls commands on one connection. Returns the whole reply to the last one.
    pub(super) fn call_all(&self, commands: &[&[&str]]) -> String {
        let mut stream = UnixStream::connect(self.socket()).expect("redis-server listens");
        let mut reply = [0; 65536];
        let mut len = 0;
        for words in commands {
            let mut request = Vec::new();
            let words: Vec<&[u8]> = words.iter().map(|word| word.as_bytes()).collect();
            write_request(&mut request, &words);
            stream.write_all(&request).expect("it reads");
            len = stream.read(&mut reply).expect("it answers");
        }
        String::from_utf8_lossy(&reply[..len]).into_owned()
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.kill();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// A node whose state is the list of operations it has executed.
pub(super) struct Node {
    pub(super) link: Link,
    stream: Option<UnixStream>,
    machine: Executed,
}

impl Deref for Node {
    type Target = Executed;

    fn deref(&self) -> &Executed {
        &self.machine
    }
}

impl Node {
    pub(super) fn new(name: &str) -> Node {
        let link = Link::new(LinkConfig {
            node: name.to_owned(),
            namespace: "test".to_owned(),
            database: 0,
            user: None,
            password: None,
            fingerprint: "a=1\n".to_owned(),
            lease: LEASE,
            log_entries: 1000,
            log_bytes: 1 << 20,
            queue_bytes: 1 << 20,
            state_bytes: 1 << 24,
            seed: name.len() as u64,
        });
        Node { link, stream: None, machine: Executed::default() }
    }

    pub(super) fn with(mut self, config: LinkConfig) -> Node {
        self.link = Link::new(config);
        self
    }

    pub(super) fn turn(&mut self, now: Time, redis: &Redis) {
        match self.link.connection() {
            Connection::Open(at) if at <= now => {
                self.link.connecting(now);
                match UnixStream::connect(redis.socket()) {
                    Ok(stream) => {
                        stream.set_nonblocking(true).expect("a socket option");
                        self.stream = Some(stream);
                        self.link.connected(now);
                    }
                    Err(error) => self.link.disconnected(now, Some(&error.to_string())),
                }
            }
            Connection::Close => self.cut(now),
            _ => {}
        }
        self.move_bytes(now);
        self.link.expire(now);
        while let Some(input) = self.link.poll_input() {
            if let Some(output) = self.machine.handle(input.as_input()) {
                self.link.push(now, output);
            }
        }
        self.move_bytes(now);
    }

    pub(super) fn cut(&mut self, now: Time) {
        self.stream = None;
        self.link.disconnected(now, None);
    }

    fn move_bytes(&mut self, now: Time) {
        let Some(stream) = &mut self.stream else { return };
        while !self.link.output().is_empty() {
            match stream.write(self.link.output()) {
                Ok(len) => self.link.written(now, len),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(_) => return self.cut(now),
            }
        }
        let mut buffer = [0; 4096];
        loop {
            match stream.read(&mut buffer) {
                Ok(0) => return self.cut(now),
                Ok(len) => self.link.received(now, &buffer[..len]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(_) => return self.cut(now),
            }
        }
    }

    pub(super) fn append(&mut self, now: Time, text: impl Into<String>) {
        self.link.push(now, ClusterOutput::Append(text.into().into_bytes()));
    }
}

pub(super) struct Cluster {
    pub(super) redis: Redis,
    pub(super) nodes: Vec<Node>,
    pub(super) clock: Clock,
}

/// Whether there is a `redis-server`. Without one, the tests do nothing, unless the variable `CI` is set.
pub(super) fn has_redis() -> bool {
    let is_installed = Command::new("redis-server").arg("--version").stdout(Stdio::null()).status().is_ok();
    assert!(is_installed || env::var_os("CI").is_none(), "redis-server, of Debian's package redis-server, is missing");
    is_installed
}

impl Cluster {
    pub(super) fn start(name: &str, nodes: &[&str]) -> Cluster {
        Cluster::with_lease(name, nodes, LEASE)
    }

    pub(super) fn with_lease(name: &str, nodes: &[&str], lease: Duration) -> Cluster {
        let redis = Redis::start(name, &[]);
        let mut cluster = Cluster { redis, nodes: Vec::new(), clock: Clock::start(0).0 };
        for node in nodes {
            let node = Node::new(node);
            let config = LinkConfig { lease, ..node.link.config().clone() };
            cluster.nodes.push(node.with(config));
            cluster.run_until("the nodes are attached", |nodes| nodes.iter().all(|node| node.node.is_some()));
        }
        cluster
    }

    #[track_caller]
    pub(super) fn run_until(&mut self, what: &str, mut is_done: impl FnMut(&mut [Node]) -> bool) {
        let end = self.clock.now() + PATIENCE;
        while !is_done(&mut self.nodes) {
            let now = self.clock.now();
            let problems: Vec<_> = self.nodes.iter_mut().map(|node| node.link.poll_problem()).collect();
            assert!(now < end, "not in time: {what}; {problems:?}");
            self.nodes.iter_mut().for_each(|node| node.turn(now, &self.redis));
            std::thread::yield_now();
        }
    }

    #[track_caller]
    pub(super) fn run_until_executed(&mut self, count: usize) {
        self.run_until(&format!("{count} operations"), |nodes| {
            nodes.iter().all(|node| node.is_reachable && node.executed.len() >= count)
        });
        let (first, rest) = self.nodes.split_first().expect("there are nodes");
        assert_eq!(first.executed.len(), count);
        rest.iter().for_each(|node| assert_eq!(node.executed, first.executed));
    }

    pub(super) fn append(&mut self, node: usize, text: impl Into<String>) {
        let now = self.clock.now();
        self.nodes[node].append(now, text);
    }

    pub(super) fn first_problem_of(&mut self, node: usize) -> String {
        let mut problem = None;
        self.run_until("there is a problem", |nodes| {
            problem = problem.take().or_else(|| nodes[node].link.poll_problem());
            problem.is_some()
        });
        problem.expect("waited for it")
    }
}
