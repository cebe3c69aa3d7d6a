//! What is said in each lobby during one turn, in one buffer for each lobby.
//!
//! A frame for many receivers is appended once. A receiver notes which range of the buffer is for it; ranges that follow
//! each other are one, so whoever said nothing itself is sent the buffer as it stands, in one piece and without a copy.
//! The buffers last for one turn. What a socket did not take until then is copied by its [`Outbox`](super::outbox::Outbox).

use std::ops::Range;

/// What a buffer may keep of its memory from one turn to the next.
const IDLE_CAPACITY: usize = 64 * 1024;

/// Bytes of one buffer of this turn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    buffer: u32,
    range: Range<u32>,
}

impl Part {
    pub(crate) fn len(&self) -> usize {
        self.range.len()
    }

    /// Takes `next` in, if it lies just behind.
    pub(super) fn extend(&mut self, next: &Part) -> bool {
        let follows = self.buffer == next.buffer && self.range.end == next.range.start;
        if follows {
            self.range.end = next.range.end;
        }
        follows
    }
}

/// The buffers of one turn.
#[derive(Debug, Default)]
pub(crate) struct Chorus {
    buffers: Vec<Vec<u8>>,
    /// How many of them are in use in this turn.
    used: usize,
    /// By the key of a lobby: the turn in which it spoke last, and its buffer then.
    lobbies: Vec<(u64, u32)>,
    turn: u64,
}

impl Chorus {
    /// Appends a frame to what the lobby under `key` says in this turn.
    ///
    /// `None` when the buffer is full, which takes 4 GiB: then every receiver needs the frame for itself.
    pub(crate) fn append(&mut self, key: usize, frame: &[u8]) -> Option<Part> {
        if key >= self.lobbies.len() {
            self.lobbies.resize(key + 1, (0, 0));
        }
        // A lobby's first word of the turn takes a buffer that nobody has used yet. Turns count from 1.
        if self.lobbies[key].0 != self.turn + 1 {
            self.lobbies[key] = (self.turn + 1, self.used as u32);
            self.used += 1;
            if self.used > self.buffers.len() {
                self.buffers.push(Vec::new());
            }
        }
        let index = self.lobbies[key].1;
        let buffer = &mut self.buffers[index as usize];
        let start = u32::try_from(buffer.len()).ok()?;
        let end = u32::try_from(buffer.len() + frame.len()).ok()?;
        buffer.extend_from_slice(frame);
        Some(Part { buffer: index, range: start..end })
    }

    pub(crate) fn bytes(&self, part: &Part) -> &[u8] {
        &self.buffers[part.buffer as usize][part.range.start as usize..part.range.end as usize]
    }

    /// The turn is over, and nobody refers to its buffers any more.
    pub(crate) fn end_turn(&mut self) {
        for buffer in &mut self.buffers[..self.used] {
            buffer.clear();
            buffer.shrink_to(IDLE_CAPACITY);
        }
        // A turn in which many lobbies spoke leaves buffers that the next may not need.
        self.buffers.truncate(self.used.max(self.buffers.len() / 2));
        self.used = 0;
        self.turn += 1;
    }

    pub(crate) fn is_silent(&self) -> bool {
        self.used == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_lobby_says_in_a_turn_is_one_piece() {
        let mut chorus = Chorus::default();
        for _ in 0..3 {
            let mut first = chorus.append(7, b"one").expect("there is room");
            let other = chorus.append(0, b"other").expect("there is room");
            let second = chorus.append(7, b"two").expect("there is room");
            assert!(!first.extend(&other));
            assert!(first.extend(&second) && !first.extend(&second));
            assert_eq!((chorus.bytes(&first), chorus.bytes(&other)), (&b"onetwo"[..], &b"other"[..]));
            chorus.end_turn();
            assert!(chorus.is_silent());
        }
    }
}
