//! The outbound queue of one connection: whole frames, in order.
//!
//! Counts bytes and frames, but enforces no bound: the engine compares the counts with its limits. Knows no lobbies and
//! no close reasons.
//!
//! The queue has three parts. A partly sent frame is at the front, then come frames that may be written. Corked frames,
//! which wait for [`uncork`](Outbox::uncork), are at the end:
//!
//! ```text
//! front [ partly sent frame ][ frames ready to be written ][ corked frames ] end
//! ```

use std::collections::VecDeque;
use std::io::{self, IoSlice, Write};

use bytes::Bytes;

use super::broadcast_log::{BroadcastLog, FrameRange};
use crate::config::memory::FRAME_OVERHEAD;
use crate::ws::frame::header_length;

/// Slices per `writev`. Far below the system's limit (1024 on Linux), because one send rarely takes more.
const MAX_SLICES: usize = 64;
/// Up to this many bytes, copying the pieces together is cheaper than a vectored write.
const MAX_GATHERED: usize = 16 * 1024;
/// Largest queue capacity, in frames, that an unused outbox keeps. A larger queue is freed.
const IDLE_CAPACITY: usize = 64;
/// Largest number of unused outboxes that are kept for reuse.
const MAX_SPARE: usize = 1024;

/// Consecutive frames in the queue.
#[derive(Debug)]
struct Queued {
    data: Data,
    /// Number of frames that have not been written whole. The first of them may be partly written.
    frames: u32,
    /// A frame queued later under this key replaces this one, unless this one is partly written.
    latest: Option<u64>,
}

#[derive(Debug)]
enum Data {
    Owned(Bytes),
    /// A server-sent event or an HTTP response: it consists of no frames, and is sent whole once it was begun.
    Whole(Bytes),
    /// Frames in a buffer of the broadcast log, which lasts until the end of the turn.
    Shared(FrameRange),
}

impl Data {
    fn len(&self) -> usize {
        match self {
            Data::Owned(bytes) | Data::Whole(bytes) => bytes.len(),
            Data::Shared(range) => range.len(),
        }
    }

