//! A model of the Redis of a cluster: the commands that a [`Link`](crate::cluster::link) sends, on bytes, without I/O and
//! with a clock that the simulator moves.
//!
//! The scripts of a cluster are written a second time here, in Rust, from their comments. A test plays the same calls to this model and to a
//! real `redis-server` with the scripts.

mod log;
mod scripts;

use std::collections::BTreeMap;

use self::log::Log;
use self::scripts::Call;
use crate::cluster::resp::{Bounds, Reader, Value, write_blob};
use crate::cluster::scripts::{Hash, Scripts};

/// A model of the Redis of a cluster. It understands `HELLO`, `SELECT`, `CLIENT`, `SUBSCRIBE`, `SCRIPT LOAD`, `SCRIPT FLUSH` and `EVALSHA`
/// of the scripts of a cluster, as requests in RESP3.
///
/// ```
/// use lobbyd::sim::RedisModel;
///
/// let mut redis = RedisModel::new("a run id");
/// let client = redis.connect();
/// redis.receive(client, b"*2\r\n$9\r\nSUBSCRIBE\r\n$1\r\na\r\n");
/// assert_eq!(redis.take_output(client), b">3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1\r\n");
/// ```
pub struct RedisModel {
    scripts: Scripts,
    run: String,
    unix_micros: u64,
    pushes_first: bool,
    loaded: Vec<String>,
    stored: Stored,
    clients: BTreeMap<usize, Client>,
    next_client: usize,
}

/// What a [`RedisModel`] has stored at some time: the copy of a replica that lags, for example.
///
/// ```
/// use lobbyd::sim::RedisModel;
///
/// let mut redis = RedisModel::new("first");
/// let older = redis.copy();
/// redis.restart("second", Some(older));
/// ```
#[derive(Clone)]
pub struct RedisCopy(Stored);

/// Everything that a restart may lose.
#[derive(Clone, Default)]
struct Stored {
    /// By the key of the head.
    logs: BTreeMap<Vec<u8>, Log>,
}

impl Stored {
    fn last(&self) -> (u64, Hash) {
        self.logs.values().next().map_or((0, Hash::BLANK), |log| (log.index, log.hash))
    }
}

impl RedisCopy {
    /// A Redis that has lost everything.
    pub(super) fn blank() -> RedisCopy {
        RedisCopy(Stored::default())
    }

    /// Returns index and hash of the last entry of the only cluster.
    pub(super) fn last(&self) -> (u64, Hash) {
        self.0.last()
    }
}

struct Client {
    reader: Reader,
    output: Vec<u8>,
    channels: Vec<Vec<u8>>,
}

const BOUNDS: Bounds = Bounds { line: 4096, blob: 512 << 20, value: 1 << 30, depth: 2 };

impl RedisModel {
    /// Creates an empty Redis with this run id, at the time 0.
    pub fn new(run: &str) -> RedisModel {
        RedisModel {
            scripts: Scripts::new(),
            run: run.to_owned(),
            unix_micros: 0,
            pushes_first: true,
            loaded: Vec::new(),
            stored: Stored::default(),
            clients: BTreeMap::new(),
            next_client: 0,
        }
    }

    /// Sets the clock, in microseconds since the Unix epoch. It may go back.
    pub fn set_time(&mut self, unix_micros: u64) {
        self.unix_micros = unix_micros;
    }

    /// Sets whether what a script publishes arrives before its reply, as with Redis 7.0, or after it, as with 7.2.
    pub fn set_pushes_first(&mut self, pushes_first: bool) {
        self.pushes_first = pushes_first;
    }

    /// Opens a connection. Returns its number.
    pub fn connect(&mut self) -> usize {
        let client = Client { reader: Reader::new(BOUNDS), output: Vec::new(), channels: Vec::new() };
        self.clients.insert(self.next_client, client);
        self.next_client += 1;
        self.next_client - 1
    }

    /// Closes a connection. Output that was not taken is lost.
    pub fn disconnect(&mut self, client: usize) {
        self.clients.remove(&client);
    }

    /// Whether the connection is open.
    pub fn is_connected(&self, client: usize) -> bool {
        self.clients.contains_key(&client)
    }

    /// Ends all subscriptions without a word: the connections look alive, but nothing is published to them any more.
    pub fn forget_subscriptions(&mut self) {
        self.clients.values_mut().for_each(|client| client.channels.clear());
    }

    /// Returns index and hash of the last entry of the only cluster; 0 and the blank hash without one.
    pub(super) fn last(&self) -> (u64, Hash) {
        self.stored.last()
    }

    /// Returns a copy of what is stored.
    pub fn copy(&self) -> RedisCopy {
        RedisCopy(self.stored.clone())
    }

