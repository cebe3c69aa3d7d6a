//! What is queued for one peer: whole frames, in order, bounded in bytes.

use std::collections::VecDeque;
use std::io::{self, IoSlice, Write};

use bytes::Bytes;

/// What a queued frame costs beside its bytes, so that a flood of tiny frames cannot take many times the bound.
const FRAME_OVERHEAD: usize = 64;
/// Slices per `writev`; far below the system's limit (1024 on Linux), as one send rarely takes more.
const MAX_SLICES: usize = 64;
/// Frames' places kept in an idle outbox; beyond it the memory is given back.
const IDLE_CAPACITY: usize = 8;

/// How a write ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// Everything was written.
    Drained,
    /// The socket takes no more; go on when it is writable.
    Blocked,
    /// Everything was written and nothing will follow: shut down the write side, then read until the end.
    Finished,
}

#[derive(Debug, Default)]
pub(crate) struct Outbox {
    frames: VecDeque<Bytes>,
    /// Bytes of the first frame that have been written already.
    written: usize,
    /// Bytes of all queued frames that have not been written.
    bytes: usize,
    /// Whether the first in the queue is the answer to the request, without which nothing after it can be read.
    answers_first: bool,
}

impl Outbox {
    pub(crate) fn push(&mut self, frame: Bytes) {
        self.bytes += frame.len();
        self.frames.push_back(frame);
    }

    /// Queues the answer to the request: it comes before every frame.
    pub(crate) fn push_answer(&mut self, answer: Bytes) {
        self.answers_first = self.frames.is_empty();
        self.push(answer);
    }

    /// What counts against `max_outbound_bytes`.
    pub(crate) fn cost(&self) -> usize {
        self.bytes + self.frames.len() * FRAME_OVERHEAD
    }

    /// Bytes that wait to be written.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// Drops every frame of which no byte has been written. Returns how many.
    ///
    /// A frame that has begun must be completed, or the peer reads nonsense; so must the answer to the request.
    pub(crate) fn drop_unbegun(&mut self) -> usize {
        let kept = usize::from(self.written > 0 || self.answers_first);
        let dropped = self.frames.len() - kept.min(self.frames.len());
        self.frames.truncate(kept);
        self.bytes = self.frames.front().map_or(0, |frame| frame.len() - self.written);
        dropped
    }

    /// Drops everything, also a frame that has begun: for a connection that is cut off.
    pub(crate) fn clear(&mut self) {
        *self = Outbox::default();
    }

    /// Writes until everything is gone or the socket takes no more. Returns the bytes written, and whether all are.
    pub(crate) fn write_to(&mut self, socket: &mut impl Write) -> io::Result<(usize, Flow)> {
        let mut total = 0;
        while !self.frames.is_empty() {
            match self.write_once(socket) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => {
                    total += n;
                    self.advance(n);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok((total, Flow::Blocked)),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        if self.frames.capacity() > IDLE_CAPACITY {
            self.frames = VecDeque::new();
        }
        Ok((total, Flow::Drained))
    }

    fn write_once(&self, socket: &mut impl Write) -> io::Result<usize> {
        let first = &self.frames[0][self.written..];
        if self.frames.len() == 1 {
            return socket.write(first);
        }
        let mut slices = [IoSlice::new(&[]); MAX_SLICES];
        slices[0] = IoSlice::new(first);
        let mut count = 1;
        for frame in self.frames.iter().take(MAX_SLICES).skip(1) {
            slices[count] = IoSlice::new(frame);
            count += 1;
        }
        socket.write_vectored(&slices[..count])
    }

    fn advance(&mut self, mut n: usize) {
        self.bytes -= n;
        while n > 0 {
            let rest = self.frames[0].len() - self.written;
            if n < rest {
                self.written += n;
                return;
            }
            n -= rest;
            self.written = 0;
            self.answers_first = false;
            self.frames.pop_front();
        }
    }

    /// Asserts what must hold between calls.
    pub(crate) fn check(&self) {
        let queued: usize = self.frames.iter().map(Bytes::len).sum();
        assert_eq!(self.bytes + self.written, queued, "the outbox's byte count is that of its frames");
        assert!(self.frames.front().map_or(self.written == 0, |frame| self.written < frame.len()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes `step` bytes a call, and blocks every other call.
    struct Narrow {
        step: usize,
        block: bool,
        got: Vec<u8>,
    }

    impl Write for Narrow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.block = !self.block;
            if self.block {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            let n = bytes.len().min(self.step);
            self.got.extend_from_slice(&bytes[..n]);
            Ok(n)
        }

        fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
            let all: Vec<u8> = slices.iter().flat_map(|slice| slice.iter().copied()).collect();
            self.write(&all)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn short_writes_lose_and_double_nothing() {
        for step in 1..40 {
            let mut outbox = Outbox::default();
            let mut expected = Vec::new();
            for n in 0..200u8 {
                let frame = vec![n; usize::from(n % 7) + 1];
                expected.extend_from_slice(&frame);
                outbox.push(frame.into());
            }
            let mut socket = Narrow { step, block: false, got: Vec::new() };
            while outbox.write_to(&mut socket).expect("never fails").1 == Flow::Blocked {
                outbox.check();
            }
            assert_eq!(socket.got, expected);
            assert_eq!((outbox.bytes(), outbox.cost()), (0, 0));
        }
    }

    #[test]
    fn a_frame_that_has_begun_is_completed() {
        let mut outbox = Outbox::default();
        outbox.push(Bytes::from_static(b"begun"));
        outbox.push(Bytes::from_static(b"not begun"));
        outbox.advance(2);
        assert_eq!(outbox.drop_unbegun(), 1);
        outbox.check();
        let mut socket = Narrow { step: 100, block: true, got: Vec::new() };
        assert_eq!(outbox.write_to(&mut socket).expect("never fails"), (3, Flow::Drained));
        assert_eq!(socket.got, b"gun");
    }
}
