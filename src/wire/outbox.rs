//! What is queued for one peer: whole frames, in order, bounded in bytes.

use std::collections::VecDeque;
use std::io::{self, IoSlice, Write};

use bytes::Bytes;

use super::broadcast_log::{BroadcastLog, FrameRange};

/// What a queued frame costs beside its bytes, so that a flood of tiny frames cannot take many times the bound.
pub(super) const FRAME_OVERHEAD: usize = 64;
/// Slices per `writev`; far below the system's limit (1024 on Linux), as one send rarely takes more.
const MAX_SLICES: usize = 64;
/// Up to so many bytes, copying pieces together costs less than describing them to the system.
const MAX_GATHERED: usize = 16 * 1024;
/// Frames' places that an outbox keeps when it is not in use; beyond it the memory is given back.
const IDLE_CAPACITY: usize = 64;
/// Outboxes that are kept for those who need one next.
const MAX_SPARE: usize = 1024;

/// How a write ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// Everything was written.
    Drained,
    /// The socket takes no more; go on when it is writable.
    Blocked,
    /// Everything was written and nothing will follow: shut down the write side, then read until the end.
    Finished,
    /// Everything was written, and both ends have said that it is over: [`Engine::poll_closed`](crate::Engine::poll_closed)
    /// is going to name the connection, and its socket is to be dropped then.
    Closed,
}

/// Frames that follow each other.
#[derive(Debug)]
struct Queued {
    data: Data,
    /// How many frames these are; more than one only if none of them has begun, or the rest of one and whole ones.
    frames: u32,
    /// A frame queued later under the same key takes this one's place, unless it has begun.
    latest: Option<u64>,
}

#[derive(Debug)]
enum Data {
    Own(Bytes),
    /// Said in the lobby in this turn, and still in its buffer.
    Shared(FrameRange),
}

impl Data {
    fn len(&self) -> usize {
        match self {
            Data::Own(bytes) => bytes.len(),
            Data::Shared(part) => part.len(),
        }
    }

    fn bytes<'a>(&'a self, broadcast_log: &'a BroadcastLog) -> &'a [u8] {
        match self {
            Data::Own(bytes) => bytes,
            Data::Shared(part) => broadcast_log.bytes(part),
        }
    }
}

#[derive(Debug, Default)]
pub(crate) struct Outbox {
    queue: VecDeque<Queued>,
    /// Bytes of the first in the queue that have been written already.
    written: usize,
    /// Bytes that have not been written.
    bytes: usize,
    /// Frames that have not been written whole.
    frames: usize,
    /// How many at the end of the queue wait to be [released](Self::release).
    corked: usize,
    /// Whether the first in line is the answer to the request, without which the peer understands no frame.
    answer_first: bool,
}

/// Outboxes that nobody uses, so that queueing needs no allocation and whoever is idle holds no memory for it.
#[derive(Debug, Default)]
#[expect(clippy::vec_box, reason = "a connection takes the box as it is")]
pub(crate) struct Outboxes(Vec<Box<Outbox>>);

impl Outboxes {
    /// An empty outbox.
    pub(super) fn take(&mut self) -> Box<Outbox> {
        self.0.pop().unwrap_or_default()
    }

    /// Takes an outbox back, and drops what is left in it.
    pub(super) fn give(&mut self, mut outbox: Box<Outbox>) {
        if self.0.len() < MAX_SPARE {
            if !outbox.is_empty() {
                outbox.clear();
            }
            if outbox.queue.capacity() > IDLE_CAPACITY {
                outbox.queue = VecDeque::new();
            }
            self.0.push(outbox);
        }
    }
}

impl Outbox {
    /// Queues the answer to the request; nothing has been queued before it.
    pub(crate) fn push_answer(&mut self, answer: Bytes) {
        debug_assert!(self.is_empty(), "the answer to the request comes first");
        self.answer_first = true;
        self.push(answer, false);
    }

