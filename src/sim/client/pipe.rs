//! The simulated network path of one connection: bytes in flight in both directions, and the faults on the way.
//!
//! A pipe guarantees what TCP guarantees: bytes arrive in order and at most once. Writes can be short, blocked,
//! interrupted, or fail; the client can vanish or reset. Knows no protocol and draws no random numbers: the caller sets
//! the next faults.
//!
//! The client's side:
//!
//! ```text
//! Open --half_close()--> HalfClosed --end()--> Ended | Reset | Vanished
//!  |                                            ^
//!  +-------------------end()--------------------+
//! ```

use std::io::{self, IoSlice, Write};

/// State of the client's side of a pipe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    /// The client reads and may send.
    Open,
    /// The client closed its own direction and still reads. The server reads the end of the stream after the bytes in
    /// flight.
    HalfClosed,
    /// The client closed the connection. The server reads the end of the stream after the bytes in flight.
    Ended,
    /// The client reset the connection. The bytes in flight are lost.
    Reset,
    /// The client vanished without closing. No more bytes arrive in either direction.
    Vanished,
}

/// The network path of one connection.
#[derive(Debug)]
pub(crate) struct Pipe {
    to_server: Queue,
    to_client: Queue,
    pub(crate) client: Side,
    /// Number of bytes that may be in flight to the client before a write blocks.
    pub(crate) capacity: usize,
    /// Whether a write was blocked and the driver has not since been notified that the socket is writable.
    pub(crate) is_blocked: bool,
    /// Number of bytes still accepted before the next write blocks although there is room.
    pub(crate) budget: usize,
    /// Largest number of bytes accepted in one write.
    pub(crate) max_write: usize,
    /// Whether writes fail.
    pub(crate) write_fails: bool,
    /// Whether the next write is interrupted.
    pub(crate) write_is_interrupted: bool,
    /// Whether the server has shut down its side. The end of the stream follows the bytes in flight.
    pub(crate) server_ended: bool,
    /// Whether the server has dropped its socket.
    pub(crate) server_dropped: bool,
    /// Number of bytes that the server's socket has accepted.
    pub(crate) accepted: u64,
    /// Number of times that the client sent bytes: about one per frame.
    pub(crate) sends: u64,
    /// Number of bytes sent by the client.
    pub(crate) sent: u64,
    /// Bytes sent by the client that the transcript does not contain yet.
    pub(crate) unnoted: Vec<u8>,
}

/// Bytes in flight in one direction.
#[derive(Debug, Default)]
struct Queue {
    bytes: Vec<u8>,
    read: usize,
}

impl Queue {
    fn len(&self) -> usize {
        self.bytes.len() - self.read
    }

    fn take(&mut self, n: usize) -> &[u8] {
        let start = self.read;
        self.read += n.min(self.bytes.len() - start);
        &self.bytes[start..self.read]
    }

    fn push(&mut self, bytes: &[u8]) {
        if self.read == self.bytes.len() {
            self.clear();
        }
        self.bytes.extend_from_slice(bytes);
    }

    fn clear(&mut self) {
        self.bytes.clear();
        self.read = 0;
    }
}

impl Pipe {
    pub(crate) fn new(capacity: usize) -> Pipe {
        Pipe {
            to_server: Queue::default(),
            to_client: Queue::default(),
            client: Side::Open,
            capacity,
            is_blocked: false,
            budget: usize::MAX,
            max_write: usize::MAX,
            write_fails: false,
            write_is_interrupted: false,
            server_ended: false,
            server_dropped: false,
            accepted: 0,
            sends: 0,
            sent: 0,
            unnoted: Vec::new(),
        }
    }

    /// Sends bytes from the client. They are discarded if either side has closed.
    pub(crate) fn send(&mut self, bytes: &[u8]) {
        if self.client == Side::Open && !self.server_dropped {
            self.to_server.push(bytes);
            self.unnoted.extend_from_slice(bytes);
            self.sends += 1;
            self.sent += bytes.len() as u64;
        }
    }

    /// Returns the number of bytes that the server could read.
    pub(crate) fn unread_by_server(&self) -> usize {
        self.to_server.len()
    }