    /// Closes all connections, forgets the scripts, and continues with another run id: with what is stored now, or with a copy.
    pub fn restart(&mut self, run: &str, copy: Option<RedisCopy>) {
        self.clients.clear();
        self.loaded.clear();
        self.run = run.to_owned();
        if let Some(RedisCopy(stored)) = copy {
            self.stored = stored;
        }
    }

    /// Takes the output of a connection.
    pub fn take_output(&mut self, client: usize) -> Vec<u8> {
        self.clients.get_mut(&client).map(|client| std::mem::take(&mut client.output)).unwrap_or_default()
    }

    /// Carries out requests. Input that is not RESP3 closes the connection.
    pub fn receive(&mut self, client: usize, bytes: &[u8]) {
        if let Some(connection) = self.clients.get_mut(&client) {
            connection.reader.push(bytes);
        }
        while let Some(connection) = self.clients.get_mut(&client) {
            match connection.reader.next() {
                Ok(Some(Value::Array(words))) => self.execute(client, &words),
                Ok(None) => return,
                Ok(Some(_)) | Err(_) => self.disconnect(client),
            }
        }
    }

    fn execute(&mut self, client: usize, words: &[Value]) {
        let words: Vec<&[u8]> = words.iter().filter_map(Value::text).collect();
        let mut reply = Vec::new();
        let mut published = Vec::new();
        match words[..] {
            [b"HELLO", ..] => reply.extend_from_slice(b"%1\r\n+proto\r\n:3\r\n"),
            [b"SELECT" | b"CLIENT", ..] => reply.extend_from_slice(b"+OK\r\n"),
            [b"SUBSCRIBE", channel] => return self.subscribe(client, channel),
            [b"SCRIPT", b"LOAD", text] => match self.scripts.texts().position(|known| known.as_bytes() == text) {
                Some(at) => {
                    let sha = self.scripts.sha_at(at).to_owned();
                    write_blob(&mut reply, sha.as_bytes());
                    self.loaded.push(sha);
                }
                None => reply.extend_from_slice(b"-ERR the model knows no such script\r\n"),
            },
            [b"SCRIPT", b"FLUSH"] => {
                self.loaded.clear();
                reply.extend_from_slice(b"+OK\r\n");
            }
            [b"EVALSHA", sha, count, ref rest @ ..] => self.call(sha, count, rest, &mut reply, &mut published),
            _ => reply.extend_from_slice(b"-ERR unknown command\r\n"),
        }
        if self.pushes_first {
            self.publish(&published);
        }
        if let Some(client) = self.clients.get_mut(&client) {
            client.output.append(&mut reply);
        }
        if !self.pushes_first {
            self.publish(&published);
        }
    }

    fn subscribe(&mut self, client: usize, channel: &[u8]) {
        let Some(client) = self.clients.get_mut(&client) else { return };
        if !client.channels.iter().any(|known| known == channel) {
            client.channels.push(channel.to_vec());
        }
        client.output.extend_from_slice(b">3\r\n");
        write_blob(&mut client.output, b"subscribe");
        write_blob(&mut client.output, channel);
        client.output.extend_from_slice(format!(":{}\r\n", client.channels.len()).as_bytes());
    }

    fn call(
        &mut self,
        sha: &[u8],
        count: &[u8],
        words: &[&[u8]],
        reply: &mut Vec<u8>,
        published: &mut Vec<(Vec<u8>, Vec<u8>)>,
    ) {
        let is_loaded = self.loaded.iter().any(|known| known.as_bytes() == sha);
        let Some(script) = self.scripts.of_sha(sha).filter(|_| is_loaded) else {
            return reply.extend_from_slice(b"-NOSCRIPT No matching script. Please use EVAL.\r\n");
        };
        let count = if count == b"4" { 4 } else { 3 };
        let (keys, arguments) = words.split_at(count);
        let log = self.stored.logs.entry(keys[0].to_vec()).or_default();
        let call = Call::new(log, keys, arguments, self.unix_micros, &self.run);
        let (words, messages) = call.run(script);
        reply.extend_from_slice(format!("*{}\r\n", words.len()).as_bytes());
        words.iter().for_each(|word| write_blob(reply, word));
        published.extend(messages.into_iter().map(|message| (keys[1].to_vec(), message)));
    }

    fn publish(&mut self, messages: &[(Vec<u8>, Vec<u8>)]) {
        for (channel, message) in messages {
            for client in self.clients.values_mut().filter(|client| client.channels.contains(channel)) {
                client.output.extend_from_slice(b">3\r\n");
                write_blob(&mut client.output, b"message");
                write_blob(&mut client.output, channel);
                write_blob(&mut client.output, message);
            }
        }
    }
}
