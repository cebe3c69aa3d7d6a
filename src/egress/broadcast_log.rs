//! The frames broadcast in one turn, encoded once, in one buffer per lobby.
//!
//! Knows lobbies and connections only as keys. Writes to no socket and enforces no bound on a member's queue.
//!
//! A broadcast is appended to the lobby's buffer, and to no member's queue. Each member has a [`Cursor`]: the number of
//! its lobby's frames that it has read. When the member is written to, it reads the frames after its cursor. A frame
//! can exclude one connection, usually its sender. If no unread frame excludes the member, the unread frames are the
//! end of the buffer, in one piece and without a copy. Otherwise they are the pieces between the excluded frames.
//!
//! The buffers are cleared at the end of the turn. Before that, an [`Outbox`](super::outbox::Outbox) copies the frames
//! that its socket has not taken.
//!
//! Some members take compressed frames. The first of them that reads a lobby's frames has them compressed, into a second
//! buffer with the same frames in the same order, for all of them. A frame that would become no smaller is copied. So what
//! such a member reads is never longer than the frames in the first buffer, to which the bounds apply.
//!
//! A lagging member, whose socket is blocked or whose queue is long, does not read the log. Broadcasts are queued for
//! it frame by frame, so that each frame is checked against its bound.

use std::ops::Range;

use super::cursor::Cursor;
use super::turn_frames::TurnFrames;
use crate::base::arena::Key;
use crate::base::id::{ConnKey, LobbyKey};
use crate::config::memory::FRAME_OVERHEAD;
use crate::ws::deflate::Compressor;
use crate::ws::frame::Outgoing;

/// Most bytes of memory that a buffer keeps from one turn to the next.
const IDLE_CAPACITY: usize = 64 * 1024;
/// The longest frame that is copied into a buffer. To copy this much takes about as long as a system call.
const MAX_FRAME: usize = 16 * 1024;

/// Consecutive frames in a buffer of this turn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct FrameRange {
    buffer: u32,
    range: Range<u32>,
    frames: u32,
}

impl FrameRange {
    pub(super) fn len(&self) -> usize {
        self.range.len()
    }

    pub(super) fn frames(&self) -> usize {
        self.frames as usize
    }

    /// Bytes plus overhead per frame, as counted against `max_outbound_bytes`.
    pub(super) fn cost(&self) -> usize {
        self.len() + self.frames() * FRAME_OVERHEAD
    }

    /// Extends the range by `next`, if `next` follows it directly. Returns whether it does.
    pub(super) fn extend(&mut self, next: &FrameRange) -> bool {
        let follows = self.buffer == next.buffer && self.range.end == next.range.start;
        if follows {
            self.range.end = next.range.end;
            self.frames += next.frames;
        }
        follows
    }
}

/// The form of the frames that a member reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Encoding {
    Plain,
    Compressed,
}

/// The connections that do not read a frame from a lobby's buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Excluded {
    None,
    /// The connection under this key, usually the sender's.
    Conn(ConnKey),
    /// All connections: the frame is queued for each receiver individually.
    All,
}

/// Returns the exclusion as a number, so that many can be compared at once.
fn exclusion_number(except: Excluded) -> u32 {
    match except {
        Excluded::None => NO_EXCLUSION,
        Excluded::Conn(key) => key.index() as u32,
        Excluded::All => EXCLUDES_ALL,
    }
}

const NO_EXCLUSION: u32 = u32::MAX;
const EXCLUDES_ALL: u32 = u32::MAX - 1;

/// Whether a frame excludes the connection under `conn`.
fn is_excluded(conn: u32, except: u32) -> bool {
    except == conn || except == EXCLUDES_ALL
}

/// The buffers of one turn.
#[derive(Debug, Default)]
pub(super) struct BroadcastLog {
    buffers: Vec<Buffer>,
    /// Number of buffers in use in this turn, from the front.
    used: usize,
    /// The buffer for frames with a single receiver, if this turn has one.
    unicast_buffer: Option<u32>,
    /// By the key of a lobby.
    lobbies: Vec<LobbyLog>,
    /// Number of turns that have ended. Turns are numbered from 1, so that 0 in a [`LobbyLog`] means no turn.
    turn: u64,
}