    fn bytes<'a>(&'a self, broadcast_log: &'a BroadcastLog) -> &'a [u8] {
        match self {
            Data::Owned(bytes) | Data::Whole(bytes) => bytes,
            Data::Shared(range) => broadcast_log.bytes(range),
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct Outbox {
    queue: VecDeque<Queued>,
    /// Bytes of the first queue entry that have been written.
    written: usize,
    /// Bytes that have not been written.
    bytes: usize,
    /// Frames that have not been written whole.
    frames: usize,
    /// Number of entries at the end of the queue that wait for [`uncork`](Self::uncork).
    corked: usize,
    /// Number of entries at the front that are HTTP responses. They must be sent whole: without them the peer understands
    /// no frame.
    answers: usize,
}

/// Pool of unused outboxes: queueing needs no allocation, and an idle connection needs no memory for a queue.
#[derive(Debug, Default)]
#[expect(clippy::vec_box, reason = "a connection takes the box as a whole")]
pub(super) struct Outboxes(Vec<Box<Outbox>>);

impl Outboxes {
    /// Takes an empty outbox from the pool, or allocates one.
    fn take(&mut self) -> Box<Outbox> {
        self.0.pop().unwrap_or_default()
    }

    /// The outbox in `place`, taken from the pool if there is none. When all its frames are written or dropped, return
    /// it with [`give_all`](Self::give_all).
    pub(super) fn of<'a>(&mut self, place: &'a mut Option<Box<Outbox>>) -> &'a mut Outbox {
        place.get_or_insert_with(|| self.take())
    }

    /// Returns an outbox, if there is one, to the pool.
    pub(super) fn give_all(&mut self, outbox: Option<Box<Outbox>>) {
        outbox.into_iter().for_each(|outbox| self.give(outbox));
    }

    /// Returns an outbox to the pool, and drops the frames that are left in it.
    fn give(&mut self, mut outbox: Box<Outbox>) {
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
    /// Queues an HTTP response. Only earlier responses may be queued before it.
    pub(super) fn push_answer(&mut self, answer: Bytes) {
        self.answers += 1;
        self.push_whole(answer, false);
    }

    /// Queues a frame at the end. With `corked` it waits for [`uncork`](Self::uncork); without, it uncorks the frames
    /// before it.
    pub(super) fn push(&mut self, frame: Bytes, corked: bool) {
        self.add(1, Data::Owned(frame), None, corked);
    }

    /// Queues an event or a response at the end, as [`push`](Self::push) does with a frame.
    pub(super) fn push_whole(&mut self, bytes: Bytes, corked: bool) {
        self.add(1, Data::Whole(bytes), None, corked);
    }

    /// Queues a frame ahead of the corked frames, which stay corked.
    pub(super) fn push_ahead(&mut self, frame: Bytes) {
        self.add_ahead(Data::Owned(frame));
    }

    /// Queues an event ahead of the corked ones, which stay corked.
    pub(super) fn push_whole_ahead(&mut self, event: Bytes) {
        self.add_ahead(Data::Whole(event));
    }

    fn add_ahead(&mut self, data: Data) {
        let corked = std::mem::take(&mut self.corked);
        self.add(1, data, None, false);
        let last = self.queue.pop_back().expect("the frame has just been queued");
        self.queue.insert(self.queue.len() - corked, last);
        self.corked = corked;
    }

    /// Queues a frame that the next frame under the same key replaces.
    pub(super) fn push_latest(&mut self, key: u64, frame: Bytes, corked: bool) {
        self.add(1, Data::Owned(frame), Some(key), corked);
    }

    /// The same for an event.
    pub(super) fn push_latest_whole(&mut self, key: u64, event: Bytes, corked: bool) {
        self.add(1, Data::Whole(event), Some(key), corked);
    }

    /// Queues frames that lie in a buffer of this turn. Before the turn ends, [`materialize`](Self::materialize) must
    /// be called if some of them are still queued.
    pub(super) fn push_range(&mut self, range: FrameRange, corked: bool) {
        if corked != (self.corked > 0) {
            self.add(range.frames(), Data::Shared(range), None, corked);
        } else if let Some(Queued { data: Data::Shared(last), frames, .. }) = self.queue.back_mut()
            && last.extend(&range)
        {
            self.bytes += range.len();
            self.frames += range.frames();
            *frames += range.frames() as u32;
        } else {
            self.add(range.frames(), Data::Shared(range), None, corked);
        }
    }

    fn add(&mut self, frames: usize, data: Data, latest: Option<u64>, corked: bool) {
        self.bytes += data.len();
        self.frames += frames;
        self.corked = if corked { self.corked + 1 } else { 0 };
        self.queue.push_back(Queued { data, frames: frames as u32, latest });
    }

    /// Number of queue entries that may be written.
    fn ready(&self) -> usize {
        self.queue.len() - self.corked
    }

    /// Whether any queued frame may be written.
    pub(super) fn is_ready(&self) -> bool {
        self.ready() > 0
    }

    /// Whether any queued frame is corked.
    pub(super) fn is_corked(&self) -> bool {
        self.corked > 0
    }

    /// Makes the corked frames ready to be written.
    pub(super) fn uncork(&mut self) {
        self.corked = 0;
    }

    /// Copies the queued frames that lie in a buffer of the broadcast log, because the turn is about to end.
    pub(super) fn materialize(&mut self, broadcast_log: &BroadcastLog) {
        if !self.queue.iter().any(|queued| matches!(queued.data, Data::Shared(_))) {
            return;
        }
        for (index, queued) in self.queue.iter_mut().enumerate() {
            if let Data::Shared(range) = &queued.data {
                let bytes = broadcast_log.bytes(range);
                let sent = if index == 0 { whole_frames(bytes, self.written) } else { 0 };
                queued.data = Data::Owned(Bytes::copy_from_slice(&bytes[sent..]));
                self.written -= sent;
            }
        }
    }

    /// Drops the frame that is queued under `key`, if there is one and no byte of it has been written. Returns whether
    /// a frame was dropped.
    ///
    /// The caller queues the newer frame at the end, not in the old position: it may refer to frames that were queued
    /// in between.
    pub(super) fn drop_latest(&mut self, key: u64) -> bool {
        let partly_sent = usize::from(self.written > 0);
        let Some(at) = self.queue.iter().skip(partly_sent).position(|queued| queued.latest == Some(key)) else {
            return false;
        };
        self.corked -= usize::from(partly_sent + at >= self.ready());
        let dropped = self.queue.remove(partly_sent + at).expect("position() has found the entry");
        self.bytes -= dropped.data.len();
        self.frames -= 1;
        true
    }

    /// Queued bytes plus overhead per frame, as counted against `max_outbound_bytes`.
    pub(super) fn cost(&self) -> usize {
        self.bytes + self.frames * FRAME_OVERHEAD
    }

    /// Number of queued bytes that have not been written.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Drops every frame of which no byte has been written. Returns the number of dropped frames.
    ///
    /// A partly written frame is kept: the peer could not parse the stream without its rest. The HTTP responses are
    /// kept too.
    pub(super) fn discard_unsent(&mut self, broadcast_log: &BroadcastLog) -> usize {
        let before = self.frames;
        self.corked = 0;
        let kept = self.answers.max(usize::from(self.written > 0));
        if kept == 0 {
            self.queue.clear();
            (self.bytes, self.frames) = (0, 0);
            return before;
        }
        self.queue.truncate(kept);
        let first = &mut self.queue[0];
        if !matches!(first.data, Data::Whole(_)) {
            // An entry may have several frames. Only the partly written one is kept, if there is one.
            let bytes = first.data.bytes(broadcast_log);
            let start = whole_frames(bytes, self.written);
            if start == self.written {
                self.clear();
                return before;
            }
            let end = start + frame_length(&bytes[start..]);
            if (start, end) != (0, bytes.len()) {
                first.data = Data::Owned(Bytes::copy_from_slice(&bytes[start..end]));
            }
            self.written -= start;
        }
        first.frames = 1;
        self.bytes = self.queue.iter().map(|queued| queued.data.len()).sum::<usize>() - self.written;
        self.frames = kept;
        before - kept
    }

    /// Drops all frames, including a partly written one, and resets all counts.
    fn clear(&mut self) {
        self.queue.clear();
        *self = Outbox { queue: std::mem::take(&mut self.queue), ..Outbox::default() };
    }

    /// Writes until all frames that are not corked are written, or the socket takes no more. Returns the number of
    /// bytes written, and whether all were written.
    ///
    /// `scratch` is the buffer in which several small pieces are copied together.
    ///
    /// # Errors
    ///
    /// Errors of the socket, except `WouldBlock` and `Interrupted`; `WriteZero` if the socket takes no byte.
    pub(super) fn write_to(
        &mut self,
        socket: &mut dyn Write,
        broadcast_log: &BroadcastLog,
        scratch: &mut Vec<u8>,
    ) -> io::Result<(usize, bool)> {
        let mut total = 0;
        while self.is_ready() {
            match self.write_once(socket, broadcast_log, scratch) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => {
                    total += n;
                    self.advance(n, broadcast_log);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok((total, false)),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok((total, true))
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

    /// Removes the first `n` bytes, which have been written.
    pub(super) fn advance(&mut self, mut n: usize, broadcast_log: &BroadcastLog) {
        self.bytes -= n;
        if self.bytes == 0 {
            // The usual case: a single entry, written as a whole.
            if self.queue.len() == 1 {
                self.queue.pop_front();
            } else {
                self.queue.clear();
            }
            (self.written, self.frames, self.answers) = (0, 0, 0);
            return;
        }
        while n > 0 {
            let first = &mut self.queue[0];
            let rest = first.data.len() - self.written;
            if n < rest {
                let before = self.written;
                self.written += n;
                if first.frames > 1 {
                    let sent = count_whole(first.data.bytes(broadcast_log), before, self.written);
                    first.frames -= sent as u32;
                    self.frames -= sent;
                }
                return;
            }
            n -= rest;
            self.written = 0;
            self.answers = self.answers.saturating_sub(1);
            self.frames -= first.frames as usize;
            self.queue.pop_front();
        }
    }

    /// Asserts the invariants that hold between calls.
    pub(super) fn check(&self) {
        let queued: usize = self.queue.iter().map(|queued| queued.data.len()).sum();
        assert_eq!(self.bytes + self.written, queued, "the byte count is the sum over the queue");
        let frames: usize = self.queue.iter().map(|queued| queued.frames as usize).sum();
        assert_eq!(self.frames, frames, "the frame count is the sum over the queue");
        assert!(
            self.corked <= self.queue.len() && (self.written == 0 || self.is_ready()),
            "a partly written frame is not corked"
        );
        assert!(self.queue.front().map_or(self.written == 0, |first| self.written < first.data.len()));
    }

    /// Whether any queued frame lies in a buffer of the broadcast log, which lasts only until the end of the turn.
    pub(super) fn has_ranges(&self) -> bool {
        self.queue.iter().any(|queued| matches!(queued.data, Data::Shared(_)))
    }
}

/// Length of the frame at the start of `bytes`: unmasked, as servers send frames (RFC 6455 section 5.2).
fn frame_length(bytes: &[u8]) -> usize {
    let payload = match bytes[1] {
        126 => usize::from(u16::from_be_bytes([bytes[2], bytes[3]])),
        127 => u64::from_be_bytes(bytes[2..10].try_into().expect("eight bytes")) as usize,
        length => usize::from(length),
    };
    header_length(bytes) + payload
}

/// Length in bytes of the frames that end at or before `written`.
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

/// Number of frames that end after `before` and at or before `written`.
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
    use crate::ws::frame::{Frame, Outgoing};

    /// Socket that takes at most `step` bytes a call and blocks every other call.
    struct ShortWriter {
        step: usize,
        block: bool,
        got: Vec<u8>,
    }

    impl Write for ShortWriter {
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
    fn short_writes_neither_lose_nor_repeat_bytes() {
        for step in 1..40 {
            let mut outbox = Outbox::default();
            let mut expected = Vec::new();
            for n in 0..200u8 {
                let frame = vec![n; usize::from(n % 7) + 1];
                expected.extend_from_slice(&frame);
                outbox.push(frame.into(), false);
            }
            let mut socket = ShortWriter { step, block: false, got: Vec::new() };
            while !outbox
                .write_to(&mut socket, &BroadcastLog::default(), &mut Vec::new())
                .expect("the socket never fails")
                .1
            {
                outbox.check();
            }
            assert_eq!(socket.got, expected);
            assert_eq!((outbox.bytes(), outbox.cost()), (0, 0));
        }
    }

    #[test]
    fn a_partly_written_frame_is_completed() {
        let mut outbox = Outbox::default();
        outbox.push(Bytes::from_static(b"\x81\x05begun"), false);
        outbox.push(Bytes::from_static(b"\x81\x03not"), false);
        outbox.advance(4, &BroadcastLog::default());
        assert_eq!(outbox.discard_unsent(&BroadcastLog::default()), 1);
        outbox.check();
        let mut socket = ShortWriter { step: 100, block: true, got: Vec::new() };
        assert_eq!(
            outbox.write_to(&mut socket, &BroadcastLog::default(), &mut Vec::new()).expect("the socket never fails"),
            (3, true)
        );
        assert_eq!(socket.got, b"gun");
    }

    #[test]
    fn corked_frames_are_overtaken_and_follow_when_uncorked() {
        let (mut broadcast_log, mut outbox, mut got) = (BroadcastLog::default(), Outbox::default(), Vec::new());
        let mut write = |outbox: &mut Outbox, broadcast_log: &BroadcastLog| {
            outbox.check();
            outbox.write_to(&mut got, broadcast_log, &mut Vec::new()).expect("a vector takes all bytes");
            String::from_utf8_lossy(&std::mem::take(&mut got)).replace(['\u{1}', '\u{2}', '\u{fffd}'], "")
        };
        outbox.push(Bytes::from_static(b"a"), false);
        outbox.push(Bytes::from_static(b"d"), true);
        outbox.push_range(broadcast_log.append_unicast(Outgoing::Text("e")).expect("the frame is small"), true);
        outbox.push_range(broadcast_log.append_unicast(Outgoing::Text("f")).expect("the frame is small"), true);
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
    fn a_latest_frame_replaces_its_unsent_predecessor() {
        let mut outbox = Outbox::default();
        outbox.push_latest(7, Bytes::from_static(b"old"), false);
        outbox.push(Bytes::from_static(b"event"), false);
        outbox.push_latest(8, Bytes::from_static(b"other"), false);
        assert!(outbox.drop_latest(7) && !outbox.drop_latest(9));
        outbox.push_latest(7, Bytes::from_static(b"new"), false);
        outbox.check();
        // All frames before `new` and one byte of `new` are written, so `new` must be completed and is not replaced.
        outbox.advance(5 + 5 + 1, &BroadcastLog::default());
        assert!(!outbox.drop_latest(7));
        outbox.push_latest(7, Bytes::from_static(b"newer"), false);
        outbox.check();
        assert_eq!(outbox.bytes(), 2 + 5);
    }

    /// Eight frames in one range, of which some bytes are written. The rest is copied or discarded; the peer gets whole
    /// frames.
    #[test]
    fn a_shared_range_is_written_copied_and_discarded_by_frames() {
        for written in 0..60 {
            for (materialized, discarded) in [(false, false), (true, false), (false, true), (true, true)] {
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
                let whole = whole.max().expect("zero frames always fit");
                assert_eq!(outbox.cost(), all.len() - written + (8 - whole) * FRAME_OVERHEAD);
                if materialized {
                    outbox.materialize(&broadcast_log);
                    broadcast_log.end_turn();
                }
                let has_partial = frames[..whole].iter().map(|f| f.as_bytes().len()).sum::<usize>() < written;
                if discarded {
                    assert_eq!(outbox.discard_unsent(&broadcast_log), 8 - whole - usize::from(has_partial));
                }
                outbox.check();
                let mut rest = Vec::new();
                outbox.write_to(&mut rest, &broadcast_log, &mut Vec::new()).expect("a vector takes all bytes");
                let kept = if discarded { whole + usize::from(has_partial) } else { 8 };
                let end = frames[..kept].iter().map(|f| f.as_bytes().len()).sum::<usize>();
                assert_eq!(rest, &all[written..end.max(written)], "{written} bytes written");
            }
        }
    }
}
