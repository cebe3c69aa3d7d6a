//! The interface between the engine and its driver: values that are passed in and returned, and the driver's sockets.

use std::fmt;
use std::io::{self, Write};

use crate::base::close::CloseReason;
use crate::base::id::ConnId;

/// The initial state of an engine besides its configuration. The same start and the same inputs give the same outputs.
///
/// [`Engine`](crate::Engine#driving-an-engine) has an example.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Start {
    /// The wall time at [`Time::ZERO`](crate::Time::ZERO), in microseconds since the Unix epoch.
    pub unix_micros: u64,
    /// The seed of the random generator.
    pub seed: u64,
}

/// The error of [`Engine::handle_accept`](crate::Engine::handle_accept): every socket that the limits allow is in use, or no [`ConnId`] is left.
///
/// No example: [`max_pending`](crate::Config::max_pending) and the other limits of sockets must be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

impl fmt::Display for Full {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("every socket that the limits allow is in use")
    }
}

impl std::error::Error for Full {}

/// The result of [`Engine::handle_bytes_up_to`](crate::Engine::handle_bytes_up_to).
///
/// No example: only drivers that share their time among connections need it, as [`net`](crate::net) does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Consumed {
    /// Number of bytes consumed from the front of the input.
    pub bytes: usize,
    /// Estimated cost of processing them, in bytes. Each received frame costs the length of its message plus 256, and
    /// the same again for each frame that it causes to be queued. Decompressing
    /// a message costs 8 times the bytes received, and compressing a broadcast 16 times its length plus 8192.
    pub work: usize,
}

/// How a write ended.
///
/// [`Transport`] has an example.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// Everything was written.
    Drained,
    /// The socket takes no more. Continue when it is writable.
    Blocked,
    /// Everything was written and nothing follows: shut down the write side, then read until the end of the stream.
    Finished,
    /// Everything was written and the peer sends nothing more: it has sent its close frame, or its stream has ended.
    /// The connection is closed.
    Closed,
}

/// The journal cannot be written, and the server must not serve unrecorded. Nothing was sent that is not recorded.
///
/// The turn was not completed, so the engine cannot be used any more; drop it with its sockets.
///
/// No example: it takes a disk that is full or broken.
#[derive(Debug)]
#[non_exhaustive]
pub struct JournalError(pub io::Error);

impl fmt::Display for JournalError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the journal cannot be written: {}", self.0)
    }
}

impl std::error::Error for JournalError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.0)
    }
}

/// The sockets of a driver: see [`Engine`](crate::Engine#driving-an-engine).
///
/// ```
/// use std::collections::BTreeMap;
/// use std::io;
/// use std::net::{Shutdown, TcpStream};
///
/// use lobbyd::driver::{Flow, Transport};
/// use lobbyd::{CloseReason, ConnId};
///
/// struct Sockets(BTreeMap<ConnId, TcpStream>);
///
/// impl Transport for Sockets {
///     type Socket<'a> = &'a mut TcpStream;
///
///     fn socket(&mut self, conn: ConnId) -> Option<&mut TcpStream> {
///         self.0.get_mut(&conn)
///     }
///
///     fn wrote(&mut self, conn: ConnId, outcome: &io::Result<Flow>) {
///         if let (Ok(Flow::Finished), Some(socket)) = (outcome, self.0.get(&conn)) {
///             let _ = socket.shutdown(Shutdown::Write);
///         }
///     }
///
///     fn closed(&mut self, conn: ConnId, _: CloseReason) {
///         self.0.remove(&conn);
///     }
/// }
/// ```
pub trait Transport {
    /// A socket while the engine writes to it. It does not block: it returns [`WouldBlock`](io::ErrorKind::WouldBlock)
    /// if it takes no more bytes.
    type Socket<'a>: Write
    where
        Self: 'a;

    /// Returns the socket of `conn`, for one write. `None` counts as a socket that takes no bytes: the output stays queued
    /// until [`Engine::handle_writable`](crate::Engine::handle_writable).
    fn socket(&mut self, conn: ConnId) -> Option<Self::Socket<'_>>;

    /// The engine has written to the socket of `conn`, or has found that there is none.
    ///
    /// After [`Flow::Finished`] the driver shuts down the write side and continues to read. After
    /// [`Flow::Blocked`] it reports when the socket is writable again:
    /// [`Engine::handle_writable`](crate::Engine::handle_writable). After an error of the socket the engine has closed
    /// the connection.
    fn wrote(&mut self, conn: ConnId, outcome: &io::Result<Flow>);

    /// The connection is closed: the driver drops its socket. The id is invalid from now on.
    fn closed(&mut self, conn: ConnId, reason: CloseReason);
}