#[derive(Debug, Default)]
struct Buffer {
    bytes: Vec<u8>,
    /// Where each frame ends.
    ends: Vec<u32>,
    /// For each frame its [exclusion](exclusion_number).
    excluded: Vec<u32>,
}

/// State of the log under one lobby key. Lobbies that have the key one after another share it.
#[derive(Debug, Default)]
struct LobbyLog {
    /// The turn of the last append, and the buffer used in that turn.
    turn: u64,
    buffer: u32,
    /// The buffer with the frames of that turn for members that take compressed ones, once one of them has read it.
    compressed: Option<u32>,
    /// Whether the members have still to be written to in this turn.
    is_marked_for_flush: bool,
    /// Number of frames ever appended.
    appended: u64,
    /// Number of members that take compressed frames.
    compressed_members: u32,
    /// Keys of the connections of lagging members.
    lagging: Vec<ConnKey>,
}

impl BroadcastLog {
    /// Appends a frame to the log of the lobby under `key`.
    ///
    /// Returns `None` for a frame above [`MAX_FRAME`], or when the buffer is full, at 4 GiB. The caller then queues the
    /// frame for each receiver.
    pub(super) fn append(&mut self, key: LobbyKey, frame: Outgoing<'_>, except: Excluded) -> Option<FrameRange> {
        let index = self.buffer_of(key);
        let range = self.append_to_buffer(index, frame, except)?;
        self.lobbies[key.index()].appended += 1;
        Some(range)
    }

    /// Appends a frame for a single receiver, for its outbox to refer to. Returns `None` as [`append`](Self::append)
    /// does.
    pub(super) fn append_unicast(&mut self, frame: Outgoing<'_>) -> Option<FrameRange> {
        let index = match self.unicast_buffer {
            Some(index) => index,
            None => *self.unicast_buffer.insert(BroadcastLog::use_buffer(&mut self.buffers, &mut self.used)),
        };
        self.append_to_buffer(index, frame, Excluded::All)
    }

    fn append_to_buffer(&mut self, index: u32, frame: Outgoing<'_>, except: Excluded) -> Option<FrameRange> {
        let buffer = &mut self.buffers[index as usize];
        if frame.len() > MAX_FRAME {
            return None;
        }
        let start = buffer.bytes.len() as u32;
        let end = u32::try_from(buffer.bytes.len() + frame.len()).ok()?;
        frame.append_to(&mut buffer.bytes);
        buffer.ends.push(end);
        buffer.excluded.push(exclusion_number(except));
        Some(FrameRange { buffer: index, range: start..end, frames: 1 })
    }

    /// The lobby's buffer of this turn. Takes an unused buffer for the lobby's first frame of the turn.
    fn buffer_of(&mut self, key: LobbyKey) -> u32 {
        if key.index() >= self.lobbies.len() {
            self.lobbies.resize_with(key.index() + 1, LobbyLog::default);
        }
        let lobby = &mut self.lobbies[key.index()];
        if lobby.turn != self.turn + 1 {
            lobby.turn = self.turn + 1;
            lobby.compressed = None;
            lobby.buffer = BroadcastLog::use_buffer(&mut self.buffers, &mut self.used);
        }
        lobby.buffer
    }

    fn use_buffer(buffers: &mut Vec<Buffer>, used: &mut usize) -> u32 {
        *used += 1;
        if *used > buffers.len() {
            buffers.push(Buffer::default());
        }
        *used as u32 - 1
    }

    /// Marks the lobby's members as still to be written to. Returns false if they were marked already.
    pub(super) fn mark_for_flush(&mut self, key: LobbyKey) -> bool {
        !std::mem::replace(&mut self.lobbies[key.index()].is_marked_for_flush, true)
    }

    /// Removes the mark, as the lobby's members are about to be written to.
    pub(super) fn unmark_for_flush(&mut self, key: LobbyKey) {
        self.lobbies[key.index()].is_marked_for_flush = false;
    }

    pub(super) fn is_marked_for_flush(&self, key: LobbyKey) -> bool {
        self.lobbies.get(key.index()).is_some_and(|lobby| lobby.is_marked_for_flush)
    }

