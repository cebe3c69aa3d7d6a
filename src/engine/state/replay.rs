//! Frames that a session missed while it had no connection, in the order in which they were sent.
//!
//! Says whether they are complete (`recovered`). If they are not, the client learns the state anew, and only direct
//! messages are replayed, because no state contains them.

use std::borrow::Cow;

use super::directs::Directs;
use super::history::{History, Sender};
use crate::base::session::Position;

/// A session that has a connection again.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Resumption<'a> {
    /// The lobby's history.
    pub(crate) history: &'a History,
    /// The lobby's epoch.
    pub(crate) epoch: u64,
    /// The lobby's last `seq`.
    pub(crate) last_seq: u64,
    pub(crate) directs: &'a Directs,
    /// The session and its seat.
    pub(crate) session: Sender,
    /// The `seq` of the session's first `presence_state`.
    pub(crate) since_seq: u64,
}

/// The frames to send again.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Replay<'a> {
    /// Whether no frame after the position is missing.
    pub(crate) is_complete: bool,
    /// Number of the last direct message before the replayed ones.
    pub(crate) n: u64,
    pub(crate) items: Vec<ReplayItem<'a>>,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum ReplayItem<'a> {
    /// A frame of the lobby.
    Frame { seq: u64, text: Cow<'a, str> },
    /// A request of the session itself that was sent to the lobby: only its `ack`.
    Ack { seq: u64, reference: &'a str },
    /// A direct message.
    Direct { n: u64, text: Cow<'a, str> },
}

impl<'a> Resumption<'a> {
    /// Returns what follows the position. `None` for a session without one, which receives the direct messages that were not
    /// written.
    pub(crate) fn replay(&self, position: Option<Position>) -> Replay<'a> {
        let is_complete = position.is_some_and(|position| self.is_complete_after(position));
        let read = match position {
            Some(position) if position.epoch == self.epoch => position.n,
            // In another epoch the direct messages had other numbers.
            Some(_) => 0,
            None => self.directs.written(),
        };
        let mut directs = self.directs.entries_after(read).peekable();
        let n = directs.peek().map_or(self.directs.last(), |first| first.n - 1);
        let mut items = Vec::new();
        if let Some(position) = position.filter(|_| is_complete) {
            for frame in self.history.entries_after(position.seq) {
                while let Some(direct) = directs.next_if(|direct| direct.after_seq < frame.seq) {
                    items.push(ReplayItem::Direct { n: direct.n, text: direct.text });
                }
                if frame.sender != Some(self.session) {
                    items.push(ReplayItem::Frame { seq: frame.seq, text: frame.text });
                } else if let Some(reference) = frame.reference {
                    items.push(ReplayItem::Ack { seq: frame.seq, reference });
                }
            }
        }
        items.extend(directs.map(|direct| ReplayItem::Direct { n: direct.n, text: direct.text }));
        Replay { is_complete, n, items }
    }

    fn is_complete_after(&self, position: Position) -> bool {
        let is_of_session = position.epoch == self.epoch && position.seq >= self.since_seq;
        let has_frames = self.history.covers(position.seq, self.last_seq);
        let has_directs = position.n <= self.directs.last() && !self.directs.has_lost_after(position.n);
        is_of_session && has_frames && has_directs
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::id::SeatId;
    use crate::base::random::Random;
    use crate::base::session::SessionHash;

    const EPOCH: u64 = 77;

    /// Anything that was ever sent, in order.
    enum Sent {
        Frame { seq: u64, sender: Option<Sender>, reference: Option<String>, text: String },
        Direct { to: SeatId, n: u64, text: String },
    }

    /// An item without borrows.
    type Item = (&'static str, u64, String);

    fn owned(replay: &Replay<'_>) -> Vec<Item> {
        let items = replay.items.iter().map(|item| match item {
            ReplayItem::Frame { seq, text } => ("frame", *seq, text.to_string()),
            ReplayItem::Ack { seq, reference } => ("ack", *seq, (*reference).to_owned()),
            ReplayItem::Direct { n, text } => ("direct", *n, text.to_string()),
        });
        items.collect()
    }

    /// A list with the same bounds as a ring: numbers and lengths of the texts.
    struct Held {
        max_frames: usize,
        max_bytes: usize,
        texts: Vec<(u64, usize)>,
    }

    impl Held {
        fn push(&mut self, number: u64, len: usize) {
            self.texts.push((number, len));
            while self.texts.len() > self.max_frames
                || self.texts.iter().map(|(_, len)| len).sum::<usize>() > self.max_bytes
            {
                self.texts.remove(0);
            }
        }

        fn has(&self, number: u64) -> bool {
            self.texts.iter().any(|&(it, _)| it == number)
        }
    }

    /// A seat and the session that it belongs to now.
    struct Member {
        session: Sender,
        next_reference: u64,
        directs: Directs,
        held: Held,
        /// Numbers of the last direct message, of the last one written, and of the last one before the session.
        last_n: u64,
        written_n: u64,
        since_n: u64,
        /// Place in the list of everything sent, and the lobby's last `seq`, when the session began.
        since: usize,
        since_seq: u64,
    }

    struct World {
        random: Random,
        sent: Vec<Sent>,
        seq: u64,
        history: History,
        held: Held,
        members: Vec<Member>,
    }

    /// How often the checks met each case.
    #[derive(Default, Debug)]
    struct Seen {
        complete: usize,
        frames: usize,
        acks: usize,
        directs_between_frames: usize,
        overrun: usize,
        lost_directs: usize,
        only_directs: usize,
    }

    impl World {
        fn new(seed: u64) -> World {
            let mut random = Random::new(seed);
            let mut bounds = || {
                let frames = [0, 1, 2, 5, 20, 300][random.below(6) as usize];
                let bytes = [0, 1, 10, 60, 500, 20_000][random.below(6) as usize];
                (frames, bytes, Held { max_frames: frames as usize, max_bytes: bytes, texts: Vec::new() })
            };
            let (frames, bytes, held) = bounds();
            let seq = seed % 5;
            let history = History::new(seq, frames, bytes);
            let member = |seat: u64| {
                let (frames, bytes, held) = bounds();
                let directs = Directs::after(0, frames, bytes);
                // Users may choose the same name for their sessions.
                let session = Sender { seat: SeatId(seat), session: SessionHash::from_bits(0) };
                Member {
                    session,
                    next_reference: 1,
                    directs,
                    held,
                    last_n: 0,
                    written_n: 0,
                    since_n: 0,
                    since: 0,
                    since_seq: seq,
                }
            };
            let members = (1..=3).map(member).collect();
            World { random, sent: Vec::new(), seq, history, held, members }
        }

        fn below(&mut self, bound: usize) -> usize {
            self.random.below(bound as u64) as usize
        }

        fn text(&mut self) -> String {
            let max = [3, 12, 70][self.below(3)];
            let len = self.below(max);
            format!("{}{}", self.sent.len(), "→".repeat(len / 3))
        }

        fn frame(&mut self, sender: Option<Sender>, reference: Option<&str>) {
            self.seq += 1;
            let (seq, text) = (self.seq, self.text());
            self.history.push(seq, sender, reference, &text);
            self.held.push(seq, text.len());
            self.sent.push(Sent::Frame { seq, sender, reference: reference.map(str::to_owned), text });
        }

        /// A request of a member, sent to the lobby as one or several frames, with others between them.
        fn request(&mut self, index: usize) {
            let member = &mut self.members[index];
            let session = Some(member.session);
            let reference = member.next_reference.to_string();
            member.next_reference += 1;
            let reference = (self.below(3) > 0).then_some(&*reference);
            for _ in 0..[1, 1, 1, 2, 3][self.below(5)] {
                self.frame(session, reference);
                if self.below(4) == 0 {
                    self.anything_else(index);
                }
            }
        }

        /// Anything that can happen between two frames of a request.
        fn anything_else(&mut self, index: usize) {
            match self.below(3) {
                0 => self.frame(None, None),
                1 => self.direct(index),
                _ => {
                    let other = Some(self.members[(index + 1) % 3].session);
                    self.frame(other, None);
                }
            }
        }

        fn direct(&mut self, index: usize) {
            let (text, is_queue_empty) = (self.text(), self.below(2) == 0);
            let member = &mut self.members[index];
            if is_queue_empty {
                member.written_n = member.last_n;
            }
            member.last_n += 1;
            let n = member.directs.next();
            assert_eq!(n, member.last_n);
            member.directs.push(self.seq, is_queue_empty, &text);
            member.held.push(n, text.len());
            self.sent.push(Sent::Direct { to: member.session.seat, n, text });
        }

        fn new_session(&mut self, index: usize) {
            let (since, since_seq) = (self.sent.len(), self.seq);
            let member = &mut self.members[index];
            let before = member.last_n;
            member.since_n = member.directs.begin_session();
            assert!(member.since_n > before);
            // The numbers of the messages that go on are moved. All others are those of the session before.
            member.held.texts.retain(|&(n, _)| n > member.written_n);
            let step = member.held.max_frames as u64 + 1;
            for sent in &mut self.sent {
                if let Sent::Direct { to, n, .. } = sent
                    && *to == member.session.seat
                    && member.held.has(*n)
                {
                    *n += step;
                }
            }
            member.held.texts.iter_mut().for_each(|(n, _)| *n += step);
            (member.last_n, member.written_n) = (member.last_n + step, member.since_n);
            let session = SessionHash::from_bits(member.session.session.bits() + 1);
            member.session.session = session;
            let since_n = member.held.texts.first().map_or(member.last_n, |&(n, _)| n - 1);
            assert_eq!(member.since_n, since_n);
            (member.next_reference, member.since, member.since_seq) = (1, since, since_seq);
        }

        fn step(&mut self) {
            let index = self.below(3);
            match self.below(16) {
                0..6 => self.request(index),
                6..9 => self.direct(index),
                9..12 => self.frame(None, None),
                12 => {
                    let member = &mut self.members[index];
                    member.directs.note_all_written();
                    member.written_n = member.last_n;
                }
                13 | 14 => {
                    let back = self.below(4) as u64;
                    let member = &mut self.members[index];
                    let n = member.last_n.saturating_sub(back);
                    member.directs.acknowledge(n);
                    member.held.texts.retain(|&(it, _)| it > n);
                    member.written_n = member.written_n.max(n);
                }
                _ => self.new_session(index),
            }
        }

        fn replay(&self, index: usize, position: Option<Position>) -> Replay<'_> {
            let Member { directs, session, since_seq, .. } = &self.members[index];
            let resumption = Resumption {
                history: &self.history,
                epoch: EPOCH,
                last_seq: self.seq,
                directs,
                session: *session,
                since_seq: *since_seq,
            };
            resumption.replay(position)
        }

        /// What a member of this session receives if its connection never drops, in order.
        fn live(&self, index: usize) -> Vec<Item> {
            let member = &self.members[index];
            let mut live = Vec::new();
            for (place, sent) in self.sent.iter().enumerate() {
                match sent {
                    Sent::Direct { to, n, text } if *to == member.session.seat && *n > member.since_n => {
                        live.push(("direct", *n, text.clone()));
                    }
                    Sent::Frame { seq, sender, reference, text } if place >= member.since => {
                        if *sender != Some(member.session) {
                            live.push(("frame", *seq, text.clone()));
                        } else if let Some(reference) = reference {
                            // A `ref` is acknowledged once, by the last frame of the request.
                            live.retain(|(kind, _, of)| *kind != "ack" || of != reference);
                            live.push(("ack", *seq, reference.clone()));
                        }
                    }
                    _ => {}
                }
            }
            live
        }

        /// Compares the replay after every position that a client of this session can have.
        fn check(&self, index: usize, seen: &mut Seen) {
            let member = &self.members[index];
            let live = self.live(index);
            let mut position = Position { epoch: EPOCH, seq: member.since_seq, n: member.since_n };
            for read in 0..=live.len() {
                if let Some((kind, number, _)) = read.checked_sub(1).map(|last| &live[last]) {
                    let part = if *kind == "direct" { &mut position.n } else { &mut position.seq };
                    assert!(*part < *number, "the model itself is in order");
                    *part = *number;
                }
                let has_frames = (position.seq + 1..=self.seq).all(|seq| self.held.has(seq));
                let has_directs = (position.n + 1..=member.last_n).all(|n| member.held.has(n));
                let replay = self.replay(index, Some(position));
                let items = owned(&replay);
                assert_eq!(replay.is_complete, has_frames && has_directs, "{position:?}");
                if replay.is_complete {
                    assert_eq!(items, live[read..], "{position:?}");
                    assert_eq!(replay.n, position.n);
                } else {
                    self.check_directs(index, position.n, &replay);
                }
                seen.complete += usize::from(replay.is_complete && !items.is_empty());
                seen.overrun += usize::from(!has_frames);
                seen.lost_directs += usize::from(!has_directs && has_frames);
                seen.only_directs += usize::from(!replay.is_complete && !items.is_empty());
                seen.frames += items.iter().filter(|(kind, ..)| *kind == "frame").count();
                seen.acks += items.iter().filter(|(kind, ..)| *kind == "ack").count();
                let is_between = |it: &&[Item]| it[0].0 != "direct" && it[1].0 == "direct" && it[2].0 != "direct";
                seen.directs_between_frames += items.windows(3).filter(is_between).count();
            }
        }

        /// Asserts that the replay has exactly the direct messages held with a number above `n`.
        fn check_directs(&self, index: usize, n: u64, replay: &Replay<'_>) {
            let Member { session, held, last_n, .. } = &self.members[index];
            let expected = self.sent.iter().filter_map(|sent| match sent {
                Sent::Direct { to, n: number, text } if *to == session.seat && *number > n && held.has(*number) => {
                    Some(("direct", *number, text.clone()))
                }
                _ => None,
            });
            let expected: Vec<Item> = expected.collect();
            assert_eq!(owned(replay), expected);
            assert_eq!(replay.n, expected.first().map_or(*last_n, |(_, first, _)| first - 1));
        }

        /// Positions that no client of this session can have are never complete.
        fn check_foreign_positions(&self, index: usize) {
            let member = &self.members[index];
            let honest = Position { epoch: EPOCH, seq: self.seq, n: member.last_n };
            let mut foreign = vec![
                Position { seq: self.seq + 1, ..honest },
                Position { n: member.last_n + 1, ..honest },
                Position { seq: u64::MAX, n: u64::MAX, ..honest },
            ];
            foreign.extend((0..member.since_seq).map(|seq| Position { seq, ..honest }));
            for position in foreign {
                let replay = self.replay(index, Some(position));
                assert!(!replay.is_complete, "{position:?}");
                self.check_directs(index, position.n, &replay);
            }
            for position in [None, Some(Position { epoch: EPOCH + 1, ..honest })] {
                let replay = self.replay(index, position);
                assert!(!replay.is_complete, "{position:?}");
                // Without a position, the session gets what was not written.
                let read = if position.is_none() { member.written_n } else { 0 };
                self.check_directs(index, read, &replay);
            }
        }
    }

    #[test]
    fn nothing_is_lost_doubled_or_out_of_order_after_any_position() {
        let mut seen = Seen::default();
        for seed in 0..3000 {
            let mut world = World::new(seed);
            for _ in 0..world.below(40) {
                world.step();
            }
            for index in 0..3 {
                world.check(index, &mut seen);
                world.check_foreign_positions(index);
            }
        }
        let Seen { complete, frames, acks, directs_between_frames, overrun, lost_directs, only_directs } = seen;
        let counts = [complete, frames, acks, directs_between_frames, overrun, lost_directs, only_directs];
        assert!(counts.iter().all(|&count| count > 1000), "every case is met: {seen:?}");
    }
}