    /// Queues a frame, which waits to be released if it is `held`. If it is not, nothing before it waits any more.
    pub(crate) fn push(&mut self, frame: Bytes, corked: bool) {
        self.add(1, Data::Own(frame), None, corked);
    }

    /// Queues a frame that overtakes what is held.
    pub(crate) fn push_ahead(&mut self, frame: Bytes) {
        let corked = std::mem::take(&mut self.corked);
        self.add(1, Data::Own(frame), None, false);
        let last = self.queue.pop_back().expect("it has just been queued");
        self.queue.insert(self.queue.len() - corked, last);
        self.corked = corked;
    }

    /// Queues a frame that only matters until the next one under the same key.
    pub(crate) fn push_latest(&mut self, key: u64, frame: Bytes, corked: bool) {
        self.add(1, Data::Own(frame), Some(key), corked);
    }

    /// Queues frames that lie in the buffer of this turn. Before it ends, [`own`](Self::own) must be called if they have
    /// not been written.
    pub(crate) fn push_range(&mut self, part: FrameRange, corked: bool) {
        if corked != (self.corked > 0) {
            self.add(part.frames(), Data::Shared(part), None, corked);
        } else if let Some(Queued { data: Data::Shared(last), frames, .. }) = self.queue.back_mut()
            && last.extend(&part)
        {
            self.bytes += part.len();
            self.frames += part.frames();
            *frames += part.frames() as u32;
        } else {
            self.add(part.frames(), Data::Shared(part), None, corked);
        }
    }

    fn add(&mut self, frames: usize, data: Data, latest: Option<u64>, corked: bool) {
        self.bytes += data.len();
        self.frames += frames;
        self.corked = if corked { self.corked + 1 } else { 0 };
        self.queue.push_back(Queued { data, frames: frames as u32, latest });
    }

    /// How many in the queue may be written.
    fn ready(&self) -> usize {
        self.queue.len() - self.corked
    }

    /// Whether there is something that may be written.
    pub(crate) fn is_ready(&self) -> bool {
        self.ready() > 0
    }

    /// Whether something waits to be released.
    pub(crate) fn is_corked(&self) -> bool {
        self.corked > 0
    }

    /// What is corked may be written.
    pub(crate) fn uncork(&mut self) {
        self.corked = 0;
    }

    /// Copies what still lies in the lobby's buffer, whose turn is about to end.
    pub(crate) fn materialize(&mut self, broadcast_log: &BroadcastLog) {
        if !self.queue.iter().any(|queued| matches!(queued.data, Data::Shared(_))) {
            return;
        }
        for (index, queued) in self.queue.iter_mut().enumerate() {
            if let Data::Shared(part) = &queued.data {
                let bytes = broadcast_log.bytes(part);
                let gone = if index == 0 { whole_frames(bytes, self.written) } else { 0 };
                queued.data = Data::Own(Bytes::copy_from_slice(&bytes[gone..]));
                self.written -= gone;
            }
        }
    }

    /// Drops the frame that is queued under `key`, if there is one of which no byte has been written.
    ///
    /// Its successor goes to the end and not to its place: it may speak of what was queued in between.
    pub(crate) fn drop_latest(&mut self, key: u64) -> bool {
        let begun = usize::from(self.written > 0);
        let Some(at) = self.queue.iter().skip(begun).position(|queued| queued.latest == Some(key)) else {
            return false;
        };
        self.corked -= usize::from(begun + at >= self.ready());
        let dropped = self.queue.remove(begun + at).expect("position() has found it");
        self.bytes -= dropped.data.len();
        self.frames -= 1;
        true
    }

    /// What counts against `max_outbound_bytes`.
    pub(crate) fn cost(&self) -> usize {
        self.bytes + self.frames * FRAME_OVERHEAD
    }