    /// Whether the server's next read returns the end of the stream or a reset.
    pub(crate) fn is_at_end(&self) -> bool {
        match self.client {
            Side::Open | Side::Vanished => false,
            Side::HalfClosed | Side::Ended => self.to_server.len() == 0,
            Side::Reset => true,
        }
    }

    /// Reads up to `n` bytes on the server's side.
    pub(crate) fn server_read(&mut self, n: usize) -> &[u8] {
        self.to_server.take(n)
    }

    /// Returns the last `n` bytes read by the server to the pipe, to be read again.
    pub(crate) fn server_unread(&mut self, n: usize) {
        self.to_server.read -= n;
    }

    /// Returns the number of bytes that the client could read.
    pub(crate) fn unread_by_client(&self) -> usize {
        self.to_client.len()
    }

    /// Reads up to `n` bytes on the client's side.
    pub(crate) fn client_read(&mut self, n: usize) -> &[u8] {
        self.to_client.take(n)
    }

    /// Whether the client's next read returns the end of the stream.
    pub(crate) fn is_at_server_end(&self) -> bool {
        (self.server_ended || self.server_dropped) && self.to_client.len() == 0
    }

    /// Whether the client still reads.
    pub(crate) fn is_client_reading(&self) -> bool {
        matches!(self.client, Side::Open | Side::HalfClosed)
    }

    /// Closes the client's direction. The client still reads.
    pub(crate) fn half_close(&mut self) {
        if self.client == Side::Open {
            self.client = Side::HalfClosed;
        }
    }

    /// Ends the client's side in the way `how`. The client then neither reads nor sends.
    pub(crate) fn end(&mut self, how: Side) {
        if !self.is_client_reading() {
            return;
        }
        self.client = how;
        self.to_client.clear();
        if how != Side::Ended {
            self.to_server.clear();
        }
    }

    /// Drops the server's socket. Bytes that the client sent or sends later are discarded.
    pub(crate) fn drop_server(&mut self) {
        self.server_dropped = true;
        self.to_server.clear();
    }

    /// Whether the driver must be notified that the socket is writable again.
    pub(crate) fn is_unblocked(&self) -> bool {
        self.is_blocked && self.room() > 0
    }

    fn room(&self) -> usize {
        match self.client {
            Side::Open | Side::HalfClosed | Side::Vanished => self.capacity.saturating_sub(self.to_client.len()),
            Side::Ended | Side::Reset => usize::MAX,
        }
    }

    fn accept(&mut self, wanted: usize) -> io::Result<usize> {
        if std::mem::take(&mut self.write_is_interrupted) {
            return Err(io::ErrorKind::Interrupted.into());
        }
        if self.write_fails || self.client == Side::Reset {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let n = wanted.min(self.room()).min(self.budget).min(self.max_write);
        if n == 0 && wanted > 0 {
            self.is_blocked = true;
            return Err(io::ErrorKind::WouldBlock.into());
        }
        self.budget -= n;
        self.accepted += n as u64;
        Ok(n)
    }

    fn arrive(&mut self, bytes: &[u8]) {
        // Bytes to a client that has closed are discarded.
        if self.is_client_reading() {
            self.to_client.push(bytes);
        } else if self.client == Side::Vanished {
            // The bytes stay unread and use up the capacity.
            self.capacity = self.capacity.saturating_sub(bytes.len());
        }
    }
}

/// The server's end of a pipe. The bytes written are also copied for the transcript.
pub(crate) struct PipeEnd<'a> {
    pub(crate) pipe: &'a mut Pipe,
    pub(crate) written: &'a mut Vec<u8>,
}

impl Write for PipeEnd<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.pipe.accept(bytes.len())?;
        self.pipe.arrive(&bytes[..n]);
        self.written.extend_from_slice(&bytes[..n]);
        Ok(n)
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let n = self.pipe.accept(slices.iter().map(|slice| slice.len()).sum())?;
        let mut left = n;
        for slice in slices {
            let part = &slice[..left.min(slice.len())];
            self.pipe.arrive(part);
            self.written.extend_from_slice(part);
            left -= part.len();
        }
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