    /// The cursor behind the last frame: a member with this cursor has no unread frames.
    pub(super) fn end_cursor(&self, key: LobbyKey) -> Cursor {
        Cursor(self.lobbies.get(key.index()).map_or(0, |lobby| lobby.appended))
    }

    /// Whether the lobby has frames after `cursor`.
    pub(super) fn has_unread(&self, key: LobbyKey, cursor: Cursor) -> bool {
        self.lobbies.get(key.index()).is_some_and(|lobby| lobby.appended != cursor.0)
    }

    /// Cost of all frames of this turn and of `frame`, for a member that reads all of them.
    pub(super) fn cost_with(&self, key: LobbyKey, frame: Outgoing<'_>) -> usize {
        let (bytes, frames) =
            self.current_buffer(key).map_or((0, 0), |(_, buffer)| (buffer.bytes.len(), buffer.ends.len()));
        bytes + frame.len() + (frames + 1) * FRAME_OVERHEAD
    }

    /// The lobby's buffer, if a frame was appended in this turn.
    fn current_buffer(&self, key: LobbyKey) -> Option<(u32, &Buffer)> {
        let lobby = self.lobbies.get(key.index()).filter(|lobby| lobby.turn == self.turn + 1)?;
        Some((lobby.buffer, &self.buffers[lobby.buffer as usize]))
    }

    /// Prepares the frames that the connection under `conn` has to read in this form: compresses the lobby's frames of this
    /// turn that were not read in it before. Returns the form to read them in.
    #[inline]
    pub(super) fn prepare(
        &mut self,
        key: LobbyKey,
        cursor: Cursor,
        conn: ConnKey,
        encoding: Encoding,
        compressor: &mut Compressor,
    ) -> Encoding {
        match encoding {
            Encoding::Plain => Encoding::Plain,
            Encoding::Compressed => self.prepare_compressed(key, cursor, conn, compressor),
        }
    }

    // Not inlined: plain frames must not pay for it.
    #[cold]
    #[inline(never)]
    fn prepare_compressed(
        &mut self,
        key: LobbyKey,
        cursor: Cursor,
        conn: ConnKey,
        compressor: &mut Compressor,
    ) -> Encoding {
        // A member that reads nothing, because it is the sender, needs nothing compressed.
        if self.unread_frames(key, cursor, conn, Encoding::Plain).next().is_none() {
            return Encoding::Plain;
        }
        self.compress(key, compressor);
        Encoding::Compressed
    }

    /// Compresses the lobby's frames of this turn that were not compressed before.
    fn compress(&mut self, key: LobbyKey, compressor: &mut Compressor) {
        let Some((index, _)) = self.current_buffer(key) else { return };
        let BroadcastLog { buffers, used, lobbies, .. } = self;
        let compressed =
            *lobbies[key.index()].compressed.get_or_insert_with(|| BroadcastLog::use_buffer(buffers, used));
        let [plain, compressed] =
            buffers.get_disjoint_mut([index as usize, compressed as usize]).expect("the lobby has two buffers");
        for at in compressed.ends.len()..plain.ends.len() {
            // A frame that is queued for each receiver is compressed then, if at all.
            if plain.excluded[at] != EXCLUDES_ALL {
                compressor.append(plain.frame(at), &mut compressed.bytes);
            }
            compressed.ends.push(compressed.bytes.len() as u32);
        }
    }

    /// The last frame of the lobby's log, in the form for members that take compressed frames. It was appended in this turn.
    pub(super) fn compress_last(&mut self, key: LobbyKey, compressor: &mut Compressor) -> FrameRange {
        self.compress(key, compressor);
        let plain = self.current_buffer(key).expect("a frame was appended in this turn");
        let (buffer, Buffer { ends, .. }) = self.encoded(key, Encoding::Compressed, plain);
        let last = ends.len() - 1;
        FrameRange { buffer, range: start_of(ends, last)..ends[last], frames: 1 }
    }

