//! What is said in one turn, encoded once, in one buffer for each lobby.
//!
//! A frame for a whole lobby is appended to the lobby's buffer and to nobody's queue. Each member has a [`Place`]: how
//! much of what its lobby said it has taken. When the member is written to, its share is what lies behind its place; for
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
pub(crate) struct Part {
    buffer: u32,
    range: Range<u32>,
    frames: u32,
}

impl Part {
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
    pub(super) fn extend(&mut self, next: &Part) -> bool {
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
pub(crate) struct Place(u64);

/// Who takes no share of a frame in a lobby's buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Except {
    Nobody,
    /// The connection under this key: usually the one that said it.
    Conn(usize),
    /// It is queued for each receiver by hand.
    Everybody,
}

/// The same as a number, so that many can be looked through at once.
fn encode(except: Except) -> u32 {
    match except {
        Except::Nobody => u32::MAX,
        Except::Conn(key) => key as u32,
        Except::Everybody => EVERYBODY,
    }
}

const EVERYBODY: u32 = u32::MAX - 1;

/// Whether a frame is not for the connection under `conn`.
fn takes_not(conn: u32, except: u32) -> bool {
    except == conn || except == EVERYBODY
}

/// The buffers of one turn.
#[derive(Debug, Default)]
pub(crate) struct Chorus {
    buffers: Vec<Buffer>,
    /// How many of them are in use in this turn.
    used: usize,
    /// The one for frames with one receiver, if there is any yet.
    solo: Option<u32>,
    /// By the key of a lobby.
    lobbies: Vec<Lobby>,
    /// Counts from 1, so that a new lobby has not spoken in it.
    turn: u64,
}

#[derive(Debug, Default)]
struct Buffer {
    bytes: Vec<u8>,
    /// Where each frame ends.
    ends: Vec<u32>,
    /// Who takes no share of it.
    excepts: Vec<u32>,
}

/// What is known of a lobby, whichever it is, under one key.
#[derive(Debug, Default)]
struct Lobby {
    /// The turn in which it spoke last, and its buffer then.
    turn: u64,
    buffer: u32,
    /// Whether its members have still to be written to.
    is_singing: bool,
    /// Frames there ever were.
    ever: u64,
    /// The keys of the connections of members who take no share.
    behind: Vec<u32>,
}

impl Chorus {
    /// Appends a frame to what the lobby under `key` says in this turn.
    ///
    /// `None` for a frame that is too large to be worth copying, or when the buffer is full, which takes 4 GiB: then every
    /// receiver needs the frame for itself.
    pub(crate) fn say(&mut self, key: usize, frame: Outgoing<'_>, except: Except) -> Option<Part> {
        let index = self.buffer_of(key);
        let part = self.append(index, frame, except)?;
        self.lobbies[key].ever += 1;
        Some(part)
    }

    /// Appends a frame that one receiver is going to queue.
    pub(crate) fn say_to_one(&mut self, frame: Outgoing<'_>) -> Option<Part> {
        let index = match self.solo {
            Some(index) => index,
            None => *self.solo.insert(Chorus::use_buffer(&mut self.buffers, &mut self.used)),
        };
        self.append(index, frame, Except::Everybody)
    }

    fn append(&mut self, index: u32, frame: Outgoing<'_>, except: Except) -> Option<Part> {
        let buffer = &mut self.buffers[index as usize];
        if frame.len() > MAX_FRAME {
            return None;
        }
        let start = buffer.bytes.len() as u32;
        let end = u32::try_from(buffer.bytes.len() + frame.len()).ok()?;
        frame.append_to(&mut buffer.bytes);
        buffer.ends.push(end);
        buffer.excepts.push(encode(except));
        Some(Part { buffer: index, range: start..end, frames: 1 })
    }

