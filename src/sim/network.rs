//! One connection's way through the network: bytes in flight in both directions, and all that can happen to them.
//!
//! A pipe keeps to the rules of TCP (what arrives, arrives in order and once), and to nothing else: writes are short,
//! blocked, interrupted or fail; the peer vanishes or resets. It knows no protocol and draws no randomness: how it
//! behaves next is set from outside.

use std::io::{self, IoSlice, Write};

/// How the client's side of a pipe stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    /// It may still send.
    Open,
    /// It has closed its own direction; the server reads the end after what is under way, and the client reads on.
    HalfClosed,
    /// It has closed; the server reads the end after what is under way.
    Ended,
    /// It has reset; what is under way is lost.
    Reset,
    /// It has vanished without a word: nothing arrives any more, in either direction.
    Vanished,
}

#[derive(Debug)]
pub(super) struct Pipe {
    up: Queue,
    down: Queue,
    pub(super) client: Side,
    /// Bytes that may be in flight to the client before a write blocks.
    pub(super) capacity: usize,
    /// Whether a write was blocked and the driver has not been told since that it may go on.
    pub(super) is_blocked: bool,
    /// Bytes taken from now on before the next write blocks although there is room.
    pub(super) budget: usize,
    /// Bytes taken in one write.
    pub(super) grain: usize,
    /// The next write fails.
    pub(super) breaks: bool,
    /// The next write is interrupted.
    pub(super) interrupts: bool,
    /// Whether the server has shut down its side: its end follows what is in flight.
    pub(super) server_ended: bool,
    /// Whether the server has dropped its socket.
    pub(super) server_gone: bool,
    /// Bytes the server's socket has taken.
    pub(super) taken: u64,
    /// How often, and how many bytes, the client has sent.
    pub(super) sends: u64,
    pub(super) sent: u64,
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
    pub(super) fn new(capacity: usize) -> Pipe {
        Pipe {
            up: Queue::default(),
            down: Queue::default(),
            client: Side::Open,
            capacity,
            is_blocked: false,
            budget: usize::MAX,
            grain: usize::MAX,
            breaks: false,
            interrupts: false,
            server_ended: false,
            server_gone: false,
            taken: 0,
            sends: 0,
            sent: 0,
        }
    }

    /// The client sends. What it sends after its end is nobody's.
    pub(super) fn send(&mut self, bytes: &[u8]) {
        if self.client == Side::Open && !self.server_gone {
            self.up.push(bytes);
            self.sends += 1;
            self.sent += bytes.len() as u64;
        }
    }

    /// Bytes that the server could read.
    pub(super) fn upward(&self) -> usize {
        self.up.len()
    }

    /// Whether the server would see the client's end if it read now.
    pub(super) fn is_at_end(&self) -> bool {
        match self.client {
            Side::Open | Side::Vanished => false,
            Side::HalfClosed | Side::Ended => self.up.len() == 0,
            Side::Reset => true,
        }
    }

    /// The server reads up to `n` bytes.
    pub(super) fn take_up(&mut self, n: usize) -> &[u8] {
        self.up.take(n)
    }

    /// The last `n` bytes that the server read are not taken: it reads them again.
    pub(super) fn put_back(&mut self, n: usize) {
        self.up.read -= n;
    }

    /// Bytes that the client could read.
    pub(super) fn downward(&self) -> usize {
        self.down.len()
    }

    /// The client reads up to `n` bytes.
    pub(super) fn take_down(&mut self, n: usize) -> &[u8] {
        self.down.take(n)
    }

    /// Whether the client would see the server's end if it read now.
    pub(super) fn is_at_servers_end(&self) -> bool {
        (self.server_ended || self.server_gone) && self.down.len() == 0
    }

    /// Whether the client still reads what arrives.
    pub(super) fn reads(&self) -> bool {
        matches!(self.client, Side::Open | Side::HalfClosed)
    }

    /// The client sends nothing more, and reads on.
    pub(super) fn half_close(&mut self) {
        if self.client == Side::Open {
            self.client = Side::HalfClosed;
        }
    }

    /// The client's side is over; from now on it neither reads nor sends.
    pub(super) fn end(&mut self, how: Side) {
        if !self.reads() {
            return;
        }
        self.client = how;
        self.down.clear();
        if how != Side::Ended {
            self.up.clear();
        }
    }

    /// The server has dropped its socket: what the client has sent and sends is nobody's.
    pub(super) fn drop_server(&mut self) {
        self.server_gone = true;
        self.up.clear();
    }

    /// Whether the driver has to be told that the socket takes bytes again.
    pub(super) fn is_unblocked(&self) -> bool {
        self.is_blocked && self.room() > 0
    }

    fn room(&self) -> usize {
        match self.client {
            Side::Open | Side::HalfClosed | Side::Vanished => self.capacity.saturating_sub(self.down.len()),
            Side::Ended | Side::Reset => usize::MAX,
        }
    }

    fn allow(&mut self, wanted: usize) -> io::Result<usize> {
        if std::mem::take(&mut self.interrupts) {
            return Err(io::ErrorKind::Interrupted.into());
        }
        if self.breaks || self.client == Side::Reset {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let n = wanted.min(self.room()).min(self.budget).min(self.grain);
        if n == 0 && wanted > 0 {
            self.is_blocked = true;
            return Err(io::ErrorKind::WouldBlock.into());
        }
        self.budget -= n;
        self.taken += n as u64;
        Ok(n)
    }

    fn arrive(&mut self, bytes: &[u8]) {
        // Nobody reads at the end of a client that has closed.
        if self.reads() {
            self.down.push(bytes);
        } else if self.client == Side::Vanished {
            // It fills the way there, and stays unread.
            self.capacity = self.capacity.saturating_sub(bytes.len());
        }
    }
}

/// The server's end of a pipe. What it writes is kept for the transcript too.
pub(super) struct PipeEnd<'a> {
    pub(super) pipe: &'a mut Pipe,
    pub(super) written: &'a mut Vec<u8>,
}

impl Write for PipeEnd<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.pipe.allow(bytes.len())?;
        self.pipe.arrive(&bytes[..n]);
        self.written.extend_from_slice(&bytes[..n]);
        Ok(n)
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let n = self.pipe.allow(slices.iter().map(|slice| slice.len()).sum())?;
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