    /// The lobby's buffer of this turn in this form. The caller has called [`prepare`](Self::prepare).
    #[inline]
    fn encoded<'a>(&'a self, key: LobbyKey, encoding: Encoding, plain: (u32, &'a Buffer)) -> (u32, &'a Buffer) {
        if encoding == Encoding::Plain {
            return plain;
        }
        let index = self.lobbies[key.index()].compressed.expect("the frames were compressed");
        let buffer = &self.buffers[index as usize];
        debug_assert_eq!(buffer.ends.len(), plain.1.ends.len(), "both buffers have the same frames");
        (index, buffer)
    }

    /// The frames after `cursor` in the log of the lobby under `key`, without those that exclude the connection under
    /// `conn`. The caller has called [`prepare`](Self::prepare).
    pub(super) fn unread_frames(
        &self,
        key: LobbyKey,
        cursor: Cursor,
        conn: ConnKey,
        encoding: Encoding,
    ) -> UnreadFrames<'_> {
        let Some(plain) = self.current_buffer(key) else { return UnreadFrames::default() };
        let (index, buffer) = self.encoded(key, encoding, plain);
        let next = self.first_unread(key, cursor, buffer);
        UnreadFrames { index, ends: &buffer.ends, excluded: &plain.1.excluded, next, conn: conn.index() as u32 }
    }

    /// The bytes of the same frames, if they lie in one piece; `None` if an excluded frame lies among them.
    pub(super) fn contiguous_unread(
        &self,
        key: LobbyKey,
        cursor: Cursor,
        conn: ConnKey,
        encoding: Encoding,
    ) -> Option<&[u8]> {
        let Some(plain) = self.current_buffer(key) else { return Some(&[]) };
        let (_, buffer) = self.encoded(key, encoding, plain);
        let from = self.first_unread(key, cursor, buffer);
        // A fold without early exit, so that the compiler compares many at once.
        let has_excluded =
            plain.1.excluded[from..].iter().fold(false, |any, &except| any | is_excluded(conn.index() as u32, except));
        let start = start_of(&buffer.ends, from);
        (!has_excluded).then(|| &buffer.bytes[start as usize..])
    }

    /// Index of the first frame after `cursor` in the lobby's buffer of this turn.
    fn first_unread(&self, key: LobbyKey, cursor: Cursor, buffer: &Buffer) -> usize {
        let unread = (self.lobbies[key.index()].appended - cursor.0).min(buffer.ends.len() as u64);
        buffer.ends.len() - unread as usize
    }

    /// Lists the lobby's frames of this turn.
    pub(super) fn list_frames(&self, key: LobbyKey, list: &mut TurnFrames) {
        list.lobby = None;
        list.excluded.clear();
        let Some((index, buffer)) = self.current_buffer(key) else { return };
        for (at, &except) in buffer.excluded.iter().enumerate() {
            if except == EXCLUDES_ALL {
                return;
            }
            if except != NO_EXCLUSION {
                let range = start_of(&buffer.ends, at)..buffer.ends[at];
                list.excluded.push((ConnKey::new(except as usize), range));
            }
        }
        let end = self.lobbies[key.index()].appended;
        (list.first, list.end) = (Cursor(end - buffer.ends.len() as u64), Cursor(end));
        (list.buffer, list.length) = (index, buffer.bytes.len() as u32);
        list.lobby = Some(key);
    }

    /// All bytes of a buffer of this turn.
    #[inline]
    pub(super) fn buffer_bytes(&self, buffer: u32) -> &[u8] {
        &self.buffers[buffer as usize].bytes
    }

    pub(super) fn bytes(&self, range: &FrameRange) -> &[u8] {
        &self.buffers[range.buffer as usize].bytes[range.range.start as usize..range.range.end as usize]
    }

    /// Ends the turn and clears its buffers. No outbox may refer to them any more.
    pub(super) fn end_turn(&mut self) {
        for buffer in &mut self.buffers[..self.used] {
            buffer.clear();
        }
        // After a turn with many active lobbies, frees unused buffers by halves.
        self.buffers.truncate(self.used.max(self.buffers.len() / 2));
        self.used = 0;
        self.unicast_buffer = None;
        self.turn += 1;
    }

    pub(super) fn is_empty(&self) -> bool {
        self.used == 0
    }

    // ---- members that take compressed frames ----

    /// Number of the lobby's members that take compressed frames.
    #[inline]
    pub(super) fn compressed_members(&self, key: LobbyKey) -> u32 {
        self.lobbies.get(key.index()).map_or(0, |lobby| lobby.compressed_members)
    }

    /// The same in all lobbies.
    pub(super) fn all_compressed_members(&self) -> usize {
        self.lobbies.iter().map(|lobby| lobby.compressed_members as usize).sum()
    }

    /// Counts a member that takes compressed frames.
    pub(super) fn add_compressed_member(&mut self, key: LobbyKey) {
        self.lobby_mut(key).compressed_members += 1;
    }

    /// Such a member has left.
    pub(super) fn remove_compressed_member(&mut self, key: LobbyKey) {
        self.lobby_mut(key).compressed_members -= 1;
    }

    fn lobby_mut(&mut self, key: LobbyKey) -> &mut LobbyLog {
        if key.index() >= self.lobbies.len() {
            self.lobbies.resize_with(key.index() + 1, LobbyLog::default);
        }
        &mut self.lobbies[key.index()]
    }

    // ---- lagging members ----

    /// Keys of the connections of the lobby's lagging members.
    pub(super) fn lagging(&self, key: LobbyKey) -> &[ConnKey] {
        self.lobbies.get(key.index()).map_or(&[], |lobby| &lobby.lagging)
    }

    pub(super) fn mark_lagging(&mut self, key: LobbyKey, conn: ConnKey) {
        self.lobby_mut(key).lagging.push(conn);
    }

    pub(super) fn clear_lagging(&mut self, key: LobbyKey, conn: ConnKey) {
        let lagging = &mut self.lobbies[key.index()].lagging;
        let at = lagging.iter().position(|&other| other == conn).expect("the connection was marked as lagging");
        lagging.swap_remove(at);
        if lagging.is_empty() {
            *lagging = Vec::new();
        }
    }
}

