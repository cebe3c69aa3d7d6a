//! The socket to the Redis of a cluster. It moves bytes between Redis and the [`Link`], and what the link and the engine say to each
//! other.
//!
//! Reading comes before the connections' timers in a turn. Writing comes after the engine's turn has ended, when its journal is complete:
//! what clients have sent in a turn is appended in the same turn, with one write.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, ToSocketAddrs};
#[cfg(unix)]
use std::path::PathBuf;

use log::{info, warn};
use mio::event::Event;
use mio::net::TcpStream;
#[cfg(unix)]
use mio::net::UnixStream;
use mio::{Interest, Registry};

use super::error::Error;
use super::plain_stream::PlainStream;
use super::tokens;
use crate::base::time::Time;
use crate::cluster::entry::LinkInput;
use crate::cluster::link::{Connection, Link, LinkConfig};
use crate::config::{CheckedConfig, RedisServer, RedisUrl};
use crate::engine::Engine;
use crate::engine::app::App;

/// Bytes read from Redis in one turn. The rest waits for the next turn.
const BYTES_PER_TURN: usize = 4 << 20;

enum Address {
    Ip(SocketAddr),
    #[cfg(unix)]
    Unix(PathBuf),
}

/// The link of this node, and its socket.
pub(super) struct ClusterSocket {
    link: Link,
    /// Those of the configured name, tried in turn.
    addresses: Vec<Address>,
    attempts: usize,
    socket: Option<Socket>,
}

struct Socket {
    stream: PlainStream,
    is_connected: bool,
    is_readable: bool,
    is_writable: bool,
}

impl ClusterSocket {
    /// Prepares the connection, which the first turn opens. `None` without a cluster.
    pub(super) fn new<A: App>(config: &CheckedConfig, seed: u64) -> Result<Option<ClusterSocket>, Error> {
        let (Some(url), Some(node)) = (&config.cluster, &config.node) else { return Ok(None) };
        let addresses = resolve(url).map_err(|error| Error::Cluster(url.clone(), error))?;
        // Nodes with another kind of application would not understand what they share.
        let application = format!(
            "{:?} {:?} {}",
            A::PROTOCOL,
            A::LOBBY_CONTROL,
            if A::IS_STATELESS { "stateless" } else { "stateful" }
        );
        let link = Link::new(LinkConfig {
            node: match &config.node_url {
                Some(url) => format!("{} {}", node.as_str(), url.as_str()),
                None => node.as_str().to_owned(),
            },
            namespace: config.cluster_namespace.as_str().to_owned(),
            database: url.database,
            user: url.user.clone(),
            password: url.password.clone(),
            fingerprint: format!("{}application={application}\n", config.shared_fingerprint()),
            lease: config.cluster_lease,
            log_entries: config.cluster_log_entries,
            log_bytes: config.cluster_log_bytes.0,
            queue_bytes: config.cluster_queue_bytes.0,
            state_bytes: config.cluster_state_bytes.0,
            seed,
        });
        Ok(Some(ClusterSocket { link, addresses, attempts: 0, socket: None }))
    }

    pub(super) fn handle_event(&mut self, event: &Event) {
        if let Some(socket) = &mut self.socket {
            socket.is_writable |= event.is_writable() || event.is_error();
            socket.is_readable |= event.is_readable() || event.is_read_closed() || event.is_error();
        }
    }

    /// When the next turn must not begin later.
    pub(super) fn poll_timeout(&self) -> Option<Time> {
        let is_unread = self.socket.as_ref().is_some_and(|socket| socket.is_connected && socket.is_readable);
        Some(if is_unread { Time::ZERO } else { self.link.poll_timeout() }).filter(|at| *at != Time::NEVER)
    }

    /// Reads what Redis has sent, lets the link act on its timers, and passes its inputs to the engine.
    pub(super) fn read<A: App>(&mut self, now: Time, engine: &mut Engine<A>, registry: &Registry, buffer: &mut [u8]) {
        self.finish_connecting(now);
        if let Err(problem) = self.read_socket(now, engine, buffer) {
            self.disconnect(now, Some(&problem));
        }
        self.link.expire(now);
        self.keep_connected(now, registry);
        self.pass_inputs(now, engine);
    }