    /// Bytes that wait to be written.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Drops every frame of which no byte has been written. Returns how many.
    ///
    /// A frame that has begun must be completed, or the peer reads nonsense; so must the answer to the request.
    pub(crate) fn discard_unsent(&mut self, broadcast_log: &BroadcastLog) -> usize {
        let before = self.frames;
        self.corked = 0;
        if self.written == 0 && !self.answer_first {
            self.queue.clear();
            (self.bytes, self.frames) = (0, 0);
            return before;
        }
        self.queue.truncate(1);
        let first = &mut self.queue[0];
        if !self.answer_first {
            // Of frames that are queued as one only that is kept which has begun, if any has.
            let bytes = first.data.bytes(broadcast_log);
            let start = whole_frames(bytes, self.written);
            if start == self.written {
                self.clear();
                return before;
            }
            let end = start + frame_length(&bytes[start..]);
            if (start, end) != (0, bytes.len()) {
                first.data = Data::Own(Bytes::copy_from_slice(&bytes[start..end]));
            }
            self.written -= start;
        }
        first.frames = 1;
        self.bytes = first.data.len() - self.written;
        self.frames = 1;
        before - 1
    }

    /// Drops everything, also a frame that has begun: for a connection that is cut off.
    fn clear(&mut self) {
        self.queue.clear();
        *self = Outbox { queue: std::mem::take(&mut self.queue), ..Outbox::default() };
    }

