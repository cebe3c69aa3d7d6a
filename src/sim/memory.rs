//! Sockets in memory, for tests that drive an engine without a network.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind, Write};

use crate::base::close::CloseReason;
use crate::base::id::ConnId;
use crate::engine::driver::{Flow, Transport};

/// A [`Transport`] without a network: it stores what the engine writes, and which connections the engine closes.
///
/// Each connection has a socket that takes all bytes, until [`limit`](Self::limit), [`fail`](Self::fail) or
/// [`remove`](Self::remove) changes it.
///
/// ```
/// use lobbyd::apps::Echo;
/// use lobbyd::sim::MemorySockets;
/// use lobbyd::driver::{Flow, Start};
/// use lobbyd::{CloseReason, Config, Engine, Time};
///
/// let config = Config::default().check().unwrap();
/// let mut engine = Engine::new(config, Start { unix_micros: 0, seed: 1 }, Echo);
/// let now = Time::ZERO;
/// let conn = engine.handle_accept(now, "127.0.0.1:4000".parse().unwrap()).unwrap();
/// engine.handle_bytes(now, conn, b"GET / HTTP/1.1\r\nHost: example\r\n\r\n");
///
/// // The socket takes 12 bytes, then blocks.
/// let mut sockets = MemorySockets::default();
/// sockets.limit(conn, 12);
/// engine.end_turn(now, &mut sockets).unwrap();
/// assert_eq!(sockets.written(conn), b"HTTP/1.1 426");
///
/// // It takes the rest when it is writable again. Nothing follows the answer, so the write side is shut down.
/// sockets.limit(conn, usize::MAX);
/// engine.handle_writable(now, conn);
/// engine.end_turn(now, &mut sockets).unwrap();
/// assert!(sockets.written(conn).starts_with(b"HTTP/1.1 426 Upgrade Required\r\n"));
/// assert!(sockets.is_shut_down(conn));
///
/// let outcomes: Vec<_> = sockets.take_writes().into_iter().map(|write| write.outcome).collect();
/// assert_eq!(outcomes, [Ok(Flow::Blocked), Ok(Flow::Finished)]);
///
/// engine.handle_hangup(now, conn);
/// engine.end_turn(now, &mut sockets).unwrap();
/// assert_eq!(sockets.take_closed(), [(conn, CloseReason::HttpRefused)]);
/// ```
///
/// # Panics
///
/// If the engine breaks the contract of [`Transport`]: it writes bytes after [`Flow::Finished`], or it writes to or
/// closes a connection that it has closed before.
#[derive(Debug, Default)]
pub struct MemorySockets {
    sockets: BTreeMap<ConnId, SocketState>,
    writes: Vec<MemoryWrite>,
    /// Bytes taken by the write under way.
    taken: Vec<u8>,
    closed: Vec<(ConnId, CloseReason)>,
}

/// One write of the engine to one connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoryWrite {
    /// The connection.
    pub conn: ConnId,
    /// Bytes that the socket took.
    pub bytes: Vec<u8>,
    /// How the write ended; after an error, its kind.
    pub outcome: Result<Flow, ErrorKind>,
}

/// A socket of [`MemorySockets`], for one write.
#[derive(Debug)]
pub struct MemorySocket<'a> {
    state: &'a mut SocketState,
    taken: &'a mut Vec<u8>,
}

#[derive(Debug, Default)]
struct SocketState {
    kind: SocketKind,
    is_shut_down: bool,
    close_reason: Option<CloseReason>,
}

#[derive(Debug, Default)]
enum SocketKind {
    /// Takes all bytes.
    #[default]
    Open,
    /// Takes this many more bytes, then blocks.
    Limited(usize),
    /// Every write fails.
    Failing(ErrorKind),
    /// The driver has no socket.
    Missing,
}