/// Where the frame with this index begins in its buffer. `ends`: where each frame ends.
#[inline]
fn start_of(ends: &[u32], at: usize) -> u32 {
    if at == 0 { 0 } else { ends[at - 1] }
}

impl Buffer {
    /// The frame with this index.
    fn frame(&self, at: usize) -> &[u8] {
        &self.bytes[start_of(&self.ends, at) as usize..self.ends[at] as usize]
    }

    fn clear(&mut self) {
        self.bytes.clear();
        self.bytes.shrink_to(IDLE_CAPACITY);
        self.ends.clear();
        self.ends.shrink_to(IDLE_CAPACITY / FRAME_OVERHEAD);
        self.excluded.clear();
        self.excluded.shrink_to(IDLE_CAPACITY / FRAME_OVERHEAD);
    }
}

/// Iterator over a member's unread frames. Yields a range for each run of frames that do not exclude the member.
#[derive(Clone, Default)]
pub(super) struct UnreadFrames<'a> {
    index: u32,
    ends: &'a [u32],
    excluded: &'a [u32],
    /// Index of the first frame that has not been examined.
    next: usize,
    conn: u32,
}

impl UnreadFrames<'_> {
    fn range_of(&self, from: usize, to: usize) -> FrameRange {
        let range = start_of(self.ends, from)..self.ends[to - 1];
        FrameRange { buffer: self.index, range, frames: (to - from) as u32 }
    }
}