    /// Takes what the engine has for the log, and writes. While too much waits, it stays in the engine, which bounds it.
    pub(super) fn write<A: App>(&mut self, now: Time, engine: &mut Engine<A>, registry: &Registry) {
        while !self.link.is_congested()
            && let Some(output) = engine.poll_cluster()
        {
            self.link.push(now, output);
        }
        self.write_socket(now);
        self.keep_connected(now, registry);
        self.pass_inputs(now, engine);
    }

    /// Ends this node's place, so that the other nodes need not wait for its lease to expire. Returns whether that is done.
    pub(super) fn leave(&mut self, now: Time) -> bool {
        self.link.leave(now);
        self.write_socket(now);
        self.link.has_left()
    }

    fn pass_inputs<A: App>(&mut self, now: Time, engine: &mut Engine<A>) {
        while let Some(input) = self.link.poll_input() {
            engine.handle_cluster(now, input.as_input());
            if matches!(input, LinkInput::Attached { .. }) && !engine.has_place() {
                self.link.refuse_state(now);
            }
        }
        if let Some(problem) = self.link.poll_problem() {
            warn!("cluster: {problem}");
        }
    }

    fn keep_connected(&mut self, now: Time, registry: &Registry) {
        if self.link.connection() == Connection::Close {
            self.disconnect(now, None);
        }
        let is_due = matches!(self.link.connection(), Connection::Open(at) if at <= now);
        if is_due && self.socket.is_none() {
            self.link.connecting(now);
            let address = &self.addresses[self.attempts % self.addresses.len()];
            self.attempts += 1;
            match connect(address, registry) {
                Ok(socket) => self.socket = Some(socket),
                Err(error) => self.link.disconnected(now, Some(&error.to_string())),
            }
        }
    }

    fn disconnect(&mut self, now: Time, problem: Option<&str>) {
        self.socket = None;
        self.link.disconnected(now, problem);
    }

    /// A socket that becomes writable is connected, or has failed to.
    fn finish_connecting(&mut self, now: Time) {
        let Some(socket) = self.socket.as_mut().filter(|socket| !socket.is_connected && socket.is_writable) else {
            return;
        };
        match socket.stream.connected() {
            Ok(true) => {
                socket.is_connected = true;
                self.link.connected(now);
                info!("cluster: connected to Redis");
            }
            Ok(false) => socket.is_writable = false,
            Err(error) => self.disconnect(now, Some(&error.to_string())),
        }
    }

    fn read_socket<A: App>(&mut self, now: Time, engine: &mut Engine<A>, buffer: &mut [u8]) -> Result<(), String> {
        let mut total = 0;
        while total < BYTES_PER_TURN && self.link.connection() == Connection::Keep {
            let Some(socket) = self.socket.as_mut().filter(|socket| socket.is_connected && socket.is_readable) else {
                break;
            };
            match socket.stream.read(buffer) {
                Ok(0) => return Err("Redis has closed the connection".to_owned()),
                Ok(len) => {
                    total += len;
                    self.link.received(now, &buffer[..len]);
                    self.pass_inputs(now, engine);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => socket.is_readable = false,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.to_string()),
            }
        }
        Ok(())
    }

    fn write_socket(&mut self, now: Time) {
        while !self.link.output().is_empty() {
            let Some(socket) = self.socket.as_mut().filter(|socket| socket.is_connected && socket.is_writable) else {
                return;
            };
            match socket.stream.write(self.link.output()) {
                Ok(len) => self.link.written(now, len),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => socket.is_writable = false,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => self.disconnect(now, Some(&error.to_string())),
            }
        }
    }
}

/// Returns the addresses of a Redis. Asks the name service, which blocks.
fn resolve(url: &RedisUrl) -> io::Result<Vec<Address>> {
    match &url.server {
        RedisServer::Tcp { host, port } => {
            let addresses: Vec<Address> = (host.as_str(), *port).to_socket_addrs()?.map(Address::Ip).collect();
            if addresses.is_empty() {
                return Err(io::Error::new(io::ErrorKind::NotFound, "the name has no address"));
            }
            Ok(addresses)
        }
        #[cfg(unix)]
        RedisServer::Unix(path) => Ok(vec![Address::Unix(path.clone())]),
        #[cfg(not(unix))]
        RedisServer::Unix(_) => Err(io::Error::new(io::ErrorKind::Unsupported, "this system has no socket files")),
    }
}