    /// Writes until everything that is not corked is gone or the socket takes no more. Returns the bytes written, and whether
    /// all are.
    ///
    /// `scratch` is where several small pieces are put together.
    pub(crate) fn write_to(
        &mut self,
        socket: &mut dyn Write,
        broadcast_log: &BroadcastLog,
        scratch: &mut Vec<u8>,
    ) -> io::Result<(usize, Flow)> {
        let mut total = 0;
        while self.is_ready() {
            match self.write_once(socket, broadcast_log, scratch) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => {
                    total += n;
                    self.advance(n, broadcast_log);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok((total, Flow::Blocked)),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok((total, Flow::Drained))
    }

    fn write_once(
        &self,
        socket: &mut dyn Write,
        broadcast_log: &BroadcastLog,
        scratch: &mut Vec<u8>,
    ) -> io::Result<usize> {
        let first = &self.queue[0].data.bytes(broadcast_log)[self.written..];
        let ready = self.queue.iter().take(self.ready());
        if self.ready() == 1 {
            return socket.write(first);
        }
        if self.bytes <= MAX_GATHERED {
            scratch.clear();
            scratch.extend_from_slice(first);
            ready.skip(1).for_each(|queued| scratch.extend_from_slice(queued.data.bytes(broadcast_log)));
            return socket.write(scratch);
        }
        let mut slices = [IoSlice::new(&[]); MAX_SLICES];
        slices[0] = IoSlice::new(first);
        let mut count = 1;
        for queued in ready.take(MAX_SLICES).skip(1) {
            slices[count] = IoSlice::new(queued.data.bytes(broadcast_log));
            count += 1;
        }
        socket.write_vectored(&slices[..count])
    }

    /// The first `n` bytes have been written.
    pub(crate) fn advance(&mut self, mut n: usize, broadcast_log: &BroadcastLog) {
        self.bytes -= n;
        if self.bytes == 0 {
            // The usual case: everything was taken, and it was one piece.
            if self.queue.len() == 1 {
                self.queue.pop_front();
            } else {
                self.queue.clear();
            }
            (self.written, self.frames, self.answer_first) = (0, 0, false);
            return;
        }
        while n > 0 {
            let first = &mut self.queue[0];
            let rest = first.data.len() - self.written;
            if n < rest {
                let before = self.written;
                self.written += n;
                if first.frames > 1 {
                    let gone = count_whole(first.data.bytes(broadcast_log), before, self.written);
                    first.frames -= gone as u32;
                    self.frames -= gone;
                }
                return;
            }
            n -= rest;
            self.written = 0;
            self.answer_first = false;
            self.frames -= first.frames as usize;
            self.queue.pop_front();
        }
    }

    /// Asserts what must hold between calls.
    pub(crate) fn check(&self) {
        let queued: usize = self.queue.iter().map(|queued| queued.data.len()).sum();
        assert_eq!(self.bytes + self.written, queued, "the outbox's byte count is that of its frames");
        let frames: usize = self.queue.iter().map(|queued| queued.frames as usize).sum();
        assert_eq!(self.frames, frames, "the outbox's count of frames is theirs");
        assert!(
            self.corked <= self.queue.len() && (self.written == 0 || self.is_ready()),
            "what has begun is not held"
        );
        assert!(self.queue.front().map_or(self.written == 0, |first| self.written < first.data.len()));
    }

    /// Whether something lies in a lobby's buffer, which lasts only for the turn.
    pub(crate) fn has_ranges(&self) -> bool {
        self.queue.iter().any(|queued| matches!(queued.data, Data::Shared(_)))
    }
}

/// The length of the frame, as a server sends it, that `bytes` begin with (RFC 6455 section 5.2).
fn frame_length(bytes: &[u8]) -> usize {
    match bytes[1] {
        126 => 4 + usize::from(u16::from_be_bytes([bytes[2], bytes[3]])),
        127 => 10 + u64::from_be_bytes(bytes[2..10].try_into().expect("eight bytes")) as usize,
        length => 2 + usize::from(length),
    }
}

/// How many bytes the frames take up that end at or before `written`.
fn whole_frames(bytes: &[u8], written: usize) -> usize {
    let mut end = 0;
    while end < written {
        let next = end + frame_length(&bytes[end..]);
        if next > written {
            break;
        }
        end = next;
    }
    end
}

/// How many frames end after `before` and at or before `written`.
fn count_whole(bytes: &[u8], before: usize, written: usize) -> usize {
    let (mut end, mut count) = (0, 0);
    while end < bytes.len() {
        end += frame_length(&bytes[end..]);
        if end > written {
            break;
        }
        count += usize::from(end > before);
    }
    count
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::frame::{Frame, Outgoing};

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
                outbox.push(frame.into(), false);
            }
            let mut socket = Narrow { step, block: false, got: Vec::new() };
            while outbox.write_to(&mut socket, &BroadcastLog::default(), &mut Vec::new()).expect("never fails").1
                == Flow::Blocked
            {
                outbox.check();
            }
            assert_eq!(socket.got, expected);
            assert_eq!((outbox.bytes(), outbox.cost()), (0, 0));
        }
    }

    #[test]
    fn a_frame_that_has_begun_is_completed() {
        let mut outbox = Outbox::default();
        outbox.push(Bytes::from_static(b"\x81\x05begun"), false);
        outbox.push(Bytes::from_static(b"\x81\x03not"), false);
        outbox.advance(4, &BroadcastLog::default());
        assert_eq!(outbox.discard_unsent(&BroadcastLog::default()), 1);
        outbox.check();
        let mut socket = Narrow { step: 100, block: true, got: Vec::new() };
        assert_eq!(
            outbox.write_to(&mut socket, &BroadcastLog::default(), &mut Vec::new()).expect("never fails"),
            (3, Flow::Drained)
        );
        assert_eq!(socket.got, b"gun");
    }

    #[test]
    fn what_is_held_is_overtaken_and_follows_when_it_is_released() {
        let (mut broadcast_log, mut outbox, mut got) = (BroadcastLog::default(), Outbox::default(), Vec::new());
        let mut write = |outbox: &mut Outbox, broadcast_log: &BroadcastLog| {
            outbox.check();
            outbox.write_to(&mut got, broadcast_log, &mut Vec::new()).expect("a vector takes everything");
            String::from_utf8_lossy(&std::mem::take(&mut got)).replace(['\u{1}', '\u{2}', '\u{fffd}'], "")
        };
        outbox.push(Bytes::from_static(b"a"), false);
        outbox.push(Bytes::from_static(b"d"), true);
        outbox.push_range(broadcast_log.append_unicast(Outgoing::Text("e")).expect("it is small"), true);
        outbox.push_range(broadcast_log.append_unicast(Outgoing::Text("f")).expect("it is small"), true);
        outbox.push_latest(1, Bytes::from_static(b"old"), true);
        outbox.push_ahead(Bytes::from_static(b"b"));
        assert_eq!(write(&mut outbox, &broadcast_log), "ab");
        assert!(outbox.drop_latest(1) && outbox.is_corked() && !outbox.is_ready());
        outbox.push_ahead(Bytes::from_static(b"c"));
        outbox.materialize(&broadcast_log);
        broadcast_log.end_turn();
        assert_eq!(write(&mut outbox, &broadcast_log), "c");
        outbox.push(Bytes::from_static(b"g"), false);
        assert_eq!(write(&mut outbox, &broadcast_log), "defg");
        assert_eq!((outbox.bytes(), outbox.cost()), (0, 0));
    }

    #[test]
    fn the_latest_takes_the_place_of_its_older_self() {
        let mut outbox = Outbox::default();
        outbox.push_latest(7, Bytes::from_static(b"old"), false);
        outbox.push(Bytes::from_static(b"event"), false);
        outbox.push_latest(8, Bytes::from_static(b"other"), false);
        assert!(outbox.drop_latest(7) && !outbox.drop_latest(9));
        outbox.push_latest(7, Bytes::from_static(b"new"), false);
        outbox.check();
        // All before it and one byte of `new` are written: it must be completed, and the next one follows it.
        outbox.advance(5 + 5 + 1, &BroadcastLog::default());
        assert!(!outbox.drop_latest(7));
        outbox.push_latest(7, Bytes::from_static(b"newer"), false);
        outbox.check();
        assert_eq!(outbox.bytes(), 2 + 5);
    }

    /// A long story in one buffer, written in steps, given up in the middle: what was written is whole frames, in order.
    #[test]
    fn a_shared_range_is_written_owned_and_dropped_by_frames() {
        for written in 0..60 {
            for (owned, dropped) in [(false, false), (true, false), (false, true), (true, true)] {
                let (mut broadcast_log, mut outbox) = (BroadcastLog::default(), Outbox::default());
                let frames: Vec<Frame> = (0..8).map(|n| Frame::text(&"x".repeat(n))).collect();
                for frame in &frames {
                    outbox.push_range(
                        broadcast_log.append_unicast(Outgoing::Frame(frame)).expect("there is room"),
                        false,
                    );
                }
                let all: Vec<u8> = frames.iter().flat_map(|frame| frame.as_bytes().to_vec()).collect();
                assert_eq!((outbox.queue.len(), outbox.bytes()), (1, all.len()));
                let written = written.min(all.len() - 1);
                if written > 0 {
                    outbox.advance(written, &broadcast_log);
                }
                let whole =
                    (0..=8).filter(|&n| frames[..n].iter().map(|f| f.as_bytes().len()).sum::<usize>() <= written);
                let whole = whole.max().expect("none is a number");
                assert_eq!(outbox.cost(), all.len() - written + (8 - whole) * FRAME_OVERHEAD);
                if owned {
                    outbox.materialize(&broadcast_log);
                    broadcast_log.end_turn();
                }
                let begun = frames[..whole].iter().map(|f| f.as_bytes().len()).sum::<usize>() < written;
                if dropped {
                    assert_eq!(outbox.discard_unsent(&broadcast_log), 8 - whole - usize::from(begun));
                }
                outbox.check();
                let mut rest = Vec::new();
                outbox.write_to(&mut rest, &broadcast_log, &mut Vec::new()).expect("a vector takes everything");
                let kept = if dropped { whole + usize::from(begun) } else { 8 };
                let end = frames[..kept].iter().map(|f| f.as_bytes().len()).sum::<usize>();
                assert_eq!(rest, &all[written..end.max(written)], "{written} bytes written");
            }
        }
    }
}