impl Iterator for UnreadFrames<'_> {
    type Item = FrameRange;

    fn next(&mut self) -> Option<FrameRange> {
        let rest = &self.excluded[self.next..];
        let from = self.next + rest.iter().position(|&except| !is_excluded(self.conn, except))?;
        let length = self.excluded[from..].iter().position(|&except| is_excluded(self.conn, except));
        let to = length.map_or(self.ends.len(), |length| from + length);
        self.next = to;
        Some(self.range_of(from, to))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::random::Random;

    /// Compares many turns of several lobbies with a list of all frames appended.
    #[test]
    fn unread_frames_are_those_since_the_cursor_without_the_excluded() {
        for seed in 0..200 {
            let mut random = Random::new(seed);
            let (mut broadcast_log, mut compressor) = (BroadcastLog::default(), Compressor::default());
            let mut cursors = [[Cursor::default(); 4]; 3];
            for _ in 0..4 {
                let mut appended: Vec<(usize, Excluded, Vec<u8>)> = Vec::new();
                let mut read = [[0; 4]; 3];
                for _ in 0..random.below(30) {
                    let (lobby, conn) = (random.below(3) as usize, random.below(4) as usize);
                    if random.percent(20) {
                        cursors[lobby][conn] = broadcast_log.end_cursor(LobbyKey::new(lobby));
                        read[lobby][conn] = appended.len();
                        continue;
                    }
                    let except = match random.below(4) {
                        0 => Excluded::None,
                        1 => Excluded::All,
                        _ => Excluded::Conn(ConnKey::new(conn)),
                    };
                    let text = "x".repeat(random.below(9) as usize * if random.percent(20) { 100 } else { 1 });
                    let range = broadcast_log
                        .append(LobbyKey::new(lobby), Outgoing::Text(&text), except)
                        .expect("there is room");
                    appended.push((lobby, except, broadcast_log.bytes(&range).to_vec()));
                }
                for lobby in 0..3 {
                    for conn in 0..4 {
                        let is_for = |except| except != Excluded::All && except != Excluded::Conn(ConnKey::new(conn));
                        let unread = appended[read[lobby][conn]..].iter().filter(|(at, ..)| *at == lobby);
                        let has_excluded = unread.clone().any(|&(_, except, _)| !is_for(except));
                        let expected: Vec<_> = unread.filter(|&&(_, except, _)| is_for(except)).collect();
                        let (key, cursor, conn) = (LobbyKey::new(lobby), cursors[lobby][conn], ConnKey::new(conn));
                        let encoding = if random.percent(50) { Encoding::Plain } else { Encoding::Compressed };
                        let encoding = broadcast_log.prepare(key, cursor, conn, encoding, &mut compressor);
                        let frames = broadcast_log.unread_frames(key, cursor, conn, encoding);
                        assert_eq!(frames.clone().map(|range| range.frames()).sum::<usize>(), expected.len());
                        let bytes: Vec<u8> =
                            frames.clone().flat_map(|range| broadcast_log.bytes(&range).to_vec()).collect();
                        let mut expected_bytes = Vec::new();
                        for (.., frame) in expected {
                            match encoding {
                                Encoding::Plain => expected_bytes.extend_from_slice(frame),
                                Encoding::Compressed => Compressor::default().append(frame, &mut expected_bytes),
                            }
                        }
                        assert_eq!(bytes, expected_bytes);
                        let contiguous = broadcast_log.contiguous_unread(key, cursor, conn, encoding);
                        assert_eq!(contiguous, (!has_excluded).then_some(&*bytes), "seed {seed}");
                    }
                }
                broadcast_log.end_turn();
                assert!(
                    broadcast_log.is_empty()
                        && broadcast_log
                            .unread_frames(LobbyKey::new(0), Cursor::default(), ConnKey::new(0), Encoding::Plain)
                            .next()
                            .is_none()
                );
                for (lobby, cursors) in cursors.iter_mut().enumerate() {
                    // Half of the members read to the end. Frames that the others left unread end with the turn.
                    cursors
                        .iter_mut()
                        .filter(|_| random.percent(50))
                        .for_each(|cursor| *cursor = broadcast_log.end_cursor(LobbyKey::new(lobby)));
                }
            }
        }
    }

    #[test]
    fn large_frames_are_not_copied() {
        let text = "x".repeat(MAX_FRAME);
        assert_eq!(BroadcastLog::default().append(LobbyKey::new(0), Outgoing::Text(&text), Excluded::None), None);
        assert_eq!(BroadcastLog::default().append_unicast(Outgoing::Text(&text)), None);
        let mut broadcast_log = BroadcastLog::default();
        let first = broadcast_log.append_unicast(Outgoing::Text("one")).expect("the frame is small");
        let mut both = first.clone();
        assert!(both.extend(&broadcast_log.append_unicast(Outgoing::Text("two")).expect("the frame is small")));
        assert_eq!((both.frames(), broadcast_log.bytes(&both)), (2, &b"\x81\x03one\x81\x03two"[..]));
    }
}