impl MemorySockets {
    /// Limits a socket: it takes `bytes` more bytes, then it blocks. `usize::MAX` removes the limit. A broken socket stays
    /// broken.
    ///
    /// Call [`Engine::handle_writable`](crate::Engine::handle_writable) too if the socket has blocked and takes bytes
    /// again.
    pub fn limit(&mut self, conn: ConnId, bytes: usize) {
        let state = self.state(conn);
        if !matches!(state.kind, SocketKind::Failing(_)) {
            state.kind = if bytes == usize::MAX { SocketKind::Open } else { SocketKind::Limited(bytes) };
        }
    }

    /// Breaks a socket: every later write to it fails with `error`.
    pub fn fail(&mut self, conn: ConnId, error: ErrorKind) {
        self.state(conn).kind = SocketKind::Failing(error);
    }

    /// Removes a socket: [`Transport::socket`] returns `None` for this connection.
    pub fn remove(&mut self, conn: ConnId) {
        self.state(conn).kind = SocketKind::Missing;
    }

    /// Returns all bytes written to a connection since the last call of [`take_writes`](Self::take_writes).
    pub fn written(&self, conn: ConnId) -> Vec<u8> {
        self.writes.iter().filter(|write| write.conn == conn).flat_map(|write| &write.bytes).copied().collect()
    }

    /// Takes all writes since the last call, in order. A write that blocked or failed at once has no bytes.
    pub fn take_writes(&mut self) -> Vec<MemoryWrite> {
        std::mem::take(&mut self.writes)
    }

    /// Whether the write side of a socket is shut down, after [`Flow::Finished`]. The client then reads the end of the
    /// stream.
    pub fn is_shut_down(&self, conn: ConnId) -> bool {
        self.sockets.get(&conn).is_some_and(|socket| socket.is_shut_down)
    }

    /// Returns the close reason of a connection; `None` if the engine has not closed it.
    pub fn close_reason(&self, conn: ConnId) -> Option<CloseReason> {
        self.sockets.get(&conn)?.close_reason
    }

    /// Takes the connections closed since the last call, with their close reasons, in order.
    pub fn take_closed(&mut self) -> Vec<(ConnId, CloseReason)> {
        std::mem::take(&mut self.closed)
    }

    fn state(&mut self, conn: ConnId) -> &mut SocketState {
        self.sockets.entry(conn).or_default()
    }
}

impl Transport for MemorySockets {
    type Socket<'a> = MemorySocket<'a>;

    fn socket(&mut self, conn: ConnId) -> Option<MemorySocket<'_>> {
        let state = self.sockets.entry(conn).or_default();
        assert_eq!(state.close_reason, None, "conn={conn} is closed, and the engine writes to it");
        if matches!(state.kind, SocketKind::Missing) {
            return None;
        }
        Some(MemorySocket { state, taken: &mut self.taken })
    }

    fn wrote(&mut self, conn: ConnId, outcome: &io::Result<Flow>) {
        self.state(conn).is_shut_down |= matches!(outcome, Ok(Flow::Finished));
        let outcome = outcome.as_ref().copied().map_err(io::Error::kind);
        self.writes.push(MemoryWrite { conn, bytes: std::mem::take(&mut self.taken), outcome });
    }

    fn closed(&mut self, conn: ConnId, reason: CloseReason) {
        let before = self.state(conn).close_reason.replace(reason);
        assert_eq!(before, None, "conn={conn} is closed once");
        self.closed.push((conn, reason));
    }
}

impl Write for MemorySocket<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        assert!(!self.state.is_shut_down, "nothing follows Flow::Finished");
        let length = match &mut self.state.kind {
            SocketKind::Open => bytes.len(),
            SocketKind::Limited(0) => return Err(ErrorKind::WouldBlock.into()),
            SocketKind::Limited(left) => {
                let length = bytes.len().min(*left);
                *left -= length;
                length
            }
            SocketKind::Failing(error) => return Err((*error).into()),
            SocketKind::Missing => unreachable!("socket() returns no missing socket"),
        };
        self.taken.extend_from_slice(&bytes[..length]);
        Ok(length)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
