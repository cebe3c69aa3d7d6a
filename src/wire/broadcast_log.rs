//! What is said in one turn, encoded once, in one buffer for each lobby.
//!
//! A frame for a whole lobby is appended to the lobby's buffer and to nobody's queue. Each member has a [`Cursor`]: how
//! much of what its lobby said it has taken. When the member is written to, its share is what lies behind its cursor; for
//! whoever said nothing itself that is the buffer as it stands, in one piece and without a copy. Only what the member
//! itself said is cut out of it.
//!
//! The buffers last for one turn. What a socket did not take until then is copied by its [`Outbox`](super::outbox::Outbox).
//!
//! Members who are behind, because their sockets take nothing or much is queued for them, take no share: what is said is
//! queued for them frame by frame, so that each frame can be held against their bounds.

use std::ops::Range;

use super::frame::Outgoing;
use super::outbox::FRAME_OVERHEAD;

/// What a buffer may keep of its memory from one turn to the next.
const IDLE_CAPACITY: usize = 64 * 1024;
/// The longest frame that is copied into a buffer: about as much as costs a system call's time to copy.
const MAX_FRAME: usize = 16 * 1024;

/// Frames that follow each other in a buffer of this turn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FrameRange {
    buffer: u32,
    range: Range<u32>,
    frames: u32,
}

impl FrameRange {
    pub(crate) fn len(&self) -> usize {
        self.range.len()
    }

    pub(crate) fn frames(&self) -> usize {
        self.frames as usize
    }

    /// What the frames count against a bound of queued bytes.
    pub(crate) fn cost(&self) -> usize {
        self.len() + self.frames() * FRAME_OVERHEAD
    }

    /// Takes `next` in, if it lies just behind.
    pub(super) fn extend(&mut self, next: &FrameRange) -> bool {
        let follows = self.buffer == next.buffer && self.range.end == next.range.start;
        if follows {
            self.range.end = next.range.end;
            self.frames += next.frames;
        }
        follows
    }
}

/// How many of a lobby's frames a member has taken, of all there ever were.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Cursor(u64);

/// Who takes no share of a frame in a lobby's buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Excluded {
    Nobody,
    /// The connection under this key: usually the one that said it.
    Conn(usize),
    /// It is queued for each receiver by hand.
    Everybody,
}

/// The same as a number, so that many can be looked through at once.
fn encode(except: Excluded) -> u32 {
    match except {
        Excluded::Nobody => u32::MAX,
        Excluded::Conn(key) => key as u32,
        Excluded::Everybody => EVERYBODY,
    }
}

const EVERYBODY: u32 = u32::MAX - 1;

/// Whether a frame is not for the connection under `conn`.
fn is_excluded(conn: u32, except: u32) -> bool {
    except == conn || except == EVERYBODY
}

/// The buffers of one turn.
#[derive(Debug, Default)]
pub(crate) struct BroadcastLog {
    buffers: Vec<Buffer>,
    /// How many of them are in use in this turn.
    used: usize,
    /// The one for frames with one receiver, if there is any yet.
    unicast_buffer: Option<u32>,
    /// By the key of a lobby.
    lobbies: Vec<LobbyLog>,
    /// Counts from 1, so that a new lobby has not current_buffer in it.
    turn: u64,
}

#[derive(Debug, Default)]
struct Buffer {
    bytes: Vec<u8>,
    /// Where each frame ends.
    ends: Vec<u32>,
    /// Who takes no share of it.
    excluded: Vec<u32>,
}

/// What is known of a lobby, whichever it is, under one key.
#[derive(Debug, Default)]
struct LobbyLog {
    /// The turn in which it spoke last, and its buffer then.
    turn: u64,
    buffer: u32,
    /// Whether its members have still to be written to.
    is_marked_for_flush: bool,
    /// Frames there ever were.
    appended: u64,
    /// The keys of the connections of members who take no share.
    lagging: Vec<u32>,
}

impl BroadcastLog {
    /// Appends a frame to what the lobby under `key` says in this turn.
    ///
    /// `None` for a frame that is too large to be worth copying, or when the buffer is full, which takes 4 GiB: then every
    /// receiver needs the frame for itself.
    pub(crate) fn append(&mut self, key: usize, frame: Outgoing<'_>, except: Excluded) -> Option<FrameRange> {
        let index = self.buffer_of(key);
        let range = self.append_to_buffer(index, frame, except)?;
        self.lobbies[key].appended += 1;
        Some(range)
    }

    /// Appends a frame that one receiver is going to queue.
    pub(crate) fn append_unicast(&mut self, frame: Outgoing<'_>) -> Option<FrameRange> {
        let index = match self.unicast_buffer {
            Some(index) => index,
            None => *self.unicast_buffer.insert(BroadcastLog::use_buffer(&mut self.buffers, &mut self.used)),
        };
        self.append_to_buffer(index, frame, Excluded::Everybody)
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
        buffer.excluded.push(encode(except));
        Some(FrameRange { buffer: index, range: start..end, frames: 1 })
    }

