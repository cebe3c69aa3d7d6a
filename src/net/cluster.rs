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
    /// Addresses of the configured name, tried in turn.
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

    /// Detaches this node, so that the other nodes need not wait for its lease to expire. Returns whether that is done.
    pub(super) fn leave(&mut self, now: Time) -> bool {
        self.link.leave(now);
        self.write_socket(now);
        self.link.has_left()
    }

    fn pass_inputs<A: App>(&mut self, now: Time, engine: &mut Engine<A>) {
        while let Some(input) = self.link.poll_input() {
            engine.handle_cluster(now, input.as_input());
            if matches!(input, LinkInput::Attached { .. }) && !engine.is_attached() {
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
mod tests;