    /// The lobby's buffer of this turn. Its first word of the turn takes one that nobody has used yet.
    fn buffer_of(&mut self, key: usize) -> u32 {
        if key >= self.lobbies.len() {
            self.lobbies.resize_with(key + 1, Lobby::default);
        }
        let lobby = &mut self.lobbies[key];
        if lobby.turn != self.turn + 1 {
            lobby.turn = self.turn + 1;
            lobby.buffer = Chorus::use_buffer(&mut self.buffers, &mut self.used);
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
    pub(crate) fn begin_singing(&mut self, key: usize) -> bool {
        !std::mem::replace(&mut self.lobbies[key].is_singing, true)
    }

    /// The lobby's members are being written to.
    pub(crate) fn end_singing(&mut self, key: usize) {
        self.lobbies[key].is_singing = false;
    }

    pub(crate) fn is_singing(&self, key: usize) -> bool {
        self.lobbies.get(key).is_some_and(|lobby| lobby.is_singing)
    }

    /// The place of a member who takes whatever its lobby says from now on.
    pub(crate) fn here(&self, key: usize) -> Place {
        Place(self.lobbies.get(key).map_or(0, |lobby| lobby.ever))
    }

    /// Whether there is more than what a member with this place has taken.
    pub(crate) fn has_spoken_since(&self, key: usize, place: Place) -> bool {
        self.lobbies.get(key).is_some_and(|lobby| lobby.ever != place.0)
    }

    /// What all frames of this turn, and one more, cost a member who takes them all.
    pub(crate) fn cost_with(&self, key: usize, frame: Outgoing<'_>) -> usize {
        let (bytes, frames) = self.spoken(key).map_or((0, 0), |(_, buffer)| (buffer.bytes.len(), buffer.ends.len()));
        bytes + frame.len() + (frames + 1) * FRAME_OVERHEAD
    }

    /// The lobby's buffer, if it has spoken in this turn.
    fn spoken(&self, key: usize) -> Option<(u32, &Buffer)> {
        let lobby = self.lobbies.get(key).filter(|lobby| lobby.turn == self.turn + 1)?;
        Some((lobby.buffer, &self.buffers[lobby.buffer as usize]))
    }

    /// What the lobby under `key` has said since `place` that is for the connection under `conn`.
    pub(crate) fn share(&self, key: usize, place: Place, conn: usize) -> Share<'_> {
        let Some((index, buffer)) = self.spoken(key) else { return Share::default() };
        let next = self.first_missed(key, place, buffer);
        Share { index, ends: &buffer.ends, excepts: &buffer.excepts, next, conn: conn as u32 }
    }

    /// The bytes of the same, where they lie in one piece. `None` when something has to be cut out.
    pub(crate) fn uncut_share(&self, key: usize, place: Place, conn: usize) -> Option<&[u8]> {
        let Some((_, buffer)) = self.spoken(key) else { return Some(&[]) };
        let from = self.first_missed(key, place, buffer);
        // No early way out, so that many are compared at once.
        let is_cut = buffer.excepts[from..].iter().fold(false, |cut, &except| cut | takes_not(conn as u32, except));
        let start = if from == 0 { 0 } else { buffer.ends[from - 1] };
        (!is_cut).then(|| &buffer.bytes[start as usize..])
    }

    /// Where in the lobby's buffer of this turn that begins which a member with this place has not taken.
    fn first_missed(&self, key: usize, place: Place, buffer: &Buffer) -> usize {
        let missed = (self.lobbies[key].ever - place.0).min(buffer.ends.len() as u64);
        buffer.ends.len() - missed as usize
    }

    pub(crate) fn bytes(&self, part: &Part) -> &[u8] {
        &self.buffers[part.buffer as usize].bytes[part.range.start as usize..part.range.end as usize]
    }

    /// The turn is over, and nobody refers to its buffers any more.
    pub(crate) fn end_turn(&mut self) {
        for buffer in &mut self.buffers[..self.used] {
            buffer.clear();
        }
        // A turn in which many lobbies spoke leaves buffers that the next may not need.
        self.buffers.truncate(self.used.max(self.buffers.len() / 2));
        self.used = 0;
        self.solo = None;
        self.turn += 1;
    }

    pub(crate) fn is_silent(&self) -> bool {
        self.used == 0
    }

    // ---- those who are behind ----

    /// The keys of the connections of members who take no share of what the lobby says.
    pub(crate) fn behind(&self, key: usize) -> &[u32] {
        self.lobbies.get(key).map_or(&[], |lobby| &lobby.behind)
    }

    pub(crate) fn fall_behind(&mut self, key: usize, conn: usize) {
        if key >= self.lobbies.len() {
            self.lobbies.resize_with(key + 1, Lobby::default);
        }
        self.lobbies[key].behind.push(conn as u32);
    }

    pub(crate) fn keep_up(&mut self, key: usize, conn: usize) {
        let behind = &mut self.lobbies[key].behind;
        let at = behind.iter().position(|&other| other as usize == conn).expect("it has fallen behind");
        behind.swap_remove(at);
        if behind.is_empty() {
            *behind = Vec::new();
        }
    }
}

impl Buffer {
    fn clear(&mut self) {
        self.bytes.clear();
        self.bytes.shrink_to(IDLE_CAPACITY);
        self.ends.clear();
        self.ends.shrink_to(IDLE_CAPACITY / FRAME_OVERHEAD);
        self.excepts.clear();
        self.excepts.shrink_to(IDLE_CAPACITY / FRAME_OVERHEAD);
    }
}

/// A member's share, piece by piece.
#[derive(Clone, Default)]
pub(crate) struct Share<'a> {
    index: u32,
    ends: &'a [u32],
    excepts: &'a [u32],
    /// The first frame that has not been looked at.
    next: usize,
    conn: u32,
}

impl Share<'_> {
    fn part(&self, from: usize, to: usize) -> Part {
        let start = if from == 0 { 0 } else { self.ends[from - 1] };
        Part { buffer: self.index, range: start..self.ends[to - 1], frames: (to - from) as u32 }
    }
}