fn connect(address: &Address, registry: &Registry) -> io::Result<Socket> {
    let mut stream = match address {
        Address::Ip(address) => {
            let stream = TcpStream::connect(*address)?;
            // Batches are small, and each is waited for.
            stream.set_nodelay(true)?;
            PlainStream::Tcp(stream)
        }
        #[cfg(unix)]
        Address::Unix(path) => PlainStream::Unix(UnixStream::connect(path)?),
    };
    registry.register(&mut stream, tokens::CLUSTER, Interest::READABLE | Interest::WRITABLE)?;
    Ok(Socket { stream, is_connected: false, is_readable: false, is_writable: false })
}

#[cfg(all(test, unix))]
mod tests {
    //! Links that talk to a real `redis-server`, which each test starts for itself.

    use std::io::{ErrorKind, Read, Write};
    use std::ops::Deref;
    use std::os::unix::net::UnixStream;
    use std::path::PathBuf;
    use std::process::{Child, Command, Stdio};
    use std::time::Duration;
    use std::{env, fs, process};

    use super::super::clock::Clock;
    use super::*;
    use crate::cluster::executed::Executed;
    use crate::cluster::log::ClusterOutput;

    const LEASE: Duration = Duration::from_millis(1200);
    /// A test fails if something takes longer.
    const PATIENCE: Duration = Duration::from_secs(20);

