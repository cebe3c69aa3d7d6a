//! A `redis-server` of one test, and connections to it.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use std::{env, fs, process};

use redis_protocol::resp3::decode::complete::decode;
use redis_protocol::resp3::types::OwnedFrame;

/// Whether there is a `redis-server`. Without one, tests that need it do nothing, unless the variable `CI` is set.
pub(crate) fn has_redis() -> bool {
    let is_installed = Command::new("redis-server").arg("--version").stdout(Stdio::null()).status().is_ok();
    assert!(is_installed || env::var_os("CI").is_none(), "redis-server, of Debian's package redis-server, is missing");
    if !is_installed {
        eprintln!("skipped: there is no redis-server");
    }
    is_installed
}

/// A Redis without persistence, on a socket file in a folder of its own. It ends with the test.
pub(super) struct Redis {
    process: Child,
    folder: PathBuf,
}

impl Redis {
    pub(super) fn start(name: &str, options: &[&str]) -> Redis {
        let folder = env::temp_dir().join(format!("lobbyd-it-{}-{name}", process::id()));
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).expect("a folder for the socket file");
        let mut command = Command::new("redis-server");
        command.args(["--port", "0", "--save", "", "--appendonly", "no"]).args(options);
        command.arg("--unixsocket").arg(folder.join("s")).arg("--dir").arg(&folder);
        let process = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let process = process.expect("redis-server must be installed: it is in Debian's package redis-server");
        let mut redis = Redis { process, folder };
        while UnixStream::connect(redis.socket()).is_err() {
            let ended = redis.process.try_wait().expect("the process can be waited for");
            assert!(ended.is_none(), "redis-server has ended: {ended:?}");
            std::thread::yield_now();
        }
        redis
    }

    fn socket(&self) -> PathBuf {
        self.folder.join("s")
    }

    /// Connects with RESP3.
    pub(super) fn connect(&self) -> Connection {
        let stream = UnixStream::connect(self.socket()).expect("redis-server listens");
        stream.set_read_timeout(Some(Duration::from_secs(60))).expect("a socket option");
        let mut connection = Connection { stream, unread: Vec::new() };
        connection.call(&[b"HELLO", b"3"]);
        connection
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

pub(super) struct Connection {
    stream: UnixStream,
    unread: Vec<u8>,
}

impl Connection {
    /// Sends a request. Returns the bytes of the next value.
    pub(super) fn call(&mut self, words: &[&[u8]]) -> Vec<u8> {
        self.stream.write_all(&request(words)).expect("redis-server reads");
        self.read()
    }

    /// Returns the bytes of the next value.
    pub(super) fn read(&mut self) -> Vec<u8> {
        loop {
            if let Some((_, len)) = decode(&self.unread).expect("redis-server sends RESP3") {
                return self.unread.drain(..len).collect();
            }
            let mut buffer = [0; 65536];
            let len = match self.stream.read(&mut buffer) {
                // A read with a timeout is not restarted after a signal.
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                read => read.expect("redis-server answers"),
            };
            assert!(len > 0, "redis-server has closed the connection");
            self.unread.extend_from_slice(&buffer[..len]);
        }
    }

    /// Returns the bytes of all messages that were published before this call.
    pub(super) fn published(&mut self) -> Vec<u8> {
        self.stream.write_all(&request(&[b"PING"])).expect("redis-server reads");
        let mut all = Vec::new();
        loop {
            match self.read() {
                pong if pong == b"+PONG\r\n" => return all,
                message => all.extend(message),
            }
        }
    }
}

pub(super) fn request(words: &[&[u8]]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        bytes.extend([format!("${}\r\n", word.len()).as_bytes(), word, b"\r\n"].concat());
    }
    bytes
}

/// Returns the strings of an array or push; an error is a panic.
pub(super) fn words(value: &[u8]) -> Vec<Vec<u8>> {
    let word = |frame: OwnedFrame| match frame {
        OwnedFrame::BlobString { data, .. } | OwnedFrame::SimpleString { data, .. } => data,
        other => panic!("not a string: {other:?}"),
    };
    match decode(value).expect("RESP3").expect("a complete value").0 {
        OwnedFrame::Array { data, .. } | OwnedFrame::Push { data, .. } => data.into_iter().map(word).collect(),
        OwnedFrame::BlobString { data, .. } => vec![data],
        other => panic!("{other:?}"),
    }
}

/// Returns the payloads of the messages.
pub(super) fn messages(mut pushes: &[u8]) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    while let Some((_, len)) = decode(pushes).expect("RESP3") {
        all.push(words(&pushes[..len]).swap_remove(2));
        pushes = &pushes[len..];
    }
    all
}