impl Iterator for Share<'_> {
    type Item = Part;

    fn next(&mut self) -> Option<Part> {
        let rest = &self.excepts[self.next..];
        let from = self.next + rest.iter().position(|&except| !takes_not(self.conn, except))?;
        let length = self.excepts[from..].iter().position(|&except| takes_not(self.conn, except));
        let to = length.map_or(self.ends.len(), |length| from + length);
        self.next = to;
        Some(self.part(from, to))
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
            let mut chorus = Chorus::default();
            let mut places = [[Place::default(); 4]; 3];
            for _ in 0..4 {
                let mut said: Vec<(usize, Except, Vec<u8>)> = Vec::new();
                let mut seen = [[0; 4]; 3];
                for _ in 0..random.below(30) {
                    let (lobby, conn) = (random.below(3) as usize, random.below(4) as usize);
                    if random.percent(20) {
                        places[lobby][conn] = chorus.here(lobby);
                        seen[lobby][conn] = said.len();
                        continue;
                    }
                    let except = match random.below(4) {
                        0 => Except::Nobody,
                        1 => Except::Everybody,
                        _ => Except::Conn(conn),
                    };
                    let text = "x".repeat(random.below(9) as usize);
                    let part = chorus.say(lobby, Outgoing::Text(&text), except).expect("there is room");
                    said.push((lobby, except, chorus.bytes(&part).to_vec()));
                }
                for lobby in 0..3 {
                    for conn in 0..4 {
                        let takes = |except| except != Except::Everybody && except != Except::Conn(conn);
                        let missed = said[seen[lobby][conn]..].iter().filter(|(at, ..)| *at == lobby);
                        let is_cut = missed.clone().any(|&(_, except, _)| !takes(except));
                        let expected: Vec<_> = missed.filter(|&&(_, except, _)| takes(except)).collect();
                        let share = chorus.share(lobby, places[lobby][conn], conn);
                        assert_eq!(share.clone().map(|part| part.frames()).sum::<usize>(), expected.len());
                        let bytes: Vec<u8> = share.clone().flat_map(|part| chorus.bytes(&part).to_vec()).collect();
                        assert_eq!(bytes, expected.iter().flat_map(|(.., bytes)| bytes.clone()).collect::<Vec<_>>());
                        let uncut = chorus.uncut_share(lobby, places[lobby][conn], conn);
                        assert_eq!(uncut, (!is_cut).then_some(&*bytes), "seed {seed}");
                    }
                }
                chorus.end_turn();
                assert!(chorus.is_silent() && chorus.share(0, Place::default(), 0).next().is_none());
                for (lobby, places) in places.iter_mut().enumerate() {
                    // Everybody has been written to, or has not: what a turn left behind is nobody's share any more.
                    places.iter_mut().filter(|_| random.percent(50)).for_each(|place| *place = chorus.here(lobby));
                }
            }
        }
    }

    #[test]
    fn large_frames_are_not_copied() {
        let text = "x".repeat(MAX_FRAME);
        assert_eq!(Chorus::default().say(0, Outgoing::Text(&text), Except::Nobody), None);
        assert_eq!(Chorus::default().say_to_one(Outgoing::Text(&text)), None);
        let mut chorus = Chorus::default();
        let first = chorus.say_to_one(Outgoing::Text("one")).expect("it is small");
        let mut both = first.clone();
        assert!(both.extend(&chorus.say_to_one(Outgoing::Text("two")).expect("it is small")));
        assert_eq!((both.frames(), chorus.bytes(&both)), (2, &b"\x81\x03one\x81\x03two"[..]));
    }
}