    /// A Redis without persistence, on a socket file in a folder of its own.
    struct Redis {
        process: Option<Child>,
        folder: PathBuf,
        /// More options of `redis-server`.
        options: &'static [&'static str],
    }

    impl Redis {
        fn start(name: &str, options: &'static [&'static str]) -> Redis {
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

        fn spawn(&mut self) {
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
        fn kill(&mut self) {
            if let Some(mut process) = self.process.take() {
                process.kill().expect("it runs");
                process.wait().expect("it has ended");
            }
        }

        /// Calls one command. Returns the whole reply.
        fn call(&self, words: &[&str]) -> String {
            self.call_all(&[words])
        }

        /// Calls commands on one connection. Returns the whole reply to the last one.
        fn call_all(&self, commands: &[&[&str]]) -> String {
            let mut stream = UnixStream::connect(self.socket()).expect("redis-server listens");
            let mut reply = [0; 65536];
            let mut len = 0;
            for words in commands {
                let mut request = Vec::new();
                let words: Vec<&[u8]> = words.iter().map(|word| word.as_bytes()).collect();
                crate::cluster::resp::write_request(&mut request, &words);
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
    struct Node {
        link: Link,
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
        fn new(name: &str) -> Node {
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

        fn with(mut self, config: LinkConfig) -> Node {
            self.link = Link::new(config);
            self
        }

        fn turn(&mut self, now: Time, redis: &Redis) {
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

        fn cut(&mut self, now: Time) {
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

        fn append(&mut self, now: Time, text: impl Into<String>) {
            self.link.push(now, ClusterOutput::Append(text.into().into_bytes()));
        }
    }

    struct Cluster {
        redis: Redis,
        nodes: Vec<Node>,
        clock: Clock,
    }

    /// Whether there is a `redis-server`. Without one, the tests do nothing, unless the variable `CI` is set.
    fn has_redis() -> bool {
        let is_installed = Command::new("redis-server").arg("--version").stdout(Stdio::null()).status().is_ok();
        assert!(
            is_installed || env::var_os("CI").is_none(),
            "redis-server, of Debian's package redis-server, is missing"
        );
        is_installed
    }

    impl Cluster {
        fn start(name: &str, nodes: &[&str]) -> Cluster {
            let redis = Redis::start(name, &[]);
            let mut cluster = Cluster { redis, nodes: Vec::new(), clock: Clock::start(0).0 };
            for node in nodes {
                cluster.nodes.push(Node::new(node));
                cluster.run_until("the nodes are attached", |nodes| nodes.iter().all(|node| node.node.is_some()));
            }
            cluster
        }

        #[track_caller]
        fn run_until(&mut self, what: &str, mut is_done: impl FnMut(&mut [Node]) -> bool) {
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
        fn run_until_executed(&mut self, count: usize) {
            self.run_until(&format!("{count} operations"), |nodes| {
                nodes.iter().all(|node| node.is_reachable && node.executed.len() >= count)
            });
            let (first, rest) = self.nodes.split_first().expect("there are nodes");
            assert_eq!(first.executed.len(), count);
            rest.iter().for_each(|node| assert_eq!(node.executed, first.executed));
        }

        fn append(&mut self, node: usize, text: impl Into<String>) {
            let now = self.clock.now();
            self.nodes[node].append(now, text);
        }

        fn first_problem_of(&mut self, node: usize) -> String {
            let mut problem = None;
            self.run_until("there is a problem", |nodes| {
                problem = problem.take().or_else(|| nodes[node].link.poll_problem());
                problem.is_some()
            });
            problem.expect("waited for it")
        }
    }

    #[test]
    fn all_nodes_get_all_operations_in_one_order() {
        if !has_redis() {
            return;
        }
        let mut cluster = Cluster::start("order", &["a", "b"]);
        for i in 0..500 {
            cluster.append(i % 2, format!("operation {i}"));
            let now = cluster.clock.now();
            cluster.nodes[i % 2].turn(now, &cluster.redis);
        }
        cluster.run_until_executed(500);
        cluster.nodes.push(Node::new("c"));
        cluster.run_until_executed(500);
        cluster.append(2, "of the new node");
        cluster.append(1, "");
        cluster.run_until_executed(502);
    }

    #[test]
    fn operations_survive_broken_connections_exactly_once() {
        if !has_redis() {
            return;
        }
        let mut cluster = Cluster::start("cut", &["a", "b"]);
        for i in 0..300 {
            cluster.append(i % 2, format!("operation {i}"));
            let now = cluster.clock.now();
            cluster.nodes[i % 2].turn(now, &cluster.redis);
            if i % 50 == 49 {
                cluster.nodes[i / 50 % 2].cut(now);
            }
        }
        cluster.run_until_executed(300);
        assert_eq!(cluster.nodes.iter().map(|node| node.detached).sum::<u32>(), 0);
    }

    #[test]
    fn a_redis_that_has_lost_everything_is_restored() {
        if !has_redis() {
            return;
        }
        let mut cluster = Cluster::start("blank", &["a", "b"]);
        (0..100).for_each(|i| cluster.append(i % 2, format!("operation {i}")));
        cluster.run_until_executed(100);
        cluster.redis.kill();
        cluster.run_until("the loss is noticed", |nodes| nodes.iter().all(|node| !node.is_reachable));
        (0..100).for_each(|i| cluster.append(i % 2, format!("later operation {i}")));
        cluster.redis.spawn();
        cluster.run_until_executed(200);
        assert_eq!(cluster.nodes.iter().map(|node| node.detached).sum::<u32>(), 0);
    }

    #[test]
    fn scripts_that_redis_has_forgotten_are_loaded_again() {
        if !has_redis() {
            return;
        }
        let mut cluster = Cluster::start("flush", &["a", "b"]);
        cluster.redis.call(&["SCRIPT", "FLUSH"]);
        (0..100).for_each(|i| cluster.append(i % 2, format!("operation {i}")));
        cluster.run_until_executed(100);
    }

    #[test]
    fn a_node_that_is_silent_ends_and_comes_back_under_a_new_incarnation() {
        if !has_redis() {
            return;
        }
        let mut cluster = Cluster::start("silent", &["a", "b"]);
        let lost = cluster.nodes[1].node;
        let mut silent = cluster.nodes.remove(1);
        cluster.run_until("its lease expires", |nodes| nodes[0].nodes.len() == 1);
        let now = cluster.clock.now();
        silent.append(now, "too late");
        cluster.nodes.push(silent);
        cluster.run_until("it is detached", |nodes| nodes[1].detached == 1);
        cluster.run_until("it is attached", |nodes| nodes[1].node > lost);
        cluster.append(1, "in time");
        cluster.run_until_executed(1);
    }

    #[test]
    fn a_node_that_leaves_ends_at_once() {
        if !has_redis() {
            return;
        }
        let mut cluster = Cluster::start("leave", &["a", "b"]);
        cluster.append(1, "a last word");
        let now = cluster.clock.now();
        cluster.nodes[1].link.leave(now);
        cluster.run_until("it has left", |nodes| nodes[1].link.has_left() && nodes[0].nodes.len() == 1);
        assert_eq!(cluster.nodes[0].executed, ["a last word"]);
    }

    #[test]
    fn a_node_with_another_configuration_is_refused() {
        if !has_redis() {
            return;
        }
        let mut cluster = Cluster::start("differs", &["a"]);
        let other = Node::new("b");
        let config = LinkConfig { fingerprint: "a=2\n".to_owned(), ..other.link.config().clone() };
        cluster.nodes.push(other.with(config));
        let expected = "the configuration differs from that of the cluster: here a=2; there a=1";
        assert_eq!(cluster.first_problem_of(1), expected);
    }

    #[test]
    fn a_node_logs_in_and_selects_its_database() {
        if !has_redis() {
            return;
        }
        let redis = Redis::start("login", &["--requirepass", "secret"]);
        let mut cluster = Cluster { redis, nodes: Vec::new(), clock: Clock::start(0).0 };
        let login = |user: Option<&str>, password: Option<&str>| {
            let node = Node::new("a");
            let (user, password) = (user.map(str::to_owned), password.map(str::to_owned));
            let config = LinkConfig { database: 3, user, password, ..node.link.config().clone() };
            node.with(config)
        };
        for (password, answer) in [(None, "NOAUTH"), (Some("wrong"), "WRONGPASS")] {
            cluster.nodes = vec![login(None, password)];
            let problem = cluster.first_problem_of(0);
            assert!(problem.contains(answer), "{problem}");
        }
        cluster.nodes = vec![login(None, Some("secret"))];
        cluster.run_until("the node is attached", |nodes| nodes[0].node.is_some());
        cluster.append(0, "one operation");
        cluster.run_until_executed(1);
        let keys = cluster.redis.call_all(&[&["AUTH", "secret"], &["SELECT", "3"], &["EXISTS", "{test}:3:log"]]);
        assert_eq!(keys, ":1\r\n");
    }

    #[test]
    fn the_access_control_list_of_the_guide_is_enough() {
        if !has_redis() {
            return;
        }
        let guide = include_str!("../guide/cluster.md");
        let rule = guide.lines().find(|line| line.starts_with("ACL SETUSER ")).expect("the guide has the rule");
        let redis =
            Redis::start("acl", &["--user", "default", "off", "--user", "admin", "on", ">admin", "~*", "&*", "+@all"]);
        let mut cluster = Cluster { redis, nodes: Vec::new(), clock: Clock::start(0).0 };
        let words: Vec<&str> = rule.split(' ').collect();
        assert_eq!(cluster.redis.call_all(&[&["AUTH", "admin", "admin"], &words]), "+OK\r\n");
        let (user, password) = (words[2].to_owned(), words[4].trim_start_matches('>').to_owned());
        for name in ["a", "b"] {
            let node = Node::new(name);
            let (user, password) = (Some(user.clone()), Some(password.clone()));
            let namespace = "lobbyd".to_owned();
            let config = LinkConfig { namespace, user, password, ..node.link.config().clone() };
            cluster.nodes.push(node.with(config));
            cluster.run_until("the nodes are attached", |nodes| nodes.iter().all(|node| node.node.is_some()));
        }
        (0..100).for_each(|i| cluster.append(i % 2, format!("operation {i}")));
        cluster.run_until_executed(100);
        let now = cluster.clock.now();
        cluster.nodes[1].link.leave(now);
        cluster.run_until("it has left", |nodes| nodes[1].link.has_left() && nodes[0].nodes.len() == 1);
    }
}