    /// The lobby's buffer of this turn. Its first word of the turn takes one that nobody has used yet.
    fn buffer_of(&mut self, key: usize) -> u32 {
        if key >= self.lobbies.len() {
            self.lobbies.resize_with(key + 1, LobbyLog::default);
        }
        let lobby = &mut self.lobbies[key];
        if lobby.turn != self.turn + 1 {
            lobby.turn = self.turn + 1;
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

    /// Whether the lobby's members have to be written to from now on; false if that is known already.
    pub(crate) fn mark_for_flush(&mut self, key: usize) -> bool {
        !std::mem::replace(&mut self.lobbies[key].is_marked_for_flush, true)
    }

    /// The lobby's members are being written to.
    pub(crate) fn unmark_for_flush(&mut self, key: usize) {
        self.lobbies[key].is_marked_for_flush = false;
    }

    pub(crate) fn is_marked_for_flush(&self, key: usize) -> bool {
        self.lobbies.get(key).is_some_and(|lobby| lobby.is_marked_for_flush)
    }

    /// The cursor of a member who takes whatever its lobby says from now on.
    pub(crate) fn end_cursor(&self, key: usize) -> Cursor {
        Cursor(self.lobbies.get(key).map_or(0, |lobby| lobby.appended))
    }

    /// Whether there is more than what a member with this cursor has taken.
    pub(crate) fn has_unread(&self, key: usize, cursor: Cursor) -> bool {
        self.lobbies.get(key).is_some_and(|lobby| lobby.appended != cursor.0)
    }

    /// What all frames of this turn, and one more, cost a member who takes them all.
    pub(crate) fn cost_with(&self, key: usize, frame: Outgoing<'_>) -> usize {
        let (bytes, frames) =
            self.current_buffer(key).map_or((0, 0), |(_, buffer)| (buffer.bytes.len(), buffer.ends.len()));
        bytes + frame.len() + (frames + 1) * FRAME_OVERHEAD
    }

    /// The lobby's buffer, if it has current_buffer in this turn.
    fn current_buffer(&self, key: usize) -> Option<(u32, &Buffer)> {
        let lobby = self.lobbies.get(key).filter(|lobby| lobby.turn == self.turn + 1)?;
        Some((lobby.buffer, &self.buffers[lobby.buffer as usize]))
    }

    /// What the lobby under `key` has said since `cursor` that is for the connection under `conn`.
    pub(crate) fn unread_frames(&self, key: usize, cursor: Cursor, conn: usize) -> UnreadFrames<'_> {
        let Some((index, buffer)) = self.current_buffer(key) else { return UnreadFrames::default() };
        let next = self.first_unread(key, cursor, buffer);
        UnreadFrames { index, ends: &buffer.ends, excluded: &buffer.excluded, next, conn: conn as u32 }
    }

    /// The bytes of the same, where they lie in one piece. `None` when something has to be cut out.
    pub(crate) fn contiguous_unread(&self, key: usize, cursor: Cursor, conn: usize) -> Option<&[u8]> {
        let Some((_, buffer)) = self.current_buffer(key) else { return Some(&[]) };
        let from = self.first_unread(key, cursor, buffer);
        // No early way out, so that many are compared at once.
        let is_cut = buffer.excluded[from..].iter().fold(false, |cut, &except| cut | is_excluded(conn as u32, except));
        let start = if from == 0 { 0 } else { buffer.ends[from - 1] };
        (!is_cut).then(|| &buffer.bytes[start as usize..])
    }

    /// Where in the lobby's buffer of this turn that begins which a member with this cursor has not taken.
    fn first_unread(&self, key: usize, cursor: Cursor, buffer: &Buffer) -> usize {
        let missed = (self.lobbies[key].appended - cursor.0).min(buffer.ends.len() as u64);
        buffer.ends.len() - missed as usize
    }

    pub(crate) fn bytes(&self, range: &FrameRange) -> &[u8] {
        &self.buffers[range.buffer as usize].bytes[range.range.start as usize..range.range.end as usize]
    }

    /// The turn is over, and nobody refers to its buffers any more.
    pub(crate) fn end_turn(&mut self) {
        for buffer in &mut self.buffers[..self.used] {
            buffer.clear();
        }
        // A turn in which many lobbies spoke leaves buffers that the next may not need.
        self.buffers.truncate(self.used.max(self.buffers.len() / 2));
        self.used = 0;
        self.unicast_buffer = None;
        self.turn += 1;
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.used == 0
    }

    // ---- those who are behind ----

    /// The keys of the connections of members who take no share of what the lobby says.
    pub(crate) fn lagging(&self, key: usize) -> &[u32] {
        self.lobbies.get(key).map_or(&[], |lobby| &lobby.lagging)
    }

    pub(crate) fn mark_lagging(&mut self, key: usize, conn: usize) {
        if key >= self.lobbies.len() {
            self.lobbies.resize_with(key + 1, LobbyLog::default);
        }
        self.lobbies[key].lagging.push(conn as u32);
    }

    pub(crate) fn clear_lagging(&mut self, key: usize, conn: usize) {
        let lagging = &mut self.lobbies[key].lagging;
        let at = lagging.iter().position(|&other| other as usize == conn).expect("it has fallen behind");
        lagging.swap_remove(at);
        if lagging.is_empty() {
            *lagging = Vec::new();
        }
    }
}

impl Buffer {
    fn clear(&mut self) {
        self.bytes.clear();
        self.bytes.shrink_to(IDLE_CAPACITY);
        self.ends.clear();
        self.ends.shrink_to(IDLE_CAPACITY / FRAME_OVERHEAD);
        self.excluded.clear();
        self.excluded.shrink_to(IDLE_CAPACITY / FRAME_OVERHEAD);
    }
}

/// A member's share, piece by piece.
#[derive(Clone, Default)]
pub(crate) struct UnreadFrames<'a> {
    index: u32,
    ends: &'a [u32],
    excluded: &'a [u32],
    /// The first frame that has not been looked at.
    next: usize,
    conn: u32,
}

impl UnreadFrames<'_> {
    fn range_of(&self, from: usize, to: usize) -> FrameRange {
        let start = if from == 0 { 0 } else { self.ends[from - 1] };
        FrameRange { buffer: self.index, range: start..self.ends[to - 1], frames: (to - from) as u32 }
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
    use crate::random::Random;

    /// Many turns of many lobbies, held against a list of everything that was said.
    #[test]
    fn a_share_is_what_was_said_since_but_by_oneself() {
        for seed in 0..200 {
            let mut random = Random::new(seed);
            let mut broadcast_log = BroadcastLog::default();
            let mut places = [[Cursor::default(); 4]; 3];
            for _ in 0..4 {
                let mut said: Vec<(usize, Excluded, Vec<u8>)> = Vec::new();
                let mut seen = [[0; 4]; 3];
                for _ in 0..random.below(30) {
                    let (lobby, conn) = (random.below(3) as usize, random.below(4) as usize);
                    if random.percent(20) {
                        places[lobby][conn] = broadcast_log.end_cursor(lobby);
                        seen[lobby][conn] = said.len();
                        continue;
                    }
                    let except = match random.below(4) {
                        0 => Excluded::Nobody,
                        1 => Excluded::Everybody,
                        _ => Excluded::Conn(conn),
                    };
                    let text = "x".repeat(random.below(9) as usize);
                    let range = broadcast_log.append(lobby, Outgoing::Text(&text), except).expect("there is room");
                    said.push((lobby, except, broadcast_log.bytes(&range).to_vec()));
                }
                for lobby in 0..3 {
                    for conn in 0..4 {
                        let takes = |except| except != Excluded::Everybody && except != Excluded::Conn(conn);
                        let missed = said[seen[lobby][conn]..].iter().filter(|(at, ..)| *at == lobby);
                        let is_cut = missed.clone().any(|&(_, except, _)| !takes(except));
                        let expected: Vec<_> = missed.filter(|&&(_, except, _)| takes(except)).collect();
                        let share = broadcast_log.unread_frames(lobby, places[lobby][conn], conn);
                        assert_eq!(share.clone().map(|range| range.frames()).sum::<usize>(), expected.len());
                        let bytes: Vec<u8> =
                            share.clone().flat_map(|range| broadcast_log.bytes(&range).to_vec()).collect();
                        assert_eq!(bytes, expected.iter().flat_map(|(.., bytes)| bytes.clone()).collect::<Vec<_>>());
                        let uncut = broadcast_log.contiguous_unread(lobby, places[lobby][conn], conn);
                        assert_eq!(uncut, (!is_cut).then_some(&*bytes), "seed {seed}");
                    }
                }
                broadcast_log.end_turn();
                assert!(
                    broadcast_log.is_empty() && broadcast_log.unread_frames(0, Cursor::default(), 0).next().is_none()
                );
                for (lobby, places) in places.iter_mut().enumerate() {
                    // Everybody has been written to, or has not: what a turn left behind is nobody's share any more.
                    places
                        .iter_mut()
                        .filter(|_| random.percent(50))
                        .for_each(|cursor| *cursor = broadcast_log.end_cursor(lobby));
                }
            }
        }
    }

    #[test]
    fn large_frames_are_not_copied() {
        let text = "x".repeat(MAX_FRAME);
        assert_eq!(BroadcastLog::default().append(0, Outgoing::Text(&text), Excluded::Nobody), None);
        assert_eq!(BroadcastLog::default().append_unicast(Outgoing::Text(&text)), None);
        let mut broadcast_log = BroadcastLog::default();
        let first = broadcast_log.append_unicast(Outgoing::Text("one")).expect("it is small");
        let mut both = first.clone();
        assert!(both.extend(&broadcast_log.append_unicast(Outgoing::Text("two")).expect("it is small")));
        assert_eq!((both.frames(), broadcast_log.bytes(&both)), (2, &b"\x81\x03one\x81\x03two"[..]));
    }
}
